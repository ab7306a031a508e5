"""An exporter that measures nothing: it shows the pages that a test gives it, at any path.

with FakeExporter({"/metrics": page}) as exporter:    # exporter.url("/metrics") is the target
    exporter.pages["/metrics"] = later                # bytes
    exporter.hold()                                   # from now on it answers nobody …
    exporter.release()                                # … and now it answers those who still wait, and all others
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class FakeExporter:
    """One exporter on a port of 127.0.0.1. `requests` are the paths asked for; `status` other than 200 has no page.

    `login`: the Authorization that it asks for, if any.
    """

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        self.pages = dict(pages)
        self.requests: list[str] = []
        self.status = 200
        self.login = ""
        self._free = threading.Event()
        self._free.set()
        self.asked = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def url(self, path: str = "/metrics") -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def hold(self) -> None:
        self.asked.clear()
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def wait(self) -> None:
        self.asked.set()
        self._free.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], exporter: FakeExporter) -> None:
        self.exporter = exporter
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
        """Tests read assertions, not logs."""

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        exporter = self.server.exporter
        exporter.requests.append(self.path)
        exporter.wait()
        page = exporter.pages.get(self.path)
        status = exporter.status if page is not None else 404
        if exporter.login and self.headers.get("Authorization") != exporter.login:
            status = 401
        body = page if page is not None and status == 200 else b"no\n"
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
