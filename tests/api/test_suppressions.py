"""Suppression windows over HTTP, who set them, and what the history of a finding says of whoever changed it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from fastapi.testclient import TestClient

from support.ledger import T0, Books
from wattmill_api import auth
from wattmill_api.store import keys

WINDOW = {"workload": "chat", "start": "2026-03-02T10:00:00Z", "end": "2026-03-02T12:00:00Z", "reason": "load test"}
PLACE = "/api/v1/suppressions"


def test_a_window_is_added_listed_and_taken_back(client: TestClient) -> None:
    added = client.post(PLACE, json=WINDOW)
    assert added.status_code == 200
    stored = added.json()
    names = {"kind": "*", "subject": "*", "workload": "chat", "node": "*", "site": "*"}
    assert {name: stored[name] for name in names} == names
    assert (stored["start"], stored["end"]) == (WINDOW["start"], WINDOW["end"])
    assert (stored["reason"], stored["by"]) == ("load test", None)
    assert client.get(PLACE, params={"after": WINDOW["end"]}).json() == {"rows": [stored]}
    assert client.get(PLACE, params={"after": "2026-03-02T12:00:01Z"}).json() == {"rows": []}
    assert client.delete(f"{PLACE}/{stored['id']}").json() == stored
    assert client.delete(f"{PLACE}/{stored['id']}").status_code == 404
    assert client.get(PLACE, params={"after": WINDOW["start"]}).json() == {"rows": []}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"end": WINDOW["start"]}, "end"),
        ({"end": "2028-01-01T00:00:00Z"}, "end"),
        ({"start": "soon"}, "start"),
        ({"kind": ""}, "kind"),
        ({"kind": "idle-loded"}, "kind"),
        ({"rack": "r1"}, "rack"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused_by_name(
    client: TestClient, change: dict[str, Any], field: str
) -> None:
    answer = client.post(PLACE, json={**WINDOW, **change})
    assert answer.status_code == 422
    assert field in answer.json()["detail"]


def test_a_window_must_say_when(client: TestClient) -> None:
    assert client.post(PLACE, json={"kind": "idle-loaded"}).status_code == 422


def test_history_and_windows_say_which_key_was_used(client: TestClient, books: Books) -> None:
    key = auth.new_key("admin")
    keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name="on call")
    headers = {"Authorization": f"Bearer {key.text}"}
    assert client.post(PLACE, json=WINDOW, headers=headers).json()["by"] == "on call"
    books.do(
        "INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy, mj_per_day)"
        " VALUES ('idle-loaded', 'engine:x', %s, %s, 5, '{}', 's', 'r', 7)",
        *(T0, T0),
    )
    [listed] = client.get("/api/v1/findings", headers=headers).json()["rows"]
    assert (listed["history"], listed["impact"]["energy_mj_per_day"]) == (None, 7)
    place = f"/api/v1/findings/{listed['id']}"
    client.post(f"{place}/acknowledge", json={"note": "on it"}, headers=headers)
    done = client.post(f"{place}/resolve", headers=headers).json()
    assert [(event["what"], event["by"], event["note"]) for event in done["history"]] == [
        ("acknowledged", "on call", "on it"),
        ("resolved", "on call", None),
    ]
    assert done["impact"]["energy_mj_per_day"] is None
    assert client.post(f"{place}/acknowledge", headers=headers).status_code == 409


def test_what_a_remedy_saved_is_priced_and_may_be_negative(client: TestClient, books: Books) -> None:
    assert client.put("/api/v1/tariffs", json={"price_per_kwh": 0.5, "currency": "EUR"}).status_code == 200
    for number, saved in enumerate((7_200_000_000, -3_600_000_000, None)):
        finding_id = books.one(
            "INSERT INTO finding (kind, subject, state, since, until, last_seen, energy_mj, evidence, summary, remedy)"
            " VALUES ('low-batch', %s, 'resolved', %s, %s, %s, %s, '{}', 's', 'r') RETURNING finding_id",
            *(f"engine:{number}", T0, T0, T0, 9 - number),
        )
        books.do(
            "INSERT INTO finding_saving (finding_id, since, until, method, before_mj, before_units, saved_mj)"
            " VALUES (%s, %s, %s, 'cost-per-token', 2, 1, %s)",
            *(finding_id, T0, T0 + dt.timedelta(hours=1), saved),
        )
    realised = [row["realised"] for row in client.get("/api/v1/findings").json()["rows"]]
    assert [(r["energy_mj"], r["kwh"], r["cost"]) for r in realised] == [
        (7_200_000_000, 2.0, {"currency": "EUR", "total": 1.0}),
        (-3_600_000_000, -1.0, {"currency": "EUR", "total": -0.5}),
        (None, None, None),
    ]
    assert {(r["since"], r["until"]) for r in realised} == {("2026-03-02T10:00:00Z", "2026-03-02T11:00:00Z")}
    assert all("per output token" in r["method"] for r in realised)
