"""A serving engine that serves nothing: a `/metrics` page in an engine's dialect, with counters that the test sets.

In process:

    with FakeEngine("vllm", model="demo") as engine:      # engine.url is the target
        engine.add(input_=120, cached=20, output=64)      # tokens of one request
        engine.restart()                                  # new process start, counters at 0, connections cut
        engine.mode = "hang"                              # see MODES

As a process of its own (so that it has a pid, a listening socket and a start of its own):

    python tests/support/fake_engine.py --port 0 --dialect vllm --state FILE

prints `listening on PORT`. FILE is JSON with any of the fields of `State` (and `mode`), read at every request; counters
are those of this process, so a restart is killing it and writing a new FILE.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

MODES = (
    "ok",
    "hang",
    "garbage",
    "html",
    "http_500",
    "http_503",
    "redirect",
    "huge",
    "cut",
    "empty",
    "chunked",
    "endless",
)


@dataclasses.dataclass
class State:
    """What the engine has counted since it was started, and its gauges."""

    model: str = "demo"
    input: int = 0
    cached: int = 0
    output: int = 0
    finished: int = 0
    preemptions: int = 0
    running: int = 0
    waiting: int = 0
    kv_cache: float = 0.0
    process_start: float = 0.0  # 0: not shown
    ranks: int = 1  # data-parallel ranks; each shows the same counters
    latencies: tuple[int, ...] = ()  # inter-token latencies up to 10 ms, 25 ms, and beyond; none: not shown
    padding_lines: int = 0  # histogram buckets that nobody wants; 600 make a page of 70 kB


def vllm(s: State) -> str:
    page = [f"process_start_time_seconds {s.process_start!r}"] if s.process_start else []
    families: dict[str, tuple[str, Callable[[State], list[tuple[str, float]]]]] = {
        "num_requests_running": ("gauge", lambda s: [("", s.running)]),
        "num_requests_waiting": ("gauge", lambda s: [("", s.waiting)]),
        "kv_cache_usage_perc": ("gauge", lambda s: [("", s.kv_cache)]),
        "num_preemptions_total": ("counter", lambda s: [("", s.preemptions)]),
        "prompt_tokens_total": ("counter", lambda s: [("", s.input)]),
        "prompt_tokens_by_source_total": (
            "counter",
            lambda s: [
                (',source="local_compute"', s.input - s.cached),
                (',source="local_cache_hit"', s.cached),
                (',source="external_kv_transfer"', 0),
            ],
        ),
        "prompt_tokens_cached_total": ("counter", lambda s: [("", s.cached)]),
        "generation_tokens_total": ("counter", lambda s: [("", s.output)]),
        "request_success_total": (
            "counter",
            lambda s: [(',finished_reason="stop"', s.finished), (',finished_reason="length"', 0)],
        ),
    }
    for name, (kind, rows) in families.items():
        page += [f"# HELP vllm:{name} as vLLM says it", f"# TYPE vllm:{name} {kind}"]
        page += [
            f'vllm:{name}{{engine="{rank}",model_name="{s.model}"{labels}}} {float(value)}'
            for rank in range(s.ranks)
            for labels, value in rows(s)
        ]
    for rank in range(s.ranks if s.latencies else 0):
        for le, count in zip(("0.01", "0.025", "+Inf"), itertools.accumulate(s.latencies), strict=True):
            labels = f'engine="{rank}",le="{le}",model_name="{s.model}"'
            page.append(f"vllm:inter_token_latency_seconds_bucket{{{labels}}} {float(count)}")
    return "\n".join([*page, *_padding("vllm:request_prefill_time_seconds", s)]) + "\n"


def sglang(s: State) -> str:
    """Realtime counters; every rank is shown by a second tensor rank too (--enable-metrics-for-all-schedulers)."""
    page = []
    for dp in range(s.ranks):
        for tp in (0, 1):
            at = f'model_name="{s.model}",engine_type="unified",tp_rank="{tp}",pp_rank="0",moe_ep_rank="0"'
            at += f',dp_rank="{dp}"' if s.ranks > 1 else ""
            page += [
                f"sglang:num_running_reqs{{{at}}} {float(s.running)}",
                f"sglang:num_queue_reqs{{{at}}} {float(s.waiting)}",
                f"sglang:token_usage{{{at}}} {s.kv_cache}",
            ]
            for mode, value in (
                ("prefill_compute", s.input - s.cached),
                ("prefill_cache", s.cached),
                ("decode", s.output - s.finished),  # the prefill samples the first token
            ):
                if value:
                    page.append(f'sglang:realtime_tokens_total{{{at},mode="{mode}"}} {float(value)}')
    at = f'model_name="{s.model}",engine_type="unified"'
    if s.finished:
        page += [
            f"sglang:num_requests_total{{{at}}} {float(s.finished * s.ranks)}",  # of all ranks
            f"sglang:prompt_tokens_total{{{at}}} {float(s.input)}",
            f"sglang:generation_tokens_total{{{at}}} {float(s.output)}",
        ]
    page.sort(key=lambda line: line.partition("{")[0])
    return "\n".join([*page, *_padding("sglang:func_latency_seconds", s)]) + "\n"


def tgi(s: State) -> str:
    page = f"# TYPE tgi_queue_size gauge\ntgi_queue_size {s.waiting}\n\n"
    page += f"# TYPE tgi_batch_current_size gauge\ntgi_batch_current_size {s.running}\n\n"
    if s.finished:
        page += f"# TYPE tgi_request_success counter\ntgi_request_success {s.finished}\n\n"
    for name, value in (("tgi_request_input_length", s.input), ("tgi_request_generated_tokens", s.output)):
        if value:
            page += f"# TYPE {name} histogram\n" + f'{name}_bucket{{le="+Inf"}} {s.finished}\n'
            page += f"{name}_sum {value}\n{name}_count {s.finished}\n\n"
    return page


def llamacpp(s: State) -> str:
    """Values go through a C++ stream of six digits, as in the original."""
    rows = [
        ("prompt_tokens_total", "counter", s.input - s.cached),
        ("prompt_tokens_cached_total", "counter", s.cached),
        ("tokens_predicted_total", "counter", s.output),
        ("requests_processing", "gauge", s.running),
        ("requests_deferred", "gauge", s.waiting),
    ]
    return "".join(f"# HELP llamacpp:{n} .\n# TYPE llamacpp:{n} {kind}\nllamacpp:{n} {v:.6g}\n" for n, kind, v in rows)


DIALECTS: dict[str, Callable[[State], str]] = {"vllm": vllm, "sglang": sglang, "tgi": tgi, "llamacpp": llamacpp}
ABOUT = {"vllm": "/version", "tgi": "/info", "llamacpp": "/props", "sglang": ""}


def _padding(name: str, s: State) -> list[str]:
    labels = f'engine="0",model_name="{s.model}",finished_reason="length",adapter=""'
    return [f'{name}_bucket{{{labels},le="{i}.5"}} {float(s.finished + i)}' for i in range(s.padding_lines)]


class FakeEngine:
    """One fake engine on a port of `host`, a loopback address; `state` and `mode` may be changed at any time."""

    def __init__(
        self, dialect: str = "vllm", *, model: str = "demo", port: int = 0, host: str = "127.0.0.1", **state: Any
    ) -> None:
        self.host = host
        self.dialect = dialect
        self.mode = "ok"
        self.hangs_at = ""  # a path at which no answer ever comes
        self.state = State(model=model, **state)
        self.requests: list[str] = []
        self.body: bytes | None = None  # shown instead of the page, when set
        self.headers: dict[str, str] = {}
        self.read_state: Callable[[], None] = lambda: None
        if dialect == "vllm" and not self.state.process_start:
            self.state.process_start = time.time()
        self._starts = 0
        self._port = port
        self._server: _Server | None = None
        self.up()

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self._port}/metrics"

    def add(self, *, input_: int = 0, cached: int = 0, output: int = 0, finished: int = 1) -> None:
        """Count the tokens of requests, as the engine would."""
        s = self.state
        self.state = dataclasses.replace(
            s,
            input=s.input + input_,
            cached=s.cached + cached,
            output=s.output + output,
            finished=s.finished + finished,
        )

    def restart(self, process_start: float | None = None) -> None:
        """The process ends and another one starts on the same port, its counters at 0."""
        self.down()
        later = max(time.time(), self.state.process_start + 0.01) if process_start is None else process_start
        start = later if self.dialect == "vllm" else 0.0
        old = self.state
        self.state = State(old.model, ranks=old.ranks, padding_lines=old.padding_lines, process_start=start)
        self.up()

    def up(self) -> None:
        if self._server is None:
            self._starts += 1
            self._server = _Server((self.host, self._port), self)
            self._port = self._server.server_address[1]

    def down(self) -> None:
        """Nobody listens; open connections are cut."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def page(self) -> bytes:
        return DIALECTS[self.dialect](self.state).encode() if self.body is None else self.body

    def about(self) -> bytes:
        s = self.state
        said = {"vllm": {"version": "0.16.0"}, "tgi": {"model_id": s.model, "version": "3.3.4"}}
        said["llamacpp"] = {"model_path": f"/models/{s.model}.gguf", "build_info": "b10573-3f545bec"}
        return json.dumps(said.get(self.dialect, {})).encode()

    def start_header(self) -> dict[str, str]:
        start = {"Process-Start-Time-Unix": str(10**10 + self._starts)} if self.dialect == "llamacpp" else {}
        return start | self.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], engine: FakeEngine) -> None:
        self.engine = engine
        self.stopped = threading.Event()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        self._open.add(request)
        return request, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what the tests are about."""

    def stop(self) -> None:
        self.stopped.set()
        self.shutdown()
        for request in list(self._open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed already
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
        """Tests read assertions, not logs."""

    @property
    def _server(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def do_GET(self) -> None:
        engine = self._server.engine
        engine.requests.append(self.path)
        engine.read_state()
        mode = engine.mode
        if self.path == engine.hangs_at:
            self._server.stopped.wait(30)
            self.close_connection = True
            return None
        if self.path == ABOUT[engine.dialect] and mode == "ok":
            return self._answer(engine.about(), "application/json")
        if self.path != "/metrics":
            return self._answer(b'{"detail":"Not Found"}', "application/json", 404)
        if mode == "hang":
            self._server.stopped.wait(30)
            self.close_connection = True
        elif mode == "garbage":
            self.wfile.write(b"\x00\xff not HTTP at all\r\n\r\n")
            self.close_connection = True
        elif mode == "html":
            self._answer(b"<html><body>login</body></html>\n", "text/html")
        elif mode.startswith("http_"):
            self._answer(b"no\n", "text/plain", int(mode.removeprefix("http_")))
        elif mode == "redirect":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif mode == "huge":
            self._headers(9 * 1024 * 1024)
        elif mode == "endless":
            self._pour()
        elif mode == "cut":
            page = engine.page()
            self._headers(len(page))
            self.wfile.write(page[: len(page) // 2])
            self.close_connection = True
        elif mode == "empty":
            self._answer(b"", "text/plain")
        elif mode == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            page = engine.page()
            for at in range(0, len(page), 1000):
                part = page[at : at + 1000]
                self.wfile.write(f"{len(part):x};ext=1\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        else:
            self._answer(engine.page(), "text/plain; version=0.0.4")

    def _answer(self, body: bytes, kind: str, status: int = 200) -> None:
        self._headers(len(body), kind, status)
        self.wfile.write(body)

    def _headers(self, length: int, kind: str = "text/plain", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        for name, value in self._server.engine.start_header().items():
            self.send_header(name, value)
        self.end_headers()

    def _pour(self) -> None:
        """A body that never ends, in chunks."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        part = b"x" * 65536
        while not self._server.stopped.is_set():
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dialect", choices=DIALECTS, default="vllm")
    parser.add_argument("--state", type=Path)
    args = parser.parse_args()
    engine = FakeEngine(args.dialect, port=args.port)
    start = engine.state.process_start

    def read_state() -> None:
        said = json.loads(args.state.read_text()) if args.state and args.state.exists() else {}
        engine.mode = said.pop("mode", "ok")
        engine.state = State(**{"process_start": start, **said})

    engine.read_state = read_state
    sys.stdout.write(f"listening on {engine.port}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
