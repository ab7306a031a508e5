"""The table of serving engines: which series on an engine's `/metrics` page mean what. Pure data.

One entry an engine kind. Each canonical field has alternatives in order of preference: the first that exists on the
page is read, never two of them, because old and new names overlap for several releases. An alternative is one series
or the sum of disjoint parts. Histogram sums stand in where an engine has no counter.

*Input* is all input tokens whatever the engine's own counter means by it: llama.cpp's prompt counter leaves cached
tokens out, so there the input is the sum of two counters, and unknown in builds that have only the first.

Not here: `_created` (a Unix time), breakdowns of a total, rates, and counters that show the same tokens again.
Sources: the engines' own code, as cited beside each entry; versions are those in which a name appeared or went.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

Moves = Literal["step", "end"]

TOKEN_FIELDS = ("input_tokens", "cached_input_tokens", "computed_input_tokens", "output_tokens")
COUNTER_FIELDS = (*TOKEN_FIELDS, "requests_finished", "preemptions")
FIELDS = (*COUNTER_FIELDS, "requests_running", "requests_waiting", "kv_cache_usage_ratio")
HISTOGRAM_FIELDS = ("inter_token_latency", "time_to_first_token")
PROCESS_START = "process_start_time_seconds"


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """Series of one name. `select` keeps the listed values of a label; a series that lacks the label is kept."""

    name: str
    select: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Alternative:
    """One way to read a field: the sum of its terms, all of which must be there.

    `moves` is when the engine adds to it: at every step, or only when a request ends. `lazy`: the engine shows a label
    value only once it has counted something under it, so in a family that is there, a missing part has counted 0.
    """

    terms: tuple[Term, ...]
    moves: Moves = "step"
    lazy: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """Names that belong together in one age of an engine; chosen when any of the series `known_by` is on the page.

    `replicas` are the labels whose values are engines of their own (data-parallel ranks), to be counted apart.
    """

    known_by: tuple[str, ...]
    replicas: tuple[str, ...]
    fields: Mapping[str, tuple[Alternative, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class EngineKind:
    """One engine: how to know its page, which labels separate the engines behind it, and what to read.

    `markers` are beginnings of metric names; all must be on the page. `copies` are labels whose values are copies of
    one engine (tensor or expert ranks that report the same work): the lowest is kept. Without a chosen variant only
    `fields` are read. `histograms` are latencies, each alternative one family of buckets: those that move at every step
    come first, a request's mean over its tokens last. `about_path` answers JSON with the model's name or the engine's
    version where the page does not. `holds_accelerators` is False for a front end that computes nothing itself.
    """

    name: str
    markers: tuple[str, ...]
    fields: Mapping[str, tuple[Alternative, ...]]
    variants: tuple[Variant, ...] = ()
    histograms: Mapping[str, tuple[Alternative, ...]] = dataclasses.field(default_factory=dict)
    model_labels: tuple[str, ...] = ("model_name", "model")
    replicas: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    path: str = "/metrics"
    about_path: str = ""
    holds_accelerators: bool = True

    def names(self) -> frozenset[str]:
        """Every series name that reading this kind may need, the process start included."""
        tables = [self.fields, *(v.fields for v in self.variants)]
        read = {t.name for table in tables for ways in table.values() for way in ways for t in way.terms}
        return frozenset(read | {PROCESS_START} | {name for v in self.variants for name in v.known_by})

    def histogram_names(self) -> frozenset[str]:
        """Every series name that reading this kind's histograms may need."""
        return frozenset(t.name for ways in self.histograms.values() for way in ways for t in way.terms)


Select = Mapping[str, str | tuple[str, ...]]
_ALL: Select = {}


def _one(name: str, select: Select = _ALL, *, moves: Moves = "step") -> Alternative:
    return Alternative((Term(name, _select(select)),), moves=moves)


def _select(select: Select) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((label, (value,) if isinstance(value, str) else value) for label, value in select.items())


