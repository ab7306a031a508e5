"""Prometheus text: prometheus_client as an oracle, hostile bytes, and the fast path against the plain one."""

from __future__ import annotations

import contextlib
import math
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from wattmill_collector.sources import promtext
from wattmill_collector.sources.promtext import PageReader, ParseError, parse, unescape_json

PAGES = sorted((Path(__file__).parents[2] / "fixtures/metrics").glob("*.prom"))


def listed(page: bytes) -> list[tuple[str, dict[str, str], str]]:
    return [(s.name, dict(s.labels), repr(value)) for s, value in parse(page)]


def by_the_oracle(page: bytes) -> list[tuple[str, dict[str, str], str]]:
    # told that it is a counter, prometheus_client would spell `n_tokens_max` with `_total`; we read names as they stand
    families = text_string_to_metric_families(
        "\n".join(x for x in page.decode().split("\n") if not x.startswith("# TYPE"))
    )
    return [(s.name, dict(s.labels), repr(float(s.value))) for family in families for s in family.samples]


def read(page: bytes, *names: str) -> dict[str, bytes]:
    reader = PageReader(names)
    texts = reader.read(page)
    return {s.name: text for s, text in zip(reader.series, texts, strict=True)}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_engine_pages_read_as_the_oracle_reads_them(path: Path) -> None:
    page = path.read_bytes()
    assert sorted(listed(page), key=repr) == sorted(by_the_oracle(page), key=repr)
    assert page.startswith(b"# provenance: ")


@pytest.mark.parametrize(
    ("line", "name", "labels", "value"),
    [
        (b"a 1", "a", {}, 1.0),
        (b"a 1.23457e+06", "a", {}, 1234570.0),
        (b"a 1.5e+010", "a", {}, 1.5e10),
        (b"a +Inf", "a", {}, math.inf),
        (b"a -Inf", "a", {}, -math.inf),
        (b"a 1 1700000000000", "a", {}, 1.0),
        (b"a\t1\r", "a", {}, 1.0),
        (b"  a  1", "a", {}, 1.0),
        (b"a{} 1", "a", {}, 1.0),
        (b'a{b="c"} 1', "a", {"b": "c"}, 1.0),
        (b'a {b = "c" , d="e",} 1', "a", {"b": "c", "d": "e"}, 1.0),
        (b'a{b="} 2 \\" \\\\ \\n # x"} 1', "a", {"b": '} 2 " \\ \n # x'}, 1.0),
        (b'a_bucket{le="1"} 5 # {trace_id="} 9"} 0.67 1700000000.5', "a_bucket", {"le": "1"}, 5.0),
        (b'{"a.b",c="d"} 1', "a.b", {"c": "d"}, 1.0),
        ('a{b="\u00e9"} 1'.encode(), "a", {"b": "\u00e9"}, 1.0),
    ],
)
def test_one_line(line: bytes, name: str, labels: dict[str, str], value: float) -> None:
    ((series, found),) = parse(b"# TYPE a counter\n\n" + line + b"\n# EOF\n")
    assert (series.name, series.labels, found) == (name, labels, value)


def test_nan_in_all_spellings() -> None:
    assert all(math.isnan(value) for _, value in parse(b"a NaN\nb nan\nc -nan\n"))


@pytest.mark.parametrize(
    "page",
    [
        b"a",
        b"a b",
        b"a 1_000",
        b"a{ 1",
        b'a{b="c} 1',
        b"a{b=c} 1",
        b'a{"b"} 1',
        b"1a 2",
        b"<html>",
        b"a\xff 1",
        b'{c="d"',
        b"a 0x10",
    ],
)
def test_what_is_no_series_is_a_parse_error(page: bytes) -> None:
    with pytest.raises(ParseError):
        list(parse(page))


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_either_parse_or_raise_parse_error(noise: bytes) -> None:
    for page in (noise, b'wanted{a="' + noise + b'"} 1\n', b"wanted 1\n" + noise + b'\nwanted{b="c"} 2\n'):
        with contextlib.suppress(ParseError):
            list(parse(page))
        reader = PageReader(["wanted"])
        for _ in range(2):
            try:
                texts = reader.read(page)
            except ParseError:
                continue
            assert len(texts) == len(reader.series)


values = st.one_of(st.integers(0, 2**53).map(str), st.floats(allow_nan=False).map(repr), st.just("+Inf"))
label_texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\x1c\x1d\x1e\x85\u2028\u2029\x0b\x0c"), max_size=12
)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


series_lines = st.builds(
    lambda name, labels, value, stamp: (
        name
        + ("{" + ",".join(f'{k}="{escaped(v)}"' for k, v in labels.items()) + "}" if labels else "")
        + f" {value}{stamp}"
    ),
    st.sampled_from(["a", "b_total", "vllm:c", "d_sum"]),
    st.dictionaries(st.sampled_from(["x", "y", "model_name"]), label_texts, max_size=3),
    values,
    st.sampled_from(["", " 1700000000000"]),
)


