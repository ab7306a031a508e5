"""The page without a browser: headers, ranges, states, and numbers as people read them."""

from __future__ import annotations

import datetime as dt
import html
import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from support import site
from support.ledger import T0, Books
from wattmill_api import auth, pages, static_files
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


def test_every_file_that_the_page_names_is_there_and_kept_by_its_content(client: TestClient) -> None:
    page = client.get("/").text
    named = set(re.findall(r'"(/static/[^"]+)"', page))
    assert len(named) == 5  # charts.js is named by page.js
    for address in named | {f"{static_files.base()}/charts.js"}:
        file = client.get(address)
        assert file.status_code == 200
        assert file.headers["content-type"].startswith(static_files.FILES[address.rpartition("/")[2]][1])
        assert "immutable" in file.headers["cache-control"]
        assert (file.headers.get("content-encoding") == "gzip") == (len(file.content) > 500)
    old = client.get("/static/0123456789ab/style.css")
    assert old.status_code == 200, "a page of another version is still served"
    assert old.headers["cache-control"] == "no-cache"


def test_who_does_not_take_gzip_gets_none(client: TestClient) -> None:
    for address in ("/", f"{static_files.base()}/style.css"):
        plain = client.get(address, headers={"Accept-Encoding": "identity, gzip;q=0"})
        assert "content-encoding" not in plain.headers
        assert plain.text == client.get(address).text


@pytest.mark.parametrize("name", ["nothing.css", "..%2fpages.py", "%2e%2e%2fpages.py", "vendor/uplot-LICENSE"])
def test_no_other_file_is(client: TestClient, name: str) -> None:
    assert client.get(f"{static_files.base()}/{name}").status_code == 404


@pytest.mark.parametrize("chosen", ["1h", "6h", "24h", "7d", "30d"])
def test_every_range_is_answered(client: TestClient, chosen: str) -> None:
    assert client.get("/", params={"range": chosen}).status_code == 200


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"range": "<b>"}, "range: must be one of 1h, 6h, 24h, 7d, 30d"),
        ({"start": "yesterday"}, "start: must be RFC 3339"),
        ({"start": "2026-03-02T10:00:00Z", "end": "2026-03-01T10:00:00Z"}, "start: must not lie after end"),
        ({"workload": "a" * 513}, "workload: String should have at most 512 characters"),
        ({"workload": "a\x00b"}, "workload: "),
        ({"wrokload": "chat"}, "wrokload: is not a parameter of this page"),
    ],
)
def test_what_an_address_can_not_say_is_named(client: TestClient, parameters: dict[str, str], said: str) -> None:
    page = client.get("/", params=parameters)
    assert page.status_code == 422
    assert said in html.unescape(page.text)
    assert "<b>" not in page.text


def test_a_finding_that_is_not_there(client: TestClient) -> None:
    page = client.get("/findings/7")
    assert page.status_code == 404
    assert "There is no finding 7." in page.text


def test_a_page_of_names_that_are_not_there_leads_back(client: TestClient, books: Books) -> None:
    books.board(books.node("a"), "GPU-1")
    page = client.get("/", params={"node": "b"})
    assert page.status_code == 200
    assert "Nothing here has that name" in page.text


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
