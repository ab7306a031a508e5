"""Figures as people read them: three digits that mean something, a dash for what is not known, never NaN."""

from __future__ import annotations

import datetime as dt

import pytest

from support.ledger import T0
from wattmill_api import readable

N = readable.THIN


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (0.012345, "0.0123"), (0.9996, "1.00"), (1.005, "1.00"), (9.996, "10.0"), (42, "42.0"),
        (999.7, f"1{N}000"), (1234, f"1{N}230"), (123_456, f"123{N}000"), (999_400, f"999{N}000"),
        (999_600, f"1.00{N}M"), (8_370_000, f"8.37{N}M"), (3.13e9, f"3.13{N}G"), (-1234, f"-1{N}230"),
    ],
)  # fmt: skip
def test_three_digits(value: float | None, text: str) -> None:
    assert readable.figure(value) == text


@pytest.mark.parametrize(
    ("energy_mj", "text"),
    [
        (None, "–"), (0, f"0{N}Wh"), (3_600_000, f"1.00{N}Wh"), (3_600_000_000, f"1.00{N}kWh"),
        (10**15, f"278{N}MWh"), (36 * 10**14, f"1.00{N}GWh"),
    ],
)  # fmt: skip
def test_energy(energy_mj: int | None, text: str) -> None:
    assert readable.energy(energy_mj) == text


@pytest.mark.parametrize(
    ("kilowatts", "text"), [(None, "–"), (0, f"0{N}W"), (0.067, f"67.0{N}W"), (41.3, f"41.3{N}kW"), (1e3, f"1.00{N}MW")]
)
def test_power(kilowatts: float | None, text: str) -> None:
    assert readable.power(kilowatts) == text


@pytest.mark.parametrize(
    ("share", "text"), [(None, "–"), (1.0, f"100{N}%"), (0.99996, f"99.9{N}%"), (0.5, f"50.0{N}%")]
)
def test_a_coverage_is_never_called_complete_when_it_is_not(share: float | None, text: str) -> None:
    assert readable.coverage(share) == text


@pytest.mark.parametrize(("ratio", "text"), [(None, "–"), (1.064, f"+6.4{N}%"), (0.8, f"−20.0{N}%")])
def test_a_change_has_its_sign(ratio: float | None, text: str) -> None:
    assert readable.change(ratio) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7, f"7{N}s"), (60, f"1{N}min"), (5400, f"1{N}h 30{N}min"), (86_400, f"1{N}d"), (90_061, f"1{N}d 1{N}h")],
)
def test_a_length_of_time(seconds: int, text: str) -> None:
    assert readable.duration(dt.timedelta(seconds=seconds)) == text


def test_money() -> None:
    cost = {"currency": "EUR", "total": 25_893.005, "per_million_tokens": 0.0617}
    assert readable.money(cost) == f"25{N}893.01{N}EUR"
    assert readable.money(cost, "per_million_tokens") == f"0.0617{N}EUR"
    assert readable.money({**cost, "per_million_tokens": None}, "per_million_tokens") == "–"
    assert readable.money(None) == "–"


def test_a_day_is_said_once() -> None:
    assert readable.span(T0, T0 + dt.timedelta(hours=1)) == "2026-03-02 10:00 to 11:00 UTC"
    assert readable.span(T0, T0 + dt.timedelta(days=1)) == "2026-03-02 10:00 to 2026-03-03 10:00 UTC"


def test_a_gap_is_not_drawn_over() -> None:
    minutes = [T0 + dt.timedelta(minutes=minute) for minute in (0, 1, 2, 7, 8)]
    lines = readable.plot([(minute, 1.0) for minute in minutes])
    assert [len(line.split()) for line in lines] == [3, 2]


def test_one_point_is_no_line_and_nothing_but_zeros_is_one() -> None:
    assert readable.plot([(T0, 1.0)]) == []
    minutes = [T0 + dt.timedelta(minutes=minute) for minute in range(3)]
    assert readable.plot([(minute, 0.0) for minute in minutes], 100, 10) == ["0.0,10.0 50.0,10.0 100.0,10.0"]


def test_an_advice_in_brief() -> None:
    assert readable.briefly("Serve it with fewer replicas (lower minReplicas); if not, wait.") == (
        "Serve it with fewer replicas."
    )
    assert readable.briefly("Switch it off.") == "Switch it off."
