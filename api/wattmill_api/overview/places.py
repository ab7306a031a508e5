"""The next level down: sites of a fleet, nodes of a site, accelerators of a node; those that waste most first."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from wattmill_api import coverage
from wattmill_api.overview.books import IDLE_EMPTY, IDLE_LOADED, MOST_FACTS, Books
from wattmill_api.parameters import OWNER_DIMENSIONS
from wattmill_api.store import query
from wattmill_api.store.database import Connection
from wattmill_api.store.query import Expected
from wattmill_api.view import View

SHOWN = 50
TITLES = {"site": "Sites", "node": "Nodes", "accelerator": "Accelerators"}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A site, a node or an accelerator; `row` is its row of /efficiency, `address` the view of it alone."""

    name: str
    model: str | None
    row: dict[str, Any]
    idle_mj: int
    address: str

    @property
    def idle_share(self) -> float | None:
        return self.idle_mj / self.row["energy_mj"] if self.row["energy_mj"] else None


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """What the view consists of; `level` is empty where it can't be divided further. `count`: all, also not shown."""

    level: str
    rows: tuple[Place, ...]
    count: int

    @property
    def title(self) -> str:
        return TITLES[self.level]


def places(connection: Connection, view: View, books: Books, expected: Sequence[Expected]) -> Places:
    """The places of a view. A fleet of one site begins with its nodes, a view of one node with its accelerators."""
    if view.only("accelerator"):
        return Places("", (), 0)
    sites, nodes = {device.site for device in expected}, {(device.site, device.node) for device in expected}
    level = "site" if len(sites) > 1 else "node" if len(nodes) > 1 and not view.only("node") else "accelerator"
    facts = query.energy(
        connection, books.window, by=[level], filters=view.filters, cuts=books.cuts, by_account=True, limit=MOST_FACTS
    )
    facts = [item for item in facts if dict(item.group)[level] is not None]
    idle: dict[str | None, int] = defaultdict(int)
    for item in facts:
        if item.account in (IDLE_LOADED, IDLE_EMPTY):
            idle[dict(item.group)[level]] += item.energy_mj
    should_us = None
    if not any(view.filters[name] for name in OWNER_DIMENSIONS):
        should_us = coverage.expected_us(expected, [level], books.window, view.now)
    rows = books.rows((dataclasses.replace(item, account=None) for item in facts), should_us)
    models = {device.name: device.model for device in expected}
    found = [
        Place(
            name, models.get(name) if level == "accelerator" else None, row, idle[name], view.address(**{level: name})
        )
        for row in rows
        for name in [row["group"][level]]
    ]
    found.sort(key=lambda place: (-place.idle_mj, -(place.row["energy_mj"] or 0), place.name))
    return Places(level, tuple(found[:SHOWN]), len(found))
