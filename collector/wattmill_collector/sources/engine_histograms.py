"""The latency histograms of an engine's page, by the table: cumulative counts under bounds in microseconds.

They take ten times as many lines as the counters, so they have a reader of their own, which looks at them every
`EVERY_US` only; every minute's edge is such a tick. Like the counters they keep to one alternative until `forget`.

Promises: bounds rise, counts never fall from one bound to the next, and the last count is the engine's own total. What
does not fit is a fault with a reason, and no histogram.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence

from wattmill_collector.catalogue import MAX_BOUNDS, Histogram
from wattmill_collector.sources.engine_series import Key, choose, grouped, own
from wattmill_collector.sources.engine_tables import HISTOGRAM_FIELDS, Alternative, EngineKind
from wattmill_collector.sources.engine_totals import Layout, layout_of
from wattmill_collector.sources.promtext import PageReader, ParseError, Series, number

EVERY_US = 10_000_000
MOST = 2**53  # above it a printed number is not the counted one any more
Values = dict[str, Histogram | None]
Faults = list[tuple[str, str]]
Latencies = tuple[Values, Faults]


def is_due(time_us: int, interval_us: int) -> bool:
    """Whether this tick is the first of its ten seconds; with longer intervals every one is."""
    return time_us % EVERY_US < interval_us


@dataclasses.dataclass(frozen=True, slots=True)
class _Bounds:
    """One histogram of an engine: its bounds, and which of the engine's sums are its counts; or a fault."""

    field: str
    le_us: tuple[int, ...] = ()
    start: int = 0
    end: int = 0
    fault: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Buckets:
    """The histograms of one engine: a sum for each bound of each, and the numbers read now, None where unreadable."""

    bounds: tuple[_Bounds, ...]
    layout: Layout
    numbers: Sequence[int | None] = ()
    faults: dict[str, str] = dataclasses.field(default_factory=dict)


class HistogramReader:
    """Reads the histograms of one target's page for the engines that its counters have shown."""

    def __init__(self, kind: EngineKind) -> None:
        self._kind = kind
        self._reader = PageReader(kind.histogram_names())
        self._planned: tuple[tuple[Series, ...], tuple[Key, ...]] | None = None
        self._plans: list[Buckets] = []
        self._chosen: dict[str, Alternative] = {}

    def forget(self) -> None:
        """Choose the alternatives anew: the engine was started again."""
        self._chosen = {}
        self._planned = None

    def read(self, page: bytes, engines: tuple[Key, ...], replicas: Sequence[str]) -> list[Buckets] | None:
        """For each engine what its histograms show; None when they can't be read at all."""
        try:
            texts = self._reader.read(page)
        except ParseError:
            return None
        series = self._reader.series
        if self._planned is None or self._planned[0] is not series or self._planned[1] is not engines:
            self._plans = self._plan(series, engines, replicas)
            self._planned = series, engines
        return [_numbers(plan, texts) for plan in self._plans]

    def _plan(self, series: Sequence[Series], engines: Sequence[Key], replicas: Sequence[str]) -> list[Buckets]:
        cells: list[list[tuple[tuple[str, int], Sequence[int]]]] = [[] for _ in engines]
        bounds: list[list[_Bounds]] = [[] for _ in engines]
        for field in HISTOGRAM_FIELDS:
            way = self._chosen.get(field) or choose(self._kind.histograms.get(field, ()), series)
            if way is None:
                continue
            self._chosen[field] = way
            found = {key: parts[0] for key, parts in grouped(way, series, self._kind, replicas).items()}
            for mine, its, key in zip(bounds, cells, engines, strict=True):
                places = own(key, engines, found)
                if places:
                    one, where = _bounds(field, way.unit_us, series, places, len(its))
                    mine.append(one)
                    its += [((field, bound), at) for bound, at in zip((*one.le_us, -1), where, strict=False)]
        return [Buckets(tuple(mine), layout_of(its, series)) for mine, its in zip(bounds, cells, strict=True)]


def latencies(buckets: Buckets, sums: Sequence[int | None]) -> Latencies:
    """An engine's histograms, and what can't be used of them: the field with None, and the reason."""
    values: Values = {}
    faults: Faults = []
    for one in buckets.bounds:
        fault = one.fault or buckets.faults.get(one.field, "")
        counts = sums[one.start : one.end]
        if not fault:
            fault = _wrong(counts)
        values[one.field] = None if fault else Histogram(one.le_us, tuple(counts))  # type: ignore[arg-type]
        if fault:
            faults.append((one.field, fault))
    return values, faults


def _bounds(
    field: str, unit_us: int, series: Sequence[Series], places: Sequence[int], start: int
) -> tuple[_Bounds, list[list[int]]]:
    """A histogram's bounds, and for each of them, the total last, the places whose values add up."""
    by_bound: dict[float, list[int]] = {}
    for place in places:
        try:
            bound = float(series[place].labels.get("le", ""))
        except ValueError:
            return _Bounds(field, fault="bad_bounds"), []
        by_bound.setdefault(bound if not math.isfinite(bound) else round(bound * unit_us, 0), []).append(place)
    bounds = sorted(by_bound)
    if bounds[-1] != math.inf or not bounds[0] >= 0:
        return _Bounds(field, fault="bad_bounds"), []
    if len({len(where) for where in by_bound.values()}) > 1:
        return _Bounds(field, fault="uneven_bounds"), []
    if not 1 < len(bounds) <= MAX_BOUNDS + 1:
        return _Bounds(field, fault="too_many_bounds" if len(bounds) > 1 else "no_bounds"), []
    found = _Bounds(field, tuple(map(int, bounds[:-1])), start, start + len(bounds))
    return found, [by_bound[bound] for bound in bounds]


def _numbers(plan: Buckets, texts: Sequence[bytes]) -> Buckets:
    """The plan with the numbers of this page."""
    places = plan.layout.places
    try:
        printed = [texts[place] for place in places]
        values = list(map(float, printed))
        numbers = list(map(int, values))
        is_plain = b"_" not in b" ".join(printed) and min(numbers, default=0) >= 0
        if is_plain and not any(map(operator.ne, values, numbers)):
            return dataclasses.replace(plan, numbers=numbers)
    except (ValueError, OverflowError):
        pass
    return _faulty(plan, texts)


def _faulty(plan: Buckets, texts: Sequence[bytes]) -> Buckets:
    numbers: list[int | None] = []
    faults: dict[str, str] = {}
    for cell, (start, end) in zip(plan.layout.cells, plan.layout.slices(), strict=True):
        assert isinstance(cell, tuple)
        for place in plan.layout.places[start:end]:
            try:
                value = number(texts[place])
                counted = int(value)
            except (ParseError, ValueError, OverflowError):
                faults.setdefault(cell[0], "not_a_number")
                numbers.append(None)
                continue
            wrong = "not_an_integer" if value != counted else "out_of_range" if counted < 0 else ""
            if wrong:
                faults.setdefault(cell[0], wrong)
            numbers.append(None if wrong else counted)
    return dataclasses.replace(plan, numbers=numbers, faults=faults)


def _wrong(counts: Sequence[int | None]) -> str:
    """What is wrong with the counts under rising bounds, all of which could be read."""
    if counts[-1] > MOST:  # type: ignore[operator]
        return "out_of_range"
    return "not_cumulative" if any(map(operator.gt, counts, counts[1:])) else ""  # type: ignore[arg-type]
