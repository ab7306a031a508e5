"""Incidents of three days, looked at through windows of a day: one finding each, open until it is over, growing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from support.curve_shapes import PREFILL_MJ, law
from support.mill import START_US, Node
from support.minutes import board_minutes
from support.replicas import TOKENS, USUAL_MJ, between, costs, replicas
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes
from wattmill_api import accounting, detection, lifecycle
from wattmill_api.detection import LOOK_BACK
from wattmill_api.judged import Judged
from wattmill_api.lifecycle import time_of
from wattmill_api.store import curves
from wattmill_api.store import lifecycle as findings
from wattmill_api.store.curves import Reference
from wattmill_api.store.detection import Engine, before
from wattmill_api.store.ingest import Interner

HOUR, DAY = 60, 1440
BEGIN, END, ALL = 36 * HOUR, 36 * HOUR + 3 * DAY, 5 * DAY
LASTS = slice(BEGIN, END)
HOURS = dt.timedelta(hours=1)
E = "http://e:8000/metrics"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def look(connection: psycopg.Connection[Any], table: EngineMinutes, last: int) -> list[tuple[Any, ...]]:
    """One run of detection over the newest minutes of a table, as `detection.detect` makes it; all findings then."""
    last_us = last * MINUTE_US
    first_us = (last_us - LOOK_BACK // dt.timedelta(microseconds=1)) // (6 * HOUR * MINUTE_US) * 6 * HOUR * MINUTE_US
    first = time_of(max(0, first_us))
    engines = tuple(
        Engine(i, f"n/{i}", "hall", "n", True, 0, "chat", "m", "", (), (), 10_000_000)
        for i in range(table.workload.size)
    )
    minutes = Judged(engines, (), ((0, ""),), (), between(table, max(0, first_us), last_us), board_minutes(0, 0))
    known = findings.known_findings(connection, first)
    sightings = detection.look(detection.under_way(minutes, {0: "chat"}, known, first), {0: "chat"})
    lifecycle.keep(connection, sightings, known, [], first, time_of(last_us))
    return connection.execute("SELECT kind, state, energy_mj FROM finding ORDER BY finding_id").fetchall()


def lived_through(connection: psycopg.Connection[Any], table: EngineMinutes, kind: str) -> int:
    """Looks every three hours; the finding is one, open and growing until the incident ends. Returns its energy."""
    energy = [0]
    for last in range(BEGIN + 2 * HOUR, END, 3 * HOUR):
        [(found, state, energy_mj)] = look(connection, table, last)
        assert (found, state) == (kind, "open"), last / HOUR
        assert energy_mj > energy[-1], last / HOUR
        energy.append(energy_mj)
    [(found, state, energy_mj)] = look(connection, table, END + 6 * HOUR)
    assert (found, state) == (kind, "closed")
    return int(energy_mj)


@pytest.mark.parametrize("usual", [0.97, 1.0, 1.03])
@pytest.mark.parametrize("factor", [1.1, 1.15, 1.4])
def test_a_regression(connection: psycopg.Connection[Any], usual: float, factor: float) -> None:
    cost = usual * costs(3, ALL, factor, slice(None), LASTS)
    energy_mj = lived_through(connection, replicas(ALL, 3, 1, cost=cost), "regression")
    assert energy_mj == pytest.approx(3 * 3 * DAY * USUAL_MJ * usual * (factor - 1), rel=0.1)


@pytest.mark.parametrize("siblings", [1, 3])
@pytest.mark.parametrize("factor", [1.12, 1.4])
def test_a_straggler(connection: psycopg.Connection[Any], siblings: int, factor: float) -> None:
    cost = costs(siblings + 1, ALL, factor, slice(0, 1), LASTS)
    energy_mj = lived_through(connection, replicas(ALL, siblings + 1, 2, cost=cost), "straggler")
    assert energy_mj == pytest.approx(3 * DAY * USUAL_MJ * (factor - 1), rel=0.1)


def test_a_hot_board(connection: psycopg.Connection[Any]) -> None:
    reasons = np.zeros(ALL)
    reasons[LASTS] = 0x40
    table = replicas(ALL, 1, 3, cost=0.97 * costs(1, ALL, 1.06, slice(None), LASTS), clock_event_reasons=reasons)
    energy_mj = lived_through(connection, table, "throttled")
    # Its own level of before is known to it all the time.
    assert energy_mj == pytest.approx(3 * DAY * USUAL_MJ * 0.97 * 0.06, rel=0.1)


def test_a_lowered_power_limit(connection: psycopg.Connection[Any]) -> None:
    slower = np.ones(ALL)
    slower[LASTS] = 0.88
    table = replicas(
        *(ALL, 1, 4, 0.02),
        cost=np.where(slower < 1, 0.9, 1.0),
        clock_event_reasons=np.where(slower < 1, 0x4, 0),
        output_tokens=TOKENS * slower,
        expected_mj=USUAL_MJ * slower,
    )
    lived_through(connection, table, "throttled")


class Cache:
    """A node whose engine finds a share of its prompts in the cache; one reading a minute."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection, self.interner, self.node = connection, Interner(), Node(interval_us=60_000_000)
        self.node.board("GPU-a", power_mw=500_000)
        self.node.engine(E, ["GPU-a"]).running = 20
        self.node.tick(seconds=60)

    @property
    def now(self) -> dt.datetime:
        return time_of(self.node.time_us)

    def serve(self, hours: int, hit_ratio: float) -> None:
        for _ in range(hours * HOUR):
            self.node.tick(60, {"GPU-a": 500 * 60_000}, {E: (100_000, round(100_000 * hit_ratio), 20_000)})
        self.node.post(self.connection, self.interner)
        while accounting.roll_up(self.connection):
            pass

    def usual(self, at: dt.datetime) -> float:
        return before(self.connection, [1], at)[1].usual_hit_ratio


