"""Brings a database's schema up to date: numbered plain-SQL files, each applied once, under an advisory lock.

A file is one transaction unless its head says `-- no-transaction` (then it is one statement). A file whose head says
`-- requires: timescaledb` waits until the database has the extension, `-- requires: create-schema` until the role may
create a schema there: it is applied by the first run that finds it.
What was applied is remembered with its SHA-256; a file that changed afterwards is refused. Forward only.

What the engine under us offers is probed here, once, and nowhere else.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql

log = logging.getLogger(__name__)

# Any number will do, as long as no other program uses it: 'wattmill' as bytes.
LOCK = int.from_bytes(b"wattmill", "big", signed=True)
OLDEST_SERVER = 150_000
CONNECT_TIMEOUT_SECONDS = 5

Connection = psycopg.Connection[Any]
Timescale = Literal["none", "available", "apache", "timescale"]


# What callers without psycopg of their own may catch.
Unreachable = psycopg.OperationalError


class SchemaRefused(Exception):
    """The schema could not be brought up to date, and trying again will not help."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What the database server is. `timescaledb`: `available` is installed on the server but not in this database."""

    server_version: int
    timescaledb: Timescale
    timescaledb_version: str

    def __str__(self) -> str:
        server = f"PostgreSQL {self.server_version // 10_000}.{self.server_version % 10_000}"
        if self.timescaledb in ("none", "available"):
            return f"{server} without TimescaleDB"
        return f"{server} with TimescaleDB {self.timescaledb_version} ({self.timescaledb} licence)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file, its text and what its head asks for."""

    number: int
    name: str
    sql: str
    transaction: bool
    requires: str = ""

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.sql.encode()).digest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found and did; names of files, in order."""

    engine: Engine
    applied: tuple[str, ...]
    waiting: tuple[str, ...]
    note: str


def migrations(folder: Traversable | None = None) -> list[Migration]:
    """The files of `sql/migrations`, in the order of their numbers."""
    place = folder or importlib.resources.files("wattmill_api").joinpath("sql", "migrations")
    found = [
        parse(file.name, file.read_text(encoding="utf-8")) for file in place.iterdir() if file.name.endswith(".sql")
    ]
    found.sort(key=lambda migration: migration.number)
    numbers = [migration.number for migration in found]
    if len(set(numbers)) < len(numbers):
        raise SchemaRefused(f"two migrations have the same number: {', '.join(m.name for m in found)}")
    return found


def parse(name: str, text: str) -> Migration:
    """`0001_schema.sql` and its text. The head is every line before the first that is no comment."""
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        head.append(line.removeprefix("--").strip())
    number = name.partition("_")[0]
    if not number.isdigit():
        raise SchemaRefused(f"{name}: the name of a migration begins with its number")
    return Migration(
        number=int(number),
        name=name,
        sql=text,
        transaction="no-transaction" not in head,
        requires=next((line.removeprefix("requires: ") for line in head if line.startswith("requires: ")), ""),
    )


def probe(connection: Connection) -> Engine:
    """The engine of this database.

    The licence GUC is missing until the extension exists in the database; the extension's comment is not to be
    trusted (timescale/timescaledb#6145).
    """
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int,"
        " current_setting('timescaledb.license', true),"
        " (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),"
        " (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb')"
    ).fetchone()
    assert row is not None
    server, licence, created, available = row
    if created is not None:
        return Engine(server, "timescale" if licence == "timescale" else "apache", created)
    return Engine(server, "none" if available is None else "available", available or "")


def migrate(
    url: str,
    files: Sequence[Migration] | None = None,
    told: Callable[[int, str], None] = lambda _done, _name: None,
) -> Outcome:
    """Apply what is missing. Safe to run from every replica at once. `told`: how many files are done, and the next.

    Errors: SchemaRefused where a person has to decide; Unreachable where the database is away.
    """
    wanted = migrations() if files is None else files
    with _connect(url) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        note = _create_extension(url, probe(connection))
        engine = probe(connection)
        if engine.server_version < OLDEST_SERVER:
            raise SchemaRefused(f"{engine} is too old: Wattmill needs PostgreSQL 15 or later")
        _create_table(connection)
        applied_before = _applied(connection)
        _refuse_changed(wanted, applied_before)
        missing = [migration for migration in wanted if migration.number not in applied_before]
        offered = _offered(connection, engine)
        now = [migration for migration in missing if migration.requires in offered]
        for done, migration in enumerate(now):
            told(len(wanted) - len(now) + done, migration.name)
            _apply(connection, migration)
            log.info("action=migrate file=%s", migration.name)
    waiting = tuple(migration.name for migration in missing if migration not in now)
    return Outcome(engine, tuple(migration.name for migration in now), waiting, note)


def current(url: str) -> bool:
    """Whether this database has every migration that this version of Wattmill can apply there."""
    with _connect(url) as connection:
        if connection.execute("SELECT to_regclass('schema_migration')").fetchone() == (None,):
            return False
        applied = _applied(connection)
        offered = _offered(connection, probe(connection))
        return all(m.number in applied or m.requires not in offered for m in migrations())


def look(url: str) -> tuple[Engine, bool]:
    """The engine of a database, and whether it has everything that can be applied there. Changes nothing.

    Errors: Unreachable, also where the address can't be one.
    """
    try:
        with _connect(url) as connection:
            engine = probe(connection)
    except psycopg.ProgrammingError as error:
        raise Unreachable(str(error)) from None
    return engine, current(url)


def create_database(server_url: str, name: str) -> None:
    """Make the database `name` unless it is there. Errors: Unreachable."""
    with _connect(server_url) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _connect(url: str) -> Connection:
    return psycopg.connect(
        url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS, application_name="wattmill migrate"
    )


def _create_extension(url: str, engine: Engine) -> str:
    """Create TimescaleDB where the server has it; why not, as a sentence, where that is refused.

    On a connection of its own: a server that did not preload the library ends the connection that asks for it.
    """
    if engine.timescaledb != "available":
        return ""
    try:
        with _connect(url) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return (
            f"TimescaleDB is installed on this server but could not be created in this database ({reason});"
            " plain tables are used until `CREATE EXTENSION timescaledb` has been run by a superuser"
            " and `wattmill migrate` again"
        )
    return ""


def _offered(connection: Connection, engine: Engine) -> frozenset[str]:
    """What migrations may require of this database and have it; nothing is always there."""
    row = connection.execute("SELECT has_database_privilege(current_database(), 'CREATE')").fetchone()
    offered = {"", *(["timescaledb"] if engine.timescaledb in ("apache", "timescale") else [])}
    return frozenset(offered | ({"create-schema"} if row and row[0] else set()))


def _create_table(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migration ("
        " number integer PRIMARY KEY, name text NOT NULL, sha256 bytea NOT NULL,"
        " applied timestamptz NOT NULL DEFAULT now())"
    )


def _applied(connection: Connection) -> dict[int, bytes]:
    return dict(connection.execute("SELECT number, sha256 FROM schema_migration").fetchall())


def _refuse_changed(wanted: Iterable[Migration], applied: dict[int, bytes]) -> None:
    changed = [m.name for m in wanted if m.number in applied and applied[m.number] != m.sha256]
    if changed:
        raise SchemaRefused(
            f"{', '.join(changed)} changed after it was applied to this database;"
            " a migration is never edited: restore the file and write a new one"
        )


def _apply(connection: Connection, migration: Migration) -> None:
    # As bytes: the text comes from this package's own files, never from a request.
    text = migration.sql.encode()
    remember: LiteralString = "INSERT INTO schema_migration (number, name, sha256) VALUES (%s, %s, %s)"
    row = (migration.number, migration.name, migration.sha256)
    if migration.transaction:
        with connection.transaction():
            connection.execute(text)
            connection.execute(remember, row)
    else:
        connection.execute(text)
        connection.execute(remember, row)
