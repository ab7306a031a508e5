"""The table of serving engines: which series on an engine's `/metrics` page mean what. Pure data.

One entry an engine kind, one file a family of engines. Each canonical field has alternatives in order of preference:
the first that exists on the page is read, never two of them, because old and new names overlap for several releases.
An alternative is one series or the sum of disjoint parts. Histogram sums stand in where an engine has no counter.

*Input* is all input tokens whatever the engine's own counter means by it: llama.cpp's prompt counter leaves cached
tokens out, so there the input is the sum of two counters, and unknown in builds that have only the first.

Not here: `_created` (a Unix time), breakdowns of a total, rates, and counters that show the same tokens again.
Sources: the engines' own code, as cited in each file; versions are those in which a name appeared or went. The table
in words: docs/engines.md.
"""

from __future__ import annotations

from wattmill_collector.sources.engine_tables.huggingface import TEI, TGI
from wattmill_collector.sources.engine_tables.kinds import (
    COUNTER_FIELDS,
    FIELDS,
    HISTOGRAM_FIELDS,
    PROCESS_START,
    TOKEN_FIELDS,
    Alternative,
    EngineKind,
    Term,
    Variant,
    series_of,
)
from wattmill_collector.sources.engine_tables.nvidia import (
    DYNAMO_FRONTEND,
    DYNAMO_FRONTEND_OLD,
    DYNAMO_WORKER,
    NIM,
    TRITON_TRTLLM,
    TRTLLM,
    TRTLLM_DYNAMO,
    TRTLLM_OLD,
)
from wattmill_collector.sources.engine_tables.others import (
    JETSTREAM,
    LIGHTLLM,
    LLAMACPP,
    LMDEPLOY,
    MAX,
    MISTRALRS,
    XINFERENCE,
)
from wattmill_collector.sources.engine_tables.sglang import SGLANG, SGLANG_GATEWAY, SGLANG_UNDERSCORE
from wattmill_collector.sources.engine_tables.vllm import (
    APHRODITE,
    KSERVE_VLLM,
    VLLM,
    VLLM_RAY,
    VLLM_RAY_OLD,
    VLLM_ROUTER,
)

__all__ = [
    "COUNTER_FIELDS",
    "ENGINE_KINDS",
    "FIELDS",
    "HISTOGRAM_FIELDS",
    "PROCESS_START",
    "TOKEN_FIELDS",
    "Alternative",
    "EngineKind",
    "Term",
    "Variant",
    "named",
    "recognise",
    "series_of",
]

# In the order of trying: a router speaks in its engines' names, a worker behind Dynamo shows its engine's, Triton with
# vLLM inside shows vLLM's, and names without a prefix come last.
ENGINE_KINDS: tuple[EngineKind, ...] = (
    VLLM_ROUTER,
    VLLM,
    SGLANG,
    LLAMACPP,
    TGI,
    TRTLLM,
    TRTLLM_DYNAMO,
    TRITON_TRTLLM,
    LMDEPLOY,
    DYNAMO_FRONTEND,
    DYNAMO_FRONTEND_OLD,
    TEI,
    VLLM_RAY,
    VLLM_RAY_OLD,
    APHRODITE,
    KSERVE_VLLM,
    SGLANG_GATEWAY,
    SGLANG_UNDERSCORE,
    XINFERENCE,
    LIGHTLLM,
    MISTRALRS,
    JETSTREAM,
    MAX,
    NIM,
    TRTLLM_OLD,
    DYNAMO_WORKER,
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
    return next((kind for kind in kinds if _is_of(page, kind)), None)


def _is_of(page: bytes, kind: EngineKind) -> bool:
    return all(begins(page, marker) for marker in kind.markers) and all(text.encode() in page for text in kind.also)


def begins(page: bytes, marker: str) -> bool:
    """Whether a series or a TYPE line of the page begins with this."""
    name = marker.encode()
    return page.startswith((name, b"# TYPE " + name)) or b"\n" + name in page or b"\n# TYPE " + name in page
