"""A llama-server in router mode: one address, a page a model, and every model called by its own name.

The router here is a small stand-in that answers what build 11669 was seen to answer; its page is the recorded one.
"""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.golden_pages import golden
from wattmill_collector.settings import EngineSettings
from wattmill_collector.sources.engine import EngineSource
from wattmill_collector.wire import AbsenceReading, EngineReading

START_US = 1_764_030_180_000_000
LOADED = ("alpha", "beta")


class _Router(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the library)
        """Tests read assertions, not logs."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        model = urllib.parse.parse_qs(query).get("model", [""])[0]
        about = {"model_alias": model or "llama-server", "build_info": "b11669-Debian"}
        status, body = 400, b'{"error":{"code":400,"message":"model name is missing from the request"}}'
        if path == "/props":
            status, body = 200, json.dumps(about).encode()
        elif path == "/metrics" and model in LOADED:
            status, body = 200, golden("llamacpp_router")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def router() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Router)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


def test_each_model_behind_a_router_is_an_engine_of_its_own_name(router: str) -> None:
    targets = [f"{router}?model={name}&autoload=false" for name in LOADED]
    source = EngineSource([EngineSettings(target) for target in targets])
    found = {r.target: (r.model, r.output_tokens) for r in source.read(START_US) if isinstance(r, EngineReading)}
    source.close()
    assert found == {target: (name, 120) for target, name in zip(targets, LOADED, strict=True)}


def test_a_router_that_is_asked_for_no_model_is_an_absence(router: str) -> None:
    source = EngineSource([EngineSettings(router)])
    (one,) = source.read(START_US)
    source.close()
    assert isinstance(one, AbsenceReading)
    assert one.reason == "http_400"
