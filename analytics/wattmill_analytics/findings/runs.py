"""Marked minutes joined into runs, with hysteresis: one quiet minute neither ends a run nor does one begin it."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.findings.minutes import MINUTE_US, Bool, Int64
from wattmill_analytics.kernel import int64s, kernel

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Minutes(Protocol):
    """Minutes of any kind of subject: boards, engines, workloads."""

    @property
    def offsets(self) -> Int64: ...

    @property
    def minute_us(self) -> Int64: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """Marked minutes of one subject that belong together: rows [first, last], both marked.

    `opened`: the row that made it long enough, so that it was known at the end of that minute. `over`: the data go on
    without it.
    """

    subject: int
    first: int
    last: int
    opened: int
    over: bool

    @property
    def rows(self) -> slice:
        """All its rows, those between marked ones included."""
        return slice(self.first, self.last + 1)


def join(minutes: Minutes, marked: Bool, *, opens_after: int, closes_after: int) -> list[Run]:
    """Runs of marked minutes, in order of subject and time.

    A run opens at its `opens_after`-th marked minute, with never more than `closes_after` minutes unmarked or missing
    between two of them; it is over once more than `closes_after` minutes of data followed its last marked minute.
    Shapes: marked bool [n], the rows of `minutes`. What a run is depends on rows up to its end and `closes_after`
    minutes more: it is found at the same row, `opened`, in data that end there.
    """
    if not marked.any():
        return []
    capacity = int(np.count_nonzero(marked)) // max(1, opens_after) + 1
    found = np.empty((capacity, 5), np.int64)
    count = _join(
        int64s(minutes.offsets),
        int64s(minutes.minute_us),
        np.ascontiguousarray(marked),
        opens_after,
        (closes_after + 1) * MINUTE_US,
        found,
    )
    return [Run(s, f, last, o, bool(over)) for s, f, last, o, over in found[:count].tolist()]


@kernel
def _join(offsets: Int64s, minute_us: Int64s, marked: Bools, opens_after: int, farthest_us: int, found: Int64s) -> int:
    count = 0
    for s in range(offsets.size - 1):
        low, high = offsets[s], offsets[s + 1]
        first = last = opened = -1
        length = 0
        for i in range(low, high):
            if not marked[i]:
                continue
            if last >= 0 and minute_us[i] - minute_us[last] <= farthest_us:
                length += 1
            else:
                if opened >= 0:
                    _put(found, count, s, first, last, opened, 1)
                    count += 1
                first, length, opened = i, 1, -1
            last = i
            if length == opens_after:
                opened = i
        if opened >= 0:
            _put(found, count, s, first, last, opened, 1 if minute_us[high - 1] - minute_us[last] >= farthest_us else 0)
            count += 1
    return count


@kernel
def _put(found: Int64s, row: int, subject: int, first: int, last: int, opened: int, over: int) -> None:
    found[row, 0] = subject
    found[row, 1] = first
    found[row, 2] = last
    found[row, 3] = opened
    found[row, 4] = over


def span_us(minutes: Minutes, run: Run) -> tuple[int, int, int]:
    """[since, until) of a run, and when it was known, in microseconds."""
    us = minutes.minute_us
    return int(us[run.first]), int(us[run.last]) + MINUTE_US, int(us[run.opened]) + MINUTE_US


def mask(minutes: Minutes, runs: list[Run]) -> Bool:
    """True on all rows of the runs."""
    covered: Bool = np.zeros(minutes.minute_us.size, np.bool_)
    for run in runs:
        covered[run.rows] = True
    return covered


def subject_of(offsets: Int64) -> Int64:
    """Index of the subject of each row."""
    return np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
