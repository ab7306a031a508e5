"""The table of exporters of accelerators: which series say what of which board, in which unit. Pure data.

Each field has ways in order of preference: the first that a board has is read, never two of them, because exporters
show the same watts under several names. Units are the exporter's real ones, whatever a name says: Gaudi's
`accelerator_power_usage_watts` carries milliwatts.

A board has one energy and one power, however often they are shown: rows that repeat it for every pod that shares it,
for every MIG instance or virtual function are one board, of which the highest value is taken, never the sum.

Sources: the exporters' own code, as cited beside each entry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

Select = tuple[tuple[str, tuple[str, ...]], ...]
ENERGY_FIELD = "energy_mj"
POWER_FIELDS = ("power_mw", "power_instant_mw")


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """One way to read a field: the sum of the series `names`, all of which must be there, in `unit`.

    `select` keeps the rows that have one of the listed values of a label.
    """

    names: tuple[str, ...]
    unit: str
    select: Select = ()


@dataclasses.dataclass(frozen=True, slots=True)
class BoardTable:
    """How the boards of one exporter are told apart and read.

    `uuids`: labels with the vendor's UUID, unique in the world. Without one a board is called by vendor, node and the
    first of `places` (label, prefix of its value) that it has. `shared_places`: the same, for models whose rows are
    chips of one card with the card's power on each (part of the model's name → label of the card). `keep`: label →
    values of the rows that count; a row without the label counts. `drop`: labels of rows that are more than a board.
    `ranks`: label → values, outermost first: of nested sensors the first that a board has is read. `parts`: labels of
    parts; where only they are shown, they are added up. `slices`: labels of slices, whose own use of memory and cores
    is not the board's. `info`: a series whose labels say more of a board, joined by its name. `counter`: whose counter
    the energy is: the driver's, since it was loaded, or the exporter's own.
    """

    vendor: str
    fields: Mapping[str, tuple[Way, ...]]
    uuids: tuple[str, ...] = ()
    places: tuple[tuple[str, str], ...] = ()
    shared_places: Mapping[str, str] = dataclasses.field(default_factory=dict)
    vendor_labels: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    driver: tuple[str, ...] = ()
    keep: Select = ()
    drop: tuple[str, ...] = ()
    ranks: Select = ()
    parts: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    info: str = ""
    counter: Literal["driver", "process"] = "driver"

    def names(self) -> frozenset[str]:
        """Every series name that reading these boards may need."""
        read = {name for ways in self.fields.values() for way in ways for name in way.names}
        return frozenset(read | ({self.info} if self.info else set()))


def _ways(*ways: tuple[str, str] | Way) -> tuple[Way, ...]:
    return tuple(way if isinstance(way, Way) else Way((way[0],), way[1]) for way in ways)


def _fields(prefix: str, **fields: Sequence[tuple[str, str] | Way]) -> dict[str, tuple[Way, ...]]:
    """The ways of each field, their names behind `prefix`."""
    return {
        field: tuple(dataclasses.replace(way, names=tuple(prefix + name for name in way.names)) for way in _ways(*ways))
        for field, ways in fields.items()
    }


# NVIDIA/dcgm-exporter@d5e5f51 etc/default-counters.csv, internal/pkg/rendermetrics/render_metrics.go; MIG rows repeat
# the parent's energy and power; UUID was uuid before 2.0; names of fields that are not exported by default are DCGM's.
DCGM = BoardTable(
    "nvidia",
    _fields(
        "DCGM_FI_",
        energy_mj=[("DEV_TOTAL_ENERGY_CONSUMPTION", "mJ")],
        power_mw=[("DEV_POWER_USAGE", "W")],
        power_instant_mw=[("DEV_POWER_USAGE_INSTANT", "W")],
        power_limit_mw=[("DEV_ENFORCED_POWER_LIMIT", "W"), ("DEV_POWER_MGMT_LIMIT", "W")],
        utilisation_ratio=[("DEV_GPU_UTIL", "%"), ("PROF_GR_ENGINE_ACTIVE", "1")],
        memory_used_bytes=[("DEV_FB_USED", "MiB")],
        memory_total_bytes=[
            ("DEV_FB_TOTAL", "MiB"),
            Way(("DEV_FB_FREE", "DEV_FB_USED", "DEV_FB_RESERVED"), "MiB"),
            Way(("DEV_FB_FREE", "DEV_FB_USED"), "MiB"),
        ],
        sm_clock_mhz=[("DEV_SM_CLOCK", "MHz")],
        memory_clock_mhz=[("DEV_MEM_CLOCK", "MHz")],
        temperature_celsius=[("DEV_GPU_TEMP", "C")],
        clock_event_reasons=[("DEV_CLOCKS_EVENT_REASONS", "1"), ("DEV_CLOCK_THROTTLE_REASONS", "1")],
    ),
    uuids=("UUID", "uuid"),
    places=(("pci_bus_id", ""), ("device", ""), ("gpu", "gpu")),
    index=("gpu",),
    model=("modelName",),
    driver=("DCGM_FI_DRIVER_VERSION",),
    slices=("GPU_I_ID", "vgpu"),
)

# utkuozdemir/nvidia_gpu_exporter@e656cd8 internal/exporter/exporter.go:344; its uuid lacks "GPU-".
NVIDIA_GPU = BoardTable(
    "nvidia",
    _fields(
        "nvidia_smi_",
        energy_mj=[("energy_joules_total", "J")],
        power_mw=[("power_draw_average_watts", "W"), ("power_draw_watts", "W")],
        power_instant_mw=[("power_draw_instant_watts", "W")],
        power_limit_mw=[("enforced_power_limit_watts", "W"), ("power_limit_watts", "W")],
        utilisation_ratio=[("utilization_gpu_ratio", "1")],
        memory_used_bytes=[("memory_used_bytes", "By")],
        memory_total_bytes=[("memory_total_bytes", "By")],
        sm_clock_mhz=[("clocks_current_sm_clock_hz", "Hz"), ("clocks_current_sm_hz", "Hz")],
        memory_clock_mhz=[("clocks_current_memory_clock_hz", "Hz"), ("clocks_current_memory_hz", "Hz")],
        temperature_celsius=[("temperature_gpu", "C")],
    ),
    uuids=("uuid",),
    index=("index",),
    model=("name",),
    driver=("driver_version",),
    info="nvidia_smi_gpu_info",
)


def _amd(prefix: str) -> BoardTable:
    # ROCm/device-metrics-exporter@afd0fe8 pkg/amdgpu/gpuagent/gpuagent_gpu_metrics.go:785-935: MI3xx have
    # gpu_package_power, MI2xx gpu_average_package_power; partitions other than 0 show 0 or nothing.
    clock = "clock_type"
    return BoardTable(
        "amd",
        _fields(
            prefix,
            energy_mj=[("gpu_energy_consumed", "uJ")],
            power_mw=[("gpu_package_power", "W"), ("gpu_average_package_power", "W"), ("gpu_power_usage", "W")],
            utilisation_ratio=[("gpu_gfx_activity", "%")],
            memory_used_bytes=[("gpu_used_vram", "MiB")],
            memory_total_bytes=[("gpu_total_vram", "MiB")],
            sm_clock_mhz=[Way(("gpu_clock",), "MHz", ((clock, ("system", "GPU_CLOCK_TYPE_SYSTEM")),))],
            memory_clock_mhz=[Way(("gpu_clock",), "MHz", ((clock, ("memory", "GPU_CLOCK_TYPE_MEMORY")),))],
            temperature_celsius=[("gpu_junction_temperature", "C"), ("gpu_edge_temperature", "C")],
        ),
        uuids=("gpu_uuid", "GPU_UUID"),
        places=(("serial_number", ""), ("gpu_id", "gpu")),
        index=("gpu_id",),
        model=("card_model", "card_series"),
        driver=("driver_version",),
        keep=(("gpu_partition_id", ("0", "", "NA")),),
    )


AMD_DEVICE = _amd("")
AMD_DEVICE_PREFIXED = _amd("amd_")  # MetricsFieldPrefix in its configuration

# amd/amd_smi_exporter@ad2e1b1 src/cpu_data.go:132-175, src/amd-smi-custom-rules.yml: raw units; the index stands under
# a label called like the metric. -1 is "can't be read". The README's amd_gpu_power_avg was an older name.
AMD_SMI_INDEX = (
    "gpu_power",
    "gpu_power_avg",
    "gpu_power_cap",
    "gpu_use_percent",
    "gpu_SCLK",
    "gpu_MCLK",
    "gpu_current_temperature",
)
AMD_SMI = BoardTable(
    "amd",
    _fields(
        "amd_gpu_",
        power_mw=[("power", "uW"), ("power_avg", "uW")],
        power_limit_mw=[("power_cap", "uW")],
        utilisation_ratio=[("use_percent", "%")],
        sm_clock_mhz=[("SCLK", "Hz")],
        memory_clock_mhz=[("MCLK", "Hz")],
        temperature_celsius=[("current_temperature", "mC")],
    ),
    places=tuple((label, "gpu") for label in AMD_SMI_INDEX),
    index=AMD_SMI_INDEX,
    model=("productname",),
)

# HabanaAI/gaudi-metric-exporter@2d50e44 exporter.go:40, 230-310: one milliwatt number under two names, one of which
# says watts; the energy is a gauge, in the library's millijoules since the driver was loaded (hlml).
GAUDI = BoardTable(
    "habana",
    _fields(
        "",
        energy_mj=[("habanalabs_energy", "mJ")],
        power_mw=[("habanalabs_power_mW", "mW"), ("accelerator_power_usage_watts", "mW")],
        power_limit_mw=[("habanalabs_power_default_limit_mW", "mW")],
        utilisation_ratio=[("habanalabs_utilization", "%")],
        memory_used_bytes=[("habanalabs_memory_used_bytes", "By")],
        memory_total_bytes=[("habanalabs_memory_total_bytes", "By")],
        sm_clock_mhz=[("habanalabs_clock_soc_mhz", "MHz")],
        temperature_celsius=[("habanalabs_temperature_onchip", "C")],
    ),
    uuids=("UUID", "uuid"),
    places=(("Serial", ""), ("serial", ""), ("device", ""), ("id", "hl")),
    index=("id",),
    driver=("driver",),
)

# intel/xpumanager V1.2.14 rest/prometheus_exporter: rows with sub_dev are tiles, rows with card are several devices of
# one card; its uuid is made from the PCI address, so two nodes have the same ones.
XPUM = BoardTable(
    "intel",
    _fields(
        "xpum_",
        energy_mj=[("energy_joules_total", "J"), ("energy_joules", "J")],
        power_mw=[("power_watts", "W")],
        utilisation_ratio=[("engine_ratio", "1")],
        memory_used_bytes=[("memory_used_bytes", "By")],
        sm_clock_mhz=[Way(("frequency_mhz",), "MHz", (("location", ("gpu",)), ("type", ("actual",))))],
        temperature_celsius=[Way(("temperature_celsius",), "C", (("location", ("gpu",)),))],
    ),
    places=(("pci_bdf", ""), ("dev_file", "")),
    model=("dev_name",),
    drop=("card",),
    parts=("sub_dev",),
)

# intel/xpumanager@34c32c6 xpumd/receiver/intelxpu/sysman/power.go: one row a power domain of Level Zero; the card
# contains the package, which contains the GPU, its stacks and its memory.
XPUMD = BoardTable(
    "intel",
    _fields("hw_", energy_mj=[("energy_joules_total", "J")], power_mw=[("power_watts", "W")]),
    places=(("pci_bdf", ""), ("hw_id", "")),
    model=("hw_model",),
    keep=(("hw_sensor_location", ("card", "package", "gpu", "stack")), ("hw_type", ("gpu",))),
    ranks=(("hw_sensor_location", ("card", "package", "gpu", "stack")),),
    parts=("com_intel_subdevice_id",),
    info="hw_gpu_info",
)

# Ascend/mind-cluster@22bb3d9 component/npu-exporter/collector/metrics/collector_for_npu.go:78, 254-264: watts with a
# time stamp of its own; 310P shows the card's power at each of its chips. No energy counter.
ASCEND = BoardTable(
    "ascend",
    _fields(
        "npu_chip_info_",
        power_mw=[("power", "W")],
        utilisation_ratio=[("utilization", "%"), ("overall_utilization", "%")],
        memory_used_bytes=[("hbm_used_memory", "MiB")],
        memory_total_bytes=[("hbm_total_memory", "MiB")],
        sm_clock_mhz=[("aicore_current_freq", "MHz")],
        temperature_celsius=[("temperature", "C")],
    ),
    places=(("vdie_id", ""), ("pcie_bus_info", ""), ("id", "npu")),
    shared_places={"310P": "pcie_bus_info"},
    index=("id",),
    model=("model_name",),
)

# Cambricon/mlu-exporter@934abae pkg/collector/cndev.go:2448: the board's watts again at every virtual function.
CAMBRICON = BoardTable(
    "cambricon",
    _fields(
        "mlu_",
        power_mw=[("power_usage", "W")],
        utilisation_ratio=[("utilization", "%")],
    ),
    uuids=("uuid",),
    places=(("sn", ""), ("mlu", "mlu")),
    index=("mlu",),
    model=("model",),
    driver=("driver",),
    slices=("vf",),
)

# fossabot/dcu-exporter@2d5a925 main.go:36-100, 332.
HYGON = BoardTable(
    "hygon",
    _fields(
        "dcu_",
        power_mw=[("power_usage", "W")],
        power_limit_mw=[("powercap", "W")],
        utilisation_ratio=[("utilizationrate", "%")],
        memory_used_bytes=[("usedmemory_bytes", "By")],
        memory_total_bytes=[("memorycap_bytes", "By")],
        sm_clock_mhz=[("sclk", "MHz")],
        temperature_celsius=[("temp", "C")],
    ),
    places=(("pcieBus_number", ""), ("device_id", ""), ("minor_number", "dcu")),
    index=("minor_number",),
    model=("name",),
)

# ix-exporter's README: ix_power_usage{gpu, name, uuid}, plain watts a card.
ILUVATAR = BoardTable(
    "iluvatar",
    _fields(
        "ix_",
        power_mw=[("power_usage", "W")],
        utilisation_ratio=[("gpu_utilization", "%")],
        memory_used_bytes=[("mem_used", "MiB")],
        memory_total_bytes=[("mem_total", "MiB")],
        sm_clock_mhz=[("sm_clock", "MHz")],
        memory_clock_mhz=[("mem_clock", "MHz")],
        temperature_celsius=[("temperature", "C")],
    ),
    uuids=("uuid", "UUID"),
    places=(("gpu", "gpu"),),
    index=("gpu",),
    model=("name",),
)

# sustainable-computing-io/kepler@13944a6 internal/exporter/prometheus/collector/power_collector.go:165-190, since
# 0.11. Older ones show joules of GPUs without saying of which: not read.
KEPLER = BoardTable(
    "nvidia",
    _fields("kepler_node_gpu_", energy_mj=[("joules_total", "J")], power_mw=[("watts", "W")]),
    uuids=("gpu_uuid",),
    vendor_labels=("vendor",),
    index=("gpu",),
    model=("gpu_name",),
    counter="process",
)

# triton-inference-server/core@73aad7c src/metrics.cc:207-228: joules since Triton started.
TRITON = BoardTable(
    "nvidia",
    _fields(
        "nv_",
        energy_mj=[("energy_consumption", "J")],
        power_mw=[("gpu_power_usage", "W")],
        power_limit_mw=[("gpu_power_limit", "W")],
        utilisation_ratio=[("gpu_utilization", "1")],
        memory_used_bytes=[("gpu_memory_used_bytes", "By")],
        memory_total_bytes=[("gpu_memory_total_bytes", "By")],
    ),
    uuids=("gpu_uuid",),
    counter="process",
)
