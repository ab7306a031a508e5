"""NVIDIA boards, read by the real nvidia-ml-py from a stand-in for the driver library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.nvml_standin import NvmlStandin
from wattmill_collector.errors import Broken, NotHere, TryAgain
from wattmill_collector.sources.nvml import NvmlSource
from wattmill_collector.sources.nvml_calls import power_usage_is_average
from wattmill_collector.wire import AbsenceReading, AcceleratorReading, Reading

T0 = 1_732_492_800_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND

Open = Callable[..., NvmlSource]


@pytest.fixture
def open_source(tmp_path: Path) -> Iterator[Open]:
    """Opens sources on a stand-in, with a boot id of their own, and closes them afterwards."""
    opened: list[NvmlSource] = []
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("8d503bfb-cef4-45c6-82ef-5089d1f2310c\n")

    def open_(gpus: NvmlStandin, **options: Any) -> NvmlSource:
        source = NvmlSource(str(gpus.library), boot_id_path=boot_id, **options)
        opened.append(source)
        return source

    yield open_
    for source in opened:
        source.close()


@pytest.fixture
def gpus(tmp_path: Path) -> NvmlStandin:
    return NvmlStandin(tmp_path / "nvml", boards=2, clock_us=T0)


def accelerators(readings: list[Reading]) -> list[AcceleratorReading]:
    return [r for r in readings if isinstance(r, AcceleratorReading)]


def absences(readings: list[Reading]) -> list[AbsenceReading]:
    return [r for r in readings if isinstance(r, AbsenceReading)]


def test_a_board_says_everything_it_is_and_does(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_energy(1, 123_456_789)
    gpus.set(
        1, power_average_mw=650_000, power_instant_mw=641_000, utilisation_percent=87, memory_used_bytes=70 * 2**30
    )
    gpus.set(1, temperature_celsius=61, sm_clock_mhz=1755, memory_clock_mhz=2619, clock_event_reasons=0x24)
    gpus.set_processes(1, [4711, 4712])
    reading = accelerators(open_source(gpus).read(T0))[1]
    assert reading == AcceleratorReading(
        uuid=gpus.uuid(1),
        model="NVIDIA H100 80GB HBM3",
        index=1,
        vendor="nvidia",
        epoch=reading.epoch,
        energy_mj=123_456_789,
        power_mw=650_000,
        power_instant_mw=641_000,
        power_limit_mw=700_000,
        utilisation_ratio=0.87,
        memory_used_bytes=70 * 2**30,
        memory_total_bytes=80 * 2**30,
        sm_clock_mhz=1755,
        memory_clock_mhz=2619,
        temperature_celsius=61,
        clock_event_reasons=0x24,
        process_count=2,
    )


def test_energy_differences_are_those_of_the_counter_to_the_millijoule(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_power(0, 700_001)
    gpus.set_power(1, 123_457)
    source = open_source(gpus)
    for _ in range(5):
        time_us = gpus.advance(1_000_003)
        energies = [r.energy_mj for r in accelerators(source.read(time_us))]
        assert energies == [gpus.energy(0), gpus.energy(1)]
    assert gpus.energy(0) == 700_001 * 5_000_015 // 1_000_000


def test_energy_and_power_cost_one_call_a_board(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    for second in range(10):
        source.read(T0 + second * SECOND)
    assert gpus.calls(0, "fields") == 10
    assert gpus.calls(0, "power_usage") == 0
    assert gpus.calls(0, "power_limit") == 1  # once a minute


def test_a_counter_that_falls_is_reported_as_it_is(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_energy(0, 1_000_000)
    source = open_source(gpus)
    source.read(T0)
    gpus.glitch(0, 17)
    assert [accelerators(source.read(T0 + i * SECOND))[0].energy_mj for i in (1, 2)] == [17, 1_000_000]


# --- epochs ---


def test_an_epoch_is_the_same_for_the_next_agent_and_another_for_another_driver_or_board(
    gpus: NvmlStandin, open_source: Open
) -> None:
    def epochs() -> list[int]:
        source = open_source(gpus)
        found = [r.epoch for r in accelerators(source.read(T0))]
        source.close()
        return found

    before, again = epochs(), epochs()
    gpus.set_driver_version("580.65.06")
    after = epochs()
    assert before == again
    assert len({*before, *after}) == 4
    assert 0 not in before


# --- what a board can't do ---


def test_a_board_without_energy_fields_is_read_by_the_older_calls(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.fail(0, "fields")
    gpus.set_energy(0, 42)
    gpus.set(0, power_usage_mw=300_000)
    source = open_source(gpus)
    for second in range(3):
        reading = accelerators(source.read(T0 + second * SECOND))[0]
        assert (reading.energy_mj, reading.power_mw, reading.power_instant_mw) == (42, 300_000, None)
    assert gpus.calls(0, "fields") == 1


def test_a_driver_without_field_values_is_read_by_the_older_calls(tmp_path: Path, open_source: Open) -> None:
    gpus = NvmlStandin(tmp_path / "old", clock_us=T0, without=["nvmlDeviceGetFieldValues"])
    gpus.set_energy(0, 42)
    assert accelerators(open_source(gpus).read(T0))[0].energy_mj == 42


def test_power_usage_of_an_a100_is_instantaneous(tmp_path: Path, open_source: Open) -> None:
    gpus = NvmlStandin(tmp_path / "a100", model="NVIDIA A100-SXM4-80GB", architecture=7, clock_us=T0)
    gpus.fail(0, "power_average")
    gpus.fail(0, "power_instant")
    gpus.set(0, power_usage_mw=250_000)
    reading = accelerators(open_source(gpus).read(T0))[0]
    assert (reading.power_mw, reading.power_instant_mw) == (None, 250_000)


@pytest.mark.parametrize(
    ("architecture", "model", "average"),
    [
        (6, "Tesla T4", False),
        (7, "NVIDIA A100-SXM4-80GB", False),
        (7, "NVIDIA A30", False),
        (7, "NVIDIA RTX A3000", True),
        (7, "NVIDIA A40", True),
        (9, "NVIDIA H100 80GB HBM3", True),
    ],
)
def test_power_usage_is_average(architecture: int, model: str, average: bool) -> None:
    assert power_usage_is_average(architecture, model) is average


def test_a_board_without_counter_has_power_and_no_energy_and_is_not_asked_again(
    gpus: NvmlStandin, open_source: Open
) -> None:
    gpus.fail(0, "energy")
    gpus.set_power(0, 200_000)
    source = open_source(gpus)
    for second in range(5):
        readings = source.read(T0 + second * SECOND)
        assert accelerators(readings)[0].energy_mj is None
        assert accelerators(readings)[0].power_mw == 200_000
        assert absences(readings) == []
    assert gpus.calls(0, "energy") == 2  # once as a field, once by the older call


def test_a_board_without_any_meter_is_unmeasured_and_never_zero(gpus: NvmlStandin, open_source: Open) -> None:
    for kind in ("energy", "power_average", "power_instant", "power_usage"):
        gpus.fail(0, kind)
    source = open_source(gpus)
    said = []
    for tick in range(13):
        readings = source.read(T0 + tick * 10 * SECOND)
        reading = accelerators(readings)[0]
        assert (reading.energy_mj, reading.power_mw, reading.power_instant_mw) == (None, None, None)
        said += [(tick, a.id, a.reason) for a in absences(readings)]
    assert said == [(tick, gpus.uuid(0), "unmeasured") for tick in (0, 6, 12)]


def test_an_energy_error_of_one_tick_is_an_absence_of_that_tick(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_energy(0, 5)
    source = open_source(gpus)
    source.read(T0)
    gpus.fail(0, "energy", 10)
    readings = source.read(T0 + SECOND)
    assert accelerators(readings)[0].energy_mj is None
    assert [(a.id, a.reason) for a in absences(readings)] == [(gpus.uuid(0), "timeout")]
    gpus.fail(0, "energy", 0)
    assert accelerators(source.read(T0 + 2 * SECOND))[0].energy_mj == 5


def test_values_past_the_catalogue_are_left_out_and_the_rest_of_the_reading_stands(
    gpus: NvmlStandin, open_source: Open
) -> None:
    gpus.set_energy(0, 5)
    gpus.set(0, power_average_mw=2**32 - 1, utilisation_percent=255, temperature_celsius=2**31)
    reading = accelerators(open_source(gpus).read(T0))[0]
    assert (reading.energy_mj, reading.power_mw, reading.utilisation_ratio) == (5, None, None)
    assert reading.temperature_celsius is None


def test_an_energy_that_can_not_be_is_an_absence(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.glitch(0, 2**64 - 1)
    readings = open_source(gpus).read(T0)
    assert accelerators(readings)[0].energy_mj is None
    assert [a.reason for a in absences(readings)] == ["implausible_value"]


def test_event_reasons_have_an_old_name(tmp_path: Path, open_source: Open) -> None:
    gpus = NvmlStandin(tmp_path / "old", clock_us=T0, without=["nvmlDeviceGetCurrentClocksEventReasons"])
    gpus.set(0, clock_event_reasons=0x4)
    assert accelerators(open_source(gpus).read(T0))[0].clock_event_reasons == 0x4


def test_without_either_name_event_reasons_are_absent(tmp_path: Path, open_source: Open) -> None:
    names = ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
    gpus = NvmlStandin(tmp_path / "older", clock_us=T0, without=names)
    assert accelerators(open_source(gpus).read(T0))[0].clock_event_reasons is None


def test_a_mig_board_is_read_once_and_has_no_utilisation(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set(0, mig_enabled=1)
    gpus.set_energy(0, 99)
    readings = accelerators(open_source(gpus).read(T0))
    assert [r.uuid for r in readings] == [gpus.uuid(0), gpus.uuid(1)]
    assert (readings[0].energy_mj, readings[0].utilisation_ratio) == (99, None)


# --- processes ---


def test_processes_are_listed_every_ten_seconds_and_kept_between(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_processes(0, [11, 12])
    source = open_source(gpus)
    source.read(T0)
    gpus.set_processes(0, [13])
    source.read(T0 + 9 * SECOND)
    assert source.processes() == {gpus.uuid(0): (11, 12), gpus.uuid(1): ()}
    readings = source.read(T0 + 10 * SECOND)
    assert source.processes()[gpus.uuid(0)] == (13,)
    assert accelerators(readings)[0].process_count == 1
    assert gpus.calls(0, "processes") == 2


def test_boards_take_turns_with_their_process_lists(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    source.read(T0)
    before = [gpus.calls(board, "processes") for board in (0, 1)]
    source.read(T0 + 5 * SECOND)
    assert [gpus.calls(board, "processes") - before[board] for board in (0, 1)] == [0, 1]


def test_process_lists_asked_for_are_those_of_now_and_cost_one_call_a_board(
    gpus: NvmlStandin, open_source: Open
) -> None:
    gpus.set_processes(0, [11])
    source = open_source(gpus)
    source.read(T0)
    source.list_processes(T0)
    assert [gpus.calls(board, "processes") for board in (0, 1)] == [1, 1]  # they had their turn at this tick
    gpus.set_processes(0, [])
    gpus.set_processes(1, [13])
    readings = source.read(T0 + SECOND)
    source.list_processes(T0 + SECOND)
    source.list_processes(T0 + SECOND)
    assert source.processes() == {gpus.uuid(0): (), gpus.uuid(1): (13,)}
    assert [gpus.calls(board, "processes") for board in (0, 1)] == [2, 2]
    assert [r.process_count for r in accelerators(readings)] == [1, 0]
    assert [r.process_count for r in accelerators(source.read(T0 + 2 * SECOND))] == [0, 1]


def test_a_board_lost_while_its_processes_are_asked_for_is_said_at_the_next_tick(
    gpus: NvmlStandin, open_source: Open
) -> None:
    gpus.set_processes(0, [11])
    source = open_source(gpus)
    source.read(T0)
    gpus.lose(0)
    source.list_processes(T0 + SECOND)
    assert source.processes() == {gpus.uuid(1): ()}
    assert [(a.id, a.reason) for a in absences(source.read(T0 + SECOND))] == [(gpus.uuid(0), "gpu_is_lost")]


def test_without_a_driver_no_process_list_is_asked_for(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    source.close()
    source.list_processes(T0)
    assert [gpus.calls(board, "processes") for board in (0, 1)] == [0, 0]


def test_a_list_longer_than_the_room_for_it_is_read_whole(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_processes(0, range(1000, 1300))
    source = open_source(gpus)
    assert accelerators(source.read(T0))[0].process_count == 300
    assert source.processes()[gpus.uuid(0)] == tuple(range(1000, 1300))


def test_scrambled_and_repeated_process_ids_are_left_out(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_processes(0, [0, 4_294_967_295, 77, 77])
    source = open_source(gpus)
    assert accelerators(source.read(T0))[0].process_count == 1
    assert source.processes()[gpus.uuid(0)] == (77,)


def test_a_list_that_may_not_be_read_is_absent_and_not_empty(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.fail(0, "processes", 4)
    source = open_source(gpus)
    assert accelerators(source.read(T0))[0].process_count is None
    source.read(T0 + MINUTE)
    assert list(source.processes()) == [gpus.uuid(1)]
    assert gpus.calls(0, "processes") == 1


# --- losing boards ---


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (15, "gpu_is_lost"),
        (16, "reset_required"),
        (28, "gpu_not_found"),
        (9, "driver_not_loaded"),
        (1, "uninitialized"),
        (18, "library_version_mismatch"),
    ],
)
def test_a_lost_board_is_dropped_alone_and_named(gpus: NvmlStandin, open_source: Open, code: int, reason: str) -> None:
    gpus.set_energy(1, 8)
    source = open_source(gpus)
    source.read(T0)
    gpus.lose(0, code)
    readings = source.read(T0 + SECOND)
    assert [(r.uuid, r.energy_mj) for r in accelerators(readings)] == [(gpus.uuid(1), 8)]
    assert [(a.subject, a.id, a.reason) for a in absences(readings)] == [("accelerator", gpus.uuid(0), reason)]


def test_a_lost_board_is_named_once_and_again_in_each_minute(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    source.read(T0)
    gpus.lose(0)
    said = {}
    for second in range(1, 150):
        for absence in absences(source.read(T0 + second * SECOND)):
            said[second] = absence.start_us
    assert said == {1: None, 60: T0 + SECOND, 120: T0 + SECOND}
    assert gpus.shutdowns == 0  # the neighbour still answers


def test_a_board_that_comes_back_is_read_again_with_what_it_can_do_now(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.fail(0, "utilisation")
    gpus.set_energy(0, 1_000)
    source = open_source(gpus)
    assert accelerators(source.read(T0))[0].utilisation_ratio is None
    gpus.lose(0)
    source.read(T0 + SECOND)
    gpus.restore(0)
    gpus.fail(0, "utilisation", 0)
    gpus.set_energy(0, 5)  # a reset board counts from zero
    back = accelerators(source.read(T0 + 2 * SECOND))[0]
    assert (back.uuid, back.energy_mj, back.utilisation_ratio) == (gpus.uuid(0), 5, 0.0)


def test_a_lost_board_is_retried_after_1_2_4_seconds_and_then_every_30(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    source.read(T0)
    gpus.lose(0, 15)
    source.read(T0)
    gpus.restore(0)
    gpus.fail(0, "identity", 15)  # each attempt asks for the identity first
    attempts, before = [], gpus.calls(0, "identity")
    for second in range(1, 125):
        source.read(T0 + second * SECOND)
        if gpus.calls(0, "identity") > before:
            attempts.append(second)
            before = gpus.calls(0, "identity")
    assert attempts == [1, 3, 7, 15, 31, 61, 91, 121]
    gpus.fail(0, "identity", 0)
    assert len(accelerators(source.read(T0 + 151 * SECOND))) == 2
    gpus.lose(0, 15)
    source.read(T0 + 152 * SECOND)
    gpus.restore(0)
    assert len(accelerators(source.read(T0 + 153 * SECOND))) == 2  # after a good reading the waits begin anew


def test_unknown_errors_lose_a_board_when_they_repeat_and_nothing_is_measured(
    gpus: NvmlStandin, open_source: Open
) -> None:
    source = open_source(gpus)
    source.read(T0)
    gpus.lose(0, 999)
    counts = [len(accelerators(source.read(T0 + second * SECOND))) for second in (1, 2, 3)]
    assert counts == [2, 2, 1]
    gpus.restore(0)
    assert len(accelerators(source.read(T0 + 5 * SECOND))) == 2


def test_an_unknown_error_beside_a_good_energy_loses_nothing(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    gpus.fail(0, "temperature", 999)
    for second in range(10):
        readings = source.read(T0 + second * SECOND)
        assert len(accelerators(readings)) == 2
        assert absences(readings) == []


def test_when_all_boards_are_gone_the_library_is_started_again(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_energy(0, 10)
    source = open_source(gpus)
    epoch = accelerators(source.read(T0))[0].epoch
    for board in (0, 1):
        gpus.lose(board, 9)
    assert [a.reason for a in absences(source.read(T0 + SECOND))] == ["driver_not_loaded"] * 2
    gpus.fail_init(9)
    for second in range(2, 30):
        assert source.read(T0 + second * SECOND) == []  # still this minute: nothing new to say
    assert gpus.inits == 1 + 4  # at 2, 4, 8 and 16 s
    assert [a.reason for a in absences(source.read(T0 + MINUTE))] == ["driver_not_loaded"] * 2
    gpus.fail_init(0)
    gpus.set_driver_version("580.65.06")
    for board in (0, 1):
        gpus.restore(board)
    readings = source.read(T0 + 2 * MINUTE)
    back = accelerators(readings)
    assert [r.uuid for r in back] == [gpus.uuid(0), gpus.uuid(1)]
    assert absences(readings) == []
    assert back[0].energy_mj == 10
    assert back[0].epoch != epoch  # another driver: the counter need not go on


def test_after_a_good_reading_the_starts_begin_anew(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    source.read(T0)
    for outage in (1, 2, 3):
        now = T0 + outage * 10 * SECOND
        for board in (0, 1):
            gpus.lose(board)
        assert accelerators(source.read(now)) == []
        for board in (0, 1):
            gpus.restore(board)
        assert len(accelerators(source.read(now + SECOND))) == 2
        assert gpus.inits == gpus.shutdowns + 1 == 1 + outage


def test_boards_that_come_back_in_another_order_keep_their_identity(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    before = {r.uuid: r.epoch for r in accelerators(source.read(T0))}
    for board in (0, 1):
        gpus.lose(board)
    source.read(T0 + SECOND)
    first, second = gpus.uuid(0), gpus.uuid(1)
    gpus.set_uuid(0, second)
    gpus.set_uuid(1, first)
    for board in (0, 1):
        gpus.restore(board)
    readings = source.read(T0 + 30 * SECOND)
    assert [(r.uuid, r.index) for r in accelerators(readings)] == [(second, 0), (first, 1)]
    assert {r.uuid: r.epoch for r in accelerators(readings)} == before
    assert absences(readings) == []


def test_a_board_that_is_exchanged_while_all_are_away_leaves_its_name_behind(
    gpus: NvmlStandin, open_source: Open
) -> None:
    source = open_source(gpus)
    source.read(T0)
    for board in (0, 1):
        gpus.lose(board)
    source.read(T0 + SECOND)
    gone = gpus.uuid(1)
    gpus.set_uuid(1, "GPU-new")
    for board in (0, 1):
        gpus.restore(board)
    assert [r.uuid for r in accelerators(source.read(T0 + 30 * SECOND))] == [gpus.uuid(0), "GPU-new"]
    assert [(a.id, a.reason) for a in absences(source.read(T0 + MINUTE))] == [(gone, "gpu_not_found")]


def test_a_board_lost_before_the_agent_started_is_named_by_its_place(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.lose(1)
    source = open_source(gpus)
    readings = source.read(T0)
    assert [r.uuid for r in accelerators(readings)] == [gpus.uuid(0)]
    gpus.restore(1)
    assert [(a.id, a.reason) for a in absences(readings)] == [("index-1", "gpu_is_lost")]
    assert [r.uuid for r in accelerators(source.read(T0 + 30 * SECOND))] == [gpus.uuid(0), gpus.uuid(1)]


# --- opening ---


def test_a_library_that_is_not_there_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(NotHere, match="does not open"):
        NvmlSource(str(tmp_path / "libnvidia-ml.so.1"))


@pytest.mark.parametrize(("code", "error"), [(9, NotHere), (18, Broken), (4, Broken), (999, TryAgain)])
def test_a_driver_that_does_not_start(gpus: NvmlStandin, open_source: Open, code: int, error: type[Exception]) -> None:
    gpus.fail_init(code)
    with pytest.raises(error, match="driver"):
        open_source(gpus)


def test_a_driver_without_boards_is_not_here(tmp_path: Path, open_source: Open) -> None:
    gpus = NvmlStandin(tmp_path / "none", boards=0, clock_us=T0)
    with pytest.raises(NotHere, match="no board"):
        open_source(gpus)
    assert gpus.shutdowns == 1


AGENT = """
import json, sys
from wattmill_collector.errors import NotHere
from wattmill_collector.sources.nvml import NvmlSource
from wattmill_collector.wire import encode_reading
try:
    source = NvmlSource()
except NotHere as error:
    sys.exit(str(error))
print(json.dumps([encode_reading(r) for r in source.read(int(sys.argv[1]))]))
source.close()
"""


def agent(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    command = [sys.executable, "-W", "error", "-c", AGENT, str(T0)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_another_process_finds_the_stand_in_by_the_linker_and_reads_the_same_energy(gpus: NvmlStandin) -> None:
    gpus.set_power(0, 333_333)
    gpus.advance(7_777_777)
    done = agent(gpus.env())
    assert done.stderr == ""
    first, second = json.loads(done.stdout)
    assert (first["uuid"], first["energy_mj"]) == (gpus.uuid(0), gpus.energy(0))
    assert second["energy_mj"] == gpus.energy(1) == 0
    assert gpus.served(0) == (gpus.energy(0), gpus.energy(0))


def test_a_host_without_driver_library_is_not_here(tmp_path: Path) -> None:
    empty = tmp_path / "libnvidia-ml.so.1"
    empty.write_bytes(b"")  # hides a real driver, should this host have one
    done = agent({"LD_LIBRARY_PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "No NVIDIA driver library" in done.stderr
