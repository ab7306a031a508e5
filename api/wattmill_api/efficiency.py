"""From facts of the ledger to the rows of an answer: scope, prices, ratios. Pure; integers until the last division.

Facts come cut at every change of a price (their `slice`), so that one price holds for each. PUE scales energy to the
facility, whole millijoules by largest remainder; prices multiply kilowatt-hours as decimals. Whatever is not known
makes what depends on it None and is named in `missing`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from wattmill_api import slo
from wattmill_api.store.prices import Prices
from wattmill_api.store.query import Facts

MJ_PER_KWH = 3_600_000_000
_Group = tuple[tuple[str, str | None], ...]
_Key = tuple[dt.datetime, _Group]
ExpectedUs = Callable[[dt.datetime, _Group], int]


@dataclasses.dataclass(slots=True)
class Sum:
    """What belongs to one row of an answer."""

    energy_mj: int = 0
    estimated_mj: int = 0
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    covered_us: int = 0
    span_us: int = 0
    cost: Decimal = Decimal(0)
    co2_grams: Decimal = Decimal(0)
    currencies: set[str] = dataclasses.field(default_factory=set)
    missing: set[str] = dataclasses.field(default_factory=set)
    simulated: bool = False

    def add(self, facts: Facts) -> None:
        self.estimated_mj += facts.estimated_mj
        self.input_tokens = _plus(self.input_tokens, facts.input_tokens)
        self.cached_input_tokens = _plus(self.cached_input_tokens, facts.cached_input_tokens)
        self.output_tokens = _plus(self.output_tokens, facts.output_tokens)
        self.covered_us += facts.covered_us
        self.span_us += facts.span_us
        self.simulated |= facts.simulated
        for name, unknown in (
            ("input_tokens", facts.input_unknown),
            ("cached_input_tokens", facts.cached_unknown),
            ("output_tokens", facts.output_unknown),
            ("placement", facts.placement_unknown),
            ("host", facts.host_unknown),
        ):
            if unknown:
                self.missing.add(name)


def _plus(left: int | None, right: int | None) -> int | None:
    return left if right is None else right if left is None else left + right


def rows(
    facts: Sequence[Facts],
    prices: Prices,
    *,
    scope: str,
    start: dt.datetime,
    cuts: Sequence[dt.datetime],
    expected_us: ExpectedUs | None = None,
    slos: Mapping[_Key, slo.Slo] | None = None,
) -> list[dict[str, Any]]:
    """The rows of /efficiency, in the order of the facts. `start` and `cuts` say when each slice begins.

    `expected_us`: how long a group should have been read in a bucket, where that is known; time without any row counts
    as not covered then. `slos`: what is known of latencies.
    """
    sums: dict[_Key, Sum] = {}
    for item, energy_mj in zip(facts, scoped(facts, prices, scope, start, cuts), strict=True):
        total = sums.setdefault((item.bucket, item.group), Sum())
        total.add(item)
        if energy_mj is None:
            total.missing.add("pue")
            continue
        total.energy_mj += energy_mj
        _price(total, energy_mj, item.site, _since(item, start, cuts), prices)
    if expected_us is not None:
        for (time, group), total in sums.items():
            total.span_us = max(total.span_us, expected_us(time, group))
    found = slos or {}
    return [_row(*key, total, scope, found.get(key)) for key, total in sums.items()]


def _since(facts: Facts, start: dt.datetime, cuts: Sequence[dt.datetime]) -> dt.datetime:
    """When the slice of these facts begins: slice n lies between the n-th and the next change."""
    return cuts[facts.slice - 1] if facts.slice else start


def scoped(
    facts: Sequence[Facts], prices: Prices, scope: str, start: dt.datetime, cuts: Sequence[dt.datetime]
) -> list[int | None]:
    """The energy of each fact at this scope; None where the site has no PUE."""
    if scope != "facility":
        return [item.energy_mj for item in facts]
    scaled: list[int | None] = [None] * len(facts)
    together: dict[tuple[dt.datetime, int, str], list[int]] = defaultdict(list)
    for index, item in enumerate(facts):
        together[item.bucket, item.slice, item.site].append(index)
    for (_, _, site), indices in together.items():
        pue = prices.pue.at(site, _since(facts[indices[0]], start, cuts))
        if pue is not None:
            for index, energy_mj in zip(indices, scale([facts[i].energy_mj for i in indices], pue), strict=True):
                scaled[index] = energy_mj
    return scaled


def scale(parts: Sequence[int], factor: Decimal) -> list[int]:
    """Each part times factor, in whole numbers that sum to the scaled total rounded once (largest remainder)."""
    numerator, denominator = factor.as_integer_ratio()
    floors = [part * numerator // denominator for part in parts]
    rests = [part * numerator % denominator for part in parts]
    total = (2 * sum(parts) * numerator + denominator) // (2 * denominator)
    for index in sorted(range(len(parts)), key=lambda i: (-rests[i], i))[: total - sum(floors)]:
        floors[index] += 1
    return floors


def _price(total: Sum, energy_mj: int, site: str, time: dt.datetime, prices: Prices) -> None:
    kwh = Decimal(energy_mj) / MJ_PER_KWH
    tariff = prices.tariff.at(site, time)
    if tariff is not None:
        total.currencies.add(tariff[0])
        total.cost += kwh * tariff[1]
    elif energy_mj:
        total.missing.add("tariff")
    grams_per_kwh = prices.carbon.at(site, time)
    if grams_per_kwh is not None:
        total.co2_grams += kwh * grams_per_kwh
    elif energy_mj:
        total.missing.add("carbon")


def _row(time: dt.datetime, group: _Group, total: Sum, scope: str, latency: slo.Slo | None) -> dict[str, Any]:
    energy_mj = None if "pue" in total.missing else total.energy_mj
    output, all_input, cached = total.output_tokens, total.input_tokens, total.cached_input_tokens
    every = None if output is None or all_input is None else all_input + output
    uncached = None if every is None or cached is None else every - cached
    if len(total.currencies) > 1:
        total.missing.add("currency")
    measured = not total.estimated_mj and not total.missing & {"host", "placement"}
    return {
        "time": time,
        "group": dict(group),
        "tokens": {"input": all_input, "cached_input": cached, "output": output},
        "energy_mj": energy_mj,
        "energy_kwh": None if energy_mj is None else energy_mj / MJ_PER_KWH,
        "tokens_per_kwh": per_kwh(output, energy_mj),
        "total_tokens_per_kwh": per_kwh(every, energy_mj),
        "uncached_total_tokens_per_kwh": per_kwh(uncached, energy_mj),
        "joules_per_token": energy_mj / (1000 * output) if energy_mj is not None and output else None,
        "reason": reason(output, energy_mj),
        "cost": _cost(total, energy_mj),
        "co2_grams": None
        if energy_mj is None or "carbon" in total.missing or not energy_mj
        else _number(total.co2_grams),
        "coverage": total.covered_us / total.span_us if total.span_us else None,
        "quality": "measured" if measured else "estimated",
        "estimated_mj": total.estimated_mj,
        "scope": scope,
        "missing": sorted(total.missing),
        "simulated": total.simulated,
        "slo": slo.document(latency, output, energy_mj),
    }


def per_kwh(tokens: int | None, energy_mj: int | None) -> float | None:
    """Tokens per kilowatt-hour; None without energy or without tokens."""
    return tokens * MJ_PER_KWH / energy_mj if tokens and energy_mj else None


def reason(output_tokens: int | None, energy_mj: int | None) -> str | None:
    """Why there is no efficiency, as a short sentence; None if there is one."""
    if energy_mj is None:
        return "no PUE is set for this site at this time"
    if not energy_mj:
        return "no energy was measured"
    if output_tokens is None:
        return "no output tokens were read"
    return None if output_tokens else "no output tokens were generated"


def _cost(total: Sum, energy_mj: int | None) -> dict[str, Any] | None:
    if energy_mj is None or not total.currencies or total.missing & {"tariff", "currency"}:
        return None
    output = total.output_tokens
    return {
        "currency": next(iter(total.currencies)),
        "total": _number(total.cost),
        "per_million_tokens": _number(total.cost * 1_000_000 / output) if output else None,
    }


def _number(value: Decimal) -> float:
    return float(value)
