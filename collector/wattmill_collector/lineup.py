"""Which sources this agent reads, in which order: the explicit list.

A source's module is imported when the source is opened, so what is switched off costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wattmill_collector.clock import Clock
from wattmill_collector.log import Throttle
from wattmill_collector.placement import Board, boards_of
from wattmill_collector.reader import Reader
from wattmill_collector.settings import Settings
from wattmill_collector.sources import Source
from wattmill_collector.sources.engine import EngineSource
from wattmill_collector.wire import AcceleratorReading, Reading

if TYPE_CHECKING:  # loaded where there is a Kubernetes only
    from wattmill_collector.kubelet.book import Book
    from wattmill_collector.kubelet.devices import Names
    from wattmill_collector.sources.engine_pods import PodView


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

    def names(self) -> Names:
        """How the kubelet may call these boards."""
        from wattmill_collector.kubelet.devices import Names

        boards = [r for r in self._readings if isinstance(r, AcceleratorReading)]
        by_index = {board.index: board.uuid for board in boards if board.index is not None}
        return Names(by_index, self._source.minor_numbers(), self._source.parent_of)

    def close(self) -> None:
        """Let go of the driver library."""
        self._readings = ()
        self._source.close()


def open_book(settings: Settings, clock: Clock) -> Book | None:
    """What the kubelet and the Kubernetes API say of this node; None where neither is to be asked."""
    kubernetes = settings.kubernetes
    asks_kubelet, asks_api = kubernetes.asks_kubelet(), kubernetes.asks_api()
    if not asks_kubelet and not asks_api:
        return None
    from wattmill_collector.kubelet.api import PodApi
    from wattmill_collector.kubelet.book import Book
    from wattmill_collector.kubelet.pod_resources import list_holders

    node = kubernetes.node_name or settings.node
    api = PodApi(kubernetes.api, node, kubernetes.service_account) if asks_api else None
    return Book(functools.partial(list_holders, kubernetes.socket) if asks_kubelet else None, api, clock)


def view_of(settings: Settings, book: Book, names: Callable[[], Names | None]) -> PodView:
    """The pods in the book, as the engine source sees them."""
    from wattmill_collector.kubelet.devices import Names
    from wattmill_collector.sources.engine_pods import PodView

    return PodView(
        settings.kubernetes,
        book.snapshot,
        lambda: names() or Names(),
        book.close,
        discover=settings.discover,
    )


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

    def open_host() -> Source:
        from wattmill_collector.sources.host import HostSource

        return HostSource(settings.host_root)

    switches = settings.sources
    if switches.nvml != "off":
        wanted = switches.nvml == "on"
        readers.append(Reader("nvml", "accelerator", open_boards, clock, throttle, wanted=wanted))
    if switches.host != "off":
        readers.append(Reader("host", "host", open_host, clock, throttle, wanted=switches.host == "on"))
    book = open_book(settings, clock) if settings.discover or settings.engines else None
    if settings.engines or settings.discover:
        engines = EngineSource(
            settings.engines,
            interval_us=settings.interval_us,
            boards=boards_seen,
            list_processes=list_processes,
            discover=settings.discover,
            pods=view_of(settings, book, lambda: boards[0].names() if boards else None) if book else None,
        )

        def open_engines() -> Source:
            if book is not None:
                book.start()
            return engines

        readers.append(Reader("engine", "engine", open_engines, clock, throttle))
    return readers
