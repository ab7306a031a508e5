"""over-provisioned: what if fewer replicas had served the same tokens, every peak included."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from support import naive_workloads as naive
from support.curve_shapes import PREFILL_MJ, decode_mj, law
from support.minutes import engine_minutes
from support.replicas import assert_known_when_said, detected, without
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.detectors import detect_engines
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes
from wattmill_analytics.findings.over_provisioned import OverProvisioned, what_if
from wattmill_analytics.findings.workloads import by_workload

DAY = 1440
INPUT = 6_000


def daily(minutes: int, peak: float, seed: int = 0, noise: float = 0.05) -> np.ndarray:
    """Load that `replicas` would share, over days with a quiet night of a quarter of the peak."""
    at = np.arange(minutes)
    shape = 0.625 + 0.375 * np.cos(2 * np.pi * (at / DAY - 14 / 24))
    return peak * shape * np.exp(np.random.default_rng(seed).normal(0, noise, minutes))


def served(demand: np.ndarray, replicas: np.ndarray, peak_before: float = float("nan"), **more: Any) -> EngineMinutes:
    """A workload whose `demand` [minutes], tokens a second by law of one replica at that load, is shared evenly by so
    many replicas [minutes]."""
    n, most = demand.size, int(replicas.max())
    tokens_s = 100 * demand**0.75
    load = (tokens_s / replicas / 100) ** (4 / 3)
    tokens = np.round(60 * tokens_s / replicas)
    table = engine_minutes(
        n,
        engines=most,
        workload=0,
        curve=0,
        curves=law(highest=128),
        requests_running=np.tile(load, most),
        requests_waiting=0,
        output_tokens=np.tile(tokens, most),
        input_tokens=INPUT,
        serving_mj=np.tile(tokens * decode_mj(1) * load**-0.75 + INPUT * PREFILL_MJ, most),
        expected_mj=np.tile(tokens * decode_mj(1) * load**-0.75 + INPUT * PREFILL_MJ, most),
        **more,
    )
    table = without(table, (np.arange(most)[:, np.newaxis] >= replicas).ravel())
    return dataclasses.replace(table, peak_tokens_per_s=np.full(most, peak_before))


def tokens_s(load: float) -> float:
    return float(100 * load**0.75)


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


def test_replicas_that_were_doubled_at_the_same_demand() -> None:
    demand, replicas = daily(2 * DAY, 100), np.full(2 * DAY, 1)
    replicas[1500:2400] = 2
    table = served(demand, replicas, peak_before=tokens_s(100))
    incident = only(detected(OverProvisioned(), table))
    assert (incident.subject, incident.since_us, incident.until_us) == (0, 1500 * MINUTE_US, 2400 * MINUTE_US)
    assert incident.known_us - incident.since_us == 8 * MINUTE_US
    assert incident.over
    twice, once = served(demand, np.full(2 * DAY, 2)), served(demand, np.full(2 * DAY, 1))
    hours = slice(1500, 2400)
    spent_twice = twice.serving_mj.reshape(2, -1).sum(axis=0)[hours].sum() - 900 * INPUT * PREFILL_MJ
    assert incident.energy_mj == pytest.approx(spent_twice - once.serving_mj[hours].sum(), rel=0.03)
    assert (incident.evidence["replicas"], incident.evidence["replicas_needed"]) == (2, 1)
    assert incident.evidence["inter_token_latency_ms_at_peak"] == pytest.approx(1000 * 100**0.25 / 100, rel=0.1)
    assert "minReplicas" in incident.remedy
    assert "N+1" in incident.remedy


def test_as_many_as_the_peak_needs_are_kept_through_the_night_and_the_weekend() -> None:
    demand = np.concatenate([daily(DAY, 300), daily(2 * DAY, 150, 1)])
    assert detected(OverProvisioned(), served(demand, np.full(3 * DAY, 3), peak_before=tokens_s(300))) == []


def test_a_peak_of_the_days_before_is_respected_though_it_is_not_in_the_data() -> None:
    demand, replicas = daily(DAY, 60), np.full(DAY, 4)
    assert detected(OverProvisioned(), served(demand, replicas, peak_before=4 * tokens_s(100))) == []
    assert detected(OverProvisioned(), served(demand, replicas, peak_before=tokens_s(100))) != []


def test_a_peak_that_comes_ends_it() -> None:
    demand = np.concatenate([daily(600, 60), np.full(300, 500.0)])
    incident = only(detected(OverProvisioned(), served(demand, np.full(900, 4), peak_before=tokens_s(100))))
    assert incident.until_us <= 615 * MINUTE_US
    assert incident.over


def test_without_a_memory_only_what_was_served_by_fewer_says_so_and_after_a_day() -> None:
    demand, replicas = daily(2 * DAY, 100), np.full(2 * DAY, 1)
    always = served(demand, np.full(2 * DAY, 2))
    assert detected(OverProvisioned(), always) == [], "two all the time: nobody knows that one would do"
    replicas[1500:] = 2
    incident = only(detected(OverProvisioned(), served(demand, replicas)))
    assert incident.since_us == 1500 * MINUTE_US
    assert detected(OverProvisioned(), served(demand[:1200], np.where(np.arange(1200) < 600, 1, 2))) == []


def test_one_replica_is_never_too_many() -> None:
    assert detected(OverProvisioned(), served(daily(DAY, 2), np.full(DAY, 1), peak_before=tokens_s(2))) == []


def test_a_reserve_that_saves_little_is_left_alone() -> None:
    """Eight where seven would just do: within what is known of a replica's capacity."""
    demand = daily(DAY, 128 * 7.1 ** (4 / 3), noise=0)
    assert detected(OverProvisioned(), served(demand, np.full(DAY, 8), peak_before=7.1 * tokens_s(128))) == []


