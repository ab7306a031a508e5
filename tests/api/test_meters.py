"""Power meters: counted exactly, never in the ledger, and held against what stands below them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from support import site
from support.ledger import Books
from support.meters import MINUTE, START, WATT, Counters, ask, close, labelled, one, over
from support.two_teams import key_for
from wattmill_api.overview.meters import meters
from wattmill_api.view import read
from wattmill_collector.wire import HostReading, MeterReading, Reading


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def client(database_url: str) -> Iterator[TestClient]:
    """The service two hours after the ticks began."""
    with TestClient(site.application(database_url, START + 120 * MINUTE)) as client:
        yield client


def test_two_feeds_of_a_rack_are_compared_together(connection: psycopg.Connection[Any], client: TestClient) -> None:
    nodes = [labelled("n1", rack="r1"), labelled("n2", rack="r1"), labelled("n3", rack="r2")]
    count = Counters()
    for node in nodes:
        node.board(f"GPU-{node.header.name}")
        for tick in range(61):
            moved = min(tick, 1)
            meters = [count.meter("a", moved * 800 * WATT), count.meter("b", moved * 600 * WATT)]
            node.tick(
                seconds=10 * moved,
                energy={f"GPU-{node.header.name}": moved * 500 * WATT},
                host=meters if node is nodes[0] else [],
            )
    close(connection, *nodes)
    assert one(connection, "SELECT count(*) FROM host_minute") == 0
    [row] = ask(client, 10)
    assert (row["meter"], row["meters"], row["covers"], row["nodes"]) == ("a + b", ["a", "b"], ["rack=r1"], 2)
    assert row["energy_mj"] == 60 * 1_400 * WATT
    assert row["below"] == {"accelerator_mj": 60 * 1_000 * WATT, "host_mj": None, "meters_mj": None}
    assert row["difference_mj"] == 60 * 400 * WATT
    assert (row["coverage"], row["below_coverage"], row["reconciles"], row["reason"]) == (1.0, 1.0, True, None)
    times = over(10)
    ledger = client.get("/api/v1/ledger", params={**times, "scope": "node"}).json()
    assert sum(row["energy_mj"] for row in ledger["rows"]) == 3 * 60 * 500 * WATT  # no meter's energy
    assert ask(client, 10, meter="b") == [row]
    assert ask(client, meter="c") == ask(client, level="facility") == ask(client, site="other") == []
    steps = ask(client, 10, step="1m")
    assert [step["energy_mj"] for step in steps] == [6 * 1_400 * WATT] * 10
    csv = client.get("/api/v1/meters", params={**times, "format": "csv"}).text.splitlines()
    assert csv[0].startswith("time,site,level,meter,chassis,covers,nodes,energy_mj,below_accelerator_mj,below_host_mj")
    assert csv[1].split(",")[1:9] == ["hall", "rack", "a + b", "false", "rack=r1", "2", "840000000", "600000000"]


def test_a_meter_that_two_agents_read_is_one_meter(connection: psycopg.Connection[Any], client: TestClient) -> None:
    first, second, count = labelled("n1", rack="r1"), labelled("n2", rack="r1"), Counters()
    for tick in range(31):
        reading = count.meter("pdu", 1_000 * WATT if tick else 0)
        for node in (first, second):
            node.tick(seconds=10 if tick else 0, host=[reading])
    close(connection, first, second)
    assert one(connection, "SELECT count(*) FROM power_meter_sample") == 31
    [row] = ask(client)
    assert row["energy_mj"] == 30 * 1_000 * WATT
    assert (row["reconciles"], row["reason"]) == (None, "nothing below it was read")
    duplicates = one(connection, "SELECT sum(duplicates)::int FROM batch_ledger")
    assert duplicates == 31


@pytest.mark.parametrize(
    ("meter_w", "reconciles"), [(940, False), (960, True), (1_000, True), (1_170, True), (1_180, False)]
)
def test_where_every_node_is_measured_whole_both_sides_are_close(
    connection: psycopg.Connection[Any], client: TestClient, meter_w: int, reconciles: bool
) -> None:
    node, count = labelled("n1", rack="r1"), Counters()
    node.board("GPU-a")
    for tick in range(61):
        moved = min(tick, 1)
        chassis, meter = count.host("chassis", moved * 1_000 * WATT), count.meter("pdu", moved * meter_w * WATT)
        node.tick(seconds=10 * moved, energy={"GPU-a": moved * 600 * WATT}, host=[chassis, meter])
    close(connection, node)
    [row] = ask(client, 10, level="rack")
    assert (row["below"]["accelerator_mj"], row["below"]["host_mj"]) == (60 * 600 * WATT, 60 * 400 * WATT)
    assert row["below"]["meters_mj"] == 60 * 1_000 * WATT
    assert row["reconciles"] is reconciles
    assert (row["reason"] is None) is reconciles
    assert row["ratio"] == pytest.approx(1_000 / meter_w)


def test_a_hall_has_a_measured_pue_beside_the_set_one(connection: psycopg.Connection[Any], client: TestClient) -> None:
    node, count = labelled("n1", rack="r1"), Counters()
    node.board("GPU-a")
    for tick in range(61):
        moved = min(tick, 1)
        readings: list[Reading] = [
            count.host("chassis", moved * 1_000 * WATT),
            count.meter("pdu", moved * 1_050 * WATT),
            count.meter("feed", moved * 1_300 * WATT, level="facility", covers=()),
        ]
        node.tick(seconds=10 * moved, energy={"GPU-a": moved * 600 * WATT}, host=readings)
    close(connection, node)
    client.put("/api/v1/pue", json=[{"site": "hall", "valid_from": "2020-01-01T00:00:00Z", "pue": 1.25}])
    facility, rack, chassis = sorted(ask(client, 10), key=lambda row: -row["energy_mj"])
    assert [row["level"] for row in (facility, rack, chassis)] == ["facility", "rack", "node"]
    assert (facility["measured_pue"], facility["set_pue"], facility["reconciles"]) == (1.3, 1.25, True)
    assert facility["below"]["meters_mj"] == rack["energy_mj"]
    assert (rack["measured_pue"], rack["set_pue"]) == (None, None)
    times = over(10)
    [row] = client.get("/api/v1/efficiency", params={**times, "scope": "facility"}).json()["rows"]
    assert row["energy_mj"] == 60 * 1_250 * WATT  # the set PUE scales, whatever the meter says


def test_a_meter_that_was_not_read_all_the_time_is_not_judged(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    node, count = labelled("n1", rack="r1"), Counters()
    node.board("GPU-a")
    for tick in range(121):
        moved = min(tick, 1)
        reading = count.meter("pdu", moved * 700 * WATT)
        node.tick(
            seconds=10 * moved, energy={"GPU-a": moved * 500 * WATT}, host=[reading] if not 30 < tick < 90 else []
        )
    close(connection, node)
    [row] = ask(client, 20)
    assert row["energy_mj"] == 120 * 700 * WATT  # the counter went on meanwhile
    assert row["coverage"] == pytest.approx(0.5, abs=0.01)
    assert (row["reconciles"], row["reason"]) == (None, "the meter was covered for 50% of the time")


def test_a_reset_counts_from_zero_and_a_glitch_for_nothing(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    node = labelled("n1", rack="r1")
    values = [5_000_000_000 + i * 10_000_000 for i in range(10)]
    values[4] = 3  # misread once
    values += [7_000_000 + i * 10_000_000 for i in range(10)]  # somebody cleared it
    for i, value in enumerate(values):
        reading = MeterReading(meter="pdu", level="rack", covers=("rack=r1",), energy_mj=value)
        node.tick(seconds=10 if i else 0, host=[reading])
    close(connection, node)
    assert [row["energy_mj"] for row in ask(client, 4)] == [90_000_000 + 97_000_000]


def test_a_coarse_meter_is_not_judged_over_a_short_time(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    node, step_mj = labelled("n1", rack="r1"), 360_000_000
    boards = [f"GPU-{i}" for i in range(10)]
    for uuid in boards:
        node.board(uuid)
    for tick in range(361):
        counted_mj = 20_000_000 * 10 * tick // step_mj * step_mj
        reading = MeterReading(meter="pdu", level="rack", covers=("rack=r1",), energy_mj=1000 * step_mj + counted_mj)
        node.tick(seconds=10 if tick else 0, energy=dict.fromkeys(boards, 1_500 * WATT if tick else 0), host=[reading])
    close(connection, node)
    [row] = ask(client, 60)
    assert (row["reconciles"], row["reason"]) == (True, None)
    minutes = ask(client, 60, step="1m")
    assert {row["reconciles"] for row in minutes} == {None}
    assert minutes[0]["reason"] == "it counts in steps of 0.1 kWh, too coarse for so short a time"


def test_a_meter_above_unknown_nodes_says_so(connection: psycopg.Connection[Any], client: TestClient) -> None:
    node, count = labelled("n1", rack="r1"), Counters()
    for tick in range(31):
        node.tick(seconds=10 if tick else 0, host=[count.meter("pdu", tick and 500 * WATT, covers=("rack=r9",))])
    close(connection, node)
    [row] = ask(client)
    assert (row["nodes"], row["reconciles"], row["reason"]) == (
        0,
        None,
        "no node below it is known: none has rack=r9",
    )


def test_a_meter_with_power_alone_is_integrated(connection: psycopg.Connection[Any], client: TestClient) -> None:
    node = labelled("n1", rack="r1")
    for tick in range(0, 31, 6):
        reading = MeterReading(meter="pdu", level="rack", covers=("rack=r1",), power_mw=2_000_000 + 100_000 * tick)
        node.tick(seconds=60 if tick else 0, host=[reading])
    close(connection, node)
    [row] = ask(client)
    assert row["energy_mj"] == row["estimated_mj"] == 300 * 3_500_000
    assert row["quality"] == "estimated"


def test_metrics_show_what_meters_counted(connection: psycopg.Connection[Any], client: TestClient) -> None:
    node, count = labelled("n1", rack="r1"), Counters()
    node.board("GPU-a")
    for tick in range(31):
        readings: list[Reading] = [
            count.meter("pdu", 700 * WATT if tick else 0),
            count.host("chassis", 600 * WATT if tick else 0),
        ]
        node.tick(seconds=10 if tick else 0, host=readings)
    close(connection, node)
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("wattmill_meter")]
    assert lines == ['wattmill_meter_energy_joules_total{level="rack",meter="pdu",site="hall"} 210000.0']


@pytest.mark.parametrize(("second_w", "whole"), [(700, 0.0), (1_000, 0.5)])
def test_a_chassis_below_its_boards_measures_nothing_whole(
    connection: psycopg.Connection[Any], client: TestClient, second_w: int, whole: float
) -> None:
    """Two nodes of 750 W in parts; a chassis that says 700 W is wrong, so the rack above may miss fans and supplies."""
    nodes, count = [labelled("n1", rack="r1"), labelled("n2", rack="r1")], Counters()
    for node, chassis_w in zip(nodes, (700, second_w), strict=True):
        name = node.header.name
        node.board(f"GPU-{name}")
        for tick in range(61):
            moved = min(tick, 1)
            readings: list[Reading] = [
                HostReading(
                    domain="chassis", epoch=5, energy_uj=1000 * count(f"{name} chassis", moved * chassis_w * WATT)
                ),
                HostReading(domain="package-0", epoch=5, energy_uj=1000 * count(f"{name} cpu", moved * 150 * WATT)),
            ]
            if node is nodes[0]:
                readings.append(count.meter("pdu", moved * 2_200 * WATT))
            node.tick(seconds=10 * moved, energy={f"GPU-{name}": moved * 600 * WATT}, host=readings)
    close(connection, *nodes)
    rows = {row["meter"]: row for row in ask(client, 10)}
    assert (rows["n1"]["reconciles"], rows["n1"]["whole_ratio"]) == (False, 0.0)
    assert (rows["n2"]["reconciles"], rows["n2"]["whole_ratio"]) == (second_w == 1_000, float(second_w == 1_000))
    assert rows["pdu"]["whole_ratio"] == whole
    assert (rows["pdu"]["reconciles"], rows["pdu"]["reason"]) == (True, None)  # 20 % or more missing, within a half
    assert ask(client, 10, level="rack") == [rows["pdu"]]  # whatever else is asked for


# -- who sees them ----------------------------------------------------------------------------------------------------


def rack(connection: psycopg.Connection[Any], meter_w: int = 1_400) -> None:
    """A rack with a meter above one node of 1 kW, ten minutes long."""
    node, count = labelled("n1", rack="r1"), Counters()
    node.board("GPU-a")
    for tick in range(61):
        moved = min(tick, 1)
        readings: list[Reading] = [
            count.meter("pdu-7", moved * meter_w * WATT),
            count.host("package-0", moved * 400 * WATT),
        ]
        node.tick(seconds=10 * moved, energy={"GPU-a": moved * 600 * WATT}, host=readings)
    close(connection, node)


def test_the_page_shows_meters_only_where_there_are_any(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    page = client.get("/", params=over(10))
    assert (page.status_code, 'id="meters"' in page.text) == (200, False)
    rack(connection, meter_w=900)
    text = client.get("/", params=over(10)).text
    assert 'id="meters"' in text
    assert "pdu-7" in text
    assert "what stands below it used 11% more than it counted" in text
    assert 'id="meters"' not in client.get("/", params={**over(10), "workload": "chat"}).text
    assert 'id="meters"' in client.get("/", params={**over(10), "node": "n1"}).text


def test_a_key_of_a_team_sees_no_meter(connection: psycopg.Connection[Any], client: TestClient, books: Books) -> None:
    rack(connection)
    everybody, team = ({"Authorization": f"Bearer {key_for(books, 'read', *teams)}"} for teams in ((), ("search",)))
    url = "/api/v1/meters"
    assert [row["meter"] for row in client.get(url, params=over(10), headers=everybody).json()["rows"]] == ["pdu-7"]
    answer = client.get(url, params=over(10), headers=team)
    assert (answer.status_code, answer.json()["rows"]) == (200, [])
    client.cookies.set("wattmill_key", team["Authorization"].removeprefix("Bearer "))
    page = client.get("/", params=over(10))
    assert (page.status_code, "pdu-7" in page.text) == (200, False)


def test_the_view_says_what_the_answer_says(connection: psycopg.Connection[Any], client: TestClient) -> None:
    rack(connection)
    rows = connection.execute(
        "SELECT site, meter, level, covers, source, chassis, energy_mj, estimated_mj, covered_us"
        " FROM wattmill_v1_meter_hour WHERE time >= %s AND time < %s",
        [START, START + 60 * MINUTE],
    ).fetchall()
    [row] = ask(client, 10)
    assert rows == [("hall", "pdu-7", "rack", "rack=r1", "snmp_exporter", False, row["energy_mj"], 0, 600_000_000)]


def test_the_page_reads_whole_hours_of_a_large_fleet(connection: psycopg.Connection[Any]) -> None:
    rack(connection)
    view = read([("start", START.isoformat()), ("end", (START + 90 * MINUTE).isoformat())], START + 120 * MINUTE)
    few, many = meters(connection, view, 8), meters(connection, view, 100_000)
    assert few is not None
    assert many is not None
    assert (few.end - few.start, many.end - many.start) == (90 * MINUTE, 60 * MINUTE)
    assert [row["energy_mj"] for row in (*few.rows, *many.rows)] == [60 * 1_400 * WATT] * 2
