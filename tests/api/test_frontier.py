"""GET /frontier: workloads of a known ledger beside the published figures, and the figures themselves."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from support.ledger import IDLE_LOADED, MINUTE, SERVING, T0, Books
from wattmill_api.frontier import table

MINUTES = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:59:00Z"}
LLAMA, H100 = "meta-llama/Llama-3.1-8B-Instruct", "NVIDIA H100 80GB HBM3"
BATCH_64 = next(r for r in table() if (r.model, r.accelerator, r.batch) == (LLAMA, "H100", 63.92))
BATCH_8 = next(r for r in table() if (r.model, r.accelerator, r.batch) == (LLAMA, "H100", 7.98))


def rows(client: TestClient, **parameters: Any) -> list[dict[str, Any]]:
    response = client.get("/api/v1/frontier", params={**MINUTES, **parameters})
    assert response.status_code == 200, response.text
    return list(response.json()["rows"])


def served(
    books: Books, node: int, placement: int, tokens: int, running: float | None, *, minute: int = 0,
    finished: int | None = None, covered_us: int = 60_000_000,
) -> None:  # fmt: skip
    """A minute of the placement's engine."""
    books.do(
        "INSERT INTO engine_minute (time, output_tokens, requests_finished, covered_us, engine_id, node_id,"
        " placement_id, anomalies, requests_running)"
        " SELECT %s, %s, %s, %s, engine_id, %s, placement_id, 0, %s FROM placement WHERE placement_id = %s",
        *(T0 + minute * MINUTE, tokens, finished, covered_us, node, running, placement),
    )


