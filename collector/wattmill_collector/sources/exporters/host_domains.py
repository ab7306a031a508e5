"""What exporters say of the host: which series are which domain of energy, in which unit. Pure, but for `range_uj`.

Domains never overlap, as those that the agent reads itself (`rapl`, `hwmon`): of RAPL the packages and their DRAM,
since core and uncore lie inside a package and psys contains it. The whole node is `chassis`: a total, else the sum of
what its supplies draw, never both.

Not read: what a model estimates (Kepler's shares of pods and containers; its node where it has no meter), halves of a
total (active and idle), and sensors whose name does not tell whether they are the node, a supply or a part.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from wattmill_collector.sources.host_files import text_of
from wattmill_collector.sources.hwmon import AMD_SOCKET, SOCKET, grace_domains
from wattmill_collector.sources.promtext import Series
from wattmill_collector.sources.rapl import ZONE, find_rapl

CHASSIS = "chassis"
AGGREGATED = "aggregated-"  # how Kepler calls the sum of all zones of a kind
Plan = Callable[[Sequence[Series]], "list[Domain]"]


@dataclasses.dataclass(frozen=True, slots=True)
class Sum:
    """A value: the sum (or the highest) of the series at `places`, in `unit`.

    `some`: a part that shows no number draws nothing, such as a supply that is not plugged in; else all must show one.
    """

    unit: str
    places: tuple[int, ...]
    highest: bool = False
    some: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Domain:
    """One domain of the host on one page. `power`: ways in order of preference; below 10 W is none of a whole node.

    `zones`: the powercap zones whose counter it is, where it is RAPL's own. `counter`: whose counter the energy is: the
    kernel's, since the host booted, or the exporter's.
    """

    name: str
    energy: Sum | None = None
    power: tuple[Sum, ...] = ()
    zones: tuple[str, ...] = ()
    counter: Literal["boot", "process"] = "boot"


def family_of(domain: str) -> str:
    """Domains of which one source reads all or none: two of them may cut the same socket differently."""
    kind = domain.partition("-")[0]
    return "package" if kind in ("package", "grace", "cpu", "sysio") else kind


def range_uj(root: Path, zones: Iterable[str]) -> int | None:
    """Where the counter of these powercap zones wraps, by this host's kernel, which tells it to everybody."""
    powercap = root / "sys/class/powercap"
    total = 0
    for zone in zones:
        of_all = zone.removeprefix(AGGREGATED)
        folders = [powercap / zone] if of_all == zone else _folders(powercap, of_all)
        for folder in folders:
            text = text_of(folder / "max_energy_range_uj")
            if not text.isdigit() or not int(text):
                return None
            total += int(text)
    return total or None


def _folders(powercap: Path, kind: str) -> list[Path]:
    return [domain.path.parent for domain in find_rapl(powercap) if domain.name.partition("-")[0] == kind]


# prometheus/node_exporter@a7dcc3a collector/rapl_linux.go:104-140: the zone's name is part of the metric's, or a label.
# Kernels call packages package-0 or, with several dies, package-0-die-1; procfs takes the last number as the index.
_DIES = [f"package_{n}_die" for n in range(16)]
_ZONES = ("package", *(f"package_{n}" for n in range(16)), *_DIES, "dram")
NODE_RAPL = {f"node_rapl_{zone}_joules_total": zone for zone in _ZONES}
NODE_RAPL_LABELLED = "node_rapl_joules_total"
NODE_HWMON = (
    "node_hwmon_power_average_watt",
    "node_hwmon_power_watt",
    "node_hwmon_energy_joule_total",
    "node_hwmon_sensor_label",
    "node_hwmon_chip_names",
)
NODE_NAMES = (*NODE_RAPL, NODE_RAPL_LABELLED, *NODE_HWMON)


def node_exporter(series: Sequence[Series]) -> list[Domain]:
    """RAPL, else AMD's sockets or Grace's, and the ACPI power meter where it is the only one."""

    def zone_of(one: Series) -> str:
        if one.name == NODE_RAPL_LABELLED:
            return one.labels.get("rapl_zone", "").replace("-", "_")
        return NODE_RAPL.get(one.name, "")

    sockets, chassis = _hwmon(series)
    return (_rapl(series, zone_of) or sockets) + chassis


# ceems-dev/ceems@14be007 pkg/collector/rapl.go:273, ipmi.go:220, redfish.go, cray_pm_counters.go.
CEEMS_RAPL = {"ceems_rapl_package_joules_total": "package", "ceems_rapl_dram_joules_total": "dram"}
CEEMS_NAMES = (
    *CEEMS_RAPL,
    "ceems_ipmi_dcmi_current_watts",
    "ceems_redfish_current_watts",
    "ceems_cray_pm_counters_power_watts",
    "ceems_cray_pm_counters_energy_joules",
)


