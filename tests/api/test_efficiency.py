"""GET /efficiency: the same joules under every grouping, prices joined at the time they held, null for the unknown."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from support.ledger import IDLE_EMPTY, IDLE_LOADED, MINUTE, SERVING, T0, UNATTRIBUTED, Books
from wattmill_api.efficiency import scale
from wattmill_api.parameters import DIMENSIONS

MINUTES = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:59:00Z"}  # not whole hours: read from minutes
HOUR = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T11:00:00Z"}
KWH = 3_600_000_000


def rows(client: TestClient, **parameters: Any) -> list[dict[str, Any]]:
    response = client.get("/api/v1/efficiency", params={**MINUTES, **parameters})
    assert response.status_code == 200, response.text
    return list(response.json()["rows"])


def fleet(books: Books) -> None:
    """Two nodes at two sites; chat and mail share a board, a second board idles empty, a third belongs to nobody."""
    ams, sto = books.node("gpu-1"), books.node("gpu-2", "sto1")
    a, b, c = books.board(ams, "GPU-a"), books.board(ams, "GPU-b", "A100"), books.board(sto, "GPU-c")
    chat = books.placement(ams, [a], "chat")
    mail = books.placement(ams, [a], "mail", model="llama", team="post", target="http://127.0.0.1:8001/metrics")
    for minute in range(2):
        at = T0 + minute * MINUTE
        books.spent(ams, a, chat, SERVING, 600_001, at=at, tokens=(900, 300, 100))
        books.spent(ams, a, mail, IDLE_LOADED, 300_007, at=at)
        books.spent(ams, b, 0, IDLE_EMPTY, 99_991, at=at)
        books.spent(sto, c, 0, UNATTRIBUTED, 1_000_003, at=at, estimated_mj=3)


def test_a_kilowatt_hour_and_a_thousand_tokens_are_a_thousand_tokens_per_kilowatt_hour(
    client: TestClient, books: Books
) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    books.spent(node, board, books.placement(node, [board], "chat"), SERVING, KWH, tokens=(5000, 2000, 1000))
    [row] = rows(client, by="workload")
    assert row["group"] == {"workload": "chat"}
    assert row["time"] == "2026-03-02T10:00:00Z"
    assert row["tokens"] == {"input": 5000, "cached_input": 2000, "output": 1000}
    assert (row["energy_mj"], row["energy_kwh"]) == (KWH, 1.0)
    assert row["tokens_per_kwh"] == 1000
    assert row["total_tokens_per_kwh"] == 6000
    assert row["uncached_total_tokens_per_kwh"] == 4000
    assert row["joules_per_token"] == 3600
    assert (row["coverage"], row["quality"], row["scope"]) == (1.0, "measured", "accelerator")
    assert (row["cost"], row["co2_grams"], row["missing"]) == (None, None, ["carbon", "tariff"])


@pytest.mark.parametrize("scope", ["accelerator", "node"])
def test_the_groups_sum_to_the_meter_whatever_is_told_apart(client: TestClient, books: Books, scope: str) -> None:
    fleet(books)
    books.host(books.one("SELECT node_id FROM node WHERE name = 'gpu-1'"), 12_347)
    books.close_hours()
    total = 2 * (600_001 + 300_007 + 99_991 + 1_000_003) + (12_347 if scope == "node" else 0)
    for times in (MINUTES, HOUR):
        for by in ("", *DIMENSIONS, ",".join(DIMENSIONS)):
            for step in ("", "1m", "1h", "1d", "auto"):
                asked = {"by": by, "step": step}
                answer = rows(client, scope=scope, **times, **{name: value for name, value in asked.items() if value})
                assert sum(row["energy_mj"] for row in answer) == total
                assert sum(row["tokens"]["output"] or 0 for row in answer) == 200
                keys = [(row["time"], tuple(row["group"].items())) for row in answer]
                assert len(keys) == len(set(keys))


def test_energy_that_nobody_owns_is_a_group_named_null(client: TestClient, books: Books) -> None:
    fleet(books)
    by_workload = {row["group"]["workload"]: row for row in rows(client, by="workload")}
    assert by_workload["chat"]["energy_mj"] == 1_200_002
    assert by_workload["mail"]["energy_mj"] == 600_014  # loaded and idle: still its own
    assert by_workload[None]["energy_mj"] == 2 * (99_991 + 1_000_003)
    assert by_workload[None]["tokens"]["output"] is None
    assert by_workload[None]["reason"] == "no output tokens were read"
    assert by_workload[None]["quality"] == "estimated"
    assert by_workload["mail"]["tokens_per_kwh"] is None


def test_filters_keep_what_has_the_name(client: TestClient, books: Books) -> None:
    fleet(books)
    assert [row["energy_mj"] for row in rows(client, node="gpu-2")] == [2_000_006]
    assert [row["energy_mj"] for row in rows(client, workload=["chat", "mail"])] == [2 * 900_008]
    assert [row["energy_mj"] for row in rows(client, team="post")] == [600_014]
    assert [row["energy_mj"] for row in rows(client, accelerator_model="A100")] == [199_982]
    assert [row["energy_mj"] for row in rows(client, workload="")] == [2 * (99_991 + 1_000_003)]
    assert rows(client, workload="nobody") == []


def test_a_range_is_widened_to_whole_minutes_and_its_end_is_not_in_it(client: TestClient, books: Books) -> None:
    fleet(books)
    first = {"start": "2026-03-02T10:00:30Z", "end": "2026-03-02T10:00:31Z"}
    assert [row["energy_mj"] for row in rows(client, **first)] == [2_000_002]
    assert [row["energy_mj"] for row in rows(client, start="1772445660", end="1772445720.0")] == [
        2_000_002
    ]  # the second
    assert rows(client, start="2026-03-02T10:02:00Z", end="2026-03-02T10:03:00Z") == []


def test_hours_and_minutes_give_the_same_rows(client: TestClient, books: Books) -> None:
    fleet(books)
    from_minutes = rows(client, by="workload")
    books.close_hours()
    books.do("DELETE FROM ledger_minute")
    assert rows(client, by="workload", **HOUR) == from_minutes


def test_host_energy_is_shared_by_energy_to_the_millijoule(client: TestClient, books: Books) -> None:
    fleet(books)
    ams = books.one("SELECT node_id FROM node WHERE name = 'gpu-1'")
    books.host(ams, 100_000)
    books.host(ams, 1, domain="dram-0")
    books.host(ams, 77, at=T0 + MINUTE)
    books.host(ams, 5000, at=T0 + 5 * MINUTE)  # the boards said nothing in this minute
    answer = rows(client, by="workload", scope="node")
    assert sum(row["energy_mj"] for row in answer) == 4_000_004 + 100_001 + 77 + 5000
    by_workload = {row["group"]["workload"]: row for row in answer}
    first, second = 100_001 * 600_001 // 999_999, 77 * 600_001 // 999_999
    assert 0 <= by_workload["chat"]["energy_mj"] - (1_200_002 + first + second) <= 2
    assert by_workload["chat"]["quality"] == "measured"
    assert by_workload[None]["missing"] == ["carbon", "host", "tariff"]  # gpu-2 measures no host energy
    assert by_workload[None]["quality"] == "estimated"


def test_facility_energy_needs_a_pue(client: TestClient, books: Books) -> None:
    fleet(books)
    [row] = rows(client, scope="facility", node="gpu-2")
    assert (row["energy_mj"], row["tokens_per_kwh"]) == (None, None)
    assert "pue" in row["missing"]
    assert row["reason"] == "no PUE is set for this site at this time"
    assert client.put("/api/v1/pue", json={"site": "sto1", "pue": 1.25}).status_code == 200
    assert [row["energy_mj"] for row in rows(client, scope="facility", node="gpu-2")] == [2_500_008]  # 2 500 007.5


def test_published_vector_of_cost_and_carbon(client: TestClient, books: Books) -> None:
    """1 J/token, PUE 1.25, 400 g/kWh, 0.12/kWh: 138.9 g and 0.0417 per million tokens (facts/ecosystem 5.3)."""
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    books.spent(node, board, books.placement(node, [board], "chat"), SERVING, 1_000_000_000, tokens=(0, 0, 1_000_000))
    assert client.put("/api/v1/pue", json={"pue": 1.25}).status_code == 200
    assert client.put("/api/v1/carbon", json={"grams_per_kwh": 400}).status_code == 200
    assert client.put("/api/v1/tariffs", json={"price_per_kwh": 0.12, "currency": "USD"}).status_code == 200
    [row] = rows(client, by="workload", scope="facility")
    assert row["energy_kwh"] == pytest.approx(0.3472, abs=5e-5)
    assert row["cost"]["currency"] == "USD"
    assert row["cost"]["per_million_tokens"] == pytest.approx(0.0417, abs=5e-5)
    assert row["co2_grams"] == pytest.approx(138.9, abs=0.05)


def test_a_new_tariff_re_prices_only_what_comes_after_it(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    for minute in range(2):
        books.spent(node, board, 0, IDLE_EMPTY, KWH, at=T0 + minute * MINUTE)
    books.close_hours()
    versions = [
        {"site": "*", "valid_from": "2026-01-01T00:00:00Z", "price_per_kwh": "0.10", "currency": "EUR"},
        {"site": "ams1", "valid_from": "2026-03-02T10:01:00Z", "price_per_kwh": "0.30", "currency": "EUR"},
    ]
    assert client.put("/api/v1/tariffs", json=versions).status_code == 200
    [row] = rows(client, **HOUR)
    assert row["cost"] == {"currency": "EUR", "total": 0.4, "per_million_tokens": None}
    assert row["energy_mj"] == 2 * KWH
    assert client.put("/api/v1/tariffs", json=[{**versions[1], "currency": "SEK"}]).status_code == 200
    [row] = rows(client)
    assert row["cost"] is None
    assert "currency" in row["missing"]


def test_half_a_price_is_no_price(client: TestClient, books: Books) -> None:
    fleet(books)
    assert client.put("/api/v1/tariffs", json={"site": "ams1", "price_per_kwh": 0.2}).status_code == 200
    by_site = {row["group"]["site"]: row for row in rows(client, by="site")}
    assert by_site["ams1"]["cost"]["currency"] == "EUR"
    assert by_site["sto1"]["cost"] is None
    [total] = rows(client)
    assert total["cost"] is None
    assert "tariff" in total["missing"]


def test_engines_with_one_target_on_two_nodes_stay_two(client: TestClient, books: Books) -> None:
    for name in ("gpu-1", "gpu-2"):
        node = books.node(name)
        board = books.board(node, f"GPU-{name}")
        books.spent(node, board, books.placement(node, [board], "chat"), SERVING, 10, tokens=(1, 0, 1))
    target = "http://127.0.0.1:8000/metrics"
    groups = [row["group"] for row in rows(client, by="engine")]
    assert groups == [{"engine": target, "node": "gpu-1"}, {"engine": target, "node": "gpu-2"}]


def test_tokens_whose_boards_are_unknown_are_not_called_measured(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    chat = books.placement(node, [], "chat")
    books.spent(node, board, chat, SERVING, 1000, tokens=(1, 0, 1))
    books.spent(node, 0, chat, SERVING, 0, tokens=(9, None, 9))
    [row] = rows(client, by="workload")
    assert row["tokens"]["output"] == 10
    assert row["quality"] == "estimated"
    assert {"placement", "cached_input_tokens"} <= set(row["missing"])


def test_csv_is_rfc_4180_and_runs_no_formula(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    books.spent(node, board, books.placement(node, [board], '=cmd|"x",1'), SERVING, KWH, tokens=(1, 0, 7))
    response = client.get("/api/v1/efficiency", params={**MINUTES, "by": "workload", "format": "csv"})
    assert response.headers["content-type"].startswith("text/csv")
    assert "attachment" in response.headers["content-disposition"]
    assert response.text.splitlines()[0].startswith("time,workload,input_tokens")
    assert response.text.endswith("\r\n")
    [row] = csv.DictReader(io.StringIO(response.text))
    assert row["workload"] == """'=cmd|"x",1"""
    assert (row["output_tokens"], row["energy_mj"], row["cost"]) == ("7", str(KWH), "")


