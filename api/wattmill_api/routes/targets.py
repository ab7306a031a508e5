"""Latency targets: versions by workload and valid-from. Writing one judges history anew, and changes no fact."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from wattmill_api import auth
from wattmill_api.parameters import Instant, Name, Names, Question
from wattmill_api.routes.documents import answer, problems
from wattmill_api.routes.prices import MOST_VERSIONS, SINCE_EVER
from wattmill_api.store import targets
from wattmill_api.store.targets import Target

router = APIRouter(tags=["efficiency"])

_LONGEST_MS = 3_600_000
Milliseconds = Annotated[Decimal, Field(gt=0, le=_LONGEST_MS, decimal_places=3)]


class TargetsQuestion(Question):
    workload: Names = Field(
        [], description="Names of workloads; repeatable. `*` is every workload without a row of its own."
    )


class LatencyTarget(BaseModel):
    """One version: it holds from `valid_from` until the next of its workload. Null: no target."""

    model_config = ConfigDict(extra="forbid")

    workload: Annotated[Name, Field(min_length=1)] = Field("*", description="Name of a workload, or * for every other.")
    valid_from: Instant = Field(SINCE_EVER, description="Begin; left out: since ever.")
    inter_token_latency_ms: Milliseconds | None = Field(
        None, description="The longest time from one output token to the next.", examples=[50]
    )
    time_to_first_token_ms: Milliseconds | None = Field(
        None, description="The longest time to the first output token.", examples=[500]
    )


class LatencyTargetModel(BaseModel):
    workload: str
    valid_from: dt.datetime
    inter_token_latency_ms: float | None
    time_to_first_token_ms: float | None
    recorded: dt.datetime


class TargetsAnswer(BaseModel):
    rows: list[LatencyTargetModel]


def _as_list(value: object) -> object:
    """One version, a list of them, or `{"rows": […]}` as the answer has it."""
    if isinstance(value, dict):
        return value["rows"] if set(value) == {"rows"} else [value]
    return value


LatencyTargets = Annotated[
    list[LatencyTarget], BeforeValidator(_as_list), Field(min_length=1, max_length=MOST_VERSIONS)
]


@router.get(
    "/targets",
    operation_id="targets",
    summary="Latency targets of workloads",
    response_model=TargetsAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_targets(request: Request, question: Annotated[TargetsQuestion, Query()]) -> Response:
    with request.app.state.database.reading() as connection:
        rows = targets.rows(connection)
    return _rows([row for row in rows if not question.workload or row.workload in question.workload])


@router.put(
    "/targets",
    operation_id="put_targets",
    summary="Set a workload's latency targets from a time on",
    response_model=TargetsAnswer,
    responses=problems(400, 401, 403, 413, 422, 503),
    dependencies=[auth.needs("admin")],
)
def put_targets(
    request: Request,
    versions: Annotated[
        LatencyTargets,
        Body(
            examples=[
                [
                    {
                        "workload": "chat-qwen3-32b",
                        "valid_from": "2026-01-01T00:00:00Z",
                        "inter_token_latency_ms": 50,
                        "time_to_first_token_ms": 500,
                    }
                ]
            ]
        ),
    ],
) -> Response:
    with request.app.state.database.writing() as connection:
        stored = targets.put(
            connection,
            [
                {
                    "workload": version.workload,
                    "valid_from": version.valid_from,
                    "inter_token_latency_us": _us(version.inter_token_latency_ms),
                    "time_to_first_token_us": _us(version.time_to_first_token_ms),
                }
                for version in versions
            ],
        )
    return _rows(stored)


def _us(milliseconds: Decimal | None) -> int | None:
    return None if milliseconds is None else int(milliseconds * 1000)


def _ms(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1000


def _rows(found: list[Target]) -> Response:
    rows = [
        {
            "workload": row.workload,
            "valid_from": row.valid_from,
            "inter_token_latency_ms": _ms(row.inter_token_latency_us),
            "time_to_first_token_ms": _ms(row.time_to_first_token_us),
            "recorded": row.recorded,
        }
        for row in found
    ]
    return answer({"rows": rows})
