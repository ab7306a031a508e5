"""Totals of one engine out of several series, each of which may vanish or begin again by itself.

A total is the plain sum of its series for as long as they only rise, so an agent that was started again goes on where
the last one was. All series falling at once, and none gone, is a restart of the engine, and left to the service. But
when one part of a sum vanishes while others stand, or one of several processes on the page begins again, the plain sum
would lie: it would fall, or rise by less than was counted. From then on differences are taken series by series, and the
engine's counters begin again at zero, at the reading before, under an epoch of their own (`epoch_since`).

Processes are told apart by labels that all of an engine's series have. Where those are the same everywhere there is one
process, whose falls are the service's to judge: a reason for which requests finish does not begin again by itself.

- A series that falls began again at zero, and so did all buckets of a histogram if one of them falls. One that is new
  counts from zero: it is a new value of a label. One that vanishes keeps what it stood at; if it comes back, it goes on
  from there, or from zero if it is lower.
- A field of one series alone is never judged here.
- What could not be read is caught up with when it can be read again.
- What several engines divide among them begins again for all of them together, and whenever they become more or fewer.

An agent that is started again forgets all this and shows the plain sum under the process's own epoch. The service takes
that for a baseline: what was counted between two readings is lost, and nothing is counted twice. Not promised: of an
engine without any evidence of its process (epoch 0), and where a part was lost while no agent looked, the service may
take the fall of the plain sums for a restart of the engine; and a part that was off the page when the agent was started
counts from zero when it comes back.

Pure: numbers in, totals out; times are given.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Hashable, Mapping, Sequence

from wattmill_collector.sources.epochs import epoch_of
from wattmill_collector.sources.promtext import Series

MOST_HELD = 4096  # series of one engine that have left the page
PartKey = tuple[str, tuple[tuple[str, str], ...]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the parts of an engine's sums stand: sum `cells[i]` is of the parts from `ends[i - 1]` to `ends[i]`.

    `places` are the parts' places in the list of printed values, `keys` their names, `lives` what begins again
    together with each of them. `plain`: every sum has one part. `processes`: what the parts may be of.
    """

    cells: tuple[Hashable, ...]
    ends: tuple[int, ...]
    places: tuple[int, ...]
    keys: tuple[PartKey, ...]
    lives: tuple[PartKey, ...]
    plain: bool
    processes: frozenset[Hashable]

    def slices(self) -> list[tuple[int, int]]:
        """From where to where the parts of each sum go."""
        return list(zip((0, *self.ends), self.ends, strict=False))


def layout_of(cells: Sequence[tuple[Hashable, Sequence[int]]], series: Sequence[Series]) -> Layout:
    """The layout of sums, each with the places of its parts on the page."""
    places = tuple(place for _, where in cells for place in where)
    ends: list[int] = []
    for _, where in cells:
        ends.append((ends[-1] if ends else 0) + len(where))
    keys = tuple(part_key(series[place]) for place in places)
    lives = tuple(part_key(series[place], without="le") for place in places)
    plain = all(len(where) == 1 for _, where in cells)
    everywhere = set.intersection(*({label for label, _ in labels} for _, labels in lives)) if lives else set()
    processes = frozenset(tuple(pair for pair in labels if pair[0] in everywhere) for _, labels in lives)
    return Layout(tuple(cell for cell, _ in cells), tuple(ends), places, keys, lives, plain, processes)


def part_key(series: Series, *, without: str = "") -> PartKey:
    """The name of a part: that of its series, with all labels but one."""
    return series.name, tuple(sorted((k, v) for k, v in series.labels.items() if k != without))


