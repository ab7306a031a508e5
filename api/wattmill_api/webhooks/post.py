"""One post to a webhook: resolve, look at the addresses, connect to one of them, send, read the status.

Follows no redirect, asks no proxy, and resolves once: what was looked at is what is connected to. Of the answer only
the head is read. All of it ends in bounded time, however slowly a receiver drips. What it means is told by `Outcome`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from wattmill_api.webhooks.address import Network, Target, parse_url, refusal

WITHIN_S = 5.0
LONGEST_RETRY_AFTER_S = 3600
Resolve = Callable[[str, int], Sequence[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a post. Not delivered and not `final`: it may be taken later, not before `retry_after_s`."""

    delivered: bool
    reason: str = ""
    final: bool = False
    status: int | None = None
    retry_after_s: int = 0


class _Refused(OSError):
    """An address that must not be connected to."""


def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, in the order in which to try them. Errors: OSError, UnicodeError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    allowed: Sequence[Network],
    *,
    resolve: Resolve = resolve,
    within_s: float = WITHIN_S,
) -> Outcome:
    """Post a body. Never raises for what a receiver or a network does; reasons name the host at most."""
    try:
        target = parse_url(url)
    except ValueError as error:
        return Outcome(False, f"url: {error}", final=True)
    deadline = time.monotonic() + within_s
    late = f"no whole answer within {within_s:g} s"
    try:
        with _connected(target, allowed, resolve, deadline) as (connection, overdue):
            try:
                connection.request("POST", target.path, body, {**headers, "Host": target.origin, "Connection": "close"})
                response = connection.getresponse()
                status, retry_after = response.status, response.getheader("Retry-After", "")
                response.close()
                if overdue.is_set():  # a head that was cut reads like one that ended
                    return Outcome(False, late)
            except (OSError, http.client.HTTPException) as error:
                return Outcome(False, late if overdue.is_set() or isinstance(error, TimeoutError) else _said(error))
    except TimeoutError:
        return Outcome(False, late)
    except (OSError, UnicodeError) as error:
        return Outcome(False, str(error) if isinstance(error, _Refused) else _said(error))
    return judge(status, retry_after)


def judge(status: int, retry_after: str = "") -> Outcome:
    """What a status means: 2xx is taken, 4xx is refused for good but for 408 and 429, the rest may change."""
    if 200 <= status < 300:
        return Outcome(True, status=status)
    if 300 <= status < 400:
        return Outcome(False, f"answered {status}: redirects are not followed", status=status)
    wait_s = min(int(retry_after[:9]), LONGEST_RETRY_AFTER_S) if retry_after.isascii() and retry_after.isdigit() else 0
    final = 400 <= status < 500 and status not in (408, 429)
    return Outcome(False, f"answered {status}", final, status, wait_s)


@contextlib.contextmanager
def _connected(
    target: Target, allowed: Sequence[Network], resolve: Resolve, deadline: float
) -> Iterator[tuple[http.client.HTTPConnection, threading.Event]]:
    """A connection to the first address that takes one, which is cut at `deadline`; the event tells that it was.

    Errors: OSError, TimeoutError and UnicodeError; _Refused if any address of the host must not be connected to.
    """
    addresses = resolve(target.host, target.port)
    for address in addresses:
        if why := refusal(address, allowed):
            raise _Refused(f"{target.host} has the address {address}, which {why}")
    stream = _first(addresses, target.port, deadline)
    overdue = threading.Event()
    # A second handle on the same connection: it can be shut while another thread waits in TLS or in a slow head.
    handle = stream.dup()

    def cut() -> None:
        overdue.set()
        with contextlib.suppress(OSError):
            handle.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        if target.scheme == "https":
            try:
                stream = ssl.create_default_context().wrap_socket(stream, server_hostname=target.host)
            except OSError:
                if overdue.is_set():
                    raise TimeoutError from None
                raise
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.auto_open = 0  # it would resolve again
        connection.sock = stream
        yield connection, overdue
    finally:
        timer.cancel()
        stream.close()
        handle.close()


def _first(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    last = OSError("its name has no address")
    for address in addresses:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        try:
            return socket.create_connection((address, port), timeout=left_s)
        except OSError as error:
            last = error
    raise last


def _said(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return f"its name can't be resolved: {error.strerror}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return f"no answer: {error.strerror}"
    return f"no answer: {type(error).__name__}"
