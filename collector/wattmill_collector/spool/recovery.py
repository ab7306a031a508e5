"""Finding everything again at start: segments, the cursor, and the journal of drops and moves.

It always starts: only a directory that can't be listed or a segment that can't be read holds it up, and is tried again
at the next append. Only the newest segment of a stream is scanned. In any doubt about its numbers (a copied directory,
a damaged file, a journal or cursor that knows more than the segments) the spool starts a new stream, which is always
safe: records stay in the stream they were written in and keep its name.
"""

from __future__ import annotations

import dataclasses

from wattmill_collector.spool.cursor import Cursor
from wattmill_collector.spool.drops import Drops
from wattmill_collector.spool.identity import Identity
from wattmill_collector.spool.journal import Drop, Move
from wattmill_collector.spool.place import Place
from wattmill_collector.spool.quarantine import Quarantine
from wattmill_collector.spool.ranges import Ranges
from wattmill_collector.spool.segment import HEADER_BYTES, Damage, first_time_us, parse_name, read_records
from wattmill_collector.spool.streams import Segment, Stream, Streams
from wattmill_collector.spool.writer import Writer


@dataclasses.dataclass(frozen=True, slots=True)
class Recovery:
    """Fills the parts of a spool from its directory; may run again after it failed."""

    place: Place
    streams: Streams
    drops: Drops
    cursor: Cursor
    identity: Identity
    writer: Writer
    quarantine: Quarantine

    def run(self) -> None:
        """Errors: OSError; nothing is known of any stream then."""
        self.streams.restore([])
        try:
            self._run()
        except OSError:
            self.streams.restore([])
            raise

    def _run(self) -> None:
        self.place.disk.make_directory(self.place.path)
        own_stream = self.identity.stream()
        cursor = self.cursor.read()
        self.streams.restore(self._find_streams())
        whole = [self._find_end(stream) for stream in self.streams]
        for stream in self.streams:
            _restore_acknowledged(stream, cursor.get(stream.name, Ranges()))
        sure = self._restore_journal(cursor)
        newest = self.streams.newest
        if whole and sure and newest.name == own_stream and newest.acknowledged.highest <= newest.last:
            self.writer.reopen(newest.segments[-1], whole=whole[-1])
        else:
            self.writer.start_stream()
        if self.drops.journal_stale:
            self.cursor.write()

    # ---- segments

    def _find_streams(self) -> list[Stream]:
        """Streams and segments by their names; a segment ends where the next one begins."""
        streams: dict[tuple[int, str], Stream] = {}
        disk = self.place.disk
        for name in disk.names(self.place.path):
            if not name.endswith(".segment"):
                continue
            path = self.place.path / name
            parsed = parse_name(name)
            if parsed is None:
                with self.place.tolerant():
                    self.quarantine.put_away(path)
                continue
            generation, first, stream_name = parsed
            stream = streams.setdefault((generation, stream_name), Stream(stream_name, generation))
            segment = Segment(path, first=first, last=first - 1, size=disk.size(path))
            segment.first_us = first_time_us(disk.read(path, 0, HEADER_BYTES)) or 0
            if stream.segments:
                before = stream.segments[-1]
                before.last = first - 1
                before.last_us = segment.first_us or before.first_us
            stream.segments.append(segment)
        return [streams[key] for key in sorted(streams)]

    def _find_end(self, stream: Stream) -> bool:
        """Scan the newest segment of a stream; whether every byte of it is a record.

        Bytes behind the last record stood for a batch, taken or not: its sequence is not given out again.
        """
        segment = stream.segments[-1]
        whole, unnamed_tail = True, False
        segment.last_us = segment.first_us
        for item in read_records(self.place.disk.read(segment.path, 0, segment.size), stream.name):
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

    # ---- the journal

    def _restore_journal(self, cursor: dict[str, Ranges]) -> bool:
        """Whether all of it agrees with the segments. Moves come first: they release what a drop may withhold."""
        entries = self.drops.read_journal()
        sure = [self._restore_move(entry) for entry in entries if isinstance(entry, Move)]
        sure += [self._restore_drop(e, cursor.get(e.stream, Ranges())) for e in entries if isinstance(e, Drop)]
        self.drops.journal_stale = self.drops.journal_stale or not all(sure)
        return all(sure)

    def _restore_drop(self, drop: Drop, cursor: Ranges) -> bool:
        """Put a drop back on its way, unless the cursor knows it to be reported; False when it can't be right."""
        if not any(cursor.missing(drop.first_sequence, drop.last_sequence)):
            self.drops.journal_stale = True
            return True
        self.drops.restore(drop)
        stream = self.streams.named(drop.stream)
        if stream is None:
            return True
        stream.acknowledged.remove(drop.first_sequence, drop.last_sequence)
        stream.resolved.add(drop.first_sequence, drop.last_sequence)
        return drop.last_sequence <= stream.last

    def _restore_move(self, move: Move) -> bool:
        """Release what was moved; False when the crash came before all of it was written."""
        target = self.streams.named(move.to_stream)
        if target is not None:
            done = move.sequences[: max(target.last + 1 - move.to_first, 0)]
        else:
            done = move.sequences if move.to_generation < self.streams.newest.generation else ()
        source = self.streams.named(move.stream)
        if source is None:
            self.drops.journal_stale = True
        elif done:
            for sequence in done:
                source.release(sequence, sequence)
            self.drops.restore(dataclasses.replace(move, sequences=done))
        return len(done) == len(move.sequences)


def _restore_acknowledged(stream: Stream, cursor: Ranges) -> None:
    """What lies before the first segment was acknowledged or dropped, or it would still be there."""
    stream.release(1, stream.first_kept - 1)
    for first, last in cursor:
        stream.release(first, last)
