"""How long the simulated tokens take: a histogram of inter-token latencies that agrees with batch and rate.

In a batch of b sequences that decodes r tokens a second, a sequence gets a token every b / r seconds; prefill and
throttling stretch that. Around it latencies are spread log-logistically, so that the slowest in a hundred take about
twice the median.

Promises: a bucket is an integer that only rises in its process's life, and observations never outnumber tokens.
Not here: a model of single requests, or of the time to the first token.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wattmill_api.simulator.physics import Curve, Floats, Served

# vLLM's own bounds up to a second (vllm/v1/metrics/loggers.py); its further ones would stay empty.
LE_US = (
    *(10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 400_000, 500_000, 750_000, 1_000_000),
)  # fmt: skip
BUCKETS = len(LE_US) + 1
SHAPE = 6.0  # of the log-logistic distribution: its 99th percentile is 99^(1/6) = 2.15 times the median
LONGEST_STALL_SHARE = 0.9


def median_s(curve: Curve, batch: Floats, speed: Floats, prefill_share: Floats) -> Floats:
    """The typical time between two tokens of one sequence, per tick; an empty batch as if it held one."""
    sequences = np.maximum(batch, 1.0)
    rate = np.interp(1.0 + np.log(sequences), curve.position, curve.tokens_per_s)
    return sequences / (rate * speed * (1.0 - np.minimum(prefill_share, LONGEST_STALL_SHARE)))


def shares(latency_s: Floats) -> Floats:
    """What share of the tokens falls into each bucket, [ticks, BUCKETS]; rows sum to 1."""
    bounds_s = np.array(LE_US) / 1e6
    under = 1.0 / (1.0 + (latency_s[:, np.newaxis] / bounds_s) ** SHAPE)
    edges = np.zeros((latency_s.size, 1)), under, np.ones((latency_s.size, 1))
    return np.diff(np.concatenate(edges, axis=1), axis=1)


def observe(before: Floats, curve: Curve, served: Served, speed: Floats) -> Floats:
    """Observations by bucket at the end of each tick, [ticks, BUCKETS], not yet whole; `before`: at its begin."""
    tokens = np.maximum(np.diff(served.output_tokens, prepend=0.0), 0.0)
    latency_s = median_s(curve, served.batch, speed, served.prefill_share)
    return np.asarray(before + np.cumsum(tokens[:, np.newaxis] * shares(latency_s), axis=0), np.float64)


def counts(observed: Floats) -> NDArray[np.int64]:
    """As an engine shows them: whole, and each bound with all lower ones."""
    return np.cumsum(np.floor(observed).astype(np.int64), axis=1)
