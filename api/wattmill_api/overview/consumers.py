"""Who used the energy of workloads behind gateways, by team, as /chargeback splits it; None without a gateway."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

from wattmill_api.overview.books import Books
from wattmill_api.parameters import DIMENSIONS
from wattmill_api.routes import chargeback
from wattmill_api.store import gateways
from wattmill_api.store.database import Connection
from wattmill_api.view import View

SHOWN = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Consumer:
    """A team as gateways call it, None where they name none; not `via_gateway`: what no gateway saw."""

    team: str | None
    via_gateway: bool
    energy_mj: int
    share: float | None
    output_tokens: int | None
    cost: dict[str, Any] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Consumers:
    """The first of `count` teams by energy. `energy_mj`: of all workloads that a gateway was read for."""

    rows: tuple[Consumer, ...]
    count: int
    energy_mj: int
    doubtful: bool


def consumers(connection: Connection, view: View, books: Books) -> Consumers | None:
    """The teams of a view. A gateway tells no node, site or accelerator apart: a view of these has none."""
    if any(view.filters[name] for name in DIMENSIONS if name != "workload"):
        return None
    if not gateways.any_drawn(connection, books.window.start, books.window.end):
        return None
    rows, _ = chargeback.read(
        connection,
        books.window,
        books.prices,
        by=["team"],
        scope=books.scope,
        workloads=view.filters["workload"] or (),
    )
    drawn = {row["group"]["workload"] for row in rows if row["via"] == "gateway"}
    together: dict[tuple[str | None, bool], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["group"]["workload"] in drawn:
            together[row["group"]["team"], row["via"] == "gateway"].append(row)
    if not together:
        return None
    energy_mj = sum(row["energy_mj"] for its in together.values() for row in its)
    found = [_consumer(*key, its, energy_mj) for key, its in together.items()]
    found.sort(key=lambda one: (not one.via_gateway, -one.energy_mj, one.team or ""))
    doubtful = any("gateway_exceeds_engine" in row["flags"] for its in together.values() for row in its)
    shown = [one for one in found if one.via_gateway][:SHOWN] + [one for one in found if not one.via_gateway]
    return Consumers(tuple(shown), len(found), energy_mj, doubtful)


def _consumer(team: str | None, via_gateway: bool, rows: list[dict[str, Any]], whole_mj: int) -> Consumer:
    energy_mj = sum(row["energy_mj"] for row in rows)
    costs = [row["cost"] for row in rows if row["energy_mj"]]
    currencies = {cost["currency"] for cost in costs if cost}
    priced = len(currencies) == 1 and all(costs)
    outputs = [row["tokens"]["output"] for row in rows]
    return Consumer(
        team=team,
        via_gateway=via_gateway,
        energy_mj=energy_mj,
        share=energy_mj / whole_mj if whole_mj else None,
        output_tokens=None if None in outputs else sum(outputs),
        cost={"currency": currencies.pop(), "total": sum(cost["total"] for cost in costs)} if priced else None,
    )
