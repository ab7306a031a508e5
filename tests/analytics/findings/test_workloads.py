"""Minutes summed by workload, what has been carried so far, and loads from tokens: kernels against their slow twins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from support import naive_workloads as naive
from support.curve_shapes import decode_mj, law, tokens_a_minute
from support.minutes import engine_minutes
from wattmill_analytics.curves import LOADS, extended, no_curves
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes
from wattmill_analytics.findings.what_if import load_for, saved_share, throughput
from wattmill_analytics.findings.workloads import busiest_so_far, by_workload, highest_learnt, of_engine


def ragged(seed: int) -> EngineMinutes:
    """Engines of three workloads and of none, minutes missing here and there."""
    rng = np.random.default_rng(seed)
    whole = engine_minutes(40, engines=6, serving_mj=rng.integers(0, 9, 240), requests_running=rng.gamma(1, 20, 240))
    keep = rng.random(240) < 0.6
    per_minute = {
        f.name: getattr(whole, f.name)[keep]
        for f in dataclasses.fields(whole)
        if getattr(whole, f.name).__class__ is np.ndarray and getattr(whole, f.name).size == 240
    }
    counts = keep.reshape(6, 40).sum(axis=1)
    workload = rng.integers(-1, 3, 6)
    return dataclasses.replace(
        whole, offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), workload=workload, **per_minute
    )


@pytest.mark.parametrize("seed", range(8))
def test_sums_and_highest_values_by_workload_are_those_of_an_obvious_loop(seed: int) -> None:
    minutes = ragged(seed)
    table, rows = by_workload(minutes), naive.rows_by_workload(minutes)
    assert table.minute_us.tolist() == [us for _, us in rows]
    for w in range(table.offsets.size - 1):
        assert table.offsets[w + 1] - table.offsets[w] == sum(workload == w for workload, _ in rows)
    assert table.summed(minutes.serving_mj).tolist() == [int(minutes.serving_mj[r].sum()) for r in rows.values()]
    assert table.highest(minutes.requests_running).tolist() == [
        minutes.requests_running[r].max() for r in rows.values()
    ]
    given = table.spread(np.arange(table.minute_us.size, dtype=np.int64) + 1)
    for place, mine in enumerate(rows.values()):
        assert set(given[mine].tolist()) == {place + 1}


def test_engines_without_a_workload_are_left_out() -> None:
    table = by_workload(engine_minutes(5, engines=2, serving_mj=7))
    assert table.minute_us.size == 0
    assert table.spread(np.zeros(0)).tolist() == [0.0] * 10


@pytest.mark.parametrize("seed", range(5))
def test_the_busiest_load_so_far_is_that_of_sorted_minutes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = np.where(rng.random(120) < 0.1, np.nan, np.exp(rng.normal(3, 1, 120)))
    expected = naive.busiest_so_far(LOADS.tolist(), load.tolist()) * 2
    found = busiest_so_far(np.array([0, 120, 240]), np.concatenate([load, load]))
    assert found.tolist() == pytest.approx(expected, nan_ok=True)


def test_a_blip_is_not_a_load_that_is_carried() -> None:
    load = np.full(60, 16.0)
    load[10:24] = 200.0
    assert busiest_so_far(np.array([0, 60]), load)[-1] == 16.0
    load[24] = 200.0
    assert busiest_so_far(np.array([0, 60]), load)[-1] > 180


def test_the_highest_load_learnt_is_given_to_the_engines_of_the_curve() -> None:
    assert highest_learnt(law(highest=64)).tolist() == [64.0]
    assert highest_learnt(no_curves()).size == 0
    minutes = engine_minutes(2, engines=2, curve=[0, -1], curves=law(highest=64))
    assert of_engine(highest_learnt(minutes.curves), minutes).tolist() == pytest.approx(
        [64.0, 64.0, np.nan, np.nan], nan_ok=True
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_load_that_makes_so_many_tokens_is_that_of_a_walk_along_the_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = law(lowest=2, highest=128)
    rough = curves.tokens_per_request_s * np.exp(rng.normal(0, 0.2, LOADS.size))
    curves = extended(dataclasses.replace(curves, tokens_per_request_s=rough))
    wanted = np.exp(rng.uniform(0, 10, 200))
    rate = throughput(curves)[0].tolist()
    expected = [naive.load_for(LOADS.tolist(), rate, value) for value in wanted]
    assert load_for(curves, np.zeros(200, np.int64), wanted).tolist() == pytest.approx(expected)
    assert np.isnan(load_for(curves, np.array([-1, 0]), np.array([5.0, 0.0]))).all()


def test_the_same_tokens_at_another_load_cost_what_the_curve_says_and_prefill_stays() -> None:
    tokens = tokens_a_minute(8)
    minutes = engine_minutes(
        3, curve=0, curves=law(), requests_running=8, output_tokens=tokens, input_tokens=tokens, cached_input_tokens=0
    )
    share = saved_share(minutes, np.arange(3), np.array([8.0, 64.0, 4.0]), extended(minutes.curves))
    prefill = 20.0
    assert share[0] == pytest.approx(0.0)
    assert share[1] == pytest.approx(1 - (decode_mj(64) + prefill) / (decode_mj(8) + prefill))
    assert share[2] < 0


def test_without_a_curve_the_least_published_factors_speak() -> None:
    minutes = engine_minutes(1, requests_running=8, output_tokens=100)
    share = saved_share(minutes, np.array([0]), np.array([64.0]), no_curves())
    assert share[0] == pytest.approx(1 - 1.34 / 3.77)


def test_minutes_of_the_day_are_told_apart() -> None:
    minutes = engine_minutes(3, engines=2, workload=0, serving_mj=[1, 2, 3, 10, 20, 30])
    assert by_workload(minutes).summed(minutes.serving_mj).tolist() == [11, 22, 33]
    assert by_workload(minutes).minute_us.tolist() == [0, MINUTE_US, 2 * MINUTE_US]
