"""Products that do not fit into 64 bits, compared with Python's own integers."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from wattmill_analytics.exact import INT64_MAX, share, times

whole = st.integers(1, 2**61 - 1)


@given(st.integers(0, INT64_MAX), whole, whole)
@example(INT64_MAX, 2**61 - 2, 2**61 - 1)
@example(INT64_MAX, 2**31, 2**31)
@example(2**62, 15 * 86_400 * 10**6 - 1, 15 * 86_400 * 10**6)
def test_share(amount: int, a: int, b: int) -> None:
    part, total = min(a, b), max(a, b)
    assert share(amount, part, total) == divmod(amount * part, total)


@given(st.integers(0, INT64_MAX), st.integers(0, INT64_MAX), st.sampled_from([10**6, 2 * 10**6, 3600, 1, 2**31]))
def test_times_is_exact_or_full(amount: int, factor: int, unit: int) -> None:
    exact = amount * factor // unit
    found = times(amount, factor, unit)
    assert found == exact or (found == INT64_MAX and exact > 9.19e18)


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_times_at_the_sizes_of_boards(power_mw: int, duration_us: int) -> None:
    assert times(power_mw, duration_us, 10**6) == power_mw * duration_us // 10**6
