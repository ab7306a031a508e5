"""A browser's session: who may make it change something, and what another site's page can't."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from support import site
from support.ledger import MINUTE, T0, Books
from wattmill_api import auth, session
from wattmill_api.store import keys

NOW = T0 + 30 * MINUTE
HERE = "http://testserver"
ELSEWHERE = (
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)
OURS: tuple[dict[str, str], ...] = ({}, {"Origin": HERE}, {"Sec-Fetch-Site": "same-origin", "Origin": "null"})
Make = Callable[[auth.Scope], str]


@pytest.fixture
def client(database_url: str) -> Iterator[TestClient]:
    with TestClient(site.application(database_url, NOW), follow_redirects=False) as opened:
        yield opened


@pytest.fixture
def make(books: Books) -> Make:
    def made(scope: auth.Scope) -> str:
        key = auth.new_key(scope)
        keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name=f"{scope} of mine")
        return key.text

    return made


@pytest.fixture
def finding(books: Books) -> int:
    return int(
        books.one(
            "INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy)"
            " VALUES ('idle-loaded', 'accelerator:GPU-a', %s, %s, 1, '{}', 'Idle.', 'Unload it.') RETURNING finding_id",
            *(T0, T0 + MINUTE),
        )
    )


def token_of(key: str) -> str:
    headers = [(b"cookie", f"{session.COOKIE}={key}".encode())] if key else []
    return session.token(Request({"type": "http", "headers": headers}))


def post(client: TestClient, path: str, key: str, fields: dict[str, str], headers: dict[str, str] | None = None) -> Any:
    cookie = {"Cookie": f"{session.COOKIE}={key}"} if key else {}
    return client.post(path, data=fields, headers={**cookie, **(headers or {})})


def state(books: Books, finding: int) -> str:
    return str(books.one("SELECT state FROM finding WHERE finding_id = %s", finding))


@pytest.mark.parametrize("headers", OURS)
def test_an_admin_key_in_the_cookie_and_the_token_change_a_finding(
    client: TestClient, books: Books, make: Make, finding: int, headers: dict[str, str]
) -> None:
    key = make("admin")
    fields = {"csrf": token_of(key), "note": "on it – é", "back": "/?range=6h"}
    seen = post(client, f"/findings/{finding}/acknowledge", key, fields, headers)
    assert (seen.status_code, seen.headers["location"]) == (303, "/?range=6h")
    assert state(books, finding) == "acknowledged"
    assert post(client, f"/findings/{finding}/resolve", key, fields, headers).status_code == 303
    assert state(books, finding) == "resolved"
    events = books.connection.execute("SELECT what, by, note FROM finding_event ORDER BY event_id").fetchall()
    assert events == [
        ("acknowledged", "admin of mine", "on it – é"),
        ("resolved", "admin of mine", "on it – é"),
    ]
    over = post(client, f"/findings/{finding}/acknowledge", key, fields, headers)
    assert over.status_code == 409
    assert "is over already" in over.text
    assert post(client, "/findings/999/resolve", key, fields).status_code == 404


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é", token_of(""), token_of("another key")])
def test_without_the_token_of_its_own_session_nothing_changes(
    client: TestClient, books: Books, make: Make, finding: int, token: str | None
) -> None:
    refused = post(client, f"/findings/{finding}/resolve", make("admin"), {} if token is None else {"csrf": token})
    assert refused.status_code == 403
    assert "load the page again" in refused.text
    assert state(books, finding) == "open"


@pytest.mark.parametrize("headers", ELSEWHERE)
@pytest.mark.parametrize("closed", [True, False])
def test_a_page_of_another_origin_changes_nothing_even_with_the_token(
    client: TestClient, books: Books, make: Make, finding: int, headers: dict[str, str], *, closed: bool
) -> None:
    key = make("admin") if closed else ""
    for path in (f"/findings/{finding}/resolve", f"/findings/{finding}/acknowledge"):
        assert post(client, path, key, {"csrf": token_of(key)}, headers).status_code == 403
    assert post(client, "/key/forget", key, {}, headers).status_code == 403
    entered = post(client, "/key", "", {"key": key or "wm"}, headers)
    assert entered.status_code == 401
    assert "set-cookie" not in entered.headers
    if not closed:
        assert client.post(f"/api/v1/findings/{finding}/resolve", headers=headers).status_code == 403
    assert state(books, finding) == "open"


def test_an_open_service_takes_forms_of_its_own_page_and_calls_of_programs(
    client: TestClient, books: Books, finding: int
) -> None:
    assert post(client, f"/findings/{finding}/acknowledge", "", {"csrf": token_of("")}, OURS[1]).status_code == 303
    assert client.post(f"/api/v1/findings/{finding}/resolve").status_code == 200
    assert state(books, finding) == "resolved"


def test_a_key_that_reads_changes_nothing(client: TestClient, books: Books, make: Make, finding: int) -> None:
    make("admin")
    for key, status in ((make("read"), 403), (make("ingest"), 403), ("", 401), (auth.new_key("admin").text, 401)):
        assert post(client, f"/findings/{finding}/resolve", key, {"csrf": token_of(key)}).status_code == status
    assert state(books, finding) == "open"


def test_a_cookie_changes_nothing_of_the_api(client: TestClient, books: Books, make: Make, finding: int) -> None:
    """Complete from the OpenAPI document, with the token sent in every way that one could think of."""
    key = make("admin")
    cookie = {"Cookie": f"{session.COOKIE}={key}", "X-CSRF-Token": token_of(key), "Sec-Fetch-Site": "same-origin"}
    tried = 0
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method in set(operations) - {"get"}:
            url = re.sub(r"\{\w+_id\}", str(finding), path)
            refused = client.request(method, url, params={"csrf": token_of(key)}, headers=cookie)
            assert refused.status_code in (401, 422), (method, url)
            assert client.request(method, url, headers=cookie).status_code == 401, (method, url)
            tried += 1
    assert tried >= 8
    assert state(books, finding) == "open"


def test_a_cookie_reads_the_api_for_the_page_and_for_no_other_site(client: TestClient, make: Make) -> None:
    cookie = {"Cookie": f"{session.COOKIE}={make('read')}"}
    for headers in OURS:
        assert client.get("/api/v1/sites", headers={**cookie, **headers}).status_code == 200
    for headers in ELSEWHERE:
        assert client.get("/api/v1/sites", headers={**cookie, **headers}).status_code == 401
    # A header goes before the cookie, also when it opens nothing.
    assert client.get("/api/v1/sites", headers={**cookie, "Authorization": "Bearer wm_read"}).status_code == 401
    assert client.get("/api/v1/sites", headers={**cookie, "Authorization": "Basic eA=="}).status_code == 401
    assert client.get("/metrics", headers=cookie).text.count("wattmill_ledger_withheld 1.0") == 1


def test_a_key_is_taken_when_it_opens_the_page_and_forgotten_on_demand(client: TestClient, make: Make) -> None:
    make("admin")
    for wrong, why in (
        ("wm", "not a Wattmill key"),
        (auth.new_key("read").text, "unknown or revoked"),
        (make("ingest"), "scope read"),
        ("", "needs a key"),
    ):
        refused = post(client, "/key", "", {"key": wrong})
        assert refused.status_code == 401
        assert "set-cookie" not in refused.headers
        assert why in refused.text
    key = make("read")
    entered = post(client, "/key", "", {"key": f" {key} "})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    kept = entered.headers["set-cookie"]
    assert kept.startswith(f"{session.COOKIE}={key};")
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= {part.strip() for part in kept.split(";")}
    assert "/key/forget" in client.get("/", headers={"Cookie": f"{session.COOKIE}={key}"}).text
    gone = post(client, "/key/forget", key, {})
    assert (gone.status_code, gone.headers["location"]) == (303, "/")
    assert 'wattmill_key=""' in gone.headers["set-cookie"]
    assert "Max-Age=0" in gone.headers["set-cookie"]
    assert client.get("/key").headers["location"] == "/"


def test_over_tls_the_cookie_never_leaves_it(database_url: str, make: Make) -> None:
    key = make("read")
    with TestClient(
        site.application(database_url, NOW), base_url="https://testserver", follow_redirects=False
    ) as secure:
        assert "Secure" in post(secure, "/key", "", {"key": key}).headers["set-cookie"]


def test_the_page_lets_a_browser_say_that_a_form_is_its_own(client: TestClient) -> None:
    """With `no-referrer` it would send `Origin: null`, as a stranger would."""
    assert client.get("/").headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    "back",
    [
        "//evil.example",
        "http://evil.example",
        "/\\evil.example",
        "/a\r\nSet-Cookie: x=y",
        "javascript:x",
        "",
        "/é",
        "\t/",
        "/ /",
    ],
)
def test_a_form_leads_nowhere_else(client: TestClient, finding: int, back: str) -> None:
    answer = post(client, f"/findings/{finding}/acknowledge", "", {"csrf": token_of(""), "back": back})
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    ("page", "path"),
    [
        (f"{HERE}/?range=6h&site=a", "/?range=6h&site=a"),
        (f"{HERE}/findings/1", "/findings/1"),
        ("http://evil.example/findings/1", "/"),
        (f"{HERE}//evil.example", "/"),
        ("http://[", "/"),
        ("", "/"),
    ],
)
def test_a_form_leads_back_to_its_page(client: TestClient, finding: int, page: str, path: str) -> None:
    fields = {"csrf": token_of("")}
    answer = post(client, f"/findings/{finding}/acknowledge", "", fields, {"Referer": page, "Origin": HERE})
    assert answer.headers["location"] == path


def test_a_form_has_its_limits(client: TestClient, books: Books, finding: int) -> None:
    path, token = f"/findings/{finding}/acknowledge", token_of("")
    assert post(client, path, "", {"csrf": token, "note": "a" * 5000}).status_code == 413
    assert post(client, path, "", {"csrf": token, "note": "a" * 513}).status_code == 422
    assert post(client, path, "", {"csrf": token, "note": "a\x00"}).status_code == 422
    assert client.post("/findings/0/acknowledge").status_code == 422
    assert state(books, finding) == "open"


def test_a_refusal_is_a_page_and_shows_hostile_words_as_words(client: TestClient, finding: int) -> None:
    fields = {"csrf": "<script>", "back": '/"><script>alert(1)</script>'}
    refused = post(client, f"/findings/{finding}/acknowledge", "", fields)
    assert refused.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in refused.headers["content-security-policy"]
    assert "<script>" not in refused.text


def test_the_token_tells_nothing_of_the_key(make: Make) -> None:
    key = make("read")
    assert token_of(key) != token_of(make("read"))
    assert key.split("_")[3] not in token_of(key)
    assert len(token_of(key)) == 64
