"""What energy costs when the tariff changes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import naive
from support.counters import int64s
from wattmill_analytics.pricing import PICO_PARTS, Priced, price

KWH = 3_600_000_000
HOUR = 3_600_000_000


def bill(energy_mj: list[int], time_us: list[int], tariffs: list[tuple[int, int]]) -> Priced:
    return price(
        energy_mj=int64s(energy_mj),
        time_us=int64s(time_us),
        valid_from_us=int64s([t for t, _ in tariffs]),
        micro_per_kwh=int64s([m for _, m in tariffs]),
    )


def exact(priced: Priced) -> list[Fraction]:
    return [p + Fraction(r, PICO_PARTS) for p, r in zip(priced.pico.tolist(), priced.rest.tolist(), strict=True)]


def test_a_kilowatt_hour_at_twelve_cents() -> None:
    assert bill([KWH], [0], [(0, 120_000)]).pico.tolist() == [120_000_000_000]


def test_the_new_tariff_holds_from_its_first_instant() -> None:
    found = bill([KWH, KWH, KWH], [HOUR - 1, HOUR, HOUR + 1], [(0, 100_000), (HOUR, 300_000)])
    assert found.pico.tolist() == [100_000_000_000, 300_000_000_000, 300_000_000_000]


def test_energy_before_the_first_tariff_is_unpriced_not_free() -> None:
    found = bill([5, 7], [0, HOUR], [(HOUR, 100_000)])
    assert found.unpriced_mj.tolist() == [5, 0]
    assert found.pico[0] == 0
    assert bill([5], [0], []).unpriced_mj.tolist() == [5]


def test_negative_prices_are_paid_out() -> None:
    assert bill([KWH], [0], [(0, -20_000)]).pico.tolist() == [-20_000_000_000]
    assert exact(bill([1], [0], [(0, -1)])) == [Fraction(-1, 3600)]


tariffs = st.lists(st.tuples(st.integers(0, 50), st.integers(-(10**7), 10**7)), max_size=4, unique_by=lambda t: t[0])


@given(st.lists(st.tuples(st.integers(0, 2**50), st.integers(0, 60)), max_size=9), tariffs)
def test_twin_is_exact(rows: list[tuple[int, int]], drawn: list[tuple[int, int]]) -> None:
    table = sorted(drawn)
    found = bill([e for e, _ in rows], [t for _, t in rows], table)
    for i, (energy_mj, time_us) in enumerate(rows):
        expected = naive.price(energy_mj, time_us, [t for t, _ in table], [m for _, m in table])
        assert exact(found)[i] == (expected or 0)
        assert found.unpriced_mj[i] == (energy_mj if expected is None else 0)
    assert all(0 <= r < PICO_PARTS for r in found.rest.tolist())


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=9), st.integers(0, 10**7))
def test_a_bill_in_parts_is_the_bill_of_the_whole(energies: list[int], micro: int) -> None:
    parts = bill(energies, [0] * len(energies), [(0, micro)])
    whole = bill([sum(energies)], [0], [(0, micro)])
    assert sum(exact(parts)) == exact(whole)[0]


def test_tables_are_checked() -> None:
    with pytest.raises(ValueError, match="sorted by their start"):
        bill([1], [0], [(5, 1), (5, 2)])
    with pytest.raises(ValueError, match="not be negative"):
        bill([-1], [0], [(0, 1)])
    with pytest.raises(ValueError, match="more than 64 bits"):
        bill([2**62], [0], [(0, 10**6)])
    with pytest.raises(ValueError, match="one start and one price"):
        price(energy_mj=int64s([]), time_us=int64s([]), valid_from_us=int64s([1]), micro_per_kwh=np.zeros(0, np.int64))
