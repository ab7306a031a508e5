"""over-provisioned: more replicas than the peaks of the last days need. Power is nearly flat, so each costs its share.

What if m replicas had served the same tokens? m is the smallest number that would have carried every peak: the busiest
hour of the days before (`peak_tokens_per_s`) and every quarter of an hour since, requests that waited included. One
replica is taken to carry what one has carried: the highest load that its curve was learnt at, as long as a token then
comes within 50 ms or 1.25 times what it takes in the busiest twentieth of the time; or the most tokens a second that
the workload's own replicas have kept up for a quarter of an hour. Where fewer than half of the replicas would go, 15 %
of that are kept free.

Where the days before are not known, a curve learnt in them says nothing of this week's peaks: only the second counts,
and only after 22 hours. That tells a number of replicas that was raised from one that always was so.

What it costs: measured energy of the workload, less the same share of it that m replicas would have used by the curve
at the load they would run (`what_if`), minute by minute while the state holds; idle replicas' energy in minutes with
work is saved whole.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from wattmill_analytics.curves import LOADS, Curves, decode_mj, extended, speed
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.minutes import MINUTE_US, Bool, EngineMinutes, Float64, Int64
from wattmill_analytics.findings.runs import Run, join, span_us, subject_of
from wattmill_analytics.findings.what_if import load_for, throughput
from wattmill_analytics.findings.workloads import WorkloadMinutes, by_workload
from wattmill_analytics.kernel import int64s, kernel

OPENS_AFTER, CLOSES_AFTER = 8, 60
LEAST_SEEN_US = 22 * 60 * MINUTE_US
LEAST_SAVING = 0.15  # of a minute's energy when it opens; a day's mean, busy hours included, is some 0.1 then
LEAST_SAVING_OF_A_PAIR = 0.25  # the second of two may be there for availability
SLOWEST_TOKEN_S = 0.05
SLOWER_RATIO = 1.25
BUSY_SHARE = 0.05
# What a replica carried is a median over minutes of other prompts, at loads known to 19 %: it may carry a tenth more,
# and where less than half of the replicas would go, that is not enough to go by.
TOLERANCE, HEADROOM = 1.1, 0.85
SMOOTHED_MINUTES = 15


@dataclasses.dataclass(frozen=True, slots=True)
class Supply:
    """Workload minutes [m]: how many replicas there were, how many were needed, and what those would have used.

    `load`: mean batch of a replica if only those needed had served, `saved_mj`: energy less than measured.
    """

    replicas: Int64
    needed: Int64
    output_tokens: Int64
    measured_mj: Int64
    load: Float64
    saved_mj: Float64


@dataclasses.dataclass(frozen=True, slots=True)
class OverProvisioned:
    """A replica more than needed, and at least 8 minutes in which 15 % of the workload's energy would be saved (25 % of
    a pair's).

    It lasts as long as there are more replicas than needed, in busy hours too, when little is saved.
    """

    kind: str = "over-provisioned"
    about: Literal["engine", "workload"] = "workload"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        table = by_workload(minutes)
        row = curve_of_workload(minutes)
        if not (row >= 0).any():
            return []
        supply = what_if(minutes, table, row)
        explained = table.summed(hidden.astype(np.int64)) > 0
        more = (supply.needed < supply.replicas) & ~explained
        least = np.where(supply.replicas == 2, LEAST_SAVING_OF_A_PAIR, LEAST_SAVING)
        saves = more & (supply.saved_mj >= least * supply.measured_mj)
        found = []
        for run in join(table, more, opens_after=1, closes_after=CLOSES_AFTER):
            worth = np.flatnonzero(saves[run.rows])
            if worth.size >= OPENS_AFTER:
                opened = run.first + int(worth[OPENS_AFTER - 1])
                run = dataclasses.replace(run, opened=opened)
                found.append(_incident(minutes.curves, int(row[run.subject]), table, supply, run))
        return found


def curve_of_workload(minutes: EngineMinutes) -> Int64:
    """Row of the curve [w] that most engines of a workload are judged by, -1 if some hold other boards than others."""
    count = int(minutes.workload.max(initial=-1)) + 1
    row = np.full(count, -1)
    order = np.flatnonzero((minutes.workload >= 0) & (minutes.curve >= 0))
    rows = int(minutes.curve.max(initial=0)) + 1
    keys, votes = np.unique(minutes.workload[order] * rows + minutes.curve[order], return_counts=True)
    for key in keys[np.argsort(votes, kind="stable")].tolist():
        row[key // rows] = key % rows
    most, least = np.zeros(count, np.int64), np.full(count, np.iinfo(np.int64).max)
    there = minutes.workload >= 0
    np.maximum.at(most, minutes.workload[there], minutes.boards[there])
    np.minimum.at(least, minutes.workload[there], minutes.boards[there])
    return np.where(most == least, row, -1)


def what_if(minutes: EngineMinutes, table: WorkloadMinutes, row: Int64) -> Supply:
    """What every workload needed, looking back, and what that would have used. row: int64 [w], its curve or -1."""
    whole = extended(minutes.curves)
    workload = subject_of(table.offsets)
    curve = row[workload]
    serving = table.summed(minutes.serving_mj)
    idle = table.summed(minutes.idle_loaded_mj)
    output = table.summed(minutes.output_tokens)
    uncached = table.summed(np.maximum(minutes.uncached_input_tokens, 0))
    replicas = table.summed((minutes.serving_mj + minutes.idle_loaded_mj > 0).astype(np.int64))
    running = table.summed(np.nan_to_num(minutes.requests_running))
    waiting = table.summed(np.nan_to_num(minutes.requests_waiting))
    with np.errstate(invalid="ignore", divide="ignore"):
        queued = np.where(running > 0, np.minimum(1 + waiting / running, 2.0), 1.0)
    needed = np.empty(output.size, np.int64)
    _need(
        int64s(table.offsets),
        int64s(table.minute_us),
        output * queued / 60,
        _carried(minutes.curves, whole, row),
        _peaks(minutes, row.size),
        int64s(replicas),
        needed,
    )
    per_replica = output / 60 / np.maximum(1, np.minimum(needed, replicas))
    load = load_for(whole, curve, per_replica)
    prefill = np.append(minutes.curves.prefill_mj_per_token, 0.0)[curve] * uncached
    then = output * decode_mj(whole, curve, np.fmax(load, _lowest(whole, curve))) + prefill
    judged = np.where(np.isnan(minutes.expected_mj), minutes.serving_mj, minutes.expected_mj)
    now = table.summed(judged)
    fewer = 1 - np.minimum(needed, replicas) / np.maximum(1, replicas)
    with np.errstate(invalid="ignore", divide="ignore"):
        saved = np.where(output > 0, serving * (1 - then / now) + idle, idle * fewer)
    saved = np.where((needed < replicas) & ~np.isnan(saved), saved, 0.0)
    return Supply(replicas, needed, output, serving + idle, load, saved)


def _lowest(whole: Curves, curve: Int64) -> Float64:
    """Lowest load at which a curve has a value [m]: below it, a token is taken to cost what it costs there."""
    known = ~np.isnan(whole.decode_mj_per_token)
    return np.append(np.where(known.any(axis=1), LOADS[np.argmax(known, axis=1)], math.nan), math.nan)[curve]


def _carried(curves: Curves, whole: Curves, row: Int64) -> Float64:
    """Tokens a second [w] that one replica has carried by its curve, at a speed that users know or would not mind."""
    share = np.cumsum(curves.minutes[:, ::-1], axis=1)[:, ::-1] / np.maximum(1, curves.minutes.sum(axis=1))[:, None]
    busy = LOADS[np.maximum(0, (share >= BUSY_SHARE).sum(axis=1) - 1)]  # a twentieth of the minutes ran this or more
    rows = np.arange(busy.size)
    slowest = np.fmin(1 / SLOWEST_TOKEN_S, speed(whole, rows, busy) / SLOWER_RATIO)
    fast_enough = (curves.tokens_per_request_s >= slowest[:, None]) & ~np.isnan(curves.decode_mj_per_token)
    rate = np.where(fast_enough, throughput(whole), 0.0).max(axis=1, initial=0.0)
    return np.append(rate, 0.0)[row]


def _peaks(minutes: EngineMinutes, workloads: int) -> Float64:
    """Tokens a second [w] of each workload's busiest hour of the days before, NaN unknown."""
    peaks = np.full(workloads, math.nan)
    there = np.flatnonzero(minutes.workload >= 0)
    if minutes.peak_tokens_per_s.size:
        np.fmax.at(peaks, minutes.workload[there], minutes.peak_tokens_per_s[there])
    return peaks


