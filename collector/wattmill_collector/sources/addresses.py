"""Where a target is: what its URL says, which addresses its name has, and which of them an agent may connect to.

Targets come from the local configuration and, in Kubernetes, from the pods of this node: a pod can name its own port
and path, and its address is the API's word. Even so an agent connects to no link-local, multicast or metadata
address, however it is spelled, and only to an address that was checked, never to a name.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import threading
import urllib.parse
from collections.abc import Callable, Sequence

MAX_URL_CHARACTERS = 512

Address = tuple[str, int]
Resolve = Callable[[str, int], Sequence[Address]]

# Cloud metadata services outside the link-local range: AWS over IPv6, Alibaba, Oracle.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no page: a short machine word, and a sentence for the person on call."""

    reason: str
    detail: str


class FetchError(Exception):
    """Ends one exchange; carries the Failure."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.failure = Failure(reason, detail)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a target is: parts of its URL."""

    secure: bool
    host: str
    port: int
    path: str


def place_of(url: str, default_path: str = "/metrics") -> Place:
    """Check a configured target.

    Errors: ValueError saying what is wrong with it.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise ValueError(f"target {url[:80]!r}… is longer than {MAX_URL_CHARACTERS} characters")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"target {url!r} must begin with http:// or https://")
    if not parts.hostname:
        raise ValueError(f"target {url!r} names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "a target must not contain a user name or password: it is stored and shown as the engine's name"
        )
    secure = parts.scheme == "https"
    path = parts.path if parts.path not in ("", "/") else default_path
    path = urllib.parse.quote(path, safe="/%:@!$&'()*+,;=~-._") + (f"?{parts.query}" if parts.query else "")
    if (
        not path.isascii()
        or any(c.isspace() for c in path)
        or not parts.hostname.isprintable()
        or " " in parts.hostname
    ):
        raise ValueError(f"target {url!r} contains a character that a URL can't have")
    return Place(secure, parts.hostname, parts.port or (443 if secure else 80), path)


def is_denied(address: str) -> bool:
    """Whether an agent must not connect there: link-local, metadata, multicast, reserved addresses, however spelled."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_denied(str(inner))
        return ip.is_link_local or ip.is_multicast or ip in _METADATA
    return ip.is_link_local or ip.is_multicast or ip.is_reserved or ip in _METADATA


def resolve(host: str, port: int) -> list[Address]:
    """Addresses of a host, IPv4 first (most engines listen there only). Errors: OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {str(a[4][0]): a[0] for a in found}
    return [(ip, port) for ip in sorted(addresses, key=lambda ip: addresses[ip] != socket.AF_INET)]


class Names:
    """Resolves names without holding up the tick: a slow name server costs its own target an answer, and no other's."""

    def __init__(self, resolve_: Resolve = resolve) -> None:
        self._resolve = resolve_
        self._found: dict[Address, Sequence[Address] | OSError] = {}
        self._asking: dict[Address, threading.Thread] = {}

    def look_up(self, host: str, port: int, wait_s: float) -> Sequence[Address]:
        """Addresses, asked anew each time. Errors: FetchError when the name has none, or none yet."""
        key = (host, port)
        if _is_address(host):
            return [key]
        if host == "localhost":  # RFC 6761: needs no name server
            return [("127.0.0.1", port), ("::1", port)]
        thread = self._asking.get(key)
        if thread is None:
            self._found.pop(key, None)
            thread = threading.Thread(target=self._ask, args=(key,), daemon=True, name=f"resolve-{host}")
            self._asking[key] = thread
            thread.start()
        thread.join(max(0.0, wait_s))
        if thread.is_alive():
            raise FetchError("name_not_resolved", f"no answer from the name server for {host} yet")
        del self._asking[key]
        found = self._found[key]
        if isinstance(found, OSError) or not found:
            raise FetchError("name_not_resolved", f"{host} has no address: {found}")
        return found

    def _ask(self, key: Address) -> None:
        try:
            self._found[key] = self._resolve(*key)
        except OSError as error:
            self._found[key] = error
        except UnicodeError as error:  # getaddrinfo on a label of more than 63 characters
            self._found[key] = OSError(str(error))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
