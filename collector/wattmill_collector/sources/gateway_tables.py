"""The table of gateways: which series of a gateway's page say who drew how many tokens. Pure data.

Each field has alternatives in order of preference; the first whose family the page has is read, never two of them.
Input is all input and output all output: cached and cache-creation input are parts of the one, reasoning of the other,
`total` is their sum, and none of them is ever added. A gateway counts when a request ends.

LiteLLM counts answers out of its own cache, for which nothing was computed, like any other. How many tokens these were
it shows as one sum only (`litellm_cached_tokens_metric`): that can't be taken out of input and output, so it is told.
Sources are cited beside each entry; facts/engines 5 has the pitfalls.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

FIELDS = ("input_tokens", "cached_input_tokens", "output_tokens", "requests_finished")
DIMENSIONS = ("model", "provider", "team", "api_key", "user", "agent")
PROCESS_START = "process_start_time_seconds"
RESOURCE = "target_info"


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """Series of one name; of those, where `label` is given, the ones whose label has one of `values`.

    `also`: other spellings of it. A page on which several clients stand may have more than one; series with the same
    labels under two of them are one.
    """

    name: str
    label: str = ""
    values: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All its spellings."""
        return (self.name, *self.also)


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayKind:
    """One gateway: how to know its page, what to read, and which labels say who.

    `markers` are beginnings of names, any of which is enough; where there are `mentions`, one of them has to stand
    somewhere on the page too. `labels`: for each dimension the labels to look at, the first that says anything counts.
    `prefixed`: an exporter may have put its own word before the names. `keeps`: a series that was shown stays on the
    page while its process lives; a collector of many processes' series drops those that rest. `resource`: what
    `target_info` says holds for all series, when the page has just one. `not_computed`: a counter of tokens that the
    others count too, though no engine computed them.
    """

    name: str
    markers: tuple[str, ...]
    fields: Mapping[str, tuple[Family, ...]]
    labels: Mapping[str, tuple[str, ...]]
    mentions: tuple[str, ...] = ()
    prefixed: bool = False
    keeps: bool = True
    resource: bool = False
    not_computed: str = ""

    def families(self) -> Iterator[str]:
        """Every name that reading this kind may need, without a prefix."""
        return (name for ways in self.fields.values() for family in ways for name in family.names)

    def prefix(self, page: bytes) -> str | None:
        """What stands before this kind's names on a page, nothing as a rule; None when the page is not of this kind."""
        if self.mentions and not any(word.encode() in page for word in self.mentions):
            return None
        before = rb"[a-zA-Z0-9_:]*?" if self.prefixed else b""
        names = b"|".join(map(re.escape, map(str.encode, self.markers)))
        found = re.search(rb"^(?:# TYPE )?(" + before + rb")(?:" + names + rb")", page, re.MULTILINE)
        return found[1].decode() if found else None


# litellm/types/integrations/prometheus.py at 1.109.1, and pages of 1.80.5 and 1.108.7; before 1.7x the names had no
# `_metric`. A key's alias is unique among keys; a user is the caller's own (`end_user`, where LiteLLM was told to show
# it), else the one the key belongs to. An e-mail address is read only where the settings ask for it. Retries and
# fallbacks count once, under the model that answered; what fails counts nothing. 1.80 counts a `/v1/responses` that it
# passes on as a chat twice, the second time under the model's alias, and a stream without usage by a tokenizer of its
# own; 1.108 does neither. The latency's count has no answers out of LiteLLM's cache, `litellm_requests_metric` has.
LITELLM = GatewayKind(
    name="litellm",
    markers=("litellm_",),
    fields={
        "input_tokens": (Family("litellm_input_tokens_metric_total"), Family("litellm_input_tokens_total")),
        "cached_input_tokens": (
            Family("litellm_input_cached_tokens_metric_total"),
            Family("litellm_provider_cache_read_input_tokens_metric_total"),
        ),
        "output_tokens": (Family("litellm_output_tokens_metric_total"), Family("litellm_output_tokens_total")),
        "requests_finished": (
            Family("litellm_llm_api_latency_metric_count"),
            Family("litellm_requests_metric_total"),
        ),
    },
    labels={
        "model": ("model", "requested_model"),
        "provider": ("api_provider",),
        "team": ("team_alias", "team"),
        "api_key": ("api_key_alias", "hashed_api_key"),
        "user": ("end_user", "user"),
        "agent": ("agent_id", "user_agent"),
    },
    not_computed="litellm_cached_tokens_metric_total",
)

