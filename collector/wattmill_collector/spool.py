"""The spool: every batch on disk before anything else happens to it.

Promises: *taken means fsynced* — `append` returns after write and fsync or raises NotTaken. A taken batch is read until
the service's receipt acknowledges it, or it is in quarantine with a reason, or it is part of a Drop that a later batch
reports. It always starts: what can't be read is skipped by scanning for the next record, and said. Memory does not grow
with the backlog: a segment of up to 1 MiB costs one small object.

How: sequences of a stream are dense, and a segment's name holds its first one, so a segment ends where the next begins.
What is missing between is lost, and is found when it is read; at start only the newest segment of a stream is scanned.
The cursor (what is acknowledged) is a hint: without it batches are sent again, and the service knows them by hash.
In any doubt about its numbers (a copied directory, a damaged file, a conflict) the spool starts a new stream, which is
always safe: records stay in the stream they were written in and keep its name.

It does not do: compressing over batches, reading what is already acknowledged (unless rewound), choosing what to send.
"""

from __future__ import annotations

import array
import bisect
import collections
import dataclasses
import errno
import json
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from wattmill_collector.clock import Clock, machine_id
from wattmill_collector.disk import Disk, OsDisk, replace_file, write_all
from wattmill_collector.journal import Drop, Journal, Move, seal, unseal
from wattmill_collector.quarantine import Quarantine
from wattmill_collector.ranges import Ranges
from wattmill_collector.segment import (
    HEADER_BYTES,
    Damage,
    Record,
    first_time_us,
    pack_member,
    pack_record,
    parse_name,
    read_records,
    segment_name,
)
from wattmill_collector.wire import Rejection, body_hash

MIB = 1 << 20
HOUR_US = 3_600_000_000
DEFAULT_MAX_BYTES = 2 << 30
DEFAULT_MAX_AGE_US = 14 * 24 * HOUR_US
DEFAULT_KEEP_US = 24 * HOUR_US
CURSOR_EVERY_US = 5_000_000
SEGMENT_LASTS_US = HOUR_US
CLOCK_STEP_US = 60_000_000  # wall and monotonic clock apart by more than this: the wall clock was set
MARK_EVERY_BYTES = 16 << 10
DROPS_PER_BATCH = 100
READ_ATTEMPTS = 5
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

__all__ = ["Drop", "NotTaken", "Record", "Spool", "SpoolStats"]

Encode = Callable[[str, int, Sequence[Drop]], bytes]


class NotTaken(Exception):
    """The batch is not on disk and was not given a sequence; the next append tries again."""


@dataclasses.dataclass(frozen=True, slots=True)
class SpoolStats:
    """The books of a spool; counts are since this process opened it."""

    stream: str
    next_sequence: int
    acknowledged_through: int
    pending_batches: int
    pending_bytes: int
    oldest_pending_us: int | None
    size_bytes: int
    segments: int
    appended: int
    not_taken: Mapping[str, int]
    dropped: Mapping[str, int]
    quarantined_batches: int
    rejected_readings: int
    moved_batches: int
    rewinds: int
    last_fsync_us: int
    last_error: str
    disk_full: bool


@dataclasses.dataclass(slots=True)
class _Segment:
    path: Path
    first: int
    last: int
    size: int = 0
    first_us: int = 0
    last_us: int = 0
    read_errors: int = 0
    mark_sequences: array.array[int] = dataclasses.field(default_factory=lambda: array.array("Q"))
    mark_offsets: array.array[int] = dataclasses.field(default_factory=lambda: array.array("Q"))

    def mark(self, sequence: int, offset: int) -> None:
        """Remember where a record begins, every few records and in rising order."""
        if offset >= (self.mark_offsets[-1] if self.mark_offsets else 0) + MARK_EVERY_BYTES:
            self.mark_sequences.append(sequence)
            self.mark_offsets.append(offset)

    def offset_before(self, sequence: int) -> int:
        at = bisect.bisect_right(self.mark_sequences, sequence) - 1
        return self.mark_offsets[at] if at >= 0 else 0


