"""Which of the kernel's hardware monitors to read: Grace's power meters, AMD's socket counters, the ACPI power meter.

What it promises: domains that never overlap. Of Grace that is the Grace socket (CPU, SysIO and DRAM), else its CPU and
SysIO sockets; the module socket contains the GPU, whose joules the board's own counter already has, so it is never
read. Of amd_energy the sockets; the cores lie inside them. The ACPI power meter (`power_meter`) measures what the
firmware says; where there is one and no Grace, that is the whole node: `chassis`.
What it does not: Intel's i915 and xe monitors, which are accelerators.

Sources: kernel Documentation/hwmon/acpi_power_meter.rst and amd_energy.rst; Alumet plugins/grace-hopper for the names.
"""

from __future__ import annotations

import re
from pathlib import Path

from wattmill_collector.sources.addresses import FetchError
from wattmill_collector.sources.chassis import Draw
from wattmill_collector.sources.host_files import REASONS, Domain, text_of

SOCKET = re.compile(r"(Grace|CPU|SysIO|Module) Power Socket (\d+)")
AMD_SOCKET = re.compile(r"Esocket(\d+)")
PERMISSION_ADVICE = "Let the agent's group read {path}, for example by a tmpfiles.d line `z {path} 0440 root wattmill`."


def find_grace(hwmon: Path) -> list[Domain]:
    """The sockets of Grace modules: power, no counter."""
    meters = {label: path for label, path in _acpi_meters(hwmon) if label}
    return [
        Domain(name, meters[label], "hwmon", is_counter=False, advice=PERMISSION_ADVICE)
        for label, name in grace_domains(list(meters)).items()
    ]


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


def find_amd_energy(hwmon: Path) -> list[Domain]:
    """The sockets of the amd_energy driver of older kernels; its counters have 64 bits and don't wrap."""
    domains: dict[str, Domain] = {}
    for chip in sorted(hwmon.glob("hwmon*")):
        if _name_of(chip) != "amd_energy":
            continue
        for label in sorted(chip.glob("energy*_label")):
            if socket := AMD_SOCKET.fullmatch(text_of(label)):
                path = label.with_name(label.name.replace("_label", "_input"))
                name = f"package-{int(socket[1])}"
                domains.setdefault(name, Domain(name, path, "hwmon", is_counter=True, advice=PERMISSION_ADVICE))
    return list(domains.values())


def find_power_meter(hwmon: Path) -> tuple[Path | None, str]:
    """The file of the ACPI power meter that measures the whole node, or None and a sentence why there is none."""
    meters = _acpi_meters(hwmon)
    if any(SOCKET.fullmatch(label) for label, _ in meters):
        return None, "The ACPI power meters are those of Grace modules; a module's own contains its GPU."
    if len(meters) > 1:
        return None, f"There are {len(meters)} ACPI power meters, and nothing says which of them is the whole node's."
    return (meters[0][1], "") if meters else (None, "There is no ACPI power meter.")


class PowerMeter:
    """The ACPI power meter of the node. Its firmware may ask the BMC and take a second, so no tick waits for it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self) -> Draw:
        """The power now. Errors: FetchError."""
        try:
            raw = self.path.read_text(errors="replace").strip()
        except PermissionError:
            raise FetchError("permission_denied", PERMISSION_ADVICE.format(path=self.path)) from None
        except OSError as error:
            reason = REASONS.get(type(error), "read_error")
            raise FetchError(reason, f"{self.path} can't be read: {error.strerror}.") from None
        if not raw.isdigit() or len(raw) > 15:
            raise FetchError("not_understood", f"{self.path} holds {raw[:20]!r}, not a number.")
        if int(raw) < 1000:
            raise FetchError("no_power_reading", f"{self.path} says 0 W, which a running node does not draw.")
        return Draw(int(raw) // 1000)


def _acpi_meters(hwmon: Path) -> list[tuple[str, Path]]:
    """Label and file of every ACPI power meter that is no battery's; the label is empty where the firmware has none.

    Older drivers put the files into the ACPI device, newer ones beside the monitor.
    """
    found: dict[Path, str] = {}
    for chip in sorted(hwmon.glob("hwmon*")):
        for folder in (chip / "device", chip):
            files = [folder / name for name in ("power1_average", "power1_input") if (folder / name).exists()]
            labelled = folder / "power1_oem_info"
            if not files or (_name_of(chip) != "power_meter" and not labelled.exists()):
                continue
            if text_of(folder / "power1_is_battery") not in ("", "0"):
                continue
            found.setdefault(files[0].resolve(), text_of(labelled))
            break
    return [(label, path) for path, label in found.items()]


def _name_of(chip: Path) -> str:
    return text_of(chip / "name") or text_of(chip / "device" / "name")
