"""Golden pages spoilt in every way that has been thought of: a true value or none with a reason, never a wrong one."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import itertools
import re
from collections.abc import Callable, Iterator, Mapping

import pytest

from support.golden_pages import GOLDEN, golden
from wattmill_collector.catalogue import Histogram
from wattmill_collector.sources.engine_pages import EnginePage, EngineValues, NotUnderstoodError
from wattmill_collector.sources.engine_tables import ENGINE_KINDS, EngineKind, Term, recognise, series_of
from wattmill_collector.sources.engine_tables.kinds import Fields
from wattmill_collector.sources.promtext import MAX_SERIES, ParseError

Value = int | float | Histogram | None
SERIES = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^\n]*\})?( )([^ \n]+)$", re.MULTILINE)
VALUES = [
    "NaN",
    "nan",
    "-nan",
    "+Inf",
    "-Inf",
    "-1",
    "1e300",
    "9223372036854775808",
    "1.5",
    "twelve",
    "1_0",
    "0x1F",
    "",
]
pages = pytest.mark.parametrize("name", GOLDEN)


def kind_of(name: str) -> EngineKind:
    kind = recognise(golden(name))
    assert kind is not None
    return kind


def tables_of(kind: EngineKind) -> list[Fields]:
    return [kind.fields, kind.when_decode, kind.histograms, *(v.fields for v in kind.variants)]


def fields_of(kind: EngineKind, metric: bytes) -> set[str]:
    """The fields for which a series name is looked at."""
    return {
        field
        for table in tables_of(kind)
        for field, ways in table.items()
        if any(term.name.encode() == metric for way in ways for term in series_of(way))
    }


def wanted_names(name: str) -> list[bytes]:
    """The series names on a page that its engine's entry reads."""
    kind = kind_of(name)
    names = kind.names() | kind.histogram_names()
    return sorted({m[1] for m in SERIES.finditer(golden(name)) if m[1].decode() in names})


def lean(name: str) -> bytes:
    """The page without what nobody reads; the markers of its kind stay."""
    names = set(wanted_names(name))
    kept = [m[0] for m in SERIES.finditer(golden(name)) if m[1] in names]
    markers = [f'{marker}x{{engine_type="x",worker_addr="x"}} 0'.encode() for marker in kind_of(name).markers]
    return b"\n".join([*markers, *kept]) + b"\n"


def read(page: bytes, kinds: tuple[EngineKind, ...] = ENGINE_KINDS) -> dict[str, EngineValues] | None:
    """The engines of a page by their names; None when it is refused, which is said and counts nothing."""
    reader = EnginePage(kinds)
    try:
        reader.scan(page)
        return {engine.series: engine for engine in reader.values()}
    except (ParseError, NotUnderstoodError):
        return None


@functools.cache
def truth(name: str) -> dict[str, Mapping[str, Value]]:
    found = read(golden(name))
    assert found is not None
    return {series: engine.values for series, engine in found.items()}


def subsets(terms: tuple[Term, ...]) -> Iterator[tuple[Term, ...]]:
    """All of them but the empty one."""
    for size in range(1, len(terms) + 1):
        yield from itertools.combinations(terms, size)


@functools.cache
def ways_to_say_it(name: str) -> dict[tuple[str, str], list[Value]]:
    """For each engine and field all that the whole page says by any alternative of the table."""
    kind, page = kind_of(name), lean(name)
    found: dict[tuple[str, str], list[Value]] = {}
    told_apart = {kind.replicas, *(v.replicas for v in kind.variants)}
    for fields, replicas in itertools.product(tables_of(kind), told_apart):
        for field, ways in fields.items():
            # of a sum whose parts come with use, any may be all that there is yet
            parts = [dataclasses.replace(way, terms=some) for way in ways if way.lazy for some in subsets(way.terms)]
            for way in (*ways, *parts):
                one = {field: (way,)}
                alone = dataclasses.replace(
                    kind,
                    fields=kind.fields if fields is kind.histograms else one,
                    histograms=one if fields is kind.histograms else {},
                    variants=(),
                    when_decode={},
                    replicas=replicas,
                )
                for series, engine in (read(page, (alone,)) or {}).items():
                    found.setdefault((series, field), []).append(engine.values.get(field))
    return found


