"""Writing batches: one open segment, fsynced before a batch counts as taken.

A segment is in its directory for good before anything is written to it. After a failed fsync nobody knows what is on
disk: that file is never written again, and the next segment begins with the same sequence, which makes anything left
behind void. When the disk is full, a reserve of blocks lets the minute boundaries in.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from wattmill_collector.spool.disk import write_all
from wattmill_collector.spool.drops import Drops
from wattmill_collector.spool.identity import Identity
from wattmill_collector.spool.place import Place
from wattmill_collector.spool.segment import Record, pack_record, segment_name
from wattmill_collector.spool.streams import Segment, Stream, Streams

SEGMENT_LASTS_US = 3_600_000_000
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """A file that holds blocks, to be given back when the disk is full. `disk_full`: it was when last written to."""

    def __init__(self, place: Place, size: int) -> None:
        self._place = place
        self._path = place.path / "reserve"
        self._size = size
        self.disk_full = False

    def restore(self) -> bool:
        """Whether the disk has room again, as far as one can tell."""
        try:
            self._place.disk.reserve(self._path, self._size)
        except OSError as error:
            self._place.books.last_error = str(error)
            self.disk_full = error.errno in FULL
        else:
            self.disk_full = False
        return not self.disk_full

    def spend(self) -> bool:
        """Give the blocks back; False when there were none."""
        self.disk_full = True
        try:
            self._place.disk.remove(self._path)
        except OSError:
            return False
        return True


class Writer:
    """The end of the newest stream. `active` is the segment that is open, if any."""

    def __init__(
        self,
        place: Place,
        streams: Streams,
        drops: Drops,
        identity: Identity,
        reserve: Reserve,
        *,
        segment_bytes: int,
        new_stream: Callable[[], str],
    ) -> None:
        self._place = place
        self._streams = streams
        self._drops = drops
        self._identity = identity
        self._reserve = reserve
        self._segment_bytes = segment_bytes
        self._new_stream = new_stream
        self._number = -1  # the open file of the active segment
        self.active: Segment | None = None

    def take(self, records: Sequence[Record], *, boundary: bool) -> None:
        """Write records to the newest stream and fsync them, all or none; `boundary`: they may spend the reserve.

        Errors: NotTaken, with the reason in a sentence.
        """
        try:
            try:
                self._write(records)
            except OSError as error:
                if not (boundary and error.errno in FULL and self._reserve.spend()):
                    raise
                self._write(records)
        except OSError as error:
            full = error.errno in FULL
            self._reserve.disk_full = self._reserve.disk_full or full
            self._place.books.last_error = str(error)
            sentence = f"The batch was not written to {self._place.path}: {error.strerror or error}"
            raise self._drops.refused("disk_full" if full else "write_failed", sentence) from error

    def start_stream(self) -> None:
        """Go on under fresh numbers, which is always safe."""
        self.retire()
        self._identity.write(self._streams.start(self._new_stream()).name)

    def reopen(self, segment: Segment, *, whole: bool) -> None:
        """Go on in a segment if it is whole. It is fsynced in any case, for what was read from it may be sent."""
        with self._place.tolerant():
            self._number = self._place.disk.open_append(segment.path, empty=False)
            self.active = segment
            self._place.disk.fsync(self._number)
            if whole:
                return
        self.retire()

    def retire(self) -> None:
        """Close the active segment, if there is one. Errors: none, for every record in it is fsynced."""
        if self.active is not None:
            self.active = None
            with self._place.tolerant():
                self._place.disk.close(self._number)

    def _write(self, records: Sequence[Record]) -> None:
        disk, clock, books = self._place.disk, self._place.clock, self._place.books
        stream = self._streams.newest
        segment = self._segment_for(stream, records[0])
        packed = [pack_record(record) for record in records]
        written = False
        started_us = clock.monotonic_us()
        try:
            write_all(disk, self._number, b"".join(packed))
            written = True
            disk.fsync(self._number)
        except OSError as error:
            self._undo(stream, segment, keep=not written and error.errno in FULL)
            raise
        books.last_fsync_us = clock.monotonic_us() - started_us
        for record, data in zip(records, packed, strict=True):
            segment.mark(record.sequence, segment.size)
            segment.size += len(data)
            self._streams.size += len(data)
            segment.last = stream.last = record.sequence
            segment.first_us = segment.first_us or record.time_us
            segment.last_us = max(segment.last_us, record.time_us)

    def _segment_for(self, stream: Stream, record: Record) -> Segment:
        if self.active is not None:
            aged = self.active.size and record.time_us - self.active.first_us > SEGMENT_LASTS_US
            if self.active.size < self._segment_bytes and not aged:
                return self.active
            self.retire()
        disk = self._place.disk
        path = self._place.path / segment_name(stream.generation, record.sequence, stream.name)
        self._number = disk.open_append(path, empty=True)
        try:
            disk.sync_directory(self._place.path)
        except OSError:
            disk.close(self._number)
            raise
        self.active = Segment(path, first=record.sequence, last=record.sequence - 1)
        stream.segments.append(self.active)
        return self.active

    def _undo(self, stream: Stream, segment: Segment, *, keep: bool) -> None:
        """Forget a failed write; `keep` the segment open when nothing but room was missing."""
        with self._place.tolerant():
            self._place.disk.truncate(self._number, segment.size)
            if keep:
                return
        self.retire()
        if segment.last < segment.first:
            stream.segments.remove(segment)
            with self._place.tolerant():  # a file that stays is emptied by the next segment of its name
                self._place.disk.remove(segment.path)
