"""Hand-worked figures: facts/ecosystem 4.2 and 5.3, facts/field 7."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest

from wattmill_analytics.units import (
    MILLIJOULES_PER_KWH,
    cost,
    grams,
    joules_per_token,
    kwh,
    kwh_per_million_tokens,
    per_million_tokens,
    tokens_per_kwh,
)

HOUR_S = 3600


def test_one_kilowatt_hour() -> None:
    assert kwh(MILLIJOULES_PER_KWH) == 1.0
    assert kwh(1000 * HOUR_S * 1000) == 1.0  # 1000 W for an hour, in millijoules


@pytest.mark.parametrize(
    ("tokens", "energy_mj", "per_kwh", "kwh_per_million", "price", "carbon"),
    [
        # J/token 0.1, 0.39, 1, 3 at 0.12 a kWh and 400 g/kWh
        (1_000_000, 100_000_000, 36e6, "0.0278", "0.0033", "11.1"),
        (1_000_000, 390_000_000, 3.6e6 / 0.39, "0.108", "0.013", "43.3"),
        (1_000_000, 1_000_000_000, 3.6e6, "0.278", "0.033", "111"),
        (1_000_000, 3_000_000_000, 1.2e6, "0.833", "0.10", "333"),
    ],
)
def test_conversions(
    tokens: int, energy_mj: int, per_kwh: float, kwh_per_million: str, price: str, carbon: str
) -> None:
    def rounded(value: Decimal | float, like: str) -> str:
        return str(Decimal(value).quantize(Decimal(like)))

    assert tokens_per_kwh(tokens, energy_mj) == pytest.approx(per_kwh, rel=1e-15)
    assert joules_per_token(tokens, energy_mj) == energy_mj / 1000 / tokens
    assert rounded(kwh_per_million_tokens(tokens, energy_mj) or 0.0, kwh_per_million) == kwh_per_million
    assert rounded(cost(energy_mj, Decimal("0.12")), price) == price
    assert rounded(grams(energy_mj, 400), carbon) == carbon


def test_a_facility_with_its_overhead() -> None:
    """1 J/token, PUE 1.25, 400 g/kWh, 0.12 a kWh -> 0.3472 kWh, 138.9 g and 0.0417 per million tokens."""
    tokens, energy_mj = 2_000_000, 2_000_000_000
    pue = Decimal("1.25")
    euros = per_million_tokens(cost(energy_mj, Decimal("0.12"), pue), tokens)
    weight = per_million_tokens(grams(energy_mj, 400, pue), tokens)
    energy = per_million_tokens(cost(energy_mj, 1, pue), tokens)
    assert euros is not None
    assert weight is not None
    assert energy is not None
    assert euros.quantize(Decimal("0.0001")) == Decimal("0.0417")
    assert weight.quantize(Decimal("0.1")) == Decimal("138.9")
    assert energy.quantize(Decimal("0.0001")) == Decimal("0.3472")


def test_mlperf_hour() -> None:
    """field.md 7, check 1: 102 909 tokens/s at 10 401 W for an hour."""
    tokens, energy_mj = 102_909 * HOUR_S, 10_401_000 * HOUR_S
    assert round((tokens_per_kwh(tokens, energy_mj) or 0) / 1e6, 1) == 35.6
    assert round(joules_per_token(tokens, energy_mj) or 0, 4) == 0.1011


def test_absence_is_none_and_none_is_not_zero() -> None:
    assert tokens_per_kwh(5, 0) is None
    assert tokens_per_kwh(None, 5) is None
    assert tokens_per_kwh(5, None) is None
    assert tokens_per_kwh(0, 5) == 0.0
    assert joules_per_token(0, 5) is None
    assert joules_per_token(5, 0) == 0.0
    assert joules_per_token(5, None) is None
    assert per_million_tokens(Decimal(1), 0) is None


def test_big_integers_divide_last() -> None:
    assert tokens_per_kwh(2**62, 3_600_000_000 * 2**62) == 1.0
    assert cost(3_600_000_000 * 10**15 + 36, Decimal(1)) == Decimal("1000000000000000.00000001")


def test_units_stay_cheap() -> None:
    code = "import sys, wattmill_analytics.units; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
