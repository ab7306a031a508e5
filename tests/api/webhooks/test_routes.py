"""Webhooks over HTTP and by command: who may, what is never answered, and the test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from support.ledger import T0, Books
from support.receiver import LOOPBACK, Receiver
from wattmill_api import auth
from wattmill_api.app import create_app
from wattmill_api.settings import Settings
from wattmill_api.store import keys
from wattmill_api.store import webhooks as store
from wattmill_api.webhooks import command, notify

PLACE = "/api/v1/webhooks"
WANTED = {"name": "on-call", "url": "https://alerts.example/T0/s3cret?key=s3cret", "kinds": ["throttled"]}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    yield opened
    opened.close()


def test_a_webhook_is_added_listed_and_taken_away_and_its_address_is_told_to_nobody(client: TestClient) -> None:
    answer = client.post(PLACE, json=WANTED)
    assert answer.status_code == 200
    added = answer.json()
    assert added == {
        "id": added["id"],
        "created": added["created"],
        "by": None,
        "secret": None,
        "error": None,
        "name": "on-call",
        "url": "https://alerts.example/…",
        "kinds": ["throttled"],
        "teams": [],
        "sites": [],
        "min_energy_mj": 0,
        "send_resolved": True,
        "failures": 0,
        "waiting": 0,
        "delivered": None,
    }
    listed = client.get(PLACE)
    assert listed.json() == {"rows": [added]}
    assert "s3cret" not in answer.text + listed.text
    assert client.post(PLACE, json=WANTED).status_code == 409
    assert client.delete(f"{PLACE}/{added['id']}").json() == added
    assert client.delete(f"{PLACE}/{added['id']}").status_code == 404
    assert client.get(f"{PLACE}/{added['id']}/deliveries").status_code == 404
    assert client.post(f"{PLACE}/{added['id']}/test").status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"url": "ftp://alerts.example/"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "http://[::1]/"}, "url"),
        ({"url": "https://me:s3cret@alerts.example/"}, "url"),
        ({"name": " "}, "name"),
        ({"secret": "../key"}, "secret"),
        ({"kinds": ["idle"]}, "kinds"),
        ({"min_energy_mj": -1}, "min_energy_mj"),
        ({"rack": "r1"}, "rack"),
    ],
)
def test_a_webhook_that_makes_no_sense_is_refused_by_name(
    client: TestClient, change: dict[str, Any], field: str
) -> None:
    answer = client.post(PLACE, json={**WANTED, **change})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert "s3cret" not in answer.text


def test_there_are_not_more_than_fifty(client: TestClient) -> None:
    answers = [client.post(PLACE, json={**WANTED, "name": str(number)}) for number in range(51)]
    assert [answer.status_code for answer in answers] == [200] * 50 + [409]
    assert "50" in answers[-1].json()["detail"]


def test_only_an_admin_may(client: TestClient, books: Books) -> None:
    made = {}
    for scope in auth.SCOPES:
        key = auth.new_key(scope)
        keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name=scope)
        made[scope] = {"Authorization": f"Bearer {key.text}"}
    added = client.post(PLACE, json=WANTED, headers=made["admin"]).json()
    assert added["by"] == "admin"
    place = f"{PLACE}/{added['id']}"
    requests = (("GET", PLACE), ("POST", PLACE), ("GET", f"{place}/deliveries"), ("POST", f"{place}/test"))
    for method, path in (*requests, ("DELETE", place)):
        assert client.request(method, path).status_code == 401, path
        for scope in ("read", "ingest"):
            assert client.request(method, path, headers=made[scope]).status_code == 403, (path, scope)


def test_a_test_is_posted_at_once_and_deliveries_are_listed(
    database_url: str, books: Books, receiver: Receiver
) -> None:
    settings = Settings(database_url=database_url, jobs=False, webhook_allow=LOOPBACK)
    with TestClient(create_app(settings)) as client:
        added = client.post(PLACE, json={**WANTED, "url": receiver.url(), "kinds": []}).json()
        place = f"{PLACE}/{added['id']}"
        assert client.post(f"{place}/test").json() == {"delivered": True, "status": 200, "reason": None}
        assert json.loads(receiver.came[0].body)["alerts"][0]["labels"]["alertname"] == "WattmillTest"
        receiver.answers = [(500, {}), (404, {})]
        tested = {"delivered": False, "status": 500, "reason": "answered 500"}
        assert client.post(f"{place}/test").json() == tested
        books.do(
            "INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy)"
            " VALUES ('idle-loaded', 'engine:x', %s, %s, 5, '{}', 's', 'r')",
            *(T0, T0),
        )
        now = books.one("SELECT now()")
        notify.notify(books.connection, now, notify.outside(settings))
        (row,) = client.get(f"{place}/deliveries").json()["rows"]
        assert {name: row[name] for name in ("status", "state", "attempts", "reason")} == {
            "status": "firing",
            "state": "gave up",
            "attempts": 1,
            "reason": "answered 404",
        }
        assert client.get(PLACE).json()["rows"][0]["error"] == "answered 404"


def test_what_is_not_allowed_is_not_posted_to_by_a_test(client: TestClient, books: Books, receiver: Receiver) -> None:
    added = client.post(PLACE, json={**WANTED, "url": receiver.url(host="localhost")}).json()
    tested = client.post(f"{PLACE}/{added['id']}/test").json()
    assert (tested["delivered"], tested["status"]) == (False, None)
    assert "is this host" in tested["reason"]
    assert receiver.came == []


class TestCommand:
    """`wattmill webhook`."""

    @pytest.fixture(autouse=True)
    def environment(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WATTMILL_DATABASE_URL", database_url)
        monkeypatch.setenv("WATTMILL_WEBHOOK_ALLOW", LOOPBACK)

    def test_from_creating_to_removing(
        self, books: Books, receiver: Receiver, capsys: pytest.CaptureFixture[str], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("WATTMILL_WEBHOOK_SECRETS", str(tmp_path))
        monkeypatch.setenv("WATTMILL_TEAM", "search,tools")
        (tmp_path / "on-call").write_text("hush\n")
        create = ["create", "--name", "on-call", "--url", receiver.url("/s3cret"), "--secret", "on-call"]
        more = ["--kind", "throttled", "--kind", "straggler", "--min-energy-kwh", "0.5", "--no-resolved"]
        assert command.main([*create, *more]) == 0
        (webhook,) = store.all_webhooks(books.connection)
        assert (webhook.kinds, webhook.teams, webhook.sites) == (["throttled", "straggler"], ["search", "tools"], [])
        assert (webhook.min_energy_mj, webhook.send_resolved) == (1_800_000_000, False)
        assert command.main(["test", "on-call"]) == 0
        assert receiver.came[0].headers["x-wattmill-signature"].count("v1=") == 1
        receiver.answers = [(403, {})]
        assert command.main(["test", str(webhook.webhook_id)]) == 1
        assert command.main(["list"]) == 0
        assert command.main(["remove", "on-call"]) == 0
        assert command.main(["remove", "on-call"]) == 1
        assert store.all_webhooks(books.connection) == []
        said = capsys.readouterr()
        assert f"http://127.0.0.1:{receiver.port}/…" in said.out
        assert "did not take it: answered 403" in said.err
        assert "there is no webhook on-call" in said.err
        assert "s3cret" not in said.out + said.err
        assert "hush" not in said.out + said.err

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            (["--url", "ftp://a.example"], "url"),
            (["--url", "http://10.0.0.1/"], "WATTMILL_WEBHOOK_ALLOW"),
            (["--kind", "idle"], "kinds"),
            (["--min-energy-kwh", "much"], "--min-energy-kwh"),
            (["--min-energy-kwh", "NaN"], "--min-energy-kwh"),
            (["--webhook-allow", "everybody"], "--webhook-allow"),
        ],
    )
    def test_what_makes_no_sense_is_named(
        self, capsys: pytest.CaptureFixture[str], options: list[str], named: str
    ) -> None:
        assert command.main(["create", "--name", "on-call", "--url", "https://a.example/", *options]) == 2
        assert named in capsys.readouterr().err

    def test_a_database_that_is_away_is_said_so_without_its_password(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["list", "--database-url", "postgresql://me:s3cret@127.0.0.1:1/nowhere"]) == 1
        said = capsys.readouterr().err
        assert "me@127.0.0.1:1" in said
        assert "s3cret" not in said


def test_settings_name_the_network_that_is_none_and_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTMILL_WEBHOOK_SECRET", "hush")
    settings = Settings(webhook_allow="10.0.0.0/8")
    assert notify.outside(settings).secrets.of("") == ("hush",)
    assert "hush" not in str(settings.described()) + repr(settings)
    with pytest.raises(ValueError, match="everybody"):
        Settings(webhook_allow="everybody")