@dataclasses.dataclass(slots=True)
class _Stream:
    """`acknowledged`: released by receipt, or dropped and reported. `resolved`: also what is not yet reported."""

    name: str
    generation: int
    last: int = 0
    segments: list[_Segment] = dataclasses.field(default_factory=list)
    acknowledged: Ranges = dataclasses.field(default_factory=Ranges)
    resolved: Ranges = dataclasses.field(default_factory=Ranges)

    @property
    def first_kept(self) -> int:
        return self.segments[0].first if self.segments else self.last + 1

    def release(self, first: int, last: int) -> None:
        self.acknowledged.add(first, last)
        self.resolved.add(first, last)

    def pending(self) -> Iterator[tuple[int, int]]:
        return self.resolved.missing(self.first_kept, self.last)

    def unresolved(self, segment: _Segment) -> Iterator[tuple[int, int]]:
        return self.resolved.missing(segment.first, segment.last)

    def settled(self, segment: _Segment) -> bool:
        """Whether nobody needs the segment any more, but for a rewind."""
        return not any(self.acknowledged.missing(segment.first, segment.last))


@dataclasses.dataclass(slots=True)
class _Note:
    """A drop on its way into a batch: `carrier` is the taken batch that reports it."""

    drop: Drop
    durable: bool
    carrier: tuple[str, int] | None = None


@dataclasses.dataclass(slots=True)
class _Budget:
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


