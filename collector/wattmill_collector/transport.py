"""One post to the service over HTTP, and the key it carries.

Keeps the connection open, follows no redirect (a key must not travel to where a proxy points), verifies TLS, and reads
an answer of bounded size in bounded time. What the answer means is decided in `answers.py`.
"""

from __future__ import annotations

import dataclasses
import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from wattmill_collector.clock import Clock, SystemClock

INGEST_PATH = "/api/v1/ingest"
MAX_ANSWER_BYTES = 4 << 20
ANSWER_PIECE_BYTES = 64 << 10


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers by lower-case name, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Errors: OSError or http.client.HTTPException when there is no whole answer."""
        ...


class HttpTransport:
    """`server` is the address of the service, such as https://wattmill.example:8080 or one with a path before /api."""

    def __init__(
        self,
        server: str,
        *,
        timeout_s: float = 15.0,
        ca_file: Path | None = None,
        verify: bool = True,
        clock: Clock | None = None,
    ) -> None:
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"server must be an http:// or https:// address, not {server!r}")
        self._host = parts.hostname
        self._port = parts.port
        self._path = parts.path.rstrip("/") + INGEST_PATH
        self._timeout_s = timeout_s
        self._clock: Clock = clock or SystemClock()
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
            if not verify:
                self._tls.check_hostname = False
                self._tls.verify_mode = ssl.CERT_NONE
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        reused = self._connection is not None
        try:
            return self._post(body, headers)
        except (ConnectionError, http.client.HTTPException):
            self.close()
            if not reused:
                raise
        except OSError:
            self.close()
            raise
        try:
            return self._post(body, headers)  # the service had closed an idle connection; a repeat is harmless
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def _post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request("POST", self._path, body=body, headers=dict(headers))
        response = self._connection.getresponse()
        deadline_us = self._clock.monotonic_us() + int(self._timeout_s * 1_000_000)
        pieces: list[bytes] = []
        size = 0
        while piece := response.read1(ANSWER_PIECE_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise http.client.HTTPException(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
            if self._clock.monotonic_us() > deadline_us:
                raise TimeoutError("the answer did not end in time")
        if response.length:
            raise http.client.IncompleteRead(b"".join(pieces), response.length)
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, b"".join(pieces))
        response.close()  # read1 leaves it open at its end, and an open answer forbids the next request
        if response.will_close:
            self.close()
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class KeySource:
    """The key of the service: given, or in a file that is read again when it changes. No key is a key, too."""

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        self._path = path
        self._key = key
        self._signature: tuple[int, int, int] | None = None
        self.error = ""

    def current(self) -> str:
        """The key, freshly read if the file has changed; the last good one when it can't be read."""
        if self._path is not None:
            try:
                status = self._path.stat()
                signature = (status.st_mtime_ns, status.st_size, status.st_ino)
                if signature != self._signature:
                    self._key = self._path.read_text(encoding="utf-8").strip()
                    self._signature = signature
                self.error = ""
            except (OSError, UnicodeDecodeError) as error:
                self.error = f"The key file {self._path} can't be read: {error}"
        return self._key

    def read_again(self) -> str:
        """The key as the file has it now, whatever its time stamp says."""
        self._signature = None
        return self.current()
