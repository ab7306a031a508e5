"""GET /api/v1/series: one metric over time, for charts."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_api import auth, efficiency
from wattmill_api.errors import invalid
from wattmill_api.parameters import (
    DIMENSIONS,
    EPOCH,
    OWNER_DIMENSIONS,
    STEPS,
    By,
    EnergyScope,
    Filters,
    RangeQuestion,
    Step,
    Window,
    window,
)
from wattmill_api.routes.documents import answer, problems
from wattmill_api.store import prices, query

router = APIRouter(tags=["series"])
MOST_POINTS = 11_000  # per series, as Prometheus has it
MOST_VALUES = 500_000


@dataclasses.dataclass(frozen=True, slots=True)
class Chart:
    """How a metric is folded: `within` the bucket of one device, then `across` the devices of a series."""

    device: query.Device
    unit: str
    within: str
    across: str


CHARTS: dict[str, Chart] = {
    "energy_mj": Chart("accelerator", "mJ", "sum", "sum"),
    "power_mw": Chart("accelerator", "mW", "mean", "sum"),
    "utilisation_ratio": Chart("accelerator", "1", "mean", "mean"),
    "temperature_celsius": Chart("accelerator", "Cel", "mean", "mean"),
    "memory_used_bytes": Chart("accelerator", "By", "mean", "sum"),
    "sm_clock_mhz": Chart("accelerator", "MHz", "mean", "mean"),
    "process_count": Chart("accelerator", "{process}", "mean", "sum"),
    "covered_ratio": Chart("accelerator", "1", "mean", "mean"),
    "input_tokens": Chart("engine", "{token}", "sum", "sum"),
    "cached_input_tokens": Chart("engine", "{token}", "sum", "sum"),
    "computed_input_tokens": Chart("engine", "{token}", "sum", "sum"),
    "output_tokens": Chart("engine", "{token}", "sum", "sum"),
    "requests_finished": Chart("engine", "{request}", "sum", "sum"),
    "preemptions": Chart("engine", "{preemption}", "sum", "sum"),
    "draft_tokens": Chart("engine", "{token}", "sum", "sum"),
    "accepted_draft_tokens": Chart("engine", "{token}", "sum", "sum"),
    "requests_running": Chart("engine", "{request}", "mean", "sum"),
    "requests_waiting": Chart("engine", "{request}", "mean", "sum"),
    "kv_cache_usage_ratio": Chart("engine", "1", "mean", "mean"),
    "activity_ratio": Chart("engine", "1", "mean", "mean"),
}
# Out of the ledger: tokens and energy of the same rows.
RATIOS = {"tokens_per_kwh": "{token}/kW.h", "joules_per_token": "J/{token}"}
METRICS = (*CHARTS, *RATIOS)


class SeriesQuestion(RangeQuestion, Filters):
    metric: str = Field(
        description=f"One of {', '.join(METRICS)}.", examples=["power_mw"], json_schema_extra={"enum": list(METRICS)}
    )
    step: Step = Field("auto", description="Length of a bucket.")
    by: By = Field([], description="One series for each of these; without it one for all.")
    scope: EnergyScope = Field(
        "accelerator", description="Whose energy tokens_per_kwh and joules_per_token are of; the rest has no other."
    )


class SeriesModel(BaseModel):
    labels: dict[str, str | None]
    times: list[int] = Field(description="Begin of each bucket in unix seconds.")
    values: list[float | None] = Field(description="Null: nothing was read in this bucket.")


class SeriesAnswer(BaseModel):
    metric: str
    unit: str
    start: dt.datetime
    end: dt.datetime
    step: str
    scope: EnergyScope
    missing: list[str] = Field(description="What the scope needs and was not known: `host` of a node, `pue` of a site.")
    series: list[SeriesModel]


@router.get(
    "/series",
    operation_id="series",
    summary="One metric over time",
    response_model=SeriesAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_series(request: Request, question: Annotated[SeriesQuestion, Query()]) -> Response:
    """Counters are summed over a bucket, gauges averaged; over devices power is summed and ratios averaged."""
    if question.metric not in METRICS:
        raise invalid("metric", f"must be one of {', '.join(METRICS)}")
    if question.scope != "accelerator" and question.metric not in RATIOS:
        raise invalid("scope", f"only {' and '.join(RATIOS)} have one; /efficiency has the energy of every scope")
    missing: set[str] = set()
    groups: dict[tuple[tuple[str, str | None], ...], dict[dt.datetime, float | None]]
    with request.app.state.database.reading() as connection:
        known = prices.load(connection)
        asked = window(question, question.step, request.app.state.now(), known.cuts())
        _check_points(asked)
        if question.metric in RATIOS:
            groups, missing = _ratios(connection, asked, question, known)
        else:
            groups = _charted(connection, asked, question)
    assert asked.step is not None  # `auto` and the default always choose one
    grid = _grid(asked.start, asked.end, asked.step)
    return answer(
        {
            "metric": question.metric,
            "unit": RATIOS.get(question.metric) or CHARTS[question.metric].unit,
            "start": asked.start,
            "end": asked.end,
            "step": asked.step_name,
            "scope": question.scope,
            "missing": sorted(missing),
            "series": [
                {
                    "labels": dict(labels),
                    "times": [(time - EPOCH) // dt.timedelta(seconds=1) for time in grid],
                    "values": [values.get(time) for time in grid],
                }
                for labels, values in groups.items()
            ],
        }
    )


def _check_points(asked: Window) -> None:
    assert asked.step is not None
    length = asked.end - asked.start
    if length > MOST_POINTS * asked.step:
        fitting = next((name for name, step in STEPS.items() if length <= MOST_POINTS * step), None)
        shortest = f"the smallest valid step for this range is {fitting}" if fitting else "ask for a shorter range"
        raise invalid("step", f"would give more than {MOST_POINTS} points; {shortest}")


def _charted(connection: Any, asked: Window, question: SeriesQuestion) -> dict[Any, dict[dt.datetime, float | None]]:
    chart = CHARTS[question.metric]
    allowed = _dimensions(chart.device)
    for name in DIMENSIONS:
        if name not in allowed and (name in question.by or getattr(question, name)):
            field = "by" if name in question.by else name
            raise invalid(field, f"{question.metric} is read from {chart.device}s, which {name} does not tell apart")
    rows = query.series(
        connection,
        chart.device,
        asked,
        metric=question.metric,
        within=chart.within,
        across=chart.across,
        by=question.by,
        filters=question.by_dimension(),
        limit=MOST_VALUES + 1,
    )
    _check_values(len(rows))
    groups: dict[Any, dict[dt.datetime, float | None]] = {}
    for row in rows:
        labels = [(name, row[f"by_{name}"] or None) for name in question.by]
        if "engine" in question.by and "node" not in question.by:
            labels.append(("node", row["by_node"]))
        groups.setdefault(tuple(labels), {})[row["bucket"]] = row["value"]
    return groups


def _dimensions(device: query.Device) -> frozenset[str]:
    boards = frozenset({"accelerator", "accelerator_model"})
    return frozenset(DIMENSIONS) - (boards if device == "engine" else OWNER_DIMENSIONS)


def _ratios(
    connection: Any, asked: Window, question: SeriesQuestion, known: prices.Prices
) -> tuple[dict[Any, dict[dt.datetime, float | None]], set[str]]:
    """Points by series, and what their energy lacks at this scope."""
    cuts = [cut for cut in known.cuts() if asked.start < cut < asked.end]
    facts = query.energy(
        connection,
        asked,
        by=question.by,
        filters=question.by_dimension(),
        cuts=cuts,
        with_host=question.scope != "accelerator",
        limit=MOST_VALUES + 1,
    )
    _check_values(len(facts))
    groups: dict[Any, dict[dt.datetime, float | None]] = {}
    missing: set[str] = set()
    for row in efficiency.rows(facts, known, scope=question.scope, start=asked.start, cuts=cuts):
        groups.setdefault(tuple(row["group"].items()), {})[row["time"]] = row[question.metric]
        missing |= {"host", "pue"}.intersection(row["missing"])
    return groups, missing


def _check_values(count: int) -> None:
    if count > MOST_VALUES:
        raise invalid(
            "by", f"the answer would have more than {MOST_VALUES} values; ask for fewer series or a longer step"
        )


def _grid(start: dt.datetime, end: dt.datetime, step: dt.timedelta) -> list[dt.datetime]:
    first = start - (start - EPOCH) % step
    return [first + i * step for i in range(-((first - end) // step))]
