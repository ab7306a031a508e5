"""Sources: code that reads one kind of hardware, host or engine.

A source is anything with a name, a `read` and a `close`. Which sources an agent has is an explicit list in its
composition root; nothing registers itself here and importing this package imports no source.

Opening a source (its constructor) may raise the errors of `wattmill_collector.errors`. Reading one does not stop for a
device that is away: what could not be read comes back as an AbsenceReading with a reason.
"""

from __future__ import annotations

from typing import Protocol

from wattmill_collector.wire import Reading


class Source(Protocol):
    """Reads one kind of thing once a tick."""

    @property
    def name(self) -> str:
        """Short word for logs, metrics and the configuration: nvml, host, …"""
        ...

    def read(self, time_us: int) -> list[Reading]:
        """Everything the source can say at this tick; `time_us` is the tick's wall time, given and not taken."""
        ...

    def close(self) -> None:
        """Let go of files, sockets and libraries; a closed source is not read again."""
        ...
