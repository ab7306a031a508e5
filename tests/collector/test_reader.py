"""A source under watch: its errors have names, consequences and limits, and none of them reaches the tick."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from support.fake_clock import START_US, FakeClock
from wattmill_collector.errors import Broken, NotHere, TryAgain
from wattmill_collector.log import Throttle
from wattmill_collector.reader import LOOK_AGAIN_US, Reader
from wattmill_collector.wire import AbsenceReading, HostReading, Reading

ENERGY = HostReading(domain="package-0", energy_uj=1)


class Scripted:
    """A source that answers or raises what the test says."""

    name = "host"

    def __init__(self, *script: list[Reading] | Exception) -> None:
        self.script = list(script)
        self.closed = 0

    def read(self, time_us: int) -> list[Reading]:
        step: list[Reading] | Exception = self.script.pop(0) if self.script else [ENERGY]
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.closed += 1


def reader_of(open_source: Callable[[], Scripted], clock: FakeClock, *, wanted: bool = False) -> Reader:
    return Reader("host", "host", open_source, clock, Throttle(clock), wanted=wanted)


def absence(readings: list[Reading]) -> AbsenceReading:
    [reading] = readings
    assert isinstance(reading, AbsenceReading)
    return reading


def test_readings_pass_through_and_are_counted() -> None:
    clock = FakeClock()
    reader = reader_of(lambda: Scripted(), clock)
    assert reader.read(START_US) == [ENERGY]
    assert (reader.stats.state, reader.stats.reads, reader.stats.readings, reader.stats.failures) == (
        "reading",
        1,
        1,
        0,
    )


def test_try_again_costs_one_tick_and_says_why() -> None:
    clock = FakeClock()
    source = Scripted([ENERGY], TryAgain("The meter is busy."), [ENERGY])
    reader = reader_of(lambda: source, clock)
    reader.read(START_US)
    missing = absence(reader.read(START_US))
    assert (missing.subject, missing.reason, missing.detail) == ("host", "try_again", "host: The meter is busy.")
    assert reader.in_trouble()
    assert reader.read(START_US) == [ENERGY]
    assert not reader.in_trouble()
    assert source.closed == 0


def test_an_unforeseen_exception_counts_as_try_again() -> None:
    clock = FakeClock()
    reader = reader_of(lambda: Scripted(KeyError("energy")), clock)
    assert "KeyError" in absence(reader.read(START_US)).detail
    assert reader.stats.failures == 1
    assert reader.read(START_US) == [ENERGY]


def test_what_is_not_here_is_left_out_and_looked_for_again_after_minutes() -> None:
    clock = FakeClock()
    opened: list[int] = []

    def open_source() -> Scripted:
        opened.append(clock.monotonic_us())
        if len(opened) == 1:
            raise NotHere("No driver.")
        return Scripted()

    reader = reader_of(open_source, clock)
    assert reader.read(START_US) == []
    clock.advance(LOOK_AGAIN_US - 1)
    assert reader.read(START_US) == []
    assert len(opened) == 1
    clock.advance(1)
    assert reader.read(START_US) == [ENERGY]
    assert not reader.in_trouble()


def test_what_was_asked_for_by_name_is_missed_when_it_is_not_here() -> None:
    clock = FakeClock()

    def open_source() -> Scripted:
        raise NotHere("No driver.")

    reader = reader_of(open_source, clock, wanted=True)
    assert absence(reader.read(START_US)).reason == "not_here"
    assert absence(reader.read(START_US)).reason == "not_here"
    assert reader.in_trouble()


def test_a_broken_source_is_closed_and_never_read_again() -> None:
    clock = FakeClock()
    source = Scripted([ENERGY], Broken("Permission denied."))
    reader = reader_of(lambda: source, clock)
    reader.read(START_US)
    assert absence(reader.read(START_US)).reason == "broken"
    clock.advance(10 * LOOK_AGAIN_US)
    assert absence(reader.read(START_US)).reason == "broken"
    assert source.closed == 1


def test_opening_is_tried_again_with_growing_pauses() -> None:
    clock = FakeClock()
    tried: list[int] = []

    def open_source() -> Scripted:
        tried.append(clock.monotonic_us())
        raise TryAgain("The driver starts.")

    reader = reader_of(open_source, clock)
    for _ in range(200):
        reader.read(START_US)
        clock.advance(1_000_000)
    pauses = [(after - before) // 1_000_000 for before, after in itertools.pairwise(tried)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_trouble_that_repeats_is_logged_once_a_minute_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    source = Scripted(*[TryAgain("The meter is busy.") for _ in range(120)])
    reader = reader_of(lambda: source, clock)
    for _ in range(61):
        reader.read(START_US)
        clock.advance(1_000_000)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["The meter is busy.", "The meter is busy. (59 more times in the last minute)"]


def test_the_time_a_call_has_been_under_way_can_be_seen_from_outside() -> None:
    clock = FakeClock()
    seen: list[int | None] = []

    class Slow(Scripted):
        def read(self, time_us: int) -> list[Reading]:
            seen.append(reader.since_us)
            clock.advance(40_000)
            return []

    reader = reader_of(Slow, clock)
    began_us = clock.monotonic_us()
    reader.read(START_US)
    assert (seen, reader.since_us, reader.stats.last_duration_us) == ([began_us], None, 40_000)


def test_a_source_that_fails_to_close_is_only_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Scripted):
        def close(self) -> None:
            raise OSError("busy")

    reader = reader_of(Stubborn, FakeClock())
    reader.read(START_US)
    reader.close()
    assert "did not close well" in caplog.text


def test_opening_ahead_of_the_first_tick_reads_nothing_and_never_raises() -> None:
    clock = FakeClock()
    source = Scripted()
    reader = reader_of(lambda: source, clock)
    reader.open()
    assert (reader.stats.reads, reader.stats.state) == (0, "new")
    assert reader.read(START_US) == [ENERGY]

    def refuse() -> Scripted:
        raise Broken("Permission denied.")

    broken = reader_of(refuse, clock)
    broken.open()
    assert broken.stats.state == "broken"
