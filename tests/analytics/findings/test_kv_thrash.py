"""kv-thrash: preemptions that last, priced by what was computed twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.curve_shapes import PREFILL_MJ, decode_mj, law, tokens_a_minute
from support.minutes import engine_minutes, joined
from support.replicas import assert_known_when_said, detected
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.detectors import detect_engines
from wattmill_analytics.findings.kv_thrash import KvThrash
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes

LOAD, FINISHED, CONTEXT = 64, 60, 1000
TOKENS = tokens_a_minute(LOAD)
NEEDED = FINISHED * CONTEXT - TOKENS * FINISHED // (2 * FINISHED)  # input so that input + half the output is CONTEXT
USUAL_MJ = TOKENS * decode_mj(LOAD) + NEEDED * PREFILL_MJ


def serving(count: int, again: int = 0, counted: bool = False, **more: Any) -> EngineMinutes:
    """Minutes of one engine that computes `again` input tokens a second time, and counts them or not."""
    counted_input = NEEDED + (again if counted else 0)
    columns: dict[str, Any] = {
        "curve": 0,
        "curves": law(),
        "requests_running": LOAD,
        "output_tokens": TOKENS,
        "input_tokens": counted_input,
        "cached_input_tokens": 0,
        "requests_finished": FINISHED,
        "preemptions": 0,
        "kv_cache_usage_ratio": 0.6,
        "serving_mj": USUAL_MJ + again * PREFILL_MJ,
        "expected_mj": TOKENS * decode_mj(LOAD) + counted_input * PREFILL_MJ,
    }
    return engine_minutes(count, **columns | more)


def thrashing(count: int, again: int = 20_000, counted: bool = False, **more: Any) -> EngineMinutes:
    return serving(count, again, counted, **{"preemptions": 20, "kv_cache_usage_ratio": 0.99} | more)


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


@pytest.mark.parametrize("counted", [True, False])
def test_what_is_computed_twice_is_priced_whether_the_engine_counts_it_or_not(counted: bool) -> None:
    incident = only(detected(KvThrash(), joined(serving(120), thrashing(60, counted=counted), serving(60))))
    assert (incident.since_us, incident.until_us, incident.over) == (120 * MINUTE_US, 180 * MINUTE_US, True)
    assert incident.known_us - incident.since_us == 5 * MINUTE_US
    assert incident.energy_mj == pytest.approx(60 * 20_000 * PREFILL_MJ, rel=1e-3)
    assert incident.evidence["recomputed_tokens"] == pytest.approx(60 * 20_000, rel=1e-3)
    assert incident.evidence["preemptions_per_minute"] == 20.0
    assert ("input computed beyond" in str(incident.evidence["impact_from"])) is counted
    assert "gpu_memory_utilization" in incident.remedy


@pytest.mark.parametrize("counted", [True, False])
def test_what_was_usual_in_the_hours_before_is_not_its_cost(counted: bool) -> None:
    """Prompts are longer by day, and the boards draw 4 % more than their curve: both began long before."""
    day, more_input = 8 * 60, NEEDED // 3
    usual: dict[str, Any] = {
        "input_tokens": NEEDED + more_input,
        "expected_mj": USUAL_MJ + more_input * PREFILL_MJ,
        "serving_mj": round(1.04 * (USUAL_MJ + more_input * PREFILL_MJ)),
    }
    again = 20_000 * counted
    during: dict[str, Any] = {
        "input_tokens": usual["input_tokens"] + again,
        "expected_mj": usual["expected_mj"] + again * PREFILL_MJ,
        "serving_mj": usual["serving_mj"] + 20_000 * PREFILL_MJ,
    }
    table = joined(serving(day), serving(day, **usual), thrashing(60, **during))
    assert only(detected(KvThrash(), table)).energy_mj == pytest.approx(60 * 20_000 * PREFILL_MJ, rel=0.01)


def test_where_noise_hides_it_every_preemption_repeats_one_request() -> None:
    quiet_meter = thrashing(60, serving_mj=USUAL_MJ * 0.98)
    incident = only(detected(KvThrash(), joined(serving(120), quiet_meter)))
    assert incident.energy_mj == pytest.approx(60 * 20 * CONTEXT * PREFILL_MJ, rel=0.01)
    assert incident.evidence["impact_from"] == "preemptions times the context of a mean request"


def test_without_any_curve_the_cost_is_said_to_be_unknown() -> None:
    incident = only(detected(KvThrash(), thrashing(30, curve=-1, expected_mj=float("nan"))))
    assert incident.energy_mj == 0
    assert "not known" in str(incident.evidence["impact_from"])
    assert incident.evidence["recomputed_tokens"] == pytest.approx(30 * 20 * CONTEXT, rel=0.01)


@pytest.mark.parametrize(
    "harmless",
    [
        {"preemptions": 0},  # a full cache alone is a well used cache
        {"preemptions": 1},  # of 60 requests: fewer than 3 %
        {"preemptions": -1},  # not known
        # Room in the cache, and now and then a preemption: a minute in four.
        {"kv_cache_usage_ratio": 0.5, "preemptions": np.tile([20, 0, 0, 0], 75)},
    ],
)
def test_what_looks_like_it(harmless: dict[str, Any]) -> None:
    assert detected(KvThrash(), thrashing(300, **harmless)) == []


@pytest.mark.parametrize("usage", [0.77, 0.5])
def test_preemptions_that_last_are_the_proof_whatever_the_mean_usage_says(usage: float) -> None:
    """A long prompt at the head of the queue keeps the others out: the cache is too small, and not full."""
    rng = np.random.default_rng(0)
    preemptions = np.where(rng.random(480) < 0.77, 3, 0)
    table = joined(serving(120), thrashing(480, preemptions=preemptions, kv_cache_usage_ratio=usage), serving(60))
    incident = only(detected(KvThrash(), table))
    assert 0 <= incident.since_us - 120 * MINUTE_US <= 2 * MINUTE_US
    assert incident.known_us - 120 * MINUTE_US <= 15 * MINUTE_US
    assert incident.evidence["preemptions"] == preemptions.sum()
    assert_known_when_said(KvThrash(), table)


def test_while_requests_are_thrown_out_nobody_advises_a_larger_batch_or_fewer_replicas() -> None:
    """Every 40 minutes or so it rests; the queue and the small batch that it left behind are still its own."""
    left: dict[str, Any] = {"requests_running": 5, "requests_waiting": 21, "kv_cache_usage_ratio": 0.5}
    table = joined(*[part for _ in range(6) for part in (thrashing(40, **left), serving(20, **left))])
    assert {detector.kind for detector, _ in detect_engines(table)} == {"kv-thrash"}


def test_a_burst_of_a_few_minutes_is_left_alone() -> None:
    assert detected(KvThrash(), joined(serving(60), thrashing(4), serving(60))) == []


def test_usage_that_is_not_reported_does_not_hide_it() -> None:
    assert detected(KvThrash(), thrashing(30, kv_cache_usage_ratio=float("nan"))) != []


@pytest.mark.parametrize("seed", range(4))
def test_bursty_preemptions_are_one_incident_known_in_data_that_end_there(seed: int) -> None:
    bursts = np.random.default_rng(seed).poisson(3, 90)
    table = joined(serving(60), thrashing(90, preemptions=bursts), serving(60))
    assert len(detected(KvThrash(), table)) == 1
    assert_known_when_said(KvThrash(), table)


def test_it_explains_the_tokens_that_missed_the_cache() -> None:
    """An engine that counts recomputed tokens seems to hit its cache less; the finding is the thrashing."""
    half: dict[str, Any] = {"input_tokens": 2 * NEEDED, "cached_input_tokens": NEEDED, "workload": 0}
    again: dict[str, Any] = half | {"input_tokens": 4 * NEEDED}
    table = joined(serving(200, **half), thrashing(60, **again), serving(60, **half))
    assert [detector.kind for detector, _ in detect_engines(table)] == ["kv-thrash"]
