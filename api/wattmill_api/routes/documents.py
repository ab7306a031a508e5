"""What every answer has in common: how it is written, and how its problems are documented."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import msgspec
from fastapi.responses import Response
from pydantic import BaseModel

from wattmill_api.errors import PROBLEM, TITLES


class FaultModel(BaseModel):
    """A field at fault, and the limit it broke."""

    field: str
    reason: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FaultModel]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: each status as a problem document."""
    return {
        status: {
            "description": TITLES[status],
            "content": {
                PROBLEM: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": {
                        "type": "about:blank",
                        "title": TITLES[status],
                        "status": status,
                        "detail": "step: must be 1m, 1h, 1d or auto" if status == 422 else f"{TITLES[status]}.",
                        "errors": [{"field": "step", "reason": "must be 1m, 1h, 1d or auto"}] if status == 422 else [],
                    },
                }
            },
        }
        for status in statuses
    }


def answer(document: Any, status: int = 200) -> Response:
    """JSON; times as RFC 3339 in UTC, integers as integers."""
    try:
        body = msgspec.json.encode(document)
    except OverflowError:  # an integer past 64 bits; exact all the same
        body = json.dumps(document, default=_plain).encode()
    return Response(body, status, media_type="application/json")


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an answer")


def rfc3339(time: dt.datetime) -> str:
    """UTC with a Z, microseconds only where there are any."""
    return time.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
