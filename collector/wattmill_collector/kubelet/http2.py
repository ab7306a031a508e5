"""One gRPC call over a Unix socket: connect, ask, read the answer, close. As much of HTTP/2 as that takes.

A connection for each call: the kubelet is asked every 10 s, and so its restart needs no thought. The other side may
send up to `MAX_ANSWER_BYTES` at once, for which the windows of flow control are opened at the start; an answer is never
waited for beyond the call's time. Whatever goes wrong is a FetchError with a short reason and a sentence.

Does not do: more than one stream, streaming, compression, TLS.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from wattmill_collector.kubelet.hpack import Decoder, encode
from wattmill_collector.sources.addresses import FetchError

MAX_ANSWER_BYTES = 16 * 1024 * 1024  # as kubectl and the kubelet's own client allow
MAX_HEAD_BYTES = 64 * 1024
MAX_FRAME_BYTES = 16_384  # SETTINGS_MAX_FRAME_SIZE, left at its default
FIRST_WINDOW_BYTES = 65_535
WINDOW_BYTES = MAX_ANSWER_BYTES + FIRST_WINDOW_BYTES  # so that an answer that is too large shows as that
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = struct.Struct(">BHBBI")  # length in 8 + 16 bits, type, flags, stream
PREFIX = struct.Struct(">BI")  # of a gRPC message: compressed or not, length
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_PUSH, INITIAL_WINDOW = 2, 4
STREAM = 1

STATUS_WORDS = (
    *("ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists"),
    *("permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented"),
    *("internal", "unavailable", "data_loss", "unauthenticated"),
)

_REFUSALS = {
    errno.ENOENT: ("no_socket", "there is no such socket; is the kubelet's directory mounted?"),
    errno.ECONNREFUSED: ("connection_refused", "nobody listens on it; the kubelet may be starting"),
    errno.EACCES: ("permission_denied", "this user may not connect; the socket is root's"),
    errno.EPERM: ("permission_denied", "this user may not connect; the socket is root's"),
}


def call(
    path: Path,
    method: str,
    message: bytes = b"",
    *,
    timeout_s: float = 1.0,
    monotonic: Callable[[], float] = time.monotonic,
) -> bytes:
    """Call `method` (such as /v1.PodResourcesLister/List) and return the bytes of the answer's message.

    Errors: FetchError; `grpc_<status>` when the other side answered with a status other than ok.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.settimeout(timeout_s)
            exchange = _Exchange(sock, monotonic() + timeout_s, monotonic)
            sock.connect(str(path))
            sock.sendall(_request(method, message, timeout_s))
            return exchange.answer()
        except TimeoutError:
            raise FetchError("timeout", f"{path} did not answer in full within {timeout_s:g} s") from None
        except OSError as error:
            reason, sentence = _REFUSALS.get(error.errno or 0, ("connection_failed", error.strerror or str(error)))
            raise FetchError(reason, f"{path}: {sentence}") from None
        except ValueError as error:
            raise FetchError("not_http2", f"{path} does not speak HTTP/2 as it should: {error}") from None


def _request(method: str, message: bytes, timeout_s: float) -> bytes:
    """Everything that this side has to say: settings, a wide window, one request."""
    settings = struct.pack(">HIHI", NO_PUSH, 0, INITIAL_WINDOW, WINDOW_BYTES)
    head = encode(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "wattmill"),
            ("grpc-timeout", f"{max(round(timeout_s * 1000), 1)}m"),
        ]
    )
    return b"".join(
        (
            PREFACE,
            _frame(SETTINGS, 0, 0, settings),
            _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_BYTES - FIRST_WINDOW_BYTES)),
            _frame(HEADERS, END_HEADERS, STREAM, head),
            _frame(DATA, END_STREAM, STREAM, PREFIX.pack(0, len(message)) + message),
        )
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


