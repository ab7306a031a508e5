"""What one exporter's page says, tick after tick: values of boards and of the host's domains.

An `ExporterPage` remembers which kinds of exporter its target is and where their series stand. RAPL counters that an
exporter shows have no range with them: it is this host's kernel that tells it, and where that does not, the counter's
own behaviour (`WrapGuess`), which is never guessed before it is certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wattmill_collector.sources.epochs import epoch_of
from wattmill_collector.sources.exporters.board_pages import BoardPage, BoardValues
from wattmill_collector.sources.exporters.host_domains import CHASSIS, Domain, range_uj
from wattmill_collector.sources.exporters.kinds import BOOT_TIME, PROCESS_START, ExporterKind, recognise
from wattmill_collector.sources.exporters.sums import MICRO, value_of
from wattmill_collector.sources.exporters.units import decimal_of
from wattmill_collector.sources.promtext import PageReader, Series
from wattmill_collector.sources.rapl import ZONE
from wattmill_collector.wire import HostReading

# 2^32 times the energy units that RAPL has, as the kernel's max_energy_range_uj: 15.3 µJ on AMD, 61 µJ on Intel, and a
# fixed 15.3 µJ for the DRAM of Intel's servers.
RANGES_UJ = {"package": (65_532_610_987, 262_143_328_850), "dram": (65_712_999_613, 262_143_328_850)}
HOST_UW = 1_200_000_000  # as much as a domain can draw, in µW
POWER_HIGHEST_MW = 100_000_000
CHASSIS_LEAST_MW = 10_000  # a node that runs draws more, whatever its controller says


class WrapGuess:
    """Where a RAPL counter wraps, by what it does, when nobody says it: one of the few ranges that there are.

    A counter that has passed the smaller ranges has the largest; one that fell has the range that makes of the fall
    what a host can draw in that time. Until then nothing is known, and a fall counts as none.
    """

    def __init__(self, family: str) -> None:
        self._ranges = RANGES_UJ.get(family, ())
        self._known: int | None = None
        self._last: tuple[int, int] | None = None

    def see(self, energy_uj: int, time_us: int) -> int | None:
        """The range, if it is known by now."""
        last, self._last = self._last, (energy_uj, time_us)
        if not self._ranges or energy_uj > self._ranges[-1]:
            self._ranges, self._known = (), None
        elif energy_uj > self._ranges[0]:
            self._known = self._ranges[-1]
        elif self._known is None and last and energy_uj < last[0] and 0 < time_us - last[1] <= 60_000_000:
            most_uj = HOST_UW * (time_us - last[1]) // 1_000_000
            fits = [r for r in self._ranges if r >= last[0] and r - last[0] + energy_uj <= most_uj]
            self._known = fits[0] if len(fits) == 1 else None
        return self._known


class ExporterPage:
    """Reads the page of one target. `root`: where this host's /sys is; `node`: its name."""

    def __init__(self, kinds: Sequence[ExporterKind], node: str, root: Path) -> None:
        self.kinds: tuple[ExporterKind, ...] = ()
        self._candidates = tuple(kinds)
        self._node = node
        self._root = root
        self._reader = PageReader((), repeats=True)
        self._texts: list[bytes] = []
        self._planned: tuple[Series, ...] | None = None
        self._boards: list[tuple[ExporterKind, BoardPage]] = []
        self._domains: list[tuple[ExporterKind, Domain, int | None, WrapGuess]] = []
        self._guesses: dict[str, WrapGuess] = {}

    def scan(self, page: bytes) -> None:
        """Take in a page. Afterwards `kinds` are those that it is of, none when it is of none that is known here.

        Errors: ParseError.
        """
        texts = self._reader.read(page)
        if not self.kinds or not self._reader.series or self._reader.series is not self._planned:
            kinds = recognise(page, self._candidates)
            if kinds != self.kinds:
                self.kinds = kinds
                self._reader = PageReader(frozenset[str]().union(*(kind.names() for kind in kinds)), repeats=True)
                self._boards = [(kind, BoardPage(kind.boards, self._node)) for kind in kinds if kind.boards]
                texts = self._reader.read(page)
        self._texts = texts
        if self._reader.series is not self._planned:
            self._planned = self._reader.series
            self._domains = [
                (kind, domain, range_uj(self._root, domain.zones) if domain.zones else None, self._guess(kind, domain))
                for kind in self.kinds
                if kind.domains
                for domain in kind.domains(self._reader.series)
            ]

    def is_slow(self) -> bool:
        """Whether an answer may take longer than a tick; so it may while nobody knows what this is."""
        return all(kind.is_slow for kind in self.kinds)

    def boards(self) -> list[tuple[ExporterKind, BoardValues]]:
        """Every board of the page taken in last."""
        series = self._reader.series
        return [(kind, board) for kind, page in self._boards for board in page.read(series, self._texts)]

    def unnamed_boards(self) -> int:
        """How many rows could not be told to be of one board or another."""
        return sum(page.unnamed for _, page in self._boards)

    def is_cut_off(self) -> bool:
        """Whether every exporter of the page says that it could not ask the controller that it stands for."""
        ups = {kind.up for kind in self.kinds}
        said = [text for one, text in zip(self._reader.series, self._texts, strict=True) if one.name in ups]
        return "" not in ups and bool(said) and all(decimal_of(text) == 0 for text in said)

    def started(self) -> str:
        """When the exporter's process started, as printed; empty where the page does not say."""
        return self._said(PROCESS_START)

    def domains(self, boot_id: str, time_us: int, *, is_local: bool) -> list[tuple[ExporterKind, HostReading]]:
        """Every domain of the host, without those whose series show no number now.

        `is_local`: the exporter is on this host, whose boot is `boot_id`.
        """
        found = []
        for kind, domain, kernels_uj, guess in self._domains:
            energy = value_of(domain.energy, self._texts, MICRO) if domain.energy else None
            least_mw = CHASSIS_LEAST_MW if domain.name == CHASSIS else 0
            powers = (value_of(way, self._texts) for way in domain.power)
            power = next((p for p in powers if p is not None and p >= least_mw), None)
            if power is not None and power > POWER_HIGHEST_MW:
                power = None
            if energy is None and power is None:
                continue
            wraps_uj = kernels_uj if is_local else None
            if energy is not None and wraps_uj is None:
                wraps_uj = guess.see(energy, time_us)
            reading = HostReading(
                domain=domain.name,
                source=kind.name,
                epoch=self._epoch(kind, domain, boot_id if is_local else "") if energy is not None else 0,
                energy_uj=energy,
                energy_range_uj=wraps_uj,
                power_mw=power,
            )
            found.append((kind, reading))
        return found

    def _epoch(self, kind: ExporterKind, domain: Domain, boot_id: str) -> int:
        """A kernel's counter has the evidence that it has where the agent itself reads it, since it is the same one."""
        if domain.counter == "process":
            return epoch_of("exporter", kind.name, self.started() or boot_id, domain.name)
        if boot_id and domain.zones:
            return epoch_of(boot_id, domain.name)
        return epoch_of("exporter", kind.name, boot_id or self._said(BOOT_TIME), domain.name)

    def _guess(self, kind: ExporterKind, domain: Domain) -> WrapGuess:
        is_one_zone = any(ZONE.fullmatch(zone) for zone in domain.zones)
        key = f"{kind.name} {domain.name}"
        return self._guesses.setdefault(key, WrapGuess(domain.name.partition("-")[0] if is_one_zone else ""))

    def _said(self, name: str) -> str:
        for place, one in enumerate(self._reader.series):
            if one.name == name:
                return self._texts[place].decode("ascii", "replace")
        return ""
