"""Days of nodes and meters answer what their hours would, whatever is missing and whatever comes late."""

from __future__ import annotations

import datetime as dt
import random
import re
from collections import Counter
from typing import Any

import numpy as np
import psycopg
import pytest

from support import naive_meters
from support.ledger import Books
from wattmill_api import accounting, meters, migrate
from wattmill_api.parameters import DAY, DIMENSIONS, EPOCH, HOUR, MINUTE, RangeQuestion, window
from wattmill_api.store import meters as store
from wattmill_api.store import query, rollup

BEGIN = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAYS = 4
LAST = BEGIN + DAYS * DAY
# name, level, covers, and in how many of the hours of each day it counts
METERS: tuple[tuple[str, str, list[str], tuple[int, ...]], ...] = (
    ("hall", "facility", [], (24, 23, 24, 24)),
    ("feed-a", "rack", ["rack=r0"], (24, 12, 0, 24)),
    ("feed-b", "rack", ["rack=r0"], (24, 16, 20, 20)),
    ("pdu", "rack", ["rack=r1"], (24, 24, 24, 0)),
    ("shelf", "rack", ["rack=bare"], (24, 24, 23, 24)),
    ("n1", "node", ["node=n1"], (24, 24, 24, 24)),
)


@pytest.fixture
def connection(books: Books) -> psycopg.Connection[Any]:
    """Two racks of nodes with boards, one of nodes without, four days long."""
    rng = random.Random(11)
    for name, rack, boards in (
        *(("n1", "r0", 2), ("n2", "r0", 1), ("n3", "r1", 2), ("n4", "r1", 0), ("n5", "bare", 0)),
        *(("n6", "bare", 0), ("n7", "none", 1)),
    ):
        node_id = books.node(name, labels=f'{{"rack": "{rack}"}}', first_seen=BEGIN)
        for board in range(boards):
            books.board(node_id, f"{name}-{board}", first_seen=BEGIN)
    books.do("UPDATE node SET last_seen = %s", LAST)
    books.do("UPDATE accelerator SET last_seen = %s", LAST)
    for name, level, covers, _ in METERS:
        books.do(
            "INSERT INTO power_meter (site_id, node_id, name, level, covers, first_seen, last_seen)"
            " SELECT site_id, CASE WHEN %s = 'node' THEN (SELECT node_id FROM node WHERE name = %s) ELSE 0 END, %s, %s,"
            " %s, %s, %s FROM site",
            *(level, name, name, level, covers, BEGIN, LAST),
        )
    _boards(books.connection, rng)
    _hosts(books.connection, rng)
    rollup.sum_hours(books.connection, _nodes(books.connection), _us(BEGIN), _us(LAST))
    # As hours of before 0016 are, which did not say how long their boards were covered.
    books.do("UPDATE meter_hour SET covered_us = NULL WHERE time < %s", BEGIN + 5 * HOUR)
    rollup.sum_hours(books.connection, _nodes(books.connection), _us(BEGIN + 23 * HOUR), _us(BEGIN + DAY))
    for meter_id, (*_, hours) in enumerate(METERS, 1):
        read = [BEGIN + i * DAY + hour * HOUR for i, k in enumerate(hours) for hour in sorted(rng.sample(range(24), k))]
        _read(books.connection, meter_id, read, BEGIN, LAST, rng)
    return books.connection


