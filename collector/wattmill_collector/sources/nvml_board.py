"""One attached NVIDIA board: what it says at a tick, and what it can't say.

A board that refuses something is not asked for it again; an error of one tick is said at that tick. A board that is
gone raises LostError, and whoever holds it makes it anew: that is the re-probing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from wattmill_collector.placement.boards import Instance
from wattmill_collector.placement.signs import Pace
from wattmill_collector.sources.nvml_calls import (
    ENERGY,
    FIELD,
    FIELD_MASKS,
    FIELD_NAMES,
    HIGHEST,
    IMPLAUSIBLE,
    LOSSES,
    REFUSALS,
    UNKNOWN,
    Call,
    Driver,
    word_of,
)
from wattmill_collector.sources.nvml_processes import NO_INSTANCE, Entry
from wattmill_collector.wire import AbsenceReading, AcceleratorReading, Reading

MINUTE_US = 60_000_000
CONTEXT_BYTES = 192 * 1024**2  # less than a process with a CUDA context takes, before it has loaded anything
UNKNOWNS_UNTIL_LOST = 3


class LostError(Exception):
    """The board itself is gone; `code` is NVML's error."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclasses.dataclass(slots=True, eq=False)
class AttachedBoard:
    """An attached board; what it can't say is no longer among its `fields` and `calls`."""

    handle: Any
    uuid: str
    settled: dict[str, Any]  # of a reading, what does not change at every tick
    usage_field: int  # the field that nvmlDeviceGetPowerUsage means on this board
    fields: Any
    calls: tuple[Call, ...]
    slow_calls: tuple[Call, ...]
    lists_processes: bool = True
    lists_clients: bool = True  # of MPS
    may_have_mig: bool = True
    tells_instances: bool = False  # its process list has said on which MIG instance a process runs
    pids: tuple[int, ...] | None = None
    instances: tuple[Instance, ...] | None = None
    clients: tuple[int, ...] = ()
    clients_minute: int = -1
    says_busy: bool = True
    busy_since_us: int = 0
    minute: int = -1
    turn: int = -1
    listed_us: int = -1
    memory_then_bytes: int | None = None  # in use when the processes were listed
    list_pace: Pace = dataclasses.field(default_factory=Pace)
    said_minute: int = -1
    unknown: bool = False  # an unknown error at this tick
    unknowns: int = 0  # ticks in a row
    energy_error: int = 0  # at this tick

    def refuses(self, name: str, status: int) -> bool:
        """Judge an error: True when the board will never give `name`; else it lacks in this reading only.

        Errors: LostError when the board itself is gone.
        """
        if status == UNKNOWN:
            self.unknown = True
        elif status in LOSSES:
            raise LostError(status)
        elif status in REFUSALS:
            return True
        if name == "energy_mj":
            self.energy_error = status
        return False

    def has_counter(self) -> bool:
        by_field = self.fields is not None and self.fields[0].fieldId == ENERGY
        return by_field or any(call.name == "energy_mj" for call in self.calls)


def read_board(
    driver: Driver, board: AttachedBoard, time_us: int, readings: list[Reading], *, with_processes: bool
) -> None:
    """Append the board's reading, and an absence for an energy that should be there and is not. Errors: LostError.

    `with_processes`: list those that compute on it; they are listed, too, when memory was taken or given back as a
    process does that comes or goes.
    """
    board.unknown, board.energy_error = False, 0
    minute = time_us // MINUTE_US
    if minute != board.minute:
        board.minute = minute
        _read_slow(board)
    if with_processes:
        look_at_processes(driver, board, time_us)

    values = board.settled.copy()
    if board.fields is not None:
        _read_fields(driver, board, values)
    refused: list[Call] = []
    for call in board.calls:
        status = call.function(board.handle, *call.arguments)
        if status == 0:
            call.take(values)
        elif board.refuses(call.name, status):
            refused.append(call)
    if refused:
        board.calls = tuple(call for call in board.calls if call not in refused)

    _list_if_memory_moved(driver, board, values, time_us)

    measured = "energy_mj" in values or "power_mw" in values or "power_instant_mw" in values
    board.unknowns = board.unknowns + 1 if board.unknown and not measured else 0
    if board.unknowns >= UNKNOWNS_UNTIL_LOST:
        raise LostError(UNKNOWN)
    readings.append(AcceleratorReading(**values))
    if "energy_mj" not in values:
        _say_no_energy(board, measured, minute, readings)


def _list_if_memory_moved(driver: Driver, board: AttachedBoard, values: dict[str, Any], time_us: int) -> None:
    memory_bytes = values.get("memory_used_bytes")
    if memory_bytes is None:
        return
    then_bytes = memory_bytes if board.memory_then_bytes is None else board.memory_then_bytes
    if board.list_pace.is_due(time_us, wanted=abs(memory_bytes - then_bytes) >= CONTEXT_BYTES):
        look_at_processes(driver, board, time_us)
        values.pop("process_count", None)
        if "process_count" in board.settled:
            values["process_count"] = board.settled["process_count"]
    if board.memory_then_bytes is None:
        board.memory_then_bytes = memory_bytes


