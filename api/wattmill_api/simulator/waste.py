"""What part of a replica's power an incident wastes: the same tokens without it would have taken the rest.

Every rule is a comparison with the replica's own published curve, so it is exact within the simulation: noise on power
scales both sides alike. Not here: idling, all of which is waste.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from wattmill_api.simulator.physics import LONGEST_PREFILL_SHARE, Curve, Floats
from wattmill_api.simulator.scenario import Workload

# Share of the curve's speed and watts that is left under each condition.
SPEED = {"throttled": 0.65, "straggler": 0.82, "regression": 0.85}
WATTS = {"throttled": 0.78, "straggler": 0.97, "regression": 1.05}
HEALTHY_BATCH = 64
LOW_BATCH = 2.0
STARVED_BATCH = 12.0
STARVED_DEMAND = 1.08  # of what that batch can serve
COMPUTED_AGAIN = 3.0  # how often an input token is computed while preempted requests come back
CACHE_LEFT = 0.15  # of the usual prefix hits
SLOW_RANK_CLOCK = 0.75
COUNTED = (*SPEED, "low-batch", "kv-thrash", "queue-starved", "cache-miss", "over-provisioned")


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What a replica did, by tick: tokens, seconds of prefill, batch, requests that wait, joules of all boards."""

    tokens: Floats
    prefill_s: Floats
    batch: Floats
    waiting: Floats
    joules: Floats
    interval_s: float


def wasted_ratio(kind: str, form: str, curve: Curve, workload: Workload, work: Work) -> Floats:
    """Share of `work.joules` that one of the kinds in COUNTED wastes at each tick; 0 where no token comes."""
    needed = np.where(work.tokens > 0, _needed_j(kind, form, curve, workload, work), work.joules)
    return np.clip(1.0 - needed / np.maximum(work.joules, 1e-9), 0.0, 1.0)


def _needed_j(kind: str, form: str, curve: Curve, workload: Workload, work: Work) -> Floats:
    if kind in SPEED:
        return work.joules * SPEED[kind] / WATTS[kind]
    if kind == "low-batch":
        return curve.joules(work.tokens, work.prefill_s, HEALTHY_BATCH)
    if kind == "queue-starved":
        return curve.joules(work.tokens, work.prefill_s, np.minimum(work.batch + work.waiting, workload.max_num_seqs))
    if kind == "kv-thrash":
        return curve.joules(work.tokens, work.prefill_s / COMPUTED_AGAIN, work.batch)
    if kind == "cache-miss":
        usual = (1 - workload.cached_ratio) / (1 - CACHE_LEFT * workload.cached_ratio)
        return curve.joules(work.tokens, work.prefill_s * usual, work.batch)
    needed, there = (int(n) for n in form.split("/"))  # over-provisioned: the same on fewer replicas
    more = there / needed
    share = np.minimum(LONGEST_PREFILL_SHARE, work.prefill_s * more / work.interval_s)
    batch = curve.batch_for(work.tokens * more / ((1 - share) * work.interval_s))
    watts = curve.watts_at(np.minimum(batch, workload.max_num_seqs), share)
    return watts * curve.boards * work.interval_s / more
