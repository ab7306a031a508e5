"""The first three answers: how efficient, who wastes most, what to do; and the strip of figures below them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

from wattmill_api.coverage import settled_at
from wattmill_api.efficiency import per_kwh
from wattmill_api.overview.books import IDLE_EMPTY, IDLE_LOADED, Books
from wattmill_api.overview.workloads import Distance, Workload, together
from wattmill_api.parameters import MINUTE, RangeQuestion
from wattmill_api.store.database import Connection
from wattmill_api.store.findings import Finding
from wattmill_api.view import View

NOW = 5 * MINUTE
LEAST_COMPARED = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Now:
    """The last minutes that are closed: output tokens per kWh and mean power."""

    end: dt.datetime
    tokens_per_kwh: float | None
    kilowatts: float


@dataclasses.dataclass(frozen=True, slots=True)
class Headline:
    """`total` is the row of /efficiency for the range. `change`: its tokens per kWh over those of `compared`, earlier.

    `distance` is of all workloads that the frontier knows, `known_share` their part of the energy of the last hour.
    `waste_share`: idle energy of the ledger over all of it. `action` is the finding to begin with.
    """

    total: dict[str, Any] | None
    now: Now | None
    change: float | None
    compared: str
    distance: Distance | None
    waste_mj: int
    waste_share: float | None
    worst: Workload | None
    action: Finding | None


def headline(
    connection: Connection,
    view: View,
    books: Books,
    total: dict[str, Any] | None,
    owners: Sequence[Workload],
    found: Sequence[Finding],
) -> Headline:
    """The headline of a view. `owners` by waste, `found` by energy."""
    earlier, compared = view.earlier()
    of_now = None if total is None else total["tokens_per_kwh"]
    before = _per_kwh(connection, earlier, books)
    accounts = books.by_account(books.facts)
    idle_mj = accounts.get(IDLE_LOADED, 0) + accounts.get(IDLE_EMPTY, 0)
    spent_mj = sum(accounts.values())
    worst = next((one for one in owners if one.name is not None and one.waste_mj > 0), None)
    open_ones = [finding for finding in found if finding.until is None and finding.kind != "telemetry-untrusted"]
    distances = [one.distance for one in owners if one.distance is not None]
    return Headline(
        total=total,
        now=_now(connection, view, books),
        change=of_now / before if of_now and before else None,
        compared=compared,
        distance=together(distances) if distances else None,
        waste_mj=idle_mj,
        waste_share=idle_mj / spent_mj if spent_mj else None,
        worst=worst,
        action=_action(worst, open_ones),
    )


def _action(worst: Workload | None, found: Sequence[Finding]) -> Finding | None:
    """The finding of the worst workload that wastes most a day, else that of anything."""
    mine = [finding for finding in found if worst is not None and finding.workload == worst.name]
    return max(mine or found, key=lambda finding: (finding.mj_per_day or 0, finding.energy_mj), default=None)


def _per_kwh(connection: Connection, view: View, books: Books) -> float | None:
    """Output tokens per kWh of another range; None where less than `LEAST_COMPARED` of the books was read in it."""
    facts = books.other(connection, view.question(), None, 1000)
    if sum(item.span_us for item in facts) < LEAST_COMPARED * sum(item.span_us for item in books.facts):
        return None
    return per_kwh(sum(item.output_tokens or 0 for item in facts), sum(item.energy_mj for item in facts))


def _now(connection: Connection, view: View, books: Books) -> Now | None:
    """The newest minutes of the range; None where it has none that are closed."""
    end = min(view.end, settled_at(view.now))
    if end - NOW < view.start:
        return None
    facts = books.other(connection, RangeQuestion(start=end - NOW, end=end), "1m", 1000)
    minutes = {item.bucket for item in facts}
    if not minutes:
        return None
    energy_mj = sum(item.energy_mj for item in facts)
    seconds = len(minutes) * MINUTE.total_seconds()
    return Now(end, per_kwh(sum(item.output_tokens or 0 for item in facts), energy_mj), energy_mj / 1e6 / seconds)
