"""A tiny HTTP server for the agent's own two pages.

One thread, asleep in `accept` until somebody asks; one request a connection. The standard library's server would cost
more memory than the rest of the agent's network code together.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from wattmill_collector.log import LOG

Answer = tuple[int, str, str]
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
LONGEST_REQUEST_BYTES = 8192
PATIENCE_S = 2.0


class Listener:
    """Serves `answer(path)` on HOST:PORT. Errors: OSError when the address can't be had."""

    def __init__(self, listen: str, answer: Callable[[str], Answer]) -> None:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, int(port)), family=family, backlog=16)
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, name="listener", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on (that the system chose, for port 0)."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening and wait for the answer that is under way."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread out of accept
        except OSError as error:
            LOG.debug("The listening socket was already closed: %s", error)
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            with connection:
                try:
                    connection.settimeout(PATIENCE_S)
                    self._converse(connection)
                except OSError as error:
                    LOG.debug("A reader of the agent's own pages went away: %s", error)

    def _converse(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request and len(request) < LONGEST_REQUEST_BYTES:
            received = connection.recv(2 * LONGEST_REQUEST_BYTES)
            if not received:
                break
            request += received
        connection.sendall(self.respond(request))

    def respond(self, request: bytes) -> bytes:
        """The whole answer to a whole request."""
        words = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if b"\r\n\r\n" not in request or len(words) != 3 or not words[2].startswith("HTTP/1."):
            status, kind, text = 400, "text/plain; charset=utf-8", "This is not an HTTP/1 request.\n"
        elif words[0] not in ("GET", "HEAD"):
            status, kind, text = 405, "text/plain; charset=utf-8", "Only GET and HEAD.\n"
        else:
            try:
                status, kind, text = self._answer(words[1].partition("?")[0])
            except Exception as error:  # a page that can't be composed must not end the pages
                LOG.exception("The page %s could not be composed.", words[1])
                status, kind, text = 500, "text/plain; charset=utf-8", f"{type(error).__name__}: {error}\n"
        body = text.encode()
        head = f"HTTP/1.1 {status} {REASONS.get(status, 'Service Unavailable')}\r\nContent-Type: {kind}\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n"
        return head.encode("latin-1") + (b"" if words[0] == "HEAD" else body)
