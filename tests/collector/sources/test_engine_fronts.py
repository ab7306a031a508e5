"""Routers and balancers that pass `/metrics` on to an engine: taken for what they are, and told."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest

from support.fake_engine import FakeEngine
from wattmill_collector.placement import Board
from wattmill_collector.settings import EngineSettings
from wattmill_collector.sources.engine import EngineSource
from wattmill_collector.sources.engine_fronts import TURNS_US
from wattmill_collector.wire import AbsenceReading, EngineReading, Reading

SECOND_US = 1_000_000
START_US = 1_764_030_001 * SECOND_US  # one second after a minute's edge
BOARDS = (Board("GPU-a", 0), Board("GPU-b", 1))


@pytest.fixture
def front() -> Iterator[FakeEngine]:
    """What answers with the page of whichever engine the test writes into its body."""
    with FakeEngine("vllm") as one:
        yield one


@pytest.fixture
def engines() -> Iterator[list[FakeEngine]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakeEngine("vllm", process_start=1_764_020_000.25 + nth)) for nth in range(2)]


def told(readings: list[Reading], target: str) -> list[str]:
    return [r.reason for r in readings if isinstance(r, AbsenceReading) and r.id == target]


def read(readings: list[Reading], target: str) -> list[int | None]:
    return [r.output_tokens for r in readings if isinstance(r, EngineReading) and r.target == target]


def source(*engines: EngineSettings) -> EngineSource:
    return EngineSource(engines, interval_us=SECOND_US, boards=lambda: BOARDS)


def on_board(engine: FakeEngine, board: str = "GPU-a") -> EngineSettings:
    return EngineSettings(engine.url, accelerators=(board,))


def test_a_balancer_whose_workers_take_turns_is_not_read_from_the_first_that_comes_back(
    front: FakeEngine, engines: list[FakeEngine]
) -> None:
    one = source(EngineSettings(front.url))
    seen, reasons = [], []
    for tick in range(6):
        engines[tick % 2].add(output=10)
        front.body = engines[tick % 2].page()
        readings = one.read(START_US + tick * SECOND_US)
        seen += read(readings, front.url)
        reasons += told(readings, front.url)
    assert seen == [10, 10]  # each the first of its process: nothing was counted between them
    assert reasons == ["several_processes"]
    one.close()


def test_it_is_read_again_when_one_process_has_answered_for_long_enough(
    front: FakeEngine, engines: list[FakeEngine]
) -> None:
    one = source(EngineSettings(front.url))
    for tick, nth in enumerate((0, 1, 0)):
        front.body = engines[nth].page()
        one.read(START_US + tick * SECOND_US)
    quiet_us = START_US + 2 * SECOND_US + TURNS_US
    assert read(one.read(quiet_us - SECOND_US), front.url) == []
    assert read(one.read(quiet_us), front.url) == [0]
    one.close()


def test_an_engine_that_is_started_again_and_again_is_no_balancer(engines: list[FakeEngine]) -> None:
    engine = engines[0]
    one = source(EngineSettings(engine.url))
    for tick in range(80):
        engine.restart(1_764_020_100.5 + tick)
        engine.add(output=tick)
        readings = one.read(START_US + tick * SECOND_US)
        assert (read(readings, engine.url), told(readings, engine.url)) == ([tick], [])
    one.close()


@pytest.mark.parametrize("front_first", [False, True])
def test_a_front_that_shows_an_engines_page_is_told_and_not_read_wherever_it_stands(
    front: FakeEngine, engines: list[FakeEngine], front_first: bool
) -> None:
    engine = engines[0]
    both = [on_board(engine), EngineSettings(front.url)]
    one = source(*(reversed(both) if front_first else both))
    engine.add(output=10)
    front.body = engine.page()
    first = one.read(START_US)
    assert (told(first, front.url), read(first, front.url)) == (["same_page"], [])
    assert (told(first, engine.url), read(first, engine.url)) == ([], [10])
    # It was asked a little later, and stays what it was: nothing new to say before the minute's edge.
    engine.add(output=10)
    front.body = engine.page().replace(b" 20.0", b" 23.0")
    second = one.read(START_US + SECOND_US)
    assert (told(second, front.url), read(second, front.url)) == ([], [])
    assert told(one.read(START_US + 59 * SECOND_US), front.url) == ["same_page"]
    one.close()


def test_of_two_names_of_one_engine_on_no_known_board_the_later_is_told(
    front: FakeEngine, engines: list[FakeEngine]
) -> None:
    one = source(EngineSettings(engines[0].url), EngineSettings(front.url))
    engines[0].add(output=10)
    front.body = engines[0].page()
    readings = one.read(START_US)
    assert (told(readings, engines[0].url), told(readings, front.url)) == ([], ["same_page"])
    assert read(readings, front.url) == [10]  # which of the two it is is not known
    one.close()


def test_engines_that_only_look_alike_are_engines_each(engines: list[FakeEngine]) -> None:
    """Started in the same hundredth of a second by one script, for one model: tokens, or boards, tell them apart."""
    start = engines[0].state.process_start
    engines[1].state = dataclasses.replace(engines[1].state, process_start=start)
    unplaced = source(*(EngineSettings(engine.url) for engine in engines))
    assert not any(isinstance(r, AbsenceReading) for r in unplaced.read(START_US))  # neither has counted anything
    for nth, engine in enumerate(engines):
        engine.add(output=10 + nth)
    assert not any(isinstance(r, AbsenceReading) for r in unplaced.read(START_US + SECOND_US))
    unplaced.close()
    engines[0].add(output=1)
    placed = source(on_board(engines[0]), on_board(engines[1], "GPU-b"))
    readings = placed.read(START_US)
    assert not any(isinstance(r, AbsenceReading) for r in readings)
    assert [read(readings, engine.url) for engine in engines] == [[11], [11]]
    placed.close()


def without_start(engine: FakeEngine) -> bytes:
    """Its page as several API servers give it: of which process it is stands nowhere."""
    return b"".join(line for line in engine.page().splitlines(True) if not line.startswith(b"process_start"))


@pytest.mark.parametrize(("is_tied", "at"), [(True, 0), (False, 4)])
def test_without_a_process_start_a_copy_is_known_by_totals_that_both_show(
    front: FakeEngine, engines: list[FakeEngine], is_tied: bool, at: int
) -> None:
    """One is enough beside an engine on boards; where neither is on any it takes three: 10, 20 and 40."""
    engine = engines[0]
    one = source(on_board(engine) if is_tied else EngineSettings(engine.url), EngineSettings(front.url))
    seen, reasons = [], []
    for tick, (counted, ahead) in enumerate([(10, 0), (0, 0), (10, 0), (10, 3), (10, 0), (10, 3), (10, 0)]):
        engine.add(output=counted)
        engine.body = without_start(engine)
        front.body = engine.body.replace(b" %d.0" % engine.state.output, b" %d.0" % (engine.state.output + ahead))
        readings = one.read(START_US + tick * SECOND_US)
        engine.body = None
        seen += read(readings, front.url)
        reasons.append(told(readings, front.url))
    assert [tick for tick, said in enumerate(reasons) if said] == [at]
    assert reasons[at] == ["same_page"]
    assert seen == ([] if is_tied else [10, 10, 20, 33, 40, 53, 60])
    one.close()


def test_a_copy_stays_one_while_its_engine_rests(front: FakeEngine, engines: list[FakeEngine]) -> None:
    """Else the service would take up its counter where it stood before, and count all of the engine's tokens again."""
    engine = engines[0]
    one = source(on_board(engine), EngineSettings(front.url))
    engine.add(output=10)
    front.body = engine.body = without_start(engine)
    for minute in range(30):
        readings = one.read(START_US + minute * 60 * SECOND_US)
        assert (read(readings, front.url), read(readings, engine.url)) == ([], [10])
    one.close()


