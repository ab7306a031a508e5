"""Which series of a page belong to which of the engines behind it. Pure.

Labels decide: those of a kind's `replicas`, and the model, make an engine; those of its `copies` repeat one engine's
work, and the lowest is kept; all others are parts to be added up. A series with fewer labels than the engines have
belongs to the only one that it fits, or to none; `engine_divided` has those that are divided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wattmill_collector.sources.engine_tables import Alternative, EngineKind, Term
from wattmill_collector.sources.promtext import Series

Key = tuple[str | None, ...]
ROLE_LABELS = ("engine_type", "dynamo_component")  # SGLang's, and that of a worker behind Dynamo
ROLES = frozenset({"prefill", "decode"})


def choose(ways: Sequence[Alternative], series: Sequence[Series]) -> Alternative | None:
    """The first alternative that the page has, with what it is a part of or stands beside."""
    for way in ways:
        if any(t is not None and not _any_matches(t, series) for t in (way.per, way.beside)):
            continue
        if all(_any_matches(term, series) for term in way.terms):
            return way
        if way.lazy and any(s.name == t.name for t in way.terms for s in series):
            return way
    return None


def grouped(
    way: Alternative, series: Sequence[Series], kind: EngineKind, replicas: Sequence[str]
) -> dict[Key, list[list[int]]]:
    """For each engine the places of each term's series, and at last of what they are over, copies left out."""
    groups: dict[Key, list[list[int]]] = {}
    terms = way.terms if way.per is None else (*way.terms, way.per)
    for nth, term in enumerate(terms):
        kept: dict[tuple[tuple[str, str], ...], tuple[tuple[str, ...], int]] = {}
        for place, s in enumerate(series):
            if not _matches(term, s):
                continue
            rest = tuple(sorted((k, v) for k, v in s.labels.items() if k not in kind.copies))
            rank = _rank(s, kind.copies)
            if rest not in kept or rank < kept[rest][0]:
                kept[rest] = rank, place
        for _, place in kept.values():
            key = _key(series[place], kind.model_labels, replicas)
            groups.setdefault(key, [[] for _ in terms])[nth].append(place)
    return groups


def whole(keys: Sequence[Key]) -> list[Key]:
    """The keys that name one engine fully: none of the others says more."""
    return [key for key in keys if sum(fits(key, other) for other in keys) == 1]


def own(key: Key, engines: Sequence[Key], found: Mapping[Key, list[int]]) -> list[int] | None:
    """The places of one engine: its own series, and those with fewer labels that can be no other engine's."""
    places = [
        place
        for one, where in found.items()
        if one == key or (fits(one, key) and sum(fits(one, other) for other in engines) == 1)
        for place in where
    ]
    return places or None


def _rank(series: Series, copies: Sequence[str]) -> tuple[str, ...]:
    return tuple(series.labels.get(label, "").rjust(9, "0") for label in copies)


def role_of(series: Sequence[Series]) -> str:
    """The part of a disaggregated pair that the labels of these series speak of; empty when of none, or of both."""
    said = {s.labels[label] for s in series for label in ROLE_LABELS if label in s.labels}
    roles = said & ROLES
    return roles.pop() if len(roles) == 1 else ""


def _any_matches(term: Term, series: Sequence[Series]) -> bool:
    return any(_matches(term, s) for s in series)


def _matches(term: Term, series: Series) -> bool:
    if series.name != term.name:
        return False
    return all(series.labels.get(label, values[0]) in values for label, values in term.select)


def _key(series: Series, model_labels: Sequence[str], replicas: Sequence[str]) -> Key:
    model = next((series.labels[label] for label in model_labels if label in series.labels), None)
    return model, *(series.labels.get(label) for label in replicas)


def fits(key: Key, other: Key) -> bool:
    """Whether `other` may be the engine that a series with the labels `key` speaks of."""
    return all(a is None or a == b for a, b in zip(key, other, strict=True))
