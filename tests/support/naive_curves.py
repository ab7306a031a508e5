"""The slow obvious twin of the kernels of `curves` and `curve_learning`: one minute at a time, lists and dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import exp, floor, inf, isnan, log, log2, nan

import numpy as np

LOAD_BINS, MIX_BINS, VALUE_BINS, VALUE_WIDTH = 52, 128, 512, 0.025
MINUTE_US = 60_000_000

Cell = tuple[int, int, int, int]
"""(row, load bin, mix bin, value bin)"""


def value_at(values: Sequence[float], load: float) -> float:
    """The value of a curve at a load: log against log between two known bins, a lone bin for its own width."""
    if isnan(load) or load <= 0:
        return nan
    known = {i: log(v) for i, v in enumerate(values) if not isnan(v)}
    position = 4 * log2(load) + 4
    left, right = floor(position), floor(position) + 1
    if left in known and right in known:
        return exp(known[left] * (right - position) + known[right] * (position - left))
    nearest = left if position - left <= 0.5 else right
    if position - left == 0.5:
        nearest = left if left in known else right
    return exp(known[nearest]) if nearest in known else nan


def judge(
    decode: Sequence[float], speed: Sequence[float], prefill: float, uncached: int, output: int, load: float
) -> tuple[float, float]:
    """(expected_mj, expected_output_tokens) of one minute."""
    cost = output * value_at(decode, load) + max(uncached, 0) * prefill if output > 0 else nan
    return cost, 60 * load * value_at(speed, load)


def cells(
    row: int,
    minute_us: Sequence[int],
    serving_mj: Sequence[int],
    estimated_mj: Sequence[int],
    uncached: Sequence[int],
    output: Sequence[int],
    load: Sequence[float],
    untrusted_us: Sequence[int],
    excluded: Sequence[bool],
) -> list[tuple[int, tuple[Cell, Cell]]]:
    """(which, (cost cell, speed cell)) of each minute of one engine that is fit to learn from."""
    found: list[tuple[int, tuple[Cell, Cell]]] = []
    present = set(minute_us)
    for i, time_us in enumerate(minute_us):
        settled = all(time_us - k * MINUTE_US in present for k in range(1, 6))
        measured = estimated_mj[i] == 0 and untrusted_us[i] <= 6_000_000
        served = serving_mj[i] > 0 and output[i] > 0 and 0.5 <= load[i] < inf
        if row < 0 or excluded[i] or not (settled and measured and served):
            continue
        load_bin = floor(4 * log2(load[i]) + 4.5)
        mix = uncached[i] / output[i]
        mix_bin = 0 if mix < 1 / 64 else min(1 + floor(8 * log2(mix * 64)), MIX_BINS - 1)
        cost_bin = floor(log(serving_mj[i] / output[i]) / VALUE_WIDTH)
        speed_bin = floor(log(output[i] / (60 * load[i]) / 0.01) / VALUE_WIDTH)
        if load_bin < LOAD_BINS and 0 <= cost_bin < VALUE_BINS and 0 <= speed_bin < VALUE_BINS:
            found.append((i, ((row, load_bin, mix_bin, cost_bin), (row, load_bin, mix_bin, speed_bin))))
    return found


def moments(serving_mj: int, uncached: int, output: int, running: float, load: float) -> list[float]:
    """1, l, x, y, r, and the products of every two of l, x, y and r, of one minute."""
    position = 4 * log2(load) + 4
    each = [position - floor(position + 0.5), uncached / output, serving_mj / output, running / load]
    return [1, *each, *(one * other for i, one in enumerate(each) for other in each[i:])]


def prefill_price(
    minutes: Sequence[tuple[int, float, float, float, float]],
    cost_rise: Mapping[int, float],
    mix_rise: Mapping[int, float],
) -> float:
    """Price at which mix explains cost where it does not come from a wrong load; minutes: (load bin, l, x, y, r).

    What is left of x, y and r beside a line over l, load by load; then instrumental variables, x being the instrument.
    """
    above = below = 0.0
    for load in {load for load, *_ in minutes}:
        mine = np.array([rest for its_load, *rest in minutes if its_load == load])
        line = np.stack([np.ones(len(mine)), mine[:, 0]], axis=1)
        x, y, r = (mine[:, i] - line @ np.linalg.lstsq(line, mine[:, i], rcond=None)[0] for i in (1, 2, 3))
        typical = float(np.median(mine[:, 2]))
        for k in range(len(mine)):
            above += x[k] * (y[k] - cost_rise[load] * r[k]) / typical**2
            below += x[k] * (x[k] - mix_rise[load] * r[k]) / typical**2
    return above / below


def decode(minutes: Mapping[Cell, int], price: Sequence[float], row: int, load: int) -> float:
    """Median cost of the minutes at a load less the price of their input; between two cells a straight line."""
    costs = []
    for (its_row, its_load, mix, value), n in minutes.items():
        if (its_row, its_load) == (row, load):
            uncached = 2 ** ((mix - 0.5) / 8) / 64 if mix else 0.0
            costs.append((exp((value + 0.5) * VALUE_WIDTH) - price[row] * uncached, n))
    half, below = sum(n for _, n in costs) / 2, 0.0
    drawn: list[tuple[float, float]] = []
    for cost, n in sorted(costs):
        drawn.append((below + n / 2, cost))
        below += n
    if half <= drawn[0][0]:
        return drawn[0][1]
    for (left, low), (right, high) in pairwise(drawn):
        if left < half <= right:
            return low + (high - low) * (half - left) / (right - left)
    return drawn[-1][1]


def quartile(histogram: Mapping[int, float], quarter: int) -> float:
    """Where, in value bins, so many quarters of a histogram lie below; each bin's minutes lie evenly over it."""
    left = sum(histogram.values()) * quarter / 4
    for value in sorted(histogram):
        if left <= histogram[value] and histogram[value] > 0:
            return value + left / histogram[value]
        left -= histogram[value]
    return nan


def smoothed(logs: Sequence[float], minutes: Sequence[int]) -> list[float]:
    """The line nearest to the points in least squares, where a bend costs too; NaN in wide holes and outside."""
    known = [i for i in range(LOAD_BINS) if not isnan(logs[i]) and minutes[i] >= 5]
    if not known:
        return [nan] * LOAD_BINS
    equations, wanted = [], []
    for i in known:
        equations.append([minutes[i] ** 0.5 if j == i else 0.0 for j in range(LOAD_BINS)])
        wanted.append(minutes[i] ** 0.5 * logs[i])
    for i in range(1, LOAD_BINS - 1):
        bend = {i - 1: 1.0, i: -2.0, i + 1: 1.0}
        equations.append([5.0**0.5 * bend.get(j, 0.0) for j in range(LOAD_BINS)])
        wanted.append(0.0)
    for i in range(LOAD_BINS - 1):
        step = {i: -1.0, i + 1: 1.0}
        equations.append([1e-3 * step.get(j, 0.0) for j in range(LOAD_BINS)])
        wanted.append(0.0)
    line = np.linalg.lstsq(np.array(equations), np.array(wanted), rcond=None)[0]

    def bridged(i: int) -> bool:
        before, after = [j for j in known if j <= i], [j for j in known if j >= i]
        return bool(before and after and after[0] - before[-1] <= 4)

    return [float(line[i]) if bridged(i) else nan for i in range(LOAD_BINS)]
