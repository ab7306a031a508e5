"""Servers behind ports of other network namespaces: what Docker publishes, and containers by their own addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.process_tree import ProcessTree, docker
from wattmill_collector.placement import Board, Placement, Seat, lay_out
from wattmill_collector.placement.networks import Networks, parse_addresses
from wattmill_collector.placement.process import Process

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 172.17.0.0/16 2 0 2
        |-- 172.17.0.0
           /16 link UNICAST
        |-- 172.17.0.2
           /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
"""
SIX = """00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000007 02 40 00 80     eth0
nonsense
"""


def test_addresses_of_a_namespace() -> None:
    assert parse_addresses(TRIE, SIX) == {"172.17.0.2", "fd00::7"}
    assert parse_addresses("", "") == frozenset()


@pytest.fixture
def tree(tmp_path: Path) -> ProcessTree:
    """Two containers that serve on the same port, each in a network of its own; their workers hold a board."""
    tree = ProcessTree(tmp_path)
    for n, base in ((2, 200), (3, 300)):
        where = docker(n)
        tree.add(base, cgroup=where, network=f"net:[{base}]", sockets=[base + 7])
        tree.add(base + 1, base, cgroup=where, network=f"net:[{base}]", sockets=[base + 7])  # shares the socket
        tree.add(base + 2, base, cgroup=where, network=f"net:[{base}]")
        tree.listen(base + 2, "0.0.0.0", 80, base + 7, f"172.17.0.{n}")
    return tree


def proxy(tree: ProcessTree, pid: int, *words: str) -> Process:
    return tree.add(pid, name="docker-proxy", command=["/usr/bin/docker-proxy", *words])


def to(address: str, port: str) -> tuple[str, ...]:
    return ("-proto", "tcp", "-host-ip", "0.0.0.0", "-container-ip", address, "-container-port", port)


def test_what_docker_publishes_is_placed_in_the_container_behind_it(tree: ProcessTree) -> None:
    seats = [
        Seat("a", listener=proxy(tree, 90, *to("172.17.0.2", "80"))),
        Seat("b", listener=proxy(tree, 91, *to("172.17.0.3", "80"))),
    ]
    boards = (Board("GPU-a", 0, (202,)), Board("GPU-b", 1, (302,)))
    layout = lay_out(seats, boards, tree.table)
    assert layout.engines == {"a": Placement(("GPU-a",), "process"), "b": Placement(("GPU-b",), "process")}
    assert layout.strangers == {}


def test_a_container_asked_by_its_own_address(tree: ProcessTree) -> None:
    seats = [Seat("a", peer=("172.17.0.3", 80)), Seat("elsewhere", peer=("10.0.0.9", 80))]
    placed = lay_out(seats, (Board("GPU-a", 0, (202,)), Board("GPU-b", 1, (302,))), tree.table).engines
    assert placed == {"a": Placement(("GPU-b",), "process"), "elsewhere": Placement()}


@pytest.mark.parametrize(
    "words",
    [
        to("172.17.0.9", "80"),  # no container that computes
        to("172.17.0.2", "81"),
        to("172.17.0.2", "eighty"),
        ("-container-ip", "172.17.0.2", "-container-port"),
        (),
    ],
)
def test_a_proxy_that_leads_nowhere_is_not_the_engine(tree: ProcessTree, words: tuple[str, ...]) -> None:
    """Else everything on the boards would be seen to be another's."""
    assert Networks([202, 302], tree.table).server(proxy(tree, 90, *words), None) is None


def test_a_listener_that_forwards_nothing_is_the_server(tree: ProcessTree) -> None:
    assert Networks([202], tree.table).server(tree[300], None) == tree[300]
    assert Networks([202], tree.table).server(None, None) is None


def test_the_hosts_own_network_is_not_looked_into(tree: ProcessTree) -> None:
    tree.add(400, sockets=[17])
    tree.listen(400, "0.0.0.0", 80, 17, "10.0.0.9")
    assert Networks([400], tree.table).server(None, ("10.0.0.9", 80)) is None


def test_an_engine_of_another_host_gets_no_board_by_being_the_only_one(tree: ProcessTree) -> None:
    boards = (Board("GPU-a", 0, (202,)),)
    layout = lay_out([Seat("e", peer=("10.0.0.9", 8000))], boards, tree.table)
    assert layout.engines["e"] == Placement()
    assert list(layout.strangers) == ["GPU-a"]


def test_where_nobody_may_look_the_only_engine_has_what_is_in_use(tree: ProcessTree) -> None:
    (tree.root / "202/ns/net").unlink()
    layout = lay_out([Seat("e", peer=("10.0.0.9", 8000))], (Board("GPU-a", 0, (202,)),), tree.table)
    assert layout.engines["e"] == Placement(("GPU-a",), "exclusive")
