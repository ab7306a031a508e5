"""Engines and workers from tick to tick: when they are placed, how busy they are, what part they play."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from support.fake_engine import FakeEngine
from support.process_tree import ProcessTree
from wattmill_collector.placement import Board, Seat
from wattmill_collector.settings import EngineSettings
from wattmill_collector.sources.engine import EngineSource
from wattmill_collector.sources.engine_placing import Hardware, Placer
from wattmill_collector.targets import WorkerSettings
from wattmill_collector.wire import AbsenceReading, EngineReading, Reading, decode_reading, encode_reading

SECOND_US = 1_000_000
START_US = 1_764_030_001 * SECOND_US  # one second after a minute's edge


class Node:
    """Boards whose processes and load a test sets, and what was asked for."""

    def __init__(self, tree: ProcessTree) -> None:
        self.boards: list[Board] = []
        self.load: dict[str, Mapping[int, int] | None] = {}
        self.asked: list[str] = []
        self.tree = tree
        self.placer = Placer(Hardware(lambda: self.boards, busy=self._busy), tree.table)

    def _busy(self, board: str) -> Mapping[int, int] | None:
        self.asked.append(board)
        return self.load.get(board)

    def seat(self, pid: int) -> Seat:
        return Seat(f"e{pid}", listener=self.tree.add(pid))

    def place(self, second: int, *seats: Seat) -> list[int | None]:
        """The activity of each at this tick."""
        self.placer.place(seats, frozenset(), START_US + second * SECOND_US, stale=False)
        return [self.placer.activity_ppm(seat.target) for seat in seats]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(ProcessTree(tmp_path))


def test_engines_of_one_board_say_how_busy_they_keep_it(node: Node) -> None:
    one, two = node.seat(20), node.seat(30)
    node.tree.add(21, 20)
    node.boards = [Board("GPU-a", 0, (20, 21, 30))]
    node.load = {"GPU-a": {20: 10, 21: 25, 30: 40, 99: 20}}
    assert node.place(0, one, two) == [350_000, 400_000]
    node.load = {"GPU-a": {}}  # nothing ran
    assert node.place(1, one, two) == [0, 0]
    node.load = {"GPU-a": None}  # not known
    assert node.place(2, one, two) == [None, None]
    node.load = {"GPU-a": {20: 80, 21: 70}}
    assert node.place(3, one, two) == [1_000_000, 0]


def test_the_mean_over_the_boards_of_an_engine(node: Node) -> None:
    one, two = node.seat(20), node.seat(30)
    node.boards = [Board("GPU-a", 0, (20, 30)), Board("GPU-b", 1, (20,))]
    node.load = {"GPU-a": {20: 50, 30: 50}, "GPU-b": {20: 100}}
    assert node.place(0, one, two) == [750_000, 500_000]


def test_nobody_asks_for_the_load_of_a_board_with_one_engine(node: Node) -> None:
    node.boards = [Board("GPU-a", 0, (20,)), Board("GPU-b", 1, (30,))]
    assert node.place(0, node.seat(20), node.seat(30)) == [None, None]
    assert node.asked == []


def test_a_foreign_process_costs_a_part_at_its_second_listing_and_is_said(node: Node) -> None:
    one, two = node.seat(20), node.seat(30)
    node.boards = [Board("GPU-a", 0, (20,)), Board("GPU-b", 1, (30,))]
    node.place(0, one, two)
    node.tree.add(99, name="train")
    node.boards[0] = Board("GPU-a", 0, (20, 99))
    seen = {}
    for second in range(1, 40):
        node.place(second, one, two)
        said = node.placer.absences(START_US + second * SECOND_US)
        reasons = [(r.id, r.reason) for r in said if isinstance(r, AbsenceReading)]
        seen[second] = (node.placer.of("e20").shares_ppm, reasons)
    changed = [second for second in range(2, 40) if seen[second][0] != seen[second - 1][0]]
    assert changed == [11]  # seen on the list at 1, and still there at 11
    assert seen[11] == ((500_000,), [("GPU-a", "no_endpoint")])
    assert node.placer.of("e20").confidence == "low"
    node.boards[0] = Board("GPU-a", 0, (20,))
    node.place(41, one, two)
    assert node.placer.of("e20").shares_ppm == ()


def test_placing_anew_is_rare_while_nothing_changes(node: Node) -> None:
    one = node.seat(20)
    node.boards = [Board("GPU-a", 0, (20,))]
    looked = [node.placer.place((one,), frozenset(), START_US + s * SECOND_US, stale=False) for s in range(61)]
    assert [second for second, anew in enumerate(looked) if anew] == [0, 30, 60]
    assert node.placer.place((one, node.seat(30)), frozenset(), START_US + 61 * SECOND_US, stale=False)


# --- through the engine source ---

Make = Callable[..., EngineSource]


@pytest.fixture
def source() -> Iterator[Make]:
    made: list[EngineSource] = []

    def make(*engines: EngineSettings, boards: Sequence[Board] = (), **options: object) -> EngineSource:
        made.append(EngineSource(engines, interval_us=SECOND_US, boards=lambda: boards, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine("vllm", process_start=1_764_030_000.5) as one:
        yield one


def engines(readings: list[Reading]) -> list[EngineReading]:
    return [r for r in readings if isinstance(r, EngineReading)]


def as_sent(reading: Reading) -> Reading:
    return decode_reading(json.loads(json.dumps(encode_reading(reading))))


BOARDS = (Board("GPU-a", 0), Board("GPU-b", 1))


def test_what_is_configured_is_what_is_said(source: Make, engine: FakeEngine) -> None:
    settings = EngineSettings(engine.url, "auto", "chat", "nlp", ("0", "1"), "qwen", "prefill", (250_000, 500_000))
    (reading,) = engines(source(settings, boards=BOARDS).read(START_US))
    assert (reading.model, reading.role, reading.method) == ("qwen", "prefill", "configured")
    assert (reading.accelerators, reading.accelerator_shares_ppm) == (("GPU-a", "GPU-b"), (250_000, 500_000))
    assert (reading.share_by, reading.confidence) == ("configured", "high")
    assert as_sent(reading) == reading


def test_several_engines_behind_one_target_divide_what_is_its_alone(source: Make) -> None:
    with FakeEngine("vllm", process_start=1_764_030_000.5, ranks=3) as ranks:
        settings = EngineSettings(ranks.url, accelerators=("0",), shares_ppm=(500_000,))
        found = engines(source(settings, boards=BOARDS).read(START_US))
        whole = engines(source(EngineSettings(ranks.url, accelerators=("0",)), boards=BOARDS).read(START_US))
    assert [r.accelerator_shares_ppm for r in found] == [(166_667,), (166_667,), (166_666,)]
    assert [r.accelerator_shares_ppm for r in whole] == [()] * 3


def test_a_configured_front_end_holds_nothing(source: Make, engine: FakeEngine) -> None:
    boards = (Board("GPU-a", 0, (os.getpid(),)),)
    with FakeEngine("vllm", process_start=1_764_030_000.7) as router:
        one = source(EngineSettings(engine.url), EngineSettings(router.url, role="frontend"), boards=boards)
        found = {r.target: (r.role, r.accelerators, r.method) for r in engines(one.read(START_US))}
    assert found == {engine.url: ("", ("GPU-a",), "process"), router.url: ("frontend", (), "")}


def test_a_kind_that_computes_nothing_is_a_front_end(source: Make) -> None:
    page = b'dynamo_frontend_requests_total{model="m"} 1\ndynamo_frontend_output_tokens_total{model="m"} 5\n'
    with FakeEngine("vllm") as front:
        front.body = page
        one = source(EngineSettings(front.url), boards=(Board("GPU-a", 0, (os.getpid(),)),))
        (reading,) = engines(one.read(START_US))
    assert (reading.role, reading.accelerators, reading.output_tokens) == ("frontend", (), 5)


def test_the_load_of_several_engines_behind_one_target_is_counted_once(source: Make, engine: FakeEngine) -> None:
    boards = (Board("GPU-a", 0, (os.getpid(),)),)
    with FakeEngine("vllm", process_start=1_764_030_000.7, ranks=3) as ranks:
        one = source(*(EngineSettings(e.url) for e in (engine, ranks)), boards=boards, busy=lambda _: {os.getpid(): 60})
        found = engines(one.read(START_US))
    assert [r.activity_ppm for r in found] == [600_000, 200_000, 200_000, 200_000]
    assert [r.confidence for r in found] == ["medium", "low", "low", "low"]


def test_workers_are_said_with_how_busy_their_boards_are(source: Make) -> None:
    workers = [
        WorkerSettings("chat-405b", "nlp", "llama", "http://leader:8000/metrics", ("0", "1")),
        WorkerSettings("rank", accelerators=("GPU-c",)),
    ]
    one = source(boards=BOARDS, workers=workers, utilisation=lambda: {"GPU-a": 0.9, "GPU-b": 0.5})
    first, second = engines(one.read(START_US))
    assert first == EngineReading(
        target="http://leader:8000/metrics",
        series="worker 0",
        model="llama",
        workload="chat-405b",
        team="nlp",
        accelerators=("GPU-a", "GPU-b"),
        method="configured",
        confidence="high",
        role="worker",
        activity_ppm=700_000,
    )
    assert (second.target, second.accelerators, second.activity_ppm) == ("worker:rank", ("GPU-c",), None)
    assert as_sent(first) == first


def test_a_worker_takes_the_boards_in_use_that_no_engine_has(source: Make, engine: FakeEngine) -> None:
    boards = (Board("GPU-a", 0, (os.getpid(),)), Board("GPU-b", 1, (1,)), Board("GPU-c", 2, ()))
    one = source(EngineSettings(engine.url), boards=boards, workers=[WorkerSettings("chat-405b")])
    found = {r.role: (r.accelerators, r.method, r.confidence) for r in engines(one.read(START_US))}
    assert found == {"": (("GPU-a",), "process", "high"), "worker": (("GPU-b",), "exclusive", "medium")}


def test_two_workers_of_one_engine_have_keys_of_their_own(source: Make) -> None:
    workers = [WorkerSettings("chat", accelerators=("0",)), WorkerSettings("chat", accelerators=("1",))]
    found = engines(source(boards=BOARDS, workers=workers).read(START_US))
    assert [(r.target, r.series) for r in found] == [("worker:chat", "worker 0"), ("worker:chat", "worker 1")]


def test_a_workers_board_that_is_not_here_is_an_absence(source: Make) -> None:
    one = source(boards=BOARDS, workers=[WorkerSettings("chat", accelerators=("7",))])
    said = [r for r in one.read(START_US) if isinstance(r, AbsenceReading)]
    assert [(r.subject, r.id, r.reason) for r in said] == [("engine", "worker:chat", "accelerator_not_found")]
    assert [r for r in one.read(START_US + SECOND_US) if isinstance(r, AbsenceReading)] == []


def test_an_engine_whose_part_is_not_known_says_so(source: Make, engine: FakeEngine) -> None:
    boards = (Board("GPU-a", 0, (os.getpid(),), ()),)  # MIG is on, and the driver shows no instance
    readings = source(EngineSettings(engine.url), boards=boards).read(START_US)
    said = [(r.id, r.reason) for r in readings if isinstance(r, AbsenceReading)]
    assert said == [(engine.url, "placement_unknown")]
    assert [r.accelerators for r in engines(readings)] == [()]


@pytest.mark.parametrize(("ranks", "count", "confidence"), [(1, 2, "high"), (2, 1, "low"), (2, 2, "low")])
def test_what_several_engines_behind_one_target_hold_each_is_a_guess(
    source: Make, ranks: int, count: int, confidence: str
) -> None:
    with FakeEngine("vllm", ranks=ranks) as behind:
        found = engines(
            source(EngineSettings(behind.url, accelerators=("0", "1")[:count]), boards=BOARDS).read(START_US)
        )
    assert [(r.accelerators, r.method, r.confidence) for r in found] == [
        (("GPU-a", "GPU-b")[:count], "configured", confidence)
    ] * ranks


def test_how_busy_they_are_together_does_not_say_which_board_is_whose(source: Make, engine: FakeEngine) -> None:
    boards = tuple(Board(name, nth, (os.getpid(),)) for nth, name in enumerate(("GPU-a", "GPU-b")))
    with FakeEngine("vllm", process_start=1_764_030_000.7, ranks=2) as ranks:
        one = source(*(EngineSettings(e.url) for e in (engine, ranks)), boards=boards, busy=lambda _: {os.getpid(): 60})
        found = engines(one.read(START_US))
    assert [r.activity_ppm for r in found] == [600_000, 300_000, 300_000]
    assert [r.confidence for r in found] == ["medium", "low", "low"]
