"""GET /ledger: accounts sum to the meter, and a difference is told, not hidden."""

from __future__ import annotations

import csv
import io
from typing import Any

from fastapi.testclient import TestClient

from support.ledger import IDLE_EMPTY, IDLE_LOADED, MINUTE, SERVING, T0, UNATTRIBUTED, Books

MINUTES = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:59:00Z"}
HOUR = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T11:00:00Z"}


def ask(client: TestClient, **parameters: Any) -> dict[str, Any]:
    response = client.get("/api/v1/ledger", params={**MINUTES, **parameters})
    assert response.status_code == 200, response.text
    return dict(response.json())


def four_accounts(books: Books) -> int:
    node = books.node("gpu-1")
    board, other = books.board(node, "GPU-a"), books.board(node, "GPU-b")
    chat = books.placement(node, [board], "chat")
    for minute in range(3):
        at = T0 + minute * MINUTE
        books.spent(node, board, chat, SERVING, 7001, at=at, tokens=(10, 5, 3))
        books.spent(node, board, chat, IDLE_LOADED, 1009, at=at)
        books.spent(node, board, 0, UNATTRIBUTED, 13, at=at)
        books.spent(node, other, 0, IDLE_EMPTY, 503, at=at)
    return node


def test_the_accounts_sum_to_the_meter(client: TestClient, books: Books) -> None:
    four_accounts(books)
    books.close_hours()
    for times in (MINUTES, HOUR):
        for step in ({}, {"step": "1m"}, {"step": "1h"}):
            for by in ("", "node", "accelerator", "workload", "team,site"):
                answer = ask(client, **times, **step, **({"by": by} if by else {}))
                assert (answer["meter_mj"], answer["residual_mj"], answer["closes"]) == (3 * 8526, 0, True)
                assert sum(row["energy_mj"] for row in answer["rows"]) == 3 * 8526
    rows = {row["account"]: row for row in ask(client)["rows"]}
    assert {name: row["energy_mj"] for name, row in rows.items()} == {
        "serving": 21_003,
        "idle-loaded": 3027,
        "idle-empty": 1509,
        "unattributed": 39,
    }
    assert rows["serving"]["tokens"] == {"input": 30, "cached_input": 15, "output": 9}
    assert rows["idle-empty"]["tokens"]["output"] is None


def test_a_difference_is_told(client: TestClient, books: Books) -> None:
    four_accounts(books)
    books.do("UPDATE accelerator_minute SET energy_mj = energy_mj + 1 WHERE time = %s", T0)
    answer = ask(client)
    assert (answer["residual_mj"], answer["closes"]) == (2, False)


def test_host_energy_is_overhead(client: TestClient, books: Books) -> None:
    node = four_accounts(books)
    books.host(node, 400)
    books.host(node, 20, domain="dram-0")
    answer = ask(client, scope="node", by="node")
    overhead = [row for row in answer["rows"] if row["account"] == "overhead"]
    assert [(row["group"], row["energy_mj"]) for row in overhead] == [({"node": "gpu-1"}, 420)]
    assert (answer["meter_mj"], answer["closes"]) == (3 * 8526 + 420, True)
    assert ask(client)["meter_mj"] == 3 * 8526


def test_a_workload_has_no_meter_of_its_own(client: TestClient, books: Books) -> None:
    four_accounts(books)
    answer = ask(client, workload="chat")
    assert sum(row["energy_mj"] for row in answer["rows"]) == 24_030
    assert (answer["meter_mj"], answer["closes"]) == (None, None)
    assert answer["meter_reason"]
    assert ask(client, node="gpu-1")["closes"] is True


def test_nothing_is_nothing_and_closes(client: TestClient) -> None:
    answer = ask(client)
    assert (answer["rows"], answer["meter_mj"], answer["residual_mj"], answer["closes"]) == ([], 0, 0, True)


def test_csv(client: TestClient, books: Books) -> None:
    four_accounts(books)
    text = client.get("/api/v1/ledger", params={**MINUTES, "by": "node", "format": "csv"}).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert sum(int(row["energy_mj"]) for row in rows) == 3 * 8526
    assert {row["node"] for row in rows} == {"gpu-1"}
