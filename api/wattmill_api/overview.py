"""What the first page shows: one range of time, its efficiency, where the energy went and what wastes it. No HTML.

The numbers are those of `/api/v1/efficiency`, `/ledger` and `/findings`, made by the same functions.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from wattmill_api import efficiency
from wattmill_api.parameters import DIMENSIONS, RangeQuestion, Window, window
from wattmill_api.routes.findings import document
from wattmill_api.routes.ledger import ACCOUNTS, merged
from wattmill_api.store import findings, prices, query
from wattmill_api.store.database import Connection
from wattmill_api.store.prices import Prices
from wattmill_api.store.query import Facts

RANGES = {
    "1h": dt.timedelta(hours=1),
    "6h": dt.timedelta(hours=6),
    "24h": dt.timedelta(days=1),
    "7d": dt.timedelta(days=7),
}
MOST_ROWS = 1000
MOST_FINDINGS = 20
EVERYTHING: dict[str, list[str] | None] = dict.fromkeys(DIMENSIONS)


@dataclass(frozen=True, slots=True)
class Account:
    """One step of the waterfall; `share` of the meter, None where the meter counted nothing."""

    name: str
    energy_mj: int
    share: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything the page says. `total` and `workloads` are rows of /efficiency, `findings` rows of /findings."""

    start: dt.datetime
    end: dt.datetime
    nodes: int
    simulated: bool
    total: dict[str, Any] | None
    trend: tuple[tuple[dt.datetime, float | None], ...]
    workloads: tuple[dict[str, Any], ...]
    accounts: tuple[Account, ...]
    meter_mj: int
    residual_mj: int
    findings: tuple[dict[str, Any], ...]

    @property
    def empty(self) -> bool:
        """Whether nothing was ever read."""
        return self.nodes == 0


def overview(connection: Connection, now: dt.datetime, length: dt.timedelta) -> Overview:
    """The last `length` before `now`. One snapshot, so that its parts fit each other."""
    with connection.transaction():
        query.one_snapshot(connection)
        known = prices.load(connection)
        asked = RangeQuestion(start=now - length, end=now)
        whole, steps = window(asked, None, now), window(asked, "auto", now)
        total = _efficiency(connection, whole, known, [])
        workloads = _efficiency(connection, whole, known, ["workload", "model", "team"])
        trend = _efficiency(connection, steps, known, [])
        spent = _facts(connection, whole, [], by_account=True)
        meter_mj = query.meter(connection, whole, EVERYTHING, with_host=False)
        found = findings.find(connection, state="open", limit=MOST_FINDINGS)
        nodes = query.inventory(connection, "nodes", filters=EVERYTHING, after=0, limit=MOST_ROWS)
    ledger = merged(spent)
    return Overview(
        start=whole.start,
        end=whole.end,
        nodes=len(nodes),
        simulated=any(node["simulated"] for node in nodes),
        total=total[0] if total else None,
        trend=tuple((row["time"], row["tokens_per_kwh"]) for row in trend),
        workloads=tuple(sorted(workloads, key=lambda row: -(row["energy_mj"] or 0))),
        accounts=_accounts(ledger, meter_mj),
        meter_mj=meter_mj,
        residual_mj=meter_mj - sum(row["energy_mj"] for row in ledger),
        findings=tuple(document(finding, known) for finding in found),
    )


def _facts(connection: Connection, asked: Window, by: list[str], *, by_account: bool = False) -> list[Facts]:
    return query.energy(connection, asked, by=by, filters=EVERYTHING, cuts=[], by_account=by_account, limit=MOST_ROWS)


def _efficiency(connection: Connection, asked: Window, known: Prices, by: list[str]) -> list[dict[str, Any]]:
    facts = _facts(connection, asked, by)
    return efficiency.rows(facts, known, scope="accelerator", start=asked.start, cuts=[])


def _accounts(ledger: list[dict[str, Any]], meter_mj: int) -> tuple[Account, ...]:
    """The four accounts of the accelerators in the order of the waterfall, absent ones at 0: the ledger says so."""
    spent = {row["account"]: row["energy_mj"] for row in ledger}
    names = [name for name in ACCOUNTS.values() if name != "overhead"]
    return tuple(
        Account(name, spent.get(name, 0), spent.get(name, 0) / meter_mj if meter_mj else None) for name in names
    )
