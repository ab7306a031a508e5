"""GET /api/v1/phases: what of a workload's energy was prefill, decode and standing power, with its errors."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_analytics.phase_reasons import (
    DECODE_KNOWN,
    IDENTIFIED,
    NO_TOKENS,
    PREFILL_KNOWN,
    REASONS,
    STANDING_KNOWN,
    cached_savings_mj,
)
from wattmill_api import auth
from wattmill_api.parameters import DAY, EPOCH, Names, RangeQuestion, window
from wattmill_api.routes.documents import answer, problems
from wattmill_api.routes.efficiency import MOST_ROWS, too_many_rows
from wattmill_api.store import phases as store
from wattmill_api.store.phases import Day

router = APIRouter(tags=["efficiency"])
_WATTS = 1000.0  # per mJ/us


class PhasesQuestion(RangeQuestion):
    """Both ends are widened to whole days (UTC)."""

    step: Literal["1d", "none"] = Field("1d", description="1d: a row a day; none: the days of the range added up.")
    workload: Names = Field([], description="Names of workloads; repeatable.")
    model: Names = Field([], description="Names of served models; repeatable.")
    team: Names = Field([], description="Names of teams; repeatable.")
    accelerator_model: Names = Field([], description="Product names of accelerators; repeatable.")


class Coefficient(BaseModel):
    value: float
    standard_error: float | None = Field(description="1.96 of it either way are a 95 % interval; null at zero.")
    at_zero: bool = Field(description="The data pull it below zero, which a cost can't be.")


class PhaseFitModel(BaseModel):
    """E = standing × time + prefill × computed input + decode × output, none below 0. Null is what can't be told."""

    standing_watts_per_replica: Coefficient | None = Field(
        description="Power of one replica, all its boards, per second of engine time, as minutes under load show it."
    )
    prefill_mj_per_token: Coefficient | None = Field(description="Per input token not served from the prefix cache.")
    decode_mj_per_token: Coefficient | None = Field(description="Per output token.")
    r_squared: float | None = Field(description="Share of the weighted variance about constant power it explains.")
    scatter_ratio: float = Field(description="Scatter of a minute about the fit, relative to its energy.")
    minutes: int = Field(description="Whole minutes of replicas in the fit.")
    wild_minutes: int = Field(description="Minutes left out because they lie far off: restarts, late counters.")
    window: Literal["1d", "7d"] = Field(description="7d: the day alone could not be told apart.")


class PhaseEnergy(BaseModel):
    """standing + dynamic + unsplit = total, and prefill + decode = dynamic where they are known, to the millijoule."""

    standing_mj: int | None
    prefill_mj: int | None
    decode_mj: int | None
    dynamic_mj: int | None = Field(description="prefill and decode, also where they can't be told from each other.")
    unsplit_mj: int = Field(description="Energy of minutes whose tokens are not known, or of days that can't be split.")
    total_mj: int = Field(description="serving and idle-loaded energy of the ledger.")


class PhaseTokens(BaseModel):
    """Of the minutes whose energy is split; cached input of all minutes that know it."""

    uncached_input: int
    cached_input: int | None
    output: int


class PhasesRow(BaseModel):
    time: dt.datetime = Field(description="Begin of the day; of the range when days are added up.")
    group: dict[str, str | None] = Field(description="workload, model, team, accelerator_model.")
    identifiable: bool = Field(description="Whether standing, prefill and decode can be told apart, on every day.")
    reason: str | None = Field(description="Why not; of the newest such day.")
    fit: PhaseFitModel | None = Field(description="Of the newest day. Null where the minutes tell nothing.")
    energy: PhaseEnergy
    tokens: PhaseTokens
    cached_input_savings_mj: int | None = Field(description="Cached input tokens at the price of computed ones.")
    cached_input_savings_error_mj: int | None = Field(description="Its standard error; days are taken as one error.")
    simulated: bool


class PhasesAnswer(BaseModel):
    start: dt.datetime
    end: dt.datetime
    step: Literal["1d", "none"]
    rows: list[PhasesRow]


