"""The other engines: llama.cpp, LMDeploy, Xinference, LightLLM, mistral.rs, JetStream and MAX.

Ollama and DeepSpeed-MII have no page of metrics; nothing can be read of them.
"""

from __future__ import annotations

from wattmill_collector.sources.engine_tables.kinds import Alternative, EngineKind, Term, Variant, buckets, one

# ggml-org/llama.cpp tools/server/server-task.cpp:1526-1611 at b10573. No labels at all; the page prints six digits, so
# above a million tokens the counter moves in steps of 10. Its rates are since the last scrape by anybody: not read.
_LLAMA_COMPUTED = Term("llamacpp:prompt_tokens_total")
_LLAMA_CACHED = Term("llamacpp:prompt_tokens_cached_total")
_LLAMA_TOKENS = {
    "computed_input_tokens": (Alternative((_LLAMA_COMPUTED,)),),
    "output_tokens": (one("llamacpp:tokens_predicted_total", moves="end"),),
}
LLAMACPP = EngineKind(
    name="llamacpp",
    about_path="/props",
    markers=("llamacpp:",),
    fields={
        "draft_tokens": (one("llamacpp:spec_decode_num_draft_tokens_total"),),  # b10290 and later
        "accepted_draft_tokens": (one("llamacpp:spec_decode_num_accepted_tokens_total"),),
        "requests_running": (one("llamacpp:requests_processing"),),
        "requests_waiting": (one("llamacpp:requests_deferred"),),
        "kv_cache_usage_ratio": (one("llamacpp:kv_cache_usage_ratio"),),  # until b5441, and in ik_llama.cpp
    },
    variants=(
        Variant(  # b10424 and later
            known_by=(_LLAMA_CACHED.name,),
            replicas=(),
            fields={
                **_LLAMA_TOKENS,
                "input_tokens": (Alternative((_LLAMA_COMPUTED, _LLAMA_CACHED)),),
                "cached_input_tokens": (Alternative((_LLAMA_CACHED,)),),
            },
        ),
        Variant(known_by=(_LLAMA_COMPUTED.name,), replicas=(), fields=_LLAMA_TOKENS),
    ),
    note=(
        "`llama-server --metrics`, and ik_llama.cpp. Its prompt counter leaves cached tokens out; the input is the sum"
        " of two counters since b10424, and unknown before. Output counts when a slot is released. Builds b7010 to"
        " b7192 sent the page as a JSON string, which is understood."
    ),
)

# InternLM/lmdeploy lmdeploy/metrics/loggers.py:149-417 at 1263d5cd889b.
LMDEPLOY = EngineKind(
    name="lmdeploy",
    markers=("lmdeploy:",),
    replicas=("engine",),
    fields={
        "input_tokens": (one("lmdeploy:prompt_tokens_total"),),
        "cached_input_tokens": (one("lmdeploy:cached_tokens_total", moves="end"),),
        "output_tokens": (one("lmdeploy:generation_tokens_total"),),
        "requests_finished": (one("lmdeploy:request_success_total", moves="end"),),
        "draft_tokens": (one("lmdeploy:spec_decode_num_draft_tokens_total"),),
        "accepted_draft_tokens": (one("lmdeploy:spec_decode_num_accepted_tokens_total"),),
        "requests_running": (one("lmdeploy:num_requests_running"),),
        "requests_waiting": (one("lmdeploy:num_requests_waiting"),),
        "kv_cache_usage_ratio": (one("lmdeploy:gpu_cache_usage_perc"),),
    },
    histograms=buckets(
        itl=(one("lmdeploy:iter_token_latency"), one("lmdeploy:time_per_output_token_seconds")),  # both in seconds
        ttft=(one("lmdeploy:time_to_first_token_seconds"),),
        queue=(one("lmdeploy:request_queue_time_seconds", moves="end"),),
        e2e=(one("lmdeploy:e2e_request_latency_seconds", moves="end"),),
    ),
    note="Cached tokens count when a request ends, and so lag the input by its whole decode.",
)

# xorbitsai/inference xinference/core/model.py:424-458 of 4.1; `generate_tokens_total` is the output again. Its time to
# the first token is that of the whole answer where that is not streamed (label `stream`, 2026 and later).
XINFERENCE = EngineKind(
    name="xinference",
    markers=("xinference:",),
    fields={
        "input_tokens": (one("xinference:input_tokens_total_counter", moves="end"),),
        "output_tokens": (
            one("xinference:output_tokens_total_counter", moves="end"),
            one("xinference:generate_tokens_total", moves="end"),
        ),
        "requests_running": (one("xinference:model_serve_count"),),
        "requests_finished": (one("xinference:model_request_total", moves="end"),),
    },
    histograms=buckets(ttft=(one("xinference:time_to_first_token_seconds", {"stream": "true"}),)),
    model_labels=("model", "model_name"),
    replicas=("model_uid", "replica_index"),
    from_zero=("input_tokens", "output_tokens", "requests_finished"),
    without_tokens="this is the page of Xinference's supervisor or of an idle worker: configure the workers' pages",
    note=(
        "The workers' pages (`--metrics-exporter-port`), an engine a replica. `output_tokens_total_counter` and"
        " `generate_tokens_total` are one number of two names. Finished requests include those that failed."
    ),
)

