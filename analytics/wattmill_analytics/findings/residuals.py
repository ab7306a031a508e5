"""Residuals: how far each minute of an engine lies above what its curve says at that load, and how much that tells.

A batch of few is read a few times a minute only, so its load is uncertain, and single requests decide what it costs:
what a minute tells is the number of requests behind it. Where the curve itself was hardly learnt, it tells less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.curves import LOAD_BINS
from wattmill_analytics.findings.minutes import MINUTE_US, Bool, EngineMinutes, Float64, Int64
from wattmill_analytics.kernel import int64s, kernel

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]
Bools = NDArray[np.bool_]

ALL_LOOKS = 6.0  # a minute; an engine that is asked less often has told less of its load
COLD_MINUTES = 5  # after a hole: weights load, caches are empty, graphs are captured
HOLE_MINUTES = 2  # that many minutes missing are a restart; one may be a lost reading
UNTRUSTED_US = 15_000_000  # a quarter of the minute: its energy is not that of its tokens
HALF_TRUST_MINUTES = 10.0  # a load that the curve has learnt from so few minutes is trusted half
# Of minutes at one load up to so many are read as the next lower one, or as the next higher: few looks say either, and
# so does a minute that counts the tokens of requests that ran in the one before. A bin of the curve that holds no more
# than that was never really run, and looks too cheap.
STRAY_RATIO = 0.5
STRAY_UPWARDS_RATIO = 0.5
# No board is quite its curve: what an engine did in the hours before an incident is its own measure, within limits.
LEVEL_US, LEAST_LEVEL_MINUTES, MOST_LEVEL = 12 * 60 * MINUTE_US, 60, 0.05


def residuals(minutes: EngineMinutes, hidden: Bool) -> tuple[Float64, Float64]:
    """(ln(serving / expected), requests that stand behind it), both float64 [n]; 0 requests: the minute is not judged.

    Not judged are minutes that are hidden, have no curve, no output or no trusted energy, and the first five after a
    hole of two minutes or more or a start. Requests are those in the batch, less where the curve is not to be trusted.
    """
    residual, requests = np.zeros(minutes.minute_us.size), np.zeros(minutes.minute_us.size)
    if minutes.minute_us.size:
        _residuals(
            int64s(minutes.offsets),
            int64s(minutes.minute_us),
            int(minutes.minute_us.min()),
            np.ascontiguousarray(hidden),
            int64s(minutes.serving_mj),
            int64s(minutes.output_tokens),
            int64s(minutes.untrusted_us),
            np.ascontiguousarray(minutes.requests_running),
            np.ascontiguousarray(minutes.expected_mj),
            int64s(minutes.curve),
            _trust(minutes.curves.minutes),
            minutes.looks_a_minute / ALL_LOOKS if minutes.looks_a_minute.size else np.ones(minutes.offsets.size - 1),
            residual,
            requests,
        )
    return residual, requests


def trusted(minutes: EngineMinutes) -> Bool:
    """Minutes whose energy is that of their tokens."""
    return np.asarray(minutes.untrusted_us <= UNTRUSTED_US)


def level_before(
    minutes: EngineMinutes,
    engines: Iterable[int],
    since_us: int,
    residual: Float64,
    requests: Float64,
    under_way: float,
) -> float:
    """Mean residual of engines in the 12 hours before, 5 % at most.

    If less than an hour of it was judged: `under_way`, what was usual before an incident that is older than the data,
    or 0 where that is NaN.
    """
    mass = total = 0.0
    count = 0
    for engine in engines:
        rows = rows_between(minutes, engine, since_us - LEVEL_US, since_us)
        judged = rows[requests[rows] > 0]
        count += judged.size
        mass += float(requests[judged].sum())
        total += float((residual[judged] * requests[judged]).sum())
    if count < LEAST_LEVEL_MINUTES:
        return 0.0 if math.isnan(under_way) else under_way
    return min(MOST_LEVEL, max(-MOST_LEVEL, total / mass))


def rows_between(minutes: EngineMinutes, engine: int, since_us: int, until_us: int) -> Int64:
    """Rows of an engine in [since, until)."""
    low, high = minutes.offsets[engine], minutes.offsets[engine + 1]
    first, last = low + np.searchsorted(minutes.minute_us[low:high], [since_us, until_us])
    return np.arange(first, last)


def _trust(learnt: Int64) -> Float64:
    """How far each bin of each curve can be trusted, 0 to 1 [k, LOAD_BINS]."""
    here = learnt.astype(np.float64)
    above = np.pad(here, ((0, 0), (0, 1)))[:, 1:]
    below = np.pad(here, ((0, 0), (1, 0)))[:, :-1]
    near = below + here + above
    strays = np.maximum(STRAY_RATIO * above, STRAY_UPWARDS_RATIO * below)
    real = np.maximum(0.0, here - strays) / np.maximum(here, 1.0)
    return near / (near + HALF_TRUST_MINUTES) * real


@kernel
def _residuals(
    offsets: Int64s,
    minute_us: Int64s,
    earliest_us: int,
    hidden: Bools,
    serving_mj: Int64s,
    output_tokens: Int64s,
    untrusted_us: Int64s,
    requests_running: Float64s,
    expected_mj: Float64s,
    curve: Int64s,
    trust: Float64s,
    looked: Float64s,
    residual: Float64s,
    requests: Float64s,
) -> None:
    for s in range(offsets.size - 1):
        warm_us = before_us = earliest_us
        for i in range(offsets[s], offsets[s + 1]):
            if minute_us[i] - before_us > HOLE_MINUTES * MINUTE_US:
                warm_us = minute_us[i] + COLD_MINUTES * MINUTE_US
            before_us = minute_us[i]
            if hidden[i] or minute_us[i] < warm_us or untrusted_us[i] > UNTRUSTED_US:
                continue
            if not (serving_mj[i] > 0 and output_tokens[i] > 0 and requests_running[i] > 0 and expected_mj[i] > 0):
                continue
            residual[i] = math.log(serving_mj[i] / expected_mj[i])
            requests[i] = requests_running[i] * min(1.0, looked[s])
            if 0 <= curve[s] < trust.shape[0]:
                load_bin = round(4 * math.log2(requests_running[i])) + 4
                requests[i] *= trust[curve[s], max(0, min(LOAD_BINS - 1, load_bin))]