@router.get(
    "/phases",
    operation_id="phases",
    summary="Prefill, decode and standing energy of workloads",
    response_model=PhasesAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_phases(request: Request, question: Annotated[PhasesQuestion, Query()]) -> Response:
    """Learned from minutes in which the load varies. Today is there as far as it has been learned."""
    asked = window(question, None, request.app.state.now())
    start, end = asked.start - (asked.start - EPOCH) % DAY, asked.end + (EPOCH - asked.end) % DAY
    with request.app.state.database.reading() as connection:
        days = store.days(
            connection,
            start,
            end,
            workload=question.workload or None,
            model=question.model or None,
            team=question.team or None,
            accelerator_model=question.accelerator_model or None,
            limit=MOST_ROWS + 1,
        )
    if len(days) > MOST_ROWS:
        raise too_many_rows()
    rows = [_row([day], day.time) for day in days]
    if question.step == "none":
        rows = [_row(list(its), start) for _, its in groupby(days, key=_names)]
    else:
        rows.sort(key=lambda row: row["time"])
    return answer({"start": start, "end": end, "step": question.step, "rows": rows})


def _names(day: Day) -> tuple[str, str, str, str]:
    return day.workload, day.model, day.team, day.accelerator_model


def _row(days: Sequence[Day], time: dt.datetime) -> dict[str, Any]:
    """Days of one workload and accelerator model, in order, added up."""
    unsure = [day for day in days if day.verdict != IDENTIFIED]
    names = ("workload", "model", "team", "accelerator_model")
    savings = [_savings(day) for day in days]
    return {
        "time": time,
        "group": {name: value or None for name, value in zip(names, _names(days[0]), strict=True)},
        "identifiable": not unsure,
        "reason": REASONS[unsure[-1].verdict] if unsure else None,
        "fit": _fit(days[-1]),
        "energy": _energy(days),
        "tokens": {
            "uncached_input": sum(day.uncached_input_tokens for day in days),
            "cached_input": _sum(day.cached_input_tokens for day in days),
            "output": sum(day.output_tokens for day in days),
        },
        "cached_input_savings_mj": _sum(saved for saved, _ in savings),
        "cached_input_savings_error_mj": _sum(error for _, error in savings),
        "simulated": any(day.simulated for day in days),
    }


def _fit(day: Day) -> dict[str, Any] | None:
    standing, prefill, decode = (
        _coefficient(day, *which)
        for which in (
            (0, _WATTS, STANDING_KNOWN, day.minutes),
            (1, 1.0, PREFILL_KNOWN, day.uncached_input_tokens),
            (2, 1.0, DECODE_KNOWN, day.output_tokens),
        )
    )
    if standing is None and prefill is None and decode is None:
        return None
    return {
        "standing_watts_per_replica": standing,
        "prefill_mj_per_token": prefill,
        "decode_mj_per_token": decode,
        "r_squared": None if math.isnan(day.r_squared) else day.r_squared,
        "scatter_ratio": day.residual_ratio,
        "minutes": day.minutes,
        "wild_minutes": day.wild_minutes,
        "window": f"{day.window_days}d",
    }


def _coefficient(day: Day, i: int, factor: float, known: frozenset[int], amount: int) -> dict[str, Any] | None:
    """Null where the verdict does not tell it, and where there was nothing of its kind to cost anything."""
    if day.verdict not in known or (day.coefficients[i] == 0.0 and amount == 0):
        return None
    error = day.errors[i]
    return {
        "value": day.coefficients[i] * factor,
        "standard_error": error * factor if math.isfinite(error) else None,
        "at_zero": day.coefficients[i] == 0.0,
    }


def _energy(days: Sequence[Day]) -> dict[str, int | None]:
    split = [day for day in days if day.verdict in STANDING_KNOWN]
    apart = bool(split) and all(day.verdict in (IDENTIFIED, NO_TOKENS) for day in split)
    standing = _sum(day.standing_mj for day in split)
    dynamic = _sum(day.prefill_mj + day.decode_mj for day in split)
    total = sum(day.energy_mj for day in days)
    return {
        "standing_mj": standing,
        "prefill_mj": _sum(day.prefill_mj for day in split) if apart else None,
        "decode_mj": _sum(day.decode_mj for day in split) if apart else None,
        "dynamic_mj": dynamic,
        "unsplit_mj": total - (standing or 0) - (dynamic or 0),
        "total_mj": total,
    }


def _savings(day: Day) -> tuple[int | None, int | None]:
    if day.verdict not in PREFILL_KNOWN or day.cached_input_tokens is None:
        return None, None
    return cached_savings_mj(day.coefficients[1], day.errors[1], day.cached_input_tokens)


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
