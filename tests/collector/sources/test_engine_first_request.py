"""The first request of an engine whose counters show up only with it: it is counted from zero, and nothing else is."""

from __future__ import annotations

import pytest

from wattmill_collector.sources.engine_pages import EnginePage, EngineValues
from wattmill_collector.sources.engine_tables import named

MISTRAL_IDLE = b"# TYPE mistralrs_sequences_running gauge\nmistralrs_sequences_running 0\n"
MISTRAL_OTHERS = b"mistralrs_sequences_completed_total 1\nmistralrs_tokens_processed_total 120\n"
MISTRAL_TOKENS = b"mistralrs_prefill_tokens_processed_total 100\nmistralrs_decode_tokens_processed_total 20\n"


def read(reader: EnginePage, page: bytes) -> EngineValues:
    reader.scan(page)
    (one,) = reader.values()
    return one


def tokens(one: EngineValues) -> dict[str, object]:
    return {field: value for field, value in one.values.items() if field.endswith("_tokens")}


def test_an_engine_that_has_counted_nothing_stands_at_zero_and_its_first_request_is_a_difference() -> None:
    reader = EnginePage(named("auto"))
    idle = read(reader, MISTRAL_IDLE)
    assert tokens(idle) == {"computed_input_tokens": 0, "output_tokens": 0}
    first = read(reader, MISTRAL_IDLE + MISTRAL_OTHERS + MISTRAL_TOKENS)
    assert tokens(first) == {"computed_input_tokens": 100, "output_tokens": 20}
    assert (idle.series, idle.tokens_move) == (first.series, first.tokens_move) == ("", "step")
    assert idle.since_us is first.since_us is None


@pytest.mark.parametrize("others", [MISTRAL_OTHERS, b"mistralrs_paged_preemptions_total 0\n"])
def test_a_page_with_any_counter_is_of_an_engine_that_has_worked_and_lacks_what_it_lacks(others: bytes) -> None:
    reader = EnginePage(named("auto"))
    read(reader, MISTRAL_IDLE)
    assert tokens(read(reader, MISTRAL_IDLE + others)) == {}


def test_a_page_that_was_cut_off_before_its_counters_says_nothing_of_them() -> None:
    reader = EnginePage(named("auto"))
    assert tokens(read(reader, MISTRAL_IDLE + b"# TYPE mistralrs_pre")) == {}
    assert tokens(read(reader, MISTRAL_IDLE)) == {"computed_input_tokens": 0, "output_tokens": 0}


def test_a_counter_that_comes_later_than_another_goes_on_from_zero() -> None:
    """TGI counts the input when a request comes in, the output when it has succeeded."""
    idle = b"tgi_queue_size 0\ntgi_batch_current_size 0\n"
    reader = EnginePage(named("auto"))
    assert tokens(read(reader, idle)) == {"input_tokens": 0, "output_tokens": 0}
    began = idle + b"tgi_request_input_length_sum 80\n"
    assert tokens(read(reader, began)) == {"input_tokens": 80}
    assert tokens(read(reader, began + b"tgi_request_generated_tokens_sum 9\n")) == {
        "input_tokens": 80,
        "output_tokens": 9,
    }


def test_a_second_model_of_a_page_begins_at_zero_beside_one_that_has_worked() -> None:
    labels = '{{model_name="tiny",model_uid="{0}",replica_index="0"}}'
    a, b = labels.format("a").encode(), labels.format("b").encode()
    page = b"xinference:model_serve_count%s 0\nxinference:model_serve_count%s 0\n" % (a, b)
    page += b"xinference:model_request_total%s 3\nxinference:input_tokens_total_counter%s 70\n" % (a, a)
    reader = EnginePage(named("auto"))
    reader.scan(page)
    assert {one.series: tokens(one) for one in reader.values()} == {
        "model_name=tiny,model_uid=a,replica_index=0": {"input_tokens": 70},
        "model_name=tiny,model_uid=b,replica_index=0": {"input_tokens": 0, "output_tokens": 0},
    }


TGI_IDLE = b"tgi_queue_size 0\n"
TGI_WORKED = TGI_IDLE + b"tgi_request_input_length_sum 1000\ntgi_request_generated_tokens_sum 500\n"


def test_an_engine_that_has_worked_never_stands_at_zero_because_its_page_lacks_its_counters() -> None:
    """As a proxy's page does, or another replica's behind one address: nothing of it is evidence of a start."""
    reader = EnginePage(named("auto"))
    read(reader, TGI_WORKED)
    assert tokens(read(reader, TGI_IDLE)) == {}
    reader.forget(proven=False)
    assert tokens(read(reader, TGI_IDLE)) == {}
    assert tokens(read(reader, TGI_WORKED)) == {"input_tokens": 1000, "output_tokens": 500}
    reader.forget()
    assert tokens(read(reader, TGI_IDLE)) == {"input_tokens": 0, "output_tokens": 0}
