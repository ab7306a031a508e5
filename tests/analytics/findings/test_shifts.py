"""Shifts and siblings: kernels do what their slow twins do; a shift is found where it began, noise is left alone."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import naive_shifts as naive
from support.minutes import engine_minutes, side_by_side
from support.replicas import without
from wattmill_analytics.curves import LOAD_BINS, no_curves
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes
from wattmill_analytics.findings.residuals import residuals
from wattmill_analytics.findings.runs import Run
from wattmill_analytics.findings.shifts import EIGHT_PERCENT, shifts, united
from wattmill_analytics.findings.siblings import above_siblings, workload_minutes

RISE = (EIGHT_PERCENT.smallest, EIGHT_PERCENT.drift, EIGHT_PERCENT.floor)
seeds = st.integers(0, 2**32 - 1)


def some_minutes(seed: int) -> EngineMinutes:
    """A few engines of a few workloads with everything in it: holes, versions, idle minutes, lost energy, no curve."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(rng.integers(1, 7)):
        count = int(rng.integers(0, 40))
        parts.append(
            engine_minutes(
                count,
                workload=rng.integers(-1, 2),
                curve=rng.integers(-1, 2),
                serving_mj=rng.integers(0, 9, count) * 1000,
                output_tokens=rng.integers(0, 4, count) * 2000,
                untrusted_us=rng.choice([0, 0, 0, 20_000_000], count),
                version=rng.integers(-1, 2, count) if rng.random() < 0.5 else 3,
                requests_running=rng.choice([math.nan, 0.0, 0.4, 1.0, 7.0, 300.0], count),
                expected_mj=np.where(rng.random(count) < 0.2, math.nan, rng.uniform(1000, 9000, count)),
            )
        )
    table = without_some(side_by_side(parts), rng)
    learnt = rng.integers(0, 3, (1, LOAD_BINS)) * rng.integers(0, 30, (1, LOAD_BINS))
    return dataclasses.replace(table, curves=dataclasses.replace(no_curves(), minutes=learnt))


def without_some(table: EngineMinutes, rng: np.random.Generator) -> EngineMinutes:
    """Holes of one minute and of several, anywhere."""
    lost = np.zeros(table.minute_us.size, bool)
    for start in np.flatnonzero(rng.random(lost.size) < 0.05):
        lost[start : start + rng.integers(1, 9)] = True
    return without(table, lost)


@given(seeds)
@settings(max_examples=60)
def test_residuals_and_siblings_are_those_of_the_slow_twins(seed: int) -> None:
    table = some_minutes(seed)
    hidden = np.random.default_rng(seed).random(table.minute_us.size) < 0.1
    residual, requests = residuals(table, hidden)
    judged = naive.residuals(table, hidden.tolist())
    assert [r > 0 for r in requests] == [j is not None for j in judged]
    known = [j for j in judged if j is not None]
    np.testing.assert_allclose(residual[requests > 0], [j[0] for j in known])
    np.testing.assert_allclose(requests[requests > 0], [j[1] for j in known])

    x, others, siblings = above_siblings(table, residual, requests)
    slow = naive.above_siblings(table, judged)
    assert [count > 0 for count in siblings] == [s is not None for s in slow]
    fast = zip(x[siblings > 0], others[siblings > 0], siblings[siblings > 0], strict=True)
    np.testing.assert_allclose([tuple(f) for f in fast], [s for s in slow if s is not None])
    assert np.isnan(x[siblings == 0]).all()

    workloads, offsets, minute_us, low, sums = workload_minutes(table, residual, requests)
    whose = np.repeat(workloads, np.diff(offsets)).tolist()
    series = {(w, m): (a, b) for w, m, a, b in zip(whose, minute_us.tolist(), low, sums, strict=True)}
    slow_series = naive.workload_minutes(table, judged)
    assert list(series) == sorted(slow_series)
    for key, pair in series.items():
        assert pair == pytest.approx(slow_series[key])


def test_a_load_that_was_hardly_ever_run_is_not_judged() -> None:
    learnt = np.zeros((1, LOAD_BINS), np.int64)
    learnt[0, 19:24] = (0, 60, 300, 300, 300)  # the 60 are strays: minutes of the next higher load, read too low
    table = engine_minutes(
        *(5, 1, dataclasses.replace(no_curves(), minutes=learnt)),
        curve=0,
        serving_mj=1_000,
        expected_mj=1_000.0,
        output_tokens=9,
        requests_running=np.exp2((np.arange(19, 24) - 4) / 4),
    )
    _, requests = residuals(table, np.zeros(5, bool))
    assert (requests[:2] == 0).all()
    assert (requests[2:] > 0.4 * table.requests_running[2:]).all()


