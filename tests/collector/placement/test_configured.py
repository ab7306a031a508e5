"""Accelerators as an operator writes them."""

from __future__ import annotations

import pytest

from wattmill_collector.placement import Board, Instance
from wattmill_collector.placement.configured import Named, remember, resolve

BOARDS = (Board("GPU-8932f937-d72c", 0), Board("GPU-8932aaaa-0000", 1), Board("GPU-1111", 3))


@pytest.mark.parametrize(
    ("written", "uuid"),
    [
        ("0", "GPU-8932f937-d72c"),
        ("3", "GPU-1111"),
        ("2", None),
        ("GPU-1111", "GPU-1111"),
        ("GPU-8932f", "GPU-8932f937-d72c"),
        ("GPU-8932", "GPU-8932"),  # begins two of them: stands as it is
        ("GPU-elsewhere", "GPU-elsewhere"),  # another source's board
        ("MIG-5f1c", None),  # what board it would be part of is not known
        ("99999999999999999999", None),
    ],
)
def test_written(written: str, uuid: str | None) -> None:
    assert resolve(written, BOARDS) == (None if uuid is None else Named(uuid))


HALVES = (
    Instance("MIG-aaaa-1", 1, 0, 3, 3),
    Instance("MIG-aabb-2", 2, 0, 4, 1),
    Instance("MIG-aabb-3", 2, 1, 4, 3),
)
DIVIDED = (Board("GPU-8932f937-d72c", 0, instances=HALVES), Board("GPU-1111", 3, instances=()))


@pytest.mark.parametrize(
    ("written", "instances"),
    [
        ("MIG-aaaa-1", ("MIG-aaaa-1",)),
        ("MIG-aa", None),  # begins several
        ("MIG-aaa", ("MIG-aaaa-1",)),
        ("0:1", ("MIG-aaaa-1",)),
        ("0:2", ("MIG-aabb-2", "MIG-aabb-3")),  # all of a GPU instance
        ("0:2:1", ("MIG-aabb-3",)),
        ("0:9", None),
        ("3:1", None),
        ("7:1", None),
        ("GPU-8932f937-d72c:1", ("MIG-aaaa-1",)),
        ("MIG-GPU-8932f937-d72c/2/0", ("MIG-aabb-2",)),
    ],
)
def test_written_instances(written: str, instances: tuple[str, ...] | None) -> None:
    assert resolve(written, DIVIDED) == (None if instances is None else Named("GPU-8932f937-d72c", instances))


A, B, NEW = Board("GPU-a", 0, (1,)), Board("GPU-b", 1, (2,)), Board("GPU-new", 0)


def meant(*ticks: tuple[Board, ...]) -> dict[str, str]:
    """What `0`, `1` and the beginning of a UUID mean after these ticks."""
    known: tuple[Board, ...] = ()
    for boards in ticks:
        known = remember(known, boards)
    return written(known, "0", "1", "GPU-a")


def written(known: tuple[Board, ...], *names: str) -> dict[str, str]:
    return {name: named.board for name in names if (named := resolve(name, known))}


ALL = {"0": "GPU-a", "1": "GPU-b", "GPU-a": "GPU-a"}


def test_a_lost_board_keeps_its_index_as_long_as_the_agent_runs() -> None:
    assert meant((A, B), (B,), (B,)) == ALL
    assert meant((A, B), ()) == ALL
    assert written(remember((A, B), (B,)), "0", "1") == {"0": "GPU-a", "1": "GPU-b"}


def test_a_driver_that_closes_the_gap_moves_no_engine() -> None:
    renumbered = Board("GPU-b", 0)
    assert meant((A, B), (renumbered,), (renumbered,)) == ALL


def test_a_board_seen_late_is_known_from_then_on() -> None:
    assert meant((B,), (A, B), (B,)) == ALL


def test_with_all_boards_there_the_order_of_the_driver_counts() -> None:
    alone = Board("GPU-b", 0)  # the agent was started while board 0 was lost
    assert meant((alone,), (A, B)) == ALL
    assert meant((A, B), (Board("GPU-b", 0), Board("GPU-a", 1)))["0"] == "GPU-b"


def test_a_board_that_replaces_a_lost_one_has_its_index() -> None:
    swapped = meant((A, B), (NEW, B), (B,))
    assert (swapped["0"], swapped["1"]) == ("GPU-new", "GPU-b")


def test_a_new_board_does_not_take_the_index_of_one_that_is_there() -> None:
    known = remember((A, B), (Board("GPU-b", 0), Board("GPU-new", 1)))
    assert written(known, "0", "1", "GPU-n") == {"0": "GPU-a", "1": "GPU-b", "GPU-n": "GPU-new"}
