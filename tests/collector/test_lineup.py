"""The sources together: what one has read, the other one places engines by, as of the same tick."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.fake_clock import FakeClock
from support.fake_engine import FakeEngine
from support.nvml_standin import NvmlStandin
from support.redfish_standin import RedfishStandin, server_chassis
from wattmill_collector.clock import SystemClock
from wattmill_collector.lineup import PATIENCE_US, line_up
from wattmill_collector.log import Throttle
from wattmill_collector.reader import Reader
from wattmill_collector.settings import EngineSettings, Settings, SourceSettings, SpoolSettings
from wattmill_collector.targets import parse_bmcs
from wattmill_collector.wire import EngineReading, HostReading

SECOND_US = 1_000_000
START_US = 1_764_030_001 * SECOND_US


@pytest.fixture
def gpus(tmp_path: Path) -> NvmlStandin:
    return NvmlStandin(tmp_path / "nvml", boards=4, clock_us=START_US)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine("vllm") as one:
        yield one


class Readers:
    """All readers of an agent with this engine on these boards."""

    def __init__(self, gpus: NvmlStandin, engine: EngineSettings) -> None:
        clock = FakeClock()
        settings = Settings(
            spool=SpoolSettings(Path("unused")),
            node="gpu-017",
            nvml_library=gpus.library,
            engines=(engine,),
            sources=SourceSettings(host="off", ipmi="off"),
        )
        self.readers: list[Reader] = line_up(settings, clock, Throttle(clock))

    def boards_of_the_engine(self, second: int) -> tuple[str, ...]:
        readings = [r for reader in self.readers for r in reader.read(START_US + second * SECOND_US)]
        return next(r.accelerators for r in readings if isinstance(r, EngineReading))

    def close(self) -> None:
        for reader in self.readers:
            reader.close()


Open = Callable[[EngineSettings], Readers]


@pytest.fixture
def open_readers(gpus: NvmlStandin) -> Iterator[Open]:
    opened: list[Readers] = []

    def open_(engine: EngineSettings) -> Readers:
        opened.append(Readers(gpus, engine))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def test_an_engine_that_was_started_on_other_boards_has_them_at_the_next_tick(
    gpus: NvmlStandin, engine: FakeEngine, open_readers: Open
) -> None:
    """Process lists are read in turns every 10 s; what an engine counts from zero must not go to no board till then."""
    gpus.set_processes(0, [os.getpid()])
    readers = open_readers(EngineSettings(engine.url))
    assert readers.boards_of_the_engine(0) == (gpus.uuid(0),)
    lists = [gpus.calls(board, "processes") for board in range(4)]
    gpus.set_processes(0, [])
    for board in (1, 2, 3):
        gpus.set_processes(board, [os.getpid()])
    engine.restart()
    assert readers.boards_of_the_engine(1) == tuple(gpus.uuid(board) for board in (1, 2, 3))
    assert [gpus.calls(board, "processes") - lists[board] for board in range(4)] == [1, 1, 1, 1]


def test_a_lost_board_stays_the_one_that_its_index_meant(
    gpus: NvmlStandin, engine: FakeEngine, open_readers: Open
) -> None:
    readers = open_readers(EngineSettings(engine.url, accelerators=("0", "1")))
    both = (gpus.uuid(0), gpus.uuid(1))
    assert readers.boards_of_the_engine(0) == both
    gpus.lose(0)
    assert [readers.boards_of_the_engine(second) for second in (10, 20, 60)] == [both] * 3


def test_the_node_is_what_its_bmc_says_and_not_what_its_acpi_meter_says_too(tmp_path: Path) -> None:
    """600 W at the BMC, 590 W at the firmware's meter, the same joules: one chassis, beside the package inside it."""
    files = {
        "powercap/intel-rapl:0/name": "package-0",
        "powercap/intel-rapl:0/energy_uj": "5",
        "powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
        "hwmon/hwmon0/name": "power_meter",
        "hwmon/hwmon0/power1_average": "590000000",
    }
    for name, text in files.items():
        (tmp_path / "sys/class" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/class" / name).write_text(text)
    clock = SystemClock()
    with RedfishStandin() as bmc:
        bmc.documents |= server_chassis(watts=600)
        settings = Settings(
            spool=SpoolSettings(Path("unused")),
            node="127.0.0.1",
            host_root=tmp_path,
            bmc=parse_bmcs([{"url": bmc.url.replace("127.0.0.1", "{node}")}]),
            sources=SourceSettings(nvml="off", ipmi="off"),
            discover=False,
        )
        readers = line_up(settings, clock, Throttle(clock), patience_us=PATIENCE_US)
        readings = [r for reader in readers for r in reader.read(START_US)]
        for reader in readers:
            reader.close()
    found = [(r.domain, r.source, r.power_mw) for r in readings if isinstance(r, HostReading)]
    assert found == [("chassis", "redfish", 600_000), ("package-0", "rapl", None)]
