"""Signs that a placement is out of date: processes that ended, sockets that opened; how often they may be acted on."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from support.process_tree import ProcessTree
from wattmill_collector.placement.process import Processes, is_zombie
from wattmill_collector.placement.signs import Pace, Signs

SECOND_US = 1_000_000
START_US = 1_764_030_001 * SECOND_US


def done(pace: Pace, *signs: int, until: int = 60) -> list[int]:
    """The seconds in which something is done while signs come in these."""
    return [s for s in range(until) if pace.is_due(START_US + s * SECOND_US, wanted=s in signs)]


def test_the_first_sign_is_followed_at_once_and_a_lone_later_one_too() -> None:
    assert done(Pace(), 3, 50) == [3, 50]
    assert done(Pace()) == []


def test_signs_that_keep_coming_are_followed_less_and_less() -> None:
    assert done(Pace(), *range(60)) == [0, 1, 3, 7, 15, 23, 31, 39, 47, 55]


def test_a_sign_that_comes_too_early_is_kept() -> None:
    assert done(Pace(), 0, 1, 2) == [0, 1, 3]


def test_after_a_calm_it_is_as_at_first() -> None:
    assert done(Pace(), 0, 1, 3, 7, 50, 51) == [0, 1, 3, 7, 50, 51]


def test_a_clock_that_is_set_back_stops_nothing() -> None:
    pace = Pace()
    assert pace.is_due(START_US, wanted=True)
    assert pace.is_due(START_US - 3600 * SECOND_US, wanted=True)


def test_a_process_that_was_watched_has_ended(tmp_path: Path) -> None:
    tree = ProcessTree(tmp_path)
    tree.add(20)
    tree.add(30)
    signs = Signs(tree.table)
    signs.watch([20, 30])
    assert not signs.has_ended()
    tree.end(30)
    assert signs.has_ended()
    signs.watch([20])
    assert not signs.has_ended()


def test_a_process_that_the_driver_names_after_its_end_is_a_sign_until_it_does_not(tmp_path: Path) -> None:
    tree = ProcessTree(tmp_path)
    tree.add(30)
    signs = Signs(tree.table)
    signs.watch([30])
    tree.end(30)
    signs.watch([30])
    assert signs.has_ended()
    tree.add(30, start=9_999)  # another process with its id
    assert signs.has_ended()
    signs.watch([30])
    assert not signs.has_ended()


def test_processes_that_are_not_seen_give_no_sign(tmp_path: Path) -> None:
    signs = Signs(ProcessTree(tmp_path).table)
    signs.watch([4242])
    assert not signs.has_ended()


def test_a_process_that_waits_to_be_collected_runs_no_more() -> None:
    table = Processes()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        process = table.get(child.pid)
        assert process is not None
        assert table.runs(process)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays to be collected
        assert table.get(child.pid) == process
        assert not table.runs(process)
    assert table.get(child.pid) is None


def test_a_process_whose_first_thread_ended_before_the_others_runs() -> None:
    ended = b"7 (x) Z 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 %d 0 1007 0"
    assert is_zombie(ended % 1)
    assert not is_zombie(ended % 3)


def test_a_port_that_opens_is_seen_once() -> None:
    signs = Signs(Processes())
    assert not signs.has_opened()
    with socket.create_server(("127.0.0.1", 0)):
        assert signs.has_opened()
