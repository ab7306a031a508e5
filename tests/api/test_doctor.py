"""The service's part of the doctor: every trouble of a database, its jobs and its nodes is named with what to do."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest

from support.ledger import MINUTE, T0, Books
from wattmill_api import doctor
from wattmill_api.doctor import Told, allowed_s, judge, lasted
from wattmill_api.settings import Settings
from wattmill_api.store import doctor as store
from wattmill_api.store.doctor import FailingWebhook, JobRun, Unpriced
from wattmill_collector import doctor as verb

SETTINGS = Settings(database_url="postgresql:///x")
WELL = store.Health(
    server=store.Server(now=T0, fsync=True, full_page_writes=True, connections=97),
    jobs=[JobRun("roll-up", T0, T0, True, "1 windows"), JobRun("retain", T0 - 60 * MINUTE, T0 - 59 * MINUTE, True, "")],
    rolled_up=store.RolledUp(T0 - MINUTE, T0, 2),
    kept_too_long=store.KeptTooLong(False, False),
    nodes=store.NodeCounts(3, 0, None, 0),
    access=store.Access(True),
    sites=[Unpriced("ams1", False, False)],
    failing_webhooks=[],
)


def troubles(told: list[Told]) -> list[tuple[str, str]]:
    assert all(fix.endswith((".", "*`.")) for _, status, _, fix in told if status != "OK")
    return [(subject, status) for subject, status, _, _ in told if status != "OK"]


def test_a_service_that_is_well() -> None:
    told = judge(WELL, SETTINGS, T0)
    assert troubles(told) == []
    assert {subject for subject, *_ in told} >= {"jobs", "ledger", "retention", "nodes", "keys"}


@pytest.mark.parametrize(
    ("changes", "found", "said"),
    [
        ({"server": {"fsync": False}}, ("database", "FAIL"), "does not sync"),
        ({"server": {"now": T0 - dt.timedelta(seconds=10)}}, ("clock", "WARN"), "10 s ahead of"),
        ({"server": {"now": T0 + dt.timedelta(seconds=400)}}, ("clock", "FAIL"), "400 s behind"),
        ({"server": {"connections": 5}}, ("database", "FAIL"), "up to 9 connections; the database gives 5"),
        ({"jobs": []}, ("jobs", "FAIL"), "No job has ever ended"),
        ({"jobs": [JobRun("roll-up", T0, T0 - 60 * MINUTE, True, "")]}, ("jobs", "FAIL"), "for 60 min"),
        (
            {"jobs": [*WELL.jobs, JobRun("verify", T0, T0, False, "2 of 8 boards differ")]},
            ("jobs", "FAIL"),
            "verify failed 0 s ago: 2 of 8 boards differ",
        ),
        (
            {"jobs": [*WELL.jobs, JobRun("detect", T0, T0 - 20 * MINUTE, True, "")]},
            ("jobs", "WARN"),
            "detect has not ended for 20 min",
        ),
        (
            {"jobs": [*WELL.jobs, JobRun("curves", T0 - 90 * MINUTE, None, None, "")]},
            ("jobs", "WARN"),
            "curves has not ended for 90 min",
        ),
        ({"rolled_up": {"newest_minute": None}}, ("ledger", "FAIL"), "no minute of them"),
        ({"rolled_up": {"newest_minute": T0 - 4 * MINUTE}}, ("ledger", "WARN"), "4 min behind"),
        ({"rolled_up": {"newest_minute": T0 - 60 * MINUTE}}, ("ledger", "FAIL"), "2 spans wait"),
        ({"kept_too_long": {"samples": True}}, ("retention", "WARN"), "samples older than 30 days"),
        ({"nodes": {"nodes": 0}}, ("nodes", "WARN"), "No node has reported"),
        ({"nodes": {"silent": 2, "longest_silent": ["a", "b"]}}, ("nodes", "WARN"), "2 of 3 nodes"),
        ({"nodes": {"ahead": 1}}, ("clock", "WARN"), "1 nodes are ahead"),
        ({"access": {"keys": False}}, ("keys", "WARN"), "There is no key"),
        ({"sites": [Unpriced(f"s{i}", True, False) for i in range(5)]}, ("prices", "WARN"), "s0, s1, s2 and 2 more"),
        ({"failing_webhooks": [FailingWebhook("on-call", 3, "500")]}, ("webhooks", "WARN"), "3 posts in a row: 500"),
    ],
)
def test_every_trouble_alone(changes: dict[str, Any], found: tuple[str, str], said: str) -> None:
    ((name, change),) = changes.items()
    new = dataclasses.replace(getattr(WELL, name), **change) if isinstance(change, dict) else change
    told = judge(dataclasses.replace(WELL, **{name: new}), SETTINGS, T0)
    assert troubles(told) == [found]
    assert said in " ".join(text for _, _, text, _ in told)


def test_a_service_that_is_new_has_no_jobs_yet() -> None:
    new = dataclasses.replace(
        WELL, jobs=[], nodes=store.NodeCounts(0, 0, None, 0), rolled_up=store.RolledUp(None, None, 0)
    )
    assert troubles(judge(new, SETTINGS, T0)) == [("jobs", "WARN"), ("nodes", "WARN")]


def test_rare_jobs_are_missed_later() -> None:
    assert allowed_s("roll-up", SETTINGS) < allowed_s("verify", SETTINGS) < allowed_s("retain", SETTINGS)


@pytest.mark.parametrize(("s", "said"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 days")])
def test_how_long_something_lasted(s: float, said: str) -> None:
    assert lasted(s) == said


def test_a_real_database_with_a_small_fleet(database_url: str, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    books.spent(node, board, 0, 4, 7, at=T0 + 9 * MINUTE)
    books.node("late", first_seen=T0)
    books.do("UPDATE node SET last_seen = %s WHERE name = 'late'", T0 - 30 * MINUTE)
    books.do("INSERT INTO dirty_span (node_id, first_time, last_time) VALUES (%s, %s, %s)", node, T0, T0)
    books.do("INSERT INTO job_run VALUES ('roll-up', %s, %s, true, '')", T0 + 10 * MINUTE, T0 + 10 * MINUTE)
    told = doctor.examine(database_url, {}, T0 + 10 * MINUTE)
    # Servers of tests do not sync, and their clock is a real one, months from T0.
    found = [trouble for trouble in troubles(told) if trouble[0] != "database"]
    assert found == [("clock", "FAIL"), ("nodes", "WARN"), ("keys", "WARN"), ("prices", "WARN"), ("prices", "WARN")]
    text = " ".join(text for _, _, text, _ in told)
    assert "1 of 2 nodes are silent for 10 min or more" in text
    assert ": late" in text
    assert "The newest minute is 60 s behind the newest reading; 1 spans wait." in text
    assert "PostgreSQL" in text
    books.spent(node, board, 0, 4, 7, at=T0 - dt.timedelta(days=403))
    assert ("retention", "WARN") in troubles(doctor.examine(database_url, {}, T0 + 10 * MINUTE))


def test_a_database_without_a_schema(empty_database_url: str) -> None:
    assert troubles(doctor.examine(empty_database_url, {"WATTMILL_PROT": "1"}, T0))[0] == ("settings", "FAIL")
    told = doctor.examine(empty_database_url, {}, T0)
    assert ("schema", "FAIL") in troubles(told)
    assert "wattmill migrate" in told[-1][3]


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1:1/x", "garbage", "postgresql://u:s3cret@127.0.0.1:1/x"])
def test_a_database_that_is_away(url: str) -> None:
    told = doctor.examine(url, {}, T0)
    assert troubles(told) == [("database", "FAIL")]
    assert "s3cret" not in str(told)


def test_settings_that_the_service_does_not_start_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTMILL_PORT", "99999")
    ((subject, status, text, _),) = doctor.examine("postgresql:///x", {}, T0)
    assert (subject, status) == ("service", "FAIL")
    assert "WATTMILL_PORT" in text


def test_the_verb_examines_the_service(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattmill_collector.settings.DEFAULT_CONFIG", "/nowhere/agent.yaml")
    monkeypatch.delenv("WATTMILL_SERVER", raising=False)
    assert verb.main(["--database-url", database_url]) in (0, 1)
    out = capsys.readouterr().out
    assert "The schema is this version's." in out
    assert "sources" not in out  # no agent is meant here