def _buckets(itl: Sequence[Alternative] = (), ttft: Sequence[Alternative] = ()) -> dict[str, tuple[Alternative, ...]]:
    """The buckets of two histograms; bounds are seconds unless the name says milliseconds."""
    found = dict(zip(HISTOGRAM_FIELDS, (itl, ttft), strict=True))

    def buckets(way: Alternative) -> Alternative:
        return dataclasses.replace(way, terms=tuple(dataclasses.replace(t, name=f"{t.name}_bucket") for t in way.terms))

    return {field: tuple(map(buckets, ways)) for field, ways in found.items() if ways}


def _renamed(kind: EngineKind, name: str, old: str, new: str, **changes: tuple[str, ...]) -> EngineKind:
    """The same engine behind something that re-spells the prefix of its names."""

    def rename(text: str) -> str:
        return new + text.removeprefix(old) if text.startswith(old) else text

    def rename_fields(table: Mapping[str, tuple[Alternative, ...]]) -> dict[str, tuple[Alternative, ...]]:
        return {
            field: tuple(
                dataclasses.replace(way, terms=tuple(dataclasses.replace(t, name=rename(t.name)) for t in way.terms))
                for way in ways
            )
            for field, ways in table.items()
        }

    variants = tuple(
        dataclasses.replace(v, known_by=tuple(map(rename, v.known_by)), fields=rename_fields(v.fields))
        for v in kind.variants
    )
    settled = {"replicas": kind.replicas, **changes}
    return dataclasses.replace(
        kind,
        name=name,
        markers=(new,),
        fields=rename_fields(kind.fields),
        histograms=rename_fields(kind.histograms),
        variants=variants,
        replicas=settled["replicas"],
    )


# vllm/v1/metrics/loggers.py:494-754 at 017e9f4448b7. Label `engine` since v0.8.5; behind Triton the labels are `model`
# and `version`. The V0 engine (until v0.11) had the same token names, so one entry reads all three.
VLLM = EngineKind(
    name="vllm",
    about_path="/version",
    markers=("vllm:",),
    replicas=("engine", "version"),
    fields={
        "input_tokens": (_one("vllm:prompt_tokens_total"),),
        "cached_input_tokens": (
            _one("vllm:prompt_tokens_cached_total"),  # v0.16.0 and later
            _one("vllm:prompt_tokens_by_source_total", {"source": ("local_cache_hit", "external_kv_transfer")}),
            _one("vllm:prefix_cache_hits_total"),  # v0.9.2 and later; at admission
            _one("vllm:gpu_prefix_cache_hits_total"),  # v0.7.3 to v0.11
        ),
        "computed_input_tokens": (_one("vllm:prompt_tokens_by_source_total", {"source": "local_compute"}),),
        "output_tokens": (_one("vllm:generation_tokens_total"),),
        "requests_finished": (_one("vllm:request_success_total", moves="end"),),
        "preemptions": (_one("vllm:num_preemptions_total"),),
        "requests_running": (_one("vllm:num_requests_running"),),
        "requests_waiting": (_one("vllm:num_requests_waiting"),),
        "kv_cache_usage_ratio": (
            _one("vllm:kv_cache_usage_perc"),  # v0.9.2 and later
            _one("vllm:gpu_cache_usage_perc"),  # until v0.11
        ),
    },
    histograms=_buckets(
        itl=(
            _one("vllm:inter_token_latency_seconds"),  # v0.10.2 and later
            _one("vllm:time_per_output_token_seconds"),
            _one("vllm:request_time_per_output_token_seconds", moves="end"),
        ),
        ttft=(_one("vllm:time_to_first_token_seconds"),),
    ),
)

# Under Ray the colon became an underscore in vLLM 0.11; every replica reports through its node's agent.
_RAY_REPLICAS = ("engine", "ReplicaId", "WorkerId")
VLLM_RAY = _renamed(VLLM, "vllm_ray", "vllm:", "ray_vllm_", replicas=_RAY_REPLICAS)
VLLM_RAY_OLD = _renamed(VLLM, "vllm_ray", "vllm:", "ray_vllm:", replicas=_RAY_REPLICAS)
APHRODITE = _renamed(VLLM, "aphrodite", "vllm:", "aphrodite:")

# sglang/srt/observability/metrics_collector.py of 0.5.23. The pipeline rank is not filtered by SGLang itself, so the
# first one is kept; with priority scheduling priority="" is the total and the other values are its parts.
_RANK = {"pp_rank": "0", "priority": ""}
_REALTIME = "sglang:realtime_tokens_total"


