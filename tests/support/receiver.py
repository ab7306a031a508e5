"""Somebody whom webhooks are posted to, on the loopback: answers as told and keeps what came."""

from __future__ import annotations

import dataclasses
import http.server
import ssl
import threading
from collections.abc import Mapping
from typing import Any

LOOPBACK = "127.0.0.0/8"


@dataclasses.dataclass(frozen=True, slots=True)
class Came:
    """One post. Headers by lower-case name."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """`answers`: (status, headers) of the next posts, in order; 200 when none is left."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.came: list[Came] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.came.append(Came(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
                """Nobody reads it."""

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that goes away, or does not trust us, is what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def url(self, path: str = "/hook", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
