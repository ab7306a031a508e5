"""The service with its page on a real port, inside this process, at a time of the test's choosing."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from support.processes import eventually, free_port
from wattmill_api import forms, pages
from wattmill_api.app import create_app
from wattmill_api.settings import Settings


def application(database_url: str, now: dt.datetime) -> FastAPI:
    """The service as `wattmill serve` builds it, without jobs; for it, it is `now`."""
    app = create_app(Settings(database_url=database_url, jobs=False), extra_routers=[pages.router, forms.router])
    app.state.now = lambda: now
    return app


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve `app`; its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, 30)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