def test_an_agent_that_is_started_again_leaves_a_copy_out_from_the_first_reading_on(
    front: FakeEngine, engines: list[FakeEngine]
) -> None:
    engine = engines[0]
    engine.add(output=81_038)
    front.body = engine.body = without_start(engine)
    for _ in range(2):
        one = source(EngineSettings(front.url), on_board(engine))
        readings = one.read(START_US)
        assert (told(readings, front.url), read(readings, front.url)) == (["same_page"], [])
        one.close()


def test_without_a_process_start_workers_that_take_turns_are_known_by_counters_that_fall_again_and_again(
    front: FakeEngine, engines: list[FakeEngine]
) -> None:
    one = source(EngineSettings(front.url))
    engines[1].add(output=1000)
    reasons = []
    for tick in range(12):
        engines[tick % 2].add(output=10)
        front.body = without_start(engines[tick % 2])
        reasons.append(told(one.read(START_US + tick * SECOND_US), front.url))
    assert [tick for tick, said in enumerate(reasons) if said] == [8]  # the fourth fall
    assert reasons[8] == ["several_processes"]
    one.close()


@pytest.mark.parametrize("board", [(), ("GPU-a",)])
def test_a_counter_that_falls_now_and_then_is_no_balancers(engines: list[FakeEngine], board: tuple[str, ...]) -> None:
    engine = engines[0]
    one = source(EngineSettings(engine.url, accelerators=board))
    engine.add(output=1000)
    for tick in range(60):
        engine.body = without_start(engine)
        if tick % (4 if not board else 2):
            engine.body = engine.body.replace(b" 1000.0", b" 7.0") if tick % 4 == 1 else engine.body
        readings = one.read(START_US + tick * SECOND_US)
        assert len(read(readings, engine.url)) == 1
        engine.body = None
    one.close()
