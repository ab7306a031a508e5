"""The page without a browser: headers, ranges, states, and numbers as people read them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from support import site
from support.ledger import SERVING, T0, Books
from wattmill_api import auth, pages
from wattmill_api.overview import overview
from wattmill_api.store import keys

NOW = T0 + dt.timedelta(minutes=30)


@pytest.fixture
def client(database_url: str) -> Iterator[TestClient]:
    with TestClient(site.application(database_url, NOW), follow_redirects=False) as opened:
        yield opened


def test_nothing_may_run_that_is_not_ours(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page.text
    assert " style=" not in page.text
    assert " onclick=" not in page.text


def test_every_file_that_the_page_names_is_there(client: TestClient) -> None:
    for name, kind in pages.STATIC.items():
        assert f"/static/{name}" in client.get("/").text
        file = client.get(f"/static/{name}")
        assert file.status_code == 200
        assert file.headers["content-type"].startswith(kind)


@pytest.mark.parametrize("name", ["nothing.css", "..%2fpages.py", "%2e%2e%2fpages.py"])
def test_no_other_file_is(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("chosen", ["1h", "6h", "24h", "7d"])
def test_every_range_is_answered(client: TestClient, chosen: str) -> None:
    assert client.get("/", params={"range": chosen}).status_code == 200


def test_an_unknown_range_is_named(client: TestClient) -> None:
    page = client.get("/", params={"range": "<b>"})
    assert page.status_code == 422
    assert "must be one of 1h, 6h, 24h, 7d" in page.text
    assert "<b>" not in page.text


def test_a_database_that_is_away_is_said_so() -> None:
    app = site.application("postgresql://127.0.0.1:1/nowhere", NOW)
    app.state.database._read.timeout = 0.1
    with TestClient(app) as client:
        page = client.get("/")
    assert page.status_code == 503
    assert "The database does not answer" in page.text


def test_once_keys_exist_the_page_wants_one(client: TestClient, database_url: str) -> None:
    books = Books(database_url)
    made = {scope: auth.new_key(scope) for scope in ("read", "ingest")}
    for key in made.values():
        keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name="")
    books.close()
    assert client.get("/").status_code == 401
    assert client.get("/", headers={"Cookie": f"{pages.COOKIE}={made['read'].text}"}).status_code == 200
    refused = client.get("/", headers={"Cookie": f"{pages.COOKIE}={made['ingest'].text}"})
    assert refused.status_code == 401
    assert "needs a key of scope read" in refused.text


def test_a_key_is_kept_where_scripts_and_other_sites_cannot_use_it(client: TestClient) -> None:
    answer = client.post("/key", content="key=wm_read_1", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


@pytest.mark.parametrize("body", [b"", b"key=%00%0d%0aSet-Cookie: a=b", b"\xff\xfe", b"key=" + b"a" * 4096])
def test_no_key_can_break_the_answer(client: TestClient, body: bytes) -> None:
    answer = client.post("/key", content=body)
    assert answer.status_code in (303, 413)
    assert len(answer.headers.get_list("set-cookie")) == (answer.status_code == 303)


def test_the_accounts_sum_to_the_meter(database_url: str) -> None:
    books = Books(database_url)
    node = books.node("a")
    board = books.board(node, "GPU-1")
    for account in range(1, 5):
        books.spent(node, board, 0, account, 10**account)
    shown = overview(books.connection, NOW, dt.timedelta(hours=1))
    assert [(account.name, account.energy_mj) for account in shown.accounts] == [
        ("serving", 10),
        ("idle-loaded", 100),
        ("idle-empty", 1000),
        ("unattributed", 10_000),
    ]
    assert shown.meter_mj == 11_110
    assert shown.residual_mj == 0
    books.spent(node, board, 0, SERVING, 7, at=T0 + dt.timedelta(minutes=1), metered=False)
    assert overview(books.connection, NOW, dt.timedelta(hours=1)).residual_mj == -7
    books.close()


@pytest.mark.parametrize(
    ("energy_mj", "text"),
    [(None, "–"), (0, "0.0 Wh"), (3_600_000, "1.0 Wh"), (3_600_000_000, "1.00 kWh"), (10**15, "277\u202f778 kWh")],
)
def test_energy_is_written_as_people_read_it(energy_mj: int | None, text: str) -> None:
    assert pages.TEMPLATES.filters["kwh"](energy_mj) == text


def test_a_gap_is_not_drawn_over() -> None:
    minutes = [T0 + dt.timedelta(minutes=minute) for minute in (0, 1, 2, 7, 8)]
    lines = pages.TEMPLATES.filters["plot"]([(minute, 1.0) for minute in minutes])
    assert [len(line.split()) for line in lines] == [3, 2]


def test_one_point_is_no_line() -> None:
    assert pages.TEMPLATES.filters["plot"]([(T0, 1.0)]) == []
