"""Exact constants and formulas for single figures; no numpy, so that everything may import it.

Integers in, the division last and once: a figure here is the nearest float or a full-length Decimal of the true value.
None means that there is nothing to divide by; it is never 0.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Final

MILLIJOULES_PER_JOULE: Final = 1_000
MILLIJOULES_PER_KWH: Final = 3_600_000_000
MICROJOULES_PER_MILLIJOULE: Final = 1_000
TOKENS_PER_MILLION: Final = 1_000_000

_DIGITS = 60


def kwh(energy_mj: int) -> float:
    """Energy in kilowatt-hours."""
    return energy_mj / MILLIJOULES_PER_KWH


def tokens_per_kwh(tokens: int | None, energy_mj: int | None) -> float | None:
    """The headline: tokens made of a kilowatt-hour; None without tokens counted or without energy.

    Example: 1 token of 1 J (1000 mJ) -> 3 600 000.0.
    """
    if tokens is None or not energy_mj:
        return None
    return tokens * MILLIJOULES_PER_KWH / energy_mj


def joules_per_token(tokens: int | None, energy_mj: int | None) -> float | None:
    """Energy of one token in joules; None without tokens or without energy measured."""
    if not tokens or energy_mj is None:
        return None
    return energy_mj / (tokens * MILLIJOULES_PER_JOULE)


def kwh_per_million_tokens(tokens: int | None, energy_mj: int | None) -> float | None:
    """Energy of a million tokens in kilowatt-hours, which is watt-hours per thousand; None without tokens."""
    if not tokens or energy_mj is None:
        return None
    return energy_mj * TOKENS_PER_MILLION / (tokens * MILLIJOULES_PER_KWH)


def cost(energy_mj: int, price_per_kwh: Decimal | int, pue: Decimal | int = 1) -> Decimal:
    """Price of energy in the currency of `price_per_kwh`: kWh x price x PUE."""
    with localcontext() as context:
        context.prec = _DIGITS
        product = Decimal(energy_mj) * price_per_kwh * pue
        exact = product / MILLIJOULES_PER_KWH
    return +exact


def grams(energy_mj: int, grams_per_kwh: Decimal | int, pue: Decimal | int = 1) -> Decimal:
    """Operational CO2e of energy in grams: kWh x PUE x intensity."""
    return cost(energy_mj, grams_per_kwh, pue)


def per_million_tokens(amount: Decimal, tokens: int | None) -> Decimal | None:
    """`amount` (a cost, grams) for a million tokens; None without tokens."""
    if not tokens:
        return None
    with localcontext() as context:
        context.prec = _DIGITS
        exact = amount * TOKENS_PER_MILLION / tokens
    return +exact