def check(name: str, spoilt: bytes, doubtful: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Every value is one that the whole page says, or none with a reason."""
    true = truth(name)
    for series, engine in (read(spoilt) or {}).items():
        faulty = {field for field, _ in engine.faults}
        for field, value in engine.values.items():
            if value is None:
                assert field in faulty
            elif field not in doubtful and value != true.get(series, {}).get(field):
                assert value in ways_to_say_it(name)[series, field]


def of_first(name: bytes, new: Callable[[re.Match[bytes]], bytes]) -> Callable[[bytes], bytes]:
    """Spoils the first series of a name."""
    return lambda page: re.sub(rb"(?m)^(" + re.escape(name) + rb")((?:\{[^\n]*\})?)( )(\S+)$", new, page, count=1)


@pages
def test_a_value_that_can_be_none_costs_its_own_fields_and_no_other(name: str) -> None:
    page, true = lean(name), truth(name)
    for metric, value in itertools.product(wanted_names(name), VALUES):
        spoilt = of_first(metric, lambda m, v=value: m[1] + m[2] + m[3] + v.encode())(page)  # type: ignore[misc]
        found = read(spoilt)
        if found is None:
            assert value == ""  # a line without a value is no series
            continue
        own = fields_of(kind_of(name), metric)
        check(name, spoilt, own & {"kv_cache_usage_ratio"})  # a ratio may be any number up to 1
        for series, engine in found.items():
            unread = {field for field, reason in engine.faults if reason == "not_understood"}
            for field in true[series].keys() - own - unread:
                assert engine.values[field] == true[series][field]


@pages
def test_a_family_that_is_missing_or_renamed_leaves_its_field_to_another_name_or_unknown(name: str) -> None:
    page = lean(name)
    for metric in wanted_names(name):
        check(name, re.sub(rb"(?m)^" + re.escape(metric) + rb"[{ ].*\n", b"", page))
        check(name, re.sub(rb"(?m)^" + re.escape(metric) + rb"([{ ])", metric + rb"_v2\1", page))


@pages
def test_a_series_that_is_there_twice_is_refused(name: str) -> None:
    page = lean(name)
    for metric in wanted_names(name):
        check(name, of_first(metric, lambda m: m[0] + b"\n" + m[1] + m[2] + b" 7")(page))


@pages
def test_other_spellings_of_the_same_page_say_the_same(name: str) -> None:
    page, true = golden(name), truth(name)

    def said(spelt: bytes) -> dict[str, Mapping[str, Value]]:
        found = read(spelt)
        assert found is not None
        assert all(engine.faults == () for engine in found.values())
        return {series: engine.values for series, engine in found.items()}

    bucket = re.compile(rb"(?m)^(\S*_bucket\{[^\n]*\} \S+)$")
    assert said(page.replace(b"\n", b"\r\n")) == true
    assert said(SERIES.sub(rb"\g<0> 1764030250123", page)) == true
    assert said(bucket.sub(rb'\1 # {trace_id="} 9 \\" 5"} 0.67 1764030250.5', page)) == true
    assert said(page + b"# EOF\n") == true
    assert said(page + b"# EOF") == true
    assert said(SERIES.sub(rb"  \g<0>", page)) == true
    assert said(page.replace(b"\n", b"\n\n")) == true
    assert said(b"\n".join(line for line in page.split(b"\n") if not line.startswith(b"#"))) == true


def cuts(page: bytes, most: int) -> Iterator[int]:
    """Places to cut a page, anywhere but after a line end: what ends there may be a whole page of less."""
    for at in range(1, len(page), max(1, len(page) // most)):
        if page[at - 1 : at] != b"\n":
            yield at


@pages
def test_a_page_that_is_cut_off_shows_no_number_that_lacks_digits_and_no_sum_that_lacks_a_part(name: str) -> None:
    """Over HTTP such a body does not come to be read at all: it is shorter than announced."""
    page = lean(name)
    for at in cuts(page, 400):
        check(name, page[:at])


@pages
def test_no_digit_of_any_value_can_be_cut_off(name: str) -> None:
    page = lean(name)
    for metric in wanted_names(name):
        *_, last = re.finditer(rb"(?m)^" + re.escape(metric) + rb"(?:\{[^\n]*\})? (\S+)$", page)
        for at in range(last.start(1), last.end(1) + 1):
            check(name, page[:at])


@pytest.mark.parametrize(
    "page",
    [
        gzip.compress(b"vllm:prompt_tokens_total 5\n", mtime=0),
        gzip.compress(b"vllm:prompt_tokens_total 5\n", mtime=0).decode("latin-1").encode(),
        b"<!DOCTYPE html><html><body>vllm:prompt_tokens_total 5</body></html>\n",
        b"<html>\nvllm\n</html>",
        b'{"detail":"Not Found"}',
        b"\x00" * 1000,
        b"\xef\xbb\xbf",
        b"upstream connect error or disconnect/reset before headers",
    ],
)
def test_what_is_no_page_of_metrics_is_refused(page: bytes) -> None:
    assert read(page) is None


@pytest.mark.parametrize("label", ["finished_reason", "engine", "model_name", "le", "pod"])
def test_fifty_thousand_label_values_are_refused_or_added_up_and_never_wrong(label: str) -> None:
    many = "".join(f'vllm:request_success_total{{{label}="{i}"}} 1\n' for i in range(MAX_SERIES + 1))
    assert read(b"vllm:generation_tokens_total 5\n" + many.encode()) is None
    some = "".join(f'vllm:request_success_total{{{label}="{i}"}} 1\n' for i in range(20_000))
    found = read(b"vllm:generation_tokens_total 5\n" + some.encode())
    if label in ("engine", "model_name"):
        assert found is None  # more engines than one target can have
    else:
        assert found is not None
        assert found[""].values == {"output_tokens": 5, "requests_finished": 20_000}
