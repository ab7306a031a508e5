"""Boards that several hold: MIG instances, processes of nobody, configured parts, workers."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.process_tree import ProcessTree
from wattmill_collector.placement import Board, Instance, Placement, Seat, lay_out
from wattmill_collector.placement.boards import PPM, divided, pieces_of

A, B = Board("GPU-a", 0, ()), Board("GPU-b", 1, ())


@pytest.fixture
def tree(tmp_path: Path) -> ProcessTree:
    return ProcessTree(tmp_path)


def mig(*instances: tuple[int, tuple[int, ...] | None], uuid: str = "GPU-a") -> Board:
    """A board of instances: (slices, processes) of each."""
    cut = tuple(Instance(f"MIG-{n}", n, 0, size, size, pids) for n, (size, pids) in enumerate(instances, 1))
    return Board(uuid, 0, tuple(sorted({p for one in cut for p in one.pids or ()})), cut)


def engine(tree: ProcessTree, pid: int, *names: str, shares: tuple[int, ...] = ()) -> Seat:
    return Seat(f"e{pid}", names, tree.add(pid), shares_ppm=shares)


# --- how a board is cut ---


@given(st.integers(0, 10**9), st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_parts_add_up_and_none_is_a_unit_off(whole: int, weights: list[int]) -> None:
    parts = divided(whole, weights)
    total = sum(weights)
    assert sum(parts) == (whole if total else 0)
    assert all(
        abs(Fraction(part) - Fraction(whole * w, total or 1)) < 1 for part, w in zip(parts, weights, strict=True)
    )


@given(st.permutations([1, 1, 2, 3]))
def test_instances_of_any_order_are_all_of_the_board(sizes: list[int]) -> None:
    pieces = pieces_of(mig(*((size, None) for size in sizes)).instances or ())
    assert pieces is not None
    assert sum(piece.ppm for piece in pieces.values()) == PPM
    for n, size in enumerate(sizes, 1):
        assert abs(pieces[f"MIG-{n}"].ppm - Fraction(size * PPM, 7)) < 1


def test_compute_instances_divide_their_gpu_instance() -> None:
    cut = (Instance("a", 1, 0, 3, 1), Instance("b", 1, 1, 3, 2), Instance("c", 2, 0, 4, 4))
    pieces = pieces_of(cut)
    assert pieces is not None
    assert [piece.ppm for piece in pieces.values()] == [142_857, 285_714, 571_429]


def test_instances_without_ids_are_apart_and_without_slices_unknown() -> None:
    nameless = (Instance("a", -1, -1, 4, 4), Instance("b", -1, -1, 3, 3))
    assert [piece.ppm for piece in (pieces_of(nameless) or {}).values()] == [571_429, 428_571]
    assert pieces_of((*nameless, Instance("c", 3, 0))) is None


# --- MIG ---


def test_three_tenants_of_one_board(tree: ProcessTree) -> None:
    seats = [engine(tree, pid) for pid in (21, 22, 23)]
    placed = lay_out(seats, (mig((3, (21,)), (2, (22,)), (2, (23,))),), tree.table).engines
    assert [p.shares_ppm for p in placed.values()] == [(428_572,), (285_714,), (285_714,)]
    assert {(p.accelerators, p.method, p.share_by, p.confidence) for p in placed.values()} == {
        (("GPU-a",), "share", "mig", "medium")
    }


def test_an_instance_of_somebody_else_stays_nobodys(tree: ProcessTree) -> None:
    seats = [engine(tree, 21), engine(tree, 22)]
    tree.add(99, name="train")
    layout = lay_out(seats, (mig((3, (21,)), (2, (22,)), (2, (99,))),), tree.table)
    assert [p.shares_ppm for p in layout.engines.values()] == [(428_572,), (285_714,)]
    assert [p.pid for p in layout.strangers["GPU-a"]] == [99]


def test_a_stranger_in_the_engines_own_instance_has_a_half_of_it(tree: ProcessTree) -> None:
    seats = [engine(tree, 21), engine(tree, 22)]
    tree.add(99)
    placed = lay_out(seats, (mig((3, (21, 99)), (4, (22,))),), tree.table).engines
    assert placed["e21"] == Placement(("GPU-a",), "share", (), (214_286,), "processes")
    assert placed["e22"].shares_ppm == (571_429,)
    assert (placed["e21"].confidence, placed["e22"].confidence) == ("low", "medium")


def test_an_engine_over_two_instances_and_another_board(tree: ProcessTree) -> None:
    seats = [engine(tree, 21), engine(tree, 22)]
    boards = (mig((3, (21,)), (2, (21,)), (2, (22,))), Board("GPU-b", 1, (21,)))
    placed = lay_out(seats, boards, tree.table).engines
    assert placed["e21"].accelerators == ("GPU-a", "GPU-b")
    assert placed["e21"].shares_ppm == (714_286, PPM)


@pytest.mark.parametrize("names", [("MIG-2",), ("0:2",), ("GPU-a:2:0",)])
def test_an_instance_that_is_configured(tree: ProcessTree, names: tuple[str, ...]) -> None:
    placed = lay_out([Seat("e", names)], (mig((3, None), (2, None), (2, None)),), tree.table).engines["e"]
    assert placed == Placement(("GPU-a",), "configured", (), (285_714,), "mig")
    assert placed.confidence == "medium"


def test_an_instance_that_is_not_there_is_missing(tree: ProcessTree) -> None:
    placed = lay_out([Seat("e", ("MIG-9", "1"))], (mig((3, None)), B), tree.table).engines["e"]
    assert placed == Placement(("GPU-b",), "configured", ("MIG-9",))


def test_where_the_driver_names_no_instance_the_engine_is_nowhere_and_it_is_said(tree: ProcessTree) -> None:
    board = dataclasses.replace(mig((3, None), (4, None)), pids=(21, 22))
    placed = lay_out([engine(tree, 21), engine(tree, 22)], (board,), tree.table).engines
    assert placed == {"e21": Placement(), "e22": Placement()}
    assert placed["e21"].doubt.startswith("the driver does not say on which MIG instance of GPU-a")


def test_the_only_instance_needs_no_name(tree: ProcessTree) -> None:
    board = dataclasses.replace(mig((7, None)), pids=(21,))
    placed = lay_out([engine(tree, 21), engine(tree, 22)], (board,), tree.table).engines
    assert placed["e21"].shares_ppm == (PPM,)


def test_instances_of_unknown_size_are_no_shares(tree: ProcessTree) -> None:
    board = mig((0, (21,)), (0, (22,)))
    placed = lay_out([engine(tree, 21), engine(tree, 22)], (board,), tree.table).engines
    assert placed["e21"] == Placement()
    assert "how large the MIG instances" in placed["e21"].doubt


def test_the_only_engine_has_the_instances_in_use(tree: ProcessTree) -> None:
    tree.add(99)
    placed = lay_out([Seat("e")], (mig((3, (99,)), (4, ())),), tree.table).engines["e"]
    assert placed == Placement(("GPU-a",), "exclusive", (), (428_571,), "mig")


# --- processes of nobody ---


def test_a_foreign_process_costs_an_engine_its_part_of_the_board(tree: ProcessTree) -> None:
    tree.add(98, group=90)
    tree.add(99, group=90)  # one group, one claim
    seats = [engine(tree, 21), engine(tree, 22)]
    layout = lay_out(seats, (Board("GPU-a", 0, (21, 98, 99)), Board("GPU-b", 1, (22,))), tree.table)
    assert layout.engines == {
        "e21": Placement(("GPU-a",), "share", (), (500_000,), "processes"),
        "e22": Placement(("GPU-b",), "process"),
    }
    assert layout.engines["e21"].confidence == "low"


def test_only_once_it_has_stayed(tree: ProcessTree) -> None:
    tree.add(99)
    boards = (Board("GPU-a", 0, (21, 99)),)
    placed = lay_out([engine(tree, 21)], boards, tree.table, stays=lambda _board, _process: False).engines
    assert placed["e21"] == Placement(("GPU-a",), "process")


def test_two_engines_and_two_foreign_groups_have_a_quarter_each(tree: ProcessTree) -> None:
    tree.add(98)
    tree.add(99)
    placed = lay_out([engine(tree, 21), engine(tree, 22)], (Board("GPU-a", 0, (21, 22, 98, 99)),), tree.table).engines
    assert {p.shares_ppm for p in placed.values()} == {(250_000,)}


def test_the_server_of_mps_is_no_claim_and_its_clients_are(tree: ProcessTree) -> None:
    tree.add(99, name="nvidia-cuda-mps-server")
    layout = lay_out([engine(tree, 21), engine(tree, 22)], (Board("GPU-a", 0, (21, 22, 99)),), tree.table)
    assert layout.engines["e21"] == Placement(("GPU-a",), "share")
    assert layout.engines["e21"].confidence == "low"
    assert layout.engines["e21"].pids == {21}
    assert layout.strangers == {}
    alone = lay_out([engine(tree, 31), engine(tree, 32)], (Board("GPU-a", 0, (31, 99)),), tree.table)
    assert alone.engines["e31"] == Placement(("GPU-a",), "process")


def test_a_process_that_is_not_seen_costs_nothing(tree: ProcessTree) -> None:
    """It has ended since the list was read, or lives in another process namespace."""
    layout = lay_out([engine(tree, 21)], (Board("GPU-a", 0, (21, 4711)),), tree.table)
    assert layout.engines["e21"] == Placement(("GPU-a",), "process")
    assert layout.strangers == {}


def test_boards_that_are_given_are_given_whoever_computes_there(tree: ProcessTree) -> None:
    tree.add(99)
    layout = lay_out(
        [Seat("e", ("0",))], (Board("GPU-a", 0, (99,)), Board("GPU-b", 1, (99,))), tree.table, taken={"GPU-b"}
    )
    assert layout.engines["e"] == Placement(("GPU-a",), "configured")
    assert layout.strangers == {}


def test_exclusion_gives_nothing_that_is_seen_to_be_anothers(tree: ProcessTree) -> None:
    """The only engine of the node is known by its process; what computes there is a training, or a worker left over."""
    tree.add(99, name="train")
    layout = lay_out([engine(tree, 21)], (Board("GPU-a", 0, (99,)), B), tree.table)
    assert layout.engines["e21"] == Placement()
    assert [p.pid for p in layout.strangers["GPU-a"]] == [99]


def test_exclusion_gives_the_boards_of_rays_workers(tree: ProcessTree) -> None:
    tree.add(50, name="raylet")
    tree.add(51, 50, name="ray::RayWorkerWrapper")
    placed = lay_out([engine(tree, 21)], (Board("GPU-a", 0, (51,)), B), tree.table).engines
    assert placed["e21"] == Placement(("GPU-a",), "exclusive")
    assert placed["e21"].confidence == "medium"


def test_exclusion_leaves_out_what_outlived_its_server(tree: ProcessTree) -> None:
    tree.add(50, name="VLLM::Worker_TP0")
    tree.add(60, name="vllm")
    boards = (Board("GPU-a", 0, (50,)), Board("GPU-b", 1, (60,)))
    assert lay_out([Seat("e")], boards, tree.table).engines["e"] == Placement(("GPU-b",), "exclusive")


# --- configured parts ---


def test_configured_parts(tree: ProcessTree) -> None:
    seats = [Seat("e", ("0", "1"), shares_ppm=(300_000, 500_000)), Seat("f", ("0",), shares_ppm=(700_000,))]
    placed = lay_out(seats, (A, B), tree.table).engines
    assert placed["e"] == Placement(("GPU-a", "GPU-b"), "configured", (), (300_000, 500_000), "configured")
    assert placed["f"].shares_ppm == (700_000,)
    assert {p.confidence for p in placed.values()} == {"high"}


def test_a_missing_board_moves_no_share(tree: ProcessTree) -> None:
    placed = lay_out([Seat("e", ("7", "1"), shares_ppm=(300_000, 500_000))], (A, B), tree.table).engines["e"]
    assert placed == Placement(("GPU-b",), "configured", ("7",), (500_000,), "configured")


# --- workers ---


def worker(name: str, *accelerators: str) -> Seat:
    return Seat(name, accelerators, is_worker=True)


def test_a_worker_has_what_it_is_given_and_makes_no_second_engine(tree: ProcessTree) -> None:
    tree.add(99)
    layout = lay_out([Seat("e"), worker("w", "0")], (Board("GPU-a", 0, (99,)), Board("GPU-b", 1, (99,))), tree.table)
    assert layout.engines == {"w": Placement(("GPU-a",), "configured"), "e": Placement(("GPU-b",), "exclusive")}
    assert layout.strangers == {}


def test_a_worker_without_boards_has_those_in_use_that_no_engine_has(tree: ProcessTree) -> None:
    tree.add(99)
    boards = (Board("GPU-a", 0, (21,)), Board("GPU-b", 1, (99,)), Board("GPU-c", 2, ()))
    layout = lay_out([engine(tree, 21), worker("w")], boards, tree.table)
    assert layout.engines == {"e21": Placement(("GPU-a",), "process"), "w": Placement(("GPU-b",), "exclusive")}
    assert layout.strangers == {}


def test_two_workers_without_boards_have_none(tree: ProcessTree) -> None:
    tree.add(99)
    layout = lay_out([worker("v"), worker("w")], (Board("GPU-a", 0, (99,)),), tree.table)
    assert layout.engines == {"v": Placement(), "w": Placement()}
    assert layout.engines["v"].doubt
    assert [p.pid for p in layout.strangers["GPU-a"]] == [99]


def test_a_worker_where_the_driver_lists_no_processes_has_all_boards(tree: ProcessTree) -> None:
    boards = (Board("GPU-a", 0), Board("GPU-b", 1))
    layout = lay_out([Seat("e", ("0",)), worker("w")], boards, tree.table)
    assert layout.engines["w"] == Placement(("GPU-b",), "exclusive")
