"""low-batch: decoding for few requests at a time. Joules per token fall with the batch, until memory or latency stops.

How much is wasted is judged by published curves, at their most lenient: over 45 curves of ML.ENERGY v3 (models from
8B to 405B, H100 and B200; accelerator scope) joules per output token at a mean batch of 8, 16, 32, 64 and 128 were at
least 3.77, 2.28, 1.63, 1.34 and 1.06 times those of the same model at its best batch. The smallest factor of any
curve is used, so the waste named here is a lower bound; below 8 the curve is continued with its slope from 16 to 8.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.findings import Float64, Incident, Minutes, incidents, mean, span

_BATCH = np.array([1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0])
_LEAST_FACTOR = np.array([3.77 * 8**0.725, 3.77, 2.28, 1.63, 1.34, 1.06, 1.0])
WASTEFUL_FACTOR = 1.5
BUSY_BATCH = 64.0
DEEP_BATCH = 4.0


def least_factor(batch: Float64) -> Float64:
    """Smallest published ratio of joules per token at this mean batch to the best batch; 1 from 256 on, NaN stays."""
    clipped = np.clip(batch, _BATCH[0], _BATCH[-1])
    return np.asarray(np.exp(np.interp(np.log(clipped), np.log(_BATCH), np.log(_LEAST_FACTOR))))


def _fills_its_batch(minutes: Minutes) -> NDArray[np.bool_]:
    """Per minute, whether its engine ever runs a full batch."""
    fills = np.zeros(len(minutes.minute_us), bool)
    for low, high in zip(minutes.offsets[:-1].tolist(), minutes.offsets[1:].tolist(), strict=True):
        running = minutes.requests_running[low:high]
        known = running[~np.isnan(running)]
        fills[low:high] = known.size > 0 and np.percentile(known, 99) >= BUSY_BATCH
    return fills


@dataclasses.dataclass(frozen=True, slots=True)
class LowBatch:
    """At least 20 minutes of decoding at a batch where even the kindest curve is 1.5 times its best.

    An engine that fills its batch in its own busy minutes (99th percentile of all minutes seen) is set up well: its
    quiet hours are the traffic's, not a finding, unless hardly more than one request is decoded at a time.
    """

    kind: str = "low-batch"
    looks_at: Literal["engine", "accelerator"] = "engine"

    def detect(self, minutes: Minutes) -> list[Incident]:
        factor = least_factor(minutes.requests_running)
        serving = (minutes.serving_mj > 0) & (minutes.output_tokens > 0) & (minutes.requests_running > 0)
        by_traffic = _fills_its_batch(minutes) & (minutes.requests_running > DEEP_BATCH)
        marked = serving & (factor >= WASTEFUL_FACTOR) & ~by_traffic
        found = []
        for run in incidents(minutes, marked, opens_after=20, closes_after=10):
            rows = slice(run.first, run.last + 1)
            mine = marked[rows]
            wasted = minutes.serving_mj[rows][mine] * (1 - 1 / factor[rows][mine])
            batch, tokens = mean(minutes.requests_running[rows][mine]), int(minutes.output_tokens[rows][mine].sum())
            spent_mj = int(minutes.serving_mj[rows][mine].sum())
            since_us, until_us = span(minutes, run)
            worst = float(least_factor(np.array([batch]))[0])
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, run.over, int(wasted.sum())),
                    evidence={
                        "minutes": int(mine.sum()),
                        "mean_requests_running": round(batch, 2),
                        "mean_requests_waiting": round(
                            float(np.nan_to_num(mean(minutes.requests_waiting[rows][mine]))), 2
                        ),
                        "joules_per_output_token": round(spent_mj / 1000 / tokens, 4),
                        "least_factor_of_best": round(worst, 2),
                        "source": "ML.ENERGY leaderboard v3, smallest factor of 45 curves",
                    },
                    summary=f"decodes {batch:.1f} requests at a time: at least "
                    f"{100 * (1 - 1 / worst):.0f} % of its energy is the price of the small batch",
                    remedy="Serve the same traffic with fewer replicas, so that each runs a larger batch (lower "
                    "replicas or minReplicas, raise the autoscaler's target concurrency); if requests wait, raise "
                    "max_num_seqs or the KV-cache share (gpu_memory_utilization); pool small models on one board.",
                )
            )
        return found
