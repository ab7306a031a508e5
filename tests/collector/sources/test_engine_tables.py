"""The table of engines, read against golden pages: the right number under the right word for every engine."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from wattmill_collector.catalogue import Histogram
from wattmill_collector.sources import engine_tables
from wattmill_collector.sources.engine_pages import EnginePage, EngineValues, NotUnderstoodError
from wattmill_collector.sources.engine_tables import COUNTER_FIELDS, ENGINE_KINDS, FIELDS, EngineKind, named, recognise
from wattmill_collector.sources.promtext import ParseError
from wattmill_collector.wire import EngineReading

PAGES = Path(__file__).parents[2] / "fixtures/metrics"
INPUT, CACHED, COMPUTED, OUTPUT, FINISHED, PREEMPTED, RUNNING, WAITING, KV = FIELDS


def engines(page: bytes, kind: str = "auto") -> list[EngineValues]:
    reader = EnginePage(named(kind))
    reader.scan(page)
    return reader.values()


def golden(name: str) -> list[EngineValues]:
    return engines((PAGES / f"{name}.prom").read_bytes())


@pytest.mark.parametrize(
    ("name", "kind", "series", "model", "moves", "values"),
    [
        (
            "vllm_v1", "vllm", "model_name=Qwen/Qwen3-32B,engine=0", "Qwen/Qwen3-32B", "step",
            {INPUT: 1_234_567, CACHED: 400_000, COMPUTED: 834_567, OUTPUT: 987_654, FINISHED: 3121, PREEMPTED: 5,
             RUNNING: 7, WAITING: 3, KV: 0.4375},
        ),
        (
            "vllm_v0", "vllm", "model_name=facebook/opt-125m", "facebook/opt-125m", "step",
            {INPUT: 1500, OUTPUT: 321, FINISHED: 20, RUNNING: 1, WAITING: 0, KV: 0.25},
        ),
        (
            "vllm_overlap", "vllm", "model_name=Qwen/Qwen3-32B,engine=0", "Qwen/Qwen3-32B", "step",
            {INPUT: 100, CACHED: 60, OUTPUT: 10, KV: 0.5},
        ),
        (
            "sglang_realtime", "sglang", "model_name=m", "m", "step",
            {INPUT: 1000, CACHED: 300, COMPUTED: 700, OUTPUT: 250, FINISHED: 9, PREEMPTED: 1, RUNNING: 4, WAITING: 2,
             KV: 0.75},
        ),
        (
            "sglang_old", "sglang", "model_name=m", "m", "end",
            {INPUT: 800, CACHED: 250, OUTPUT: 200, FINISHED: 9, RUNNING: 4, WAITING: 2, KV: 0.5},
        ),
        ("tgi", "tgi", "", "", "end", {INPUT: 4321, OUTPUT: 555, FINISHED: 10, RUNNING: 3, WAITING: 2}),
        ("tei", "tei", "", "", "step", {INPUT: 8800, FINISHED: 40, WAITING: 6}),
        (
            "llamacpp", "llamacpp", "", "", "end",
            {INPUT: 13, CACHED: 0, COMPUTED: 13, OUTPUT: 16, RUNNING: 0, WAITING: 0},
        ),
        (
            "llamacpp_old", "llamacpp", "", "", "end",
            {COMPUTED: 1_234_570, OUTPUT: 567_890, RUNNING: 1, WAITING: 0, KV: 0.5},
        ),
        (
            "trtllm", "trtllm", "model_name=m", "m", "end",
            {INPUT: 7000, CACHED: 1000, OUTPUT: 900, FINISHED: 7, RUNNING: 2, WAITING: 1, KV: 0.375},
        ),
        (
            "triton_trtllm", "triton_trtllm", "model=tensorrt_llm,version=1", "tensorrt_llm", "end",
            {INPUT: 4096, OUTPUT: 512, FINISHED: 10, RUNNING: 4, WAITING: 1, KV: 0.0625},
        ),
        (
            "nim", "nim", "model_name=meta/llama", "meta/llama", "step",
            {INPUT: 15_000_000_000, OUTPUT: 2_500_000, FINISHED: 77, RUNNING: 3, WAITING: 0, KV: 0.03125},
        ),
        (
            "dynamo_frontend", "dynamo_frontend", "model=m", "m", "step",
            {INPUT: 8000, CACHED: 3000, OUTPUT: 999, FINISHED: 42, RUNNING: 5, WAITING: 1},
        ),
        (
            "lmdeploy", "lmdeploy", "model_name=m,engine=0", "m", "step",
            {INPUT: 640, CACHED: 64, OUTPUT: 128, FINISHED: 6, RUNNING: 2, WAITING: 0, KV: 0.5},
        ),
        ("xinference", "xinference", "model=m", "m", "end", {INPUT: 300, OUTPUT: 30}),
    ],
)  # fmt: skip
def test_golden_page(name: str, kind: str, series: str, model: str, moves: str, values: dict[str, float]) -> None:
    page = (PAGES / f"{name}.prom").read_bytes()
    found = recognise(page)
    assert found is not None
    assert found.name == kind
    (engine,) = engines(page)
    assert (engine.series, engine.model, engine.tokens_move, engine.faults) == (series, model, moves, ())
    counted = {field: value for field, value in engine.values.items() if not isinstance(value, Histogram)}
    assert counted == values


def test_every_golden_page_is_read_here() -> None:
    text = Path(__file__).read_text()
    assert not [p.stem for p in PAGES.glob("*.prom") if f'"{p.stem}"' not in text]


def test_data_parallel_ranks_are_engines_of_their_own() -> None:
    first, second = golden("vllm_dp2")
    assert (first.series, second.series) == ("model_name=m,engine=0", "model_name=m,engine=1")
    assert (first.values[INPUT], second.values[INPUT]) == (100, 200)
    assert (first.values[FINISHED], second.values[FINISHED]) == (3, 4)


def test_replicas_behind_ray_are_kept_apart_and_its_second_spelling_is_left_out() -> None:
    first, second = golden("vllm_ray")
    assert first.series == "model_name=m,engine=0,ReplicaId=a1,WorkerId=w1"
    assert (first.values[INPUT], second.values[INPUT]) == (100, 50)


def test_attention_ranks_report_under_different_tensor_ranks_and_what_knows_no_rank_is_left_out() -> None:
    first, second = golden("sglang_dp_attention")
    assert (first.series, second.series) == ("model_name=m,dp_rank=0", "model_name=m,dp_rank=1")
    assert (first.values[COMPUTED], second.values[COMPUTED]) == (70, 71)
    assert (first.values[RUNNING], second.values[RUNNING]) == (4, 5)
    assert FINISHED not in first.values
    assert FINISHED not in second.values


def test_a_part_that_sglang_has_not_shown_yet_has_counted_nothing() -> None:
    first, _ = golden("sglang_dp_attention")
    assert (first.values[INPUT], first.values[CACHED]) == (70, 0)


def test_a_counter_that_appears_later_does_not_make_a_total_jump() -> None:
    labels = 'engine="0",model_name="m"'
    early = f"vllm:prompt_tokens_total{{{labels}}} 10\nvllm:prefix_cache_hits_total{{{labels}}} 4\n"
    late = early + f"vllm:prompt_tokens_cached_total{{{labels}}} 3\n"
    page = EnginePage(named("vllm"))
    page.scan(early.encode())
    assert page.values()[0].values[CACHED] == 4
    page.scan(late.encode())
    assert page.values()[0].values[CACHED] == 4
    page.forget()  # a new epoch
    assert page.values()[0].values[CACHED] == 3


def test_an_sglang_that_counts_at_the_end_stays_so_within_an_epoch() -> None:
    page = EnginePage(named("auto"))
    page.scan((PAGES / "sglang_old.prom").read_bytes())
    assert page.values()[0].values[INPUT] == 800
    page.scan((PAGES / "sglang_realtime.prom").read_bytes())
    assert page.values()[0].values[INPUT] == 800


def test_an_idle_sglang_has_gauges_and_unknown_tokens() -> None:
    (engine,) = engines(b'sglang:num_running_reqs{model_name="m",tp_rank="0",pp_rank="0"} 0.0\n')
    assert engine.values == {RUNNING: 0}
    assert engine.tokens_move == ""


def test_a_chosen_series_that_is_gone_is_noticed() -> None:
    page = EnginePage(named("vllm"))
    page.scan(b"vllm:generation_tokens_total 1\nvllm:prompt_tokens_total 1\n")
    page.values()
    assert not page.has_lost_its_choice()
    page.scan(b"vllm:prompt_tokens_total 1\n")
    assert page.has_lost_its_choice()


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("NaN", "not_a_number"),
        ("-nan", "not_a_number"),
        ("+Inf", "not_a_number"),
        ("twelve", "not_a_number"),
        ("1_0", "not_a_number"),
        ("-1", "negative"),
        ("1.5", "not_an_integer"),
        ("9223372036854775808", "out_of_range"),
        ("1e300", "out_of_range"),
    ],
)
def test_a_count_that_is_none_is_absent_with_a_reason(printed: str, reason: str) -> None:
    (engine,) = engines(f"vllm:generation_tokens_total {printed}\nvllm:prompt_tokens_total 5\n".encode())
    assert engine.values == {INPUT: 5, OUTPUT: None}
    assert engine.faults == ((OUTPUT, reason),)


@pytest.mark.parametrize(
    ("printed", "ratio"), [("0.5", 0.5), ("1.0000001", 1.0), ("37", None), ("-nan", None), ("-1", None)]
)
def test_a_cache_is_filled_between_nothing_and_all(printed: str, ratio: float | None) -> None:
    (engine,) = engines(f"vllm:kv_cache_usage_perc {printed}\n".encode())
    assert engine.values[KV] == ratio


def test_integers_are_exact_beyond_what_a_double_holds() -> None:
    (engine,) = engines(b"vllm:generation_tokens_total 9007199254740993\n")
    assert engine.values[OUTPUT] == 9_007_199_254_740_993


def test_two_processes_on_one_page_speak_for_no_counter() -> None:
    page = EnginePage(named("vllm"))
    page.scan(
        b'process_start_time_seconds{pid="1"} 1764030173\nprocess_start_time_seconds{pid="2"} 1764030174\nvllm:x 1\n'
    )
    assert page.process_start == b""


@pytest.mark.parametrize(
    "page",
    [b"", b"<html></html>\n", b'{"iter": 1}\n', b"go_goroutines 5\n", b"prompt_tokens_total 5\n"],
)
def test_a_page_of_no_engine_is_not_understood(page: bytes) -> None:
    with pytest.raises(NotUnderstoodError):
        engines(page)


def test_a_configured_kind_reads_no_other() -> None:
    with pytest.raises(NotUnderstoodError, match="no metric of sglang"):
        engines((PAGES / "vllm_v1.prom").read_bytes(), "sglang")


def test_a_page_of_thousands_of_models_is_refused() -> None:
    page = "".join(f'vllm:prompt_tokens_total{{model_name="m{i}"}} 1\n' for i in range(5000))
    with pytest.raises(ParseError, match="engines"):
        engines(page.encode())


def test_another_engine_on_the_same_port_is_recognised() -> None:
    page = EnginePage(named("auto"))
    page.scan((PAGES / "vllm_v1.prom").read_bytes().replace(b"process_start_time_seconds 1", b"x 1"))
    page.values()
    page.scan((PAGES / "tgi.prom").read_bytes())
    assert page.kind is not None
    assert page.kind.name == "tgi"
    assert page.values()[0].values[INPUT] == 4321


@pytest.mark.parametrize("kind", ENGINE_KINDS, ids=lambda k: k.markers[0])
def test_the_table_is_sound(kind: EngineKind) -> None:
    tables = [kind.fields, *(v.fields for v in kind.variants)]
    fields = {f.name for f in dataclasses.fields(EngineReading)}
    for table in tables:
        assert set(table) <= set(FIELDS) <= fields
        for field, ways in table.items():
            names = [t.name for way in ways for t in way.terms]
            assert names
            assert not [n for n in names if n.endswith(("_created", "_bucket", "_by_reason", "_seconds"))]
            assert field in COUNTER_FIELDS or not [n for n in names if n.endswith("_total")]
    assert recognise("".join(f"\n{m}x 1" for m in kind.markers).encode()) is not None
    assert re.fullmatch("[a-z_]+", kind.name)


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"use auto or one of .*llamacpp.*vllm"):
        named("vlm")
    assert named("sglang") == (engine_tables.SGLANG, engine_tables.SGLANG_GATEWAY)
