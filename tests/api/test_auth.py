"""Keys: open until the first, then every route asks for its scope; revocation works within seconds."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import re
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from support.ledger import Books
from wattmill_api import auth
from wattmill_api.errors import Forbidden, Unauthenticated
from wattmill_api.store import keys

PUBLIC = {"/healthz", "/readyz", "/metrics"}


@dataclasses.dataclass
class Stored:
    sha256: bytes
    scope: str
    revoked: object | None = None
    teams: list[str] | None = None


class Store:
    """Keys in memory; counts how often it is asked."""

    def __init__(self) -> None:
        self.keys: dict[str, Stored] = {}
        self.asked = 0

    def add(self, key: auth.NewKey) -> str:
        self.keys[key.key_id] = Stored(key.sha256, key.scope)
        return key.text

    def any_key(self) -> bool:
        return bool(self.keys)

    def find(self, key_id: str) -> Stored | None:
        self.asked += 1
        return self.keys.get(key_id)


@pytest.fixture
def make(books: Books) -> Callable[[auth.Scope], str]:
    def made(scope: auth.Scope) -> str:
        key = auth.new_key(scope)
        keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name="test")
        return key.text

    return made


def test_a_key_carries_its_own_checksum() -> None:
    key = auth.new_key("ingest")
    assert auth.parse_key(key.text) == (key.key_id, key.sha256)
    assert key.text.startswith(f"wm_ingest_{key.key_id}_")
    assert auth.parse_key(key.text[:-1] + ("0" if key.text[-1] != "0" else "1")) is None
    for wrong in ("", "wm_ingest_1_2_3", key.text + "\n", key.text.upper(), key.text.replace("ingest", "admin")):
        assert auth.parse_key(wrong) is None


def test_a_revocation_works_within_five_seconds_and_a_key_is_not_asked_for_twice() -> None:
    now = [100.0]
    store = Store()
    text = store.add(auth.new_key("read"))
    guard = auth.Guard(store, lambda: now[0])
    for _ in range(10):
        asyncio.run(guard.check(text, "read"))
    assert store.asked == 1
    next(iter(store.keys.values())).revoked = "today"
    now[0] += 4.9
    with pytest.raises(Unauthenticated):
        asyncio.run(guard.check(text, "read"))


def test_open_until_the_first_key_and_closed_for_ever_after() -> None:
    now = [0.0]
    store = Store()
    guard = auth.Guard(store, lambda: now[0])
    asyncio.run(guard.check(None, "admin"))
    store.add(auth.new_key("read"))
    now[0] += 4.9
    with pytest.raises(Unauthenticated):
        asyncio.run(guard.check(None, "read"))
    store.keys.clear()
    now[0] += 60
    with pytest.raises(Unauthenticated):
        asyncio.run(guard.check(None, "read"))


@pytest.mark.parametrize(("scope", "needed"), list(itertools.product(auth.SCOPES, auth.SCOPES)))
def test_each_scope_opens_its_own_and_admin_opens_all(scope: auth.Scope, needed: str) -> None:
    store = Store()
    guard = auth.Guard(store, lambda: 0.0)
    text = store.add(auth.new_key(scope))
    if scope in (needed, "admin"):
        asyncio.run(guard.check(text, needed))
    else:
        with pytest.raises(Forbidden):
            asyncio.run(guard.check(text, needed))


def test_every_operation_declares_its_scope_and_enforces_it(
    client: TestClient, make: Callable[[auth.Scope], str]
) -> None:
    """Scope × endpoint, complete from the OpenAPI document: a route that forgets its scope fails here."""
    texts = {scope: make(scope) for scope in auth.SCOPES}
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = re.sub(r"\{\w+_id\}", "1", path)
            url += "?events=1" if path.endswith("/live") else ""
            if path in PUBLIC:
                assert "security" not in operation
                continue
            [[scopes]] = [list(requirement.values()) for requirement in operation["security"]]
            [needed] = scopes
            assert needed in auth.SCOPES
            assert (needed == "read") == (method == "get" and "/webhooks" not in path)
            without = client.request(method, url)
            assert without.status_code == 401, url
            assert without.headers["www-authenticate"].startswith("Bearer")
            for scope, text in texts.items():
                status = client.request(method, url, headers={"Authorization": f"Bearer {text}"}).status_code
                assert (status == 403) == (scope not in (needed, "admin")), (url, scope, status)
                assert status != 401


def test_a_key_that_is_unknown_broken_or_in_the_address_opens_nothing(
    client: TestClient, make: Callable[[auth.Scope], str]
) -> None:
    text = make("read")
    for sent in (auth.new_key("read").text, text[:-1], "wm_read", ""):
        response = client.get("/api/v1/sites", headers={"Authorization": f"Bearer {sent}"})
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"
        assert text not in response.text
    assert client.get(f"/api/v1/sites?key={text}").status_code == 401
    assert client.get("/api/v1/sites", headers={"Authorization": f"Bearer {text}"}).status_code == 200
    assert client.get("/readyz").json()["access"] == "closed"


def test_the_table_keeps_a_hash_and_a_key_can_be_revoked(books: Books, make: Callable[[auth.Scope], str]) -> None:
    text = make("admin")
    [row] = keys.all_keys(books.connection)
    assert text.split("_")[3] not in repr(row) + repr(keys.find(books.connection, row.key_id))
    assert keys.revoke(books.connection, row.key_id)
    assert not keys.revoke(books.connection, "nothing")
    [row] = keys.all_keys(books.connection)
    assert row.revoked is not None
    assert keys.any_key(books.connection)
