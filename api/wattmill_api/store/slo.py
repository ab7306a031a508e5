"""What /efficiency asks about latency: which histograms there are, how many tokens met a target, what was observed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

from psycopg.rows import class_row, dict_row

from wattmill_api.parameters import Window
from wattmill_api.store import statements
from wattmill_api.store.database import Connection
from wattmill_api.store.query import FilterValues, Group, group_of

_SQL = statements("slo")
INTER_TOKEN_LATENCY, TIME_TO_FIRST_TOKEN, QUEUE_TIME, REQUEST_LATENCY = 1, 2, 3, 4


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """One workload has histograms of this metric with these bounds in a range."""

    workload_id: int
    name: str
    metric: int
    bounds_id: int
    le_us: list[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """What a target means for one workload's histograms with one set of bounds, first <= time < last.

    The first `whole` buckets meet it, and part / unit of the next one; `unit` is the same for all goals of a question.
    """

    workload_id: int
    metric: int
    bounds_id: int
    first: dt.datetime
    last: dt.datetime
    whole: int
    part: int
    target_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class Met:
    """Output tokens of one group in one bucket: of engines with a histogram, of those with a target, and in time.

    Targets are the lowest and highest that applied; None without any. `first_…`: requests' first tokens, in `unit`.
    """

    bucket: dt.datetime
    group: Group
    known_tokens: int
    judged_tokens: int
    met_tokens: int
    targets_us: tuple[int, int] | None
    first_observed: int
    first_met: int
    first_targets_us: tuple[int, int] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Observed:
    """Observations of one group, bucket of time and metric under one set of bounds."""

    bucket: dt.datetime
    group: Group
    metric: int
    bounds_id: int
    counts: list[int]


def in_use(connection: Connection, window: Window) -> list[Use]:
    """The histograms of a range; empty, and soon known, where no engine has any."""
    with connection.cursor(row_factory=class_row(Use)) as cursor:
        return cursor.execute(_SQL["in_use"], {"start": window.start, "end": window.end}).fetchall()


def met(
    connection: Connection,
    window: Window,
    *,
    by: Sequence[str],
    filters: FilterValues,
    goals: Sequence[Goal],
    unit: int,
) -> list[Met]:
    """How many tokens met the goals, by bucket and group."""
    parameters = {
        **_asked(window, by, filters),
        "workload_ids": [g.workload_id for g in goals],
        "metrics": [g.metric for g in goals],
        "bounds_ids": [g.bounds_id for g in goals],
        "firsts": [g.first for g in goals],
        "lasts": [g.last for g in goals],
        "wholes": [g.whole for g in goals],
        "parts": [g.part for g in goals],
        "targets_us": [g.target_us for g in goals],
        "unit": unit,
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        return [
            Met(
                row["bucket"],
                group_of(row, by),
                int(row["known_tokens"]),
                int(row["judged_tokens"]),
                int(row["met_tokens"]),
                _pair(row["lowest_target_us"], row["highest_target_us"]),
                int(row["first_observed"]),
                int(row["first_met"]),
                _pair(row["lowest_first_target_us"], row["highest_first_target_us"]),
            )
            for row in cursor.execute(_SQL["met"], parameters)
        ]


def _pair(lowest: int | None, highest: int | None) -> tuple[int, int] | None:
    return None if lowest is None or highest is None else (lowest, highest)


def observed(connection: Connection, window: Window, *, by: Sequence[str], filters: FilterValues) -> list[Observed]:
    """The histograms themselves, by bucket and group."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return [
            Observed(row["bucket"], group_of(row, by), row["metric"], row["bounds_id"], row["counts"])
            for row in cursor.execute(_SQL["histograms"], _asked(window, by, filters))
        ]


def _asked(window: Window, by: Sequence[str], filters: FilterValues) -> dict[str, Any]:
    return {
        "start": window.start,
        "end": window.end,
        "hour_start": window.hour_start,
        "hour_end": window.hour_end,
        "step": window.step,
        "by": list(by),
        **filters,
    }
