"""Published figures, and the distance to the best of them at the same inter-token latency."""

from __future__ import annotations

import dataclasses
import importlib.resources
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill_analytics import efficiency
from wattmill_analytics.frontier.judgement import Judgement, Observed, inter_token_latency_ms, judge, plausibility
from wattmill_analytics.frontier.references import Reference, parse

TEXT = importlib.resources.files("wattmill_analytics.frontier").joinpath("figures.csv").read_text("utf-8")
TABLE = parse(TEXT)
BOARDS = {"H100": "NVIDIA H100 80GB HBM3", "B200": "NVIDIA B200"}
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
HOUR_S = 3600


def rows(model: str, accelerator: str, scope: str = "accelerator", task: str = "") -> list[Reference]:
    return [
        row
        for row in TABLE
        if (row.model, row.accelerator, row.scope) == (model, accelerator, scope) and task in ("", row.task)
    ]


def seen(reference: Reference, **changes: object) -> Observed:
    """A workload that does exactly what the reference did."""
    observed = Observed(
        scope=reference.scope,
        model=reference.model,
        accelerator_model=BOARDS[reference.accelerator],
        joules_per_token=reference.joules_per_token,
        inter_token_latency_ms=reference.latency_ms("concurrency over rate"),
        latency_source="concurrency over rate",
        mean_output_tokens=reference.mean_output_tokens,
        boards_per_replica=reference.boards,
    )
    return dataclasses.replace(observed, **changes)  # type: ignore[arg-type]


def test_mlperf_power_is_a_hundred_millijoules_a_token() -> None:
    """102 909 tokens/s at 10 401 W for an hour: 35.6 M tokens/kWh, 0.1011 J a token, and so says the table."""
    tokens = np.array([102_909 * HOUR_S], np.int64)
    energy_mj = np.array([10_401_000 * HOUR_S], np.int64)
    [per_kwh], [per_token] = (
        efficiency.tokens_per_kwh(tokens, energy_mj),
        efficiency.joules_per_token(tokens, energy_mj),
    )
    assert per_kwh == pytest.approx(35.6e6, rel=1e-3)
    assert per_token == pytest.approx(0.1011, abs=5e-5)
    [offline] = rows("meta-llama/Llama-2-70b-chat-hf", "B200", "node", "offline")
    assert offline.joules_per_token == pytest.approx(per_token, rel=1e-5)
    assert offline.tokens_per_kwh == pytest.approx(per_kwh, rel=1e-5)
    assert (offline.scope, offline.median_itl_ms, offline.itl_limit_ms) == ("node", None, None)
    assert "whole system at the analyser" in offline.citation


@pytest.mark.parametrize(
    ("model", "accelerator", "boards", "best_j"),
    [
        (LLAMA, "H100", 1, 0.070),
        ("Qwen/Qwen3-14B", "B200", 1, 0.077),
        ("Qwen/Qwen3-32B", "H100", 2, 0.228),
        ("meta-llama/Llama-3.1-70B-Instruct", "H100", 4, 0.479),
        ("meta-llama/Llama-3.1-405B-Instruct-FP8", "H100", 8, 2.43),
        ("deepseek-ai/DeepSeek-V3.1", "B200", 8, 1.309),
    ],
)
def test_the_table_says_what_is_cited_of_it_at_50_ms(model: str, accelerator: str, boards: int, best_j: float) -> None:
    chat = rows(model, accelerator, task="lm-arena-chat")
    fast = [r.joules_per_token for r in chat if r.boards == boards and r.median_itl_ms and r.median_itl_ms <= 50]
    assert min(fast) == pytest.approx(best_j, abs=6e-4 if best_j < 1 else 6e-3)


def test_every_row_is_whole_power_over_rate_and_plausible() -> None:
    assert len(TABLE) == TEXT.count("\n") - 1 > 500
    assert len(set(TABLE)) == len(TABLE)
    for row in TABLE:
        assert row.joules_per_token == pytest.approx(row.watts / row.output_tokens_per_s, rel=1e-4)
        assert plausibility(row.joules_per_token).plausible is True
        assert row.citation
        assert (row.scope == "node") == (row.source == "mlperf-v5.1-power")
        assert (row.median_itl_ms is not None and row.batch is not None) == (row.scope == "accelerator")
        assert row.itl_limit_ms is None or row.task == "server"


