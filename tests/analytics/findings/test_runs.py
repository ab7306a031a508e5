"""Marked minutes become runs: with hysteresis, within one subject, known when they are long enough."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from support.minutes import board_minutes, engine_minutes
from wattmill_analytics.findings.minutes import MINUTE_US
from wattmill_analytics.findings.runs import join, mask, span_us


def test_a_hole_in_the_data_ends_a_run() -> None:
    table = engine_minutes(40)
    later = np.where(np.arange(40) < 20, table.minute_us, table.minute_us + 60 * MINUTE_US)
    runs = join(dataclasses.replace(table, minute_us=later), np.ones(40, bool), opens_after=15, closes_after=5)
    assert [(r.first, r.last, r.opened, r.over) for r in runs] == [(0, 19, 14, True), (20, 39, 34, False)]


def test_quiet_minutes_are_bridged_up_to_the_limit_and_end_a_run_beyond_it() -> None:
    marked = np.zeros(60, bool)
    marked[[*range(5, 15), *range(20, 30), *range(36, 46)]] = True
    runs = join(board_minutes(60), marked, opens_after=10, closes_after=5)
    assert [(r.first, r.last, r.over) for r in runs] == [(5, 29, True), (36, 45, True)]
    assert mask(board_minutes(60), runs).sum() == 25 + 10
    assert span_us(board_minutes(60), runs[0]) == (5 * MINUTE_US, 30 * MINUTE_US, 15 * MINUTE_US)


def test_a_run_is_over_only_when_enough_data_followed() -> None:
    marked = np.arange(30) < 20
    assert not join(board_minutes(25), marked[:25], opens_after=10, closes_after=5)[0].over
    assert join(board_minutes(26), marked[:26], opens_after=10, closes_after=5)[0].over


@pytest.mark.parametrize("seed", range(5))
def test_runs_are_those_of_an_obvious_loop_and_known_in_data_that_end_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = board_minutes(200, boards=3)
    marked = rng.random(600) < 0.5
    runs = join(table, marked, opens_after=6, closes_after=2)
    assert runs
    expected = []
    for subject in range(3):
        group: list[int] = []
        for i in [*np.flatnonzero(marked[subject * 200 : subject * 200 + 200]).tolist(), 10_000]:
            if group and i - group[-1] > 3:
                if len(group) >= 6:
                    expected.append((subject, group[0], group[-1], group[5], 199 - group[-1] > 2))
                group = []
            group.append(i)
    assert [
        (r.subject, r.first - 200 * r.subject, r.last - 200 * r.subject, r.opened - 200 * r.subject, r.over)
        for r in runs
    ] == expected
    for run in runs[:5]:
        cut = slice(run.subject * 200, run.opened + 1)
        (again,) = join(board_minutes(run.opened + 1 - run.subject * 200), marked[cut], opens_after=6, closes_after=2)[
            -1:
        ]
        assert (again.first + run.subject * 200, again.opened + run.subject * 200) == (run.first, run.opened)


def test_nothing_marked_nothing_joined() -> None:
    assert join(board_minutes(0), np.zeros(0, bool), opens_after=1, closes_after=0) == []
    assert join(board_minutes(9), np.zeros(9, bool), opens_after=1, closes_after=0) == []
