"""Energy of the host: RAPL counters through powercap, or the power meters of an NVIDIA Grace module.

What it promises: domains that never overlap, so that they may be added. Of RAPL that is the packages and their DRAM;
core and uncore lie inside a package, psys contains it, and the mmio zones show it a second time. Of Grace that is the
Grace socket (CPU, SysIO and DRAM), else its CPU and SysIO sockets; the module socket contains the GPU, whose joules
the board's own counter already has, so it is never read.
What it does not: undo wraps. A 32-bit RAPL counter wraps within minutes; the range travels with the reading.

Sources: kernel Documentation/power/powercap/powercap.rst; Alumet plugins/grace-hopper for the socket names.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

from wattmill_collector.errors import NotHere
from wattmill_collector.sources.epochs import epoch_of, read_boot_id
from wattmill_collector.wire import AbsenceReading, HostReading, Reading

MINUTE_US = 60_000_000
ZONE = re.compile(r"intel-rapl:(\d+)(?::\d+)?")
SOCKET = re.compile(r"(Grace|CPU|SysIO|Module) Power Socket (\d+)")
PERMISSION_ADVICE = (
    "Only root may read RAPL counters since CVE-2020-8694; let the agent's group read {path}, "
    "for example by a tmpfiles.d line `z {path} 0440 root wattmill`."
)
REASONS: dict[type[OSError], str] = {PermissionError: "permission_denied", FileNotFoundError: "not_found"}
Opener = Callable[[Path, int], int]


@dataclasses.dataclass(slots=True)
class _Domain:
    """One file of one number: a counter in µJ with the range at which it wraps, or a power in µW."""

    name: str
    path: Path
    is_counter: bool
    epoch: int = 0
    range_uj: int | None = None
    fd: int | None = None
    reason: str = ""
    detail: str = ""
    said_minute: int = -1


class HostSource:
    """Reads the host's energy domains.

    `root` is where /sys and /proc of the host are mounted; `opener` opens their files as os.open does.

    Errors: NotHere when the host has no such meter. A meter that may not be read is an absence, not an error.
    """

    name = "host"

    def __init__(self, root: str | Path = "/", *, opener: Opener = os.open) -> None:
        root = Path(root)
        self._opener = opener
        domains = _find_rapl(root / "sys/class/powercap") or _find_grace(root / "sys/class/hwmon")
        if not domains:
            raise NotHere("This host has no RAPL zones and no Grace power meter; many virtual machines have none.")
        # A container's own /proc says the same of the kernel; only /sys is masked there, and mounted elsewhere.
        proc = root / "proc" if (root / "proc").is_dir() else Path("/proc")
        boot_id = read_boot_id(proc / "sys/kernel/random/boot_id")
        self._boot_us = boot_time_us(proc / "stat")
        self._domains = domains
        for domain in domains:
            domain.epoch = epoch_of(boot_id, domain.name) if boot_id and domain.is_counter else 0
            _open(domain, opener)

    def read(self, time_us: int) -> list[Reading]:
        """One HostReading per domain that can be read, an AbsenceReading once a minute for each that can't."""
        readings: list[Reading] = []
        minute = time_us // MINUTE_US
        for domain in self._domains:
            if domain.fd is None and minute != domain.said_minute and domain.said_minute >= 0:
                _open(domain, self._opener)  # a person may have followed the advice
            value = _read(domain)
            if value is not None:
                domain.said_minute = -1
                readings.append(self._reading(domain, value))
            elif minute != domain.said_minute:
                domain.said_minute = minute
                readings.append(
                    AbsenceReading(subject="host", id=domain.name, reason=domain.reason, detail=domain.detail)
                )
        return readings

    def close(self) -> None:
        """Close the files."""
        for domain in self._domains:
            _close(domain)

    def _reading(self, domain: _Domain, value: int) -> HostReading:
        if not domain.is_counter:
            return HostReading(domain=domain.name, power_mw=value // 1000)
        return HostReading(
            domain=domain.name,
            epoch=domain.epoch,
            epoch_start_us=self._boot_us,
            energy_uj=value,
            energy_range_uj=domain.range_uj,
        )


def rapl_domain(zone: str, name: str, parent_name: str) -> str | None:
    """Name of the domain that a powercap zone measures, None for a zone that overlaps others.

    `zone` is the directory (`intel-rapl:0`, `intel-rapl:0:1`), `name` what its `name` file says, `parent_name` the same
    of the zone above, empty for a top-level zone.
    """
    if not ZONE.fullmatch(zone):
        return None
    if not parent_name:
        return name if name.startswith("package-") else None
    if name == "dram" and parent_name.startswith("package-"):
        return parent_name.replace("package", "dram", 1)
    return None


def grace_domains(sockets: list[str]) -> dict[str, str]:
    """Which of the power meters to read: socket label -> domain, none inside another, none with the GPU inside."""
    found = {label: SOCKET.fullmatch(label) for label in sockets}
    parts = [(label, match[1], match[2]) for label, match in found.items() if match]
    whole = {number for _, kind, number in parts if kind == "Grace"}
    return {
        label: f"{kind.lower()}-{number}"
        for label, kind, number in parts
        if kind == "Grace" or (kind in ("CPU", "SysIO") and number not in whole)
    }


def boot_time_us(stat: Path) -> int | None:
    """When this kernel started, from the `btime` line of /proc/stat; None where it does not say."""
    text = _text(stat)
    match = re.search(r"^btime (\d+)$", text, re.MULTILINE)
    return int(match[1]) * 1_000_000 if match else None


def _find_rapl(powercap: Path) -> list[_Domain]:
    zones = sorted(path for path in powercap.glob("intel-rapl:*") if ZONE.fullmatch(path.name))
    names = {path.name: _text(path / "name") for path in zones}
    domains: dict[str, _Domain] = {}
    for path in zones:
        parent, _, _ = path.name.rpartition(":")
        domain = rapl_domain(path.name, names[path.name], names.get(parent, ""))
        # A package that two drivers register (MSR and TPMI) is still one package.
        if domain and domain not in domains:
            domains[domain] = _Domain(domain, path / "energy_uj", is_counter=True)
    return list(domains.values())


def _find_grace(hwmon: Path) -> list[_Domain]:
    meters: dict[str, Path] = {}
    for label_file in sorted([*hwmon.glob("hwmon*/device/power1_oem_info"), *hwmon.glob("hwmon*/power1_oem_info")]):
        meters.setdefault(_text(label_file), label_file.with_name("power1_average"))
    return [_Domain(name, meters[label], is_counter=False) for label, name in grace_domains(list(meters)).items()]


def _open(domain: _Domain, opener: Opener) -> None:
    try:
        if domain.is_counter:
            domain.range_uj = _range_uj(domain.path.with_name("max_energy_range_uj"))
            if domain.range_uj is None:
                domain.reason, domain.detail = "no_range", f"{domain.path.parent} does not say where its counter wraps."
                return
        domain.fd = opener(domain.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _explain(domain, error)


def _read(domain: _Domain) -> int | None:
    """The file's number; None with the reason in the domain."""
    if domain.fd is None:
        return None
    try:
        raw = os.pread(domain.fd, 32, 0)
    except OSError as error:
        _explain(domain, error)
        _close(domain)
        return None
    if not raw.strip().isdigit():
        domain.reason, domain.detail = "not_understood", f"{domain.path} holds {raw[:20]!r}, not a number."
        return None
    return int(raw)


def _explain(domain: _Domain, error: OSError) -> None:
    domain.reason = REASONS.get(type(error), "read_error")
    if isinstance(error, PermissionError):
        domain.detail = PERMISSION_ADVICE.format(path=domain.path)
    else:
        domain.detail = f"{domain.path} can't be read: {error.strerror}."


def _close(domain: _Domain) -> None:
    if domain.fd is not None:
        os.close(domain.fd)
        domain.fd = None


def _range_uj(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() and int(text) > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
