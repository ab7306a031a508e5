"""Exactly once, on a real database: repeats, conflicts, copies by other streams, dropped sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest

from support.mill import Node
from wattmill_api.store.ingest import Interner, store_batches
from wattmill_collector.wire import AbsenceReading, Rejection


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def rows(connection: psycopg.Connection[Any], table: LiteralString = "accelerator_sample") -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def node_with_ticks(count: int, stream: str = "") -> Node:
    node = Node(stream=stream)
    node.board("GPU-a")
    node.board("GPU-b")
    node.engine("http://e/metrics", ["GPU-a"])
    for _ in range(count):
        node.tick(energy={"GPU-a": 5})
    return node


def test_a_repeat_gets_the_stored_receipt(connection: psycopg.Connection[Any]) -> None:
    node, interner = node_with_ticks(3), Interner()
    first = store_batches(connection, node.batches, interner)
    again = store_batches(connection, node.batches[::-1], interner)[::-1]
    assert [r.status for r in first] == ["stored"] * 3
    assert [r.status for r in again] == ["duplicate"] * 3
    assert [(r.sequence, r.sha256, r.stored) for r in again] == [(r.sequence, r.sha256, r.stored) for r in first]
    assert rows(connection) == 6
    assert first[-1].committed_through == 3


def test_a_repeat_inside_one_group(connection: psycopg.Connection[Any]) -> None:
    node = node_with_ticks(1)
    receipts = store_batches(connection, [node.batches[0]] * 3, Interner())
    assert [r.status for r in receipts] == ["stored", "duplicate", "duplicate"]
    assert rows(connection) == 2


def test_the_same_sequence_with_another_body_is_a_conflict(connection: psycopg.Connection[Any]) -> None:
    node, interner = node_with_ticks(2), Interner()
    store_batches(connection, node.batches, interner)
    forged = dataclasses.replace(node.batches[0], sha256=b"x" * 32, time_us=node.batches[0].time_us + 1)
    (receipt,) = store_batches(connection, [forged], interner)
    assert receipt.status == "conflict"
    assert receipt.rejected[0].field == "sequence"
    assert rows(connection) == 4


def test_a_copy_under_another_stream_is_counted_not_stored(connection: psycopg.Connection[Any]) -> None:
    node, interner = node_with_ticks(4), Interner()
    store_batches(connection, node.batches[:3], interner)
    clone = [dataclasses.replace(b, stream="c" * 32, sha256=bytes([i] * 32)) for i, b in enumerate(node.batches)]
    receipts = store_batches(connection, clone, interner)
    assert [(r.stored, r.duplicates) for r in receipts] == [(0, 3), (0, 3), (0, 3), (3, 0)]
    assert rows(connection) == 8
    assert rows(connection, "engine_sample") == 4
    again = store_batches(connection, clone, interner)
    assert [(r.status, r.stored, r.duplicates) for r in again[-2:]] == [("duplicate", 0, 3), ("duplicate", 3, 0)]


def test_committed_through_stops_at_a_hole_and_passes_what_was_dropped(connection: psycopg.Connection[Any]) -> None:
    node, interner = node_with_ticks(9), Interner()
    batches = node.batches
    assert store_batches(connection, batches[:2] + batches[7:8], interner)[0].committed_through == 2
    assert store_batches(connection, batches[2:3], interner)[0].committed_through == 3
    drop = AbsenceReading(subject="batch", reason="dropped_max_bytes", first_sequence=4, last_sequence=7)
    last = dataclasses.replace(batches[8], readings=[*batches[8].readings, (9, drop)])
    assert store_batches(connection, [last], interner)[0].committed_through == 9
    assert rows(connection, "absence") == 1


def test_a_batch_of_nothing_but_bad_readings_is_answered_and_accounted_for(connection: psycopg.Connection[Any]) -> None:
    node, interner = node_with_ticks(1), Interner()
    bad = dataclasses.replace(
        node.batches[0], readings=[], rejections=[Rejection(0, "readings[0].uuid", "is required")]
    )
    (receipt,) = store_batches(connection, [bad], interner)
    assert (receipt.status, receipt.committed_through) == ("rejected", 1)
    (again,) = store_batches(connection, [bad], interner)
    assert again.rejected == receipt.rejected


def test_ids_are_asked_again_after_a_restore(connection: psycopg.Connection[Any]) -> None:
    node, interner = node_with_ticks(2), Interner()
    store_batches(connection, node.batches[:1], interner)
    connection.execute("TRUNCATE site, node, accelerator, engine, workload, placement, stream, batch_ledger CASCADE")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        store_batches(connection, node.batches[1:], interner)
    assert store_batches(connection, node.batches[1:], interner)[0].status == "stored"


def test_a_key_that_is_stored_and_repeated_in_the_group_is_counted_once(connection: psycopg.Connection[Any]) -> None:
    node, interner = node_with_ticks(1), Interner()
    store_batches(connection, node.batches, interner)
    copies = [dataclasses.replace(node.batches[0], stream=c * 32, sha256=c.encode() * 32) for c in "xyz"]
    receipts = store_batches(connection, copies, interner)
    assert [(r.stored, r.duplicates) for r in receipts] == [(0, 3)] * 3


def test_ids_that_were_rolled_back_are_never_used(connection: psycopg.Connection[Any]) -> None:
    node, interner = node_with_ticks(1), Interner()
    connection.execute("ALTER TABLE placement ADD CONSTRAINT never CHECK (method <> 'configured')")
    with pytest.raises(psycopg.errors.CheckViolation):
        store_batches(connection, node.batches, interner)
    connection.execute("ALTER TABLE placement DROP CONSTRAINT never")
    assert store_batches(connection, node.batches, interner)[0].status == "stored"
    orphans = "SELECT count(*) FROM accelerator_sample LEFT JOIN accelerator USING (accelerator_id) WHERE uuid IS NULL"
    assert connection.execute(orphans).fetchone() == (0,)
