"""The aligned tick: ask every source at the same instant and keep the answers on disk.

Ticks fall on wall times that are multiples of the interval, so every minute's edge is one and a minute's energy is read
at its edges, never interpolated. All readings of a tick carry the tick's instant; when the agent woke more than 250 ms
late, the time at which it really woke.

Promised: the times of a stream only rise, whatever the wall clock does; one source, or a full disk, never stops the
tick; ticks that did not happen are reported with the reason. A library call that never returns can't be interrupted:
the watchdog writes down why and ends the process, so that its supervisor starts a fresh one.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from wattmill_collector.clock import LONGEST_SLEEP_US, Clock
from wattmill_collector.log import LOG, Throttle
from wattmill_collector.reader import Reader
from wattmill_collector.settings import MINUTE_US
from wattmill_collector.spool import Drop, NotTaken, Spool
from wattmill_collector.wire import MAX_READINGS_PER_BATCH, AbsenceReading, Batch, NodeHeader, Reading, encode_batch

LATE_US = 250_000
QUICK_US = 1_000_000  # who takes longer is not asked again while a supervisor waits for the end
LONGEST_STEP_BACK_US = 86_400_000_000  # the earlier time was wrong, not the later one: don't wait for it
MOST_READINGS = MAX_READINGS_PER_BATCH - 100  # leaves room for what the spool has to report
WEDGED_AFTER_US = 30_000_000
WEDGED_STATUS = 75  # EX_TEMPFAIL: a fresh process may do better


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """What one tick came to; replaced as a whole, so that other threads see one tick or the next."""

    time_us: int
    monotonic_us: int
    readings: tuple[Reading, ...]


class Agent:
    """Reads all sources once an interval. `spool` is None when nothing is to be kept."""

    def __init__(
        self,
        readers: Sequence[Reader],
        spool: Spool | None,
        clock: Clock,
        node: NodeHeader,
        throttle: Throttle,
        *,
        after_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.readers = readers
        self.last: Tick | None = None
        self.ticks = 0
        self.late_ticks = 0
        self.missed_ticks = 0
        self.readings = 0
        self._spool = spool
        self._clock = clock
        self._node = node
        self._throttle = throttle
        self._after_tick = after_tick

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set."""
        due_us = self.next_due_us()
        while not self._clock.wait(stop, min(due_us - self._clock.wall_us(), LONGEST_SLEEP_US)):
            woke_us = self._clock.wall_us()
            if woke_us >= due_us:
                late = woke_us - due_us > LATE_US
                self.late_ticks += late
                self.tick(woke_us if late else due_us)
                due_us = self.next_due_us()
            else:  # a slice of the sleep is over; the wall clock may have been set meanwhile
                due_us = min(due_us, self.next_due_us())

    def last_tick(self) -> None:
        """One more tick at the end, off the grid, unless one has just been; without the sources that take long."""
        now_us = self._clock.wall_us()
        if self.last is None or now_us - self.last.time_us > LATE_US:
            self.tick(now_us, [reader for reader in self.readers if reader.stats.last_duration_us < QUICK_US])

    def next_due_us(self) -> int:
        """The next instant to tick at: a multiple of the interval in the future and after the last tick."""
        interval_us = self._node.interval_us
        after_us = self._clock.wall_us()
        if self.last is not None and self.last.time_us - after_us <= LONGEST_STEP_BACK_US:
            after_us = max(after_us, self.last.time_us)
        return (after_us // interval_us + 1) * interval_us

    def tick(self, time_us: int, readers: Sequence[Reader] | None = None) -> Tick:
        """Read everything, or only `readers`, as of `time_us` and keep it."""
        tick_us = self._clock.monotonic_us()
        readings: list[Reading] = []
        if self.last is not None:
            missed, absence = missed_ticks(self.last, time_us, tick_us, self._node.interval_us)
            self.missed_ticks += missed
            if absence is not None:
                self._throttle.warning(absence.reason, f"{absence.detail}{self._slowest()}")
                readings.append(absence)
        for reader in self.readers if readers is None else readers:
            readings += reader.read(time_us)
        if len(readings) > MOST_READINGS:
            detail = f"{len(readings)} readings at one tick; a batch holds {MOST_READINGS}."
            readings[MOST_READINGS:] = [AbsenceReading(subject="batch", reason="too_many_readings", detail=detail)]
            self._throttle.warning("too_many_readings", detail)
        self.last = Tick(time_us, tick_us, tuple(readings))
        self.ticks += 1
        self.readings += len(readings)
        self._keep(self.last)
        self._after_tick()
        return self.last

    def watch(self, stop: threading.Event, end: Callable[[int], object], limit_us: int = WEDGED_AFTER_US) -> None:
        """The watchdog, on a thread of its own: calls `end(status)` when a source has not returned for `limit_us`."""
        while not self._clock.wait(stop, limit_us // 3):
            wedged = self.wedged(limit_us)
            if wedged is None:
                continue
            reader, seconds = wedged
            LOG.critical("Source %s is silent for %d s; ending so that a fresh process starts.", reader.name, seconds)
            detail = f"{reader.name} did not answer for {seconds} s; the agent was ended to start afresh."
            absence = AbsenceReading(subject=reader.subject, reason="wedged", detail=detail)
            time_us = max(self._clock.wall_us(), self.last.time_us + 1 if self.last else 0)
            self._keep(Tick(time_us, self._clock.monotonic_us(), (absence,)))
            end(WEDGED_STATUS)
            return

    def wedged(self, limit_us: int = WEDGED_AFTER_US) -> tuple[Reader, int] | None:
        """The source that has been under way for longer than `limit_us`, and for how many seconds."""
        now_us = self._clock.monotonic_us()
        for reader in self.readers:
            since_us = reader.since_us
            if since_us is not None and now_us - since_us > limit_us:
                return reader, (now_us - since_us) // 1_000_000
        return None

    def _slowest(self) -> str:
        slowest = max(self.readers, key=lambda reader: reader.stats.last_duration_us, default=None)
        if slowest is None:
            return ""
        return f" Slowest source: {slowest.name}, {slowest.stats.last_duration_us / 1_000_000:.2f} s."

    def _keep(self, tick: Tick) -> None:
        if self._spool is None:
            return

        def encode(stream: str, sequence: int, drops: Sequence[Drop]) -> bytes:
            dropped = [drop.as_reading(stream) for drop in drops]
            return encode_batch(Batch(stream, sequence, tick.time_us, self._node, [*tick.readings, *dropped]))

        try:
            self._spool.append(encode, readings=len(tick.readings), boundary=tick.time_us % MINUTE_US == 0)
        except NotTaken as error:  # the spool has counted it; the next batch that is taken reports it
            self._throttle.warning("spool", f"The readings of this tick were not kept: {error}")
        else:
            if self._throttle.clear("spool"):
                LOG.info("Readings are kept on disk again.")


def missed_ticks(last: Tick, time_us: int, monotonic_us: int, interval_us: int) -> tuple[int, AbsenceReading | None]:
    """How many ticks did not happen since the last one, and the reading that says why; (0, None) when all is well.

    The monotonic clock tells a clock that was set from an agent that was late: only the wall clock can jump.
    """
    wall_us, elapsed_us = time_us - last.time_us, monotonic_us - last.monotonic_us
    slack_us = interval_us // 2
    if elapsed_us - wall_us > interval_us - LATE_US:
        missed = max(round(elapsed_us / interval_us) - 1, 1)
        seconds = (elapsed_us - wall_us) / 1_000_000
        reason = "clock_went_back"
        sentence = f"The wall clock went back by {seconds:.1f} s; {missed} ticks were left out."
    elif wall_us - elapsed_us > interval_us - LATE_US:
        missed = max(round(elapsed_us / interval_us) - 1, 0)
        seconds = (wall_us - elapsed_us) / 1_000_000
        reason = "clock_went_forward"
        sentence = f"The wall clock went forward by {seconds:.1f} s, or the host was asleep meanwhile."
    elif wall_us > interval_us + slack_us:
        missed = max(round(wall_us / interval_us) - 1, 1)
        reason, sentence = "agent_late", f"The agent did not get to run in time; {missed} ticks were left out."
    else:
        return 0, None
    start_us = min(last.time_us, time_us)
    return missed, AbsenceReading(subject="host", reason=reason, detail=sentence, start_us=start_us)
