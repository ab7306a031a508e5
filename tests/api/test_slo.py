"""Tokens that came in time per kilowatt-hour: by hand, per workload and minute, and null where nothing is known."""

from __future__ import annotations

import csv
import io
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from support.ledger import IDLE_LOADED, MINUTE, SERVING, T0, Books

MINUTES = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:59:00Z"}  # not whole hours: read from minutes
HOUR = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T11:00:00Z"}
KWH = 3_600_000_000
LE_US = [10_000, 25_000, 50_000]
MAIL = "http://127.0.0.1:8001/metrics"


def rows(client: TestClient, **parameters: Any) -> list[dict[str, Any]]:
    response = client.get("/api/v1/efficiency", params={**MINUTES, **parameters})
    assert response.status_code == 200, response.text
    return list(response.json()["rows"])


def seen(
    books: Books, placement: int, counts: list[int], *, at: Any = T0, le_us: list[int] = LE_US, metric: int = 1
) -> None:
    """What roll-up writes: the minute, and the hour that it is part of."""
    bounds = books.one(
        "INSERT INTO latency_bounds (le_us) VALUES (%s) ON CONFLICT (le_us) DO UPDATE SET le_us = EXCLUDED.le_us"
        " RETURNING bounds_id",
        le_us,
    )
    books.do(
        "INSERT INTO latency_minute (time, engine_id, node_id, placement_id, bounds_id, metric, counts)"
        " SELECT %s, e.engine_id, e.node_id, p.placement_id, %s, %s, %s::bigint[]"
        " FROM placement p JOIN engine e USING (engine_id) WHERE p.placement_id = %s",
        *(at, bounds, metric, counts, placement),
    )
    books.do("DELETE FROM latency_hour")
    books.do(
        "INSERT INTO latency_hour (time, engine_id, node_id, placement_id, bounds_id, metric, counts)"
        " SELECT time, engine_id, node_id, placement_id, bounds_id, metric, array_agg(c ORDER BY i) FROM ("
        "   SELECT date_trunc('hour', time) AS time, engine_id, node_id, placement_id, bounds_id, metric, i,"
        "     sum(c)::bigint AS c FROM latency_minute, unnest(counts) WITH ORDINALITY AS u (c, i)"
        "   GROUP BY 1, 2, 3, 4, 5, 6, 7) s GROUP BY 1, 2, 3, 4, 5, 6"
    )


def put(client: TestClient, **target: Any) -> None:
    assert client.put("/api/v1/targets", json=target).status_code == 200


