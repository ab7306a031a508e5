"""kv-thrash: the KV cache is full, requests are thrown out of it, and what was computed for them is computed again.

Preemptions are the proof. A mean usage below 0.85 speaks against it only while they are rare: a long prompt that waits
for its blocks at the head of the queue keeps the others out and the usage down. Where 6 of the last 15 minutes had
preemptions, the usage is not asked, and the incident began with the first of those minutes.

What it cost is the work done twice. Every preemption repeats about the input and half of the output of one request;
what was counted is believed where it says a third of that or more, by the first of two rules. An engine that counts
recomputed tokens as input shows computed input beyond what its finished requests took in its last 3 quiet hours: that
excess, at the learnt price of an input token. One that doesn't count them shows energy above the curve for the tokens
that it did count, beyond what it lay off the curve in those hours. If neither tells, the tokens of the preemptions at
that price. Where no price was learnt, energy above the curve alone, and without a curve the cost is not known, and 0.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from wattmill_analytics.findings import Incident, mean
from wattmill_analytics.findings.minutes import MINUTE_US, Bool, EngineMinutes, Int64
from wattmill_analytics.findings.residuals import LEAST_LEVEL_MINUTES, MOST_LEVEL
from wattmill_analytics.findings.runs import Run, join, span_us

OPENS_AFTER, CLOSES_AFTER = 5, 6
LEAST_PREEMPTIONS = 1
LEAST_PREEMPTED_SHARE = 0.03
FULL_CACHE = 0.85
LAST_MINUTES, SUSTAINED_MINUTES = 15, 6
LEAST_BELIEVED = 1 / 3
QUIET_BEFORE_US, QUIET_MINUTES = 24 * 60 * MINUTE_US, 180


def is_thrashing(minutes: EngineMinutes) -> Bool:
    """Preempting minutes in which no room is known in the KV cache, or of which many came lately."""
    preempting = is_preempting(minutes)
    sustained = _lately(minutes, preempting) >= SUSTAINED_MINUTES
    return np.asarray(preempting & (sustained | ~(minutes.kv_cache_usage_ratio < FULL_CACHE)))


def is_preempting(minutes: EngineMinutes) -> Bool:
    """Minutes with preemptions for at least 3 % of the requests finished."""
    finished = np.maximum(minutes.requests_finished, 0)
    return np.asarray(
        (minutes.preemptions >= LEAST_PREEMPTIONS) & (minutes.preemptions >= LEAST_PREEMPTED_SHARE * finished)
    )


def _lately(minutes: EngineMinutes, marked: Bool) -> Int64:
    """How many [n] of the last 15 minutes with data of the same engine, this one included, are marked."""
    before = np.concatenate([[0], np.cumsum(marked)])
    rows = np.arange(marked.size)
    begins = np.repeat(minutes.offsets[:-1], np.diff(minutes.offsets))
    return np.asarray(before[1:] - before[np.maximum(begins, rows - LAST_MINUTES + 1)])


def _from_the_first(minutes: EngineMinutes, preempting: Bool, run: Run) -> Run:
    """The run with the preempting minutes just before it: they are what made it known as sustained."""
    low = max(int(minutes.offsets[run.subject]), run.first - LAST_MINUTES + 1)
    first = low + int(np.argmax(preempting[low : run.first + 1]))
    near = minutes.minute_us[run.first] - minutes.minute_us[first] <= (LAST_MINUTES + CLOSES_AFTER) * MINUTE_US
    return dataclasses.replace(run, first=first) if near else run


@dataclasses.dataclass(frozen=True, slots=True)
class KvThrash:
    """At least 5 minutes of sustained preemptions."""

    kind: str = "kv-thrash"
    about: Literal["engine", "workload"] = "engine"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        marked = is_thrashing(minutes) & ~hidden
        if not marked.any():
            return []
        preempting = is_preempting(minutes) & ~hidden
        return [
            _incident(minutes, preempting, _from_the_first(minutes, preempting, run))
            for run in join(minutes, marked, opens_after=OPENS_AFTER, closes_after=CLOSES_AFTER)
        ]


def _incident(minutes: EngineMinutes, marked: Bool, run: Run) -> Incident:
    rows = run.rows
    preemptions = int(np.maximum(minutes.preemptions[rows], 0).sum())
    count = int(np.count_nonzero(marked[rows]))
    usage = mean(minutes.kv_cache_usage_ratio[rows])
    energy_mj, recomputed, how = _cost(minutes, run, preemptions)
    since_us, until_us, known_us = span_us(minutes, run)
    return Incident(
        *(run.subject, since_us, until_us, known_us, run.over, energy_mj),
        evidence={
            "minutes": count,
            "preemptions": preemptions,
            "preemptions_per_minute": round(preemptions / (rows.stop - rows.start), 1),
            **({} if math.isnan(usage) else {"mean_kv_cache_usage_ratio": round(usage, 3)}),
            "recomputed_tokens": recomputed,
            "impact_from": how,
        },
        summary=f"KV cache too small: {preemptions} preemptions in {count} minutes, "
        f"about {recomputed} tokens computed twice",
        remedy="Give the KV cache more room (raise gpu_memory_utilization, kv_cache_dtype: fp8, tensor parallelism "
        "over more boards) or ask less of it (lower max_num_seqs or max_model_len, add a replica).",
    )


def _cost(minutes: EngineMinutes, run: Run, preemptions: int) -> tuple[int, int, str]:
    """(millijoules, recomputed tokens, how they are known)."""
    rows = run.rows
    row = int(minutes.curve[run.subject])
    price = float(minutes.curves.prefill_mj_per_token[row]) if row >= 0 else 0.0
    quiet = _quiet_before(minutes, run)
    expected = minutes.expected_mj[rows]
    known = ~np.isnan(expected)
    usual_mj = _level(minutes, quiet) * float(expected[known].sum())
    above_mj = max(0.0, float(minutes.serving_mj[rows][known].sum()) - usual_mj)
    tokens = preemptions * _mean_context(minutes, rows)
    if price > 0:
        again = _counted_again(minutes, quiet, rows)
        if again >= LEAST_BELIEVED * tokens:
            return int(again * price), int(again), "input computed beyond what finished requests needed"
        if above_mj >= LEAST_BELIEVED * tokens * price and above_mj > 0:
            return int(above_mj), int(above_mj / price), "energy above the curve at equal load"
        return int(tokens * price), int(tokens), "preemptions times the context of a mean request"
    if known.any():
        return int(above_mj), int(tokens), "energy above the curve at equal load"
    return 0, int(tokens), "not known: neither a curve nor a price of input tokens"


def _quiet_before(minutes: EngineMinutes, run: Run) -> Int64:
    """Rows of the last 180 minutes of the day before without a preemption: what prompts need changes with the hours."""
    low = int(minutes.offsets[run.subject])
    before = slice(low, run.first)
    quiet = (
        (minutes.preemptions[before] == 0)
        & (minutes.requests_finished[before] > 0)
        & (minutes.minute_us[before] >= minutes.minute_us[run.first] - QUIET_BEFORE_US)
    )
    return low + np.flatnonzero(quiet)[-QUIET_MINUTES:]


def _level(minutes: EngineMinutes, quiet: Int64) -> float:
    """Energy over that of the curve in quiet minutes, 5 % off at most: no board is quite its curve."""
    judged = quiet[~np.isnan(minutes.expected_mj[quiet])]
    expected_mj = float(minutes.expected_mj[judged].sum())
    if judged.size < LEAST_LEVEL_MINUTES or expected_mj <= 0:
        return 1.0
    ratio = float(minutes.serving_mj[judged].sum()) / expected_mj
    return min(1 + MOST_LEVEL, max(1 - MOST_LEVEL, ratio))


def _counted_again(minutes: EngineMinutes, quiet: Int64, rows: slice) -> float:
    """Computed input tokens beyond what as many finished requests took in quiet minutes."""
    uncached, finished = minutes.uncached_input_tokens, minutes.requests_finished
    usual = int(finished[quiet].sum())
    if usual == 0:
        return 0.0
    needed = uncached[quiet].sum() / usual * np.maximum(finished[rows], 0).sum()
    return max(0.0, float(uncached[rows].sum() - needed))


def _mean_context(minutes: EngineMinutes, rows: slice) -> float:
    finished = int(np.maximum(minutes.requests_finished[rows], 0).sum())
    if finished == 0:
        return 0.0
    return float(minutes.input_tokens[rows].sum() + minutes.output_tokens[rows].sum() / 2) / finished
