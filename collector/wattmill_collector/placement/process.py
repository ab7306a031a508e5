"""Processes, the control groups that they live in, and the ports that they listen on. Reads /proc.

Reads only what the agent's user may read: a listener whose descriptors are hidden has no known process, which is an
answer (None), not an error. Searching all descriptors of all processes is dear on a busy host, so it is done only for a
socket that has not been seen before, likely owners first, and its failure is remembered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from wattmill_collector.clock import boot_id, boot_instant_us
from wattmill_collector.placement.sockets import listening_inodes, listening_sockets

PROC = Path("/proc")
SEARCH_AGAIN_US = 300_000_000
DEEPEST = 64  # ancestors; a longer chain is a loop in what was read while it changed


_CONTAINER = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})")
# Scopes of a login or a terminal, and services that start what has nothing to do with each other.
_SHARED_SCOPES = ("session-", "user@", "app-", "vte-spawn-", "tmux-spawn-")
_SHARED_SERVICES = frozenset(
    f"{name}.service"
    for name in ("atd", "containerd", "cron", "crond", "docker", "kubelet", "ssh", "sshd", "supervisor", "supervisord")
)


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    """What a process lives in: container, pod, and the path of its service or scope; "" where there is none."""

    container: str = ""
    pod: str = ""
    unit: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """One process: pid and start together are unique within a boot, the pid alone is not."""

    pid: int
    parent: int
    group: int
    start_ticks: int


class Processes:
    """The process table under `root`."""

    def __init__(
        self,
        root: Path = PROC,
        *,
        ticks_per_second: int = os.sysconf("SC_CLK_TCK"),
        boot_us: Callable[[], int] = boot_instant_us,
    ) -> None:
        self.root = root
        self.boot_id = boot_id(root / "sys/kernel/random/boot_id")
        self._ticks_per_second = ticks_per_second
        self._boot_us = boot_us

    def get(self, pid: int) -> Process | None:
        """One process, or None when there is none."""
        try:
            stat = (self.root / str(pid) / "stat").read_bytes()
        except OSError:
            return None
        return parse_stat(stat)

    def runs(self, process: Process) -> bool:
        """Whether it is there still, and not only waits to be collected by its parent."""
        try:
            stat = (self.root / str(process.pid) / "stat").read_bytes()
        except OSError:
            return False
        now = parse_stat(stat)
        return now is not None and now.start_ticks == process.start_ticks and not is_zombie(stat)

    def start_us(self, process: Process) -> int:
        """When the process was started, to the kernel's tick (10 ms)."""
        tick_us = 1_000_000 // self._ticks_per_second
        return round((self._boot_us() + process.start_ticks * tick_us) / tick_us) * tick_us

    def ancestors(self, pid: int) -> Iterator[Process]:
        """Parent, grandparent and so on, without pid 1: everything descends from that."""
        process = self.get(pid)
        for _ in range(DEEPEST):
            if process is None or process.parent <= 1:
                return
            process = self.get(process.parent)
            if process is not None:
                yield process

    def home(self, pid: int) -> Home:
        """The control groups that tell this container, pod or service from others."""
        return parse_home(self.text(pid, "cgroup"))

    def name(self, pid: int) -> str:
        """What the kernel calls a process, at most 15 characters: the program, or what it set itself; "" unknown."""
        return self.text(pid, "comm").rstrip("\n")

    def command(self, pid: int) -> list[str]:
        """The command line; empty where it can't be read."""
        return self.text(pid, "cmdline").rstrip("\x00").split("\x00")

    def text(self, pid: int, file: str) -> str:
        """A file of a process's folder; "" where it can't be read."""
        try:
            return (self.root / str(pid) / file).read_text(errors="replace")
        except OSError:
            return ""  # the process has ended

    def descriptors(self, pid: int) -> set[str]:
        """What a process has open, as /proc names it: `socket:[inode]`, a path; empty when this user may not look."""
        folder = f"{self.root}/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            return set()  # the process ended, or is another user's
        return {_link(f"{folder}/{name}") for name in names}

    def sockets(self, pid: int) -> set[int]:
        """Inodes of a process's sockets; empty when this user may not look."""
        links = self.descriptors(pid)
        return {int(link[8:-1]) for link in links if link.startswith("socket:[") and link[8:-1].isdigit()}

    def network(self, pid: int | str = "self") -> str:
        """The network namespace of a process, this one's by default; "" when this user may not look."""
        return _link(f"{self.root}/{pid}/ns/net")

    def networks_open(self, pid: int) -> set[str]:
        """The network namespaces that a process has open; empty when this user may not look.

        One that is mounted somewhere is named by that path, as /var/run/netns is: then its inode tells which it is.
        """
        folder = f"{self.root}/{pid}/fd"
        found = {link for link in self.descriptors(pid) if link.startswith("net:[")}
        paths = {word.rpartition("/")[2] for word in self.command(pid) if "/" in word}
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                link = _link(f"{folder}/{name}")
                if "/" in link and link.rpartition("/")[2] in paths:
                    found.add(f"net:[{os.stat(f'{folder}/{name}').st_ino}]")
        return found

    def pids(self) -> list[int]:
        """All processes."""
        try:
            return [int(name) for name in os.listdir(self.root) if name.isdigit()]
        except OSError:
            return []  # no /proc on this system

    def listening(self) -> dict[tuple[str, int], int]:
        """(local address, port) → inode of every TCP socket that listens."""
        if self.root == PROC:
            with contextlib.suppress(OSError):  # without sock_diag /proc says the same, at fifty times the price
                return listening_sockets()
        return self.listening_in(self.root)

    def listening_inodes(self) -> frozenset[int]:
        """The inodes alone, for a look at every tick; none where the kernel would make that dear."""
        if self.root != PROC:
            return frozenset(self.listening().values())
        try:
            return listening_inodes()
        except OSError:
            return frozenset()

    def listening_in(self, folder: Path) -> dict[tuple[str, int], int]:
        """The same of the network namespace of the process whose folder in /proc it is."""
        found: dict[tuple[str, int], int] = {}
        for name in ("net/tcp", "net/tcp6"):
            try:
                found |= parse_listening((folder / name).read_bytes())
            except OSError:
                continue  # a kernel without IPv6, or no /proc/net at all
        return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""  # a descriptor that was closed meanwhile; a busy server closes some all the time


