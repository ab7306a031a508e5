"""Curves solved from counted minutes: medians, the price of prefill, a smooth line over loads.

Every learnt value is a median, so that minutes gone wrong hardly move it. The price of prefill is the slope of energy
over uncached input, both per output token, between minutes of equal load that cost about the median (`_prefill_price`).
Where output per request varies for other reasons (long contexts), that price comes out somewhat high. A load counts
from 5 minutes on; the curve is smoothed where minutes are few.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from wattmill_analytics.curve_counts import (
    COST_GROUPS,
    LEAST_MIX,
    LN_COST,
    LN_SPEED,
    MIX_BINS,
    MOMENTS,
    PRODUCTS,
    VALUE_BINS,
    VALUE_WIDTH,
    Bool,
    Counted,
    Counts,
    Summed,
    add,
    learn,
    no_counts,
)
from wattmill_analytics.curves import LOAD_BINS, Curves, Float64, Int64
from wattmill_analytics.kernel import int64s, kernel

__all__ = ["Counts", "Learnt", "add", "describe", "learn", "no_counts", "solve"]

LEAST_MINUTES = 5
_MIXES = np.where(np.arange(MIX_BINS) == 0, 0.0, LEAST_MIX * np.exp2((np.arange(MIX_BINS) - 0.5) / 8))
_MEDIAN_LIKE = 3.0  # standard deviations: minutes farther from the median cost don't tell the price of prefill
_NARROWEST, _WIDEST = 0.15, 0.5  # of ln: what counts as near the median at least, and at most
_LARGEST_PREFILL_SHARE = 0.8
_STIFFNESS = 5.0  # a load of so many minutes is believed about as much as the line through its neighbours
_WIDEST_HOLE = 4  # bins: one octave between two learnt loads
_BIN_LN = math.log(2) / 4


@dataclasses.dataclass(frozen=True, slots=True)
class Learnt:
    """Curves and how sure they are.

    `decode_quartiles` [k, LOAD_BINS, 2]: millijoules per output token that a quarter, and three quarters, of the
    minutes stayed below; NaN as in the curves, and where a hole was bridged. `prefill_reason` [k]: why the price of
    prefill is 0, '' where it is known.
    """

    curves: Curves
    decode_quartiles: Float64
    prefill_reason: tuple[str, ...]


def solve(counts: Counts) -> Curves:
    """The curves of some counts."""
    return describe(counts).curves


def describe(counts: Counts) -> Learnt:
    """The curves of some counts, their spread, and why a price of prefill is missing."""
    k, width = counts.rows, MIX_BINS * VALUE_BINS
    by_load = (k, LOAD_BINS)
    unmoved = np.zeros(k * LOAD_BINS * MIX_BINS)
    cost, minutes = _quartiles(counts.cost, width, unmoved, k * LOAD_BINS, LN_COST)
    pace, _ = _quartiles(counts.speed, width, unmoved, k * LOAD_BINS, LN_SPEED)
    median_cost = np.exp(cost[:, 1]).reshape(by_load)
    moments = _near_the_median(counts.moments, cost).reshape(k, LOAD_BINS, MOMENTS)
    learnt = minutes.reshape(by_load)
    priced = [_prefill_price(moments[i], median_cost[i], *each) for i, each in enumerate(_rises(moments, learnt))]
    price = np.array([mj for mj, _ in priced])

    decode = _decode(counts.cost, price).reshape(by_load)
    decode = np.maximum(decode, (1 - _LARGEST_PREFILL_SHARE) * median_cost)
    # For the spread, a cell's minutes are shifted by what prefill added to a token there.
    prefill_mj = price[:, np.newaxis, np.newaxis] * _MIXES
    shift = np.nan_to_num(np.log(decode[:, :, np.newaxis] / (decode[:, :, np.newaxis] + prefill_mj)))
    decode_logs, _ = _quartiles(counts.cost, width, shift.ravel(), k * LOAD_BINS, LN_COST)

    seen = (learnt >= LEAST_MINUTES)[:, :, np.newaxis]
    quartiles = np.where(seen, decode_logs.reshape(k, LOAD_BINS, 3), np.nan)
    smooth = _smoothed(np.log(decode), learnt)
    curves = Curves(
        decode_mj_per_token=np.exp(smooth),
        tokens_per_request_s=np.exp(_smoothed(pace[:, 1].reshape(by_load), learnt)),
        prefill_mj_per_token=price,
        minutes=learnt,
    )
    around = np.exp(quartiles[:, :, ::2] + (smooth - quartiles[:, :, 1])[:, :, np.newaxis])
    return Learnt(curves, around, tuple(reason for _, reason in priced))


def _near_the_median(summed: Summed, quartiles_ln: Float64) -> Float64:
    """Moments by row and load [rows * LOAD_BINS, MOMENTS] of the groups that lie near the median cost at their load."""
    groups, sums = summed
    load = groups // COST_GROUPS
    middle = LN_COST + (groups % COST_GROUPS + 0.5) * (VALUE_BINS // COST_GROUPS) * VALUE_WIDTH
    spread = (quartiles_ln[:, 2] - quartiles_ln[:, 0]) / 1.349
    reach = np.clip(_MEDIAN_LIKE * spread, _NARROWEST, _WIDEST)
    near = np.abs(middle - quartiles_ln[load, 1]) < reach[load]
    total = np.zeros((spread.size, MOMENTS))
    np.add.at(total, load[near], sums[near])
    return total


def _decode(counted: Counted, price: Float64) -> Float64:
    """Millijoules per output token less those of prefill, by row and load [rows * LOAD_BINS], NaN without a minute.

    The median over cells of their cost less the price of their input, drawn straight between the middles of two cells.
    Taking the price of a mean input from the median cost would not do: where input varies widely, as when caches miss
    at a full batch, the two are not of the same minutes.
    """
    cells, minutes = counted
    load, mix = cells // (MIX_BINS * VALUE_BINS), cells // VALUE_BINS % MIX_BINS
    spent = np.exp(LN_COST + (cells % VALUE_BINS + 0.5) * VALUE_WIDTH)
    cost = spent - price[load // LOAD_BINS] * _MIXES[mix]
    order = np.lexsort((cost, load))
    load, cost, n = load[order], cost[order], minutes[order].astype(np.float64)
    decode = np.full(price.size * LOAD_BINS, np.nan)
    found, first = np.unique(load, return_index=True)
    for each, mine in zip(found.tolist(), np.split(np.arange(load.size), first[1:]), strict=False):
        below = np.cumsum(n[mine])
        decode[each] = np.interp(below[-1] / 2, below - n[mine] / 2, cost[mine])
    return decode


def _rises(moments: Float64, minutes: Int64) -> list[tuple[Float64, Float64]]:
    """How mean cost and mean mix change with ln(load) at each load [LOAD_BINS], of each curve; 0 where not known.

    Told from smooth lines through the means, between a load and its neighbours.
    """
    n = np.maximum(moments[:, :, 0], 1)
    known = np.where(moments[:, :, 0] > 0, minutes, 0)
    cost, mix = moments[:, :, 3] / n, moments[:, :, 2] / n
    line = np.exp(_smoothed(np.log(np.where(known > 0, cost, 1.0)), known))
    return list(zip(_rise(line), _rise(_smoothed(mix, known)), strict=True))


def _rise(lines: Float64) -> Float64:
    steps = np.diff(lines, axis=1) / _BIN_LN
    both = np.stack([np.pad(steps, ((0, 0), side), constant_values=np.nan) for side in ((1, 0), (0, 1))])
    there = ~np.isnan(both)
    return np.asarray(np.where(there, both, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1))


def _prefill_price(moments: Float64, typical_cost: Float64, cost_rise: Float64, mix_rise: Float64) -> tuple[float, str]:
    """Millijoules of an uncached input token, common to all loads, or 0 and why it can't be told.

    A minute that takes in more makes fewer tokens with the same batch, so that its load, told from tokens, is too low:
    y = d(load) + a x + d' (r - 1), where r is the batch as read over the load. That is too noisy for a regressor, but
    its noise does not go with x, so that cov(x, r) tells how far the load is off, and a follows from
    cov(x, y) = a var(x) + d' cov(x, r). The rise d' of decoding over ln(load) is that of cost less that of mix at the
    price a. All within bins of load, less what the load inside the bin explains.
    Shapes: moments [LOAD_BINS, MOMENTS]; others [LOAD_BINS]: minutes are weighed relative to the cost at their load.
    """
    n = moments[:, 0]
    used = n >= LEAST_MINUTES
    if not used.any():
        return 0.0, "too few minutes at any load"
    within = _within(moments[used])
    xx, xy, xr = within[:, 1, 1], within[:, 1, 2], within[:, 1, 3]
    scale, y_rise, x_rise = typical_cost[used] ** -2, cost_rise[used], mix_rise[used]
    varied = float((scale * xx).sum())
    if varied <= 1e-9 * float((scale * moments[used, 9]).sum()):
        return 0.0, "input per output token does not vary at equal load"
    free = float((scale * (xx - x_rise * xr)).sum())
    slope = float((scale * (xy - y_rise * xr)).sum()) / free if free > 0 else 0.0
    # What is left of y: its variance is that of 0 l - a x + 1 y - d' r.
    parts = np.stack([0 * xx, slope + 0 * xx, -1 + 0 * xx, y_rise - slope * x_rise], axis=1)
    left = float((scale * np.einsum("bi,bij,bj->b", parts, within, parts)).sum())
    freedom = float((n[used] - 2).sum()) - 1
    error = math.sqrt(max(left, 0.0) / freedom * varied) / free if free > 0 else math.inf
    if slope <= 3 * error:
        return 0.0, "energy does not rise measurably with input at equal load"
    mean_x = moments[used, 2] / n[used]
    most = _LARGEST_PREFILL_SHARE * float(np.min(typical_cost[used] / np.maximum(mean_x, 1e-9)))
    return min(slope, most), ""


def _within(moments: Float64) -> Float64:
    """Sums of products of l, x, y, r [b, 4, 4] about their means and less what l explains; moments [b, MOMENTS].

    The row and column of l are 0.
    """
    n, sums = moments[:, 0], moments[:, 1:5]
    about = np.empty((n.size, 4, 4))
    for column, (i, j) in enumerate(PRODUCTS):
        about[:, i, j] = about[:, j, i] = moments[:, 5 + column] - sums[:, i] * sums[:, j] / n
    ll, by_l = about[:, 0, 0], about[:, 0]
    steep = 1 / np.where(ll > 1e-6 * n, ll, np.inf)
    left = about - by_l[:, :, np.newaxis] * by_l[:, np.newaxis, :] * steep[:, np.newaxis, np.newaxis]
    left[:, 0] = left[:, :, 0] = 0.0
    return left


def _smoothed(logs: Float64, minutes: Int64) -> Float64:
    """Logs over load [k, LOAD_BINS] drawn through their points; small holes bridged, the rest NaN.

    The line minimises minutes x (distance to the point)^2 + stiffness x (bend)^2, so a load with many minutes keeps its
    value and one with a handful is pulled to the line that its neighbours draw (Whittaker, 1922).
    """
    known = ~np.isnan(logs) & (minutes >= LEAST_MINUTES)
    line = np.full(logs.shape, np.nan)
    some = np.flatnonzero(known.any(axis=1))
    if some.size:
        weight = np.where(known[some], minutes[some], 0).astype(np.float64)
        bend, step = np.diff(np.eye(LOAD_BINS), 2, axis=0), np.diff(np.eye(LOAD_BINS), axis=0)
        # The tiny cost of a slope only decides where no minute does: a single point is drawn level.
        matrix = _STIFFNESS * bend.T @ bend + 1e-6 * step.T @ step + weight[:, :, np.newaxis] * np.eye(LOAD_BINS)
        drawn = np.linalg.solve(matrix, (weight * np.where(known[some], logs[some], 0.0))[:, :, np.newaxis])
        line[some] = drawn[:, :, 0]
    return np.where(_bridged(known), line, np.nan)


def _bridged(known: Bool) -> Bool:
    """Known bins and those in holes between them that are no wider than an octave."""
    place = np.arange(known.shape[1])
    before = np.maximum.accumulate(np.where(known, place, -known.shape[1]), axis=1)
    after = np.minimum.accumulate(np.where(known, place, 2 * known.shape[1])[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(after - before <= _WIDEST_HOLE)


def _quartiles(counted: Counted, width: int, shift: Float64, groups: int, least_ln: float) -> tuple[Float64, Int64]:
    """(ln of the three quartiles [groups, 3], minutes [groups]) of groups of `width` cells."""
    found, minutes = np.full((groups, 3), np.nan), np.zeros(groups, np.int64)
    _find_quartiles(int64s(counted[0]), int64s(counted[1]), width, shift / VALUE_WIDTH, found, minutes)
    return least_ln + VALUE_WIDTH * found, minutes


@kernel
def _find_quartiles(
    cells: Int64, counts: Int64, width: int, shift_bins: Float64, found: Float64, minutes: Int64
) -> None:
    """Quartiles of each group, in value bins over which minutes are spread evenly. `shift_bins`: one a histogram."""
    histogram = np.zeros(VALUE_BINS)
    i = 0
    while i < cells.size:
        group = cells[i] // width
        histogram[:] = 0.0
        total = 0
        while i < cells.size and cells[i] // width == group:
            moved = cells[i] % VALUE_BINS + shift_bins[cells[i] // VALUE_BINS]
            moved = min(max(moved, 0.0), VALUE_BINS - 1.0)
            low = int(moved)
            share = moved - low
            histogram[low] += counts[i] * (1.0 - share)
            if share > 0.0:
                histogram[low + 1] += counts[i] * share
            total += counts[i]
            i += 1
        minutes[group] = total
        below, quarter = 0.0, 1
        for value in range(VALUE_BINS):
            while quarter <= 3 and below + histogram[value] >= total * quarter / 4.0 and histogram[value] > 0.0:
                found[group, quarter - 1] = value + (total * quarter / 4.0 - below) / histogram[value]
                quarter += 1
            below += histogram[value]
        while quarter <= 3:  # rounding left the last quartile a hair above the whole
            found[group, quarter - 1] = float(VALUE_BINS)
            quarter += 1
