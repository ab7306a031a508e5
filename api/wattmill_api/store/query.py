"""What people and tools ask of the ledger, the minutes and the inventory: one short function per question.

Energies and tokens come back as Python integers: sums over a fleet may pass 64 bits, and nothing is rounded here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from psycopg import sql
from psycopg.rows import class_row, dict_row

from wattmill_api import visibility
from wattmill_api.parameters import Window
from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("query")
FilterValues = Mapping[str, list[str] | None]
Group = tuple[tuple[str, str | None], ...]
Device = Literal["accelerator", "engine"]
# Words about processes that belong to no engine: whose they are is not known, so no key of some teams reads them.
_NOBODYS = ("no_endpoint",)
_LONG = dt.timedelta(hours=3)  # beyond it the meter is read from whole hours where it can be


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """Energy and tokens of one group in one bucket, slice and site. Tokens are None where no reading had them."""

    bucket: dt.datetime
    slice: int
    site: str
    group: Group
    account: int | None
    simulated: bool
    energy_mj: int
    estimated_mj: int
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    input_unknown: bool
    cached_unknown: bool
    output_unknown: bool
    placement_unknown: bool
    host_unknown: bool
    covered_us: int
    span_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class Island:
    """Consecutive minutes of one device that are covered alike."""

    device_id: int
    first_time: dt.datetime
    minutes: int
    covered_us: int
    anomalies: int


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """A device that should have been read, since when."""

    device_id: int
    name: str
    model: str | None
    node: str
    site: str
    node_id: int
    first_seen: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Absence:
    """Why something was not read, from `start_time` to `end_time`."""

    node_id: int
    subject: str
    id: str
    reason: str
    detail: str
    start_time: dt.datetime
    end_time: dt.datetime


def energy(
    connection: Connection,
    window: Window,
    *,
    by: Sequence[str],
    filters: FilterValues,
    cuts: Sequence[dt.datetime],
    by_account: bool = False,
    with_host: bool = False,
    limit: int,
) -> list[Facts]:
    """The ledger by bucket and group, at most `limit` rows. `cuts`: instants at which a price changes."""
    teams = visibility.teams()
    # A host is shared among all rows of its node, so whole nodes are read for that, and the team's own rows kept.
    every = sql.SQL("" if teams is None else "every_")
    entry = sql.SQL(_SQL["shared_entry"]).format(every=every) if with_host else sql.SQL(_SQL["ledger_entry"])
    statement = sql.SQL(_SQL["energy"]).format(entry=entry)
    parameters = {
        **_times(window),
        **filters,
        "team": filters["team"] if teams is None or filters["team"] else list(teams),
        "by": list(by),
        "by_account": by_account,
        "cuts": list(cuts),
        "limit": limit,
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        return [_facts(row, by) for row in cursor.execute(statement, parameters)]


def overhead(
    connection: Connection,
    window: Window,
    *,
    by: Sequence[str],
    filters: FilterValues,
    cuts: Sequence[dt.datetime] = (),
) -> list[Facts]:
    """Host energy by bucket, slice and group; only node and site tell it apart, so nothing of it is any team's."""
    if visibility.teams() is not None:
        return []
    parameters = {
        **_times(window),
        "by": list(by),
        "cuts": list(cuts),
        "site": filters["site"],
        "node": filters["node"],
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        return [_facts({**_NO_TOKENS, **row}, by) for row in cursor.execute(_SQL["overhead"], parameters)]


_NO_TOKENS: dict[str, Any] = {
    "account": 5,
    "input_tokens": None,
    "cached_input_tokens": None,
    "output_tokens": None,
    "input_unknown": False,
    "cached_unknown": False,
    "output_unknown": False,
    "placement_unknown": False,
    "host_unknown": False,
    "span_us": 0,
}


def _times(window: Window) -> dict[str, Any]:
    return {
        "start": window.start,
        "end": window.end,
        "hour_start": window.hour_start,
        "hour_end": window.hour_end,
        "day_start": window.day_start,
        "day_end": window.day_end,
        "step": window.step,
    }


def _facts(row: Mapping[str, Any], by: Sequence[str]) -> Facts:
    return Facts(
        bucket=row["bucket"],
        slice=row["slice"],
        site=row["site"],
        group=group_of(row, by),
        account=row["account"],
        simulated=bool(row["simulated"]),
        energy_mj=int(row["energy_mj"]),
        estimated_mj=int(row["estimated_mj"]),
        input_tokens=_integer(row["input_tokens"]),
        cached_input_tokens=_integer(row["cached_input_tokens"]),
        output_tokens=_integer(row["output_tokens"]),
        input_unknown=bool(row["input_unknown"]),
        cached_unknown=bool(row["cached_unknown"]),
        output_unknown=bool(row["output_unknown"]),
        placement_unknown=bool(row["placement_unknown"]),
        host_unknown=bool(row["host_unknown"]),
        covered_us=int(row["covered_us"]),
        span_us=int(row["span_us"]),
    )


def group_of(row: Mapping[str, Any], by: Sequence[str]) -> Group:
    """The dimensions asked for and their values in a row, in the order of asking."""
    group: list[tuple[str, str | None]] = []
    for name in by:
        if name == "engine":
            # A target is only unique on its node, and an engine only by the labels behind a target.
            group.append(("engine", row.get("engine_target")))
            if "node" not in by:
                group.append(("node", row.get("node_name") if row.get("engine_target") else None))
            if row.get("engine_series"):
                group.append(("series", row["engine_series"]))
        elif name == "node":
            group.append(("node", row["node_name"]))
        elif name == "site":
            group.append(("site", row["site"]))
        else:
            group.append((name, row.get(f"by_{name}")))
    return tuple(group)


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)


