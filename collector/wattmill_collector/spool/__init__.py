"""The spool: every batch on disk before anything else happens to it.

Promises: *taken means fsynced* — `append` returns after write and fsync or raises NotTaken. A taken batch is read until
the service's receipt acknowledges it, or it is in quarantine with a reason, or it is part of a Drop that a later batch
reports. It always starts: what can't be read is skipped by scanning for the next record, and said. Memory does not grow
with the backlog.

The parts: `writer.py` puts batches on the disk, `backlog.py` reads what waits, `drops.py` reports what will not arrive,
`retention.py` keeps the caps, `recovery.py` finds everything again, `moves.py` leaves a stream whose numbers conflict.
They share one `Streams` and one `Place`; the lock is here.

It does not do: compressing over batches, reading what is already acknowledged (unless rewound), choosing what to send.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Self

from wattmill_collector.clock import Clock, machine_id
from wattmill_collector.spool.backlog import Backlog, Budget
from wattmill_collector.spool.books import Books, SpoolStats
from wattmill_collector.spool.cursor import Cursor
from wattmill_collector.spool.disk import Disk, OsDisk
from wattmill_collector.spool.drops import Drops, NotTaken
from wattmill_collector.spool.identity import Identity
from wattmill_collector.spool.journal import Drop
from wattmill_collector.spool.moves import move_to_new_stream
from wattmill_collector.spool.place import Place
from wattmill_collector.spool.quarantine import Quarantine
from wattmill_collector.spool.recovery import Recovery
from wattmill_collector.spool.retention import (
    DEFAULT_KEEP_US,
    DEFAULT_MAX_AGE_US,
    DEFAULT_MAX_BYTES,
    HOUR_US,
    Limits,
    Retention,
)
from wattmill_collector.spool.segment import Record, pack_member
from wattmill_collector.spool.streams import Streams
from wattmill_collector.spool.writer import Reserve, Writer
from wattmill_collector.wire import Rejection, body_hash

__all__ = ["HOUR_US", "Drop", "NotTaken", "Record", "Spool", "SpoolStats"]

Encode = Callable[[str, int, Sequence[Drop]], bytes]


class Spool:
    """One directory of segments. Safe to use from two threads: one appends, one ships."""

    def __init__(self, place: Place, limits: Limits, *, host: str, new_stream: Callable[[], str]) -> None:
        """Nothing is read yet: use `open`."""
        self._place = place
        self._books = place.books
        self._lock = threading.RLock()
        self._recovered = False
        self._streams = Streams()
        self._drops = Drops(place, self._streams)
        self._quarantine = Quarantine(place.path / "quarantine", place.disk, limits.quarantine_bytes)
        self._reserve = Reserve(place, limits.reserve_bytes)
        self._cursor = Cursor(place, self._streams, self._drops)
        identity = Identity(place, host)
        self._writer = Writer(
            place,
            self._streams,
            self._drops,
            identity,
            self._reserve,
            segment_bytes=limits.segment_bytes,
            new_stream=new_stream,
        )
        self._backlog = Backlog(place, self._streams, self._drops, self._writer, self._quarantine)
        self._retention = Retention(place, self._streams, self._drops, self._cursor, limits)
        self._recovery = Recovery(
            place, self._streams, self._drops, self._cursor, identity, self._writer, self._quarantine
        )

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
            Place(path, disk or OsDisk(), clock, Books()),
            Limits(max_bytes, max_age_us, keep_us),
            host=machine_id() if host is None else host,
            new_stream=new_stream,
        )
        with spool._lock:
            spool._try_recover()
        return spool

    def _try_recover(self) -> bool:
        if not self._recovered:
            try:
                self._recovery.run()
            except OSError as error:
                self._books.last_error = str(error)
            else:
                self._reserve.restore()
                self._recovered = True
                self._books.last_error = ""
        return self._recovered

    def close(self) -> None:
        """Write the cursor and close the file. The spool can't be used afterwards."""
        with self._lock:
            if self._recovered:
                self._cursor.write()
            self._writer.retire()
            self._recovered = False

    # ---- taking

    @property
    def stream(self) -> str:
        """Stream of the next append; a conflict may change it, so encode uses what it is given."""
        with self._lock:
            return self._streams.newest.name

    def append(self, encode: Encode, *, readings: int = 1, boundary: bool = False) -> int:
        """Write one batch and fsync it; returns its sequence.

        encode(stream, sequence, drops) gives the line without its line end and reports the drops as readings.
        readings: how many are in the batch, for the post limit. boundary: it stands at the edge of a minute and may
        spend the disk reserve.
        Errors: NotTaken, with the reason in a sentence; whatever encode raises. In both cases the sequence is not used.
        """
        with self._lock:
            path = self._place.path
            if not self._try_recover():
                raise self._drops.refused("write_failed", f"{path} can't be opened: {self._books.last_error}")
            self._retention.watch_clock()
            if self._reserve.disk_full and not self._reserve.restore() and not boundary:
                raise self._drops.refused("disk_full", f"The disk of {path} is full: only minute boundaries go in")
            stream, sequence = self._streams.newest.name, self._streams.newest.last + 1
            notes = self._drops.waiting()
            line = encode(stream, sequence, [note.drop for note in notes])
            time_us = self._place.clock.wall_us()
            record = Record(stream, sequence, time_us, readings, body_hash(line), pack_member(line))
            self._writer.take([record], boundary=boundary)
            self._drops.carry(notes, stream, sequence)
            self._books.appended += 1
            self._backlog.remember(record)
            self._retention.enforce()
            return sequence

    # ---- reading

    def read_oldest(
        self, *, limit_bytes: int, limit_batches: int, limit_readings: int, skip: Container[tuple[str, int]] = ()
    ) -> list[Record]:
        """The oldest batches that wait, in order; `skip` holds (stream, sequence) to leave out. Errors: OSError."""
        with self._lock:
            return self._backlog.read_oldest(Budget(limit_bytes, limit_batches, limit_readings), skip)

    def read_newest(
        self, *, limit_bytes: int, limit_batches: int, limit_readings: int, skip: Container[tuple[str, int]] = ()
    ) -> list[Record]:
        """The newest batches of the present stream that wait, in order. Errors: OSError."""
        with self._lock:
            return self._backlog.read_newest(Budget(limit_bytes, limit_batches, limit_readings), skip)

    # ---- releasing

    def acknowledge(self, batches: Iterable[tuple[str, int]]) -> None:
        """The service has these (stream, sequence), in any order; what they reported as dropped is accounted for."""
        with self._lock:
            done = set(batches)
            for name, sequence in done:
                stream = self._streams.named(name)
                if stream is not None and sequence <= stream.last:
                    stream.release(sequence, sequence)
            self._drops.settle(done)
            self._cursor.write_if_due()

    def acknowledged_through(self, stream: str) -> int:
        """The sequence up to which every batch of the stream is with the service or reported as dropped."""
        with self._lock:
            found = self._streams.named(stream)
            return found.acknowledged.through if found else 0

    def rewind(self, stream: str, committed_through: int) -> int:
        """The service has lost what came after `committed_through`; returns how many kept batches will be sent again.

        Those that are no longer kept are reported as dropped, reason not_kept.
        """
        with self._lock:
            found = self._streams.named(stream)
            if found is None or committed_through >= found.acknowledged.through:
                return 0
            self._books.rewinds += 1
            kept = max(committed_through + 1, found.first_kept)
            found.acknowledged.remove(committed_through + 1, found.last)
            found.resolved.remove(kept, found.last)
            self._drops.withhold(found)
            if committed_through + 1 < kept:
                count = kept - 1 - committed_through
                self._drops.note(Drop(stream, committed_through + 1, kept - 1, "not_kept", count))
            return sum(high - low + 1 for low, high in found.pending())

    def quarantine(self, record: Record, reason: str) -> None:
        """Take one batch out of the queue for good, into the quarantine file. Errors: OSError, nothing changed."""
        with self._lock:
            name, sequence = record.stream, record.sequence
            entry = {
                "time_us": record.time_us,
                "stream": name,
                "sequence": sequence,
                "reason": reason,
                "batch": record.line().decode(errors="replace"),
            }
            self._quarantine.add([entry])
            self._books.quarantined_batches += 1
            stream = self._streams.named(name)
            if stream is not None and sequence not in stream.resolved:
                stream.resolved.add(sequence, sequence)
                self._drops.free(name, sequence, sequence)
                self._drops.note(Drop(name, sequence, sequence, "quarantined", 1, record.time_us))

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
            self._books.rejected_readings += len(rejections)

    def move_to_new_stream(self, records: Sequence[Record]) -> None:
        """The service holds other batches under these numbers: number them again in a new stream.

        What follows is appended to the new stream too. Records that have not met a conflict stay where they are, for
        they may be stored already. Errors: NotTaken; the records then still wait under their old numbers.
        """
        with self._lock:
            move_to_new_stream(records, self._place, self._streams, self._drops, self._writer)

    # ---- the books

    def stats(self) -> SpoolStats:
        """A snapshot of the books, for health and metrics."""
        with self._lock:
            books, newest = self._books, self._streams.newest
            batches, size = self._backlog.count()
            return SpoolStats(
                stream=newest.name,
                next_sequence=newest.last + 1,
                acknowledged_through=newest.acknowledged.through,
                pending_batches=batches,
                pending_bytes=size,
                oldest_pending_us=self._backlog.oldest_us(),
                size_bytes=self._streams.size,
                segments=sum(len(stream.segments) for stream in self._streams),
                appended=books.appended,
                not_taken=dict(books.not_taken),
                dropped=dict(books.dropped),
                quarantined_batches=books.quarantined_batches,
                rejected_readings=books.rejected_readings,
                moved_batches=books.moved_batches,
                rewinds=books.rewinds,
                last_fsync_us=books.last_fsync_us,
                last_error=books.last_error,
                disk_full=self._reserve.disk_full,
            )

    def pending(self) -> tuple[int, int]:
        """(batches, bytes) that wait; the bytes of a segment are shared equally among its batches."""
        with self._lock:
            return self._backlog.count()

    def newest(self) -> tuple[str, int]:
        """(stream, sequence) of the batch taken last; sequence 0 when the present stream has none."""
        with self._lock:
            return self._streams.newest.name, self._streams.newest.last
