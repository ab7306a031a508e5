"""What one engine's page says, by the table: raw counters and gauges for each engine behind the target.

Pure: bytes in, values out. An `EnginePage` remembers for its target which kind of engine it is and which alternative
of each field it reads, and keeps to that until `forget` is called for a new epoch: a counter that shows up later must
not make a total jump. How the values of a page are put together is worked out once and holds while the page has the
same series.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from wattmill_collector.catalogue import INT64_MAX, Histogram
from wattmill_collector.sources.engine_histograms import HistogramReader, Latencies
from wattmill_collector.sources.engine_series import Key, choose, grouped, own, whole
from wattmill_collector.sources.engine_tables import (
    COUNTER_FIELDS,
    FIELDS,
    PROCESS_START,
    TOKEN_FIELDS,
    Alternative,
    EngineKind,
    Variant,
    recognise,
)
from wattmill_collector.sources.promtext import PageReader, ParseError, Series, number, unescape_json
from wattmill_collector.wire import MAX_KEY_BYTES

MAX_ENGINES = 256  # behind one target
LIMITS = dict.fromkeys(COUNTER_FIELDS, INT64_MAX) | {"requests_running": 10_000_000, "requests_waiting": 10_000_000}
RATIO_FIELDS = ("kv_cache_usage_ratio",)


class NotUnderstoodError(ValueError):
    """The target answers, but with no page of an engine in the table."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineValues:
    """One engine behind a target: integers for what is counted, a ratio for the cache, histograms for latencies.

    Fields that the page does not have are left out; a value that is there but can't be used is None, and `faults` has
    (field, reason) for it.
    """

    series: str
    model: str
    tokens_move: str
    values: Mapping[str, int | float | Histogram | None]
    faults: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Recipe:
    """Where one engine's values stand: for each field the places in the list of printed values."""

    series: str
    model: str
    tokens_move: str
    places: tuple[tuple[str, tuple[int, ...]], ...]


class EnginePage:
    """Reads the page of one target, tick after tick."""

    def __init__(self, kinds: Sequence[EngineKind]) -> None:
        self.kind: EngineKind | None = None
        self.process_start = b""
        self._kinds = tuple(kinds)
        self._reader = PageReader(())
        self._texts: list[bytes] = []
        self._planned: tuple[Series, ...] | None = None
        self._recipes: tuple[_Recipe, ...] = ()
        self._engines: tuple[Key, ...] = ()
        self._histograms: HistogramReader | None = None
        self._page = b""
        self._start_place: int | None = None
        self._variant: Variant | None = None
        self._chosen: dict[str, Alternative] = {}

    def scan(self, page: bytes, *, with_histograms: bool = True) -> None:
        """Take in a page: afterwards `kind` and `process_start` (as printed, empty if there is none) are known.

        `with_histograms`: whether `values` shall have the latencies too, which cost more than all else together.
        Errors: ParseError; NotUnderstoodError.
        """
        page = unescape_json(page)
        texts = self._reader.read(page)
        if self.kind is None or not self._reader.series:
            kind = recognise(page, self._kinds)
            if kind is None:
                raise NotUnderstoodError(_no_kind(self._kinds, page))
            if kind is not self.kind:
                self.kind = kind
                self.forget()
            self._reader = PageReader(kind.names())
            self._histograms = HistogramReader(kind) if kind.histograms else None
            texts = self._reader.read(page)
        self._texts = texts
        self._page = page if with_histograms else b""
        if self._reader.series is not self._planned:
            self._start_place = _process_start_place(self._reader.series)
            self._recipes = ()
            self._planned = None
        self.process_start = b"" if self._start_place is None else texts[self._start_place]

    def forget(self) -> None:
        """Choose the alternatives anew: the engine was started again."""
        self._variant = None
        self._chosen = {}
        self._planned = None
        if self._histograms is not None:
            self._histograms.forget()

    def has_lost_its_choice(self) -> bool:
        """Whether a chosen series is no longer on the page: the process can't be the one that it was chosen for."""
        if self._planned is self._reader.series:
            return False
        names = {s.name for s in self._reader.series}
        return any(t.name not in names for way in self._chosen.values() for t in way.terms if not way.lazy)

    def values(self) -> list[EngineValues]:
        """The engines of the page taken in last; empty when it shows none of the table's series yet.

        Errors: ParseError when there are too many of them.
        """
        if self._planned is None:
            self._recipes = self._plan(self._reader.series)
            self._planned = self._reader.series
        texts = self._texts
        latencies: list[Latencies] = [({}, [])] * len(self._recipes)
        if self._histograms is not None and self._page:
            latencies = self._histograms.read(self._page, self._engines, self._replicas())
        found = []
        for recipe, (histograms, unusable) in zip(self._recipes, latencies, strict=True):
            values: dict[str, int | float | Histogram | None] = {}
            faults: list[tuple[str, str]] = []
            for field, places in recipe.places:
                value, fault = _ratio(texts, places) if field in RATIO_FIELDS else _total(texts, places, LIMITS[field])
                if fault:
                    faults.append((field, fault))
                values[field] = value
            values |= histograms
            faults += unusable
            found.append(EngineValues(recipe.series, recipe.model, recipe.tokens_move, values, tuple(faults)))
        return found

    def _plan(self, series: Sequence[Series]) -> tuple[_Recipe, ...]:
        kind = self.kind
        assert kind is not None
        names = {s.name for s in series}
        if self._variant is None:
            self._variant = next((v for v in kind.variants if not names.isdisjoint(v.known_by)), None)
        variant, replicas = self._variant, self._replicas()
        table = {**kind.fields, **(variant.fields if variant else {})}
        matches: dict[str, dict[Key, list[int]]] = {}
        groups: dict[Key, None] = {}
        for field in FIELDS:
            way = self._choose(field, table.get(field, ()), series)
            if way is None:
                continue
            matches[field] = {}
            for key, places in grouped(way, series, kind, replicas).items():
                if any(places) if way.lazy else all(places):
                    matches[field][key] = [p for part in places for p in part]
                    groups[key] = None
        if len(groups) > MAX_ENGINES:
            raise ParseError(f"the page shows more than {MAX_ENGINES} engines")
        self._engines = tuple(whole(list(groups)))
        return tuple(
            self._recipe(key, kind, replicas, {f: own(key, self._engines, found) for f, found in matches.items()})
            for key in self._engines
        )

    def _replicas(self) -> tuple[str, ...]:
        kind = self.kind
        assert kind is not None
        return self._variant.replicas if self._variant else kind.replicas

    def _choose(self, field: str, ways: Sequence[Alternative], series: Sequence[Series]) -> Alternative | None:
        if field not in self._chosen and (way := choose(ways, series)) is not None:
            self._chosen[field] = way
        return self._chosen.get(field)

    def _recipe(
        self, key: Key, kind: EngineKind, replicas: Sequence[str], places: Mapping[str, list[int] | None]
    ) -> _Recipe:
        labels = ("model", *replicas)
        model_label = next((m for m in kind.model_labels if any(m in s.labels for s in self._reader.series)), "model")
        series = ",".join(
            f"{model_label if label == 'model' else label}={value}"
            for label, value in zip(labels, key, strict=True)
            if value is not None
        )
        moving = next((f for f in ("output_tokens", "input_tokens") if f in self._chosen), "")
        found = [(f, tuple(at or ())) for f, at in places.items() if at is not None or self._chosen[f].lazy]
        return _Recipe(
            _storable(series, 512),
            _storable(key[0] or "", 256),
            self._chosen[moving].moves if moving else "",
            tuple(found),
        )