def test_a_replica_may_not_be_asked_for_a_speed_nobody_had() -> None:
    """The curve knows 128 requests from a handful of minutes, at 84 ms a token; in its busy hours a token takes 30."""
    curves = law(highest=128)
    speed = np.where(np.isnan(curves.tokens_per_request_s), np.nan, 1000 / (30 * np.maximum(1, np.arange(52) - 28)))
    minutes = np.where(np.arange(52) < 28, 1000, 5) * (curves.minutes > 0)
    slow = dataclasses.replace(curves, tokens_per_request_s=speed, minutes=minutes)
    table = served(daily(DAY, 40), np.full(DAY, 2), peak_before=2 * 64 * 30)
    assert detected(OverProvisioned(), dataclasses.replace(table, curves=slow)) == []


def test_idle_replicas_are_saved_whole() -> None:
    demand, replicas = np.full(120, 50.0), np.full(120, 1)
    busy = served(demand, replicas, peak_before=tokens_s(60))
    idle = engine_minutes(120, engines=2, workload=0, curve=0, curves=busy.curves, idle_loaded_mj=7_000_000)
    columns: dict[str, Any] = {
        f.name: np.concatenate([getattr(busy, f.name), getattr(idle, f.name)])
        for f in dataclasses.fields(busy)
        if f.name not in ("offsets", "curves", "peak_tokens_per_s")
    }
    table = dataclasses.replace(
        busy, offsets=np.array([0, 120, 240, 360]), peak_tokens_per_s=np.full(3, tokens_s(60)), **columns
    )
    incident = only(detected(OverProvisioned(), table))
    assert incident.energy_mj == pytest.approx(2 * 120 * 7_000_000, rel=0.01)
    assert incident.evidence["replicas_needed"] == 1


def test_replicas_on_other_boards_are_not_compared() -> None:
    table = served(daily(DAY, 20), np.full(DAY, 4), peak_before=tokens_s(20))
    assert detected(OverProvisioned(), dataclasses.replace(table, boards=np.array([1, 1, 2, 2]))) == []


def test_it_explains_the_small_batches() -> None:
    table = served(daily(DAY, 12), np.full(DAY, 3), peak_before=tokens_s(12))
    assert [detector.kind for detector, _ in detect_engines(table)] == ["over-provisioned"]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_known_in_data_that_end_there(seed: int) -> None:
    replicas = np.where(np.arange(DAY) < 900, 1, 3)
    assert_known_when_said(OverProvisioned(), served(daily(DAY, 100, seed), replicas, peak_before=tokens_s(110)))


@pytest.mark.parametrize("peak_before", [float("nan"), 2000.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_number_needed_is_that_of_an_obvious_loop(seed: int, peak_before: float) -> None:
    rng = np.random.default_rng(seed)
    n = 1500
    table = served(daily(n, 80, seed, noise=0.4), rng.integers(1, 5, n), peak_before=peak_before)
    by = by_workload(table)
    keep = rng.random(by.minute_us.size) < 0.97
    table = without(table, ~by.spread(keep.astype(np.int64)).astype(bool))
    by = by_workload(table)
    supply = what_if(table, by, np.array([0]))
    expected = naive.needed(
        by.minute_us.tolist(),
        (supply.output_tokens / 60).tolist(),
        supply.replicas.tolist(),
        100 * 128**0.75,
        peak_before,
    )
    assert supply.needed.tolist() == expected
