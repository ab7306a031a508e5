"""Power meters of a view beside what stands below them, over its last day at most: those that disagree come first.

Of large fleets it is whole hours, and fewer of them: minutes of all their boards are too many to read for a page.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from wattmill_api import meters as grouping
from wattmill_api.coverage import settled_at
from wattmill_api.meters import Group
from wattmill_api.parameters import DAY, EPOCH, HOUR, MINUTE, RangeQuestion, window
from wattmill_api.routes.meters import MOST_METERS, compared
from wattmill_api.store import meters as store
from wattmill_api.store.database import Connection
from wattmill_api.view import View

SHOWN = 8
MOST_BOARD_MINUTES = 400_000
MOST_CHASSIS = 50  # where nothing stands above the nodes of a view, so many of them are looked at


@dataclasses.dataclass(frozen=True, slots=True)
class Meters:
    """`rows` of /meters for the stretch of time: the first of `count`, of which `differ` do not agree."""

    start: dt.datetime
    end: dt.datetime
    rows: tuple[Mapping[str, Any], ...]
    count: int
    differ: int


def meters(connection: Connection, view: View, boards: int) -> Meters | None:
    """None where there is none: also for a view of workloads or single boards, which no meter can tell apart.

    `boards`: how many the view has.
    """
    end = min(view.end, settled_at(view.now))
    start = max(view.start, end - DAY)
    if view.names_owner or view.names_board or start >= end or not store.any_meter(connection):
        return None
    if boards * ((end - start) // MINUTE) > MOST_BOARD_MINUTES:
        end -= (end - EPOCH) % HOUR
        start = min(max(start + (EPOCH - start) % HOUR, end - 6 * HOUR), end - HOUR)
    asked = window(RangeQuestion(start=start, end=end), None, view.now)
    sites = view.filters["site"]
    found = store.meters(connection, asked, sites, MOST_METERS)
    every = grouping.groups(found, store.nodes(connection, asked, sites))
    rows = compared(connection, asked, _wanted(every, view.filters["node"]), every)
    if not rows:
        return None
    rows.sort(key=lambda row: (row["reconciles"] is not False, row["reconciles"] is None, -row["energy_mj"]))
    differ = sum(row["reconciles"] is False for row in rows)
    return Meters(asked.start, asked.end, tuple(rows[:SHOWN]), len(rows), differ)


def _wanted(every: Sequence[Group], nodes: list[str] | None) -> list[Group]:
    here = [group for group in every if nodes is None or any(node.name in nodes for node in group.nodes)]
    above = [group for group in here if group.level != "chassis"]
    return above or here[:MOST_CHASSIS]
