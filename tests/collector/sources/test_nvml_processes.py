"""Who computes on a board, by the real nvidia-ml-py: MIG instances, clients of MPS, and how busy each process is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.nvml_standin import NvmlStandin
from wattmill_collector.placement import Instance
from wattmill_collector.sources.nvml import NvmlSource
from wattmill_collector.sources.nvml_processes import slices_of
from wattmill_collector.wire import AcceleratorReading

T0 = 1_732_492_800_000_000
SECOND = 1_000_000
NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, TIMEOUT = 3, 4, 13, 10
Open = Callable[[NvmlStandin], NvmlSource]


@pytest.fixture
def open_source(tmp_path: Path) -> Iterator[Open]:
    opened: list[NvmlSource] = []

    def open_(gpus: NvmlStandin) -> NvmlSource:
        opened.append(NvmlSource(str(gpus.library), boot_id_path=tmp_path / "none"))
        return opened[-1]

    yield open_
    for source in opened:
        source.close()


@pytest.fixture
def gpus(tmp_path: Path) -> NvmlStandin:
    return NvmlStandin(tmp_path / "nvml", boards=2, clock_us=T0)


def shown(source: NvmlSource, gpus: NvmlStandin, board: int = 0) -> list[tuple[int, int, int, tuple[int, ...] | None]]:
    """(GPU instance, its slices, own slices, processes) of each instance of a board."""
    found = source.instances()[gpus.uuid(board)]
    return [(one.gpu_instance, one.gpu_slices, one.slices, one.pids) for one in found]


@pytest.mark.parametrize(
    ("profile", "slices"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", (3, 3)),
        ("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", (3, 1)),
        ("MIG 1g.10gb+me", (1, 1)),
        ("MIG 7g.141gb", (7, 7)),
        ("NVIDIA H100 80GB HBM3", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_slices_by_the_name_of_a_profile(profile: str, slices: tuple[int, int]) -> None:
    assert slices_of(profile) == slices


@pytest.mark.parametrize("privileged", [True, False])
def test_instances_with_their_processes(gpus: NvmlStandin, open_source: Open, privileged: bool) -> None:
    """The board's list names the instance of each process; without the privilege each instance has its own list."""
    uuids = gpus.set_instances(0, "3g.40gb", "2g.20gb", "2g.20gb", privileged=privileged)
    gpus.set_instance_processes(0, [21, 22], [23], [])
    source = open_source(gpus)
    readings = source.read(T0)
    assert source.instances() == {
        gpus.uuid(0): (
            Instance(uuids[0], 1, 0, 3, 3, (21, 22)),
            Instance(uuids[1], 2, 0, 2, 2, (23,)),
            Instance(uuids[2], 3, 0, 2, 2, ()),
        )
    }
    assert source.processes()[gpus.uuid(0)] == (21, 22, 23)
    assert [r.process_count for r in readings if isinstance(r, AcceleratorReading)] == [3, 0]
    assert gpus.calls(0, "mig_processes") == (0 if privileged else 3)
    assert gpus.calls(0, "energy") == 1  # the board's, once


