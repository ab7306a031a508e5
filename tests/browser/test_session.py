"""A session in a real browser: a key is kept, a finding is acknowledged, and no other site's page can do either."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from support import site
from support.ledger import SERVING, T0, Books
from wattmill_api import auth
from wattmill_api.store import keys

NOW = T0 + dt.timedelta(minutes=30)
ELSEWHERE = "http://evil.example/"


@pytest.fixture
def books(database_url: str) -> Iterator[Books]:
    opened = Books(database_url)
    node = opened.node("gpu-1")
    board = opened.board(node, "GPU-1")
    opened.spent(node, board, opened.placement(node, [board], "chat"), SERVING, 24_000_000, tokens=(1, 0, 1000))
    opened.do(
        "INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy) VALUES"
        " ('idle-empty', 'accelerator:GPU-1', %s, %s, 60000000, '{}', 'Idle.', 'Switch it off.')",
        *(T0, T0 + dt.timedelta(minutes=20)),
    )
    yield opened
    opened.close()


@pytest.fixture
def address(database_url: str, books: Books) -> Iterator[str]:
    with site.served(site.application(database_url, NOW)) as found:
        yield found


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context()
    yield opened
    opened.close()


def make(books: Books, scope: auth.Scope) -> str:
    key = auth.new_key(scope)
    keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name="me")
    return key.text


def state(books: Books) -> str:
    return str(books.one("SELECT state FROM finding"))


def test_a_key_is_kept_a_finding_acknowledged_and_the_key_forgotten(
    context: BrowserContext, address: str, books: Books
) -> None:
    admin = make(books, "admin")
    page = context.new_page()
    page.goto(f"{address}/?range=6h")
    page.fill("#key", admin)
    page.get_by_role("button", name="Show the page").click()
    page.goto(f"{address}/?range=6h")
    page.get_by_role("button", name="Acknowledge").first.click()
    page.wait_for_load_state()
    assert page.url == f"{address}/?range=6h"
    assert state(books) == "acknowledged"
    assert books.one("SELECT by FROM finding_event") == "me"
    page.get_by_role("button", name="Forget the key").click()
    page.wait_for_selector("#key")
    assert context.cookies() == []


def test_a_key_that_reads_is_offered_no_change(context: BrowserContext, address: str, books: Books) -> None:
    page = context.new_page()
    key = make(books, "read")
    page.goto(address)
    page.fill("#key", key)
    page.get_by_role("button", name="Show the page").click()
    page.wait_for_selector("#tokens-per-kwh")
    assert page.get_by_role("button", name="Acknowledge").count() == 0


@pytest.mark.parametrize("path", ["/findings/1/resolve", "/api/v1/findings/1/resolve"])
def test_a_page_of_another_site_changes_nothing(context: BrowserContext, address: str, books: Books, path: str) -> None:
    """Not with the visitor's session, and not on a service that is open to everybody."""
    page = context.new_page()
    page.route(
        f"{ELSEWHERE}**",
        lambda route: route.fulfill(
            content_type="text/html", body=f'<form method="post" action="{address}{path}"><button>Win</button></form>'
        ),
    )

    def tempted() -> int:
        page.goto(ELSEWHERE)
        with page.expect_navigation() as navigation:
            page.get_by_role("button").click()
        answer = navigation.value
        assert answer is not None
        return answer.status

    assert tempted() == 403
    key = make(books, "admin")
    page.goto(address)
    page.fill("#key", key)
    page.get_by_role("button", name="Show the page").click()
    page.wait_for_selector("#tokens-per-kwh")
    assert tempted() == 403
    assert state(books) == "open"
