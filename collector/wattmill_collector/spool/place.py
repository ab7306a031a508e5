"""Where a spool is: its directory, the disk under it, the clock, and the books in which trouble is written down.

The directory holds segments (`segment.py`), `journal` (`journal.py`), `quarantine/`, `reserve`, and two sealed
documents, `cursor` and `identity`, which are hints: a damaged one counts as absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wattmill_collector.clock import Clock
from wattmill_collector.spool.books import Books
from wattmill_collector.spool.disk import Disk, replace_file
from wattmill_collector.spool.journal import seal, unseal

MAX_DOCUMENT_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What every part of one spool shares."""

    path: Path
    disk: Disk
    clock: Clock
    books: Books

    @contextlib.contextmanager
    def tolerant(self) -> Iterator[None]:
        """For work whose failure loses no batch: trouble with the disk goes into the books, and the spool goes on."""
        try:
            yield
        except OSError as error:
            self.books.last_error = str(error)

    def read_document(self, name: str) -> dict[str, Any]:
        """A sealed document; empty when it is absent, unreadable or damaged."""
        try:
            return unseal(self.disk.read(self.path / name, 0, MAX_DOCUMENT_BYTES)) or {}
        except OSError:
            return {}

    def write_document(self, name: str, document: Mapping[str, Any]) -> None:
        """Durable when it returns. Errors: OSError; the document is then the old or the new one."""
        replace_file(self.disk, self.path / name, seal(document), durable=True)