def counts_tokens(engine: EngineValues) -> bool:
    """Whether any token counter of the engine is on the page."""
    return any(field in engine.values for field in TOKEN_FIELDS)


def _process_start_place(series: Sequence[Series]) -> int | None:
    """None also when several processes show their start on one page: then none of them speaks for the counters."""
    places = [i for i, s in enumerate(series) if s.name == PROCESS_START]
    return places[0] if len(places) == 1 else None


def _total(texts: Sequence[bytes], places: Sequence[int], limit: int) -> tuple[int | None, str]:
    total = 0
    for place in places:
        text = texts[place]
        if text.isdigit():
            total += int(text[:20])
            continue
        try:
            value = number(text)
        except ParseError:
            return None, "not_a_number"
        if not math.isfinite(value):
            return None, "not_a_number"
        if value < 0:
            return None, "negative"
        if not value.is_integer():
            return None, "not_an_integer"
        total += int(value)
    return (total, "") if total <= limit else (None, "out_of_range")


def _ratio(texts: Sequence[bytes], places: Sequence[int]) -> tuple[float | None, str]:
    """The fullest of several caches."""
    try:
        values = [number(texts[place]) for place in places]
    except ParseError:
        return None, "not_a_number"
    if not all(map(math.isfinite, values)):
        return None, "not_a_number"
    largest = max(values)
    if largest < 0 or largest > 1.001:  # a little above 1 is rounding on the engine's side
        return None, "out_of_range"
    return min(largest, 1.0), ""


def _storable(text: str, longest: int) -> str:
    """As much of a text as the wire takes for a part of a key."""
    return text.replace("\x00", "\ufffd")[:longest].encode()[:MAX_KEY_BYTES].decode(errors="ignore")


def _no_kind(kinds: Sequence[EngineKind], page: bytes) -> str:
    if page.lstrip()[:1] in (b"{", b"["):
        return "the target answers JSON; TensorRT-LLM shows its counters at /prometheus/metrics"
    wanted = kinds[0].name if len({k.name for k in kinds}) == 1 else "any engine that is known here"
    return f"the page has no metric of {wanted}"
