"""Energy of boards: the counter where it can be trusted, power where it cannot, and never both for the same second."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import naive
from support.counters import count_energy
from support.naive import ANOMALY, ESTIMATED, FIRST, GAP, MISSING, OK, RESTART, UNKNOWN, Counter, Interval, Reading

S = 1_000_000
TICK = 10 * S
BOARD = Counter(highest_per_s=1_000_000)


def board(energies_j: list[int | None], powers_w: list[int | None] | int, *, epoch: int = 1) -> list[Reading]:
    powers = [powers_w] * len(energies_j) if isinstance(powers_w, int) else powers_w
    return [
        Reading(
            k * TICK,
            -1 if joules is None else joules * 1000,
            epoch,
            power_mw=-1 if watts is None else watts * 1000,
        )
        for k, (joules, watts) in enumerate(zip(energies_j, powers, strict=True))
    ]


def measure(readings: list[Reading], counter: Counter = BOARD) -> list[Interval]:
    return count_energy([readings], [counter])[0]


def statuses(found: list[Interval]) -> list[int]:
    return [status for _, _, status in found]


def joules(found: list[Interval]) -> list[float]:
    return [delta / 1000 for delta, _, _ in found]


def test_a_good_counter_needs_no_power() -> None:
    found = measure(board([0, 7000, 14000], [700, None, 700]))
    assert joules(found) == [0, 7000, 7000]
    assert statuses(found) == [FIRST, OK, OK]


def test_a_board_without_a_counter_is_integrated() -> None:
    found = measure(board([None, None, None], [100, 300, 300]))
    assert joules(found) == [0, 2000, 3000]
    assert statuses(found) == [FIRST, ESTIMATED, ESTIMATED]


def test_a_trapezoid_is_floored_to_the_millijoule() -> None:
    readings = [Reading(0, -1, power_mw=3), Reading(333_333, -1, power_mw=4)]
    assert measure(readings)[1] == (7 * 333_333 // 2_000_000, 0, ESTIMATED)


def test_power_too_far_apart_is_not_integrated() -> None:
    readings = [Reading(0, -1, power_mw=100_000), Reading(40 * S, -1, power_mw=100_000)]
    assert measure(readings)[1] == (0, 0, UNKNOWN)


def test_no_power_and_no_counter_is_missing() -> None:
    assert statuses(measure(board([None, None, None], [100, None, 100]))) == [FIRST, MISSING, ESTIMATED]


def test_power_that_the_board_cannot_draw_is_not_integrated() -> None:
    found = measure(board([None, None, None], [100, 10**9, 100]))
    assert statuses(found) == [FIRST, ANOMALY, ESTIMATED]
    assert joules(found) == [0, 0, 2000]


def test_the_counters_difference_wins_over_the_estimate_once_it_is_back() -> None:
    away = board([0, None, None], 700)
    assert joules(measure(away)) == [0, 7000, 7000]
    back = board([0, None, None, 21500], 700)
    assert measure(back)[1:] == [(0, TICK, MISSING), (0, 2 * TICK, MISSING), (21_500_000, 0, OK)]


def test_the_counter_comes_back_in_an_epoch_of_unknown_start() -> None:
    readings = [
        *board([0, None, None], 700),
        Reading(3 * TICK, 5, 2, power_mw=700_000),
        Reading(4 * TICK, 7_000_005, 2, power_mw=700_000),
    ]
    found = measure(readings)
    assert statuses(found) == [FIRST, ESTIMATED, ESTIMATED, ESTIMATED, OK]
    assert joules(found) == [0, 7000, 7000, 7000, 7000]


def test_the_counter_appears_late() -> None:
    found = measure(board([None, None, 50, 7050], 700))
    assert statuses(found) == [FIRST, ESTIMATED, ESTIMATED, OK]
    assert joules(found) == [0, 7000, 7000, 7000]


def test_a_restart_counts_from_zero_over_the_readings_without_a_counter() -> None:
    readings = [*board([0, 7000, None], 700), Reading(3 * TICK, 3_000_000, 2, 25 * S, power_mw=700_000)]
    found = measure(readings)
    assert statuses(found) == [FIRST, OK, MISSING, RESTART]
    assert joules(found) == [0, 7000, 0, 3000]


def test_an_idle_board_that_stands_still_is_not_frozen() -> None:
    assert statuses(measure(board([10] * 6, 4))) == [FIRST, OK, OK, OK, OK, OK]


def test_a_counter_that_stands_is_given_up_after_two_minutes() -> None:
    assert statuses(measure(board([7] * 12, 700))) == [FIRST, *[OK] * 11]
    assert statuses(measure(board([7] * 13, 700))) == [FIRST, *[ESTIMATED] * 12]


def test_a_frozen_counter_is_integrated_back_to_the_reading_that_moved() -> None:
    found = measure(board([0, *[7000] * 13], 700))
    assert joules(found) == [0, *[7000] * 13]
    assert statuses(found) == [FIRST, OK, *[ESTIMATED] * 12]


@pytest.mark.parametrize("seconds", [10, 30, 50, 120, 600])
def test_a_counter_at_rest_after_work_is_not_frozen(seconds: int) -> None:
    """The reading before the standstill still shows 528 W; those after it show rest."""
    worked = board([0, 5280, 10_560], 528)
    rest = [Reading((2 + i) * TICK, 10_560_000, 1, power_mw=0) for i in range(1, seconds // 10 + 1)]
    found = measure([*worked, *rest])
    assert sum(joules(found)) == 10_560
    assert ESTIMATED not in statuses(found)


def test_a_counter_that_catches_up_is_counted_once_over_the_stretch() -> None:
    """The jump is far beyond what 10 s can hold, and right for 50."""
    found = measure(board([0, 7000, 7000, 7000, 7000, 7000, 42100, 49100], 700))
    assert sum(joules(found)) == 49100
    assert found[6] == (35_100_000, TICK, OK)
    assert statuses(found) == [FIRST, OK, ANOMALY, ANOMALY, ANOMALY, ANOMALY, OK, OK]


def test_a_counter_that_catches_up_counts_at_once() -> None:
    found = measure(board([0, 7000, 7000, 7000, 7000, 7000, 42100], 700))
    assert found[6] == (35_100_000, TICK, OK)


def test_a_counter_that_goes_on_without_catching_up_keeps_the_estimates() -> None:
    found = measure(board([0, 7000, 7000, 7000, 7000, 9000, 16000], 700))
    assert joules(found) == [0, 7000, 7000, 7000, 7000, 7000, 7000]
    assert statuses(found) == [FIRST, OK, ESTIMATED, ESTIMATED, ESTIMATED, ESTIMATED, OK]


def test_a_jump_that_power_does_not_explain_is_not_counted() -> None:
    found = measure(board([0, 7000, 7000, 7000, 7000, 900_000, 907_000], 700))
    assert joules(found) == [0, 7000, 7000, 7000, 7000, 7000, 7000]


def test_a_glitch_in_a_frozen_stretch_does_not_end_it() -> None:
    found = measure(board([7, 7, 9_000_000, *[7] * 11], 700))
    assert statuses(found) == [FIRST, ESTIMATED, ANOMALY, *[ESTIMATED] * 11]
    assert sum(joules(found)) == 13 * 7000


def test_a_gap_in_a_frozen_stretch_is_not_integrated() -> None:
    times = [10, *range(20, 130, 10), 190, 200]
    readings = [Reading(0, 0, 1, power_mw=700_000), *(Reading(t * S, 7_000_000, 1, power_mw=700_000) for t in times)]
    found = measure(readings)
    assert found[-2] == (0, 120 * S, UNKNOWN)
    assert sum(joules(found)) == 7000 + 110 * 700 + 10 * 700
    caught_up = [*readings, Reading(210 * S, 147_000_000, 1, power_mw=700_000)]
    assert measure(caught_up)[-1] == (140_000_000, 10 * S, GAP)


@st.composite
def boards(draw: st.DrawFn) -> list[Reading]:
    """A board whose counter stops, jumps, vanishes and comes back."""
    n = draw(st.integers(1, 14))
    gaps = draw(st.lists(st.sampled_from([TICK, TICK, TICK, 5 * S, 31 * S, 70 * S]), min_size=n, max_size=n))
    steps = draw(st.lists(st.sampled_from([0, 0, 0, 0, 1_000, 35_000, 80_000, 10**7, -500]), min_size=n, max_size=n))
    gone = draw(st.lists(st.sampled_from([False, False, False, True]), min_size=n, max_size=n))
    powers = draw(st.lists(st.sampled_from([-1, 700, 700, 900, 4, 10_000]), min_size=n, max_size=n))
    epochs = sorted(draw(st.lists(st.sampled_from([1, 1, 1, 2]), min_size=n, max_size=n)))
    started = draw(st.just(-1) | st.integers(0, 200 * S))
    if draw(st.booleans()):
        powers = [700 if p >= 0 else p for p in powers]
    times = np.cumsum(gaps).tolist()
    energies = np.maximum(np.cumsum(steps), 0).tolist()
    return [
        Reading(
            times[k],
            -1 if gone[k] else energies[k] * 100,
            epochs[k],
            started if epochs[k] == 2 else -1,
            powers[k] * 1000 if powers[k] > 0 else -1,
        )
        for k in range(n)
    ]


measured = st.builds(
    Counter,
    watched_from_us=st.sampled_from([-1, 0]),
    gap_us=st.sampled_from([30 * S, 12 * S]),
    highest_per_s=st.sampled_from([0, 1_000_000]),
)


@given(boards(), measured)
def test_twin(readings: list[Reading], counter: Counter) -> None:
    assert measure(readings, counter) == naive.energy_increments(readings, counter)


@given(boards(), measured)
def test_no_second_is_counted_twice(readings: list[Reading], counter: Counter) -> None:
    found = measure(readings, counter)
    spans = [(start, r.time_us) for (_, start, status), r in zip(found, readings, strict=True) if start < r.time_us]
    assert all(a_end <= b_start for (_, a_end), (b_start, _) in pairwise(spans))
    assert all(delta >= 0 for delta, _, _ in found)
    assert all(delta == 0 for delta, _, status in found if status in (FIRST, ANOMALY, UNKNOWN, MISSING))


@given(st.lists(st.tuples(boards(), measured), min_size=2, max_size=4))
def test_boards_do_not_disturb_each_other(cases: list[tuple[list[Reading], Counter]]) -> None:
    together = count_energy([r for r, _ in cases], [c for _, c in cases])
    assert together == [measure(r, c) for r, c in cases]