def test_compute_instances_of_one_gpu_instance(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_instances(0, "1c.3g.40gb", "2c.3g.40gb", "4g.40gb")
    gpus.set_instance_processes(0, [21], [22], [23])
    source = open_source(gpus)
    source.read(T0)
    assert shown(source, gpus) == [(1, 3, 1, (21,)), (1, 3, 2, (22,)), (2, 4, 4, (23,))]


def test_instances_are_looked_at_anew_with_the_processes(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    source.read(T0)
    assert source.instances() == {}
    gpus.set_instances(0, "3g.40gb", "4g.40gb")
    source.read(T0 + 10 * SECOND)
    assert len(source.instances()[gpus.uuid(0)]) == 2
    gpus.set_instances(0, "7g.80gb")
    source.list_processes(T0 + 11 * SECOND)
    assert [one.slices for one in source.instances()[gpus.uuid(0)]] == [7]
    gpus.set_instances(0)
    gpus.set(0, mig_enabled=0)
    source.read(T0 + 20 * SECOND)
    assert source.instances() == {}


def test_the_board_refuses_its_own_list_and_the_instances_do_not(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_instances(0, "3g.40gb", "4g.40gb")
    gpus.set_instance_processes(0, [21], [22])
    gpus.fail(0, "processes", NO_PERMISSION)
    source = open_source(gpus)
    for second in (0, 10, 20):
        source.read(T0 + second * SECOND)
    assert [pids for *_, pids in shown(source, gpus)] == [(21,), (22,)]
    assert source.processes()[gpus.uuid(0)] == (21, 22)
    assert gpus.calls(0, "processes") == 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mig_attributes", [(1, 3, 3, (21,)), (2, 4, 4, (22,))]),  # the name says it, too
        ("mig_count", [(1, 3, 3, (21,)), (2, 4, 4, (22,))]),
        ("mig_ids", [(-1, 3, 3, (21,)), (-1, 4, 4, (22,))]),  # each instance has its own list
        ("mig_processes", [(1, 3, 3, (21,)), (2, 4, 4, (22,))]),
        ("mig_handles", []),  # on, and nothing known of it
    ],
)
@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND])
def test_what_a_driver_does_not_say_is_unknown_and_costs_nothing_else(
    gpus: NvmlStandin,
    open_source: Open,
    kind: str,
    expected: list[tuple[int, int, int, tuple[int, ...] | None]],
    code: int,
) -> None:
    gpus.set_instances(0, "3g.40gb", "4g.40gb")
    gpus.set_instance_processes(0, [21], [22])
    gpus.fail(0, kind, code)
    source = open_source(gpus)
    assert len(source.read(T0)) == 2
    assert shown(source, gpus) == expected
    assert source.processes()[gpus.uuid(0)] == (21, 22)