def ceems(series: Sequence[Series]) -> list[Domain]:
    """RAPL, and the node by Cray's counters, Redfish or IPMI."""
    found = _rapl(series, lambda one: CEEMS_RAPL.get(one.name, ""))
    of_node = {"domain": "node"}
    energy = _sum(series, "ceems_cray_pm_counters_energy_joules", "J", of_node, highest=True)
    power = (
        _sum(series, "ceems_cray_pm_counters_power_watts", "W", of_node, highest=True),
        _sum(series, "ceems_redfish_current_watts", "W", highest=True),
        _sum(series, "ceems_ipmi_dcmi_current_watts", "W", highest=True),
    )
    return found + _chassis(energy, *power)


# sustainable-computing-io/kepler@13944a6 internal/exporter/prometheus/collector/power_collector.go:129, since 0.10, and
# internal/device/energy_zone.go: several sockets are one zone with the path aggregated-package. Until 0.9
# (pkg/metrics/consts/consts.go:34) modes dynamic and idle are the two halves, and there is no total.
KEPLER_NAMES = (
    "kepler_node_cpu_joules_total",
    "kepler_node_cpu_watts",
    "kepler_node_package_joules_total",
    "kepler_node_dram_joules_total",
    "kepler_node_info",
)


def kepler(series: Sequence[Series]) -> list[Domain]:
    """The packages and their DRAM."""
    joules = [s for s in series if s.name == "kepler_node_cpu_joules_total"]
    if joules:
        return _kepler_zones(series)
    info = [s.labels.get("components_power_source", "") for s in series if s.name == "kepler_node_info"]
    if any("estimator" in source for source in info):
        return []
    halves: dict[str, list[int]] = {}
    for place, one in enumerate(series):
        if one.name in ("kepler_node_package_joules_total", "kepler_node_dram_joules_total"):
            kind = one.name.split("_")[2]
            number = re.sub(r"\D", "", one.labels.get("package", "")) or "0"
            halves.setdefault(f"{kind}-{number}", []).append(place)
    return [Domain(name, Sum("J", tuple(places)), counter="process") for name, places in halves.items()]


# amd/amd_smi_exporter@ad2e1b1 src/cpu_data.go:60-110: µJ and mW of a socket; amd_core_energy lies inside, and shows
# each core once a thread. The energy is that of the cores, the power that of the socket.
AMD_NAMES = ("amd_socket_energy", "amd_socket_power")


def amd_smi(series: Sequence[Series]) -> list[Domain]:
    """The sockets."""
    found = []
    for socket in sorted({s.labels["socket"] for s in series if s.name in AMD_NAMES and s.labels.get("socket")}):
        energy = _sum(series, "amd_socket_energy", "uJ", {"socket": socket})
        power = _sum(series, "amd_socket_power", "mW", {"socket": socket})
        found.append(Domain(f"package-{socket}", energy, (power,) if power else ()))
    return found


# prometheus-community/ipmi_exporter@3693ada collector_dcmi.go:28 (its documentation says ..._current_watts) and
# collector_ipmi.go:109: every power sensor, named as the board's maker likes.
IPMI_NAMES = (
    "ipmi_dcmi_power_consumption_watts",
    "ipmi_dcmi_power_consumption_current_watts",
    "ipmi_power_watts",
)
_USE = "(in|input|consumption|meter|total|usage)"
_TOTAL = re.compile(
    r"(pwr|power) consumption|system level|power meter|power total|power|pwr (chassis|system|sys|total)( total)?|"
    rf"(total|sys|system|node|server|chassis)( (total|input|in))*( (power|pwr))?( {_USE})*"
)
_SUPPLY = re.compile(r"(ps|psu|power supply|pwr supply) ?\d+ (.* )?(in|input|pin)( .*)?|power ?\d+")


def ipmi(series: Sequence[Series]) -> list[Domain]:
    """The node: DCMI's reading, else a sensor that is called a total, else the supplies' inputs."""
    totals, supplies = [], []
    for place, one in enumerate(series):
        if one.name == "ipmi_power_watts":
            name = re.sub(r"[^a-z0-9]+", " ", one.labels.get("name", "").lower()).strip()
            if _TOTAL.fullmatch(name):
                totals.append(place)
            elif _SUPPLY.fullmatch(name):
                supplies.append(place)
    return _chassis(
        None,
        _sum(series, "ipmi_dcmi_power_consumption_watts", "W"),
        _sum(series, "ipmi_dcmi_power_consumption_current_watts", "W"),
        Sum("W", tuple(totals), highest=True),
        Sum("W", tuple(supplies), some=True),
    )


# jenningsloy318/redfish_exporter@d388474 collector/chassis_collector.go:67-75, 355.
REDFISH_NAMES = (
    "redfish_chassis_power_average_consumed_watts",
    "redfish_chassis_power_powersupply_power_input_watts",
)
# mrlhansen/idrac_exporter@104c75e internal/collector/collector.go:215-255.
IDRAC_NAMES = (
    "idrac_power_control_consumed_watts",
    "idrac_power_control_avg_consumed_watts",
    "idrac_power_supply_input_watts",
)


def redfish(series: Sequence[Series]) -> list[Domain]:
    """The node. Of several controls the highest: the others (a GPU tray, a processor) lie inside it."""
    return _chassis(
        None,
        _sum(series, REDFISH_NAMES[0], "W", highest=True),
        _sum(series, REDFISH_NAMES[1], "W", some=True),
    )


