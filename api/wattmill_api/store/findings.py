"""Findings as people see and handle them. Detection writes them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any, LiteralString

from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("finding")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table `finding`, and what came of it where that is measured (`saving_…`)."""

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
    known: dt.datetime | None
    found: dt.datetime | None
    revision: int
    merged_into: int | None
    energy_mj: int
    mj_per_day: int | None
    evidence: Any
    summary: str
    remedy: str
    acknowledged: dt.datetime | None
    resolved: dt.datetime | None
    note: str
    simulated: bool
    saving_since: dt.datetime | None
    saving_until: dt.datetime | None
    saving_method: str | None
    saved_mj: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a finding. `by`: name of a key, `detection`, or empty where no key is needed."""

    time: dt.datetime
    what: str
    by: str
    note: str


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
    """Findings, those not over first, then by energy; None filters nothing. A merged one is found by its id alone."""
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


def history(connection: Connection, finding_id: int) -> list[Event]:
    """What happened to a finding, oldest first."""
    with connection.cursor(row_factory=class_row(Event)) as cursor:
        return cursor.execute(_SQL["history"], {"finding_id": finding_id}).fetchall()


def boards(connection: Connection, finding_id: int) -> list[str]:
    """UUIDs of the boards that a finding is about."""
    return [row[0] for row in connection.execute(_SQL["boards"], {"finding_id": finding_id})]


def acknowledge(connection: Connection, finding_id: int, note: str, by: str) -> bool:
    """Mark as seen; False if there is no such finding or it is over."""
    return _mark(connection, finding_id, "acknowledged", _SQL["acknowledge"], note, by)


def resolve(connection: Connection, finding_id: int, note: str, by: str) -> bool:
    """Mark as over; False if there is no such finding or a person said so already."""
    return _mark(connection, finding_id, "resolved", _SQL["resolve"], note, by)


def _mark(connection: Connection, finding_id: int, what: str, statement: LiteralString, note: str, by: str) -> bool:
    with connection.transaction():
        if connection.execute(statement, {"finding_id": finding_id, "note": note}).fetchone() is None:
            return False
        connection.execute(_SQL["event"], {"finding_id": finding_id, "what": what, "by": by, "note": note})
    return True


def count_open(connection: Connection) -> int:
    """How many findings nobody has looked at yet."""
    row = connection.execute(_SQL["count_open"]).fetchone()
    return int(row[0]) if row else 0
