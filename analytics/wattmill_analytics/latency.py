"""Latency histograms: how many observations met a target, and what the typical and the slow ones took.

A histogram is counts per bucket, never cumulative: bucket i holds what took longer than bound i - 1 and not longer than
bound i, the first bucket begins at 0, and one more bucket after the last bound holds all that took longer.

Where a target or a quantile lies inside a bucket, observations are taken to lie evenly in it: that is an estimate,
whose error is at most the bucket; `Shares.lowest` and `Shares.highest` are what is certain. What took longer than the
last bound is known to be longer, and nothing else.
Does not: count (`increments`), know workloads, or look at more than one histogram's meaning at a time, but for `merge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the observations of n histograms, float64 [n], NaN where there are none.

    estimate: at or under the target; lowest, highest: what it can be at least and at most.
    """

    estimate: Float64s
    lowest: Float64s
    highest: Float64s


def cut(le_us: Sequence[int], target_us: int) -> tuple[int, int, int]:
    """Where a target cuts a histogram's buckets: (whole, numerator, denominator).

    The first `whole` buckets lie at or under the target, and numerator / denominator of the next one does: exact
    integers, so that tokens can be counted by them. Beyond the last bound nothing is known to meet the target.
    Errors: ValueError when there is no bound or the target is below 0.
    Example: bounds 10, 20, 40 ms, target 25 ms -> 2 whole buckets and 5/20 of the third.
    """
    if not le_us or target_us < 0:
        raise ValueError(f"a target of {target_us} us can't be met under {len(le_us)} bounds")
    whole = sum(bound <= target_us for bound in le_us)
    if whole == len(le_us):
        return whole, 0, 1
    below = le_us[whole - 1] if whole else 0
    return whole, target_us - below, max(le_us[whole] - below, 1)


def shares(*, le_us: Int64s, counts: Int64s, target_us: int) -> Shares:
    """The share of observations at or under a target.

    Shapes and units: le_us int64 [b], rising, microseconds; counts int64 [n, b + 1], not below 0.
    Returns: `Shares`, [n]. On a bound all three are the same; inside a bucket the estimate is linear.
    Errors: ValueError when shapes differ, there is no bound, or the target is below 0.
    Accuracy: within 1e-15 of the exact ratio, relatively, for sums below 2^53.
    """
    _check(le_us, counts)
    whole, numerator, denominator = cut(le_us.tolist(), target_us)
    total = counts.sum(axis=1)
    under, next_one = counts[:, :whole].sum(axis=1), counts[:, whole]
    is_inside = numerator > 0 or target_us > le_us[-1]
    return Shares(
        estimate=_of(under + next_one * (numerator / denominator), total),
        lowest=_of(under, total),
        highest=_of(under + next_one * is_inside, total),
    )


def quantiles(*, le_us: Int64s, counts: Int64s | Float64s, ratio: float) -> Float64s:
    """The duration that this ratio of the observations took at most, in microseconds.

    Shapes and units: as in `shares`; 0 < ratio <= 1. Counts may be parts of observations (`merge`).
    Returns: float64 [n]; NaN where nothing was observed. Among what took longer than the last bound it is that bound,
    the least that it can be.
    Errors: ValueError when shapes differ, there is no bound, or the ratio is not in its range.
    Accuracy: the bucket is the right one; inside it the value is linear.
    Example: bounds 10, 20 ms, counts 1, 2, 1, ratio 0.5 -> 15 ms.
    """
    _check(le_us, counts)
    if not 0 < ratio <= 1:
        raise ValueError(f"a quantile lies above 0 and at most at 1, not at {ratio}")
    sums = np.cumsum(counts, axis=1, dtype=np.float64)
    rank = ratio * sums[:, -1]
    bucket = np.argmax(sums >= rank[:, np.newaxis], axis=1)
    row = np.arange(counts.shape[0])
    inside = counts[row, bucket].astype(np.float64)
    before = np.where(bucket > 0, sums[row, np.maximum(bucket - 1, 0)], 0.0)
    edges = np.concatenate([[0], le_us, le_us[-1:]]).astype(np.float64)
    part = np.divide(rank - before, inside, out=np.zeros_like(rank), where=inside > 0)
    found = edges[bucket] + (edges[bucket + 1] - edges[bucket]) * np.clip(part, 0.0, 1.0)
    return np.where(sums[:, -1] > 0, found, np.nan)


def merge(histograms: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Int64s, Float64s]:
    """One histogram of several with bounds of their own: all bounds, and what lies between them.

    Shapes and units: pairs of le_us [b] and counts [b + 1].
    Returns: (le_us int64 [c], counts float64 [c + 1]). A bucket that a bound of another histogram divides is divided
    evenly by time; what took longer than a histogram's last bound stays longer than all.
    Conserves: the counts' sum, within rounding.
    Errors: ValueError when there is none, or one has no bound.
    """
    if not histograms or any(not le_us or len(counts) != len(le_us) + 1 for le_us, counts in histograms):
        raise ValueError("every histogram must have bounds, and one bucket more than bounds")
    bounds = np.unique(np.concatenate([np.asarray(le_us, np.int64) for le_us, _ in histograms]))
    under = np.zeros(bounds.size, np.float64)
    total = 0.0
    for le_us, counts in histograms:
        sums = np.cumsum(np.asarray(counts, np.float64))
        if le_us[0] > 0:
            under += np.interp(bounds, [0, *le_us], [0.0, *sums[:-1]])
        else:
            under += np.interp(bounds, le_us, sums[:-1])
        total += float(sums[-1])
    return bounds, np.diff(np.concatenate([[0.0], under, [total]]))


def _check(le_us: Int64s, counts: Int64s | Float64s) -> None:
    if le_us.ndim != 1 or not le_us.size or counts.ndim != 2 or counts.shape[1] != le_us.size + 1:
        raise ValueError(f"{le_us.shape} bounds need one bucket more, not counts of shape {counts.shape}")


def _of(some: Float64s | Int64s, total: Int64s) -> Float64s:
    return np.asarray(np.divide(some, total, out=np.full(total.shape, np.nan), where=total > 0), np.float64)
