"""A period beside the one of equal length before it. Pure.

A change is `(now - before) / before`; None where either is not known, or where there was nothing before. Money of two
currencies is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]
OWNERS = ("workload", "model", "team")


def compared(energy: Mapping[str, Any], before: Mapping[str, Any]) -> Document:
    """`total`: a row for each figure of everything; `workloads`: one for each workload of either period."""
    return {"total": _total(energy, before), "workloads": _workloads(energy, before)}


def _total(energy: Mapping[str, Any], before: Mapping[str, Any]) -> list[Document]:
    now, then = _figures(energy), _figures(before)
    return [_row(what, now.get(what), then.get(what)) for what in dict.fromkeys([*now, *then])]


def _figures(energy: Mapping[str, Any]) -> dict[str, float | None]:
    """At the scope of the account, but the share of the accounts; nothing at all where no energy was read."""
    headline, ledger_mj = energy["efficiency"][energy["scope"]], energy["ledger"]["total"]["energy_mj"]
    if headline is None:
        return {}
    serving_mj = sum(row["energy_mj"] for row in energy["ledger"]["rows"] if row["account"] == "serving")
    cost = headline["cost"]
    return {
        "energy_mj": headline["energy_mj"],
        "output_tokens": headline["tokens"]["output"],
        "tokens_per_kwh": headline["tokens_per_kwh"],
        "joules_per_token": headline["joules_per_token"],
        "not_serving_ratio": 1 - serving_mj / ledger_mj if ledger_mj else None,
        **({f"cost_{cost['currency']}": cost["total"]} if cost else {}),
        "co2_grams": headline["co2_grams"],
        "coverage": headline["coverage"],
    }


def _workloads(energy: Mapping[str, Any], before: Mapping[str, Any]) -> list[Document]:
    now, then = ({_key(row): row for row in some["workloads"]["rows"]} for some in (energy, before))
    rows = []
    for key in dict.fromkeys([*now, *then]):
        one, other = now.get(key), then.get(key)
        rows.append(
            {
                "group": dict(zip(OWNERS, key, strict=True)),
                **{
                    what: _row(what, one and one[what], other and other[what])
                    for what in ("energy_mj", "tokens_per_kwh")
                },
            }
        )
    return rows


def _key(row: Mapping[str, Any]) -> tuple[str | None, ...]:
    return tuple(row["group"][name] for name in OWNERS)


def _row(what: str, now: float | None, before: float | None) -> Document:
    change = (now - before) / before if now is not None and before else None
    return {"what": what, "now": now, "before": before, "change_ratio": change}
