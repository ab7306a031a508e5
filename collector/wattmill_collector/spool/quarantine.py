"""Where batches and readings go that the service refused, and segments that no record can be read from.

`rejected.ndjson` has one line each with the reason; at its size limit it becomes `rejected.1.ndjson`, replacing the one
before. Nothing here is ever sent again: it is for people, and so that nothing vanishes without a reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wattmill_collector.spool.disk import Disk, append_durably

MOST_SEGMENTS = 16


class Quarantine:
    def __init__(self, directory: Path, disk: Disk, max_bytes: int) -> None:
        self._directory = directory
        self._file = directory / "rejected.ndjson"
        self._disk = disk
        self._max_bytes = max_bytes

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Durable when it returns. Errors: OSError; then nothing counts as quarantined."""
        data = b"".join(json.dumps(entry, ensure_ascii=True).encode() + b"\n" for entry in entries)
        if not data:
            return
        self._disk.make_directory(self._directory)
        if self._file.name in self._disk.names(self._directory):
            size = self._disk.size(self._file)
            if size and size + len(data) > self._max_bytes:
                self._disk.replace(self._file, self._directory / "rejected.1.ndjson")
        append_durably(self._disk, self._file, data)

    def put_away(self, segment: Path) -> None:
        """Move an unreadable segment here; the oldest ones give way. Errors: OSError."""
        self._disk.make_directory(self._directory)
        kept = [name for name in self._disk.names(self._directory) if not name.startswith("rejected")]
        for name in kept[: max(len(kept) - MOST_SEGMENTS + 1, 0)]:
            self._disk.remove(self._directory / name)
        self._disk.replace(segment, self._directory / segment.name)
