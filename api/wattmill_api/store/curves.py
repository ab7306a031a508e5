"""Curves in and out of the store: minutes of replicas as arrays, counts of hours and days, the curves to judge by."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wattmill_analytics.curve_counts import MOMENTS, Counts, add, moved
from wattmill_analytics.curve_learning import solve
from wattmill_analytics.curves import Curves
from wattmill_api.store import statements
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Float64, Int64, Samples, read_columns

_SQL = statements("curves")
_DAY = dt.timedelta(days=1)
_MINUTES = (
    *("id", "time_us", "serving_mj", "estimated_mj", "untrusted_us", "uncached_input_tokens", "output_tokens"),
    "requests_running",
)
REFERENCE_DAYS = 14
# A version is judged by its own curve from so many minutes on; until then by that of the version before it.
OWN_MINUTES = 300


class Family(NamedTuple):
    """Engines that are alike but for their version: what a curve is of."""

    model: str
    accelerator_model: str
    engine_kind: str
    boards: int
    simulated: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """A replica while it served one model on the same boards."""

    placement_id: int
    engine_id: int
    family: Family
    interval_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class Learnt:
    """How much was learnt of a family and version, on how many days, from `first` to `last`."""

    family_id: int
    version: str
    minutes: int
    days: int
    first: dt.datetime
    last: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What a row of `Reference.curves` was learnt from."""

    family: Family
    version: str
    minutes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """The curves to judge by. `row_of_engine`: an engine that is not named has none; `rows`: one a curve.

    A row's version is not the engine's own while that is too new: then it is the one that ran before.
    """

    curves: Curves
    row_of_engine: Mapping[int, int]
    rows: Sequence[Row]


def placements(connection: Connection, first: dt.datetime, last: dt.datetime) -> list[Placement]:
    """Replicas seen in [first, last) whose boards are known."""
    rows = connection.execute(_SQL["placements"], {"first": first, "last": last})
    return [Placement(row[0], row[1], Family(*row[2:-1]), row[-1]) for row in rows]


def add_families(connection: Connection, wanted: Sequence[Family]) -> None:
    """Give every family an id."""
    columns = list(zip(*wanted, strict=True)) or [()] * 5
    names = ("models", "accelerator_models", "engine_kinds", "boards", "simulated")
    connection.execute(_SQL["add_families"], {name: list(column) for name, column in zip(names, columns, strict=True)})


def families(connection: Connection) -> dict[int, Family]:
    """All families, by id."""
    return {row[0]: Family(*row[1:]) for row in connection.execute(_SQL["families"])}


def versions(connection: Connection, engine_ids: Sequence[int]) -> dict[int, list[tuple[int, str]]]:
    """(since_us, version) in order of time, of the engines whose version is known."""
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for engine_id, since_us, version in connection.execute(_SQL["versions"], {"engine_ids": list(engine_ids)}):
        if not found[engine_id] or found[engine_id][-1][1] != version:
            found[engine_id].append((since_us, version))
    return dict(found)


def hours(
    connection: Connection, family_of: Mapping[int, int], first: dt.datetime, last: dt.datetime
) -> dict[tuple[dt.datetime, int], str]:
    """What the ledger hours of each family look like. `family_of`: family ids by placement id."""
    parameters = {"placement_ids": list(family_of), "family_ids": list(family_of.values())}
    rows = connection.execute(_SQL["hours"], {**parameters, "first": first, "last": last})
    return {(row[0], row[1]): row[2] for row in rows}


def seen(
    connection: Connection, first: dt.datetime, last: dt.datetime
) -> dict[tuple[dt.datetime, int], tuple[str, dt.datetime]]:
    """(what it looked like, when) of the hours and families learnt already."""
    rows = connection.execute(_SQL["seen"], {"first": first, "last": last})
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def incidents(
    connection: Connection, kinds: Sequence[str], first: dt.datetime, last: dt.datetime, unconfirmed: dt.timedelta
) -> dict[int, list[tuple[dt.datetime, dt.datetime]]]:
    """When, by placement id, findings of these kinds say that a replica did not run as it should.

    `unconfirmed`: how long a regression counts that neither a change of version nor a person confirms.
    """
    found: dict[int, list[tuple[dt.datetime, dt.datetime]]] = defaultdict(list)
    for placement_id, since, until in connection.execute(
        _SQL["incidents"], {"kinds": list(kinds), "first": first, "last": last, "unconfirmed": unconfirmed}
    ):
        found[placement_id].append((since, until))
    return dict(found)


