"""Incidents that make tokens dear: each shows in the lines as in a real fleet, and its waste is accounted for."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest

from wattmill_api.simulator import physics, waste
from wattmill_api.simulator.fleet import Fleet
from wattmill_api.simulator.scenario import DEFAULT, Options, parse_scenario

START_US = 1_760_000_400_000_000
MINUTE_US = 60_000_000
TARGETS = ("http://sim-001:8000/metrics", "http://sim-002:8000/metrics")


def run(wish: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Two nodes with one two-board replica each, an hour; the incident lasts from minute 20 to minute 40."""
    scenario = parse_scenario(
        "{seeded: false, nodes: [{accelerator: H100, workloads: [search-qwen3-32b]}],"
        f" incidents: [{{kind: {wish}, node: 1, engine: 0, at: 20m, lasts: 20m}}]}}"
    )
    options = Options(
        nodes=2,
        accelerators=2,
        start_us=START_US,
        duration_us=60 * MINUTE_US,
        interval_us=20_000_000,
        scenario=scenario,
    )
    fleet = Fleet(options)
    batches = [json.loads(line) for _, _, line in fleet.batches()]
    return batches, next(i for i in fleet.truth()["incidents"] if i["kind"] == wish)


def between(batches: list[dict[str, Any]], kind: str, name: str, first: int, last: int) -> list[dict[str, Any]]:
    """Readings of one engine or board from minute `first` to minute `last`."""
    return [
        reading
        for batch in batches
        if START_US + first * MINUTE_US <= batch["time_us"] <= START_US + last * MINUTE_US
        for reading in batch["readings"]
        if name in (reading.get("target"), reading.get("uuid")) and reading["kind"] == kind
    ]


def rise(readings: list[dict[str, Any]], field: str) -> int:
    return int(readings[-1][field] - readings[0][field])


def mean(readings: list[dict[str, Any]], field: str) -> float:
    return float(np.mean([reading[field] for reading in readings]))


def boards(batches: list[dict[str, Any]], node: str) -> list[str]:
    first = next(batch for batch in batches if batch["node"]["name"] == node)
    return [reading["uuid"] for reading in first["readings"] if reading["kind"] == "accelerator"]


def millijoules_per_token(batches: list[dict[str, Any]], node: int, first: int, last: int) -> float:
    spent = sum(
        rise(between(batches, "accelerator", uuid, first, last), "energy_mj")
        for uuid in boards(batches, f"sim-00{node + 1}")
    )
    return spent / rise(between(batches, "engine", TARGETS[node], first, last), "output_tokens")


def spent_mj(batches: list[dict[str, Any]], nodes: tuple[str, ...]) -> int:
    names = [uuid for node in nodes for uuid in boards(batches, node)]
    return sum(rise(between(batches, "accelerator", uuid, 20, 40), "energy_mj") for uuid in names)


def test_a_straggler_has_one_slow_board_and_no_clock_event() -> None:
    batches, truth = run("straggler")
    slow, other = boards(batches, "sim-001")
    assert mean(between(batches, "accelerator", slow, 21, 40), "sm_clock_mhz") == pytest.approx(0.75 * 1980, abs=1)
    assert mean(between(batches, "accelerator", other, 21, 40), "sm_clock_mhz") == pytest.approx(1980)
    assert {r["clock_event_reasons"] & 0x40 for r in between(batches, "accelerator", slow, 20, 40)} == {0}
    expected = spent_mj(batches, ("sim-001",)) * (1 - 0.82 / 0.97)
    assert truth["energy_mj"] == pytest.approx(expected, rel=0.01)
    assert truth["subject"] == TARGETS[0]


def test_a_throttled_board_says_why_and_what_it_wastes_is_counted() -> None:
    batches, truth = run("throttled")
    board = boards(batches, "sim-001")[0]
    assert all(r["clock_event_reasons"] & 0x40 for r in between(batches, "accelerator", board, 21, 40))
    assert truth["energy_mj"] == pytest.approx(spent_mj(batches, ("sim-001",)) * (1 - 0.65 / 0.78), rel=0.01)


def test_a_regression_makes_tokens_dearer_on_all_replicas_of_the_workload() -> None:
    batches, truth = run("regression")
    assert (truth["subject"], truth["node"], truth["workload"]) == ("search-qwen3-32b", None, "search-qwen3-32b")
    expected = spent_mj(batches, ("sim-001", "sim-002")) * (1 - 0.85 / 1.05)
    assert truth["energy_mj"] == pytest.approx(expected, rel=0.01)


