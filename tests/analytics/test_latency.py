"""How many tokens came in time, and how late the late ones were: against a twin, and by what must hold of any."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from support import naive_latency
from wattmill_analytics.latency import cut, merge, quantiles, shares

BOUNDS = st.lists(st.integers(0, 10**9), min_size=1, max_size=12, unique=True).map(sorted)
RATIOS = st.sampled_from([Fraction(1, 100), Fraction(1, 2), Fraction(3, 4), Fraction(99, 100), Fraction(1)])


@st.composite
def histograms(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    le_us = draw(BOUNDS)
    size = len(le_us) + 1
    return le_us, draw(st.lists(st.integers(0, 10**6), min_size=size, max_size=size))


def one(counts: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.array([counts], np.int64)


def test_a_target_on_a_bound_is_certain() -> None:
    found = shares(le_us=np.array([10, 20]), counts=one([60, 30, 10]), target_us=20)
    assert (found.estimate[0], found.lowest[0], found.highest[0]) == (0.9, 0.9, 0.9)


def test_a_target_inside_a_bucket_takes_its_share_of_the_bucket_and_says_how_wrong_that_can_be() -> None:
    found = shares(le_us=np.array([10, 20]), counts=one([60, 30, 10]), target_us=15)
    assert (found.estimate[0], found.lowest[0], found.highest[0]) == (0.75, 0.6, 0.9)


def test_beyond_the_last_bound_nothing_is_known_to_be_in_time() -> None:
    found = shares(le_us=np.array([10, 20]), counts=one([60, 30, 10]), target_us=10**9)
    assert (found.estimate[0], found.lowest[0], found.highest[0]) == (0.9, 0.9, 1.0)


def test_nothing_observed_is_no_share_and_no_quantile() -> None:
    assert np.isnan(shares(le_us=np.array([10]), counts=one([0, 0]), target_us=5).estimate[0])
    assert np.isnan(quantiles(le_us=np.array([10]), counts=one([0, 0]), ratio=0.5)[0])


def test_the_median_lies_in_the_bucket_of_the_middle_observation() -> None:
    counts = np.array([[1, 2, 1], [0, 0, 5], [4, 0, 0]], np.int64)
    found = quantiles(le_us=np.array([10_000, 20_000]), counts=counts, ratio=0.5)
    assert found.tolist() == [15_000, 20_000, 5_000]  # the second: longer than 20 ms, and that is all that is known


@given(histograms(), st.integers(0, 2 * 10**9))
def test_shares_are_the_twins(histogram: tuple[list[int], list[int]], target_us: int) -> None:
    le_us, counts = histogram
    found = shares(le_us=np.array(le_us), counts=one(counts), target_us=target_us)
    wanted = naive_latency.share(le_us, counts, target_us)
    if wanted is None:
        assert np.isnan(found.estimate[0])
        return
    said = [found.estimate[0], found.lowest[0], found.highest[0]]
    assert said == pytest.approx([float(w) for w in wanted], rel=1e-12)
    whole, numerator, denominator = cut(le_us, target_us)
    exact = sum(counts[:whole]) + Fraction(numerator, denominator) * counts[whole]
    assert exact / sum(counts) == wanted[0]


@given(histograms(), RATIOS)
def test_quantiles_are_the_twins(histogram: tuple[list[int], list[int]], ratio: Fraction) -> None:
    le_us, counts = histogram
    assume(le_us[0] > 0)
    (found,) = quantiles(le_us=np.array(le_us), counts=one(counts), ratio=float(ratio))
    wanted = naive_latency.quantile(le_us, counts, ratio)
    if wanted is None:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(float(wanted), rel=1e-6)


@given(histograms(), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_laxer_target_is_met_by_no_fewer(histogram: tuple[list[int], list[int]], a: int, b: int) -> None:
    le_us, counts = histogram
    assume(sum(counts))
    strict, lax = (shares(le_us=np.array(le_us), counts=one(counts), target_us=t) for t in sorted((a, b)))
    for found in (strict, lax):
        assert 0 <= found.lowest[0] <= found.estimate[0] <= found.highest[0] <= 1
    assert strict.estimate[0] <= lax.estimate[0]


@given(st.lists(histograms(), min_size=1, max_size=4))
def test_merging_loses_no_observation_and_keeps_what_every_bound_says(
    parts: list[tuple[list[int], list[int]]],
) -> None:
    bounds, counts = merge(parts)
    assert counts.sum() == pytest.approx(sum(sum(c) for _, c in parts))
    assert (counts >= -1e-6).all()
    if len(parts) == 1:
        assert bounds.tolist() == parts[0][0]
        assert counts.tolist() == pytest.approx(parts[0][1])


def test_two_engines_with_other_bounds_have_one_median() -> None:
    bounds, counts = merge([([10, 20], [10, 0, 0]), ([15], [0, 10])])
    assert bounds.tolist() == [10, 15, 20]
    assert counts.tolist() == [10, 0, 0, 10]


def test_what_is_no_histogram_is_refused() -> None:
    with pytest.raises(ValueError, match="one bucket more"):
        shares(le_us=np.array([10, 20]), counts=one([1, 2]), target_us=5)
    with pytest.raises(ValueError, match="can't be met"):
        shares(le_us=np.array([10]), counts=one([1, 2]), target_us=-1)
    with pytest.raises(ValueError, match="not at 0"):
        quantiles(le_us=np.array([10]), counts=one([1, 2]), ratio=0)
    with pytest.raises(ValueError, match="must have bounds"):
        merge([])
