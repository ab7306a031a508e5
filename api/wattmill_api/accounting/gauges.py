"""Means of gauges over the samples of a minute, in integer sums and counts until the last division."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wattmill_api.store.rollup import Int64


def known(value: Int64, low: int = 0) -> tuple[Int64, Int64]:
    """The known values and their count as two columns, ready for `sum_by_key`."""
    known = value >= low
    return np.where(known, value, 0), known.astype(np.int64)


def ppm(ratio: NDArray[np.float64]) -> Int64:
    return np.where(np.isnan(ratio), -1, np.nan_to_num(ratio) * 1_000_000).astype(np.int64)


def mean(sums: Int64, counts: Int64, unit: float = 1.0) -> NDArray[np.float64]:
    return np.where(counts > 0, sums / np.maximum(counts, 1) / unit, np.nan)


def whole_mean(sums: Int64, counts: Int64) -> Int64:
    return np.where(counts > 0, sums // np.maximum(counts, 1), -1)
