"""cache-miss: the prefix cache stopped hitting. Prompts that used to be found in the cache are computed again.

A workload's hit ratio (cached over input tokens, of all its engines) is compared with its own normal: the median of
its last 1440 minutes that were normal themselves, at least 2 hours of them. `usual_hit_ratio`, where it is known,
counts as half a day of them before the first minute: an incident may be older than the minutes given. A cache is cold
after a start: the first 15 minutes of an engine and those after a hole in its data or a change of version say nothing.

A fall must be beyond what the workload's own ratio wanders: 5 times its usual distance from normal, of the last hours
before; long prompts and few users make it noisy.

A lasting change stays a finding until its cause is found: its minutes never become the normal. If prompts changed for
good, somebody resolves the finding: once 6 hours with input were seen since, they alone are the usual (`before` in
sql/detection.sql). It may open again for a day or so, until those hours lie before the minutes looked at.

What it cost: the tokens that the normal ratio would have found in the cache, at the learnt price of an input token of
each engine. Where that price can't be told apart, energy above the curve at equal load; without a curve it is not
known, and 0.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.minutes import MINUTE_US, Bool, EngineMinutes, Float64, Int64
from wattmill_analytics.findings.runs import Run, join, span_us
from wattmill_analytics.findings.workloads import WorkloadMinutes, by_workload
from wattmill_analytics.kernel import int64s, kernel

LEAST_FALL, MOST_FALL = 0.12, 0.25
TIMES_THE_WANDER, KEPT_OF_WANDER = 5.0, 0.99
OPENS_AFTER, CLOSES_AFTER = 5, 5
COLD_MINUTES = 15
NORMAL_MINUTES, LEAST_NORMAL_MINUTES, USUAL_MINUTES = 1440, 120, 720
KEPT_A_MINUTE = 0.7  # the ratio judged is smoothed over a few minutes: single prompts can be very long
_STEPS = 200

Bools = NDArray[np.bool_]


def hit_ratios(
    offsets: Int64, cached_input_tokens: Int64, input_tokens: Int64, usual: Float64
) -> tuple[Float64, Float64, Float64]:
    """(hit ratio smoothed over the last minutes, normal hit ratio before, least fall that is one) of each minute.

    NaN where there is none. The least fall is 0.12, or 5 times the usual distance of the smoothed ratio from normal in
    minutes that were normal (their mean, which forgets 1 % a minute once it has 100), at most 0.25.

    Shapes: offsets int64 [w+1]; tokens int64 [m], of engines that count cached ones; usual float64 [w]: what was normal
    before the first minute, NaN unknown. Looks back only.
    """
    smoothed, normal, least = (np.empty(input_tokens.size) for _ in range(3))
    _follow(int64s(offsets), int64s(cached_input_tokens), int64s(input_tokens), usual, smoothed, normal, least)
    return smoothed, normal, least


def is_warm(minutes: EngineMinutes) -> Bool:
    """Minutes of engines that have been seen to run for 15 minutes or more without a hole or a change of version."""
    warm = np.empty(minutes.minute_us.size, np.bool_)
    _warm(int64s(minutes.offsets), int64s(minutes.minute_us), int64s(minutes.version), warm)
    return warm


@dataclasses.dataclass(frozen=True, slots=True)
class CacheMiss:
    """A hit ratio at least 0.12 below the workload's normal for 5 minutes."""

    kind: str = "cache-miss"
    about: Literal["engine", "workload"] = "workload"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        tells = (minutes.cached_input_tokens >= 0) & is_warm(minutes) & ~hidden
        if not tells.any():
            return []
        table = by_workload(minutes)
        cached = table.summed(np.where(tells, minutes.cached_input_tokens, 0))
        inputs = table.summed(np.where(tells, minutes.input_tokens, 0))
        smoothed, normal, least = hit_ratios(table.offsets, cached, inputs, _usual(minutes, table.offsets.size - 1))
        marked = normal - smoothed >= least
        return [
            _incident(minutes, table, tells, marked, cached, inputs, normal, run)
            for run in join(table, marked, opens_after=OPENS_AFTER, closes_after=CLOSES_AFTER)
        ]


def _usual(minutes: EngineMinutes, workloads: int) -> Float64:
    """`usual_hit_ratio` of each workload [w]."""
    usual = np.full(workloads, math.nan)
    there = np.flatnonzero(minutes.workload >= 0)
    if minutes.usual_hit_ratio.size:
        usual[minutes.workload[there]] = minutes.usual_hit_ratio[there]
    return usual