def test_batch_curves_fall() -> None:
    """The curve that everything rests on: energy per token falls about sevenfold from batch 8 to 511."""
    curve = {round(row.batch): row for row in rows(LLAMA, "H100") if row.batch is not None}
    assert curve[8].joules_per_token / curve[511].joules_per_token == pytest.approx(6.5, abs=0.05)
    assert 1.3 < curve[511].watts / curve[8].watts < 1.5  # power is nearly flat, tokens are not


def test_concurrency_over_rate_is_the_latency_of_a_full_pipe() -> None:
    """64 requests that together make 3200 tokens/s: each waits 20 ms for its next one."""
    assert inter_token_latency_ms(request_s=64 * 60, output_tokens=3200 * 60) == 20
    assert inter_token_latency_ms(request_s=0.0, output_tokens=5) is None
    assert inter_token_latency_ms(request_s=5.0, output_tokens=0) is None
    assert inter_token_latency_ms(request_s=-1.0, output_tokens=-1) is None


def test_a_references_own_concurrency_over_rate_is_no_shorter_than_its_median_by_much() -> None:
    """Else comparing an estimate with an estimate would be another question than the published one."""
    ratios = sorted(
        row.mean_itl_ms / row.median_itl_ms for row in TABLE if row.mean_itl_ms is not None and row.median_itl_ms
    )
    assert ratios[len(ratios) // 20] > 0.97
    assert ratios[len(ratios) * 9 // 10] < 1.5


def test_the_best_measured_configuration_runs_at_itself() -> None:
    best = min(rows(LLAMA, "H100"), key=lambda row: row.joules_per_token)
    found = judge(seen(best), TABLE)
    assert (found.reference, found.ratio, found.confidence) == (best, 1.0, "exact")
    assert found.reference_latency_ms == best.mean_itl_ms


def test_a_small_batch_is_far_from_the_frontier_only_where_latency_allows_a_larger_one() -> None:
    """Batch 8 at its own 7.5 ms is as good as it gets; the same joules at 60 ms a token are 6.5 times too many."""
    smallest = min(rows(LLAMA, "H100"), key=lambda row: row.batch or 0)
    assert judge(seen(smallest), TABLE).ratio == 1.0
    slow = judge(seen(smallest, inter_token_latency_ms=60.0), TABLE)
    assert slow.ratio == pytest.approx(6.5, abs=0.05)
    assert slow.reference is not None
    assert slow.reference.batch == pytest.approx(511, abs=1)
    assert slow.verdict.startswith("uses 6.48 times")


def test_faster_than_anything_published_has_no_ratio() -> None:
    [*_, fastest] = sorted(rows(LLAMA, "H100"), key=lambda row: -(row.mean_itl_ms or 0))
    found = judge(seen(fastest, inter_token_latency_ms=3.0), TABLE)
    assert (found.reference, found.ratio) == (None, None)
    assert found.verdict == "faster than any published configuration: the fastest takes 7.46 ms and 0.455 J for a token"
    assert found.confidence == "exact"


def test_nothing_is_judged_without_a_figure() -> None:
    best = rows(LLAMA, "H100")[0]
    for changes, verdict in (
        ({"joules_per_token": None}, "no joules per output token were measured"),
        ({"inter_token_latency_ms": None}, "the inter-token latency is not known"),
        ({"scope": "facility"}, "figures are published for accelerators and whole nodes, not at facility scope"),
        ({"accelerator_model": "NVIDIA H200"}, "no figures are published for this accelerator"),
        ({"model": "mistral-7b"}, "no figures are published for a model of this name"),
    ):
        found = judge(seen(best, **changes), TABLE)
        assert (found.reference, found.ratio) == (None, None)
        assert found.verdict.startswith(verdict)


def test_an_answer_of_7000_tokens_is_not_compared_with_chat() -> None:
    """Qwen3-32B was measured in chat (about 600 tokens) and in reasoning (about 7000)."""
    reasoning = rows("Qwen/Qwen3-32B", "H100", task="gpqa")[0]
    for length, task in ((7000.0, "gpqa"), (343.0, "lm-arena-chat"), (None, "lm-arena-chat")):
        found = judge(seen(reasoning, mean_output_tokens=length, inter_token_latency_ms=60.0), TABLE)
        assert found.reference is not None
        assert found.reference.task == task
        assert found.caveat is not None
        assert f"Its task is {task}," in found.caveat
    chat = judge(seen(reasoning, inter_token_latency_ms=60.0, boards_per_replica=4), TABLE)
    assert chat.caveat is not None
    assert chat.caveat.endswith("Boards of a replica: 4 here, 2 there.")


def test_scopes_are_never_mixed() -> None:
    [server] = rows(LLAMA, "B200", "node", "server")
    found = judge(seen(server), TABLE)
    assert (found.reference, found.ratio) == (server, 1.0)
    assert found.confidence == "approximate"  # measured in FP4, and the name says nothing
    assert found.caveat is not None
    assert "at the wall" in found.caveat
    boards_only = judge(seen(server, scope="accelerator"), TABLE)
    assert boards_only.reference is not None
    assert boards_only.reference.scope == "accelerator"


def test_a_bound_on_latency_compares_only_with_what_is_no_faster_than_the_bound() -> None:
    """MLPerf Server holds 100 ms at the 99th percentile; how fast it was below that is not published."""
    [server] = rows(LLAMA, "B200", "node", "server")
    assert judge(seen(server, inter_token_latency_ms=120.0), TABLE).ratio == 1.0
    faster = judge(seen(server, inter_token_latency_ms=30.0), TABLE)
    assert (faster.ratio, faster.verdict) == (
        None,
        "no published figure holds a latency this low: the lowest bound is 100 ms",
    )


def test_offline_has_no_latency_and_judges_nobody() -> None:
    only_offline = rows(LLAMA, "B200", "node", "offline")
    found = judge(seen(only_offline[0], inter_token_latency_ms=50.0), only_offline)
    assert (found.ratio, found.reference) == (None, None)


def test_a_measured_median_is_compared_with_medians() -> None:
    row = next(r for r in rows(LLAMA, "H100") if r.batch is not None and round(r.batch) == 511)
    assert row.median_itl_ms is not None
    assert row.mean_itl_ms is not None
    at_median = seen(row, inter_token_latency_ms=row.median_itl_ms, latency_source="median")
    assert judge(at_median, TABLE).reference == row
    as_mean = judge(dataclasses.replace(at_median, latency_source="concurrency over rate"), TABLE)
    assert as_mean.reference != row
    assert row.mean_itl_ms > row.median_itl_ms


@given(
    st.sampled_from([row for row in TABLE if row.scope == "accelerator"]),
    st.floats(0.1, 2000.0),
    st.floats(1.0, 4.0),
    st.floats(0.01, 100.0),
)
def test_the_frontier_only_falls_with_latency(row: Reference, itl_ms: float, slower: float, spent: float) -> None:
    """More time a token never makes the bar higher, and the bar is always a row that is fast enough."""

    def at(latency_ms: float) -> Judgement:
        # Of unknown length, so that all tasks count.
        wanted = seen(row, inter_token_latency_ms=latency_ms, joules_per_token=spent, mean_output_tokens=None)
        return judge(wanted, TABLE)

    here, there = at(itl_ms), at(itl_ms * slower)
    if here.reference is not None:
        assert here.reference.mean_itl_ms is not None
        assert here.reference.mean_itl_ms <= itl_ms * 1.001
        assert there.reference is not None
        assert there.reference.joules_per_token <= here.reference.joules_per_token
        assert here.ratio == pytest.approx(spent / here.reference.joules_per_token)
    fits = [r for r in rows(row.model, row.accelerator) if r.mean_itl_ms is not None and r.mean_itl_ms <= itl_ms]
    if fits:
        assert here.reference is not None
        assert here.reference.joules_per_token <= min(r.joules_per_token for r in fits)


@pytest.mark.parametrize(
    ("joules", "plausible"), [(0.0199, False), (0.02, True), (43.5, True), (50.0, True), (50.1, False)]
)
def test_plausibility_band(joules: float, plausible: bool) -> None:
    found = plausibility(joules)
    assert found.plausible is plausible
    assert (found.reason is None) == plausible


def test_no_figure_is_neither_plausible_nor_implausible() -> None:
    for nothing in (None, math.nan):
        assert plausibility(nothing).plausible is None
    assert plausibility(math.inf).plausible is False
    assert plausibility(-1.0).plausible is False


def test_a_table_that_is_not_one_is_refused() -> None:
    with pytest.raises(KeyError):
        parse(TEXT.replace(",node,", ",rack,"))
    with pytest.raises(KeyError):
        parse(TEXT.replace("mlperf-v5.1-power", "hearsay"))
