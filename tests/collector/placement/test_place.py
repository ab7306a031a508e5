"""Placement of a whole node at once, on a process table made of files."""

from __future__ import annotations

from pathlib import Path

from support.process_tree import ProcessTree
from wattmill_collector.placement import Board, Placement, Seat, boards_of, lay_out
from wattmill_collector.placement.process import Process, Processes
from wattmill_collector.wire import AbsenceReading, AcceleratorReading, Reading


def table(root: Path, *people: tuple[int, int, int, str]) -> Processes:
    """(pid, parent, group, cgroup) of each process."""
    tree = ProcessTree(root)
    for pid, parent, group, cgroup in people:
        tree.add(pid, parent, group=group, cgroup=cgroup)
    return tree.table


def place(seats: list[Seat], boards: tuple[Board, ...], processes: Processes) -> dict[str, Placement]:
    return dict(lay_out(seats, boards, processes).engines)


def seat(processes: Processes, name: str, pid: int | None = None, *accelerators: str, holds: bool = True) -> Seat:
    return Seat(name, accelerators, None if pid is None else processes.get(pid), holds)


SHELL = (10, 1, 10, "/user.slice/user-1000.slice/session-3.scope")
A, B, C = Board("GPU-a", 0, ()), Board("GPU-b", 1, ()), Board("GPU-c", 2, ())


def held(board: Board, *pids: int) -> Board:
    return Board(board.uuid, board.index, pids)


def test_configured_goes_before_everything(tmp_path: Path) -> None:
    processes = table(tmp_path, (20, 1, 20, "/"))
    boards = (held(A, 20), B)
    placed = place([seat(processes, "e", 20, "1")], boards, processes)
    assert placed == {"e": Placement(("GPU-b",), "configured")}


def test_the_listener_itself_holds_the_boards(tmp_path: Path) -> None:
    processes = table(tmp_path, (20, 1, 20, "/"), (30, 1, 30, "/"))
    placed = place([seat(processes, "e", 20)], (held(A, 20), held(B, 30), held(C, 20)), processes)
    assert placed == {"e": Placement(("GPU-a", "GPU-c"), "process")}


def test_workers_are_descendants_of_the_listener(tmp_path: Path) -> None:
    """vLLM: the API server listens, its engine core spawns a worker for each board."""
    processes = table(tmp_path, SHELL, (20, 10, 20, "/"), (21, 20, 20, "/"), (22, 21, 20, "/"), (23, 21, 20, "/"))
    placed = place([seat(processes, "e", 20)], (held(A, 22), held(B, 23), C), processes)
    assert placed == {"e": Placement(("GPU-a", "GPU-b"), "process")}


def test_two_engines_of_one_launcher_are_told_apart_by_descent(tmp_path: Path) -> None:
    processes = table(tmp_path, SHELL, (20, 10, 10, "/"), (21, 20, 10, "/"), (30, 10, 10, "/"), (31, 30, 10, "/"))
    placed = place([seat(processes, "e", 20), seat(processes, "f", 30)], (held(A, 21), held(B, 31)), processes)
    assert placed == {"e": Placement(("GPU-a",), "process"), "f": Placement(("GPU-b",), "process")}


def test_the_holder_is_an_ancestor_of_the_listener(tmp_path: Path) -> None:
    processes = table(tmp_path, (20, 1, 20, "/"), (21, 20, 21, "/"))
    assert place([seat(processes, "e", 21)], (held(A, 20), B), processes)["e"] == Placement(("GPU-a",), "process")


def test_the_process_group_that_the_server_leads_joins_what_lost_its_parent(tmp_path: Path) -> None:
    processes = table(tmp_path, SHELL, (20, 10, 20, "/"), (21, 1, 20, "/"))
    assert place([seat(processes, "e", 20)], (held(A, 21), B), processes)["e"].method == "process"