def _incident(
    minutes: EngineMinutes,
    table: WorkloadMinutes,
    tells: Bool,
    marked: Bool,
    cached: Int64,
    inputs: Int64,
    normal: Float64,
    run: Run,
) -> Incident:
    since_us, until_us, known_us = span_us(table, run)
    before = float(normal[run.first])
    after = int(cached[run.rows].sum()) / max(1, int(inputs[run.rows].sum()))
    engines = np.flatnonzero(minutes.workload == run.subject).tolist()
    energy, computed, priced = 0.0, 0.0, True
    changed = ""
    for s in engines:
        low, high = int(minutes.offsets[s]), int(minutes.offsets[s + 1])
        first, end = low + np.searchsorted(minutes.minute_us[low:high], [since_us, until_us])
        rows = slice(int(first), int(end))
        mine = tells[rows]
        missed = float((before * minutes.input_tokens[rows] - minutes.cached_input_tokens[rows])[mine].sum())
        price = float(minutes.curves.prefill_mj_per_token[minutes.curve[s]]) if minutes.curve[s] >= 0 else 0.0
        computed += missed
        if price > 0:
            energy += missed * price
        else:
            above = (minutes.serving_mj[rows] - minutes.expected_mj[rows])[mine]
            energy += float(above[~np.isnan(above)].sum())
            priced = False
        changed = changed or _change_near(minutes, slice(low, high), since_us)
    share = max(0.0, computed) / max(1, int(inputs[run.rows].sum()))
    return Incident(
        *(run.subject, since_us, until_us, known_us, run.over, max(0, int(energy))),
        evidence={
            "minutes": int(np.count_nonzero(marked[run.rows])),
            "hit_ratio_before": round(before, 3),
            "hit_ratio": round(after, 3),
            "missed_tokens": max(0, int(computed)),
            "impact_from": "price of an input token" if priced else "energy above the curve at equal load",
            **({"coincides_with": changed} if changed else {}),
        },
        summary=f"prefix cache hits fell from {before:.0%} to {after:.0%} of the input: {share:.0%} of it was computed "
        f"again" + (f", since a {changed}" if changed else ""),
        remedy="Check that prefix caching is on (enable_prefix_caching) and what changed in the prompts: whatever "
        "varies (a time, an id) belongs at their end. Route requests of one conversation to one replica (session "
        "affinity, prefix-aware routing); give the cache more room (gpu_memory_utilization, kv_cache_dtype: fp8).",
    )


def _change_near(minutes: EngineMinutes, rows: slice, since_us: int) -> str:
    """What changed on an engine in the half hour before: 'change of version', 'restart', or ''."""
    low, high = np.searchsorted(minutes.minute_us[rows], [since_us - 30 * MINUTE_US, since_us + 5 * MINUTE_US])
    if high - low < 2:
        return ""
    versions = minutes.version[rows][low:high]
    known = versions[versions >= 0]
    if known.size and known[0] != known[-1]:
        return "change of version"
    return "restart" if np.diff(minutes.minute_us[rows][low:high]).max() > 2 * MINUTE_US else ""


@kernel
def _warm(offsets: Int64, minute_us: Int64, version: Int64, warm: Bools) -> None:
    for s in range(offsets.size - 1):
        warm_from, last_version = 0, -1
        for i in range(offsets[s], offsets[s + 1]):
            hole = i == offsets[s] or minute_us[i] - minute_us[i - 1] > 2 * MINUTE_US
            if hole or (version[i] >= 0 and last_version >= 0 and version[i] != last_version):
                warm_from = minute_us[i] + COLD_MINUTES * MINUTE_US
            if version[i] >= 0:
                last_version = version[i]
            warm[i] = minute_us[i] >= warm_from


@kernel
def _follow(
    offsets: Int64,
    cached: Int64,
    inputs: Int64,
    usual: Float64,
    smoothed: Float64,
    normal: Float64,
    least: Float64,
) -> None:
    counts = np.empty(_STEPS + 1, np.int64)
    kept = np.empty(NORMAL_MINUTES, np.int64)
    for w in range(offsets.size - 1):
        counts[:] = 0
        taken = 0  # minutes taken as normal so far
        middle = 0  # step that holds the median of those kept
        below = 0  # how many of them lie in lower steps
        if not math.isnan(usual[w]):
            middle = min(max(int(usual[w] * _STEPS + 0.5), 0), _STEPS)
            taken = USUAL_MINUTES
            kept[:taken] = middle
            counts[middle] = taken
        recent_cached = recent_inputs = 0.0
        wander, wandered = 0.0, 0  # mean distance from normal, and of how many minutes
        for i in range(offsets[w], offsets[w + 1]):
            smoothed[i] = normal[i] = math.nan
            least[i] = min(max(LEAST_FALL, TIMES_THE_WANDER * wander), MOST_FALL)
            if taken >= LEAST_NORMAL_MINUTES:
                normal[i] = middle / _STEPS
            if inputs[i] <= 0:
                continue
            recent_cached = KEPT_A_MINUTE * recent_cached + cached[i]
            recent_inputs = KEPT_A_MINUTE * recent_inputs + inputs[i]
            smoothed[i] = recent_cached / recent_inputs
            if normal[i] - smoothed[i] >= least[i]:
                continue
            if not math.isnan(normal[i]):
                wandered += 1
                wander += max(1.0 - KEPT_OF_WANDER, 1.0 / wandered) * (abs(normal[i] - smoothed[i]) - wander)
            step = min(max(int(cached[i] / inputs[i] * _STEPS + 0.5), 0), _STEPS)
            place = taken % NORMAL_MINUTES
            if taken >= NORMAL_MINUTES:
                counts[kept[place]] -= 1
                below -= 1 if kept[place] < middle else 0
            kept[place] = step
            counts[step] += 1
            below += 1 if step < middle else 0
            taken += 1
            half = min(taken, NORMAL_MINUTES) // 2
            while below > half:
                middle -= 1
                below -= counts[middle]
            while below + counts[middle] <= half:
                below += counts[middle]
                middle += 1
