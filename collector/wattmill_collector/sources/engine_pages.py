"""What one engine's page says, by the table: raw counters and gauges for each engine behind the target.

Pure: bytes in, values out. An `EnginePage` remembers for its target which kind of engine it is and which alternative
of each field it reads, and keeps to that until `forget` is called for a new epoch: a counter that shows up later must
not make a total jump. A page known by names that count no tokens is looked at again: a worker shows Dynamo's own before
its engine's. It remembers the parts of sums, too: see `engine_totals`. How the values of a page are put
together is worked out once and holds while the page has the same series.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from wattmill_collector.catalogue import Histogram
from wattmill_collector.sources.engine_divided import Among, Cell, Standing, begin_again, cells, divided_among
from wattmill_collector.sources.engine_histograms import Buckets, HistogramReader, latencies
from wattmill_collector.sources.engine_numbers import LIMITS, RATIO_FIELDS, counted, ratio
from wattmill_collector.sources.engine_series import Key, choose, grouped, own, role_of, whole
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
from wattmill_collector.sources.engine_totals import Layout, Sums, layout_of, part_key, plain_sums
from wattmill_collector.sources.engine_unknown import NotUnderstoodError, refusal
from wattmill_collector.sources.promtext import PageReader, ParseError, Series, split_line, unescape_json, value_text
from wattmill_collector.wire import MAX_KEY_BYTES

__all__ = ["EnginePage", "EngineValues", "NotUnderstoodError", "counts_tokens"]

MAX_ENGINES = 256  # behind one target
# A page must end with a line end. Of one that does not, the last number may lack digits: this makes it none. The family
# that it stands in may lack series.
CUT = b"?\n"
NOT_A_MODEL = ("undefined",)  # what TensorRT-LLM 1.1 calls it


@dataclasses.dataclass(frozen=True, slots=True)
class EngineValues:
    """One engine behind a target: integers for what is counted, a ratio for the cache, histograms for latencies.

    Fields that the page does not have are left out; a value that is there but can't be used is None, and `faults` has
    (field, reason) for it. `role` is prefill or decode where the page says so, frontend by its kind. `since_us`: the
    counters began again at zero then, though the process did not (`engine_totals`); None: they are those of the
    process.
    """

    series: str
    model: str
    tokens_move: str
    values: Mapping[str, int | float | Histogram | None]
    faults: tuple[tuple[str, str], ...] = ()
    role: str = ""
    since_us: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Recipe:
    """Where one engine's values stand: its counters as sums, for each gauge the places in the list of printed values.

    Of a ratio the places below the line are apart. `peers`: the engines with which it divides a counter. `zeros`: the
    counters that the page lacks because nothing has been counted.
    """

    key: Key
    series: str
    model: str
    role: str
    tokens_move: str
    counters: Layout
    gauges: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    peers: frozenset[Key]
    zeros: tuple[str, ...]


class EnginePage:
    """Reads the page of one target, tick after tick."""

    def __init__(self, kinds: Sequence[EngineKind]) -> None:
        self.kind: EngineKind | None = None
        self.process_start = b""
        self._kinds = tuple(kinds)
        self._counts_tokens = False
        self._reader = PageReader(())
        self._texts: list[bytes] = []
        self._planned: tuple[Series, ...] | None = None
        self._recipes: tuple[_Recipe, ...] = ()
        self._engines: tuple[Key, ...] = ()
        self._histograms: HistogramReader | None = None
        self._page = b""
        self._is_cut = False
        self._cut_family = ""
        self._start_place: int | None = None
        self._variant: Variant | None = None
        self._chosen: dict[str, Alternative] = {}
        self._standings: dict[Key, Standing] = {}
        self._among: Among = {}
        self._worked: dict[Key, None] = {}  # engines that have shown a counter: what they lack from then on is no 0

    def scan(self, page: bytes, *, with_histograms: bool = True) -> None:
        """Take in a page: afterwards `kind` and `process_start` (as printed, empty if there is none) are known.

        `with_histograms`: whether `values` shall have the latencies too, which cost more than all else together.
        Errors: ParseError; NotUnderstoodError.
        """
        page = unescape_json(page)
        if page.endswith(b"# EOF"):  # a last line that needs no end
            page += b"\n"
        self._is_cut = page[-1:] not in (b"", b"\n")
        if self._is_cut:
            page += CUT
        self._cut_family = ""
        texts = self._reader.read(page)
        if self.kind is None or not self._reader.series:
            kind = recognise(page, self._kinds)
            if kind is None:
                raise refusal(self._kinds, page)
            texts = self._read_as(kind, page)
        elif not self._counts_tokens and (kind := recognise(page, self._kinds)) not in (None, self.kind):
            assert kind is not None
            texts = self._read_as(kind, page)
        if self._is_cut:
            self._cut_family = _last_family(page)
        self._texts = texts
        self._page = page if with_histograms else b""
        if self._reader.series is not self._planned:
            self._start_place = _process_start_place(self._reader.series)
            self._recipes = ()
            self._planned = None
        self.process_start = b"" if self._start_place is None else texts[self._start_place]

    def _read_as(self, kind: EngineKind, page: bytes) -> list[bytes]:
        if kind is not self.kind:
            self.kind, self._counts_tokens = kind, kind.counts_tokens()
            self.forget()
        self._reader = PageReader(kind.names())
        self._histograms = HistogramReader(kind) if kind.histograms else None
        return self._reader.read(page)

    def forget(self, *, proven: bool = True) -> None:
        """Choose the alternatives anew and begin all sums anew: the engine was started again.

        `proven`: there is evidence of that. Without it a page that lacks its counters may be another engine's, or a
        bad one: then it says nothing of them, rather than 0.
        """
        if proven:
            self._worked = {}
        self._variant = None
        self._chosen = {}
        self._planned = None
        self._standings = {}
        self._among = {}
        if self._histograms is not None:
            self._histograms.forget()

    def has_lost_its_choice(self) -> bool:
        """Whether a chosen series is no longer on the page: the process can't be the one that it was chosen for."""
        if self._planned is self._reader.series:
            return False
        names = {s.name for s in self._reader.series}
        return any(t.name not in names for way in self._chosen.values() for t in way.terms if not way.lazy)

    def values(self, time_us: int = 0) -> list[EngineValues]:
        """The engines of the page taken in last, at this tick; empty when it shows none of the table's series yet.

        Errors: ParseError when there are too many of them.
        """
        if self._planned is None:
            self._recipes = self._plan(self._reader.series)
            self._planned = self._reader.series
        buckets: list[Buckets] | None = None
        unread: list[tuple[str, str]] = []
        if self._histograms is not None and self._page:
            buckets = self._histograms.read(self._page, self._engines, self._replicas())
            if buckets is None:
                assert self.kind is not None
                unread = [(field, "not_understood") for field in self.kind.histograms]
        read = [counted([self._texts[place] for place in recipe.counters.places]) for recipe in self._recipes]
        lying: set[Key] = set()
        for nth, recipe in enumerate(self._recipes):
            if self._would_lie(recipe, read[nth][0], buckets[nth] if buckets else None):
                lying |= {recipe.key, *recipe.peers}
        for key in lying:
            self._standings[key].begin()
        return [
            self._values_of(recipe, *read[nth], buckets[nth] if buckets else None, unread, time_us)
            for nth, recipe in enumerate(self._recipes)
        ]

    def _would_lie(self, recipe: _Recipe, numbers: Sequence[int | None], buckets: Buckets | None) -> bool:
        standing = self._standings.setdefault(recipe.key, Standing())
        lies = standing.counters.would_lie(recipe.counters, numbers)
        if standing.counters.is_new():
            standing.latencies = Sums()
        return lies or (buckets is not None and standing.latencies.would_lie(buckets.layout, buckets.numbers))

    def _values_of(
        self,
        recipe: _Recipe,
        numbers: Sequence[int | None],
        wrong: Sequence[str],
        buckets: Buckets | None,
        unread: list[tuple[str, str]],
        time_us: int,
    ) -> EngineValues:
        texts, layout, standing = self._texts, recipe.counters, self._standings[recipe.key]
        sums = standing.counters.take(layout, numbers) or plain_sums(layout, numbers)
        values: dict[str, int | float | Histogram | None] = {} if self._is_cut else dict.fromkeys(recipe.zeros, 0)
        faults: list[tuple[str, str]] = []
        for cell, total, (start, end) in zip(layout.cells, sums, layout.slices(), strict=True):
            assert isinstance(cell, Cell)
            field, so_far = cell.field, values.get(cell.field, 0)
            if so_far is None:
                continue
            assert isinstance(so_far, int)
            fault = next((w for w in wrong[start:end] if w), "") if wrong else ""
            counted_here = None if total is None else so_far + cell.share(total)
            if counted_here is not None and counted_here > LIMITS[field]:
                fault = "out_of_range"
            elif self._cut_family and any(t.name == self._cut_family for t in self._chosen[field].terms):
                fault = "cut_off"
            if fault:
                faults.append((field, fault))
            values[field] = None if fault else counted_here
        for field, over, under in recipe.gauges:
            value, fault = _gauge(texts, field, over, under)
            if fault:
                faults.append((field, fault))
            values[field] = value
        if buckets is not None:
            counts = standing.latencies.take(buckets.layout, buckets.numbers)
            found, unusable = latencies(buckets, counts or plain_sums(buckets.layout, buckets.numbers))
            values |= found
            faults += unusable
        standing.seen_us = time_us
        return EngineValues(
            recipe.series,
            recipe.model,
            recipe.tokens_move,
            values,
            (*faults, *unread),
            recipe.role,
            standing.since_us,
        )

    def _plan(self, series: Sequence[Series]) -> tuple[_Recipe, ...]:
        kind = self.kind
        assert kind is not None
        names = {s.name for s in series}
        if self._variant is None:
            self._variant = next((v for v in kind.variants if not names.isdisjoint(v.known_by)), None)
        variant, replicas = self._variant, self._replicas()
        table = {**kind.fields, **(variant.fields if variant else {})}
        if kind.when_decode and role_of(series) == "decode":
            table |= {field: (*ways, *table.get(field, ())) for field, ways in kind.when_decode.items()}
        matches: dict[str, dict[Key, list[list[int]]]] = {}
        groups: dict[Key, None] = {}
        for field in FIELDS:
            way = self._choose(field, table.get(field, ()), series)
            if way is None:
                continue
            matches[field] = {}
            for key, parts in grouped(way, series, kind, replicas).items():
                if any(parts) if way.lazy else all(parts):
                    matches[field][key] = parts
                    groups[key] = None
        if not groups and kind.from_zero and not replicas:
            groups[(None,)] = None
        if len(groups) > MAX_ENGINES:
            raise ParseError(f"the page shows more than {MAX_ENGINES} engines")
        self._engines = tuple(whole(list(groups)))
        gone = [key for key in self._standings if key not in self._engines]
        for key in gone[: max(0, len(self._standings) - 2 * MAX_ENGINES)]:
            del self._standings[key]
        for key in list(self._worked)[: max(0, len(self._worked) - 2 * MAX_ENGINES)]:
            del self._worked[key]
        among = {
            part_key(series[place]): keys
            for field, found in matches.items()
            for place, keys in divided_among(self._chosen[field], self._engines, found).items()
        }
        begin_again(self._standings, self._among, among)
        self._among |= among
        return tuple(self._recipe(key, kind, replicas, matches) for key in self._engines)

    def _replicas(self) -> tuple[str, ...]:
        kind = self.kind
        assert kind is not None
        return self._variant.replicas if self._variant else kind.replicas

    def _choose(self, field: str, ways: Sequence[Alternative], series: Sequence[Series]) -> Alternative | None:
        if field not in self._chosen and (way := choose(ways, series)) is not None:
            self._chosen[field] = way
        return self._chosen.get(field)

    def _recipe(
        self, key: Key, kind: EngineKind, replicas: Sequence[str], matches: Mapping[str, Mapping[Key, list[list[int]]]]
    ) -> _Recipe:
        all_series = self._reader.series
        labels = ("model", *replicas)
        model_label = next((m for m in kind.model_labels if any(m in s.labels for s in all_series)), "model")
        series = ",".join(
            f"{model_label if label == 'model' else label}={value}"
            for label, value in zip(labels, key, strict=True)
            if value is not None
        )
        counters: list[tuple[Cell, list[int]]] = []
        gauges: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        for field, found in matches.items():
            way = self._chosen[field]
            over = len(way.terms)
            if field in COUNTER_FIELDS:
                counters += cells(field, way, key, self._engines, found)
                continue
            where = own(
                key, self._engines, {k: [p for part in parts[:over] for p in part] for k, parts in found.items()}
            )
            under = own(key, self._engines, {k: parts[over] for k, parts in found.items()}) if way.per else None
            if where is not None or way.lazy:
                gauges.append((field, tuple(where or ()), tuple(under or ())))
        if counters:
            self._worked[key] = None
        zeros = () if key in self._worked else kind.from_zero
        ways = {field: kind.fields[field][0] for field in zeros if field in kind.fields} | self._chosen
        moving = next((f for f in ("output_tokens", "input_tokens") if f in ways), "")
        places = {p for _, where in counters for p in where} | {p for _, where, _ in gauges for p in where}
        return _Recipe(
            key,
            _storable(series, 512),
            "" if key[0] in NOT_A_MODEL else _storable(key[0] or "", 256),
            role_of([all_series[p] for p in places]) if kind.holds_accelerators else "frontend",
            ways[moving].moves if moving else "",
            layout_of(counters, all_series),
            tuple(gauges),
            frozenset(k for among in self._among.values() if key in among for k in among if k in self._engines),
            zeros,
        )


