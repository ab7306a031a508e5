"""The whole line on real input: a real llama-server, the real nvidia-ml-py, the agent, the service, a real database.

Reads like the walk of one reading. Tokens are compared with the engine's own counters, energy with the meter, to the
unit, with an engine restart and two agent kills in the middle.
"""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import pytest

from support.llama_server import LlamaServer
from support.nvml_standin import NvmlStandin
from support.processes import Agent, Service, eventually


@pytest.fixture
def boards(tmp_path: Path) -> NvmlStandin:
    """Two boards whose energy moves only when the test says so."""
    return NvmlStandin(tmp_path / "nvml", boards=2, clock_us=1_000_000)


def totals(service: Service) -> dict[str, int]:
    start, end = int(time.time()) - 7200, int(time.time()) + 120
    ledger = service.get(f"/api/v1/ledger?start={start}&end={end}")
    workloads = service.get(f"/api/v1/efficiency?start={start}&end={end}&by=workload")
    if not ledger or not workloads:
        return {}
    assert (ledger["closes"], ledger["residual_mj"]) == (True, 0)
    chat = next((row for row in workloads["rows"] if row["group"]["workload"] == "chat"), None)
    tokens = chat["tokens"] if chat else {}
    return {
        "energy_mj": ledger["meter_mj"],
        "grouped_mj": sum(row["energy_mj"] for row in workloads["rows"]),
        **{name: tokens.get(name) or 0 for name in ("input", "cached_input", "output")},
    }


def test_tokens_equal_the_engines_counters_and_energy_equals_the_meter(
    tmp_path: Path, service: Service, boards: NvmlStandin, engine: LlamaServer
) -> None:
    agent = Agent(
        tmp_path,
        {
            "server": service.url,
            "node": "gpu-1",
            "interval": "1s",
            "spool": {"path": str(tmp_path / "spool")},
            "listen": "",
            "discover": False,
            "engines": [{"target": engine.url, "workload": "chat", "team": "search", "accelerators": [0]}],
        },
        boards.env(),
    )
    boards.set_power(0, 300_000)
    boards.set_power(1, 70_000)
    meter_before = [boards.energy(0), boards.energy(1)]
    tokens_before = counters(engine)
    agent.start()
    try:
        eventually(lambda: len((service.get("/api/v1/engines") or {"rows": []})["rows"]) == 1, 60, agent.text())
        boards.advance(4_000_000)
        engine.complete("the mill turns and turns", 12)
        engine.complete("the mill turns and turns, and the water runs", 9)
        _after_a_tick()
        agent.kill()
        boards.advance(3_000_000)
        engine.complete("while nobody looks", 7)
        agent.start()
        _after_a_tick()
        first_life = counters(engine)
        engine.stop()
        engine.start()
        boards.advance(2_000_000)
        engine.complete("a new process begins to count at nothing", 11)
        _after_a_tick()
        agent.kill()
        agent.start()
        boards.advance(5_000_000)
        engine.complete("a new process begins to count at nothing", 5)
        _after_a_tick()
        second_life = counters(engine)
        expected = {
            "energy_mj": boards.energy(0) + boards.energy(1) - sum(meter_before),
            **{k: first_life[k] - tokens_before[k] + second_life[k] for k in first_life},
        }
        expected["grouped_mj"] = expected["energy_mj"]
        assert min(expected["output"], expected["cached_input"]) > 0
        assert expected["energy_mj"] == 14 * 370_000
        eventually(lambda: totals(service) == expected, 60, f"{expected}, last {totals(service)}")
    finally:
        agent.kill()


def counters(engine: LlamaServer) -> dict[str, int]:
    """The engine's own counters, read from its page by the plainest parser there is."""
    with urllib.request.urlopen(engine.url) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines() if line and line[0] != "#"]
    page = {name: int(float(value)) for name, value in lines}
    computed, cached = page["llamacpp:prompt_tokens_total"], page["llamacpp:prompt_tokens_cached_total"]
    output = page["llamacpp:tokens_predicted_total"]
    return {"input": computed + cached, "cached_input": cached, "output": output}


def _after_a_tick() -> None:
    """Two ticks of one second: what was counted before has been read, and lies on disk."""
    time.sleep(2.5)
