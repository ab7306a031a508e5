"""Slow and obvious twins of the kernels in `findings.workloads`, `what_if`, `cache_miss` and `over_provisioned`.

Lists, dicts and sorting, one minute at a time; nothing is shared with the kernels but what their first lines promise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes


def rows_by_workload(minutes: EngineMinutes) -> dict[tuple[int, int], list[int]]:
    """Rows of each (workload, minute), sorted by both."""
    rows: dict[tuple[int, int], list[int]] = {}
    for s, workload in enumerate(minutes.workload.tolist()):
        for i in range(int(minutes.offsets[s]), int(minutes.offsets[s + 1])):
            if workload >= 0:
                rows.setdefault((workload, int(minutes.minute_us[i])), []).append(i)
    return dict(sorted(rows.items()))


def busiest_so_far(loads: Sequence[float], load: Sequence[float]) -> list[float]:
    """For each minute the highest bin that 15 minutes so far have reached."""
    found = []
    for end in range(1, len(load) + 1):
        bins = [nearest(loads, value) for value in load[:end] if value > 0]
        reached = [b for b in set(bins) if sum(other >= b for other in bins) >= 15]
        found.append(loads[max(reached)] if reached else math.nan)
    return found


def nearest(loads: Sequence[float], value: float) -> int:
    """The bin whose middle is nearest, in octaves."""
    return min(range(len(loads)), key=lambda b: abs(math.log2(loads[b] / value)))


def is_warm(minutes: EngineMinutes) -> list[bool]:
    """Whether no start lies less than 15 minutes back."""
    warm = []
    for s in range(minutes.offsets.size - 1):
        last_us, last_version = -(10**18), -1
        starts: list[int] = []
        for i in range(int(minutes.offsets[s]), int(minutes.offsets[s + 1])):
            now_us, version = int(minutes.minute_us[i]), int(minutes.version[i])
            if now_us - last_us > 2 * MINUTE_US or (version >= 0 and last_version >= 0 and version != last_version):
                starts.append(now_us)
            last_us, last_version = now_us, version if version >= 0 else last_version
            warm.append(now_us - starts[-1] >= 15 * MINUTE_US)
    return warm


def hit_ratios(
    cached: Sequence[int], inputs: Sequence[int], usual_before: float = math.nan
) -> tuple[list[float], list[float], list[float]]:
    """(smoothed, normal, least fall) of one workload, by the words of `cache_miss`."""
    smoothed, normal, least = [], [], []
    distances: list[float] = []
    taken: list[int] = [] if math.isnan(usual_before) else [int(usual_before * 200 + 0.5)] * 720
    recent_cached = recent_inputs = 0.0
    for now_cached, now_inputs in zip(cached, inputs, strict=True):
        usual = statistics.median_high(taken[-1440:]) / 200 if len(taken) >= 120 else math.nan
        normal.append(usual)
        young = distances[:100]
        wander = sum(young) / max(1, len(young)) * 0.99 ** max(0, len(distances) - 100)
        wander += sum(0.01 * 0.99**age * distance for age, distance in enumerate(reversed(distances[100:])))
        least.append(min(max(0.12, 5 * wander), 0.25))
        if now_inputs <= 0:
            smoothed.append(math.nan)
            continue
        recent_cached, recent_inputs = 0.7 * recent_cached + now_cached, 0.7 * recent_inputs + now_inputs
        smoothed.append(recent_cached / recent_inputs)
        if not usual - smoothed[-1] >= least[-1]:
            if not math.isnan(usual):
                distances.append(abs(usual - smoothed[-1]))
            taken.append(min(max(int(now_cached / now_inputs * 200 + 0.5), 0), 200))
    return smoothed, normal, least


def load_for(loads: Sequence[float], rate: Sequence[float], tokens_per_s: float) -> float:
    """The load that makes so many tokens a second; `rate` never falls, NaN where nothing is known."""
    known = [(load, r) for load, r in zip(loads, rate, strict=True) if not math.isnan(r)]
    if not known or not tokens_per_s > 0:
        return math.nan
    if tokens_per_s <= known[0][1]:
        return known[0][0] * tokens_per_s / known[0][1]
    steps = [known[0]]
    for load, r in known[1:]:
        if r > steps[-1][1]:
            steps.append((load, r))
    for (low, slow), (high, fast) in pairwise(steps):
        if tokens_per_s <= fast:
            share = math.log(tokens_per_s / slow) / math.log(fast / slow)
            return math.exp(math.log(low) + share * math.log(high / low))
    return steps[-1][0]


def needed(
    minute_us: Sequence[int], tokens_per_s: Sequence[float], replicas: Sequence[int], carried: float, peak_before: float
) -> list[int]:
    """Replicas needed at each minute of one workload, by the words of `over_provisioned`."""
    found = []
    means: list[float] = []
    rates: list[float] = []
    for i, now_us in enumerate(minute_us):
        quarter = [tokens_per_s[j] for j in range(i + 1) if now_us - minute_us[j] < 15 * MINUTE_US]
        most = max(replicas[j] for j in range(i + 1) if now_us - minute_us[j] < 30 * MINUTE_US)
        if len(quarter) == 15 and most > 0:
            means.append(sum(quarter[::-1]) / 15)
            rates.append(means[-1] / most)
        known_before = not math.isnan(peak_before)
        peak = max([*means, *([peak_before] if known_before else [0.0])])
        rate = max([*rates, *([carried] if known_before else [0.0])])
        if rate <= 0 or not (known_before or now_us - minute_us[0] >= 22 * 60 * MINUTE_US):
            found.append(replicas[i])
            continue
        few = max(1, math.ceil(peak / (rate * 1.1)))
        found.append(few if 2 * few <= replicas[i] else max(1, math.ceil(peak / (rate * 0.85))))
    return found
