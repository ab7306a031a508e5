"""Webhooks: who is told of findings, what each of them knows, and the outbox of what is still to be told.

What a receiver was last told of a finding and the delivery that tells it are one transaction (`tell`): nothing is told
twice and nothing that was noted as told is missing from the outbox.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("webhooks")
MOST = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver. `url` may hold a token and is shown to nobody; `secret` is the name of one."""

    webhook_id: int
    name: str
    url: str
    secret: str
    kinds: Sequence[str]
    teams: Sequence[str]
    sites: Sequence[str]
    min_energy_mj: int
    send_resolved: bool
    by: str
    created: dt.datetime
    failures: int
    delivered: dt.datetime | None
    error: str
    waiting: int


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A finding that a receiver does not know to be open, or to be over. `teams`: those it concerns, sorted."""

    webhook_id: int
    receiver: str
    send_resolved: bool
    finding_id: int
    firing: bool
    teams: Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is ours to try. `attempts`: tries of it so far; `failures`: those of its webhook in a row."""

    delivery_id: int
    webhook_id: int
    token: str
    body: str
    attempts: int
    created: dt.datetime
    url: str
    secret: str
    failures: int


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery as people see it."""

    delivery_id: int
    finding_id: int
    firing: bool
    state: str
    attempts: int
    created: dt.datetime
    ended: dt.datetime | None
    reason: str


def all_webhooks(connection: Connection) -> list[Webhook]:
    """Every webhook, oldest first."""
    return _webhooks(connection, None)


def find(connection: Connection, webhook_id: int) -> Webhook | None:
    return next(iter(_webhooks(connection, webhook_id)), None)


def add(connection: Connection, wanted: Mapping[str, Any]) -> Webhook | None:
    """A new webhook, as stored; None where its name is taken. Errors: ValueError when there are `MOST`."""
    with connection.transaction():
        connection.execute(_SQL["lock"])
        count = connection.execute(_SQL["count"]).fetchone()
        if count is not None and count[0] >= MOST:
            raise ValueError(f"there are {MOST} already, the most there may be")
        row = connection.execute(_SQL["add"], wanted).fetchone()
    return None if row is None else find(connection, row[0])


def remove(connection: Connection, webhook_id: int) -> Webhook | None:
    """Take a webhook and its outbox away; returns what it was, None if there is none."""
    found = find(connection, webhook_id)
    connection.execute(_SQL["remove"], {"webhook_id": webhook_id})
    return found


def deliveries(connection: Connection, webhook_id: int, limit: int) -> list[Delivery]:
    """What was told, newest first."""
    with connection.cursor(row_factory=class_row(Delivery)) as cursor:
        return cursor.execute(_SQL["deliveries"], {"webhook_id": webhook_id, "limit": limit}).fetchall()


def changes(connection: Connection, limit: int) -> list[Change]:
    """What receivers do not know yet, oldest finding first."""
    with connection.cursor(row_factory=class_row(Change)) as cursor:
        return cursor.execute(_SQL["changed"], {"limit": limit}).fetchall()


def tell(connection: Connection, change: Change, body: str | None, now: dt.datetime) -> bool:
    """Note that a receiver knows, and put `body` into the outbox unless it is None; False if it was noted already."""
    parameters = {
        "webhook_id": change.webhook_id,
        "finding_id": change.finding_id,
        "firing": change.firing,
        "body": body,
        "now": now,
    }
    with connection.transaction():
        if connection.execute(_SQL["tell"], parameters).fetchone() is None:
            return False
        if body is not None:
            connection.execute(_SQL["queue"], parameters)
    return True


def claim(connection: Connection, now: dt.datetime, claimed_until: dt.datetime, each: int) -> list[Claimed]:
    """What is due at `now`, at most `each` a webhook, oldest first; nobody else gets it before `claimed_until`."""
    with connection.cursor(row_factory=class_row(Claimed)) as cursor:
        rows = cursor.execute(_SQL["claim"], {"now": now, "claimed_until": claimed_until, "each": each}).fetchall()
    return sorted(rows, key=lambda row: row.delivery_id)


def delivered(connection: Connection, delivery: Claimed, now: dt.datetime) -> None:
    """It was taken."""
    _end(connection, delivery, now, "delivered", "")
    connection.execute(_SQL["answered"], {"webhook_id": delivery.webhook_id, "now": now, "error": ""})


def refused(connection: Connection, delivery: Claimed, now: dt.datetime, reason: str) -> None:
    """It was refused for good; its receiver answers."""
    _end(connection, delivery, now, "gave up", reason)
    connection.execute(_SQL["answered"], {"webhook_id": delivery.webhook_id, "now": now, "error": reason})


def failed(
    connection: Connection, delivery: Claimed, now: dt.datetime, next_try: dt.datetime | None,
    webhook_next_try: dt.datetime, reason: str,
) -> None:  # fmt: skip
    """It may be taken later: at `next_try`, or never where that is None. Its receiver is left alone for a while."""
    if next_try is None:
        _end(connection, delivery, now, "gave up", reason)
    else:
        connection.execute(
            _SQL["put_off_delivery"],
            {"delivery_id": delivery.delivery_id, "next_try": next_try, "reason": reason},
        )
    connection.execute(
        _SQL["failed"], {"webhook_id": delivery.webhook_id, "next_try": webhook_next_try, "error": reason}
    )


def count_waiting(connection: Connection) -> int:
    """How many deliveries are in the outbox."""
    row = connection.execute(_SQL["waiting"]).fetchone()
    return int(row[0]) if row else 0


def forget(connection: Connection, before: dt.datetime) -> int:
    """Drop deliveries that ended before, and what is known of findings that were over before; returns how many."""
    connection.execute(_SQL["forget_told"], {"before": before})
    return connection.execute(_SQL["forget_deliveries"], {"before": before}).rowcount


def _end(connection: Connection, delivery: Claimed, now: dt.datetime, state: str, reason: str) -> None:
    connection.execute(
        _SQL["end_delivery"], {"delivery_id": delivery.delivery_id, "state": state, "now": now, "reason": reason}
    )


def _webhooks(connection: Connection, webhook_id: int | None) -> list[Webhook]:
    with connection.cursor(row_factory=class_row(Webhook)) as cursor:
        return cursor.execute(_SQL["all"], {"webhook_id": webhook_id}).fetchall()
