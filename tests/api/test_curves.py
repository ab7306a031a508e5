"""Curves on a real database: physics put into counters comes back at /curves, and judges the engines it should."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from fastapi.testclient import TestClient

from support.mill import START_US, Node
from wattmill_analytics.curves import decode_mj, speed
from wattmill_api import accounting
from wattmill_api.curves import UNCONFIRMED_REGRESSION, learn_curves
from wattmill_api.store import curves as store
from wattmill_api.store.ingest import Interner

E, OTHER = "http://e:8000/metrics", "http://e:8001/metrics"
START = dt.datetime.fromtimestamp(START_US / 1e6, dt.UTC)
MIDNIGHT = START.replace(hour=0)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
PREFILL_MJ = 25


def decode_cost_mj(load: float) -> float:
    return float(8_000 / load**0.7)


class Replica:
    """A node with one engine on two boards. Its energy is a law of its load, times `dearer`; read every minute."""

    def __init__(
        self, connection: psycopg.Connection[Any], name: str = "n1", *, version: str = "1.0", workload: str = "chat"
    ) -> None:
        self.connection, self.interner = connection, Interner()
        self.node = Node(name, interval_us=60_000_000)
        self.boards = [f"GPU-{name}-0", f"GPU-{name}-1"]
        for board in self.boards:
            self.node.board(board, energy_mj=10**9)
        self.engine = self.node.engine(E, self.boards, workload=workload, version=version)
        self.rng = np.random.default_rng(len(name))
        self.node.tick(seconds=60)

    @property
    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.node.time_us / 1e6, dt.UTC)

    def serve(self, minutes: int, dearer: float = 1.0) -> Replica:
        for _ in range(minutes):
            # Five minutes of each load; all of them are the middle of a bin, an octave from the next.
            load = 2 ** (3 + self.node.sequence // 5 % 4)
            self.engine.running = load
            output = load * 60 * 30
            uncached = round(output * self.rng.uniform(0.2, 4))
            energy = (output * decode_cost_mj(load) + uncached * PREFILL_MJ) * dearer * self.rng.lognormal(0, 0.02)
            half = int(energy / 2)
            self.node.tick(
                seconds=60,
                energy=dict.fromkeys(self.boards, half),
                tokens={E: (uncached + 1000, 1000, output)},
            )
        return self

    def sleep_until(self, time: dt.datetime) -> Replica:
        self.node.tick(seconds=time.timestamp() - self.node.time_us / 1e6)
        return self

    def learn(self) -> str:
        self.node.post(self.connection, self.interner)
        while accounting.roll_up(self.connection):
            pass
        return learn_curves(self.connection, self.now)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def asked(client: TestClient, **parameters: Any) -> list[dict[str, Any]]:
    whole = {"start": (MIDNIGHT - DAY).isoformat(), "end": (MIDNIGHT + 9 * DAY).isoformat()}
    response = client.get("/api/v1/curves", params={**whole, **parameters})
    assert response.status_code == 200, response.text
    return list(response.json()["rows"])


def counts(connection: psycopg.Connection[Any], table: str = "curve_day") -> list[tuple[Any, ...]]:
    order = "time, family_id" if table == "curve_seen" else "time, family_id, version"
    query = f"SELECT * FROM {table} ORDER BY {order}"
    return connection.execute(query.encode()).fetchall()


def test_the_physics_of_a_replica_comes_back(connection: psycopg.Connection[Any], client: TestClient) -> None:
    replica = Replica(connection).serve(6 * 60)
    replica.learn()
    (row,) = asked(client)
    assert row["group"] == {
        "model": "llama",
        "accelerator_model": "H100",
        "boards": 2,
        "engine_kind": "vllm",
        "engine_version": "1.0",
    }
    assert row["learnt"]["days"] == 1
    assert 340 <= row["learnt"]["minutes"] <= 355  # all but those before it had settled
    assert row["prefill_joules_per_token"] == pytest.approx(PREFILL_MJ / 1000, rel=0.15)
    assert row["prefill_reason"] is None
    seen = [point for point in row["points"] if point["minutes"] >= 20]
    assert [point["concurrency"] for point in seen] == [8, 16, 32, 64]
    assert len(row["points"]) == 13  # the octaves between them are bridged
    for point in seen:
        assert point["joules_per_output_token"] == pytest.approx(decode_cost_mj(point["concurrency"]) / 1000, rel=0.02)
        assert point["output_tokens_per_s_per_request"] == pytest.approx(30, rel=0.02)
        assert point["inter_token_latency_ms"] == pytest.approx(1000 / 30, rel=0.02)
        assert point["lower_quartile"] < point["upper_quartile"]
    assert row["best"] == {key: row["points"][-1][key] for key in ("concurrency", "joules_per_output_token")}
    assert not row["simulated"]


def test_learning_bit_by_bit_learns_the_same_as_at_once(
    connection: psycopg.Connection[Any],
) -> None:
    replica = Replica(connection)
    for _ in range(6):
        replica.serve(37)
        assert replica.learn().endswith(" hours learnt")
    bit_by_bit = counts(connection)
    hours = counts(connection, "curve_hour")
    assert learn_curves(connection, replica.now) == "0 hours learnt"
    for table in ("curve_day", "curve_hour", "curve_seen"):
        connection.execute(f"DELETE FROM {table}".encode())
    # So little time that a run learns one hour only: what is left comes first in the next.
    for left in (3, 2, 1):
        said = learn_curves(connection, replica.now, most_seconds=0)
        assert said == f"1 hours learnt, {left} left for the next run"
    assert learn_curves(connection, replica.now, most_seconds=0) == "1 hours learnt"
    assert counts(connection) == bit_by_bit
    assert counts(connection, "curve_hour") == hours
    assert sum(hour[1] for hour in hours) == bit_by_bit[0][1]


def test_minutes_of_an_incident_are_not_learnt_from_however_late_it_is_found(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    replica = Replica(connection).serve(90)
    begin = replica.now
    replica.serve(150, dearer=2.0)
    end = replica.now
    replica.serve(60).learn()
    (before,) = asked(client)
    insert = (
        "INSERT INTO finding (kind, subject, since, until, last_seen, energy_mj, evidence, summary, remedy, engine_ids)"
        " SELECT %s, 'workload:chat', %s, %s, %s, 0, '{}', '', '', array_agg(engine_id) FROM engine"
    )
    connection.execute(insert, ["low-batch", begin, end, end])
    assert replica.learn() == "0 hours learnt"  # an incident that doesn't make a token dearer at equal load
    connection.execute(insert, ["regression", begin, end, end])
    assert replica.learn() == "4 hours learnt"  # 16:31 to 19:01
    (after,) = asked(client)
    assert before["learnt"]["minutes"] - after["learnt"]["minutes"] == pytest.approx(150, abs=1)
    for point in after["points"]:
        if point["minutes"] >= 10:
            assert point["joules_per_output_token"] == pytest.approx(
                decode_cost_mj(point["concurrency"]) / 1000, rel=0.02
            )
    dearer = [point for point in before["points"] if point["minutes"] >= 10]
    assert np.mean([p["joules_per_output_token"] * 1000 / decode_cost_mj(p["concurrency"]) for p in dearer]) > 1.3
    connection.execute("DELETE FROM finding WHERE kind = 'regression'")
    assert replica.learn() == "4 hours learnt"
    assert asked(client) == [before]


@pytest.mark.parametrize("confirmed", ['evidence = \'{"version_after": "2.0"}\'', "acknowledged = now()"])
def test_a_regression_that_nothing_confirms_is_learnt_from_after_a_day(
    connection: psycopg.Connection[Any], confirmed: str
) -> None:
    """Else a mistake of the curve would keep its own correction out."""
    replica = Replica(connection).serve(150)
    replica.learn()
    ((_, before, *_),) = counts(connection)
    begin = replica.now - HOUR - UNCONFIRMED_REGRESSION  # its first day ends an hour ago
    connection.execute(
        "INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy, engine_ids)"
        " SELECT 'regression', 'workload:chat', %s, %s, 0, '{}', '', '', array_agg(engine_id) FROM engine",
        [begin, replica.now],
    )
    replica.learn()
    ((_, unconfirmed, *_),) = counts(connection)
    assert unconfirmed == pytest.approx(60, abs=1)
    assert before > 140
    connection.execute(f"UPDATE finding SET {confirmed}".encode())
    replica.learn()
    assert counts(connection) == []


def test_an_incident_of_a_board_counts_for_the_engine_on_it(
    connection: psycopg.Connection[Any],
) -> None:
    replica = Replica(connection).serve(100)
    replica.learn()
    ((_, before, *_),) = counts(connection)
    connection.execute(
        "INSERT INTO finding (kind, subject, since, last_seen, energy_mj, evidence, summary, remedy, board_ids)"
        " SELECT 'telemetry-untrusted', 'accelerator:' || uuid, %s, %s, 0, '{}', '', '', array[accelerator_id]"
        " FROM accelerator WHERE uuid = 'GPU-n1-1'",
        [replica.now - HOUR, replica.now],
    )
    replica.learn()
    ((_, after, *_),) = counts(connection)
    assert before - after == pytest.approx(60, abs=1)


def versions(connection: psycopg.Connection[Any]) -> list[tuple[float, str]]:
    rows = connection.execute("SELECT since, version FROM engine_version ORDER BY engine_id, since")
    return [((since - START).total_seconds() / 60, version) for since, version in rows]


def test_the_history_of_versions_is_kept_on_change_only(connection: psycopg.Connection[Any]) -> None:
    replica = Replica(connection, version="1.0").serve(5)
    replica.learn()
    for version in ("1.0", "1.1", "1.0", ""):
        replica.engine.version = version
        replica.serve(5)
        replica.learn()
    assert versions(connection) == [(1, "1.0"), (12, "1.1"), (17, "1.0")]
    # Another writer, that knows nothing yet, has nothing new to say.
    replica.interner = Interner()
    replica.engine.version = "1.0"
    replica.serve(5).learn()
    assert versions(connection) == [(1, "1.0"), (12, "1.1"), (17, "1.0")]


def test_a_version_that_a_backlog_tells_late_takes_its_place_in_the_history(
    connection: psycopg.Connection[Any],
) -> None:
    replica = Replica(connection, version="1.0").serve(4)
    replica.engine.version = "1.1"
    replica.serve(2)
    late = replica.node.batches[:]
    replica.node.batches.clear()
    replica.serve(2).learn()
    assert versions(connection) == [(8, "1.1")]
    replica.node.batches[:] = late
    replica.node._posted = 0
    replica.learn()
    assert versions(connection) == [(1, "1.0"), (6, "1.1"), (8, "1.1")]
    engine = connection.execute("SELECT engine_id FROM engine").fetchone()
    assert engine is not None
    assert [version for _, version in store.versions(connection, engine)[engine[0]]] == ["1.0", "1.1"]


def row_of(reference: store.Reference, connection: psycopg.Connection[Any]) -> store.Row | None:
    """What the only engine is judged by."""
    ((engine_id,),) = connection.execute("SELECT engine_id FROM engine").fetchall()
    row = reference.row_of_engine.get(engine_id)
    return None if row is None else reference.rows[row]


def test_a_new_version_is_judged_by_the_one_before_until_it_has_a_curve_of_its_own(
    connection: psycopg.Connection[Any],
) -> None:
    assert store.reference(connection, START).rows == []
    replica = Replica(connection, version="1.0")
    replica.learn()
    assert row_of(store.reference(connection, replica.now), connection) is None
    # On its first day a curve is learnt while it is used.
    replica.serve(20).learn()
    first = row_of(store.reference(connection, replica.now), connection)
    assert first is not None
    assert first.version == "1.0"
    assert first.minutes == pytest.approx(15, abs=1)
    replica.serve(330).learn()

    replica.sleep_until(MIDNIGHT + DAY + HOUR)
    replica.engine.version = "1.1"
    replica.serve(400, dearer=1.4).learn()
    reference = store.reference(connection, replica.now)
    judged_by = row_of(reference, connection)
    assert judged_by is not None
    assert (judged_by.version, judged_by.family.boards) == ("1.0", 2)
    assert decode_mj(reference.curves, 0, 16.0) == pytest.approx(decode_cost_mj(16), rel=0.08)
    assert speed(reference.curves, 0, 16.0) == pytest.approx(30, rel=0.02)
    # What the day adds does not move what the day is judged by.
    replica.serve(60, dearer=3.0).learn()
    again = store.reference(connection, replica.now)
    np.testing.assert_array_equal(again.curves.decode_mj_per_token, reference.curves.decode_mj_per_token)

    tomorrow = store.reference(connection, MIDNIGHT + 2 * DAY)
    own = row_of(tomorrow, connection)
    assert own is not None
    assert own.version == "1.1"
    assert decode_mj(tomorrow.curves, 0, 16.0) == pytest.approx(1.4 * decode_cost_mj(16), rel=0.08)
    # A reference is of the 14 days before.
    much_later = row_of(store.reference(connection, MIDNIGHT + 16 * DAY), connection)
    assert much_later is None


def test_engines_that_are_not_alike_have_curves_of_their_own(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    Replica(connection, "n1").serve(60).learn()
    simulated = Replica(connection, "sim-1", workload="mail")
    simulated.node.header = dataclasses.replace(simulated.node.header, simulated=True)
    simulated.serve(60, dearer=1.5).learn()
    twin = Replica(connection, "n-2", workload="mail")
    twin.serve(60).learn()
    real, unreal = asked(client)
    assert (real["simulated"], unreal["simulated"]) == (False, True)
    assert real["learnt"]["minutes"] == pytest.approx(2 * 55, abs=3)
    assert [row["simulated"] for row in asked(client, workload="mail")] == [False, True]
    assert [row["simulated"] for row in asked(client, workload="chat")] == [False]
    assert len(asked(client, model="llama", accelerator_model=["H100", "B200"])) == 2
    assert asked(client, model="qwen") == asked(client, accelerator_model="B200") == asked(client, workload="x") == []


def test_a_curve_without_enough_minutes_has_no_points_and_no_best(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    assert asked(client) == []
    Replica(connection).serve(8).learn()
    (row,) = asked(client)
    assert row["learnt"]["minutes"] > 0
    assert (row["points"], row["best"], row["prefill_joules_per_token"]) == ([], None, None)
    assert row["prefill_reason"] == "too few minutes at any load"
    default = client.get("/api/v1/curves").json()
    assert dt.datetime.fromisoformat(default["end"]) - dt.datetime.fromisoformat(default["start"]) >= 14 * DAY
    backwards = {"start": MIDNIGHT.isoformat(), "end": (MIDNIGHT - DAY).isoformat()}
    assert client.get("/api/v1/curves", params=backwards).status_code == 422


def test_days_are_kept_longer_than_hours(connection: psycopg.Connection[Any]) -> None:
    replica = Replica(connection).serve(60)
    replica.learn()
    learn_curves(connection, MIDNIGHT + 20 * DAY)
    assert counts(connection, "curve_hour") == counts(connection, "curve_seen") == []
    assert len(counts(connection)) == 1
    learn_curves(connection, MIDNIGHT + 61 * DAY)
    assert counts(connection) == []
