"""Which sources this agent reads, in which order: the explicit list.

A source's module is imported when the source is opened, so what is switched off costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wattmill_collector.clock import Clock
from wattmill_collector.log import Throttle
from wattmill_collector.placement import Board, boards_of
from wattmill_collector.reader import Reader
from wattmill_collector.settings import Settings
from wattmill_collector.sources import Source
from wattmill_collector.sources.engine import EngineSource
from wattmill_collector.wire import Reading


class Boards:
    """The NVML source, whose boards and processes the placement of engines needs as of the same tick."""

    name = "nvml"

    def __init__(self, library: Path | None) -> None:
        from wattmill_collector.sources.nvml import NvmlSource

        self._source = NvmlSource(str(library) if library else None)
        self._readings: Sequence[Reading] = ()

    def read(self, time_us: int) -> list[Reading]:
        """What the NVML source reads."""
        readings = self._source.read(time_us)
        self._readings = readings
        return readings

    def seen(self) -> Sequence[Board]:
        """The boards of the last tick with the processes on them."""
        return boards_of(self._readings, self._source.processes())

    def list_processes(self, time_us: int) -> None:
        """Have `seen` show the processes of now, not of up to 10 s ago."""
        self._source.list_processes(time_us)

    def close(self) -> None:
        """Let go of the driver library."""
        self._readings = ()
        self._source.close()


def open_host() -> Source:
    """The host's own energy meters. Errors: NotHere."""
    from wattmill_collector.sources.host import HostSource

    return HostSource()


def line_up(settings: Settings, clock: Clock, throttle: Throttle) -> list[Reader]:
    """Readers of the accelerators, the host and the engines, engines last because they are placed on the accelerators.

    Errors: ValueError when an engine's target can't be used.
    """
    readers: list[Reader] = []
    boards: list[Boards] = []

    def open_boards() -> Source:
        boards[:] = []
        boards.append(Boards(settings.nvml_library))
        return boards[0]

    def boards_seen() -> Sequence[Board]:
        return boards[0].seen() if boards else ()

    def list_processes(time_us: int) -> None:
        for one in boards:
            one.list_processes(time_us)

    switches = settings.sources
    if switches.nvml != "off":
        wanted = switches.nvml == "on"
        readers.append(Reader("nvml", "accelerator", open_boards, clock, throttle, wanted=wanted))
    if switches.host != "off":
        readers.append(Reader("host", "host", open_host, clock, throttle, wanted=switches.host == "on"))
    if settings.engines or settings.discover:
        engines = EngineSource(
            settings.engines,
            interval_us=settings.interval_us,
            boards=boards_seen,
            list_processes=list_processes,
            discover=settings.discover,
        )
        readers.append(Reader("engine", "engine", lambda: engines, clock, throttle))
    return readers
