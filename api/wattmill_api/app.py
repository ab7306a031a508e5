"""The application: settings in, everything built in order, nothing at import. Reads top to bottom."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wattmill_api import __version__, errors, migrate, reference
from wattmill_api.auth import Guard
from wattmill_api.coalescer import Coalescer, Store
from wattmill_api.coverage import settled_at
from wattmill_api.errors import DatabaseAway
from wattmill_api.exposition import MINUTES
from wattmill_api.metrics import Metrics
from wattmill_api.routes import (
    chargeback,
    coverage,
    curves,
    efficiency,
    findings,
    frontier,
    health,
    ingest,
    inventory,
    ledger,
    live,
    meters,
    phases,
    prices,
    series,
    suppressions,
    targets,
    webhooks,
)
from wattmill_api.routes.documents import Problem
from wattmill_api.routes.examples import EXAMPLES
from wattmill_api.settings import Settings
from wattmill_api.store import exposition, keys, query
from wattmill_api.store.database import Database, translated
from wattmill_api.store.ingest import Interner, ParsedBatch, store_batches
from wattmill_collector.wire import Receipt

log = logging.getLogger(__name__)

DESCRIPTION = """Where every kilowatt-hour of an LLM fleet went, and how many tokens it became.

Energies are integer millijoules and tokens are integers, exact from the counter to the answer; ratios come last.
`null` is "not known", never 0. Times are RFC 3339 in UTC. Problems are `application/problem+json` (RFC 9457) and name
the field and the limit. Keys come from `wattmill key create`; until the first one exists, no key is needed.
"""
TAGS = [
    {"name": "ingest", "description": "What agents send."},
    {"name": "efficiency", "description": "Tokens per kilowatt-hour."},
    {"name": "frontier", "description": "Distance to the best published configuration."},
    {"name": "ledger", "description": "Energy and tokens by account."},
    {"name": "meters", "description": "Power meters of racks and halls beside what stands below them."},
    {"name": "findings", "description": "Waste, with evidence and remedy."},
    {"name": "inventory", "description": "What there is."},
    {"name": "series", "description": "For charts."},
    {"name": "coverage", "description": "What was not covered."},
    {"name": "prices", "description": "Tariff, carbon intensity, PUE: versioned."},
    {"name": "live", "description": "Server-sent events."},
    {"name": "health", "description": "This service itself."},
]
MOST_BODY_BYTES = 4 * 1024**2  # of everything but ingest, which has limits of its own
API_PREFIX = "/api/v1"
INGEST_PATH = f"{API_PREFIX}/ingest"
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
API_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


def create_app(
    settings: Settings, *, extra_routers: Sequence[APIRouter] = (), unknown_settings: Sequence[str] = ()
) -> FastAPI:
    """Build the service. Nothing connects before its lifespan begins; a database that is away does not stop it.

    `extra_routers` are the pages and whatever else a command adds at the root.
    """
    database = Database(settings)
    coalescer = Coalescer(
        [_store(database) for _ in range(settings.write_connections)],
        queue_readings=settings.ingest_queue_readings,
        deadline_seconds=settings.ingest_deadline_s,
    )

    def job_runs() -> Sequence[dict[str, Any]]:
        with database.reading() as connection:
            return query.job_runs(connection)

    def exposed() -> exposition.Exposed:
        settled = settled_at(app.state.now())
        with database.reading() as connection:
            return exposition.read(connection, settled, MINUTES)

    app = FastAPI(
        title="Wattmill",
        version=__version__,
        summary="Tokens per kilowatt-hour, from a ledger that closes",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=_lifespan(settings, database, coalescer),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.database = database
    app.state.coalescer = coalescer
    app.state.guard = Guard(_Keys(database), time.monotonic, closed=bool(settings.given_keys))
    app.state.metrics = Metrics(coalescer, job_runs, unknown_settings, exposed)
    app.state.feed = live.Feed(database)
    app.state.now = lambda: dt.datetime.now(dt.UTC)
    app.state.check_ready = _readiness(settings, database)

    api = APIRouter(prefix=API_PREFIX)
    for part in (
        ingest,
        efficiency,
        chargeback,
        frontier,
        ledger,
        meters,
        findings,
        suppressions,
        inventory,
        series,
        coverage,
        prices,
        live,
        phases,
        curves,
        targets,
        webhooks,
    ):
        api.include_router(part.router)
    app.include_router(api)
    app.include_router(health.router)
    app.include_router(reference.router)
    for router in extra_routers:
        app.include_router(router)

    errors.install(app)
    app.add_middleware(_Limited)
    app.add_middleware(_Observed, metrics=app.state.metrics)
    _document(app)
    return app


def _store(database: Database) -> Store:
    """What one writer does with a group of batches. The interner belongs to this writer alone."""
    interner = Interner()

    def store(batches: Sequence[ParsedBatch]) -> list[Receipt]:
        with database.writing() as connection:
            return store_batches(connection, batches, interner)

    return store


class _Keys:
    """The guard's view of the table of keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def any_key(self) -> bool:
        with self._database.reading() as connection:
            return keys.any_key(connection)

    def find(self, key_id: str) -> keys.KeyHash | None:
        with self._database.reading() as connection:
            return keys.find(connection, key_id)


def _readiness(settings: Settings, database: Database) -> Callable[[], None]:
    """A check that raises DatabaseAway until the database answers and has our schema."""
    migrated = False

    def check() -> None:
        nonlocal migrated
        with database.reading() as connection:
            query.ping(connection)
        if not migrated:
            with translated():
                migrated = migrate.current(settings.database_url)
            if not migrated:
                raise DatabaseAway("The database's schema is not up to date; run `wattmill migrate`.")

    return check


def _lifespan(
    settings: Settings, database: Database, coalescer: Coalescer
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(0.0005)  # a post waits for the interpreter lock of roll-up and of the others, often
        database.open()
        coalescer.start()
        jobs = None
        if settings.jobs:
            from wattmill_api.jobs import Jobs  # numba: only where jobs run

            jobs = Jobs(settings)
            jobs.start()
        try:
            yield
        finally:
            if jobs is not None:
                await run_in_threadpool(jobs.stop)
            await coalescer.stop()
            await run_in_threadpool(database.close)

    return lifespan


class _Limited:
    """Stops reading a body that is too large. The framework's own limit answers in plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BODY_BYTES:
                raise HTTPException(413)
            return message

        exempt = scope["type"] != "http" or scope["path"] == INGEST_PATH
        await self._app(scope, receive if exempt else limited, send)


class _Observed:
    """Counts each answer under its route's template, and adds the security headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500
        api = scope["path"].startswith(API_PREFIX + "/")

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                wanted = SECURITY_HEADERS + (API_HEADERS if api else ())
                headers = [*message["headers"], *(pair for pair in wanted if pair[0] not in present)]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            # A nested router's route knows its path without the prefix.
            path = getattr(scope.get("route"), "path", None)
            route = "none" if path is None else API_PREFIX + path if api else path
            self._metrics.answered(scope["method"], route, status, time.perf_counter() - begun)


def _document(app: FastAPI) -> None:
    """Complete the OpenAPI document: examples, and problems instead of the framework's own validation answer."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = generate()
        schemas = document["components"]["schemas"]
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs"))
        schemas["Problem"] = problem
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for operation in (o for operations in document["paths"].values() for o in operations.values()):
            if operation["operationId"] in EXAMPLES:
                operation["responses"]["200"]["content"]["application/json"]["example"] = EXAMPLES[
                    operation["operationId"]
                ]
        app.openapi_schema = document
        return document

    app.openapi = openapi  # type: ignore[method-assign]
