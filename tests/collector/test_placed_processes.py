"""A node as it is: engines that are processes of their own, a driver that names their ids, and readings of one tick."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_clock import FakeClock
from support.nvml_standin import NvmlStandin
from wattmill_collector.lineup import line_up
from wattmill_collector.log import Throttle
from wattmill_collector.reader import Reader
from wattmill_collector.settings import EngineSettings, Settings, SourceSettings, SpoolSettings
from wattmill_collector.targets import WorkerSettings
from wattmill_collector.wire import AbsenceReading, AcceleratorReading, EngineReading, Reading

SECOND_US = 1_000_000
START_US = 1_764_030_001 * SECOND_US
FAKE_ENGINE = Path(__file__).parents[1] / "support/fake_engine.py"
# A server with children, as an engine with tensor parallelism has them; it says its port and their ids.
FAMILY = 'n=$1; shift; while [ $n -gt 0 ]; do sleep 600 >/dev/null & echo "$!"; n=$((n-1)); done; exec "$@"'


class Engine:
    """A fake engine in a process of its own, with some children that hold boards."""

    def __init__(self, folder: Path, name: str, children: int, *, waits: bool = False) -> None:
        state = folder / f"{name}.json"
        state.write_text("{}")
        serve = [sys.executable, str(FAKE_ENGINE), "--port", "0", "--state", str(state)]
        command = ["sh", "-c", ("read line; " if waits else "") + FAMILY, name, str(children), *serve]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self.process.pid
        self.children: list[int] = []
        if not waits:
            self.open_port(children)

    def open_port(self, children: int = 0) -> None:
        """Have it serve; its address is known then."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.children = [int(self.process.stdout.readline()) for _ in range(children)]
        port = self.process.stdout.readline().removeprefix("listening on ").strip()
        self.url = f"http://127.0.0.1:{port}/metrics"

    def kill(self) -> None:
        """Only the server: its children go on."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.kill()
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Node:
    """Boards, engines and the readers of an agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gpus = NvmlStandin(folder / "nvml", boards=4, clock_us=START_US)
        self.engines: list[Engine] = []
        self.readers: list[Reader] = []

    def start(self, children: int = 0) -> Engine:
        self.engines.append(Engine(self.folder, f"engine-{len(self.engines)}", children))
        return self.engines[-1]

    def open(self, *engines: EngineSettings, workers: tuple[WorkerSettings, ...] = ()) -> None:
        settings = Settings(
            spool=SpoolSettings(Path("unused")),
            node="gpu-017",
            nvml_library=self.gpus.library,
            engines=engines,
            workers=workers,
            sources=SourceSettings(host="off", ipmi="off"),
        )
        clock = FakeClock()
        self.readers = line_up(settings, clock, Throttle(clock))

    def read(self, second: int) -> list[Reading]:
        self.gpus.set_clock(START_US + second * SECOND_US)
        return [r for reader in self.readers for r in reader.read(START_US + second * SECOND_US)]

    def engines_at(self, second: int) -> dict[str, EngineReading]:
        return {r.target: r for r in self.read(second) if isinstance(r, EngineReading)}

    def uuids(self, *boards: int) -> tuple[str, ...]:
        return tuple(self.gpus.uuid(board) for board in boards)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    one = Node(tmp_path)
    yield one
    for reader in one.readers:
        reader.close()
    for engine in one.engines:
        engine.end()


def test_two_models_on_boards_of_their_own_by_the_children_of_their_servers(node: Node) -> None:
    one, two = node.start(2), node.start(2)
    for board, pid in enumerate((*one.children, *two.children)):
        node.gpus.set_processes(board, [pid])
    node.open(EngineSettings(one.url), EngineSettings(two.url))
    found = node.engines_at(0)
    assert {t: (r.accelerators, r.method, r.confidence) for t, r in found.items()} == {
        one.url: (node.uuids(0, 1), "process", "high"),
        two.url: (node.uuids(2, 3), "process", "high"),
    }
    assert {r.accelerator_shares_ppm for r in found.values()} == {()}


@pytest.mark.parametrize("privileged", [True, False])
def test_three_tenants_of_a_mig_board_and_one_instance_of_somebody_else(node: Node, privileged: bool) -> None:
    tenants = [node.start() for _ in range(3)]
    node.gpus.set_instances(0, "3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb", privileged=privileged)
    node.gpus.set_instance_processes(0, *([one.pid] for one in tenants), [os.getpid()])
    node.gpus.set_power(0, 700_000)
    node.open(*(EngineSettings(one.url) for one in tenants))
    readings = node.read(0)
    found = {r.target: r for r in readings if isinstance(r, EngineReading)}
    assert [found[one.url].accelerator_shares_ppm for one in tenants] == [(428_572,), (285_714,), (142_857,)]
    assert {(r.accelerators, r.share_by, r.confidence) for r in found.values()} == {(node.uuids(0), "mig", "medium")}
    assert [r.uuid for r in readings if isinstance(r, AcceleratorReading)] == list(node.uuids(0, 1, 2, 3))


