"""Storing what is new, long or shared: names by the thousand, the longest keys, several writers of one stream."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from support.ledger import Books
from support.mill import START_US, Node
from wattmill_api.store import detection, identities
from wattmill_api.store.ingest import Interner, ParsedBatch, store_batches
from wattmill_collector.wire import EngineReading, NodeHeader, Receipt

INDEX_ROW_BYTES = 2704
ENGINES = 5000


class Counting(psycopg.Connection[Any]):
    """Counts the statements that are sent."""

    sent = 0

    def execute(self, *arguments: Any, **named: Any) -> psycopg.Cursor[Any]:
        self.sent += 1
        return super().execute(*arguments, **named)


@pytest.fixture
def connection(database_url: str) -> Iterator[Counting]:
    with Counting.connect(database_url, autocommit=True) as connection:
        yield connection


def batch(*readings: EngineReading, sequence: int = 1, node: str = "n") -> ParsedBatch:
    time_us = START_US + sequence * 10_000_000
    return ParsedBatch("s", sequence, time_us, NodeHeader(node), list(enumerate(readings)), bytes([sequence] * 32))


def fleet(version: str = "1") -> list[EngineReading]:
    return [
        EngineReading(
            target=f"http://e{i}/metrics",
            engine_kind="vllm",
            version=version,
            workload=f"w{i}",
            accelerators=(f"GPU-{i}", f"GPU-{i + 1}"),
            epoch=1,
        )
        for i in range(ENGINES)
    ]


def one(connection: psycopg.Connection[Any], statement: Any) -> Any:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def test_thousands_of_new_engines_take_a_few_statements(connection: Counting) -> None:
    before = connection.sent
    (receipt,) = store_batches(connection, [batch(*fleet())], Interner())
    assert receipt.stored == ENGINES
    assert connection.sent - before < 50
    for table, count in (("engine", ENGINES), ("workload", ENGINES), ("placement", ENGINES), ("accelerator", 5001)):
        assert one(connection, f"SELECT count(*) FROM {table}") == count
    rows = connection.execute(
        "SELECT e.target, w.name, array_agg(a.uuid ORDER BY length(a.uuid), a.uuid) FROM engine_sample"
        " JOIN engine e USING (engine_id) JOIN placement p USING (placement_id) JOIN workload w USING (workload_id)"
        " JOIN accelerator a ON a.accelerator_id = ANY (p.accelerator_ids) WHERE p.engine_id = e.engine_id"
        " GROUP BY 1, 2"
    ).fetchall()
    assert sorted(rows) == sorted((r.target, r.workload, list(r.accelerators)) for r in fleet())


def test_a_new_process_touches_nothing_that_stands(connection: Counting) -> None:
    """Its sightings are written; a row that is as it was said to be is not even locked."""
    store_batches(connection, [batch(*fleet()[:9])], Interner())
    with psycopg.connect(connection.info.dsn, password=connection.info.password) as other:
        other.execute("SELECT FROM site, stream, workload FOR UPDATE")
        other.execute("SELECT FROM accelerator, engine, placement FOR UPDATE")
        connection.execute("SET lock_timeout = '2s'")
        interner = Interner()
        while interner.settle(connection) or not identities.node(interner, NodeHeader("n"), START_US):
            pass
        (reading, *_) = fleet()
        node_id = identities.node(interner, NodeHeader("n"), START_US)
        while not identities.placement(
            interner, reading, identities.engine(interner, reading, node_id, START_US), node_id, START_US
        ):
            interner.settle(connection)
    assert one(connection, "SELECT count(*) FROM placement") == 9


def test_the_last_word_about_a_name_stands(connection: Counting) -> None:
    """Two versions of one engine in one group, and a third that a process hears of which knows nothing yet."""
    group = [batch(*fleet(version)[:3], sequence=n) for n, version in enumerate(("1", "2"), 1)]
    store_batches(connection, group, Interner())
    assert one(connection, "SELECT array_agg(DISTINCT version) FROM engine") == ["2"]
    again = [batch(*fleet(version)[:3], sequence=n) for n, version in enumerate(("3", "2", "3"), 3)]
    store_batches(connection, again[:2], Interner())
    assert one(connection, "SELECT array_agg(DISTINCT version) FROM engine") == ["2"]
    store_batches(connection, again[2:], Interner())
    assert one(connection, "SELECT array_agg(DISTINCT version) FROM engine") == ["3"]
    assert one(connection, "SELECT count(*) FROM engine") == 3


def test_a_board_stays_with_the_node_that_reads_it(connection: Counting) -> None:
    reader, other, interner = Node("reader"), Node("other"), Interner()
    reader.board("GPU-a", power_mw=1)
    other.engine("http://e/metrics", ["GPU-a", "GPU-unread"])
    for node in (other, reader, other):
        node.tick()
        node.post(connection, interner)
    where = dict(
        connection.execute("SELECT uuid, node.name FROM accelerator JOIN node USING (node_id) ORDER BY uuid").fetchall()
    )
    assert where == {"GPU-a": "reader", "GPU-unread": "other"}


def test_first_and_last_sight_hold_for_what_another_process_added(connection: Counting) -> None:
    late, early = batch(fleet()[0], sequence=9), batch(fleet()[0], sequence=2)
    for each in (late, early):
        store_batches(connection, [each], Interner())
    for table, first, last in (("engine", "first_seen", "last_seen"), ("placement", "since", "until")):
        row = connection.execute(
            f"SELECT extract(epoch FROM {first}) * 1000000, extract(epoch FROM {last}) * 1000000 FROM {table}"
        ).fetchone()
        assert row == (early.time_us, late.time_us), table


def test_writers_of_the_same_streams_do_not_deadlock(database_url: str, connection: Counting) -> None:
    """Each stores every other batch of the same streams, against the order of the other, as fast as it can."""
    turns = 30
    nodes = [Node(f"n{i}") for i in range(4)]
    for i, node in enumerate(nodes):
        node.board(f"GPU-{i}")
        node.engine(f"http://e{i}/metrics", [f"GPU-{i}"])
        for _ in range(2 * turns):
            node.tick(energy={f"GPU-{i}": 5})
    answers: list[list[Receipt]] = [[], []]
    errors: list[Exception] = []
    start = threading.Barrier(2, timeout=30)

    def write(which: int) -> None:
        interner = Interner()
        with psycopg.connect(database_url, autocommit=True, options="-c statement_timeout=20000") as own:
            start.wait()
            for turn in range(turns):
                group = [node.batches[2 * turn + which] for node in nodes]
                try:
                    answers[which] += store_batches(own, group[:: 1 if which else -1], interner)
                except psycopg.Error as error:
                    errors.append(error)
                    return

    threads = [threading.Thread(target=write, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    assert {receipt.status for receipt in answers[0] + answers[1]} == {"stored"}
    through = connection.execute("SELECT committed_through FROM stream").fetchall()
    assert through == [(2 * turns,)] * len(nodes)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert one(connection, deadlocks) == 0


def post(client: TestClient, sequence: int, *readings: dict[str, Any], **node: str) -> dict[str, Any]:
    document = {
        "wattmill": 1,
        "stream": "s1",
        "sequence": sequence,
        "time_us": time.time_ns() // 10_000_000_000 * 10_000_000 + sequence,
        "node": {"name": "gpu-1", "site": "ams1", **node},
        "readings": list(readings),
    }
    response = client.post(
        "/api/v1/ingest", content=json.dumps(document), headers={"Content-Type": "application/x-ndjson"}
    )
    assert response.status_code in (200, 422), response.text
    receipt: dict[str, Any] = response.json()["receipts"][0]
    return receipt


def longest(seed: int, size_bytes: int) -> str:
    """Text of so many bytes in as few characters as can be, which no index can compress."""
    letters = [chr(0x20000 + (seed * 7919 + i * i * 31 + i * 104_729) % 40_000) for i in range(size_bytes // 4)]
    return "".join(letters)


ENGINE = {
    "kind": "engine",
    "target": longest(1, 768),
    "series": longest(2, 768),
    "model": longest(3, 768),
    "workload": longest(4, 768),
    "team": longest(5, 768),
    "method": longest(6, 128),
    "epoch": 1,
}


def test_the_longest_names_fit_every_index(client: TestClient, books: Books) -> None:
    header = {"name": longest(7, 512), "site": longest(8, 512)}
    boards = [longest(100 + i, 512) for i in range(256)]
    absence = {"kind": "absence", "subject": longest(9, 128), "id": longest(10, 2048), "reason": longest(11, 256)}
    host = {"kind": "host", "domain": longest(12, 256), "epoch": 1}
    board = {"kind": "accelerator", "uuid": longest(13, 512), "epoch": 1}
    receipt = post(client, 1, {**ENGINE, "accelerators": boards}, absence, host, board, **header)
    assert (receipt["status"], receipt["stored"], receipt["rejected"]) == ("stored", 4, [])
    # What the detectors will call it, in the index of findings.
    [engine] = detection.inventory(books.connection, dt.datetime(2020, 1, 1, tzinfo=dt.UTC)).engines
    subject = f"engine:{engine.name}"
    books.do(
        "INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy)"
        " VALUES ('a_kind_of_thirty_characters_at_most', %s, now(), now(), 0, '{}', '', '')",
        subject,
    )
    assert len(subject.encode()) > 2500  # else this shows nothing
    # An unnamed workload takes the name of its target.
    unnamed = {k: v for k, v in ENGINE.items() if k not in ("workload", "model")}
    assert post(client, 2, unnamed)["stored"] == 1


@pytest.mark.parametrize("field", ["target", "series", "model", "workload", "team"])
def test_a_name_too_long_for_its_key_refuses_its_reading(client: TestClient, field: str) -> None:
    receipt = post(client, 1, ENGINE, {**ENGINE, field: longest(9, 772)}, {**ENGINE, "series": "", "target": "t"})
    assert (receipt["status"], receipt["stored"], receipt["committed_through"]) == ("stored", 2, 1)
    assert [(r["index"], r["field"]) for r in receipt["rejected"]] == [(1, f"readings[1].{field}")]
    assert "768 bytes" in receipt["rejected"][0]["reason"]


@pytest.mark.parametrize("field", ["name", "site"])
def test_a_name_too_long_for_a_node_or_site(client: TestClient, field: str) -> None:
    receipt = post(client, 1, ENGINE, **{field: longest(9, 516)})
    assert [(r["index"], r["field"]) for r in receipt["rejected"]] == [(-1, f"node.{field}")]


def test_more_boards_than_an_engine_can_hold(client: TestClient) -> None:
    boards = [f"GPU-{i}" for i in range(1000)]
    receipt = post(client, 1, ENGINE, {**ENGINE, "series": "2", "accelerators": boards})
    assert (receipt["status"], receipt["stored"], receipt["committed_through"]) == ("stored", 1, 1)
    assert [(r["index"], r["field"]) for r in receipt["rejected"]] == [(1, "readings[1].accelerators")]
    assert "256" in receipt["rejected"][0]["reason"]
