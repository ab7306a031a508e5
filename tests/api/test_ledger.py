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


def test_what_pue_adds_is_overhead_too_and_the_meter_still_closes(client: TestClient, books: Books) -> None:
    """PUE 1.5 until the second minute, 1.25 from it on, a tariff from the third: rounded apart, as /efficiency does."""
    node = four_accounts(books)
    for minute in range(3):
        books.host(node, 403, at=T0 + minute * MINUTE)
    books.do("INSERT INTO pue VALUES ('ams1', %s, 1.5), ('*', %s, 9)", T0 - MINUTE, T0 - MINUTE)
    books.do("INSERT INTO pue VALUES ('ams1', %s, 1.25)", T0 + MINUTE)
    books.do("INSERT INTO tariff VALUES ('*', %s, 'EUR', 1)", T0 + 2 * MINUTE)
    # Node energy is 8 526 + 403 = 8 929 mJ a minute: half of it, and twice a quarter of it (2 232.25).
    added = 4465 + 2232 + 2232
    for by in ("", "node", "workload", "accelerator", "engine,site"):
        answer = ask(client, scope="facility", by=by) if by else ask(client, scope="facility")
        overhead = [row for row in answer["rows"] if row["account"] == "overhead"]
        assert [row["energy_mj"] for row in overhead] == [3 * 403 + added]
        assert (answer["pue_mj"], overhead[0]["missing"]) == (added, [])
        assert (answer["meter_mj"], answer["residual_mj"], answer["closes"]) == (3 * 8929, 0, True)
        whole = client.get("/api/v1/efficiency", params={**MINUTES, "scope": "facility"}).json()["rows"][0]
        assert sum(row["energy_mj"] for row in answer["rows"]) == whole["energy_mj"] == 3 * 8929 + added
    # PUE 1.5 of one minute, 1.25 of another, by step; and no row of it but overhead.
    steps = [row for row in ask(client, scope="facility", step="1m")["rows"] if row["account"] == "overhead"]
    assert [row["energy_mj"] for row in steps] == [403 + 4465, 403 + 2232, 403 + 2232]
    for scope in ("accelerator", "node"):
        assert ask(client, scope=scope)["pue_mj"] is None


def test_without_a_pue_the_overhead_is_null_and_says_why(client: TestClient, books: Books) -> None:
    node = four_accounts(books)
    books.host(node, 400)
    other = books.node("gpu-2", "fra2")
    books.spent(other, books.board(other, "GPU-c"), 0, IDLE_EMPTY, 1000)
    books.do("INSERT INTO pue VALUES ('fra2', %s, 2)", T0)
    answer = ask(client, scope="facility", by="site")
    overhead = {row["group"]["site"]: row for row in answer["rows"] if row["account"] == "overhead"}
    assert (overhead["ams1"]["energy_mj"], overhead["ams1"]["missing"]) == (None, ["pue"])
    assert (overhead["fra2"]["energy_mj"], overhead["fra2"]["missing"]) == (1000, [])
    assert {row["energy_mj"] for row in answer["rows"] if row["account"] == "serving"} == {21_003}
    assert (answer["pue_mj"], answer["closes"]) == (None, True), "what was counted adds up without it"
    assert answer["meter_mj"] == 3 * 8526 + 400 + 1000
    text = client.get("/api/v1/ledger", params={**MINUTES, "scope": "facility", "format": "csv"}).text
    row = next(row for row in csv.DictReader(io.StringIO(text)) if row["account"] == "overhead")
    assert (row["energy_mj"], row["missing"]) == ("", "pue")


def test_overhead_is_nobodys_so_a_workload_or_a_board_has_none(client: TestClient, books: Books) -> None:
    node = four_accounts(books)
    books.host(node, 400)
    books.do("INSERT INTO pue VALUES ('*', %s, 2)", T0)
    for filters in ({"workload": "chat"}, {"accelerator": "GPU-a"}):
        assert ask(client, scope="facility", **filters)["rows"] == ask(client, **filters)["rows"]


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