def counts_tokens(engine: EngineValues) -> bool:
    """Whether any token counter of the engine is on the page."""
    return any(field in engine.values for field in TOKEN_FIELDS)


def _last_family(page: bytes) -> str:
    """The series name in the last line of a page that was cut off; empty where that line is a comment.

    Errors: ParseError when the line is no whole series: then parts of any sum may be missing.
    """
    line = page[: -len(CUT)].rpartition(b"\n")[2]
    if not line.strip() or line.lstrip()[:1] == b"#":
        return ""
    split = split_line(line)
    if split is None or not value_text(line[split[2] :]):
        raise ParseError("it is cut off in the middle of its last line")
    return split[0]


def _process_start_place(series: Sequence[Series]) -> int | None:
    """None also when several processes show their start on one page: then none of them speaks for the counters."""
    places = [i for i, s in enumerate(series) if s.name == PROCESS_START]
    return places[0] if len(places) == 1 else None


def _gauge(
    texts: Sequence[bytes], field: str, over: Sequence[int], under: Sequence[int]
) -> tuple[int | float | None, str]:
    if field in RATIO_FIELDS:
        return ratio([texts[place] for place in over], [texts[place] for place in under])
    numbers, wrong = counted([texts[place] for place in over])
    if wrong:
        return None, next(filter(None, wrong))
    total = sum(n for n in numbers if n is not None)
    return (total, "") if total <= LIMITS[field] else (None, "out_of_range")


def _storable(text: str, longest: int) -> str:
    """As much of a text as the wire takes for a part of a key."""
    return text.replace("\x00", "\ufffd")[:longest].encode()[:MAX_KEY_BYTES].decode(errors="ignore")
