"""GET /api/v1/coverage: what was not covered, when, why."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_api import auth, coverage
from wattmill_api.errors import invalid
from wattmill_api.parameters import DIMENSIONS, DeviceFilters, RangeQuestion, window
from wattmill_api.routes.documents import answer, problems
from wattmill_api.store import query

router = APIRouter(tags=["coverage"])
MOST_ISLANDS = 500_000


class CoverageQuestion(RangeQuestion, DeviceFilters):
    by: Literal["accelerator", "node", "site", "engine"] = Field("accelerator", description="What is told apart.")


class GapModel(BaseModel):
    start: dt.datetime
    end: dt.datetime
    reason: str
    detail: str


class CoverageRow(BaseModel):
    group: dict[str, str]
    coverage: float | None = Field(description="covered_seconds / expected_seconds; null if nothing was expected.")
    covered_seconds: float
    expected_seconds: float
    anomalies: int = Field(description="Readings that contradicted their counter and were not counted.")
    gaps: list[GapModel]


class CoverageAnswer(BaseModel):
    start: dt.datetime
    end: dt.datetime
    by: str
    rows: list[CoverageRow]


@router.get(
    "/coverage",
    operation_id="coverage",
    summary="What was not covered, when, why",
    response_model=CoverageAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_coverage(request: Request, question: Annotated[CoverageQuestion, Query()]) -> Response:
    """A device is expected from its first reading on, and a minute is a gap unless all of it was covered."""
    now: dt.datetime = request.app.state.now()
    asked = window(question, None, now)
    filters: dict[str, list[str] | None] = {name: getattr(question, name, None) or None for name in DIMENSIONS}
    kind: query.Device = "engine" if question.by == "engine" else "accelerator"
    with request.app.state.database.reading() as connection:
        devices = query.expected(connection, kind, asked, filters)
        islands = query.islands(connection, kind, asked, filters, MOST_ISLANDS + 1)
        absences = query.absences(connection, asked, filters, MOST_ISLANDS)
    if len(islands) > MOST_ISLANDS:
        raise invalid("start", "too much changes in this range to be told in one answer; ask for a shorter one")
    covered = coverage.of_devices(devices, islands, absences, kind=kind, start=asked.start, end=asked.end, now=now)
    rows = [_row(dict(group), items) for group, items in coverage.grouped(covered, question.by).items()]
    return answer({"start": asked.start, "end": asked.end, "by": question.by, "rows": rows})


def _row(group: dict[str, str], items: list[coverage.Covered]) -> dict[str, Any]:
    covered_us = sum(item.covered_us for item in items)
    expected_us = sum(item.expected_us for item in items)
    return {
        "group": group,
        "coverage": covered_us / expected_us if expected_us else None,
        "covered_seconds": covered_us / 1_000_000,
        "expected_seconds": expected_us / 1_000_000,
        "anomalies": sum(item.anomalies for item in items),
        "gaps": coverage.join(gap for item in items for gap in item.gaps),
    }