def meter(connection: Connection, window: Window, filters: FilterValues, *, with_host: bool) -> int | None:
    """What the counters themselves say in this range, in mJ: not from the ledger, so that the two can be compared.

    None for a key of some teams: a counter can't tell teams apart.
    """
    if visibility.teams() is not None:
        return None
    parameters = {**_times(window), **filters}
    long = window.end - window.start > _LONG and filters["accelerator"] is filters["accelerator_model"] is None
    total = 0
    for name in ("meter", "host_meter") if with_host else ("meter",):
        row = connection.execute(_SQL[f"long_{name}" if long else name], parameters).fetchone()
        total += int(row[0]) if row else 0
    return total


def expected(connection: Connection, device: Device, window: Window, filters: FilterValues) -> list[Expected]:
    """The devices that should have been read in the range."""
    with connection.cursor(row_factory=class_row(Expected)) as cursor:
        return cursor.execute(
            _SQL[f"expected_{device}s"], {"start": window.start, "end": window.end, **filters}
        ).fetchall()


def islands(connection: Connection, device: Device, window: Window, filters: FilterValues, limit: int) -> list[Island]:
    """Stretches of alike coverage, by device and time."""
    parameters = {"start": window.start, "end": window.end, "limit": limit, **filters}
    with connection.cursor(row_factory=class_row(Island)) as cursor:
        return cursor.execute(_SQL[f"{device}_islands"], parameters).fetchall()


def absences(connection: Connection, window: Window, filters: FilterValues, limit: int) -> list[Absence]:
    """Why things were not read. A spool's losses are told late, so a week past the end is read too."""
    parameters = {
        "start": window.start,
        "end": window.end,
        "until": window.end + dt.timedelta(days=7),
        "wordless": wordless(),
        "limit": limit,
        "site": filters["site"],
        "node": filters["node"],
    }
    with connection.cursor(row_factory=class_row(Absence)) as cursor:
        return cursor.execute(_SQL["absences"], parameters).fetchall()


def series(
    connection: Connection,
    device: Device,
    window: Window,
    *,
    metric: str,
    within: str,
    across: str,
    by: Sequence[str],
    filters: FilterValues,
    limit: int,
) -> list[dict[str, Any]]:
    """Values of one metric by bucket and group: folded `within` a device's bucket, then `across` devices."""
    parameters = {
        "start": window.start,
        "end": window.end,
        "step": window.step,
        "metric": metric,
        "within": within,
        "across": across,
        "by": list(by),
        "limit": limit,
        **filters,
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_SQL[f"{device}_series"], parameters).fetchall()


def wordless() -> list[str]:
    """Reasons whose words the asker may not read."""
    return [] if visibility.teams() is None else list(_NOBODYS)


def committed_through(connection: Connection, streams: Iterable[str]) -> dict[str, int]:
    """How far each stream is stored without a hole."""
    rows = connection.execute(_SQL["streams_committed_through"], {"names": sorted(set(streams))})
    return {name: int(through) for name, through in rows}


def job_runs(connection: Connection) -> list[dict[str, Any]]:
    """When each job last ran."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_SQL["job_runs"]).fetchall()


def ping(connection: Connection) -> None:
    """Errors: DatabaseAway when the database does not answer."""
    connection.execute(_SQL["ping"])


def one_snapshot(connection: Connection) -> None:
    """Inside a transaction, before its first question: every answer of it is about the same instant."""
    connection.execute(_SQL["one_snapshot"])
