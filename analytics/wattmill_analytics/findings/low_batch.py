"""low-batch: decoding for few requests at a time. Joules per token fall with the batch, until memory or latency stops.

An engine is judged by its siblings where it has some: replicas of its workload that serve in the same minute. It is
left out when it decodes 16 requests or fewer while they decode 3 times as many and make twice the tokens: routers
spread unevenly, but not so, and siblings that are merely slow hold many requests, but make no more of them. At their
load its tokens would have cost less, by its own curve, else by the least published factors.

Alone, it is judged only if its workload has never reached a batch of 36 so far, and either a day of minutes went into
its curve without one, or nothing near it (12) in a day of its own minutes: curves are shared by workloads; where there
is no curve at all, 4 hours of its own minutes must have been seen. An engine that fills its batch in busy hours is set
up well: its quiet hours are the traffic's. But one that has made at most a twentieth of the tokens of its busiest hour
of the last days for 6 hours on end, longer and deeper than nights are, has lost its traffic.

The waste is that against the best load learnt, or by published curves at their most lenient if that is more: over 45
curves of ML.ENERGY v3 (models from 8B to 405B, H100 and B200; accelerator scope) joules per output token at a mean
batch of 8, 16, 32, 64 and 128 were at least 3.77, 2.28, 1.63, 1.34 and 1.06 times those of the same model at its best
batch. The smallest factor of any curve is used, on what is not prefill (`what_if.decode_share`): a lower bound.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from wattmill_analytics.curves import best_point, extended, least_factor
from wattmill_analytics.findings import Incident, mean
from wattmill_analytics.findings.minutes import MINUTE_US, Bool, EngineMinutes, Float64
from wattmill_analytics.findings.runs import Run, join, span_us
from wattmill_analytics.findings.what_if import decode_share, saved_share
from wattmill_analytics.findings.workloads import (
    WorkloadMinutes,
    before,
    busiest_so_far,
    by_workload,
    highest_learnt,
    of_engine,
)

OPENS_AFTER, CLOSES_AFTER = 10, 10
WASTEFUL_FACTOR = 1.5
SMALL_BATCH, LEFT_OUT_LOAD, LEFT_OUT_OUTPUT = 16.0, 3.0, 2.0
BUSY_BATCH, FAR_FROM_BUSY_BATCH = 36.0, 12.0
A_DAY_US, SOME_HOURS_US = 22 * 60 * MINUTE_US, 4 * 60 * MINUTE_US
QUIET_SHARE, QUIET_OPENS_AFTER, QUIET_CLOSES_AFTER = 0.05, 360, 20


@dataclasses.dataclass(frozen=True, slots=True)
class LowBatch:
    """At least 10 minutes of decoding at a batch that makes a token 1.5 times as dear as it need be.

    Alone and far below what it has carried: at least 6 hours.
    """

    kind: str = "low-batch"
    about: Literal["engine", "workload"] = "engine"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        running = minutes.requests_running
        serving = (minutes.serving_mj > 0) & (minutes.output_tokens > 0) & (running > 0)
        if not serving.any():
            return []
        table = by_workload(minutes)
        siblings = mean_of_siblings(table, serving, running)
        siblings_output = mean_of_siblings(table, serving, minutes.output_tokens.astype(np.float64))
        fills = _fills_its_batch(minutes, table, serving)
        alone = np.isnan(siblings) & ~fills
        left_out = (running <= SMALL_BATCH) & (siblings >= LEFT_OUT_LOAD * running)
        left_out &= siblings_output >= LEFT_OUT_OUTPUT * minutes.output_tokens
        small = serving & ~hidden & (left_out | (alone & (running < BUSY_BATCH)))
        rows = np.flatnonzero(small)
        saved = np.zeros(running.size)
        saved[rows] = _saved(minutes, rows, siblings[rows])
        marked = saved >= 1 - 1 / WASTEFUL_FACTOR
        found = [
            _incident(minutes, marked, saved, siblings, run)
            for run in join(minutes, marked, opens_after=OPENS_AFTER, closes_after=CLOSES_AFTER)
        ]
        quiet = _lost_its_traffic(minutes) & ~hidden & fills
        if quiet.any():
            runs = join(minutes, quiet, opens_after=QUIET_OPENS_AFTER, closes_after=QUIET_CLOSES_AFTER)
            found += [each for each in (_quiet(minutes, quiet & serving, run) for run in runs) if each is not None]
        return found


def mean_of_siblings(table: WorkloadMinutes, serving: Bool, values: Float64) -> Float64:
    """Mean value [n] of the other engines of the workload that serve in the same minute, NaN without one."""
    mine = np.where(serving, values, 0.0)
    others = table.spread(table.summed(serving.astype(np.int64))) - serving
    return np.where(others > 0, (table.spread(table.summed(mine)) - mine) / np.maximum(others, 1), math.nan)


def _fills_its_batch(minutes: EngineMinutes, table: WorkloadMinutes, serving: Bool) -> Bool:
    """Per minute, whether its engine or its workload has been seen to run a full batch, or may do so in busy hours."""
    load = np.where(serving, minutes.requests_running, 0.0)
    reached = np.fmax(
        busiest_so_far(minutes.offsets, load), table.spread(busiest_so_far(table.offsets, table.highest(load)))
    )
    reached = np.fmax(reached, before(minutes.peak_requests_running, minutes))
    lengths = np.diff(minutes.offsets)
    starts = minutes.minute_us[minutes.offsets[:-1][lengths > 0]]
    seen_us = minutes.minute_us - np.repeat(starts, lengths[lengths > 0])
    a_day_seen, hours_seen = seen_us >= A_DAY_US, seen_us >= SOME_HOURS_US
    learnt = minutes.curves.minutes.sum(axis=1) >= A_DAY_US // MINUTE_US
    may = of_engine(np.where(learnt & (highest_learnt(minutes.curves) < BUSY_BATCH), 0.0, 1.0), minutes)
    never = (may == 0) | (np.isnan(may) & hours_seen) | (a_day_seen & (reached <= FAR_FROM_BUSY_BATCH))
    return np.asarray((reached >= BUSY_BATCH) | ~never)


def _saved(minutes: EngineMinutes, rows: np.ndarray, siblings: Float64) -> Float64:
    """Share [r] of the serving energy of minutes `rows` that a healthy batch would have saved."""
    whole = extended(minutes.curves)
    running = minutes.requests_running[rows]
    among = saved_share(minutes, rows, siblings, whole)
    best, _ = best_point(minutes.curves)
    known = of_engine(best, minutes)[rows]
    learnt = saved_share(minutes, rows, np.where(np.isnan(known), running, known), whole)
    published = decode_share(minutes, rows) * (1 - 1 / least_factor(running))
    return np.where(np.isnan(siblings), np.fmax(learnt, published), among)


def _lost_its_traffic(minutes: EngineMinutes) -> Bool:
    """Minutes [n] of a workload's only engine with at most a twentieth of the tokens of its busiest hour before."""
    if not minutes.peak_tokens_per_s.size:
        return np.zeros(minutes.minute_us.size, np.bool_)
    engines = np.bincount(minutes.workload[minutes.workload >= 0], minlength=1)
    only = (minutes.workload >= 0) & (engines[np.maximum(minutes.workload, 0)] == 1)
    most = np.where(only, QUIET_SHARE * 60 * minutes.peak_tokens_per_s, math.nan)
    powered = minutes.serving_mj + minutes.idle_loaded_mj > 0
    return np.asarray(powered & (minutes.output_tokens <= before(most, minutes)))


