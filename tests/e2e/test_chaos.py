"""Killing the agent, the service and the database at random changes no total.

A seeded monkey sends kill -9 to agent and service and stops the database the hard way, while two boards burn energy
and two engines count tokens. When it rests, the ledger must hold what the counters hold, to the unit. Longer runs:
WATTMILL_TEST_CHAOS_SECONDS=600 WATTMILL_TEST_CHAOS_SEED=7 pytest tests/e2e/test_chaos.py
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from support import postgres as servers
from support.fake_engine import FakeEngine
from support.nvml_standin import NvmlStandin
from support.postgres import Postgres
from support.processes import Agent, Service, eventually
from wattmill_api import migrate

SECONDS = float(os.environ.get("WATTMILL_TEST_CHAOS_SECONDS", "45"))
SEED = int(os.environ.get("WATTMILL_TEST_CHAOS_SEED", "20261125"))


@pytest.mark.timeout(SECONDS + 300)
def test_kills_change_no_total(tmp_path: Path, own_postgres: Postgres) -> None:
    if type(own_postgres).__name__ == "Given":
        pytest.skip("a given database server is not ours to stop; CI runs its own")
    rng = random.Random(SEED)
    database = servers.create_database(own_postgres)
    migrate.migrate(own_postgres.url(database))
    boards = NvmlStandin(tmp_path / "nvml", boards=2, clock_us=1_000_000)
    boards.set_power(0, 654_321)
    boards.set_power(1, 98_765)
    service = Service(tmp_path, own_postgres.url(database))
    with (
        FakeEngine("vllm", process_start=time.time() - 3600) as one,
        FakeEngine("llamacpp", process_start=time.time() - 60) as two,
    ):
        agent = Agent(
            tmp_path,
            {
                "server": service.url,
                "node": "chaos-1",
                "interval": "1s",
                "spool": {"path": str(tmp_path / "spool")},
                "listen": "",
                "discover": False,
                "engines": [
                    {"target": one.url, "workload": "one", "accelerators": [0]},
                    {"target": two.url, "workload": "two", "accelerators": [1]},
                ],
            },
            boards.env(),
        )
        service.start().ready()
        agent.start()
        try:
            eventually(lambda: len((service.get("/api/v1/engines") or {"rows": []})["rows"]) == 2, 60, agent.text())
            before = boards.energy(0) + boards.energy(1)
            kills = _torment(rng, own_postgres, service, agent, boards, (one, two))
            time.sleep(2.5)  # two ticks: everything counted has been read
            agent.stop()
            agent.start()  # ships what is left
            expected = {
                "meter_mj": boards.energy(0) + boards.energy(1) - before,
                "one": (one.state.input, one.state.cached, one.state.output),
                "two": (two.state.input, two.state.cached, two.state.output),
            }
            eventually(lambda: _totals(service) == expected, 120, f"{expected} after {kills}, last {_totals(service)}")
            assert min(kills.values()) >= 1, kills
        finally:
            agent.kill()
            service.kill()


def _torment(
    rng: random.Random,
    server: Postgres,
    service: Service,
    agent: Agent,
    boards: NvmlStandin,
    engines: tuple[FakeEngine, FakeEngine],
) -> dict[str, int]:
    victims = ["agent", "service", "database"]
    kills = dict.fromkeys(victims, 0)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or min(kills.values()) < 1:
        for _ in range(rng.randrange(5, 25)):
            boards.advance(rng.randrange(50_000, 150_000))
            engine = rng.choice(engines)
            cached = rng.randrange(40)
            engine.add(input_=cached + rng.randrange(200), cached=cached, output=rng.randrange(300))
            time.sleep(0.1)
        victim = min(victims, key=kills.__getitem__) if rng.random() < 0.3 else rng.choice(victims)
        kills[victim] += 1
        pause = rng.random() * 2
        if victim == "agent":
            agent.kill()
            time.sleep(pause)
            agent.start()
        elif victim == "service":
            service.kill()
            time.sleep(pause)
            service.start()
        else:
            server.stop("immediate")
            time.sleep(pause)
            server.start()
    return kills


def _totals(service: Service) -> dict[str, Any]:
    start, end = int(time.time()) - 7200, int(time.time()) + 120
    ledger = service.get(f"/api/v1/ledger?start={start}&end={end}")
    workloads = service.get(f"/api/v1/efficiency?start={start}&end={end}&by=workload")
    if not ledger or not workloads:
        return {}
    assert ledger["closes"] is True
    rows = {row["group"]["workload"]: row["tokens"] for row in workloads["rows"]}
    tokens = {
        name: tuple(rows.get(name, {}).get(kind) or 0 for kind in ("input", "cached_input", "output"))
        for name in ("one", "two")
    }
    return {"meter_mj": ledger["meter_mj"], **tokens}