@given(st.lists(series_lines, max_size=12, unique_by=lambda line: line.rpartition("}")[0] or line.partition(" ")[0]))
@settings(max_examples=300, deadline=None)
def test_generated_pages_read_as_the_oracle_reads_them(lines: list[str]) -> None:
    page = ("\n".join(lines) + "\n").encode()
    assert sorted(listed(page), key=repr) == sorted(by_the_oracle(page), key=repr)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("pqrstu"), st.integers(0, 10**9)), max_size=8), min_size=1, max_size=8)
)
@settings(max_examples=200, deadline=None)
def test_the_fast_path_reads_what_the_plain_path_reads(ticks: list[list[tuple[str, int]]]) -> None:
    """Pages whose series come, go and move about from tick to tick; p, q and r are wanted."""
    reader = PageReader(["p", "q", "r"])
    for rows in ticks:
        page = "# HELP p x\n" + "".join(f'{name}{{model="m"}} {value}\n' for name, value in dict(rows).items())
        texts = reader.read(page.encode())
        found = {s.name: float(text) for s, text in zip(reader.series, texts, strict=True)}
        shown = {s.name: value for s, value in parse(page.encode()) if s.name in "pqr"}
        # a new series that fits into the bytes that others gave up is seen at the next learning; none is seen wrong
        assert found.items() <= shown.items()


WANTED = ["p", "q_total", "vllm:r"]
odd_names = st.sampled_from(["p", "q_total", "vllm:r", "p_x", "px", "q", "{", "9p", "#p"])
odd_labels = st.sampled_from(
    [
        "",
        "{}",
        '{a="1"}',
        '{ a = "1" , }',
        '{a="} 9"}',
        r'{a="\"\\\n"}',
        '{a="1"',
        "{a=1}",
        '{"q.x",a="1"}',
        '{a="\u00e9"}',
    ]
)
odd_values = st.sampled_from(
    ["1", "1.5e+010", "NaN", "+Inf", "-0", "", "1 1700000000000", '1 # {t="} 2"} 3', "1_0", "x"]
)
odd_series = st.builds(
    lambda indent, name, labels, gap, value: indent + name + labels + (gap or " " * (not labels)) + value,
    st.sampled_from(["", " ", "\t"]),
    odd_names,
    odd_labels,
    st.sampled_from([" ", "\t ", ""]),
    odd_values,
)
odd_lines = st.one_of(odd_series, st.sampled_from(["", "# HELP p x", "# TYPE p counter", "# EOF", "#", "\r", "\x00"]))
odd_pages = st.tuples(
    st.lists(odd_lines, max_size=9), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\n"])
).map(lambda parts: (parts[1].join(parts[0]) + parts[2]).encode())


def plainly(page: bytes) -> list[tuple[str, dict[str, str], bytes]] | None:
    """The wanted series of a page, line by line; None when one of them is none, or is there twice."""
    found: list[tuple[str, dict[str, str], bytes]] = []
    for line in page.split(b"\n"):
        name = re.match(rb"[ \t]*([a-zA-Z_:][a-zA-Z0-9_:]*)", line)
        if name is None or name[1].decode() not in WANTED:
            continue
        split = promtext.split_line(line)
        if split is None or any((known, labels) == split[:2] for known, labels, _ in found):
            return None
        found.append((split[0], split[1], promtext.value_text(line[split[2] :])))
    return found


@given(st.lists(odd_pages, min_size=1, max_size=4))
@settings(max_examples=600, deadline=None)
def test_a_reader_that_has_just_learned_any_page_reads_it_as_it_is_written(pages: list[bytes]) -> None:
    warm = PageReader(WANTED)
    for page in pages:
        fresh = PageReader(WANTED)
        plain = plainly(page)
        for reader in (fresh, warm):
            try:
                texts = reader.read(page)
            except ParseError:
                assert plain is None
                continue
            read_now = [(s.name, dict(s.labels), t) for s, t in zip(reader.series, texts, strict=True)]
            if reader is fresh:
                assert read_now == plain
            elif plain is not None:
                # a new series that fits into the bytes that others gave up is seen at the next learning
                assert [one for one in plain if one in read_now] == sorted(read_now, key=plain.index)


