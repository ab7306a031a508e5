"""What the first page shows of one view: how efficient, where the energy went, who wastes it, what to do. No HTML.

The numbers are those of `/api/v1/efficiency`, `/ledger`, `/findings` and `/frontier`, made by the same functions out of
one snapshot. The ledger is read once, by step and workload; totals, accounts and trends are sums of that. At a wider
scope it is read again with the hosts: the meter and the accounts beside it stay those of the boards.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from wattmill_api import coverage
from wattmill_api.overview.books import Books, read
from wattmill_api.overview.consumers import Consumers, consumers
from wattmill_api.overview.headline import Headline, headline
from wattmill_api.overview.meters import Meters, meters
from wattmill_api.overview.places import Places, places
from wattmill_api.overview.quality import Quality, quality
from wattmill_api.overview.trend import Trend, trend
from wattmill_api.overview.waterfall import Waterfall, waterfall
from wattmill_api.overview.workloads import Workload, workloads
from wattmill_api.parameters import EnergyScope
from wattmill_api.routes.findings import document
from wattmill_api.store import findings, inventory, query
from wattmill_api.store.database import Connection
from wattmill_api.view import View

MOST_NODES = 10_000
MOST_FINDINGS = 1000
SHOWN_FINDINGS, SHOWN_OVER = 10, 8


@dataclasses.dataclass(frozen=True, slots=True)
class Overview:
    """Everything the page says. `findings` are rows of /findings that are not over: the first of `open_count`.

    `scope` is that of the energies; narrower than the view's where `without_pue` names sites that lack a PUE.

    `over` are those that ended in the range: the first of `over_count`.
    """

    view: View
    scope: EnergyScope
    without_pue: tuple[str, ...]
    nodes: int
    boards: int
    simulated: bool
    headline: Headline
    trend: Trend
    waterfall: Waterfall
    workloads: tuple[Workload, ...]
    places: Places
    findings: tuple[dict[str, Any], ...]
    over: tuple[dict[str, Any], ...]
    open_count: int
    over_count: int
    quality: Quality
    meters: Meters | None
    consumers: Consumers | None

    @property
    def empty(self) -> bool:
        """Whether nothing was ever read."""
        return self.nodes == 0


def overview(connection: Connection, view: View, retained: dt.timedelta) -> Overview:
    """The whole page. `retained`: how long minutes are kept, beyond which no meter can be compared.

    Errors: DatabaseAway, TooMuchAsked.
    """
    with connection.transaction():
        query.one_snapshot(connection)
        there = inventory.page(connection, "nodes", filters=view.filters, after=0, limit=MOST_NODES, now=view.now)
        boards = sum(node["accelerators"] for node in there)
        books = read(connection, view, view.step(boards))
        found = _findings(connection, view, books)
        expected = query.expected(connection, "accelerator", books.window, view.filters)
        should_us = None if view.names_owner else coverage.expected_us(expected, [], books.window, view.now)
        total = books.total(should_us)
        split = waterfall(connection, view, books, len({device.node_id for device in expected}), retained)
        owners = workloads(connection, view, books, found)
        where = places(connection, view, books, expected)
        above = meters(connection, view, boards)
        drew = consumers(connection, view, books)
        told = quality(connection, view, expected, there, boards)
        top = headline(connection, view, books, total, owners, found)
    still = [finding for finding in found if finding.until is None]
    over = [finding for finding in found if finding.until is not None]
    return Overview(
        view=view,
        scope=books.scope,
        without_pue=books.without_pue,
        nodes=len(there),
        boards=boards,
        simulated=any(node["simulated"] for node in there),
        headline=top,
        trend=trend(view, books),
        waterfall=split,
        workloads=owners,
        places=where,
        findings=tuple(document(finding, books.prices) for finding in still[:SHOWN_FINDINGS]),
        over=tuple(document(finding, books.prices) for finding in over[:SHOWN_OVER]),
        open_count=len(still),
        over_count=len(over),
        quality=told,
        meters=above,
        consumers=drew,
    )


def _findings(connection: Connection, view: View, books: Books) -> list[findings.Finding]:
    """Findings that lasted into the range, by what they waste. What has no filter of its own goes by its workloads."""
    names = view.filters["workload"]
    if names is None and (view.filters["team"] or view.filters["model"] or view.filters["engine"]):
        names = sorted({owner[0] or "" for owner in books.owners()})
    found = findings.find(
        connection,
        workload=names,
        node=view.filters["node"],
        site=view.filters["site"],
        start=view.start,
        end=view.end,
        limit=MOST_FINDINGS,
    )
    uuids = view.filters["accelerator"]
    if uuids:
        subjects = {f"accelerator:{uuid}" for uuid in uuids}
        owners = {owner[0] for owner in books.owners()}
        found = [finding for finding in found if finding.subject in subjects or finding.workload in owners]
    return [finding for finding in found if finding.state != "suppressed"]
