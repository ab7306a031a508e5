"""Which RAPL zones of powercap to read: packages and their DRAM, which never overlap.

Core and uncore lie inside a package, psys contains it, and the mmio zones show it a second time.
The counter is a 32-bit register underneath and wraps within minutes; the range travels with the reading, undone by the
service.

Source: kernel Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import re
from pathlib import Path

from wattmill_collector.sources.host_files import Domain, text_of

ZONE = re.compile(r"intel-rapl:(\d+)(?::\d+)?")
PERMISSION_ADVICE = (
    "Only root may read RAPL counters since CVE-2020-8694; let the agent's group read {path}, "
    "for example by a tmpfiles.d line `z {path} 0440 root wattmill`."
)


def find_rapl(powercap: Path) -> list[Domain]:
    """The domains of /sys/class/powercap, each once."""
    zones = sorted(path for path in powercap.glob("intel-rapl:*") if ZONE.fullmatch(path.name))
    names = {path.name: text_of(path / "name") for path in zones}
    domains: dict[str, Domain] = {}
    for path in zones:
        parent, _, _ = path.name.rpartition(":")
        domain = rapl_domain(path.name, names[path.name], names.get(parent, ""))
        # A package that two drivers register (MSR and TPMI) is still one package.
        if domain and domain not in domains:
            domains[domain] = Domain(
                domain, path / "energy_uj", "rapl", is_counter=True, wraps=True, advice=PERMISSION_ADVICE
            )
    return list(domains.values())


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
