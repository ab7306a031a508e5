"""NVIDIA boards: energy counter, power, utilisation, memory, clocks, temperature, clock-event reasons, processes.

What it promises: a board that can't do something has None there and is not asked again; a board that is lost is
dropped alone, named with a reason and retried; a board is read once, MIG or not, because its joules are the board's.
What it does not: count. Counters go out raw, with the epoch they belong to.

Capabilities live as long as a `_Board`, which is made anew after a loss and after every start of the driver library:
that is the re-probing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wattmill_collector.errors import NotHere
from wattmill_collector.sources.epochs import BOOT_ID, epoch_of, read_boot_id
from wattmill_collector.sources.nvml_calls import (
    ENERGY,
    FIELD,
    FIELD_MASKS,
    FIELD_NAMES,
    GPU_NOT_FOUND,
    HIGHEST,
    IMPLAUSIBLE,
    LOSSES,
    NOT_FOUND,
    POWER_AVERAGE,
    POWER_INSTANT,
    REFUSALS,
    UNKNOWN,
    Call,
    Driver,
    load,
    open_error,
    power_usage_is_average,
    word_of,
)
from wattmill_collector.wire import AbsenceReading, AcceleratorReading, Reading

MINUTE_US = 60_000_000
LONGEST_WAIT_US = 30_000_000
UNKNOWNS_UNTIL_LOST = 3


@dataclasses.dataclass(slots=True, eq=False)
class _Board:
    """An attached board; what it can't say is no longer among its `fields` and `calls`."""

    handle: Any
    uuid: str
    settled: dict[str, Any]  # of a reading, what does not change at every tick
    usage_field: int  # the field that nvmlDeviceGetPowerUsage means on this board
    fields: Any
    calls: tuple[Call, ...]
    slow_calls: tuple[Call, ...]
    lists_processes: bool = True
    pids: tuple[int, ...] | None = None
    minute: int = -1
    turn: int = -1
    listed_us: int = -1
    said_minute: int = -1
    unknown: bool = False  # an unknown error at this tick
    unknowns: int = 0  # ticks in a row
    energy_error: int = 0  # at this tick

    def refuses(self, name: str, status: int) -> bool:
        """Judge an error: True when the board will never give `name`; else it lacks in this reading only.

        Errors: _Lost when the board itself is gone.
        """
        if status == UNKNOWN:
            self.unknown = True
        elif status in LOSSES:
            raise _Lost(status)
        elif status in REFUSALS:
            return True
        if name == "energy_mj":
            self.energy_error = status
        return False

    def has_counter(self) -> bool:
        by_field = self.fields is not None and self.fields[0].fieldId == ENERGY
        return by_field or any(call.name == "energy_mj" for call in self.calls)


@dataclasses.dataclass(slots=True)
class _Backoff:
    """Waits 1, 2, 4 … 30 s between attempts, in wall time; a clock that was set back does not stretch the wait."""

    next_us: int = 0
    wait_us: int = 1_000_000

    def due(self, time_us: int) -> bool:
        return not self.next_us - LONGEST_WAIT_US <= time_us < self.next_us

    def postpone(self, time_us: int) -> None:
        self.next_us = time_us + self.wait_us
        self.wait_us = min(2 * self.wait_us, LONGEST_WAIT_US)


@dataclasses.dataclass(slots=True, eq=False)
class _Slot:
    """A place for a board in driver order; without a board it knows why and since when."""

    index: int
    uuid: str = ""
    board: _Board | None = None
    code: int = GPU_NOT_FOUND
    lost_us: int | None = None
    said_minute: int = -1
    backoff: _Backoff = dataclasses.field(default_factory=_Backoff)


