"""What the page's forms do: acknowledge and resolve a finding, forget the key. Each ends on the page it came from.

A finding's form has the field `csrf` (session.token), and may have `note` and `back` (the path to go to). It needs an
admin key in the cookie once keys exist. The same under `/api/v1/findings/…` takes a key in a header, never a cookie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from wattmill_api import __version__, errors, pages, session
from wattmill_api.errors import Conflict, Invalid, NotFound, WattmillError
from wattmill_api.store import findings, keys
from wattmill_api.store.database import Connection

router = APIRouter(include_in_schema=False)
LONGEST_NOTE = 512
FindingId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Change = Callable[[Connection, int, str, str], bool]


@router.post("/key/forget")
async def forget_key(request: Request) -> Response:
    """End the session of this browser. The key itself stays valid: `wattmill key revoke` ends it."""
    try:
        session.refuse_others(request)
    except WattmillError as error:
        return _refused(error, "/")
    response = _to("/")
    session.forget(request, response)
    return response


@router.post("/findings/{finding_id}/acknowledge")
async def acknowledge(request: Request, finding_id: FindingId) -> Response:
    """Say that someone has seen it."""
    return await _changed(request, finding_id, findings.acknowledge)


@router.post("/findings/{finding_id}/resolve")
async def resolve(request: Request, finding_id: FindingId) -> Response:
    """Say that it is over."""
    return await _changed(request, finding_id, findings.resolve)


async def _changed(request: Request, finding_id: int, change: Change) -> Response:
    back = "/"
    try:
        fields = await session.form(request)
        back = session.way_back(request, fields)
        access = await request.app.state.guard.check(session.key_of(request), "admin")
        session.check_token(request, fields)
        await run_in_threadpool(_change, request, finding_id, change, _note(fields), access.key_id)
    except WattmillError as error:
        return _refused(error, back)
    return _to(back)


def _note(fields: Mapping[str, str]) -> str:
    note = fields.get("note", "").strip()
    if len(note) > LONGEST_NOTE or "\x00" in note:
        raise Invalid(f"note: at most {LONGEST_NOTE} characters, and no NUL among them.")
    return note


def _change(request: Request, finding_id: int, change: Change, note: str, key_id: str | None) -> None:
    """Errors: NotFound, Conflict, DatabaseAway."""
    with request.app.state.database.writing() as connection:
        by = "" if key_id is None else keys.name_of(connection, key_id)
        if change(connection, finding_id, note, by):
            return
        if not findings.find(connection, finding_id=finding_id):
            raise NotFound(f"There is no finding {finding_id}.")
        raise Conflict(f"Finding {finding_id} is over already.")


def _to(path: str) -> Response:
    return Response(status_code=303, headers={"Location": path, **pages.HEADERS})


def _refused(error: WattmillError, back: str) -> Response:
    page = pages.TEMPLATES.get_template("refused.html.j2")
    written = page.render(version=__version__, problem=error.detail, back=back)
    return Response(written, errors.STATUS[type(error)], pages.HEADERS, media_type="text/html; charset=utf-8")
