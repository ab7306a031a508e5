"""Tariff, carbon intensity and PUE: versions by site and valid-from. Writing one re-prices history."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from wattmill_api import auth
from wattmill_api.parameters import Instant, Name, Names, Question
from wattmill_api.routes.documents import answer, problems
from wattmill_api.store import prices
from wattmill_collector.wire import EARLIEST_US

router = APIRouter(tags=["prices"])
SINCE_EVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=EARLIEST_US)
MOST_VERSIONS = 10_000


class PricesQuestion(Question):
    site: Names = Field([], description="Names of sites; repeatable. `*` is every site without a row of its own.")


class Version(BaseModel):
    """One version: it holds from `valid_from` until the next of its site."""

    model_config = ConfigDict(extra="forbid")

    site: Annotated[Name, Field(min_length=1)] = Field("*", description="Name of a site, or * for every other.")
    valid_from: Instant = Field(SINCE_EVER, description="Begin; left out: since ever.")


class Tariff(Version):
    price_per_kwh: Decimal = Field(ge=-1000, le=1_000_000, max_digits=24, decimal_places=12, examples=[0.12])
    currency: str | None = Field(None, pattern="^[A-Z]{3}$", description="ISO 4217; left out: the service's own.")


class Carbon(Version):
    grams_per_kwh: Decimal = Field(ge=0, le=100_000, max_digits=24, decimal_places=12, examples=[381])
    source: Name = Field("", description="Where the figure comes from.")


class Pue(Version):
    pue: Decimal = Field(ge=1, le=100, max_digits=24, decimal_places=12, examples=[1.25])


class TariffModel(BaseModel):
    site: str
    valid_from: dt.datetime
    currency: str
    price_per_kwh: float
    recorded: dt.datetime


class CarbonModel(BaseModel):
    site: str
    valid_from: dt.datetime
    grams_per_kwh: float
    source: str | None
    recorded: dt.datetime


class PueModel(BaseModel):
    site: str
    valid_from: dt.datetime
    pue: float
    recorded: dt.datetime


class TariffsAnswer(BaseModel):
    rows: list[TariffModel]


class CarbonAnswer(BaseModel):
    rows: list[CarbonModel]


class PueAnswer(BaseModel):
    rows: list[PueModel]


def _as_list(value: object) -> object:
    """One version, a list of them, or `{"rows": […]}` as the answer has it."""
    if isinstance(value, dict):
        return value["rows"] if set(value) == {"rows"} else [value]
    return value


_Many = (BeforeValidator(_as_list), Field(min_length=1, max_length=MOST_VERSIONS))
Tariffs = Annotated[list[Tariff], *_Many]
Carbons = Annotated[list[Carbon], *_Many]
Pues = Annotated[list[Pue], *_Many]
READ, ADMIN = [auth.needs("read")], [auth.needs("admin")]
GET_PROBLEMS = problems(401, 403, 422, 503)
PUT_PROBLEMS = problems(400, 401, 403, 413, 422, 503)


@router.get(
    "/tariffs",
    operation_id="tariffs",
    summary="Prices of a kWh",
    response_model=TariffsAnswer,
    responses=GET_PROBLEMS,
    dependencies=READ,
)
def get_tariffs(request: Request, question: Annotated[PricesQuestion, Query()]) -> Response:
    return _get(request, "tariff", question)


@router.put(
    "/tariffs",
    operation_id="put_tariffs",
    summary="Set the price of a kWh from a time on",
    response_model=TariffsAnswer,
    responses=PUT_PROBLEMS,
    dependencies=ADMIN,
)
def put_tariffs(
    request: Request,
    versions: Annotated[
        Tariffs,
        Body(
            examples=[
                [{"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "currency": "EUR", "price_per_kwh": 0.12}]
            ]
        ),
    ],
) -> Response:
    own = request.app.state.settings.currency
    return _put(
        request, "tariff", [{**version.model_dump(), "currency": version.currency or own} for version in versions]
    )


@router.get(
    "/carbon",
    operation_id="carbon",
    summary="Carbon intensities",
    response_model=CarbonAnswer,
    responses=GET_PROBLEMS,
    dependencies=READ,
)
def get_carbon(request: Request, question: Annotated[PricesQuestion, Query()]) -> Response:
    return _get(request, "carbon", question)


@router.put(
    "/carbon",
    operation_id="put_carbon",
    summary="Set the carbon intensity from a time on",
    response_model=CarbonAnswer,
    responses=PUT_PROBLEMS,
    dependencies=ADMIN,
)
def put_carbon(
    request: Request,
    versions: Annotated[
        Carbons,
        Body(
            examples=[
                [{"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "grams_per_kwh": 250, "source": "ENTSO-E"}]
            ]
        ),
    ],
) -> Response:
    return _put(request, "carbon", [version.model_dump() for version in versions])


@router.get(
    "/pue",
    operation_id="pue",
    summary="Power usage effectiveness of sites",
    response_model=PueAnswer,
    responses=GET_PROBLEMS,
    dependencies=READ,
)
def get_pue(request: Request, question: Annotated[PricesQuestion, Query()]) -> Response:
    return _get(request, "pue", question)


@router.put(
    "/pue",
    operation_id="put_pue",
    summary="Set a site's PUE from a time on",
    response_model=PueAnswer,
    responses=PUT_PROBLEMS,
    dependencies=ADMIN,
)
def put_pue(
    request: Request,
    versions: Annotated[Pues, Body(examples=[[{"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "pue": 1.25}]])],
) -> Response:
    return _put(request, "pue", [version.model_dump() for version in versions])


def _get(request: Request, kind: str, question: PricesQuestion) -> Response:
    with request.app.state.database.reading() as connection:
        rows = prices.rows(connection, kind)
    return _rows([row for row in rows if not question.site or row["site"] in question.site])


def _put(request: Request, kind: str, versions: list[dict[str, Any]]) -> Response:
    with request.app.state.database.writing() as connection:
        stored = prices.put(connection, kind, versions)
    return _rows(stored)


def _rows(rows: list[dict[str, Any]]) -> Response:
    def plain(value: Any) -> Any:
        return float(value) if isinstance(value, Decimal) else value or None

    return answer({"rows": [{name: plain(value) for name, value in row.items()} for row in rows]})