def test_parquet_has_the_same_columns_with_and_without_rows(client: TestClient, books: Books) -> None:
    fleet(books)
    parameters = {**MINUTES, "by": "workload", "format": "parquet"}
    full = pq.read_table(io.BytesIO(client.get("/api/v1/efficiency", params=parameters).content))
    empty = pq.read_table(io.BytesIO(client.get("/api/v1/efficiency", params={**parameters, "node": "none"}).content))
    assert full.schema.equals(empty.schema)
    assert sum(full["energy_mj"].to_pylist()) == 4_000_004


def test_bad_parameters_are_named(client: TestClient) -> None:
    for parameters, field in (
        ({"by": "wrokload"}, "by.0"),
        ({"scope": "galaxy"}, "scope"),
        ({"format": "xls"}, "format"),
        ({"step": "5m"}, "step"),
        ({"start": "yesterday"}, "start"),
        ({"start": "2026-03-02T10:00:00"}, "start"),
        ({"start": "1e400"}, "start"),
        ({"end": "9999-12-31T00:00:00Z"}, "end"),
        ({"start": "2026-03-03T00:00:00Z"}, "start"),
        ({"start": "2024-01-01T00:00:00Z", "step": "1m"}, "step"),
        ({"groupby": "node"}, "groupby"),
        ({"node": "a\x00b"}, "node.0"),
        ({"node": "x" * 600}, "node.0"),
    ):
        response = client.get("/api/v1/efficiency", params={**MINUTES, **parameters})
        assert response.status_code == 422, parameters
        assert response.headers["content-type"] == "application/problem+json"
        assert [error["field"] for error in response.json()["errors"]] == [field]
        assert response.json()["errors"][0]["reason"]


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=20), st.decimals("1", "3", places=4))
def test_scaling_loses_nothing(parts: list[int], factor: Decimal) -> None:
    scaled = scale(parts, factor)
    assert abs(sum(scaled) - sum(parts) * factor) <= Decimal("0.5")
    assert all(abs(new - old * factor) < 1 for new, old in zip(scaled, parts, strict=True))
