"""What one gateway's page says, by the table: for every series who it is about, what it counts, and its value.

Pure: bytes in, lines out. Names of callers are as the gateway shows them, except that what looks like a secret is
replaced by a hash here, before anything keeps it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from wattmill_collector.catalogue import INT64_MAX
from wattmill_collector.sources.gateway_tables import DIMENSIONS, FIELDS, PROCESS_START, RESOURCE, Family, GatewayKind
from wattmill_collector.sources.promtext import PageReader, ParseError, Series, number
from wattmill_collector.wire import MAX_KEY_BYTES

# Labels that a gateway fills in where it knows nothing.
_NOTHING = frozenset({"", "None", "none", "null", "<nil>"})
# The UTF-8 spelling of a name: {"gen_ai.client.token.usage_sum", "gen_ai.token.type"="input"} 7
_QUOTED = re.compile(rb'^\{[ \t]*"([a-zA-Z0-9_.:]+)"[ \t]*(?:,|(?=\}))', re.MULTILINE)
_SECRET = re.compile(
    r"(?i)(bearer\s+\S{8,}|(sk|pk|rk|ak|gh[opsu]|xox[abp]|hf|glpat|key|api)[-_]\S{16,}|eyJ\S+\.\S+\.\S*)"
)
_HEX = re.compile(r"[0-9a-fA-F-]+")
_RANDOM = re.compile(r"(?=.*[0-9])(?=.*[a-zA-Z])[a-zA-Z0-9_+/=]{24,}")
_WORDS = re.compile(r"[a-z]{3,}[_-]|[_-][a-z]{3,}")


class Consumer(NamedTuple):
    """Who drew tokens, of which model; empty is not known."""

    model: str = ""
    provider: str = ""
    team: str = ""
    api_key: str = ""
    user: str = ""
    agent: str = ""


_LONGEST = (256, 64, 256, 256, 256, 256)  # characters of each, as the wire takes them
Key = tuple[str, tuple[tuple[str, str], ...]]  # a series: its name and labels


class Line(NamedTuple):
    """One series: `field` is a place in FIELDS; `value` None: it is there but can't be used."""

    key: Key
    consumer: Consumer
    field: int
    value: int | None


class NotUnderstoodError(ValueError):
    """The target answers, but with no page of a gateway in the table."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where a series stands in the list of printed values, and what it is."""

    key: Key
    consumer: Consumer
    field: int
    index: int


