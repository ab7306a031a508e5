"""Siblings: what the other replicas of a workload did in the same minute. Medians, so that one odd one counts little.

Engines lie one behind the other in the table of minutes; here they are walked through side by side. Medians are of
residuals, so replicas are compared at equal load even where the load is spread unevenly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.findings.minutes import EngineMinutes, Float64, Int64
from wattmill_analytics.kernel import int64s, kernel

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]

# A workload is as high as this share of its energy, counted from the lowest: three in five must have risen.
LOW_SHARE = 0.4


def engine_groups(*keys: Int64) -> tuple[Int64, Int64]:
    """(engines, offsets): engines with equal keys side by side; those with a key below 0 are left out.

    `keys`: int64 arrays [s], one entry an engine.
    """
    table = np.stack(keys, axis=1)
    engines = np.flatnonzero((table >= 0).all(axis=1))
    engines = engines[np.lexsort(table[engines].T[::-1])]
    ends = np.flatnonzero((np.diff(table[engines], axis=0) != 0).any(axis=1)) + 1
    return engines, np.unique(np.concatenate(([0], ends, [engines.size]))).astype(np.int64)


def above_siblings(minutes: EngineMinutes, residual: Float64, requests: Float64) -> tuple[Float64, Float64, Int64]:
    """(x, others, siblings): residual less the replicas' median, median of the siblings, how many there were; each [n].

    Siblings serve the same workload, are judged by the same curve, run the same version, and are judged in the same
    minute. x is taken from the median with the replica itself, which one odd sibling of two cannot move. With one
    sibling x is the residual less the sibling's, and no more than the residual: of two that differ, the curve says
    which is wrong. Without one x is NaN, `siblings` 0.
    """
    n = minutes.minute_us.size
    x, others, siblings = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, np.int64)
    engines, groups = engine_groups(minutes.workload, minutes.curve)
    _above_siblings(
        int64s(engines),
        int64s(groups),
        int64s(minutes.offsets),
        int64s(minutes.minute_us),
        int64s(minutes.version),
        residual,
        requests,
        np.empty(engines.size),
        np.empty((2, engines.size), np.int64),
        int64s(minutes.offsets[:-1].copy()),
        x,
        others,
        siblings,
    )
    return x, others, siblings


@kernel
def _above_siblings(
    engines: Int64s,
    groups: Int64s,
    offsets: Int64s,
    minute_us: Int64s,
    version: Int64s,
    residual: Float64s,
    requests: Float64s,
    values: Float64s,
    rows: Int64s,
    at: Int64s,
    x: Float64s,
    others: Float64s,
    siblings: Int64s,
) -> None:
    for g in range(groups.size - 1):
        low, high = groups[g], groups[g + 1]
        if high - low < 2:
            continue
        while True:
            now_us = _next_minute(engines, low, high, offsets, minute_us, at)
            if now_us < 0:
                break
            left = _take(engines, low, high, offsets, minute_us, requests, at, now_us, rows[0])
            while left >= 2:
                # Versions one after the other; nearly always there is one.
                mine, rest = 0, 0
                for j in range(left):
                    i = rows[0, j]
                    if version[i] == version[rows[0, 0]]:
                        rows[1, mine], values[mine] = i, residual[i]
                        mine += 1
                for j in range(left):
                    i = rows[0, j]
                    if version[i] != version[rows[1, 0]]:
                        rows[0, rest] = i
                        rest += 1
                left = rest
                if mine < 2:
                    continue
                _sort(values, rows[1], mine)
                middle = 0.5 * (values[(mine - 1) // 2] + values[mine // 2])
                for rank in range(mine):
                    i = rows[1, rank]
                    others[i] = _median_without(values, mine, rank)
                    siblings[i] = mine - 1
                    x[i] = residual[i] - middle
                    if mine == 2:
                        x[i] = residual[i] - max(others[i], 0.0)


def workload_minutes(
    minutes: EngineMinutes, residual: Float64, requests: Float64
) -> tuple[Int64, Int64, Int64, Float64, Float64]:
    """(workloads, offsets, minute_us, x, requests): one series a workload, of the minutes in which it was judged.

    `workloads` int64 [w] are indices, `offsets` int64 [w+1]. x: the residual that two in five of the energy, as the
    curve has it, do not exceed; it rises when three in five have risen. requests: sum of its engines'.
    """
    engines, groups = engine_groups(minutes.workload)
    n = minutes.minute_us.size
    at_us, x, sums = np.empty(n, np.int64), np.empty(n), np.empty(n)
    ends = np.zeros(groups.size, np.int64)
    _workload_minutes(
        int64s(engines),
        int64s(groups),
        int64s(minutes.offsets),
        int64s(minutes.minute_us),
        np.ascontiguousarray(minutes.expected_mj),
        residual,
        requests,
        np.empty(engines.size),
        np.empty(engines.size, np.int64),
        int64s(minutes.offsets[:-1].copy()),
        ends,
        at_us,
        x,
        sums,
    )
    total = int(ends[-1])
    return minutes.workload[engines[groups[:-1]]], ends, at_us[:total], x[:total], sums[:total]


@kernel
def _workload_minutes(
    engines: Int64s,
    groups: Int64s,
    offsets: Int64s,
    minute_us: Int64s,
    expected_mj: Float64s,
    residual: Float64s,
    requests: Float64s,
    values: Float64s,
    rows: Int64s,
    at: Int64s,
    ends: Int64s,
    at_us: Int64s,
    x: Float64s,
    sums: Float64s,
) -> None:
    count = 0
    for g in range(groups.size - 1):
        low, high = groups[g], groups[g + 1]
        while True:
            now_us = _next_minute(engines, low, high, offsets, minute_us, at)
            if now_us < 0:
                break
            mine = _take(engines, low, high, offsets, minute_us, requests, at, now_us, rows)
            if mine == 0:
                continue
            sum_requests, sum_mj = 0.0, 0.0
            for j in range(mine):
                values[j] = residual[rows[j]]
                sum_requests += requests[rows[j]]
                sum_mj += expected_mj[rows[j]]
            _sort(values, rows, mine)
            below, rank = expected_mj[rows[0]], 0
            while rank < mine - 1 and below < LOW_SHARE * sum_mj:
                rank += 1
                below += expected_mj[rows[rank]]
            at_us[count], x[count], sums[count] = now_us, values[rank], sum_requests
            count += 1
        ends[g + 1] = count


@kernel
def _next_minute(engines: Int64s, low: int, high: int, offsets: Int64s, minute_us: Int64s, at: Int64s) -> int:
    """The earliest minute that an engine of the group has not been asked for, -1 at the end."""
    now_us = -1
    for e in range(low, high):
        row = at[engines[e]]
        if row < offsets[engines[e] + 1] and (now_us < 0 or minute_us[row] < now_us):
            now_us = int(minute_us[row])
    return now_us


@kernel
def _take(
    engines: Int64s,
    low: int,
    high: int,
    offsets: Int64s,
    minute_us: Int64s,
    requests: Float64s,
    at: Int64s,
    now_us: int,
    rows: Int64s,
) -> int:
    """Rows of the group's engines in this minute that are judged, and one minute on."""
    count = 0
    for e in range(low, high):
        row = at[engines[e]]
        if row < offsets[engines[e] + 1] and minute_us[row] == now_us:
            at[engines[e]] = row + 1
            if requests[row] > 0:
                rows[count] = row
                count += 1
    return count


@kernel
def _sort(values: Float64s, rows: Int64s, count: int) -> None:
    """Shell's sort of the first `count` values, with their rows: few of them, and nothing allocated."""
    gap = count // 2
    while gap > 0:
        for i in range(gap, count):
            value, row, j = values[i], rows[i], i
            while j >= gap and values[j - gap] > value:
                values[j], rows[j] = values[j - gap], rows[j - gap]
                j -= gap
            values[j], rows[j] = value, row
        gap //= 2


@kernel
def _median_without(ordered: Float64s, count: int, rank: int) -> float:
    """Median of ordered values but the one of this rank; count >= 2."""
    upper = (count - 1) // 2
    lower = (count - 2) // 2
    return 0.5 * float(ordered[lower + int(lower >= rank)] + ordered[upper + int(upper >= rank)])
