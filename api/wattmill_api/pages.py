"""The pages: `/`, the load of a workload, one finding. Written on the server, readable without JavaScript.

Nothing comes from another host and nothing is written into a page as code: the content security policy forbids both.
Once keys exist, a page asks for one and keeps it in a cookie that scripts cannot read and other sites cannot use.
Names of nodes, workloads and the like are somebody's text: the templates escape everything.
"""

from __future__ import annotations

import datetime as dt
import functools
import gzip
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import jinja2
from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from wattmill_api import __version__, auth, readable, session, static_files
from wattmill_api.errors import STATUS, DatabaseAway, Forbidden, TooLarge, Unauthenticated, WattmillError
from wattmill_api.overview import overview
from wattmill_api.overview.evidence import evidence
from wattmill_api.overview.waterfall import NAMES
from wattmill_api.store.database import Connection
from wattmill_api.view import RANGES, View, read

router = APIRouter(include_in_schema=False)
router.include_router(static_files.router)

COOKIE = session.COOKIE
LEAST_BYTES = 500  # below it compressing is not worth it
POLICY = (
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'"),
    *("form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"),
)
# With no referrer at all, a browser would not say either that our own page sent a form (Origin: null).
HEADERS = {
    "Content-Security-Policy": "; ".join(POLICY),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
}
# Lines of a chart that shows several, told apart in both modes.
PALETTE = (
    "--serving",
    "--idle-loaded",
    "--host",
    "--idle-empty",
    "--unattributed",
    "--prefill",
    "--standing",
    "--soft",
)
# The scopes and what they are of, as a heading says it.
SCOPES = {"accelerator": "accelerators", "node": "whole nodes", "facility": "the facility"}
FindingId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Shown = TypeVar("Shown")


def _lasted(until: dt.datetime, since: dt.datetime) -> str:
    return readable.duration(until - since)


def _first_of(points: Sequence[tuple[dt.datetime, Sequence[float | None]]]) -> list[tuple[dt.datetime, float | None]]:
    return [(time, values[0]) for time, values in points]


TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("wattmill_api"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(readable.FILTERS, lasted=_lasted)
TEMPLATES.globals.update(
    version=__version__,
    static=static_files.base(),
    ranges=list(RANGES),
    scopes=SCOPES,
    accounts=list(NAMES.values()),
    palette=PALETTE,
    clock=readable.clock,
    span=readable.span,
    first_of=_first_of,
    view=None,
    problem="",
    signed_in=False,
    csrf=None,
)


@router.get("/")
async def page(request: Request) -> Response:
    """The first page; the form for a key where one is needed; a page that says so where the database is away."""

    def shown(connection: Connection, view: View) -> dict[str, Any]:
        retained = dt.timedelta(days=request.app.state.settings.retain_minutes_days)
        return {"shown": overview(connection, view, retained)}

    return await _answered(request, "index.html.j2", shown)


@router.get("/load")
async def load(request: Request) -> Response:
    """Tokens per kWh against load; the first page fetches it into its place."""

    def shown(connection: Connection, view: View) -> dict[str, Any]:
        from wattmill_api.overview.load import load  # numba: only where it is asked for

        return {"load": load(connection, view)}

    return await _answered(request, "load.html.j2", shown)


@router.get("/findings/{finding_id}")
async def finding(request: Request, finding_id: FindingId) -> Response:
    """One finding with its evidence."""

    def shown(connection: Connection) -> dict[str, Any]:
        return {"shown": evidence(connection, finding_id, request.app.state.now())}

    return await _read(request, "finding.html.j2", shown)


@router.post("/key")
async def enter(request: Request) -> Response:
    """Keep a key in the browser's cookie, if it opens the page; else say why not."""
    try:
        key = (await session.form(request)).get("key", "").strip()
        await request.app.state.guard.check(key or None, "read")
    except TooLarge:
        return _message(request, 413, "That is too long for a key.", wants_key=True)
    except (Unauthenticated, Forbidden) as error:
        return _message(request, 401, error.detail, wants_key=True)
    except DatabaseAway as error:
        return _message(request, 503, error.detail, wants_key=True)
    response = Response(status_code=303, headers={"Location": "/", **HEADERS})
    session.remember(request, response, key)
    return response


@router.get("/key")
def entered() -> Response:
    """The address of a refused key, loaded again."""
    return Response(status_code=303, headers={"Location": "/", **HEADERS})


async def _answered(request: Request, template: str, shown: Callable[[Connection, View], dict[str, Any]]) -> Response:
    """A page about the view that the address asks for."""

    def of_view(connection: Connection) -> dict[str, Any]:
        view = read(request.query_params.multi_items(), request.app.state.now())
        return {"view": view, **shown(connection, view)}

    return await _read(request, template, of_view)


async def _read(request: Request, template: str, shown: Callable[[Connection], dict[str, Any]]) -> Response:
    """A page of what `shown` reads; problems are pages too."""
    try:
        access = await request.app.state.guard.check(session.key_of(request), "read")
    except (Unauthenticated, Forbidden) as error:
        return _message(request, 401, error.detail if COOKIE in request.cookies else "", wants_key=True)
    except DatabaseAway as error:
        return _message(request, 503, error.detail)
    try:
        context = await run_in_threadpool(_in_store, request, shown)
    except WattmillError as error:
        return _message(request, STATUS[type(error)], error.detail)
    return _render(request, 200, template, context, access)


def _in_store(request: Request, shown: Callable[[Connection], Shown]) -> Shown:
    with request.app.state.database.reading() as connection:
        return shown(connection)


def _message(request: Request, status: int, problem: str, *, wants_key: bool = False) -> Response:
    return _render(request, status, "message.html.j2", {"problem": problem, "wants_key": wants_key})


def _render(
    request: Request, status: int, template: str, context: dict[str, Any], access: auth.Access | None = None
) -> Response:
    context = {
        "address": str(request.base_url).rstrip("/"),
        "signed_in": access is not None and access.key_id is not None,
        "csrf": session.token(request) if access is not None and access.may_change else None,
        **context,
    }
    body = _template(template).render(context).encode()
    headers = {**HEADERS, "Vary": "Accept-Encoding, Cookie"}
    if static_files.takes_gzip(request) and len(body) > LEAST_BYTES:
        body = gzip.compress(body, 6, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, status, headers, media_type="text/html; charset=utf-8")


@functools.cache
def _template(name: str) -> jinja2.Template:
    return TEMPLATES.get_template(name)
