"""Batches whose numbers the service knows for other ones: written again, at the end, under a new stream."""

from __future__ import annotations

import json
from collections.abc import Sequence

from wattmill_collector.spool.drops import Drops, NotTaken
from wattmill_collector.spool.journal import Move
from wattmill_collector.spool.place import Place
from wattmill_collector.spool.segment import Record, pack_member
from wattmill_collector.spool.streams import Streams
from wattmill_collector.spool.writer import Writer
from wattmill_collector.wire import body_hash


def move_to_new_stream(records: Sequence[Record], place: Place, streams: Streams, drops: Drops, writer: Writer) -> None:
    """Number records again in the newest stream, and in a new one if any of them is of the newest.

    Records that no longer wait are left out. Errors: NotTaken; the records then still wait under their old numbers.
    """
    waiting = [r for r in records if (s := streams.named(r.stream)) and r.sequence not in s.resolved]
    if any(record.stream == streams.newest.name for record in waiting):
        writer.start_stream()
    target = streams.newest
    by_stream: dict[str, list[Record]] = {}
    for record in waiting:
        by_stream.setdefault(record.stream, []).append(record)
    for name, batches in by_stream.items():
        first = target.last + 1
        renumbered = [renumber(record, target.name, first + i) for i, record in enumerate(batches)]
        move = Move(name, tuple(record.sequence for record in batches), target.name, target.generation, first)
        try:
            drops.announce(move)
        except OSError as error:
            place.books.last_error = str(error)
            raise drops.refused("write_failed", f"A new stream could not be noted in {place.path}: {error}") from error
        try:
            writer.take(renumbered, boundary=True)
        except NotTaken:
            writer.start_stream()  # the announced numbers must never be given to other batches
            raise
        place.books.moved_batches += len(batches)
        drops.moved(move)


def renumber(record: Record, stream: str, sequence: int) -> Record:
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
