"""A set of sequences kept as ranges: what is acknowledged of a stream, in a few numbers however long the stream is."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator


class Ranges:
    """Disjoint ranges of integers, both ends included, in rising order and never touching each other."""

    __slots__ = ("_first", "_last")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._first, self._last, strict=True)

    def __contains__(self, sequence: int) -> bool:
        at = bisect.bisect_right(self._first, sequence) - 1
        return at >= 0 and sequence <= self._last[at]

    @property
    def through(self) -> int:
        """The highest number up to which nothing from 1 on is missing; 0 when 1 is."""
        return self._last[0] if self._first and self._first[0] <= 1 else 0

    @property
    def highest(self) -> int:
        return self._last[-1] if self._last else 0

    def add(self, first: int, last: int) -> None:
        if first > last:
            return
        low = bisect.bisect_left(self._last, first - 1)
        high = bisect.bisect_right(self._first, last + 1)
        if low < high:
            first = min(first, self._first[low])
            last = max(last, self._last[high - 1])
        self._first[low:high] = [first]
        self._last[low:high] = [last]

    def remove(self, first: int, last: int) -> None:
        if first > last:
            return
        low = bisect.bisect_left(self._last, first)
        high = bisect.bisect_right(self._first, last)
        if low >= high:
            return
        kept = [(self._first[low], first - 1), (last + 1, self._last[high - 1])]
        kept = [(a, b) for a, b in kept if a <= b]
        self._first[low:high] = [a for a, _ in kept]
        self._last[low:high] = [b for _, b in kept]

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of first..last that are not in the set, in rising order."""
        at = bisect.bisect_left(self._last, first)
        for a, b in zip(self._first[at:], self._last[at:], strict=True):
            if a > last:
                break
            if first < a:
                yield first, a - 1
            first = max(first, b + 1)
        if first <= last:
            yield first, last
