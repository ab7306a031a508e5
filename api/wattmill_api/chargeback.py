"""Who used a workload's energy: each row of /efficiency split over the consumers that gateways saw. Pure.

A gateway's tokens are shares and nothing else: what is split is the workload's energy, whole millijoules by largest
remainder, idle time included, so the rows of a workload sum to it in every bucket. What its engines computed and no
gateway saw stays a row of its own, `direct`.

A consumer weighs its uncached input times a plus its output times b: the workload's own energy per token of prefill and
decode where its phases are known, else 1 and 1. Cached input weighs nothing. Where a gateway does not say what was
cached, or says what the engines contradict, its input is taken to be cached as the workload's is.

Not here: gateways' minutes (`accounting/gateways.py`), and any sum of gateways' tokens with engines'.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from wattmill_api.efficiency import MJ_PER_KWH
from wattmill_api.store.gateways import Drawn

# Providers that compute on their own machines, as gateways call them: their models never run here, whatever their name.
ELSEWHERE = frozenset(
    {
        *("anthropic", "azure", "azure_ai", "aws.bedrock", "bedrock", "cohere", "databricks", "deepinfra", "deepseek"),
        *("fireworks_ai", "gcp.gemini", "gcp.vertex_ai", "gemini", "groq", "mistral_ai", "openrouter", "perplexity"),
        *("replicate", "together_ai", "vertex_ai", "voyage", "xai"),
    }
)
MICRO = 1_000_000  # prices are weighed in whole nanojoules


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
    """Energy per token of a workload's phases, in mJ; both above 0."""

    prefill_mj_per_token: float
    decode_mj_per_token: float


PricesAt = Callable[[str, dt.datetime], Prices | None]


@dataclasses.dataclass(slots=True)
class _Share:
    """What one group of consumers drew of one workload; `cached` None: some gateway does not say."""

    input_tokens: int = 0
    cached: int | None = 0
    output_tokens: int = 0
    requests: int | None = 0

    def add(self, drawn: Drawn) -> None:
        self.input_tokens += drawn.input_tokens
        self.output_tokens += drawn.output_tokens
        told = self.cached is not None and drawn.cached_input_tokens is not None
        self.cached = (self.cached or 0) + (drawn.cached_input_tokens or 0) if told else None
        told = self.requests is not None and drawn.requests_finished is not None
        self.requests = (self.requests or 0) + (drawn.requests_finished or 0) if told else None


Group = tuple[tuple[str, str | None], ...]


