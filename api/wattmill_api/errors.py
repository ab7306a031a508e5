"""What can go wrong, as sentences, and how it is answered: RFC 9457 problem+json, never HTML, never a stack trace.

Code raises a WattmillError and never picks a number; the table `STATUS` does. The docstring of a class is its message
when none is given.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)
PROBLEM = "application/problem+json"
Fault = Mapping[str, str]


class WattmillError(Exception):
    """The service could not do that."""

    def __init__(
        self,
        detail: str = "",
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.detail = detail or " ".join((type(self).__doc__ or "").split())
        self.faults = tuple(faults)
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})
        super().__init__(self.detail)


class Undecodable(WattmillError):
    """The body is not what its headers say it is."""


class Unauthenticated(WattmillError):
    """This service needs a key: send `Authorization: Bearer wm_…`."""


class Forbidden(WattmillError):
    """The key is valid, but its scope does not allow this."""


class NotFound(WattmillError):
    """There is no such thing here."""


class Conflict(WattmillError):
    """Something else is already stored under this name."""


class TooSlowToArrive(WattmillError):
    """The body did not arrive in time."""


class TooLarge(WattmillError):
    """The body is larger than this service takes in one piece."""


class UnsupportedMedia(WattmillError):
    """The body's type or encoding is not one that this service reads."""


class Invalid(WattmillError):
    """A value is outside what this service understands."""


class Busy(WattmillError):
    """More is waiting to be stored than this service takes on; send it again later."""


class DatabaseAway(WattmillError):
    """The database does not answer; nothing of this request was kept."""


class TooMuchAsked(WattmillError):
    """The question took too long to answer; ask for a shorter range or a longer step."""


STATUS: dict[type[WattmillError], int] = {
    Undecodable: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    TooSlowToArrive: 408,
    Conflict: 409,
    TooLarge: 413,
    UnsupportedMedia: 415,
    Invalid: 422,
    Busy: 503,
    DatabaseAway: 503,
    TooMuchAsked: 503,
    WattmillError: 500,
}
TITLES = {
    400: "Undecodable request",
    401: "Key needed",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Request too slow",
    409: "Conflict",
    413: "Request too large",
    415: "Unsupported body",
    422: "Value not understood",
    500: "Internal error",
    503: "Try again later",
}
RETRY_AFTER_SECONDS = 5


def invalid(field: str, reason: str) -> Invalid:
    """One value that can't be used: names the field and the limit."""
    return Invalid(f"{field}: {reason}", faults=[{"field": field, "reason": reason}])


def problem(
    status: int,
    detail: str,
    *,
    faults: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """A problem document (RFC 9457): type, title, status, detail and the fields at fault."""
    title = TITLES.get(status, "Request failed")
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "errors": [dict(fault) for fault in faults],
        **(extra or {}),
    }
    all_headers = dict(headers or {})
    if status == 503:
        all_headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    # ASCII: a detail may quote half a surrogate pair out of the request.
    return Response(json.dumps(document).encode(), status, all_headers, media_type=PROBLEM)


def _of_wattmill(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WattmillError)
    return problem(STATUS[type(error)], error.detail, faults=error.faults, headers=error.headers, extra=error.extra)


def _of_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [_fault(e) for e in error.errors()]
    undecodable = any(e["type"] == "json_invalid" for e in error.errors())
    detail = "; ".join(f"{f['field']}: {f['reason']}" for f in faults[:5])
    return problem(400 if undecodable else 422, detail, faults=faults)


def _fault(error: Mapping[str, Any]) -> Fault:
    place = [str(part) for part in error["loc"]]
    field = ".".join(place[1:] if len(place) > 1 else place)
    if error["type"] == "extra_forbidden":
        return {"field": field, "reason": "is not a parameter of this request"}
    return {"field": field, "reason": str(error["msg"]).removeprefix("Value error, ")}


def _of_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {
        404: "There is nothing at this address; /docs lists what there is.",
        405: "This address does not take that method.",
        413: "The body is larger than this service takes in one piece.",
    }
    detail = details.get(error.status_code, str(error.detail))
    if error.status_code == 400:
        detail = "The body could not be decoded."
    return problem(error.status_code, detail, headers=error.headers)


def _of_anything(request: Request, error: Exception) -> Response:
    log.error("%s failed unexpectedly", request.url.path, exc_info=error, extra={"action": "answer"})
    return problem(500, "The service failed unexpectedly; its log says why.")


def install(app: FastAPI) -> None:
    """Every error of this application is answered by the functions above."""
    app.add_exception_handler(WattmillError, _of_wattmill)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_anything)
