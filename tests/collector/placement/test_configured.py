"""Accelerators as an operator writes them."""

from __future__ import annotations

import pytest

from wattmill_collector.placement import Board
from wattmill_collector.placement.configured import configured, remember

BOARDS = (Board("GPU-8932f937-d72c", 0), Board("GPU-8932aaaa-0000", 1), Board("GPU-1111", 3))


@pytest.mark.parametrize(
    ("written", "uuids", "missing"),
    [
        (("0",), ("GPU-8932f937-d72c",), ()),
        (("3", "0"), ("GPU-1111", "GPU-8932f937-d72c"), ()),
        (("2",), (), ("2",)),
        (("GPU-1111",), ("GPU-1111",), ()),
        (("GPU-8932f",), ("GPU-8932f937-d72c",), ()),
        (("GPU-8932",), ("GPU-8932",), ()),  # begins two of them: stands as it is
        (("MIG-5f1c",), ("MIG-5f1c",), ()),  # another source's board
        (("0", "GPU-8932f", "0"), ("GPU-8932f937-d72c",), ()),
        (("99999999999999999999",), (), ("99999999999999999999",)),
    ],
)
def test_written(written: tuple[str, ...], uuids: tuple[str, ...], missing: tuple[str, ...]) -> None:
    assert configured(written, BOARDS) == (uuids, missing)


A, B, NEW = Board("GPU-a", 0, (1,)), Board("GPU-b", 1, (2,)), Board("GPU-new", 0)


def meant(*ticks: tuple[Board, ...]) -> dict[str, tuple[str, ...]]:
    """What `0`, `1` and the beginning of a UUID mean after these ticks."""
    known: tuple[Board, ...] = ()
    for boards in ticks:
        known = remember(known, boards)
    return {name: configured((name,), known)[0] for name in ("0", "1", "GPU-a")}


ALL = {"0": ("GPU-a",), "1": ("GPU-b",), "GPU-a": ("GPU-a",)}


def test_a_lost_board_keeps_its_index_as_long_as_the_agent_runs() -> None:
    assert meant((A, B), (B,), (B,)) == ALL
    assert meant((A, B), ()) == ALL
    assert configured(("0", "1"), remember((A, B), (B,))) == (("GPU-a", "GPU-b"), ())


def test_a_driver_that_closes_the_gap_moves_no_engine() -> None:
    renumbered = Board("GPU-b", 0)
    assert meant((A, B), (renumbered,), (renumbered,)) == ALL


def test_a_board_seen_late_is_known_from_then_on() -> None:
    assert meant((B,), (A, B), (B,)) == ALL


def test_with_all_boards_there_the_order_of_the_driver_counts() -> None:
    alone = Board("GPU-b", 0)  # the agent was started while board 0 was lost
    assert meant((alone,), (A, B)) == ALL
    assert meant((A, B), (Board("GPU-b", 0), Board("GPU-a", 1)))["0"] == ("GPU-b",)


def test_a_board_that_replaces_a_lost_one_has_its_index() -> None:
    swapped = meant((A, B), (NEW, B), (B,))
    assert (swapped["0"], swapped["1"]) == (("GPU-new",), ("GPU-b",))


def test_a_new_board_does_not_take_the_index_of_one_that_is_there() -> None:
    known = remember((A, B), (Board("GPU-b", 0), Board("GPU-new", 1)))
    assert configured(("0", "1", "GPU-n"), known) == (("GPU-a", "GPU-b", "GPU-new"), ())
