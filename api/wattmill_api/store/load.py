"""What a token cost at which load: the dots beside the reference curve."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection
from wattmill_api.store.query import FilterValues

_SQL = statements("load")


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """An engine under one workload, on the same boards."""

    placement_id: int
    boards: int
    accelerator_model: str
    simulated: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One replica over one step, whole serving minutes only. `requests_running` is their mean."""

    bucket: dt.datetime
    placement_id: int
    requests_running: float
    energy_mj: int
    output_tokens: int
    uncached_input_tokens: int | None


def replicas(
    connection: Connection, start: dt.datetime, end: dt.datetime, filters: FilterValues, limit: int
) -> list[Replica]:
    """The replicas of some workloads that were there in a range."""
    parameters = {"start": start, "end": end, "limit": limit, **filters}
    with connection.cursor(row_factory=class_row(Replica)) as cursor:
        return cursor.execute(_SQL["replicas"], parameters).fetchall()


def points(
    connection: Connection,
    start: dt.datetime,
    end: dt.datetime,
    step: dt.timedelta,
    placement_ids: Sequence[int],
    limit: int,
) -> list[Point]:
    """By time and replica."""
    parameters = {"start": start, "end": end, "step": step, "placement_ids": list(placement_ids), "limit": limit}
    with connection.cursor(row_factory=class_row(Point)) as cursor:
        return cursor.execute(_SQL["points"], parameters).fetchall()
