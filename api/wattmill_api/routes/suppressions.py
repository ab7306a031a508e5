"""Suppression windows: while one lasts, what it names has no open finding. For maintenance, load tests and so on."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from wattmill_api import auth
from wattmill_api.errors import NotFound, invalid
from wattmill_api.parameters import Instant, Name, Question
from wattmill_api.routes.documents import answer, problems
from wattmill_api.routes.findings import said_by
from wattmill_api.store import suppressions as store
from wattmill_api.webhooks.payload import KINDS

router = APIRouter(prefix="/suppressions", tags=["findings"])
LONGEST = dt.timedelta(days=366)
Filter = Annotated[Name, Field(min_length=1)]


class SuppressionsQuestion(Question):
    after: Instant | None = Field(None, description="Only windows that end at this time or later; default now.")


class Suppression(BaseModel):
    """What is suppressed: incidents that match all five names; `*` matches everything."""

    model_config = ConfigDict(extra="forbid")

    kind: Filter = Field("*", description="A detector, for example idle-loaded.")
    subject: Filter = Field("*", description="A subject as findings name it.")
    workload: Filter = Field("*", description="Name of a workload.")
    node: Filter = Field("*", description="Name of a node.")
    site: Filter = Field("*", description="Name of a site.")
    start: Instant = Field(description="Begin.")
    end: Instant = Field(description="End; an incident that outlasts it opens its finding then.")
    reason: Name = Field("", description="Why, for the next person on call.")


class SuppressionModel(BaseModel):
    id: int
    kind: str
    subject: str
    workload: str
    node: str
    site: str
    start: dt.datetime
    end: dt.datetime
    reason: str | None
    by: str | None
    created: dt.datetime


class SuppressionsAnswer(BaseModel):
    rows: list[SuppressionModel]


@router.get(
    "",
    operation_id="suppressions",
    summary="Windows in which findings are suppressed",
    response_model=SuppressionsAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_suppressions(request: Request, question: Annotated[SuppressionsQuestion, Query()]) -> Response:
    with request.app.state.database.reading() as connection:
        rows = store.rows(connection, question.after or request.app.state.now())
    return answer({"rows": [_document(row) for row in rows]})


@router.post(
    "",
    operation_id="add_suppression",
    summary="Suppress findings for a while",
    response_model=SuppressionModel,
    responses=problems(400, 401, 403, 413, 422, 503),
    dependencies=[auth.needs("admin")],
)
def add_suppression(
    request: Request,
    wanted: Annotated[
        Suppression,
        Body(
            examples=[
                {
                    "workload": "chat-qwen3-32b",
                    "start": "2026-03-02T22:00:00Z",
                    "end": "2026-03-03T02:00:00Z",
                    "reason": "load test",
                }
            ]
        ),
    ],
) -> Response:
    if wanted.kind not in ("*", *KINDS):
        raise invalid("kind", f"must be * or one of {', '.join(KINDS)}")
    if wanted.end <= wanted.start:
        raise invalid("end", "must lie after start")
    if wanted.end - wanted.start > LONGEST:
        raise invalid("end", f"must not lie more than {LONGEST.days} days after start")
    names = wanted.model_dump(exclude={"start", "end"})
    with request.app.state.database.writing() as connection:
        row = store.add(
            connection, {**names, "since": wanted.start, "until": wanted.end, "by": said_by(request, connection)}
        )
    return answer(_document(row))


@router.delete(
    "/{suppression_id}",
    operation_id="delete_suppression",
    summary="Take a window back",
    response_model=SuppressionModel,
    responses=problems(401, 403, 404, 422, 503),
    dependencies=[auth.needs("admin")],
)
def delete_suppression(request: Request, suppression_id: Annotated[int, Path(ge=1, le=2**63 - 1)]) -> Response:
    with request.app.state.database.writing() as connection:
        row = store.delete(connection, suppression_id)
    if row is None:
        raise NotFound(f"There is no suppression window {suppression_id}.")
    return answer(_document(row))


def _document(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["suppression_id"],
        **{name: row[name] for name in ("kind", "subject", "workload", "node", "site")},
        "start": row["since"],
        "end": row["until"],
        "reason": row["reason"] or None,
        "by": row["by"] or None,
        "created": row["created"],
    }
