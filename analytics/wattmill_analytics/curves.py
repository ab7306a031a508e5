"""Curves: what a token costs at a load, learnt from closed minutes of one model on one kind of accelerator.

Load is the number of requests in the batch; a curve has one value a load bin, a quarter of an octave wide. Between bins
it is interpolated, log against log; where nothing was learnt the answer is NaN, never a guess: only the functions that
say `beyond` go on past the highest load that was seen, by published factors. Learning is `curve_learning`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.kernel import int64s, kernel

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

LOAD_BINS = 52
LOADS: Float64 = np.exp2((np.arange(LOAD_BINS) - 4) / 4)  # 0.5 to 3444 requests: the middle of each bin
_NAN = math.nan
_ANY_LOAD = 1e9  # beyond any batch: an infinite load has no bin

# ML.ENERGY leaderboard v3, 45 curves of models from 8B to 405B on H100 and B200, accelerator scope: joules per output
# token at a mean batch of 8, 16, 32, 64 and 128 were at least so many times those of the same model at its best batch.
# Below 8 the curve is continued with its slope from 16 to 8.
_BATCH = np.array([1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0])
_LEAST_FACTOR = np.array([3.77 * 8**0.725, 3.77, 2.28, 1.63, 1.34, 1.06, 1.0])


@dataclasses.dataclass(frozen=True, slots=True)
class Curves:
    """Learnt curves, one row each [k]; NaN outside the loads that were seen often enough.

    `decode_mj_per_token` [k, LOAD_BINS]: serving energy less that of prefill, per output token, all boards of the
    replica; `tokens_per_request_s` [k, LOAD_BINS]: output tokens a second of one running request;
    `prefill_mj_per_token` [k]: energy of one uncached input token, 0 where it can't be told apart;
    `minutes` [k, LOAD_BINS]: engine minutes learnt from.
    """

    decode_mj_per_token: Float64
    tokens_per_request_s: Float64
    prefill_mj_per_token: Float64
    minutes: Int64


def no_curves() -> Curves:
    """Before anything was learnt."""
    none = np.zeros((0, LOAD_BINS))
    return Curves(none, none, np.zeros(0), none.astype(np.int64))


def judge(
    *,
    curves: Curves,
    curve: Int64,
    offsets: Int64,
    uncached_input_tokens: Int64,
    output_tokens: Int64,
    requests_running: Float64,
) -> tuple[Float64, Float64]:
    """What minutes should have cost and made at the load they ran at: (expected_mj, expected_output_tokens).

    Shapes: curve int64 [s], row of `curves` or -1; offsets int64 [s+1]; the columns, and both results, [n].
    expected_mj = output tokens x decode(load) + uncached input tokens x prefill, NaN where the load was not learnt, is
    not known, or not one token came out: nothing can be said of the price of no token.
    expected_output_tokens = load x 60 s x tokens a second of one request, NaN where the load is not learnt or known.
    """
    expected_mj = np.empty(requests_running.size)
    expected_output_tokens = np.empty(requests_running.size)
    _judge(
        _logs(curves.decode_mj_per_token),
        _logs(curves.tokens_per_request_s),
        np.require(curves.prefill_mj_per_token, np.float64, ["C", "W"]),
        int64s(curve),
        int64s(offsets),
        int64s(uncached_input_tokens),
        int64s(output_tokens),
        np.require(requests_running, np.float64, ["C", "W"]),
        expected_mj,
        expected_output_tokens,
    )
    return expected_mj, expected_output_tokens


def decode_mj(curves: Curves, row: Int64 | int, load: Float64 | float) -> Float64:
    """Millijoules per output token of these curves at these loads, NaN where not learnt.

    Shapes: `row` (-1: no curve) and `load` (requests) broadcast against each other; the result has their shape.
    """
    return _looked_up(curves.decode_mj_per_token, row, load)


def speed(curves: Curves, row: Int64 | int, load: Float64 | float) -> Float64:
    """Output tokens a second of one running request; shapes and NaN as in `decode_mj`."""
    return _looked_up(curves.tokens_per_request_s, row, load)


def decode_mj_beyond(curves: Curves, row: Int64 | int, load: Float64 | float) -> Float64:
    """`decode_mj` that goes on past the highest load learnt, see `extended`."""
    return decode_mj(extended(curves), row, load)


def speed_beyond(curves: Curves, row: Int64 | int, load: Float64 | float) -> Float64:
    """`speed` that goes on past the highest load learnt, see `extended`."""
    return speed(extended(curves), row, load)


def extended(curves: Curves) -> Curves:
    """The curves with the loads above the highest one learnt filled in, as little favourable as any published curve.

    Energy per token falls by the least factor ever published between the two loads, not at all past 256 requests, and
    power stays what it was; so tokens a second rise by that factor, and one request's speed falls accordingly.
    `minutes` stays: 0 in a bin says that its value was not learnt.
    """
    decode, pace = curves.decode_mj_per_token.copy(), curves.tokens_per_request_s.copy()
    known = ~np.isnan(decode) & ~np.isnan(pace)
    some = known.any(axis=1)
    last = np.where(some, LOAD_BINS - 1 - np.argmax(known[:, ::-1], axis=1), LOAD_BINS)
    above = np.arange(LOAD_BINS) > last[:, np.newaxis]
    rows, bins = np.nonzero(above)
    from_bin = last[rows]
    cheaper = least_factor(LOADS[bins]) / least_factor(LOADS[from_bin])
    decode[rows, bins] = decode[rows, from_bin] * cheaper
    pace[rows, bins] = pace[rows, from_bin] * LOADS[from_bin] / LOADS[bins] / cheaper
    return dataclasses.replace(curves, decode_mj_per_token=decode, tokens_per_request_s=pace)


def best_point(curves: Curves) -> tuple[Float64, Float64]:
    """(load, millijoules per output token) [k] where decoding was cheapest of all loads learnt; NaN for no curve."""
    decode = curves.decode_mj_per_token
    costs = np.where(np.isnan(decode), np.inf, decode)
    best = np.argmin(costs, axis=1) if decode.shape[0] else np.zeros(0, np.int64)
    cheapest = costs[np.arange(decode.shape[0]), best]
    found = np.isfinite(cheapest)
    return np.where(found, LOADS[best], _NAN), np.where(found, cheapest, _NAN)


def least_factor(batch: Float64) -> Float64:
    """Smallest published ratio of joules per token at this mean batch to the best batch; 1 from 256 on, NaN stays."""
    clipped = np.clip(batch, _BATCH[0], _BATCH[-1])
    return np.asarray(np.exp(np.interp(np.log(clipped), np.log(_BATCH), np.log(_LEAST_FACTOR))))


def _logs(values: Float64) -> Float64:
    return np.ascontiguousarray(np.log(values))


def _looked_up(values: Float64, row: Int64 | int, load: Float64 | float) -> Float64:
    rows, loads = np.broadcast_arrays(np.asarray(row, np.int64), np.asarray(load, np.float64))
    found = np.empty(loads.size)
    _look_up(_logs(values), int64s(rows.ravel()), np.require(loads.ravel(), np.float64, ["C", "W"]), found)
    return found.reshape(loads.shape)


@kernel
def position_of(load: float) -> float:
    """Where a load lies among the bins: whole numbers are their middles. Only for loads > 0."""
    return 4.0 * math.log2(load) + 4.0


@kernel
def at(logs: Float64, row: int, position: float) -> float:
    """exp of `logs` [k, LOAD_BINS], interpolated in a row. A bin without a neighbour holds for its own width only."""
    low = math.floor(position)
    share = position - low
    left = logs[row, low] if 0 <= low < LOAD_BINS else _NAN
    right = logs[row, low + 1] if -1 <= low < LOAD_BINS - 1 else _NAN
    if math.isnan(left):
        return math.exp(right) if share >= 0.5 else _NAN
    if math.isnan(right):
        return math.exp(left) if share <= 0.5 else _NAN
    return math.exp(left + (right - left) * share)


@kernel
def _look_up(logs: Float64, row: Int64, load: Float64, found: Float64) -> None:
    for i in range(load.size):
        if row[i] >= 0 and 0.0 < load[i] < _ANY_LOAD:
            found[i] = at(logs, row[i], position_of(load[i]))
        else:
            found[i] = _NAN


@kernel
def _judge(
    log_decode: Float64,
    log_speed: Float64,
    prefill_mj: Float64,
    curve: Int64,
    offsets: Int64,
    uncached_input_tokens: Int64,
    output_tokens: Int64,
    requests_running: Float64,
    expected_mj: Float64,
    expected_output_tokens: Float64,
) -> None:
    for s in range(offsets.size - 1):
        row = curve[s]
        for i in range(offsets[s], offsets[s + 1]):
            expected_mj[i] = expected_output_tokens[i] = _NAN
            load = requests_running[i]
            if row < 0 or not 0.0 < load < _ANY_LOAD:
                continue
            position = position_of(load)
            expected_output_tokens[i] = load * 60.0 * at(log_speed, row, position)
            if output_tokens[i] > 0:
                expected_mj[i] = (
                    output_tokens[i] * at(log_decode, row, position)
                    + max(uncached_input_tokens[i], 0) * prefill_mj[row]
                )
