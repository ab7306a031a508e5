"""A stand-in for the Kubernetes API: pods of one node, listed in pages and watched, over TLS with a bearer token.

    with KubeApiStandin(tmp_path) as api:
        api.put(pod("search", "chat-0", ip="127.0.0.1", labels={"app": "chat"}))
        settings: api = api.url, service_account = api.service_account

Behaves as the real one where the agent depends on it: field selector, `limit` and `continue`, resource versions, 410
for a version that is too old, 401 for a wrong token, bookmarks.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

NODE = "gpu-017"


def pod(
    namespace: str,
    name: str,
    *,
    ip: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    ports: Mapping[str, int] | None = None,
    container: str = "engine",
    phase: str = "Running",
    owner: tuple[str, str] | None = None,
    gpus: int = 1,
    host_network: bool = False,
    node: str = NODE,
) -> dict[str, Any]:
    """A pod as the API shows it, with some of the fields that nobody here reads."""
    limits = {"cpu": "8"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    references = [{"apiVersion": "apps/v1", "kind": owner[0], "name": owner[1], "controller": True}] if owner else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "labels": dict(labels or {}),
            "annotations": {"kubernetes.io/config.seen": "2026-10-01T00:00:00Z", **(annotations or {})},
            "ownerReferences": references,
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        },
        "spec": {
            "nodeName": node,
            "hostNetwork": host_network,
            "containers": [
                {
                    "name": container,
                    "image": "engine",
                    "resources": {"limits": limits},
                    "ports": [{"name": key, "containerPort": number} for key, number in (ports or {}).items()],
                }
            ],
        },
        "status": {"phase": phase, **({"podIP": ip} if ip else {})},
    }


class KubeApiStandin:
    """Serves while the `with` lasts. `refuse` answers every request with that status."""

    def __init__(self, folder: Path) -> None:
        self.service_account = folder / "serviceaccount"
        self.service_account.mkdir(parents=True)
        self.requests: list[dict[str, str]] = []
        self.refuse = 0
        self.oldest = 0  # versions before this one are gone
        self._version = 100
        self._pods: dict[tuple[str, str], dict[str, Any]] = {}
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self._ends = 0
        self.set_token("first-token")
        key, certificate = folder / "key.pem", self.service_account / "ca.crt"
        subject = ["-days", "2", "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        subprocess.run([*made, *subject, *files], check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_watches()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def set_token(self, token: str) -> None:
        """The kubelet replaces the token; only the new one is taken."""
        self.token = token
        (self.service_account / "token").write_text(token + "\n")

    def put(self, said: dict[str, Any]) -> None:
        """A pod is there, or is different."""
        key = said["metadata"]["namespace"], said["metadata"]["name"]
        self._event("MODIFIED" if key in self._pods else "ADDED", key, said)

    def delete(self, namespace: str, name: str) -> None:
        """A pod is gone."""
        self._event("DELETED", (namespace, name), self._pods[namespace, name])

    def forget_history(self) -> None:
        """Whoever watches from before now is told that this is gone; watches end."""
        with self._changed:
            self._version += 10
            self.oldest = self._version
        self.end_watches()

    def end_watches(self) -> None:
        """As at the end of their time."""
        with self._changed:
            self._ends += 1
            self._changed.notify_all()

    def _event(self, kind: str, key: tuple[str, str], said: dict[str, Any]) -> None:
        with self._changed:
            self._version += 1
            said["metadata"]["resourceVersion"] = str(self._version)
            if kind == "DELETED":
                del self._pods[key]
            else:
                self._pods[key] = said
            self._events.append((self._version, kind, said))
            self._changed.notify_all()

    def page(self, node: str, limit: int, after: int) -> dict[str, Any]:
        """A page of the list."""
        with self._changed:
            pods = [one for one in self._pods.values() if one["spec"]["nodeName"] == node]
            left = after + limit < len(pods)
            about = {"resourceVersion": str(self._version)} | ({"continue": str(after + limit)} if left else {})
            return {"kind": "PodList", "metadata": about, "items": pods[after : after + limit]}

    def ends(self) -> int:
        """How often watches were ended; what a watch compares with what it began with."""
        return self._ends

    def events(self, after: int, node: str, ends: int) -> list[tuple[int, str, dict[str, Any]]] | None:
        """Wait for events after a version; None when the watch ends."""
        with self._changed:
            while True:
                if self._ends != ends:
                    return None
                found = [e for e in self._events if e[0] > after and e[2]["spec"]["nodeName"] == node]
                if found:
                    return found
                self._changed.wait(30)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: KubeApiStandin) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
        """Tests read assertions, not logs."""

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        api = self.server.api
        path, _, text = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(text))
        api.requests.append(query)
        if self.headers.get("Authorization") != f"Bearer {api.token}":
            return self._status(401, "Unauthorized")
        if api.refuse or path != "/api/v1/pods":
            return self._status(api.refuse or 404, "the stand-in was told to refuse")
        node = query["fieldSelector"].removeprefix("spec.nodeName=")
        if "watch" in query:
            return self._watch(api, node, int(query["resourceVersion"]))
        self._answer(200, api.page(node, int(query["limit"]), int(query.get("continue", "0"))))

    def _watch(self, api: KubeApiStandin, node: str, version: int) -> None:
        ends = api.ends()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if version < api.oldest:
            self._chunk({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})
        else:
            self._chunk({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}})
            while (found := api.events(version, node, ends)) is not None:
                for version, kind, said in found:  # noqa: B007 (where the next round begins)
                    self._chunk({"type": kind, "object": said})
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _status(self, code: int, message: str) -> None:
        self._answer(code, {"kind": "Status", "code": code, "message": message})

    def _answer(self, status: int, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
