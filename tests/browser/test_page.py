"""The page in a real browser: nothing from elsewhere, no error, no script from a label, readable on a phone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from support import site
from support.ledger import IDLE_EMPTY, SERVING, T0, Books
from wattmill_api import auth
from wattmill_api.store import keys

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>\u202e"\'&'
NOW = T0 + dt.timedelta(minutes=30)


class Visit:
    """A page and all that went wrong on it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(address) else self.complaints.append(f"asked {request.url}"),
        )


@pytest.fixture
def books(database_url: str) -> Iterator[Books]:
    opened = Books(database_url)
    yield opened
    opened.close()


@pytest.fixture
def address(database_url: str) -> Iterator[str]:
    with site.served(site.application(database_url, NOW)) as found:
        yield found


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    yield Visit(context.new_page(), address)
    context.close()


def fill(books: Books, name: str = "chat") -> None:
    node = books.node(name)
    board = books.board(node, "GPU-1")
    placement = books.placement(node, [board], name, model=name, team=name)
    for minute in range(10):
        at = T0 + dt.timedelta(minutes=minute)
        books.spent(node, board, placement, SERVING, 30_000_000, at=at, tokens=(500, 100, 1000))
        books.spent(node, board, 0, IDLE_EMPTY, 6_000_000, at=at)
    books.do(
        "INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy)"
        " VALUES ('idle-empty', %s, %s, %s, 60000000, '{}', %s, 'Switch it off.')",
        *(name, T0, T0, name),
    )


def test_the_page_says_what_the_ledger_says(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    visit.page.goto(address)
    # 10 000 tokens for 0.1 kWh (360 MJ = 360 000 000 mJ = 0.1 kWh).
    assert visit.page.inner_text("#tokens-per-kwh") == "100\u202f000"
    assert visit.page.inner_text("#meter") == "360\u202f000\u202f000"
    assert visit.page.inner_text("#residual") == "0"
    assert "Switch it off." in visit.page.inner_text(".findings")
    assert visit.complaints == []


def test_labels_are_text_and_nothing_else(visit: Visit, address: str, books: Books) -> None:
    fill(books, HOSTILE)
    visit.page.goto(address)
    assert visit.page.title() == "Wattmill"
    assert visit.page.inner_text(".workloads tbody th").endswith(HOSTILE)
    assert visit.page.locator("main img, main script").count() == 0
    assert visit.complaints == []


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(visit: Visit, address: str, books: Books, width: int) -> None:
    fill(books, "a-workload-with-a-name-that-does-not-end-" * 3)
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.goto(address)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_empty_service_names_the_next_command(visit: Visit, address: str) -> None:
    visit.page.goto(address)
    said = visit.page.inner_text(".empty")
    assert f"WATTMILL_SERVER={address} wattmill agent" in said
    assert f"wattmill simulate --nodes 4 --server {address}" in said
    assert visit.complaints == []


def test_the_page_refreshes_in_place(visit: Visit, address: str, books: Books) -> None:
    visit.page.clock.install()
    visit.page.goto(address)
    assert visit.page.locator(".empty").count() == 1
    fill(books)
    visit.page.clock.run_for(11_000)
    visit.page.wait_for_selector("#tokens-per-kwh")
    assert visit.complaints == []


def test_old_figures_are_marked_when_the_service_is_gone(browser: Browser, database_url: str, books: Books) -> None:
    fill(books)
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    with site.served(site.application(database_url, NOW)) as address:
        page.goto(address)
    page.clock.run_for(11_000)
    page.wait_for_selector("#freshness.stale")
    assert page.inner_text("#tokens-per-kwh") == "100\u202f000"
    context.close()


def test_a_closed_service_asks_for_a_key_and_then_shows_the_page(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    key = auth.new_key("read")
    keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name="")
    visit.page.goto(address)
    assert visit.page.locator("#tokens-per-kwh").count() == 0
    visit.page.fill("#key", "wrong")
    visit.page.click("button")
    assert "not a Wattmill key" in visit.page.inner_text(".problem")
    visit.page.fill("#key", key.text)
    visit.page.click("button")
    assert visit.page.inner_text("#tokens-per-kwh") == "100\u202f000"
    assert visit.page.evaluate("document.cookie") == ""


def test_the_reference_of_the_api_works_offline(visit: Visit, address: str) -> None:
    visit.page.goto(f"{address}/docs")
    visit.page.get_by_text("/api/v1/efficiency").first.wait_for(timeout=30_000)
    assert visit.complaints == []
