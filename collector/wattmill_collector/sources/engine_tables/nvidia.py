"""NVIDIA's engines: TensorRT-LLM's server, Triton's back end for it, NIM, and Dynamo.

Sources: NVIDIA/TensorRT-LLM 050f80de, tensorrt_llm/metrics/collector.py; triton-inference-server/tensorrtllm_backend
0b9d7d5a1958 and core 73aad7c3348d; NIM 1.x as reported; ai-dynamo lib/llm/src/http/service/metrics.rs at 2a6da14c8361.
"""

from __future__ import annotations

from wattmill_collector.sources.engine_tables.kinds import EngineKind, buckets, one, renamed

TRTLLM = EngineKind(
    name="trtllm",
    markers=("trtllm_",),
    path="/prometheus/metrics",
    fields={
        "input_tokens": (one("trtllm_prompt_tokens_total", moves="end"),),
        "cached_input_tokens": (one("trtllm_prompt_cached_tokens_total", moves="end"),),
        "output_tokens": (one("trtllm_generation_tokens_total", moves="end"),),
        "requests_finished": (
            one("trtllm_request_success_total", moves="end"),
            one("trtllm_num_requests_completed_total"),
        ),
        # not spec_decode_drafted/accepted_tokens_total{token_position}: the same by place, when requests end
        "draft_tokens": (one("trtllm_spec_decode_num_draft_tokens_total"),),
        "accepted_draft_tokens": (one("trtllm_spec_decode_num_accepted_tokens_total"),),
        "requests_running": (one("trtllm_num_requests_running"),),
        "requests_waiting": (one("trtllm_num_requests_waiting"),),
        "kv_cache_usage_ratio": (one("trtllm_kv_cache_utilization"),),
    },
    histograms=buckets(
        itl=(one("trtllm_time_per_output_token_seconds", moves="end"),),
        ttft=(one("trtllm_time_to_first_token_seconds", moves="end"),),
        queue=(one("trtllm_request_queue_time_seconds", moves="end"),),
        e2e=(one("trtllm_e2e_request_latency_seconds", moves="end"),),
    ),
    without_tokens=(
        "TensorRT-LLM counts tokens since 1.3.0 only, and with return_perf_metrics: true; its energy is measured, its"
        " tokens are unknown"
    ),
    note=(
        "`trtllm-serve` at `/prometheus/metrics`, with `return_perf_metrics: true`; `/metrics` answers JSON. Tokens"
        " count when a request ends. Releases up to 1.2.1 have no counters of tokens."
    ),
)

TRTLLM_DYNAMO = renamed(
    TRTLLM, "trtllm", "trtllm_", "trtllm:", note="The same behind a Dynamo that put `trtllm:` before its names."
)

# 1.1.0 to 1.2.1 wrote the names without a prefix; the label engine_type is what tells them from anything else's.
TRTLLM_OLD = EngineKind(
    name="trtllm",
    markers=("e2e_request_latency_seconds", "request_success_total"),
    also=('engine_type="',),
    path="/prometheus/metrics",
    fields={"requests_finished": (one("request_success_total", moves="end"),)},
    histograms=buckets(
        itl=(one("time_per_output_token_seconds", moves="end"),),
        ttft=(one("time_to_first_token_seconds", moves="end"),),
        queue=(one("request_queue_time_seconds", moves="end"),),
        e2e=(one("e2e_request_latency_seconds", moves="end"),),
    ),
    without_tokens=TRTLLM.without_tokens,
    note="1.1 to 1.2.1, known by the label `engine_type`: requests and latencies, no tokens.",
)

# An ensemble counts a request once in each of its stages: only the stage named tensorrt_llm is the engine.
_STAGE = {"model": "tensorrt_llm"}
TRITON_TRTLLM = EngineKind(
    name="triton_trtllm",
    markers=("nv_trt_llm_",),
    replicas=("version",),
    fields={
        "input_tokens": (
            one("nv_llm_input_token_len_sum", {"response_metric_type": "total_input_tokens"}, moves="end"),
        ),
        "output_tokens": (
            one("nv_llm_output_token_len_sum", {"response_metric_type": "total_output_tokens"}, moves="end"),
        ),
        "requests_finished": (one("nv_inference_request_success", _STAGE, moves="end"),),
        "requests_running": (one("nv_trt_llm_request_metrics", {"request_type": "scheduled"}),),
        "requests_waiting": (one("nv_trt_llm_request_metrics", {"request_type": "waiting"}),),
        "kv_cache_usage_ratio": (one("nv_trt_llm_kv_cache_block_metrics", {"kv_cache_block_type": "fraction"}),),
    },
    histograms=buckets(ttft=(one("nv_inference_first_response_histogram_ms", _STAGE),)),
    without_tokens="the TensorRT-LLM back end of Triton counts tokens since v0.16 only; update it",
    note=(
        "Triton, port 8002. Tokens since back end v0.16, when a request ends. Of an ensemble's stages only"
        " `tensorrt_llm` is read. Its own `nv_energy_consumption` is not read: it is the boards' energy once more."
    ),
)

