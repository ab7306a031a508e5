"""Intervals onto buckets of time, and sums by key: exact integers in, the same integers out.

An interval belongs to every bucket it touches, in proportion to time; its amount is neither rounded away nor made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.exact import share
from wattmill_analytics.kernel import int64s, kernel

Int64s = NDArray[np.int64]

MINUTE_US = 60_000_000
LONGEST_US = 2**60


@dataclass(frozen=True, slots=True)
class Spread:
    """Pieces of intervals, each within one bucket; int64 [k], in the order of their intervals and of time.

    source: index of the interval; bucket_us: start of the bucket; amount: what of the interval's amount falls into it;
    duration_us: what of its time.
    """

    source: Int64s
    bucket_us: Int64s
    amount: Int64s
    duration_us: Int64s


def spread(*, start_us: Int64s, end_us: Int64s, amount: Int64s, bucket_us: int = MINUTE_US) -> Spread:
    """Splits intervals (start, end] on the borders of buckets.

    Shapes and units: start_us, end_us, amount int64 [n], amount >= 0. Bucket b is (b, b + bucket_us] for ends: an
    interval that ends on a border belongs to the bucket before it.
    Returns: `Spread`. An interval of no length is one piece in the bucket of its end.
    Conserves: the pieces of an interval sum to its amount and to its length, exactly: the amount up to an instant is
    floor(amount x elapsed / length), in 128 bits where needed, and a piece is the difference of two of these.
    Errors: ValueError when shapes differ, an interval ends before it starts or is longer than 2^60 us, or an amount
    is negative.
    Accuracy: exact integers. Cost: O(pieces).
    Example: 100 over (50 s, 70 s] -> 50 in minute 0 and 50 in minute 1.
    """
    start_us = int64s(start_us)
    end_us = int64s(end_us)
    amount = int64s(amount)
    if start_us.ndim != 1 or start_us.shape != end_us.shape or start_us.shape != amount.shape:
        raise ValueError(
            f"starts, ends and amounts must be equally long, not {start_us.shape}, {end_us.shape}, {amount.shape}"
        )
    if bucket_us <= 0:
        raise ValueError(f"a bucket must last at least a microsecond, not {bucket_us}")
    counts = np.empty(start_us.size + 1, np.int64)
    bad = _count_pieces(start_us, end_us, amount, bucket_us, counts)
    if bad >= 0:
        raise ValueError(
            f"interval {bad} is ({start_us[bad]}, {end_us[bad]}] with {amount[bad]}: it must not end before it starts, "
            f"last longer than {LONGEST_US} us, or hold less than nothing"
        )
    k = int(counts[-1])
    found = Spread(np.empty(k, np.int64), np.empty(k, np.int64), np.empty(k, np.int64), np.empty(k, np.int64))
    _fill_pieces(
        start_us, end_us, amount, bucket_us, counts, found.source, found.bucket_us, found.amount, found.duration_us
    )
    return found


@overload
def sum_by_key(keys: Int64s, values: Int64s) -> tuple[Int64s, Int64s]: ...
@overload
def sum_by_key(keys: tuple[Int64s, ...], values: Int64s) -> tuple[tuple[Int64s, ...], Int64s]: ...
def sum_by_key(keys: Int64s | tuple[Int64s, ...], values: Int64s) -> tuple[Int64s | tuple[Int64s, ...], Int64s]:
    """Exact sums of rows that share a key.

    Shapes and units: keys int64 [n, m] or a tuple of m arrays [n]; values int64 [n, k].
    Returns: (unique keys in the form they came in, sums int64 [groups, k]), groups in rising order of their keys.
    Conserves: each column of sums adds up to the column of values.
    Errors: ValueError when shapes differ. Sums must fit into 64 bits.
    Accuracy: exact integers, whatever the order of the rows. Cost: O(n), and O(g log g) for g groups.
    """
    columns = [np.asarray(c, np.int64) for c in (keys if isinstance(keys, tuple) else np.asarray(keys).T)]
    values = int64s(values)
    if values.ndim != 2 or not columns or any(c.shape != (values.shape[0],) for c in columns):
        raise ValueError(f"keys {[c.shape for c in columns]} and values {values.shape} must have the same rows")
    table = np.ascontiguousarray(np.stack(columns, axis=1))
    rows = table.shape[0]
    slots = np.full(1 << max(4, (rows + rows // 2).bit_length()), -1, np.int64)
    first_row = np.empty(rows, np.int64)
    group = np.empty(rows, np.int64)
    groups = _group(table, _hash(columns, slots.size - 1), slots, first_row, group)
    sums = np.zeros((groups, values.shape[1]), np.int64)
    _add(group, values, sums)
    unique = table[first_row[:groups]]
    order = np.lexsort(unique.T[::-1])
    unique, sums = unique[order], sums[order]
    if isinstance(keys, tuple):
        return tuple(np.ascontiguousarray(column) for column in unique.T), sums
    return unique, sums


@kernel
def _count_pieces(start_us: Int64s, end_us: Int64s, amount: Int64s, bucket_us: int, counts: Int64s) -> int:
    """counts int64 [n+1]: where each interval's pieces begin. Returns the first interval that cannot be, or -1."""
    counts[0] = 0
    for i in range(start_us.size):
        length = end_us[i] - start_us[i]
        if length < 0 or length > LONGEST_US or amount[i] < 0:
            return i
        pieces = 1
        if length > 0:
            pieces += (end_us[i] - 1) // bucket_us - start_us[i] // bucket_us
        counts[i + 1] = counts[i] + pieces
    return -1


