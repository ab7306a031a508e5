"""The table of keys. A key's secret is never here: only its SHA-256."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("keys")


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRow:
    """One key as people may see it."""

    key_id: str
    scope: str
    name: str
    created: dt.datetime
    revoked: dt.datetime | None
    teams: list[str] | None


@dataclasses.dataclass(frozen=True, slots=True)
class KeyHash:
    """What is needed to check a key."""

    sha256: bytes
    scope: str
    revoked: dt.datetime | None
    teams: list[str] | None


def add(
    connection: Connection, *, key_id: str, sha256: bytes, scope: str, name: str, teams: Sequence[str] | None = None
) -> None:
    """Keep a new key's hash. `teams`: all that it sees, for a read key; None: everything."""
    row = {"key_id": key_id, "sha256": sha256, "scope": scope, "name": name}
    connection.execute(_SQL["add"], {**row, "teams": None if teams is None else list(teams)})


def add_given(connection: Connection, *, key_id: str, sha256: bytes, scope: str, name: str) -> bool:
    """Keep the hash of a key that was made elsewhere; False if there is one of this id, which stays as it is."""
    row = {"key_id": key_id, "sha256": sha256, "scope": scope, "name": name}
    return connection.execute(_SQL["add_given"], row).fetchone() is not None


def narrowable(connection: Connection) -> bool:
    """Whether this database can answer keys of some teams."""
    row = connection.execute(_SQL["narrowable"]).fetchone()
    return bool(row and row[0])


def all_keys(connection: Connection) -> list[KeyRow]:
    """Every key, revoked ones too, oldest first."""
    with connection.cursor(row_factory=class_row(KeyRow)) as cursor:
        return cursor.execute(_SQL["all"]).fetchall()


def find(connection: Connection, key_id: str) -> KeyHash | None:
    """The hash, scope and revocation of one key."""
    with connection.cursor(row_factory=class_row(KeyHash)) as cursor:
        return cursor.execute(_SQL["find"], {"key_id": key_id}).fetchone()


def any_key(connection: Connection) -> bool:
    """Whether a key was ever made here."""
    row = connection.execute(_SQL["any"]).fetchone()
    return bool(row and row[0])


def revoke(connection: Connection, key_id: str) -> bool:
    """Revoke a key; False if there is none with this id."""
    return connection.execute(_SQL["revoke"], {"key_id": key_id}).fetchone() is not None


def name_of(connection: Connection, key_id: str) -> str:
    """What a key is called: its name, else its id; empty if there is none."""
    row = connection.execute(_SQL["name"], {"key_id": key_id}).fetchone()
    return str(row[0]) if row else ""
