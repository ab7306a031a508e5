"""Who computes on a board: its process lists, clients of MPS included, its MIG instances, and how busy each process is.

Each list holds the driver's lock for milliseconds (MangoHud issue 2104: 4.5 ms median), so they are asked for in one
call each, with room enough: asking for the count first would double the most expensive call there is.

Source: nvml.h, API 13. `_v2` and `_v3` of the lists have one layout; drivers 535.4x to 535.9x gave scrambled ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ctypes import byref, c_uint, c_ulonglong
from typing import Any, NamedTuple

from wattmill_collector.placement.boards import Instance

INSUFFICIENT_SIZE = 7
NOT_FOUND = 6
NO_INSTANCE = 0xFFFF_FFFF  # of a process on a board without MIG, or where the driver keeps it to itself
MOST_PIDS = 2**22  # PID_MAX_LIMIT of a 64-bit kernel
MOST_INSTANCES = 8  # where the driver does not say how many there can be
_PROFILE = re.compile(r"(?:(\d+)c\.)?(\d+)g\.\d+gb")


class Entry(NamedTuple):
    """One line of a process list."""

    pid: int
    gpu_instance: int
    compute_instance: int


class ProcessCalls:
    """The calls, bound once. `find` gives the C function of the first of some names that the library has."""

    def __init__(self, nvml: Any, find: Callable[..., Callable[..., int]]) -> None:
        self._nvml = nvml
        names = [f"nvmlDeviceGet{kind}ComputeRunningProcesses_v" for kind in ("", "MPS")]
        # The package's unversioned wrapper raises an error that is no NVMLError.
        self._compute, self._clients = (find(name + "3", name + "2") for name in names)
        self._busy = find("nvmlDeviceGetProcessUtilization")
        self._entries = (nvml.c_nvmlProcessInfo_v2_t * 64)()
        self._samples = (nvml.c_nvmlProcessUtilizationSample_t * 32)()

    def compute(self, handle: Any) -> tuple[int, list[Entry]]:
        """(NVML status, processes with a context on a board or a MIG instance). Ids that can't be are left out."""
        return self._list(self._compute, handle)

    def clients(self, handle: Any) -> tuple[int, list[Entry]]:
        """(NVML status, clients of the MPS server on a board)."""
        return self._list(self._clients, handle)

    def busy(self, handle: Any, since_us: int) -> tuple[int, dict[int, int], int]:
        """(NVML status, process id → SM per cent since then, time of the newest sample).

        A process that ran nothing is left out. The highest of several samples of a process counts.
        """
        count = c_uint(len(self._samples))
        status = self._busy(handle, self._samples, byref(count), c_ulonglong(since_us))
        if status == INSUFFICIENT_SIZE:
            self._samples = (self._nvml.c_nvmlProcessUtilizationSample_t * (count.value + 64))()
            count = c_uint(len(self._samples))
            status = self._busy(handle, self._samples, byref(count), c_ulonglong(since_us))
        if status == NOT_FOUND:
            return 0, {}, since_us
        if status != 0:
            return status, {}, since_us
        found: dict[int, int] = {}
        newest_us = since_us
        for nth in range(min(count.value, len(self._samples))):
            sample = self._samples[nth]
            if 0 < sample.pid <= MOST_PIDS and sample.smUtil <= 100:
                found[sample.pid] = max(found.get(sample.pid, 0), sample.smUtil)
                newest_us = max(newest_us, sample.timeStamp)
        return 0, found, newest_us

    def instances(self, handle: Any, entries: Sequence[Entry], *, told: bool) -> tuple[Instance, ...]:
        """The MIG instances of a board with the processes on them.

        `entries`: the board's own list; `told`: it says on which instance they run, which takes privileges. Else, and
        where what it says fits none of them, each instance is asked for its list.
        """
        nvml = self._nvml
        most = self._ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle)
        found: list[tuple[Any, Instance]] = []
        for nth in range(most or MOST_INSTANCES):
            device = self._ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, nth)  # places in between may be free
            if device is not None:
                uuid = self._ask(nvml.nvmlDeviceGetUUID, device) or f"MIG-{nth}"  # nameless, it has its slices still
                ids = [
                    self._ask(ask, device)
                    for ask in (nvml.nvmlDeviceGetGpuInstanceId, nvml.nvmlDeviceGetComputeInstanceId)
                ]
                gpu, compute = (-1 if one is None else int(one) for one in ids)
                found.append((device, Instance(str(uuid), gpu, compute, *self._slices(device))))
        others = [one for _, one in found]
        here = {one.gpu_instance for one in others}
        told = told and (not entries or any(entry.gpu_instance in here for entry in entries))
        return tuple(self._occupied(device, one, others, entries, told) for device, one in found)

    def _occupied(
        self, device: Any, one: Instance, others: Sequence[Instance], entries: Sequence[Entry], told: bool
    ) -> Instance:
        pids: Iterable[int] | None
        if told and one.gpu_instance >= 0:
            alone = sum(other.gpu_instance == one.gpu_instance for other in others) == 1
            pids = {
                entry.pid
                for entry in entries
                if entry.gpu_instance == one.gpu_instance and (alone or entry.compute_instance == one.compute_instance)
            }
        else:
            status, own = self.compute(device)
            pids = {entry.pid for entry in own} if status == 0 else None
        return Instance(
            one.uuid,
            one.gpu_instance,
            one.compute_instance,
            one.gpu_slices,
            one.slices,
            None if pids is None else tuple(sorted(pids)),
        )

    def _slices(self, device: Any) -> tuple[int, int]:
        """(slices of the GPU instance, slices of the compute instance) by attributes, else by the name; 0: unknown."""
        told = self._ask(self._nvml.nvmlDeviceGetAttributes_v2, device)
        if told is not None and told.gpuInstanceSliceCount and told.computeInstanceSliceCount:
            return int(told.gpuInstanceSliceCount), int(told.computeInstanceSliceCount)
        return slices_of(str(self._ask(self._nvml.nvmlDeviceGetName, device) or ""))

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or None: what one instance can't say must not cost the board its reading."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None

    def _list(self, function: Callable[..., int], handle: Any) -> tuple[int, list[Entry]]:
        count = c_uint(len(self._entries))
        status = function(handle, byref(count), self._entries)
        if status == INSUFFICIENT_SIZE:
            self._entries = (self._nvml.c_nvmlProcessInfo_v2_t * (count.value + 64))()
            count = c_uint(len(self._entries))
            status = function(handle, byref(count), self._entries)
        if status != 0:
            return status, []
        lines = (self._entries[nth] for nth in range(min(count.value, len(self._entries))))
        return 0, [Entry(e.pid, e.gpuInstanceId, e.computeInstanceId) for e in lines if 0 < e.pid <= MOST_PIDS]


def slices_of(profile: str) -> tuple[int, int]:
    """(slices of the GPU instance, of the compute instance) by a profile's name: 3g.40gb → (3, 3)."""
    found = _PROFILE.search(profile)
    if found is None:
        return 0, 0
    gpu = int(found[2])
    return gpu, int(found[1] or gpu)