def test_the_container_joins_what_descent_does_not(tmp_path: Path) -> None:
    pod = "/kubepods.slice/pod1.slice/cri-containerd-0123.scope"
    processes = table(tmp_path, (20, 1, 20, pod), (21, 1, 21, pod), (30, 1, 30, "/kubepods.slice/other.scope"))
    seats = [seat(processes, "e", 20), seat(processes, "f", None)]
    assert place(seats, (held(A, 21), held(B, 30)), processes)["e"] == Placement(("GPU-a",), "process")


def test_a_login_session_joins_nothing(tmp_path: Path) -> None:
    processes = table(tmp_path, (20, 1, 20, SHELL[3]), (21, 1, 21, SHELL[3]))
    seats = [seat(processes, "e", 20), seat(processes, "f", None)]
    assert place(seats, (held(A, 21),), processes)["e"] == Placement()


def test_two_engines_on_one_board_share_it(tmp_path: Path) -> None:
    processes = table(tmp_path, (20, 1, 20, "/"), (30, 1, 30, "/"), (40, 1, 40, "/"))
    boards = (held(A, 20, 30), held(B, 40))
    placed = place([seat(processes, n, p) for n, p in (("e", 20), ("f", 30), ("g", 40))], boards, processes)
    assert placed["e"] == placed["f"] == Placement(("GPU-a",), "share")
    assert placed["g"] == Placement(("GPU-b",), "process")


def test_a_configured_neighbour_shares_too_and_stays_configured(tmp_path: Path) -> None:
    processes = table(tmp_path, (20, 1, 20, "/"), (30, 1, 30, "/"))
    placed = place([seat(processes, "e", 20), seat(processes, "f", 30, "GPU-a")], (held(A, 20, 30),), processes)
    assert (placed["e"].method, placed["f"].method) == ("share", "configured")


def test_the_only_engine_has_the_boards_in_use(tmp_path: Path) -> None:
    processes = table(tmp_path, (40, 1, 40, "/"))
    assert place([seat(processes, "e")], (held(A, 40), B), processes)["e"] == Placement(("GPU-a",), "exclusive")


def test_the_only_engine_has_all_boards_when_processes_are_not_listed(tmp_path: Path) -> None:
    boards = (Board("GPU-a", 0), Board("GPU-b", 1))
    placed = place([seat(Processes(tmp_path), "e")], boards, Processes(tmp_path))
    assert placed["e"] == Placement(("GPU-a", "GPU-b"), "exclusive")


def test_the_only_engine_on_boards_that_nobody_uses_is_nowhere(tmp_path: Path) -> None:
    assert place([seat(Processes(tmp_path), "e")], (A, B), Processes(tmp_path))["e"] == Placement()


def test_a_front_end_holds_nothing_and_does_not_make_a_second_engine(tmp_path: Path) -> None:
    processes = table(tmp_path, (40, 1, 40, "/"))
    placed = place([seat(processes, "e"), seat(processes, "front", 40, holds=False)], (held(A, 40),), processes)
    assert placed == {"e": Placement(("GPU-a",), "exclusive"), "front": Placement()}


def test_two_engines_of_which_nothing_is_known_are_nowhere(tmp_path: Path) -> None:
    processes = table(tmp_path, (40, 1, 40, "/"))
    placed = place([seat(processes, "e"), seat(processes, "f")], (held(A, 40),), processes)
    assert placed == {"e": Placement(), "f": Placement()}


def test_boards_come_from_the_readings_and_process_lists_of_a_tick() -> None:
    readings: list[Reading] = [
        AcceleratorReading(uuid="GPU-a", index=0),
        AbsenceReading(subject="accelerator", id="GPU-x", reason="gpu_is_lost"),
        AcceleratorReading(uuid="GPU-b", index=1),
    ]
    assert boards_of(readings, {"GPU-b": (5,)}) == (Board("GPU-a", 0, None), Board("GPU-b", 1, (5,)))


def test_processes_are_told_apart_by_their_start() -> None:
    assert Process(1, 0, 1, 5) != Process(1, 0, 1, 6)