def _quiet(minutes: EngineMinutes, marked: Bool, run: Run) -> Incident | None:
    """Hours at a twentieth of what was carried; None if the few tokens were not dear."""
    mine = np.flatnonzero(marked[run.rows]) + run.first
    saved = _saved(minutes, mine, np.full(mine.size, math.nan))
    wasted_mj = int((minutes.serving_mj[mine] * np.maximum(saved, 0.0)).sum())
    spent_mj, tokens = int(minutes.serving_mj[mine].sum()), int(minutes.output_tokens[mine].sum())
    if wasted_mj <= spent_mj * (1 - 1 / WASTEFUL_FACTOR):
        return None
    since_us, until_us, known_us = span_us(minutes, run)
    hours = (until_us - since_us) / (60 * MINUTE_US)
    usual = float(minutes.peak_tokens_per_s[run.subject])
    rate = tokens / (hours * 3600)
    return Incident(
        *(run.subject, since_us, until_us, known_us, run.over, wasted_mj),
        evidence={
            "minutes": int(mine.size),
            "mean_requests_running": round(mean(minutes.requests_running[mine]), 2),
            "output_tokens_per_second": round(rate, 2),
            "busiest_hour_before_output_tokens_per_second": round(usual, 1),
            "joules_per_output_token": round(spent_mj / 1000 / max(1, tokens), 4),
            "factor_of_healthy_batch": round(1 / max(1e-9, 1 - wasted_mj / spent_mj), 2),
            "source": "own curve or ML.ENERGY leaderboard v3, whichever says more",
        },
        summary=f"quiet for {hours:.0f} hours: {rate:.1f} tokens/s on {int(minutes.boards[run.subject])} boards that "
        f"made {usual:.0f} in their busiest hour; {wasted_mj / max(1, spent_mj):.0%} of the energy is the price of the "
        "small batch",
        remedy="If the traffic has moved or ended, scale the workload to zero (KEDA, minReplicas: 0) or delete it; if "
        "the rest must be served, put it on fewer or smaller boards or beside another model; if it should be there, "
        "look where the requests go (gateway, router, DNS).",
    )


