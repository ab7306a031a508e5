"""A stand-in for NVIDIA's driver library: boards that a test drives from outside, read by the real nvidia-ml-py.

The C library (`nvml_standin.c`) is built with gcc and laid into a directory as `libnvidia-ml.so.1`, beside
a small shared file that this class writes and the library looks at on every call. So a test can drive an agent that
runs in another process:

    gpus = NvmlStandin(tmp_path / "nvml", boards=8)              # real time, 8 idle boards at 0 mJ and 0 W
    subprocess.Popen(["wattmill", "agent", ...], env={**os.environ, **gpus.env()})
    gpus.set_power(0, 700_000)                                    # board 0 draws 700 W from now on

In the test's own process: `NvmlSource(nvml_library=str(gpus.library))`.

Energy follows a law: `base_mj + slope_mw * elapsed`, rounded down. With `clock_us=` the clock is manual and moves only
with `advance()` or `set_clock()`: then `energy(board)` equals to the millijoule what a reader in any process gets.
In real time compare against `served(board)`: the first and last energy that the library gave to any reader.

Faults: `lose` and `restore` a board, `fail` one kind of call on one board (3 = not supported), `fail_init`, `freeze` a
counter while the power goes on, `glitch` the next energy reads. A symbol that old drivers lack is taken away with
`without=["nvmlDeviceGetCurrentClocksEventReasons"]`. `calls(board, kind)` counts what was asked.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import mmap
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = "libnvidia-ml.so.1"
STATE = "nvml_standin.state"
MAX_BOARDS = 16
MAX_PROCESSES = 512
MAX_INSTANCES = 8
MAX_LISTED = 64
NO_INSTANCE = 0xFFFF_FFFF
CALL_KINDS = (
    "fields", "energy", "power_average", "power_instant", "power_usage", "power_limit", "utilisation", "memory",
    "clocks", "temperature", "reasons", "processes", "identity", "clients", "busy", "mig_mode", "mig_count",
    "mig_handles", "mig_ids", "mig_attributes", "mig_names", "mig_processes",
)  # fmt: skip
NOT_SUPPORTED = 3
GPU_IS_LOST = 15
HOPPER = 9


class _Instance(ctypes.Structure):
    _fields_ = [
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("present", ctypes.c_uint32),
        ("gpu_instance", ctypes.c_uint32),
        ("compute_instance", ctypes.c_uint32),
        ("gpu_slices", ctypes.c_uint32),
        ("compute_slices", ctypes.c_uint32),
        ("process_count", ctypes.c_uint32),
        ("pids", ctypes.c_uint32 * MAX_LISTED),
    ]


class _Board(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint64),
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("base_mj", ctypes.c_uint64),
        ("since_us", ctypes.c_uint64),
        ("slope_mw", ctypes.c_uint64),
        ("memory_total_bytes", ctypes.c_uint64),
        ("memory_used_bytes", ctypes.c_uint64),
        ("clock_event_reasons", ctypes.c_uint64),
        ("glitch_mj", ctypes.c_uint64),
        ("glitch_reads", ctypes.c_uint64),
        ("served_energy_mj", ctypes.c_uint64),
        ("first_served_energy_mj", ctypes.c_uint64),
        ("energy_reads", ctypes.c_uint64),
        ("power_average_mw", ctypes.c_uint32),
        ("power_instant_mw", ctypes.c_uint32),
        ("power_usage_mw", ctypes.c_uint32),
        ("power_limit_mw", ctypes.c_uint32),
        ("utilisation_percent", ctypes.c_uint32),
        ("sm_clock_mhz", ctypes.c_uint32),
        ("memory_clock_mhz", ctypes.c_uint32),
        ("temperature_celsius", ctypes.c_uint32),
        ("architecture", ctypes.c_uint32),
        ("lost", ctypes.c_uint32),
        ("mig_enabled", ctypes.c_uint32),
        ("process_count", ctypes.c_uint32),
        ("pids", ctypes.c_uint32 * MAX_PROCESSES),
        ("gpu_instances", ctypes.c_uint32 * MAX_PROCESSES),
        ("compute_instances", ctypes.c_uint32 * MAX_PROCESSES),
        ("client_count", ctypes.c_uint32),
        ("busy_count", ctypes.c_uint32),
        ("client_pids", ctypes.c_uint32 * MAX_LISTED),
        ("busy_pids", ctypes.c_uint32 * MAX_LISTED),
        ("busy_percent", ctypes.c_uint32 * MAX_LISTED),
        ("instances", _Instance * MAX_INSTANCES),
        ("status", ctypes.c_uint32 * len(CALL_KINDS)),
        ("calls", ctypes.c_uint32 * len(CALL_KINDS)),
    ]


class _State(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("board_count", ctypes.c_uint32),
        ("manual_clock", ctypes.c_uint32),
        ("init_status", ctypes.c_uint32),
        ("clock_us", ctypes.c_uint64),
        ("inits", ctypes.c_uint64),
        ("shutdowns", ctypes.c_uint64),
        ("driver_version", ctypes.c_char * 80),
        ("boards", _Board * MAX_BOARDS),
    ]


@functools.cache
def _built(without: tuple[str, ...]) -> Path:
    """The library, compiled once a process for each set of missing symbols."""
    directory = tempfile.mkdtemp(prefix="nvml-standin-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    library = Path(directory) / LIBRARY
    hidden = [f"-D{symbol}=missing_{symbol}" for symbol in without]
    options = ["-shared", "-fPIC", "-O2", f"-Wl,-soname,{LIBRARY}", *hidden]
    subprocess.run(["gcc", *options, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


class NvmlStandin:
    """Boards numbered from 0 behind `directory/libnvidia-ml.so.1`; `clock_us` given = manual clock, else real time."""

    def __init__(
        self,
        directory: Path,
        boards: int = 1,
        *,
        uuids: Sequence[str] = (),
        model: str = "NVIDIA H100 80GB HBM3",
        architecture: int = HOPPER,
        driver_version: str = "575.57.08",
        clock_us: int | None = None,
        without: Sequence[str] = (),
    ) -> None:
        if boards > MAX_BOARDS:
            raise ValueError(f"the stand-in has at most {MAX_BOARDS} boards")
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.library = self.directory / LIBRARY
        shutil.copyfile(_built(tuple(without)), self.library)
        size = ctypes.sizeof(_State)
        state_file = self.directory / STATE
        state_file.write_bytes(bytes(size))
        with state_file.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._state = _State.from_buffer(self._map)
        self._privileged = True
        self._state.board_count = boards
        self._state.manual_clock = clock_us is not None
        self._state.clock_us = clock_us or 0
        self._state.driver_version = driver_version.encode()
        for index in range(boards):
            board = self._state.boards[index]
            board.uuid = (uuids[index] if uuids else f"GPU-{index:08x}-5717-4000-8000-0123456789ab").encode()
            board.name = model.encode()
            board.architecture = architecture
            board.since_us = self.now_us()
            board.memory_total_bytes = 80 * 2**30
            board.power_limit_mw = 700_000
            board.sm_clock_mhz = 1980
            board.memory_clock_mhz = 2619
            board.temperature_celsius = 40
        self._state.size = size  # last: a library that finds another size refuses to start

    def env(self) -> dict[str, str]:
        """Environment with which a process finds this library instead of NVIDIA's."""
        others = os.environ.get("LD_LIBRARY_PATH")
        return {"LD_LIBRARY_PATH": f"{self.directory}:{others}" if others else str(self.directory)}

    # --- the clock ---

    def now_us(self) -> int:
        """The stand-in's wall clock."""
        return int(self._state.clock_us) if self._state.manual_clock else time.time_ns() // 1000

    def set_clock(self, time_us: int) -> None:
        """Move the manual clock."""
        self._state.clock_us = time_us

    def advance(self, elapsed_us: int) -> int:
        """Let time go by on the manual clock; returns the new time."""
        self._state.clock_us += elapsed_us
        return int(self._state.clock_us)

    # --- what a board says ---

    def uuid(self, board: int) -> str:
        """UUID of a board."""
        return bytes(self._state.boards[board].uuid).decode()

    def set_uuid(self, board: int, uuid: str) -> None:
        """Put another board into the place."""
        self._state.boards[board].uuid = uuid.encode()

    def energy(self, board: int) -> int:
        """The energy counter now, in mJ, by the same integer law as the library's."""
        b = self._state.boards[board]
        return int(b.base_mj + b.slope_mw * max(0, self.now_us() - b.since_us) // 1_000_000)

    def served(self, board: int) -> tuple[int, int]:
        """First and last energy in mJ that the library gave to any reader."""
        b = self._state.boards[board]
        return int(b.first_served_energy_mj), int(b.served_energy_mj)

    def set_energy(self, board: int, energy_mj: int) -> None:
        """Put the counter at a value; it goes on rising with the power."""
        with self._writing(board) as b:
            b.base_mj, b.since_us = energy_mj, self.now_us()

    def set_power(self, board: int, power_mw: int) -> None:
        """Draw this much from now on: the counter's slope and all three power readings."""
        with self._writing(board) as b:
            b.base_mj, b.since_us, b.slope_mw = self.energy(board), self.now_us(), power_mw
            b.power_average_mw = b.power_instant_mw = b.power_usage_mw = power_mw

    def freeze(self, board: int) -> None:
        """Stop the counter where it is while the power readings go on."""
        with self._writing(board) as b:
            b.base_mj, b.since_us, b.slope_mw = self.energy(board), self.now_us(), 0

    def glitch(self, board: int, energy_mj: int, reads: int = 1) -> None:
        """Answer the next energy reads with a value that is not the counter's."""
        self._state.boards[board].glitch_mj = energy_mj
        self._state.boards[board].glitch_reads = reads

    def set(self, board: int, **values: int) -> None:
        """Set gauges by their names in the C struct: utilisation_percent, memory_used_bytes, power_average_mw, …"""
        b = self._state.boards[board]
        for name, value in values.items():
            if not hasattr(b, name):
                raise ValueError(f"the stand-in's boards have no {name}")
            setattr(b, name, value)

    def set_processes(self, board: int, pids: Sequence[int]) -> None:
        """Compute processes on a board."""
        self._list(board, [(pid, NO_INSTANCE, NO_INSTANCE) for pid in pids])

    def set_clients(self, board: int, pids: Sequence[int]) -> None:
        """Clients of the MPS server on a board: a list of its own, beside that of the processes."""
        b = self._state.boards[board]
        b.client_pids[: len(pids)] = list(pids)
        b.client_count = len(pids)

    def set_busy(self, board: int, percent: Sequence[tuple[int, int]]) -> None:
        """(process id, SM per cent) of the samples that the board has of its processes; a process may have several."""
        b = self._state.boards[board]
        b.busy_pids[: len(percent)] = [pid for pid, _ in percent]
        b.busy_percent[: len(percent)] = [busy for _, busy in percent]
        b.busy_count = len(percent)

    # --- MIG ---

    def set_instances(self, board: int, *profiles: str, privileged: bool = True) -> list[str]:
        """Divide a board into MIG instances such as 3g.40gb, or 1c.3g.40gb of the GPU instance of the one before.

        Returns their UUIDs. `privileged`: the board's own process list says on which instance a process runs.
        """
        b = self._state.boards[board]
        b.mig_enabled = 1
        self._privileged = privileged
        gpu_instance, room, uuids = 0, 0, []
        for nth in range(MAX_INSTANCES):
            one = b.instances[nth]
            one.present = nth < len(profiles)
            one.process_count = 0
            if not one.present:
                continue
            gpu_slices = int(profiles[nth].partition("g.")[0][-1])
            slices = int(profiles[nth].partition("c.")[0]) if "c." in profiles[nth] else gpu_slices
            if room < slices or "c." not in profiles[nth]:
                gpu_instance, room = gpu_instance + 1, gpu_slices
            room -= slices
            one.uuid = f"MIG-{board:08x}-0000-5000-8000-{nth:012x}".encode()
            one.name = bytes(b.name) + f" MIG {profiles[nth]}".encode()
            one.gpu_instance, one.compute_instance = gpu_instance, gpu_slices - room - slices
            one.gpu_slices, one.compute_slices = gpu_slices, slices
            uuids.append(bytes(one.uuid).decode())
        return uuids

    def set_instance_processes(self, board: int, *pids: Sequence[int]) -> None:
        """Compute processes on each of the instances of a board, in their order."""
        b = self._state.boards[board]
        everybody = []
        for one, here in zip(b.instances, pids, strict=False):
            one.pids[: len(here)] = list(here)
            one.process_count = len(here)
            ids = (one.gpu_instance, one.compute_instance) if self._privileged else (NO_INSTANCE, NO_INSTANCE)
            everybody += [(pid, *ids) for pid in here]
        self._list(board, everybody)

    def _list(self, board: int, entries: Sequence[tuple[int, int, int]]) -> None:
        b = self._state.boards[board]
        for nth, (pid, gpu_instance, compute_instance) in enumerate(entries):
            b.pids[nth], b.gpu_instances[nth], b.compute_instances[nth] = pid, gpu_instance, compute_instance
        b.process_count = len(entries)

    # --- faults ---

    def lose(self, board: int, code: int = GPU_IS_LOST) -> None:
        """Every call on the board answers with this error."""
        self._state.boards[board].lost = code

    def restore(self, board: int) -> None:
        """The board answers again."""
        self._state.boards[board].lost = 0

    def fail(self, board: int, kind: str, code: int = NOT_SUPPORTED) -> None:
        """One kind of call (see CALL_KINDS) answers with an error on this board; 0 = works again."""
        self._state.boards[board].status[CALL_KINDS.index(kind)] = code

    def fail_init(self, code: int) -> None:
        """nvmlInit answers with this error; 0 = works again."""
        self._state.init_status = code

    def set_driver_version(self, version: str) -> None:
        """What a reader sees after its next nvmlInit, as after a driver upgrade."""
        self._state.driver_version = version.encode()

    def calls(self, board: int, kind: str) -> int:
        """How often this kind of call was made on a board."""
        return int(self._state.boards[board].calls[CALL_KINDS.index(kind)])

    @property
    def inits(self) -> int:
        """How often nvmlInit was called, successful or not."""
        return int(self._state.inits)

    @property
    def shutdowns(self) -> int:
        """How often nvmlShutdown was called."""
        return int(self._state.shutdowns)

    @contextmanager
    def _writing(self, board: int) -> Iterator[_Board]:
        b = self._state.boards[board]
        b.version += 1  # odd: a reader in another process waits
        try:
            yield b
        finally:
            b.version += 1