class _Lost(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class NvmlSource:
    """Reads all NVIDIA boards that the driver shows to this process.

    `nvml_library` is the path of another library than the linker's libnvidia-ml.so.1. Process lists, which hold the
    driver's lock for milliseconds, are read every `process_list_every_us`, the boards taking turns, and when asked for.

    Errors: NotHere without library, driver or board; Broken when only a person can help; TryAgain otherwise.
    """

    name = "nvml"

    def __init__(
        self,
        nvml_library: str | None = None,
        *,
        process_list_every_us: int = 10_000_000,
        boot_id_path: Path = BOOT_ID,
    ) -> None:
        self._nvml = load(nvml_library)
        self._every_us = process_list_every_us
        self._boot_id = read_boot_id(boot_id_path)
        self._slots: list[_Slot] = []
        self._restart = _Backoff()
        try:
            self._driver: Driver | None = Driver(self._nvml)
            self._slots = self._find_boards(self._driver)
        except self._nvml.NVMLError as error:
            raise open_error(error) from error
        if not self._slots:
            self.close()
            raise NotHere("The NVIDIA driver is loaded but shows no board to this process.")

    def read(self, time_us: int) -> list[Reading]:
        """One AcceleratorReading per board that answers; an AbsenceReading for what should answer and does not."""
        readings: list[Reading] = []
        answering = any(slot.board for slot in self._slots)
        tried = answering
        if not answering and self._restart.due(time_us):
            self._start_again()
            tried = True
        driver = self._driver
        for slot in self._slots:
            if driver and slot.board is None and slot.backoff.due(time_us):
                self._attach_again(driver, slot, time_us)
            if driver and slot.board:
                try:
                    self._read_board(driver, slot.board, time_us, readings)
                except _Lost as lost:
                    slot.board, slot.code = None, lost.code
                    slot.backoff.postpone(time_us)
                else:
                    if slot.lost_us is not None:
                        slot.lost_us, slot.backoff = None, _Backoff()
                    continue
            _say_lost(slot, time_us, readings)
        if not any(slot.board for slot in self._slots):
            if tried:
                self._restart.postpone(time_us)
        elif not answering:
            self._restart = _Backoff()
        return readings

    def processes(self) -> Mapping[str, tuple[int, ...]]:
        """Process ids by board UUID, as last listed; a board whose list can't be read is left out."""
        boards = [slot.board for slot in self._slots if slot.board]
        return {board.uuid: board.pids for board in boards if board.pids is not None}

    def list_processes(self, time_us: int) -> None:
        """Read now the process list of every board that has not had its turn at this tick."""
        driver = self._driver
        for slot in self._slots:
            board = slot.board
            if driver and board and board.lists_processes and board.listed_us != time_us:
                # A board that is lost by now has no list; the next tick finds out and says why.
                with contextlib.suppress(_Lost):
                    _list_processes(driver, board, time_us)

    def minor_numbers(self) -> Mapping[int, str]:
        """Which board /dev/nvidia<number> is; boards of which the driver does not say it are left out."""
        found: dict[int, str] = {}
        for board in [slot.board for slot in self._slots if slot.board]:
            with contextlib.suppress(self._nvml.NVMLError):
                found[self._nvml.nvmlDeviceGetMinorNumber(board.handle)] = board.uuid
        return found

    def parent_of(self, slice_uuid: str) -> str | None:
        """The board that a MIG slice is part of; None when the driver shows no such slice to this process."""
        nvml = self._nvml
        try:
            parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvml.nvmlDeviceGetHandleByUUID(slice_uuid))
            return str(nvml.nvmlDeviceGetUUID(parent))
        except nvml.NVMLError:
            return None

    def close(self) -> None:
        """Let go of the driver."""
        driver, self._driver = self._driver, None
        if driver:
            # A driver that is gone answers with an error; either way nothing is held afterwards.
            with contextlib.suppress(self._nvml.NVMLError):
                driver.shutdown()

    # --- finding, losing and finding again ---

    def _find_boards(self, driver: Driver) -> list[_Slot]:
        """A slot per board that the driver counts, and per board it counted before; known boards keep their slot."""
        nvml = self._nvml
        by_index = {slot.index: slot for slot in self._slots}
        by_uuid = {slot.uuid: slot for slot in self._slots if slot.uuid}
        slots: list[_Slot] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                board = self._attach(driver, nvml.nvmlDeviceGetHandleByIndex(index), index)
            except nvml.NVMLError as error:
                slot = by_index.get(index) or _Slot(index)
                slot.code = error.value
            else:
                slot = by_uuid.get(board.uuid) or _Slot(index)
                slot.index, slot.uuid, slot.board = index, board.uuid, board
            if slot not in slots:
                slots.append(slot)
        for slot in self._slots:
            if slot not in slots:
                slot.code = GPU_NOT_FOUND
                slots.append(slot)
        return slots

    def _start_again(self) -> None:
        """All boards are gone: only a fresh start of the library sees a driver that came back."""
        self.close()
        try:
            self._driver = Driver(self._nvml)
            self._slots = self._find_boards(self._driver)
        except self._nvml.NVMLError as error:
            for slot in self._slots:
                slot.code = error.value

    def _attach_again(self, driver: Driver, slot: _Slot, time_us: int) -> None:
        nvml = self._nvml
        try:
            handle = (
                nvml.nvmlDeviceGetHandleByUUID(slot.uuid) if slot.uuid else nvml.nvmlDeviceGetHandleByIndex(slot.index)
            )
            slot.board = self._attach(driver, handle, slot.index)
            slot.uuid = slot.board.uuid
        except nvml.NVMLError as error:
            slot.code = GPU_NOT_FOUND if error.value == NOT_FOUND else error.value
            slot.backoff.postpone(time_us)

    def _attach(self, driver: Driver, handle: Any, index: int) -> _Board:
        nvml = self._nvml
        uuid: str = nvml.nvmlDeviceGetUUID(handle)
        model: str = nvml.nvmlDeviceGetName(handle)
        try:
            architecture: int = nvml.nvmlDeviceGetArchitecture(handle)
        except nvml.NVMLError as error:
            if error.value not in REFUSALS:
                raise
            architecture = 0
        return _Board(
            handle=handle,
            uuid=uuid,
            settled={
                "uuid": uuid,
                "model": model,
                "index": index,
                "vendor": "nvidia",
                "epoch": epoch_of(self._boot_id, driver.version, uuid),
            },
            usage_field=POWER_AVERAGE if power_usage_is_average(architecture, model) else POWER_INSTANT,
            fields=driver.fields_of(*FIELD_NAMES),
            calls=driver.calls,
            slow_calls=driver.slow_calls,
        )

    # --- reading one board ---

    def _read_board(self, driver: Driver, board: _Board, time_us: int, readings: list[Reading]) -> None:
        """Append the board's reading, and an absence for an energy that should be there and is not."""
        board.unknown, board.energy_error = False, 0
        minute = time_us // MINUTE_US
        if minute != board.minute:
            board.minute = minute
            _read_slow(board)
        # The boards take turns: each list holds the driver's lock (4.5 ms median, MangoHud issue 2104).
        turn = (time_us + board.settled["index"] * self._every_us // len(self._slots)) // self._every_us
        if turn != board.turn and board.lists_processes:
            board.turn = turn
            _list_processes(driver, board, time_us)

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

        measured = "energy_mj" in values or "power_mw" in values or "power_instant_mw" in values
        board.unknowns = board.unknowns + 1 if board.unknown and not measured else 0
        if board.unknowns >= UNKNOWNS_UNTIL_LOST:
            raise _Lost(UNKNOWN)
        readings.append(AcceleratorReading(**values))
        if "energy_mj" not in values:
            _say_no_energy(board, measured, minute, readings)


def _read_fields(driver: Driver, board: _Board, values: dict[str, Any]) -> None:
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


def _read_slow(board: _Board) -> None:
    for call in board.slow_calls:
        board.settled.pop(call.name, None)
        status = call.function(board.handle, *call.arguments)
        if status == 0:
            call.take(board.settled)
        elif board.refuses(call.name, status):
            board.slow_calls = tuple(other for other in board.slow_calls if other is not call)


def _list_processes(driver: Driver, board: _Board, time_us: int) -> None:
    board.listed_us = time_us
    status, pids = driver.list_processes(board.handle)
    if status == 0:
        board.pids = pids
        board.settled["process_count"] = len(pids)
    else:
        board.pids = None
        board.settled.pop("process_count", None)
        board.lists_processes = not board.refuses("process_count", status)


def _say_lost(slot: _Slot, time_us: int, readings: list[Reading]) -> None:
    """Name a board that is away: once when it went and again in every minute, so that each minute is explained."""
    minute = time_us // MINUTE_US
    start_us = slot.lost_us
    if start_us is None:
        slot.lost_us = time_us
    elif minute == slot.said_minute:
        return
    slot.said_minute = minute
    detail = f"The driver does not open the board (NVML error {slot.code})."
    readings.append(
        AbsenceReading(
            subject="accelerator",
            id=slot.uuid or f"index-{slot.index}",
            reason=word_of(slot.code),
            detail=LOSSES[slot.code][1] if slot.code in LOSSES else detail,
            start_us=start_us,
        )
    )


def _say_no_energy(board: _Board, measured: bool, minute: int, readings: list[Reading]) -> None:
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
