"""What if: what the same tokens would have cost at another load, and on fewer replicas.

By the engine's own curve where it was learnt, beyond its highest load by the least factors ever published (see
`curves.extended`), so that a saving named here is a lower bound there. Tokens are what has to be served: a load is
turned into tokens a second and back by the curve's speed.
"""

from __future__ import annotations

import math

import numpy as np

from wattmill_analytics.curves import LOAD_BINS, LOADS, Curves, Float64, Int64, decode_mj, least_factor
from wattmill_analytics.findings.minutes import EngineMinutes
from wattmill_analytics.kernel import int64s, kernel

# Uncached input tokens per output token beyond which prefill may be a large part of the energy. At small batches one
# output token takes the energy of 50 input tokens or more, so that 5 of them are at most a tenth.
PREFILL_HEAVY = 5.0


def saved_share(minutes: EngineMinutes, rows: Int64, load: Float64, whole: Curves) -> Float64:
    """Share of the serving energy of minutes `rows` [r] that their tokens would not have cost at these loads [r].

    `whole`: the curves, extended. Prefill costs what it did. Where the engine's curve does not know the load it ran at,
    both loads are taken from the least published factors, for what `decode_share` leaves. 0 at its own load, negative
    at a dearer one.
    """
    engine = np.searchsorted(minutes.offsets, rows, side="right") - 1
    row = minutes.curve[engine]
    running = minutes.requests_running[rows]
    now, then = decode_mj(minutes.curves, row, running), decode_mj(whole, row, load)
    prices = np.append(minutes.curves.prefill_mj_per_token, 0.0)[row]
    prefill = prices * np.maximum(minutes.uncached_input_tokens[rows], 0)
    output = minutes.output_tokens[rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        learnt = output * (now - then) / (output * now + prefill)
    published = decode_share(minutes, rows) * (1 - least_factor(load) / least_factor(running))
    return np.where(np.isnan(learnt), published, learnt)


def decode_share(minutes: EngineMinutes, rows: Int64) -> Float64:
    """Share of the serving energy of minutes `rows` [r] that a larger batch can make cheaper: what is not prefill.

    Prefill at the learnt price. Where there is none, all of it, unless much more was read than written: then nothing
    can be said, and it is 0.
    """
    engine = np.searchsorted(minutes.offsets, rows, side="right") - 1
    price = np.append(minutes.curves.prefill_mj_per_token, 0.0)[minutes.curve[engine]]
    read = np.maximum(minutes.uncached_input_tokens[rows], 0)
    spent_mj = np.maximum(minutes.serving_mj[rows], 1)
    unpriced = np.where(read > PREFILL_HEAVY * minutes.output_tokens[rows], 0.0, 1.0)
    return np.where(price > 0, np.clip(1 - price * read / spent_mj, 0.0, 1.0), unpriced)


def throughput(whole: Curves) -> Float64:
    """Tokens a second of one replica [k, LOAD_BINS], by extended curves; NaN where there is no value.

    They never fall with the load: where learnt values do, by noise, the highest so far holds.
    """
    rate = whole.tokens_per_request_s * LOADS
    known = ~np.isnan(rate)
    return np.where(known, np.maximum.accumulate(np.where(known, rate, -np.inf), axis=1), math.nan)


def load_for(whole: Curves, row: Int64, tokens_per_s: Float64) -> Float64:
    """Load at which one replica makes so many tokens a second, by extended curves; [m], NaN without a curve.

    Below the lowest load learnt, a request is as fast as it is there; what no load makes is taken to need the first
    load that makes the most.
    """
    rate = throughput(whole)
    found = np.empty(tokens_per_s.size)
    _invert(rate, LOADS, int64s(row), np.ascontiguousarray(tokens_per_s), found)
    return found


@kernel
def _invert(rate: Float64, loads: Float64, row: Int64, tokens_per_s: Float64, found: Float64) -> None:
    for i in range(row.size):
        found[i] = math.nan
        if row[i] < 0 or not tokens_per_s[i] > 0.0:
            continue
        last = -1  # the highest bin so far that makes more than those before
        for b in range(LOAD_BINS):
            value = rate[row[i], b]
            if math.isnan(value) or (last >= 0 and value <= rate[row[i], last]):
                continue
            if value >= tokens_per_s[i]:
                if last < 0:
                    found[i] = loads[b] * tokens_per_s[i] / value
                else:
                    low = rate[row[i], last]
                    share = math.log(tokens_per_s[i] / low) / math.log(value / low)
                    found[i] = loads[last] * (loads[b] / loads[last]) ** share
                break
            last = b
        if math.isnan(found[i]) and last >= 0:
            found[i] = loads[last]
