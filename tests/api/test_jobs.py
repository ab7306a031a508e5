"""The jobs on a real database: one leader, dirty minutes closed, the ledger verified, old data dropped."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from support.mill import START_US, Node
from wattmill_api import accounting
from wattmill_api.jobs import MINUTE_TABLES, SAMPLE_TABLES, Jobs
from wattmill_api.settings import Settings
from wattmill_api.store import jobs as store
from wattmill_api.store.ingest import Interner


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def hour_of_ticks() -> Node:
    node = Node()
    node.board("GPU-a", energy_mj=10**12)
    node.board("GPU-b", energy_mj=5)
    node.tick(seconds=0)
    for i in range(360):
        node.tick(energy={"GPU-a": 1_000_000 + i, "GPU-b": 7})
    return node


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.05)
    return True


def test_jobs_close_what_ingest_touched(connection: psycopg.Connection[Any], database_url: str) -> None:
    jobs = Jobs(
        Settings(database_url=database_url, roll_up_every_s=0.2, retain_samples_days=3650, retain_minutes_days=3650)
    )
    jobs.start()
    try:
        hour_of_ticks().post(connection, Interner())
        meter = sum(1_000_000 + i for i in range(360)) + 360 * 7
        total = "SELECT COALESCE(sum(energy_mj), 0) FROM ledger_hour"
        assert until(lambda: connection.execute(total).fetchone() == (meter,))
        runs = "SELECT ok FROM job_run WHERE job IN ('retain', 'verify', 'detect')"
        assert until(lambda: connection.execute(runs).fetchall() == [(True,)] * 3)
    finally:
        jobs.stop()


def test_who_takes_the_lead_makes_the_last_days_whole(connection: psycopg.Connection[Any], database_url: str) -> None:
    node = Node()
    node.time_us = (time.time_ns() // 60_000_000_000 - 60) * 60_000_000
    node.board("GPU-a", energy_mj=5)
    node.tick(seconds=0)
    for _ in range(6):
        node.tick(energy={"GPU-a": 100})
    node.post(connection, Interner())
    while accounting.roll_up(connection):
        pass
    days = "SELECT sum(accelerator_mj) FROM node_day"
    assert connection.execute(days).fetchone() == (600,)
    connection.execute("DELETE FROM node_day")
    jobs = Jobs(Settings(database_url=database_url, roll_up_every_s=0.2))
    jobs.start()
    try:
        assert until(lambda: connection.execute(days).fetchone() == (600,))
    finally:
        jobs.stop()


def test_one_leader(database_url: str) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as first,
        psycopg.connect(database_url, autocommit=True) as second,
    ):
        assert store.try_lead(first)
        assert not store.try_lead(second)
        first.close()
        assert until(lambda: store.try_lead(second))


def test_verify_finds_one_millijoule(connection: psycopg.Connection[Any]) -> None:
    hour_of_ticks().post(connection, Interner())
    first = dt.datetime.fromtimestamp(START_US / 1e6, dt.UTC)
    last = first + dt.timedelta(hours=1)
    assert store.verify_accelerators(connection, first, last) == []
    while accounting.roll_up(connection):
        pass
    checked = store.verify_accelerators(connection, first, last)
    assert [(v.uuid, v.difference_mj) for v in checked] == [("GPU-a", 0), ("GPU-b", 0)]
    connection.execute(
        "UPDATE ledger_minute SET energy_mj = energy_mj + 1 WHERE time = %s AND accelerator_id ="
        " (SELECT accelerator_id FROM accelerator WHERE uuid = 'GPU-b')",
        [first + dt.timedelta(minutes=7)],
    )
    assert [v.difference_mj for v in store.verify_accelerators(connection, first, last)] == [0, 1]


def test_retention_drops_old_samples_and_keeps_the_ledger_hours(connection: psycopg.Connection[Any]) -> None:
    hour_of_ticks().post(connection, Interner())
    while accounting.roll_up(connection):
        pass
    after = dt.datetime.fromtimestamp(START_US / 1e6, dt.UTC) + dt.timedelta(days=3)
    store.drop_older(connection, SAMPLE_TABLES, after)
    store.drop_older(connection, MINUTE_TABLES, after)
    for table in ("accelerator_sample", "ledger_minute"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # names of this file only
    assert connection.execute("SELECT count(*) > 0 FROM ledger_hour").fetchone() == (True,)
    assert store.prune_batch_ledger(connection, dt.datetime.now(dt.UTC) + dt.timedelta(days=1)) == 360


def test_a_window_that_cannot_be_closed_does_not_hold_up_the_others(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = hour_of_ticks()
    for _ in range(3):
        node.tick(seconds=3600, energy={"GPU-a": 5})
    node.post(connection, Interner())
    close_window, broken = accounting.close_window, START_US + 3_600_000_000

    def close(connection: psycopg.Connection[Any], window: accounting.Window) -> None:
        if window.first_us == broken:
            raise ValueError("this window")
        close_window(connection, window)

    monkeypatch.setattr(accounting, "close_window", close)
    with pytest.raises(ValueError, match="this window"):
        accounting.roll_up(connection)
    closed = connection.execute("SELECT count(DISTINCT date_trunc('hour', time)) FROM ledger_minute").fetchone()
    assert closed is not None
    assert closed[0] >= 2
    monkeypatch.undo()
    while accounting.roll_up(connection):
        pass
    assert connection.execute("SELECT count(*) FROM dirty_span").fetchone() == (0,)
