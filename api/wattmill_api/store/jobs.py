"""What the jobs ask of the database besides roll-up: leadership, retention, verification, the log of runs."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

import psycopg
from psycopg import sql

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("jobs")
Lost = psycopg.Error  # what a connection that is gone, or a database that is away, raises
_LEADER_LOCK = 0x77617474  # "watt": one number per database for all replicas


def connect(database_url: str) -> Connection:
    """A connection of its own for the leader. Errors: `Lost`, when the database can't be reached."""
    return psycopg.connect(database_url, autocommit=True, connect_timeout=5)


def try_lead(connection: Connection) -> bool:
    """Take the leader's lock for the life of this connection; False while another replica holds it."""
    row = connection.execute(_SQL["try_lead"], {"lock": _LEADER_LOCK}).fetchone()
    return bool(row and row[0])


def ping(connection: Connection) -> None:
    """Raises `Lost` when the connection, and with it the lock, is gone."""
    connection.execute(_SQL["ping"])


def began(connection: Connection, job: str) -> None:
    connection.execute(_SQL["began"], {"job": job})


def ended(connection: Connection, job: str, ok: bool, detail: str) -> None:
    connection.execute(_SQL["ended"], {"job": job, "ok": ok, "detail": detail})


def drop_older(connection: Connection, tables: Sequence[str], before: dt.datetime) -> None:
    """Retention: whole chunks where the store has chunks, rows otherwise."""
    row = connection.execute(_SQL["has_timescaledb"]).fetchone()
    chunks = bool(row and row[0])
    for table in tables:
        if chunks:
            connection.execute(_SQL["drop_chunks"], {"table": table, "before": before})
        else:
            statement = sql.SQL(_SQL["delete_before"]).format(table=sql.Identifier(table))
            connection.execute(statement, {"before": before})


def prune_batch_ledger(connection: Connection, before: dt.datetime) -> int:
    """Forget batches that no agent can send again; returns how many."""
    return connection.execute(_SQL["prune_batch_ledger"], {"before": before}).rowcount


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """One board over one span: the counter's own difference, the ledger's sum and the meter's sum, in millijoules."""

    uuid: str
    counter_mj: int
    ledger_mj: int
    meter_mj: int

    @property
    def difference_mj(self) -> int:
        return max(abs(self.counter_mj - self.ledger_mj), abs(self.ledger_mj - self.meter_mj))


def verify_accelerators(connection: Connection, first: dt.datetime, last: dt.datetime) -> list[Verified]:
    """Recompute board totals between two minute borders straight from raw samples. Empty while roll-up is behind."""
    row = connection.execute(_SQL["dirty_before"], {"last": last}).fetchone()
    if row and row[0]:
        return []
    rows = connection.execute(_SQL["verify_accelerators"], {"first": first, "last": last})
    return [Verified(*row) for row in rows]
