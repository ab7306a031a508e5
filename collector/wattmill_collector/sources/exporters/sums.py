"""Values of domains and meters from the printed numbers of a page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from wattmill_collector.sources.exporters.host_domains import Sum
from wattmill_collector.sources.exporters.units import decimal_of, scaled

MICRO = Decimal(1000)  # millijoules to microjoules


def value_of(one: Sum, texts: Sequence[bytes], times: Decimal = Decimal(1), digits: Sequence[int] = ()) -> int | None:
    """Whole units of the value; None when it can't be told.

    `digits`: by how many decimal digits each part is to be shifted to the left, where the page says so.
    """
    numbers = [decimal_of(texts[place]) for place in one.places]
    if digits:
        numbers = [n if n is None else n.scaleb(-shift) for n, shift in zip(numbers, digits, strict=True)]
    found = [n for n in numbers if n is not None and n >= 0]  # below 0: an exporter's way to say that it can't tell
    if not found or (len(found) < len(numbers) and not (one.some or one.highest)):
        return None
    return scaled(max(found) if one.highest else sum(found, Decimal(0)), one.unit, times)
