"""Databases for tests. Always a real server: TimescaleDB where its unpacked system is there and we are root, else the
embedded PostgreSQL; `WATTMILL_TEST_DATABASE_URL` names another one.

`WATTMILL_TEST_REQUIRE` lists what must be the real thing (`timescaledb`, `engine`, …): then its absence is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import postgres as servers
from support.postgres import Postgres
from wattmill_api import migrate

ROOTFS = Path(os.environ.get("WATTMILL_TEST_TIMESCALEDB", "/var/tmp/wattmill/timescaledb"))


def required(what: str) -> bool:
    """Whether this run must have the real `what`."""
    return what in os.environ.get("WATTMILL_TEST_REQUIRE", "").replace(" ", "").split(",")


def timescaledb_here() -> bool:
    """Whether the real TimescaleDB can be started here; fails where it must be and can't."""
    here = os.geteuid() == 0 and (ROOTFS / "usr/lib/postgresql").is_dir()
    if not here and required("timescaledb"):
        raise pytest.UsageError(
            f"TimescaleDB is required and cannot be started: it needs root and {ROOTFS} (scripts/timescaledb-rootfs)"
        )
    return here


def engines() -> list[str]:
    """The kinds of server that tests about the difference run on."""
    return ["postgresql", "timescaledb"] if timescaledb_here() else ["postgresql"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this session. Not to be stopped: `own_postgres` is."""
    given = os.environ.get("WATTMILL_TEST_DATABASE_URL")
    if given:
        server: Postgres = servers.Given(given)
        if required("timescaledb"):
            _assert_timescaledb(server)
        yield server
        return
    wanted = os.environ.get("WATTMILL_TEST_SERVER", "timescaledb" if timescaledb_here() else "postgresql")
    with servers.running(_new(wanted)) as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> Iterator[str]:
    """The name of a migrated database that is only ever copied."""
    name = servers.create_database(postgres)
    outcome = migrate.migrate(postgres.url(name))
    if postgres.kind == "timescaledb":
        assert not outcome.waiting, outcome
    servers.close_database(postgres, name)
    yield name
    servers.drop_database(postgres, name)


@pytest.fixture
def database_url(postgres: Postgres, template: str) -> Iterator[str]:
    """A fresh, migrated database for one test."""
    name = servers.create_database(postgres, template)
    yield postgres.url(name)
    servers.drop_database(postgres, name)


@pytest.fixture
def empty_database_url(postgres: Postgres) -> Iterator[str]:
    """A database with nothing in it."""
    name = servers.create_database(postgres)
    yield postgres.url(name)
    servers.drop_database(postgres, name)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server for one test alone, which may stop, kill and start it."""
    with servers.running(_new("timescaledb" if timescaledb_here() else "postgresql")) as server:
        yield server


@pytest.fixture(scope="session", params=engines())
def each_postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """Every kind of server that can run here, one after the other."""
    with servers.running(_new(request.param)) as server:
        yield server


def _new(kind: str) -> Postgres:
    return servers.timescaledb(ROOTFS) if kind == "timescaledb" else servers.embedded_postgresql()


def _assert_timescaledb(server: Postgres) -> None:
    name = servers.create_database(server)
    try:
        engine = migrate.migrate(server.url(name)).engine
    finally:
        servers.drop_database(server, name)
    assert engine.timescaledb in ("apache", "timescale"), f"TimescaleDB is required; this is {engine}"
