"""What real vLLM servers and the router in front of them show, beyond the values of one page.

The pages: tests/fixtures/recorded. Numbers are those of the client that sent the load.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.golden_pages import golden
from wattmill_collector.sources.engine_pages import EnginePage, EngineValues, NotUnderstoodError
from wattmill_collector.sources.engine_tables import named

ROUTER = Path(__file__).parents[2] / "fixtures/recorded/routers/vllm_router_0_1_17.prom"
TOKENS = ("input_tokens", "cached_input_tokens", "computed_input_tokens", "output_tokens")


def read(reader: EnginePage, page: bytes) -> list[EngineValues]:
    reader.scan(page)
    return reader.values()


def count(one: EngineValues, field: str) -> int:
    value = one.values[field]
    assert isinstance(value, int)
    return value


def test_the_page_of_the_rust_router_is_a_routers_and_counts_nothing() -> None:
    with pytest.raises(NotUnderstoodError, match="the page is that of vllm-router; configure the engines behind it"):
        EnginePage(named("auto")).scan(ROUTER.read_bytes())


def test_two_ranks_add_up_to_what_the_client_counted() -> None:
    ranks = read(EnginePage(named("auto")), golden("vllm_0_32_dp2"))
    sums = [sum(count(rank, field) for rank in ranks) for field in (*TOKENS, "requests_finished")]
    assert sums == [1_981, 288, 1_693, 901, 19]


@pytest.mark.parametrize(
    ("idle", "loaded", "tokens"),
    [
        ("vllm_0_32_idle", "vllm_0_32", [2_003, 640, 1_363, 949]),
        ("vllm_0_32_rust_idle", "vllm_0_32_rust", [1_806, 576, 1_230, 861]),
    ],
)
def test_the_first_requests_of_an_idle_server_are_differences_of_one_series(
    idle: str, loaded: str, tokens: list[int]
) -> None:
    reader = EnginePage(named("auto"))
    (before,), (after,) = read(reader, golden(idle)), read(reader, golden(loaded))
    assert (before.series, before.since_us) == (after.series, after.since_us)
    assert [before.values[field] for field in TOKENS] == [0, 0, 0, 0]
    assert [after.values[field] for field in TOKENS] == tokens


@pytest.mark.parametrize("name", ["vllm_0_32", "vllm_0_32_dp2", "vllm_0_32_ngram", "vllm_0_32_rust"])
def test_input_is_what_was_computed_and_what_was_cached_also_after_preemptions(name: str) -> None:
    for one in read(EnginePage(named("auto")), golden(name)):
        cached, computed = count(one, "cached_input_tokens"), count(one, "computed_input_tokens")
        assert count(one, "input_tokens") == cached + computed > 0
