"""Placement by what the kubelet gave to whom."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from support.process_tree import ProcessTree
from wattmill_collector.kubelet.book import Snapshot
from wattmill_collector.kubelet.devices import Names
from wattmill_collector.kubelet.pod_resources import Device, Holder
from wattmill_collector.kubelet.pods import Pod
from wattmill_collector.placement import Board, Instance, Placement, Seat, lay_out
from wattmill_collector.placement.pods import Allocation, Allocations
from wattmill_collector.placement.process import Process, Processes
from wattmill_collector.sources.addresses import Failure

NOBODY = Processes(Path("/nonexistent"), ticks_per_second=100, boot_us=lambda: 0)
A, B, C = Board("GPU-a", 0, ()), Board("GPU-b", 1, ()), Board("GPU-c", 2, ())
CHAT, RANK = ("search", "chat-0"), ("ads", "rank-0")


def instance(nth: int, pid: int = 0) -> Instance:
    slices = 3 if nth == 1 else 2
    return Instance(f"MIG-{nth}", nth, 0, slices, slices, (pid,) if pid else ())


CUT = Board("GPU-a", 0, (), tuple(map(instance, (1, 2, 3))))  # 3g, 2g and 2g


def holder(pod: tuple[str, str], *ids: str, container: str = "engine") -> Holder:
    return Holder(*pod, container, tuple(Device("nvidia.com/gpu", one) for one in ids))


def allocations(*holders: Holder, pods: tuple[Pod, ...] | None = None) -> Allocations:
    known = None if pods is None else {pod.key: pod for pod in pods}
    return Allocations(Snapshot(holders, known), Names(parent_of={"MIG-1": "GPU-a", "MIG-2": "GPU-a"}.get))


def place(
    seats: list[Seat], boards: tuple[Board, ...], processes: Processes, taken: frozenset[str] = frozenset()
) -> dict[str, Placement]:
    return dict(lay_out(seats, boards, processes, taken=taken).engines)


def seat(target: str, allocation: Allocation | None, **changes: object) -> Seat:
    return dataclasses.replace(Seat(target, allocation=allocation), **changes)  # type: ignore[arg-type]


def test_boards_that_were_given_whole_are_the_pods() -> None:
    given = allocations(holder(CHAT, "GPU-a", "GPU-b"), holder(RANK, "GPU-c"))
    seats = [seat("chat", given.of(CHAT)), seat("rank", given.of(RANK))]
    assert place(seats, (A, B, C), NOBODY) == {
        "chat": Placement(("GPU-a", "GPU-b"), "pod"),
        "rank": Placement(("GPU-c",), "pod"),
    }


def test_time_slices_are_equal_parts_of_those_given_out() -> None:
    """A third pod, which is no engine, has its part, too; a replica that nobody was given counts for nothing."""
    given = allocations(holder(CHAT, "GPU-a::0", "GPU-a::2"), holder(RANK, "GPU-a::1"), holder(("x", "y"), "GPU-a::3"))
    seats = [seat("chat", given.of(CHAT)), seat("rank", given.of(RANK))]
    assert place(seats, (A,), NOBODY) == {
        "chat": Placement(("GPU-a",), "share", (), (500_000,), "replicas"),
        "rank": Placement(("GPU-a",), "share", (), (250_000,), "replicas"),
    }


def test_three_replicas_add_up_to_the_board() -> None:
    pods = [("ns", f"pod-{nth}") for nth in range(3)]
    given = allocations(*(holder(pod, f"GPU-a::{nth}") for nth, pod in enumerate(pods)))
    placed = place([seat(pod[1], given.of(pod)) for pod in pods], (A,), NOBODY)
    assert [p.shares_ppm for p in placed.values()] == [(333_334,), (333_333,), (333_333,)]


def test_mig_slices_are_parts_by_their_size() -> None:
    given = allocations(holder(CHAT, "MIG-1"), holder(RANK, "MIG-2"))
    placed = place([seat("chat", given.of(CHAT)), seat("rank", given.of(RANK))], (CUT,), NOBODY)
    assert placed == {
        "chat": Placement(("GPU-a",), "share", (), (428_572,), "mig"),
        "rank": Placement(("GPU-a",), "share", (), (285_714,), "mig"),
    }
    assert {p.confidence for p in placed.values()} == {"medium"}


def test_replicas_of_a_slice_divide_the_slice() -> None:
    given = allocations(holder(CHAT, "MIG-1::0"), holder(RANK, "MIG-1::1"))
    placed = place([seat("chat", given.of(CHAT)), seat("rank", given.of(RANK))], (CUT,), NOBODY)
    assert [p.shares_ppm for p in placed.values()] == [(214_286,), (214_286,)]


def test_a_slice_of_which_the_driver_says_nothing_is_no_share() -> None:
    """All of the board would be wrong; so would a guess."""
    given = allocations(holder(CHAT, "MIG-1"))
    placed = place([seat("chat", given.of(CHAT))], (A,), NOBODY)["chat"]
    assert placed == Placement()
    assert placed.doubt == "it is not known which MIG instance of GPU-a is MIG-1"


def test_a_slice_named_by_gke_is_found_by_its_gpu_instance() -> None:
    given = Allocations(Snapshot((holder(CHAT, "nvidia0/gi2"),)), Names(by_minor={0: "GPU-a"}))
    assert place([seat("chat", given.of(CHAT))], (CUT,), NOBODY)["chat"].shares_ppm == (285_714,)


def test_a_claimed_slice_without_a_name_is_found_by_the_processes_on_it(tmp_path: Path) -> None:
    tree = ProcessTree(tmp_path)
    given = Allocations(Snapshot((holder(CHAT, "gpu-0-mig-19-0-1"),)), Names(by_minor={0: "GPU-a"}))
    busy = dataclasses.replace(CUT, pids=(20,), instances=tuple(instance(nth, 20 * (nth == 3)) for nth in (1, 2, 3)))
    seats = [seat("chat", given.of(CHAT), listener=tree.add(20))]
    assert place(seats, (busy,), tree.table)["chat"].shares_ppm == (285_714,)


def test_two_slices_of_one_board_are_one_board() -> None:
    given = allocations(holder(CHAT, "MIG-1", "MIG-2"))
    placed = place([seat("chat", given.of(CHAT))], (CUT,), NOBODY)["chat"]
    assert placed == Placement(("GPU-a",), "share", (), (714_286,), "mig")


def test_two_engines_in_one_slice_divide_it() -> None:
    given = allocations(holder(CHAT, "MIG-1"))
    placed = place([seat("one", given.of(CHAT)), seat("two", given.of(CHAT))], (CUT,), NOBODY)
    assert [p.shares_ppm for p in placed.values()] == [(214_286,), (214_286,)]
    assert {p.confidence for p in placed.values()} == {"low"}


def test_two_engines_with_one_allocation_have_the_slices_that_their_processes_are_on(tmp_path: Path) -> None:
    tree = ProcessTree(tmp_path)
    given = allocations(holder(CHAT, "MIG-1", "MIG-2"))
    busy = dataclasses.replace(CUT, pids=(21, 22), instances=(instance(1, 21), instance(2, 22), instance(3)))
    seats = [seat(f"e{pid}", given.of(CHAT), listener=tree.add(pid)) for pid in (21, 22)]
    assert [p.shares_ppm for p in place(seats, (busy,), tree.table).values()] == [(428_572,), (285_714,)]


def test_a_board_that_was_given_whole_to_two_pods_is_a_half_for_each() -> None:
    given = allocations(holder(CHAT, "GPU-a"), holder(RANK, "GPU-a"))
    assert place([seat("chat", given.of(CHAT))], (A,), NOBODY) == {
        "chat": Placement(("GPU-a",), "share", (), (500_000,), "replicas")
    }


def test_two_engines_in_one_pod_share_unless_containers_tell() -> None:
    given = allocations(holder(CHAT, "GPU-a", container="one"), holder(CHAT, "GPU-b", container="two"))
    both = [seat("one", given.of(CHAT)), seat("two", given.of(CHAT))]
    assert {p.method for p in place(both, (A, B), NOBODY).values()} == {"share"}
    told = [seat("one", given.of(CHAT, "one")), seat("two", given.of(CHAT, "two"))]
    assert place(told, (A, B), NOBODY) == {"one": Placement(("GPU-a",), "pod"), "two": Placement(("GPU-b",), "pod")}


def test_a_container_without_boards_has_those_of_its_pod() -> None:
    """A proxy beside the engine shows the metrics."""
    assert allocations(holder(CHAT, "GPU-a")).of(CHAT, "proxy") == Allocation(("GPU-a",), True)


def test_configured_goes_before_the_kubelet_and_then_both_share() -> None:
    given = allocations(holder(CHAT, "GPU-a"))
    seats = [seat("chat", given.of(CHAT)), seat("other", None, accelerators=("0",))]
    placed = place(seats, (A, B), NOBODY)
    assert placed == {"other": Placement(("GPU-a",), "configured"), "chat": Placement(("GPU-a",), "share")}
    assert place([seat("chat", given.of(CHAT), accelerators=("1",))], (A, B), NOBODY) == {
        "chat": Placement(("GPU-b",), "configured")
    }


def test_a_pod_without_boards_is_not_placed_by_being_alone() -> None:
    """A router on the node of somebody else's boards; without the kubelet's word it would get them."""
    given = allocations(holder(RANK, "GPU-a"))
    busy = (Board("GPU-a", 0, (99,)), B)
    assert place([seat("router", given.of(CHAT))], busy, NOBODY) == {"router": Placement()}
    assert place([seat("router", None)], busy, NOBODY) == {"router": Placement(("GPU-a",), "exclusive")}


def test_boards_of_pods_are_nobody_elses_by_exclusion() -> None:
    given = allocations(holder(RANK, "GPU-a"))
    busy = (Board("GPU-a", 0, (99,)), Board("GPU-b", 1, (77,)))
    placed = place([seat("bare", None)], busy, NOBODY, taken=given.boards())
    assert placed == {"bare": Placement(("GPU-b",), "exclusive")}


def test_a_process_beside_a_pod_on_its_board_makes_a_share(tmp_path: Path) -> None:
    (tmp_path / "20").mkdir()
    (tmp_path / "20/stat").write_text(f"20 (e) S 1 20 1 0 -1 4194304 {'0 ' * 12}1000 0\n")
    processes = Processes(tmp_path, ticks_per_second=100, boot_us=lambda: 0)
    given = allocations(holder(CHAT, "GPU-a"))
    seats = [seat("chat", given.of(CHAT)), seat("bare", None, listener=Process(20, 1, 20, 1000))]
    placed = place(seats, (Board("GPU-a", 0, (20,)), B), processes)
    assert placed == {"chat": Placement(("GPU-a",), "share"), "bare": Placement(("GPU-a",), "share")}


def test_a_router_kind_is_given_nothing() -> None:
    given = allocations(holder(CHAT, "GPU-a"))
    assert place([seat("r", given.of(CHAT), holds_accelerators=False)], (A,), NOBODY) == {"r": Placement()}


def test_pods_that_have_ended_or_are_gone_hold_nothing() -> None:
    """Kubelets list the devices of ended pods for a while; a board then would have two pods."""
    ended = Pod(*RANK, phase="Succeeded")
    given = allocations(holder(CHAT, "GPU-a"), holder(RANK, "GPU-a"), pods=(Pod(*CHAT), ended))
    assert given.of(CHAT) == Allocation(("GPU-a",), True)
    assert given.of(RANK) == Allocation()
    gone = allocations(holder(CHAT, "GPU-a"), holder(RANK, "GPU-a"), pods=(Pod(*CHAT),))
    assert list(gone.pods()) == [CHAT]


def test_a_pod_that_the_api_could_not_show_yet_holds_what_it_was_given() -> None:
    away = Snapshot((holder(CHAT, "GPU-a"),), {}, {"pods": Failure("timeout", "away")})
    assert Allocations(away, Names()).of(CHAT) == Allocation(("GPU-a",), True)


def test_without_the_kubelets_word_nothing_is_known() -> None:
    assert Allocations(Snapshot(), Names()).of(CHAT) is None


def test_ids_of_unknown_boards_are_named() -> None:
    assert allocations(holder(CHAT, "GPU-a", "MIG-strange")).of(CHAT) == Allocation(("GPU-a",), False, ("MIG-strange",))


def test_the_one_pod_on_all_of_these_boards() -> None:
    given = allocations(holder(CHAT, "GPU-a", "GPU-b"), holder(RANK, "GPU-c", "GPU-d::0"), holder(CHAT, "GPU-d::1"))
    assert given.pod_on(["GPU-a", "GPU-b"]) == CHAT
    assert given.pod_on(["GPU-a", "GPU-c"]) is None
    assert given.pod_on(["GPU-d"]) is None
    assert given.pod_on(["GPU-elsewhere"]) is None
    assert given.pod_on([]) is None
