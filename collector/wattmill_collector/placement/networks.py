"""The process that serves behind a port of another network namespace: in a container of this host.

Docker publishes a port by a process of its own, docker-proxy, which listens on the host and names on its command line
where it forwards to; Podman by pasta, which names the ports and has the namespace open. A target may also be a
container's own address. Either way the server is found in that network namespace, if it is one of those of the
processes that hold a board. Podman's other forwarders do not say where to, but keep a pipe to the container's monitor,
conmon; as root Podman has conmon itself keep the port. Then conmon stands for what runs below it, unless several
engines are behind the same one. Reads /proc; where this user may not look, nothing is found.

Ports that only the kernel forwards, and proxies that do not say where to (nginx, ssh), lead nowhere.
Source: podman libpod/oci_conmon_common.go (what conmon is given), containers/common libnetwork/pasta, pasta(1).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from wattmill_collector.placement.process import Process, Processes, inode_of

# Programs that pass on what they are sent: none of them is the engine's own process.
_FORWARDERS = frozenset(
    ("nginx", "envoy", "haproxy", "traefik", "caddy", "socat", "ssh", "sshd", "kubectl", "rootlesskit")
)
_MONITORED = frozenset(("rootlessport", "slirp4netns"))
MONITOR = "conmon"
_REMEDY = "name `accelerators` of this engine, or ask it where it listens itself"


@dataclasses.dataclass(frozen=True, slots=True)
class _Network:
    """One namespace: its addresses, what listens there, and a process in it."""

    name: str
    addresses: frozenset[str]
    listening: dict[tuple[str, int], int]


class Networks:
    """Looks into the namespaces of `holders`, processes that hold a board, other than this process's own."""

    def __init__(self, holders: Collection[int], table: Processes) -> None:
        self._holders = holders
        self._table = table
        self._known: list[_Network] | None = None
        self.doubts: dict[str, str] = {}  # why it is not known what serves a target

    def servers(self, asked: Mapping[str, tuple[Process | None, tuple[str, int] | None, int]]) -> dict[str, Process]:
        """The process that serves each target (listener, peer, port); those left out of which it is not known.

        It is the listener itself, or what that forwards `port` to; else what answers at `peer`.
        """
        found = {target: self._server(*one) for target, one in asked.items()}
        pids = [one.pid for one in found.values() if one is not None]
        servers = {}
        for target, (listener, _, _) in asked.items():
            one = found[target]
            if one is not None and pids.count(one.pid) > 1 and self._table.name(one.pid) == MONITOR:
                self.doubts[target] = (
                    f"it is one of several engines behind ports of the container of process {one.pid} ({MONITOR}):"
                    f" {_REMEDY}"
                )
            elif one is not None:
                servers[target] = one
            elif listener is not None and (name := self._table.name(listener.pid)) in _FORWARDERS:
                self.doubts[target] = (
                    f"its port is kept by process {listener.pid} ({name}), which does not say where it"
                    f" forwards to: {_REMEDY}"
                )
        return servers

    def _server(self, listener: Process | None, peer: tuple[str, int] | None, port: int) -> Process | None:
        if listener is None:
            return None if peer is None else self._at(*peer)
        name = self._table.name(listener.pid).partition(".")[0]  # pasta.avx2, or passt.avx2 where pasta is a link to it
        if name in _MONITORED:
            return self._monitor(listener.pid)
        if name in ("pasta", "passt"):
            return self._behind_pasta(listener.pid, port)
        if name != "docker-proxy":
            return None if name in _FORWARDERS else listener
        said = self._table.command(listener.pid)
        try:
            address, behind = (said[said.index(f"-container-{key}") + 1] for key in ("ip", "port"))
            return self._at(address, int(behind))
        except (ValueError, IndexError):
            return None

    def _behind_pasta(self, pid: int, port: int) -> Process | None:
        inside = pasta_port(self._table.command(pid), port)
        names = self._table.networks_open(pid)
        owners = {
            self._owner(inode, one.name)
            for one in self._all()
            for (_, there), inode in one.listening.items()
            if one.name in names and there == inside
        }
        return owners.pop() if len(owners) == 1 else None

    def _monitor(self, pid: int) -> Process | None:
        """The monitor, above one of the holders, that has an end of a pipe which a forwarder has, too."""
        table = self._table
        pipes = {link for link in table.descriptors(pid) if link.startswith("pipe:[")}
        above = {one for holder in self._holders for one in table.ancestors(holder)}
        found = [
            one for one in above if table.name(one.pid) == MONITOR and not pipes.isdisjoint(table.descriptors(one.pid))
        ]
        return found[0] if len(found) == 1 else None

    def _at(self, address: str, port: int) -> Process | None:
        for one in self._all():
            inode = inode_of(one.listening, address, port) if address in one.addresses else 0
            if inode:
                return self._owner(inode, one.name)
        return None

    def _owner(self, inode: int, network: str) -> Process | None:
        """The process with a socket; the oldest where several share it."""
        table = self._table
        inside = (pid for pid in table.pids() if table.network(pid) == network and inode in table.sockets(pid))
        owners = [process for process in map(table.get, inside) if process is not None]
        return min(owners, key=lambda one: (one.start_ticks, one.pid), default=None)

    def _all(self) -> Iterable[_Network]:
        if self._known is None:
            table = self._table
            places = {name: pid for pid in self._holders if (name := table.network(pid))}
            places.pop(table.network(), None)
            self._known = [
                _Network(name, parse_addresses(table.text(pid, "net/fib_trie"), table.text(pid, "net/if_inet6")), found)
                for name, pid in places.items()
                if (found := table.listening_in(table.root / str(pid)))
            ]
        return self._known


def pasta_port(said: Sequence[str], port: int) -> int:
    """The port in the namespace to which pasta's command line forwards one of the host; 0 where it does not say so."""
    for option, ports in itertools.pairwise(said):
        if option in ("-t", "--tcp-ports"):
            for one in ports.rpartition("/")[2].split(","):
                outside, _, inside = one.partition(":")
                first, _, last = outside.partition("-")
                start = inside.partition("-")[0] or first
                if all(map(_is_port, (first, last or first, start))) and int(first) <= port <= int(last or first):
                    return port - int(first) + int(start)
    return 0


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5


def parse_addresses(trie: str, six: str) -> frozenset[str]:
    """Local addresses by /proc/net/fib_trie and /proc/net/if_inet6, those of the loopback left out."""
    found = set()
    leaf = ""
    for line in trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"] and len(words) > 1:
            leaf = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"] and not leaf.startswith("127."):
            found.add(leaf)
    for line in six.splitlines():
        raw = line[:32]
        if len(raw) == 32 and not raw.startswith("0" * 31):
            try:
                found.add(str(ipaddress.IPv6Address(bytes.fromhex(raw))))
            except ValueError:
                continue
    return frozenset(found)