def two_workloads(books: Books) -> tuple[int, int]:
    """chat makes 1000 tokens of a kWh, mail 500 of another, in one minute, on two boards each."""
    node = books.node("gpu-1")
    boards = [books.board(node, f"GPU-{i}", "H100" if i < 2 else "A100") for i in range(4)]
    chat = books.placement(node, boards[:2], "chat")
    mail = books.placement(node, boards[2:], "mail", team="post", target=MAIL)
    for board in boards[:2]:
        books.spent(node, board, chat, SERVING, KWH // 2, tokens=(0, 0, 500))
    for board in boards[2:]:
        books.spent(node, board, mail, SERVING, KWH // 2, tokens=(0, 0, 250))
    return chat, mail


def test_tokens_in_time_by_hand(client: TestClient, books: Books) -> None:
    chat, _ = two_workloads(books)
    seen(books, chat, [400, 400, 100, 100])
    put(client, inter_token_latency_ms=40)  # 15 of the 25 ms of the third bucket
    row, mail = rows(client, by="workload")
    assert row["slo"] == {
        "target": {"inter_token_latency_ms": 40.0, "time_to_first_token_ms": None},
        "met_ratio": 0.86,
        "met_output_tokens": 860,
        "met_tokens_per_kwh": 860.0,
        "joules_per_met_token": 3_600_000 / 860,
        "median_inter_token_latency_ms": 13.75,
        "p99_inter_token_latency_ms": 50.0,  # longer than the last bound: at least that
        "first_token_met_ratio": None,
        "median_time_to_first_token_ms": None,
        "p99_time_to_first_token_ms": None,
        "median_queue_time_ms": None,
        "p99_queue_time_ms": None,
        "median_request_latency_ms": None,
        "p99_request_latency_ms": None,
        "coverage": 1.0,
    }
    assert mail["slo"] is None


def test_without_histograms_there_is_nothing_to_say(client: TestClient, books: Books) -> None:
    two_workloads(books)
    put(client, inter_token_latency_ms=40)
    assert [row["slo"] for row in rows(client, by="workload")] == [None, None]


def test_without_a_target_there_is_a_median_and_no_verdict(client: TestClient, books: Books) -> None:
    chat, _ = two_workloads(books)
    seen(books, chat, [400, 400, 100, 100])
    put(client, workload="mail", inter_token_latency_ms=40)
    slo = rows(client, by="workload")[0]["slo"]
    assert slo["median_inter_token_latency_ms"] == 13.75
    assert slo["coverage"] == 1.0
    assert slo["target"] == {"inter_token_latency_ms": None, "time_to_first_token_ms": None}
    assert [slo[name] for name in ("met_ratio", "met_output_tokens", "met_tokens_per_kwh")] == [None] * 3


def test_whole_tokens_are_counted_in_each_minute(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    chat = books.placement(node, [board], "chat")
    for minute, (tokens, counts) in enumerate([(1, [1, 1, 0, 0]), (1, [1, 1, 0, 0]), (7, [3, 1, 0, 0])]):
        at = T0 + minute * MINUTE
        books.spent(node, board, chat, SERVING, 1000, at=at, tokens=(0, 0, tokens))
        seen(books, chat, counts, at=at)
    put(client, inter_token_latency_ms=10)
    [row] = rows(client)
    assert row["slo"]["met_output_tokens"] == 0 + 0 + 5
    by_minute = rows(client, step="1m")
    assert [r["slo"]["met_output_tokens"] for r in by_minute] == [0, 0, 5]
    books.close_hours()
    [row] = rows(client, **HOUR)
    assert row["slo"]["met_output_tokens"] == 9 * 5 // 8  # hours are judged by their own share


def test_each_workload_is_judged_by_its_own_target(client: TestClient, books: Books) -> None:
    chat, mail = two_workloads(books)
    seen(books, chat, [400, 400, 100, 100])
    seen(books, mail, [0, 250, 250, 0])
    put(client, inter_token_latency_ms=25)
    put(client, workload="mail", inter_token_latency_ms=50, time_to_first_token_ms=1000)
    [row] = rows(client)
    assert row["slo"]["met_output_tokens"] == 800 + 500
    assert row["slo"]["met_ratio"] == 1300 / 1500
    assert row["slo"]["target"] == {"inter_token_latency_ms": None, "time_to_first_token_ms": None}
    assert row["slo"]["met_tokens_per_kwh"] == 650
    both = rows(client, by="workload")
    assert [r["slo"]["target"]["inter_token_latency_ms"] for r in both] == [25.0, 50.0]
    assert [r["slo"]["met_output_tokens"] for r in both] == [800, 500]


@pytest.mark.parametrize(
    ("by", "met"),
    [
        ("team", {"search": 800, "post": 500}),
        ("model", {"qwen3": 1300}),
        ("node", {"gpu-1": 1300}),
        ("site", {"ams1": 1300}),
        ("engine", {"http://127.0.0.1:8000/metrics": 800, MAIL: 500}),
        ("accelerator", {"GPU-0": 400, "GPU-1": 400, "GPU-2": 250, "GPU-3": 250}),
        ("accelerator_model", {"H100": 800, "A100": 500}),
    ],
)
def test_every_grouping_counts_the_same_tokens(client: TestClient, books: Books, by: str, met: dict[str, int]) -> None:
    chat, mail = two_workloads(books)
    seen(books, chat, [400, 400, 100, 100])
    seen(books, mail, [0, 500, 0, 0])
    put(client, inter_token_latency_ms=25)
    found = rows(client, by=by)
    assert {row["group"][by]: row["slo"]["met_output_tokens"] for row in found} == met
    assert all(row["slo"]["median_inter_token_latency_ms"] is not None for row in found)
    [name, _] = [*met, None][:2]
    if by != "engine":
        [row] = rows(client, **{by: name})
        assert row["slo"]["met_output_tokens"] == met[str(name)]


def test_a_target_holds_from_when_it_was_set_for(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    chat = books.placement(node, [board], "chat")
    for minute in range(2):
        books.spent(node, board, chat, SERVING, 1000, at=T0 + minute * MINUTE, tokens=(0, 0, 100))
        seen(books, chat, [50, 50, 0, 0], at=T0 + minute * MINUTE)
    books.close_hours()
    put(client, inter_token_latency_ms=10)
    put(client, workload="chat", valid_from="2026-03-02T10:01:00Z", inter_token_latency_ms=25)
    [row] = rows(client, **HOUR)
    assert row["slo"]["met_output_tokens"] == 50 + 100
    put(client, workload="chat", valid_from="2026-03-02T10:01:00Z")
    [row] = rows(client, **HOUR)
    assert (row["slo"]["met_output_tokens"], row["slo"]["met_ratio"], row["slo"]["coverage"]) == (50, 0.5, 0.5)


def test_engines_of_one_workload_with_other_bounds_are_added_up_exactly(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    old = books.placement(node, [board], "chat")
    new = books.placement(node, [board], "chat", target=MAIL)
    for placement in (old, new):
        books.spent(node, board, placement, SERVING, 1000, tokens=(0, 0, 300))
    seen(books, old, [1, 1, 1, 0])  # of 30 ms: two buckets, and a fifth of the third
    seen(books, new, [1, 2], le_us=[70_000])  # three sevenths of the first bucket
    put(client, inter_token_latency_ms=30)
    [row] = rows(client, by="workload")
    assert row["slo"]["met_output_tokens"] == 600 * (7 * 11 + 3 * 5) // (35 * 6)
    # 3 of 6 observations: 2 and x/25 - 1 of the old engine's, x/70 of the new one's
    assert row["slo"]["median_inter_token_latency_ms"] == pytest.approx(3500 / 95)


def test_tokens_without_a_histogram_are_not_called_met(client: TestClient, books: Books) -> None:
    chat, _ = two_workloads(books)
    seen(books, chat, [400, 600, 0, 0])
    put(client, inter_token_latency_ms=10)
    [row] = rows(client)
    assert row["slo"]["met_output_tokens"] == 400
    assert row["slo"]["met_ratio"] == 0.4
    assert row["slo"]["coverage"] == 1000 / 1500


def test_first_tokens_have_a_target_of_their_own(client: TestClient, books: Books) -> None:
    chat, _ = two_workloads(books)
    seen(books, chat, [30, 10], le_us=[400_000], metric=2)
    put(client, time_to_first_token_ms=200)
    slo = rows(client, by="workload")[0]["slo"]
    assert slo["first_token_met_ratio"] == 15 / 40
    assert slo["median_time_to_first_token_ms"] == pytest.approx(400 * 20 / 30)
    assert (slo["met_output_tokens"], slo["median_inter_token_latency_ms"]) == (None, None)
    assert slo["target"]["time_to_first_token_ms"] == 200.0


def test_an_idle_minute_is_no_row_and_no_division(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    chat = books.placement(node, [board], "chat")
    books.spent(node, board, chat, IDLE_LOADED, 1000)
    seen(books, chat, [0, 1, 0, 0])
    put(client, inter_token_latency_ms=25)
    [row] = rows(client)
    assert row["slo"]["met_output_tokens"] == 0
    assert (row["slo"]["met_ratio"], row["slo"]["coverage"], row["slo"]["joules_per_met_token"]) == (None, None, None)


def test_files_have_the_columns_at_their_end(client: TestClient, books: Books) -> None:
    chat, _ = two_workloads(books)
    seen(books, chat, [400, 400, 100, 100])
    put(client, inter_token_latency_ms=40)
    parameters = {**MINUTES, "by": "workload"}
    text = client.get("/api/v1/efficiency", params={**parameters, "format": "csv"}).text
    first, second = csv.DictReader(io.StringIO(text))
    assert text.splitlines()[0].endswith(",p99_time_to_first_token_ms,slo_coverage")
    assert (first["met_output_tokens"], first["target_inter_token_latency_ms"], first["met_ratio"]) == (
        "860",
        "40.0",
        "0.86",
    )
    assert (second["met_output_tokens"], second["slo_coverage"]) == ("", "")
    table = pq.read_table(
        io.BytesIO(client.get("/api/v1/efficiency", params={**parameters, "format": "parquet"}).content)
    )
    assert table["met_output_tokens"].to_pylist() == [860, None]
    types = {name: str(table.schema.field(name).type) for name in table.schema.names[-12:]}
    assert types.pop("met_output_tokens") == "int64"
    assert set(types.values()) == {"double"}


def test_targets_are_versions_by_workload(client: TestClient) -> None:
    one = {"workload": "chat", "valid_from": "2026-01-01T00:00:00Z", "inter_token_latency_ms": 12.5}
    stored = client.put("/api/v1/targets", json={"rows": [one, {"time_to_first_token_ms": 500}]}).json()["rows"]
    assert [(row["workload"], row["inter_token_latency_ms"], row["time_to_first_token_ms"]) for row in stored] == [
        ("chat", 12.5, None),
        ("*", None, 500.0),
    ]
    assert stored[1]["valid_from"] == "2020-01-01T00:00:00Z"
    put(client, **{**one, "inter_token_latency_ms": 20})
    found = client.get("/api/v1/targets", params={"workload": "chat"}).json()["rows"]
    assert [row["inter_token_latency_ms"] for row in found] == [20.0]
    assert len(client.get("/api/v1/targets").json()["rows"]) == 2


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({"inter_token_latency_ms": 0}, "inter_token_latency_ms"),
        ({"inter_token_latency_ms": 4_000_000}, "inter_token_latency_ms"),
        ({"inter_token_latency_ms": 0.0001}, "inter_token_latency_ms"),
        ({"time_to_first_token_ms": "soon"}, "time_to_first_token_ms"),
        ({"workload": ""}, "workload"),
        ({"valid_from": "yesterday"}, "valid_from"),
        ({"site": "ams1"}, "site"),
    ],
)
def test_a_bad_target_is_named(client: TestClient, target: dict[str, Any], field: str) -> None:
    response = client.put("/api/v1/targets", json=target)
    assert response.status_code == 422
    assert [error["field"].rpartition(".")[2] for error in response.json()["errors"]] == [field]


def test_every_kind_of_latency_has_buckets_of_its_own_and_only_two_have_targets(
    client: TestClient, books: Books
) -> None:
    chat, _ = two_workloads(books)
    seen(books, chat, [400, 400, 100, 100])
    seen(books, chat, [10, 0], le_us=[1_000_000], metric=2)
    seen(books, chat, [6, 2, 0], le_us=[2_000_000, 4_000_000], metric=3)
    seen(books, chat, [0, 0, 8, 0], le_us=[10_000_000, 20_000_000, 40_000_000], metric=4)
    put(client, inter_token_latency_ms=40, time_to_first_token_ms=1000)
    found = rows(client, by="workload")[0]["slo"]
    assert (found["met_output_tokens"], found["first_token_met_ratio"]) == (860, 1.0)
    assert found["median_queue_time_ms"] == pytest.approx(1333.33, abs=0.01)
    assert found["median_request_latency_ms"] == 30_000.0