@given(st.lists(odd_pages, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_what_the_plain_reader_takes_the_fast_one_takes_too(pages: list[bytes]) -> None:
    for page in pages:
        try:
            shown = [(s.name, dict(s.labels), repr(v)) for s, v in parse(page) if s.name in WANTED]
        except ParseError:
            continue
        reader = PageReader(WANTED)
        try:
            texts = reader.read(page)
        except ParseError as error:
            assert "twice" in str(error)  # noqa: PT017 (that one is allowed to `parse`)
            continue
        found = zip(reader.series, texts, strict=True)
        named = [(s.name, dict(s.labels), repr(promtext.number(t))) for s, t in found]
        # a name in quotes inside the braces is no engine's
        assert named == [one for one in shown if one[0] in WANTED][: len(named)]


def test_a_page_whose_lines_change_places_is_learned_and_not_searched_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searching the page for each of its lines would take time in proportion to the square of its length."""
    lines = [f'p{{a="{i:05}"}} 1' for i in range(2000)]
    reader = PageReader(["p"])
    reader.read(("\n".join(lines) + "\n").encode())
    learned: list[int] = []
    learn = PageReader._learn

    def counted(self: PageReader, page: bytes) -> list[bytes]:
        learned.append(len(page))
        return learn(self, page)

    monkeypatch.setattr(PageReader, "_learn", counted)
    mixed = random.Random(1).sample(lines, len(lines))
    assert reader.read(("\n".join(mixed) + "\n").encode()) == [b"1"] * 2000
    assert len(learned) == 1
    swapped = [*lines[:-2], lines[-1], lines[-2]]
    reader.read(("\n".join(lines) + "\n").encode())
    learned.clear()
    assert reader.read(("\n".join(swapped) + "\n").encode()) == [b"1"] * 2000
    assert not learned  # a line or two are searched for


def vllm_like(tick: int, *, extra: str = "") -> bytes:
    lines = []
    for family in range(30):
        lines += [f"# TYPE vllm:h{family} histogram"]
        lines += [
            f'vllm:h{family}_bucket{{engine="0",model_name="Qwen/Qwen3-32B",le="{le}"}} {tick}.0' for le in range(20)
        ]
        lines += [f'vllm:c{family}_total{{engine="0",model_name="Qwen/Qwen3-32B"}} {tick * 1000 + family}.0']
    return ("\n".join(lines) + "\n" + extra).encode()


def test_the_series_stay_the_same_object_until_they_change() -> None:
    reader = PageReader(["vllm:c3_total", "vllm:c7_total", "later_total"])
    assert reader.read(vllm_like(1)) == [b"1003.0", b"1007.0"]
    series = reader.series
    for tick in range(2, 150):
        assert reader.read(vllm_like(tick)) == [f"{tick}003.0".encode(), f"{tick}007.0".encode()]
        assert reader.series is series
    new = b"# TYPE later_total counter\nlater_total 5\n"
    assert reader.read(vllm_like(150, extra=new.decode())) == [b"150003.0", b"150007.0", b"5"]
    assert reader.series is not series


def test_a_series_that_goes_is_noticed_at_once() -> None:
    reader = PageReader(["a", "b"])
    reader.read(b"# x\na 1\nb 2\n")
    assert reader.read(b"# x\na 1\nc 2\n") == [b"1"]
    assert [s.name for s in reader.series] == ["a"]


def test_an_unneeded_malformed_line_costs_nothing() -> None:
    assert read(b"what is this\nwanted 3\n", "wanted") == {"wanted": b"3"}


@pytest.mark.parametrize("page", [b"a 1\na 2\n", b'a{b="1",c="2"} 1\na{c="2",b="1"} 2\n', b"a 1\na{} 2\n"])
def test_a_wanted_series_twice_is_refused(page: bytes) -> None:
    with pytest.raises(ParseError, match="twice"):
        read(page, "a")


def test_too_many_series_are_refused() -> None:
    page = b"a 1\n" + b"".join(b"s%d 1\n" % i for i in range(promtext.MAX_SERIES))
    with pytest.raises(ParseError, match="more than"):
        read(page, "a")
    with pytest.raises(ParseError, match="lines"):
        read(b"\n" * (8 * 1024 * 1024), "a")


def test_a_hostile_line_takes_time_in_proportion_to_its_length() -> None:
    line = b"wanted{" + b'a="\\\\' * 200_000 + b"\n"
    began = time.process_time()
    with pytest.raises(ParseError):
        read(line, "wanted")
    assert time.process_time() - began < 1.0


def test_a_json_escaped_page_is_unescaped() -> None:
    assert unescape_json(b'"# TYPE a counter\\na{b=\\"c\\"} 1\\n"') == b'# TYPE a counter\na{b="c"} 1\n'
    assert unescape_json(b"a 1\n") == b"a 1\n"


def test_a_warm_page_of_70_kb_costs_less_than_a_third_of_a_millisecond() -> None:
    pages = [vllm_like(tick) for tick in range(1000, 1040)]
    assert len(pages[0]) > 40_000
    reader = PageReader([f"vllm:c{family}_total" for family in range(10)])
    reader.read(pages[0])
    costs = []
    for page in pages[1:]:
        began = time.process_time_ns()
        reader.read(page)
        costs.append(time.process_time_ns() - began)
    assert sorted(costs)[len(costs) // 2] < 300_000
