"""Whom a webhook may be posted to: public addresses, and those that the operator lists. Pure.

Without this, whoever may add a webhook could have the service knock at its own host, at its neighbours and at the
metadata service of a cloud. What counts is the address that is connected to, never the name.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MOST_CHARACTERS = 2048
# Public in the registry, yet endpoints of a cloud's host: Azure's wire server; Oracle's 192.0.0.192 among protocol
# assignments, which not every release of Python knows to be reserved as a whole.
_METADATA = (ipaddress.IPv4Network("168.63.129.16"), ipaddress.IPv4Network("192.0.0.0/24"))
# What a gateway turns into IPv4 (RFC 6052): the address inside is what counts.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL = ipaddress.IPv6Network("2000::/3")
# IPv6 in there that would be turned into an IPv4 address that was never looked at: 6to4, Teredo.
_CARRIERS = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """An address taken apart. `path` begins with / and holds the query; `host` is without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """As a Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """For people: path and query may hold a token."""
        return f"{self.scheme}://{self.origin}" + ("/…" if self.path != "/" else "/")


_PORTS = {"http": 80, "https": 443}


def parse_url(url: str) -> Target:
    """An address to post to. Errors: ValueError, a sentence about what is wrong with it, without quoting it."""
    if len(url) > MOST_CHARACTERS:
        raise ValueError(f"must not be longer than {MOST_CHARACTERS} characters")
    if not all("!" <= character <= "~" for character in url):
        raise ValueError("must be printable ASCII without spaces; write other names as xn--…")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("must be an address such as https://alerts.example/hook") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or a password")
    if port == 0:
        raise ValueError("must name a port from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], path)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR notation, parted by commas or spaces. Errors: ValueError naming the one that is none."""
    networks: list[Network] = []
    for part in text.replace(",", " ").split():
        try:
            networks.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            raise ValueError(f"{part!r} is no network such as 10.0.0.0/8 or fd00::/8") from None
    return tuple(networks)


def refusal(address: str, allowed: Sequence[Network]) -> str:
    """Why an address must not be connected to; empty if it may be.

    An address that is listed may be, whatever it is. Scopes of IPv6 (fe80::1%eth0) do not change what it is.
    """
    try:
        found: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "is no IP address"
    found = _inside(found)
    if any(found.version == network.version and found in network for network in allowed):
        return ""
    kind = _kind(found)
    return (
        f"is {kind}; --webhook-allow (WATTMILL_WEBHOOK_ALLOW) lists the networks that may be posted to" if kind else ""
    )


def _inside(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _kind(address: Address) -> str:
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_loopback:
        return "this host"
    if address.is_link_local:
        return "a link-local address, where clouds have their metadata"
    if isinstance(address, ipaddress.IPv4Address) and any(address in network for network in _METADATA):
        return "a metadata service"
    if address.is_multicast:
        return "a multicast address"
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _CARRIERS):
            return "an IPv6 address that carries an IPv4 address"
        if address not in _GLOBAL:
            return "a private or reserved address"
    return "" if address.is_global else "a private or reserved address"