def test_a_cache_miss(connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "reference", lambda *_: Reference(law(), {1: 0}, ()))
    cache = Cache(connection)
    cache.serve(30, 0.6)
    detection.detect(connection, cache.now)
    energy = [0]
    for _ in range(12):
        cache.serve(6, 0.2)
        detection.detect(connection, cache.now)
        [(state, energy_mj)] = connection.execute(
            "SELECT state, energy_mj FROM finding WHERE kind = 'cache-miss'"
        ).fetchall()
        assert state == "open"
        assert energy_mj > energy[-1]
        energy.append(energy_mj)
    assert energy[-1] == pytest.approx(3 * DAY * 100_000 * 0.4 * PREFILL_MJ, rel=0.03)
    cache.serve(1, 0.6)
    detection.detect(connection, cache.now)
    assert connection.execute("SELECT state FROM finding WHERE kind = 'cache-miss'").fetchall() == [("closed",)]


def miss(connection: psycopg.Connection[Any], since: dt.datetime, last_seen: dt.datetime, state: str) -> None:
    """A finding that is not over."""
    connection.execute(
        "INSERT INTO finding (kind, subject, state, workload, engine_ids, since, last_seen, energy_mj, evidence,"
        " summary, remedy) VALUES ('cache-miss', 'workload:chat', %s, 'chat', '{1}', %s, %s, 0, '{}', '', '')",
        [state, since, last_seen],
    )


def test_the_usual_hit_ratio_is_that_of_hours_without_a_cache_miss(connection: psycopg.Connection[Any]) -> None:
    cache = Cache(connection)
    cache.serve(5, 0.6)
    start = time_of(START_US)
    assert before(connection, [1], start + 5 * HOURS) == {}
    cache.serve(10, 0.2)
    end = start + 15 * HOURS
    assert cache.usual(end) == pytest.approx(0.2, abs=0.01)
    miss(connection, start + 5 * HOURS + dt.timedelta(minutes=30), end, "suppressed")
    assert cache.usual(end) == pytest.approx(0.2, abs=0.01)
    connection.execute("UPDATE finding SET state = 'open'")
    assert before(connection, [1], end) == {}  # five hours are left
    connection.execute("UPDATE finding SET since = since + interval '1 hour'")
    assert cache.usual(end) == pytest.approx(0.6, abs=0.01)
    assert cache.usual(end + dt.timedelta(days=13)) == pytest.approx(0.6, abs=0.01)
    assert before(connection, [1], end + dt.timedelta(days=14)) == {}  # too long ago


def test_what_came_after_a_resolve_becomes_the_usual_hit_ratio(connection: psycopg.Connection[Any]) -> None:
    cache = Cache(connection)
    cache.serve(8, 0.6)
    cache.serve(12, 0.2)
    start = time_of(START_US)
    miss(connection, start + 8 * HOURS, start + 20 * HOURS, "open")
    assert cache.usual(start + 20 * HOURS) == pytest.approx(0.6, abs=0.01)
    # Somebody says that it is over; detection opened it again an hour later, so it bears no mark of that.
    connection.execute(
        "INSERT INTO finding_event (finding_id, time, what) VALUES (1, %s, 'resolved')", [start + 14 * HOURS]
    )
    assert cache.usual(start + 19 * HOURS) == pytest.approx(0.6, abs=0.01)
    assert cache.usual(start + 20 * HOURS) == pytest.approx(0.2, abs=0.01)
