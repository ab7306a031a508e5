"""How far a workload runs from the best published configuration at the same inter-token latency. Pure; never raises.

Latency decides what can be had: a batch of 500 costs a fraction of the energy of a batch of 8, and every token takes
longer. So the bar is the configuration with the lowest joules per token among those *measured* to take no longer per
token than the workload does. Nothing is interpolated: between two configurations lie a batch, a number of boards and
sometimes a parallelism that nobody ran, and a line between them would claim a better figure than was measured. The bar
is therefore on the high side, and the ratio on the low side. A workload that is faster than every measured
configuration gets no ratio.

An observed latency from concurrency over rate is compared with the references' own concurrency over rate (their mean
batch over their tokens per second), not with their median: the two means hold prefill and stalls, a median does not.
Where several tasks were measured, the one whose answers are about as long as the workload's is taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from wattmill_analytics.frontier.confidence import Confidence
from wattmill_analytics.frontier.matching import match
from wattmill_analytics.frontier.references import LatencySource, Reference

# Published and field figures span 0.028 (GPT-OSS-20B on B200, batch 4000) to 43.5 joules (a large model all but idle).
LEAST_PLAUSIBLE_J: Final = 0.02
MOST_PLAUSIBLE_J: Final = 50.0
_SAME_LATENCY: Final = 1.001  # a mean of gauges is not known more closely


@dataclasses.dataclass(frozen=True, slots=True)
class Plausibility:
    """`plausible` None: there is no figure. `reason`: what to look at when it is not plausible."""

    plausible: bool | None
    reason: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Observed:
    """What a workload did in a period, on one kind of accelerator. None: not known."""

    scope: str
    model: str
    accelerator_model: str
    joules_per_token: float | None
    inter_token_latency_ms: float | None
    latency_source: LatencySource
    mean_output_tokens: float | None
    boards_per_replica: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """`ratio`: observed over best joules per token, at least 1 for all but the best; None when `verdict` says why.

    `reference_latency_ms` is the reference's latency in the meaning of the observed one, or the bound it kept.
    """

    confidence: Confidence
    how: str
    reference: Reference | None
    reference_latency_ms: float | None
    ratio: float | None
    verdict: str
    caveat: str | None


def inter_token_latency_ms(request_s: float, output_tokens: int) -> float | None:
    """Milliseconds a running request takes for one output token, by Little's law: concurrency over rate.

    `request_s`: sum over the period of requests running x seconds; `output_tokens`: made in the same time. Prefill is
    in it, so it is an upper bound of the time between two tokens. None without tokens or without requests.
    """
    return 1000 * request_s / output_tokens if request_s > 0 and output_tokens > 0 else None


def plausibility(joules_per_token: float | None) -> Plausibility:
    """Whether joules per output token lie in the band that anybody has measured."""
    if joules_per_token is None or math.isnan(joules_per_token):
        return Plausibility(None, None)
    if joules_per_token < LEAST_PLAUSIBLE_J:
        return Plausibility(
            False,
            f"below {LEAST_PLAUSIBLE_J:g} J per output token, less than was ever published: are tokens counted twice, "
            "or boards missing from the placement?",
        )
    if joules_per_token > MOST_PLAUSIBLE_J:
        return Plausibility(
            False,
            f"above {MOST_PLAUSIBLE_J:g} J per output token, more than was ever published: is the workload all but "
            "idle, or are tokens not counted?",
        )
    return Plausibility(True, None)


def judge(observed: Observed, references: Sequence[Reference]) -> Judgement:
    """The best reference for this workload and the distance to it, or why there is none."""
    if observed.scope not in ("accelerator", "node"):
        how = f"figures are published for accelerators and whole nodes, not at {observed.scope} scope"
        return Judgement("none", how, None, None, None, how, None)
    matched = match(observed.model, observed.accelerator_model, observed.scope, references)

    def none(verdict: str) -> Judgement:
        return Judgement(matched.confidence, matched.how, None, None, None, verdict, None)

    if not matched.candidates:
        return none(matched.how)
    spent, observed_ms = observed.joules_per_token, observed.inter_token_latency_ms
    if spent is None:
        return none("no joules per output token were measured")
    if observed_ms is None:
        return none("the inter-token latency is not known, so that there is nothing to compare at")
    timed = [
        (reference, latency_ms)
        for reference in matched.candidates
        if (latency_ms := reference.latency_ms(observed.latency_source)) is not None
    ]
    allowed = [(r, latency_ms) for r, latency_ms in timed if latency_ms <= observed_ms * _SAME_LATENCY]
    if not allowed:
        return none(_too_fast(timed))
    alike = _alike([reference for reference, _ in allowed], observed.mean_output_tokens)
    best, latency_ms = min(
        ((r, latency_ms) for r, latency_ms in allowed if r.task in alike),
        key=lambda pair: (pair[0].joules_per_token, pair[0].boards, pair[1]),
    )
    ratio = spent / best.joules_per_token
    return Judgement(
        *(matched.confidence, matched.how, best, latency_ms, ratio),
        verdict=f"uses {ratio:.3g} times the energy per token of the best published configuration that is as fast",
        caveat=_caveat(observed, best),
    )


def _too_fast(timed: Sequence[tuple[Reference, float]]) -> str:
    """What to say of a workload that is faster than all of these."""
    if not timed:
        return "no latency was published with the figures for this model"
    fastest, lowest_ms = min(timed, key=lambda pair: (pair[1], pair[0].joules_per_token))
    if all(reference.itl_limit_ms is not None for reference, _ in timed):
        return f"no published figure holds a latency this low: the lowest bound is {lowest_ms:.3g} ms"
    spent = f"{fastest.joules_per_token:.3g} J"
    return f"faster than any published configuration: the fastest takes {lowest_ms:.3g} ms and {spent} for a token"


def _alike(references: Sequence[Reference], mean_output_tokens: float | None) -> set[str]:
    """The task whose answers are nearest in length (in ratio); all tasks when lengths are not known."""
    lengths: dict[str, list[float]] = {}
    for reference in references:
        if reference.mean_output_tokens is not None:
            lengths.setdefault(reference.task, []).append(reference.mean_output_tokens)
    if not lengths or mean_output_tokens is None or mean_output_tokens <= 0:
        return {reference.task for reference in references}
    wanted = math.log(mean_output_tokens)
    return {min(lengths, key=lambda task: (abs(math.log(sum(lengths[task]) / len(lengths[task])) - wanted), task))}


def _caveat(observed: Observed, best: Reference) -> str:
    """What the ratio does not say."""
    if best.scope == "node":
        parts = [
            "The reference is the whole system at the wall; a node's own figure leaves out fans and power supplies, so "
            "that the ratio flatters it.",
            f"Its latency is a bound, {best.itl_limit_ms:g} ms at the 99th percentile, not a measurement.",
        ]
    else:
        parts = ["The reference is a steady state of its boards alone: no idle time, a benchmark's prompts."]
    if best.mean_output_tokens is not None:
        here = "" if observed.mean_output_tokens is None else f"; {observed.mean_output_tokens:.0f} here"
        parts.append(f"Its task is {best.task}, {best.mean_output_tokens:.0f} output tokens a request{here}.")
    parts.append("Lengths of prompts and answers alone move the energy of a token severalfold.")
    boards = observed.boards_per_replica
    if best.scope == "accelerator" and boards is not None and boards != best.boards:
        parts.append(f"Boards of a replica: {boards} here, {best.boards} there.")
    return " ".join(parts)
