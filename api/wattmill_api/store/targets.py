"""Versions of latency targets by workload. The row with the latest `valid_from` not after t holds at t.

Workload `*` is every workload that has no row of its own at that time.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable

from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection
from wattmill_api.store.prices import History

_SQL = statements("targets")


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One version. None: no target."""

    workload: str
    valid_from: dt.datetime
    inter_token_latency_us: int | None
    time_to_first_token_us: int | None
    recorded: dt.datetime


def rows(connection: Connection) -> list[Target]:
    """All versions, by workload and time."""
    with connection.cursor(row_factory=class_row(Target)) as cursor:
        return cursor.execute(_SQL["targets"]).fetchall()


def load(connection: Connection) -> History:
    """What held when: `at(workload, time)` gives a Target or None."""
    return History((target.workload, target.valid_from, target) for target in rows(connection))


def put(connection: Connection, versions: Iterable[dict[str, object]]) -> list[Target]:
    """Write versions in one transaction; the same workload and time again replaces. Returns them as stored."""
    stored: list[Target] = []
    with connection.transaction(), connection.cursor(row_factory=class_row(Target)) as cursor:
        for version in versions:
            stored += cursor.execute(_SQL["put_target"], version).fetchall()
    return stored
