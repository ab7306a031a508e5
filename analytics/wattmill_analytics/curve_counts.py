"""Minutes counted for curves: by load, by the mix of input and output, and by cost and speed. Parts add up.

What is kept of a minute is three numbers, each put into a bin: its load, its uncached input tokens for each output
token, and its joules per output token (in a second table its output tokens a second and request); and sums of squares
and products of load, uncached input and energy per output token, and batch, by load and cost. `curve_learning` solves
them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.curves import LOAD_BINS, Float64, Int64, position_of
from wattmill_analytics.kernel import int64s, kernel

MINUTE_US = 60_000_000
LEAST_LOAD = 0.5
SETTLING_MINUTES = 5
MOST_UNTRUSTED_US = MINUTE_US // 10

VALUE_BINS = 512
VALUE_WIDTH = 0.025  # of ln: values are told apart by 2.5 %
LN_COST = 0.0  # of the lowest bin: 1 mJ a token; the highest is 362 J
LN_SPEED = math.log(0.01)  # tokens a second of one request; the highest is 3600
MIX_BINS = 128  # an eighth of an octave each; the lowest takes everything below
LEAST_MIX = 1 / 64  # uncached input tokens for each output token; the highest is 940
COST_GROUPS = 128  # of 4 value bins: 10 % of cost
PRODUCTS = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3))  # of l, x, y, r
MOMENTS = 5 + len(PRODUCTS)  # see `_moments`

ROW_CELLS, ROW_GROUPS = LOAD_BINS * MIX_BINS * VALUE_BINS, LOAD_BINS * COST_GROUPS
Counted = tuple[Int64, Int64]
Summed = tuple[Int64, Float64]
Bool = NDArray[np.bool_]
N = TypeVar("N", np.int64, np.float64)


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """How many minutes fell into which bins, for `rows` curves.

    `cost` and `speed`: (cells int64 [m], sorted, each once; minutes int64 [m]). A cell is
    ((row * LOAD_BINS + load) * MIX_BINS + mix) * VALUE_BINS + value.
    `moments`: (groups int64 [g], sorted, each once; sums float64 [g, MOMENTS]). A group is
    (row * LOAD_BINS + load) * COST_GROUPS + cost bin // 4.
    """

    rows: int
    cost: Counted
    speed: Counted
    moments: Summed

    @property
    def minutes(self) -> Int64:
        """Minutes learnt from [rows]."""
        return np.bincount(self.cost[0] // ROW_CELLS, self.cost[1], self.rows).astype(np.int64)


def no_counts(rows: int) -> Counts:
    """Before the first minute."""
    none = np.zeros(0, np.int64)
    return Counts(rows, (none, none), (none, none), (none, np.zeros((0, MOMENTS))))


def learn(
    *,
    rows: int,
    curve: Int64,
    offsets: Int64,
    minute_us: Int64,
    serving_mj: Int64,
    estimated_mj: Int64,
    uncached_input_tokens: Int64,
    output_tokens: Int64,
    requests_running: Float64,
    load: Float64,
    untrusted_us: Int64,
    excluded: Bool,
) -> Counts:
    """Counts of the minutes that are fit to learn from.

    Fit is a minute of an engine with a curve that served (energy and output above 0), ran half a request or more, was
    measured (nothing estimated, less than a tenth of it untrusted) and is not `excluded`. The first 5 minutes of an
    engine's data, and after a minute that is missing, are left out: warm-up is not the price of a token.
    Minutes are learnt from at their `load` (`steady_load`); `requests_running`, the batch as read, is kept beside it.
    Shapes: curve int64 [s], row below `rows` or -1; offsets int64 [s+1]; the columns [n], each engine's in order.
    """
    cost, pace = np.empty(minute_us.size, np.int64), np.empty(minute_us.size, np.int64)
    _cells(
        int64s(curve),
        int64s(offsets),
        int64s(minute_us),
        int64s(serving_mj),
        int64s(estimated_mj),
        int64s(uncached_input_tokens),
        int64s(output_tokens),
        np.require(requests_running, np.float64, ["C", "W"]),
        np.require(load, np.float64, ["C", "W"]),
        int64s(untrusted_us),
        np.require(excluded, np.bool_, ["C", "W"]),
        cost,
        pace,
    )
    fit = cost >= 0
    moments = _moments(
        *(cost[fit], serving_mj[fit], uncached_input_tokens[fit], output_tokens[fit]),
        *(requests_running[fit], load[fit]),
    )
    return Counts(rows, _counted(cost[fit]), _counted(pace[fit]), moments)


def add(parts: Sequence[Counts], rows: int) -> Counts:
    """The whole of parts that number their curves alike."""
    if not parts:
        return no_counts(rows)
    return Counts(
        rows,
        _sum([part.cost for part in parts]),
        _sum([part.speed for part in parts]),
        _sum([part.moments for part in parts]),
    )


def moved(counts: Counts, by: int, rows: int) -> Counts:
    """The counts as those of curves numbered from `by` on, of `rows`."""
    (cost, n), (pace, pace_n), (groups, sums) = counts.cost, counts.speed, counts.moments
    cells = by * ROW_CELLS
    return Counts(rows, (cost + cells, n), (pace + cells, pace_n), (groups + by * ROW_GROUPS, sums))


def of_row(counts: Counts, row: int) -> Counts:
    """The counts of one curve, as number 0 of 1."""

    def part(summed: tuple[Int64, NDArray[N]], width: int) -> tuple[Int64, NDArray[N]]:
        low, high = np.searchsorted(summed[0], (row * width, (row + 1) * width))
        return summed[0][low:high] - row * width, summed[1][low:high]

    return Counts(1, part(counts.cost, ROW_CELLS), part(counts.speed, ROW_CELLS), part(counts.moments, ROW_GROUPS))


def _counted(cells: Int64) -> Counted:
    found, minutes = np.unique(cells, return_counts=True)
    return found, minutes.astype(np.int64)


def _moments(
    cost: Int64,
    serving_mj: Int64,
    uncached_input_tokens: Int64,
    output_tokens: Int64,
    requests_running: Float64,
    load: Float64,
) -> Summed:
    """Sums by load and cost over minutes fit to learn from; `cost`: their cells.

    l: load from the middle of its bin, in bins; x: uncached input tokens, y: millijoules, both per output token;
    r: the batch as read over the load. First their number, then sums, then those of products.
    """
    position = 4 * np.log2(load) + 4
    each = (
        position - np.floor(position + 0.5),
        uncached_input_tokens / output_tokens,
        serving_mj / output_tokens,
        requests_running / load,
    )
    group = cost // (MIX_BINS * VALUE_BINS) * COST_GROUPS + cost % VALUE_BINS // (VALUE_BINS // COST_GROUPS)
    groups, place = np.unique(group, return_inverse=True)
    columns = (np.ones(cost.size), *each, *(each[i] * each[j] for i, j in PRODUCTS))
    sums = np.empty((groups.size, MOMENTS))
    for i, column in enumerate(columns):
        sums[:, i] = np.bincount(place, column, groups.size)
    return groups, sums


def _sum(parts: Sequence[tuple[Int64, NDArray[N]]]) -> tuple[Int64, NDArray[N]]:
    places, place = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    values: NDArray[N] = np.concatenate([part[1] for part in parts])
    total: NDArray[N] = np.zeros((places.size, *values.shape[1:]), values.dtype)
    np.add.at(total, place, values)
    return places, total


@kernel
def _bin(value: float, least_ln: float) -> int:
    return math.floor((math.log(value) - least_ln) / VALUE_WIDTH)


@kernel
def _cells(
    curve: Int64,
    offsets: Int64,
    minute_us: Int64,
    serving_mj: Int64,
    estimated_mj: Int64,
    uncached_input_tokens: Int64,
    output_tokens: Int64,
    requests_running: Float64,
    load_seen: Float64,
    untrusted_us: Int64,
    excluded: Bool,
    cost: Int64,
    pace: Int64,
) -> None:
    """The cells of each minute, -1 where nothing is learnt from it."""
    for s in range(offsets.size - 1):
        settled = 0
        for i in range(offsets[s], offsets[s + 1]):
            if i > offsets[s] and minute_us[i] - minute_us[i - 1] > MINUTE_US:
                settled = 0
            settled += 1
            cost[i] = pace[i] = -1
            load = load_seen[i]
            if (
                curve[s] < 0
                or settled <= SETTLING_MINUTES
                or excluded[i]
                or serving_mj[i] <= 0
                or output_tokens[i] <= 0
                or estimated_mj[i] > 0
                or untrusted_us[i] > MOST_UNTRUSTED_US
                or not LEAST_LOAD <= load < 1e9
                or not 0.0 <= requests_running[i] < 1e9
            ):
                continue
            load_bin = math.floor(position_of(load) + 0.5)
            request_s = load * 60.0
            mix = uncached_input_tokens[i] / output_tokens[i] / LEAST_MIX
            mix_bin = min(1 + int(8.0 * math.log2(mix)), MIX_BINS - 1) if mix >= 1.0 else 0
            cost_bin = _bin(serving_mj[i] / output_tokens[i], LN_COST)
            pace_bin = _bin(output_tokens[i] / request_s, LN_SPEED)
            if load_bin >= LOAD_BINS or not 0 <= cost_bin < VALUE_BINS or not 0 <= pace_bin < VALUE_BINS:
                continue
            histogram = ((curve[s] * LOAD_BINS + load_bin) * MIX_BINS + mix_bin) * VALUE_BINS
            cost[i] = histogram + cost_bin
            pace[i] = histogram + pace_bin