def split(
    rows: Sequence[Mapping[str, Any]],
    drawn: Iterable[Drawn],
    served: Mapping[str, frozenset[str]],
    prices_at: PricesAt,
    by: Sequence[str],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of consumers, and what was drawn of models that no workload serves.

    `rows`: of /efficiency by workload; `served`: the models of each workload there is.
    """
    shares: dict[tuple[dt.datetime, Any], dict[Group, _Share]] = defaultdict(lambda: defaultdict(_Share))
    there = {(row["time"], row["group"]["workload"]) for row in rows}
    unmatched: dict[tuple[str, str, str], _Share] = defaultdict(_Share)
    names = _Names(served)
    for item in once(drawn):
        name, reason = names.workload_of(item)
        if name and (item.bucket, name) not in there:
            name, reason = "", f"no energy of workload {name} was measured then"
        if name:
            shares[item.bucket, name][tuple((key, getattr(item, key) or None) for key in by)].add(item)
        else:
            unmatched[item.model, item.provider, reason].add(item)
    found: list[dict[str, Any]] = []
    for row in rows:
        owner: Any = row["group"]["workload"]  # None is nobody, who has no shares
        mine = shares.get((row["time"], owner), {})
        found += _rows(row, mine, prices_at(owner, row["time"]) if mine else None, by)
    return found, [
        {"model": model or None, "provider": provider or None, "tokens": _tokens(share), "reason": reason}
        for (model, provider, reason), share in sorted(unmatched.items())
    ]


def _rows(
    row: Mapping[str, Any], shares: Mapping[Group, _Share], prices: Prices | None, by: Sequence[str]
) -> list[dict[str, Any]]:
    """One workload's bucket: its consumers by weight, then what no gateway saw."""
    groups = sorted(shares, key=lambda group: tuple(value or "" for _, value in group))
    weights, rest, flags = _weights([shares[group] for group in groups], row["tokens"], prices)
    weighs = sum(weights) + rest
    parts = divided(row["energy_mj"], [*weights, rest]) if row["energy_mj"] is not None and weighs else None
    found = []
    for i, group in enumerate(groups):
        share = shares[group]
        energy_mj = None if row["energy_mj"] is None else parts[i] if parts else 0
        found.append(
            {
                **_part(row, dict(group), energy_mj, weights[i] / weighs if weighs else 0.0),
                "via": "gateway",
                "tokens": _tokens(share),
                "requests": share.requests,
            }
        )
    if rest or not weighs:
        energy_mj = None if row["energy_mj"] is None else parts[-1] if parts else row["energy_mj"]
        found.append(
            {
                **_part(row, dict.fromkeys(by), energy_mj, rest / weighs if weighs else 1.0),
                "via": "direct",
                "tokens": _left(row["tokens"], shares.values()),
                "requests": None,
            }
        )
    told = {
        "weights": ("phases" if prices else "tokens") if groups else None,
        "prefill_mj_per_token": prices.prefill_mj_per_token if prices and groups else None,
        "decode_mj_per_token": prices.decode_mj_per_token if prices and groups else None,
        "flags": flags,
    }
    return [{**one, **told} for one in found]


def _weights(
    shares: Sequence[_Share], engine: Mapping[str, int | None], prices: Prices | None
) -> tuple[list[int], int, list[str]]:
    """Weights of the consumers and of what no gateway saw, whole numbers in one unit; and what makes them doubtful."""
    flags = []
    a = round(prices.prefill_mj_per_token * MICRO) if prices else 1
    b = round(prices.decode_mj_per_token * MICRO) if prices else 1
    all_input, output = engine["input"], engine["output"]
    cached = engine["cached_input"] if all_input is not None else None
    drew_input = sum(share.input_tokens for share in shares)
    drew_output = sum(share.output_tokens for share in shares)
    if not shares:
        return [], 1, []
    if all_input is None or output is None:
        flags.append("engine_tokens_unknown")
    if drew_input > (drew_input if all_input is None else all_input) or drew_output > (
        drew_output if output is None else output
    ):
        flags.append("gateway_exceeds_engine")
    uncached = [share.input_tokens - min(share.cached or 0, share.input_tokens) for share in shares]
    rest_output = max((output or 0) - drew_output, 0)
    unknown = any(share.cached is None for share in shares)
    if all_input and cached is not None:
        left = all_input - cached
        # A gateway whose engines do not tell it shows that nothing was cached.
        silent = cached > 0 and not any(share.cached for share in shares)
        contradicted = sum(uncached) > left and drew_input <= all_input
        if unknown or silent or contradicted:
            # Everything times the engines' input, so that its uncached part can be taken exactly.
            flags.append("cached_input_of_engine")
            weights = [a * share.input_tokens * left + b * share.output_tokens * all_input for share in shares]
            rest = a * max(all_input - drew_input, 0) * left + b * rest_output * all_input
            return weights, rest, flags
        rest_input = max(left - sum(uncached), 0)
    else:
        rest_input = max((all_input or 0) - drew_input, 0)
        if unknown:
            uncached = [share.input_tokens for share in shares]
            flags.append("cached_input_unknown")
    weights = [a * tokens + b * share.output_tokens for tokens, share in zip(uncached, shares, strict=True)]
    return weights, a * rest_input + b * rest_output, flags


def divided(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts by weight that sum to it: largest remainder, the earlier one where two are alike."""
    weighs = sum(weights)
    parts = [total * weight // weighs for weight in weights]
    rests = [total * weight % weighs for weight in weights]
    for index in sorted(range(len(weights)), key=lambda i: (-rests[i], i))[: total - sum(parts)]:
        parts[index] += 1
    return parts


def _part(
    row: Mapping[str, Any], consumer: Mapping[str, str | None], energy_mj: int | None, share_ratio: float
) -> dict[str, Any]:
    """A part of a row of /efficiency: money and CO2 go with the energy."""
    whole = row["energy_mj"]
    part = energy_mj / whole if whole and energy_mj is not None else None
    cost = row["cost"]
    return {
        "time": row["time"],
        "group": {"workload": row["group"]["workload"], **consumer},
        "share_ratio": share_ratio,
        "energy_mj": energy_mj,
        "energy_kwh": None if energy_mj is None else energy_mj / MJ_PER_KWH,
        "cost": {"currency": cost["currency"], "total": cost["total"] * part} if cost and part is not None else None,
        "co2_grams": row["co2_grams"] * part if row["co2_grams"] is not None and part is not None else None,
        "coverage": row["coverage"],
        "quality": row["quality"],
        "scope": row["scope"],
        "missing": row["missing"],
        "simulated": row["simulated"],
    }


def _tokens(share: _Share) -> dict[str, int | None]:
    return {"input": share.input_tokens, "cached_input": share.cached, "output": share.output_tokens}


def _left(engine: Mapping[str, int | None], shares: Iterable[_Share]) -> dict[str, int | None]:
    """The engines' tokens less those that gateways saw; cached input only where there are none to be taken away."""
    seen = list(shares)
    drew_input, drew_output = sum(s.input_tokens for s in seen), sum(s.output_tokens for s in seen)
    return {
        "input": None if engine["input"] is None else max(engine["input"] - drew_input, 0),
        "cached_input": None if seen else engine["cached_input"],
        "output": None if engine["output"] is None else max(engine["output"] - drew_output, 0),
    }


def once(drawn: Iterable[Drawn]) -> list[Drawn]:
    """Each gateway once: where agents of several nodes read one and the same, the node that saw most of it counts."""
    items = list(drawn)
    seen: dict[tuple[dt.datetime, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for item in items:
        if not is_local(item.target):
            seen[item.bucket, item.target][item.node_id] += item.input_tokens + item.output_tokens
    chosen = {key: max(nodes, key=lambda node: (nodes[node], -node)) for key, nodes in seen.items()}
    return [item for item in items if chosen.get((item.bucket, item.target), item.node_id) == item.node_id]


def is_local(target: str) -> bool:
    """Whether a target names its own node, so that the same address on two nodes is two gateways."""
    try:
        host = urlsplit(target).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Names:
    """Finds the workload that serves what a gateway calls a model."""

    def __init__(self, served: Mapping[str, frozenset[str]]) -> None:
        self._served = served
        # From the most literal to the loosest; each way gives a model one spelling.
        self._ways: list[dict[str, set[str]]] = [defaultdict(set) for _ in _WAYS]
        for name, models in served.items():
            for spelled in {name, *models} - {""}:
                for way, known in zip(_WAYS, self._ways, strict=True):
                    known[way(spelled)].add(name)
        self._found: dict[tuple[str, str, str], tuple[str, str]] = {}

    def workload_of(self, item: Drawn) -> tuple[str, str]:
        """Its name and nothing, or nothing and the reason why there is none."""
        key = item.workload, item.model, item.provider
        if key not in self._found:
            self._found[key] = self._look(*key)
        return self._found[key]

    def _look(self, workload: str, model: str, provider: str) -> tuple[str, str]:
        if workload:
            if workload in self._served:
                return workload, ""
            return "", f"the agent's settings call it workload {workload}, of which there is no energy in this range"
        if provider.lower() in ELSEWHERE:
            return "", f"{provider} computes it elsewhere"
        if not model:
            return "", "the gateway does not say which model it was"
        for way, known in zip(_WAYS, self._ways, strict=True):
            names = known.get(way(model), set())
            if len(names) > 1:
                several = ", ".join(sorted(names)[:5])
                return "", f"several workloads serve it ({several}): name one under `workloads` of the gateway"
            if names:
                return next(iter(names)), ""
        return "", "no workload serves this model"


def _literally(model: str) -> str:
    return model


def _in_any_case(model: str) -> str:
    return model.casefold()


def _last_part(model: str) -> str:
    """Without the provider or the organisation before it: hosted_vllm/Qwen/Qwen3-32B is qwen3-32b."""
    return model.rstrip("/").rpartition("/")[2].casefold()


_WAYS = (_literally, _in_any_case, _last_part)