def _boards(connection: psycopg.Connection[Any], rng: random.Random) -> None:
    boards = connection.execute("SELECT accelerator_id, node_id FROM accelerator").fetchall()
    rows = [
        (hour * HOUR + BEGIN + minute * MINUTE, rng.randrange(10**8), rng.randrange(60_000_001), *board)
        for board in boards
        for hour in range(24 * DAYS)
        for minute in (0, 29, 59)
        if rng.random() < 0.8
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO accelerator_minute (time, energy_mj, covered_us, accelerator_id, node_id, estimated_mj,"
            " anomalies) VALUES (%s, %s, %s, %s, %s, 0, 0)",
            rows,
        )


def _hosts(connection: psycopg.Connection[Any], rng: random.Random) -> None:
    rows = [
        (hour * HOUR + BEGIN + minute * MINUTE, rng.randrange(10**7), rng.randrange(60_000_001), node_id, domain)
        for node_id in _nodes(connection)
        for domain in ("package-0", "dram-0", *(["rest-of-node"] if node_id < 3 else []))
        for hour in range(24 * DAYS)
        for minute in (0, 30)
        if rng.random() < 0.8
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO host_minute (time, energy_mj, estimated_mj, covered_us, node_id, domain)"
            " VALUES (%s, %s, 0, %s, %s, %s)",
            rows,
        )


def _read(
    connection: psycopg.Connection[Any],
    meter_id: int,
    hours: list[dt.datetime],
    first: dt.datetime,
    last: dt.datetime,
    rng: random.Random,
) -> None:
    """Minutes of a meter in some hours, in the place of all that it had."""
    minutes = [_us(hour + minute * MINUTE) for hour in hours for minute in (0, 29, 59)]
    columns = [[rng.randrange(10**9), 0, rng.randrange(60_000_001), rng.choice((-1, 10, 100))] for _ in minutes]
    values = np.array(columns, np.int64).reshape(-1, 4)
    ids = np.full(len(minutes), meter_id, np.int64)
    store.replace_minutes(connection, [meter_id], _us(first), _us(last), [np.array(minutes, np.int64), ids, *values.T])


def _nodes(connection: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in connection.execute("SELECT node_id FROM node ORDER BY 1")]


def _us(time: dt.datetime) -> int:
    return (time - EPOCH) // dt.timedelta(microseconds=1)


def assert_alike(
    connection: psycopg.Connection[Any], first: dt.datetime, last: dt.datetime, step: dt.timedelta | None
) -> None:
    asked = window(RangeQuestion(start=first, end=last), step, LAST)
    groups = meters.groups(store.meters(connection, asked, None, 100), store.nodes(connection, asked, None))
    ids = [[meter.meter_id for meter in group.meters] for group in groups]
    nodes = [group.nodes for group in groups]
    assert sorted(map(len, nodes)) == [1, 2, 2, 2, 7]
    assert store.below(connection, asked, ids, nodes) == naive_meters.below(connection, asked, ids, nodes)
    every = [meter_id for its in ids for meter_id in its]
    assert store.counted(connection, asked, every) == naive_meters.counted(connection, asked, every)


def test_any_range_and_step_is_answered_as_by_hours_and_minutes(connection: psycopg.Connection[Any]) -> None:
    rng = random.Random(3)
    assert_alike(connection, BEGIN, LAST, None)
    for _ in range(12):
        first, last = sorted(BEGIN + rng.randrange(DAYS * 24 * 60) * MINUTE for _ in range(2))
        for step in (None, HOUR, DAY):
            assert_alike(connection, first, last + MINUTE, step)
    assert_alike(connection, BEGIN + 10 * HOUR, BEGIN + 14 * HOUR, MINUTE)


def test_days_follow_what_comes_late_and_what_is_taken_back(connection: psycopg.Connection[Any]) -> None:
    rng = random.Random(4)
    noon = BEGIN + DAY + 12 * HOUR
    _read(connection, 1, [noon + i * HOUR for i in range(12)], noon, BEGIN + 2 * DAY, rng)
    _read(connection, 4, [], BEGIN, BEGIN + 2 * DAY, rng)
    connection.execute("DELETE FROM host_minute WHERE time >= %s AND time < %s", [noon, noon + HOUR])
    connection.execute("UPDATE accelerator_minute SET energy_mj = energy_mj + 7 WHERE time = %s", [noon])
    rollup.sum_hours(connection, _nodes(connection), _us(noon), _us(noon + HOUR))
    assert_alike(connection, BEGIN, LAST, None)
    assert_alike(connection, BEGIN + 90 * MINUTE, LAST - 90 * MINUTE, DAY)


def test_a_new_leader_makes_days_whole_of_which_the_one_before_wrote_hours_only(
    connection: psycopg.Connection[Any],
) -> None:
    """An older version goes on for a while beside the new schema."""
    connection.execute("DELETE FROM power_meter_day WHERE time >= %s", [BEGIN + DAY])
    connection.execute("UPDATE node_day SET board_us = board_us / 2, domains_mj = 0 WHERE time < %s", [BEGIN + DAY])
    accounting.make_days_whole(connection, _us(BEGIN), _us(LAST))
    assert_alike(connection, BEGIN, LAST, None)


def test_a_fleet_of_whole_days_is_answered_by_days_alone(connection: psycopg.Connection[Any]) -> None:
    """A month of a large fleet is answered at once only as long as this holds."""
    for meter_id in range(1, len(METERS) + 1):
        _read(connection, meter_id, [BEGIN + i * HOUR for i in range(24 * DAYS)], BEGIN, LAST, random.Random(5))
    asked = window(RangeQuestion(start=BEGIN, end=LAST), None, LAST)
    groups = meters.groups(store.meters(connection, asked, None, 100), store.nodes(connection, asked, None))
    ids = [[meter.meter_id for meter in group.meters] for group in groups]
    answer = store.below(connection, asked, ids, [group.nodes for group in groups])
    connection.execute("TRUNCATE meter_hour, host_hour, power_meter_hour, accelerator_minute, host_minute")
    assert store.below(connection, asked, ids, [group.nodes for group in groups]) == answer
    assert all(each.metered_us == DAYS * DAY // dt.timedelta(microseconds=1) for each in answer)


def test_hosts_of_long_ranges_are_the_sums_of_their_minutes(connection: psycopg.Connection[Any]) -> None:
    rng = random.Random(6)
    filters: dict[str, list[str] | None] = dict.fromkeys(DIMENSIONS)
    for _ in range(8):
        first, last = sorted(BEGIN + rng.randrange(DAYS * 24 * 60) * MINUTE for _ in range(2))
        for step in (None, HOUR, DAY):
            asked = window(RangeQuestion(start=first, end=last + MINUTE), step, LAST)
            hosts: Counter[str | None] = Counter()
            for facts in query.overhead(connection, asked, by=["node"], filters=filters):
                hosts[dict(facts.group)["node"]] += facts.energy_mj
            assert hosts == dict(
                connection.execute(
                    "SELECT n.name, sum(energy_mj) FROM host_minute JOIN node n USING (node_id)"
                    " WHERE time >= %s AND time < %s GROUP BY 1",
                    [asked.start, asked.end],
                ).fetchall()
            )
            boards_mj, whole_mj = (query.meter(connection, asked, filters, with_host=host) for host in (False, True))
            assert boards_mj is not None
            assert whole_mj == boards_mj + hosts.total()


def test_a_database_of_before_gets_the_days_that_roll_up_would_have_written(
    connection: psycopg.Connection[Any],
) -> None:
    def days() -> list[list[tuple[Any, ...]]]:
        nodes = connection.execute("SELECT * FROM node_day ORDER BY time, node_id").fetchall()
        return [nodes, connection.execute("SELECT * FROM power_meter_day ORDER BY time, meter_id").fetchall()]

    written = days()
    assert all(written)
    connection.execute("TRUNCATE node_day, power_meter_day")
    [nodes, hosts] = [each for each in migrate.migrations() if each.name[:4] in ("0021", "0023")]
    for statement in re.findall(r"INSERT INTO .*?;", nodes.sql, re.DOTALL):
        connection.execute(statement)
    with connection.transaction():
        connection.execute(hosts.sql.encode())
    assert days() == written
