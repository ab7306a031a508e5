"""Numbers of exporters, exactly."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill_collector.sources.exporters.units import ENERGY, POWER, UNITS, decimal_of, scaled


@pytest.mark.parametrize(
    ("text", "unit", "whole"),
    [
        (b"641.518000", "W", 641_518),
        (b"9.007199254740993e+15", "mJ", 9_007_199_254_740_993),  # 2^53 + 1: no float has it
        (b"9.876543210123e+09", "J", 9_876_543_210_123),
        (b"4.349999999999999", "J", 4_350),  # 4350 * 0.001 in Python
        (b"1.2345678901234567e+16", "uJ", 12_345_678_901_235),
        (b"1043", "0.01kW", 10_430_000),
        (b"123456", "0.1kWh", 44_444_160_000_000),
        (b"1", "kWh", 3_600_000_000),
        (b"2.41e+08", "uW", 241_000),
        (b"71441", "MiB", 71_441 * 1024 * 1024),
        (b"1.98e+09", "Hz", 1980),
        (b"-0", "W", 0),
    ],
)
def test_a_printed_number_is_that_many_units(text: bytes, unit: str, whole: int) -> None:
    value = decimal_of(text)
    assert value is not None
    assert scaled(value, unit) == whole


@pytest.mark.parametrize(
    "text", [b"NaN", b"nan", b"+Inf", b"-Inf", b"", b"1_000", b"0x10", b"e", b"--1", b"1e999999", b"W"]
)
def test_what_is_no_number_is_no_value(text: bytes) -> None:
    assert decimal_of(text) is None


@pytest.mark.parametrize("first", [2147483632, 140737488355328, 9223372036854775792])
def test_the_blanks_of_dcgm_are_no_values_and_their_neighbours_are(first: int) -> None:
    assert [decimal_of(str(first + i).encode()) for i in range(4)] == [None] * 4
    assert decimal_of(f"{first}.000000".encode()) is None
    assert decimal_of(str(first - 1).encode()) == first - 1


def test_a_blank_that_went_through_a_float_is_none_either() -> None:
    assert decimal_of(b"9.223372036854776e+18") is None
    assert decimal_of(b"2.147483632e+09") is None


def test_microjoules_of_a_kernel_come_back_from_joules_for_any_counter_there_is() -> None:
    """node_exporter divides the counter by 1e6 as a float and prints the shortest text that is that float."""
    for counter in (1, 999_999, 65_532_610_987, 240_111_122_233, 262_143_328_850, 2**52 + 1):
        value = decimal_of(repr(counter / 1_000_000.0).encode())
        assert value is not None
        assert scaled(value, "J", Decimal(1000)) == counter


@given(value=st.decimals(0, 10**15, places=6), unit=st.sampled_from(sorted(POWER | ENERGY)))
def test_scaling_rounds_an_exact_product_once(value: Decimal, unit: str) -> None:
    exact = Fraction(value) * Fraction(UNITS[unit])
    found = decimal_of(str(value).encode())
    assert found is not None
    assert abs(Fraction(scaled(found, unit)) - exact) <= Fraction(1, 2)


@given(st.binary(max_size=30))
def test_no_bytes_raise(text: bytes) -> None:
    value = decimal_of(text)
    assert value is None or math.isfinite(value)
