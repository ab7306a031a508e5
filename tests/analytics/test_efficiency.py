"""Ratios of columns: the array twin of `units`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import naive
from support.counters import int64s
from wattmill_analytics import units
from wattmill_analytics.efficiency import joules_per_token, tokens_per_kwh

sums = st.integers(-1, 2**53)


def test_figures() -> None:
    tokens, energy_mj = int64s([1_000_000, 102_909 * 3600]), int64s([1_000_000_000, 10_401_000 * 3600])
    assert tokens_per_kwh(tokens, energy_mj) == pytest.approx([3.6e6, 102_909 * 3.6e6 / 10_401], rel=1e-15)
    assert joules_per_token(tokens, energy_mj) == pytest.approx([1.0, 10_401 / 102_909], rel=1e-15)


def test_nothing_to_divide_is_nan() -> None:
    assert np.isnan(tokens_per_kwh(int64s([5, -1, 0]), int64s([0, 5, 0]))).all()
    assert np.isnan(joules_per_token(int64s([0, -1]), int64s([5, 5]))).all()
    assert tokens_per_kwh(int64s([0]), int64s([5])).tolist() == [0.0]


@given(st.lists(st.tuples(sums, sums), max_size=9))
def test_twin(rows: list[tuple[int, int]]) -> None:
    tokens, energy_mj = int64s([t for t, _ in rows]), int64s([e for _, e in rows])
    per_kwh = [naive.ratio(t, e, units.MILLIJOULES_PER_KWH, 1) for t, e in rows]
    per_token = [naive.ratio(e, t, 1, 1000) for t, e in rows]
    np.testing.assert_allclose(tokens_per_kwh(tokens, energy_mj), per_kwh, rtol=1e-15)
    np.testing.assert_allclose(joules_per_token(tokens, energy_mj), per_token, rtol=1e-15)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="equally long"):
        tokens_per_kwh(int64s([1]), int64s([1, 2]))