def test_two_engines_on_one_board_say_how_busy_each_keeps_it(node: Node) -> None:
    one, two = node.start(), node.start()
    node.gpus.set_processes(0, [one.pid, two.pid])
    node.gpus.set_busy(0, [(one.pid, 60), (two.pid, 20)])
    node.open(EngineSettings(one.url), EngineSettings(two.url))
    found = node.engines_at(0)
    assert [(found[e.url].activity_ppm, found[e.url].confidence) for e in (one, two)] == [
        (600_000, "medium"),
        (200_000, "medium"),
    ]
    node.gpus.fail(0, "busy")
    found = node.engines_at(1)
    assert [(found[e.url].activity_ppm, found[e.url].confidence) for e in (one, two)] == [(None, "low")] * 2


def test_a_killed_servers_workers_are_not_the_next_ones_and_are_said(node: Node) -> None:
    old = node.start(2)
    for board, pid in enumerate(old.children):
        node.gpus.set_processes(board, [pid])
    node.open(EngineSettings(old.url), EngineSettings("http://127.0.0.1:1/metrics"))
    assert node.engines_at(0)[old.url].accelerators == node.uuids(0, 1)
    for reader in node.readers:
        reader.close()
    old.kill()
    new = node.start(1)
    node.gpus.set_processes(2, new.children)
    node.open(EngineSettings(new.url))
    said: list[AbsenceReading] = []
    for second in (10, 20, 30):
        readings = node.read(second)
        (engine,) = (r for r in readings if isinstance(r, EngineReading))
        assert (engine.accelerators, engine.method, engine.confidence) == (node.uuids(2), "process", "high")
        said += [r for r in readings if isinstance(r, AbsenceReading)]
    assert [(r.id, r.reason) for r in said] == [(uuid, "no_endpoint") for uuid in node.uuids(0, 1)]
    assert f"process {old.children[0]} (sleep, started" in said[0].detail


def test_the_boards_of_another_nodes_engine(node: Node) -> None:
    local, elsewhere = node.start(1), node.start(2)
    for board, pid in enumerate((*local.children, *elsewhere.children)):
        node.gpus.set_processes(board, [pid])
    node.gpus.set(1, utilisation_percent=90)
    node.gpus.set(2, utilisation_percent=70)
    node.open(EngineSettings(local.url), workers=(WorkerSettings("chat-405b", engine="http://leader:8000/metrics"),))
    found = node.engines_at(0)
    worker = found["http://leader:8000/metrics"]
    assert (worker.accelerators, worker.role, worker.activity_ppm) == (node.uuids(1, 2), "worker", 800_000)
    assert found[local.url].accelerators == node.uuids(0)


def test_what_a_killed_engine_leaves_is_nobodys_from_the_next_tick_on(node: Node) -> None:
    one, two = node.start(1), node.start(1)
    node.gpus.set_processes(0, [*one.children, *two.children])
    node.open(EngineSettings(one.url), EngineSettings(two.url))
    assert {r.method for r in node.engines_at(0).values()} == {"share"}
    one.kill()
    os.kill(one.children.pop(), signal.SIGKILL)
    node.gpus.set_processes(0, two.children)
    (second,) = node.engines_at(1).values()  # the tick that finds it gone
    assert (second.accelerators, second.method, second.confidence) == (node.uuids(0), "process", "high")
    counts = {r.uuid: r.process_count for r in node.read(2) if isinstance(r, AcceleratorReading)}
    assert counts == dict.fromkeys(node.uuids(0), 1) | dict.fromkeys(node.uuids(1, 2, 3), 0)
    lists = node.gpus.calls(0, "processes")
    for second_of in (3, 4, 5):  # a dead engine is no sign again and again
        node.read(second_of)
    assert node.gpus.calls(0, "processes") == lists


def test_a_worker_that_moves_below_a_server_that_stays(node: Node) -> None:
    """As a server that starts one process for each model it loads."""
    other, server = node.start(1), node.start(2)
    old, new = server.children
    node.gpus.set_processes(3, other.children)
    node.gpus.set_processes(0, [old])
    node.open(EngineSettings(other.url), EngineSettings(server.url))
    assert node.engines_at(0)[server.url].accelerators == node.uuids(0)
    server.children.remove(old)
    os.kill(old, signal.SIGKILL)
    node.gpus.set_processes(0, [])
    assert node.engines_at(1)[server.url].accelerators == ()
    node.gpus.set_processes(1, [new])
    node.gpus.set(1, memory_used_bytes=500 * 2**20)  # a context, and nothing loaded yet
    assert node.engines_at(2)[server.url].accelerators == node.uuids(1)
    assert node.engines_at(2)[other.url].accelerators == node.uuids(3)


def test_a_port_that_opens_late_is_read_at_the_tick_after_the_next(node: Node) -> None:
    engine = Engine(node.folder, "late", 0, waits=True)
    node.engines.append(engine)
    node.gpus.set_processes(0, [engine.pid])
    node.open()
    for second in range(35, 40):  # settled: nothing has changed for long
        assert node.engines_at(second) == {}
    engine.open_port()
    assert node.engines_at(40) == {}
    assert node.engines_at(41)[engine.url].accelerators == node.uuids(0)
