"""Findings as people see and handle them. Detection writes them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("finding")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table `finding`."""

    finding_id: int
    kind: str
    subject: str
    state: str
    site: str
    node: str
    workload: str
    since: dt.datetime
    until: dt.datetime | None
    last_seen: dt.datetime
    energy_mj: int
    evidence: Any
    summary: str
    remedy: str
    acknowledged: dt.datetime | None
    resolved: dt.datetime | None
    note: str
    simulated: bool


def find(
    connection: Connection,
    *,
    state: str | None = None,
    kind: list[str] | None = None,
    workload: list[str] | None = None,
    node: list[str] | None = None,
    site: list[str] | None = None,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    finding_id: int | None = None,
    limit: int = 1000,
) -> list[Finding]:
    """Findings, those not over first, then by energy; None filters nothing."""
    with connection.cursor(row_factory=class_row(Finding)) as cursor:
        return cursor.execute(
            _SQL["find"],
            {
                "state": state,
                "kind": kind,
                "workload": workload,
                "node": node,
                "site": site,
                "start": start,
                "end": end,
                "finding_id": finding_id,
                "limit": limit,
            },
        ).fetchall()


def acknowledge(connection: Connection, finding_id: int, note: str) -> bool:
    """Mark as seen; False if there is no such finding or it is over."""
    return connection.execute(_SQL["acknowledge"], {"finding_id": finding_id, "note": note}).fetchone() is not None


def resolve(connection: Connection, finding_id: int, note: str) -> bool:
    """Mark as over; False if there is no such finding."""
    return connection.execute(_SQL["resolve"], {"finding_id": finding_id, "note": note}).fetchone() is not None


def count_open(connection: Connection) -> int:
    """How many findings nobody has looked at yet."""
    row = connection.execute(_SQL["count_open"]).fetchone()
    return int(row[0]) if row else 0
