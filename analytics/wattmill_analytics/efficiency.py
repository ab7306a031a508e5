"""Ratios of grouped sums, for whole columns: the array twin of `units`.

Sums first, the ratio last, once. NaN means that there is nothing to divide: no tokens counted, or no energy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.kernel import int64s, kernel
from wattmill_analytics.units import MILLIJOULES_PER_JOULE, MILLIJOULES_PER_KWH

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]


def tokens_per_kwh(tokens: Int64s, energy_mj: Int64s) -> Float64s:
    """Tokens made of a kilowatt-hour.

    Shapes and units: tokens, energy_mj int64 [n], sums over the same intervals; below 0 = not counted.
    Returns: float64 [n]; NaN where tokens were not counted or energy is not above 0.
    Errors: ValueError when shapes differ.
    Accuracy: within 1e-15 of the true ratio, relatively, for sums below 2^53.
    """
    return _ratios(tokens, energy_mj, float(MILLIJOULES_PER_KWH))


def joules_per_token(tokens: Int64s, energy_mj: Int64s) -> Float64s:
    """Joules of one token; shapes, errors and accuracy as `tokens_per_kwh`. NaN where there are no tokens."""
    return _ratios(energy_mj, tokens, 1.0 / MILLIJOULES_PER_JOULE)


def _ratios(above: Int64s, below: Int64s, factor: float) -> Float64s:
    above = int64s(above)
    below = int64s(below)
    if above.ndim != 1 or above.shape != below.shape:
        raise ValueError(f"tokens and energies must be equally long, not {above.shape} and {below.shape}")
    ratios = np.empty(above.size, np.float64)
    _divide(above, below, factor, ratios)
    return ratios


@kernel
def _divide(above: Int64s, below: Int64s, factor: float, ratios: Float64s) -> None:
    for i in range(above.size):
        if above[i] < 0 or below[i] <= 0:
            ratios[i] = np.nan
        else:
            ratios[i] = float(above[i]) / float(below[i]) * factor
