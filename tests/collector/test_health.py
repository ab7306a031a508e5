"""What the agent says about itself: exact counters, honest verdicts, a server that takes no harm."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.fake_clock import START_US, FakeClock
from wattmill_collector.agent import Agent
from wattmill_collector.errors import Broken
from wattmill_collector.health import Family, Health, decimal, exposition, resident_bytes
from wattmill_collector.listener import Listener
from wattmill_collector.log import Throttle
from wattmill_collector.reader import Reader
from wattmill_collector.shipper import Shipper
from wattmill_collector.spool import Spool
from wattmill_collector.systemd import Notifier
from wattmill_collector.transport import Answer
from wattmill_collector.wire import (
    AbsenceReading,
    AcceleratorReading,
    EngineReading,
    HostReading,
    NodeHeader,
    Reading,
)

READINGS: list[Reading] = [
    AcceleratorReading(uuid="GPU-1", model="H100", energy_mj=1_234_567, power_mw=699_999),
    AcceleratorReading(uuid="GPU-2", model="old", power_mw=70_000),
    HostReading(domain="package-0", energy_uj=9_007_199_254_740_993),
    EngineReading(target="http://127.0.0.1:8000/metrics", workload='chat "x"', output_tokens=7),
    AbsenceReading(subject="accelerator", id="GPU-3", reason="gpu_is_lost"),
]


class Fixed:
    name = "nvml"

    def read(self, time_us: int) -> list[Reading]:
        return list(READINGS)

    def close(self) -> None:
        return


class Unreachable:
    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        raise ConnectionRefusedError("refused")


def parts(tmp_path: Path, *, broken: bool = False, wanted: bool = True) -> tuple[FakeClock, Agent, Health, Shipper]:
    clock = FakeClock()
    throttle = Throttle(clock)

    def open_source() -> Fixed:
        if broken:
            raise Broken("Permission denied.")
        return Fixed()

    node = NodeHeader(name="gpu-017", site="ams1")
    spool = Spool.open(tmp_path / "spool", clock=clock, host="test")
    agent = Agent(
        [Reader("nvml", "accelerator", open_source, clock, throttle, wanted=wanted)], spool, clock, node, throttle
    )
    shipper = Shipper(spool, Unreachable(), clock)
    return clock, agent, Health(agent, spool, shipper, clock, node, ["WATTMILL_X is unknown."]), shipper


def values(text: str) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_counters_are_repeated_exactly(tmp_path: Path) -> None:
    _, agent, health, _ = parts(tmp_path)
    agent.tick(START_US)
    shown = values(health.metrics())
    assert shown['wattmill_accelerator_energy_joules_total{accelerator="GPU-1",model="H100"}'] == "1234.567"
    assert shown['wattmill_accelerator_power_watts{accelerator="GPU-1",model="H100"}'] == "699.999"
    assert shown['wattmill_host_energy_joules_total{domain="package-0"}'] == "9007199254.740993"
    engine = 'target="http://127.0.0.1:8000/metrics",workload="chat \\"x\\""'
    assert shown[f"wattmill_engine_output_tokens_total{{{engine}}}"] == "7"
    assert shown['wattmill_agent_absent{subject="accelerator",id="GPU-3",reason="gpu_is_lost"}'] == "1"


def test_what_a_board_does_not_have_is_not_shown_as_zero(tmp_path: Path) -> None:
    _, agent, health, _ = parts(tmp_path)
    agent.tick(START_US)
    assert 'energy_joules_total{accelerator="GPU-2"' not in health.metrics()
    assert "wattmill_engine_input_tokens_total" not in health.metrics()


def test_the_agents_own_cost_and_books_are_among_the_metrics(tmp_path: Path) -> None:
    _, agent, health, _ = parts(tmp_path)
    agent.tick(START_US)
    shown = values(health.metrics())
    assert float(shown["wattmill_agent_cpu_seconds_total"]) > 0
    assert float(shown["wattmill_agent_estimated_energy_joules_total"]) > 0
    assert int(shown["wattmill_agent_resident_memory_bytes"]) == pytest.approx(resident_bytes(), rel=0.2)
    assert shown["wattmill_agent_readings_total"] == "5"
    assert shown["wattmill_agent_spool_pending_batches"] == "1"
    assert shown['wattmill_agent_source_up{source="nvml"}'] == "1"
    assert shown["wattmill_agent_unknown_settings"] == "1"
    assert shown["wattmill_agent_shipper_posts_total"] == "0"


def test_every_family_has_help_and_type_and_stands_once(tmp_path: Path) -> None:
    _, agent, health, _ = parts(tmp_path)
    agent.tick(START_US)
    lines = health.metrics().splitlines()
    helped = [line.split(" ")[2] for line in lines if line.startswith("# HELP ")]
    typed = [line.split(" ")[2] for line in lines if line.startswith("# TYPE ")]
    shown = {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")}
    assert helped == typed
    assert len(set(helped)) == len(helped)
    assert shown == set(helped)
    assert health.metrics().endswith("\n")


def test_exposition_escapes_what_a_label_may_contain() -> None:
    family = Family("x", "gauge", "Help.", [({"a": 'quote " slash \\ line\nend', "b": ""}, "1"), ({}, "2")])
    assert exposition([family]) == '# HELP x Help.\n# TYPE x gauge\nx{a="quote \\" slash \\\\ line\\nend"} 1\nx 2\n'


@pytest.mark.parametrize(("units", "places", "text"), [(0, 3, "0.000"), (5, 3, "0.005"), (12_345, 3, "12.345")])
def test_decimals_are_exact(units: int, places: int, text: str) -> None:
    assert decimal(units, places) == text


def test_a_running_agent_is_ok(tmp_path: Path) -> None:
    _, agent, health, _ = parts(tmp_path)
    agent.tick(START_US)
    verdict = health.verdict()
    assert (verdict.status, verdict.reasons, verdict.warnings) == ("ok", (), ("WATTMILL_X is unknown.",))


def test_a_broken_source_degrades(tmp_path: Path) -> None:
    _, agent, health, _ = parts(tmp_path, broken=True)
    agent.tick(START_US)
    assert (health.verdict().status, health.verdict().reasons) == ("degraded", ("Source nvml: Permission denied.",))
    assert health.answer("/healthz")[0] == 200


def test_a_service_that_is_away_degrades_after_a_while_and_never_restarts_the_agent(tmp_path: Path) -> None:
    clock, agent, health, shipper = parts(tmp_path)
    agent.tick(START_US)
    for _ in range(8):
        clock.advance(shipper.step())
    agent.tick(clock.wall_us())
    assert health.verdict().status == "degraded"
    assert "Shipping failed" in health.verdict().reasons[0]
    assert health.answer("/healthz")[0] == 200


def test_an_agent_without_ticks_is_stuck(tmp_path: Path) -> None:
    clock, agent, health, _ = parts(tmp_path)
    agent.tick(START_US)
    clock.advance(61_000_000)
    status, kind, body = health.answer("/healthz")
    assert (status, kind) == (503, "application/json")
    assert json.loads(body)["status"] == "stuck"
    assert json.loads(body)["reasons"] == ["No tick for 61 s."]


def test_a_spool_that_can_not_write_degrades(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the directory should be")
    _, agent, health, _ = parts(tmp_path)
    agent.tick(START_US)
    assert health.verdict().status == "degraded"
    assert health.verdict().reasons[0].startswith("Spool: ")


@pytest.fixture
def listener() -> Iterator[Listener]:
    def answer(path: str) -> tuple[int, str, str]:
        if path == "/broken":
            raise KeyError("x")
        return 200, "text/plain", f"You asked for {path}\n"

    listener = Listener("127.0.0.1:0", answer)
    listener.start()
    yield listener
    listener.close()


def ask(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while received := connection.recv(4096):
            answer += received
    return answer


def test_the_listener_answers_get_and_head(listener: Listener) -> None:
    answer = ask(listener.port, b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nYou asked for /metrics\n")
    assert ask(listener.port, b"HEAD /metrics HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01", b"400"),
        (b"GET /" + b"a" * 9000, b"400"),
        (b"", b"400"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500"),
    ],
)
def test_the_listener_survives_what_is_no_request(listener: Listener, request_: bytes, status: bytes) -> None:
    assert ask(listener.port, request_).split(b" ")[1] == status
    assert ask(listener.port, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_port_in_use_is_an_oserror(listener: Listener) -> None:
    with pytest.raises(OSError, match="in use"):
        Listener(f"127.0.0.1:{listener.port}", lambda path: (200, "", ""))


def test_a_closed_listener_frees_its_port_and_its_thread() -> None:
    first = Listener("127.0.0.1:0", lambda path: (200, "", ""))
    first.start()
    port = first.port
    first.close()
    assert "listener" not in [thread.name for thread in threading.enumerate()]
    Listener(f"127.0.0.1:{port}", lambda path: (200, "", "")).close()


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
        notifier.ready("reading every 10 s")
        notifier.alive()
        notifier.stopping()
        notifier.close()
        assert [systemd.recv(100) for _ in range(3)] == [
            b"READY=1\nSTATUS=reading every 10 s",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]


def test_without_systemd_nobody_is_told() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    notifier = Notifier({})
    notifier.ready("x")
    notifier.alive()
    assert len(os.listdir("/proc/self/fd")) == descriptors
