"""Minutes of workloads, summed from those of their engines, and what an engine or a workload has been seen to carry.

Sums only: who judges them says how. Sums of integers stay integers. `busiest_so_far` looks back, never ahead, so that
what is found with its help is found at the same minute in data that end there.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.curves import LOAD_BINS, LOADS, Curves, position_of
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes
from wattmill_analytics.kernel import int64s, kernel

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Number = TypeVar("Number", np.int64, np.float64)

_SEEN_MINUTES = 15  # what is exceeded in so many minutes is a load that is run, not a blip


@dataclasses.dataclass(frozen=True, slots=True)
class WorkloadMinutes:
    """The minutes [m] in which any engine of a workload has data, sorted by workload and time.

    `offsets` int64 [w+1]: which are whose; `row_of` int64 [n]: the workload minute of each engine minute, -1 where the
    engine serves no workload.
    """

    offsets: Int64
    minute_us: Int64
    row_of: Int64

    def summed(self, values: NDArray[Number]) -> NDArray[Number]:
        """Sum [m] over the engine minutes of each workload minute; a NaN stays one."""
        total = np.zeros(self.minute_us.size, values.dtype)
        _add(self.row_of, np.ascontiguousarray(values), total)
        return total

    def highest(self, values: Float64) -> Float64:
        """Highest value [m] of the engine minutes of each workload minute, at least 0."""
        top = np.zeros(self.minute_us.size)
        _raise(self.row_of, np.ascontiguousarray(values), top)
        return top

    def spread(self, values: NDArray[Number]) -> NDArray[Number]:
        """The workload's value [n] at each engine minute; 0 where the engine serves no workload."""
        found = np.zeros(self.row_of.size, values.dtype)
        _give(self.row_of, np.ascontiguousarray(values), found)
        return found


def by_workload(minutes: EngineMinutes) -> WorkloadMinutes:
    """The workloads' minutes of these engines' minutes. Workload w is entry w of `offsets`."""
    count = int(minutes.workload.max(initial=-1)) + 1
    first, last = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    offsets, workload, minute_us = int64s(minutes.offsets), int64s(minutes.workload), int64s(minutes.minute_us)
    _bounds(offsets, workload, minute_us, first, last)
    lengths = np.where(last >= 0, (last - first) // MINUTE_US + 1, 0)
    base = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    row_of = np.empty(minute_us.size, np.int64)
    there = np.zeros(int(base[-1]), np.int64)
    _place(offsets, workload, minute_us, first, base, row_of, there)
    ends = np.cumsum(there)
    found_us = np.empty(int(ends[-1]) if ends.size else 0, np.int64)
    _settle(row_of, minute_us, ends, found_us)
    return WorkloadMinutes(np.concatenate([[0], ends])[base], found_us, row_of)


def busiest_so_far(offsets: Int64, load: Float64) -> Float64:
    """The load that each subject has reached in 15 minutes so far, as the middle of its load bin; NaN before that.

    Shapes: offsets int64 [s+1]; load float64 [n], NaN unknown. Result [n]; the minute itself counts.
    """
    found = np.empty(load.size)
    _busiest(int64s(offsets), np.require(load, np.float64, ["C", "W"]), LOADS, found)
    return found


def highest_learnt(curves: Curves) -> Float64:
    """Highest load [k] at which a curve was learnt, NaN for none."""
    known = ~np.isnan(curves.decode_mj_per_token)
    last = LOAD_BINS - 1 - np.argmax(known[:, ::-1], axis=1) if known.size else np.zeros(known.shape[0], np.int64)
    return np.where(known.any(axis=1), LOADS[last], math.nan)


def of_engine(values: Float64, minutes: EngineMinutes) -> Float64:
    """Per minute [n], the entry of `values` [k] for the curve that its engine is judged by, NaN without one."""
    each = np.append(values, math.nan)[minutes.curve]  # row -1 is the last: none
    return np.repeat(each, np.diff(minutes.offsets))


def before(values: Float64, minutes: EngineMinutes) -> Float64:
    """Per minute [n], the entry of `values` [s] for its engine; NaN where it is empty: not known of any."""
    if not values.size:
        return np.full(minutes.minute_us.size, math.nan)
    return np.repeat(values, np.diff(minutes.offsets))


@kernel
def _bounds(offsets: Int64, workload: Int64, minute_us: Int64, first: Int64, last: Int64) -> None:
    for s in range(offsets.size - 1):
        w = workload[s]
        if w >= 0 and offsets[s] < offsets[s + 1]:
            first[w] = min(first[w], minute_us[offsets[s]])
            last[w] = max(last[w], minute_us[offsets[s + 1] - 1])


@kernel
def _place(
    offsets: Int64, workload: Int64, minute_us: Int64, first: Int64, base: Int64, row_of: Int64, there: Int64
) -> None:
    for s in range(offsets.size - 1):
        w = workload[s]
        for i in range(offsets[s], offsets[s + 1]):
            if w < 0:
                row_of[i] = -1
                continue
            row_of[i] = base[w] + (minute_us[i] - first[w]) // MINUTE_US
            there[row_of[i]] = 1


@kernel
def _settle(row_of: Int64, minute_us: Int64, ends: Int64, found_us: Int64) -> None:
    for i in range(row_of.size):
        if row_of[i] >= 0:
            row_of[i] = ends[row_of[i]] - 1
            found_us[row_of[i]] = minute_us[i]


@kernel
def _add(row_of: Int64, values: NDArray[Number], total: NDArray[Number]) -> None:
    for i in range(row_of.size):
        if row_of[i] >= 0:
            total[row_of[i]] += values[i]


@kernel
def _raise(row_of: Int64, values: Float64, top: Float64) -> None:
    for i in range(row_of.size):
        if row_of[i] >= 0 and values[i] > top[row_of[i]]:
            top[row_of[i]] = values[i]


@kernel
def _give(row_of: Int64, values: NDArray[Number], found: NDArray[Number]) -> None:
    for i in range(row_of.size):
        if row_of[i] >= 0:
            found[i] = values[row_of[i]]


@kernel
def _busiest(offsets: Int64, load: Float64, loads: Float64, found: Float64) -> None:
    counts = np.zeros(loads.size, np.int64)
    for s in range(offsets.size - 1):
        counts[:] = 0
        top = -1
        above = 0  # minutes in bins above the top
        lowest = 0.0  # of the bin above the top
        for i in range(offsets[s], offsets[s + 1]):
            if load[i] >= lowest and load[i] > 0.0:
                bin_ = min(max(math.floor(position_of(load[i]) + 0.5), 0), loads.size - 1)
                counts[bin_] += 1
                if bin_ > top:
                    above += 1
                if above >= _SEEN_MINUTES:
                    top, above = loads.size, 0
                    while above < _SEEN_MINUTES:
                        top -= 1
                        above += counts[top]
                    above -= counts[top]
                    lowest = loads[top] * 2.0**0.125
            found[i] = loads[top] if top >= 0 else math.nan
