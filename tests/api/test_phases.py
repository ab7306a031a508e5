"""Phases on a real database: known watts and joules per token come back from counters, and the energy closes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from fastapi.testclient import TestClient

from support.mill import START_US, Node
from wattmill_api import accounting
from wattmill_api.phases import learn_phases
from wattmill_api.store import phases as store
from wattmill_api.store.ingest import Interner

E, OTHER = "http://e:8000/metrics", "http://e:8001/metrics"
WATTS, PREFILL, DECODE = 350, 80, 400  # mJ per token
START = dt.datetime.fromtimestamp(START_US / 1e6, dt.UTC)
MIDNIGHT = START.replace(hour=0)
DAY = dt.timedelta(days=1)
NOW = START + dt.timedelta(hours=6)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


class Replica:
    """One node with one board and one engine, whose energy is a law; read every minute."""

    def __init__(self, name: str, seed: int, *, target: str = E, workload: str = "chat", beside: str = "") -> None:
        self.node = Node(name, interval_us=60_000_000)
        self.board, self.target, self.beside = f"GPU-{name}", target, beside
        self.node.board(self.board, energy_mj=10**9)
        self.node.engine(target, [self.board], workload=workload, running=30)
        if beside:
            self.node.engine(beside, [self.board], workload="mail", running=30)
        self.rng = np.random.default_rng(seed)
        self.node.tick(seconds=60)

    def serve(self, minutes: int, *, varied: bool = True, noise: float = 0.0) -> Replica:
        for _ in range(minutes):
            uncached, cached, output = (
                int(n) for n in self.rng.integers([5_000, 1_000, 2_000], [50_000, 9_000, 40_000])
            )
            if not varied:
                uncached, cached, output = 30_000, 5_000, 20_000
            exact = WATTS * 60_000 + PREFILL * uncached + DECODE * output
            energy = round(exact * (1 + noise * self.rng.standard_normal()))
            tokens = {self.target: (uncached + cached, cached, output)}
            if self.beside:
                tokens[self.beside] = (5_000, 0, output // 2)
            self.node.tick(seconds=60, energy={self.board: energy}, tokens=tokens)
        return self

    def sleep_until(self, time: dt.datetime) -> Replica:
        self.node.tick(seconds=time.timestamp() - self.node.time_us / 1e6)
        return self

    def post(self, connection: psycopg.Connection[Any]) -> None:
        self.node.post(connection, Interner())
        while accounting.roll_up(connection):
            pass


def asked(client: TestClient, **parameters: Any) -> list[dict[str, Any]]:
    whole = {"start": (MIDNIGHT - DAY).isoformat(), "end": (MIDNIGHT + 9 * DAY).isoformat()}
    response = client.get("/api/v1/phases", params={**whole, **parameters})
    assert response.status_code == 200, response.text
    return list(response.json()["rows"])


def spent(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT sum(energy_mj)::bigint FROM ledger_minute WHERE placement_id <> 0").fetchone()
    assert row is not None
    return int(row[0])


def assert_closes(energy: dict[str, Any]) -> None:
    known = [energy[name] for name in ("standing_mj", "dynamic_mj", "unsplit_mj") if energy[name] is not None]
    assert sum(known) == energy["total_mj"]
    if energy["prefill_mj"] is not None:
        assert energy["prefill_mj"] + energy["decode_mj"] == energy["dynamic_mj"]


def test_known_watts_and_joules_per_token_come_back(connection: psycopg.Connection[Any], client: TestClient) -> None:
    Replica("n1", 1).serve(180).post(connection)
    assert learn_phases(connection, NOW) == "1 workload-days learned"
    [row] = asked(client)
    assert row["group"] == {"workload": "chat", "model": "llama", "team": None, "accelerator_model": "H100"}
    assert (row["time"], row["identifiable"], row["reason"]) == (MIDNIGHT.isoformat()[:-6] + "Z", True, None)
    fit = row["fit"]
    assert fit["standing_watts_per_replica"]["value"] == pytest.approx(WATTS, rel=1e-6)
    assert fit["prefill_mj_per_token"]["value"] == pytest.approx(PREFILL, rel=1e-6)
    assert fit["decode_mj_per_token"]["value"] == pytest.approx(DECODE, rel=1e-6)
    assert (fit["minutes"], fit["wild_minutes"], fit["window"]) == (180, 0, "1d")
    assert fit["r_squared"] == pytest.approx(1)
    energy, tokens = row["energy"], row["tokens"]
    assert_closes(energy)
    assert energy["total_mj"] == spent(connection)
    assert energy["standing_mj"] == pytest.approx(180 * 60_000 * WATTS, rel=1e-6)
    assert energy["prefill_mj"] == pytest.approx(tokens["uncached_input"] * PREFILL, rel=1e-6)
    assert energy["decode_mj"] == pytest.approx(tokens["output"] * DECODE, rel=1e-6)
    assert energy["unsplit_mj"] == 0
    assert row["cached_input_savings_mj"] == pytest.approx(tokens["cached_input"] * PREFILL, rel=1e-6)
    assert row["simulated"] is False


def test_noise_has_its_errors(connection: psycopg.Connection[Any], client: TestClient) -> None:
    Replica("n1", 2).serve(240, noise=0.03).post(connection)
    learn_phases(connection, NOW)
    [row] = asked(client)
    for name, truth in (
        ("standing_watts_per_replica", WATTS),
        ("prefill_mj_per_token", PREFILL),
        ("decode_mj_per_token", DECODE),
    ):
        found = row["fit"][name]
        assert found["standard_error"] > 0
        assert abs(found["value"] - truth) < 3 * found["standard_error"]
    assert row["fit"]["scatter_ratio"] == pytest.approx(0.03, rel=0.3)
    assert row["cached_input_savings_error_mj"] > 0
    assert_closes(row["energy"])


def test_a_workload_on_two_nodes_is_one_row_and_late_data_learns_its_day_again(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    Replica("n1", 3).serve(70).post(connection)
    learn_phases(connection, NOW)
    [alone] = asked(client)
    assert alone["reason"] == "too few minutes"  # 70 minutes, but in 7 blocks only
    Replica("n2", 4).serve(70).post(connection)
    assert learn_phases(connection, NOW) == "1 workload-days learned"
    [both] = asked(client)
    assert (both["identifiable"], both["fit"]["minutes"]) == (True, 140)
    assert both["fit"]["standing_watts_per_replica"]["value"] == pytest.approx(WATTS, rel=1e-6)
    assert both["energy"]["total_mj"] == spent(connection) > alone["energy"]["total_mj"]
    assert learn_phases(connection, NOW) == "0 workload-days learned"


def test_a_steady_day_is_fitted_with_the_days_before_it(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    replica = Replica("n1", 5).serve(180).sleep_until(MIDNIGHT + DAY).serve(180, varied=False)
    replica.post(connection)
    assert learn_phases(connection, NOW + DAY) == "2 workload-days learned"
    first, second = asked(client)
    assert (first["fit"]["window"], second["fit"]["window"]) == ("1d", "7d")
    assert (second["identifiable"], second["fit"]["minutes"]) == (True, 360)
    assert second["energy"]["standing_mj"] == pytest.approx(180 * 60_000 * WATTS, rel=1e-5)
    assert_closes(second["energy"])
    [both] = asked(client, step="none")
    for name, value in both["energy"].items():
        assert value == first["energy"][name] + second["energy"][name], name
    assert both["energy"]["total_mj"] == spent(connection)
    assert both["cached_input_savings_mj"] == first["cached_input_savings_mj"] + second["cached_input_savings_mj"]


def test_a_late_day_changes_the_fit_of_the_steady_days_after_it(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    late = Replica("n1", 6).serve(180)
    Replica("n2", 7).sleep_until(MIDNIGHT + DAY).serve(180, varied=False).post(connection)
    learn_phases(connection, NOW + DAY)
    [steady] = [row for row in asked(client) if row["time"].startswith(f"{MIDNIGHT + DAY:%Y-%m-%d}")]
    assert (steady["identifiable"], steady["reason"], steady["fit"]) == (False, "load does not vary", None)
    energy = steady["energy"]
    assert (energy["standing_mj"], energy["prefill_mj"], energy["dynamic_mj"]) == (None, None, None)
    assert energy["unsplit_mj"] == energy["total_mj"] > 0
    assert steady["cached_input_savings_mj"] is None
    late.post(connection)
    learn_phases(connection, NOW + DAY)
    [_, steady] = asked(client)
    assert (steady["identifiable"], steady["fit"]["window"]) == (True, "7d")


def test_without_the_cached_part_nothing_is_split(connection: psycopg.Connection[Any], client: TestClient) -> None:
    Replica("n1", 8).serve(180).post(connection)
    connection.execute("UPDATE engine_minute SET cached_input_tokens = NULL, computed_input_tokens = NULL")
    learn_phases(connection, NOW)
    [row] = asked(client)
    assert row["reason"] == "no cached/uncached split known"
    assert row["energy"]["unsplit_mj"] == row["energy"]["total_mj"] == spent(connection)
    assert (row["tokens"]["cached_input"], row["cached_input_savings_mj"]) == (None, None)


def test_computed_input_is_preferred_to_input_less_cached(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    """Preempted requests are computed twice: the counter of computed tokens knows, the difference does not."""
    Replica("n1", 9).serve(180).post(connection)
    connection.execute("UPDATE engine_minute SET computed_input_tokens = 2 * (input_tokens - cached_input_tokens)")
    learn_phases(connection, NOW)
    [row] = asked(client)
    assert row["fit"]["prefill_mj_per_token"]["value"] == pytest.approx(PREFILL / 2, rel=1e-6)


def test_shares_of_one_board_are_no_measurement(connection: psycopg.Connection[Any], client: TestClient) -> None:
    Replica("n1", 10, beside=OTHER).serve(180).post(connection)
    learn_phases(connection, NOW)
    chat, mail = asked(client)
    assert (chat["group"]["workload"], mail["group"]["workload"]) == ("chat", "mail")
    reason = "its minutes are partly covered, estimated, or of shared accelerators"
    assert (chat["reason"], mail["reason"]) == (reason, reason)
    assert chat["energy"]["total_mj"] + mail["energy"]["total_mj"] == spent(connection)


def test_a_lost_minute_is_left_out_of_the_fit_and_not_of_the_energy(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    replica = Replica("n1", 11).serve(90)
    replica.node.tick(seconds=60, energy={replica.board: 10**9}, lost=True)
    replica.node.tick(seconds=30, lost=True)
    replica.node.tick(seconds=30)
    replica.serve(90).post(connection)
    learn_phases(connection, NOW)
    [row] = asked(client)
    assert row["fit"]["standing_watts_per_replica"]["value"] == pytest.approx(WATTS, rel=1e-6)
    assert row["fit"]["minutes"] <= 180
    assert row["energy"]["total_mj"] == spent(connection)
    assert_closes(row["energy"])


def test_what_a_run_has_no_time_for_comes_first_in_the_next(connection: psycopg.Connection[Any]) -> None:
    Replica("n1", 12).serve(70).sleep_until(MIDNIGHT + DAY).serve(70).post(connection)
    now = NOW + DAY
    assert learn_phases(connection, now, most_seconds=0) == "1 workload-days learned, 1 left for the next run"
    assert learn_phases(connection, now, most_seconds=0) == "1 workload-days learned"
    assert learn_phases(connection, now) == "0 workload-days learned"


def test_a_day_that_is_not_there_any_more_is_forgotten(connection: psycopg.Connection[Any], client: TestClient) -> None:
    Replica("n1", 13).serve(130).post(connection)
    learn_phases(connection, NOW)
    assert len(asked(client)) == 1
    connection.execute("DELETE FROM ledger_minute")
    connection.execute("DELETE FROM ledger_hour")
    connection.execute("DELETE FROM engine_minute")
    assert learn_phases(connection, NOW) == "1 workload-days learned"
    assert asked(client) == []
    assert learn_phases(connection, NOW) == "0 workload-days learned"


def test_an_older_day_is_looked_at_in_its_turn(connection: psycopg.Connection[Any]) -> None:
    Replica("n1", 14).serve(130).post(connection)
    later = START + 20 * DAY
    runs = [learn_phases(connection, later + dt.timedelta(minutes=10 * run)) for run in range(24)]
    assert sorted(runs) == ["0 workload-days learned"] * 23 + ["1 workload-days learned"]


def test_the_newest_price_of_a_computed_token(connection: psycopg.Connection[Any]) -> None:
    Replica("n1", 15).serve(180, noise=0.02).post(connection)
    Replica("n2", 16, target=OTHER, workload="mail").serve(180, varied=False).post(connection)
    learn_phases(connection, NOW)
    [(workload_id, (price, error))] = store.latest(connection, NOW).items()
    name = connection.execute("SELECT name FROM workload WHERE workload_id = %s", [workload_id]).fetchone()
    assert name == ("chat",)
    assert abs(price - PREFILL) < 3 * error
    assert store.latest(connection, MIDNIGHT - dt.timedelta(seconds=1)) == {}
    assert store.latest(connection, NOW + 30 * DAY) == {}


def test_questions_are_checked_and_filtered(connection: psycopg.Connection[Any], client: TestClient) -> None:
    Replica("n1", 17).serve(130).post(connection)
    learn_phases(connection, NOW)
    assert len(asked(client, workload="chat", model="llama", accelerator_model="H100")) == 1
    assert asked(client, workload="mail") == asked(client, model="x") == asked(client, team="x") == []
    assert asked(client, end=MIDNIGHT.isoformat()) == []
    response = client.get("/api/v1/phases", params={"step": "1h"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "step"
