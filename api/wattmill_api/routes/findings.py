"""Findings: what wastes energy, since when, how much, why, and what to change."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from wattmill_api import auth
from wattmill_api.efficiency import MJ_PER_KWH
from wattmill_api.errors import Conflict, NotFound
from wattmill_api.parameters import Instant, Name, Names, Question
from wattmill_api.routes.documents import answer, problems
from wattmill_api.savings import METHODS
from wattmill_api.store import findings as store
from wattmill_api.store import keys, prices
from wattmill_api.store.database import Connection
from wattmill_api.store.prices import Prices
from wattmill_api.webhooks.payload import KINDS

router = APIRouter(prefix="/findings", tags=["findings"])
State = Literal["open", "acknowledged", "resolved", "closed", "suppressed"]


def _kinds(values: list[str]) -> list[str]:
    """A kind that does not exist is a slip of the pen: no rows would look as if all were well."""
    for value in values:
        if value not in KINDS:
            raise ValueError(f"must be some of {', '.join(KINDS)}")
    return values


class FindingsQuestion(Question):
    state: Literal["open", "acknowledged", "resolved", "closed", "suppressed", "all"] = Field(
        "all",
        description="open: nobody has looked; acknowledged; resolved: by a person; closed: the cause is gone; "
        "suppressed: inside a suppression window.",
    )
    kind: Annotated[Names, AfterValidator(_kinds)] = Field(
        [], description="Detectors, for example idle-loaded; repeatable."
    )
    workload: Names = Field([], description="Names of workloads; repeatable.")
    node: Names = Field([], description="Names of nodes; repeatable.")
    site: Names = Field([], description="Names of sites; repeatable.")
    start: Instant | None = Field(None, description="Only findings that lasted past this time.")
    end: Instant | None = Field(None, description="Only findings that began before this time.")
    limit: int = Field(1000, ge=1, le=1000, description="Most findings in the answer.")


class ImpactCost(BaseModel):
    currency: str
    total: float


class Impact(BaseModel):
    """What it wasted so far; cost and CO2 at the prices in force when it was last seen.

    `energy_mj_per_day`: its rate of the last day or so, while it is not over.
    """

    energy_mj: int
    kwh: float
    cost: ImpactCost | None
    co2_grams: float | None
    energy_mj_per_day: int | None


class Realised(BaseModel):
    """What came of the remedy in up to 7 days, measured by `method`; below 0 where more was spent than before.

    `energy_mj` is null where there is nothing to compare with. Cost and CO2 at the prices in force at `until`.
    """

    energy_mj: int | None
    kwh: float | None
    cost: ImpactCost | None
    co2_grams: float | None
    since: dt.datetime
    until: dt.datetime
    method: str


class EventModel(BaseModel):
    """A change of a finding. `by`: name of the key used, `detection`, or null where no key is needed."""

    time: dt.datetime
    what: str
    by: str | None
    note: str | None


class FindingModel(BaseModel):
    id: int
    kind: str
    subject: str
    state: State
    site: str | None
    node: str | None
    workload: str | None
    since: dt.datetime
    until: dt.datetime | None
    last_seen: dt.datetime
    known: dt.datetime | None = Field(description="End of the minute at which it could first be told.")
    found: dt.datetime | None = Field(
        description="When it was first told. Later than `known` where data came late, or where only later minutes told."
    )
    revision: int
    merged_into: int | None = Field(
        description="The finding that this one turned out to be one incident with; null in lists, which leave it out."
    )
    impact: Impact
    realised: Realised | None
    evidence: Any
    summary: str
    remedy: str
    acknowledged: dt.datetime | None
    resolved: dt.datetime | None
    note: str | None
    simulated: bool
    history: list[EventModel] | None = Field(description="What happened to it; null in lists.")


class FindingsAnswer(BaseModel):
    rows: list[FindingModel]


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    note: Name = Field("", description="What was done, for the next person on call.")


NO_NOTE = Note(note="")
FindingId = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.get(
    "",
    operation_id="findings",
    summary="Findings, those not over first, then by energy",
    response_model=FindingsAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_findings(request: Request, question: Annotated[FindingsQuestion, Query()]) -> Response:
    with request.app.state.database.reading() as connection:
        found = store.find(
            connection,
            state=None if question.state == "all" else question.state,
            kind=question.kind or None,
            workload=question.workload or None,
            node=question.node or None,
            site=question.site or None,
            start=question.start,
            end=question.end,
            limit=question.limit,
        )
        known = prices.load(connection)
    return answer({"rows": [document(finding, known) for finding in found]})


@router.get(
    "/{finding_id}",
    operation_id="finding",
    summary="One finding",
    response_model=FindingModel,
    responses=problems(401, 403, 404, 422, 503),
    dependencies=[auth.needs("read")],
)
def get_finding(request: Request, finding_id: FindingId) -> Response:
    with request.app.state.database.reading() as connection:
        return _one(connection, finding_id)


@router.post(
    "/{finding_id}/acknowledge",
    operation_id="acknowledge_finding",
    summary="Say that someone has seen it",
    response_model=FindingModel,
    responses=problems(400, 401, 403, 404, 409, 413, 422, 503),
    dependencies=[auth.needs("admin")],
)
def acknowledge_finding(request: Request, finding_id: FindingId, note: Annotated[Note, Body()] = NO_NOTE) -> Response:
    with request.app.state.database.writing() as connection:
        done = store.acknowledge(connection, finding_id, note.note, said_by(request, connection))
        response = _one(connection, finding_id)
    if not done:
        raise Conflict(f"Finding {finding_id} is over already.")
    return response


@router.post(
    "/{finding_id}/resolve",
    operation_id="resolve_finding",
    summary="Say that it is over",
    response_model=FindingModel,
    responses=problems(400, 401, 403, 404, 409, 413, 422, 503),
    dependencies=[auth.needs("admin")],
)
def resolve_finding(request: Request, finding_id: FindingId, note: Annotated[Note, Body()] = NO_NOTE) -> Response:
    with request.app.state.database.writing() as connection:
        done = store.resolve(connection, finding_id, note.note, said_by(request, connection))
        response = _one(connection, finding_id)
    if not done:
        raise Conflict(f"Finding {finding_id} is resolved already, or is one with another by now.")
    return response


def said_by(request: Request, connection: Connection) -> str:
    """Name (or id) of the key that a request was sent with; empty where no key is needed."""
    parsed = auth.parse_key(request.headers.get("authorization", "").partition(" ")[2])
    return "" if parsed is None else keys.name_of(connection, parsed[0])


def _one(connection: Connection, finding_id: int) -> Response:
    found = store.find(connection, finding_id=finding_id)
    if not found:
        raise NotFound(f"There is no finding {finding_id}.")
    events = [
        {"time": event.time, "what": event.what, "by": event.by or None, "note": event.note or None}
        for event in store.history(connection, finding_id)
    ]
    return answer(document(found[0], prices.load(connection)) | {"history": events})


def document(finding: store.Finding, known: Prices) -> dict[str, Any]:
    """A finding as it is answered in lists, priced."""
    return {
        "id": finding.finding_id,
        "kind": finding.kind,
        "subject": finding.subject,
        "state": finding.state,
        "site": finding.site or None,
        "node": finding.node or None,
        "workload": finding.workload or None,
        "since": finding.since,
        "until": finding.until,
        "last_seen": finding.last_seen,
        "known": finding.known,
        "found": finding.found,
        "revision": finding.revision,
        "merged_into": finding.merged_into,
        "impact": _priced(known, finding.site, finding.last_seen, finding.energy_mj)
        | {"energy_mj_per_day": finding.mj_per_day},
        "realised": _realised(finding, known),
        "evidence": finding.evidence,
        "summary": finding.summary,
        "remedy": finding.remedy,
        "acknowledged": finding.acknowledged,
        "resolved": finding.resolved,
        "note": finding.note or None,
        "simulated": finding.simulated,
        "history": None,
    }


def _realised(finding: store.Finding, known: Prices) -> dict[str, Any] | None:
    if finding.saving_since is None or finding.saving_until is None or finding.saving_method is None:
        return None
    return {
        **_priced(known, finding.site, finding.saving_until, finding.saved_mj),
        "since": finding.saving_since,
        "until": finding.saving_until,
        "method": METHODS[finding.saving_method],
    }


def _priced(known: Prices, site: str, at: dt.datetime, energy_mj: int | None) -> dict[str, Any]:
    if energy_mj is None:
        return {"energy_mj": None, "kwh": None, "cost": None, "co2_grams": None}
    kwh = Decimal(energy_mj) / MJ_PER_KWH
    tariff = known.tariff.at(site, at)
    grams_per_kwh = known.carbon.at(site, at)
    return {
        "energy_mj": energy_mj,
        "kwh": float(kwh),
        "cost": {"currency": tariff[0], "total": float(kwh * tariff[1])} if tariff else None,
        "co2_grams": None if grams_per_kwh is None else float(kwh * grams_per_kwh),
    }