def _realtime(*modes: str) -> tuple[Alternative, ...]:
    return (Alternative((Term(_REALTIME, _select({"mode": modes, **_RANK})),), lazy=True),)


SGLANG = EngineKind(
    name="sglang",
    markers=("sglang:",),
    replicas=("dp_rank",),
    copies=("tp_rank", "moe_ep_rank"),
    fields={
        "requests_finished": (_one("sglang:num_requests_total", moves="end"),),
        "preemptions": (_one("sglang:num_retracted_requests_total", _RANK),),
        "requests_running": (_one("sglang:num_running_reqs", _RANK), _one("sglang:num_requests_running")),
        "requests_waiting": (_one("sglang:num_queue_reqs", _RANK), _one("sglang:num_requests_waiting")),
        "kv_cache_usage_ratio": (_one("sglang:token_usage", _RANK),),
    },
    variants=(
        Variant(  # 0.5.7 and later: counted as the work is done
            known_by=(_REALTIME,),
            replicas=("dp_rank",),
            fields={
                "input_tokens": _realtime("prefill_compute", "prefill_cache"),
                "cached_input_tokens": _realtime("prefill_cache"),
                "computed_input_tokens": _realtime("prefill_compute"),
                "output_tokens": _realtime("decode"),
            },
        ),
        Variant(  # counted by the tokenizer, which knows no rank, when a request ends
            known_by=("sglang:prompt_tokens_total", "sglang:generation_tokens_total"),
            replicas=(),
            fields={
                "input_tokens": (_one("sglang:prompt_tokens_total", moves="end"),),
                "cached_input_tokens": (_one("sglang:cached_tokens_total", moves="end"),),
                "output_tokens": (_one("sglang:generation_tokens_total", moves="end"),),
            },
        ),
    ),
    histograms=_buckets(
        itl=(
            _one("sglang:inter_token_latency_seconds", _RANK),  # v0.4.4 and later
            _one("sglang:time_per_output_token_seconds", _RANK),
            _one("sglang:request_time_per_output_token_seconds", _RANK, moves="end"),
        ),
        ttft=(_one("sglang:time_to_first_token_seconds", _RANK),),
    ),
)
SGLANG_GATEWAY = _renamed(SGLANG, "sglang", "sglang:", "sglang_")

# huggingface/text-generation-inference db931fcf42da: router/src/validation.rs:192, router/src/server.rs:422. No model
# label, no counters of tokens; prefix caching leaves no trace.
TGI = EngineKind(
    name="tgi",
    about_path="/info",
    markers=("tgi_",),
    fields={
        "input_tokens": (_one("tgi_request_input_length_sum"),),
        "output_tokens": (_one("tgi_request_generated_tokens_sum", moves="end"),),
        "requests_finished": (_one("tgi_request_success", moves="end"),),
        "requests_running": (_one("tgi_batch_current_size"),),
        "requests_waiting": (_one("tgi_queue_size"),),
    },
    histograms=_buckets(itl=(_one("tgi_request_mean_time_per_token_duration", moves="end"),)),
)

# huggingface/text-embeddings-inference 0d124dc9773b: core/src/queue.rs:206. An embedder generates nothing.
TEI = EngineKind(
    name="tei",
    about_path="/info",
    markers=("te_",),
    fields={
        "input_tokens": (_one("te_batch_next_tokens_sum"), _one("te_request_input_length_sum")),
        "requests_finished": (_one("te_request_success", moves="end"),),
        "requests_waiting": (_one("te_queue_size"),),
    },
)