def test_a_thrashing_cache_is_full_and_puts_requests_back_and_computes_them_again() -> None:
    batches, truth = run("kv-thrash")
    engine, before = between(batches, "engine", TARGETS[0], 21, 40), between(batches, "engine", TARGETS[0], 0, 20)
    assert mean(engine, "kv_cache_usage_ratio") > 0.98
    assert rise(engine, "preemptions") > 0.1 * rise(engine, "requests_finished")
    assert rise(before, "preemptions") < 0.02 * rise(before, "requests_finished")
    assert 0.05 < truth["energy_mj"] / spent_mj(batches, ("sim-001",)) < 0.6


def test_a_starved_queue_waits_before_a_batch_that_is_far_from_full() -> None:
    batches, truth = run("queue-starved")
    engine = between(batches, "engine", TARGETS[0], 25, 40)
    assert mean(engine, "requests_running") == pytest.approx(12, abs=1)
    assert mean(engine, "requests_waiting") > 10
    assert mean(engine, "kv_cache_usage_ratio") < 0.2
    assert 0.3 < truth["energy_mj"] / spent_mj(batches, ("sim-001",)) < 0.95


def test_a_missed_cache_computes_what_it_found_before() -> None:
    batches, truth = run("cache-miss")
    for target in TARGETS:
        engine, before = between(batches, "engine", target, 22, 40), between(batches, "engine", target, 0, 20)
        assert rise(before, "cached_input_tokens") / rise(before, "input_tokens") == pytest.approx(0.45, abs=0.03)
        assert rise(engine, "cached_input_tokens") / rise(engine, "input_tokens") < 0.15
    assert 0.01 < truth["energy_mj"] / spent_mj(batches, ("sim-001", "sim-002")) < 0.3


def test_a_workload_gets_a_replica_that_it_does_not_need() -> None:
    batches, truth = run("over-provisioned")
    assert (truth["form"], truth["subject"]) == ("1/2", "search-qwen3-32b")
    alone, both = between(batches, "engine", TARGETS[0], 0, 20), between(batches, "engine", TARGETS[0], 22, 40)
    assert between(batches, "engine", TARGETS[1], 0, 19) == []
    other = between(batches, "engine", TARGETS[1], 22, 40)
    # The same demand, first on one and then on two.
    per_minute = [rise(r, "output_tokens") / (len(r) - 1) for r in (alone, both, other)]
    assert per_minute[1] + per_minute[2] == pytest.approx(per_minute[0], rel=0.3)  # demand is bursty
    assert millijoules_per_token(batches, 0, 22, 40) > 1.3 * millijoules_per_token(batches, 0, 0, 20)
    assert 0.15 < truth["energy_mj"] / spent_mj(batches, ("sim-001", "sim-002")) < 0.6


def test_nothing_else_is_touched() -> None:
    quiet, _ = run("lost-readings")
    for kind in ("straggler", "kv-thrash"):
        batches, _ = run(kind)
        for target, last in ((TARGETS[0], 20), (TARGETS[1], 60)):
            mine, same = (between(of, "engine", target, 0, last) for of in (batches, quiet))
            by_tokens = [{r["output_tokens"] for r in readings} for readings in (same, mine)]
            assert by_tokens[0] <= by_tokens[1], kind


CURVE = physics.load_curves()["Qwen/Qwen3-32B", "H100"]
SEARCH = next(load for load in DEFAULT.workloads if load.name == "search-qwen3-32b")


def test_joules_of_steady_decode_are_those_of_the_curve() -> None:
    for batch in (1.0, 8.0, 64.0):
        tokens = np.array([CURVE.rate(batch) * 20])
        joules = CURVE.joules(tokens, np.zeros(1), batch)
        assert joules[0] / tokens[0] == pytest.approx(CURVE.joules_per_token(batch), rel=1e-6)


@pytest.mark.parametrize(("kind", "form"), [(k, "1/2" if k == "over-provisioned" else "") for k in waste.COUNTED])
def test_waste_is_a_share_and_none_where_no_token_comes(kind: str, form: str) -> None:
    tokens = np.array([0.0, 200.0, 4000.0])
    prefill_s, batch = np.array([0.0, 1.0, 3.0]), np.array([0.0, 4.0, 12.0])
    joules = CURVE.joules(tokens, prefill_s, batch) + CURVE.boards * 20 * 114.0
    work = waste.Work(tokens, prefill_s, batch, np.full(3, 40.0), joules, 20.0)
    found = waste.wasted_ratio(kind, form, CURVE, SEARCH, work)
    assert found[0] == 0
    assert np.all((found >= 0) & (found < 1))
    assert np.all(found[1:] > 0)
    twice = dataclasses.replace(work, joules=2 * joules)
    for a, b in itertools.pairwise([found[1:], waste.wasted_ratio(kind, form, CURVE, SEARCH, twice)[1:]]):
        assert np.all(b >= a)
