"""Connections: a pool for answers, a pool for writing, and psycopg's errors in our own words.

Answers are read-only and stopped after `statement_timeout_s`. Everything is in autocommit mode: whoever needs a
transaction opens one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from wattmill_api import visibility
from wattmill_api.errors import DatabaseAway, Forbidden, TooMuchAsked
from wattmill_api.settings import Settings
from wattmill_api.store import statements

Connection = psycopg.Connection[Any]
Pool = ConnectionPool[Connection]

CONNECT_TIMEOUT_SECONDS = 5.0
_SQL = statements("teams")

# What says "not here, not now" rather than "this statement is wrong".
AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.UndefinedTable,
    PoolTimeout,
    PoolClosed,
    TooManyRequests,
)


class Database:
    """The two pools of one process. Nothing connects before `open`."""

    def __init__(self, settings: Settings) -> None:
        timeout_ms = settings.statement_timeout_s * 1000
        # Filters that are not asked for fold away only in a plan made for the values at hand. Compiling one to machine
        # code takes longer than most answers.
        planned = "-c plan_cache_mode=force_custom_plan -c work_mem=32MB -c jit=off"
        self._read = _pool(
            settings.database_url,
            "read",
            settings.read_connections,
            f"-c statement_timeout={timeout_ms} -c default_transaction_read_only=on -c TimeZone=UTC {planned}",
        )
        # One more than the writers of batches, so that a person's change never waits behind them.
        self._write = _pool(
            settings.database_url,
            "write",
            settings.write_connections + 1,
            f"-c statement_timeout={timeout_ms} -c synchronous_commit=on -c TimeZone=UTC",
        )

    def open(self) -> None:
        """Start connecting in the background; a database that is away is no reason not to start."""
        self._read.open()
        self._write.open()

    def close(self) -> None:
        self._read.close()
        self._write.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for answers; for a key of some teams, in one snapshot of their rows.

        Errors: DatabaseAway, TooMuchAsked.
        """
        teams = visibility.teams()
        with translated(), self._read.connection() as connection:
            if teams is None:
                yield connection
                return
            with connection.transaction():
                connection.execute(_SQL["as_one_snapshot"])
                connection.execute(_SQL["see_only"], {"teams": list(teams)})
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection for changes. Errors: DatabaseAway, TooMuchAsked; Forbidden for a key of some teams."""
        if visibility.teams() is not None:
            raise Forbidden("A key of some teams may not change anything.")
        with translated(), self._write.connection() as connection:
            yield connection


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """psycopg's errors as ours."""
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise TooMuchAsked from error
    except psycopg.errors.ProgramLimitExceeded:
        raise  # psycopg calls it operational, but it is the content: a key too long for an index fails every time
    except AWAY as error:
        raise DatabaseAway from error


def _pool(url: str, name: str, size: int, options: str) -> Pool:
    return ConnectionPool(
        url,
        min_size=1,
        max_size=size,
        open=False,
        name=name,
        timeout=CONNECT_TIMEOUT_SECONDS,
        max_idle=300.0,
        reconnect_timeout=5.0,
        check=ConnectionPool.check_connection,
        kwargs={
            "autocommit": True,
            "options": options,
            "connect_timeout": int(CONNECT_TIMEOUT_SECONDS),
            "application_name": f"wattmill {name}",
        },
    )
