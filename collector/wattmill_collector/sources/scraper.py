"""Fetches pages from many targets at once: one thread, non-blocking sockets, connections kept open between ticks.

All requests go out first, then the answers are read as they come, until the deadline. The HTTP/1.1 reader is our own
and lean: the whole agent may use 5 ms of CPU a second, and the library's client would take a good part of them.

Promises: http and https only; no redirect is followed; a name is resolved once a connection and the socket goes to the
very address that was checked; link-local, multicast and metadata addresses are refused; a body ends at
`MAX_BODY_BYTES`, a round at its deadline, whatever the other side does. Every failure has a short reason and a
sentence.
"""

from __future__ import annotations

import base64
import dataclasses
import errno
import ipaddress
import os
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Collection, Sequence

from wattmill_collector.sources.addresses import Address, Failure, FetchError, Names, Place, is_denied

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
RECEIVE_BYTES = 64 * 1024  # below malloc's threshold for mapping fresh pages at every call

_REFUSALS = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ETIMEDOUT: "timeout",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A 200 with its body.

    `fresh`: a new connection was made for it; otherwise the process that answered is still the one that answered last
    time, for a TCP connection does not outlive its process. `local_address`: where it listens, if that is on this host.
    """

    headers: dict[bytes, bytes]
    body: bytes
    fresh: bool
    local_address: str


class Link:
    """The connection to one target, opened when needed and kept while it lasts. One exchange at a time."""

    def __init__(
        self, place: Place, selector: selectors.BaseSelector, names: Names, key: str = "", user: str = ""
    ) -> None:
        self.place = place
        self._selector = selector
        self._names = names
        authority = f"[{place.host}]" if ":" in place.host else place.host
        shown = f"Basic {base64.b64encode(f'{user}:{key}'.encode()).decode()}" if user else f"Bearer {key}"
        credentials = f"Authorization: {shown}\r\n" if key else ""
        self._head = (
            f" HTTP/1.1\r\nHost: {authority}:{place.port}\r\nUser-Agent: wattmill\r\n"
            f"Accept: text/plain;version=0.0.4,*/*;q=0.5\r\nAccept-Encoding: identity\r\n{credentials}\r\n"
        ).encode()
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLContext | None = None
        self._events = 0
        self._step: Callable[[], Answer | None] = self._send
        self._addresses: list[Address] = []
        self._request = b""
        self._unsent = b""
        self._received = bytearray()
        self._body_start = 0
        self._headers: dict[bytes, bytes] = {}
        self._length = -1
        self._chunk_at = -1
        self._chunks: list[bytes] = []
        self._size = 0
        self._fresh = True
        self._local = ""
        self.is_pending = False  # an exchange goes on that the next fetch takes up again
        self.peer = ""  # the address that the last connection went to

    @property
    def is_local(self) -> bool:
        """Whether the last connection that was made went to this host."""
        return bool(self._local)

    def begin(self, path: str, wait_s: float) -> Answer | None:
        """Send a request. Errors: FetchError. An Answer is returned only when there is nothing to wait for."""
        self._request = b"GET " + path.encode() + self._head
        if self._socket is None:
            self._look_up(wait_s)
            self._connect()
        else:
            self._fresh = False
            self._ready_to_send()
        return self.advance()

    def advance(self) -> Answer | None:
        """Do what can be done without waiting. Errors: FetchError, after which the connection is closed."""
        self.is_pending = False
        try:
            return self._step()
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._watch(selectors.EVENT_WRITE)
            return None
        except FetchError:
            self.close()
            raise
        except ssl.SSLError as error:
            self.close()
            raise FetchError("tls", f"TLS with {self.place.host} failed: {error.reason or error}") from None
        except OSError as error:
            return self._retry(error)

    def close(self) -> None:
        """Forget the connection, whatever it was doing."""
        self.is_pending = False
        if self._socket is not None:
            self._watch(0)
            self._socket.close()
            self._socket = None

    def _retry(self, error: OSError) -> Answer | None:
        answered = bool(self._received)
        self.close()
        if not self._fresh and not answered:  # the other side closed an idle connection: that is no failure
            self._look_up(0.5)
        elif answered or not self._addresses:
            reason = _REFUSALS.get(error.errno or 0, "connection_failed")
            where = f"{self.place.host}:{self.place.port}"
            raise FetchError(reason, f"{where}: {os.strerror(error.errno) if error.errno else error}")
        self._connect()
        return self.advance()

    def _look_up(self, wait_s: float) -> None:
        found = self._names.look_up(self.place.host, self.place.port, wait_s)
        self._addresses = [a for a in found if not is_denied(a[0])]
        if not self._addresses:
            raise FetchError("address_denied", f"{self.place.host} is a link-local, multicast or metadata address")

    def _connect(self) -> None:
        address = self._addresses.pop(0)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = plain
        self._fresh = True
        self._received.clear()
        code = plain.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            error = OSError(code, os.strerror(code))
            self._step = lambda: _fail(error)
            return
        self._step = self._connected
        self._watch(selectors.EVENT_WRITE)

    def _connected(self) -> Answer | None:
        sock = self._open_socket()
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        try:
            here, there = sock.getsockname()[0], sock.getpeername()[0]
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                return None  # still on its way
            raise
        self.peer = str(there)
        here_too = here == there or ipaddress.ip_address(there.partition("%")[0]).is_loopback
        self._local = str(there) if here_too else ""
        if not self.place.secure:
            self._ready_to_send()
            return self._send()
        if self._tls is None:
            self._tls = ssl.create_default_context()
        self._watch(0)
        self._socket = self._tls.wrap_socket(sock, server_hostname=self.place.host, do_handshake_on_connect=False)
        self._watch(selectors.EVENT_READ)
        self._step = self._shake_hands
        return self._shake_hands()

    def _shake_hands(self) -> Answer | None:
        sock = self._open_socket()
        assert isinstance(sock, ssl.SSLSocket)
        self._watch(selectors.EVENT_READ)
        sock.do_handshake()
        self._ready_to_send()
        return self._send()

    def _ready_to_send(self) -> None:
        self._unsent = self._request
        self._received.clear()
        self._length = self._chunk_at = -1
        self._body_start = self._size = 0
        self._chunks = []
        self._step = self._send

    def _send(self) -> Answer | None:
        sock = self._open_socket()
        while self._unsent:
            try:
                sent = sock.send(self._unsent)
            except BlockingIOError:
                self._watch(selectors.EVENT_WRITE)
                return None
            self._unsent = self._unsent[sent:]
        self._watch(selectors.EVENT_READ)
        self._step = self._receive
        return None

    def _receive(self) -> Answer | None:
        sock = self._open_socket()
        self._watch(selectors.EVENT_READ)
        while True:
            data = sock.recv(RECEIVE_BYTES)
            if not data:
                return self._ended()
            self._received += data
            answer = self._digest()
            if answer is not None:
                return answer
            if len(data) < RECEIVE_BYTES and not self.place.secure:
                return None  # the socket is drained; asking it to say so would cost another call

    def _ended(self) -> Answer | None:
        if not self._received:
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        if not self._body_start or self._length >= 0 or self._chunk_at >= 0:
            raise FetchError("cut_off", "the connection was closed in the middle of the answer")
        body = bytes(self._received[self._body_start :])
        if not body.endswith(b"\n"):
            raise FetchError("cut_off", "the page does not end with a line end")
        self.close()
        return Answer(self._headers, body, self._fresh, self._local)

    def _digest(self) -> Answer | None:
        if not self._body_start and not self._read_head():
            return None
        if len(self._received) > MAX_BODY_BYTES + MAX_HEAD_BYTES:
            raise FetchError("too_large", f"the page has more than {MAX_BODY_BYTES} bytes")
        if self._chunk_at >= 0:
            return self._read_chunks()
        if self._length < 0 or len(self._received) < self._body_start + self._length:
            return None
        return self._answer(bytes(memoryview(self._received)[self._body_start : self._body_start + self._length]))

    def _answer(self, body: bytes) -> Answer:
        answer = Answer(self._headers, body, self._fresh, self._local)
        if self._headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return answer

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > MAX_HEAD_BYTES:
                raise FetchError("not_http", "the answer has no end of headers")
            return False
        lines = bytes(self._received[:end]).split(b"\r\n")
        protocol, _, rest = lines[0].partition(b" ")
        if not protocol.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise FetchError("not_http", f"the answer does not begin like HTTP: {lines[0][:40]!r}")
        status = int(rest[:3])
        if status == 100:
            del self._received[: end + 4]
            return bool(self._received) and self._read_head()
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        if 300 <= status < 400:
            raise FetchError(f"http_{status}", "the target answers with a redirect, which is not followed")
        if status != 200:
            raise FetchError(f"http_{status}", f"the target answers {rest[:60].decode(errors='replace')}")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise FetchError("not_understood", "the target compresses its page though it was asked not to")
        if protocol == b"HTTP/1.0":
            headers.setdefault(b"connection", b"close")
        length = headers.get(b"content-length")
        if headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
            self._chunk_at = end + 4
        elif length is not None:
            if not length.isdigit() or len(length) > 18:
                raise FetchError("not_http", f"the length of the answer is not a number: {length[:40]!r}")
            self._length = int(length)
            if self._length > MAX_BODY_BYTES:
                raise FetchError("too_large", f"the page has {self._length} bytes; the limit is {MAX_BODY_BYTES}")
        self._headers, self._body_start = headers, end + 4
        return True

    def _read_chunks(self) -> Answer | None:
        received = self._received
        while True:
            line_end = received.find(b"\r\n", self._chunk_at)
            if line_end < 0:
                if len(received) - self._chunk_at > 1024:
                    raise FetchError("not_http", "a chunk has no size")
                return None
            text = bytes(received[self._chunk_at : line_end]).partition(b";")[0].strip()
            if not text or len(text) > 8 or text.strip(b"0123456789abcdefABCDEF"):
                raise FetchError("not_http", f"a chunk has the size {text[:20]!r}")
            size = int(text, 16)
            if not size:
                if received.find(b"\r\n\r\n", line_end) != line_end and received[-4:] != b"\r\n\r\n":
                    return None  # trailers are still coming
                return self._answer(b"".join(self._chunks))
            if self._size + size > MAX_BODY_BYTES:
                raise FetchError("too_large", f"the page has more than {MAX_BODY_BYTES} bytes")
            end = line_end + 2 + size
            if len(received) < end + 2:
                return None
            self._chunks.append(bytes(received[line_end + 2 : end]))
            self._size += size
            self._chunk_at = end + 2

    def _open_socket(self) -> socket.socket:
        assert self._socket is not None
        return self._socket

    def _watch(self, events: int) -> None:
        if events == self._events or self._socket is None:
            return
        if not events:
            self._selector.unregister(self._socket)
        elif self._events:
            self._selector.modify(self._socket, events, self)
        else:
            self._selector.register(self._socket, events, self)
        self._events = events


def _fail(error: OSError) -> Answer | None:
    raise error


class Scraper:
    """All links of one source."""

    def __init__(self, names: Names | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._selector = selectors.DefaultSelector()
        self._names = names or Names()
        self._monotonic = monotonic

    def link(self, place: Place, key: str = "", user: str = "") -> Link:
        """A connection to a target, not opened yet; `key`, a token or the `user`'s password, goes to nobody else."""
        return Link(place, self._selector, self._names, key, user)

    def fetch(
        self,
        asks: Sequence[tuple[Link, str]],
        deadline_s: float,
        *,
        patient: Collection[Link] = (),
        patience_s: float = 0.0,
    ) -> list[Answer | Failure]:
        """Ask every link for a path at once; answers in the order of asking, within `deadline_s` seconds.

        Links that are `patient` are waited for only `patience_s`, and as long as others are waited for anyway. After
        that their failure is `pending`: the exchange goes on, and the next fetch of that link takes it up again.
        """
        began = self._monotonic()
        until = began + deadline_s
        results: dict[int, Answer | Failure] = {}
        waiting: dict[Link, int] = {}
        for index, (link, path) in enumerate(asks):
            try:
                answer = link.advance() if link.is_pending else link.begin(path, min(1.0, deadline_s / 4))
            except FetchError as error:
                results[index] = error.failure
                continue
            if answer is None:
                waiting[link] = index
            else:
                results[index] = answer
        while waiting:
            left = until - self._monotonic()
            if patient and all(link in patient for link in waiting):
                left = began + patience_s - self._monotonic()
            if left <= 0:
                break
            for key, _ in self._selector.select(left):
                link = key.data
                place = waiting.get(link)
                if place is None:  # a connection at rest became readable: the other side has closed it
                    link.close()
                    continue
                try:
                    answer = link.advance()
                except FetchError as error:
                    results[place] = error.failure
                    del waiting[link]
                    continue
                if answer is not None:
                    results[place] = answer
                    del waiting[link]
        for link, index in waiting.items():
            if link in patient:
                link.is_pending = True
                results[index] = Failure("pending", "the answer is still on its way")
                continue
            link.close()
            where = f"{link.place.host}:{link.place.port}"
            results[index] = Failure("timeout", f"{where} did not answer in full within {deadline_s:.1f} s")
        return [results[index] for index in range(len(asks))]

    def close(self) -> None:
        """Close every connection."""
        for key in list(self._selector.get_map().values()):
            key.data.close()
        self._selector.close()
