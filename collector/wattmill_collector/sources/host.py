"""Energy of the host: RAPL counters through powercap, AMD's or Grace's own meters, and the node's ACPI power meter.

What it promises: domains that never overlap, so that they may be added; which those are is said in `rapl` and `hwmon`.
But for `chassis`, which contains them all, boards included, and which the service takes apart.
What it does not: undo wraps. A 32-bit RAPL counter wraps within minutes; the range travels with the reading.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from wattmill_collector.clock import Clock, SystemClock
from wattmill_collector.errors import NotHere
from wattmill_collector.sources.chassis import ASK_EVERY_US, ChassisSource
from wattmill_collector.sources.epochs import epoch_of, read_boot_id
from wattmill_collector.sources.host_files import Domain, Opener, close_file, open_file, read_number, text_of
from wattmill_collector.sources.hwmon import PowerMeter, find_amd_energy, find_grace, find_power_meter
from wattmill_collector.sources.rapl import find_rapl
from wattmill_collector.wire import AbsenceReading, HostReading, Reading

MINUTE_US = 60_000_000


class HostSource:
    """Reads the host's energy domains.

    `root` is where /sys and /proc of the host are mounted; `opener` opens their files as os.open does. The ACPI meter
    is asked every `every_us` in the background, the first answer waited for up to `patience_us`.

    Errors: NotHere when the host has no such meter. A meter that may not be read is an absence, not an error.
    """

    name = "host"

    def __init__(
        self,
        root: str | Path = "/",
        *,
        opener: Opener = os.open,
        clock: Clock | None = None,
        every_us: int = ASK_EVERY_US,
        patience_us: int = 0,
    ) -> None:
        root = Path(root)
        self._opener = opener
        hwmon = root / "sys/class/hwmon"
        domains = find_rapl(root / "sys/class/powercap") or find_amd_energy(hwmon) or find_grace(hwmon)
        meter, why_not = find_power_meter(hwmon)
        if not domains and meter is None:
            raise NotHere(
                "This host has no RAPL zones and no Grace power meter to read; many virtual machines have none. "
                + why_not
            )
        # A container's own /proc says the same of the kernel; only /sys is masked there, and mounted elsewhere.
        proc = root / "proc" if (root / "proc").is_dir() else Path("/proc")
        boot_id = read_boot_id(proc / "sys/kernel/random/boot_id")
        self._boot_us = boot_time_us(proc / "stat")
        self._domains = domains
        for domain in domains:
            domain.epoch = epoch_of(boot_id, domain.name) if boot_id and domain.is_counter else 0
            open_file(domain, opener)
        self._chassis: ChassisSource | None = None
        if meter is not None:
            clock = clock or SystemClock()
            self._chassis = ChassisSource("hwmon", PowerMeter(meter).ask, clock, every_us=every_us, optional=True)
            self._chassis.start(patience_us)

    def read(self, time_us: int) -> list[Reading]:
        """One HostReading per domain that can be read, an AbsenceReading once a minute for each that can't."""
        readings: list[Reading] = []
        minute = time_us // MINUTE_US
        for domain in self._domains:
            if domain.fd is None and minute != domain.said_minute and domain.said_minute >= 0:
                open_file(domain, self._opener)  # a person may have followed the advice
            value = read_number(domain)
            if value is not None:
                domain.said_minute = -1
                readings.append(self._reading(domain, value))
            elif minute != domain.said_minute:
                domain.said_minute = minute
                readings.append(
                    AbsenceReading(subject="host", id=domain.name, reason=domain.reason, detail=domain.detail)
                )
        if self._chassis is not None:
            readings += self._chassis.read(time_us)
        return readings

    def close(self) -> None:
        """Close the files and stop asking."""
        if self._chassis is not None:
            self._chassis.close()
        for domain in self._domains:
            close_file(domain)

    def _reading(self, domain: Domain, value: int) -> HostReading:
        if not domain.is_counter:
            return HostReading(domain=domain.name, source=domain.source, power_mw=value // 1000)
        return HostReading(
            domain=domain.name,
            source=domain.source,
            epoch=domain.epoch,
            epoch_start_us=self._boot_us,
            energy_uj=value,
            energy_range_uj=domain.range_uj,
        )


def boot_time_us(stat: Path) -> int | None:
    """When this kernel started, from the `btime` line of /proc/stat; None where it does not say."""
    match = re.search(r"^btime (\d+)$", text_of(stat), re.MULTILINE)
    return int(match[1]) * 1_000_000 if match else None
