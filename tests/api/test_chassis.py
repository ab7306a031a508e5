"""The chassis of a node: boards and host together are what it counts, in every minute in which that is known."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from support import site
from support.ledger import IDLE_EMPTY, SERVING, T0, Books
from support.meters import MINUTE, START, WATT, Counters, ask, close, host_mj, one, over
from support.mill import Node
from wattmill_api import accounting
from wattmill_api.store.ingest import Interner, store_batches
from wattmill_collector.wire import HostReading


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def client(database_url: str) -> Iterator[TestClient]:
    """The service two hours after the ticks began."""
    with TestClient(site.application(database_url, START + 120 * MINUTE)) as client:
        yield client


def chassis_node(ticks: int = 30, chassis_w: int = 1_000, boards_w: int = 600, package_w: int = 150) -> Node:
    node, count = Node(), Counters()
    node.board("GPU-a")
    node.board("GPU-b")
    for tick in range(ticks + 1):
        moved = min(tick, 1)
        node.tick(
            seconds=10 * moved,
            energy=dict.fromkeys(("GPU-a", "GPU-b"), moved * boards_w // 2 * WATT),
            host=[
                count.host("chassis", moved * chassis_w * WATT + moved),
                count.host("package-0", moved * package_w * WATT),
            ],
        )
    return node


def test_boards_and_host_together_are_the_chassis(connection: psycopg.Connection[Any], client: TestClient) -> None:
    close(connection, chassis_node())
    assert host_mj(connection, "chassis") is None
    assert host_mj(connection, "rest-of-node") == 30 * (250 * WATT + 1)
    chassis_mj = 30 * (1_000 * WATT + 1)
    assert host_mj(connection, "package-0") == 30 * 150 * WATT
    times = over(60)
    for step in ({}, {"step": "1m"}, {"step": "1h"}):
        rows = client.get("/api/v1/efficiency", params={**times, "scope": "node", **step}).json()["rows"]
        assert sum(row["energy_mj"] for row in rows) == chassis_mj
    ledger = client.get("/api/v1/ledger", params={**times, "scope": "node"}).json()
    assert (ledger["meter_mj"], ledger["residual_mj"], ledger["closes"]) == (chassis_mj, 0, True)
    assert sum(row["energy_mj"] for row in ledger["rows"]) == chassis_mj
    [row] = ask(client)
    assert (row["meter"], row["level"], row["chassis"], row["energy_mj"]) == ("n1", "node", True, chassis_mj)
    assert row["below"]["host_mj"] == 30 * 150 * WATT  # not what is made of the chassis itself
    assert row["difference_mj"] == 30 * (250 * WATT + 1)
    assert (row["reconciles"], row["quality"], row["whole_ratio"]) == (True, "measured", 1.0)


def test_a_chassis_below_its_parts_leaves_no_rest_and_says_so(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    close(connection, chassis_node(chassis_w=700))
    assert host_mj(connection, "rest-of-node") == 0
    [row] = ask(client)
    assert row["reconciles"] is False
    assert row["difference_mj"] == 30 * (1 - 50 * WATT)
    assert row["reason"].startswith("what stands below it used 7% more than it counted")


def test_no_rest_while_a_board_is_not_covered(connection: psycopg.Connection[Any]) -> None:
    node, count = Node(), Counters()
    node.board("GPU-a")
    lost = node.board("GPU-b")
    node.tick(seconds=0, host=[count.host("chassis", 0)])
    for tick in range(24):
        if tick == 6:
            del node.boards["GPU-b"]
        if tick == 18:
            node.boards["GPU-b"] = lost
        node.tick(energy={"GPU-a": 300 * WATT}, host=[count.host("chassis", 1_000 * WATT)])
    close(connection, node)
    minutes = connection.execute("SELECT time FROM host_minute WHERE domain = 'rest-of-node' ORDER BY time").fetchall()
    # Minute 1 and 2 lack a board. Minute 3 has it again, but its first interval ends a gap.
    assert [time for (time,) in minutes] == [START]


def test_a_chassis_read_by_power_is_an_estimate(connection: psycopg.Connection[Any], client: TestClient) -> None:
    node = Node()
    node.board("GPU-a")
    for tick in range(31):
        reading = HostReading(domain="chassis", source="ipmi", epoch=5, power_mw=900_000)
        # A management controller is asked once a minute only.
        node.tick(
            seconds=10 if tick else 0, energy={"GPU-a": 500 * WATT if tick else 0}, host=[reading] * (tick % 6 == 0)
        )
    close(connection, node)
    assert host_mj(connection, "rest-of-node") == 30 * 400 * WATT
    assert one(connection, "SELECT sum(estimated_mj)::bigint FROM host_minute") == 30 * 400 * WATT
    [row] = ask(client)
    assert (row["energy_mj"], row["quality"], row["coverage"] > 0.9) == (30 * 900 * WATT, "estimated", True)


def test_a_coarse_chassis_counter_gives_minutes_by_power(connection: psycopg.Connection[Any]) -> None:
    """A counter in tenths of kilowatt-hours moves every fifth minute here."""
    node, step_uj = Node(), 360_000_000_000
    node.board("GPU-a")
    for tick in range(61):
        counted_uj = 1_200_000 * 10_000 * tick // step_uj * step_uj
        reading = HostReading(domain="chassis", epoch=5, energy_uj=10**15 + counted_uj, power_mw=1_200_000)
        node.tick(seconds=10 if tick else 0, energy={"GPU-a": 500 * WATT if tick else 0}, host=[reading])
    close(connection, node)
    rests = connection.execute("SELECT energy_mj FROM host_minute WHERE domain = 'rest-of-node'").fetchall()
    assert rests == [(6 * 700 * WATT,)] * 10


def test_rolling_up_in_any_order_ends_with_the_same_rest(connection: psycopg.Connection[Any]) -> None:
    rng = random.Random(6)
    node, count = Node(), Counters()
    node.board("GPU-a")
    for tick in range(90):
        reading = count.host("chassis", 900 * WATT + rng.randrange(1000))
        meter = count.meter("pdu", 1_000 * WATT + rng.randrange(1000))
        host = ([reading] if tick % 4 == 0 else []) + ([meter] if tick % 6 == 0 else [])
        node.tick(energy={"GPU-a": 500 * WATT + rng.randrange(1000)}, host=host)
    close(connection, node)
    tables = ("host_minute", "host_hour", "power_meter_minute", "power_meter_hour")
    questions = [f"SELECT * FROM {table} ORDER BY 1, energy_mj".encode() for table in tables]
    straight = [connection.execute(question).fetchall() for question in questions]
    assert all(straight)
    total = one(connection, "SELECT sum(counted_mj)::bigint FROM power_meter_total")
    for seed in (1, 2):
        connection.execute(
            "TRUNCATE batch_ledger, stream, accelerator_sample, host_sample, power_meter_sample, ledger_minute,"
            " ledger_hour, host_minute, host_hour, accelerator_minute, power_meter_minute, power_meter_hour,"
            " power_meter_total, dirty_span CASCADE"
        )
        batches = list(node.batches)
        random.Random(seed).shuffle(batches)
        interner = Interner()
        for i in range(0, len(batches), 13):
            store_batches(connection, batches[i : i + 13], interner)
            while accounting.roll_up(connection):
                pass
        assert [connection.execute(question).fetchall() for question in questions] == straight
        assert one(connection, "SELECT sum(counted_mj)::bigint FROM power_meter_total") == total


def test_the_example_of_the_page_on_scopes(books: Books, database_url: str) -> None:
    node, kj = books.node("gpu-1"), 1_000_000
    boards = [books.board(node, uuid) for uuid in ("GPU-a", "GPU-b", "GPU-c")]
    chat, search = books.placement(node, boards[:1], "chat"), books.placement(node, boards[1:2], "search", target="b")
    books.spent(node, boards[0], chat, SERVING, 30 * kj)
    books.spent(node, boards[1], search, SERVING, 10 * kj)
    books.spent(node, boards[2], 0, IDLE_EMPTY, 5 * kj)
    books.host(node, 5 * kj)
    books.host(node, 7 * kj, domain="rest-of-node")
    with TestClient(site.application(database_url, T0 + 10 * MINUTE)) as client:
        client.put("/api/v1/pue", json=[{"site": "ams1", "valid_from": "2020-01-01T00:00:00Z", "pue": 1.2}])
        for scope, wanted in (
            ("accelerator", [30 * kj, 10 * kj, 5 * kj]),
            ("node", [38 * kj, 12_666_667, 6_333_333]),
            ("facility", [45_600_000, 15_200_000, 7_600_000]),
        ):
            asked = {"start": T0.isoformat(), "end": (T0 + MINUTE).isoformat(), "by": "workload", "scope": scope}
            rows = client.get("/api/v1/efficiency", params=asked).json()["rows"]
            assert [row["energy_mj"] for row in rows] == wanted
