"""Migrations: once each, in order, on every engine, and never an edited one."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

import psycopg
import pytest

from support import postgres as servers
from support.postgres import Postgres
from wattmill_api import migrate
from wattmill_api.migrate import Migration
from wattmill_api.store import keys

HYPERTABLES = {
    "absence",
    "accelerator_minute",
    "accelerator_sample",
    "engine_minute",
    "engine_sample",
    "gateway_hour",
    "gateway_minute",
    "gateway_sample",
    "host_hour",
    "host_minute",
    "host_sample",
    "latency_hour",
    "latency_minute",
    "latency_sample",
    "ledger_hour",
    "ledger_minute",
    "power_meter_hour",
    "power_meter_minute",
    "power_meter_sample",
}
# What waits where the extension, or a schema of our own, may not be created.
HYPERTABLE_FILES = (
    "0002_hypertables.sql",
    "0007_latency_hypertables.sql",
    "0017_meter_hypertables.sql",
    "0019_gateway_hypertables.sql",
)
SCHEMA_FILES = (
    "0013_team_views.sql",
    "0015_shares_team_views.sql",
    "0020_gateway_team_views.sql",
    "0024_host_share_team_views.sql",
)


@pytest.fixture
def empty(each_postgres: Postgres) -> Iterator[str]:
    """An empty database on each engine."""
    name = servers.create_database(each_postgres)
    yield each_postgres.url(name)
    servers.drop_database(each_postgres, name)


def rows(url: str, question: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(question.encode()).fetchall()


def test_the_first_run_applies_everything_that_the_engine_can_have(empty: str, each_postgres: Postgres) -> None:
    outcome = migrate.migrate(empty)
    if each_postgres.kind == "timescaledb":
        assert outcome.engine.timescaledb in ("apache", "timescale")
        assert outcome.waiting == ()
        found = rows(empty, "SELECT hypertable_name FROM timescaledb_information.hypertables")
        assert {name for (name,) in found} == HYPERTABLES
    else:
        assert outcome.engine.timescaledb == "none"
        assert outcome.waiting == HYPERTABLE_FILES
    assert outcome.applied[0] == "0001_schema.sql"
    assert migrate.current(empty)


def test_the_second_run_does_nothing(empty: str) -> None:
    first = migrate.migrate(empty)
    second = migrate.migrate(empty)
    assert second.applied == ()
    assert second.waiting == first.waiting


def test_replicas_that_start_together_apply_each_file_once(empty: str) -> None:
    applied: list[str] = []
    threads = [threading.Thread(target=lambda: applied.extend(migrate.migrate(empty).applied)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(applied) == len(set(applied)) == len(rows(empty, "SELECT number FROM schema_migration"))


def test_a_chunk_holds_one_day_of_samples_and_thirty_of_hours(empty: str, each_postgres: Postgres) -> None:
    migrate.migrate(empty)
    if each_postgres.kind == "timescaledb":
        found = rows(
            empty,
            "SELECT hypertable_name, time_interval = CASE WHEN hypertable_name LIKE '%hour' THEN interval '30 days'"
            " ELSE interval '1 day' END FROM timescaledb_information.dimensions",
        )
        assert [name for name, right in found if not right] == []


def test_no_default_index_was_added_beside_the_keys(empty: str) -> None:
    migrate.migrate(empty)
    extra = rows(
        empty,
        "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE '%\\_time\\_idx'",
    )
    assert extra == []


def test_an_edited_migration_is_refused_and_nothing_is_applied(empty: str) -> None:
    migrate.migrate(empty)
    files = migrate.migrations()
    files[0] = dataclasses.replace(files[0], sql=files[0].sql + "\n-- edited")
    files.append(migrate.parse("9000_late.sql", "CREATE TABLE late (a integer);"))
    with pytest.raises(migrate.SchemaRefused, match=r"0001_schema\.sql changed after it was applied"):
        migrate.migrate(empty, files)
    assert rows(empty, "SELECT to_regclass('late')::text") == [(None,)]


def test_a_file_that_fails_leaves_nothing_behind(empty: str) -> None:
    broken = migrate.parse("9000_broken.sql", "CREATE TABLE half (a integer); SELECT no_such_function();")
    with pytest.raises(psycopg.errors.UndefinedFunction):
        migrate.migrate(empty, [*migrate.migrations(), broken])
    assert rows(empty, "SELECT to_regclass('half')::text") == [(None,)]
    assert not rows(empty, "SELECT 1 FROM schema_migration WHERE number = 9000")


def test_a_file_may_ask_to_run_outside_a_transaction(empty: str) -> None:
    first = migrate.parse("1_table.sql", "CREATE TABLE thing (a integer);")
    index = migrate.parse("2_index.sql", "-- no-transaction\nCREATE INDEX CONCURRENTLY thing_a ON thing (a);")
    assert migrate.migrate(empty, [first, index]).applied == ("1_table.sql", "2_index.sql")


def test_a_database_without_a_schema_is_not_current(empty: str) -> None:
    assert not migrate.current(empty)


def test_hypertables_come_when_the_extension_does(each_postgres: Postgres, empty: str) -> None:
    plain = [migration for migration in migrate.migrations() if migration.requires != "timescaledb"]
    migrate.migrate(empty, plain)
    with psycopg.connect(empty) as connection:
        connection.execute(
            "INSERT INTO absence (time, node_id, subject, id, start_time, reason, detail)"
            " VALUES ('2026-01-02', 1, 'node', '', '2026-01-01', 'test', '')"
        )
    outcome = migrate.migrate(empty)
    if each_postgres.kind == "timescaledb":
        assert outcome.applied == HYPERTABLE_FILES
        assert rows(empty, "SELECT count(*) FROM show_chunks('absence')") == [(1,)]
    assert rows(empty, "SELECT count(*) FROM absence") == [(1,)]


def test_a_role_that_may_not_create_the_extension_gets_plain_tables_and_a_sentence(
    each_postgres: Postgres, empty: str
) -> None:
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS modest")
        connection.execute("CREATE ROLE modest LOGIN")
        connection.execute("GRANT ALL ON SCHEMA public TO modest")
    modest = empty.replace("postgres@", "modest@")
    try:
        outcome = migrate.migrate(modest)
        if each_postgres.kind == "timescaledb":
            assert "could not be created" in outcome.note
            assert outcome.engine.timescaledb == "available"
        assert outcome.waiting == tuple(sorted((*HYPERTABLE_FILES, *SCHEMA_FILES)))
        assert migrate.current(modest)
        with psycopg.connect(modest) as connection:
            assert not keys.narrowable(connection)
    finally:
        with psycopg.connect(empty, autocommit=True) as connection:
            connection.execute("DROP OWNED BY modest")
            connection.execute("DROP ROLE modest")


@pytest.mark.parametrize(
    ("text", "transaction", "requires"),
    [
        ("SELECT 1;", True, ""),
        ("-- a word first\n-- requires: timescaledb\nSELECT 1;", True, "timescaledb"),
        ("-- no-transaction\nSELECT 1;", False, ""),
        ("SELECT 1;\n-- requires: timescaledb\n", True, ""),
    ],
)
def test_only_the_head_of_a_file_speaks(text: str, transaction: bool, requires: str) -> None:
    migration = migrate.parse("7_thing.sql", text)
    assert migration == Migration(7, "7_thing.sql", text, transaction, requires)


def test_the_numbers_of_the_files_rise_without_a_hole() -> None:
    assert [migration.number for migration in migrate.migrations()] == list(range(1, len(migrate.migrations()) + 1))


def test_a_file_without_a_number_is_refused() -> None:
    with pytest.raises(migrate.SchemaRefused, match="begins with its number"):
        migrate.parse("schema.sql", "")
