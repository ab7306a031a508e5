"""A stand-in for a BMC's Redfish service: documents by path, Basic authentication, over HTTP or TLS, on loopback.

    with RedfishStandin() as bmc:
        bmc.documents |= server_chassis(watts=565)
        settings: url = bmc.url

Behaves as real ones where the agent depends on it: 401 for a wrong password, 404 for what is not there, a connection
that is kept, and what a test tells it: another status, a redirect, a body as it is.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

ROOT = "/redfish/v1/Chassis"
SESSIONS = "/redfish/v1/SessionService/Sessions"
USER, PASSWORD = "monitor", "s3cret-of-the-bmc"

Document = dict[str, Any]


def link(path: str) -> Document:
    return {"@odata.id": path}


def collection(*paths: str) -> Document:
    return {"Members": [link(path) for path in paths], "Members@odata.count": len(paths)}


def chassis(name: str, kind: str = "RackMount", *, systems: tuple[str, ...] = ("1",), **more: Any) -> Document:
    """A Chassis resource; `more` are its links to resources, or further properties."""
    links: Document = {"ComputerSystems": [link(f"/redfish/v1/Systems/{system}") for system in systems]}
    links |= more.pop("links", {})
    return {"@odata.id": f"{ROOT}/{name}", "Id": name, "ChassisType": kind, "Links": links, **more}


def server_chassis(watts: Any = 565, name: str = "1") -> dict[str, Document]:
    """The plain case: one rack server whose Power resource says what it draws, as iLO and iDRAC do."""
    path = f"{ROOT}/{name}"
    return {
        ROOT: collection(path),
        path: chassis(name, Power=link(f"{path}/Power")),
        f"{path}/Power": {"PowerControl": [{"MemberId": "0", "PowerConsumedWatts": watts}]},
    }


class RedfishStandin:
    """Serves while the `with` lasts. `requests` are the paths that were asked for, `connections` how many were opened.

    `bodies`: raw bodies by path; `statuses`: path → status; `redirects`: path → where to. `sessions`: path → token of
    those that are open; where it is not None, there is no Basic authentication. `most_sessions`: as many as it has.
    `calls_itself`: what stands before the path of a session in its Location.
    """

    def __init__(self, folder: Path | None = None, *, password: str = "") -> None:
        self.documents: dict[str, Any] = {}
        self.bodies: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.connections = 0
        self.closes = False
        self.sessions: dict[str, str] | None = None
        self.most_sessions = 4
        self.calls_itself = ""
        self.logins = 0
        self.hangs = threading.Event()  # set: an answer never comes, until `go_on` is set
        self.go_on = threading.Event()
        self.password = password
        self.expected = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode() if password else ""
        self.certificate = folder / "bmc.pem" if folder else None
        self._context: ssl.SSLContext | None = None
        if folder and self.certificate:
            key = folder / "bmc.key"
            subject = ["-days", "2", "-subj", "/CN=bmc", "-addext", "subjectAltName=IP:127.0.0.1"]
            files = ["-keyout", str(key), "-out", str(self.certificate)]
            made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            subprocess.run([*made, *subject, *files], check=True, capture_output=True)
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(self.certificate, key)

    def __enter__(self) -> Self:
        self._server = _Server(self)
        if self._context is not None:
            self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if self._context is not None else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, bmc: RedfishStandin) -> None:
        self.bmc = bmc
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together; apart, the second waits for an acknowledgement

    def setup(self) -> None:
        assert isinstance(self.server, _Server)
        self.bmc = self.server.bmc
        self.bmc.connections += 1
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
        """Tests read assertions, not logs."""

    def do_GET(self) -> None:
        bmc = self.bmc
        bmc.requests.append(self.path)
        bmc.headers.append(dict(self.headers.items()))
        if bmc.hangs.is_set():
            bmc.go_on.wait(30)
        if not self._knows():
            return self._answer(401, b"{}")
        if self.path in bmc.redirects:
            self.send_response(308)
            self.send_header("Location", bmc.redirects[self.path])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.path in bmc.bodies:
            return self._answer(200, bmc.bodies[self.path])
        found = bmc.documents.get(self.path)
        body = json.dumps(found if found is not None else {"error": {"code": "Base.1.8.ResourceMissingAtURI"}})
        self._answer(bmc.statuses.get(self.path, 200 if found is not None else 404), body.encode())

    def do_POST(self) -> None:
        bmc = self.bmc
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != SESSIONS or bmc.sessions is None:
            return self._answer(404, b"{}")
        bmc.logins += 1
        if said != {"UserName": USER, "Password": bmc.password}:
            return self._answer(401, b"{}")
        if len(bmc.sessions) >= bmc.most_sessions:
            return self._answer(503, b"{}")
        path, token = f"{SESSIONS}/{bmc.logins}", f"token-{bmc.logins}"
        bmc.sessions[path] = token
        self._answer(bmc.statuses.get(SESSIONS, 201), b"", {"X-Auth-Token": token, "Location": bmc.calls_itself + path})

    def do_DELETE(self) -> None:
        if not self._knows() or not self.bmc.sessions or self.path not in self.bmc.sessions:
            return self._answer(404, b"{}")
        del self.bmc.sessions[self.path]
        self._answer(204, b"")

    def _knows(self) -> bool:
        bmc = self.bmc
        if bmc.sessions is not None:
            return self.headers.get("X-Auth-Token") in bmc.sessions.values()
        return not bmc.expected or self.headers.get("Authorization") == bmc.expected

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.bmc.closes:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