# ModelTC/lightllm lightllm/server/metrics/metrics.py at fc72ffab9a34. Two of its histograms end in _bucket themselves.
LIGHTLLM = EngineKind(
    name="lightllm",
    markers=("lightllm_",),
    fields={
        "input_tokens": (one("lightllm_request_input_length_sum"),),
        "cached_input_tokens": (one("lightllm_cache_length_sum", moves="end"),),
        "output_tokens": (one("lightllm_request_generated_tokens_sum", moves="end"),),
        "requests_finished": (one("lightllm_request_success_total", moves="end"),),
        "requests_running": (one("lightllm_batch_current_size"),),
        "requests_waiting": (one("lightllm_queue_size"),),
        "kv_cache_usage_ratio": (one("lightllm_kv_cache_utilization_ratio"),),  # 2026 and later
    },
    histograms=buckets(
        itl=(one("lightllm_request_mean_time_per_token_duration", moves="end"),),
        ttft=(one("lightllm_request_first_token_duration", moves="end"),),
        queue=(one("lightllm_request_queue_duration_bucket", moves="end"),),
        e2e=(one("lightllm_request_duration", moves="end"),),
    ),
    note="By its own `/metrics`, or by the push gateway that it is told to use: then one server a gateway.",
)

# EricLBuehler/mistral.rs at 9e922623f24b (0.9.2); the names by phase are in the library of 0.9.3 and later.
_MISTRAL_PREFILL = "mistralrs_prefill_tokens_processed_total"
_MISTRAL_DECODE = "mistralrs_decode_tokens_processed_total"
MISTRALRS = EngineKind(
    name="mistralrs",
    markers=("mistralrs_",),
    fields={
        "computed_input_tokens": (one(_MISTRAL_PREFILL),),
        "output_tokens": (one(_MISTRAL_DECODE),),
        "requests_finished": (one("mistralrs_sequences_completed_total", moves="end"),),
        "preemptions": (one("mistralrs_paged_preemptions_total"),),
        "draft_tokens": (one("mistralrs_speculative_draft_tokens_proposed_total"),),
        "accepted_draft_tokens": (one("mistralrs_speculative_draft_tokens_accepted_total"),),
        "requests_running": (one("mistralrs_sequences_running"),),
        "requests_waiting": (one("mistralrs_sequences_waiting"),),
        "kv_cache_usage_ratio": (one("mistralrs_kv_cache_blocks_used", per="mistralrs_kv_cache_blocks_total"),),
    },
    histograms=buckets(
        itl=(one("mistralrs_inter_token_latency_seconds"),),
        ttft=(one("mistralrs_time_to_first_token_seconds"),),
    ),
    from_zero=("computed_input_tokens", "output_tokens", "requests_finished"),
    without_tokens=(
        "mistral.rs before 0.9.3 counts prompt and output in one number, which can't be taken apart; update it"
    ),
    note=(
        "`mistralrs_tokens_processed_total` mixes prompt and output and is not read. Builds from 0.9.3 on count them"
        " apart (by their source; the package on PyPI has no server to run); what they reuse from the cache is not in"
        " the prefill, so the whole input stays unknown. Latencies are of streamed requests only."
    ),
)

# AI-Hypercomputer/JetStream jetstream/core/metrics/prometheus.py at acd4f5ad50ed; its latencies are in seconds.
JETSTREAM = EngineKind(
    name="jetstream",
    markers=("jetstream_",),
    replicas=("id",),
    fields={
        "input_tokens": (one("jetstream_request_input_length_sum", moves="end"),),
        "output_tokens": (one("jetstream_request_output_length_sum", moves="end"),),
        "requests_finished": (one("jetstream_request_success_count_total", moves="end"),),
        "requests_waiting": (one("jetstream_prefill_backlog_size"),),
        "kv_cache_usage_ratio": (one("kv_cache_utilization_perc"), one("jetstream_slots_used_percentage")),
    },
    histograms=buckets(
        itl=(one("jetstream_time_per_output_token", moves="end"),),
        ttft=(one("jetstream_time_to_first_token"),),
        queue=(one("jetstream_queue_duration"),),
        e2e=(one("jetstream_time_per_request", moves="end"),),
    ),
    note="Superseded by vLLM. That its lengths count when a request ends is its documentation's word.",
)

# modular/modular max/serve/telemetry/metrics.py of 26.7: OpenTelemetry instruments in the spelling of its Prometheus
# exporter; latencies in ms. Tokens and the end of a request: max/serve/router/openai_routes.py.
MAX = EngineKind(
    name="max",
    markers=("maxserve_",),
    fields={
        "input_tokens": (one("maxserve_num_input_tokens_total", moves="end"),),
        "cached_input_tokens": (one("maxserve_cache_hits_tokens_total"),),  # by tier, of 26.7
        "computed_input_tokens": (one("maxserve_cache_misses_tokens_total"),),
        "output_tokens": (one("maxserve_num_output_tokens_total", moves="end"),),
        "requests_finished": (one("maxserve_output_tokens_per_request_tokens_count", moves="end"),),
        "preemptions": (one("maxserve_cache_preemption_count_total"),),
        "requests_running": (one("maxserve_num_requests_running"),),
        "requests_waiting": (one("maxserve_num_requests_queued"),),
        "kv_cache_usage_ratio": (one("maxserve_cache_num_used_blocks", per="maxserve_cache_num_total_blocks"),),
    },
    histograms=buckets(
        itl=(one("maxserve_itl_milliseconds"),),
        ttft=(one("maxserve_time_to_first_token_milliseconds"),),
        e2e=(one("maxserve_request_time_milliseconds", moves="end"),),
    ),
    from_zero=("input_tokens", "cached_input_tokens", "computed_input_tokens", "output_tokens", "requests_finished"),
    note=(
        "MAX of Modular, its metrics on port 8001 (`MAX_SERVE_METRICS_ENDPOINT_PORT`). Input and output count when a"
        " request ends, cached and computed input at every step. No series is there before the first request, and none"
        " has the model's name: give `model`. `MAX_SERVE_DISABLE_TELEMETRY` takes the page away too."
    ),
)
