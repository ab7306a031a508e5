"""Latency histograms on golden pages: the right buckets in microseconds, one family, one engine's."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from wattmill_collector.catalogue import MAX_BOUNDS, Histogram
from wattmill_collector.sources import engine_histograms
from wattmill_collector.sources.engine_histograms import is_due
from wattmill_collector.sources.engine_pages import EnginePage, EngineValues
from wattmill_collector.sources.engine_tables import HISTOGRAM_FIELDS, named
from wattmill_collector.sources.engine_tables.kinds import buckets, one
from wattmill_collector.sources.engine_tables.vllm import VLLM

PAGES = Path(__file__).parents[2] / "fixtures/metrics"
ITL, TTFT, QUEUE, E2E = HISTOGRAM_FIELDS
FAMILY = 'vllm:inter_token_latency_seconds_bucket{engine="0",model_name="m",le="%s"} %s\n'
COUNTERS = 'vllm:generation_tokens_total{engine="0",model_name="m"} 7.0\n'


def engines(page: bytes, kind: str = "auto") -> list[EngineValues]:
    reader = EnginePage(named(kind))
    reader.scan(page)
    return reader.values()


def golden(name: str) -> list[EngineValues]:
    return engines((PAGES / f"{name}.prom").read_bytes())


def page(*rows: tuple[object, object]) -> bytes:
    return (COUNTERS + "".join(FAMILY % row for row in rows)).encode()


@pytest.mark.parametrize(
    ("name", "itl", "ttft"),
    [
        (
            "vllm_v0",  # before v0.10.2 the same histogram had another name
            Histogram((10_000, 25_000, 50_000), (1, 201, 291, 301)), Histogram((1_000, 5_000), (0, 3, 20)),
        ),
        (
            "sglang_realtime",
            Histogram((2_000, 4_000, 6_000, 1_000_000), (0, 100, 150, 240, 241)),
            Histogram((100_000, 200_000), (4, 7, 9)),
        ),
        ("sglang_old", Histogram((2_000, 5_000), (1, 3, 6)), None),
        ("tgi", Histogram((15_625, 23_438), (3, 7, 10)), None),
        ("trtllm", Histogram((10_000, 25_000), (3, 6, 7)), Histogram((100_000,), (6, 7))),  # two reasons, added up
        ("nim", Histogram((10_000, 25_000), (10, 30, 33)), Histogram((250_000,), (70, 77))),
        ("dynamo_frontend", Histogram((0, 1_900, 3_500), (0, 900, 950, 957)), Histogram((0, 220_000), (0, 40, 42))),
        ("lmdeploy", Histogram((10_000, 25_000), (100, 120, 122)), Histogram((100_000,), (5, 6))),
        ("xinference", None, Histogram((100_000,), (2, 3))),
        ("llamacpp", None, None),
        ("vllm_overlap", None, None),
    ],
)  # fmt: skip
def test_golden_page(name: str, itl: Histogram | None, ttft: Histogram | None) -> None:
    (engine,) = golden(name)
    assert (engine.values.get(ITL), engine.values.get(TTFT), engine.faults) == (itl, ttft, ())


def test_the_histogram_of_every_step_is_read_and_not_that_of_whole_requests() -> None:
    (engine,) = golden("vllm_v1")
    found = engine.values[ITL]
    assert isinstance(found, Histogram)
    assert len(found.le_us) == 19
    assert (found.le_us[0], found.le_us[-1]) == (10_000, 80_000_000)
    assert found.counts[:4] == (100_000, 700_000, 950_000, 980_000)
    assert found.counts[-1] == 984_533
    first = engine.values[TTFT]
    assert isinstance(first, Histogram)
    assert (first.le_us[0], first.le_us[-1], first.counts[-1]) == (1_000, 2_560_000_000, 3_121)


def test_data_parallel_ranks_have_histograms_of_their_own() -> None:
    first, second = golden("vllm_dp2")
    assert first.values[ITL] == Histogram((10_000, 25_000), (5, 11, 18))
    assert second.values[ITL] == Histogram((10_000, 25_000), (50, 110, 180))


def test_a_histogram_that_knows_no_rank_is_no_ranks() -> None:
    assert [ITL in engine.values for engine in golden("sglang_dp_attention")] == [False, False]


def test_milliseconds_by_name() -> None:
    reader = EnginePage([dataclasses.replace(VLLM, histograms=buckets(itl=(one("vllm:itl_milliseconds"),)))])
    rows = b"".join(
        b'vllm:itl_milliseconds_bucket{engine="0",model_name="m",le="%s"} %s\n' % row
        for row in ((b"2.5", b"3"), (b"+Inf", b"4"))
    )
    reader.scan(COUNTERS.encode() + rows)
    (engine,) = reader.values()
    assert engine.values[ITL] == Histogram((2_500,), (3, 4))


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([("0.1", 5), ("+Inf", 4)], "not_cumulative"),
        ([("0.1", 1.5), ("+Inf", 4)], "not_an_integer"),
        ([("0.1", "NaN"), ("+Inf", 4)], "not_a_number"),
        ([("0.1", -1), ("+Inf", 4)], "out_of_range"),
        ([("0.1", 1), ("+Inf", "1e17")], "out_of_range"),
        ([("0.1", 1), ("0.2", 2)], "bad_bounds"),
        ([("-1", 1), ("+Inf", 2)], "bad_bounds"),
        ([("x", 1), ("+Inf", 2)], "bad_bounds"),
        ([("NaN", 1), ("+Inf", 2)], "bad_bounds"),
        ([("0.1", 1), ("0.1000000001", 1), ("+Inf", 2)], "uneven_bounds"),
        ([("+Inf", 2)], "no_bounds"),
        ([*((0.001 * n, n) for n in range(MAX_BOUNDS + 1)), ("+Inf", 99)], "too_many_bounds"),
    ],
)
def test_what_can_not_be_a_histogram_is_a_fault_and_costs_no_counter(
    rows: list[tuple[object, object]], fault: str
) -> None:
    (engine,) = engines(page(*rows))
    assert engine.values["output_tokens"] == 7
    assert engine.values[ITL] is None
    assert engine.faults == ((ITL, fault),)


def test_a_bucket_shown_twice_costs_no_counter() -> None:
    (engine,) = engines(page(("0.1", 1), ("0.1", 1), ("+Inf", 2)))
    assert engine.values == {"output_tokens": 7}
    assert {fault for _, fault in engine.faults} == {"not_understood"}


def test_an_engine_keeps_to_its_histogram_until_it_is_started_again() -> None:
    reader = EnginePage(named("vllm"))
    old = page(("0.1", 1), ("+Inf", 2)).replace(b"inter_token_latency", b"time_per_output_token")
    reader.scan(old)
    assert reader.values()[0].values[ITL] == Histogram((100_000,), (1, 2))
    both = old + page(("0.1", 8), ("+Inf", 9)).removeprefix(COUNTERS.encode())
    reader.scan(both)
    assert reader.values()[0].values[ITL] == Histogram((100_000,), (1, 2))
    reader.forget()
    reader.scan(both)
    assert reader.values()[0].values[ITL] == Histogram((100_000,), (8, 9))


def test_a_warm_page_says_what_a_fresh_one_says() -> None:
    """Values grow, lines move, a family appears: the remembered places must never answer with old numbers."""
    draw = random.Random(3)
    reader = EnginePage(named("vllm"))
    counts = [0] * 20
    for tick in range(200):
        for i in range(20):
            counts[i] += draw.choice((0, 1, 10 ** draw.randrange(9)))
        rows = [(0.01 * (i + 1), sum(counts[: i + 1])) for i in range(19)] + [("+Inf", sum(counts))]
        text = page(*rows) + b"# padding\n" * (tick // 50)
        reader.scan(text)
        assert reader.values() == engines(text, "vllm")


@pytest.mark.parametrize("interval_s", [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60])
def test_every_minute_edge_is_read_and_no_ten_seconds_are_read_twice(interval_s: int) -> None:
    interval_us = interval_s * 1_000_000
    read = [us for us in range(0, 600_000_001, interval_us) if is_due(us, interval_us)]
    assert set(range(0, 600_000_001, 60_000_000)) <= set(read)
    assert len({us // engine_histograms.EVERY_US for us in read}) == len(read)
    assert len(read) == min(600_000_000 // interval_us, 60) + 1
