"""What Redfish documents say of the power of a node, and which of a BMC's many chassis is the node. Pure.

What it promises: one chassis, never a sum of several: a baseboard, a drive cage or a board is part of the node and
stands inside its chassis, a rack or an enclosure of several nodes is not the node. Of several figures of the same watts
one. A number that is missing, not a number or 0 is no figure, nor is less than 10 W of a whole node: a PowerEdge
XR8620t that took 180 W said 4 W of itself.

Documents are what `json.loads` makes with Decimal for fractions; anything may be missing or of another type.
Sources: DMTF DSP2046 (Chassis, EnvironmentMetrics, Power, PowerSupplyMetrics).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

Document = Mapping[str, Any]
# Types of chassis that a node may be; the others are parts of one (Module, Card, Zone, …) or hold several (Rack, Row).
NODES = ("", "Blade", "Drawer", "Enclosure", "Other", "RackMount", "Shelf", "Sled", "StandAlone")
AWAY = ("Absent", "Disabled", "Deferring", "StandbyOffline", "UnavailableOffline")
PART = re.compile(r"\b(cpu|processor|memory|dimm|gpu|fan|drive|storage|pcie|sub-?system)s?\b", re.IGNORECASE)
NO_HOST = re.compile(r"HGX_|BlueField|DPU", re.IGNORECASE)
LEAST_MW, MOST_MW = 10_000, 100_000_000  # of a node that runs: this program runs on it
MOST_UJ = 2**63 - 1
LONGEST = 30  # digits before or behind the point
FINE = -3  # a counter in kWh with this many decimals moves every 3.6 kJ


@dataclasses.dataclass(frozen=True, slots=True)
class Metrics:
    """Of an EnvironmentMetrics: power in mW, energy in µJ, and whether the counter is seen to move in small steps."""

    power_mw: int | None
    energy_uj: int | None = None
    is_fine: bool = False


def path_of(value: Any) -> str:
    """The path of a link, or "" when it is none on this BMC."""
    path = value.get("@odata.id") if isinstance(value, Mapping) else None
    if not isinstance(path, str) or not re.fullmatch(r"/(?!/)[\x21-\x7e]{0,511}", path):
        return ""
    return path.partition("#")[0].rstrip("/")


def paths_of(values: Any) -> list[str]:
    """The paths of a list of links, each once."""
    found = [path_of(value) for value in values] if isinstance(values, Sequence) and not isinstance(values, str) else []
    return list(dict.fromkeys(path for path in found if path))


def candidates(chassis: Mapping[str, Document]) -> list[list[str]]:
    """Paths of what may be the node, the likeliest group first; in a group nothing tells which it is but its power."""
    inside: dict[str, set[str]] = {path: set() for path in chassis}
    for path, document in chassis.items():
        inside[path] |= set(paths_of(_links(document, "Contains"))) & chassis.keys()
        if (above := path_of(_links(document, "ContainedBy"))) in inside:
            inside[above].add(path)
    nodes = [path for path, document in chassis.items() if _may_be_node(path, document)]
    systems = {path: _systems(chassis[path]) for path in chassis}
    held = {path: [one for one in inside[path] if one in nodes] for path in nodes}
    nodes = [path for path in nodes if len(systems[path].union(*(systems[one] for one in held[path]))) <= 1]
    contained = set[str]().union(*(inside[path] - {path} for path in nodes))
    free = [path for path in nodes if path not in contained]
    groups = (
        [path for path in free if systems[path]],
        [path for path in free if not systems[path]],
        [path for path in nodes if path in contained and systems[path]],
    )
    return [group for group in groups if group]


def hosts_of(documents: Iterable[Document]) -> set[str]:
    """The computers in these chassis; more than one: nobody says which is this node."""
    return set[str]().union(*map(_systems, documents))


def metrics_of(document: Document) -> Metrics:
    """Of an EnvironmentMetrics resource."""
    power_mw = _of_node(document.get("PowerWatts"))
    joules = _counter(document.get("EnergyJoules"))
    if joules is not None and (energy_uj := _scaled(joules, 6, MOST_UJ)) is not None:
        return Metrics(power_mw, energy_uj, is_fine=True)
    kwh = _counter(document.get("EnergykWh"))
    if kwh is None or (energy_uj := _scaled(kwh * 36, 11, MOST_UJ)) is None:
        return Metrics(power_mw)
    exponent = kwh.as_tuple().exponent
    return Metrics(power_mw, energy_uj, isinstance(exponent, int) and exponent <= FINE)


def control_mw(document: Document) -> int | None:
    """Of a Power resource: what its first control of the whole says; the others are parts of it."""
    controls = document.get("PowerControl")
    for control in [controls] if isinstance(controls, Mapping) else _mappings(controls):
        if PART.search(str(control.get("Name", ""))) or PART.search(str(control.get("PhysicalContext", ""))):
            continue
        if _is_here(control) and (power_mw := _of_node(control.get("PowerConsumedWatts"))) is not None:
            return power_mw
    return None


def supplies_mw(document: Document) -> int | None:
    """Of a Power resource: what goes into all supplies; None when one that is there does not say it."""
    return _sum(watts(one.get("PowerInputWatts")) for one in _mappings(document.get("PowerSupplies")) if _is_here(one))


def metrics_mw(documents: Iterable[Document]) -> int | None:
    """Of the PowerSupplyMetrics of all supplies: what goes into them; None when one does not say it."""
    return _sum(watts(one.get("InputPowerWatts")) for one in documents)


def is_here(document: Document) -> bool:
    """Whether a resource is there and on, as far as it says."""
    return _is_here(document)


def watts(value: Any) -> int | None:
    """Milliwatts of a number of watts or of a reading of them; None for none, and for 0: a node that runs draws."""
    number = _number(value.get("Reading") if isinstance(value, Mapping) else value)
    found = _scaled(number, 3, MOST_MW) if number is not None else None
    return found or None


def _of_node(value: Any) -> int | None:
    found = watts(value)
    return found if found is not None and found >= LEAST_MW else None


def _counter(value: Any) -> Decimal | None:
    if isinstance(value, Mapping):
        lifetime = _number(value.get("LifetimeReading"))
        return lifetime if lifetime else _number(value.get("Reading"))
    return _number(value)


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    if not number.is_finite() or number < 0 or abs(number.adjusted()) > LONGEST:
        return None  # 1e999999999 is short in JSON and long as an integer
    return number


def _scaled(number: Decimal, power: int, most: int) -> int | None:
    """number × 10^power, rounded down; None above `most`."""
    found = int(number.scaleb(power))
    return found if found <= most else None


def _sum(parts: Iterable[int | None]) -> int | None:
    known = list(parts)
    return sum(part for part in known if part) if known and None not in known else None


def _may_be_node(path: str, document: Document) -> bool:
    return (
        str(document.get("ChassisType") or "") in NODES
        and not path.rpartition("/")[2].upper().startswith("HGX_")
        and _is_here(document)
    )


def _is_here(document: Document) -> bool:
    status = document.get("Status")
    return not isinstance(status, Mapping) or status.get("State") not in AWAY


def _systems(document: Document) -> set[str]:
    """The hosts in a chassis: baseboards of boards and DPUs are systems too, but parts of one."""
    return {path for path in paths_of(_links(document, "ComputerSystems")) if not NO_HOST.search(path)}


def _links(document: Document, name: str) -> Any:
    links = document.get("Links")
    return links.get(name) if isinstance(links, Mapping) else None


def _mappings(values: Any) -> list[Document]:
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list) else []
