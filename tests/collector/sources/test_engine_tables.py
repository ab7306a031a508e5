"""How a page is read by the table of engines: one name a field, kept to; and the table itself."""

from __future__ import annotations

import dataclasses
import re

import pytest

from support.golden_pages import golden
from wattmill_collector.sources.engine_pages import EnginePage, EngineValues
from wattmill_collector.sources.engine_tables import (
    COUNTER_FIELDS,
    ENGINE_KINDS,
    FIELDS,
    HISTOGRAM_FIELDS,
    PROCESS_START,
    EngineKind,
    named,
    recognise,
    series_of,
)
from wattmill_collector.sources.engine_tables.sglang import SGLANG, SGLANG_UNDERSCORE
from wattmill_collector.sources.promtext import ParseError
from wattmill_collector.wire import EngineReading

INPUT, CACHED, COMPUTED, OUTPUT, FINISHED, PREEMPTED, DRAFTED, ACCEPTED, RUNNING, WAITING, KV = FIELDS


def engines(page: bytes, kind: str = "auto") -> list[EngineValues]:
    reader = EnginePage(named(kind))
    reader.scan(page)
    return reader.values()


def test_a_counter_that_appears_later_does_not_make_a_total_jump() -> None:
    labels = 'engine="0",model_name="m"'
    early = f"vllm:prompt_tokens_total{{{labels}}} 10\nvllm:prefix_cache_hits_total{{{labels}}} 4\n"
    late = early + f"vllm:prompt_tokens_cached_total{{{labels}}} 3\n"
    page = EnginePage(named("vllm"))
    page.scan(early.encode())
    assert page.values()[0].values[CACHED] == 4
    page.scan(late.encode())
    assert page.values()[0].values[CACHED] == 4
    page.forget()  # a new epoch
    assert page.values()[0].values[CACHED] == 3


def test_an_sglang_that_counts_at_the_end_stays_so_within_an_epoch() -> None:
    page = EnginePage(named("auto"))
    page.scan(golden("sglang_old"))
    assert page.values()[0].values[INPUT] == 800
    page.scan(golden("sglang_realtime"))
    assert page.values()[0].values[INPUT] == 800


def test_an_idle_sglang_has_gauges_and_unknown_tokens() -> None:
    (engine,) = engines(b'sglang:num_running_reqs{model_name="m",tp_rank="0",pp_rank="0"} 0.0\n')
    assert engine.values == {RUNNING: 0}
    assert engine.tokens_move == ""


def test_a_chosen_series_that_is_gone_is_noticed() -> None:
    page = EnginePage(named("vllm"))
    page.scan(b"vllm:generation_tokens_total 1\nvllm:prompt_tokens_total 1\n")
    page.values()
    assert not page.has_lost_its_choice()
    page.scan(b"vllm:prompt_tokens_total 1\n")
    assert page.has_lost_its_choice()


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("NaN", "not_a_number"),
        ("-nan", "not_a_number"),
        ("+Inf", "not_a_number"),
        ("twelve", "not_a_number"),
        ("1_0", "not_a_number"),
        ("-1", "negative"),
        ("1.5", "not_an_integer"),
        ("9223372036854775808", "out_of_range"),
        ("1e300", "out_of_range"),
    ],
)
def test_a_count_that_is_none_is_absent_with_a_reason(printed: str, reason: str) -> None:
    (engine,) = engines(f"vllm:generation_tokens_total {printed}\nvllm:prompt_tokens_total 5\n".encode())
    assert engine.values == {INPUT: 5, OUTPUT: None}
    assert engine.faults == ((OUTPUT, reason),)


@pytest.mark.parametrize(
    ("printed", "ratio"), [("0.5", 0.5), ("1.0000001", 1.0), ("37", None), ("-nan", None), ("-1", None)]
)
def test_a_cache_is_filled_between_nothing_and_all(printed: str, ratio: float | None) -> None:
    (engine,) = engines(f"vllm:kv_cache_usage_perc {printed}\n".encode())
    assert engine.values[KV] == ratio


def test_integers_are_exact_beyond_what_a_double_holds() -> None:
    (engine,) = engines(b"vllm:generation_tokens_total 9007199254740993\n")
    assert engine.values[OUTPUT] == 9_007_199_254_740_993


def test_two_processes_on_one_page_speak_for_no_counter() -> None:
    page = EnginePage(named("vllm"))
    page.scan(
        b'process_start_time_seconds{pid="1"} 1764030173\nprocess_start_time_seconds{pid="2"} 1764030174\nvllm:x 1\n'
    )
    assert page.process_start == b""


def test_a_page_of_thousands_of_models_is_refused() -> None:
    page = "".join(f'vllm:prompt_tokens_total{{model_name="m{i}"}} 1\n' for i in range(5000))
    with pytest.raises(ParseError, match="engines"):
        engines(page.encode())