def minutes(connection: Connection, placement_ids: Sequence[int], first: dt.datetime, last: dt.datetime) -> Samples:
    """Minutes of replicas in [first, last), by placement id."""
    parameters = {"placement_ids": list(placement_ids), "first": first, "last": last}
    return read_columns(connection, _SQL["minutes"], parameters, _MINUTES, frozenset({"requests_running"}))


def replace_hour(
    connection: Connection,
    hour: dt.datetime,
    fingerprints: Mapping[int, str],
    counts: Mapping[tuple[int, str], Counts],
    now: dt.datetime,
) -> None:
    """Put new counts of one curve each, by family id and version, in the place of an hour's.

    `fingerprints`: what the hour looked like, by family id.
    """
    family_ids = list(fingerprints)
    connection.execute(_SQL["clear_hour"], {"time": hour, "family_ids": family_ids})
    _insert(connection, "insert_hour", hour, counts)
    values = list(fingerprints.values())
    connection.execute(_SQL["saw"], {"time": hour, "family_ids": family_ids, "fingerprints": values, "now": now})


def sum_day(connection: Connection, day: dt.datetime, family_ids: Sequence[int]) -> None:
    """Make the day of some families the sum of its hours."""
    parameters: dict[str, Any] = {"family_ids": list(family_ids), "first": day, "last": day + _DAY}
    parts = _read(connection, "hour_counts", parameters)
    connection.execute(_SQL["clear_day"], {"time": day, "family_ids": list(family_ids)})
    _insert(connection, "insert_day", day, {key: add(of, 1) for key, of in parts.items()})


def forget(connection: Connection, hours_before: dt.datetime, days_before: dt.datetime) -> None:
    """Retention."""
    connection.execute(_SQL["forget_hours"], {"before": hours_before})
    connection.execute(_SQL["forget_seen"], {"before": hours_before})
    connection.execute(_SQL["forget_days"], {"before": days_before})


def learnt(
    connection: Connection,
    first: dt.datetime,
    last: dt.datetime,
    *,
    model: list[str] | None = None,
    accelerator_model: list[str] | None = None,
    workload: list[str] | None = None,
) -> list[Learnt]:
    """What there is of the days in [first, last); None filters nothing. `workload`: curves that its replicas are of."""
    family_ids = None
    if workload is not None:
        parameters = {"names": workload, "first": first, "last": last}
        mine = {row[0] for row in connection.execute(_SQL["placements_of_workloads"], parameters)}
        wanted = {p.family for p in placements(connection, first, last) if p.placement_id in mine}
        family_ids = [id_ for id_, family in families(connection).items() if family in wanted]
    rows = connection.execute(
        _SQL["learnt"],
        {
            "first": first,
            "last": last,
            "model": model,
            "accelerator_model": accelerator_model,
            "family_ids": family_ids,
        },
    )
    return [Learnt(*row) for row in rows]


def counts_of(
    connection: Connection, wanted: Sequence[tuple[int, str]], first: dt.datetime, last: dt.datetime
) -> Counts:
    """Counts of the days in [first, last), of one curve a family id and version wanted, in that order."""
    parameters = {
        "family_ids": [family_id for family_id, _ in wanted],
        "versions": [version for _, version in wanted],
        "first": first,
        "last": last,
    }
    parts = _read(connection, "day_counts", parameters)
    place = {key: i for i, key in enumerate(wanted)}
    return add([moved(part, place[key], len(wanted)) for key, of in parts.items() for part in of], len(wanted))


