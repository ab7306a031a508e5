"""Hugging Face's servers: text-generation-inference and text-embeddings-inference. Neither shows the model's name.

Sources: text-generation-inference db931fcf42da, router/src/validation.rs:192, router/src/server.rs:422;
text-embeddings-inference 0d124dc9773b, core/src/queue.rs:206.

Left out: `tgi_request_skipped_tokens_sum + _count`, which should be the tokens of every step. Nobody has verified that
on a running server, and the TensorRT-LLM and llama.cpp back ends of TGI don't show it.
"""

from __future__ import annotations

from wattmill_collector.sources.engine_tables.kinds import EngineKind, buckets, one

TGI = EngineKind(
    name="tgi",
    about_path="/info",
    markers=("tgi_",),
    fields={
        "input_tokens": (one("tgi_request_input_length_sum"),),
        "output_tokens": (one("tgi_request_generated_tokens_sum", moves="end"),),
        "requests_finished": (one("tgi_request_success", moves="end"),),
        "requests_running": (one("tgi_batch_current_size"),),
        "requests_waiting": (one("tgi_queue_size"),),
    },
    histograms=buckets(
        itl=(one("tgi_request_mean_time_per_token_duration", moves="end"),),
        queue=(one("tgi_request_queue_duration", moves="end"),),
        e2e=(one("tgi_request_duration", moves="end"),),
    ),
    from_zero=("input_tokens", "output_tokens", "requests_finished"),
    without_tokens="TGI shows its histograms of tokens with the first request",
    note=(
        "Input counts when a request is validated, output when it has succeeded. Prefix caching leaves no trace, so"
        " cached input is unknown."
    ),
)

TEI = EngineKind(
    name="tei",
    about_path="/info",
    markers=("te_",),
    fields={
        "input_tokens": (one("te_batch_next_tokens_sum"), one("te_request_input_length_sum")),
        "requests_finished": (one("te_request_success", moves="end"),),
        "requests_waiting": (one("te_queue_size"),),
    },
    histograms=buckets(e2e=(one("te_request_duration", moves="end"),)),
    without_tokens="text-embeddings-inference shows its histograms of tokens with the first request",
    note="An embedder generates nothing: it has no output tokens, which is not the same as 0.",
)
