"""What the spool must remember besides its records: batches that were dropped or moved, in one small file.

A line is `<crc32> <json>`; a line that does not match its CRC is left out, the others stand. A drop is written here and
fsynced before the records are unlinked, so that no crash can turn a loss into silence. Dropping twice the same range is
harmless: the service accounts by range.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wattmill_collector.spool.disk import Disk, append_durably, replace_file
from wattmill_collector.wire import AbsenceReading

SENTENCES = {
    "dropped_max_bytes": "batches were dropped because the spool had reached max_bytes",
    "dropped_max_age": "batches were dropped because they were older than max_age",
    "corrupt": "batches were unreadable in the spool; check the disk",
    "quarantined": "batches were refused by the service and lie in the agent's quarantine",
    "not_kept": "batches were lost by the service after their receipts and are no longer kept in the spool",
    "write_failed": "batches could not be written to the spool; check the disk",
    "disk_full": "batches could not be written to the spool because its disk was full",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """Batches that will not be delivered, and why. Sequences are 0 where none was used (write_failed, disk_full)."""

    stream: str
    first_sequence: int
    last_sequence: int
    reason: str
    count: int
    start_us: int | None = None

    def as_reading(self, stream: str) -> AbsenceReading:
        """The reading that reports this drop in a batch of `stream`.

        A range of an earlier stream can't be given as sequences of this one: it goes into the text.
        """
        detail = f"{self.count} {SENTENCES.get(self.reason, 'batches were dropped')}"
        numbered = self.first_sequence > 0
        if numbered and self.stream != stream:
            detail += f": {self.first_sequence} to {self.last_sequence} of stream {self.stream}"
        own = numbered and self.stream == stream
        return AbsenceReading(
            subject="batch",
            id=self.stream,
            reason=self.reason,
            detail=detail,
            start_us=self.start_us,
            first_sequence=self.first_sequence if own else None,
            last_sequence=self.last_sequence if own else None,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """Batches of one stream that are written again in another, from sequence `to_first` on, in this order."""

    stream: str
    sequences: tuple[int, ...]
    to_stream: str
    to_generation: int
    to_first: int


def seal(document: Mapping[str, Any]) -> bytes:
    """A document as one line that says whether it is whole."""
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def unseal(line: bytes) -> dict[str, Any] | None:
    """The document of a line, None when the line is damaged."""
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if crc != b"%08x" % zlib.crc32(text):
        return None
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


class Journal:
    """The file of drops and moves."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk

    def read(self) -> Iterator[Drop | Move]:
        try:
            data = self._disk.read(self._path, 0, self._disk.size(self._path))
        except FileNotFoundError:
            return
        for line in data.split(b"\n"):
            if document := unseal(line):
                try:
                    yield _entry(document)
                except (KeyError, TypeError, ValueError):
                    continue  # whole, but of a version that we do not know

    def add(self, entry: Drop | Move) -> None:
        """Durable when it returns. A leading line end keeps it apart from a line that a crash has cut."""
        append_durably(self._disk, self._path, b"\n" + _sealed(entry))

    def rewrite(self, entries: Iterable[Drop | Move]) -> None:
        replace_file(self._disk, self._path, b"".join(map(_sealed, entries)), durable=True)


def _sealed(entry: Drop | Move) -> bytes:
    return seal({"entry": "drop" if isinstance(entry, Drop) else "move", **dataclasses.asdict(entry)})


def _entry(document: dict[str, Any]) -> Drop | Move:
    kind = document.pop("entry")
    if kind == "drop":
        return Drop(**document)
    document["sequences"] = tuple(document["sequences"])
    return Move(**document)