class Spool:
    """One directory of segments. Safe to use from two threads: one appends, one ships."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_age_us: int = DEFAULT_MAX_AGE_US,
        keep_us: int = DEFAULT_KEEP_US,
        disk: Disk | None = None,
        host: str | None = None,
        new_stream: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._path = path
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_age_us = max_age_us
        self._keep_us = keep_us
        self._disk: Disk = disk or OsDisk()
        self._host = machine_id() if host is None else host
        self._new_stream = new_stream
        self._segment_bytes = min(max(max_bytes // 64, 16 << 10), MIB)
        self._reserve_bytes = min(MIB, max_bytes // 8)
        self._lock = threading.RLock()
        self._journal = Journal(path / "journal", self._disk)
        self._quarantine = Quarantine(path / "quarantine", self._disk, min(16 * MIB, max(max_bytes // 8, 64 << 10)))

        self._streams: list[_Stream] = []
        self._active: _Segment | None = None
        self._number = -1  # the open file of the active segment
        self._notes: list[_Note] = []
        self._moves: list[Move] = []
        self._recent: collections.deque[tuple[str, int, int]] = collections.deque(maxlen=256)
        self._generation = 0
        self._size = 0
        self._recovered = False
        self._tight = False
        self._journal_stale = False
        self._cursor_due_us = 0
        self._clock_apart_us = clock.wall_us() - clock.monotonic_us()
        self._steady_since_us = clock.monotonic_us()

        self._appended = 0
        self._not_taken: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._quarantined_batches = 0
        self._rejected_readings = 0
        self._moved_batches = 0
        self._rewinds = 0
        self._last_fsync_us = 0
        self._last_error = ""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_age_us: int = DEFAULT_MAX_AGE_US,
        keep_us: int = DEFAULT_KEEP_US,
        disk: Disk | None = None,
        host: str | None = None,
        new_stream: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> Self:
        """Open or create the spool in a directory and find everything that is still to be sent.

        max_bytes: cap of all segments; max_age_us: older batches are dropped; keep_us: how long acknowledged batches
        stay for a rewind; host: identity of this host, by default the machine id.
        Errors: none for a disk in trouble; every append then tries again and raises NotTaken until it succeeds.
        """
        spool = cls(
            path,
            clock=clock,
            max_bytes=max_bytes,
            max_age_us=max_age_us,
            keep_us=keep_us,
            disk=disk,
            host=host,
            new_stream=new_stream,
        )
        with spool._lock:
            spool._try_recover()
        return spool

    # ---- taking

    @property
    def stream(self) -> str:
        """Stream of the next append; a conflict may change it, so encode uses what it is given."""
        with self._lock:
            return self._streams[-1].name if self._streams else ""

    def append(self, encode: Encode, *, readings: int = 1, boundary: bool = False) -> int:
        """Write one batch and fsync it; returns its sequence.

        encode(stream, sequence, drops) gives the line without its line end and reports the drops as readings.
        readings: how many are in the batch, for the post limit. boundary: it stands at the edge of a minute and may
        spend the disk reserve.
        Errors: NotTaken, with the reason in a sentence; whatever encode raises. In both cases the sequence is not used.
        """
        with self._lock:
            if not self._try_recover():
                raise self._refused("write_failed", f"{self._path} can't be opened: {self._last_error}")
            self._watch_clock()
            if self._tight and not self._restore_reserve() and not boundary:
                raise self._refused("disk_full", f"The disk of {self._path} is full: only minute boundaries go in")
            stream = self._streams[-1]
            sequence = stream.last + 1
            notes = [note for note in self._notes if note.carrier is None][:DROPS_PER_BATCH]
            line = encode(stream.name, sequence, [note.drop for note in notes])
            record = self._record(stream.name, sequence, line, readings, self._clock.wall_us())
            self._write_or_refuse(stream, [record], boundary=boundary)
            for note in notes:
                note.carrier = (stream.name, sequence)
            self._appended += 1
            self._recent.append((stream.name, sequence, record.time_us))
            self._enforce_caps()
            return sequence

    def _record(self, stream: str, sequence: int, line: bytes, readings: int, time_us: int) -> Record:
        return Record(stream, sequence, time_us, readings, body_hash(line), pack_member(line))

    def _write_or_refuse(self, stream: _Stream, records: Sequence[Record], *, boundary: bool) -> None:
        try:
            try:
                self._write(stream, records)
            except OSError as error:
                if not (boundary and error.errno in FULL and self._spend_reserve()):
                    raise
                self._write(stream, records)
        except OSError as error:
            full = error.errno in FULL
            self._tight = self._tight or full
            self._last_error = str(error)
            sentence = f"The batch was not written to {self._path}: {error.strerror or error}"
            raise self._refused("disk_full" if full else "write_failed", sentence) from error

    def _write(self, stream: _Stream, records: Sequence[Record]) -> None:
        segment = self._segment_for(stream, records[0])
        packed = [pack_record(record) for record in records]
        written = False
        started_us = self._clock.monotonic_us()
        try:
            write_all(self._disk, self._number, b"".join(packed))
            written = True
            self._disk.fsync(self._number)
        except OSError as error:
            self._undo(stream, segment, keep=not written and error.errno in FULL)
            raise
        self._last_fsync_us = self._clock.monotonic_us() - started_us
        for record, data in zip(records, packed, strict=True):
            segment.mark(record.sequence, segment.size)
            segment.size += len(data)
            self._size += len(data)
            segment.last = stream.last = record.sequence
            segment.first_us = segment.first_us or record.time_us
            segment.last_us = max(segment.last_us, record.time_us)

    def _segment_for(self, stream: _Stream, record: Record) -> _Segment:
        """The segment to write to. A new one is in its directory for good before anything is written to it."""
        active = self._active
        if active is not None:
            aged = active.size and record.time_us - active.first_us > SEGMENT_LASTS_US
            if active.size < self._segment_bytes and not aged:
                return active
            self._retire()
        path = self._path / segment_name(stream.generation, record.sequence, stream.name)
        self._number = self._disk.open_append(path, empty=True)
        try:
            self._disk.sync_directory(self._path)
        except OSError:
            self._disk.close(self._number)
            raise
        self._active = _Segment(path, first=record.sequence, last=record.sequence - 1)
        stream.segments.append(self._active)
        return self._active

    def _undo(self, stream: _Stream, segment: _Segment, *, keep: bool) -> None:
        """Forget a failed write. After a failed fsync nobody knows what is on disk: that file is never written again.

        The next segment begins with the same sequence, which makes anything left behind in this one void.
        """
        try:
            self._disk.truncate(self._number, segment.size)
            if keep:
                return
        except OSError as error:
            self._last_error = str(error)
        self._retire()
        if segment.last < segment.first:
            stream.segments.remove(segment)
            try:
                self._disk.remove(segment.path)
            except OSError as error:  # then the next one of this name empties it
                self._last_error = str(error)

    def _retire(self) -> None:
        self._active = None
        try:
            self._disk.close(self._number)
        except OSError as error:  # every record in it is fsynced
            self._last_error = str(error)

    def _refused(self, reason: str, sentence: str) -> NotTaken:
        self._not_taken[reason] += 1
        last = self._notes[-1] if self._notes else None
        if last and last.carrier is None and last.drop.reason == reason:
            last.drop = dataclasses.replace(last.drop, count=last.drop.count + 1)
        else:
            self._notes.append(_Note(Drop(self.stream, 0, 0, reason, 1, self._clock.wall_us()), durable=False))
        return NotTaken(sentence)

    # ---- the reserve

    def _restore_reserve(self) -> bool:
        try:
            self._disk.reserve(self._path / "reserve", self._reserve_bytes)
        except OSError as error:
            self._last_error = str(error)
            self._tight = error.errno in FULL
        else:
            self._tight = False
        return not self._tight

    def _spend_reserve(self) -> bool:
        self._tight = True
        try:
            self._disk.remove(self._path / "reserve")
        except OSError:
            return False
        return True

    # ---- reading

    def read_oldest(
        self, *, limit_bytes: int, limit_batches: int, limit_readings: int, skip: Container[tuple[str, int]] = ()
    ) -> list[Record]:
        """The oldest batches that wait, in order; `skip` holds (stream, sequence) to leave out. Errors: OSError."""
        with self._lock:
            found: list[Record] = []
            budget = _Budget(limit_bytes, limit_batches, limit_readings)
            for stream in self._streams:
                for record in self._read(stream, stream.first_kept):
                    if (stream.name, record.sequence) in skip:
                        continue
                    if not budget.take(record, first=not found):
                        return found
                    found.append(record)
            return found

    def read_newest(
        self, *, limit_bytes: int, limit_batches: int, limit_readings: int, skip: Container[tuple[str, int]] = ()
    ) -> list[Record]:
        """The newest batches of the present stream that wait, in order. Errors: OSError."""
        with self._lock:
            pending = list(self._streams[-1].pending()) if self._streams else []
            if not pending:
                return []
            stream = self._streams[-1]
            first = max(pending[-1][0], pending[-1][1] - limit_batches + 1)
            records = [r for r in self._read(stream, first) if (stream.name, r.sequence) not in skip]
            budget = _Budget(limit_bytes, limit_batches, limit_readings)
            found: list[Record] = []
            for record in reversed(records):
                if not budget.take(record, first=not found):
                    break
                found.append(record)
            return found[::-1]

    def _read(self, stream: _Stream, first: int) -> Iterator[Record]:
        for low, high in list(stream.resolved.missing(first, stream.last)):
            for segment in list(stream.segments):
                if segment.last >= low and segment.first <= high:
                    self._lost(stream, low, segment.first - 1, "not_kept")
                    low = max(low, segment.first)
                    yield from self._read_segment(stream, segment, low, min(high, segment.last))
                    low = segment.last + 1
            self._lost(stream, low, high, "not_kept")

    def _read_segment(self, stream: _Stream, segment: _Segment, first: int, last: int) -> Iterator[Record]:
        """Records first..last; what is missing among them is lost, and noted."""
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
            self._lost(stream, expected, record.sequence - 1, "corrupt", segment.first_us)
            expected = record.sequence + 1
            yield record
        self._lost(stream, expected, last, "corrupt", segment.first_us)
        if not anything and start == 0 and segment is not self._active:
            self._put_away(segment)

    def _data(self, segment: _Segment, start: int) -> bytes:
        try:
            return self._disk.read(segment.path, start, segment.size - start)
        except FileNotFoundError:
            return b""
        except OSError as error:
            segment.read_errors += 1
            self._last_error = str(error)
            if segment.read_errors < READ_ATTEMPTS:
                raise
            return b""

    def _lost(self, stream: _Stream, first: int, last: int, reason: str, start_us: int = 0) -> None:
        for low, high in list(stream.resolved.missing(first, last)):
            self._note_best(Drop(stream.name, low, high, reason, high - low + 1, start_us or None))
            stream.resolved.add(low, high)

    def _put_away(self, segment: _Segment) -> None:
        try:
            self._quarantine.put_away(segment.path)
        except OSError as error:
            self._last_error = str(error)

    # ---- releasing

    def acknowledge(self, batches: Iterable[tuple[str, int]]) -> None:
        """The service has these (stream, sequence), in any order; what they reported as dropped is accounted for."""
        with self._lock:
            done = set(batches)
            for name, sequence in done:
                stream = self._stream(name)
                if stream is not None and sequence <= stream.last:
                    stream.release(sequence, sequence)
            for note in [note for note in self._notes if note.carrier in done]:
                self._settle(note)
            self._write_cursor_if_due()

    def _settle(self, note: _Note) -> None:
        self._notes.remove(note)
        self._journal_stale = self._journal_stale or note.durable
        stream = self._stream(note.drop.stream)
        if stream is not None and note.drop.first_sequence:
            stream.release(note.drop.first_sequence, note.drop.last_sequence)

    def acknowledged_through(self, stream: str) -> int:
        """The sequence up to which every batch of the stream is with the service or reported as dropped."""
        with self._lock:
            found = self._stream(stream)
            return found.acknowledged.through if found else 0

    def rewind(self, stream: str, committed_through: int) -> int:
        """The service has lost what came after `committed_through`; returns how many kept batches will be sent again.

        Those that are no longer kept are reported as dropped, reason not_kept.
        """
        with self._lock:
            found = self._stream(stream)
            if found is None or committed_through >= found.acknowledged.through:
                return 0
            self._rewinds += 1
            kept = max(committed_through + 1, found.first_kept)
            found.acknowledged.remove(committed_through + 1, found.last)
            found.resolved.remove(kept, found.last)
            for note in self._notes:
                if note.drop.stream == stream and note.drop.first_sequence:
                    found.resolved.add(note.drop.first_sequence, note.drop.last_sequence)
            for move in self._moves:
                if move.stream == stream:  # they go on under other numbers
                    for sequence in move.sequences:
                        found.release(sequence, sequence)
            if committed_through + 1 < kept:
                count = kept - 1 - committed_through
                self._note_best(Drop(stream, committed_through + 1, kept - 1, "not_kept", count))
            return sum(high - low + 1 for low, high in found.pending())

    def quarantine(self, record: Record, reason: str) -> None:
        """Take one batch out of the queue for good, into the quarantine file. Errors: OSError, nothing changed."""
        with self._lock:
            entry = {
                "time_us": record.time_us,
                "stream": record.stream,
                "sequence": record.sequence,
                "reason": reason,
                "batch": record.line().decode(errors="replace"),
            }
            self._quarantine.add([entry])
            self._quarantined_batches += 1
            stream = self._stream(record.stream)
            if stream is not None and record.sequence not in stream.resolved:
                stream.resolved.add(record.sequence, record.sequence)
                self._free_notes(record.stream, record.sequence, record.sequence)
                self._note_best(Drop(record.stream, record.sequence, record.sequence, "quarantined", 1, record.time_us))

    def quarantine_readings(self, record: Record, rejections: Sequence[Rejection]) -> None:
        """Keep the readings of a stored batch that the service refused, with its reasons. Errors: OSError."""
        with self._lock:
            readings = json.loads(record.line()).get("readings", [])
            self._quarantine.add(
                {
                    "time_us": record.time_us,
                    "stream": record.stream,
                    "sequence": record.sequence,
                    "field": rejection.field,
                    "reason": rejection.reason,
                    "reading": readings[rejection.index] if 0 <= rejection.index < len(readings) else None,
                }
                for rejection in rejections
            )
            self._rejected_readings += len(rejections)

    def move_to_new_stream(self, records: Sequence[Record]) -> None:
        """The service holds other batches under these numbers: number them again in a new stream.

        What follows is appended to the new stream too. Records that have not met a conflict stay where they are, for
        they may be stored already. Errors: NotTaken; the records then still wait under their old numbers.
        """
        with self._lock:
            records = [r for r in records if (s := self._stream(r.stream)) and r.sequence not in s.resolved]
            if not records:
                return
            if any(record.stream == self._streams[-1].name for record in records):
                self._start_stream()
            target = self._streams[-1]
            by_stream: dict[str, list[Record]] = {}
            for record in records:
                by_stream.setdefault(record.stream, []).append(record)
            for name, batch in by_stream.items():
                first = target.last + 1
                renumbered = [_renumber(r, target.name, first + i) for i, r in enumerate(batch)]
                move = Move(name, tuple(r.sequence for r in batch), target.name, target.generation, first)
                try:
                    self._journal.add(move)  # before the records: after a crash, a move to nowhere is void
                except OSError as error:
                    self._last_error = str(error)
                    sentence = f"A new stream could not be noted in {self._path}: {error}"
                    raise self._refused("write_failed", sentence) from error
                try:
                    self._write_or_refuse(target, renumbered, boundary=True)
                except NotTaken:
                    self._start_stream()  # the noted numbers must never be given to other batches
                    raise
                self._moves.append(move)
                self._moved_batches += len(batch)
                self._finish_move(move, batch)

    def _finish_move(self, move: Move, batch: Sequence[Record]) -> None:
        source = self._stream(move.stream)
        for index, record in enumerate(batch):
            if source is not None:
                source.release(record.sequence, record.sequence)
            for note in self._notes:
                if note.carrier == (move.stream, record.sequence):
                    note.carrier = (move.to_stream, move.to_first + index)

    # ---- dropping

    def _note_best(self, drop: Drop) -> None:
        """Note a drop that would be found again after a crash: it may be written down, but does not have to."""
        durable = True
        try:
            self._journal.add(drop)
        except OSError as error:
            self._last_error = str(error)
            durable = False
        self._note(drop, durable=durable)

    def _note(self, drop: Drop, *, durable: bool) -> None:
        self._notes.append(_Note(drop, durable))
        self._dropped[drop.reason] += drop.count

    def _free_notes(self, stream: str, first: int, last: int) -> None:
        """The batches that carried these drops will not arrive: report the drops again."""
        for note in self._notes:
            if note.carrier and note.carrier[0] == stream and first <= note.carrier[1] <= last:
                note.carrier = None

    def _enforce_caps(self) -> None:
        """Remove what nobody needs any more, then what is too old or too much, oldest first, by whole segments."""
        now_us = self._clock.wall_us()
        steady = self._clock.monotonic_us() - self._steady_since_us >= HOUR_US
        if self._size <= self._max_bytes and not steady:
            return
        for stream in list(self._streams):
            for segment in self._droppable(stream):
                age_us = now_us - segment.last_us if steady else 0
                settled = stream.settled(segment)
                if age_us <= (self._keep_us if settled else self._max_age_us):
                    break  # what follows is younger
                if not self._drop_segment(stream, segment, "dropped_max_age"):
                    return
        for sparing in (True, False):
            for stream in list(self._streams):
                for segment in self._droppable(stream):
                    if self._size <= self._max_bytes:
                        return
                    if sparing and not stream.settled(segment):
                        continue
                    if not self._drop_segment(stream, segment, "dropped_max_bytes"):
                        return

    def _droppable(self, stream: _Stream) -> list[_Segment]:
        newest = stream is self._streams[-1]
        return stream.segments[:-1] if newest else list(stream.segments)

    def _drop_segment(self, stream: _Stream, segment: _Segment, reason: str) -> bool:
        """Note first, unlink after: between the two a crash leaves a segment that is known to be dropped."""
        try:
            for low, high in list(stream.unresolved(segment)):
                drop = Drop(stream.name, low, high, reason, high - low + 1, segment.first_us or None)
                self._journal.add(drop)
                self._note(drop, durable=True)
                stream.resolved.add(low, high)
                self._free_notes(stream.name, low, high)
            if segment is not stream.segments[0]:
                self._write_cursor()  # a hole is told from a loss by the cursor alone
            self._disk.remove(segment.path)
        except FileNotFoundError as error:  # somebody was faster; the note stands
            self._last_error = str(error)
        except OSError as error:
            self._last_error = str(error)
            return False
        self._size -= segment.size
        stream.segments.remove(segment)
        if not stream.segments and stream is not self._streams[-1]:
            self._streams.remove(stream)
            self._moves = [move for move in self._moves if move.stream != stream.name]
            self._journal_stale = True
        return True

    def _watch_clock(self) -> None:
        """Ages are believed after an hour without a step of the wall clock: a wrong date must not empty the spool."""
        apart_us = self._clock.wall_us() - self._clock.monotonic_us()
        if abs(apart_us - self._clock_apart_us) > CLOCK_STEP_US:
            self._steady_since_us = self._clock.monotonic_us()
        self._clock_apart_us = apart_us

    # ---- the cursor

    def _write_cursor_if_due(self) -> None:
        now_us = self._clock.monotonic_us()
        if now_us >= self._cursor_due_us:
            self._cursor_due_us = now_us + CURSOR_EVERY_US
            self._write_cursor()

    def _write_cursor(self) -> None:
        acknowledged = {stream.name: [list(r) for r in stream.acknowledged] for stream in self._streams}
        try:
            replace_file(self._disk, self._path / "cursor", seal({"acknowledged": acknowledged}), durable=True)
            if self._journal_stale:
                self._journal.rewrite([*self._moves, *(note.drop for note in self._notes if note.durable)])
                self._journal_stale = False
        except OSError as error:
            self._last_error = str(error)

    def _read_cursor(self) -> dict[str, Ranges]:
        document = self._document("cursor")
        found: dict[str, Ranges] = {}
        try:
            for name, ranges in document.get("acknowledged", {}).items():
                found[name] = Ranges((int(first), int(last)) for first, last in ranges)
        except (AttributeError, TypeError, ValueError):
            return {}
        return found

    def _document(self, name: str) -> dict[str, Any]:
        try:
            return unseal(self._disk.read(self._path / name, 0, MIB * 4)) or {}
        except OSError:
            return {}

    # ---- starting

    def _try_recover(self) -> bool:
        if not self._recovered:
            try:
                self._recover()
            except OSError as error:
                self._last_error = str(error)
                self._streams = []
            else:
                self._recovered = True
                self._last_error = ""
        return self._recovered

    def _recover(self) -> None:
        self._streams, self._notes, self._moves = [], [n for n in self._notes if not n.durable], []
        self._disk.make_directory(self._path)
        identity = self._document("identity")
        cursor = self._read_cursor()
        self._streams = self._find_streams()
        self._generation = max((stream.generation for stream in self._streams), default=0)
        self._size = sum(segment.size for stream in self._streams for segment in stream.segments)
        whole = [self._find_end(stream) for stream in self._streams]
        for stream in self._streams:
            self._restore_acknowledged(stream, cursor.get(stream.name, Ranges()))
        entries = list(self._journal.read())
        sure = [self._restore_move(entry) for entry in entries if isinstance(entry, Move)]
        sure += [self._restore_drop(e, cursor.get(e.stream, Ranges())) for e in entries if isinstance(e, Drop)]
        here = {"host": self._host, "directory": self._disk.identity(self._path)}
        newest = self._streams[-1] if self._streams else None
        if (
            newest is not None
            and all(sure)
            and identity == {"stream": newest.name, **here}
            and newest.acknowledged.highest <= newest.last
        ):
            self._reopen(newest, whole=whole[-1])
        else:
            self._start_stream()
        self._journal_stale = self._journal_stale or not all(sure)
        if self._journal_stale:
            self._write_cursor()
        self._restore_reserve()

    def _find_streams(self) -> list[_Stream]:
        streams: dict[tuple[int, str], _Stream] = {}
        for name in self._disk.names(self._path):
            if not name.endswith(".segment"):
                continue
            parsed = parse_name(name)
            if parsed is None:
                self._put_away(_Segment(self._path / name, 0, 0))
                continue
            generation, first, stream_name = parsed
            stream = streams.setdefault((generation, stream_name), _Stream(stream_name, generation))
            path = self._path / name
            size = self._disk.size(path)
            segment = _Segment(path, first=first, last=first - 1, size=size)
            segment.first_us = first_time_us(self._disk.read(path, 0, HEADER_BYTES)) or 0
            if stream.segments:
                stream.segments[-1].last = first - 1
                stream.segments[-1].last_us = segment.first_us or stream.segments[-1].first_us
            stream.segments.append(segment)
        return [streams[key] for key in sorted(streams)]

    def _find_end(self, stream: _Stream) -> bool:
        """Scan the newest segment of a stream; whether every byte of it is a record.

        Bytes behind the last record stood for a batch, taken or not: its sequence is not given out again.
        """
        segment = stream.segments[-1]
        whole, unnamed_tail = True, False
        segment.last_us = segment.first_us
        for item in read_records(self._disk.read(segment.path, 0, segment.size), stream.name):
            if isinstance(item, Damage):
                whole, unnamed_tail = False, item.sequence is None
                segment.last = max(segment.last, item.sequence or 0)
                continue
            begin, _, record = item
            unnamed_tail = False
            segment.mark(record.sequence, begin)
            segment.last = max(segment.last, record.sequence)
            segment.last_us = max(segment.last_us, record.time_us)
        segment.last += unnamed_tail
        stream.last = segment.last
        return whole

    def _restore_acknowledged(self, stream: _Stream, cursor: Ranges) -> None:
        """What lies before the first segment was acknowledged or dropped, or it would still be there."""
        stream.release(1, stream.first_kept - 1)
        for first, last in cursor:
            stream.release(first, last)

    def _restore_drop(self, drop: Drop, cursor: Ranges) -> bool:
        """Put a drop back on its way, unless the cursor knows it to be reported; False when it can't be right."""
        if not any(cursor.missing(drop.first_sequence, drop.last_sequence)):
            self._journal_stale = True
            return True
        self._notes.append(_Note(drop, durable=True))
        stream = self._stream(drop.stream)
        if stream is None:
            return True
        stream.acknowledged.remove(drop.first_sequence, drop.last_sequence)
        stream.resolved.add(drop.first_sequence, drop.last_sequence)
        return drop.last_sequence <= stream.last

    def _restore_move(self, move: Move) -> bool:
        """Release what was moved; False when the crash came before all of it was written."""
        target = self._stream(move.to_stream)
        newest = self._streams[-1].generation if self._streams else 0
        if target is not None:
            done = move.sequences[: max(target.last + 1 - move.to_first, 0)]
        else:
            done = move.sequences if move.to_generation < newest else ()
        source = self._stream(move.stream)
        if source is None:
            self._journal_stale = True
        elif done:
            for sequence in done:
                source.release(sequence, sequence)
            self._moves.append(dataclasses.replace(move, sequences=done))
        return len(done) == len(move.sequences)

    def _reopen(self, stream: _Stream, *, whole: bool) -> None:
        """Go on in the newest segment if it is whole; what was read from it is fsynced before it is sent."""
        segment = stream.segments[-1]
        try:
            self._number = self._disk.open_append(segment.path, empty=False)
        except OSError as error:
            self._last_error = str(error)
            return
        self._active = segment
        try:
            self._disk.fsync(self._number)
        except OSError as error:
            self._last_error = str(error)
            whole = False
        if not whole:
            self._retire()

    def _start_stream(self) -> None:
        if self._active is not None:
            self._retire()
        if self._streams and not self._streams[-1].segments:
            self._streams.pop()
        generation = max((stream.generation for stream in self._streams), default=0) + 1
        stream = _Stream(self._new_stream(), max(generation, self._generation + 1))
        self._generation = stream.generation
        self._streams.append(stream)
        try:
            identity = {"stream": stream.name, "host": self._host, "directory": self._disk.identity(self._path)}
            replace_file(self._disk, self._path / "identity", seal(identity), durable=True)
        except OSError as error:  # the next start will be in doubt, and start another stream
            self._last_error = str(error)

    def _stream(self, name: str) -> _Stream | None:
        return next((stream for stream in self._streams if stream.name == name), None)

    # ---- the books

    def stats(self) -> SpoolStats:
        """A snapshot of the books, for health and metrics."""
        with self._lock:
            newest = self._streams[-1] if self._streams else _Stream("", 0)
            batches, size = self.pending()
            return SpoolStats(
                stream=newest.name,
                next_sequence=newest.last + 1,
                acknowledged_through=newest.acknowledged.through,
                pending_batches=batches,
                pending_bytes=size,
                oldest_pending_us=self._oldest_pending_us(),
                size_bytes=self._size,
                segments=sum(len(stream.segments) for stream in self._streams),
                appended=self._appended,
                not_taken=dict(self._not_taken),
                dropped=dict(self._dropped),
                quarantined_batches=self._quarantined_batches,
                rejected_readings=self._rejected_readings,
                moved_batches=self._moved_batches,
                rewinds=self._rewinds,
                last_fsync_us=self._last_fsync_us,
                last_error=self._last_error,
                disk_full=self._tight,
            )

    def pending(self) -> tuple[int, int]:
        """(batches, bytes) that wait; the bytes of a segment are shared equally among its batches."""
        with self._lock:
            batches = size = 0
            for stream in self._streams:
                ranges = list(stream.pending())
                batches += sum(last - first + 1 for first, last in ranges)
                for segment in stream.segments if ranges else ():
                    waiting = sum(last - first + 1 for first, last in stream.unresolved(segment))
                    size += segment.size * waiting // max(segment.last - segment.first + 1, 1)
            return batches, size

    def newest(self) -> tuple[str, int]:
        """(stream, sequence) of the batch taken last; sequence 0 when the present stream has none."""
        with self._lock:
            return (self._streams[-1].name, self._streams[-1].last) if self._streams else ("", 0)

    def _oldest_pending_us(self) -> int | None:
        for stream in self._streams:
            for first, _ in stream.pending():
                for name, sequence, time_us in self._recent:
                    if (name, sequence) == (stream.name, first):
                        return time_us
                return next((s.first_us for s in stream.segments if s.first <= first <= s.last and s.first_us), None)
        return None

    def close(self) -> None:
        """Write the cursor and close the file. The spool can't be used afterwards."""
        with self._lock:
            if self._recovered:
                self._write_cursor()
            if self._active is not None:
                self._retire()
            self._recovered = False


def _renumber(record: Record, stream: str, sequence: int) -> Record:
    """The same batch under another stream and sequence.

    Ranges that it reports as dropped belong to the old stream; under the new one they would count other batches as
    accounted for, so they stay as text only.
    """
    document = json.loads(record.line())
    document["stream"], document["sequence"] = stream, sequence
    for reading in document.get("readings", ()):
        if isinstance(reading, dict) and reading.get("subject") == "batch" and reading.get("id") != stream:
            first, last = reading.pop("first_sequence", None), reading.pop("last_sequence", None)
            if first is not None:
                reading["detail"] = f"{reading.get('detail', '')}: {first} to {last} of stream {reading.get('id')}"
    line = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return Record(stream, sequence, record.time_us, record.readings, body_hash(line), pack_member(line))
