"""What is known of sites, nodes, accelerators, engines and workloads, a page at a time, and what could not be read."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from psycopg import sql
from psycopg.rows import dict_row

from wattmill_api.store import query, statements
from wattmill_api.store.database import Connection
from wattmill_api.store.query import FilterValues

_SQL = statements("inventory")
Kind = Literal["sites", "nodes", "accelerators", "engines", "workloads"]


def page(
    connection: Connection, what: Kind, *, filters: FilterValues, after: int, limit: int, now: dt.datetime
) -> list[dict[str, Any]]:
    """A page of what is known, in the order it was first seen, each row with its `cursor`; states are as of `now`."""
    parameters = {
        "after": after,
        "limit": limit,
        "site": filters["site"],
        "node": filters["node"],
        "now": now,
        "start": now - dt.timedelta(days=1),
        "end": now + dt.timedelta(hours=1),  # clocks of nodes may run ahead
        "wordless": query.wordless(),
    }
    statement = sql.SQL(_SQL[what]).format(told=sql.SQL(_SQL["told"]))
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement, parameters).fetchall()


def unread(connection: Connection, filters: FilterValues, now: dt.datetime, limit: int) -> list[dict[str, Any]]:
    """Targets that could not be read when their agents last said something: target, node, site, reason, detail."""
    parameters = {
        "limit": limit,
        "site": filters["site"],
        "node": filters["node"],
        "start": now - dt.timedelta(days=1),
        "end": now + dt.timedelta(hours=1),
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_SQL["unread"], parameters).fetchall()
