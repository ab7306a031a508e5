"""What /metrics shows of the ledger: its own integers, never falling, bounded, and only to those who may read."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from support.ledger import IDLE_EMPTY, SERVING, T0, Books
from support.mill import Node
from wattmill_api import accounting, auth, exposition
from wattmill_api.app import create_app
from wattmill_api.errors import DatabaseAway
from wattmill_api.settings import Settings
from wattmill_api.store import exposition as store
from wattmill_api.store import keys
from wattmill_api.store.ingest import Interner
from wattmill_collector.wire import HostReading

MINUTE = dt.timedelta(minutes=1)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def scrape(database_url: str, now: dt.datetime = T0, key: str = "") -> Samples:
    """A page of a replica that has just started."""
    app = create_app(Settings(database_url=database_url, jobs=False))
    app.state.now = lambda: now
    with TestClient(app) as client:
        answer = client.get("/metrics", headers={"Authorization": f"Bearer {key}"} if key else {})
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> list[float]:
    """The values of a metric that have these labels, whatever others."""
    return [value for (found, has), value in samples.items() if found == name and has >= labels.items()]


def close(connection: psycopg.Connection[Any]) -> None:
    while accounting.roll_up(connection):
        pass


def one(connection: psycopg.Connection[Any], statement: str) -> Any:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def test_the_page_shows_the_ledgers_integers(connection: psycopg.Connection[Any], database_url: str) -> None:
    node = Node("n1", site="ams1")
    node.board("GPU-a", energy_mj=10**12)
    node.engine("http://e/metrics", ["GPU-a"], workload="chat", model="llama")
    node.tick(seconds=0)
    for i in range(12):
        package = HostReading(domain="package-0", epoch=1, energy_uj=500_000_000 * (i + 1))
        node.tick(energy={"GPU-a": 1_000_001}, tokens={"http://e/metrics": (70, 20, 11)}, host=[package])
        node.post(connection, Interner())
        close(connection)  # the open hour is counted again and again, and its energy once
    page = scrape(database_url)
    serving = of(page, "wattmill_energy_joules_total", workload="chat", accelerator_model="H100", account="serving")
    assert serving == [12 * 1_000_001 / 1000]
    assert [of(page, "wattmill_tokens_total", site="ams1", type=t) for t in ("input", "cached_input", "output")] == [
        [12.0 * 70],
        [12.0 * 20],
        [12.0 * 11],
    ]
    host_mj = one(connection, "SELECT sum(energy_mj) FROM host_hour")
    assert host_mj > 0
    assert of(page, "wattmill_overhead_energy_joules_total", site="ams1", simulated="false") == [host_mj / 1000]


def test_energy_that_changes_its_account_makes_no_counter_fall(
    connection: psycopg.Connection[Any], database_url: str
) -> None:
    """Engine readings come late: what looked unowned was serving. The old account stands still."""
    boards, engines = Node("n1"), Node("n1", stream="e" * 32)
    boards.board("GPU-a", processes=0, memory_used_bytes=0)
    boards.tick(seconds=0)
    engines.engine("http://e/metrics", ["GPU-a"])
    engines.tick(seconds=0)
    for _ in range(12):
        boards.tick(energy={"GPU-a": 1_000_000})
        engines.tick(tokens={"http://e/metrics": (10, 0, 10)})
    boards.post(connection, Interner())
    close(connection)
    before = scrape(database_url)
    assert of(before, "wattmill_energy_joules_total", account="idle-empty") == [12_000.0]
    engines.post(connection, Interner())
    close(connection)
    ledger = dict(connection.execute("SELECT account, sum(energy_mj) FROM ledger_hour GROUP BY 1").fetchall())
    assert ledger[SERVING] > 0
    assert ledger.get(IDLE_EMPTY, 0) < 12_000_000
    after = scrape(database_url)
    assert sum(of(after, "wattmill_energy_joules_total", account="serving")) == float(ledger[SERVING]) / 1000
    assert all(after[key] >= value for key, value in before.items() if key[0] == "wattmill_energy_joules_total")
    kept = one(connection, f"SELECT sum(energy_mj) FROM exposed_energy WHERE account <> {store.OVERHEAD}")
    assert kept == one(connection, "SELECT sum(energy_mj) FROM ledger_hour"), "the total below it is the ledger's"


def test_totals_follow_their_slow_twin(connection: psycopg.Connection[Any]) -> None:
    """Hours that rise, fall, vanish and come back: what is shown is the highest that the sum has been."""
    dice = random.Random(7)
    hours: list[dict[store.Key, store.Amounts]] = [{} for _ in range(3)]
    highest: dict[store.Key, list[int | None]] = {}
    for _ in range(60):
        hour = dice.randrange(3)
        after: dict[store.Key, store.Amounts] = {
            (1, workload, 1, False, "H100"): (dice.randrange(100), dice.choice([None, dice.randrange(9)]), None, 0)
            for workload in range(1, 4)
            if dice.random() < 0.8
        }
        store.move_totals(connection, hours[hour], after)
        hours[hour] = after
        for key in {key for each in hours for key in each}:
            seen = highest.setdefault(key, [None] * 4)
            for i in range(4):
                known = [each[key][i] for each in hours if key in each and each[key][i] is not None]
                if known:
                    seen[i] = max(seen[i] or 0, sum(value for value in known if value is not None))
    rows = connection.execute(
        "SELECT site_id, workload_id, account, simulated, accelerator_model, shown_mj, shown_input_tokens,"
        " shown_cached_input_tokens, shown_output_tokens FROM exposed_energy"
    ).fetchall()
    assert {tuple(row[:5]): list(row[5:]) for row in rows} == highest


def test_what_there_is_no_room_for_is_other(books: Books, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside a workload that is really called so."""
    monkeypatch.setattr(store, "MOST_SERIES", 3)
    node = books.node("gpu-1", site="other")
    board = books.board(node, "GPU-a")
    for name in ("other", "b", "c", "d", "e"):
        books.placement(node, [board], name, model="other", team="other")
    hour: dict[store.Key, store.Amounts] = {
        (1, workload, SERVING, False, "other"): (1000, None, None, 5) for workload in range(1, 6)
    }
    store.move_totals(books.connection, {}, hour)
    store.move_totals(books.connection, hour, dict.fromkeys(hour, (3000, None, None, 6)))
    page = scrape(database_url)
    assert of(page, "wattmill_energy_joules_total", workload="b", account="serving") == [3.0]
    assert of(page, "wattmill_energy_joules_total", workload="d") == []
    assert of(page, "wattmill_energy_joules_total", workload="other", site="other", account="serving") == [9.0]
    assert of(page, "wattmill_tokens_total", workload="other", type="output") == [18.0]


