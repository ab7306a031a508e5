"""What one entry of the table of engines is made of, and short ways to write one. Pure data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

Moves = Literal["step", "end"]

TOKEN_FIELDS = ("input_tokens", "cached_input_tokens", "computed_input_tokens", "output_tokens")
COUNTER_FIELDS = (*TOKEN_FIELDS, "requests_finished", "preemptions", "draft_tokens", "accepted_draft_tokens")
FIELDS = (*COUNTER_FIELDS, "requests_running", "requests_waiting", "kv_cache_usage_ratio")
HISTOGRAM_FIELDS = ("inter_token_latency", "time_to_first_token", "queue_time", "request_latency")
PROCESS_START = "process_start_time_seconds"


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """Series of one name. `select` keeps the listed values of a label; a series that lacks the label is kept.

    `divided`: a counter of events that are all alike. One that names no engine is divided among all engines that it
    fits, in whole numbers; without it such a series is left out, as what it counts is nobody knows whose.
    """

    name: str
    select: tuple[tuple[str, tuple[str, ...]], ...] = ()
    divided: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Alternative:
    """One way to read a field: the sum of its terms, all of which must be there.

    `moves` is when the engine adds to it: at every step, or only when a request ends. `lazy`: the engine shows a label
    value only once it has counted something under it, so in a family that is there, a missing part has counted 0.
    `per`: a ratio is the terms over this. `beside`: it counts only where this series is on the page too, whose age it
    shares. `unit_us`: what a histogram's bounds count in.
    """

    terms: tuple[Term, ...]
    moves: Moves = "step"
    lazy: bool = False
    per: Term | None = None
    beside: Term | None = None
    unit_us: int = 1_000_000


Fields = Mapping[str, tuple[Alternative, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """Names that belong together in one age of an engine; chosen when any of the series `known_by` is on the page.

    `replicas` are the labels whose values are engines of their own (data-parallel ranks), to be counted apart.
    """

    known_by: tuple[str, ...]
    replicas: tuple[str, ...]
    fields: Fields


@dataclasses.dataclass(frozen=True, slots=True)
class EngineKind:
    """One engine: how to know its page, which labels separate the engines behind it, and what to read.

    `markers` are beginnings of metric names, `also` any text; all must be on the page. `copies` are labels whose values
    are copies of one engine (tensor or expert ranks that report the same work): the lowest is kept. Without a chosen
    variant only `fields` are read. `when_decode`: what is read otherwise where the page says that the engine is the
    decode side of a pair. `histograms` are latencies, each alternative one family of buckets: those that move at every
    step come first, a request's mean over its tokens last. `about_path` answers JSON with the model's name or the
    engine's version where the page does not. `holds_accelerators` is False for a front end that computes nothing
    itself. `from_zero`: the counters that a page lacks until the engine has counted something; on one that has no
    counter at all they stand at 0, so that the first request is counted; one whose series have no labels is there
    before its first series. `without_tokens`: why no token counters may be on a page of this kind, and what to do.
    `note` is for the documentation.
    """

    name: str
    markers: tuple[str, ...]
    fields: Fields
    also: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    when_decode: Fields = dataclasses.field(default_factory=dict)
    histograms: Fields = dataclasses.field(default_factory=dict)
    model_labels: tuple[str, ...] = ("model_name", "model")
    replicas: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    path: str = "/metrics"
    about_path: str = ""
    holds_accelerators: bool = True
    from_zero: tuple[str, ...] = ()
    without_tokens: str = ""
    note: str = ""

    def names(self) -> frozenset[str]:
        """Every series name that reading this kind may need, the process start included."""
        tables = [self.fields, self.when_decode, *(v.fields for v in self.variants)]
        read = {t.name for table in tables for ways in table.values() for way in ways for t in series_of(way)}
        return frozenset(read | {PROCESS_START} | {name for v in self.variants for name in v.known_by})

    def counts_tokens(self) -> bool:
        """Whether any of its names is a counter of tokens."""
        return any(
            field in table for table in (self.fields, *(v.fields for v in self.variants)) for field in TOKEN_FIELDS
        )

    def histogram_names(self) -> frozenset[str]:
        """Every series name that reading this kind's histograms may need."""
        return frozenset(t.name for ways in self.histograms.values() for way in ways for t in way.terms)