def chat(
    books: Books, *, batch: float = 63.92, rate: float = 5000.0, watts: float = 1250.0, accelerator: str = H100,
    model: str = LLAMA, name: str = "gpu-1", workload: str = "chat", team: str = "search", site: str = "ams1",
) -> tuple[int, int, int]:  # fmt: skip
    """Ten minutes of one replica on one board at a steady batch, rate and power."""
    node = books.node(name, site)
    board = books.board(node, f"GPU-{name}", accelerator)
    placement = books.placement(node, [board], workload, model=model, team=team)
    for minute in range(10):
        tokens = int(rate * 60)
        at = T0 + minute * MINUTE
        books.spent(node, board, placement, SERVING, int(watts * 60_000), at=at, tokens=(None, None, tokens))
        served(books, node, placement, tokens, batch, minute=minute, finished=tokens // 500)
    return node, board, placement


def test_a_workload_is_told_how_far_it_runs_from_the_best_at_its_latency(client: TestClient, books: Books) -> None:
    """A batch of 64 at 5000 tokens/s waits 12.8 ms for a token; the best published there uses 0.1186 J, not 0.25."""
    chat(books)
    [row] = rows(client)
    assert row["group"] == {"workload": "chat", "team": "search", "model": LLAMA, "accelerator_model": H100}
    observed = row["observed"]
    assert observed["energy_mj"] == 10 * 75_000_000
    assert observed["output_tokens"] == 10 * 300_000
    assert (observed["joules_per_token"], observed["tokens_per_kwh"]) == (0.25, 14_400_000)
    assert observed["inter_token_latency_ms"] == pytest.approx(12.784, rel=1e-6)
    assert observed["inter_token_latency_source"] == "concurrency over rate"
    assert (observed["mean_output_tokens"], observed["boards_per_replica"]) == (500, 1)
    assert (observed["plausible"], observed["reason"], observed["scope"]) == (True, None, "accelerator")
    reference = row["reference"]
    assert reference["joules_per_token"] == BATCH_64.joules_per_token == 0.11858
    assert reference["tokens_per_kwh"] == pytest.approx(3.6e6 / 0.11858)
    assert (reference["batch"], reference["boards"], reference["precision"]) == (63.92, 1, "bfloat16")
    assert (reference["task"], reference["scope"], reference["median_itl_ms"]) == ("lm-arena-chat", "accelerator", 11.5)
    assert reference["inter_token_latency_ms"] == BATCH_64.mean_itl_ms
    assert "0cd52da" in reference["citation"]
    assert row["ratio"] == row["serving_ratio"] == pytest.approx(0.25 / 0.11858)
    assert row["matched"]["confidence"] == "exact"
    assert row["verdict"].startswith("uses 2.11 times the energy per token")
    assert "500 here" in row["caveat"]


def test_a_replica_that_does_what_was_published_runs_at_the_frontier(client: TestClient, books: Books) -> None:
    assert BATCH_8.batch is not None
    chat(books, batch=BATCH_8.batch, rate=BATCH_8.output_tokens_per_s, watts=BATCH_8.watts)
    [row] = rows(client)
    assert row["reference"]["batch"] == BATCH_8.batch
    assert row["ratio"] == pytest.approx(1.0, rel=1e-4)


def test_idle_time_is_told_apart_from_serving(client: TestClient, books: Books) -> None:
    """As much energy again while nobody asks: twice as far, and serving as far as before."""
    node, board, placement = chat(books)
    books.spent(node, board, placement, IDLE_LOADED, 750_000_000, at=T0 + 20 * MINUTE)
    [row] = rows(client)
    assert row["observed"]["serving_energy_mj"] * 2 == row["observed"]["energy_mj"]
    assert row["ratio"] == pytest.approx(2 * row["serving_ratio"])
    assert row["serving_ratio"] == pytest.approx(0.25 / 0.11858)


def test_faster_than_anything_published(client: TestClient, books: Books) -> None:
    chat(books, batch=2.0, rate=600.0)
    [row] = rows(client)
    assert row["observed"]["inter_token_latency_ms"] == pytest.approx(2 / 600 * 1000)
    assert (row["ratio"], row["serving_ratio"], row["reference"], row["caveat"]) == (None, None, None, None)
    assert row["verdict"].startswith("faster than any published configuration")


def test_latency_comes_only_from_minutes_that_were_read_in_full(client: TestClient, books: Books) -> None:
    node, _, placement = chat(books)
    served(books, node, placement, 10**9, 1.0, minute=11, covered_us=59_000_000)
    served(books, node, placement, 10**9, None, minute=12)  # the gauge is unknown
    served(books, node, placement, 0, 200.0, minute=13)  # prefill of one long prompt: no tokens
    [row] = rows(client)
    assert row["observed"]["inter_token_latency_ms"] == pytest.approx(12.784, rel=1e-6)


def test_two_kinds_of_boards_are_two_rows_and_an_unmeasured_one_says_so(client: TestClient, books: Books) -> None:
    chat(books)
    chat(books, name="gpu-2", accelerator="NVIDIA H200", batch=8.0)
    h100, h200 = sorted(rows(client), key=lambda row: row["group"]["accelerator_model"])
    assert h100["observed"]["inter_token_latency_ms"] == pytest.approx(12.784, rel=1e-6)
    assert h200["observed"]["inter_token_latency_ms"] == pytest.approx(1.6)
    assert (h200["reference"], h200["ratio"]) == (None, None)
    assert h200["matched"] == {"confidence": "none", "how": "no figures are published for this accelerator"}


def test_filters_keep_what_has_the_name(client: TestClient, books: Books) -> None:
    chat(books)
    chat(books, name="gpu-2", workload="mail", team="post", model="Qwen/Qwen3-8B", site="sto1")
    for parameters in ({"team": "post"}, {"workload": "mail"}, {"node": "gpu-2"}, {"site": "sto1"}):
        assert [row["group"]["workload"] for row in rows(client, **parameters)] == ["mail"]
    assert [row["group"]["workload"] for row in rows(client, model=LLAMA)] == ["chat"]
    assert rows(client, workload="nobody") == []
    assert rows(client, start="2026-03-01T10:00:00Z", end="2026-03-01T11:00:00Z") == []


def test_a_node_is_compared_with_nodes(client: TestClient, books: Books) -> None:
    node, _, _ = chat(books, accelerator="NVIDIA B200", batch=600.0)  # 120 ms a token
    [row] = rows(client, scope="node")
    assert (row["reference"], row["ratio"]) == (None, None)
    assert row["verdict"] == "host energy was not measured everywhere: this is not a node's figure"
    for minute in range(10):
        books.host(node, 75_000_000, at=T0 + minute * MINUTE)
    [row] = rows(client, scope="node")
    assert row["observed"]["joules_per_token"] == 0.5
    assert (row["reference"]["source"], row["reference"]["scope"]) == ("mlperf-v5.1-power", "node")
    assert row["reference"]["inter_token_latency_ms"] == row["reference"]["itl_limit_ms"] == 100
    assert row["ratio"] == pytest.approx(0.5 / 0.070022, rel=1e-4)
    assert row["matched"]["confidence"] == "approximate"
    [boards] = rows(client)
    assert boards["reference"]["scope"] == "accelerator"


def test_nothing_is_published_for_facilities(client: TestClient, books: Books) -> None:
    chat(books)
    assert client.put("/api/v1/pue", json={"pue": 1.25}).status_code == 200
    [row] = rows(client, scope="facility")
    assert row["observed"]["joules_per_token"] == pytest.approx(0.25 * 1.25)
    assert (row["ratio"], row["matched"]["confidence"]) == (None, "none")


def test_implausible_figures_are_answered_and_marked(client: TestClient, books: Books) -> None:
    chat(books, watts=100.0, rate=6000.0)
    chat(books, name="gpu-2", workload="mail", watts=600.0, rate=6.0)
    by_workload = {row["group"]["workload"]: row["observed"] for row in rows(client)}
    assert by_workload["chat"]["plausible"] is False
    assert by_workload["chat"]["reason"].startswith("below 0.02 J")
    assert by_workload["mail"]["plausible"] is False
    assert by_workload["mail"]["reason"].startswith("above 50 J")


def test_a_workload_without_tokens_or_engine_minutes_is_a_row_without_figures(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a", H100)
    books.spent(node, board, books.placement(node, [board], "chat", model=LLAMA), IDLE_LOADED, 5_000_000)
    books.spent(node, board, 0, IDLE_LOADED, 7)  # nobody's: no row
    [row] = rows(client)
    observed = row["observed"]
    assert (observed["energy_mj"], observed["serving_energy_mj"]) == (5_000_000, None)
    assert (observed["joules_per_token"], observed["inter_token_latency_ms"], observed["plausible"]) == (
        None,
        None,
        None,
    )
    assert (observed["inter_token_latency_source"], observed["boards_per_replica"]) == (None, None)
    assert observed["reason"] == "no output tokens were read"
    assert row["verdict"] == "no joules per output token were measured"


def test_replicas_of_different_size_have_no_one_number_of_boards(client: TestClient, books: Books) -> None:
    node, board, _ = chat(books)
    other = books.board(node, "GPU-b", H100)
    wide = books.placement(node, [board, other], "chat", model=LLAMA, target="http://127.0.0.1:8001/metrics")
    served(books, node, wide, 1000, 1.0)
    [row] = rows(client)
    assert row["observed"]["boards_per_replica"] is None


def test_hostile_names_are_answered(client: TestClient, books: Books) -> None:
    for number, name in enumerate(("İ" * 500, "'; DROP TABLE node; --", "../" * 100, "\u202e8B-1.3-amalL")):
        chat(books, name=f"gpu-{number}", workload=f"w{number}", model=name, accelerator=name)
    assert [row["matched"]["confidence"] for row in rows(client)] == ["none"] * 4


def test_the_table_is_answered_with_source_scope_and_latency(client: TestClient) -> None:
    answer = client.get("/api/v1/frontier/references").json()["rows"]
    assert len(answer) == len(table())
    for row in answer:
        assert row["citation"]
        assert row["scope"] in ("accelerator", "node")
        assert "://" not in row["citation"]
        assert row["median_itl_ms"] is not None or row["scope"] == "node"
    nodes = client.get("/api/v1/frontier/references", params={"scope": "node"}).json()["rows"]
    assert [(row["task"], row["itl_limit_ms"]) for row in nodes] == [
        *(("offline", None), ("server", 100)),
        *(("offline", None), ("server", 200)),
        *(("offline", None), ("server", 175)),
    ]


def test_bad_parameters_are_named(client: TestClient) -> None:
    for path, parameters, field in (
        ("", {"scope": "galaxy"}, "scope"),
        ("", {"engine": "x"}, "engine"),
        ("", {"start": "2026-03-03T00:00:00Z"}, "start"),
        ("", {"model": "x" * 600}, "model.0"),
        ("/references", {"scope": "facility"}, "scope"),
        ("/references", {"model": "x"}, "model"),
    ):
        response = client.get(f"/api/v1/frontier{path}", params=({**MINUTES, **parameters} if not path else parameters))
        assert response.status_code == 422, parameters
        assert response.headers["content-type"] == "application/problem+json"
        assert [error["field"] for error in response.json()["errors"]] == [field]