def parse_stat(stat: bytes) -> Process | None:
    """The fields of /proc/PID/stat; the name in parentheses may itself contain parentheses and spaces."""
    pid, _, rest = stat.partition(b" ")
    fields = rest.rpartition(b")")[2].split()
    try:
        return Process(int(pid), int(fields[1]), int(fields[2]), int(fields[19]))
    except (ValueError, IndexError):
        return None


def is_zombie(stat: bytes) -> bool:
    """Whether /proc/PID/stat is that of a process that has ended; its threads may outlive the first of them."""
    fields = stat.rpartition(b")")[2].split()
    return fields[0] in (b"Z", b"X") and int(fields[17]) <= 1


def parse_home(text: str) -> Home:
    """Container and pod by their ids in any path of /proc/PID/cgroup, the deepest where they are nested; the unit."""
    containers = [found[-1] for line in text.splitlines() if (found := _CONTAINER.findall(line))]
    pods = [found[-1] for line in text.splitlines() if (found := _POD.findall(line))]
    pod = pods[0].replace("_", "-") if pods else ""
    return Home(containers[0] if containers else "", pod, parse_unit(text))


def parse_unit(text: str) -> str:
    """The path of /proc/PID/cgroup (version 2, or the longest of version 1), unless unrelated processes share it."""
    paths = {}
    for line in text.splitlines():
        hierarchy, _, rest = line.partition(":")
        paths[hierarchy] = rest.partition(":")[2]
    path = paths.get("0") or max(paths.values(), key=len, default="")
    last = path.rpartition("/")[2]
    shared = last in ("", "init.scope") or last in _SHARED_SERVICES or last.endswith(".slice")
    return "" if shared or last.startswith(_SHARED_SCOPES) else path


