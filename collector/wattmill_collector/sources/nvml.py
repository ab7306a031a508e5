"""NVIDIA boards: energy counter, power, utilisation, memory, clocks, temperature, clock-event reasons, processes.

What it promises: a board that can't do something has None there and is not asked again; a board that is lost is
dropped alone, named with a reason and retried; a board is read once, MIG or not, because its joules are the board's.
What it does not: count. Counters go out raw, with the epoch they belong to.

Capabilities live as long as an `AttachedBoard`, which is made anew after a loss and after every start of the driver
library: that is the re-probing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wattmill_collector.errors import NotHere
from wattmill_collector.placement.boards import Instance
from wattmill_collector.sources.epochs import BOOT_ID, epoch_of, read_boot_id
from wattmill_collector.sources.nvml_board import AttachedBoard, LostError, busy, look_at_processes, read_board
from wattmill_collector.sources.nvml_calls import (
    FIELD_NAMES,
    GPU_NOT_FOUND,
    LOSSES,
    POWER_AVERAGE,
    POWER_INSTANT,
    REFUSALS,
    Driver,
    load,
    open_error,
    power_usage_is_average,
    word_of,
)
from wattmill_collector.sources.nvml_processes import NOT_FOUND
from wattmill_collector.wire import AbsenceReading, Reading

MINUTE_US = 60_000_000
LONGEST_WAIT_US = 30_000_000


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
    board: AttachedBoard | None = None
    code: int = GPU_NOT_FOUND
    lost_us: int | None = None
    said_minute: int = -1
    backoff: _Backoff = dataclasses.field(default_factory=_Backoff)


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
                    due = self._is_its_turn(slot.board, time_us)
                    read_board(driver, slot.board, time_us, readings, with_processes=due)
                except LostError as lost:
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

    def instances(self) -> Mapping[str, tuple[Instance, ...]]:
        """MIG instances with their processes, as last listed, by the UUID of their board; only boards with MIG on."""
        boards = [slot.board for slot in self._slots if slot.board]
        return {board.uuid: board.instances for board in boards if board.instances is not None}

    def busy(self, uuid: str) -> Mapping[int, int] | None:
        """Process id → per cent of time in which its kernels ran on a board, since this was last asked.

        A process that ran nothing is left out; None: the board does not say, is lost, or has MIG on.
        """
        board = next((slot.board for slot in self._slots if slot.board and slot.board.uuid == uuid), None)
        if self._driver is not None and board is not None:
            with contextlib.suppress(LostError):
                return busy(self._driver, board)
        return None

    def list_processes(self, time_us: int) -> None:
        """Read now the process list of every board that has not had its turn at this tick."""
        driver = self._driver
        for slot in self._slots:
            board = slot.board
            if driver and board and board.listed_us != time_us:
                # A board that is lost by now has no list; the next tick finds out and says why.
                with contextlib.suppress(LostError):
                    look_at_processes(driver, board, time_us)

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

    def _attach(self, driver: Driver, handle: Any, index: int) -> AttachedBoard:
        nvml = self._nvml
        uuid: str = nvml.nvmlDeviceGetUUID(handle)
        model: str = nvml.nvmlDeviceGetName(handle)
        try:
            architecture: int = nvml.nvmlDeviceGetArchitecture(handle)
        except nvml.NVMLError as error:
            if error.value not in REFUSALS:
                raise
            architecture = 0
        return AttachedBoard(
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

    def _is_its_turn(self, board: AttachedBoard, time_us: int) -> bool:
        """The boards take turns with their process lists: each holds the driver's lock (MangoHud issue 2104)."""
        turn = (time_us + board.settled["index"] * self._every_us // len(self._slots)) // self._every_us
        if turn == board.turn or not (board.lists_processes or board.may_have_mig):
            return False
        board.turn = turn
        return True


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
