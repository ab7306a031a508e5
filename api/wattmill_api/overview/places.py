"""The next level down: sites of a fleet, nodes of a site, accelerators of a node; those that waste most first."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from wattmill_api import coverage
from wattmill_api.overview.books import IDLE_EMPTY, IDLE_LOADED, MOST_FACTS, Books, at_scope, energy
from wattmill_api.parameters import OWNER_DIMENSIONS
from wattmill_api.store import inventory
from wattmill_api.store.database import Connection
from wattmill_api.store.query import Expected
from wattmill_api.view import View

SHOWN, MOST_BOARDS = 50, 1000
TITLES = {"site": "Sites", "node": "Nodes", "accelerator": "Accelerators"}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A site, a node or an accelerator; `row` is its row of /efficiency, `address` the view of it alone.

    `held`: how an accelerator's energy is given to those who hold it, where that is not plain.
    """

    name: str
    model: str | None
    held: str | None
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
    facts = energy(connection, view, books.window, books.scope, by=[level], cuts=books.cuts, limit=MOST_FACTS)
    facts = at_scope(facts, books.prices, books.scope, books.window, books.cuts)
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
    held = _held(connection, view) if level == "accelerator" else {}
    found = [
        Place(
            name,
            models.get(name) if level == "accelerator" else None,
            held.get(name),
            row,
            idle[name],
            view.address(**{level: name}),
        )
        for row in rows
        for name in [row["group"][level]]
    ]
    found.sort(key=lambda place: (-place.idle_mj, -(place.row["energy_mj"] or 0), place.name))
    return Places(level, tuple(found[:SHOWN]), len(found))


def _held(connection: Connection, view: View) -> dict[str, str]:
    """Of boards that are shared, or whose placement is not sure: by whom and how, by UUID."""
    rows = inventory.page(connection, "accelerators", filters=view.filters, after=0, limit=MOST_BOARDS, now=view.now)
    found = {}
    for row in rows:
        there = [
            each
            for each in row["placements"]
            if dt.datetime.fromisoformat(each["until"]) >= view.start
            and dt.datetime.fromisoformat(each["since"]) < view.end
        ]
        engines = len({each["engine"] for each in there})
        by = sorted({each["share_by"] for each in there if each["share_by"]})
        doubt = next((word for word in ("low", "medium") if any(each["confidence"] == word for each in there)), "")
        words = [f"{engines} engine{'s' if engines != 1 else ''}" if engines > 1 or by else "", f"by {', '.join(by)}"]
        said = " ".join(words[: 1 + bool(by)]).strip()
        parts = [part for part in (said, f"confidence {doubt}" if doubt else "") if part]
        if parts:
            found[row["uuid"]] = ", ".join(parts)
    return found