def test_a_label_set_that_stood_still_for_a_season_makes_room(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_SERIES", 2)
    store.move_totals(connection, {}, {(1, 1, 1, False, ""): (1, None, None, None), (1, 2, 1, False, ""): (1, 0, 0, 0)})
    connection.execute("UPDATE exposed_energy SET changed = now() - interval '91 days' WHERE workload_id = 1")
    store.move_totals(connection, {}, {(1, 3, 1, False, ""): (9, None, None, None)})
    kept = connection.execute("SELECT workload_id, shown_mj FROM exposed_energy ORDER BY 1").fetchall()
    assert kept == [(2, 1), (3, 9)]


def found(books: Books, subject: str, energy_mj: int, state: str = "open", until: dt.datetime | None = None) -> int:
    return int(
        books.one(
            "INSERT INTO finding (kind, subject, state, site, workload, since, until, last_seen, energy_mj, mj_per_day,"
            " evidence, summary, remedy) VALUES ('low-batch', %s, %s, 'ams1', 'chat', %s, %s, %s, %s, %s, '{}', '', '')"
            " RETURNING finding_id",
            *(subject, state, T0, until, T0, energy_mj, None if until else 86_400_000 * 250),
        )
    )


def test_wasted_energy_is_that_of_all_findings_and_never_falls(books: Books, database_url: str) -> None:
    first = found(books, "engine:a", 9_000)
    found(books, "engine:b", 1_500, "closed", T0)
    found(books, "engine:c", 70_000, "suppressed")
    found(books, "engine:d", 1_000, "acknowledged")
    store.count_findings(books.connection, T0)
    page = scrape(database_url)
    assert of(page, "wattmill_finding_wasted_joules_total", kind="low-batch", site="ams1", workload="chat") == [11.5]
    assert of(page, "wattmill_finding_waste_watts", kind="low-batch", workload="chat") == [500.0]
    states = {state: of(page, "wattmill_findings", kind="low-batch", state=state) for state in ("open", "suppressed")}
    assert states == {"open": [1.0], "suppressed": [1.0]}
    books.do("UPDATE finding SET energy_mj = 4000, until = %s, state = 'closed' WHERE finding_id = %s", T0, first)
    store.count_findings(books.connection, T0 + dt.timedelta(days=2))
    page = scrape(database_url)
    assert of(page, "wattmill_finding_wasted_joules_total") == [11.5], "late data took 5 J back: it stands still"
    assert of(page, "wattmill_findings", kind="low-batch", state="open") == [0.0], "0, not gone"
    books.do("UPDATE finding SET energy_mj = 10000 WHERE finding_id = %s", first)
    store.count_findings(books.connection, T0 + dt.timedelta(days=3))
    assert of(scrape(database_url), "wattmill_finding_wasted_joules_total") == [12.5], "and goes on where it is passed"


def test_more_findings_than_there_is_room_for_are_other(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_SERIES", 2)
    for i in range(5):
        found(books, f"engine:{i}", 1000)
        books.do("UPDATE finding SET workload = subject")
    store.count_findings(books.connection, T0)
    store.count_findings(books.connection, T0)
    rows = books.connection.execute("SELECT workload, shown_mj FROM exposed_waste ORDER BY 1").fetchall()
    assert rows == [("engine:0", 1000), ("engine:1", 1000), ("other", 3000)]


def test_coverage_and_power_are_of_the_last_settled_minutes(books: Books, database_url: str) -> None:
    node = books.node("gpu-1", first_seen=T0 - dt.timedelta(days=1))
    boards = [books.board(node, uuid, first_seen=T0 - dt.timedelta(days=1)) for uuid in ("GPU-a", "GPU-b")]
    for minute in range(6):
        books.spent(node, boards[0], 0, IDLE_EMPTY, 6_000_000, at=T0 + minute * MINUTE)
    page = scrape(database_url, T0 + 8 * MINUTE)  # settled up to the sixth minute's end: the first is not looked at
    assert of(page, "wattmill_power_watts", site="ams1") == [100.0]
    assert of(page, "wattmill_coverage_ratio", site="ams1") == [0.5], "a board that says nothing is not covered"
    assert of(page, "wattmill_accelerators", site="ams1") == [2.0]
    assert of(page, "wattmill_ledger_last_minute_timestamp_seconds") == [(T0 + 5 * MINUTE).timestamp()]
    seen = of(page, "wattmill_node_last_reading_timestamp_seconds", site="ams1", node="gpu-1", simulated="false")
    assert seen == [(T0 + 10 * MINUTE).timestamp()]
    page = scrape(database_url, T0 + 60 * MINUTE)
    assert of(page, "wattmill_coverage_ratio", site="ams1") == [0.0]
    assert of(page, "wattmill_power_watts") == [], "nothing was read: that is not 0 W"
    assert of(scrape(database_url, T0 + dt.timedelta(days=9)), "wattmill_nodes") == []


def test_names_are_shown_to_those_who_may_read(books: Books, database_url: str) -> None:
    books.node("gpu-secret")
    assert of(scrape(database_url), "wattmill_ledger_withheld") == [0.0]
    texts = {}
    for scope in auth.SCOPES:
        key = auth.new_key(scope)
        keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name=scope)
        texts[scope] = key.text
    open_page = scrape(database_url)
    assert of(open_page, "wattmill_ledger_withheld") == [1.0]
    assert of(open_page, "wattmill_database_up") == [1.0]
    assert not any("gpu-secret" in str(labels) for _, labels in open_page)
    assert of(
        scrape(database_url, key=texts["read"]), "wattmill_node_last_reading_timestamp_seconds", node="gpu-secret"
    )
    with TestClient(create_app(Settings(database_url=database_url, jobs=False))) as client:
        refused = client.get("/metrics", headers={"Authorization": f"Bearer {texts['ingest']}"})
        wrong = client.get("/metrics", headers={"Authorization": "Bearer wm_read_what"})
    assert (refused.status_code, wrong.status_code) == (403, 401)


def test_without_a_database_the_ledger_is_missing_and_the_rest_is_there() -> None:
    app = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing", jobs=False))
    with TestClient(app) as client:
        page = client.get("/metrics").text
    assert "wattmill_database_up 0.0" in page
    assert "wattmill_energy_joules_total" not in page


def test_many_scrapes_are_one_question() -> None:
    asked = []

    def read() -> store.Exposed:
        asked.append(1)
        if len(asked) > 1:
            raise DatabaseAway
        return store.Exposed([], [], [], [], [], [], 5, None, 0)

    families = exposition.LedgerFamilies(read)
    pages = [list(families.collect()) for _ in range(10)]
    assert len(asked) == 1
    assert [len(page) for page in pages] == [len(pages[0])] * 10


def test_labels_are_hostile(books: Books, database_url: str) -> None:
    """A name may hold anything: the page still parses, and says it as it is."""
    name = 'a"} 1\nwattmill_energy_joules_total{x="\\'
    node = books.node("gpu-1", site=name)
    books.board(node, "GPU-a")
    assert of(scrape(database_url), "wattmill_nodes", site=name) == [1.0]
