"""Days with their hosts answer what their hours would, whoever bears them, whatever comes late."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from support import naive_host_shares
from support.ledger import Books
from wattmill_api import accounting, migrate
from wattmill_api.parameters import DAY, DIMENSIONS, EPOCH, HOUR, MINUTE, RangeQuestion, Window, window
from wattmill_api.store import query, rollup

BEGIN = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAYS = 3
LAST = BEGIN + DAYS * DAY
ROLES = ("", "prefill", "decode", "worker")
KEY = ("time", "node_id", "accelerator_id", "placement_id", "account")


@pytest.fixture
def connection(books: Books) -> psycopg.Connection[Any]:
    """Three days of nodes on two sites: with a host, without one, with one now and then, and with a host alone."""
    rng = random.Random(8)
    for name, site, boards, host in (
        *(("n1", "s1", 3, 1.0), ("n2", "s1", 2, 0.0), ("n3", "s2", 2, 0.5)),
        *(("n4", "s2", 0, 0.7), ("n5", "s2", 1, 1.0)),
    ):
        node_id = books.node(name, site, first_seen=BEGIN)
        ids = [books.board(node_id, f"{name}-{board}", first_seen=BEGIN) for board in range(boards)]
        placements = [
            books.placement(node_id, ids, f"w{engine % 3}", team=f"t{engine % 2}", target=f"http://{engine}/metrics")
            for engine in range(len(ROLES) if boards else 0)
        ]
        for role, placement in zip(ROLES, placements, strict=False):
            books.do("UPDATE placement SET role = %s WHERE placement_id = %s", role, placement)
        for hour in range(24 * DAYS):
            quiet = rng.random() < 0.2  # the boards use nothing, or are not there at all
            for minute in (0, 31, 59):
                at = BEGIN + hour * HOUR + minute * MINUTE
                if not (quiet and rng.random() < 0.5):
                    _spend(books, rng, at, node_id, ids, placements, quiet=quiet)
                if hash_of(node_id, hour) < host:
                    _heat(books, rng, at, node_id, ("package-0", "dram-0"))
    books.do("UPDATE node SET simulated = true WHERE name = 'n3'")
    rollup.sum_hours(books.connection, _nodes(books.connection), _us(BEGIN), _us(LAST))
    return books.connection


def hash_of(node_id: int, hour: int) -> float:
    """Whether the host was read is so of a whole hour."""
    return random.Random(node_id * 1000 + hour).random()


def _spend(
    books: Books,
    rng: random.Random,
    at: dt.datetime,
    node_id: int,
    boards: list[int],
    placements: list[int],
    *,
    quiet: bool,
) -> None:
    for board in boards:
        for account in (1, 2, 3):
            if rng.random() < 0.5:
                tokens = [rng.choice((None, rng.randrange(10**5))) for _ in range(3)]
                books.spent(
                    *(node_id, board, 0 if account == 3 else rng.choice(placements), account),
                    *(0 if quiet else rng.randrange(1, rng.choice((4, 10**7))),),
                    at=at,
                    tokens=(tokens[0], tokens[1], tokens[2]),
                    estimated_mj=rng.randrange(2),
                    covered_us=rng.randrange(60_000_001),
                )
    if placements and rng.random() < 0.1:
        books.spent(node_id, 0, placements[0], 1, 0, at=at, tokens=(1, 1, 1))


def _heat(books: Books, rng: random.Random, at: dt.datetime, node_id: int, domains: tuple[str, ...]) -> None:
    for domain in domains:
        energy_mj = rng.choice((0, 1, 7, rng.randrange(10**7)))
        books.do(
            "INSERT INTO host_minute (time, energy_mj, estimated_mj, covered_us, node_id, domain)"
            " VALUES (%s, %s, %s, 60000000, %s, %s)",
            *(at, energy_mj, rng.randrange(energy_mj + 1), node_id, domain),
        )


def _nodes(connection: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in connection.execute("SELECT node_id FROM node ORDER BY 1")]


def _us(time: dt.datetime) -> int:
    return (time - EPOCH) // dt.timedelta(microseconds=1)


def asked(first: dt.datetime, last: dt.datetime, step: dt.timedelta | None, cuts: list[dt.datetime]) -> Window:
    return window(RangeQuestion(start=first, end=last), step, LAST, cuts)


def ordered(facts: list[query.Facts]) -> list[query.Facts]:
    return sorted(facts, key=lambda item: repr(dataclasses.astuple(item)[:5]))


def assert_alike(
    connection: psycopg.Connection[Any],
    times: Window,
    by: Sequence[str],
    cuts: list[dt.datetime],
    team: str | None = None,
) -> list[query.Facts]:
    filters: dict[str, list[str] | None] = dict.fromkeys(DIMENSIONS)
    filters["team"] = None if team is None else [team]
    found = query.energy(
        connection, times, by=by, filters=filters, cuts=cuts, by_account=True, with_host=True, limit=100_000
    )
    assert ordered(found) == ordered(naive_host_shares.energy(connection, times, by, cuts, team=team))
    return found


def assert_any_range_alike(connection: psycopg.Connection[Any], rng: random.Random, count: int) -> None:
    for _ in range(count):
        first, last = sorted(BEGIN + rng.randrange(DAYS * 24 * 60) * MINUTE for _ in range(2))
        step = rng.choice((None, HOUR, DAY))
        cuts = [BEGIN + rng.randrange(DAYS * 4) * 6 * HOUR] if rng.random() < 0.3 else []
        by = rng.sample(("node", "accelerator", "workload", "team"), rng.randrange(4))
        assert_alike(connection, asked(first, last + MINUTE, step, cuts), by, cuts, rng.choice((None, None, "t1")))


def test_any_range_step_and_group_is_answered_as_by_hours_and_minutes(connection: psycopg.Connection[Any]) -> None:
    found = assert_alike(connection, asked(BEGIN, LAST, None, []), ["node", "accelerator", "workload", "team"], [])
    borne = {item.account for item in found}
    assert borne == {1, 2, 3, 5}, "some of the host is nobody's"
    assert {item.host_unknown for item in found} == {item.output_unknown for item in found} == {False, True}
    assert any(item.estimated_mj > 0 for item in found if item.account == 5)
    assert_alike(connection, asked(BEGIN, LAST, DAY, [BEGIN + DAY]), ["workload"], [BEGIN + DAY])
    assert_any_range_alike(connection, random.Random(1), 20)


def test_all_of_a_host_is_shared_out_or_said_to_be_nobodys(connection: psycopg.Connection[Any]) -> None:
    [(whole_mj,)] = connection.execute(
        "SELECT (SELECT sum(energy_mj) FROM ledger_minute) + (SELECT sum(energy_mj) FROM host_minute)"
    ).fetchall()
    [(kept_mj,)] = connection.execute(
        "SELECT (SELECT sum(energy_mj + host_mj) FROM ledger_day) + (SELECT sum(unborne_mj) FROM node_day)"
    ).fetchall()
    assert kept_mj == whole_mj


def test_days_follow_what_comes_late_and_what_is_taken_back(connection: psycopg.Connection[Any], books: Books) -> None:
    rng = random.Random(2)
    noon = BEGIN + DAY + 12 * HOUR
    _heat(books, rng, noon + 5 * MINUTE, 2, ("package-0",))  # a host that was never read
    books.do("DELETE FROM host_minute WHERE node_id = 1 AND time >= %s AND time < %s", noon, noon + 4 * HOUR)
    books.do("DELETE FROM ledger_minute WHERE node_id = 5 AND time >= %s AND time < %s", noon, noon + HOUR)
    books.do("UPDATE ledger_minute SET energy_mj = energy_mj + 7 WHERE node_id = 3 AND time = %s", noon)
    rollup.sum_hours(connection, _nodes(connection), _us(noon), _us(noon + 4 * HOUR))
    by = ["node", "accelerator", "workload", "team"]
    found = assert_alike(connection, asked(BEGIN, LAST, DAY, []), by, [])
    assert any(dict(item.group)["node"] == "n1" and item.host_unknown for item in found)
    assert_any_range_alike(connection, rng, 6)


def test_whole_days_are_answered_by_days_alone(connection: psycopg.Connection[Any]) -> None:
    """A month of a large fleet is answered at once only as long as this holds."""
    whole = asked(BEGIN, LAST, DAY, [])
    found = assert_alike(connection, whole, ["workload"], [])
    connection.execute("TRUNCATE ledger_hour, host_hour, ledger_minute, host_minute")
    filters: dict[str, list[str] | None] = dict.fromkeys(DIMENSIONS)
    assert found == query.energy(
        connection, whole, by=["workload"], filters=filters, cuts=[], by_account=True, with_host=True, limit=1000
    )


def _days(connection: psycopg.Connection[Any]) -> list[list[tuple[Any, ...]]]:
    key = ", ".join(KEY)
    return [
        connection.execute(f"SELECT * FROM ledger_day ORDER BY {key}".encode()).fetchall(),
        connection.execute("SELECT * FROM node_day ORDER BY time, node_id").fetchall(),
    ]


def _as_of_before(connection: psycopg.Connection[Any]) -> None:
    connection.execute("UPDATE ledger_hour SET host_unknown = NULL, host_mj = NULL, host_estimated_mj = NULL")
    connection.execute(
        "UPDATE ledger_day SET host_unknown = NULL, input_unknown = NULL, cached_unknown = NULL, output_unknown = NULL,"
        " energy_hours = NULL, host_mj = NULL, host_estimated_mj = NULL"
    )
    connection.execute("UPDATE node_day SET unborne_mj = NULL, unborne_estimated_mj = NULL")


def test_a_database_of_before_gets_the_days_that_roll_up_would_have_written(
    connection: psycopg.Connection[Any],
) -> None:
    written = _days(connection)
    _as_of_before(connection)
    assert _days(connection) != written
    [migration] = [each for each in migrate.migrations() if each.name.startswith("0023")]
    with connection.transaction():
        connection.execute(migration.sql.encode())
    assert _days(connection) == written


def test_a_day_of_before_is_shared_out_when_one_of_its_hours_is_summed_again(
    connection: psycopg.Connection[Any],
) -> None:
    written = _days(connection)
    hours = connection.execute("SELECT * FROM ledger_hour ORDER BY time, node_id, accelerator_id").fetchall()
    _as_of_before(connection)
    for day in range(DAYS):
        late = BEGIN + day * DAY + 9 * HOUR
        rollup.sum_hours(connection, _nodes(connection), _us(late), _us(late + HOUR))
    assert _days(connection) == written
    again = connection.execute("SELECT * FROM ledger_hour ORDER BY time, node_id, accelerator_id").fetchall()
    assert sorted(again, key=repr) == sorted(hours, key=repr)


def test_a_day_that_is_not_shared_out_says_that_its_host_is_unknown(connection: psycopg.Connection[Any]) -> None:
    """As a service of before leaves it that closes a last minute after the schema has changed."""
    _as_of_before(connection)
    filters: dict[str, list[str] | None] = dict.fromkeys(DIMENSIONS)
    found = query.energy(
        connection, asked(BEGIN, LAST, None, []), by=["node"], filters=filters, cuts=[], with_host=True, limit=100
    )
    assert all(item.host_unknown for item in found)
    assert sum(item.energy_mj for item in found) == sum(
        row[0] for row in connection.execute("SELECT energy_mj FROM ledger_minute")
    )


def test_a_new_leader_makes_days_whole_of_which_the_one_before_wrote_hours_only(
    connection: psycopg.Connection[Any],
) -> None:
    """An older version goes on for a while beside the new schema."""
    written = _days(connection)
    _as_of_before(connection)
    connection.execute("DELETE FROM node_day WHERE time >= %s", [BEGIN + DAY])
    accounting.make_days_whole(connection, _us(BEGIN), _us(LAST))
    assert _days(connection) == written