_TYPE = "gen_ai_token_type"
_INPUT = ("input", "prompt")
_CACHED = ("cached_input", "cache_read", "cache_read_input", "input_cache_read", "input_cached")
_OUTPUT = ("output", "completion")
# The semantic conventions' histogram, as exporters spell it: with the unit or without, as a counter (Spring AI).
_USAGE = "gen_ai_client_token_usage"
_USAGES = (f"{_USAGE}_sum", f"{_USAGE}_token_sum", f"{_USAGE}_tokens_sum", f"{_USAGE}_total", f"{_USAGE}_tokens_total")
_COUNTS = (f"{_USAGE}_count", f"{_USAGE}_token_count", f"{_USAGE}_tokens_count")


def _usage(names: tuple[str, ...], values: tuple[str, ...]) -> Family:
    return Family(names[0], _TYPE, values, names[1:])


# semantic-conventions v1.40; `gen_ai_server_*` are durations and are not read. OpenLIT's counters have names of their
# own. The count of the histogram of input tokens is that of requests: embeddings have no output. The model is the one
# that was sent on, not the one that the caller asked for. A client that asks for a stream without usage gets it counted
# by OpenLIT's own tokenizer, and by nobody in openai-v2 and OpenLLMetry.
_GEN_AI_FIELDS = {
    "input_tokens": (_usage(_USAGES, _INPUT), Family("gen_ai_usage_input_tokens_total")),
    "cached_input_tokens": (_usage(_USAGES, _CACHED),),
    "output_tokens": (_usage(_USAGES, _OUTPUT), Family("gen_ai_usage_output_tokens_total")),
    "requests_finished": (_usage(_COUNTS, _INPUT), _usage(_COUNTS, _OUTPUT)),
}
_GEN_AI_LABELS = {
    "model": ("gen_ai_request_model", "gen_ai_response_model", "gen_ai_original_model"),
    "provider": ("gen_ai_provider_name", "gen_ai_system"),
    "team": ("team", "team_id", "team_name", "x_team_id", "tenant", "tenant_id"),
    "api_key": ("api_key_id", "api_key", "x_api_key_id"),
    "user": ("user_id", "enduser_id", "x_user_id", "user"),
    "agent": ("gen_ai_agent_name", "gen_ai_agent_id", "service_name", "exported_job", "job"),
}
# envoyproxy/ai-gateway internal/metrics/genai.go at c217da8a5395; older builds also show the type `total`.
_GEN_AI_NAMES = (_USAGE, "gen_ai_usage_input_tokens", "gen_ai_usage_output_tokens")
ENVOY_AI_GATEWAY = GatewayKind(
    name="envoy_ai_gateway",
    markers=_GEN_AI_NAMES,
    fields=_GEN_AI_FIELDS,
    labels=_GEN_AI_LABELS,
    mentions=("envoyproxy/ai-gateway", "gen_ai_original_model="),
)
OTEL = GatewayKind(
    name="otel",
    markers=_GEN_AI_NAMES,
    fields=_GEN_AI_FIELDS,
    labels=_GEN_AI_LABELS,
    prefixed=True,
    keeps=False,
    resource=True,
)

# sgl-model-gateway: counted by its gRPC workers only; no caller is told apart.
_SMG = "smg_router_tokens_total"
SGLANG_GATEWAY = GatewayKind(
    name="sglang_gateway",
    markers=(_SMG,),
    fields={
        "input_tokens": (Family(_SMG, "token_type", ("input", "prompt")),),
        "output_tokens": (Family(_SMG, "token_type", ("output", "completion")),),
    },
    labels={"model": ("model", "model_id")},
)

# In the order of trying.
GATEWAY_KINDS = (LITELLM, ENVOY_AI_GATEWAY, OTEL, SGLANG_GATEWAY)


def named(name: str) -> tuple[GatewayKind, ...]:
    """The kinds that a configured `kind` stands for; all for `auto`. Errors: ValueError listing the names."""
    chosen = tuple(kind for kind in GATEWAY_KINDS if name in ("auto", kind.name))
    if not chosen:
        known = ", ".join(sorted(kind.name for kind in GATEWAY_KINDS))
        raise ValueError(f"gateway kind {name!r} is not known; use auto or one of {known}")
    return chosen