def parse_listening(table: bytes) -> dict[tuple[str, int], int]:
    """/proc/net/tcp or tcp6: state 0A is LISTEN."""
    found: dict[tuple[str, int], int] = {}
    for line in table.splitlines():
        if b" 0A " not in line:
            continue
        fields = line.split()
        try:
            address, _, port = fields[1].partition(b":")
            if fields[3] == b"0A":
                found[_address(address), int(port, 16)] = int(fields[9])
        except (ValueError, IndexError):
            continue
    return found


def _address(text: bytes) -> str:
    """Addresses are printed as 32-bit words in the order of this machine's bytes."""
    words = [bytes.fromhex(text[i : i + 8].decode("ascii", "replace")) for i in range(0, len(text), 8)]
    raw = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    if len(raw) not in (4, 16):
        raise ValueError("not an address")
    ip = ipaddress.ip_address(raw)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)


class Listeners:
    """Which process listens on a local address; remembers its findings and checks them.

    The socket's inode is the check: while a listening socket with the same inode is there and its process runs, it is
    the same process that answers.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._known: dict[int, Process] = {}
        self._unowned: dict[int, int] = {}  # inode → when to search for it again
        self._table: tuple[int, dict[tuple[str, int], int]] = (-1, {})

    def process(self, address: str, port: int, now_us: int, likely: Iterable[int] = ()) -> Process | None:
        """The process behind a local address now; the oldest where several share the socket. None: it can't be known.

        The table of sockets is read once for all calls with the same `now_us`.
        """
        if self._table[0] != now_us:
            self._table = now_us, self.processes.listening()
            inodes = set(self._table[1].values())
            self._known = {inode: process for inode, process in self._known.items() if inode in inodes}
            self._unowned = {inode: until for inode, until in self._unowned.items() if inode in inodes}
        inode = inode_of(self._table[1], address, port)
        known = self._known.get(inode)
        if known is not None and self.processes.runs(known):
            return known
        if not inode or 0 < self._unowned.get(inode, 0) - now_us <= SEARCH_AGAIN_US:
            return None
        owner = self._owner(inode, likely)
        if owner is None:
            self._unowned[inode] = now_us + SEARCH_AGAIN_US
        else:
            self._known[inode] = owner
        return owner

    def _owner(self, inode: int, likely: Iterable[int]) -> Process | None:
        table = self.processes
        first = dict.fromkeys(likely)
        for pid in list(first):
            first |= dict.fromkeys(p.pid for p in table.ancestors(pid))
        people = (*first, *(pid for pid in table.pids() if pid not in first))
        found = next((pid for pid in people if inode in table.sockets(pid)), None)
        owner = None if found is None else table.get(found)
        for ancestor in () if found is None else table.ancestors(found):
            if inode not in table.sockets(ancestor.pid):
                break
            owner = ancestor
        return owner


def inode_of(listening: Mapping[tuple[str, int], int], address: str, port: int) -> int:
    """The socket that answers at an address; 0 when none does."""
    anywhere = ("0.0.0.0", "::") if ":" not in address else ("::",)
    return next((listening[a, port] for a in (address, *anywhere) if (a, port) in listening), 0)


def candidates(holders: Iterable[int], table: Processes) -> dict[tuple[str, int], int]:
    """(address to connect to, port) → pid, for what the processes that hold a board and their ancestors listen on."""
    listening = table.listening()
    by_inode = {inode: place for place, inode in listening.items()}
    people: dict[int, None] = {}
    for pid in holders:
        people[pid] = None
        people |= dict.fromkeys(p.pid for p in table.ancestors(pid))
    found: dict[tuple[str, int], int] = {}
    for pid in people:
        for inode in table.sockets(pid) & by_inode.keys():
            address, port = by_inode[inode]
            found[_reachable(address), port] = pid
    return found


def _reachable(address: str) -> str:
    ip = ipaddress.ip_address(address)
    if not ip.is_unspecified:
        return address
    return "127.0.0.1" if ip.version == 4 or socket.has_dualstack_ipv6() else "::1"