@kernel
def _fill_pieces(
    start_us: Int64s,
    end_us: Int64s,
    amount: Int64s,
    bucket_us: int,
    counts: Int64s,
    source: Int64s,
    piece_bucket_us: Int64s,
    piece_amount: Int64s,
    piece_duration_us: Int64s,
) -> None:
    for i in range(start_us.size):
        k, after = counts[i], counts[i + 1]
        length = end_us[i] - start_us[i]
        if after - k == 1:
            source[k] = i
            piece_bucket_us[k] = (end_us[i] - 1) // bucket_us * bucket_us
            piece_amount[k] = amount[i]
            piece_duration_us[k] = length
            continue
        border = start_us[i] // bucket_us * bucket_us
        given = 0
        gone_us = 0
        while k < after:
            elapsed_us = min(end_us[i], border + bucket_us) - start_us[i]
            due, _ = share(amount[i], elapsed_us, length)
            source[k] = i
            piece_bucket_us[k] = border
            piece_amount[k] = due - given
            piece_duration_us[k] = elapsed_us - gone_us
            given = due
            gone_us = elapsed_us
            border += bucket_us
            k += 1


def _hash(columns: list[Int64s], mask: int) -> Int64s:
    """Where each row's search in the table begins; array arithmetic, because there it wraps silently."""
    mixed = np.zeros(columns[0].shape, np.uint64)
    for column in columns:
        mixed ^= column.view(np.uint64) if column.flags.c_contiguous else column.astype(np.uint64)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed & np.uint64(mask)).astype(np.int64)


@kernel
def _group(table: Int64s, begin: Int64s, slots: Int64s, first_row: Int64s, group: Int64s) -> int:
    """Numbers the distinct rows of table in order of appearance; returns how many there are."""
    groups = 0
    for i in range(table.shape[0]):
        slot = begin[i]
        while True:
            g = slots[slot]
            if g < 0:
                slots[slot] = groups
                first_row[groups] = i
                group[i] = groups
                groups += 1
                break
            same = True
            for c in range(table.shape[1]):
                if table[first_row[g], c] != table[i, c]:
                    same = False
                    break
            if same:
                group[i] = g
                break
            slot = (slot + 1) & (slots.size - 1)
    return groups


@kernel
def _add(group: Int64s, values: Int64s, sums: Int64s) -> None:
    for i in range(values.shape[0]):
        for c in range(values.shape[1]):
            sums[group[i], c] += values[i, c]
