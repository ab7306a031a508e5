"""Batches that will not arrive as they were taken: drops on their way to the service, and moves to another stream.

A drop waits until a batch carries it, and is settled when that batch is acknowledged. One that no look at the segments
would find again stands in the journal before the records go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Set

from wattmill_collector.spool.journal import Drop, Journal, Move
from wattmill_collector.spool.place import Place
from wattmill_collector.spool.streams import Stream, Streams

DROPS_PER_BATCH = 100


class NotTaken(Exception):
    """The batch is not on disk and was not given a sequence; the next append tries again."""


@dataclasses.dataclass(slots=True)
class Note:
    """A drop on its way into a batch: `carrier` is the taken batch, (stream, sequence), that reports it."""

    drop: Drop
    durable: bool
    carrier: tuple[str, int] | None = None


class Drops:
    """The notes of drops, the moves, and the journal of both. `journal_stale`: it says more than is still true."""

    def __init__(self, place: Place, streams: Streams) -> None:
        self._place = place
        self._streams = streams
        self._journal = Journal(place.path / "journal", place.disk)
        self._notes: list[Note] = []
        self._moves: list[Move] = []
        self.journal_stale = False

    # ---- the journal

    def read_journal(self) -> list[Drop | Move]:
        """Forget what the journal holds, and read it anew. Errors: OSError."""
        self._notes = [note for note in self._notes if not note.durable]
        self._moves = []
        return list(self._journal.read())

    def restore(self, entry: Drop | Move) -> None:
        """Take over an entry of the journal that still holds."""
        if isinstance(entry, Move):
            self._moves.append(entry)
        else:
            self._notes.append(Note(entry, durable=True))

    def tidy_journal(self) -> None:
        """Rewrite a stale journal. Errors: OSError; it then stays stale."""
        if self.journal_stale:
            self._journal.rewrite([*self._moves, *(note.drop for note in self._notes if note.durable)])
            self.journal_stale = False

    # ---- noting

    def note_durably(self, drop: Drop) -> None:
        """Note a drop that no crash may undo. Errors: OSError, nothing noted."""
        self._journal.add(drop)
        self._note(drop, durable=True)

    def note(self, drop: Drop) -> None:
        """Note a drop that would be found again after a crash: it may be written down, but does not have to."""
        durable = False
        with self._place.tolerant():
            self._journal.add(drop)
            durable = True
        self._note(drop, durable=durable)

    def note_lost(self, stream: Stream, first: int, last: int, reason: str, start_us: int = 0) -> None:
        """Note what of first..last still waited to be sent and can't be read."""
        for low, high in list(stream.resolved.missing(first, last)):
            self.note(Drop(stream.name, low, high, reason, high - low + 1, start_us or None))
            stream.resolved.add(low, high)
            self.free(stream.name, low, high)

    def _note(self, drop: Drop, *, durable: bool) -> None:
        self._notes.append(Note(drop, durable))
        self._place.books.dropped[drop.reason] += drop.count

    def refused(self, reason: str, sentence: str) -> NotTaken:
        """Note a batch that was not taken; refusals in a row for one reason are one note."""
        self._place.books.not_taken[reason] += 1
        last = self._notes[-1] if self._notes else None
        if last and last.carrier is None and last.drop.reason == reason:
            last.drop = dataclasses.replace(last.drop, count=last.drop.count + 1)
        else:
            drop = Drop(self._streams.newest.name, 0, 0, reason, 1, self._place.clock.wall_us())
            self._notes.append(Note(drop, durable=False))
        return NotTaken(sentence)

    # ---- reporting

    def waiting(self) -> list[Note]:
        """The notes for the next batch."""
        return [note for note in self._notes if note.carrier is None][:DROPS_PER_BATCH]

    def carry(self, notes: Iterable[Note], stream: str, sequence: int) -> None:
        """A taken batch reports these notes."""
        for note in notes:
            note.carrier = (stream, sequence)

    def free(self, stream: str, first: int, last: int) -> None:
        """The batches first..last will not arrive: report again what they carried."""
        for note in self._notes:
            if note.carrier and note.carrier[0] == stream and first <= note.carrier[1] <= last:
                note.carrier = None

    def settle(self, acknowledged: Set[tuple[str, int]]) -> None:
        """The service knows of the drops that these batches carried: their sequences are accounted for."""
        for note in [note for note in self._notes if note.carrier in acknowledged]:
            self._notes.remove(note)
            self.journal_stale = self.journal_stale or note.durable
            stream = self._streams.named(note.drop.stream)
            if stream is not None and note.drop.first_sequence:
                stream.release(note.drop.first_sequence, note.drop.last_sequence)

    def withhold(self, stream: Stream) -> None:
        """After a rewind: what was dropped is not sent again, and what was moved goes on under other numbers."""
        for note in self._notes:
            if note.drop.stream == stream.name and note.drop.first_sequence:
                stream.resolved.add(note.drop.first_sequence, note.drop.last_sequence)
        for move in self._moves:
            if move.stream == stream.name:
                for sequence in move.sequences:
                    stream.release(sequence, sequence)

    # ---- moves

    def announce(self, move: Move) -> None:
        """Note a move before its records are written: after a crash, a move to nowhere is void. Errors: OSError."""
        self._journal.add(move)

    def moved(self, move: Move) -> None:
        """The records of an announced move are written: release the old numbers; the new ones carry their drops."""
        self._moves.append(move)
        source = self._streams.named(move.stream)
        for index, sequence in enumerate(move.sequences):
            if source is not None:
                source.release(sequence, sequence)
            for note in self._notes:
                if note.carrier == (move.stream, sequence):
                    note.carrier = (move.to_stream, move.to_first + index)

    def forget_moves(self, stream: str) -> None:
        """Nothing is left of the stream that could be sent again under the old numbers."""
        self._moves = [move for move in self._moves if move.stream != stream]
        self.journal_stale = True