class Sums:
    """The parts of one engine's sums as they were read last."""

    __slots__ = ("_held", "_layout", "_numbers", "_totals")

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._numbers: list[int | None] = []
        self._held: dict[PartKey, int] = {}
        self._totals: dict[Hashable, int] | None = None

    def would_lie(self, layout: Layout, numbers: Sequence[int | None]) -> bool:
        """Whether the plain sums of these numbers, None for what can't be read, do not go on from the last ones.

        Where it is the whole engine that fell, its former life is forgotten.
        """
        before, last = self._layout, self._numbers
        if before is None or self._totals is not None:
            return False
        if layout is before:
            if None not in numbers and None not in last:
                if not any(map(operator.lt, numbers, last)):  # type: ignore[arg-type]  # no None in either
                    return False
            elif not any(n is not None and b is not None and n < b for n, b in zip(numbers, last, strict=True)):
                return False
        stood = {key: number for key, number in zip(before.keys, last, strict=True) if number}
        now = dict(zip(layout.keys, numbers, strict=True))
        fell = {key for key, number in stood.items() if (n := now.get(key)) is not None and n < number}
        is_one = len(before.processes | layout.processes) == 1
        stands = any((n := now.get(key)) is not None and n >= number for key, number in stood.items())
        parts = _parts_by_cell(layout)
        sums = [
            (keys, set(parts[cell]))
            for cell, keys in _parts_by_cell(before).items()
            if cell in parts and max(len(keys), len(parts[cell])) > 1
        ]
        is_one_gone = any(key in stood and key not in there for keys, there in sums for key in keys)
        if fell and (is_one or not (stands or is_one_gone)):
            self._layout, self._numbers, self._held = None, [], {}
            return False
        return is_one_gone or any(key in fell for keys, _ in sums for key in keys)

    def is_new(self) -> bool:
        """Whether nothing has been read yet, or what was read is of a former life."""
        return self._layout is None

    def begin(self) -> None:
        """Count from here on, series by series; what follows is a difference to the last reading."""
        self._totals = {}

    def last(self) -> dict[PartKey, int | None]:
        """What the parts stood at when they were read last, None for what could never be read."""
        known: dict[PartKey, int | None] = dict(self._held)
        if self._layout is not None:
            known.update(zip(self._layout.keys, self._numbers, strict=True))
        return known

    def learn(self, stood: Mapping[PartKey, int]) -> None:
        """Take over what parts stood at that others have read."""
        self._held.update(stood)
        if self._layout is not None:
            numbers = zip(self._layout.keys, self._numbers, strict=True)
            self._numbers = [stood.get(key, number) for key, number in numbers]

    def take(self, layout: Layout, numbers: Sequence[int | None]) -> list[int | None] | None:
        """Take in a reading: the sums as they are to be shown, None where a part can't be read; None for the plain."""
        totals = self._totals
        if layout is self._layout and totals is None:
            if None in numbers:
                self._numbers = [b if n is None else n for n, b in zip(numbers, self._numbers, strict=True)]
            else:
                self._numbers = list(numbers)
            return None
        known = self.last()
        shown: list[int | None] | None = None
        if totals is not None:
            shown = []
            parts = list(zip(layout.keys, layout.lives, numbers, strict=True))
            again = {life for key, life, n in parts if n is not None and (b := known.get(key)) is not None and n < b}
            for cell, (start, end) in zip(layout.cells, layout.slices(), strict=True):
                counted = [n if life in again else _difference(known, key, n) for key, life, n in parts[start:end]]
                totals[cell] = totals.get(cell, 0) + sum(n for n in counted if n is not None)
                shown.append(None if None in numbers[start:end] else totals[cell])
        self._numbers = [known.get(k) if n is None else n for k, n in zip(layout.keys, numbers, strict=True)]
        if layout is not self._layout:
            there = set(layout.keys)
            self._held = {key: number for key, number in known.items() if number is not None and key not in there}
            for key in list(self._held)[: max(0, len(self._held) - MOST_HELD)]:
                del self._held[key]
        self._layout = layout
        return shown


def plain_sums(layout: Layout, numbers: Sequence[int | None]) -> list[int | None]:
    """The sums of a layout's parts, None where one of them can't be read."""
    if layout.plain:
        return list(numbers)
    found: list[int | None] = []
    for start, end in layout.slices():
        parts = numbers[start:end]
        found.append(None if None in parts else sum(parts))  # type: ignore[arg-type]  # no None among them
    return found


def _parts_by_cell(layout: Layout) -> dict[Hashable, tuple[PartKey, ...]]:
    return {cell: layout.keys[start:end] for cell, (start, end) in zip(layout.cells, layout.slices(), strict=True)}


def _difference(known: dict[PartKey, int | None], key: PartKey, number: int | None) -> int | None:
    if number is None or key not in known:
        return number
    before = known[key]
    return None if before is None else number - before  # None: it was there and could never be read


def epoch_since(epoch: int, since_us: int) -> int:
    """The name of the epoch of counters that began again at a time, in a process whose epoch is known."""
    return epoch_of("since", str(epoch), str(since_us))
