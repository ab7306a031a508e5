"""How much a spool keeps, and for how long: whole segments go, oldest first, and what is lost by it is noted before.

Acknowledged batches stay `keep_us` for a rewind, unless the room is needed. Ages are believed after an hour without a
step of the wall clock: a wrong date must not empty the spool.
"""

from __future__ import annotations

import dataclasses

from wattmill_collector.spool.cursor import Cursor
from wattmill_collector.spool.drops import Drops
from wattmill_collector.spool.journal import Drop
from wattmill_collector.spool.place import Place
from wattmill_collector.spool.streams import Segment, Stream, Streams

MIB = 1 << 20
HOUR_US = 3_600_000_000
DEFAULT_MAX_BYTES = 2 << 30
DEFAULT_MAX_AGE_US = 14 * 24 * HOUR_US
DEFAULT_KEEP_US = 24 * HOUR_US
CLOCK_STEP_US = 60_000_000  # wall and monotonic clock apart by more than this: the wall clock was set


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one spool; the sizes of its parts follow from `max_bytes`."""

    max_bytes: int = DEFAULT_MAX_BYTES
    max_age_us: int = DEFAULT_MAX_AGE_US
    keep_us: int = DEFAULT_KEEP_US

    @property
    def segment_bytes(self) -> int:
        return min(max(self.max_bytes // 64, 16 << 10), MIB)

    @property
    def reserve_bytes(self) -> int:
        return min(MIB, self.max_bytes // 8)

    @property
    def quarantine_bytes(self) -> int:
        return min(16 * MIB, max(self.max_bytes // 8, 64 << 10))


class Retention:
    """Removes segments when they are settled and old, too old, or too much."""

    def __init__(self, place: Place, streams: Streams, drops: Drops, cursor: Cursor, limits: Limits) -> None:
        self._place = place
        self._streams = streams
        self._drops = drops
        self._cursor = cursor
        self._limits = limits
        self._clock_apart_us = place.clock.wall_us() - place.clock.monotonic_us()
        self._steady_since_us = place.clock.monotonic_us()

    def watch_clock(self) -> None:
        """Notice a step of the wall clock; to be called at every append."""
        clock = self._place.clock
        apart_us = clock.wall_us() - clock.monotonic_us()
        if abs(apart_us - self._clock_apart_us) > CLOCK_STEP_US:
            self._steady_since_us = clock.monotonic_us()
        self._clock_apart_us = apart_us

    def enforce(self) -> None:
        """Keep the caps. Errors: none; what could not be removed is tried again at the next call."""
        clock, limits = self._place.clock, self._limits
        steady = clock.monotonic_us() - self._steady_since_us >= HOUR_US
        if steady and not self._remove_old(clock.wall_us()):
            return
        for spare_unsettled in (True, False):
            if self._streams.size > limits.max_bytes and not self._remove_surplus(spare_unsettled=spare_unsettled):
                return

    def _remove_old(self, now_us: int) -> bool:
        for stream in self._streams:
            for segment in self._removable(stream):
                limit_us = self._limits.keep_us if stream.settled(segment) else self._limits.max_age_us
                if now_us - segment.last_us <= limit_us:
                    break  # what follows is younger
                if not self._remove(stream, segment, "dropped_max_age"):
                    return False
        return True

    def _remove_surplus(self, *, spare_unsettled: bool) -> bool:
        for stream in self._streams:
            for segment in self._removable(stream):
                if self._streams.size <= self._limits.max_bytes:
                    return True
                if spare_unsettled and not stream.settled(segment):
                    continue
                if not self._remove(stream, segment, "dropped_max_bytes"):
                    return False
        return True

    def _removable(self, stream: Stream) -> list[Segment]:
        """All segments but the one that may be written to."""
        newest = stream is self._streams.newest
        return stream.segments[:-1] if newest else stream.segments.copy()

    def _remove(self, stream: Stream, segment: Segment, reason: str) -> bool:
        """Note first, unlink after: between the two a crash leaves a segment that is known to be dropped."""
        try:
            for low, high in list(stream.unresolved(segment)):
                count = high - low + 1
                self._drops.note_durably(Drop(stream.name, low, high, reason, count, segment.first_us or None))
                stream.resolved.add(low, high)
                self._drops.free(stream.name, low, high)
            if segment is not stream.segments[0]:
                self._cursor.write()  # a hole is told from a loss by the cursor alone
            self._place.disk.remove(segment.path)
        except FileNotFoundError as error:  # somebody was faster; the note stands
            self._place.books.last_error = str(error)
        except OSError as error:
            self._place.books.last_error = str(error)
            return False
        if self._streams.remove(stream, segment):
            self._drops.forget_moves(stream.name)
        return True
