"""The table of keys. A key's secret is never here: only its SHA-256."""

from __future__ import annotations

import dataclasses
import datetime as dt

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


@dataclasses.dataclass(frozen=True, slots=True)
class KeyHash:
    """What is needed to check a key."""

    sha256: bytes
    scope: str
    revoked: dt.datetime | None


def add(connection: Connection, *, key_id: str, sha256: bytes, scope: str, name: str) -> None:
    """Keep a new key's hash."""
    connection.execute(_SQL["add"], {"key_id": key_id, "sha256": sha256, "scope": scope, "name": name})


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
