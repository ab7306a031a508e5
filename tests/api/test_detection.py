"""Findings on a real database: one incident is one finding, whatever runs again; it opens, grows and closes."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Any, Literal, LiteralString

import numpy as np
import psycopg
import pytest

from support.mill import START_US, Node
from wattmill_analytics.curves import no_curves
from wattmill_analytics.findings import Incident, detectors
from wattmill_analytics.findings.minutes import Bool, EngineMinutes
from wattmill_api import accounting, detection, judged
from wattmill_api.lifecycle import time_of
from wattmill_api.store import suppressions
from wattmill_api.store.curves import Reference
from wattmill_api.store.detection import Board, Engine, Inventory, before, inventory
from wattmill_api.store.ingest import Interner

E = "http://e:8000/metrics"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


class Hall:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection, self.interner, self.node = connection, Interner(), Node(interval_us=60_000_000)
        self.board = self.node.board("GPU-a", power_mw=110_000)
        self.engine = self.node.engine(E, ["GPU-a"])
        self.node.tick(seconds=60)

    def idle(self, minutes: int) -> None:
        self.engine.running, self.board.power_mw = 0, 110_000
        for _ in range(minutes):
            self.node.tick(seconds=60, energy={"GPU-a": 110 * 60_000})

    def busy(self, minutes: int) -> None:
        self.engine.running, self.board.power_mw = 200, 600_000
        for _ in range(minutes):
            self.node.tick(seconds=60, energy={"GPU-a": 600 * 60_000}, tokens={E: (0, 0, 90_000)})

    def suppress(self, minutes: int, **names: str) -> None:
        """From now on, for so long."""
        now = time_of(self.node.time_us)
        wanted = {**dict.fromkeys(("kind", "subject", "workload", "node", "site"), "*"), **names}
        until = now + dt.timedelta(minutes=minutes)
        suppressions.add(self.connection, {**wanted, "since": now, "until": until, "reason": "", "by": "ops"})

    def one(self, statement: LiteralString) -> Any:
        return self.connection.execute(statement).fetchone()

    def history(self) -> list[tuple[int, str]]:
        return self.connection.execute("SELECT finding_id, what FROM finding_event ORDER BY event_id").fetchall()

    def detect(self) -> list[tuple[Any, ...]]:
        self.node.post(self.connection, self.interner)
        while accounting.roll_up(self.connection):
            pass
        detection.detect(self.connection, time_of(self.node.time_us))
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
    hall.busy(40)
    assert hall.detect() == [("idle-loaded", "closed", 29 * 110 * 60_000, False, *row[4:])]
    hall.idle(30)
    assert [r[1] for r in hall.detect()] == ["closed", "open"]
    assert hall.history() == [(1, "opened"), (1, "closed"), (2, "opened")]


def test_nothing_new_is_no_new_revision(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.idle(20)
    hall.detect()
    hall.detect()
    assert connection.execute("SELECT revision FROM finding").fetchone() == (1,)
    hall.idle(1)
    hall.detect()
    revision, per_day, known = hall.one("SELECT revision, mj_per_day, known - since FROM finding")
    assert (revision, per_day) == (2, 110 * 86_400_000)
    assert known == dt.timedelta(minutes=10)  # when ten idle minutes had passed, however late detection ran
    assert hall.one("SELECT found - since FROM finding") == (dt.timedelta(minutes=20),)  # and that is when it ran first


def test_what_flares_up_within_half_an_hour_is_the_same_finding(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.idle(30)
    hall.detect()
    hall.busy(20)
    assert [r[1] for r in hall.detect()] == ["closed"]
    hall.idle(15)
    [(kind, state, energy_mj, *_)] = hall.detect()
    # The minute in which requests ended counts as serving, and the one in which they began as idle.
    assert (kind, state, energy_mj) == ("idle-loaded", "open", (30 + 14) * 110 * 60_000)
    assert hall.history() == [(1, "opened"), (1, "closed"), (1, "reopened")]
    assert hall.one("SELECT evidence ->> 'stretches' FROM finding") == ("2",)


def test_energy_is_kept_when_the_minutes_looked_at_no_longer_reach_back(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    for hours in (20, 20, 20):
        hall.idle(hours * 60)
        hall.detect()
    # A look reaches back 24 to 30 hours; every third of these had lost sight of the first.
    [(_, state, energy_mj, *_)] = hall.detect()
    assert (state, energy_mj) == ("open", 60 * 60 * 110 * 60_000)
    assert hall.one("SELECT carried_mj > 0, counted_from > since FROM finding") == (True, True)
    counted_from, summary = hall.one("SELECT evidence ->> 'evidence_since', summary FROM finding")
    assert f"(figures since {counted_from[:10]} {counted_from[11:16]} UTC)" in summary
    # Once it is over and only its tail is in sight, what was known of it stays.
    hall.busy(20)
    over = hall.detect()
    kept = hall.one("SELECT revision, evidence FROM finding")
    hall.busy(7 * 60)
    assert hall.detect() == over
    assert hall.one("SELECT revision, evidence FROM finding") == kept


def test_a_large_fleet_is_looked_at_part_by_part(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(detection, "MOST_IN_A_RUN", 4)
    hall = Hall(connection)
    for i in range(7):
        hall.node.board(f"GPU-{i}", power_mw=70_000, processes=0, memory_used_bytes=0)
    for _ in range(20):
        hall.node.tick(seconds=60, energy={"GPU-a": 110 * 60_000} | {f"GPU-{i}": 70 * 60_000 for i in range(7)})
    assert len(hall.detect()) < 8
    hall.detect()
    found = hall.detect()
    assert len(found) == 8  # seven empty boards and an engine that idles
    assert {state for _, state, *_ in found} == {"open"}


def test_what_is_gone_from_the_fleet_is_over(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.idle(30)
    hall.detect()
    other = Node("n2", interval_us=60_000_000)
    other.board("GPU-b", power_mw=500_000)
    other.time_us = hall.node.time_us
    for _ in range(60 * 40):
        other.tick(seconds=60, energy={"GPU-b": 500 * 60_000})
    other.post(connection, hall.interner)
    hall.node.time_us = other.time_us
    states = {r[4]: r[1] for r in hall.detect()}
    assert states[f"engine:hall/n1 {E}"] == "closed"


def test_an_incident_inside_a_suppression_window_opens_only_when_it_outlasts_it(
    connection: psycopg.Connection[Any],
) -> None:
    hall = Hall(connection)
    hall.busy(30)
    hall.suppress(minutes=60, workload="chat")
    hall.suppress(minutes=600, kind="spin-idle")
    hall.idle(30)
    assert [r[1] for r in hall.detect()] == ["suppressed"]
    hall.busy(40)
    assert [r[1] for r in hall.detect()] == ["suppressed"]
    hall.suppress(minutes=30, node="n1")
    hall.idle(20)
    assert [r[1] for r in hall.detect()] == ["suppressed", "suppressed"]
    hall.idle(20)
    assert [r[1] for r in hall.detect()] == ["suppressed", "open"]
    assert hall.history() == [(1, "suppressed"), (2, "suppressed"), (2, "opened")]


def test_a_window_silences_what_was_open_before_it_for_as_long_as_it_lasts(
    connection: psycopg.Connection[Any],
) -> None:
    hall = Hall(connection)
    hall.idle(30)
    hall.detect()
    hall.suppress(minutes=60)
    hall.idle(30)
    assert [r[1] for r in hall.detect()] == ["suppressed"]
    hall.idle(40)
    [(_, state, energy_mj, *_)] = hall.detect()
    assert (state, energy_mj) == ("open", 100 * 110 * 60_000)
    hall.suppress(minutes=60)
    hall.idle(5)
    hall.detect()
    hall.busy(40)
    assert [r[1:4] for r in hall.detect()] == [("closed", 105 * 110 * 60_000, False)]
    assert [what for _, what in hall.history()] == ["opened", "suppressed", "opened", "suppressed", "closed"]


def test_a_window_leaves_alone_what_somebody_has_acknowledged(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.idle(30)
    hall.detect()
    connection.execute("UPDATE finding SET state = 'acknowledged', acknowledged = now()")
    hall.suppress(minutes=60)
    hall.idle(30)
    assert [r[1] for r in hall.detect()] == ["acknowledged"]


def test_acknowledged_stays_and_resolved_opens_again_only_when_it_goes_on(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.idle(30)
    hall.detect()
    connection.execute("UPDATE finding SET state = 'acknowledged', acknowledged = now()")
    hall.idle(10)
    assert [r[1] for r in hall.detect()] == ["acknowledged"]
    resolved = time_of(hall.node.time_us)
    connection.execute("UPDATE finding SET state = 'resolved', resolved = %s, until = %s", [resolved, resolved])
    hall.idle(30)
    assert [r[1] for r in hall.detect()] == ["resolved"]
    hall.idle(60)
    assert [(r[1], r[3]) for r in hall.detect()] == [("open", True)]
    assert hall.one("SELECT acknowledged, resolved FROM finding") == (None, None)
    hall.idle(5)
    assert [r[1] for r in hall.detect()] == ["open"]


def test_late_data_takes_a_finding_back(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.idle(30)
    assert [r[1] for r in hall.detect()] == ["open"]
    connection.execute("UPDATE engine_minute SET output_tokens = 5")
    connection.execute("UPDATE ledger_minute SET account = 1")
    detection.detect(connection, time_of(hall.node.time_us))
    rows = connection.execute("SELECT kind, state FROM finding").fetchall()
    assert ("idle-loaded", "closed") in rows


@dataclasses.dataclass(frozen=True, slots=True)
class Upgraded:
    """A detector that finds one incident: of the workload, from the first minute to the last."""

    kind: str = "regression"
    about: Literal["engine", "workload"] = "workload"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        del hidden
        since_us, until_us = int(minutes.minute_us.min()), int(minutes.minute_us.max()) + 60_000_000
        evidence = {"engines": len(minutes.workload), "version_before": 0, "version_after": 1, "slow_board": 1}
        return [Incident(0, since_us, until_us, until_us, False, 5, evidence, "Dearer.", "Go back.")]


def test_a_finding_may_be_about_a_workload_on_several_nodes(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "ENGINE_DETECTORS", ((Upgraded(), frozenset()),))
    hall = Hall(connection)
    second = Node("n2", interval_us=60_000_000)
    second.board("GPU-b", power_mw=110_000)
    second.engine("http://f:8000/metrics", ["GPU-b"])
    hall.idle(15)
    for _ in range(16):
        second.tick(seconds=60, energy={"GPU-b": 110 * 60_000})
    second.post(connection, hall.interner)
    [row] = hall.detect()
    assert row == ("regression", "open", 5, True, "workload:chat", "", "chat")
    evidence, site = hall.one("SELECT evidence, site FROM finding")
    # Ids become names; codes of versions that nobody reported are left out.
    assert (evidence, site) == ({"engines": 2, "slow_board": "GPU-b"}, "hall")


def test_workloads_of_one_name_are_told_apart_by_model_and_team() -> None:
    engines = [
        Engine(i, "", "", "", False, i, name, model, team, (), (), 10_000_000)
        for i, (name, model, team) in enumerate([("chat", "a", "x"), ("chat", "b", "y"), ("code", "a", "x")])
    ]
    assert detection.workload_names(engines) == {0: "chat (a, x)", 1: "chat (b, y)", 2: "code"}


def test_a_workload_is_never_split_between_groups() -> None:
    engines = [
        Engine(i, "", "", "", False, workload, "", "", "", boards, (), 10_000_000)
        for i, (workload, boards) in enumerate([(1, (1,)), (1, (2,)), (1, (3,)), (2, (3,)), (3, (4,))])
    ]
    boards = [Board(i, "", "", "", False, 0) for i in range(1, 8)]
    groups = judged.groups(Inventory(engines, boards), 3)
    # Workload 2 shares board 3 with workload 1, so it comes along; boards that nobody holds fill up.
    assert [{e.engine_id for e in group.engines} for group in groups] == [{0, 1, 2, 3}, {4}, set()]
    assert [{b.accelerator_id for b in group.boards} for group in groups] == [{1, 2, 3}, {4, 5}, {6, 7}]


def test_minutes_are_read_with_their_board_version_and_cached_input(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.busy(6)
    hall.detect()
    connection.execute(
        "INSERT INTO engine_version (engine_id, since, version) SELECT 1, time, version FROM (VALUES"
        " ((SELECT min(time) + interval '150 s' FROM engine_minute), '0.11.0'),"
        " ((SELECT min(time) + interval '270 s' FROM engine_minute), '0.12.0')) AS v (time, version)"
    )
    connection.execute("UPDATE accelerator_minute SET clock_event_reasons = 64, sm_clock_mhz = 1500")
    connection.execute(
        "UPDATE engine_minute SET input_tokens = 100, computed_input_tokens = 30, cached_input_tokens = NULL"
    )
    connection.execute("UPDATE accelerator SET power_limit_mw = NULL")
    last = time_of(hall.node.time_us)
    first = last - dt.timedelta(hours=1)
    [group] = judged.groups(inventory(connection, first), 10)
    read = judged.read(connection, group, Reference(no_curves(), {}, ()), first, last)
    minutes = read.engine_minutes
    assert read.versions == ("0.11.0", "0.12.0")
    assert minutes.version.tolist() == [-1, -1, 0, 0, 1, 1, 1][: minutes.version.size]
    assert set(minutes.clock_event_reasons.tolist()) == {64}
    assert (minutes.uncached_input_tokens.tolist()[1], minutes.boards.tolist()) == (30, [1])
    assert np.isnan(minutes.power_ratio).all()
    assert np.isnan(read.board_minutes.power_ratio).all()
    assert minutes.serving_mj.sum() == 6 * 600 * 60_000


def test_the_busiest_hour_of_the_days_before_is_known_once_a_day_of_them_was_seen(
    connection: psycopg.Connection[Any],
) -> None:
    hall = Hall(connection)
    for tokens in (1, 3, 2):
        hall.engine.running = 5
        for _ in range(60 if tokens == 3 else 13 * 60):
            hall.node.tick(seconds=60, energy={"GPU-a": 6_000_000}, tokens={E: (0, 0, 60 * tokens)})
    hall.detect()
    start = time_of(START_US)
    [engine] = inventory(connection, start).engines

    def peak(hours: int) -> float | None:
        known = before(connection, [engine.workload_id], start + dt.timedelta(hours=hours))
        return known[engine.workload_id].peak_tokens_per_s if known else None

    # Hours end on the hour: the one at three tokens a second began a minute later.
    assert peak(23) is None
    assert peak(24) == pytest.approx(3, rel=0.02)
    assert peak(24 * 7 + 12) == pytest.approx(3, rel=0.02)
    assert peak(24 * 7 + 20) == pytest.approx(2, rel=0.02)


def test_what_engines_carried_and_what_nobody_owns_is_read(connection: psycopg.Connection[Any]) -> None:
    hall = Hall(connection)
    hall.busy(90)
    hall.detect()
    connection.execute("UPDATE ledger_minute SET account = 4")
    last = time_of(hall.node.time_us)
    first = last - dt.timedelta(minutes=10)
    [group] = judged.groups(inventory(connection, first), 10)
    read = judged.read(connection, group, Reference(no_curves(), {}, ()), first, last)
    assert read.engine_minutes.peak_requests_running.tolist() == [200.0]
    boards = read.board_minutes
    assert (boards.unattributed_mj > 0).any()
    assert boards.energy_mj.tolist() == boards.unattributed_mj.tolist()
    assert set(boards.power_mw.tolist()) == {600_000.0}
    assert boards.node.tolist() == [0]
