"""GET /api/v1/frontier: how far workloads run from the best published configuration, and the table behind it."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_api import auth, efficiency, frontier
from wattmill_api.errors import invalid
from wattmill_api.parameters import DIMENSIONS, EnergyScope, Names, Question, RangeQuestion, window
from wattmill_api.routes.documents import answer, problems
from wattmill_api.store import frontier as store
from wattmill_api.store import prices, query

router = APIRouter(prefix="/frontier", tags=["frontier"])
MOST_ROWS = 10_000
SERVING = 1  # the account


class FrontierQuestion(RangeQuestion):
    scope: EnergyScope = Field(
        "accelerator", description="What energy counts; figures are published for boards and for whole nodes."
    )
    workload: Names = Field([], description="Names of workloads; repeatable.")
    model: Names = Field([], description="Names of served models; repeatable.")
    team: Names = Field([], description="Names of teams; repeatable.")
    node: Names = Field([], description="Names of nodes; repeatable.")
    site: Names = Field([], description="Names of sites; repeatable.")


class ReferencesQuestion(Question):
    scope: Literal["accelerator", "node"] | None = Field(None, description="Only measurements of this scope.")


class ObservedModel(BaseModel):
    """What the workload did; the energies, tokens and ratios are those of /efficiency."""

    energy_mj: int | None
    serving_energy_mj: int | None = Field(description="The part of the energy that served requests.")
    output_tokens: int | None
    joules_per_token: float | None = Field(description="Joules per output token.")
    tokens_per_kwh: float | None = Field(description="Output tokens per kWh.")
    inter_token_latency_ms: float | None = Field(description="An estimate; prefill is in it.")
    inter_token_latency_source: Literal["concurrency over rate"] | None = Field(
        description="How it was found: requests running × time / output tokens, over minutes that were read in full."
    )
    mean_output_tokens: float | None = Field(description="Output tokens a request.")
    boards_per_replica: int | None = Field(description="Null where replicas differ.")
    scope: EnergyScope
    quality: Literal["measured", "estimated"]
    coverage: float | None
    missing: list[str] = Field(description="What would be needed for the fields that are null or estimated.")
    plausible: bool | None = Field(description="Whether joules per token lie within 0.02 to 50; null without a figure.")
    reason: str | None = Field(description="Why there is no figure, or why it is not plausible.")
    simulated: bool


class ReferenceModel(BaseModel):
    """A published measurement of one configuration; null is not published."""

    source: str
    citation: str
    scope: Literal["accelerator", "node"]
    model: str
    accelerator: str
    boards: int = Field(description="Boards of the replica or system that was measured.")
    parallelism: str | None
    precision: str
    task: str
    batch: float | None = Field(description="Mean number of requests decoded at a time.")
    watts: float
    output_tokens_per_s: float
    joules_per_token: float
    tokens_per_kwh: float
    inter_token_latency_ms: float | None = Field(
        description="What is compared with the observed one: batch / rate, or the limit where that is all there is."
    )
    median_itl_ms: float | None
    itl_limit_ms: float | None = Field(description="Bound of the benchmark at its 99th percentile.")
    mean_output_tokens: float | None


class Matched(BaseModel):
    confidence: Literal["exact", "same-architecture", "approximate", "none"]
    how: str = Field(description="What the names were taken for, or why they match nothing.")


class FrontierRow(BaseModel):
    group: dict[str, str | None] = Field(description="Workload, team, model and accelerator_model.")
    observed: ObservedModel
    reference: ReferenceModel | None = Field(description="Least joules per token among those at least as fast.")
    ratio: float | None = Field(description="Observed / reference joules per token; null when the verdict says why.")
    serving_ratio: float | None = Field(description="The same for the energy of serving alone, without idle time.")
    matched: Matched
    verdict: str
    caveat: str | None = Field(description="What the ratio does not say.")


class FrontierAnswer(BaseModel):
    start: dt.datetime
    end: dt.datetime
    scope: EnergyScope
    rows: list[FrontierRow]


class ReferencesAnswer(BaseModel):
    rows: list[ReferenceModel]


@router.get(
    "",
    operation_id="frontier",
    summary="Distance to the best published configuration",
    response_model=FrontierAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_frontier(request: Request, question: Annotated[FrontierQuestion, Query()]) -> Response:
    """The best configuration is the one with the least joules per token among those measured to be at least as fast."""
    filters: dict[str, list[str] | None] = {name: getattr(question, name, None) or None for name in DIMENSIONS}
    with request.app.state.database.reading() as connection, connection.transaction():
        query.one_snapshot(connection)
        known = prices.load(connection)
        asked = window(question, None, request.app.state.now(), known.cuts())
        cuts = [cut for cut in known.cuts() if asked.start < cut < asked.end]
        facts = query.energy(
            connection,
            asked,
            by=frontier.BY,
            filters=filters,
            cuts=cuts,
            by_account=True,
            with_host=question.scope != "accelerator",
            limit=MOST_ROWS + 1,
        )
        ran = store.concurrency(connection, asked, filters, MOST_ROWS + 1)
    if max(len(facts), len(ran)) > MOST_ROWS:
        raise invalid("workload", f"the answer would have more than {MOST_ROWS} rows; ask for fewer workloads or teams")

    def priced(some: list[query.Facts]) -> list[dict[str, Any]]:
        return efficiency.rows(some, known, scope=question.scope, start=asked.start, cuts=cuts)

    serving = frontier.serving(priced([item for item in facts if item.account == SERVING]))
    found = frontier.rows(priced(facts), serving, ran, question.scope)
    return answer({"start": asked.start, "end": asked.end, "scope": question.scope, "rows": found})


@router.get(
    "/references",
    operation_id="frontier_references",
    summary="The published measurements",
    response_model=ReferencesAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_references(question: Annotated[ReferencesQuestion, Query()]) -> Response:
    """Every row with its source, scope and latency."""
    wanted = [item for item in frontier.table() if question.scope in (None, item.scope)]
    return answer({"rows": [frontier.described(item) for item in wanted]})
