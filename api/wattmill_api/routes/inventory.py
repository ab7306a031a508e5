"""What there is: sites, nodes, accelerators, engines, workloads; labels, last sightings, placements with method."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_api import auth, coverage
from wattmill_api.parameters import Names, Question
from wattmill_api.routes.documents import answer, problems
from wattmill_api.store import inventory
from wattmill_api.store.inventory import Kind

router = APIRouter(tags=["inventory"])
PROBLEMS = problems(401, 403, 422, 503)
SENTENCES = {
    "no_reading": coverage.NO_READING[1],
    "gone": "Its node reports, but names this engine no more: it ended, or was taken from the configuration.",
}


class InventoryQuestion(Question):
    site: Names = Field([], description="Names of sites; repeatable.")
    node: Names = Field([], description="Names of nodes; repeatable.")
    limit: int = Field(1000, ge=1, le=1000, description="Most rows in the answer.")
    cursor: int = Field(0, ge=0, le=2**31 - 1, description="`next_cursor` of the page before.")


class SitesQuestion(Question):
    site: Names = Field([], description="Names of sites; repeatable.")
    limit: int = Field(1000, ge=1, le=1000, description="Most rows in the answer.")
    cursor: int = Field(0, ge=0, le=2**31 - 1, description="`next_cursor` of the page before.")


class SiteModel(BaseModel):
    name: str
    nodes: int
    accelerators: int
    engines: int
    last_seen: dt.datetime | None


class ToldModel(BaseModel):
    """What the agent of a node could not read or explain, as it said itself: now or in the last three minutes."""

    subject: str = Field(description="accelerator, engine, host, meter, gateway or batch.")
    id: str = Field(description="UUID, target, domain or name; empty: all of them.")
    reason: str = Field(description="not_understood, no_endpoint, timeout, … as the agent says it.")
    detail: str | None = Field(description="One sentence on that.")
    since: dt.datetime = Field(description="When it began, as far as the last hour tells.")
    last_seen: dt.datetime = Field(description="When it was said last.")


class NodeModel(BaseModel):
    name: str
    site: str
    labels: dict[str, str]
    boot_id: str | None
    agent_version: str | None
    interval_us: int
    simulated: bool
    first_seen: dt.datetime
    last_seen: dt.datetime
    accelerators: int
    engines: int
    host_sources: dict[str, str] = Field(description="What reads each energy domain of the host, where that was said.")
    told: list[ToldModel] = Field(description="What its agent could not read or explain; the newest 50.")


class PlacementModel(BaseModel):
    """Who held what, when, and how that was found: configured, pod, process, exclusive or share."""

    workload: str | None = None
    model: str | None = None
    team: str | None = None
    engine: str | None = None
    node: str | None = None
    site: str | None = None
    labels: dict[str, str] | None = None
    accelerators: list[str] | None = None
    shares: list[float] | None = Field(
        None, description="The part of each of `accelerators` that is this engine's alone; null: no part of its own."
    )
    share: float | None = Field(None, description="The same of one accelerator, in its own row.")
    share_by: str | None = Field(description="What the parts are made of: mig, replicas, processes, configured.")
    role: str | None = Field(description="prefill, decode, frontend, worker; null: all of an engine.")
    method: str | None
    confidence: str | None = Field(description="How far to trust it: high, medium, low; null: the agent did not say.")
    since: dt.datetime
    until: dt.datetime


class AcceleratorModel(BaseModel):
    uuid: str
    node: str
    site: str
    labels: dict[str, str]
    simulated: bool
    index: int | None
    model: str | None
    vendor: str | None
    source: str | None = Field(description="What reads it: nvml, dcgm-exporter, …")
    memory_total_bytes: int | None
    power_limit_mw: int | None
    first_seen: dt.datetime
    last_seen: dt.datetime
    placements: list[PlacementModel]
    told: list[ToldModel] = Field(description="What its node's agent could not read of it or explain: who holds it, …")


class EngineModel(BaseModel):
    target: str
    series: str
    node: str
    site: str
    labels: dict[str, str]
    simulated: bool
    engine_kind: str | None
    version: str | None
    first_seen: dt.datetime
    last_seen: dt.datetime
    state: str = Field(
        description="reading; or why it is not read: not_understood, timeout, … as the agent says it, no_reading (its "
        "node is silent), gone (its node does not name it any more). A target that never could be read has a row too."
    )
    since: dt.datetime | None = Field(description="Since when it is not read; null: it is.")
    detail: str | None = Field(description="One sentence on that.")
    placements: list[PlacementModel]


class WorkloadModel(BaseModel):
    name: str
    model: str | None
    team: str | None
    first_seen: dt.datetime
    last_seen: dt.datetime
    simulated: bool
    placements: list[PlacementModel]


class SitesAnswer(BaseModel):
    rows: list[SiteModel]
    next_cursor: int | None


class NodesAnswer(BaseModel):
    rows: list[NodeModel]
    next_cursor: int | None


class AcceleratorsAnswer(BaseModel):
    rows: list[AcceleratorModel]
    next_cursor: int | None


class EnginesAnswer(BaseModel):
    rows: list[EngineModel]
    next_cursor: int | None


class WorkloadsAnswer(BaseModel):
    rows: list[WorkloadModel]
    next_cursor: int | None


READ = [auth.needs("read")]


@router.get(
    "/sites", operation_id="sites", summary="Sites", response_model=SitesAnswer, responses=PROBLEMS, dependencies=READ
)
def get_sites(request: Request, question: Annotated[SitesQuestion, Query()]) -> Response:
    return _page(request, "sites", question, [])


@router.get(
    "/nodes", operation_id="nodes", summary="Nodes", response_model=NodesAnswer, responses=PROBLEMS, dependencies=READ
)
def get_nodes(request: Request, question: Annotated[InventoryQuestion, Query()]) -> Response:
    return _page(request, "nodes", question, question.node)


@router.get(
    "/accelerators",
    operation_id="accelerators",
    summary="Accelerators and who held them",
    response_model=AcceleratorsAnswer,
    responses=PROBLEMS,
    dependencies=READ,
)
def get_accelerators(request: Request, question: Annotated[InventoryQuestion, Query()]) -> Response:
    return _page(request, "accelerators", question, question.node)


@router.get(
    "/engines",
    operation_id="engines",
    summary="Engines, what they serve and where",
    response_model=EnginesAnswer,
    responses=PROBLEMS,
    dependencies=READ,
)
def get_engines(request: Request, question: Annotated[InventoryQuestion, Query()]) -> Response:
    return _page(request, "engines", question, question.node)


@router.get(
    "/workloads",
    operation_id="workloads",
    summary="Workloads and the engines that belong to them",
    response_model=WorkloadsAnswer,
    responses=PROBLEMS,
    dependencies=READ,
)
def get_workloads(request: Request, question: Annotated[InventoryQuestion, Query()]) -> Response:
    return _page(request, "workloads", question, question.node)


def _page(request: Request, what: Kind, question: SitesQuestion | InventoryQuestion, node: list[str]) -> Response:
    with request.app.state.database.reading() as connection:
        rows = inventory.page(
            connection,
            what,
            filters={"site": question.site or None, "node": node or None},
            after=question.cursor,
            limit=question.limit + 1,
            now=request.app.state.now(),
        )
    page = rows[: question.limit]
    next_cursor = page[-1]["cursor"] if len(rows) > len(page) else None
    for row in page:
        if row.get("state") in SENTENCES:
            row["detail"] = SENTENCES[row["state"]]
    return answer(
        {"rows": [{k: v for k, v in row.items() if k != "cursor"} for row in page], "next_cursor": next_cursor}
    )
