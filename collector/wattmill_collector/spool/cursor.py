"""The cursor: what of each stream is acknowledged, written every few seconds.

It is a hint. Without it batches are sent again, and the service knows them by hash.
"""

from __future__ import annotations

from wattmill_collector.spool.drops import Drops
from wattmill_collector.spool.place import Place
from wattmill_collector.spool.ranges import Ranges
from wattmill_collector.spool.streams import Streams

CURSOR_EVERY_US = 5_000_000


class Cursor:
    """The document `cursor`."""

    def __init__(self, place: Place, streams: Streams, drops: Drops) -> None:
        self._place = place
        self._streams = streams
        self._drops = drops
        self._due_us = 0

    def read(self) -> dict[str, Ranges]:
        """Acknowledged sequences by stream; empty in any doubt."""
        document = self._place.read_document("cursor")
        try:
            return {
                name: Ranges((int(first), int(last)) for first, last in ranges)
                for name, ranges in document.get("acknowledged", {}).items()
            }
        except (AttributeError, TypeError, ValueError):
            return {}

    def write(self) -> None:
        """Errors: none. The journal follows: it may only forget what the cursor knows."""
        acknowledged = {stream.name: [list(r) for r in stream.acknowledged] for stream in self._streams}
        with self._place.tolerant():
            self._place.write_document("cursor", {"acknowledged": acknowledged})
            self._drops.tidy_journal()

    def write_if_due(self) -> None:
        now_us = self._place.clock.monotonic_us()
        if now_us >= self._due_us:
            self._due_us = now_us + CURSOR_EVERY_US
            self.write()
