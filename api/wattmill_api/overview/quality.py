"""How far the figures can be trusted: what was not covered and why, readings that were not believed, silent nodes."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from wattmill_api import coverage
from wattmill_api.coverage import Gap
from wattmill_api.parameters import HOUR, MINUTE, RangeQuestion, window
from wattmill_api.store import inventory, query
from wattmill_api.store.database import Connection
from wattmill_api.store.query import Expected
from wattmill_api.view import View

# How much is looked at, in minutes of boards: gaps of months are asked of /coverage.
MOST_BOARD_MINUTES = 100_000
LONGEST = 6 * HOUR
MOST_ISLANDS = 50_000
SHOWN = 8
MOST_TOLD = 10
SILENT_TICKS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Gaps:
    """A node that was not covered all the time; its gaps from the first on."""

    node: str
    site: str
    covered_ratio: float
    gaps: tuple[Gap, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Silent:
    """A node that should have said something by now."""

    node: str
    site: str
    last_seen: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What the agent of a node says, in its words, or of `what` for which `reason`."""

    node: str
    site: str
    what: str
    reason: str
    detail: str | None
    since: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    """Of `start` to `end`, the last part of the range. `distrusted`: readings that contradicted their counter.

    `gaps`, `silent`, `unread` and `told` are the worst, or first, of their counts. `unread`: targets of engines that
    can't be read or understood; `told`: what else an agent could not read or explain, the longest first. `age`: of the
    newest reading of all.
    """

    start: dt.datetime
    end: dt.datetime
    covered_ratio: float | None
    distrusted: int
    gaps: tuple[Gaps, ...]
    gaps_count: int
    silent: tuple[Silent, ...]
    silent_count: int
    unread: tuple[Mapping[str, Any], ...]
    unread_count: int
    told: tuple[Told, ...]
    told_count: int
    age: dt.timedelta | None


def quality(
    connection: Connection, view: View, expected: Sequence[Expected], nodes: Sequence[Mapping[str, Any]], boards: int
) -> Quality:
    """The quality of a view. `nodes` are rows of the inventory."""
    most = max(HOUR, MOST_BOARD_MINUTES // max(1, boards) * MINUTE)
    part = view.last(min(LONGEST, most))
    # The last minutes are still being written and are judged by nobody.
    end = max(part.start, min(part.end, coverage.settled_at(view.now)))
    asked = window(RangeQuestion(start=part.start, end=end), None, view.now)
    islands = query.islands(connection, "accelerator", asked, view.filters, MOST_ISLANDS)
    absences = query.absences(connection, asked, view.filters, MOST_ISLANDS)
    covered = coverage.of_devices(
        expected, islands, absences, kind="accelerator", start=asked.start, end=asked.end, now=view.now
    )
    gaps = []
    for group, items in coverage.grouped(covered, "node").items():
        should_us = sum(item.expected_us for item in items)
        if should_us and any(item.gaps for item in items):
            names = dict(group)
            share = sum(item.covered_us for item in items) / should_us
            joined = coverage.join(gap for item in items for gap in item.gaps)
            gaps.append(Gaps(names["node"], names["site"], share, tuple(joined)))
    gaps.sort(key=lambda each: (each.covered_ratio, each.site, each.node))
    silent = [
        Silent(node["name"], node["site"], node["last_seen"])
        for node in nodes
        if view.now - node["last_seen"] > max(MINUTE, SILENT_TICKS * dt.timedelta(microseconds=node["interval_us"]))
    ]
    silent.sort(key=lambda each: each.last_seen)
    told = _told(view, nodes)
    unread = inventory.unread(connection, view.filters, view.now, MOST_ISLANDS)
    expected_us = sum(item.expected_us for item in covered)
    return Quality(
        start=asked.start,
        end=asked.end,
        covered_ratio=sum(item.covered_us for item in covered) / expected_us if expected_us else None,
        distrusted=sum(item.anomalies for item in covered),
        gaps=tuple(gaps[:SHOWN]),
        gaps_count=len(gaps),
        silent=tuple(silent[:SHOWN]),
        silent_count=len(silent),
        unread=tuple(unread[:SHOWN]),
        unread_count=len(unread),
        told=tuple(told[:MOST_TOLD]),
        told_count=len(told),
        age=max((view.now - max(node["last_seen"] for node in nodes)), dt.timedelta(0)) if nodes else None,
    )


def _told(view: View, nodes: Sequence[Mapping[str, Any]]) -> list[Told]:
    """What agents say of anything but engines, which have a line of their own; of single boards where a view is so."""
    boards = view.filters["accelerator"]
    told = [
        Told(
            node=node["name"],
            site=node["site"],
            what=f"{said['subject']} {said['id']}".rstrip(),
            reason=said["reason"],
            detail=said["detail"],
            since=dt.datetime.fromisoformat(said["since"]),
        )
        for node in nodes
        for said in node["told"]
        if said["subject"] != "engine" and (not boards or (said["subject"] == "accelerator" and said["id"] in boards))
    ]
    return sorted(told, key=lambda each: (each.since, each.site, each.node, each.what))
