"""GET /api/v1/chargeback: a workload's energy, cost and CO2 by who drew its tokens through a gateway."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_analytics.phase_reasons import DECODE_KNOWN, PREFILL_KNOWN
from wattmill_api import auth, chargeback, efficiency
from wattmill_api.chargeback import Prices, PricesAt
from wattmill_api.export import FILES, export
from wattmill_api.parameters import DAY, DIMENSIONS, HOUR, ByConsumer, EnergyScope, Names, RangeQuestion, Step, Window
from wattmill_api.parameters import window as window_of
from wattmill_api.routes.documents import problems
from wattmill_api.routes.efficiency import MOST_ROWS, Tokens, described, stamp, too_many_rows
from wattmill_api.store import gateways as store
from wattmill_api.store import phases, prices, query
from wattmill_api.store.database import Connection

router = APIRouter(tags=["efficiency"])
OLDEST_PRICE = 14 * DAY
MOST_DAYS = 1_000_000


class ChargebackQuestion(RangeQuestion):
    step: Step | None = Field(
        None,
        description="Length of a bucket; without it there is one for the range. `auto` is at least 1h: a gateway counts"
        " when a request ends, so shorter buckets put tokens behind the energy that made them.",
    )
    by: ByConsumer = Field(["team"], description="What tells consumers apart; repeat, or separate by commas.")
    workload: Names = Field([], description="Names of workloads; repeatable.")
    scope: EnergyScope = Field("accelerator", description="What energy counts: boards, whole nodes, or × PUE.")
    format: Literal["json", "csv", "parquet"] = Field("json", description="How the rows are written.")


class Bill(BaseModel):
    currency: str
    total: float


Flag = Literal["gateway_exceeds_engine", "engine_tokens_unknown", "cached_input_of_engine", "cached_input_unknown"]


class ChargebackRow(BaseModel):
    time: dt.datetime = Field(description="Begin of the bucket; of the range when there is no step.")
    group: dict[str, str | None] = Field(
        description="The workload, and what consumers are told apart by; null is what the gateway does not say."
    )
    via: Literal["gateway", "direct"] = Field(
        description="direct: what no gateway saw, or all of a workload that none was read for."
    )
    tokens: Tokens = Field(description="As the gateway counted them; of `direct`, the engines' less the gateways'.")
    requests: int | None
    share_ratio: float = Field(description="Share of the workload's energy in this bucket.")
    energy_mj: int | None = Field(description="Rows of a workload sum to its energy, idle time included.")
    energy_kwh: float | None
    cost: Bill | None
    co2_grams: float | None
    weights: Literal["phases", "tokens"] | None = Field(
        description="phases: uncached input and output at the workload's energy per token; tokens: both alike."
    )
    prefill_mj_per_token: float | None
    decode_mj_per_token: float | None
    flags: list[Flag] = Field(description="What makes the split doubtful: docs/chargeback.md.")
    coverage: float | None
    quality: Literal["measured", "estimated"]
    scope: EnergyScope
    missing: list[str]
    simulated: bool


class Unmatched(BaseModel):
    """Tokens of a model that no workload is known to serve; they are charged to nobody."""

    model: str | None
    provider: str | None
    tokens: Tokens
    reason: str


class ChargebackAnswer(BaseModel):
    start: dt.datetime
    end: dt.datetime
    step: str | None
    scope: EnergyScope
    by: list[str]
    rows: list[ChargebackRow]
    unmatched: list[Unmatched]


COLUMNS = (
    *("via", "input_tokens", "cached_input_tokens", "output_tokens", "requests", "share_ratio", "energy_mj"),
    *("energy_kwh", "currency", "cost", "co2_grams", "weights", "prefill_mj_per_token", "decode_mj_per_token"),
    *("flags", "coverage", "quality", "scope", "missing", "simulated"),
)


@router.get(
    "/chargeback",
    operation_id="chargeback",
    summary="Energy of workloads by who used them",
    response_model=ChargebackAnswer,
    responses={**FILES, **problems(401, 403, 422, 503)},
    dependencies=[auth.needs("read")],
)
def get_chargeback(request: Request, question: Annotated[ChargebackQuestion, Query()]) -> Response:
    """Energy is the ledger's, shares are the gateways'. Energy that nobody owns has the workload null."""
    with request.app.state.database.reading() as connection:
        known = prices.load(connection)
        asked = _window(question, request.app.state.now(), known)
        rows, unmatched = read(
            connection, asked, known, by=question.by, scope=question.scope, workloads=question.workload
        )
    if len(rows) > MOST_ROWS:
        raise too_many_rows()
    document = {
        **described(asked),
        "scope": question.scope,
        "by": question.by,
        "rows": rows,
        "unmatched": unmatched,
    }
    columns = ("time", "workload", *question.by, *COLUMNS)
    return export(document, columns, question.format, f"chargeback-{stamp(asked)}")


def _window(question: ChargebackQuestion, now: dt.datetime, known: prices.Prices) -> Window:
    asked = window_of(question, question.step, now, known.cuts())
    if question.step == "auto" and asked.step is not None and asked.step < HOUR:
        return window_of(question, HOUR, now, known.cuts())
    return asked


def read(
    connection: Connection,
    asked: Window,
    known: prices.Prices,
    *,
    by: Sequence[str],
    scope: str,
    workloads: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and unmatched tokens. `workloads`: names to keep, all where there are none.

    Errors: Invalid where the answer would be too long.
    """
    cuts = [cut for cut in known.cuts() if asked.start < cut < asked.end]
    facts = query.energy(
        connection,
        asked,
        by=["workload"],
        filters=dict.fromkeys(DIMENSIONS),
        cuts=cuts,
        with_host=scope != "accelerator",
        limit=MOST_ROWS + 1,
    )
    drawn = store.drawn(connection, asked, MOST_ROWS + 1)
    if max(len(facts), len(drawn)) > MOST_ROWS:
        raise too_many_rows()
    rows = efficiency.rows(facts, known, scope=scope, start=asked.start, cuts=cuts)
    names = sorted({row["group"]["workload"] for row in rows} - {None})
    found, unmatched = chargeback.split(
        rows, drawn, store.served(connection, names), _prices(connection, asked, names if drawn else []), by
    )
    kept = set(workloads)
    return [row for row in found if not kept or (row["group"]["workload"] or "") in kept], unmatched


def _prices(connection: Connection, asked: Window, names: list[str]) -> PricesAt:
    """What a token of a workload costs, by the newest day that had begun when a bucket ended, at most 14 days old."""
    learned: dict[str, list[tuple[dt.datetime, int, Prices]]] = {}
    first = asked.start - OLDEST_PRICE
    for day in phases.days(connection, first, asked.end, workload=names, limit=MOST_DAYS) if names else ():
        _, prefill, decode = day.coefficients
        if day.verdict in PREFILL_KNOWN & DECODE_KNOWN and prefill > 0 and decode > 0:
            learned.setdefault(day.workload, []).append((day.time, day.energy_mj, Prices(prefill, decode)))

    def at(name: str, bucket: dt.datetime) -> Prices | None:
        end = asked.end if asked.step is None else bucket + asked.step
        known = [one for one in learned.get(name, []) if end - OLDEST_PRICE - DAY < one[0] < end]
        return max(known, key=lambda one: one[:2])[2] if known else None

    return at
