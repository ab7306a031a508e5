"""As much of a Kubernetes API as Helm asks for when a chart looks something up: discovery, and Secrets."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Mapping
from typing import Any, Self

DISCOVERY: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [{"name": "secrets", "singularName": "", "namespaced": True, "kind": "Secret", "verbs": ["get"]}],
    },
}
ABSENT = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


class LookupStandin:
    """Serves at `url` between `with` and its end."""

    def __init__(self) -> None:
        objects = self._objects = dict(DISCOVERY)

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = objects.get(self.path.partition("?")[0])
                body = json.dumps(found or ABSENT).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add_secret(self, namespace: str, name: str, data: Mapping[str, str]) -> None:
        encoded = {entry: base64.b64encode(text.encode()).decode() for entry, text in data.items()}
        self._objects[f"/api/v1/namespaces/{namespace}/secrets/{name}"] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "data": encoded,
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
