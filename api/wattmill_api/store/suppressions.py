"""Suppression windows: times in which certain incidents have no open finding."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from psycopg.rows import dict_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("suppression")
MOST = 10_000


def rows(connection: Connection, after: dt.datetime) -> list[dict[str, Any]]:
    """Windows that end at `after` or later, by begin."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_SQL["all"], {"ends_after": after, "limit": MOST}).fetchall()


def add(connection: Connection, window: Mapping[str, Any]) -> dict[str, Any]:
    """A new window, as stored."""
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_SQL["add"], window).fetchone()
    assert row is not None  # INSERT … RETURNING
    return row


def delete(connection: Connection, suppression_id: int) -> dict[str, Any] | None:
    """Take a window back; returns what it was, None if there is none."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_SQL["delete"], {"suppression_id": suppression_id}).fetchone()
