"""A service on a real port for the terminal's commands, one that answers whatever a test says, and a busy fleet."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support import site
from support.ledger import IDLE_EMPTY, IDLE_LOADED, MINUTE, SERVING, T0, UNATTRIBUTED, Books

Answer = tuple[int, str, Any]
Stub = Callable[[Callable[[str], Answer]], contextlib.AbstractContextManager[str]]
HOSTILE = "=cmd|' /C\x1b]0;owned\x07\x9b31m\u202e|\n# <b>[x](http://y)"


@pytest.fixture
def hostile() -> str:
    """A name that attacks a spreadsheet, a terminal, a table and a browser."""
    return HOSTILE


@pytest.fixture
def address(database_url: str) -> Iterator[str]:
    """The real service, for which it is half an hour after T0."""
    with site.served(site.application(database_url, T0 + 30 * MINUTE)) as address:
        yield address


@pytest.fixture
def fleet(books: Books) -> Books:
    """Three minutes of two nodes; every name is hostile, and no energy is a round number."""
    node, other = books.node(f"node {HOSTILE}", "ams1"), books.node("gpu-2", "zrh1")
    board, spare = books.board(node, "GPU-a"), books.board(other, "GPU-b")
    chat = books.placement(node, [board], HOSTILE, model="qwen|3", team="-team")
    quiet = books.placement(other, [spare], "quiet")
    for minute in range(3):
        at = T0 + minute * MINUTE
        books.spent(node, board, chat, SERVING, 7_000_001, at=at, tokens=(10, 5, 3000))
        books.spent(node, board, chat, IDLE_LOADED, 1_000_009, at=at)
        books.spent(node, board, 0, UNATTRIBUTED, 13, at=at)
        books.spent(other, spare, quiet, IDLE_LOADED, 333_333, at=at, tokens=(0, 0, 0))
        books.spent(other, spare, 0, IDLE_EMPTY, 503, at=at)
    books.do(
        "INSERT INTO finding (kind, subject, site, since, last_seen, energy_mj, evidence, summary, remedy)"
        " VALUES ('idle-loaded', %s, 'ams1', %s, %s, 3600000001, '{}', 'It idles.', 'Scale it to zero. Then rest.')",
        *(HOSTILE, T0, T0 + 3 * MINUTE),
    )
    return books


@contextlib.contextmanager
def answering(answer: Callable[[str], Answer]) -> Iterator[str]:
    """A service that answers a path with what `answer` returns: status, content type, document or text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name is http.server's
            status, media, body = answer(self.path)
            raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", media)
            self.send_header("Content-Length", str(len(raw)))
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def stub() -> Stub:
    return answering
