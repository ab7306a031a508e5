"""GET /api/v1/efficiency: tokens per kilowatt-hour, at the stated scope, with cost, CO2, coverage and quality."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_api import auth, coverage, efficiency
from wattmill_api.errors import invalid
from wattmill_api.export import export
from wattmill_api.parameters import OWNER_DIMENSIONS, By, EnergyScope, Filters, RangeQuestion, Step, Window, window
from wattmill_api.routes.documents import problems
from wattmill_api.store import prices, query

router = APIRouter(tags=["efficiency"])
MOST_ROWS = 200_000


class EfficiencyQuestion(RangeQuestion, Filters):
    step: Step | None = Field(None, description="Length of a bucket; without it there is one row a group.")
    by: By = Field([], description="Dimensions to tell apart; repeat, or separate by commas.")
    scope: EnergyScope = Field("accelerator", description="What energy counts: boards, whole nodes, or × PUE.")
    format: Literal["json", "csv", "parquet"] = Field("json", description="How the rows are written.")


class Tokens(BaseModel):
    """Null: not known. `input` counts all input tokens, `cached_input` the part served from the prefix cache."""

    input: int | None
    cached_input: int | None
    output: int | None


class Cost(BaseModel):
    currency: str
    total: float
    per_million_tokens: float | None = Field(description="Per million output tokens.")


class EfficiencyRow(BaseModel):
    time: dt.datetime = Field(description="Begin of the bucket; of the range when there is no step.")
    group: dict[str, str | None] = Field(description="The dimensions asked for; null is what nobody owns.")
    tokens: Tokens
    energy_mj: int | None
    energy_kwh: float | None
    tokens_per_kwh: float | None = Field(description="Output tokens per kWh.")
    total_tokens_per_kwh: float | None = Field(description="Input and output tokens per kWh.")
    uncached_total_tokens_per_kwh: float | None = Field(description="The same without cached input.")
    joules_per_token: float | None = Field(description="Joules per output token.")
    reason: str | None = Field(description="Why there is no tokens_per_kwh.")
    cost: Cost | None
    co2_grams: float | None
    coverage: float | None = Field(
        description="Share of the time, from each board's first reading on, that lies between trusted readings."
    )
    quality: Literal["measured", "estimated"]
    estimated_mj: int = Field(description="The part of the energy that was not read from a counter.")
    scope: EnergyScope
    missing: list[str] = Field(description="What would be needed for the fields that are null or estimated.")
    simulated: bool


class EfficiencyAnswer(BaseModel):
    start: dt.datetime
    end: dt.datetime
    step: str | None
    scope: EnergyScope
    by: list[str]
    rows: list[EfficiencyRow]


COLUMNS = (
    *("input_tokens", "cached_input_tokens", "output_tokens", "energy_mj", "energy_kwh", "tokens_per_kwh"),
    *("total_tokens_per_kwh", "uncached_total_tokens_per_kwh", "joules_per_token", "reason", "currency", "cost"),
    *("cost_per_million_tokens", "co2_grams", "coverage", "quality", "estimated_mj", "scope", "missing", "simulated"),
)


@router.get(
    "/efficiency",
    operation_id="efficiency",
    summary="Tokens per kilowatt-hour",
    response_model=EfficiencyAnswer,
    responses={
        200: {
            "content": {
                "text/csv": {"schema": {"type": "string"}},
                "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
            }
        },
        **problems(401, 403, 422, 503),
    },
    dependencies=[auth.needs("read")],
)
def get_efficiency(request: Request, question: Annotated[EfficiencyQuestion, Query()]) -> Response:
    """The groups sum to the meter for every `by`: energy that nobody owns is a group of its own, named null."""
    with request.app.state.database.reading() as connection:
        known = prices.load(connection)
        cuts = known.cuts()
        now = request.app.state.now()
        asked = window(question, question.step, now, cuts)
        cuts = [cut for cut in cuts if asked.start < cut < asked.end]
        facts = query.energy(
            connection,
            asked,
            by=question.by,
            filters=question.by_dimension(),
            cuts=cuts,
            with_host=question.scope != "accelerator",
            limit=MOST_ROWS + 1,
        )
        # Only boards are known to have been there without a row of theirs; a workload is where its energy is.
        expected_us = None
        if not question.names_owner and not OWNER_DIMENSIONS & set(question.by):
            devices = query.expected(connection, "accelerator", asked, question.by_dimension())
            expected_us = coverage.expected_us(devices, question.by, asked, now)
    if len(facts) > MOST_ROWS:
        raise too_many_rows()
    rows = efficiency.rows(facts, known, scope=question.scope, start=asked.start, cuts=cuts, expected_us=expected_us)
    document = {**described(asked), "scope": question.scope, "by": question.by, "rows": rows}
    return export(
        document, ("time", *group_columns(question.by), *COLUMNS), question.format, f"efficiency-{stamp(asked)}"
    )


def too_many_rows() -> Exception:
    return invalid("step", f"the answer would have more than {MOST_ROWS} rows; ask for a longer step or fewer groups")


def described(asked: Window) -> dict[str, Any]:
    """The range as it was answered."""
    return {"start": asked.start, "end": asked.end, "step": asked.step_name}


def group_columns(by: list[Any]) -> list[str]:
    """Columns of a file for the keys of a group: an engine is named by its node and series too."""
    columns: list[str] = []
    for name in by:
        columns += ["engine", *([] if "node" in by else ["node"]), "series"] if name == "engine" else [name]
    return columns


def stamp(asked: Window) -> str:
    """A range in a file's name."""
    return f"{asked.start:%Y%m%dT%H%MZ}-{asked.end:%Y%m%dT%H%MZ}"
