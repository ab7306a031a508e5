"""Units of exporters, exactly: a printed number and its unit become whole milliwatts, millijoules and the like. Pure.

Numbers are taken as decimals from the text, never as floats: 9.007199254740993e+15 millijoules is that many. What is
between two whole units is rounded to the nearest, since an exporter that divides microjoules by a million prints the
nearest float; absolute values are rounded, so that differences add up to within one unit over any time.

Not a value: NaN, infinities, and the blanks that DCGM shows for what it can't read (dcgm_structs.h, DCGM_*_BLANK).
"""

from __future__ import annotations

import decimal
from decimal import Decimal

_CONTEXT = decimal.Context(prec=80, rounding=decimal.ROUND_HALF_EVEN, traps=[])
_NUMBER = frozenset(b"0123456789+-.eE")
_INT64_MAX = Decimal(2**63 - 1)
_BLANKS = ((2147483632, 2147483635), (140737488355328, 140737488355331), (9223372036854775792, 2**63 - 1))
_BLANK_RANGES = tuple((Decimal(low), Decimal(high)) for low, high in _BLANKS)
_SMALLEST_BLANK = _BLANK_RANGES[0][0]

POWER = {  # in milliwatts
    "mW": Decimal(1),
    "W": Decimal(1000),
    "kW": Decimal(1_000_000),
    "MW": Decimal(1_000_000_000),
    "uW": Decimal("0.001"),
    "0.1W": Decimal(100),
    "0.01W": Decimal(10),
    "0.1kW": Decimal(100_000),
    "0.01kW": Decimal(10_000),
    "0.001kW": Decimal(1000),
}
ENERGY = {  # in millijoules
    "mJ": Decimal(1),
    "J": Decimal(1000),
    "kJ": Decimal(1_000_000),
    "MJ": Decimal(1_000_000_000),
    "uJ": Decimal("0.001"),
    "Wh": Decimal(3_600_000),
    "kWh": Decimal(3_600_000_000),
    "MWh": Decimal(3_600_000_000_000),
    "0.1Wh": Decimal(360_000),
    "0.1kWh": Decimal(360_000_000),
    "0.01kWh": Decimal(36_000_000),
}
_OTHER = {
    "1": Decimal(1),
    "%": Decimal("0.01"),
    "By": Decimal(1),
    "MiB": Decimal(1024 * 1024),
    "MHz": Decimal(1),
    "Hz": Decimal("0.000001"),
    "C": Decimal(1),
    "mC": Decimal("0.001"),
}
UNITS = POWER | ENERGY | _OTHER


def decimal_of(text: bytes) -> Decimal | None:
    """The printed number, exactly; None where it is none: not finite, a DCGM blank, beyond 64 bits, or no number."""
    if not text or not _NUMBER.issuperset(text):  # Decimal alone would take 1_000, and NaN is no value
        return None
    value = _CONTEXT.create_decimal(text.decode("ascii"))
    if not value.is_finite() or abs(value) > _INT64_MAX:
        return None
    if value >= _SMALLEST_BLANK and any(low <= value <= high for low, high in _BLANK_RANGES):
        return None
    return value


def scaled(value: Decimal, unit: str, times: Decimal = Decimal(1)) -> int:
    """Whole canonical units (mW, mJ, By, MHz, Cel) of a value in `unit`; `times` 1000 makes microjoules of energy."""
    product = _CONTEXT.multiply(_CONTEXT.multiply(value, UNITS[unit]), times)
    return int(product.to_integral_value(decimal.ROUND_HALF_EVEN, _CONTEXT))


def ratio_of(value: Decimal, unit: str) -> float:
    """A share of 1 from a share or a percentage."""
    return float(_CONTEXT.multiply(value, UNITS[unit]))