def _read_fields(driver: Driver, board: AttachedBoard, values: dict[str, Any]) -> None:
    """Energy and power in one call; what the board refuses is asked for by an older call from now on."""
    fields = board.fields
    status = driver.get_fields(board.handle, len(fields), fields)
    if status != 0:
        if not board.refuses("energy_mj", status):
            return
        refused = set(FIELD_NAMES)
    else:
        refused = set()
        for field, _, _, _, type_, field_status, raw in FIELD.iter_unpack(fields):
            name = FIELD_NAMES[field]
            if field_status == 0:
                value = raw & FIELD_MASKS.get(type_, 0)
                if type_ in FIELD_MASKS and value <= HIGHEST[name]:
                    values[name] = value
            elif board.refuses(name, field_status):
                refused.add(field)
    if refused:
        kept = [value.fieldId for value in fields if value.fieldId not in refused]
        board.fields = driver.fields_of(*kept) if kept else None
        if ENERGY in refused:
            board.calls = (driver.total_energy, *board.calls)
        if board.usage_field in refused:
            board.calls = (driver.power_usage[board.usage_field], *board.calls)


def _read_slow(board: AttachedBoard) -> None:
    for call in board.slow_calls:
        board.settled.pop(call.name, None)
        status = call.function(board.handle, *call.arguments)
        if status == 0:
            call.take(board.settled)
        elif board.refuses(call.name, status):
            board.slow_calls = tuple(other for other in board.slow_calls if other is not call)


def look_at_processes(driver: Driver, board: AttachedBoard, time_us: int) -> None:
    """Read who computes on the board, clients of MPS and MIG instances included. Errors: LostError."""
    board.listed_us, board.memory_then_bytes = time_us, None
    before, board.pids = board.pids, None
    divided, board.instances = board.instances, None
    entries: list[Entry] = []
    known = False
    if board.lists_processes:
        status, entries = driver.processes.compute(board.handle)
        known = status == 0
        board.lists_processes = known or not board.refuses("process_count", status)
    if known:
        entries += _clients(driver, board, entries, before, time_us)
    pids = {entry.pid for entry in entries}
    told = any(entry.gpu_instance != NO_INSTANCE for entry in entries)
    mig = _has_mig(driver, board)
    if mig or (mig is None and (told or divided is not None)):
        board.tells_instances |= told
        found = driver.processes.instances(board.handle, entries, told=board.tells_instances and known)
        lists = [one.pids for one in found if one.pids is not None]
        pids = pids.union(*lists)
        known = known or bool(lists)
        board.instances = found if found or mig else None
    board.pids = tuple(sorted(pids)) if known else None
    board.settled.pop("process_count", None)
    if known:
        board.settled["process_count"] = len(pids)


def _has_mig(driver: Driver, board: AttachedBoard) -> bool | None:
    """None: not known at this tick, or never."""
    if not board.may_have_mig:
        return None
    status, mode = driver.mig_mode(board.handle)
    if status != 0:
        board.may_have_mig = not board.refuses("mig_mode", status)
        return None
    return mode == 1


def _clients(
    driver: Driver, board: AttachedBoard, entries: list[Entry], before: tuple[int, ...] | None, time_us: int
) -> list[Entry]:
    """Clients of MPS that the list of processes lacks. Asked for where that list changed, else once a minute."""
    minute = time_us // MINUTE_US
    listed = {entry.pid for entry in entries}
    changed = before is None or listed != set(before)
    if not board.lists_clients or not (changed or board.clients or minute != board.clients_minute):
        return []
    board.clients_minute = minute
    status, clients = driver.processes.clients(board.handle)
    board.lists_clients = status == 0 or not board.refuses("clients", status)
    board.clients = tuple(client.pid for client in clients)
    return [client for client in clients if client.pid not in listed]


def busy(driver: Driver, board: AttachedBoard) -> Mapping[int, int] | None:
    """Process id → per cent of time in which its kernels ran, since the last call; None: the board does not say.

    Errors: LostError.
    """
    if not board.says_busy or board.instances is not None:
        return None
    status, found, board.busy_since_us = driver.processes.busy(board.handle, board.busy_since_us)
    if status == 0:
        return found
    board.says_busy = not board.refuses("busy", status)
    return None


def _say_no_energy(board: AttachedBoard, measured: bool, minute: int, readings: list[Reading]) -> None:
    """An error of this tick is said at once, a board without any meter in every minute; power alone is enough."""
    if board.energy_error or board.has_counter():
        reason = word_of(board.energy_error or IMPLAUSIBLE)
        detail = "The board's energy counter could not be read at this tick."
    elif measured or minute == board.said_minute:
        return
    else:
        board.said_minute = minute
        reason, detail = "unmeasured", "The board has neither an energy counter nor a power reading."
    readings.append(AbsenceReading(subject="accelerator", id=board.uuid, reason=reason, detail=detail))