# ggml-org/llama.cpp tools/server/server-task.cpp:1526-1611 at b10573. No labels at all; the page prints six digits, so
# above a million tokens the counter moves in steps of 10.
_LLAMA_COMPUTED = Term("llamacpp:prompt_tokens_total")
_LLAMA_CACHED = Term("llamacpp:prompt_tokens_cached_total")
_LLAMA_TOKENS = {
    "computed_input_tokens": (Alternative((_LLAMA_COMPUTED,)),),
    "output_tokens": (_one("llamacpp:tokens_predicted_total", moves="end"),),
}
LLAMACPP = EngineKind(
    name="llamacpp",
    about_path="/props",
    markers=("llamacpp:",),
    fields={
        "requests_running": (_one("llamacpp:requests_processing"),),
        "requests_waiting": (_one("llamacpp:requests_deferred"),),
        "kv_cache_usage_ratio": (_one("llamacpp:kv_cache_usage_ratio"),),  # until b5441, and in ik_llama.cpp
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
)

# NVIDIA/TensorRT-LLM 050f80de: tensorrt_llm/metrics/collector.py. `/metrics` answers JSON; releases up to 1.2.1 count
# no tokens.
TRTLLM = EngineKind(
    name="trtllm",
    markers=("trtllm_",),
    path="/prometheus/metrics",
    fields={
        "input_tokens": (_one("trtllm_prompt_tokens_total", moves="end"),),
        "cached_input_tokens": (_one("trtllm_prompt_cached_tokens_total", moves="end"),),
        "output_tokens": (_one("trtllm_generation_tokens_total", moves="end"),),
        "requests_finished": (
            _one("trtllm_request_success_total", moves="end"),
            _one("trtllm_num_requests_completed_total"),
        ),
        "requests_running": (_one("trtllm_num_requests_running"),),
        "requests_waiting": (_one("trtllm_num_requests_waiting"),),
        "kv_cache_usage_ratio": (_one("trtllm_kv_cache_utilization"),),
    },
    histograms=_buckets(
        itl=(_one("trtllm_time_per_output_token_seconds", moves="end"),),
        ttft=(_one("trtllm_time_to_first_token_seconds", moves="end"),),
    ),
)

# triton-inference-server/tensorrtllm_backend 0b9d7d5a1958. An ensemble counts a request once in each of its stages:
# only the stage named tensorrt_llm is the engine.
TRITON_TRTLLM = EngineKind(
    name="triton_trtllm",
    markers=("nv_trt_llm_",),
    replicas=("version",),
    fields={
        "input_tokens": (
            _one("nv_llm_input_token_len_sum", {"response_metric_type": "total_input_tokens"}, moves="end"),
        ),
        "output_tokens": (
            _one("nv_llm_output_token_len_sum", {"response_metric_type": "total_output_tokens"}, moves="end"),
        ),
        "requests_finished": (_one("nv_inference_request_success", {"model": "tensorrt_llm"}, moves="end"),),
        "requests_running": (_one("nv_trt_llm_request_metrics", {"request_type": "scheduled"}),),
        "requests_waiting": (_one("nv_trt_llm_request_metrics", {"request_type": "waiting"}),),
        "kv_cache_usage_ratio": (_one("nv_trt_llm_kv_cache_block_metrics", {"kv_cache_block_type": "fraction"}),),
    },
)

# NIM LLM 1.x shows vLLM V0's names without a prefix; `num_request_max` is what tells it from anything else.
NIM = EngineKind(
    name="nim",
    markers=("num_request_max", "gpu_cache_usage_perc"),
    path="/v1/metrics",
    fields={
        "input_tokens": (_one("prompt_tokens_total"),),
        "output_tokens": (_one("generation_tokens_total"),),
        "requests_finished": (
            _one("request_finish_total", moves="end"),
            _one("request_success_total", moves="end"),
        ),
        "requests_running": (_one("num_requests_running"),),
        "requests_waiting": (_one("num_requests_waiting"),),
        "kv_cache_usage_ratio": (_one("gpu_cache_usage_perc"),),
    },
    histograms=_buckets(
        itl=(_one("time_per_output_token_seconds"),),
        ttft=(_one("time_to_first_token_seconds"),),
    ),
)

# ai-dynamo lib/llm/src/http/service/metrics.rs:1844. The same tokens stand on the workers' own pages: scrape one.
DYNAMO_FRONTEND = EngineKind(
    name="dynamo_frontend",
    markers=("dynamo_frontend_",),
    holds_accelerators=False,
    fields={
        "input_tokens": (_one("dynamo_frontend_input_sequence_tokens_sum"),),
        "cached_input_tokens": (_one("dynamo_frontend_cached_tokens_sum"),),
        "output_tokens": (
            _one("dynamo_frontend_output_tokens_total"),
            _one("dynamo_frontend_output_sequence_tokens_sum", moves="end"),
        ),
        "requests_finished": (_one("dynamo_frontend_requests_total", moves="end"),),
        "requests_running": (_one("dynamo_frontend_inflight_requests"),),
        "requests_waiting": (_one("dynamo_frontend_queued_requests"),),
    },
    histograms=_buckets(
        itl=(_one("dynamo_frontend_inter_token_latency_seconds"),),  # a chunk of the answer
        ttft=(_one("dynamo_frontend_time_to_first_token_seconds"),),
    ),
)

# InternLM/lmdeploy lmdeploy/metrics/loggers.py:149-417 at 1263d5cd889b.
LMDEPLOY = EngineKind(
    name="lmdeploy",
    markers=("lmdeploy:",),
    replicas=("engine",),
    fields={
        "input_tokens": (_one("lmdeploy:prompt_tokens_total"),),
        "cached_input_tokens": (_one("lmdeploy:cached_tokens_total", moves="end"),),
        "output_tokens": (_one("lmdeploy:generation_tokens_total"),),
        "requests_finished": (_one("lmdeploy:request_success_total", moves="end"),),
        "requests_running": (_one("lmdeploy:num_requests_running"),),
        "requests_waiting": (_one("lmdeploy:num_requests_waiting"),),
        "kv_cache_usage_ratio": (_one("lmdeploy:gpu_cache_usage_perc"),),
    },
    histograms=_buckets(
        itl=(_one("lmdeploy:iter_token_latency"), _one("lmdeploy:time_per_output_token_seconds")),
        ttft=(_one("lmdeploy:time_to_first_token_seconds"),),
    ),
)

# xorbitsai/inference xinference/core/model.py:402-421; `generate_tokens_total` is the output again.
XINFERENCE = EngineKind(
    name="xinference",
    markers=("xinference:",),
    fields={
        "input_tokens": (_one("xinference:input_tokens_total_counter", moves="end"),),
        "output_tokens": (
            _one("xinference:output_tokens_total_counter", moves="end"),
            _one("xinference:generate_tokens_total", moves="end"),
        ),
        "requests_running": (_one("xinference:model_serve_count"),),
        "requests_finished": (_one("xinference:model_request_total", moves="end"),),
    },
    histograms=_buckets(ttft=(_one("xinference:time_to_first_token_seconds"),)),
)

# In the order of trying: a worker behind Dynamo shows its engine's names, Triton with vLLM inside shows vLLM's.
ENGINE_KINDS: tuple[EngineKind, ...] = (
    VLLM,
    SGLANG,
    LLAMACPP,
    TGI,
    TRTLLM,
    TRITON_TRTLLM,
    LMDEPLOY,
    DYNAMO_FRONTEND,
    TEI,
    VLLM_RAY,
    VLLM_RAY_OLD,
    APHRODITE,
    SGLANG_GATEWAY,
    XINFERENCE,
    NIM,
)


def named(name: str) -> tuple[EngineKind, ...]:
    """The kinds that a configured `kind` stands for: several when one engine has several spellings, all for `auto`.

    Errors: ValueError listing the names that exist.
    """
    chosen = tuple(k for k in ENGINE_KINDS if name in ("auto", k.name))
    if not chosen:
        known = ", ".join(sorted({k.name for k in ENGINE_KINDS}))
        raise ValueError(f"engine kind {name!r} is not known; use auto or one of {known}")
    return chosen


def recognise(page: bytes, kinds: tuple[EngineKind, ...] = ENGINE_KINDS) -> EngineKind | None:
    """The first kind all of whose markers begin a series or a TYPE line of the page."""
    return next((kind for kind in kinds if all(_begins(page, marker) for marker in kind.markers)), None)


def _begins(page: bytes, marker: str) -> bool:
    return any(page.startswith(m[1:]) or m in page for m in _spellings(marker))


def _spellings(marker: str) -> Iterator[bytes]:
    yield b"\n" + marker.encode()
    yield b"\n# TYPE " + marker.encode()
