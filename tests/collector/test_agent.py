"""The tick: aligned, in order, never stopped by a source, a disk or a clock."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.fake_clock import START_US, FakeClock
from wattmill_collector.agent import WEDGED_STATUS, Agent, Tick, missed_ticks
from wattmill_collector.clock import Waitable
from wattmill_collector.errors import TryAgain
from wattmill_collector.log import Throttle
from wattmill_collector.reader import Reader
from wattmill_collector.spool import Spool
from wattmill_collector.wire import AbsenceReading, HostReading, NodeHeader, Reading

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
INTERVAL_US = 10 * SECOND_US
Hook = Callable[[int], None]


class Meter:
    """Counts the reads; `hook(n)` runs at the n-th and may pass time, jump the clock or raise."""

    name = "host"

    def __init__(self, hook: Hook = lambda n: None) -> None:
        self.hook = hook
        self.times: list[int] = []

    def read(self, time_us: int) -> list[Reading]:
        self.times.append(time_us)
        self.hook(len(self.times))
        return [HostReading(domain="package-0", energy_uj=len(self.times))]

    def close(self) -> None:
        return


class StopAfter(threading.Event):
    """Set once a number of ticks is over."""

    def __init__(self, meter: Meter, ticks: int) -> None:
        super().__init__()
        self._meter = meter
        self._ticks = ticks

    def wait(self, timeout: float | None = None) -> bool:
        return len(self._meter.times) >= self._ticks


class Spooled:
    """An agent on a fake clock with a real spool, and the batches it kept."""

    def __init__(self, tmp_path: Path, meter: Meter, clock: FakeClock, interval_us: int = INTERVAL_US) -> None:
        self.clock = clock
        self.meter = meter
        self.lines: list[bytes] = []
        throttle = Throttle(clock)
        reader = Reader("host", "host", lambda: meter, clock, throttle)
        self.spool = Spool.open(tmp_path / "spool", clock=clock, host="test")
        node = NodeHeader(name="gpu-017", interval_us=interval_us)
        self.agent = Agent([reader], self.spool, clock, node, throttle)

    def run(self, ticks: int) -> list[dict[str, Any]]:
        self.agent.run(StopAfter(self.meter, ticks))
        return self.batches()

    def batches(self) -> list[dict[str, Any]]:
        kept = self.spool.read_oldest(limit_bytes=10**9, limit_batches=10**6, limit_readings=10**6)
        return [json.loads(record.line()) for record in kept]


def agent_with(tmp_path: Path, hook: Callable[[FakeClock, int], None] | None = None, **options: Any) -> Spooled:
    clock = FakeClock(wall_us=START_US + 3_200_000)
    meter = Meter((lambda n: hook(clock, n)) if hook else lambda n: None)
    return Spooled(tmp_path, meter, clock, **options)


def absences(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [reading for batch in batches for reading in batch["readings"] if reading["kind"] == "absence"]


def seconds(batches: Sequence[dict[str, Any]]) -> list[float]:
    return [(batch["time_us"] - START_US) / SECOND_US for batch in batches]


def test_ticks_fall_on_multiples_of_the_interval_and_on_every_minute(tmp_path: Path) -> None:
    batches = agent_with(tmp_path).run(7)
    assert seconds(batches) == [10, 20, 30, 40, 50, 60, 70]
    assert [batch["sequence"] for batch in batches] == [1, 2, 3, 4, 5, 6, 7]
    assert absences(batches) == []


def test_a_batch_carries_the_node_and_the_readings(tmp_path: Path) -> None:
    [batch] = agent_with(tmp_path).run(1)
    assert batch["node"] == {"name": "gpu-017", "site": "default", "interval_us": INTERVAL_US}
    assert batch["readings"] == [{"kind": "host", "domain": "package-0", "epoch": 0, "energy_uj": 1}]


def test_a_read_that_takes_long_does_not_move_the_grid(tmp_path: Path) -> None:
    batches = agent_with(tmp_path, lambda clock, n: clock.advance(4_700_000)).run(3)
    assert seconds(batches) == [10, 20, 30]


class LateClock(FakeClock):
    """Wakes up later than asked, by a given time at each wake-up that reaches its goal."""

    def __init__(self, wall_us: int, late_us: int) -> None:
        super().__init__(wall_us)
        self.late_us = late_us

    def wait(self, event: Waitable, timeout_us: int) -> bool:
        return super().wait(event, timeout_us + self.late_us if timeout_us < SECOND_US else timeout_us)


@pytest.mark.parametrize(("late_us", "time_s"), [(249_000, 10), (251_000, 10.251)])
def test_an_agent_that_wakes_late_says_when_it_really_read(tmp_path: Path, late_us: int, time_s: float) -> None:
    clock = LateClock(START_US + 3_200_000, late_us)
    spooled = Spooled(tmp_path, Meter(), clock)
    assert seconds(spooled.run(1)) == [time_s]
    assert spooled.agent.late_ticks == (time_s != 10)


def test_ticks_left_out_are_reported_with_the_reason(tmp_path: Path) -> None:
    batches = agent_with(tmp_path, lambda clock, n: clock.advance(25 * SECOND_US if n == 2 else 0)).run(4)
    assert seconds(batches) == [10, 20, 50, 60]
    [said] = absences(batches)
    assert (said["reason"], said["start_us"]) == ("agent_late", START_US + 20 * SECOND_US)
    assert "2 ticks" in said["detail"]


def test_a_clock_set_back_makes_no_time_twice(tmp_path: Path) -> None:
    batches = agent_with(tmp_path, lambda clock, n: clock.jump_wall(-3600 * SECOND_US if n == 3 else 0)).run(6)
    assert seconds(batches) == [10, 20, 30, 40, 50, 60]
    [said] = absences(batches)
    assert (said["reason"], said["start_us"]) == ("clock_went_back", START_US + 30 * SECOND_US)
    assert "3600.0 s; 360 ticks" in said["detail"]


def test_a_clock_set_back_by_less_than_an_interval_loses_nothing(tmp_path: Path) -> None:
    batches = agent_with(tmp_path, lambda clock, n: clock.jump_wall(-3 * SECOND_US if n == 3 else 0)).run(5)
    assert seconds(batches) == [10, 20, 30, 40, 50]
    assert absences(batches) == []


def test_a_time_from_years_ahead_is_not_waited_for(tmp_path: Path) -> None:
    years_us = 20 * 365 * 86_400 * SECOND_US

    def hook(clock: FakeClock, n: int) -> None:
        if n in (1, 2):
            clock.jump_wall(years_us if n == 1 else -years_us)

    batches = agent_with(tmp_path, hook).run(4)
    assert seconds(batches)[2:] == [30, 40]
    assert [said["reason"] for said in absences(batches)] == ["clock_went_forward", "clock_went_back"]


def test_a_jump_forward_is_reported(tmp_path: Path) -> None:
    batches = agent_with(tmp_path, lambda clock, n: clock.jump_wall(3600 * SECOND_US if n == 1 else 0)).run(3)
    assert seconds(batches) == [10, 3620, 3630]
    assert absences(batches)[0]["reason"] == "clock_went_forward"


class Reset(FakeClock):
    """Somebody sets this clock back by two days in the middle of an interval."""

    waits = 0

    def wait(self, event: Waitable, timeout_us: int) -> bool:
        self.waits += 1
        if self.waits == 14:
            self.jump_wall(-2 * 86_400 * SECOND_US)
        return super().wait(event, timeout_us)


def test_a_jump_back_while_waiting_is_seen(tmp_path: Path) -> None:
    batches = Spooled(tmp_path, Meter(), Reset(START_US + 3_200_000)).run(2)
    assert seconds(batches)[0] == 10
    assert seconds(batches)[1] == 20 - 2 * 86_400
    assert absences(batches)[0]["reason"] == "clock_went_back"


def test_one_failing_source_does_not_stop_the_others(tmp_path: Path) -> None:
    clock = FakeClock()
    throttle = Throttle(clock)

    def refuse() -> Meter:
        raise TryAgain("The driver starts.")

    readers = [
        Reader("nvml", "accelerator", refuse, clock, throttle),
        Reader("host", "host", lambda: Meter(), clock, throttle),
    ]
    tick = Agent(readers, None, clock, NodeHeader(name="a"), throttle).tick(START_US)
    assert [type(reading) for reading in tick.readings] == [AbsenceReading, HostReading]


def test_a_full_disk_does_not_stop_the_tick(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the directory should be")
    spooled = agent_with(tmp_path)
    spooled.agent.run(StopAfter(spooled.meter, 3))
    assert len(spooled.meter.times) == 3
    assert sum(spooled.spool.stats().not_taken.values()) == 3


def test_what_the_spool_had_to_drop_is_reported_in_a_batch(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the directory should be")

    def repair(clock: FakeClock, n: int) -> None:
        if n == 3:
            (tmp_path / "spool").unlink()

    batches = agent_with(tmp_path, repair).run(4)
    assert any(said["subject"] == "batch" for said in absences(batches))


def test_the_last_tick_reads_once_more_off_the_grid(tmp_path: Path) -> None:
    spooled = agent_with(tmp_path)
    spooled.run(1)
    spooled.clock.advance(3_500_000)
    spooled.agent.last_tick()
    spooled.agent.last_tick()
    assert seconds(spooled.batches()) == [10, 13.5]


def test_the_last_tick_does_not_wait_for_a_slow_source(tmp_path: Path) -> None:
    spooled = agent_with(tmp_path, lambda clock, n: clock.advance(1_100_000))
    spooled.run(1)
    spooled.agent.last_tick()
    assert len(spooled.meter.times) == 1
    assert seconds(spooled.batches()) == [10, 11.1]


def test_too_many_readings_are_cut_and_said(tmp_path: Path) -> None:
    clock = FakeClock()
    meter = Meter()
    meter.read = lambda time_us: [HostReading(domain="d", energy_uj=1)] * 10_050  # type: ignore[method-assign]
    tick = Spooled(tmp_path, meter, clock).agent.tick(START_US)
    assert len(tick.readings) == 9_901
    assert isinstance(tick.readings[-1], AbsenceReading)
    assert tick.readings[-1].reason == "too_many_readings"


def test_a_wedged_source_ends_the_process_and_leaves_a_note(tmp_path: Path) -> None:
    clock = FakeClock()
    spooled = Spooled(tmp_path, Meter(), clock)
    spooled.agent.readers[0].since_us = clock.monotonic_us()
    ended: list[int] = []
    spooled.agent.watch(threading.Event(), ended.append)
    assert ended == [WEDGED_STATUS]
    [said] = absences(spooled.batches())
    assert (said["subject"], said["reason"]) == ("host", "wedged")


def test_the_watchdog_leaves_a_working_agent_alone(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    agent_with(tmp_path).agent.watch(stop, lambda status: pytest.fail("ended"))


def test_something_is_done_after_every_tick() -> None:
    clock = FakeClock()
    signs: list[int] = []
    throttle = Throttle(clock)
    agent = Agent([], None, clock, NodeHeader(name="a"), throttle, after_tick=lambda: signs.append(1))
    agent.tick(START_US)
    agent.tick(START_US + INTERVAL_US)
    assert len(signs) == 2


@pytest.mark.parametrize(
    ("wall_s", "monotonic_s", "missed", "reason"),
    [
        (10, 10, 0, None),
        (10.2, 10.2, 0, None),
        (14, 14, 0, None),
        (20, 20, 1, "agent_late"),
        (60, 60, 5, "agent_late"),
        (10, 3610, 360, "clock_went_back"),
        (3610, 10, 0, "clock_went_forward"),
        (10, 13, 0, None),
        (10, 7, 0, None),
    ],
)
def test_what_an_interval_of_ten_seconds_means(
    wall_s: float, monotonic_s: float, missed: int, reason: str | None
) -> None:
    last = Tick(START_US, 0, ())
    count, said = missed_ticks(last, START_US + int(wall_s * SECOND_US), int(monotonic_s * SECOND_US), INTERVAL_US)
    assert (count, said.reason if said else None) == (missed, reason)
