"""The C calls of NVML that are made at every tick, bound once through nvidia-ml-py, and what their answers mean.

nvidia-ml-py brings the library, its structs and its slow calls; the calls of every tick go straight to the C functions
with results that were allocated once, which costs a third of the package's wrappers. The package has no types: `Any`
comes in here and its values leave as int.

Field ids: only those that mean the same on every driver branch are used (83, 185, 186); the throttle-time ids moved
between drivers. Source: nvml.h, API 13.
"""

from __future__ import annotations

import dataclasses
import importlib
import struct
from collections.abc import Callable
from ctypes import CDLL, byref, c_uint, c_ulonglong
from typing import Any

from wattmill_collector.errors import Broken, NotHere, SourceError, TryAgain
from wattmill_collector.sources.nvml_processes import NOT_FOUND, ProcessCalls
from wattmill_collector.wire import METRICS

FUNCTION_NOT_FOUND = 13
GPU_NOT_FOUND = 28
UNKNOWN = 999
IMPLAUSIBLE = -1  # not NVML's: the call succeeded with a value that can't be
# "This board can't": no such call, field, permission or struct version. Asking again changes nothing.
REFUSALS = frozenset({2, 3, 4, FUNCTION_NOT_FOUND, 25, 26})
# The board's or the driver's state is gone.
LOSSES = {
    1: ("uninitialized", "The driver library lost its state."),
    9: ("driver_not_loaded", "The NVIDIA driver is not loaded."),
    15: ("gpu_is_lost", "The board fell off the bus; look for Xid 79 in the kernel log, then reset it or reboot."),
    16: ("reset_required", "The board asks for a reset before it can be used again."),
    18: ("library_version_mismatch", "The driver was replaced while the agent ran; restart the agent."),
    GPU_NOT_FOUND: ("gpu_not_found", "The driver does not show this board."),
    UNKNOWN: ("unknown_error", "The driver answers with unknown errors; a container may have lost the device."),
}
OTHER_WORDS = {
    IMPLAUSIBLE: "implausible_value",
    4: "permission_denied",
    NOT_FOUND: "not_found",
    8: "insufficient_power",
    10: "timeout",
    11: "irq_issue",
}

ENERGY, POWER_AVERAGE, POWER_INSTANT = 83, 185, 186
FIELD_NAMES = {ENERGY: "energy_mj", POWER_AVERAGE: "power_mw", POWER_INSTANT: "power_instant_mw"}
FIELD = struct.Struct("=IIqqIIQ")  # nvmlFieldValue_t: id, scope, time, latency, type of value, status, value
FIELD_MASKS = {1: 2**32 - 1, 2: 2**64 - 1, 3: 2**64 - 1, 6: 2**16 - 1}  # by type: the driver leaves the rest unset
HIGHEST = {metric.name: metric.high for metric in METRICS["accelerator"]}

