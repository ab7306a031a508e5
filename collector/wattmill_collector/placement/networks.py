"""The process that serves behind a port of another network namespace: in a container of this host.

Docker publishes a port by a process of its own, docker-proxy, which listens on the host and names on its command line
where it forwards to; a target may also be a container's own address. Either way the server is found in the network
namespace, among those of the processes that hold a board, which has that address. Reads /proc; where this user may not
look, nothing is found.

Ports that only the kernel forwards, and proxies that do not say where to (nginx, ssh, rootlessport), lead nowhere.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Collection, Iterable

from wattmill_collector.placement.process import Process, Processes, inode_of

# Programs that pass on what they are sent: none of them is the engine's own process.
_FORWARDERS = frozenset(
    ("docker-proxy", "rootlessport", "slirp4netns", "pasta", "nginx", "envoy", "haproxy", "traefik", "caddy", "socat")
) | {"ssh", "sshd", "kubectl"}


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

    def server(self, listener: Process | None, peer: tuple[str, int] | None) -> Process | None:
        """The process that serves: the listener itself, or what it forwards to; else what answers at `peer`."""
        if listener is None:
            return None if peer is None else self._at(*peer)
        if self._table.name(listener.pid) not in _FORWARDERS:
            return listener
        said = self._table.command(listener.pid)
        try:
            address, port = (said[said.index(f"-container-{key}") + 1] for key in ("ip", "port"))
            return self._at(address, int(port))
        except (ValueError, IndexError):
            return None

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
