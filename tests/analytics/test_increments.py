"""Counters step by step: what was counted, and what must never be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import naive
from support.counters import count, int64s, pack
from support.naive import Counter, Reading
from wattmill_analytics.increments import (
    ANOMALY,
    FIRST,
    GAP,
    GAP_RESTART,
    MISSING,
    OK,
    RESTART,
    UNKNOWN,
    WRAP,
    increments,
)
from wattmill_analytics.status import NAMES

S = 1_000_000
TICK = 10 * S


def steady(*values: int, epoch: int = 1, step: int = TICK) -> list[Reading]:
    return [Reading((k + 1) * step, value, epoch) for k, value in enumerate(values)]


def statuses(readings: list[Reading], counter: Counter) -> list[int]:
    return [status for _, _, status in count([readings], [counter])[0]]


def deltas(readings: list[Reading], counter: Counter) -> list[int]:
    return [delta for delta, _, _ in count([readings], [counter])[0]]


@pytest.mark.parametrize(
    ("values", "counter", "delta", "status"),
    [
        ([10, 15, 21], Counter(), [0, 5, 6], [FIRST, OK, OK]),
        ([10, 10], Counter(), [0, 0], [FIRST, OK]),
        ([10, -1, 17], Counter(), [0, 0, 7], [FIRST, MISSING, OK]),
        ([-1, 10, 17], Counter(), [0, 0, 7], [MISSING, FIRST, OK]),
        # A glitch is lost alone: the difference spans it, whichever way it points.
        ([10, 15, 3, 17], Counter(), [0, 5, 0, 2], [FIRST, OK, ANOMALY, OK]),
        ([10, 15, 2**47, 17], Counter(highest_per_s=1), [0, 5, 0, 2], [FIRST, OK, ANOMALY, OK]),
        ([10, 15, 2**63 - 1, 17], Counter(highest_per_s=1), [0, 5, 0, 2], [FIRST, OK, ANOMALY, OK]),
        # A move without evidence: nothing is counted for it, counting goes on from there.
        ([10, 15, 3, 7, 9], Counter(), [0, 5, 0, 4, 2], [FIRST, OK, ANOMALY, OK, OK]),
        ([10, 15, 900, 907], Counter(highest_per_s=1), [0, 5, 0, 7], [FIRST, OK, ANOMALY, OK]),
        # The last reading is suspicious: nobody knows yet, so nothing is counted.
        ([10, 15, 3], Counter(), [0, 5, 0], [FIRST, OK, ANOMALY]),
        # Two wild readings in a row are lost, too.
        ([10, 15, 9000, 500, 21], Counter(highest_per_s=1), [0, 5, 0, 0, 6], [FIRST, OK, ANOMALY, ANOMALY, OK]),
        # The limit has one second of slack: 11 in 10 s at 1 per second, not 12.
        ([0, 11, 22], Counter(highest_per_s=1), [0, 11, 11], [FIRST, OK, OK]),
        ([0, 12, 13], Counter(highest_per_s=1), [0, 0, 13], [FIRST, ANOMALY, OK]),
        # A known range makes a fall a wrap, if the implied rate is possible.
        ([90, 98, 4], Counter(wrap_at=100, highest_per_s=5), [0, 8, 6], [FIRST, OK, WRAP]),
        ([90, 98, 97, 99], Counter(wrap_at=100, highest_per_s=5), [0, 8, 0, 1], [FIRST, OK, ANOMALY, OK]),
        # At 50 per second the range may have turned several times in 10 s: not counted.
        ([90, 98, 4], Counter(wrap_at=100, highest_per_s=50), [0, 8, 0], [FIRST, OK, ANOMALY]),
        # Without a known rate the shorter way round is believed.
        ([90, 98, 4], Counter(wrap_at=100), [0, 8, 6], [FIRST, OK, WRAP]),
        ([90, 98, 97], Counter(wrap_at=100), [0, 8, 0], [FIRST, OK, ANOMALY]),
    ],
)
def test_one_epoch(values: list[int], counter: Counter, delta: list[int], status: list[int]) -> None:
    assert deltas(steady(*values), counter) == delta
    assert statuses(steady(*values), counter) == status


def test_longer_than_the_gap_is_counted_and_said() -> None:
    far = [Reading(0, 10, 1), Reading(31 * S, 40, 1), Reading(61 * S, 50, 1)]
    assert count([far], [Counter(gap_us=30 * S)])[0] == [(0, 0, FIRST), (30, 0, GAP), (10, 31 * S, OK)]


def test_a_wrap_over_a_gap_is_exact_but_the_time_is_not_covered() -> None:
    far = [Reading(0, 90, 1), Reading(40 * S, 4, 1)]
    assert count([far], [Counter(gap_us=30 * S, wrap_at=100, highest_per_s=1)])[0][1] == (14, 0, GAP)


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        (15 * S, (7, 10 * S, RESTART)),
        (10 * S + 1, (7, 10 * S, RESTART)),
        (10 * S, (0, 10 * S, UNKNOWN)),
        (-1, (0, 10 * S, UNKNOWN)),
        # The tick's time may lie just before the start, because reading takes a moment; an hour it is not.
        (20 * S + 500_000, (7, 10 * S, RESTART)),
        (3600 * S, (0, 10 * S, UNKNOWN)),
    ],
)
def test_new_epoch_counts_from_zero_only_if_its_start_is_known_to_lie_between(
    started: int, expected: tuple[int, int, int]
) -> None:
    readings = [Reading(10 * S, 50, 1), Reading(20 * S, 7, 2, started), Reading(30 * S, 9, 2, started)]
    found = count([readings], [Counter()])[0]
    assert found[1] == expected
    assert found[2] == (2, 20 * S, OK)


def test_restart_after_a_long_silence() -> None:
    readings = [Reading(10 * S, 50, 1), Reading(100 * S, 7, 2, 95 * S)]
    assert count([readings], [Counter(gap_us=30 * S)])[0][1] == (7, 10 * S, GAP_RESTART)


def test_a_restart_that_could_not_have_counted_so_much_is_not_believed() -> None:
    readings = [Reading(10 * S, 50, 1), Reading(20 * S, 900, 2, 18 * S), Reading(30 * S, 905, 2, 18 * S)]
    found = count([readings], [Counter(highest_per_s=1)])[0]
    assert found == [(0, 10 * S, FIRST), (0, 20 * S, ANOMALY), (5, 20 * S, OK)]


def test_first_reading_counts_if_its_epoch_began_under_our_eyes() -> None:
    readings = [Reading(20 * S, 7, 2, 15 * S)]
    assert count([readings], [Counter(watched_from_us=10 * S)])[0] == [(7, 15 * S, RESTART)]
    assert count([readings], [Counter(watched_from_us=15 * S)])[0] == [(0, 20 * S, FIRST)]
    assert count([readings], [Counter(watched_from_us=-1)])[0] == [(0, 20 * S, FIRST)]
    assert count([readings], [Counter(watched_from_us=0, gap_us=S)])[0] == [(7, 15 * S, GAP_RESTART)]


def test_first_reading_that_is_a_glitch_does_not_become_the_baseline() -> None:
    readings = [Reading(20 * S, 2**47, 2, 15 * S), Reading(30 * S, 12, 2, 15 * S)]
    found = count([readings], [Counter(watched_from_us=10 * S, highest_per_s=1)])[0]
    assert found == [(0, 20 * S, ANOMALY), (12, 15 * S, RESTART)]


def test_evidence_that_appears_or_disappears_is_not_a_restart() -> None:
    readings = [Reading(10 * S, 5, 0), Reading(20 * S, 7, 1), Reading(30 * S, 9, 0), Reading(40 * S, 3, 1)]
    assert count([readings], [Counter()])[0] == [
        (0, 10 * S, FIRST),
        (2, 10 * S, OK),
        (2, 20 * S, OK),
        (0, 30 * S, UNKNOWN),
    ]


def test_one_of_eight_replicas_restarts_in_mid_hour() -> None:
    """field.md 7, check 5: tokens are lost only in the unseen gap, never negative, never zeroed."""
    replica = [Reading(k * TICK, 100 * k, 1) for k in range(360)]
    died, back = 180, 183
    restarted = [
        *replica[:died],
        *(Reading(k * TICK, 100 * (k - back) + 40, 2, back * TICK - 4 * S) for k in range(back, 360)),
    ]
    found = count([replica] * 7 + [restarted], [Counter()] * 8)
    assert [sum(d for d, _, _ in row) for row in found[:7]] == [100 * 359] * 7
    assert sum(d for d, _, _ in found[7]) == 100 * (died - 1) + 100 * (359 - back) + 40


@pytest.mark.parametrize("sentinel", [2**47, 2**63 - 2, 10**15])
def test_sentinels_never_reach_a_bill(sentinel: int) -> None:
    """field.md 7, check 6."""
    readings = [Reading(k * TICK, sentinel if k == 5 else 7_000_000 * k, 1) for k in range(11)]
    found = count([readings], [Counter(highest_per_s=1_000_000)])[0]
    assert sum(d for d, _, _ in found) == 70_000_000
    assert found[5][2] == ANOMALY


def test_status_names_match_their_codes() -> None:
    assert [NAMES[c] for c in (FIRST, OK, GAP, UNKNOWN, GAP_RESTART)] == [
        "first",
        "ok",
        "gap",
        "unknown",
        "gap_restart",
    ]


def test_shapes_are_checked() -> None:
    arrays = pack([steady(1, 2)])
    one = int64s([0])
    rest = {"watched_from_us": one, "gap_us": one, "wrap_at": one, "highest_per_s": one}
    with pytest.raises(ValueError, match="equally long"):
        increments(**(arrays | {"value": int64s([1])}), **rest)
    with pytest.raises(ValueError, match="offsets must rise from 0"):
        increments(**(arrays | {"offsets": int64s([0, 1])}), **rest)
    with pytest.raises(ValueError, match="1 series"):
        increments(**arrays, **(rest | {"gap_us": int64s([1, 2])}))


def test_no_series_and_empty_series() -> None:
    assert count([], []) == []
    assert count([[], steady(1, 2), []], [Counter()] * 3)[1] == [(0, TICK, FIRST), (1, TICK, OK)]


# --- laws -----------------------------------------------------------------------------------------------------------

values = st.integers(-1, 40) | st.integers(0, 2**63 - 1)


@st.composite
def wild(draw: st.DrawFn, most: int = 12) -> list[Reading]:
    """Anything a counter could say."""
    gaps = draw(st.lists(st.integers(1, 5 * S) | st.integers(S, 100 * S), min_size=0, max_size=most))
    times = np.cumsum([1_000, *gaps]).tolist()
    return [
        Reading(t, draw(values), draw(st.integers(0, 2)), draw(st.just(-1) | st.integers(0, 300 * S))) for t in times
    ]


counters = st.builds(
    Counter,
    watched_from_us=st.just(-1) | st.integers(0, 100 * S),
    gap_us=st.integers(1, 60 * S),
    wrap_at=st.just(0) | st.integers(1, 100) | st.integers(1, 2**63 - 1),
    highest_per_s=st.just(0) | st.integers(1, 20) | st.integers(1, 2**62),
)


@given(st.lists(st.tuples(wild(), counters), min_size=1, max_size=3))
def test_twin(cases: list[tuple[list[Reading], Counter]]) -> None:
    found = count([readings for readings, _ in cases], [counter for _, counter in cases])
    assert found == [naive.increments(readings, counter) for readings, counter in cases]


@given(wild(), counters)
def test_nothing_is_negative_nothing_overlaps_and_every_series_is_judged_alone(
    readings: list[Reading], counter: Counter
) -> None:
    found = count([readings, readings], [counter, counter])
    assert found[0] == found[1]
    counted = [(start, r.time_us) for (delta, start, s), r in zip(found[0], readings, strict=True) if delta or s == OK]
    assert all(delta >= 0 for delta, _, _ in found[0])
    assert all(a_end <= b_start for (_, a_end), (b_start, _) in pairwise(counted))


@st.composite
def rising(draw: st.DrawFn) -> list[Reading]:
    steps = draw(st.lists(st.integers(0, 1_000), min_size=3, max_size=40))
    return [Reading((k + 1) * TICK, int(v), 1) for k, v in enumerate(np.cumsum(steps))]


@given(rising(), st.data())
def test_any_subset_with_the_boundary_readings_gives_the_same_total(
    readings: list[Reading], data: st.DataObject
) -> None:
    inner = data.draw(st.lists(st.booleans(), min_size=len(readings) - 2, max_size=len(readings) - 2))
    kept = [readings[0], *(r for r, keep in zip(readings[1:-1], inner, strict=True) if keep), readings[-1]]
    assert sum(deltas(kept, Counter())) == readings[-1].value - readings[0].value


@given(rising(), st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter_once_sorted(readings: list[Reading], random: object) -> None:
    shuffled = list(readings)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = sorted(shuffled, key=lambda r: r.time_us)
    assert count([again], [Counter()]) == count([readings], [Counter()])


@given(rising(), st.data())
def test_where_the_window_is_cut_does_not_matter(readings: list[Reading], data: st.DataObject) -> None:
    """One glitch among any four readings; three readings of context; one restart."""
    counter = Counter(highest_per_s=100)
    restart = data.draw(st.integers(1, len(readings) - 1))
    before = readings[restart - 1]
    lived = [
        r if k < restart else Reading(r.time_us, r.value - before.value, 2, before.time_us + 1)
        for k, r in enumerate(readings)
    ]
    bad = data.draw(st.integers(0, 3))
    glitch = data.draw(st.integers(0, 2**62))
    seen = [replace(r, value=glitch) if k % 4 == bad else r for k, r in enumerate(lived)]
    cut = data.draw(st.integers(0, len(seen) - 1))
    assert count([seen[cut:]], [counter])[0][3:] == count([seen], [counter])[0][cut + 3 :]
