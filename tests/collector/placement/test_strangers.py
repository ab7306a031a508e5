"""Boards that are held without an endpoint: said once it is sure, when it changes, and at every minute's edge."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.process_tree import ProcessTree
from wattmill_collector.placement.process import Process
from wattmill_collector.placement.strangers import Strangers
from wattmill_collector.wire import AbsenceReading, Reading

SECOND = 1_000_000
START = 1_764_030_001 * SECOND  # one second after a minute's edge


@pytest.fixture
def tree(tmp_path: Path) -> ProcessTree:
    tree = ProcessTree(tmp_path)
    tree.add(4242, name="VLLM::Worker_TP1", start=176_403_000_000)
    return tree


def look(strangers: Strangers, second: int, *found: Process, board: str = "GPU-a") -> list[Reading]:
    """One placing, and what is said at that tick."""
    strangers.begin(START + second * SECOND)
    for process in found:
        strangers.stays(board, process)
    strangers.take({board: found} if found else {})
    return strangers.absences(START + second * SECOND)


def only(readings: list[Reading]) -> AbsenceReading:
    (one,) = readings
    assert isinstance(one, AbsenceReading)
    return one


def test_it_is_said_at_the_second_listing_and_says_what_to_do(tree: ProcessTree) -> None:
    strangers = Strangers(tree.table)
    assert look(strangers, 0, tree[4242]) == []
    assert not strangers.are_settled()
    said = only(look(strangers, 10, tree[4242]))
    assert strangers.are_settled()
    assert (said.subject, said.id, said.reason, said.start_us) == ("accelerator", "GPU-a", "no_endpoint", START)
    assert said.detail.startswith(
        "the board is held by process 4242 (VLLM::Worker_TP, started 2025-11-25T00:20:00Z), of no engine that is read:"
    )
    assert "`workers:`" in said.detail


def test_it_is_said_again_at_every_minutes_edge_and_not_in_between(tree: ProcessTree) -> None:
    strangers = Strangers(tree.table)
    look(strangers, 0, tree[4242])
    look(strangers, 10, tree[4242])
    said = {second for second in range(11, 180) if strangers.absences(START + second * SECOND)}
    assert said == {59, 119, 179}


def test_a_process_that_was_gone_meanwhile_begins_anew(tree: ProcessTree) -> None:
    strangers = Strangers(tree.table)
    look(strangers, 0, tree[4242])
    assert look(strangers, 10) == []
    assert look(strangers, 20, tree[4242]) == []
    assert only(look(strangers, 30, tree[4242])).start_us == START + 20 * SECOND


def test_another_process_on_the_board_is_news(tree: ProcessTree) -> None:
    strangers = Strangers(tree.table)
    look(strangers, 0, tree[4242])
    look(strangers, 10, tree[4242])
    other = tree.add(77, name="tr\nain")
    assert look(strangers, 20, tree[4242], other) == []
    assert "77 (train, started" in only(look(strangers, 30, tree[4242], other)).detail


def test_many_processes_make_one_short_sentence(tree: ProcessTree) -> None:
    many = [tree.add(100 + n, name="x" * 15) for n in range(200)]
    strangers = Strangers(tree.table)
    look(strangers, 0, *many)
    detail = only(look(strangers, 10, *many)).detail
    assert "and 197 more" in detail
    assert len(detail) <= 512


def test_a_clock_that_was_set_back_does_not_hide_it(tree: ProcessTree) -> None:
    strangers = Strangers(tree.table)
    look(strangers, 3600, tree[4242])
    assert look(strangers, 0, tree[4242]) == []
    assert only(look(strangers, 10, tree[4242])).start_us == START