def _incident(curves: Curves, row: int, table: WorkloadMinutes, supply: Supply, run: Run) -> Incident:
    rows = run.rows
    there = supply.needed[rows] < supply.replicas[rows]
    saved_mj = max(0, int(supply.saved_mj[rows][there].sum()))
    measured_mj = int(supply.measured_mj[rows][there].sum())
    replicas = int(np.median(supply.replicas[rows][there]))
    needed = int(np.median(supply.needed[rows][there]))
    peak = float(np.nanmax(supply.load[rows])) if not np.isnan(supply.load[rows]).all() else math.nan
    pace = float(speed(extended(curves), row, peak))
    since_us, until_us, known_us = span_us(table, run)
    share = saved_mj / max(1, measured_mj)
    return Incident(
        *(run.subject, since_us, until_us, known_us, run.over, saved_mj),
        evidence={
            "minutes": int(np.count_nonzero(there)),
            "replicas": replicas,
            "replicas_needed": needed,
            "saving_ratio": round(share, 3),
            **({} if math.isnan(peak) else {"highest_requests_running_per_replica": round(peak, 1)}),
            **({} if math.isnan(pace) else {"inter_token_latency_ms_at_peak": round(1000 / pace, 1)}),
        },
        summary=f"{replicas} replicas where {needed} would carry every peak seen so far: {share:.0%} of the energy "
        f"would be saved",
        remedy=f"Set replicas (or the autoscaler's minReplicas) to {needed}, or let it scale by running requests "
        "(KEDA, target concurrency); keep N+1 if you need redundancy.",
    )


