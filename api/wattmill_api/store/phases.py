"""Phases in and out of the store: minutes of replicas as arrays, one row per workload, accelerator model and day."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from psycopg.rows import class_row

from wattmill_analytics.phase_reasons import PREFILL_KNOWN
from wattmill_api.store import statements
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Samples, read_columns

_SQL = statements("phases")
_MINUTE_COLUMNS = (
    "id",
    "time_us",
    "energy_mj",
    "estimated_mj",
    "covered_us",
    "span_us",
    "engine_covered_us",
    "anomalies",
    "uncached_input_tokens",
    "cached_input_tokens",
    "output_tokens",
)
_DAY = dt.timedelta(days=1)
_OLDEST_PRICE = dt.timedelta(days=14)


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """A workload's day that is not what it was when its phases were learned; no replicas: it has no hours any more."""

    day: dt.datetime
    workload_id: int
    replicas: int
    fingerprint: str


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """A replica while it served one workload on the same boards."""

    placement_id: int
    workload_id: int
    boards: int
    accelerator_model: str


@dataclasses.dataclass(frozen=True, slots=True)
class DaySums:
    """A day's totals of explained minutes and its partial sums, without a fit."""

    time: dt.datetime
    workload_id: int
    accelerator_model: str
    explained_mj: int
    engine_us: int
    uncached_input_tokens: int
    output_tokens: int
    sums: list[float]


@dataclasses.dataclass(frozen=True, slots=True)
class NewDay:
    """A day as its minutes gave it. Errors of its figures come with its fit."""

    time: dt.datetime
    workload_id: int
    accelerator_model: str
    energy_mj: int
    explained_mj: int
    engine_us: int
    uncached_input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None
    sums: list[float]


@dataclasses.dataclass(frozen=True, slots=True)
class DayFit:
    """The fit of a day and what it makes of the day's energy."""

    time: dt.datetime
    workload_id: int
    accelerator_model: str
    standing_mj: int
    prefill_mj: int
    decode_mj: int
    minutes: int
    wild_minutes: int
    residual_ratio: float
    r_squared: float
    window_days: int
    verdict: int
    coefficients: list[float]
    errors: list[float]


@dataclasses.dataclass(frozen=True, slots=True)
class Day:
    """A row as it is answered."""

    time: dt.datetime
    workload: str
    model: str
    team: str
    accelerator_model: str
    energy_mj: int
    explained_mj: int
    uncached_input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None
    standing_mj: int
    prefill_mj: int
    decode_mj: int
    minutes: int
    wild_minutes: int
    residual_ratio: float
    r_squared: float
    window_days: int
    verdict: int
    coefficients: list[float]
    errors: list[float]
    simulated: bool


def changed(connection: Connection, first: dt.datetime, last: dt.datetime) -> list[Changed]:
    """Workload-days in [first, last), whole days, that have to be learned, in the order of their turn."""
    return [Changed(*row) for row in connection.execute(_SQL["changed"], {"first": first, "last": last})]


def placements(connection: Connection, workload_ids: Sequence[int]) -> list[Placement]:
    """Every placement that some workloads ever had, by id."""
    rows = connection.execute(_SQL["placements"], {"workload_ids": list(workload_ids)})
    return [Placement(*row) for row in rows]


def read_minutes(connection: Connection, day: dt.datetime, placement_ids: Sequence[int]) -> Samples:
    """The minutes of some placements on one day; -1 where tokens are not known."""
    parameters = {"first": day, "last": day + _DAY, "placement_ids": list(placement_ids)}
    return read_columns(connection, _SQL["replica_minutes"], parameters, _MINUTE_COLUMNS, frozenset())


def replace_day(connection: Connection, day: dt.datetime, workload_ids: Sequence[int], rows: Sequence[NewDay]) -> None:
    """Put a day of some workloads in the place of what was learned of it."""
    connection.execute(_SQL["forget"], {"time": day, "workload_ids": list(workload_ids)})
    with connection.cursor() as cursor:
        cursor.executemany(_SQL["insert_day"], [dataclasses.asdict(row) for row in rows])


def remember(connection: Connection, learned: Sequence[Changed], now: dt.datetime) -> None:
    """Note what the hours of one day looked like; days without hours are forgotten."""
    if not learned:
        return
    there = [change for change in learned if change.replicas]
    gone = [change.workload_id for change in learned if not change.replicas]
    day = learned[0].day
    connection.execute(_SQL["unsee"], {"time": day, "workload_ids": gone})
    connection.execute(
        _SQL["seen"],
        {
            "time": day,
            "workload_ids": [change.workload_id for change in there],
            "fingerprints": [change.fingerprint for change in there],
            "now": now,
        },
    )


def day_sums(
    connection: Connection, workload_ids: Sequence[int], first: dt.datetime, last: dt.datetime
) -> list[DaySums]:
    """Days in [first, last) of some workloads, by workload, accelerator model and time."""
    parameters = {"workload_ids": list(workload_ids), "first": first, "last": last}
    return [DaySums(*row) for row in connection.execute(_SQL["day_sums"], parameters)]


def store_fits(connection: Connection, fits: Sequence[DayFit]) -> None:
    """Write fits to days that are there."""
    with connection.cursor() as cursor:
        cursor.executemany(_SQL["refit"], [dataclasses.asdict(fit) for fit in fits])


def days(
    connection: Connection,
    start: dt.datetime,
    end: dt.datetime,
    *,
    workload: list[str] | None = None,
    model: list[str] | None = None,
    team: list[str] | None = None,
    accelerator_model: list[str] | None = None,
    limit: int,
) -> list[Day]:
    """Days with start <= time < end, by names and time; None filters nothing."""
    parameters = {
        "start": start,
        "end": end,
        "workload": workload,
        "model": model,
        "team": team,
        "accelerator_model": accelerator_model,
        "limit": limit,
    }
    with connection.cursor(row_factory=class_row(Day)) as cursor:
        return cursor.execute(_SQL["days"], parameters).fetchall()


def latest(connection: Connection, at: dt.datetime) -> dict[int, tuple[float, float]]:
    """Newest price of a computed input token and its standard error, in mJ, per workload that had one in 14 days.

    A workload whose price is 0, or can't be told, is not in it.
    """
    parameters = {"first": at - _OLDEST_PRICE, "at": at, "verdicts": sorted(PREFILL_KNOWN)}
    return {row[0]: (row[1], row[2]) for row in connection.execute(_SQL["latest"], parameters)}


def as_array(rows: Sequence[DaySums]) -> NDArray[np.float64]:
    """The partial sums of some days, one row each."""
    return np.array([row.sums for row in rows], np.float64).reshape(len(rows), -1)