class _Exchange:
    """The reading side of one call."""

    def __init__(self, sock: socket.socket, until: float, monotonic: Callable[[], float]) -> None:
        self._socket = sock
        self._until = until
        self._monotonic = monotonic
        self._received = bytearray()
        self._decoder = Decoder()
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    def answer(self) -> bytes:
        """Read frames until the stream ends. Errors: FetchError, OSError, ValueError."""
        kind, _, _, _ = first = self._next_frame()
        if kind != SETTINGS:
            raise ValueError("it does not begin with settings")
        ended = self._take(*first)
        while not ended:
            ended = self._take(*self._next_frame())
        return self._message()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        """Digest one frame; True when it is the last of the answer."""
        if kind in (SETTINGS, PING):
            if not flags & ACK:
                # Who has closed already has sent all there is to read.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._socket.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == GOAWAY:
            last, code = struct.unpack_from(">II", payload.ljust(8, b"\0"))
            if last & 0x7FFFFFFF < STREAM:
                raise FetchError("going_away", f"the kubelet is closing (HTTP/2 error {code})")
        elif kind == PUSH_PROMISE or (kind in (DATA, HEADERS, RST_STREAM) and stream != STREAM):
            raise ValueError(f"a frame of type {kind} came for stream {stream}")
        elif kind == RST_STREAM:
            code = int.from_bytes(payload[:4], "big")
            raise FetchError("stream_reset", f"the kubelet broke off its answer (HTTP/2 error {code})")
        elif kind == DATA:
            self._body += _unpadded(flags, payload)
            if len(self._body) > MAX_ANSWER_BYTES:
                raise FetchError("too_large", f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            return bool(flags & END_STREAM)
        elif kind == HEADERS:
            block = _unpadded(flags, payload)[5 if flags & PRIORITY else 0 :]
            self._headers |= dict(self._decoder.decode(self._whole(block, flags)))
            return bool(flags & END_STREAM)
        elif kind == CONTINUATION:
            raise ValueError("headers go on that never began")
        return False  # window updates and frames of kinds that are not known mean nothing here

    def _whole(self, block: bytes, flags: int) -> bytes:
        """A header block with the frames that continue it."""
        while not flags & END_HEADERS:
            kind, flags, stream, more = self._next_frame()
            if kind != CONTINUATION or stream != STREAM:
                raise ValueError("something came between two parts of the headers")
            block += more
            if len(block) > MAX_HEAD_BYTES:
                raise ValueError(f"its headers have more than {MAX_HEAD_BYTES} bytes")
        return block

    def _next_frame(self) -> tuple[int, int, int, bytes]:
        """(type, flags, stream, payload)"""
        high, low, kind, flags, stream = HEAD.unpack(self._read(HEAD.size))
        length = high << 16 | low
        if length > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes was not agreed on")
        return kind, flags, stream & 0x7FFFFFFF, self._read(length)

    def _read(self, size: int) -> bytes:
        while len(self._received) < size:
            left_s = self._until - self._monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            data = self._socket.recv(65_536)
            if not data:
                raise FetchError("cut_off", "the connection was closed in the middle of the answer")
            self._received += data
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _message(self) -> bytes:
        """The one message of the answer, once its status says ok."""
        status = self._headers.get(b":status", b"").decode("ascii", "replace")
        if status != "200":
            raise FetchError(f"http_{status[:3]}", f"the kubelet answers with HTTP status {status}")
        said = self._headers.get(b"grpc-status", b"")
        if not said.isdigit():
            raise FetchError("not_grpc", "the answer has no gRPC status")
        code = int(said[:4])
        if code:
            word = STATUS_WORDS[code] if code < len(STATUS_WORDS) else str(code)
            detail = urllib.parse.unquote(self._headers.get(b"grpc-message", b"").decode("utf-8", "replace"))
            raise FetchError(f"grpc_{word}", f"the kubelet answers {word}: {detail[:300] or 'without saying more'}")
        if len(self._body) < PREFIX.size:
            raise FetchError("not_grpc", "the answer has no message")
        compressed, length = PREFIX.unpack_from(self._body)
        if compressed or length != len(self._body) - PREFIX.size:
            raise FetchError("not_grpc", "the answer is not one plain message")
        return bytes(self._body[PREFIX.size :])


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ValueError("a frame has more padding than it is long")
    return payload[1 : len(payload) - payload[0]]
