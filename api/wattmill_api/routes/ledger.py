"""GET /api/v1/ledger: where every joule went, and that it adds up to the meter."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_api import auth, facility
from wattmill_api.efficiency import MJ_PER_KWH
from wattmill_api.export import FILES, export
from wattmill_api.parameters import By, EnergyScope, Filters, RangeQuestion, Step, window
from wattmill_api.routes.documents import problems
from wattmill_api.routes.efficiency import MOST_ROWS, Tokens, described, group_columns, stamp, too_many_rows
from wattmill_api.store import prices, query
from wattmill_api.store.query import Facts, Group

router = APIRouter(tags=["ledger"])
ACCOUNTS = {1: "serving", 2: "idle-loaded", 3: "idle-empty", 4: "unattributed", 5: "overhead"}


class LedgerQuestion(RangeQuestion, Filters):
    step: Step | None = Field(None, description="Length of a bucket; without it there is one row a group and account.")
    by: By = Field([], description="Dimensions to tell apart; repeat, or separate by commas.")
    scope: EnergyScope = Field(
        "accelerator", description="node adds host energy as overhead, facility what the PUE in force adds, too."
    )
    format: Literal["json", "csv", "parquet"] = Field("json", description="How the rows are written.")


class LedgerRow(BaseModel):
    time: dt.datetime
    group: dict[str, str | None]
    account: Literal["serving", "idle-loaded", "idle-empty", "unattributed", "overhead"]
    energy_mj: int | None = Field(description="Null only of overhead at scope facility, where no PUE is set.")
    energy_kwh: float | None
    tokens: Tokens
    coverage: float | None
    estimated_mj: int
    quality: Literal["measured", "estimated"]
    missing: list[str] = Field(description="pue: what would be needed for an energy that is null.")
    simulated: bool


class LedgerAnswer(BaseModel):
    start: dt.datetime
    end: dt.datetime
    step: str | None
    scope: EnergyScope
    by: list[str]
    rows: list[LedgerRow]
    pue_mj: int | None = Field(
        description="The part of the rows that no counter read: what PUE adds. Null at other scopes and without a PUE."
    )
    meter_mj: int | None = Field(description="The sum of the counters, past the ledger; null if that can't be told.")
    residual_mj: int | None = Field(description="meter_mj less what the rows say of counters: all but pue_mj.")
    closes: bool | None
    meter_reason: str | None = Field(description="Why there is no meter to compare with.")


COLUMNS = (
    *("account", "energy_mj", "energy_kwh", "input_tokens", "cached_input_tokens", "output_tokens", "coverage"),
    *("estimated_mj", "quality", "missing", "simulated"),
)


@router.get(
    "/ledger",
    operation_id="ledger",
    summary="Energy and tokens by account",
    response_model=LedgerAnswer,
    responses={**FILES, **problems(401, 403, 422, 503)},
    dependencies=[auth.needs("read")],
)
def get_ledger(request: Request, question: Annotated[LedgerQuestion, Query()]) -> Response:
    """serving + idle-loaded + idle-empty + unattributed = the meter, to the millijoule.

    Hosts, and what PUE adds, are the account overhead; of questions about workloads or boards there is none.
    """
    state = request.app.state
    now: dt.datetime = state.now()
    filters = question.by_dimension()
    # The energy of hosts and halls is not told apart by workload or board.
    beyond = not (question.names_owner or question.accelerator or question.accelerator_model)
    with_host = question.scope != "accelerator" and beyond
    why = None
    with state.database.reading() as connection, connection.transaction():
        # One snapshot: a roll-up between two questions must not look like a difference.
        query.one_snapshot(connection)
        known = prices.load(connection) if question.scope == "facility" and beyond else None
        # Every price, not PUE alone: rounded in the same stretches as /efficiency, to the millijoule.
        changes = known.cuts() if known else []
        asked = window(question, question.step, now, changes)
        cuts = [cut for cut in changes if asked.start < cut < asked.end]
        if question.names_owner:
            why = "a counter can't tell workloads apart"
        elif asked.start < now - dt.timedelta(days=state.settings.retain_minutes_days):
            why = "minutes of this range are no longer kept"
        facts = query.energy(
            connection,
            asked,
            by=question.by,
            filters=filters,
            cuts=cuts,
            by_account=True,
            limit=MOST_ROWS + 1,
        )
        if with_host:
            facts += query.overhead(connection, asked, by=question.by, filters=filters, cuts=cuts)
        meter_mj = None if why else query.meter(connection, asked, filters, with_host=with_host)
    if len(facts) > MOST_ROWS:
        raise too_many_rows()
    residual_mj = None if meter_mj is None else meter_mj - sum(item.energy_mj for item in facts)
    pue_mj, unknown = None, set[tuple[dt.datetime, Group]]()
    if known:
        added, unknown = facility.added(facts, known, by=question.by, start=asked.start, cuts=cuts)
        facts += added
        pue_mj = None if unknown else sum(item.energy_mj for item in added)
    document = {
        **described(asked),
        "scope": question.scope,
        "by": question.by,
        "rows": merged(facts, unknown),
        "pue_mj": pue_mj,
        "meter_mj": meter_mj,
        "residual_mj": residual_mj,
        "closes": None if residual_mj is None else residual_mj == 0,
        "meter_reason": why,
    }
    return export(document, ("time", *group_columns(question.by), *COLUMNS), question.format, f"ledger-{stamp(asked)}")


def merged(facts: list[Facts], without_pue: Collection[tuple[dt.datetime, Group]] = ()) -> list[dict[str, Any]]:
    """One row for each bucket, group and account: facts are still apart by site. `without_pue`: unknown overhead."""
    sums: dict[tuple[Any, ...], list[Facts]] = {}
    for item in facts:
        sums.setdefault((item.bucket, item.group, item.account), []).append(item)
    return [
        _row(items, missing=account == facility.OVERHEAD and (bucket, group) in without_pue)
        for (bucket, group, account), items in sorted(sums.items(), key=lambda entry: (entry[0][0], _order(entry[0])))
    ]


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return (tuple((name, value is None, value or "") for name, value in key[1]), key[2])


def _row(items: list[Facts], *, missing: bool) -> dict[str, Any]:
    energy_mj = None if missing else sum(item.energy_mj for item in items)
    estimated_mj = sum(item.estimated_mj for item in items)
    span_us = sum(item.span_us for item in items)
    return {
        "time": items[0].bucket,
        "group": dict(items[0].group),
        "account": ACCOUNTS[items[0].account or 4],
        "energy_mj": energy_mj,
        "energy_kwh": None if energy_mj is None else energy_mj / MJ_PER_KWH,
        "tokens": {
            "input": _sum(item.input_tokens for item in items),
            "cached_input": _sum(item.cached_input_tokens for item in items),
            "output": _sum(item.output_tokens for item in items),
        },
        "coverage": sum(item.covered_us for item in items) / span_us if span_us else None,
        "estimated_mj": estimated_mj,
        "quality": "estimated" if estimated_mj else "measured",
        "missing": ["pue"] if missing else [],
        "simulated": any(item.simulated for item in items),
    }


def _sum(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
