"""Findings on a real database: one incident is one finding, whatever runs again; it opens, grows and closes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from support.mill import Node
from wattmill_api import accounting, detection
from wattmill_api.store.ingest import Interner

E = "http://e:8000/metrics"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


class Hall:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection, self.interner, self.node = connection, Interner(), Node(interval_us=60_000_000)
        self.node.board("GPU-a", power_mw=110_000)
        self.engine = self.node.engine(E, ["GPU-a"])
        self.node.tick(seconds=60)

    def idle(self, minutes: int) -> None:
        self.engine.running = 0
        for _ in range(minutes):
            self.node.tick(seconds=60, energy={"GPU-a": 110 * 60_000})

    def busy(self, minutes: int) -> None:
        self.engine.running = 200
        for _ in range(minutes):
            self.node.tick(seconds=60, energy={"GPU-a": 600 * 60_000}, tokens={E: (0, 0, 90_000)})

    def detect(self) -> list[tuple[Any, ...]]:
        self.node.post(self.connection, self.interner)
        while accounting.roll_up(self.connection):
            pass
        now = dt.datetime.fromtimestamp(self.node.time_us / 1e6, dt.UTC)
        detection.detect(self.connection, now)
        return self.connection.execute(
            "SELECT kind, state, energy_mj, until IS NULL, subject, node, workload FROM finding ORDER BY finding_id"
        ).fetchall()


def test_a_finding_opens_grows_and_closes(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.busy(30)
    assert hall.detect() == []
    hall.idle(20)
    # The minute in which the last request ended still counts as serving: the engine ran at its beginning.
    (row,) = hall.detect()
    assert row == ("idle-loaded", "open", 19 * 110 * 60_000, True, f"engine:hall/n1 {E}", "n1", "chat")
    hall.idle(10)
    assert hall.detect() == [(*row[:2], 29 * 110 * 60_000, *row[3:])]
    assert hall.detect() == [(*row[:2], 29 * 110 * 60_000, *row[3:])]
    hall.busy(10)
    assert hall.detect() == [("idle-loaded", "closed", 29 * 110 * 60_000, False, *row[4:])]
    hall.idle(30)
    assert [r[1] for r in hall.detect()] == ["closed", "open"]


def test_acknowledged_stays_and_resolved_opens_again_only_when_it_goes_on(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.idle(30)
    hall.detect()
    connection.execute("UPDATE finding SET state = 'acknowledged', acknowledged = now()")
    hall.idle(10)
    assert [r[1] for r in hall.detect()] == ["acknowledged"]
    resolved = dt.datetime.fromtimestamp(hall.node.time_us / 1e6, dt.UTC)
    connection.execute("UPDATE finding SET state = 'resolved', resolved = %s, until = %s", [resolved, resolved])
    hall.idle(30)
    assert [r[1] for r in hall.detect()] == ["resolved"]
    hall.idle(60)
    assert [(r[1], r[3]) for r in hall.detect()] == [("open", True)]


def test_late_data_takes_a_finding_back(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.idle(30)
    assert [r[1] for r in hall.detect()] == ["open"]
    connection.execute("UPDATE engine_minute SET output_tokens = 5")
    connection.execute("UPDATE ledger_minute SET account = 1")
    detection.detect(connection, dt.datetime.fromtimestamp(hall.node.time_us / 1e6, dt.UTC))
    rows = connection.execute("SELECT kind, state FROM finding").fetchall()
    assert ("idle-loaded", "closed") in rows
