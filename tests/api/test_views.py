"""The SQL views: as docs/sql.md describes them, equal to the ledger and the API, and all that a reader can see."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from psycopg import sql
from psycopg.types.json import Jsonb

from support.ledger import IDLE_EMPTY, IDLE_LOADED, SERVING, T0, UNATTRIBUTED, Books
from wattmill_api.store import prices

PAGE = Path(__file__).resolve().parents[2] / "docs/sql.md"
TYPES = {"timestamp with time zone": "timestamptz"}
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


def documented() -> dict[str, list[tuple[str, str]]]:
    """(column, type) by view, in the order of the page."""
    views: dict[str, list[tuple[str, str]]] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        if columns := re.findall(r"^\| `(\w+)` \| ([a-z ]+) \| \S", part, re.MULTILINE):
            views[part.splitlines()[0]] = columns
    return views


def test_the_page_describes_every_view_and_column(books: Books) -> None:
    found: dict[str, list[tuple[str, str]]] = {}
    for view, column, type_ in books.connection.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name ^@ 'wattmill_v1_' ORDER BY table_name, ordinal_position"
    ):
        found.setdefault(view, []).append((str(column), TYPES.get(str(type_), str(type_))))
    assert documented() == found


@pytest.fixture
def fleet(books: Books) -> Books:
    node = books.node("gpu-1")
    boards = [books.board(node, uuid) for uuid in ("GPU-a", "GPU-b")]
    chat = books.placement(node, boards[:1], "chat")
    for minute in range(3):
        at = T0 + minute * dt.timedelta(minutes=1)
        books.spent(node, boards[0], chat, SERVING, 5_000_000, at=at, tokens=(40, 10, 25), covered_us=40_000_000)
        books.spent(node, boards[0], chat, IDLE_LOADED, 1_000_000, at=at, covered_us=20_000_000)
        books.spent(node, boards[1], 0, IDLE_EMPTY, 700_001, at=at)
        books.spent(node, boards[1], 0, UNATTRIBUTED, 3, at=at, covered_us=0)
        books.host(node, 900_000, at=at)
    books.do(
        "INSERT INTO power_meter (site_id, name, level, covers, first_seen, last_seen)"
        " SELECT site_id, 'pdu', 'rack', '{}', %s, %s FROM site",
        *(T0, T0),
    )
    books.do("INSERT INTO power_meter_hour VALUES (%s, 30000000, 0, 180000000, 1, 1)", T0)
    books.close_hours()
    return books


def rows(books: Books, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return books.connection.execute(statement.encode(), parameters).fetchall()


@pytest.mark.parametrize("span", ["minute", "hour", "day"])
def test_the_views_add_up_to_the_ledger(fleet: Books, span: str) -> None:
    accounts = rows(
        fleet,
        f"SELECT account, sum(energy_mj) FROM wattmill_v1_ledger_{span} WHERE time >= %s AND time < %s GROUP BY 1",
        *(T0 - DAY, T0 + HOUR),
    )
    assert dict(accounts) == {
        "serving": 15_000_000,
        "idle-loaded": 3_000_000,
        "idle-empty": 2_100_003,
        "unattributed": 9,
    }
    if span != "day":
        assert rows(fleet, f"SELECT sum(energy_mj) FROM wattmill_v1_overhead_{span}") == [(2_700_000,)]
    efficiency = rows(
        fleet,
        f"SELECT workload, sum(energy_mj), sum(output_tokens), sum(input_tokens - cached_input_tokens)"
        f" FROM wattmill_v1_efficiency_{span} GROUP BY 1",
    )
    assert efficiency == [("chat", 18_000_000, 75, 90)]


def test_an_hour_of_the_view_is_the_answer_of_the_api(fleet: Books, client: TestClient) -> None:
    for kind, fields in (
        ("tariff", {"currency": "EUR", "price_per_kwh": "0.25"}),
        ("carbon", {"grams_per_kwh": "300"}),
    ):
        more = {"source": ""} if kind == "carbon" else {}
        older = {"site": "*", "valid_from": T0 - HOUR, **fields, **more}
        prices.put(fleet.connection, kind, [older, {**older, "site": "ams1", "valid_from": T0}])
    times = {"start": T0.isoformat(), "end": (T0 + HOUR).isoformat()}
    answer = client.get("/api/v1/efficiency", params={**times, "by": "workload", "workload": "chat"}).json()["rows"]
    row = rows(fleet, "SELECT energy_mj, tokens_per_kwh, joules_per_token FROM wattmill_v1_efficiency_hour")[0]
    assert row[0] == answer[0]["energy_mj"]
    assert row[1:] == pytest.approx((answer[0]["tokens_per_kwh"], answer[0]["joules_per_token"]))
    cost = rows(fleet, "SELECT currency, cost::float8, co2_grams::float8 FROM wattmill_v1_cost_hour")[0]
    assert cost[0] == answer[0]["cost"]["currency"]
    assert cost[1:] == pytest.approx((answer[0]["cost"]["total"], answer[0]["co2_grams"]))


def test_a_board_that_said_nothing_is_not_covered(fleet: Books) -> None:
    node = fleet.one("SELECT node_id FROM node")
    fleet.board(node, "GPU-c", first_seen=T0 + HOUR / 2)
    covered = rows(
        fleet,
        "SELECT accelerator, covered_us, expected_us, coverage FROM wattmill_v1_coverage_hour"
        " WHERE time = %s ORDER BY 1",
        T0,
    )
    assert covered == [
        ("GPU-a", 180_000_000, 3_600_000_000, 0.05),
        ("GPU-b", 180_000_000, 3_600_000_000, 0.05),
        ("GPU-c", 0, 1_800_000_000, 0.0),
    ]


def test_a_node_is_told_by_its_age(books: Books) -> None:
    for name, age in (("a", "30 s"), ("b", "5 min"), ("c", "1 h"), ("d", "8 days")):
        node = books.node(name)
        books.do("UPDATE node SET last_seen = now() - %s::interval WHERE node_id = %s", age, node)
    found = rows(books, "SELECT node, state FROM wattmill_v1_node_status ORDER BY 1")
    assert found == [("a", "reporting"), ("b", "late"), ("c", "silent"), ("d", "gone")]


def test_a_finding_is_shown_with_what_its_remedy_saved(books: Books) -> None:
    finding = books.one(
        "INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy)"
        " VALUES ('low-batch', 'engine:e', %s, %s, 7, %s, 's', 'r') RETURNING finding_id",
        *(T0, T0, Jsonb({"batch": 2})),
    )
    books.do(
        "INSERT INTO finding_saving (finding_id, since, until, method, before_mj, before_units, saved_mj)"
        " VALUES (%s, %s, %s, 'm', 1, 1, 5)",
        *(finding, T0, T0 + HOUR),
    )
    found = rows(books, "SELECT kind, state, site, energy_mj, saved_mj, evidence FROM wattmill_v1_finding")
    assert found == [("low-batch", "open", None, 7, 5, {"batch": 2})]


@pytest.mark.parametrize("view", sorted(documented()))
def test_a_reader_sees_the_views(fleet: Books, view: str) -> None:
    fleet.do("SET ROLE wattmill_read")
    fleet.connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(view))).fetchall()


def test_a_reader_sees_nothing_else(fleet: Books) -> None:
    fleet.do("SET ROLE wattmill_read")
    for statement in ("SELECT * FROM ledger_minute", "SELECT * FROM api_key", "CREATE TABLE mine (a integer)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            fleet.connection.execute(statement.encode())
    with pytest.raises(psycopg.Error):
        fleet.connection.execute("DELETE FROM wattmill_v1_finding")


@pytest.mark.parametrize("view", [name for name, columns in documented().items() if columns[0][0] == "time"])
def test_a_bound_on_time_reaches_the_table(fleet: Books, view: str) -> None:
    """The plan reads no series without it: on every scan of a series stands a condition on time."""
    fleet.do("SET enable_seqscan = off")
    statement = sql.SQL("EXPLAIN (FORMAT JSON) SELECT * FROM {} WHERE time >= %s AND time < %s")
    plan = fleet.connection.execute(statement.format(sql.Identifier(view)), (T0, T0 + HOUR)).fetchone()
    assert plan is not None
    scans = [
        node
        for node in nodes(plan[0][0]["Plan"])
        if re.search("ledger|host_|phase|power_meter_hour|_hyper", node.get("Relation Name", ""))
        and "Custom" not in node["Node Type"]
    ]
    assert scans
    for node in scans:
        assert "time" in "".join(str(node.get(kind)) for kind in ("Index Cond", "Recheck Cond", "Filter")), node


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", []) for node in nodes(part))]
