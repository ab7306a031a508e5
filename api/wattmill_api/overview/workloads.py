"""Workloads by what they waste: idle time from the ledger, exactly; inefficient serving from findings, estimated.

A finding counts in the range as the share of its time that lies in it. The energy of replicas too many
(over-provisioned) includes that of their idle time, so the larger of the two counts, never both.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from wattmill_api import efficiency, frontier
from wattmill_api.coverage import settled_at
from wattmill_api.efficiency import per_kwh
from wattmill_api.overview.books import IDLE_EMPTY, IDLE_LOADED, OWNER, SERVING, Books, Owner, owner_of
from wattmill_api.parameters import HOUR, window
from wattmill_api.store import frontier as store
from wattmill_api.store import query
from wattmill_api.store.database import Connection
from wattmill_api.store.findings import Finding
from wattmill_api.view import View

SERVING_KINDS = frozenset(
    {"throttled", "kv-thrash", "straggler", "regression", "queue-starved", "cache-miss", "low-batch"}
)
TOO_MANY = "over-provisioned"
MOST_ROWS = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Distance:
    """Energy a token over that of the best published configuration, in the last hour of the range; x 1 is as good."""

    ratio: float
    energy_mj: int
    confidence: str
    how: str


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """A workload, or nobody's energy (`name` None). `row` is its row of /efficiency.

    `idle_mj` is of the ledger, `serving_waste_mj` an estimate; `waste_mj` is both, never more than all energy.
    """

    name: str | None
    model: str | None
    team: str | None
    row: dict[str, Any]
    idle_mj: int
    serving_waste_mj: int
    waste_mj: int
    points: tuple[tuple[dt.datetime, float | None], ...]
    distance: Distance | None
    findings: tuple[Finding, ...]

    @property
    def waste_share(self) -> float | None:
        return self.waste_mj / self.row["energy_mj"] if self.row["energy_mj"] else None


def workloads(connection: Connection, view: View, books: Books, found: Sequence[Finding]) -> tuple[Workload, ...]:
    """By waste, most first; those that waste nothing by energy."""
    idle: dict[Owner, int] = defaultdict(int)
    for item in books.facts:
        if item.account in (IDLE_LOADED, IDLE_EMPTY):
            idle[owner_of(item)] += item.energy_mj
    distances = _distances(connection, view, books)
    points = _points(books)
    together: dict[tuple[Any, ...], Any] = {}
    rows = books.rows(dataclasses.replace(item, account=None) for item in books.facts)
    names = [row["group"].get("workload") for row in rows]
    for row in rows:
        owner = tuple(row["group"].get(name) for name in OWNER)
        # Findings know only the name: of two workloads with the same one, nobody can say whose they are.
        mine = [f for f in found if owner[0] and f.workload == owner[0]] if names.count(owner[0]) == 1 else []
        serving_waste = sum(_inside(f, view) for f in mine if f.kind in SERVING_KINDS)
        spare = max(idle[owner], sum(_inside(f, view) for f in mine if f.kind == TOO_MANY))
        waste = min(spare + serving_waste, row["energy_mj"] or 0)
        together[owner] = Workload(
            *(owner[0], owner[1], owner[2], row, idle[owner], waste - idle[owner], waste),
            points=points.get(owner, ()),
            distance=distances.get(owner),
            findings=tuple(f for f in mine if f.until is None),
        )
    return tuple(sorted(together.values(), key=lambda one: (-one.waste_mj, -(one.row["energy_mj"] or 0))))


def _inside(finding: Finding, view: View) -> int:
    """The part of a finding's energy that fell into the range, as if it had been spent evenly."""
    until = finding.until or finding.last_seen
    length = until - finding.since
    inside = min(until, view.end) - max(finding.since, view.start)
    if length <= dt.timedelta(0) or inside <= dt.timedelta(0):
        return 0
    return int(finding.energy_mj * (inside / length))


def _points(books: Books) -> dict[Owner, tuple[tuple[dt.datetime, float | None], ...]]:
    """Output tokens per kWh of each workload by step."""
    sums: dict[Owner, dict[dt.datetime, list[int]]] = defaultdict(dict)
    for item in books.stepped:
        if item.group:
            both = sums[owner_of(item)].setdefault(item.bucket, [0, 0])
            both[0] += item.output_tokens or 0
            both[1] += item.energy_mj
    return {
        owner: tuple((time, per_kwh(tokens, energy_mj)) for time, (tokens, energy_mj) in sorted(steps.items()))
        for owner, steps in sums.items()
    }


def _distances(connection: Connection, view: View, books: Books) -> dict[Owner, Distance]:
    """How far each workload ran from the best published configuration in the last hour: rows of /frontier, added up."""
    asked = window(view.last(HOUR).question(), None, view.now)
    facts = query.energy(
        connection, asked, by=frontier.BY, filters=view.filters, cuts=[], by_account=True, limit=MOST_ROWS
    )
    if not facts or asked.start >= settled_at(view.now):
        return {}

    def priced(some: Iterable[query.Facts]) -> list[dict[str, Any]]:
        return efficiency.rows(list(some), books.prices, scope="accelerator", start=asked.start, cuts=[])

    serving = frontier.serving(priced(item for item in facts if item.account == SERVING))
    rows = frontier.rows(
        priced(facts), serving, store.concurrency(connection, asked, view.filters, MOST_ROWS), "accelerator"
    )
    known: dict[Owner, list[Distance]] = defaultdict(list)
    for row in rows:
        if row["ratio"]:
            owner = tuple(row["group"][name] for name in OWNER)
            energy_mj = row["observed"]["energy_mj"]
            known[owner].append(Distance(row["ratio"], energy_mj, row["matched"]["confidence"], row["matched"]["how"]))
    return {owner: together(distances) for owner, distances in known.items()}


def together(distances: Sequence[Distance]) -> Distance:
    """Several distances as one: all their energy over what the best configurations would have used."""
    energy_mj = sum(each.energy_mj for each in distances)
    best_mj = sum(each.energy_mj / each.ratio for each in distances)
    largest = max(distances, key=lambda each: each.energy_mj)
    return Distance(energy_mj / best_mj if best_mj else largest.ratio, energy_mj, largest.confidence, largest.how)
