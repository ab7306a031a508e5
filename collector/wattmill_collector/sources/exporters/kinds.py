"""The table of exporters: how each is known by its page, and what is read from it. Pure data.

A page may be several exporters' at once (a collector that gathers them), so every kind whose markers it has is read.
What two of them say of the same board or domain is read once: `owners.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from wattmill_collector.sources.exporters import board_tables as boards
from wattmill_collector.sources.exporters import host_domains as hosts
from wattmill_collector.sources.exporters.board_tables import BoardTable

PROCESS_START = "process_start_time_seconds"
BOOT_TIME = "node_boot_time_seconds"


@dataclasses.dataclass(frozen=True, slots=True)
class ExporterKind:
    """One exporter. `aliases`: how a person may call it; `markers`: beginnings of metric names, any of which is enough.

    `is_slow`: it asks a management controller while it is asked, which may take longer than a tick. `only_named`: read
    only when the configuration says this kind. `advice`: what to do when its page shows no power. `up`: the series that
    are 0 where it could not ask what it stands for.
    """

    name: str
    aliases: tuple[str, ...]
    markers: tuple[str, ...]
    boards: BoardTable | None = None
    domains: hosts.Plan | None = None
    domain_names: tuple[str, ...] = ()
    is_slow: bool = False
    only_named: bool = False
    advice: str = ""
    up: str = ""

    def names(self) -> frozenset[str]:
        """Every series name that reading this kind may need."""
        read = {*self.domain_names, PROCESS_START, BOOT_TIME, *((self.up,) if self.up else ())}
        return frozenset(self.boards.names() if self.boards else ()) | read

    @property
    def subject(self) -> str:
        """What an absence of it is about."""
        return "accelerator" if self.boards else "host"


EXPORTER_KINDS: tuple[ExporterKind, ...] = (
    ExporterKind(
        "dcgm-exporter",
        ("dcgm", "dcgm_exporter"),
        ("DCGM_FI_",),
        boards.DCGM,
        advice="let its counters file have DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION and DCGM_FI_DEV_POWER_USAGE",
    ),
    ExporterKind(
        "nvidia_gpu_exporter",
        ("nvidia-gpu-exporter", "nvidia_smi"),
        ("nvidia_smi_",),
        boards.NVIDIA_GPU,
        advice="let it query power.draw, or use its NVML back end, which has the energy counter",
    ),
    ExporterKind(
        "amd-device-metrics-exporter",
        ("amd", "device-metrics-exporter", "amd-gpu"),
        ("gpu_package_power", "gpu_average_package_power", "gpu_power_usage", "gpu_energy_consumed", "gpu_nodes_total"),
        boards.AMD_DEVICE,
        advice="let its Fields have GPU_ENERGY_CONSUMED, GPU_PACKAGE_POWER and GPU_AVERAGE_PACKAGE_POWER",
    ),
    ExporterKind(
        "amd-device-metrics-exporter",
        ("amd", "device-metrics-exporter", "amd-gpu"),
        ("amd_gpu_package_power", "amd_gpu_average_package_power", "amd_gpu_power_usage", "amd_gpu_energy_consumed"),
        boards.AMD_DEVICE_PREFIXED,
    ),
    ExporterKind(
        "amd_smi_exporter",
        ("amd-smi-exporter", "amd_smi"),
        ("amd_socket_", "amd_gpu_power{", "amd_gpu_power_avg", "amd_num_", "amd_core_energy"),
        boards.AMD_SMI,
        hosts.amd_smi,
        hosts.AMD_NAMES,
    ),
    ExporterKind("gaudi-metric-exporter", ("gaudi", "habana", "habanalabs"), ("habanalabs_",), boards.GAUDI),
    ExporterKind("intel-xpumanager", ("xpum", "xpumanager", "intel"), ("xpum_",), boards.XPUM),
    ExporterKind("intel-xpumd", ("xpumd",), ("hw_energy_joules", "hw_power_watts", "hw_gpu_info"), boards.XPUMD),
    ExporterKind("ascend-npu-exporter", ("ascend", "npu-exporter", "npu"), ("npu_chip_info_",), boards.ASCEND),
    ExporterKind("cambricon-mlu-exporter", ("cambricon", "mlu-exporter", "mlu"), ("mlu_",), boards.CAMBRICON),
    ExporterKind("hygon-dcu-exporter", ("hygon", "dcu-exporter", "dcu"), ("dcu_",), boards.HYGON),
    ExporterKind("iluvatar-ix-exporter", ("iluvatar", "ix-exporter"), ("ix_",), boards.ILUVATAR),
    ExporterKind(
        "node_exporter",
        ("node-exporter", "node"),
        ("node_rapl_", "node_hwmon_", "node_boot_time_seconds"),
        None,
        hosts.node_exporter,
        hosts.NODE_NAMES,
        advice="only root may read RAPL: let node_exporter read /sys/class/powercap, and keep its rapl collector on",
    ),
    ExporterKind(
        "ceems_exporter",
        ("ceems", "ceems-exporter"),
        ("ceems_",),
        None,
        hosts.ceems,
        hosts.CEEMS_NAMES,
        advice="switch on its collectors rapl, and ipmi_dcmi, redfish or cray_pm_counters",
    ),
    ExporterKind(
        "kepler",
        (),
        ("kepler_",),
        boards.KEPLER,
        hosts.kepler,
        hosts.KEPLER_NAMES,
        advice="it measures nothing here, or estimates by a model, which is not read",
    ),
    ExporterKind(
        "ipmi_exporter",
        ("ipmi", "ipmi-exporter"),
        ("ipmi_",),
        None,
        hosts.ipmi,
        hosts.IPMI_NAMES,
        is_slow=True,
        advice="switch on its collector dcmi; no power sensor has a name that says what it measures",
        up="ipmi_up",
    ),
    ExporterKind(
        "redfish_exporter",
        ("redfish", "redfish-exporter"),
        ("redfish_",),
        None,
        hosts.redfish,
        hosts.REDFISH_NAMES,
        is_slow=True,
        advice="the controller reports neither the chassis' power nor its supplies' inputs",
        up="redfish_up",
    ),
    ExporterKind(
        "idrac_exporter",
        ("idrac", "idrac-exporter"),
        ("idrac_",),
        None,
        hosts.idrac,
        hosts.IDRAC_NAMES,
        is_slow=True,
        advice="switch on its metrics group power",
    ),
    ExporterKind("triton", ("nv", "triton_core"), ("nv_gpu_", "nv_energy_"), boards.TRITON, only_named=True),
)
KIND_NAMES = tuple(sorted({name for kind in EXPORTER_KINDS for name in (kind.name, *kind.aliases)}))


def named(name: str) -> tuple[ExporterKind, ...]:
    """The kinds that a page may be: those of this name or alias, or all that need not be named."""
    if name == "auto":
        return tuple(kind for kind in EXPORTER_KINDS if not kind.only_named)
    return tuple(kind for kind in EXPORTER_KINDS if name in (kind.name, *kind.aliases))


def recognise(page: bytes, kinds: Sequence[ExporterKind]) -> tuple[ExporterKind, ...]:
    """The kinds whose metrics are on the page."""
    page = b"\n" + page
    return tuple(kind for kind in kinds if any(b"\n" + marker.encode() in page for marker in kind.markers))
