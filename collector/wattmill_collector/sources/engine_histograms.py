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
from wattmill_collector.sources.promtext import PageReader, ParseError, Series

EVERY_US = 10_000_000
MOST = 2**53  # above it a printed number is not the counted one any more
Values = dict[str, Histogram | None]
Faults = list[tuple[str, str]]
Latencies = tuple[Values, Faults]


def is_due(time_us: int, interval_us: int) -> bool:
    """Whether this tick is the first of its ten seconds; with longer intervals every one is."""
    return time_us % EVERY_US < interval_us


@dataclasses.dataclass(frozen=True, slots=True)
class _Places:
    """Where one histogram stands: for each bound, the total last, the places whose values add up; or a fault."""

    field: str
    le_us: tuple[int, ...] = ()
    places: tuple[tuple[int, ...], ...] = ()
    fault: str = ""


class HistogramReader:
    """Reads the histograms of one target's page for the engines that its counters have shown."""

    def __init__(self, kind: EngineKind) -> None:
        self._kind = kind
        self._reader = PageReader(kind.histogram_names())
        self._planned: tuple[tuple[Series, ...], tuple[Key, ...]] | None = None
        self._plans: list[list[_Places]] = []
        self._chosen: dict[str, Alternative] = {}

    def forget(self) -> None:
        """Choose the alternatives anew: the engine was started again."""
        self._chosen = {}
        self._planned = None

    def read(self, page: bytes, engines: tuple[Key, ...], replicas: Sequence[str]) -> list[Latencies]:
        """For each engine its histograms, and what can't be used of them: the field with None, and the reason."""
        try:
            texts = self._reader.read(page)
        except ParseError:
            unread = [(field, "not_understood") for field in self._kind.histograms]
            return [({}, unread) for _ in engines]
        series = self._reader.series
        if self._planned is None or self._planned[0] is not series or self._planned[1] is not engines:
            self._plans = self._plan(series, engines, replicas)
            self._planned = series, engines
        found: list[Latencies] = []
        for plans in self._plans:
            values: Values = {}
            faults: Faults = []
            for plan in plans:
                values[plan.field], fault = _histogram(texts, plan)
                if fault:
                    faults.append((plan.field, fault))
            found.append((values, faults))
        return found

    def _plan(self, series: Sequence[Series], engines: Sequence[Key], replicas: Sequence[str]) -> list[list[_Places]]:
        plans: list[list[_Places]] = [[] for _ in engines]
        for field in HISTOGRAM_FIELDS:
            way = self._chosen.get(field) or choose(self._kind.histograms.get(field, ()), series)
            if way is None:
                continue
            self._chosen[field] = way
            found = {key: parts[0] for key, parts in grouped(way, series, self._kind, replicas).items()}
            for plan, key in zip(plans, engines, strict=True):
                places = own(key, engines, found)
                if places:
                    plan.append(_places(field, way.terms[0].name, series, places))
        return plans


def _places(field: str, name: str, series: Sequence[Series], places: Sequence[int]) -> _Places:
    unit_us = 1_000 if "_milliseconds" in name else 1_000_000
    by_bound: dict[float, list[int]] = {}
    for place in places:
        try:
            bound = float(series[place].labels.get("le", ""))
        except ValueError:
            return _Places(field, fault="bad_bounds")
        by_bound.setdefault(bound if not math.isfinite(bound) else round(bound * unit_us, 0), []).append(place)
    bounds = sorted(by_bound)
    if bounds[-1] != math.inf or not bounds[0] >= 0:
        return _Places(field, fault="bad_bounds")
    if len({len(where) for where in by_bound.values()}) > 1:
        return _Places(field, fault="uneven_bounds")
    if not 1 < len(bounds) <= MAX_BOUNDS + 1:
        return _Places(field, fault="too_many_bounds" if len(bounds) > 1 else "no_bounds")
    return _Places(field, tuple(map(int, bounds[:-1])), tuple(tuple(by_bound[bound]) for bound in bounds))


def _histogram(texts: Sequence[bytes], plan: _Places) -> tuple[Histogram | None, str]:
    if plan.fault:
        return None, plan.fault
    try:
        values = [sum([float(texts[place]) for place in places]) for places in plan.places]
        counts = tuple(map(int, values))
    except (ValueError, OverflowError):
        return None, "not_a_number"
    if any(map(operator.ne, values, counts)):
        return None, "not_an_integer"
    if counts[0] < 0 or counts[-1] > MOST:
        return None, "out_of_range"
    if any(map(operator.gt, counts, counts[1:])):
        return None, "not_cumulative"
    return Histogram(plan.le_us, counts), ""