def _incident(minutes: EngineMinutes, marked: Bool, saved: Float64, siblings: Float64, run: Run) -> Incident:
    mine = np.flatnonzero(marked[run.rows]) + run.first
    spent_mj, tokens = int(minutes.serving_mj[mine].sum()), int(minutes.output_tokens[mine].sum())
    wasted_mj = int((minutes.serving_mj[mine] * saved[mine]).sum())
    batch, others = mean(minutes.requests_running[mine]), mean(siblings[mine])
    waiting = mean(minutes.requests_waiting[mine])
    since_us, until_us, known_us = span_us(minutes, run)
    share = wasted_mj / max(1, spent_mj)
    beside = "" if math.isnan(others) else f" while its siblings decode {others:.0f}"
    return Incident(
        *(run.subject, since_us, until_us, known_us, run.over, wasted_mj),
        evidence={
            "minutes": int(mine.size),
            "mean_requests_running": round(batch, 2),
            **({} if math.isnan(others) else {"mean_requests_running_of_siblings": round(others, 1)}),
            **({} if math.isnan(waiting) else {"mean_requests_waiting": round(waiting, 2)}),
            "joules_per_output_token": round(spent_mj / 1000 / tokens, 4),
            "factor_of_healthy_batch": round(1 / max(1e-9, 1 - share), 2),
            "source": "ML.ENERGY leaderboard v3, smallest factor of 45 curves" if math.isnan(others) else "own curve",
        },
        summary=f"decodes {batch:.1f} requests at a time{beside}: {'at least ' if math.isnan(others) else ''}"
        f"{share:.0%} of its energy is the price of the small batch",
        remedy="Serve the same traffic with fewer replicas, or spread it evenly, so that each runs a larger batch "
        "(lower replicas or minReplicas, raise the autoscaler's target concurrency, look at the router's weights); if "
        "requests wait, raise max_num_seqs or the KV-cache share (gpu_memory_utilization); pool small models on one "
        "board.",
    )