class GatewayPage:
    """Reads the page of one target, time after time. `labels`: dimension → label, in the place of the table's."""

    def __init__(
        self, kinds: Sequence[GatewayKind], labels: Mapping[str, str] | None = None, providers: Iterable[str] = ()
    ) -> None:
        self.kind: GatewayKind | None = None
        self.process_start = b""
        self.shown: frozenset[int] = frozenset()  # the fields whose family is on the page
        self.not_computed = 0  # tokens that were counted, though no engine computed them
        self._kinds = tuple(kinds)
        self._labels = dict(labels or {})
        self._providers = frozenset(map(str.casefold, providers))
        self._prefix = ""
        self._reader = PageReader(())
        self._planned: tuple[Series, ...] | None = None
        self._places: tuple[_Place, ...] = ()
        self._start_place: int | None = None
        self._not_computed: list[int] = []

    def read(self, page: bytes) -> list[Line]:
        """The series that count tokens or requests. Sets `kind`, `shown`, `not_computed`, `process_start`.

        Errors: ParseError; NotUnderstoodError.
        """
        if b'{"' in page:
            page = _QUOTED.sub(lambda m: m[1].replace(b".", b"_") + b"{", page)
        texts = self._reader.read(page)
        if self.kind is None or not self._reader.series:
            self._recognise(page)
            texts = self._reader.read(page)
        assert self.kind is not None
        if self._reader.series is not self._planned:
            self._plan(self._reader.series, self._empty_families(page))
            self._planned = self._reader.series
        self.process_start = b"" if self._start_place is None else texts[self._start_place]
        self.not_computed = sum(_count(texts[index]) or 0 for index in self._not_computed)
        return [Line(p.key, p.consumer, p.field, _count(texts[p.index])) for p in self._places]

    def _recognise(self, page: bytes) -> None:
        for kind in self._kinds:
            prefix = kind.prefix(page)
            if prefix is not None:
                self.kind, self._prefix = kind, prefix
                names = {*(prefix + name for name in kind.families()), kind.not_computed} - {""}
                self._reader = PageReader({PROCESS_START, RESOURCE, *names})
                return
        wanted = self._kinds[0].name if len(self._kinds) == 1 else "any gateway that is known here"
        raise NotUnderstoodError(f"the page has no token counter of {wanted}")

    def _empty_families(self, page: bytes) -> frozenset[str]:
        """Names whose TYPE line is there: such a family without a series has counted nothing yet."""
        assert self.kind is not None
        found = set()
        for name in set(self.kind.families()):
            whole = self._prefix + name  # OpenMetrics, and a histogram, have the line under the name without its ending
            spellings = {whole, whole.removesuffix("_total"), whole.removesuffix("_count")}
            if any(b"# TYPE " + spelling.encode() + b" " in page for spelling in spellings):
                found.add(name)
        return frozenset(found)

    def _plan(self, series: Sequence[Series], typed: frozenset[str]) -> None:
        assert self.kind is not None
        labels = [{name.replace(".", "_"): value for name, value in one.labels.items()} for one in series]
        by_name: dict[str, list[int]] = {}
        for index, one in enumerate(series):
            by_name.setdefault(one.name, []).append(index)
        starts = by_name.get(PROCESS_START, [])
        # One with labels was passed on by a collector, and speaks of somebody else.
        self._start_place = starts[0] if len(starts) == 1 and not labels[starts[0]] else None
        self._not_computed = by_name.get(self.kind.not_computed, [])
        resources = by_name.get(RESOURCE, []) if self.kind.resource else []
        common = labels[resources[0]] if len(resources) == 1 else {}
        places: list[_Place] = []
        shown: set[int] = set()
        drew: set[Consumer] = set()
        telling: set[str] = set()  # labels of the series that count tokens
        for field, name in enumerate(FIELDS):
            ways = self.kind.fields.get(name, ())
            found = {way: self._matching(by_name, labels, way) for way in ways}
            there = [way for way in ways if found[way]]
            if name == "requests_finished":  # one that does not say who, where the settings ask for it, is of no use
                asked = telling.intersection(label.replace(".", "_") for label in self._labels.values())
                there = [way for way in there if asked <= {*common, *labels[found[way][0]]}]
            chosen = there[0] if there else None
            silent = not any(found.values()) and any(way.name in typed and not way.label for way in ways)
            if chosen is not None or silent:
                shown.add(field)
            for index in found[chosen] if chosen else ():
                said = common | labels[index]
                if name == "requests_finished":  # of LiteLLM's it may say more, such as `user_agent`
                    said = {label: value for label, value in said.items() if label in telling}
                telling.update(said)
                consumer = self._consumer(said)
                # A family of requests that tells callers less apart than the tokens' would make up consumers.
                if consumer is not None and (name != "requests_finished" or consumer in drew):
                    key = (series[index].name, tuple(sorted(labels[index].items())))
                    places.append(_Place(key, consumer, field, index))
                    drew.add(consumer)
        self._places, self.shown = tuple(places), frozenset(shown)

    def _matching(
        self, by_name: Mapping[str, list[int]], labels: Sequence[Mapping[str, str]], family: Family
    ) -> list[int]:
        found: dict[tuple[tuple[str, str], ...], int] = {}
        for name in family.names:
            for index in by_name.get(self._prefix + name, ()):
                if not family.label or labels[index].get(family.label) in family.values:
                    found.setdefault(tuple(sorted(labels[index].items())), index)
        return list(found.values())

    def _consumer(self, labels: Mapping[str, str]) -> Consumer | None:
        """None: its provider is not one that is wanted."""
        assert self.kind is not None
        said: dict[str, str] = {}
        for dimension, longest in zip(DIMENSIONS, _LONGEST, strict=True):
            names: Sequence[str] = self.kind.labels.get(dimension, ())
            if dimension in self._labels:
                names = [self._labels[dimension].replace(".", "_")]
            value = next((v for name in names if (v := labels.get(name, "").strip()) not in _NOTHING), "")
            if dimension not in ("model", "provider"):
                value = safe(value, is_key=dimension == "api_key")
            said[dimension] = _storable(value, longest)
        if self._providers and said["provider"].casefold() not in self._providers:
            return None
        return Consumer(**said)


@functools.lru_cache(20_000)
def safe(name: str, *, is_key: bool = False) -> str:
    """A name as it may leave this node: what looks like a secret becomes the first 12 hex digits of its hash.

    Digits in hex, as of a hash or a UUID, stay: LiteLLM shows keys hashed already. `is_key`: the label is meant to name
    a key, so a long text without a word in it is taken for one.
    """
    if _HEX.fullmatch(name):
        return name
    if _SECRET.search(name) or (is_key and _RANDOM.fullmatch(name) and not _WORDS.search(name)):
        return hashlib.blake2b(name.encode("utf-8", "replace")).hexdigest()[:12]
    return name


def _count(text: bytes) -> int | None:
    if text.isdigit():
        value = int(text[:20])
        return value if value <= INT64_MAX else None
    try:
        printed = number(text)
    except ParseError:
        return None
    if not math.isfinite(printed) or not 0 <= printed <= INT64_MAX or not printed.is_integer():
        return None
    return int(printed)


def _storable(text: str, longest: int) -> str:
    """As much of a text as the wire takes for a part of a key."""
    cut = text.replace("\x00", "\ufffd")[:longest]
    return cut.encode("utf-8", "replace")[:MAX_KEY_BYTES].decode(errors="ignore")
