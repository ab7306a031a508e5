"""The books of a spool: what became of its batches since this process opened it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class SpoolStats:
    """A snapshot of the books and of what the spool holds; counts are since this process opened it."""

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
class Books:
    """The counts that the parts of a spool keep together. `last_error` is the last trouble with the disk."""

    appended: int = 0
    not_taken: Counter[str] = dataclasses.field(default_factory=Counter)
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    quarantined_batches: int = 0
    rejected_readings: int = 0
    moved_batches: int = 0
    rewinds: int = 0
    last_fsync_us: int = 0
    last_error: str = ""
