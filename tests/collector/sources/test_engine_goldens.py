"""Every golden page, read whole: the right number under the right word for every engine, age and spelling."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.golden_pages import GOLDEN, PAGES, RECORDED, One, golden
from wattmill_collector.catalogue import Histogram
from wattmill_collector.sources.engine_pages import EnginePage
from wattmill_collector.sources.engine_tables import ENGINE_KINDS, EngineKind, named, recognise


def buckets_of(page: bytes, family: str, one: One) -> Histogram:
    """A family's buckets of one engine, by prometheus_client, one sample at a time."""
    labels = dict(part.split("=", 1) for part in one.series.split(",") if part)
    text = "\n".join(line for line in page.decode().split("\n") if not line.startswith(("# TYPE", "# EOF")))
    copies = {"tp_rank": "0", "pp_rank": "0", "moe_ep_rank": "0", "stream": "true"}
    counts: dict[float, float] = {}
    for found in text_string_to_metric_families(text):
        for sample in found.samples:
            if sample.name != f"{family}_bucket":
                continue
            if any(sample.labels.get(key, value) != value for key, value in (labels | copies).items()):
                continue
            bound = float(sample.labels["le"])
            counts[bound] = counts.get(bound, 0.0) + sample.value
    unit_us = 1_000 if family.endswith(("_ms", "_milliseconds")) else 1_000_000
    bounds = sorted(counts)
    return Histogram(
        tuple(round(bound * unit_us) for bound in bounds[:-1]), tuple(int(counts[bound]) for bound in bounds)
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_every_field_of_every_engine_has_the_value_that_was_written_down(name: str) -> None:
    page, wanted = golden(name), GOLDEN[name]
    found = recognise(page)
    assert found is not None
    assert found.name == wanted.kind
    reader = EnginePage(named("auto"))
    reader.scan(page)
    engines = reader.values()
    assert [(e.series, e.model, e.tokens_move, e.role) for e in engines] == [
        (one.series, one.model, one.moves, one.role) for one in wanted.engines
    ]
    for engine, one in zip(engines, wanted.engines, strict=True):
        assert engine.faults == ()
        histograms = {field: buckets_of(page, family, one) for field, family in one.histograms.items()}
        assert dict(engine.values) == {**one.values, **histograms}
        assert engine.since_us is None


def test_every_golden_page_is_read_here_and_says_where_it_is_from() -> None:
    assert sorted(path.stem for pages in (PAGES, RECORDED) for path in pages.glob("*.prom")) == sorted(GOLDEN)
    for name in GOLDEN:
        assert golden(name).startswith(b"# provenance: ")


@pytest.mark.parametrize("kind", ENGINE_KINDS, ids=lambda k: f"{k.name} {k.markers[0]}")
def test_every_entry_of_the_table_has_a_page_and_each_of_its_fields_a_value_on_one(kind: EngineKind) -> None:
    pages = [name for name in GOLDEN if recognise(golden(name)) is kind]
    assert pages or kind.markers == ("sglang_",)  # that one reads the gateway's page when told to: see below
    shown = {field for name in pages for one in GOLDEN[name].engines for field in (*one.values, *one.histograms)}
    tables = [kind.fields, kind.histograms, *(v.fields for v in kind.variants)]
    if pages and not kind.markers[0].startswith(("ray_vllm", "vllm:current", "dynamo_frontend", "nv_llm", "sglang_")):
        assert {field for table in tables for field in table} == shown


def test_a_gateways_page_counts_when_it_is_told_to_be_the_engines() -> None:
    reader = EnginePage(named("sglang"))
    reader.scan(golden("sglang_gateway"))
    assert [e.role for e in reader.values()] == ["", ""]
    assert [dict(e.values) for e in reader.values()] == [dict(one.values) for one in GOLDEN["sglang_gateway"].engines]


def test_a_page_sent_as_a_json_string_is_read() -> None:
    page = golden("llamacpp_old")
    escaped = b'"' + page.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'
    reader = EnginePage(named("llamacpp"))
    reader.scan(escaped)
    assert dict(reader.values()[0].values) == dict(GOLDEN["llamacpp_old"].engines[0].values)
