"""Restarts that only the counters' common fall betrays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support import naive
from support.counters import count, count_energy, infer
from support.naive import Counter, Reading

S = 1_000_000
TICK = 10 * S


def engine(*counters: list[int], epoch: int = 0) -> list[list[Reading]]:
    """Token counters of one engine, read together."""
    return [[Reading((k + 1) * TICK, v, epoch) for k, v in enumerate(values)] for values in counters]


def total(series: list[list[Reading]], groups: list[int], highest: int = 0) -> list[int]:
    """What each series counts once the restarts are inferred."""
    names = infer(series, groups, [highest] * len(series))
    renamed = [
        [Reading(r.time_us, r.value, epoch, start) for r, (epoch, start) in zip(readings, row, strict=True)]
        for readings, row in zip(series, names, strict=True)
    ]
    return [sum(d for d, _, _ in row) for row in count(renamed, [Counter(highest_per_s=highest)] * len(series))]


def test_all_fell_together_is_a_restart() -> None:
    assert total(engine([100, 150, 7, 9], [10, 20, 3, 5]), [0, 0]) == [50 + 9, 10 + 5]


def test_one_fell_alone_is_not() -> None:
    assert total(engine([100, 150, 7, 170], [10, 20, 23, 25]), [0, 0]) == [70, 15]


def test_counters_of_other_engines_are_no_witnesses() -> None:
    assert total(engine([100, 150, 7, 9], [10, 20, 3, 5], [5, 6, 7, 8]), [4, 4, 9]) == [59, 15, 3]


def test_a_counter_that_stood_at_zero_says_nothing_and_restarts_with_the_others() -> None:
    assert total(engine([100, 150, 7, 9], [10, 20, 3, 5], [0, 0, 2, 3]), [0, 0, 0]) == [59, 15, 3]


def test_a_missing_value_is_no_veto_and_the_series_restarts_too() -> None:
    assert total(engine([100, 150, 7, 9], [10, 20, 3, 5], [40, 50, -1, 3]), [0, 0, 0]) == [59, 15, 10 + 3]


def test_a_lone_witness_needs_the_next_reading() -> None:
    assert total(engine([100, 150, 7]), [0]) == [50]
    assert total(engine([100, 150, 7, 9]), [0]) == [50 + 7 + 2]
    # It goes on from the reading before the fall: a glitch.
    assert total(engine([100, 150, 149, 160]), [0]) == [60]
    # It is above the reading before the fall, but could not have got there from it: counted anew.
    assert total(engine([1, 2, 0, 30]), [0]) == [29]
    assert total(engine([100, 110, 90, 2**40]), [0], highest=10) == [10]


def test_a_value_that_cannot_have_grown_from_zero_is_no_restart() -> None:
    assert total(engine([5000, 6000, 4000], [5000, 6000, 4500]), [0, 0], highest=100) == [1000, 1000]


def test_two_restarts() -> None:
    assert total(engine([100, 150, 7, 9, 2], [10, 20, 3, 5, 1]), [0, 0]) == [50 + 9 + 2, 10 + 5 + 1]


def test_a_told_restart_is_left_as_it_is() -> None:
    told = [
        [Reading(TICK, 100, 1), Reading(2 * TICK, 7, 2, 15 * S)],
        [Reading(TICK, 50, 1), Reading(2 * TICK, 3, 2, 15 * S)],
    ]
    assert infer(told, [0, 0], [0, 0]) == [[(1, -1), (2, 15 * S)]] * 2


def test_driver_reload_of_a_node_with_eight_boards() -> None:
    boards = [[Reading(k * TICK, 7_000_000 * (k if k < 6 else k - 6) + b, 0) for k in range(12)] for b in range(8)]
    names = infer(boards, [3] * 8, [1_000_000] * 8)
    renamed = [
        [Reading(r.time_us, r.value, e, s, 700_000) for r, (e, s) in zip(board, row, strict=True)]
        for board, row in zip(boards, names, strict=True)
    ]
    found = count_energy(renamed, [Counter(highest_per_s=1_000_000)] * 8)
    assert [sum(d for d, _, _ in row) for row in found] == [35_000_000 + 35_000_000 + b for b in range(8)]


@st.composite
def groups(draw: st.DrawFn) -> list[list[Reading]]:
    """A few series on one grid of times, some of whose rows are not there."""
    ticks = draw(st.integers(1, 10))
    epochs = draw(st.lists(st.sampled_from([0, 5, 5, 6]), min_size=ticks, max_size=ticks))
    series = []
    for _ in range(draw(st.integers(1, 4))):
        values = draw(st.lists(st.integers(-1, 6), min_size=ticks, max_size=ticks))
        there = draw(st.lists(st.sampled_from([True, True, True, False]), min_size=ticks, max_size=ticks))
        series.append([Reading((k + 1) * S, values[k], epochs[k]) for k in range(ticks) if there[k]])
    return series


@given(st.lists(st.tuples(groups(), st.integers(0, 3)), min_size=1, max_size=2))
def test_twin(cases: list[tuple[list[list[Reading]], int]]) -> None:
    series = [readings for group, _ in cases for readings in group]
    number = [7 * g for g, (group, _) in enumerate(cases) for _ in group]
    highest = [h for group, h in cases for _ in group]
    found = infer(series, number, highest)
    expected = [row for group, h in cases for row in naive.inferred_epochs(group, [h] * len(group))]
    assert [[start for _, start in row] for row in found] == [[start for _, start in row] for row in expected]
    for row, twin in zip(found, expected, strict=True):
        # The numbers are the kernel's own affair: equal where the twin's names are equal, different where not.
        pairs = {(epoch, name) for (epoch, _), (name, _) in zip(row, twin, strict=True)}
        assert len({epoch for epoch, _ in pairs}) == len(pairs) == len({name for _, name in pairs})
        assert all(epoch == name[0] for epoch, name in pairs if len(name) == 1)
        assert all(epoch != 0 for epoch, name in pairs if len(name) > 1)
