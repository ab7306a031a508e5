"""Times all detectors on a week of minutes of 10 000 accelerators: 100 million rows of boards and those of engines.

The minutes are simulated weeks with incidents (`tests/scoreboard`), taken again and again until there are enough: a
few fleets at a time are in memory, as in the service. Making and judging them does not count.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scoreboard.adapter import board_minutes, engine_minutes, learnt
from scoreboard.plan import DAY, draw
from scoreboard.world import simulate
from wattmill_analytics.curves import judge
from wattmill_analytics.findings.detectors import BOARD_DETECTORS, ENGINE_DETECTORS, detect_boards, detect_engines
from wattmill_analytics.findings.minutes import BoardMinutes, EngineMinutes

ACCELERATORS = 10_000
SEEDS = (1, 2, 3, 4)
THREADS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One fleet's week."""

    engines: EngineMinutes
    boards: BoardMinutes

    @property
    def accelerators(self) -> int:
        return self.boards.offsets.size - 1


def part(seed: int) -> Part:
    """Seven days of a fleet, after a day to learn its curves from."""
    world = simulate(draw(seed), seed)
    minutes = world.plan.minutes
    return Part(engine_minutes(world, DAY, minutes, learnt(world, DAY)), board_minutes(world, DAY, minutes))


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def look(one: Part) -> int:
    """What the service does with one part; how many incidents there are."""
    return len(detect_boards(one.boards)) + len(detect_engines(one.engines))


def again(minutes: EngineMinutes) -> None:
    """Judge the minutes by their curves, which the service does before it looks."""
    judge(
        curves=minutes.curves,
        curve=minutes.curve,
        offsets=minutes.offsets,
        uncached_input_tokens=minutes.uncached_input_tokens,
        output_tokens=minutes.output_tokens,
        requests_running=minutes.requests_running,
    )


def main() -> None:
    parts = [part(seed) for seed in SEEDS]
    say(f"first look, which compiles or loads kernels: {seconds(lambda: look(parts[0])):.1f} s")
    work: list[Part] = []
    while sum(p.accelerators for p in work) < ACCELERATORS:
        work.append(parts[len(work) % len(parts)])
    boards = sum(p.boards.minute_us.size for p in work)
    engines = sum(p.engines.minute_us.size for p in work)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        begun = time.perf_counter()
        found = sum(pool.map(look, work))
        took = time.perf_counter() - begun
    rows = boards + engines
    say(
        f"{sum(p.accelerators for p in work)} accelerators, 7 days: {boards / 1e6:.1f} M minutes of boards and "
        f"{engines / 1e6:.1f} M of engines, {found} incidents, in {took:.1f} s with {THREADS} threads: "
        f"{rows / took / 1e6:.1f} M rows/s; largest memory "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )
    say("one thread, each alone:")
    for board_detector in BOARD_DETECTORS:
        took = sum(seconds(lambda p=p, d=board_detector: d.detect(p.boards)) for p in parts)  # type: ignore[misc]
        tell(board_detector.kind, took, sum(p.boards.minute_us.size for p in parts))
    of_engines = sum(p.engines.minute_us.size for p in parts)
    for detector, _ in ENGINE_DETECTORS:
        nothing = [np.zeros(p.engines.minute_us.size, np.bool_) for p in parts]
        took = sum(
            seconds(lambda p=p, d=detector, h=hidden: d.detect(p.engines, h))  # type: ignore[misc]
            for p, hidden in zip(parts, nothing, strict=True)
        )
        tell(detector.kind, took, of_engines)
    tell("judge", sum(seconds(lambda p=p: again(p.engines)) for p in parts), of_engines)  # type: ignore[misc]


def tell(name: str, took: float, rows: int) -> None:
    say(f"{name:<20}{rows / took / 1e6:>10.1f} M rows/s{1e9 * took / rows:>10.1f} ns a row")


main()