def series_of(way: Alternative) -> tuple[Term, ...]:
    """All that an alternative looks for: its terms, what they are a part of, and what it stands beside."""
    return (*way.terms, *(t for t in (way.per, way.beside) if t is not None))


Select = Mapping[str, str | tuple[str, ...]]
_ALL: Select = {}


def term(name: str, select: Select = _ALL, *, divided: bool = False) -> Term:
    """Series of one name with the listed values of some labels."""
    chosen = tuple((label, (value,) if isinstance(value, str) else value) for label, value in select.items())
    return Term(name, chosen, divided)


def one(
    name: str,
    select: Select = _ALL,
    *,
    moves: Moves = "step",
    lazy: bool = False,
    per: str = "",
    beside: str = "",
) -> Alternative:
    """An alternative of one term."""
    return Alternative((term(name, select),), moves, lazy, Term(per) if per else None, Term(beside) if beside else None)


def buckets(
    *,
    itl: Sequence[Alternative] = (),
    ttft: Sequence[Alternative] = (),
    queue: Sequence[Alternative] = (),
    e2e: Sequence[Alternative] = (),
) -> dict[str, tuple[Alternative, ...]]:
    """The buckets of histograms, in the order of HISTOGRAM_FIELDS; bounds are seconds unless the name says milli."""

    def bucket(way: Alternative) -> Alternative:
        (one_term,) = way.terms
        milli = one_term.name.endswith(("_ms", "_milliseconds"))
        named = dataclasses.replace(one_term, name=f"{one_term.name}_bucket")
        return dataclasses.replace(way, terms=(named,), unit_us=1_000 if milli else 1_000_000)

    found = dict(zip(HISTOGRAM_FIELDS, (itl, ttft, queue, e2e), strict=True))
    return {field: tuple(map(bucket, ways)) for field, ways in found.items() if ways}


def _without_total(one_term: Term) -> Term:
    return dataclasses.replace(one_term, name=one_term.name.removesuffix("_total"))


def renamed(
    kind: EngineKind,
    name: str,
    old: str,
    new: str,
    *,
    replicas: tuple[str, ...] | None = None,
    bare: bool = False,
    note: str = "",
) -> EngineKind:
    """The same engine behind something that re-spells the prefix of its names.

    `bare`: it may also have taken `_total` off its counters.
    """

    def respell(text: str) -> str:
        return new + text.removeprefix(old) if text.startswith(old) else text

    def respell_term(one_term: Term) -> Term:
        return dataclasses.replace(one_term, name=respell(one_term.name))

    def spellings(field: str, way: Alternative) -> Iterable[Alternative]:
        per = respell_term(way.per) if way.per else None
        beside = respell_term(way.beside) if way.beside else None
        spelt = dataclasses.replace(way, terms=tuple(map(respell_term, way.terms)), per=per, beside=beside)
        yield spelt
        if bare and field in COUNTER_FIELDS and all(t.name.endswith("_total") for t in spelt.terms):
            short = tuple(map(_without_total, spelt.terms))
            yield dataclasses.replace(spelt, terms=short, beside=beside and _without_total(beside))

    def respell_fields(table: Fields) -> Fields:
        return {field: tuple(s for way in ways for s in spellings(field, way)) for field, ways in table.items()}

    more = tuple(label for label in replicas or () if label not in kind.replicas)
    variants = tuple(
        Variant(tuple(map(respell, v.known_by)), (*v.replicas, *more), respell_fields(v.fields)) for v in kind.variants
    )
    return dataclasses.replace(
        kind,
        name=name,
        markers=(new,),
        fields=respell_fields(kind.fields),
        when_decode=respell_fields(kind.when_decode),
        histograms=respell_fields(kind.histograms),
        variants=variants,
        replicas=kind.replicas if replicas is None else replicas,
        note=note,
    )
