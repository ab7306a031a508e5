"""SGLang, by itself and behind its gateway.

Source: sglang/srt/observability/metrics_collector.py of 0.5.23. The pipeline rank is not filtered by SGLang itself, so
the first one is kept; with priority scheduling the scheduler's priority="" is the total and the other values are its
parts. The tokenizer (requests, latencies) knows no rank, and its priorities are all parts.

Left out: `dp_cooperation_realtime_tokens_total` (the same tokens again), `num_retracted_reqs` (a gauge that falls), and
averages of speculation, which are no counters of tokens.
"""

from __future__ import annotations

import dataclasses

from wattmill_collector.sources.engine_tables.kinds import (
    Alternative,
    EngineKind,
    Fields,
    Term,
    Variant,
    buckets,
    one,
    renamed,
    term,
)

_RANK = {"pp_rank": "0", "priority": ""}
_REALTIME = "sglang:realtime_tokens_total"
_EFFECTIVE = "sglang:prefill_effective_tokens_total"
# Counted by the tokenizer, which knows no rank. Which rank served a request makes no difference to their sum.
_FINISHED = term("sglang:num_requests_total", divided=True)


def _realtime(*modes: str) -> tuple[Alternative, ...]:
    return (one(_REALTIME, {"mode": modes, **_RANK}, lazy=True),)


def _effective(*modes: str) -> tuple[Alternative, ...]:
    return (one(_EFFECTIVE, {"mode": modes, **_RANK}),)


# The prefill batch samples a request's first token, and decode does not count it; nor, where a request was retracted,
# the token that the prefill samples when it is taken up again. The decode side of a pair loads what it had instead.
_RETRACTED = term("sglang:num_retracted_requests_total", {"engine_type": "unified", **_RANK})
_WORK: Fields = {
    "computed_input_tokens": _realtime("prefill_compute"),
    "output_tokens": (
        Alternative((*_realtime("decode")[0].terms, _FINISHED, _RETRACTED), lazy=True, beside=Term(_REALTIME)),
    ),
}

SGLANG = EngineKind(
    name="sglang",
    markers=("sglang:",),
    replicas=("dp_rank",),
    copies=("tp_rank", "moe_ep_rank"),
    fields={
        "requests_finished": (Alternative((_FINISHED,), moves="end"),),
        "preemptions": (
            one("sglang:num_retracted_requests_total", _RANK),  # 0.5.7 and later
            one("sglang:total_retracted_reqs", _RANK),  # 0.4.10 to 0.5.1: typed gauge, and rises
        ),
        "requests_running": (
            one("sglang:num_running_reqs", _RANK),
            one("sglang:num_requests_running"),  # 0.3.5
        ),
        "requests_waiting": (one("sglang:num_queue_reqs", _RANK), one("sglang:num_requests_waiting")),
        "kv_cache_usage_ratio": (one("sglang:token_usage", _RANK),),
    },
    variants=(
        Variant(  # 0.5.18 and later: what is prefilled again after a retraction is no input
            known_by=(_EFFECTIVE,),
            replicas=("dp_rank",),
            fields={
                "input_tokens": _effective("input", "device_hit", "host_hit", "storage_hit"),
                "cached_input_tokens": _effective("device_hit", "host_hit", "storage_hit"),
                **_WORK,
            },
        ),
        Variant(  # 0.5.7 and later: counted as the work is done
            known_by=(_REALTIME,),
            replicas=("dp_rank",),
            fields={
                "input_tokens": _realtime("prefill_compute", "prefill_cache"),
                "cached_input_tokens": _realtime("prefill_cache"),
                **_WORK,
            },
        ),
        Variant(  # counted by the tokenizer, which knows no rank, when a request ends
            known_by=("sglang:prompt_tokens_total", "sglang:generation_tokens_total"),
            replicas=(),
            fields={
                "input_tokens": (one("sglang:prompt_tokens_total", moves="end"),),
                "cached_input_tokens": (one("sglang:cached_tokens_total", moves="end"),),
                "output_tokens": (one("sglang:generation_tokens_total", moves="end"),),
            },
        ),
    ),
    histograms=buckets(
        itl=(
            one("sglang:inter_token_latency_seconds"),  # v0.4.4 and later
            one("sglang:time_per_output_token_seconds"),
            one("sglang:request_time_per_output_token_seconds", moves="end"),
        ),
        ttft=(one("sglang:time_to_first_token_seconds"),),
        queue=(one("sglang:queue_time_seconds", _RANK),),
        e2e=(one("sglang:e2e_request_latency_seconds", moves="end"),),
    ),
    model_labels=("model_name", "model", "name"),  # 0.3.5 called it name
    without_tokens="SGLang shows its token counters with the first request; without --enable-metrics it shows none",
    note=(
        "Since 0.5.7 `realtime_tokens_total` counts at every batch and step. Its decode part lacks the first token of"
        " each request, which the prefill batch samples, and of each that was retracted and is taken up again: so"
        " finished and retracted requests are added to it, one token each. What is prefilled again is computed once"
        " more; it is no input since 0.5.18, and was before. The finished requests know no data-parallel rank: they"
        " are divided equally among the ranks, in whole numbers that add up to"
        " their count. Before 0.5.7 tokens count when a request ends. Data-parallel ranks are engines of their own;"
        " tensor and expert ranks are copies. `engine_type` tells prefill from decode. Its quirks (seen on 0.5.23): a"
        " question after its health prefills a token of its own when it is idle, and a request with n > 1 counts as one"
        " request more, so as one output token more."
    ),
)

# By Ray, or any gateway that takes colons away.
SGLANG_UNDERSCORE = renamed(
    SGLANG,
    "sglang",
    "sglang:",
    "sglang_",
    replicas=("dp_rank", "worker_addr"),
    note="SGLang's names with an underscore, as Ray and gateways spell them.",
)

# sgl-model-gateway shows its engines' pages in one, at /engine_metrics, with the label worker_addr added.
SGLANG_GATEWAY = dataclasses.replace(
    SGLANG_UNDERSCORE,
    name="sglang_gateway",
    also=('worker_addr="',),
    path="/engine_metrics",
    holds_accelerators=False,
    note=(
        "`/engine_metrics` of sgl-model-gateway, where `worker_addr` tells the engines apart. Their tokens stand on"
        " their own pages, so these are shown and never counted; where nothing else can be read, say `kind: sglang`"
        " to count them."
    ),
)