def idrac(series: Sequence[Series]) -> list[Domain]:
    """The node, as by Redfish."""
    return _chassis(
        None,
        _sum(series, IDRAC_NAMES[0], "W", highest=True),
        _sum(series, IDRAC_NAMES[1], "W", highest=True),
        _sum(series, IDRAC_NAMES[2], "W", some=True),
    )


def _chassis(energy: Sum | None, *power: Sum | None) -> list[Domain]:
    ways = tuple(way for way in power if way is not None and way.places)
    return [Domain(CHASSIS, energy, ways)] if energy or ways else []


def _sum(
    series: Sequence[Series],
    name: str,
    unit: str,
    select: Mapping[str, str] | None = None,
    *,
    highest: bool = False,
    some: bool = False,
) -> Sum | None:
    chosen = (select or {}).items()
    places = [i for i, s in enumerate(series) if s.name == name and all(s.labels.get(k) == v for k, v in chosen)]
    return Sum(unit, tuple(places), highest, some) if places else None


def _rapl(series: Sequence[Series], zone_of: Callable[[Series], str]) -> list[Domain]:
    rows = []
    for place, one in enumerate(series):
        zone, path = zone_of(one), one.labels.get("path", "").rstrip("/").rpartition("/")[2]
        if zone and "mmio" not in path:
            rows.append((path, zone, one.labels.get("index", ""), place))
    found: dict[str, Domain] = {}
    package_at: dict[str, str] = {}
    for path, zone, index, place in sorted(rows):
        if not zone.startswith("package"):
            continue
        numbers = [
            *re.findall(r"\d+", zone),
            *([index] if index and (zone.endswith("die") or zone == "package") else []),
        ]
        name = f"package-{numbers[0] if numbers else 0}" + (f"-die-{numbers[1]}" if len(numbers) > 1 else "")
        package_at[path] = name
        # A package that two drivers register (MSR and TPMI) is still one package.
        found.setdefault(name, Domain(name, Sum("J", (place,)), zones=_zones(path)))
    for path, zone, index, place in sorted(rows):
        if zone == "dram":
            package = package_at.get(path.rpartition(":")[0], f"package-{index or 0}")
            name = package.replace("package", "dram", 1)
            found.setdefault(name, Domain(name, Sum("J", (place,)), zones=_zones(path)))
    return list(found.values())


def _zones(path: str) -> tuple[str, ...]:
    return (path,) if ZONE.fullmatch(path) or path.startswith(AGGREGATED) else ()


def _kepler_zones(series: Sequence[Series]) -> list[Domain]:
    found: dict[str, Domain] = {}
    for place, one in enumerate(series):
        kind = one.labels.get("zone", "").partition("-")[0]
        if one.name != "kepler_node_cpu_joules_total" or kind not in ("package", "dram"):
            continue
        zone = one.labels.get("path", "").rstrip("/").rpartition("/")[2]
        match = ZONE.fullmatch(zone)
        name = f"{kind}-{match[1]}" if match else kind
        watts = _sum(
            series, "kepler_node_cpu_watts", "W", {k: one.labels[k] for k in ("zone", "path") if k in one.labels}
        )
        power = (watts,) if watts else ()
        found.setdefault(name, Domain(name, Sum("J", (place,)), power, _zones(zone), "process"))
    return list(found.values())


def _hwmon(series: Sequence[Series]) -> tuple[list[Domain], list[Domain]]:
    """Sockets and the node, by the labels of the sensors; chips are told apart by the driver's name."""
    labels = {_sensor(s): s.labels.get("label", "") for s in series if s.name == "node_hwmon_sensor_label"}
    chips = {s.labels.get("chip"): s.labels.get("chip_name") for s in series if s.name == "node_hwmon_chip_names"}
    sockets: list[Domain] = []
    labelled: dict[str, int] = {}
    meters: dict[tuple[str, str], int] = {}
    for place, one in enumerate(series):
        label, chip = labels.get(_sensor(one), ""), chips.get(one.labels.get("chip"))
        if one.name == "node_hwmon_energy_joule_total" and (match := AMD_SOCKET.fullmatch(label)):
            name = f"package-{int(match[1])}"
            sockets.append(Domain(name, Sum("J", (place,))))
        elif one.name in ("node_hwmon_power_average_watt", "node_hwmon_power_watt"):
            if label:
                labelled.setdefault(label, place)
            elif chip in ("power_meter", "acpi_power_meter"):
                meters.setdefault(_sensor(one), place)
    grace = grace_domains(list(labelled))
    found = sockets or [Domain(name, power=(Sum("W", (labelled[label],)),)) for label, name in grace.items()]
    is_grace = any(SOCKET.fullmatch(label) for label in labelled)
    whole = tuple(meters.values()) if len(meters) == 1 and not is_grace else ()
    return found, _chassis(None, Sum("W", whole))


def _sensor(one: Series) -> tuple[str, str]:
    return one.labels.get("chip", ""), one.labels.get("sensor", "")