# NIM LLM 1.x shows vLLM V0's names without a prefix; `num_request_max` is what tells it from anything else. Images
# that wrap a newer vLLM, SGLang or TensorRT-LLM show that engine's names beside it, and are read as that.
NIM = EngineKind(
    name="nim",
    markers=("num_request_max",),
    path="/v1/metrics",
    fields={
        "input_tokens": (one("prompt_tokens_total"),),
        "output_tokens": (one("generation_tokens_total"),),
        "requests_finished": (
            one("request_finish_total", moves="end"),
            one("request_success_total", moves="end"),
        ),
        "requests_running": (one("num_requests_running"),),
        "requests_waiting": (one("num_requests_waiting"),),
        "kv_cache_usage_ratio": (one("gpu_cache_usage_perc"),),
    },
    histograms=buckets(
        itl=(one("time_per_output_token_seconds"),),
        ttft=(one("time_to_first_token_seconds"),),
        e2e=(one("e2e_request_latency_seconds", moves="end"),),
    ),
    note="NIM for LLMs 1.x at `/v1/metrics`: names without a prefix, known by `num_request_max` only.",
)

DYNAMO_FRONTEND = EngineKind(
    name="dynamo_frontend",
    markers=("dynamo_frontend_",),
    holds_accelerators=False,
    fields={
        "input_tokens": (one("dynamo_frontend_input_sequence_tokens_sum"),),
        "cached_input_tokens": (one("dynamo_frontend_cached_tokens_sum"),),
        "output_tokens": (
            one("dynamo_frontend_output_tokens_total"),
            one("dynamo_frontend_output_sequence_tokens_sum", moves="end"),
        ),
        "requests_finished": (one("dynamo_frontend_requests_total", moves="end"),),
        "requests_running": (one("dynamo_frontend_inflight_requests"),),
        "requests_waiting": (one("dynamo_frontend_queued_requests"),),
    },
    histograms=buckets(
        itl=(one("dynamo_frontend_inter_token_latency_seconds"),),  # a chunk of the answer
        ttft=(one("dynamo_frontend_time_to_first_token_seconds"),),
        e2e=(one("dynamo_frontend_request_duration_seconds", moves="end"),),
    ),
    note=(
        "The front end: its tokens are those of the workers behind it, so they are shown and never counted, and it"
        " holds no board. Another `DYN_METRICS_PREFIX` is not known here."
    ),
)

DYNAMO_FRONTEND_OLD = renamed(
    DYNAMO_FRONTEND,
    "dynamo_frontend",
    "dynamo_frontend_",
    "nv_llm_http_service_",
    note="The front end before August 2025.",
)

# A worker's page has its engine's own names, and is read by them. This is one whose engine shows none.
_GENERATE = {"dynamo_endpoint": "generate"}
DYNAMO_WORKER = EngineKind(
    name="dynamo_worker",
    markers=("dynamo_component_",),
    fields={
        "requests_finished": (one("dynamo_component_requests_total", _GENERATE, moves="end"),),
        "requests_running": (one("dynamo_component_inflight_requests", _GENERATE),),
        "kv_cache_usage_ratio": (one("dynamo_component_gpu_cache_usage_percent"),),
    },
    model_labels=("model", "model_name"),
    without_tokens=(
        "the Dynamo worker shows nothing of its engine's own metrics; switch those on (for TensorRT-LLM"
        " --publish-events-and-metrics)"
    ),
    note=(
        "A worker (port 8081) shows its engine's names and is read by them: vLLM, SGLang, TensorRT-LLM. This entry is"
        " for one whose engine shows none. `dynamo_component` tells prefill from decode where it says so; a worker"
        " called `backend` may be either, so give its `role` in the configuration."
    ),
)
