"""GET /api/v1/curves: what a token costs, and how fast it comes, at each load: the measure by which findings judge."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_api import auth
from wattmill_api.errors import invalid
from wattmill_api.parameters import DAY, EPOCH, Instant, Names, Question, RangeQuestion, window
from wattmill_api.routes.documents import answer, problems

router = APIRouter(tags=["efficiency"])
MOST_CURVES = 500
DEFAULT_DAYS = 14


class CurvesQuestion(Question):
    start: Instant | None = Field(None, description=f"Begin; default {DEFAULT_DAYS} days before `end`.")
    end: Instant | None = Field(None, description="End; default now. Both are widened to whole days (UTC).")
    model: Names = Field([], description="Names of served models; repeatable.")
    accelerator_model: Names = Field([], description="Product names of accelerators; repeatable.")
    workload: Names = Field([], description="Names of workloads: the curves that their replicas are of; repeatable.")


class CurveGroup(BaseModel):
    """Replicas that are alike."""

    model: str
    accelerator_model: str
    boards: int = Field(description="Accelerators of one replica.")
    engine_kind: str | None
    engine_version: str | None = Field(description="Null: the engine does not say.")


class LearntFrom(BaseModel):
    days: int
    minutes: int = Field(description="Minutes of replicas: measured, serving, settled, outside of incidents.")
    first_day: dt.date
    last_day: dt.date


class CurvePoint(BaseModel):
    concurrency: float = Field(description="Requests running at a time: middle of a bin a quarter of an octave wide.")
    joules_per_output_token: float = Field(
        description="Median, less what prefill cost, of all boards of the replica; smoothed where minutes are few."
    )
    lower_quartile: float | None = Field(description="A quarter of the minutes cost less; null where interpolated.")
    upper_quartile: float | None = Field(description="A quarter of the minutes cost more; null where interpolated.")
    output_tokens_per_s_per_request: float | None
    inter_token_latency_ms: float | None = Field(description="1000 / output_tokens_per_s_per_request.")
    minutes: int = Field(description="Minutes at this load; below 5 the value is interpolated.")


class BestPoint(BaseModel):
    concurrency: float
    joules_per_output_token: float


class CurveRow(BaseModel):
    group: CurveGroup
    learnt: LearntFrom
    prefill_joules_per_token: float | None = Field(description="Of an input token not served from the prefix cache.")
    prefill_reason: str | None = Field(description="Why it is null; then the points include prefill.")
    points: list[CurvePoint] = Field(description="By concurrency; none where the curve was not seen for 5 minutes.")
    best: BestPoint | None = Field(description="The cheapest load that was seen.")
    simulated: bool


class CurvesAnswer(BaseModel):
    start: dt.datetime
    end: dt.datetime
    rows: list[CurveRow]


@router.get(
    "/curves",
    operation_id="curves",
    summary="Energy and speed of a token against concurrency",
    response_model=CurvesAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_curves(request: Request, question: Annotated[CurvesQuestion, Query()]) -> Response:
    """One row per model, accelerator model, boards, engine and version. Today is there as far as it was learnt."""
    from wattmill_api import curve_rows  # numba: only where it is asked for

    now: dt.datetime = request.app.state.now()
    start = question.start or (question.end or now) - DEFAULT_DAYS * DAY
    asked = window(RangeQuestion(start=start, end=question.end), None, now)
    first, last = asked.start - (asked.start - EPOCH) % DAY, asked.end + (EPOCH - asked.end) % DAY
    with request.app.state.database.reading() as connection:
        rows = curve_rows.read(
            connection,
            first,
            last,
            model=question.model or None,
            accelerator_model=question.accelerator_model or None,
            workload=question.workload or None,
            limit=MOST_CURVES,
        )
    if rows is None:
        raise invalid("model", f"more than {MOST_CURVES} curves; name a model, an accelerator_model or a workload")
    return answer({"start": first, "end": last, "rows": rows})