def test_neither_list_says_who_is_where(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_instances(0, "3g.40gb", "4g.40gb", privileged=False)
    gpus.set_instance_processes(0, [21], [22])
    gpus.fail(0, "mig_processes", NOT_SUPPORTED)
    source = open_source(gpus)
    source.read(T0)
    assert [pids for *_, pids in shown(source, gpus)] == [None, None]
    assert source.processes()[gpus.uuid(0)] == (21, 22)


def test_slices_that_neither_attributes_nor_name_tell(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_instances(0, "3g.40gb", "4g.40gb")
    gpus.fail(0, "mig_attributes")
    gpus.fail(0, "mig_names")
    source = open_source(gpus)
    source.read(T0)
    assert [(gpu, own) for _, gpu, own, _ in shown(source, gpus)] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("code", [NO_PERMISSION, FUNCTION_NOT_FOUND])
def test_a_driver_that_does_not_say_whether_mig_is_on_says_it_by_its_lists(
    gpus: NvmlStandin, open_source: Open, code: int
) -> None:
    gpus.set_instances(0, "3g.40gb", "4g.40gb")
    gpus.set_instance_processes(0, [21], [22])
    gpus.set_processes(1, [30])
    gpus.fail(0, "mig_mode", code)
    gpus.fail(1, "mig_mode", code)
    source = open_source(gpus)
    for second in (0, 10, 20):
        source.read(T0 + second * SECOND)
    assert [pids for *_, pids in shown(source, gpus)] == [(21,), (22,)]
    assert list(source.instances()) == [gpus.uuid(0)]
    assert gpus.calls(0, "mig_mode") == 1


def test_an_error_of_one_tick_does_not_make_a_board_whole(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_instances(0, "3g.40gb", "4g.40gb")
    source = open_source(gpus)
    source.read(T0)
    gpus.fail(0, "mig_mode", TIMEOUT)
    source.read(T0 + 10 * SECOND)
    assert len(source.instances()[gpus.uuid(0)]) == 2


# --- MPS ---


def test_clients_of_mps_are_processes_of_the_board(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_processes(0, [500])  # the server
    gpus.set_clients(0, [21, 22])
    source = open_source(gpus)
    readings = source.read(T0)
    assert source.processes() == {gpus.uuid(0): (21, 22, 500), gpus.uuid(1): ()}
    assert [r.process_count for r in readings if isinstance(r, AcceleratorReading)] == [3, 0]


def test_clients_are_asked_for_when_something_changed_else_once_a_minute(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_processes(0, [21])
    source = open_source(gpus)
    for second in range(0, 60, 10):
        source.read(T0 + second * SECOND)
    assert gpus.calls(0, "clients") == 1
    gpus.set_processes(0, [21, 500])
    source.read(T0 + 60 * SECOND)
    assert gpus.calls(0, "clients") == 2


MIB = 1024**2


def test_memory_that_is_taken_or_given_back_has_the_processes_listed(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    source.read(T0 + SECOND)
    for second, pids, used_mib, listed in (
        (2, [], 100, 0),
        (3, [21], 600, 1),  # a context
        (4, [21, 22], 700, 1),  # too little to be one: it is seen when its turn comes
        (5, [], 100, 0),
    ):
        gpus.set_processes(0, pids)
        gpus.set(0, memory_used_bytes=used_mib * MIB)
        board = next(r for r in source.read(T0 + second * SECOND) if isinstance(r, AcceleratorReading))
        assert (board.process_count, len(source.processes()[board.uuid])) == (listed, listed)


def test_memory_that_never_rests_does_not_have_them_listed_at_every_tick(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    before = gpus.calls(0, "processes")
    for second in range(120):
        gpus.set(0, memory_used_bytes=(second % 2) * 40 * 1024 * MIB)
        source.read(T0 + second * SECOND)
    by_turn = 120 // 10
    assert gpus.calls(0, "processes") - before <= by_turn + 4 + 120 // 8


def test_a_driver_without_mps_is_asked_once(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.fail(0, "clients")
    source = open_source(gpus)
    for second in range(0, 300, 10):
        gpus.set_processes(0, [100 + second])
        source.read(T0 + second * SECOND)
    assert gpus.calls(0, "clients") == 1
    assert source.processes()[gpus.uuid(0)] == (390,)


# --- how busy each process is ---


def test_busy_processes_the_highest_of_several_samples(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_busy(0, [(21, 30), (22, 50), (21, 40)])
    source = open_source(gpus)
    assert source.busy(gpus.uuid(0)) == {21: 40, 22: 50}
    assert source.busy(gpus.uuid(0)) == {}  # nothing new since
    gpus.advance(SECOND)
    assert source.busy(gpus.uuid(0)) == {21: 40, 22: 50}
    assert source.busy(gpus.uuid(1)) == {}
    assert source.busy("GPU-elsewhere") is None


def test_a_board_that_does_not_say_is_asked_once(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.fail(0, "busy")
    source = open_source(gpus)
    assert [source.busy(gpus.uuid(0)) for _ in range(3)] == [None] * 3
    assert gpus.calls(0, "busy") == 1


def test_more_samples_than_there_was_room_for(gpus: NvmlStandin, open_source: Open) -> None:
    gpus.set_busy(0, [(100 + nth % 40, nth) for nth in range(64)])
    source = open_source(gpus)
    found = source.busy(gpus.uuid(0))
    assert found is not None
    assert (len(found), found[100], found[139]) == (40, 40, 39)


def test_a_lost_board_is_busy_with_nothing_known(gpus: NvmlStandin, open_source: Open) -> None:
    source = open_source(gpus)
    gpus.lose(0)
    assert source.busy(gpus.uuid(0)) is None
    assert len(source.read(T0)) == 2  # an absence and the other board
