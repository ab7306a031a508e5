"""Servers behind ports of other network namespaces: what Docker publishes, and containers by their own addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.process_tree import ProcessTree, docker
from wattmill_collector.placement import Board, Placement, Seat, lay_out
from wattmill_collector.placement.networks import Networks, parse_addresses, pasta_port
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
    assert Networks([202, 302], tree.table).servers({"e": (proxy(tree, 90, *words), None, 80)}) == {}


def test_a_listener_that_forwards_nothing_is_the_server(tree: ProcessTree) -> None:
    found = Networks([202], tree.table).servers({"e": (tree[300], None, 80), "unknown": (None, None, 80)})
    assert found == {"e": tree[300]}


def test_the_hosts_own_network_is_not_looked_into(tree: ProcessTree) -> None:
    tree.add(400, sockets=[17])
    tree.listen(400, "0.0.0.0", 80, 17, "10.0.0.9")
    assert Networks([400], tree.table).servers({"e": (None, ("10.0.0.9", 80), 80)}) == {}


def test_an_engine_of_another_host_gets_no_board_by_being_the_only_one(tree: ProcessTree) -> None:
    boards = (Board("GPU-a", 0, (202,)),)
    layout = lay_out([Seat("e", peer=("10.0.0.9", 8000))], boards, tree.table)
    assert layout.engines["e"] == Placement()
    assert list(layout.strangers) == ["GPU-a"]


def test_where_nobody_may_look_the_only_engine_has_what_is_in_use(tree: ProcessTree) -> None:
    (tree.root / "202/ns/net").unlink()
    layout = lay_out([Seat("e", peer=("10.0.0.9", 8000))], (Board("GPU-a", 0, (202,)),), tree.table)
    assert layout.engines["e"] == Placement(("GPU-a",), "exclusive")


# --- Podman ---


@pytest.mark.parametrize(
    ("ports", "inside"),
    [
        ("8000-8000:80-80", 80),  # as Podman says it
        ("127.0.0.1/8000-8000:80-80", 80),
        ("7990-8010:70-90", 80),
        ("8000:80", 80),
        ("22,8000", 8000),
        ("8000-8001", 8000),
        ("8001-8001:80-80", 0),
        ("none", 0),
        ("auto", 0),
        ("~8000", 0),
        ("8000:", 8000),
        ("²", 0),
        ("8" * 5000, 0),
    ],
)
def test_where_pasta_forwards_a_port_to(ports: str, inside: int) -> None:
    assert pasta_port(["pasta", "--config-net", "-t", ports, "-u", "8000:53"], 8000) == inside


@pytest.mark.parametrize("name", ["pasta", "pasta.avx2", "passt.avx2"])
@pytest.mark.parametrize("is_mounted", [True, False])
def test_pasta_leads_into_the_namespace_that_it_has_open(tree: ProcessTree, name: str, is_mounted: bool) -> None:
    words = ["pasta", "-t", "8000-8000:80-80", "--netns", "/run/user/1000/netns/netns-3"]
    pasta = tree.add(90, name=name, command=words)
    boards = (Board("GPU-a", 0, (202,)), Board("GPU-b", 1, (302,)))
    other = Seat("other", listener=tree[200])
    assert lay_out([other, Seat("a", listener=pasta, port=8000)], boards, tree.table).engines["a"] == Placement()
    mounted = tree.root / "netns-3"
    mounted.touch()
    for pid in (300, 301, 302) if is_mounted else ():
        (tree.root / f"{pid}/ns/net").unlink()
        (tree.root / f"{pid}/ns/net").symlink_to(f"net:[{mounted.stat().st_ino}]")
    (tree.root / "90/fd/8").symlink_to("/dev/null")
    (tree.root / "90/fd/9").symlink_to(mounted if is_mounted else "net:[300]")
    for port, placement in ((8000, Placement(("GPU-b",), "process")), (8001, Placement())):
        seat = Seat("a", listener=pasta, port=port)
        assert lay_out([other, seat], boards, tree.table).engines["a"] == placement


@pytest.fixture
def podman(tmp_path: Path) -> ProcessTree:
    """Two containers below their monitors; 90 and 91 forward a port of the first, 92 one of nobody that computes."""
    tree = ProcessTree(tmp_path)
    for pid, pipe in ((20, 5), (30, 6)):
        tree.add(pid, name="conmon", start=1000)
        tree.add(pid + 1, pid, name="python3", network=f"net:[{pid}]")
        (tree.root / f"{pid}/fd/7").symlink_to(f"pipe:[{pipe}]")
    for pid, name, pipe in ((90, "rootlessport", 5), (91, "slirp4netns", 5), (92, "rootlessport", 7)):
        tree.add(pid, name=name)
        (tree.root / f"{pid}/fd/3").symlink_to(f"pipe:[{pipe}]")
    return tree


PODMAN_BOARDS = (Board("GPU-a", 0, (21,)), Board("GPU-b", 1, (31,)))


@pytest.mark.parametrize("forwarder", [90, 91, 20])  # 20: as root, Podman has the monitor itself keep the port
def test_what_podman_forwards_is_placed_below_its_monitor(podman: ProcessTree, forwarder: int) -> None:
    placed = lay_out([Seat("a", listener=podman[forwarder])], PODMAN_BOARDS, podman.table).engines
    assert placed["a"] == Placement(("GPU-a",), "process")


def test_two_ports_of_one_podman_container_are_neithers(podman: ProcessTree) -> None:
    seats = [Seat("a", listener=podman[90]), Seat("b", listener=podman[20]), Seat("c", listener=podman[30])]
    placed = lay_out(seats, PODMAN_BOARDS, podman.table).engines
    assert placed == {"a": Placement(), "b": Placement(), "c": Placement(("GPU-b",), "process")}
    assert "several engines behind ports of the container of process 20 (conmon)" in placed["a"].doubt
    assert placed["b"].doubt == placed["a"].doubt


def test_a_forwarder_of_a_container_without_a_board_holds_none(podman: ProcessTree) -> None:
    placed = lay_out([Seat("a", listener=podman[92]), Seat("c", listener=podman[30])], PODMAN_BOARDS, podman.table)
    assert placed.engines["a"] == Placement()
    assert list(placed.strangers) == ["GPU-a"]


def test_rootless_docker_does_not_give_one_container_the_boards_of_all(podman: ProcessTree) -> None:
    """Its port's listener stands above every container that it runs."""
    kit = podman.add(40, name="rootlesskit")
    podman.add(41, 40, name="dockerd")
    podman.add(42, 41)
    seats = [Seat("a", listener=kit), Seat("c", listener=podman[30])]
    placed = lay_out(seats, (Board("GPU-a", 0, (42,)), Board("GPU-b", 1, (31,))), podman.table).engines
    assert placed == {"a": Placement(), "c": Placement(("GPU-b",), "process")}
    assert "kept by process 40 (rootlesskit), which does not say where it forwards to" in placed["a"].doubt
