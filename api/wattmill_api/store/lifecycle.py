"""Findings as detection keeps them: one incident is one row, with the history of what happened to it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("lifecycle")
ANYTHING = "*"
DETECTION = "detection"


class Refused(Exception):
    """The store refuses what was to be written of one subject; nothing of it was kept."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """Who a finding is about; `site` and `node` are empty where it spans several."""

    name: str
    site: str
    node: str
    workload: str
    simulated: bool
    engine_ids: tuple[int, ...]
    board_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A finding that may be about an incident found now."""

    finding_id: int
    kind: str
    subject: str
    state: str
    since: dt.datetime
    until: dt.datetime | None
    last_seen: dt.datetime
    acknowledged: dt.datetime | None
    resolved: dt.datetime | None
    energy_mj: int
    carried_mj: int
    counted_from: dt.datetime | None
    evidence: Mapping[str, float | int | str] = dataclasses.field(default_factory=dict)
    remedy: str = ""

    @property
    def end(self) -> dt.datetime:
        """How far it was told to reach."""
        return self.last_seen if self.until is None else max(self.until, self.last_seen)


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What is known now of an incident, as it is written."""

    state: str
    since: dt.datetime
    until: dt.datetime | None
    last_seen: dt.datetime
    known: dt.datetime
    energy_mj: int
    carried_mj: int
    counted_from: dt.datetime
    mj_per_day: int | None
    evidence: Mapping[str, float | int | str]
    summary: str
    remedy: str


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A time in which certain incidents have no open finding; `*` matches everything."""

    kind: str
    subject: str
    workload: str
    node: str
    site: str
    since: dt.datetime
    until: dt.datetime

    def covers(self, kind: str, subject: Subject, since: dt.datetime, until: dt.datetime) -> bool:
        """Whether an incident lies inside; its times are whole minutes, so the first one may begin before it."""
        return self.silences(kind, subject, until) and since > self.since - dt.timedelta(minutes=1)

    def silences(self, kind: str, subject: Subject, until: dt.datetime) -> bool:
        """Whether an incident that reaches to `until`, whenever it began, has come to lie inside."""
        names = (kind, subject.name, subject.workload, subject.node, subject.site)
        wanted = (self.kind, self.subject, self.workload, self.node, self.site)
        return (
            all(want in (ANYTHING, name) for want, name in zip(wanted, names, strict=True))
            and self.since < until <= self.until
        )


def known_findings(connection: Connection, first: dt.datetime) -> list[Known]:
    """Findings that are not over, or were seen since `first`."""
    with connection.cursor(row_factory=class_row(Known)) as cursor:
        return cursor.execute(_SQL["known"], {"first": first}).fetchall()


def windows(connection: Connection, first: dt.datetime) -> list[Window]:
    """Suppression windows that reach past `first`."""
    with connection.cursor(row_factory=class_row(Window)) as cursor:
        return cursor.execute(_SQL["windows"], {"first": first}).fetchall()


@contextlib.contextmanager
def apart(connection: Connection) -> Iterator[None]:
    """What is written inside stands or falls by itself, also within a transaction. Errors: Refused."""
    try:
        with connection.transaction():
            yield
    except (psycopg.IntegrityError, psycopg.DataError) as error:
        raise Refused(str(error)) from error


def insert(connection: Connection, kind: str, subject: Subject, seen: Seen, found: dt.datetime) -> int:
    """A new finding, told at `found` for the first time; returns its id."""
    row = connection.execute(
        _SQL["insert"], {**_row(subject, seen), "kind": kind, "subject": subject.name, "site": subject.site,
                         "node": subject.node, "simulated": subject.simulated, "found": found},
    ).fetchone()  # fmt: skip
    assert row is not None  # INSERT … RETURNING
    return int(row[0])


def update(connection: Connection, finding_id: int, subject: Subject, seen: Seen) -> None:
    """What is known now of a finding; its revision rises if that is anything new."""
    connection.execute(_SQL["update"], {**_row(subject, seen), "finding_id": finding_id})


def close(connection: Connection, finding_id: int, state: str) -> None:
    """Its incident is not there any more: over when it was last seen."""
    connection.execute(_SQL["close"], {"finding_id": finding_id, "state": state})


def merge(connection: Connection, finding_id: int, into: int) -> None:
    """Its incident turned out to be another finding's, which takes over what it knew and counted."""
    connection.execute(_SQL["absorb"], {"finding_id": finding_id, "into": into})
    connection.execute(_SQL["merge"], {"finding_id": finding_id, "into": into})


def note_event(connection: Connection, finding_id: int, what: str, by: str, note: str = "") -> None:
    """Add a line to a finding's history."""
    connection.execute(_SQL["event"], {"finding_id": finding_id, "what": what, "by": by, "note": note})


def forget_saving(connection: Connection, finding_id: int) -> None:
    """It goes on: nothing was saved yet."""
    connection.execute(_SQL["forget_saving"], {"finding_id": finding_id})


def _row(subject: Subject, seen: Seen) -> dict[str, Any]:
    return {
        **{field.name: getattr(seen, field.name) for field in dataclasses.fields(seen)},
        "evidence": Jsonb(dict(seen.evidence)),
        "workload": subject.workload,
        "engine_ids": list(subject.engine_ids),
        "board_ids": list(subject.board_ids),
    }
