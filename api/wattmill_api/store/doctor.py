"""What `wattmill doctor --database-url` asks of the database; nothing is changed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("doctor")
_CONNECT_TIMEOUT_SECONDS = 5
_WEEK = dt.timedelta(days=7)
_HOUR = dt.timedelta(hours=1)
Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """`connections`: how many there may be, those of superusers left out."""

    now: dt.datetime
    fsync: bool
    full_page_writes: bool
    connections: int


@dataclasses.dataclass(frozen=True, slots=True)
class JobRun:
    job: str
    started: dt.datetime
    finished: dt.datetime | None
    ok: bool | None
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class RolledUp:
    """`waiting`: touched spans that no minute was made of yet, 10,000 at most."""

    newest_minute: dt.datetime | None
    newest_reading: dt.datetime | None
    waiting: int


@dataclasses.dataclass(frozen=True, slots=True)
class KeptTooLong:
    samples: bool
    minutes: bool


@dataclasses.dataclass(frozen=True, slots=True)
class NodeCounts:
    """`ahead`: nodes whose clock is ahead of the service's."""

    nodes: int
    silent: int
    longest_silent: list[str] | None
    ahead: int


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    keys: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Unpriced:
    """What is missing at a site."""

    site: str
    tariff: bool
    carbon: bool


@dataclasses.dataclass(frozen=True, slots=True)
class FailingWebhook:
    name: str
    failures: int
    error: str


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """Everything that was asked, of one service."""

    server: Server
    jobs: list[JobRun]
    rolled_up: RolledUp
    kept_too_long: KeptTooLong
    nodes: NodeCounts
    access: Access
    sites: list[Unpriced]
    failing_webhooks: list[FailingWebhook]


def read(
    url: str,
    *,
    now: dt.datetime,
    samples: dt.timedelta,
    minutes: dt.timedelta,
    silent: dt.timedelta,
    ahead: dt.timedelta,
) -> Health:
    """`samples`, `minutes`: how old they may be; `silent`, `ahead`: how far a node may be from now.

    Errors: migrate.Unreachable when the database is away.
    """
    parameters = {
        "now": now,
        "since": now - _WEEK,
        "until": now + _HOUR,
        "samples_before": now - samples,
        "minutes_before": now - minutes,
        "silent": now - silent,
        "ahead": now + ahead,
    }
    options = "-c default_transaction_read_only=on -c statement_timeout=30000 -c TimeZone=UTC"
    with psycopg.connect(
        url,
        autocommit=True,
        options=options,
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        application_name="wattmill doctor",
    ) as connection:
        return Health(
            server=_rows(connection, "server", Server, parameters)[0],
            jobs=_rows(connection, "jobs", JobRun, parameters),
            rolled_up=_rows(connection, "rolled_up", RolledUp, parameters)[0],
            kept_too_long=_rows(connection, "kept_too_long", KeptTooLong, parameters)[0],
            nodes=_rows(connection, "node_counts", NodeCounts, parameters)[0],
            access=_rows(connection, "access", Access, parameters)[0],
            sites=_rows(connection, "unpriced", Unpriced, parameters),
            failing_webhooks=_rows(connection, "failing_webhooks", FailingWebhook, parameters),
        )


def _rows(connection: Connection, name: str, kind: type[Kind], parameters: dict[str, Any]) -> list[Kind]:
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(_SQL[name], parameters).fetchall()
