"""Which sources this agent reads, in which order: the explicit list.

A source's module is imported when the source is opened, so what is switched off costs nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wattmill_collector.clock import Clock
from wattmill_collector.log import Throttle
from wattmill_collector.placement import Board, boards_of
from wattmill_collector.reader import Reader
from wattmill_collector.settings import Settings
from wattmill_collector.sources import Source
from wattmill_collector.sources.chassis import Domains
from wattmill_collector.sources.engine import EngineSource
from wattmill_collector.targets import BmcSettings
from wattmill_collector.wire import AcceleratorReading, Reading

if TYPE_CHECKING:  # loaded only where there are exporters, or a Kubernetes
    from wattmill_collector.kubelet.book import Book
    from wattmill_collector.kubelet.devices import Names
    from wattmill_collector.sources.engine_pods import PodView
    from wattmill_collector.sources.exporters.source import ExporterSource

PATIENCE_US = 20_000_000  # for the first answer of a BMC, which may have dozens of chassis to show


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
        return boards_of(self._readings, self._source.processes(), self._source.instances())

    def utilisation(self) -> Mapping[str, float]:
        """How busy the boards of the last tick were, by UUID; a board with MIG on does not say it."""
        boards = [r for r in self._readings if isinstance(r, AcceleratorReading)]
        return {board.uuid: board.utilisation_ratio for board in boards if board.utilisation_ratio is not None}

    def busy(self, uuid: str) -> Mapping[int, int] | None:
        """How busy each process kept a board since this was last asked, in per cent of the time; None: not known."""
        return self._source.busy(uuid)

    def list_processes(self, time_us: int) -> None:
        """Have `seen` show the processes of now, not of up to 10 s ago."""
        self._source.list_processes(time_us)

    def names(self) -> Names:
        """How the kubelet may call these boards."""
        from wattmill_collector.kubelet.devices import Names

        boards = [r for r in self._readings if isinstance(r, AcceleratorReading)]
        by_index = {board.index: board.uuid for board in boards if board.index is not None}
        slices = {one.uuid: board for board, found in self._source.instances().items() for one in found}
        return Names(
            by_index, self._source.minor_numbers(), lambda name: slices.get(name) or self._source.parent_of(name)
        )

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


def line_up(settings: Settings, clock: Clock, throttle: Throttle, *, patience_us: int = 0) -> list[Reader]:
    """Readers of the accelerators, the host and the engines, engines last because they are placed on the accelerators.

    A domain of the host that several know is the first one's: Redfish before IPMI before the host's own files
    before exporters. A board that NVML reads is read by no exporter.
    `patience_us`: how long a source that asks in the background may be waited for when it is opened.

    Errors: ValueError when an engine's target can't be used.
    """
    readers: list[Reader] = []
    boards: list[Boards] = []
    exporters: list[ExporterSource] = []

    def open_boards() -> Source:
        boards[:] = []
        boards.append(Boards(settings.nvml_library))
        return boards[0]

    def boards_seen() -> Sequence[Board]:
        seen = boards[0].seen() if boards else ()
        return (*seen, *(board for one in exporters for board in boards_of(one.boards(), {})))

    def utilisation() -> Mapping[str, float]:
        found = dict(boards[0].utilisation()) if boards else {}
        shown = [board for one in exporters for board in one.boards()]
        return found | {b.uuid: b.utilisation_ratio for b in shown if b.utilisation_ratio is not None}

    def list_processes(time_us: int) -> None:
        for one in boards:
            one.list_processes(time_us)

    domains = Domains()
    every_us = settings.interval_us

    def open_host() -> Source:
        from wattmill_collector.sources.host import HostSource

        host = HostSource(settings.host_root, clock=clock, every_us=every_us, patience_us=patience_us)
        return domains.once(host)

    def open_ipmi() -> Source:
        from wattmill_collector.sources.ipmi import open_ipmi

        optional = switches.ipmi == "auto"
        ipmi = open_ipmi(settings.host_root, clock, every_us=every_us, patience_us=patience_us, optional=optional)
        return domains.once(ipmi)

    def open_redfish(bmc: BmcSettings, name: str) -> Source:
        from wattmill_collector.sources.redfish import open_redfish

        here = dataclasses.replace(bmc, url=bmc.url.replace("{node}", settings.node))  # one configuration for a fleet
        return domains.once(open_redfish(here, clock, every_us=every_us, patience_us=patience_us, name=name))

    def open_exporters() -> Source:
        from wattmill_collector.sources.exporters.source import ExporterSource

        source = ExporterSource(
            settings.exporters,
            settings.meters,
            node=settings.node,
            clock=clock,
            interval_us=every_us,
            patience_us=patience_us,
            own=lambda: [reading for reader in before for reading in reader.latest],
            root=settings.host_root,
        )
        exporters[:] = [source]
        return domains.once(source)

    switches = settings.sources
    if switches.nvml != "off":
        wanted = switches.nvml == "on"
        readers.append(Reader("nvml", "accelerator", open_boards, clock, throttle, wanted=wanted))
    for number, bmc in enumerate(settings.bmc, 1):
        name = "redfish" if number == 1 else f"redfish-{number}"
        readers.append(Reader(name, "host", functools.partial(open_redfish, bmc, name), clock, throttle, wanted=True))
    if switches.ipmi != "off":
        readers.append(Reader("ipmi", "host", open_ipmi, clock, throttle, wanted=switches.ipmi == "on"))
    if switches.host != "off":
        readers.append(Reader("host", "host", open_host, clock, throttle, wanted=switches.host == "on"))
    before = tuple(readers)
    if settings.exporters or settings.meters:
        readers.append(Reader("exporter", "accelerator", open_exporters, clock, throttle, wanted=True))
    wants_engines = bool(settings.discover or settings.engines or settings.workers)
    book = open_book(settings, clock) if wants_engines else None
    if wants_engines:
        engines = EngineSource(
            settings.engines,
            interval_us=settings.interval_us,
            boards=boards_seen,
            list_processes=list_processes,
            busy=lambda uuid: boards[0].busy(uuid) if boards else None,
            utilisation=utilisation,
            workers=settings.workers,
            discover=settings.discover,
            pods=view_of(settings, book, lambda: boards[0].names() if boards else None) if book else None,
        )

        def open_engines() -> Source:
            if book is not None:
                book.start()
            return engines

        readers.append(Reader("engine", "engine", open_engines, clock, throttle))
    if settings.gateways:
        from wattmill_collector.sources.gateways import GatewaySource

        gateways = GatewaySource(
            settings.gateways, interval_us=settings.interval_us, patience_us=patience_us, clock=clock
        )
        readers.append(Reader("gateway", "gateway", lambda: gateways, clock, throttle))
    return readers