def test_another_engine_on_the_same_port_is_recognised() -> None:
    page = EnginePage(named("auto"))
    page.scan(golden("vllm_v1").replace(b"process_start_time_seconds 1", b"x 1"))
    page.values()
    page.scan(golden("tgi"))
    assert page.kind is not None
    assert page.kind.name == "tgi"
    assert page.values()[0].values[INPUT] == 4321


def test_a_worker_that_shows_its_engine_later_than_dynamo_is_read_by_its_engine() -> None:
    reader = EnginePage(named("auto"))
    for name, kind in (("dynamo_worker_fresh", "dynamo_worker"), ("vllm_dynamo_decode", "vllm")):
        reader.scan(golden(name))
        assert reader.kind is not None
        assert reader.kind.name == kind
        assert [dict(e.values) for e in reader.values()] == [dict(e.values) for e in engines(golden(name))]


def test_speculation_of_v0_is_not_read_and_that_of_v1_is() -> None:
    rows = "vllm:spec_decode_num_draft_tokens_total 9\nvllm:spec_decode_num_accepted_tokens_total 5\n"
    assert engines(rows.encode() + b"vllm:num_requests_running 1\n")[0].values == {RUNNING: 1}
    (engine,) = engines(rows.encode() + b"vllm:spec_decode_num_drafts_total 3\n")
    assert engine.values == {DRAFTED: 9, ACCEPTED: 5}


def test_ray_shows_a_counter_twice_and_it_is_counted_once() -> None:
    twice = b"ray_vllm_prompt_tokens 100\nray_vllm_prompt_tokens_total 100\n"
    assert engines(twice)[0].values == {INPUT: 100}
    assert engines(b"ray_vllm_prompt_tokens 100\n")[0].values == {INPUT: 100}


@pytest.mark.parametrize(
    ("labels", "role"),
    [
        ('engine_type="prefill"', "prefill"),
        ('engine_type="decode"', "decode"),
        ('engine_type="unified"', ""),
        ('dynamo_component="prefill"', "prefill"),
        ('dynamo_component="backend"', ""),
    ],
)
def test_a_page_may_say_which_side_of_a_pair_it_is(labels: str, role: str) -> None:
    assert [one.role for one in engines(f"sglang:num_running_reqs{{{labels}}} 1\n".encode())] == [role]


def test_a_page_with_both_sides_of_a_pair_says_neither() -> None:
    both = b'sglang:num_running_reqs{engine_type="prefill"} 1\nsglang:num_running_reqs{engine_type="decode"} 1\n'
    assert [one.role for one in engines(both)] == [""]


@pytest.mark.parametrize("kind", [k for k in ENGINE_KINDS if not k.holds_accelerators], ids=lambda k: k.markers[0])
def test_whatever_stands_before_engines_is_a_frontend(kind: EngineKind) -> None:
    name = next(iter(kind.names() - {PROCESS_START}))
    page = "".join(f"{marker}x 1\n" for marker in kind.markers) + f'{name}{{worker_addr="x"}} 1\n'
    reader = EnginePage([kind])
    reader.scan(page.encode())
    assert {one.role for one in reader.values()} <= {"frontend"}


def test_blocks_used_of_blocks_there_are_is_how_full_a_cache_is() -> None:
    page = "mistralrs_kv_cache_blocks_used {}\nmistralrs_kv_cache_blocks_total {}\n"
    assert engines(page.format(128, 512).encode())[0].values[KV] == 0.25
    (engine,) = engines(page.format(1, 0).encode())
    assert engine.values[KV] is None
    assert engine.faults == ((KV, "out_of_range"),)
    (engine,) = engines(b"mistralrs_kv_cache_blocks_used 1\nmistralrs_sequences_running 2\n")
    assert KV not in engine.values
    assert engine.values[RUNNING] == 2


@pytest.mark.parametrize("kind", ENGINE_KINDS, ids=lambda k: k.markers[0])
def test_the_table_is_sound(kind: EngineKind) -> None:
    tables = [kind.fields, kind.when_decode, *(v.fields for v in kind.variants)]
    fields = {f.name for f in dataclasses.fields(EngineReading)}
    assert set(kind.histograms) <= set(HISTOGRAM_FIELDS) <= fields
    for table in tables:
        assert set(table) <= set(FIELDS) <= fields
        for field, ways in table.items():
            names = [t.name for way in ways for t in series_of(way)]
            assert names
            assert not [n for n in names if n.endswith(("_created", "_bucket", "_by_reason", "_seconds"))]
            summed = [t.name for way in ways for t in way.terms]
            assert field in COUNTER_FIELDS or not [n for n in summed if n.endswith("_total")]
    page = "".join(f"\n{m}x 1" for m in kind.markers) + "".join(kind.also)
    assert recognise(page.encode()) is kind
    assert re.fullmatch("[a-z_]{1,32}", kind.name)
    assert kind.note
    assert kind.without_tokens or {"input_tokens", "output_tokens"} & {f for table in tables for f in table}


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"use auto or one of .*llamacpp.*vllm"):
        named("vlm")
    assert named("sglang") == (SGLANG, SGLANG_UNDERSCORE)
