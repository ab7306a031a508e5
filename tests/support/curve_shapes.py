"""Curves by formula, for tests: a token's cost falls with the load, and so does the speed of one request."""

from __future__ import annotations

import numpy as np

from wattmill_analytics.curves import LOAD_BINS, LOADS, Curves

DECODE_MJ, PREFILL_MJ, TOKENS_PER_S = 4000.0, 20.0, 100.0


def law(*, lowest: float = 1.0, highest: float = 256.0, minutes: int = 100, prefill_mj: float = PREFILL_MJ) -> Curves:
    """One curve: 4000 mJ x load^-0.75 a token, 100 tokens a second x load^-0.25 a request, learnt from `lowest` to
    `highest`; so a replica makes 100 x load^0.75 tokens a second, at 400 W whatever the load."""
    known = (lowest * 0.99 <= LOADS) & (highest * 1.01 >= LOADS)
    decode = np.where(known, DECODE_MJ * LOADS**-0.75, np.nan)[np.newaxis]
    speed = np.where(known, TOKENS_PER_S * LOADS**-0.25, np.nan)[np.newaxis]
    seen = np.where(known, minutes, 0).reshape(1, LOAD_BINS).astype(np.int64)
    return Curves(decode, speed, np.array([prefill_mj]), seen)


def decode_mj(load: float) -> float:
    """Millijoules of a token."""
    return float(DECODE_MJ * load**-0.75)


def tokens_a_minute(load: float) -> int:
    """What one replica makes."""
    made: float = 60 * TOKENS_PER_S * load**0.75
    return round(made)
