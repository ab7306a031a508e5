"""GET /api/v1/meters: power meters of nodes, racks and halls beside the energy of what stands below them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from wattmill_api import auth, meters
from wattmill_api.coverage import settled_at
from wattmill_api.errors import invalid
from wattmill_api.export import FILES, export
from wattmill_api.meters import Group
from wattmill_api.parameters import Names, RangeQuestion, Step, Window, window
from wattmill_api.routes.documents import problems
from wattmill_api.routes.efficiency import described, stamp
from wattmill_api.store import meters as store
from wattmill_api.store import prices, query
from wattmill_api.store.database import Connection

router = APIRouter(tags=["meters"])
MOST_METERS = 50_000
MOST_ROWS = 200_000
Level = Literal["node", "rack", "facility"]


class MetersQuestion(RangeQuestion):
    step: Step | None = Field(None, description="Length of a bucket; without it there is one row a meter.")
    level: Level | None = Field(None, description="Only meters of this level.")
    site: Names = Field([], description="Names of sites; repeatable.")
    meter: Names = Field([], description="Names of meters; repeatable. Feeds of the same nodes come together.")
    format: Literal["json", "csv", "parquet"] = Field("json", description="How the rows are written.")


class BelowModel(BaseModel):
    """In the hours and minutes in which the meter counted at all. Null: nothing was read."""

    accelerator_mj: int | None
    host_mj: int | None = Field(description="Hosts of the nodes; of a chassis, without the rest that is made of it.")
    meters_mj: int | None = Field(
        description="Meters of the next level down, where they stand above all the same nodes, each once."
    )


class MeterRow(BaseModel):
    time: dt.datetime = Field(description="Begin of the bucket; of the range when there is no step.")
    meter: str = Field(description="Its name; names of feeds of the same nodes are joined by ` + `.")
    meters: list[str]
    level: Level
    chassis: bool = Field(description="A node's own reading of itself, boards included.")
    site: str
    covers: list[str] = Field(description="node=NAME or LABEL=VALUE, any of which a node below has; empty: the site.")
    nodes: int = Field(description="How many nodes are below it, by their labels of now.")
    energy_mj: int
    below: BelowModel
    difference_mj: int | None = Field(description="energy_mj less accelerators and hosts below.")
    ratio: float | None = Field(description="Accelerators and hosts below over energy_mj.")
    coverage: float = Field(description="Share of the time since its first reading that the meter was read.")
    below_coverage: float | None = Field(description="The same of the accelerators below.")
    whole_ratio: float = Field(
        description="Share of the nodes' time in which all of the node was measured, by a chassis that reconciles."
    )
    reconciles: bool | None = Field(description="Whether both agree (docs/scopes.md); null when that can't be told.")
    reason: str | None = Field(description="Why not, or why that can't be told.")
    measured_pue: float | None = Field(description="Facility energy over what is below, where both are covered.")
    set_pue: float | None = Field(description="The PUE in force at the begin, which scales the scope `facility`.")
    quality: Literal["measured", "estimated"]
    estimated_mj: int = Field(description="The part of the energy that was integrated from power.")
    simulated: bool


class MetersAnswer(BaseModel):
    start: dt.datetime
    end: dt.datetime
    step: str | None
    rows: list[MeterRow]


COLUMNS = (
    *("time", "site", "level", "meter", "chassis", "covers", "nodes", "energy_mj", "below_accelerator_mj"),
    *("below_host_mj", "below_meters_mj", "difference_mj", "ratio", "coverage", "below_coverage", "whole_ratio"),
    *("reconciles", "reason", "measured_pue", "set_pue", "quality", "estimated_mj", "simulated"),
)


@router.get(
    "/meters",
    operation_id="meters",
    summary="Power meters beside what stands below them",
    response_model=MetersAnswer,
    responses={**FILES, **problems(401, 403, 422, 503)},
    dependencies=[auth.needs("read")],
)
def get_meters(request: Request, question: Annotated[MetersQuestion, Query()]) -> Response:
    """No energy of a meter is in the ledger. The last two minutes, which are still being written, are left out."""
    now: dt.datetime = request.app.state.now()
    with request.app.state.database.reading() as connection, connection.transaction():
        query.one_snapshot(connection)  # a day that roll-up makes whole must not be counted as day and as hours
        rows, asked = read(connection, question, now)
    if len(rows) > MOST_ROWS:
        raise invalid(
            "step", f"the answer would have more than {MOST_ROWS} rows; ask for a longer step or fewer meters"
        )
    document = {**described(asked), "rows": rows}
    return export(document, COLUMNS, question.format, f"meters-{stamp(asked)}")


def read(connection: Connection, question: MetersQuestion, now: dt.datetime) -> tuple[list[dict[str, Any]], Window]:
    """The rows that a question asks for, and the range that they are about."""
    asked = window(question, question.step, now)
    settled = settled_at(now)
    if asked.start < settled < asked.end:
        asked = window(RangeQuestion(start=asked.start, end=settled), asked.step, now)
    sites = question.site or None
    found = store.meters(connection, asked, sites, MOST_METERS + 1)
    if len(found) > MOST_METERS:
        raise invalid("site", f"more than {MOST_METERS} meters were read; ask for one site")
    if not found or asked.start >= settled:
        return [], asked
    every = meters.groups(found, store.nodes(connection, asked, sites))
    wanted = [group for group in every if _wanted(group, question)]
    return compared(connection, asked, wanted, every), asked


def _wanted(group: Group, question: MetersQuestion) -> bool:
    level = "node" if group.level == "chassis" else group.level
    names = {meter.name for meter in group.meters}
    return question.level in (None, level) and (not question.meter or bool(names & set(question.meter)))


def compared(
    connection: Connection, asked: Window, wanted: Sequence[Group], every: Sequence[Group]
) -> list[dict[str, Any]]:
    """Rows of some groups; `every` are those of their sites."""
    if not wanted:
        return []
    needed = {meter.meter_id for group in wanted for meter in group.meters}
    inner = meters.inside(wanted, every)
    needed |= {meter.meter_id for parts in inner for part in parts for meter in part.meters}
    chassis = meters.chassis(wanted, every)
    needed |= {meter.meter_id for group in chassis for meter in group.meters}
    counted = store.counted(connection, asked, sorted(needed))
    needing = meters.together(wanted, chassis)
    below = store.below(
        connection,
        asked,
        [[meter.meter_id for meter in group.meters] for group in needing],
        [group.nodes for group in needing],
    )
    return meters.rows(wanted, inner, counted, below, prices.load(connection).pue, asked, chassis)
