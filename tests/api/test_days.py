"""Days of the ledger and hours of the meter are written with the hours, and are their sums whatever comes late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest

from support.mill import Node
from wattmill_api import accounting
from wattmill_api.store.ingest import Interner

E = "http://e:8000/metrics"
KEYS: LiteralString = "node_id, accelerator_id, placement_id, account"
SUMS: LiteralString = (
    "sum(energy_mj), sum(estimated_mj), sum(input_tokens), sum(cached_input_tokens), sum(output_tokens),"
    " sum(covered_us), sum(span_us)"
)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def by_day(connection: psycopg.Connection[Any], table: LiteralString) -> list[tuple[Any, ...]]:
    return connection.execute(
        f"SELECT date_bin('1 day', time, 'epoch'), {KEYS}, {SUMS} FROM {table} GROUP BY 1, {KEYS} ORDER BY 1, {KEYS}"
    ).fetchall()


def meter(connection: psycopg.Connection[Any], table: LiteralString) -> list[tuple[Any, ...]]:
    return connection.execute(
        f"SELECT date_bin('1 hour', time, 'epoch'), node_id, sum(energy_mj) FROM {table} GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()


def test_days_are_the_sums_of_their_hours_after_late_data_too(connection: psycopg.Connection[Any]) -> None:
    interner = Interner()
    node = Node()
    node.board("GPU-a")
    node.engine(E, ["GPU-a"])
    late = []
    for i in range(30):
        batch = node.tick(seconds=1800, energy={"GPU-a": 90_000_001}, tokens={E: (100, 40, 33)})
        if i == 7:
            late.append(node.batches.pop())
            assert late == [batch]
    node.post(connection, interner)
    while accounting.roll_up(connection):
        pass
    node.batches += late
    node.post(connection, interner)
    while accounting.roll_up(connection):
        pass
    hours = by_day(connection, "ledger_hour")
    assert len({row[0] for row in hours}) == 2, "the readings pass midnight"
    assert by_day(connection, "ledger_day") == hours
    assert meter(connection, "meter_hour") == meter(connection, "accelerator_minute")
    assert sum(row[2] for row in meter(connection, "meter_hour")) == 29 * 90_000_001
