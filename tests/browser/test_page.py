"""The page in a real browser: nothing from elsewhere, no error, no script from a label, readable on a phone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page

from support import site
from support.ledger import IDLE_EMPTY, IDLE_LOADED, SERVING, T0, Books
from wattmill_api import auth
from wattmill_api.store import keys

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>\u202e"\'&'
NOW = T0 + dt.timedelta(minutes=30)
MOST_TRANSFERRED = 300_000


class Visit:
    """A page and all that went wrong on it: a violation of the policy is an error on the console too."""

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


def fill(books: Books, name: str = "chat", uuid: str = "GPU-1", site_name: str = "ams1") -> None:
    node = books.node(name, site_name)
    board = books.board(node, uuid)
    placement = books.placement(node, [board], name, model=name, team=name)
    for minute in range(10):
        at = T0 + dt.timedelta(minutes=2 * minute)  # two steps of ten minutes
        books.spent(node, board, placement, SERVING, 24_000_000, at=at, tokens=(500, 100, 1000))
        books.spent(node, board, placement, IDLE_LOADED, 6_000_000, at=at)
        books.spent(node, board, 0, IDLE_EMPTY, 6_000_000, at=at)
    books.do(
        "INSERT INTO finding (kind, subject, node, site, since, last_seen, energy_mj, evidence, summary, remedy)"
        " VALUES ('idle-empty', %s, %s, %s, %s, %s, 60000000, '{\"mean_power_watts\": 67}', %s, 'Switch it off.')",
        *(f"accelerator:{uuid}", name, site_name, T0, T0 + dt.timedelta(minutes=20), name),
    )


def whole(number: str) -> int:
    return int(number.replace("\u202f", ""))


def asked(address: str, path: str) -> Any:
    answer = httpx2.get(f"{address}{path}")
    assert answer.status_code == 200
    return answer.json()


def drawn(page: Page) -> None:
    """Every chart is there, the one that comes later too."""
    page.wait_for_selector("#load figure .uplot canvas, #load .hint")
    page.wait_for_selector("#trend figure .uplot canvas")


def test_the_page_says_what_the_api_says_and_what_the_ledger_says(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    visit.page.goto(address)
    # 10 000 tokens for 0.1 kWh (360 MJ = 360 000 000 mJ = 0.1 kWh).
    assert visit.page.inner_text("#tokens-per-kwh") == "100\u202f000"
    assert "Switch it off." in visit.page.inner_text("#findings")
    range_of_page = "?start=2026-03-01T10:30Z&end=2026-03-02T10:30Z".replace("Z", ":00Z")
    efficiency = asked(address, f"/api/v1/efficiency{range_of_page}")["rows"][0]
    ledger = asked(address, f"/api/v1/ledger{range_of_page}")
    assert efficiency["tokens_per_kwh"] == 100_000
    assert whole(visit.page.inner_text("#meter")) == ledger["meter_mj"] == efficiency["energy_mj"] == 360_000_000
    assert whole(visit.page.inner_text("#ledger")) == sum(row["energy_mj"] for row in ledger["rows"])
    assert visit.page.inner_text("#residual") == "0"
    written = books.one("SELECT sum(energy_mj) FROM ledger_minute")
    assert written == ledger["meter_mj"]
    drawn(visit.page)
    assert visit.complaints == []


def test_the_first_three_answers(visit: Visit, address: str, books: Books) -> None:
    fill(books, "busy", "GPU-1")
    fill(books, "idle", "GPU-2")
    books.do("UPDATE ledger_minute SET energy_mj = energy_mj * 3 WHERE account = 2 AND placement_id = 2")
    visit.page.goto(address)
    answers = visit.page.inner_text("#answers")
    assert "Output tokens per kWh" in answers
    assert visit.page.inner_text("#answers .name") == "idle"
    assert visit.page.inner_text("#worst-waste") == "50.0\u202fWh"  # 180 MJ
    assert "Switch it off." in answers


def test_labels_are_text_and_nothing_else(visit: Visit, address: str, books: Books) -> None:
    fill(books, HOSTILE, uuid=HOSTILE, site_name=HOSTILE)
    for path in ("/", "/findings/1", "/load"):
        visit.page.goto(f"{address}{path}")
        assert visit.page.title().endswith("Wattmill")
        assert visit.page.locator("main img, main script").count() == 0
    visit.page.goto(address)
    assert HOSTILE in visit.page.inner_text("#workloads")
    for link in ("#workloads tbody a", "#places tbody a"):
        visit.page.goto(address)
        visit.page.locator(link).first.click()
        assert HOSTILE in visit.page.inner_text(".crumbs")
        assert visit.page.inner_text("#tokens-per-kwh") != "–"
    assert visit.complaints == []


@pytest.mark.parametrize("path", ["/", "/findings/1", "/load"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(visit: Visit, address: str, books: Books, width: int, path: str) -> None:
    fill(books, "a-workload-with-a-name-that-does-not-end-" * 3, uuid="GPU-" + "0" * 100)
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.goto(f"{address}{path}")
    if path == "/":
        drawn(visit.page)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_empty_service_names_the_next_command(visit: Visit, address: str) -> None:
    visit.page.goto(address)
    said = visit.page.inner_text(".empty")
    assert f"WATTMILL_SERVER={address} wattmill agent" in said
    assert f"wattmill simulate --nodes 4 --server {address}" in said
    assert visit.complaints == []


def test_no_traffic_is_said_and_no_number_is_not_one(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    books.do("UPDATE ledger_minute SET output_tokens = 0 WHERE account = 1")
    visit.page.goto(address)
    assert visit.page.inner_text("#tokens-per-kwh") == "no traffic"
    said = visit.page.inner_text("body")
    assert "no output tokens were generated" in said
    assert "NaN" not in said
    assert "None" not in said.replace("None is open", "")
    assert "Infinity" not in said
    assert visit.complaints == []


def test_drilling_down_from_sites_to_a_workload_by_addresses_that_can_be_shared(
    visit: Visit, address: str, books: Books, browser: Browser
) -> None:
    fill(books, "alpha", "GPU-1", "ams1")
    fill(books, "beta", "GPU-2", "fra2")
    page = visit.page
    page.goto(f"{address}/?range=6h")
    page.locator("#places tbody a", has_text="fra2").click()
    assert page.inner_text("#meter") == "360\u202f000\u202f000"
    page.locator("#places tbody a", has_text="GPU-2").click()
    assert "GPU-2" in page.inner_text(".crumbs")
    page.locator("#workloads tbody a", has_text="beta").click()
    assert "no meter to compare with" in page.inner_text("#waterfall")
    assert page.inner_text("#ledger") == "300\u202f000\u202f000"
    # The same address says the same to somebody else.
    other = browser.new_page()
    other.goto(page.url)
    assert other.locator("#waterfall td").all_inner_texts() == page.locator("#waterfall td").all_inner_texts()
    other.close()
    page.locator(".crumbs a", has_text="whole fleet").click()
    assert page.inner_text("#meter") == "720\u202f000\u202f000"
    assert visit.complaints == []


def test_a_range_is_picked_by_hand(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    page = visit.page
    page.goto(address)
    page.click("#picker summary")
    page.fill("#from", "2026-03-02T10:00")
    page.fill("#to", "2026-03-02T10:05")
    page.click("#picker button")
    assert page.inner_text("#meter") == "108\u202f000\u202f000"  # three of the ten minutes
    assert page.inner_text("#freshness") == "fixed range"
    assert page.locator("a[rel=next]").count() == 1


def test_the_scope_is_picked_kept_and_said(visit: Visit, address: str, books: Books) -> None:
    """A host that costs half as much as its board, and a PUE of 1.25: 0.1, 0.15 and 0.1875 kWh for 10 000 tokens."""
    fill(books)
    for minute in range(10):
        books.host(1, 18_000_000, at=T0 + dt.timedelta(minutes=2 * minute))
    page = visit.page
    page.goto(f"{address}/?range=6h")
    assert page.locator("#scope-note").count() == 0
    assert page.inner_text("#scope") == "accelerators"
    page.click(".scopes a >> text=node")
    assert page.inner_text("#tokens-per-kwh") == "66\u202f700"
    assert page.inner_text("#scope") == "whole nodes"
    assert "Findings count boards alone" in page.inner_text("#scope-note")
    assert page.locator("#waterfall tr[aria-current] th").inner_text() == "nodes"
    assert "150\u202fWh" in page.inner_text("#strip")
    assert page.inner_text("#residual") == "0"
    page.click(".scopes a >> text=facility")
    assert "No PUE is set for ams1" in page.inner_text("#scope-note")
    assert page.inner_text("#tokens-per-kwh") == "66\u202f700", "as long as the facility is not known"
    books.do("INSERT INTO pue VALUES ('*', %s, 1.25)", T0 - dt.timedelta(days=2))
    page.reload()
    assert page.inner_text("#scope") == "the facility"
    assert page.inner_text("#tokens-per-kwh") == "53\u202f300"
    drawn(page)
    # It is kept by every other choice, by what is refreshed in place, and on a phone.
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click(".ranges a >> text=24h")
    page.click("#workloads tbody a")
    page.click("#picker summary")
    page.click("#picker button")
    assert "scope=facility" in page.url
    assert page.locator(".scopes a[aria-current]").inner_text() == "facility"
    page.click(".scopes a >> text=accelerator")
    assert "scope" not in page.url
    assert visit.complaints == []


def test_what_is_refreshed_in_place_keeps_its_scope(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    books.host(1, 360_000_000)
    page = visit.page
    page.clock.install()
    page.goto(f"{address}/?range=1h&scope=node")
    assert page.inner_text("#tokens-per-kwh") == "50\u202f000"
    page.wait_for_selector("#freshness.live")
    page.clock.fast_forward(11_000)
    books.do("UPDATE ledger_minute SET output_tokens = 2 * output_tokens")
    books.do("UPDATE finding SET state = 'closed', until = %s", T0)  # which an event tells of
    page.locator("#tokens-per-kwh", has_text="100\u202f000").wait_for()  # 200 000 at the accelerators
    assert page.inner_text("#scope") == "whole nodes"
    assert visit.complaints == []


def test_everything_is_reached_by_keyboard(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    page = visit.page
    page.goto(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the figures"
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(document.activeElement.closest('[id]') || document.body).id"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
    assert {"answers", "picker", "trend-table", "power-table", "workloads", "findings", "places"} <= reached
    page.focus("#trend-table summary")
    page.keyboard.press("Enter")
    assert page.locator("#trend-table tbody tr").first.is_visible()


def test_every_chart_has_words_and_a_table(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    page = visit.page
    page.goto(address)
    drawn(page)
    for figure in page.locator("figure").all():
        assert len(figure.locator("[role=img]").get_attribute("aria-label") or "") > 40
        assert figure.locator("details table tbody tr").count() > 1
    assert page.locator("main h2").count() == page.locator("main section").count() + 3  # three tiles, two charts in one


def test_the_page_is_whole_without_scripts(browser: Browser, address: str, books: Books) -> None:
    fill(books)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.inner_text("#tokens-per-kwh") == "100\u202f000"
    assert page.locator("#trend polyline").count() == 1
    page.click("#load a")
    assert "Tokens per kWh against load" in page.inner_text("main")
    context.close()


def test_the_page_follows_the_service_in_place(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    page = visit.page
    page.clock.install()
    page.goto(address)
    drawn(page)
    page.click("#trend-table summary")
    page.evaluate("window.kept = document.getElementById('waterfall')")
    books.do("UPDATE finding SET summary = 'It goes on.'")
    page.clock.run_for(130_000)
    page.get_by_text("It goes on.").wait_for()
    assert page.evaluate("window.kept.isConnected"), "what did not change was not touched"
    assert page.locator("#trend-table[open]").count() == 1
    assert visit.complaints == []


def test_an_event_of_the_service_refreshes_the_page(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    page = visit.page
    page.clock.install()
    page.goto(f"{address}/?range=1h")
    page.wait_for_selector("#freshness.live")
    page.clock.fast_forward(11_000)  # enough for an event to count, too little for a look without one
    books.do("UPDATE finding SET summary = 'It goes on.'")
    books.do("INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy)"
             " VALUES ('idle-loaded', 'workload:x', %s, %s, 1, '{}', 'New.', 'Do.')", T0, T0)  # fmt: skip
    page.get_by_text("It goes on.").wait_for()
    assert visit.complaints == []


def test_an_empty_page_fills_itself(visit: Visit, address: str, books: Books) -> None:
    visit.page.clock.install()
    visit.page.goto(address)
    assert visit.page.locator(".empty").count() == 1
    fill(books)
    visit.page.clock.run_for(130_000)
    visit.page.wait_for_selector("#tokens-per-kwh")
    assert visit.complaints == []


def test_old_figures_are_marked_when_the_service_is_gone(browser: Browser, database_url: str, books: Books) -> None:
    fill(books)
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    with site.served(site.application(database_url, NOW)) as address:
        page.goto(address)
        page.wait_for_selector("#freshness.live")
    page.wait_for_selector("#freshness.stale")
    assert page.inner_text("#tokens-per-kwh") == "100\u202f000"
    context.close()


def test_a_finding_shows_its_evidence(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    visit.page.goto(address)
    visit.page.click("#findings a:text('Evidence')")
    visit.page.wait_for_selector("figure .uplot canvas")
    said = visit.page.inner_text("main")
    assert "Switch it off." in said
    assert "mean power watts" in said
    assert visit.complaints == []


def test_a_finding_is_acknowledged_on_the_page(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    visit.page.goto(address)
    visit.page.get_by_role("button", name="Acknowledge").click()
    visit.page.wait_for_url(f"{address}/**")
    assert books.one("SELECT state FROM finding") == "acknowledged"
    assert "acknowledged" in visit.page.inner_text("#findings")
    assert visit.page.get_by_role("button", name="Acknowledge").count() == 0
    assert visit.complaints == []


def test_a_closed_service_asks_for_a_key_and_then_shows_the_page(visit: Visit, address: str, books: Books) -> None:
    fill(books)
    key = auth.new_key("read")
    keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name="")
    page = visit.page
    page.goto(address)
    assert page.locator("#tokens-per-kwh").count() == 0
    page.fill("#key", "wrong")
    page.click("button")
    assert "not a Wattmill key" in page.inner_text(".problem")
    page.fill("#key", key.text)
    page.click("button")
    assert page.inner_text("#tokens-per-kwh") == "100\u202f000"
    assert page.evaluate("document.cookie") == ""
    page.wait_for_selector("#freshness.live")
    assert page.get_by_role("button", name="Acknowledge").count() == 0, "a read key changes nothing"
    page.get_by_role("button", name="Forget the key").click()
    page.wait_for_selector("#key")


def test_what_is_transferred_is_little(browser: Browser, address: str, books: Books) -> None:
    fill(books)
    context = browser.new_context()
    page = context.new_page()
    sizes: list[int] = []
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(address)
    drawn(page)
    assert 0 < sum(sizes) < MOST_TRANSFERRED
    sizes.clear()
    page.reload()
    drawn(page)
    assert sum(sizes) < MOST_TRANSFERRED / 5, "scripts and style come out of the cache"
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_modes(browser: Browser, address: str, books: Books, scheme: Any) -> None:
    fill(books)
    page = browser.new_page(color_scheme=scheme)
    page.goto(address)
    contrast = """(pair) => {
      const style = getComputedStyle(document.documentElement);
      const light = (name) => {
        const hex = style.getPropertyValue(name).trim();
        const parts = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
        const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const [high, low] = pair.map(light).sort((a, b) => b - a);
      return (high + 0.05) / (low + 0.05);
    }"""
    for ink in ("--ink", "--soft", "--accent", "--warn"):
        for ground in ("--card", "--ground"):
            assert page.evaluate(contrast, [ink, ground]) >= 4.5, (ink, ground)
    assert page.evaluate(contrast, ["--on-accent", "--accent"]) >= 4.5
    page.close()


def test_the_reference_of_the_api_works_offline(visit: Visit, address: str) -> None:
    visit.page.goto(f"{address}/docs")
    visit.page.get_by_text("/api/v1/efficiency").first.wait_for(timeout=30_000)
    assert visit.complaints == []
