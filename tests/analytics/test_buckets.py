"""Intervals onto minutes, and sums by key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import naive
from support.counters import int64s
from wattmill_analytics.buckets import Spread, spread, sum_by_key

S = 1_000_000
MINUTE = 60 * S


def pieces(start_us: int, end_us: int, amount: int, bucket_us: int = MINUTE) -> list[tuple[int, int, int]]:
    found = spread(start_us=int64s([start_us]), end_us=int64s([end_us]), amount=int64s([amount]), bucket_us=bucket_us)
    return rows(found, 0)


def rows(found: Spread, interval: int) -> list[tuple[int, int, int]]:
    mine = found.source == interval
    return list(
        zip(
            found.bucket_us[mine].tolist(),
            found.amount[mine].tolist(),
            found.duration_us[mine].tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("start", "end", "amount", "expected"),
    [
        (50 * S, 70 * S, 100, [(0, 50, 10 * S), (MINUTE, 50, 10 * S)]),
        # What ends on the border belongs to the minute before it.
        (50 * S, 60 * S, 100, [(0, 100, 10 * S)]),
        (60 * S, 70 * S, 100, [(MINUTE, 100, 10 * S)]),
        (0, 3 * MINUTE, 100, [(0, 33, MINUTE), (MINUTE, 33, MINUTE), (2 * MINUTE, 34, MINUTE)]),
        (60 * S, 60 * S, 7, [(0, 7, 0)]),
        (61 * S, 61 * S, 7, [(MINUTE, 7, 0)]),
        (59 * S, 61 * S, 0, [(0, 0, S), (MINUTE, 0, S)]),
        (-1 * S, 1 * S, 4, [(-MINUTE, 2, S), (0, 2, S)]),
    ],
)
def test_pieces(start: int, end: int, amount: int, expected: list[tuple[int, int, int]]) -> None:
    assert pieces(start, end, amount) == expected


def test_fifteen_days_of_the_largest_amount() -> None:
    days = 15 * 24 * 60
    found = spread(start_us=int64s([7]), end_us=int64s([7 + days * MINUTE]), amount=int64s([2**62]))
    assert int(found.amount.sum()) == 2**62
    assert int(found.duration_us.sum()) == days * MINUTE
    assert found.amount[1:-1].max() - found.amount[1:-1].min() <= 1


intervals = st.tuples(
    st.integers(0, 2**50), st.integers(0, 300) | st.integers(0, 40 * MINUTE), st.integers(0, 2**62) | st.integers(0, 99)
)


@given(st.lists(intervals, max_size=5), st.sampled_from([MINUTE, 3600 * S, 7 * S + 13]))
def test_twin_and_conservation(cases: list[tuple[int, int, int]], bucket_us: int) -> None:
    starts = int64s([start for start, _, _ in cases])
    ends = int64s([start + length for start, length, _ in cases])
    amounts = int64s([amount for _, _, amount in cases])
    found = spread(start_us=starts, end_us=ends, amount=amounts, bucket_us=bucket_us)
    for i, (start, length, amount) in enumerate(cases):
        mine = rows(found, i)
        assert mine == naive.spread(start, start + length, amount, bucket_us)
        assert sum(a for _, a, _ in mine) == amount
        assert sum(d for _, _, d in mine) == length
    assert found.source.tolist() == sorted(found.source.tolist())


@given(st.integers(0, 10**12), st.integers(1, 500 * MINUTE), st.integers(0, 2**62))
def test_hours_are_the_sum_of_their_minutes_in_time(start: int, length: int, amount: int) -> None:
    by_hour: dict[int, int] = {}
    for minute, _, duration in pieces(start, start + length, amount):
        hour = minute // (60 * MINUTE) * (60 * MINUTE)
        by_hour[hour] = by_hour.get(hour, 0) + duration
    assert by_hour == {h: d for h, _, d in pieces(start, start + length, amount, 60 * MINUTE)}


def test_impossible_intervals_are_refused() -> None:
    with pytest.raises(ValueError, match=r"interval 1 is \(5, 4\]"):
        spread(start_us=int64s([0, 5]), end_us=int64s([1, 4]), amount=int64s([0, 0]))
    with pytest.raises(ValueError, match="less than nothing"):
        spread(start_us=int64s([0]), end_us=int64s([1]), amount=int64s([-1]))
    with pytest.raises(ValueError, match="equally long"):
        spread(start_us=int64s([0]), end_us=int64s([1]), amount=int64s([1, 2]))
    with pytest.raises(ValueError, match="at least a microsecond"):
        spread(start_us=int64s([0]), end_us=int64s([1]), amount=int64s([1]), bucket_us=0)


keyed = st.lists(
    st.tuples(
        st.tuples(st.integers(-2, 2), st.integers(0, 2) | st.sampled_from([-(2**63), 2**63 - 1])),
        st.tuples(st.integers(-(2**40), 2**40), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=30,
)


@given(keyed, st.randoms(use_true_random=False))
def test_sums_by_key_do_not_depend_on_order(
    cases: list[tuple[tuple[int, int], tuple[int, int]]], random: object
) -> None:
    expected = naive.sum_by_key([key for key, _ in cases], [row for _, row in cases])
    for _ in range(2):
        keys = tuple(int64s([key[c] for key, _ in cases]) for c in range(2))
        values = np.array([row for _, row in cases], np.int64)
        unique, sums = sum_by_key(keys, values)
        assert dict(zip(zip(*(u.tolist() for u in unique), strict=True), sums.tolist(), strict=True)) == expected
        assert list(zip(*(u.tolist() for u in unique), strict=True)) == sorted(expected)
        random.shuffle(cases)  # type: ignore[attr-defined]


def test_a_table_of_keys_comes_back_as_a_table() -> None:
    unique, sums = sum_by_key(np.array([[2, 1], [1, 9], [2, 1]], np.int64), np.array([[1], [2], [3]], np.int64))
    assert unique.tolist() == [[1, 9], [2, 1]]
    assert sums.tolist() == [[2], [4]]


def test_no_rows_have_no_sums() -> None:
    (keys,), sums = sum_by_key((np.zeros(0, np.int64),), np.zeros((0, 2), np.int64))
    assert keys.shape == (0,)
    assert sums.shape == (0, 2)


def test_rows_must_match() -> None:
    with pytest.raises(ValueError, match="same rows"):
        sum_by_key((int64s([1, 2]),), np.zeros((3, 1), np.int64))


@given(st.lists(intervals, min_size=1, max_size=6), st.data())
def test_partial_sums_add_up(cases: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """Partition invariance: summing two halves, then their sums, gives what summing all at once gives."""
    cases = [(start, length, amount % 2**40) for start, length, amount in cases]
    cut = data.draw(st.integers(0, len(cases)))

    def minutes(part: list[tuple[int, int, int]]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        found = spread(
            start_us=int64s([start for start, _, _ in part]),
            end_us=int64s([start + length for start, length, _ in part]),
            amount=int64s([amount for _, _, amount in part]),
        )
        return sum_by_key((found.bucket_us,), np.stack((found.amount, found.duration_us), axis=1))

    (left, left_sums), (right, right_sums) = minutes(cases[:cut]), minutes(cases[cut:])
    again, sums = sum_by_key((np.concatenate((left[0], right[0])),), np.concatenate((left_sums, right_sums)))
    (all_keys,), all_sums = minutes(cases)
    assert again[0].tolist() == all_keys.tolist()
    assert sums.tolist() == all_sums.tolist()
