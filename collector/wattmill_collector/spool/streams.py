"""What a spool knows of its streams and segments. In memory only; no file is opened here.

Sequences of a stream are dense, and a segment's name holds its first one, so a segment ends where the next begins.
Memory does not grow with the backlog: a segment of up to 1 MiB costs one small object.
"""

from __future__ import annotations

import array
import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from wattmill_collector.spool.ranges import Ranges

MARK_EVERY_BYTES = 16 << 10


@dataclasses.dataclass(slots=True)
class Segment:
    """One file of records, `first`..`last`; its last sequence is below its first one while it is empty."""

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
        """Where to begin reading for a sequence."""
        at = bisect.bisect_right(self.mark_sequences, sequence) - 1
        return self.mark_offsets[at] if at >= 0 else 0


@dataclasses.dataclass(slots=True)
class Stream:
    """`acknowledged`: released by receipt, or dropped and reported. `resolved`: also what is not yet reported."""

    name: str
    generation: int
    last: int = 0
    segments: list[Segment] = dataclasses.field(default_factory=list)
    acknowledged: Ranges = dataclasses.field(default_factory=Ranges)
    resolved: Ranges = dataclasses.field(default_factory=Ranges)

    @property
    def first_kept(self) -> int:
        return self.segments[0].first if self.segments else self.last + 1

    def release(self, first: int, last: int) -> None:
        self.acknowledged.add(first, last)
        self.resolved.add(first, last)

    def pending(self) -> Iterator[tuple[int, int]]:
        """Ranges that wait to be sent."""
        return self.resolved.missing(self.first_kept, self.last)

    def unresolved(self, segment: Segment) -> Iterator[tuple[int, int]]:
        """Ranges of one segment that wait to be sent."""
        return self.resolved.missing(segment.first, segment.last)

    def settled(self, segment: Segment) -> bool:
        """Whether nobody needs the segment any more, but for a rewind."""
        return not any(self.acknowledged.missing(segment.first, segment.last))


class Streams:
    """The streams of a directory, oldest first; the newest one is appended to. `size` is the bytes of all segments."""

    def __init__(self) -> None:
        self.size = 0
        self._streams: list[Stream] = []
        self._generation = 0

    def __iter__(self) -> Iterator[Stream]:
        """Over a copy: streams may go while they are looked at."""
        return iter(self._streams.copy())

    @property
    def newest(self) -> Stream:
        """The stream of the next append; one without a name before there is any."""
        return self._streams[-1] if self._streams else Stream("", 0)

    def named(self, name: str) -> Stream | None:
        return next((stream for stream in self._streams if stream.name == name), None)

    def restore(self, streams: Sequence[Stream]) -> None:
        """Put what was found on the disk in place of everything."""
        self._streams = list(streams)
        self._generation = max((stream.generation for stream in streams), default=0)
        self.size = sum(segment.size for stream in streams for segment in stream.segments)

    def start(self, name: str) -> Stream:
        """A new stream behind all others; the present one goes when nothing was written to it."""
        if self._streams and not self._streams[-1].segments:
            self._streams.pop()
        self._generation += 1
        self._streams.append(Stream(name, self._generation))
        return self._streams[-1]

    def remove(self, stream: Stream, segment: Segment) -> bool:
        """Forget a segment; whether its stream went with it, which the newest one never does."""
        self.size -= segment.size
        stream.segments.remove(segment)
        gone = not stream.segments and stream is not self._streams[-1]
        if gone:
            self._streams.remove(stream)
        return gone