@kernel
def _need(
    offsets: Int64,
    minute_us: Int64,
    tokens_per_s: Float64,
    carried: Float64,
    peaks: Float64,
    replicas: Int64,
    needed: Int64,
) -> None:
    """Fills `needed` [m]: as many as there are until enough was seen."""
    for w in range(offsets.size - 1):
        low, high = offsets[w], offsets[w + 1]
        known_before = not math.isnan(peaks[w])
        peak = peaks[w] if known_before else 0.0
        rate = carried[w] if known_before else 0.0
        for i in range(low, high):
            total, most, first = 0.0, 0, i
            while first >= low and minute_us[i] - minute_us[first] < SMOOTHED_MINUTES * MINUTE_US:
                total += tokens_per_s[first]
                first -= 1
            count = i - first
            while first >= low and minute_us[i] - minute_us[first] < 2 * SMOOTHED_MINUTES * MINUTE_US:
                first -= 1
            for j in range(first + 1, i + 1):
                most = max(most, replicas[j])
            if count == SMOOTHED_MINUTES and most > 0:
                peak = max(peak, total / count)
                rate = max(rate, total / count / most)
            needed[i] = replicas[i]
            if rate > 0.0 and (known_before or minute_us[i] - minute_us[low] >= LEAST_SEEN_US):
                needed[i] = max(1, math.ceil(peak / (rate * TOLERANCE)))
                if 2 * needed[i] > replicas[i]:
                    needed[i] = max(1, math.ceil(peak / (rate * HEADROOM)))
