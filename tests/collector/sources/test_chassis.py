"""The node's power from something slow: asked on the side, fresh at minute edges, never old, and counted once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from support.fake_clock import FakeClock
from wattmill_collector.clock import SystemClock
from wattmill_collector.sources.addresses import FetchError
from wattmill_collector.sources.chassis import (
    ASK_EVERY_US,
    LEAD_US,
    LONGEST_ASK_US,
    REFUSED_PAUSE_US,
    ChassisSource,
    Domains,
    Draw,
)
from wattmill_collector.wire import AbsenceReading, AcceleratorReading, HostReading, Reading

SECOND = 1_000_000
MINUTE = 60 * SECOND
T0 = 1_764_028_800_000_000


class Bmc:
    """Answers what it is told to, or fails with a reason."""

    def __init__(self) -> None:
        self.draw = Draw(5_000_000)
        self.failure: Exception | None = None
        self.asked = 0

    def ask(self) -> Draw:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.draw


def failing(reason: str) -> FetchError:
    return FetchError(reason, f"It says {reason}.")


def source_of(bmc: Bmc, clock: FakeClock, *, optional: bool = False, every_us: int = ASK_EVERY_US) -> ChassisSource:
    return ChassisSource("ipmi", bmc.ask, clock, every_us=every_us, optional=optional)


def absences(readings: list[Reading]) -> list[tuple[str, str, str]]:
    return [(r.subject, r.id, r.reason) for r in readings if isinstance(r, AbsenceReading)]


def test_the_tick_takes_the_last_answer_and_asks_nobody() -> None:
    bmc, clock = Bmc(), FakeClock()
    source = source_of(bmc, clock)
    source.ask()
    for second in range(3):
        assert source.read(T0 + second * SECOND) == [HostReading(domain="chassis", source="ipmi", power_mw=5_000_000)]
    assert bmc.asked == 1


def test_an_answer_of_three_polls_ago_is_taken_and_an_older_one_is_not() -> None:
    bmc, clock = Bmc(), FakeClock()
    source = source_of(bmc, clock)
    source.ask()
    clock.advance(3 * ASK_EVERY_US)
    assert absences(source.read(T0)) == []
    clock.advance(1)
    assert absences(source.read(T0)) == [("host", "chassis", "stale")]


def test_the_reason_of_the_last_failure_is_said_once_a_minute_when_the_answer_is_old() -> None:
    bmc, clock = Bmc(), FakeClock()
    source = source_of(bmc, clock)
    source.ask()
    bmc.failure = failing("timeout")
    source.ask()
    assert absences(source.read(T0)) == []
    clock.advance(MINUTE)
    said = [absences(source.read(T0 + MINUTE + i * 10 * SECOND)) for i in range(7)]
    assert [len(one) for one in said] == [1, 0, 0, 0, 0, 0, 1]
    assert said[0] == [("host", "chassis", "timeout")]
    bmc.failure = None
    source.ask()
    assert absences(source.read(T0 + 3 * MINUTE)) == []


def test_while_the_first_answer_may_still_come_nothing_is_missing() -> None:
    bmc, clock = Bmc(), FakeClock()
    source = source_of(bmc, clock)
    assert source.read(T0) == []
    clock.advance(3 * ASK_EVERY_US + 1)
    assert absences(source.read(T0)) == [("host", "chassis", "stale")]


def test_what_never_answered_and_was_not_asked_for_is_mentioned_once() -> None:
    bmc, clock = Bmc(), FakeClock()
    bmc.failure = failing("not_supported")
    source = source_of(bmc, clock, optional=True)
    source.ask()
    assert [len(source.read(T0 + i * MINUTE)) for i in range(4)] == [1, 0, 0, 0]


def test_what_once_answered_is_missed_though_nobody_asked_for_it() -> None:
    bmc, clock = Bmc(), FakeClock()
    source = source_of(bmc, clock, optional=True)
    source.ask()
    clock.advance(MINUTE)
    assert [len(source.read(T0 + i * MINUTE)) for i in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("every_us", [10 * SECOND, 30 * SECOND])
def test_the_question_comes_shortly_before_the_tick_of_a_minutes_edge(every_us: int) -> None:
    bmc, clock = Bmc(), FakeClock(wall_us=T0 + 3_210_000)
    source = source_of(bmc, clock, every_us=every_us)
    for _ in range(3):
        clock.advance(source.ask())
        assert (clock.wall_us() + LEAD_US) % every_us == 0


def test_an_interval_shorter_than_ten_seconds_does_not_hurry_the_bmc() -> None:
    bmc, clock = Bmc(), FakeClock(wall_us=T0 - LEAD_US)
    assert source_of(bmc, clock, every_us=SECOND).ask() == ASK_EVERY_US


def test_a_bmc_that_fails_is_asked_less_often_and_one_that_refuses_hardly_at_all() -> None:
    bmc, clock = Bmc(), FakeClock()
    source = source_of(bmc, clock)
    bmc.failure = failing("timeout")
    assert [source.ask() // SECOND for _ in range(5)] == [10, 20, 40, 60, 60]
    bmc.failure = failing("unauthorised")
    assert source.ask() == REFUSED_PAUSE_US  # three wrong passwords in a row lock many an account


def test_an_unforeseen_error_does_not_end_the_asking() -> None:
    bmc, clock = Bmc(), FakeClock()
    source = source_of(bmc, clock)
    bmc.failure = ZeroDivisionError("oops")
    source.ask()
    assert absences(source.read(T0)) == [("host", "chassis", "unforeseen")]


def test_a_real_thread_asks_and_ends() -> None:
    bmc, released = Bmc(), threading.Event()
    source = ChassisSource("redfish", bmc.ask, SystemClock(), release=released.set).start(10 * SECOND)
    assert [r.power_mw for r in source.read(T0) if isinstance(r, HostReading)] == [5_000_000]
    source.close()
    assert released.is_set()
    assert "redfish" not in {thread.name for thread in threading.enumerate()}


def test_a_first_answer_that_is_a_failure_is_known_when_the_waiting_for_it_ends() -> None:
    bmc = Bmc()
    bmc.failure = failing("unauthorised")
    source = ChassisSource("redfish", bmc.ask, SystemClock()).start(10 * SECOND)
    assert absences(source.read(T0)) == [("host", "chassis", "unauthorised")]
    source.close()


def test_a_question_that_takes_too_long_is_ended_by_the_tick() -> None:
    clock, asking, cancelled = FakeClock(), threading.Event(), threading.Event()

    def ask() -> Draw:
        asking.set()
        assert cancelled.wait(30)
        raise failing("timeout")

    source = ChassisSource("redfish", ask, clock, cancel=cancelled.set)
    thread = threading.Thread(target=source.ask)
    thread.start()
    assert asking.wait(30)
    source.read(T0)
    assert not cancelled.is_set()
    clock.advance(LONGEST_ASK_US + 1)
    source.read(T0 + MINUTE)
    thread.join(30)
    assert not thread.is_alive()


class Fixed:
    """A source that reads the same at every tick."""

    def __init__(self, name: str, *readings: Reading) -> None:
        self._name = name
        self.readings: Sequence[Reading] = readings
        self.closed = False

    @property
    def name(self) -> str:
        return self._name

    def read(self, time_us: int) -> list[Reading]:
        return list(self.readings)

    def close(self) -> None:
        self.closed = True


def chassis(power_mw: int | None = 1000, energy_uj: int | None = None) -> HostReading:
    return HostReading(domain="chassis", power_mw=power_mw, energy_uj=energy_uj)


ABSENT = AbsenceReading(subject="host", id="chassis", reason="timeout")


def lined_up(*sources: Fixed) -> Callable[[int], list[Reading]]:
    domains = Domains()
    readers = [domains.once(source) for source in sources]
    return lambda time_us: [reading for reader in readers for reading in reader.read(time_us)]


def test_a_chassis_that_three_know_is_read_by_the_first() -> None:
    package, board = HostReading(domain="package-0", energy_uj=5), AcceleratorReading(uuid="GPU-1")
    read = lined_up(Fixed("redfish", chassis(1)), Fixed("ipmi", chassis(2)), Fixed("host", package, chassis(3), board))
    for tick in (T0, T0 + SECOND):
        assert read(tick) == [chassis(1), package, board]


def test_while_the_first_is_away_the_second_steps_in_and_the_first_is_still_missed() -> None:
    redfish, ipmi = Fixed("redfish", ABSENT), Fixed("ipmi", chassis(2))
    read = lined_up(redfish, ipmi)
    assert read(T0) == [ABSENT, chassis(2)]
    redfish.readings = [chassis(1)]
    assert read(T0 + SECOND) == [chassis(1)]


def test_nobody_is_missed_whose_domain_another_one_has_read() -> None:
    assert lined_up(Fixed("redfish", chassis(1)), Fixed("ipmi", ABSENT))(T0) == [chassis(1)]


def test_a_domain_with_a_counter_is_not_filled_up_with_anothers_power() -> None:
    """The counter spans its own gap; power beside it would be the same joules again."""
    redfish, ipmi = Fixed("redfish", chassis(1, energy_uj=100)), Fixed("ipmi", chassis(2))
    read = lined_up(redfish, ipmi)
    read(T0)
    redfish.readings = [ABSENT]
    assert read(T0 + SECOND) == [ABSENT]
    redfish.readings = [chassis(1, energy_uj=200)]
    assert read(T0 + 2 * SECOND) == [chassis(1, energy_uj=200)]


def test_closing_reaches_the_source() -> None:
    source = Fixed("ipmi")
    Domains().once(source).close()
    assert source.closed
