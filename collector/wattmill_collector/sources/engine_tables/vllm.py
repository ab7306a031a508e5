"""vLLM in its own spelling, and in those of what shows its pages again.

Sources: vllm/v1/metrics/loggers.py:494-1082 and vllm/v1/spec_decode/metrics.py:229-255 at 017e9f4448b7 (V1); the V0
engine (until v0.11) had the same token names. Label `engine`, the data-parallel rank, since v0.8.5; behind Triton the
labels are `model` and `version`. One entry reads all three.

Left out: `prompt_tokens_cached_by_source_total`, `num_requests_waiting_by_reason` and `..._accepted_tokens_per_pos`
(parts of what is read), `iteration_tokens_total` (a histogram), `request_prefill_kv_computed_tokens` (moves at the end
of requests, so it does not fit to an input that moves at every step), and V0's speculation counters, which added
cumulative values again and again under the names that V1 uses: so those count only beside V1's `num_drafts`.
"""

from __future__ import annotations

import dataclasses

from wattmill_collector.sources.engine_tables.kinds import EngineKind, buckets, one, renamed

_DRAFTS = "vllm:spec_decode_num_drafts_total"
_SOURCES = "vllm:prompt_tokens_by_source_total"

VLLM = EngineKind(
    name="vllm",
    about_path="/version",
    markers=("vllm:",),
    replicas=("engine", "version"),
    fields={
        # The Rust front end shows most of these only from the first request on, but `local_compute` at once.
        "input_tokens": (one("vllm:prompt_tokens_total"), one(_SOURCES, lazy=True)),
        "cached_input_tokens": (
            one("vllm:prompt_tokens_cached_total"),  # v0.16.0 and later
            one(_SOURCES, {"source": ("local_cache_hit", "external_kv_transfer")}, lazy=True),
            one("vllm:prefix_cache_hits_total"),  # v0.9.2 and later; at admission
            one("vllm:gpu_prefix_cache_hits_total"),  # v0.7.3 to v0.11
        ),
        "computed_input_tokens": (one(_SOURCES, {"source": "local_compute"}),),
        "output_tokens": (one("vllm:generation_tokens_total"),),
        "requests_finished": (one("vllm:request_success_total", moves="end"),),
        "preemptions": (one("vllm:num_preemptions_total"),),
        "draft_tokens": (one("vllm:spec_decode_num_draft_tokens_total", beside=_DRAFTS),),
        "accepted_draft_tokens": (one("vllm:spec_decode_num_accepted_tokens_total", beside=_DRAFTS),),
        "requests_running": (one("vllm:num_requests_running"),),
        "requests_waiting": (one("vllm:num_requests_waiting"),),
        "kv_cache_usage_ratio": (
            one("vllm:kv_cache_usage_perc"),  # v0.9.2 and later
            one("vllm:gpu_cache_usage_perc"),  # until v0.11
        ),
    },
    # What came over a connector is the other side's work, not a hit of this one's cache.
    when_decode={"cached_input_tokens": (one(_SOURCES, {"source": "local_cache_hit"}),)},
    histograms=buckets(
        itl=(
            one("vllm:inter_token_latency_seconds"),  # v0.10.2 and later
            one("vllm:time_per_output_token_seconds"),
            one("vllm:request_time_per_output_token_seconds", moves="end"),
        ),
        ttft=(one("vllm:time_to_first_token_seconds"),),
        queue=(one("vllm:request_queue_time_seconds", moves="end"),),
        e2e=(one("vllm:e2e_request_latency_seconds", moves="end"),),
    ),
    without_tokens="vLLM counts no tokens with --disable-log-stats; start it without that option",
    note=(
        "V0 and V1, several API servers, data-parallel ranks (each an engine of its own), and Triton's vLLM back end. A"
        " prompt counts when its prefill is done; one shared by n > 1 answers counts n times (upstream issue 56361)."
        " V0 (until v0.9.x) counted speculation cumulatively: not read; it shows no counter before its first request."
    ),
)

# vllm-project/production-stack: its router shows what it knows of each engine, in vLLM's words and in gauges.
VLLM_ROUTER = EngineKind(
    name="vllm_router",
    markers=("vllm:current_qps",),
    replicas=("server",),
    holds_accelerators=False,
    fields={
        "requests_running": (one("vllm:num_requests_running"),),
        "requests_waiting": (one("vllm:num_requests_waiting"),),
    },
    without_tokens="this is a router's page: configure the engines behind it",
    note=(
        "The router of the vLLM production stack: no counters of tokens; the engines behind it have them. The port that"
        " vllm-router serves on answers /metrics with the page of one of its engines, now this one, now that: configure"
        " the engines."
    ),
)

# Under Ray the colon became an underscore in vLLM 0.11. Every replica sends what it counted to its node's agent, which
# adds it up and shows a counter with its first event only; agents before OpenTelemetry showed each a second time
# without _total, older ones only so. Ray 2.60.0 ray/_private/telemetry/open_telemetry_metric_recorder.py.
_RAY_REPLICAS = ("engine", "ReplicaId", "WorkerId")
_RAY_FROM_ZERO = ("input_tokens", "cached_input_tokens", "output_tokens", "requests_finished")
VLLM_RAY = dataclasses.replace(
    renamed(
        VLLM,
        "vllm_ray",
        "vllm:",
        "ray_vllm_",
        replicas=_RAY_REPLICAS,
        bare=True,
        note="Ray Serve LLM with vLLM 0.11 or later, by the metrics agent of each Ray node.",
    ),
    from_zero=_RAY_FROM_ZERO,
)
VLLM_RAY_OLD = dataclasses.replace(
    renamed(
        VLLM,
        "vllm_ray",
        "vllm:",
        "ray_vllm:",
        replicas=_RAY_REPLICAS,
        bare=True,
        note="Ray Serve LLM with vLLM before 0.11.",
    ),
    from_zero=_RAY_FROM_ZERO,
)

# aphrodite/v1/metrics/loggers.py:479-1022 at b42eeec22c42.
APHRODITE = renamed(
    VLLM, "aphrodite", "vllm:", "aphrodite:", note="Aphrodite, port 2242: the vLLM names of the same age."
)

# opendatahub-io/odh-dashboard PR 7739.
KSERVE_VLLM = renamed(
    VLLM,
    "kserve_vllm",
    "vllm:",
    "kserve_vllm:",
    replicas=("engine", "pod"),
    note="vLLM's names as the monitoring of KServe and Open Data Hub re-spells them. The pods themselves show `vllm:`.",
)
