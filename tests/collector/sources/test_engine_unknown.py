"""What is said of an answer that is no page of an engine: what it is instead, and what to do."""

from __future__ import annotations

import pytest

from support.golden_pages import GOLDEN, golden
from wattmill_collector.sources.engine_pages import EnginePage, NotUnderstoodError, counts_tokens
from wattmill_collector.sources.engine_tables import ENGINE_KINDS, named, recognise
from wattmill_collector.sources.engine_tables.foreign import FOREIGN


def refusal(page: bytes, kind: str = "auto") -> str:
    with pytest.raises(NotUnderstoodError) as caught:
        EnginePage(named(kind)).scan(page)
    return str(caught.value)


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (b"", "metrics switched on"),
        (b"\n\n", "metrics switched on"),
        (b'{"iter": 1}\n', "/prometheus/metrics"),
        (b"[]", "/prometheus/metrics"),
        (b"<html></html>\n", "correct its path"),
        (b"<!DOCTYPE html>\n<html>", "correct its path"),
        (b"go_goroutines 5\n", "any engine that is known here"),
        (b"prompt_tokens_total 5\n", "any engine that is known here"),
        (b"# HELP go_goroutines x\n", "any engine that is known here"),
        (b"hello there\n", "hello there"),
        (b'# TYPE litellm_x counter\nlitellm_x{team="a"} 5\n', "LiteLLM; it belongs under gateways"),
        (b'DCGM_FI_DEV_POWER_USAGE{gpu="0"} 61.2\n', "dcgm-exporter; it belongs under exporters"),
        (b'node_cpu_seconds_total{cpu="0"} 1\n', "node_exporter; it belongs under exporters"),
        (b'nv_inference_request_success{model="m"} 1\n', "counts no tokens"),
        (b'request_predict_seconds_count{model_name="m"} 1\n', "KServe"),
        # of BentoML 1.4.40, infinity-emb 0.0.78 and GPUStack 2.3.0
        (b'bentoml_service_request_total{endpoint="/say",http_response_code="200"} 1.0\n', "BentoML"),
        (b'python_info{version="3.11.7"} 1.0\nhttp_requests_total{handler="/embeddings"} 6.0\n', "an HTTP server"),
        (b'gpustack:generation_tokens_total{model_name="m",worker_name="w"} 88.0\n', "GPUStack"),
    ],
)
def test_each_answer_is_called_what_it_is(page: bytes, says: str) -> None:
    assert says in refusal(page)


def test_a_configured_kind_reads_no_other() -> None:
    assert (
        refusal(golden("vllm_v1"), "sglang")
        == "the page has no metric of sglang, it is vllm's; correct `kind` of this engine"
    )


@pytest.mark.parametrize(("marker", "name", "advice"), FOREIGN)
def test_no_foreign_page_is_an_engines(marker: str, name: str, advice: str) -> None:
    assert recognise(f"{marker}x 1\n".encode()) is None
    assert refusal(f"{marker}x 1\n".encode()) == f"the page is that of {name}{advice}"


def test_a_page_without_token_counters_can_say_why() -> None:
    silent = []
    for name in GOLDEN:
        page = EnginePage(named("auto"))
        page.scan(golden(name))
        if not any(map(counts_tokens, page.values())):
            assert page.kind is not None
            assert page.kind.without_tokens
            silent.append(name)
    assert silent == [
        "dynamo_worker",
        "mistralrs_mixed",
        "sglang_0_3_5",
        "triton_trtllm_old",
        "trtllm_1_1",
        "vllm_router",
        "dynamo_worker_fresh",
        "dynamo_worker_mocker",
    ]


def test_no_page_of_one_engine_is_taken_for_anothers() -> None:
    for name, page in GOLDEN.items():
        kind = recognise(golden(name))
        assert kind is not None
        assert kind.name == page.kind
        rest = tuple(other for other in ENGINE_KINDS if other is not kind)
        again = recognise(golden(name), rest)
        # what is known by an engine's own names inside it, or behind it, or in front of it
        assert again is None or {again.name, kind.name} in (
            {"vllm", "vllm_router"},
            {"vllm", "dynamo_worker"},
            {"dynamo_frontend", "dynamo_worker"},
            {"sglang", "sglang_gateway"},
        )