AMPERE = 7
GA100_PRODUCTS = frozenset({"A100", "A100X", "A800", "A30", "A30X"})


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One C call: `function(handle, *arguments)`, whose last argument is the result; `take` puts it into a reading."""

    name: str
    function: Callable[..., int]
    arguments: tuple[Any, ...]
    take: Callable[[dict[str, Any]], None]


class Driver:
    """The started driver library. Results are shared by all boards, so one thread reads at a time.

    `calls` are for every tick, `slow_calls` for every minute; `total_energy` and `power_usage` (average or instant)
    stand in for fields that a board or driver does not have.

    Errors: nvml.NVMLError when the library does not start.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self.version: str = nvml.nvmlSystemGetDriverVersion()

        number, big = c_uint(), c_ulonglong()
        number_ref, big_ref = byref(number), byref(big)
        utilisation, memory = nvml.c_nvmlUtilization_t(), nvml.c_nvmlMemory_t()

        def take_utilisation(values: dict[str, Any]) -> None:
            if utilisation.gpu <= 100:
                values["utilisation_ratio"] = utilisation.gpu / 100

        def take_memory(values: dict[str, Any]) -> None:
            used, total = memory.used, memory.total
            if used <= total <= HIGHEST["memory_total_bytes"]:
                values["memory_used_bytes"], values["memory_total_bytes"] = used, total

        find = self._function
        usage = find("nvmlDeviceGetPowerUsage")
        clock = find("nvmlDeviceGetClockInfo")
        limit = find("nvmlDeviceGetEnforcedPowerLimit")
        # nvidia-ml-py knows both names but falls back to neither.
        reasons = find("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        self.total_energy = _single("energy_mj", big, find("nvmlDeviceGetTotalEnergyConsumption"), big_ref)
        self.power_usage = {
            POWER_AVERAGE: _single("power_mw", number, usage, number_ref),
            POWER_INSTANT: _single("power_instant_mw", number, usage, number_ref),
        }
        self.calls = (
            Call("utilisation_ratio", find("nvmlDeviceGetUtilizationRates"), (byref(utilisation),), take_utilisation),
            Call("memory_used_bytes", find("nvmlDeviceGetMemoryInfo"), (byref(memory),), take_memory),
            _single("sm_clock_mhz", number, clock, nvml.NVML_CLOCK_SM, number_ref),
            _single("memory_clock_mhz", number, clock, nvml.NVML_CLOCK_MEM, number_ref),
            _single("temperature_celsius", number, find("nvmlDeviceGetTemperature"), 0, number_ref),
            _single("clock_event_reasons", big, reasons, big_ref),
        )
        self.slow_calls = (_single("power_limit_mw", number, limit, number_ref),)
        self.get_fields = find("nvmlDeviceGetFieldValues")
        self.processes = ProcessCalls(nvml, find)
        self._mig_mode = find("nvmlDeviceGetMigMode")

    def fields_of(self, *ids: int) -> Any:
        """An nvmlFieldValue_t array that asks for these field ids."""
        fields = (self._nvml.c_nvmlFieldValue_t * len(ids))()
        for field, id_ in zip(fields, ids, strict=True):
            field.fieldId = id_
        return fields

    def mig_mode(self, handle: Any) -> tuple[int, int]:
        """(NVML status, 1 where MIG is on)."""
        now, later = c_uint(), c_uint()
        return self._mig_mode(handle, byref(now), byref(later)), now.value

    def shutdown(self) -> None:
        """Let go of the driver. Errors: nvml.NVMLError."""
        self._nvml.nvmlShutdown()

    def _function(self, *names: str) -> Callable[..., int]:
        """The first of these names that the library has; a function that says so if it has none."""
        for name in names:
            try:
                function: Callable[..., int] = self._nvml._nvmlGetFunctionPointer(name)
                return function
            except self._nvml.NVMLError as error:
                if error.value != FUNCTION_NOT_FOUND:
                    raise
        return _not_found


def load(library: str | None) -> Any:
    """nvidia-ml-py, told to use `library` instead of the linker's libnvidia-ml.so.1.

    Errors: NotHere when the package or the named library is missing.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError as error:
        raise NotHere("The package nvidia-ml-py is not installed.") from error
    if not hasattr(nvml, "_nvmlGetFunctionPointer"):
        raise NotHere("Another package named pynvml hides nvidia-ml-py; uninstall `pynvml`.")
    if library is not None:
        try:
            nvml.nvmlLib = CDLL(library)
        except OSError as error:
            raise NotHere(f"The NVML library {library} does not open: {error}.") from error
        nvml._nvmlGetFunctionPointer_cache.clear()  # it may hold functions of a library opened before
    return nvml


def open_error(error: Any) -> SourceError:
    """What an NVMLError at the start means for the agent."""
    code: int = error.value
    if code == 12:
        return NotHere("No NVIDIA driver library (libnvidia-ml.so.1) on this host.")
    if code == 9:
        return NotHere("The NVIDIA driver library is installed but the driver is not loaded.")
    if code == 18:
        return Broken("The NVIDIA driver library and the loaded driver differ in version; reload the driver or reboot.")
    if code == 4:
        return Broken("The NVIDIA driver refuses this user; give it access to /dev/nvidiactl and /dev/nvidia*.")
    return TryAgain(f"The NVIDIA driver does not start: {error}.")


def word_of(code: int) -> str:
    """Short machine word for an NVML error code."""
    return LOSSES[code][0] if code in LOSSES else OTHER_WORDS.get(code, f"nvml_error_{code}")


def power_usage_is_average(architecture: int, model: str) -> bool:
    """Whether nvmlDeviceGetPowerUsage is the 1-s average: Ampere and newer, but not GA100 (nvml.h)."""
    if architecture > AMPERE:
        return True
    return architecture == AMPERE and GA100_PRODUCTS.isdisjoint(model.replace("-", " ").split())


def _single(name: str, result: Any, function: Callable[..., int], *arguments: Any) -> Call:
    """A call with one number for a result; a number past the catalogue's limit is dropped."""
    highest = HIGHEST[name]

    def take(values: dict[str, Any]) -> None:
        value = result.value
        if value <= highest:
            values[name] = value

    return Call(name, function, arguments, take)


def _not_found(*_: object) -> int:
    return FUNCTION_NOT_FOUND