def reference(connection: Connection, at: dt.datetime) -> Reference:
    """The curves that engines are judged by at a time: of the 14 whole days before it, so that they hold all day.

    An engine is judged by the curve of its version in force; while that has less than 300 minutes, by the newest
    version before it that has as many, else by any other of its family. Where no version has, today counts too.
    """
    at = at.astimezone(dt.UTC)
    today = at.replace(hour=0, minute=0, second=0, microsecond=0)
    first = today - REFERENCE_DAYS * _DAY
    last_placements = {row[1] for row in connection.execute(_SQL["engines"], {"first": first})}
    current = [p for p in placements(connection, first, at + _DAY) if p.placement_id in last_placements]
    ids = {family: id_ for id_, family in families(connection).items()}
    history = versions(connection, [p.engine_id for p in current])
    settled, fresh = _minutes_of(learnt(connection, first, today)), _minutes_of(learnt(connection, first, today + _DAY))
    at_us = int(at.timestamp() * 1_000_000)
    chosen: dict[tuple[int, str], int] = {}
    row_of_engine: dict[int, int] = {}
    for placement in current:
        family_id = ids.get(placement.family)
        past = [version for since_us, version in history.get(placement.engine_id, []) if since_us <= at_us]
        version = _version_to_judge_by(
            past[::-1] or [""], settled.get(family_id or 0, {}), fresh.get(family_id or 0, {})
        )
        if family_id is not None and version is not None:
            row_of_engine[placement.engine_id] = chosen.setdefault((family_id, version), len(chosen))
    # A family that was settled before today is not touched by today.
    old = [key for key in chosen if settled.get(key[0], {}).get(key[1], 0) >= OWN_MINUTES]
    new = [key for key in chosen if key not in set(old)]
    order = {key: i for i, key in enumerate([*old, *new])}
    counts = add(
        [
            moved(counts_of(connection, old, first, today), 0, len(order)),
            moved(counts_of(connection, new, first, today + _DAY), len(old), len(order)),
        ],
        len(order),
    )
    place = {row: order[key] for key, row in chosen.items()}
    family_of = {id_: family for family, id_ in ids.items()}
    rows = [Row(family_of[key[0]], key[1], int(n)) for key, n in zip(order, counts.minutes, strict=True)]
    return Reference(solve(counts), {engine: place[row] for engine, row in row_of_engine.items()}, rows)


def _version_to_judge_by(
    newest_first: Sequence[str], settled: Mapping[str, int], fresh: Mapping[str, int]
) -> str | None:
    """`settled`, `fresh`: minutes by version before today, and with today."""
    for version in newest_first:
        if settled.get(version, 0) >= OWN_MINUTES:
            return version
    others = [version for version, minutes in settled.items() if minutes >= OWN_MINUTES]
    if others:
        return max(others, key=lambda version: (settled[version], version))
    for version in newest_first:
        if fresh.get(version, 0) >= OWN_MINUTES:
            return version
    return max(fresh, key=lambda version: (fresh[version], version)) if fresh else None


def _minutes_of(found: Sequence[Learnt]) -> dict[int, dict[str, int]]:
    minutes_of: dict[int, dict[str, int]] = defaultdict(dict)
    for each in found:
        minutes_of[each.family_id][each.version] = each.minutes
    return minutes_of


def _insert(
    connection: Connection, statement: str, time: dt.datetime, counts: Mapping[tuple[int, str], Counts]
) -> None:
    rows = [
        {
            "time": time,
            "family_id": family_id,
            "version": version,
            "minutes": int(one.cost[1].sum()),
            "cost_cells": one.cost[0].tolist(),
            "cost_minutes": one.cost[1].tolist(),
            "speed_cells": one.speed[0].tolist(),
            "speed_minutes": one.speed[1].tolist(),
            "moment_groups": one.moments[0].tolist(),
            "moments": one.moments[1].ravel().tolist(),
        }
        for (family_id, version), one in counts.items()
    ]
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(_SQL[statement], rows)


def _read(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> dict[tuple[int, str], list[Counts]]:
    """Counts of one curve each, by family id and version, in order of time."""
    found: dict[tuple[int, str], list[Counts]] = defaultdict(list)
    for family_id, version, _, *sent, moments in connection.execute(_SQL[statement], parameters):
        cost, minutes, pace, pace_minutes, groups = (_integers(array) for array in sent)
        sums = _numbers(moments).reshape(groups.size, MOMENTS)
        found[family_id, version].append(Counts(1, (cost, minutes), (pace, pace_minutes), (groups, sums)))
    return found


def _integers(sent: bytes) -> Int64:
    """An integer[] as the server sends it: three numbers, two more unless it is empty, then (length, value) each."""
    numbers = np.frombuffer(sent, ">i4")
    return numbers[6::2].astype(np.int64)


def _numbers(sent: bytes) -> Float64:
    """A float8[]: the same beginning, then a length of 4 bytes and 8 bytes of value each."""
    each = np.frombuffer(sent[20:], np.dtype([("length", ">i4"), ("value", ">f8")]))
    return each["value"].astype(np.float64)
