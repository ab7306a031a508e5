"""GET /api/v1/efficiency: tokens per kilowatt-hour, at the stated scope, with cost, CO2, coverage and quality."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_api import auth, coverage, efficiency, slo
from wattmill_api.errors import invalid
from wattmill_api.export import FILES, export
from wattmill_api.parameters import OWNER_DIMENSIONS, By, EnergyScope, Filters, RangeQuestion, Step, Window, window
from wattmill_api.routes.documents import problems
from wattmill_api.store import prices, query, targets
from wattmill_api.store import slo as latencies
from wattmill_api.store.database import Connection

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


class Targets(BaseModel):
    """Null: no target, or workloads with several are added up."""

    inter_token_latency_ms: float | None
    time_to_first_token_ms: float | None


class Slo(BaseModel):
    """Tokens that came in time. Inside a bucket of a histogram observations are taken to lie evenly."""

    target: Targets
    met_ratio: float | None = Field(description="Share of the tokens with a target that met it.")
    met_output_tokens: int | None = Field(
        description="Output tokens at or under their workload's inter-token target, whole ones per minute or hour."
    )
    met_tokens_per_kwh: float | None = Field(description="Those per kWh of the whole row.")
    joules_per_met_token: float | None
    median_inter_token_latency_ms: float | None
    p99_inter_token_latency_ms: float | None
    first_token_met_ratio: float | None = Field(description="Share of the requests whose first token met its target.")
    median_time_to_first_token_ms: float | None
    p99_time_to_first_token_ms: float | None
    median_queue_time_ms: float | None
    p99_queue_time_ms: float | None
    median_request_latency_ms: float | None
    p99_request_latency_ms: float | None
    coverage: float | None = Field(description="Share of the row's output tokens that have a histogram and a target.")


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
    slo: Slo | None = Field(description="Null where no engine gives latency histograms.")


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
    *("target_inter_token_latency_ms", "target_time_to_first_token_ms", "met_ratio", "met_output_tokens"),
    *("met_tokens_per_kwh", "joules_per_met_token", "median_inter_token_latency_ms", "p99_inter_token_latency_ms"),
    *("first_token_met_ratio", "median_time_to_first_token_ms", "p99_time_to_first_token_ms", "slo_coverage"),
)


@router.get(
    "/efficiency",
    operation_id="efficiency",
    summary="Tokens per kilowatt-hour",
    response_model=EfficiencyAnswer,
    responses={**FILES, **problems(401, 403, 422, 503)},
    dependencies=[auth.needs("read")],
)
def get_efficiency(request: Request, question: Annotated[EfficiencyQuestion, Query()]) -> Response:
    """The groups sum to the meter for every `by`: energy that nobody owns is a group of its own, named null."""
    with request.app.state.database.reading() as connection:
        known, goals = prices.load(connection), targets.load(connection)
        cuts = known.cuts()
        now = request.app.state.now()
        asked = window(question, question.step, now, [*cuts, *goals.changes()])
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
        slos = _slos(connection, asked, question, goals)
        # Only boards are known to have been there without a row of theirs; a workload is where its energy is.
        expected_us = None
        if not question.names_owner and not OWNER_DIMENSIONS & set(question.by):
            devices = query.expected(connection, "accelerator", asked, question.by_dimension())
            expected_us = coverage.expected_us(devices, question.by, asked, now)
    if len(facts) > MOST_ROWS:
        raise too_many_rows()
    rows = efficiency.rows(
        facts, known, scope=question.scope, start=asked.start, cuts=cuts, expected_us=expected_us, slos=slos
    )
    document = {**described(asked), "scope": question.scope, "by": question.by, "rows": rows}
    return export(
        document, ("time", *group_columns(question.by), *COLUMNS), question.format, f"efficiency-{stamp(asked)}"
    )


def _slos(
    connection: Connection, asked: Window, question: EfficiencyQuestion, known: prices.History
) -> dict[slo.Key, slo.Slo]:
    """What is known of latencies; one short question where no engine shows any."""
    uses = latencies.in_use(connection, asked)
    if not uses:
        return {}
    filters = question.by_dimension()
    goals, unit = slo.goals(uses, known, asked)
    met = latencies.met(connection, asked, by=question.by, filters=filters, goals=goals, unit=unit)
    observed = latencies.observed(connection, asked, by=question.by, filters=filters)
    return slo.combine(met, observed, {use.bounds_id: use.le_us for use in uses})


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
