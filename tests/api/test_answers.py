"""Series, inventory, findings and prices: each answers what was written, and refuses by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from support.ledger import IDLE_EMPTY, MINUTE, SERVING, T0, Books
from wattmill_api.routes.live import Feed
from wattmill_api.routes.series import METRICS

TIMES = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:04:00Z"}


def series(client: TestClient, metric: str, **parameters: Any) -> list[dict[str, Any]]:
    response = client.get("/api/v1/series", params={**TIMES, "metric": metric, "step": "1m", **parameters})
    assert response.status_code == 200, response.text
    return list(response.json()["series"])


def test_power_adds_up_over_boards_and_a_gap_is_null(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    for uuid in ("GPU-a", "GPU-b"):
        board = books.board(node, uuid)
        for minute in (0, 1, 3):
            books.spent(node, board, 0, IDLE_EMPTY, 60_000 * (minute + 1), at=T0 + minute * MINUTE)
    [total] = series(client, "power_mw")
    assert total["times"] == [1772445600 + 60 * n for n in range(4)]
    assert total["values"] == [2000, 4000, None, 8000]
    assert [s["labels"] for s in series(client, "power_mw", by="accelerator")] == [
        {"accelerator": "GPU-a"},
        {"accelerator": "GPU-b"},
    ]
    [hour] = series(client, "energy_mj", step="1h", accelerator="GPU-a")
    assert hour["values"] == [420_000]


def test_ratios_come_out_of_the_ledger(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    books.spent(node, board, books.placement(node, [board], "chat"), SERVING, 1000, tokens=(1, 0, 10))
    [chat] = series(client, "joules_per_token", by="workload")
    assert chat["labels"] == {"workload": "chat"}
    assert chat["values"] == [0.1, None, None, None]


def test_every_metric_answers(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    books.spent(node, board, 0, IDLE_EMPTY, 1)
    for metric in METRICS:
        assert isinstance(series(client, metric), list)
        assert isinstance(series(client, metric, by="node,site"), list)


def test_what_a_chart_refuses(client: TestClient) -> None:
    def refused(**parameters: str) -> dict[str, str]:
        response = client.get("/api/v1/series", params={"metric": "power_mw", **parameters})
        assert response.status_code == 422
        return dict(response.json()["errors"][0])

    assert refused(metric="power")["field"] == "metric"
    assert "power_mw" in refused(metric="power")["reason"]
    too_many = refused(start="2026-01-01T00:00:00Z", end="2026-02-01T00:00:00Z", step="1m")
    assert (too_many["field"], "is 1h" in too_many["reason"]) == ("step", True)
    assert refused(by="workload")["field"] == "by"
    assert refused(team="search")["field"] == "team"


def test_inventory_shows_placements_with_their_method(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1", labels='{"rack": "r12"}')
    board = books.board(node, "GPU-a")
    books.placement(node, [board], "chat", team="")
    [site] = client.get("/api/v1/sites").json()["rows"]
    assert (site["name"], site["nodes"], site["accelerators"], site["engines"]) == ("ams1", 1, 1, 1)
    [row] = client.get("/api/v1/nodes").json()["rows"]
    assert (row["labels"], row["interval_us"], row["last_seen"]) == (
        {"rack": "r12"},
        10_000_000,
        "2026-03-02T10:10:00Z",
    )
    [row] = client.get("/api/v1/accelerators", params={"node": "gpu-1"}).json()["rows"]
    assert row["placements"][0]["workload"] == "chat"
    assert row["placements"][0]["method"] == "configured"
    assert row["placements"][0]["team"] is None
    [row] = client.get("/api/v1/engines").json()["rows"]
    assert row["placements"][0]["accelerators"] == ["GPU-a"]
    [row] = client.get("/api/v1/workloads").json()["rows"]
    assert (row["name"], row["placements"][0]["node"]) == ("chat", "gpu-1")
    assert client.get("/api/v1/nodes", params={"site": "none"}).json() == {"rows": [], "next_cursor": None}


def test_pages_follow_one_another(client: TestClient, books: Books) -> None:
    for n in range(5):
        books.node(f"gpu-{n}")
    names: list[str] = []
    cursor = 0
    while cursor is not None:
        page = client.get("/api/v1/nodes", params={"limit": 2, "cursor": cursor}).json()
        names += [row["name"] for row in page["rows"]]
        cursor = page["next_cursor"]
    assert names == [f"gpu-{n}" for n in range(5)]


@pytest.fixture
def finding_id(books: Books) -> int:
    return int(
        books.one(
            "INSERT INTO finding (kind, subject, site, node, workload, since, last_seen, energy_mj, evidence,"
            " summary, remedy) VALUES ('idle-loaded', 'workload chat', 'ams1', 'gpu-1', 'chat', %s, %s, 7200000000, %s,"
            " 'Idle.', 'Unload it.')"
            " RETURNING finding_id",
            *(T0, T0 + MINUTE, '{"requests": 0}'),
        )
    )


def test_a_finding_is_priced_acknowledged_and_resolved(client: TestClient, finding_id: int) -> None:
    assert client.put("/api/v1/tariffs", json={"price_per_kwh": 0.25, "currency": "EUR"}).status_code == 200
    assert client.put("/api/v1/carbon", json={"rows": [{"grams_per_kwh": 100, "source": "test"}]}).status_code == 200
    [found] = client.get(
        "/api/v1/findings", params={"state": "open", "kind": "idle-loaded", "workload": "chat"}
    ).json()["rows"]
    assert found["impact"] == {
        "energy_mj": 7_200_000_000,
        "kwh": 2.0,
        "cost": {"currency": "EUR", "total": 0.5},
        "co2_grams": 200.0,
        "energy_mj_per_day": None,
    }
    assert (found["realised"], found["history"]) == (None, None)
    assert (found["evidence"], found["remedy"], found["until"]) == ({"requests": 0}, "Unload it.", None)
    place = f"/api/v1/findings/{finding_id}"
    seen = client.post(f"{place}/acknowledge", json={"note": "on it"}).json()
    assert (seen["state"], seen["note"]) == ("acknowledged", "on it")
    assert client.get("/api/v1/findings", params={"state": "open"}).json()["rows"] == []
    done = client.post(f"{place}/resolve").json()
    assert (done["state"], done["note"]) == ("resolved", "on it")
    assert done["until"] is not None
    for again in ("acknowledge", "resolve"):
        assert client.post(f"{place}/{again}", json={"note": "twice"}).status_code == 409
    assert client.get(place).json() == done
    assert [(event["what"], event["note"]) for event in done["history"]] == [
        ("acknowledged", "on it"),
        ("resolved", None),
    ]
    assert client.get("/api/v1/findings/999").status_code == 404
    assert client.post("/api/v1/findings/999/resolve").status_code == 404
    assert client.get("/api/v1/findings", params={"node": "gpu-2"}).json()["rows"] == []


def test_a_kind_that_does_not_exist_is_refused_and_the_kinds_are_named(client: TestClient, finding_id: int) -> None:
    refused = client.get("/api/v1/findings", params={"kind": ["idle-loaded", "idle-loded"]})
    assert refused.status_code == 422
    assert "kind: must be some of cache-miss, idle-empty, idle-loaded" in refused.json()["detail"]
    asked = client.get("/api/v1/findings", params={"kind": ["idle-loaded", "low-batch"]})
    assert [row["id"] for row in asked.json()["rows"]] == [finding_id]


def test_a_finding_merged_away_is_not_listed_and_says_where_it_went(
    client: TestClient, books: Books, finding_id: int
) -> None:
    gone = books.one(
        "INSERT INTO finding (kind, subject, state, since, until, last_seen, energy_mj, evidence, summary, remedy,"
        " known, found, merged_into) VALUES ('idle-loaded', 'workload chat', 'closed', %s, %s, %s, 0, '{}', 's', 'r',"
        " %s, %s, %s) RETURNING finding_id",
        *(T0, T0, T0, T0, T0 + MINUTE, finding_id),
    )
    assert [row["id"] for row in client.get("/api/v1/findings").json()["rows"]] == [finding_id]
    told = client.get(f"/api/v1/findings/{gone}").json()
    assert (told["merged_into"], told["state"]) == (finding_id, "closed")
    assert (told["known"], told["found"]) == ("2026-03-02T10:00:00Z", "2026-03-02T10:01:00Z")
    assert client.post(f"/api/v1/findings/{gone}/resolve").status_code == 409
    assert client.get(f"/api/v1/findings/{gone}").json() == told


def test_a_price_is_a_version(client: TestClient) -> None:
    old = {"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "price_per_kwh": 0.1, "currency": "EUR"}
    new = {**old, "valid_from": "2026-02-01T00:00:00Z", "price_per_kwh": 0.2}
    assert client.put("/api/v1/tariffs", json=[old, new]).status_code == 200
    assert client.put("/api/v1/tariffs", json={**new, "price_per_kwh": 0.3}).status_code == 200
    rows = client.get("/api/v1/tariffs", params={"site": "ams1"}).json()["rows"]
    assert [(row["valid_from"], row["price_per_kwh"]) for row in rows] == [
        ("2026-01-01T00:00:00Z", 0.1),
        ("2026-02-01T00:00:00Z", 0.3),
    ]
    assert client.get("/api/v1/tariffs", params={"site": "sto1"}).json()["rows"] == []
    for path, body, field in (
        ("tariffs", {"price_per_kwh": "NaN"}, "0.price_per_kwh"),
        ("tariffs", {"price_per_kwh": 1, "currency": "euro"}, "0.currency"),
        ("tariffs", {"price_per_kwh": 1, "valid_from": "soon"}, "0.valid_from"),
        ("tariffs", {"price_per_kwh": 1, "site": "a\x00"}, "0.site"),
        ("tariffs", [], "body"),
        ("tariffs", {"price_per_kwh": 1, "vat": 2}, "0.vat"),
        ("carbon", {"grams_per_kwh": -1}, "0.grams_per_kwh"),
        ("pue", {"pue": 0.9}, "0.pue"),
    ):
        response = client.put(f"/api/v1/{path}", json=body)
        assert response.status_code == 422, response.text
        assert response.json()["errors"][0]["field"] == field


def test_live_sends_the_last_minutes_as_an_event(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    books.spent(node, board, books.placement(node, [board], "chat"), SERVING, 1000, tokens=(1, 0, 10))
    client.app.state.now = lambda: T0 + 3 * MINUTE  # type: ignore[attr-defined]
    response = client.get("/api/v1/live", params={"events": 1})
    assert response.headers["content-type"].startswith("text/event-stream")
    retry, event = response.text.strip().split("\n\n")
    number, name, data = event.split("\n")
    assert (retry, number, name) == ("retry: 5000", "id: 1", "event: figures")
    figures = json.loads(data.removeprefix("data: "))
    assert [(row["group"], row["energy_mj"]) for row in figures["rows"]] == [({"workload": "chat"}, 1000)]
    assert (figures["scope"], figures["open_findings"]) == ("accelerator", 0)
    assert client.get("/api/v1/live", params={"events": 0}).status_code == 422


def test_live_and_ratios_over_time_are_told_at_every_scope(client: TestClient, books: Books) -> None:
    """10 tokens: boards 1 J, with the host 3 J, with PUE 1.2 from the second minute on 3.6 J."""
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    chat = books.placement(node, [board], "chat")
    for at in (T0, T0 + MINUTE):
        books.spent(node, board, chat, SERVING, 1000, at=at, tokens=(0, 0, 10))
        books.host(node, 2000, at=at)
    client.app.state.now = lambda: T0 + 4 * MINUTE  # type: ignore[attr-defined]

    def asked(scope: str) -> tuple[Any, Any]:
        [one] = series(client, "joules_per_token", scope=scope)
        event = client.get("/api/v1/live", params={"events": 1, "scope": scope}).text
        figures = json.loads(event.split("data: ")[1])
        assert figures["scope"] == scope
        return one["values"][:2], [row["energy_mj"] for row in figures["rows"]]

    assert asked("accelerator") == ([0.1, 0.1], [1000, 1000])
    assert asked("node") == ([0.3, 0.3], [3000, 3000])
    parameters = {**TIMES, "metric": "tokens_per_kwh", "step": "1m", "scope": "facility"}
    answer = client.get("/api/v1/series", params=parameters).json()
    assert (answer["missing"], answer["series"][0]["values"][:2]) == (["pue"], [None, None])
    client.put("/api/v1/pue", json={"site": "ams1", "pue": 1.2, "valid_from": (T0 + MINUTE).isoformat()})
    client.app.state.feed = Feed(client.app.state.database)  # type: ignore[attr-defined]  # it keeps figures for 2 s
    assert asked("facility") == ([None, 0.36], [None, 3600])
    refused = client.get("/api/v1/series", params={**TIMES, "metric": "power_mw", "scope": "node"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "scope"