@given(seeds)
@settings(max_examples=40)
def test_shifts_are_those_of_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 160, 3)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    n = int(offsets[-1])
    level = np.repeat(rng.choice([0.0, 0.0, 0.1, 0.3, -0.1], n // 20 + 1), 20)[:n]
    x = level + rng.normal(0, rng.choice([0.02, 0.08]), n)
    requests = rng.choice([0.0, 4.0, 60.0], n, p=[0.1, 0.1, 0.8])
    steps = np.where(rng.random(n) < 0.03, rng.choice([4, 90, 900], n), 1)
    minute_us = np.cumsum(steps) * MINUTE_US
    levels = rng.choice([math.nan, -0.03, 0.0, 0.2], 3)
    since_us = minute_us[np.clip(offsets[:3] + rng.choice([-1, 0, 30], 3), 0, n - 1)] if n else np.zeros(3, np.int64)
    found = shifts(offsets, minute_us, x, requests, EIGHT_PERCENT, (levels, since_us))
    expected = []
    for s, (low, high) in enumerate(pairwise(offsets.tolist())):
        mine = slice(low, high)
        for first, last, opened, over in naive.shifts(
            minute_us[mine].tolist(), x[mine].tolist(), requests[mine].tolist(), *RISE, levels[s], since_us[s]
        ):
            expected.append(Run(s, low + first, low + last, low + opened, over))
    assert found == expected


def one_series(x: np.ndarray, requests: float = 500.0) -> list[Run]:
    offsets = np.array([0, x.size])
    return shifts(offsets, np.arange(x.size) * MINUTE_US, x, np.full(x.size, requests), EIGHT_PERCENT)


@pytest.mark.parametrize("percent", [10, 15, 30, 60])
def test_a_clean_shift_is_found_where_it_began_and_where_it_ended(percent: int) -> None:
    x = np.zeros(300)
    x[100:200] = math.log(1 + percent / 100)
    (run,) = one_series(x)
    assert (run.first, run.last, run.over) == (100, 199, True)
    assert run.opened - run.first < (20 if percent == 10 else 8)


def test_less_than_eight_percent_is_never_a_shift() -> None:
    x = np.zeros(2_000)
    x[500:] = math.log(1.06)
    assert one_series(x) == []
    assert one_series(1.6 * x)


def test_what_is_a_series_own_is_not_held_against_it() -> None:
    own = np.full(3_000, 0.04)
    assert one_series(own) == []
    own[2_000:2_100] += math.log(1.15)
    (run,) = one_series(own)
    assert (run.first, run.last) == (2_000, 2_099)
    assert one_series(np.full(500, math.log(1.2)))[0].first == 0


@pytest.mark.parametrize("usual", [-0.04, 0.0, 0.04])
def test_a_shift_older_than_the_data_goes_on_until_the_series_is_back_at_what_was_usual(usual: float) -> None:
    x = usual + np.random.default_rng(9).normal(0, 0.05, 3_000)
    x[:2_000] += math.log(1.1)
    offsets, minute_us = np.array([0, x.size]), np.arange(x.size) * MINUTE_US
    (run,) = shifts(offsets, minute_us, x, np.full(x.size, 500.0), EIGHT_PERCENT, (np.array([usual]), np.array([0])))
    assert (run.first, run.opened, run.over) == (0, 0, True)
    assert abs(run.last - 1_999) <= 10
    # If it was over already, that is seen within the hour.
    over = np.array([0, 1_000])
    (run,) = shifts(over, minute_us, x[2_000:], np.full(1_000, 500.0), EIGHT_PERCENT, (np.array([usual]), over[:1]))
    assert (run.first, run.over) == (0, True)
    assert run.last < 60


def test_one_minute_does_not_make_a_shift_however_high() -> None:
    x = np.zeros(300)
    x[50::25] = 5.0
    assert one_series(x) == []


def test_minutes_of_few_requests_weigh_little() -> None:
    x = np.full(12, math.log(1.25))
    assert one_series(x, requests=60)
    assert one_series(x, requests=2) == []


@pytest.mark.parametrize("noise", [0.03, 0.05, 0.08])
def test_noise_alone_alarms_less_than_once_in_fifty_weeks(noise: float) -> None:
    weeks, n = 100, 10_080
    x = np.random.default_rng(7).normal(0, noise, weeks * n)
    found = shifts(
        np.arange(weeks + 1) * n, np.tile(np.arange(n) * MINUTE_US, weeks), x, np.full(x.size, 500.0), EIGHT_PERCENT
    )
    assert len(found) < 0.02 * weeks


@pytest.mark.parametrize("noise", [0.03, 0.05, 0.08])
def test_fifteen_percent_is_found_within_ten_minutes_in_the_median(noise: float) -> None:
    series, n = 200, 900
    x = np.random.default_rng(8).normal(0, noise, (series, n))
    x[:, 600:] += math.log(1.15)
    offsets, minute_us = np.arange(series + 1) * n, np.tile(np.arange(n) * MINUTE_US, series)
    found = shifts(offsets, minute_us, x.ravel(), np.full(x.size, 500.0), EIGHT_PERCENT)
    delays = [run.opened % n + 1 - 600 for run in found if run.opened % n >= 600]
    assert len(delays) == series
    assert np.median(delays) <= 10


def test_runs_of_one_subject_that_touch_are_one_known_from_the_earliest() -> None:
    a, b, c = Run(0, 10, 20, 14, True), Run(0, 18, 40, 22, False), Run(1, 18, 40, 22, True)
    assert united([a], [b, c]) == [Run(0, 10, 40, 14, False), c]
    assert united([], []) == []
