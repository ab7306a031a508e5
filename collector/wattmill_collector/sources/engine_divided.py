"""Counters that several engines of one page divide among them, because nothing says whose the events are. Pure.

SGLang counts finished requests without the data-parallel rank. Such a counter is divided in whole numbers that add up
to it: of `of` engines the `nth` gets (n + of - 1 - nth) // of, which never falls while n rises. Its series are added
up first, and divided then, so that a part that begins again (`engine_totals`) costs no unit.

The pieces would jump when the engines become more or fewer (a rank shows nothing until its first batch), and would not
add up if one engine's counters began again alone. So all engines that divide a counter begin again together: from the
last reading on, each counts its piece of what the counter rose since. An engine that is new then does the same.

Not promised: which engine's the events were. And where the engines become more or fewer right after a page of which a
divided counter could be read in part only (cut off, one series of several no number), what that page showed is lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from wattmill_collector.sources.engine_series import Key, fits, own
from wattmill_collector.sources.engine_tables import Alternative
from wattmill_collector.sources.engine_totals import PartKey, Sums

Among = dict[PartKey, tuple[Key, ...]]  # a series that is divided → the engines that divide it, in their order


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """A sum of series that is part of a field: an engine's own, or of what `of` engines divide among them."""

    field: str
    nth: int = 0
    of: int = 1

    def share(self, total: int) -> int:
        """The part of the `nth`: whole numbers that add up to the total over all, and never fall while it rises."""
        return (total + self.of - 1 - self.nth) // self.of


def peers(key: Key, engines: Sequence[Key]) -> tuple[Key, ...]:
    """The engines that a series with these labels may speak of, ranks in the order of their numbers."""
    fitting = [engine for engine in engines if fits(key, engine)]
    return tuple(sorted(fitting, key=lambda engine: [(text or "").rjust(9, "0") for text in engine]))


def cells(
    field: str, way: Alternative, key: Key, engines: Sequence[Key], found: Mapping[Key, list[list[int]]]
) -> list[tuple[Cell, list[int]]]:
    """What an engine's counter is the sum of, with the places of the parts; empty when nothing of it is the engine's.

    `found`: what `grouped` made of the alternative.
    """

    def places_of(parts: list[list[int]], *, divided: bool) -> list[int]:
        return [p for t, places in zip(way.terms, parts, strict=False) if t.divided == divided for p in places]

    wheres: dict[Cell, list[int]] = {}
    mine = own(key, engines, {one: places_of(parts, divided=False) for one, parts in found.items()})
    if mine is not None or way.lazy:
        wheres[Cell(field)] = mine or []
    for one, parts in found.items():
        places, among = places_of(parts, divided=True), peers(one, engines)
        if places and key in among:
            wheres.setdefault(Cell(field, among.index(key), len(among)), []).extend(places)
    return list(wheres.items())


def divided_among(
    way: Alternative, engines: Sequence[Key], found: Mapping[Key, list[list[int]]]
) -> dict[int, tuple[Key, ...]]:
    """Of each series that is to be divided, by its place, the engines among which it is."""
    return {
        place: peers(one, engines)
        for one, parts in found.items()
        for t, places in zip(way.terms, parts, strict=False)
        if t.divided
        for place in places
    }


@dataclasses.dataclass(slots=True)
class Standing:
    """What is remembered of one engine from reading to reading."""

    counters: Sums = dataclasses.field(default_factory=Sums)
    latencies: Sums = dataclasses.field(default_factory=Sums)
    seen_us: int | None = None
    since_us: int | None = None

    def begin(self) -> None:
        """Begin all counters again at the reading before."""
        self.counters.begin()
        self.latencies.begin()
        self.since_us = (self.seen_us or 0) + 1


def begin_again(standings: dict[Key, Standing], before: Among, now: Among) -> None:
    """Begin those engines again that divide a series otherwise than at the last reading, from where it stood then."""
    changed = [part for part, among in now.items() if before.get(part, among) != among]
    stood: dict[PartKey, int] = {}
    seen_us: int | None = None
    for part in changed:
        for standing in (standings[key] for key in before[part] if key in standings):
            if (number := standing.counters.last().get(part)) is not None:
                stood[part] = number
            if standing.seen_us is not None:
                seen_us = max(seen_us or 0, standing.seen_us)
    for key in {key for part in changed for key in now[part]}:
        standing = standings.setdefault(key, Standing())
        if standing.seen_us is None:
            standing.seen_us = seen_us
        standing.counters.learn(stood)
        standing.begin()
