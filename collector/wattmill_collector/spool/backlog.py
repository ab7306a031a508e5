"""Reading what waits to be sent, from the oldest or the newest batch on.

What is missing between records is lost, and is found here, when it is read. A segment that no record can be read from
goes to the quarantine.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Container, Iterator

from wattmill_collector.spool.drops import Drops
from wattmill_collector.spool.place import Place
from wattmill_collector.spool.quarantine import Quarantine
from wattmill_collector.spool.segment import Damage, Record, read_records
from wattmill_collector.spool.streams import Segment, Stream, Streams
from wattmill_collector.spool.writer import Writer

READ_ATTEMPTS = 5
RECENT_BATCHES = 256


@dataclasses.dataclass(slots=True)
class Budget:
    """What still fits into one read."""

    size: int
    batches: int
    readings: int

    def take(self, record: Record, *, first: bool) -> bool:
        """Whether the record fits; the first one always does, or nothing would ever move."""
        size, readings = len(record.member), record.readings
        if not first and (self.batches < 1 or self.size < size or self.readings < readings):
            return False
        self.size -= size
        self.batches -= 1
        self.readings -= readings
        return True


class Backlog:
    """The batches of all streams that are neither acknowledged nor dropped."""

    def __init__(self, place: Place, streams: Streams, drops: Drops, writer: Writer, quarantine: Quarantine) -> None:
        self._place = place
        self._streams = streams
        self._drops = drops
        self._writer = writer
        self._quarantine = quarantine
        self._recent: collections.deque[tuple[str, int, int]] = collections.deque(maxlen=RECENT_BATCHES)

    def read_oldest(self, budget: Budget, skip: Container[tuple[str, int]]) -> list[Record]:
        """The oldest batches, in order; `skip` holds (stream, sequence) to leave out. Errors: OSError."""
        found: list[Record] = []
        for stream in self._streams:
            for record in self._read(stream, stream.first_kept):
                if (stream.name, record.sequence) in skip:
                    continue
                if not budget.take(record, first=not found):
                    return found
                found.append(record)
        return found

    def read_newest(self, budget: Budget, skip: Container[tuple[str, int]]) -> list[Record]:
        """The newest batches of the newest stream, in order. Errors: OSError."""
        stream = self._streams.newest
        pending = list(stream.pending())
        if not pending:
            return []
        first = max(pending[-1][0], pending[-1][1] - budget.batches + 1)
        records = [r for r in self._read(stream, first) if (stream.name, r.sequence) not in skip]
        found: list[Record] = []
        for record in reversed(records):
            if not budget.take(record, first=not found):
                break
            found.append(record)
        return found[::-1]

    def count(self) -> tuple[int, int]:
        """(batches, bytes) that wait; the bytes of a segment are shared equally among its batches."""
        batches = size = 0
        for stream in self._streams:
            ranges = list(stream.pending())
            batches += sum(last - first + 1 for first, last in ranges)
            for segment in stream.segments if ranges else ():
                waiting = sum(last - first + 1 for first, last in stream.unresolved(segment))
                size += segment.size * waiting // max(segment.last - segment.first + 1, 1)
        return batches, size

    def remember(self, record: Record) -> None:
        """Keep the time of a batch just taken, so that the age of a short backlog is exact."""
        self._recent.append((record.stream, record.sequence, record.time_us))

    def oldest_us(self) -> int | None:
        """When the oldest waiting batch was taken, at worst when its segment began; None when nothing waits."""
        for stream in self._streams:
            for first, _ in stream.pending():
                for name, sequence, time_us in self._recent:
                    if (name, sequence) == (stream.name, first):
                        return time_us
                return next((s.first_us for s in stream.segments if s.first <= first <= s.last and s.first_us), None)
        return None

    def _read(self, stream: Stream, first: int) -> Iterator[Record]:
        for low, high in list(stream.resolved.missing(first, stream.last)):
            for segment in stream.segments.copy():
                if segment.last >= low and segment.first <= high:
                    self._drops.note_lost(stream, low, segment.first - 1, "not_kept")
                    low = max(low, segment.first)
                    yield from self._read_segment(stream, segment, low, min(high, segment.last))
                    low = segment.last + 1
            self._drops.note_lost(stream, low, high, "not_kept")

    def _read_segment(self, stream: Stream, segment: Segment, first: int, last: int) -> Iterator[Record]:
        """Records first..last; what is missing among them is lost."""
        start = segment.offset_before(first)
        data = self._data(segment, start)
        expected = first
        anything = False
        for item in read_records(data, stream.name):
            if isinstance(item, Damage):
                continue
            begin, _, record = item
            anything = True
            if record.sequence > last:
                break
            segment.mark(record.sequence, start + begin)
            if record.sequence < expected:
                continue
            self._drops.note_lost(stream, expected, record.sequence - 1, "corrupt", segment.first_us)
            expected = record.sequence + 1
            yield record
        self._drops.note_lost(stream, expected, last, "corrupt", segment.first_us)
        if not anything and start == 0 and segment is not self._writer.active:
            with self._place.tolerant():
                self._quarantine.put_away(segment.path)

    def _data(self, segment: Segment, start: int) -> bytes:
        """The bytes of a segment from an offset on; a file that fails again and again counts as empty."""
        try:
            return self._place.disk.read(segment.path, start, segment.size - start)
        except FileNotFoundError:
            return b""
        except OSError as error:
            segment.read_errors += 1
            self._place.books.last_error = str(error)
            if segment.read_errors < READ_ATTEMPTS:
                raise
            return b""
