"""The first page, `/`: written on the server, readable without JavaScript, refreshed in place with it.

Nothing comes from another host and nothing is written into the page as code: the content security policy forbids both.
Once keys exist, the page asks for one and keeps it in a cookie that scripts cannot read and other sites cannot use.
"""

from __future__ import annotations

import datetime as dt
import importlib.resources
import itertools
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import jinja2
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from wattmill_api import __version__
from wattmill_api.errors import DatabaseAway, Forbidden, NotFound, Unauthenticated
from wattmill_api.overview import RANGES, Overview, overview

router = APIRouter(include_in_schema=False)

COOKIE = "wattmill_key"
MOST_FORM_BYTES = 4096
COOKIE_SECONDS = 30 * 86_400
STATIC = {"style.css": "text/css", "app.js": "text/javascript", "icon.svg": "image/svg+xml"}
POLICY = (
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'"),
    *("form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"),
)
HEADERS = {"Content-Security-Policy": "; ".join(POLICY), "Cache-Control": "no-store"}
PLOT_WIDTH, PLOT_HEIGHT = 600, 120


def _grouped(value: int | float | None, digits: int = 0) -> str:
    """1234567 as 1 234 567; a dash where it is not known."""
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def _kwh(energy_mj: int | None) -> str:
    """Energy in a unit that a person can read, with three digits that mean something."""
    if energy_mj is None:
        return "–"
    watt_hours = energy_mj / 3_600_000
    if watt_hours < 1000:
        return f"{_grouped(watt_hours, 1)} Wh"
    return f"{_grouped(watt_hours / 1000, 2 if watt_hours < 100_000 else 0)} kWh"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _clock(time: dt.datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _plot(points: Sequence[tuple[dt.datetime, float | None]]) -> list[str]:
    """The trend as SVG point lists: a new one begins after every gap, so that no gap is drawn over."""
    known = [value for _, value in points if value is not None]
    if len(known) < 2:
        return []
    top = max(known) * 1.05
    first, last = points[0][0], points[-1][0]
    span = (last - first).total_seconds() or 1.0
    typical = min((later[0] - earlier[0] for earlier, later in itertools.pairwise(points)), default=None)
    lines: list[list[str]] = [[]]
    before: dt.datetime | None = None
    for time, value in points:
        apart = before is not None and typical is not None and time - before > typical
        if value is None or apart:
            lines.append([])
        if value is not None:
            across = (time - first).total_seconds() / span * PLOT_WIDTH
            lines[-1].append(f"{across:.1f},{PLOT_HEIGHT * (1 - value / top):.1f}")
        before = time
    return [" ".join(line) for line in lines if line]


TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("wattmill_api"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
)
TEMPLATES.filters.update(grouped=_grouped, kwh=_kwh, percent=_percent, clock=_clock, plot=_plot)


@router.get("/")
async def page(request: Request) -> Response:
    """The page; the form for a key where one is needed; a page that says so where the database is away."""
    try:
        await request.app.state.guard.check(request.cookies.get(COOKIE) or None, "read")
    except (Unauthenticated, Forbidden) as error:
        return _render(request, 401, wants_key=True, problem=error.detail if COOKIE in request.cookies else "")
    except DatabaseAway as error:
        return _render(request, 503, problem=error.detail)
    chosen = request.query_params.get("range", "1h")
    if chosen not in RANGES:
        return _render(request, 422, problem=f"range: must be one of {', '.join(RANGES)}")
    try:
        shown = await run_in_threadpool(_overview, request, RANGES[chosen])
    except DatabaseAway as error:
        return _render(request, 503, problem=error.detail)
    return _render(request, 200, shown=shown, chosen=chosen)


@router.post("/key")
async def enter(request: Request) -> Response:
    """Keep a key in the browser's cookie; whether it is good is seen when the page is asked for."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            return _render(request, 413, wants_key=True, problem="That is too long for a key.")
    given = parse_qs(body.decode("ascii", "replace")).get("key", [""])[0].strip()
    response = Response(status_code=303, headers={"Location": "/", **HEADERS})
    response.set_cookie(
        COOKIE,
        given if given.isascii() and given.isprintable() else "",
        max_age=COOKIE_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.get("/static/{name}")
def static(name: str) -> Response:
    """The page's style, script and icon."""
    if name not in STATIC:
        raise NotFound(f"There is no file {name} here.")
    return Response(_static(name), media_type=STATIC[name], headers={"Cache-Control": "public, max-age=3600"})


def _static(name: str) -> bytes:
    return importlib.resources.files("wattmill_api").joinpath("static", name).read_bytes()


def _overview(request: Request, length: dt.timedelta) -> Overview:
    with request.app.state.database.reading() as connection:
        return overview(connection, request.app.state.now(), length)


def _render(
    request: Request,
    status: int,
    *,
    shown: Overview | None = None,
    chosen: str = "1h",
    wants_key: bool = False,
    problem: str = "",
) -> Response:
    context: dict[str, Any] = {
        "version": __version__,
        "address": str(request.base_url).rstrip("/"),
        "ranges": list(RANGES),
        "chosen": chosen,
        "shown": shown,
        "wants_key": wants_key,
        "problem": problem,
        "plot_width": PLOT_WIDTH,
        "plot_height": PLOT_HEIGHT,
    }
    return Response(
        TEMPLATES.get_template("index.html.j2").render(context), status, HEADERS, media_type="text/html; charset=utf-8"
    )
