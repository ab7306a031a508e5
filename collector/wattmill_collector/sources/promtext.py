"""Prometheus text pages: read the few series that are wanted, skip the rest at next to no cost.

Two readers. `parse` takes a whole page apart, line by line, and is the plain truth. `PageReader` reads the same page
every tick: it remembers where the wanted series stood and looks there first, so that a warm page of any length costs
about a microsecond a wanted series. Each remembered series is checked against the page byte for byte; whenever the
number of lines changes, a series is not where it was expected, or `RELEARN_READS` reads have passed, the page is
learned anew (counting line ends costs more than reading the values, so it is left out while the length is steady).

Promises: bytes in, nothing else touched; any input either yields series or raises `ParseError`; both the Prometheus and
the OpenMetrics spelling are read (time stamps, exemplars, CRLF, `# EOF`, quoted names). TYPE and HELP lines
are skipped: what a series means is in `engine_tables.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

MAX_SERIES = 50_000
MAX_LINES = 4 * MAX_SERIES  # comments and blank lines included; keeps a page of line ends from filling memory
RELEARN_READS = 60
SHORTEST_LINE_BYTES = 24  # a new series with its TYPE line takes more; a smaller change is values changing their width
NEARBY_BYTES = 512  # how far a line may have moved against its neighbour before the rest of the page is searched
FAR_SEARCHES = 8  # in one read; a page whose lines have changed places is cheaper to learn anew than to search for each

# Possessive quantifiers: no backtracking, so a hostile line costs time in proportion to its length.
_SERIES = re.compile(rb'[ \t]*+([a-zA-Z_:][a-zA-Z0-9_:]*+)?[ \t]*+(\{(?:[^"{}]|"(?:[^"\\]|\\.)*+")*+\})?[ \t]*+')
_LABEL = re.compile(
    rb'[ \t]*+(?:([a-zA-Z_][a-zA-Z0-9_]*+|"(?:[^"\\]|\\.)*+")[ \t]*+=[ \t]*+)?"((?:[^"\\]|\\.)*+)"[ \t]*+(?:,|\Z)'
)
_NAME = re.compile(rb"[ \t]*+([a-zA-Z_:][a-zA-Z0-9_:]*+)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}


class ParseError(ValueError):
    """The page is not Prometheus text, or has more of it than any engine would show."""


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """One time series as it is named on the page."""

    name: str
    labels: Mapping[str, str]


def parse(page: bytes) -> Iterator[tuple[Series, float]]:
    """Every series of a page with its value, in page order.

    Errors: ParseError naming the line.
    """
    for number_, line in enumerate(_lines(page), 1):
        if not line.strip() or line.lstrip()[:1] == b"#":
            continue
        split = split_line(line)
        if split is None:
            raise ParseError(f"line {number_} is not a series: {line[:80]!r}")
        yield Series(split[0], split[1]), number(value_text(line[split[2] :]))


def split_line(line: bytes) -> tuple[str, dict[str, str], int] | None:
    """Name, labels and the place where the value begins; None when the line is not a series."""
    match = _SERIES.match(line)
    if match is None or match.end() == len(line) or not (match[1] or match[2]):
        return None
    name, braces = match[1], match[2]
    if not braces and line[match.end() - 1] not in b" \t":
        return None  # "name\xff 1": the name does not end where a name may end
    labels: dict[str, str] = {}
    inner = braces[1:-1].strip() if braces else b""
    position = 0
    while position < len(inner):
        label = _LABEL.match(inner, position)
        if label is None:
            return None
        if label[1] is None:  # OpenMetrics writes a name of any characters as the first thing inside the braces
            if name is not None or labels:
                return None
            name = label[2]
        else:
            key = label[1]
            labels[_unescape(key[1:-1] if key.startswith(b'"') else key)] = _unescape(label[2])
        position = label.end()
    return _unescape(name or b""), labels, match.end()


def value_text(rest: bytes) -> bytes:
    """The value alone: what follows it is a time stamp or an exemplar."""
    words = rest.split(None, 1)
    return words[0] if words else b""


def number(text: bytes) -> float:
    """A printed value. Errors: ParseError (Python alone would also take `1_000`)."""
    try:
        if b"_" not in text:
            return float(text)
    except ValueError:
        pass
    raise ParseError(f"not a number: {text[:40]!r}")


def unescape_json(page: bytes) -> bytes:
    """The page that llama.cpp b7010 to b7192 sent as one JSON string (its PR 17386); any other comes back as it is."""
    if page[:1] != b'"' or page[-1:] != b'"':
        return page
    text = page[1:-1].decode(errors="replace")
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), text).encode()


def _unescape(raw: bytes) -> str:
    text = raw.decode(errors="replace")
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[0]), text) if "\\" in text else text


def _lines(page: bytes) -> list[bytes]:
    if page.count(b"\n") > MAX_LINES:
        raise ParseError(f"more than {MAX_LINES} lines")
    return page.split(b"\n")


class PageReader:
    """Reads the wanted series of one target's page, tick after tick.

    `series` is replaced by a new tuple whenever the set of wanted series on the page changes, and stays the same object
    otherwise: whatever was worked out for it holds for as long as it is the same object.

    `repeats`: a series that appears twice is read where it stands first (exporters that write their pages by hand show
    a board once for every pod on it); else that is an error.
    """

    _phases = itertools.count()  # readers of several targets learn at different ticks

    __slots__ = ("_length", "_lines", "_needles", "_offsets", "_phase", "_reads", "_repeats", "_wanted", "series")

    def __init__(self, wanted: Iterable[str], *, repeats: bool = False) -> None:
        self.series: tuple[Series, ...] = ()
        self._wanted = frozenset(name.encode() for name in wanted)
        self._repeats = repeats
        self._needles: list[bytes] = []  # a line end and all of the line before its value: no other place can match
        self._offsets: list[int] = []
        self._length = -1
        self._lines = 0
        self._reads = 0
        self._phase = next(PageReader._phases) * 7 % RELEARN_READS

    def read(self, page: bytes) -> list[bytes]:
        """The printed values of `series`, in its order.

        Errors: ParseError when a wanted series is malformed, appears twice, or the page is over the limits.
        """
        page = b"\n" + page  # the first line, too, has a line end before it
        self._reads += 1
        if self._length >= 0 and self._reads < RELEARN_READS and self._same_shape(page):
            texts = self._look(page)
            if texts is not None:
                return texts
        return self._learn(page)

    def _same_shape(self, page: bytes) -> bool:
        grown = len(page) - self._length
        self._length = len(page)
        return abs(grown) < SHORTEST_LINE_BYTES or page.count(b"\n") == self._lines

    def _look(self, page: bytes) -> list[bytes] | None:
        texts: list[bytes] = []
        offsets = self._offsets
        find, starts, keep = page.find, page.startswith, texts.append
        shift = 0  # values grow by a digit now and then, and push all that follows along
        far = 0
        for index, needle in enumerate(self._needles):
            offset = offsets[index] + shift
            if not starts(needle, offset):
                found = find(needle, max(0, offset - NEARBY_BYTES), max(0, offset + len(needle) + NEARBY_BYTES))
                if found < 0:
                    far += 1
                    if far > FAR_SEARCHES or (found := find(needle)) < 0:
                        return None
                shift += found - offset
                offset = found
            offsets[index] = offset
            start = offset + len(needle)
            end = find(b"\n", start)
            text = page[start:end] if end >= 0 else page[start:]
            keep(text if text.isalnum() else value_text(text))
        return texts

    def _learn(self, page: bytes) -> list[bytes]:
        self._length = -1  # stays so when the page turns out to be unreadable
        lines = _lines(page)
        if len(lines) > MAX_SERIES and sum(1 for line in lines if line and line[0] != 35) > MAX_SERIES:
            raise ParseError(f"more than {MAX_SERIES} series")
        wanted = self._wanted
        if b"\t" in page or b"\n " in page:
            places = [i for i, line in enumerate(lines) if (m := _NAME.match(line)) is not None and m[1] in wanted]
        else:
            places = [i for i, line in enumerate(lines) if line.partition(b"{")[0].partition(b" ")[0] in wanted]
        ends = list(itertools.accumulate(map(len, lines)))
        resolved = dict(zip(self._needles, self.series, strict=True))
        found: dict[bytes, Series] = {}
        seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()  # labels in another order are the same series
        offsets: list[int] = []
        texts: list[bytes] = []
        for place in places:
            line = lines[place]
            split = split_line(line)
            if split is None:
                raise ParseError(f"not a series: {line[:80]!r}")
            needle = b"\n" + line[: split[2]]
            series = split[0], frozenset(split[1].items())
            if series in seen:
                if self._repeats:
                    continue
                raise ParseError(f"appears twice: {line[:80]!r}")
            seen.add(series)
            found[needle] = resolved.get(needle) or Series(split[0], split[1])
            offsets.append(ends[place] - len(line) + place - 1)
            texts.append(value_text(line[split[2] :]))
        needles = list(found)
        if needles != self._needles:
            self.series = tuple(found.values())
        self._needles, self._offsets = needles, offsets
        self._length, self._lines, self._reads = len(page), len(lines) - 1, self._phase
        self._phase = 0
        return texts
