"""Printed numbers of an engine's page as the integers and ratios that they stand for, or why they are none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wattmill_collector.catalogue import INT64_MAX
from wattmill_collector.sources.engine_tables import COUNTER_FIELDS
from wattmill_collector.sources.promtext import ParseError, number

LIMITS = dict.fromkeys(COUNTER_FIELDS, INT64_MAX) | {"requests_running": 10_000_000, "requests_waiting": 10_000_000}
RATIO_FIELDS = ("kv_cache_usage_ratio",)


def counted(texts: Sequence[bytes]) -> tuple[list[int | None], list[str]]:
    """The integers, None where there is none, and the reasons; no reasons at all when all of them are integers."""
    found = [_counted(text) for text in texts]
    reasons = [reason for _, reason in found]
    return [value for value, _ in found], reasons if any(reasons) else []


def _counted(text: bytes) -> tuple[int | None, str]:
    if text.isdigit():
        value = int(text[:20])
        return (value, "") if value <= INT64_MAX else (None, "out_of_range")
    try:
        printed = number(text)
    except ParseError:
        return None, "not_a_number"
    if not math.isfinite(printed):
        return None, "not_a_number"
    if printed < 0:
        return None, "negative"
    if not printed.is_integer():
        return None, "not_an_integer"
    return (int(printed), "") if printed <= INT64_MAX else (None, "out_of_range")


def ratio(over: Sequence[bytes], under: Sequence[bytes] = ()) -> tuple[float | None, str]:
    """The fullest of several caches; with `under`, what they are filled by over what they hold."""
    try:
        values = [number(text) for text in over]
        whole = [number(text) for text in under]
    except ParseError:
        return None, "not_a_number"
    if not all(map(math.isfinite, (*values, *whole))):
        return None, "not_a_number"
    if whole and sum(whole) <= 0:
        return None, "out_of_range"
    largest = sum(values) / sum(whole) if whole else max(values)
    if largest < 0 or largest > 1.001:  # a little above 1 is rounding on the engine's side
        return None, "out_of_range"
    return min(largest, 1.0), ""
