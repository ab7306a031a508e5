"""queue-starved: requests wait although the batch has room. A limit other than memory holds the engine back.

Room means that the batch is at most 0.6 of what the engine has been seen to carry, by its curve or in 15 minutes of its
own before, that the KV cache is not known to be full, and that the batch is as fast as its curve says: an engine busy
with long prompts has no time left, whatever its limits. A full batch with a queue is a healthy, saturated engine.

What it cost: the tokens of these minutes at the load that those waiting would have filled up (running + waiting, at
most what has been carried), against the load they were made at; see `what_if.saved_share`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from wattmill_analytics.curves import extended
from wattmill_analytics.findings import Incident, mean
from wattmill_analytics.findings.minutes import Bool, EngineMinutes, Float64
from wattmill_analytics.findings.runs import join, span_us
from wattmill_analytics.findings.what_if import saved_share
from wattmill_analytics.findings.workloads import before, busiest_so_far, highest_learnt, of_engine

OPENS_AFTER, CLOSES_AFTER = 6, 6
LEAST_WAITING = 1.0
LEAST_WAITING_SHARE = 0.1
ROOM_RATIO = 0.6
FULL_CACHE = 0.9
BUSY_WITH_PROMPTS = 0.7


def capacity(minutes: EngineMinutes) -> Float64:
    """Load [n] that each engine is known to carry: its curve was learnt there or it got there itself; NaN unknown."""
    so_far = busiest_so_far(minutes.offsets, minutes.requests_running)
    carried = np.fmax(so_far, before(minutes.peak_requests_running, minutes))
    return np.fmax(of_engine(highest_learnt(minutes.curves), minutes), carried)


@dataclasses.dataclass(frozen=True, slots=True)
class QueueStarved:
    """At least 6 minutes of waiting requests beside room in the batch."""

    kind: str = "queue-starved"
    about: Literal["engine", "workload"] = "engine"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        running, waiting = minutes.requests_running, minutes.requests_waiting
        marked = (waiting >= LEAST_WAITING) & (waiting >= LEAST_WAITING_SHARE * running) & ~hidden
        if not marked.any():
            return []
        carried = capacity(minutes)
        marked &= (minutes.serving_mj > 0) & (minutes.output_tokens > 0) & (running <= ROOM_RATIO * carried)
        marked &= ~(minutes.kv_cache_usage_ratio >= FULL_CACHE) & (minutes.preemptions <= 0)
        marked &= ~(minutes.output_tokens < BUSY_WITH_PROMPTS * minutes.expected_output_tokens)
        whole = extended(minutes.curves)
        found = []
        for run in join(minutes, marked, opens_after=OPENS_AFTER, closes_after=CLOSES_AFTER):
            mine = np.flatnonzero(marked[run.rows]) + run.first
            could = np.minimum(running[mine] + waiting[mine], carried[mine])
            energy_mj = int((minutes.serving_mj[mine] * saved_share(minutes, mine, could, whole)).sum())
            since_us, until_us, known_us = span_us(minutes, run)
            usage = mean(minutes.kv_cache_usage_ratio[mine])
            batch, queue, room = mean(running[mine]), mean(waiting[mine]), mean(carried[mine])
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, known_us, run.over, max(0, energy_mj)),
                    evidence={
                        "minutes": int(mine.size),
                        "mean_requests_running": round(batch, 1),
                        "mean_requests_waiting": round(queue, 1),
                        "requests_carried_before": round(room, 1),
                        "mean_load_without_limit": round(mean(could), 1),
                        **({} if math.isnan(usage) else {"mean_kv_cache_usage_ratio": round(usage, 3)}),
                    },
                    summary=f"{queue:.0f} requests wait while {batch:.0f} run, on an engine that has carried "
                    f"{room:.0f}",
                    remedy="Find the limit that binds: raise max_num_seqs and max_num_batched_tokens, let long prompts "
                    "be prefilled in chunks (enable_chunked_prefill), look at limits for LoRA (max_loras) and guided "
                    "decoding, and at the gateway's limit of concurrent requests.",
                )
            )
        return found
