"""Slow and obvious twins of `findings.residuals`, `findings.shifts` and `findings.siblings`: lists and loops.

A minute here is a tuple; nothing is shared with the kernels but the numbers they promise in their first lines.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes

Found = tuple[int, int, int, bool]  # first, last, opened, over


def residuals(minutes: EngineMinutes, hidden: Sequence[bool]) -> list[tuple[float, float] | None]:
    """(ln(serving / expected), requests) of each row, None where it is not judged."""
    judged: list[tuple[float, float] | None] = []
    earliest = min(minutes.minute_us.tolist(), default=0)
    for s in range(minutes.offsets.size - 1):
        rows = range(minutes.offsets[s], minutes.offsets[s + 1])
        starts = []
        for i in rows:
            before = minutes.minute_us[i - 1] if i > rows.start else earliest
            if minutes.minute_us[i] - before > 2 * MINUTE_US:
                starts.append(minutes.minute_us[i])
            cold = any(0 <= minutes.minute_us[i] - start < 5 * MINUTE_US for start in starts)
            expected = minutes.expected_mj[i]
            usable = minutes.serving_mj[i] > 0 and minutes.output_tokens[i] > 0 and expected > 0
            usable = usable and minutes.requests_running[i] > 0
            if hidden[i] or cold or not usable or minutes.untrusted_us[i] > 15_000_000:
                judged.append(None)
                continue
            load, row, trust = minutes.requests_running[i], minutes.curve[s], 1.0
            if 0 <= row < len(minutes.curves.minutes):
                learnt = [0, *minutes.curves.minutes[row].tolist(), 0]
                b = 1 + min(len(learnt) - 3, max(0, 4 + round(4 * math.log2(load))))
                near = learnt[b - 1] + learnt[b] + learnt[b + 1]
                strays = 0.5 * max(learnt[b - 1], learnt[b + 1])
                trust = near / (near + 10) * max(0, learnt[b] - strays) / max(1, learnt[b])
            x = math.log(minutes.serving_mj[i] / expected)
            judged.append((x, trust * load) if trust > 0 else None)
    return judged


def noise_before(judged: Sequence[tuple[int, float]]) -> float:
    """Noise of (minute_us, value), oldest first: mean difference of neighbouring blocks of five minutes."""
    stretches: list[list[float]] = []
    for k, (minute_us, value) in enumerate(judged):
        if k == 0 or minute_us - judged[k - 1][0] > 5 * MINUTE_US:
            stretches.append([])
        stretches[-1].append(value)
    noise, known = 0.07, 30
    for stretch in stretches:
        means = [sum(stretch[k : k + 5]) / 5 for k in range(0, len(stretch) - 4, 5)]
        for a, b in pairwise(means):
            known += 1
            noise += (abs(b - a) / 1.128 * math.sqrt(5) - noise) / min(192, known)
    return noise


def threshold(noise: float, drift: float, floor: float) -> float:
    """Where noise alone arrives once in so many minutes."""
    return max(floor, noise**2 / (2 * drift) * math.log(3e7) - noise)


def shifts(
    minute_us: Sequence[int],
    x: Sequence[float],
    requests: Sequence[float],
    smallest: float,
    drift: float,
    floor: float,
    under_way: float = math.nan,
    since_us: int = 0,
) -> list[Found]:
    """Shifts of one series; noise and the sum of a rise are formed anew at every minute."""
    found: list[Found] = []
    judged: list[int] = []
    history: list[tuple[int, float]] = []
    rising: list[int] = []  # rows since the sum was last 0
    shift: tuple[list[int], int] | None = None  # its first rows, 60 at most, and the one at which it opened
    fall, falling = 0.0, 0
    seen, total, normal = 0.0, 0.0, 0.0  # minutes and sum of the last day, and what comes of them
    value: dict[int, float] = {}
    known, goes_on = not math.isnan(under_way), False
    if known:
        normal = min(0.05, max(-0.05, under_way))
        seen, total = 1440.0, 1440 * normal

    def w(i: int) -> float:
        return requests[i] / (requests[i] + 16)

    def end(last: int, over: bool) -> None:
        assert shift is not None
        found.append((shift[0][0], last, shift[1], over))

    last = -1
    for i in range(len(x)):
        if requests[i] <= 0:
            continue
        pause = minute_us[i] - minute_us[judged[-1]] if judged else 0
        value[i] = w(i) * min(0.35, max(-0.35, x[i] - normal))
        if shift is not None and pause > 12 * 60 * MINUTE_US:
            end(judged[-1], True)
            shift, rising, goes_on = None, [], False
        if pause > 60 * MINUTE_US:
            rising = []
        judged.append(i)
        if known and minute_us[i] >= since_us:
            known = False
            if shift is None:
                goes_on, shift, last, fall, falling = True, ([], i), i, 0.0, 0
        history.append((minute_us[i], value[i] / math.sqrt(w(i))))
        noise = noise_before(history)
        if shift is None:
            total += value[i] + w(i) * normal
            seen += w(i)
            if seen > 1440:
                total, seen = total * 1440 / seen, 1440
            normal = min(0.05, max(-0.05, total / (seen + 60)))
            rising.append(i)
            height = sum(value[k] for k in rising) / sum(w(k) for k in rising)
            above = sum(value[k] - w(k) * drift for k in rising)
            if above <= 0:
                rising = []
            elif height >= smallest and len(rising) >= 4 and above > threshold(noise, drift, floor):
                shift, last, fall, falling = (rising, i), i, 0.0, 0
            elif len(rising) > 60 and height < smallest:
                rising = []
        else:
            if len(shift[0]) < 60:
                shift[0].append(i)
            half = sum(value[k] for k in shift[0]) / sum(w(k) for k in shift[0]) / 2
            if goes_on:
                half = max(half, smallest / 2)
            fall += w(i) * half - value[i]
            falling += 1
            if fall <= 0:
                fall, falling, last = 0.0, 0, i
            elif falling >= 4 and fall > threshold(noise, half, floor):
                end(last, True)
                shift, rising, goes_on = None, [], False
    if shift is not None:
        end(judged[-1], minute_us[-1] - minute_us[judged[-1]] > 12 * 60 * MINUTE_US)
    return found


def above_siblings(
    minutes: EngineMinutes, judged: Sequence[tuple[float, float] | None]
) -> list[tuple[float, float, int] | None]:
    """(x, median of the siblings, how many) of each row, None without a sibling."""
    engine = np.repeat(np.arange(minutes.offsets.size - 1), np.diff(minutes.offsets)).tolist()
    found: list[tuple[float, float, int] | None] = []
    for i, mine in enumerate(judged):
        others = []
        for j, other in enumerate(judged):
            alike = (
                minutes.workload[engine[i]] == minutes.workload[engine[j]] >= 0
                and minutes.curve[engine[i]] == minutes.curve[engine[j]] >= 0
                and minutes.version[i] == minutes.version[j]
                and minutes.minute_us[i] == minutes.minute_us[j]
            )
            if j != i and alike and other is not None:
                others.append(other[0])
        if mine is None or not others:
            found.append(None)
            continue
        median = statistics.median(others)
        x = mine[0] - statistics.median([mine[0], *others])
        if len(others) == 1:
            x = min(mine[0], mine[0] - median)
        found.append((x, median, len(others)))
    return found


def workload_minutes(
    minutes: EngineMinutes, judged: Sequence[tuple[float, float] | None]
) -> dict[tuple[int, int], tuple[float, float]]:
    """(workload, minute_us) -> (x, requests)."""
    engine = np.repeat(np.arange(minutes.offsets.size - 1), np.diff(minutes.offsets)).tolist()
    gathered: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for i, mine in enumerate(judged):
        workload = int(minutes.workload[engine[i]])
        if mine is not None and workload >= 0:
            row = (*mine, float(minutes.expected_mj[i]))
            gathered.setdefault((workload, int(minutes.minute_us[i])), []).append(row)
    found = {}
    for key, rows in gathered.items():
        rows.sort()
        energy = sum(mj for _, _, mj in rows)
        reached = [r for k, (r, _, _) in enumerate(rows) if sum(mj for _, _, mj in rows[: k + 1]) >= 0.4 * energy]
        found[key] = (reached[0], sum(requests for _, requests, _ in rows))
    return found
