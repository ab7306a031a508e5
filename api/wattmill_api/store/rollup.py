"""Samples out of the store as contiguous arrays, ledger rows into it.

Analytics never see a row: `read_samples` returns columns, whatever they were packed in. Every statement makes its
columns NOT NULL (-1, or NaN for ratios), so that they become arrays without a Python loop.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Literal, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from wattmill_api.store import exposition, statements

_SQL = statements("rollup")
_POSTGRES_EPOCH_US = 946_684_800_000_000
_DAY_US = 86_400_000_000

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
# A chassis is read like the host's other domains, but less often: where its samples begin and end is asked for apart.
Device = Literal["accelerator", "engine", "host", "chassis"]

_COLUMNS: dict[str, tuple[str, ...]] = {
    "accelerator": (
        "id",
        "time_us",
        "energy_mj",
        "power_mw",
        "epoch",
        "epoch_start_us",
        "process_count",
        "memory_used_bytes",
        "clock_event_reasons",
        "sm_clock_mhz",
        "temperature_celsius",
        "utilisation_ratio",
    ),
    "engine": (
        "id",
        "time_us",
        "placement_id",
        "epoch",
        "epoch_start_us",
        "input_tokens",
        "cached_input_tokens",
        "computed_input_tokens",
        "output_tokens",
        "requests_finished",
        "preemptions",
        "draft_tokens",
        "accepted_draft_tokens",
        "requests_running",
        "requests_waiting",
        "activity_ppm",
        "kv_cache_usage_ratio",
    ),
    "host": ("id", "time_us", "energy_uj", "energy_range_uj", "epoch", "epoch_start_us", "power_mw"),
}
_RATIOS = frozenset({"utilisation_ratio", "kv_cache_usage_ratio"})


@dataclasses.dataclass(frozen=True, slots=True)
class Samples:
    """Columns of one kind of device, sorted by device and time; -1 (NaN for ratios) where the source had nothing.

    `ids` int64 [s]: the devices; `offsets` int64 [s+1]: where each one's samples begin; every column has `offsets[s]`
    entries.
    """

    ids: Int64
    offsets: Int64
    integers: Mapping[str, Int64]
    ratios: Mapping[str, Float64]

    def __getitem__(self, name: str) -> Int64:
        return self.integers[name]

    @property
    def count(self) -> int:
        return int(self.offsets[-1])


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    node_id: int
    interval_us: int
    first_seen_us: int
    last_seen_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """The boards of a placement and, aligned with them, its parts of them in ppm (empty: none of its own)."""

    accelerator_ids: tuple[int, ...]
    shares_ppm: tuple[int, ...]
    role: str


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """What is known of the devices of some nodes, as arrays sorted by id."""

    nodes: Mapping[int, Node]
    accelerator_ids: Int64
    accelerator_node_ids: Int64
    accelerator_limit_mw: Int64
    engine_ids: Int64
    engine_node_ids: Int64
    engine_first_seen_us: Int64
    placements: Mapping[int, Held]
    chassis_node_ids: Int64  # nodes whose chassis was ever read


def _datetime(time_us: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)


def _time_us(time: dt.datetime) -> int:
    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def take_dirty(connection: psycopg.Connection[Any], limit: int) -> list[tuple[int, int, int]]:
    """Up to `limit` touched spans as (node_id, first_us, last_us); they are gone when the transaction commits."""
    rows = connection.execute(_SQL["take_dirty"], {"limit": limit})
    return [(node_id, _time_us(first), _time_us(last)) for node_id, first, last in rows]


def put_back_dirty(connection: psycopg.Connection[Any], spans: Sequence[tuple[int, int, int]]) -> None:
    """Leave spans for a later transaction."""
    connection.execute(
        _SQL["put_back_dirty"],
        {
            "node_ids": [node_id for node_id, _, _ in spans],
            "first_times": [_datetime(first) for _, first, _ in spans],
            "last_times": [_datetime(last) for _, _, last in spans],
        },
    )


def dirty_count(connection: psycopg.Connection[Any]) -> int:
    """How many touched spans wait for roll-up."""
    row = connection.execute(_SQL["dirty_count"]).fetchone()
    return int(row[0]) if row else 0


def read_fleet(connection: psycopg.Connection[Any], node_ids: Sequence[int]) -> Fleet:
    """The devices of some nodes."""
    nodes = {row[0]: Node(*row) for row in connection.execute(_SQL["nodes"], {"node_ids": list(node_ids)})}
    accelerators = connection.execute(_SQL["accelerators"], {"node_ids": list(node_ids)}).fetchall()
    engines = connection.execute(_SQL["engines"], {"node_ids": list(node_ids)}).fetchall()
    placements = connection.execute(_SQL["placements"], {"node_ids": list(node_ids)})
    chassis = connection.execute(_SQL["chassis_nodes"], {"node_ids": list(node_ids)}).fetchall()
    return Fleet(
        nodes=nodes,
        accelerator_ids=np.array([row[0] for row in accelerators], np.int64),
        accelerator_node_ids=np.array([row[1] for row in accelerators], np.int64),
        accelerator_limit_mw=np.array([row[2] for row in accelerators], np.int64),
        engine_ids=np.array([row[0] for row in engines], np.int64),
        engine_node_ids=np.array([row[1] for row in engines], np.int64),
        engine_first_seen_us=np.array([row[2] for row in engines], np.int64),
        placements={row[0]: Held(tuple(row[1]), tuple(row[2]), row[3]) for row in placements},
        chassis_node_ids=np.array([row[0] for row in chassis], np.int64),
    )


def read_samples(
    connection: psycopg.Connection[Any],
    device: Device,
    ids: Sequence[int],
    first_us: int,
    last_us: int,
    domain: str = "",
) -> Samples:
    """Samples of some devices with first_us <= time <= last_us (for `host`: ids are nodes, of one energy domain)."""
    parameters = {"ids": list(ids), "first": _datetime(first_us), "last": _datetime(last_us), "domain": domain}
    return read_columns(connection, _SQL[f"{device}_samples"], parameters, _COLUMNS[device], _RATIOS)


def read_times(
    connection: psycopg.Connection[Any], device: Device, ids: Sequence[int], first_us: int, last_us: int
) -> Samples:
    """Only when samples were taken (and `epoch_start_us`), with first_us <= time <= last_us."""
    parameters = {"ids": list(ids), "first": _datetime(first_us), "last": _datetime(last_us)}
    names = ("id", "time_us", "epoch_start_us")
    return read_columns(connection, _SQL[f"{device}_times"], parameters, names, frozenset())


def read_columns(
    connection: psycopg.Connection[Any],
    statement: LiteralString,
    parameters: Mapping[str, Any],
    names: tuple[str, ...],
    ratios: frozenset[str],
) -> Samples:
    """Columns of a query sorted by `id` and `time_us`: 8-byte NOT NULL values, packed to a bytea by the server.

    The columns named in `ratios` are float8, `time_us` is a timestamptz, all others are bigint. Packing is 5 times as
    fast as rows, in COPY or not, and leaves the client idle; a field holds 1 GB, so at most 134 million rows.
    """
    send: dict[str, LiteralString] = {"time_us": "timestamptz_send", **dict.fromkeys(ratios, "float8send")}
    packed = sql.SQL(", ").join(
        [
            sql.SQL("string_agg({send}({column}), ''::bytea)").format(
                send=sql.SQL(send.get(name, "int8send")), column=sql.Identifier(name)
            )
            for name in names
        ]
    )
    query = sql.SQL("SELECT {packed} FROM (\n{query}\n) AS packed ({columns})").format(
        packed=packed, query=sql.SQL(statement), columns=sql.SQL(", ").join(map(sql.Identifier, names))
    )
    row = connection.cursor(binary=True).execute(query, parameters).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    columns = {
        name: np.frombuffer(value or b"", ">f8" if name in ratios else ">i8")
        for name, value in zip(names, row, strict=True)
    }
    integers = {name: values.astype(np.int64) for name, values in columns.items() if name not in ratios}
    integers["time_us"] += _POSTGRES_EPOCH_US
    ids, starts = np.unique(integers["id"], return_index=True)
    return Samples(
        ids=ids,
        offsets=np.append(starts, len(integers["id"])).astype(np.int64),
        integers=integers,
        ratios={name: columns[name].astype(np.float64) for name in names if name in ratios},
    )


def host_domains(
    connection: psycopg.Connection[Any], node_ids: Sequence[int], first_us: int, last_us: int
) -> list[str]:
    """The host energy domains that were read in a window."""
    parameters = {"ids": list(node_ids), "first": _datetime(first_us), "last": _datetime(last_us)}
    return [row[0] for row in connection.execute(_SQL["host_domains"], parameters)]


def neighbours(
    connection: psycopg.Connection[Any],
    device: Device,
    side: Literal["before", "after"],
    ids: Sequence[int],
    at_us: int,
    limit_us: int,
) -> dict[int, int]:
    """Time of the last sample before (first after) an instant, per device that has one up to `limit_us`."""
    if not ids:
        return {}
    parameters = {"ids": list(ids), "at": _datetime(at_us), "limit": _datetime(limit_us)}
    return {row[0]: _time_us(row[1]) for row in connection.execute(_SQL[f"{device}_{side}"], parameters)}


def last_counted(
    connection: psycopg.Connection[Any], engine_id: int, counter: str, epoch: int, at_us: int, limit_us: int
) -> int | None:
    """The last value of an engine's counter before an instant and in one epoch; None when it has shown none."""
    statement = sql.SQL(_SQL["last_counted"]).format(counter=sql.Identifier(counter))
    parameters = {"engine_id": engine_id, "epoch": epoch, "at": _datetime(at_us), "limit": _datetime(limit_us)}
    row = connection.execute(statement, parameters).fetchone()
    return None if row is None else int(row[0])


@dataclasses.dataclass(frozen=True, slots=True)
class MinuteTable:
    """Rows for one table: `columns` in the order of its COPY statement; -1 and NaN stand for NULL."""

    table: Literal["ledger_minute", "host_minute", "accelerator_minute", "engine_minute"]
    types: tuple[str, ...]
    columns: Sequence[Any]


def replace_minutes(
    connection: psycopg.Connection[Any],
    node_ids: Sequence[int],
    first_us: int,
    last_us: int,
    tables: Sequence[MinuteTable],
) -> None:
    """Put new minute rows in the place of all old ones with first_us <= time < last_us.

    `time` is the first column of every table, in microseconds since 1970; -1 and NaN become NULL. A ledger minute that
    is written again gets a higher revision.
    """
    window = {"node_ids": list(node_ids), "first": _datetime(first_us), "last": _datetime(last_us)}
    revisions: dict[tuple[int, int], int] = {}
    for node_id, time_us, revision in connection.execute(_SQL["clear_ledger_minute"], window):
        revisions[node_id, time_us] = max(revision, revisions.get((node_id, time_us), 0))
    for table in tables:
        if table.table != "ledger_minute":
            connection.execute(_SQL[f"clear_{table.table}"], window)
    for table in tables:
        columns = [c.tolist() if isinstance(c, np.ndarray) else list(c) for c in table.columns]
        columns[0] = [t - _POSTGRES_EPOCH_US for t in columns[0]]
        if table.table == "ledger_minute":
            columns.append(
                [revisions.get((n, t + _POSTGRES_EPOCH_US), 0) + 1 for t, n in zip(*columns[:2], strict=True)]
            )
        _copy_columns(connection, table, columns)


def _copy_columns(connection: psycopg.Connection[Any], table: MinuteTable, columns: list[list[Any]]) -> None:
    for i, kind in enumerate(table.types):
        if kind in ("int8", "int4"):
            columns[i] = [None if v == -1 else v for v in columns[i]]
        elif kind == "float4":
            columns[i] = [None if v != v else v for v in columns[i]]
    with connection.cursor() as cursor, cursor.copy(_SQL[f"copy_{table.table}"]) as copy:
        copy.set_types(table.types)
        for row in zip(*columns, strict=True):
            copy.write_row(row)


def sum_hours(connection: psycopg.Connection[Any], node_ids: Sequence[int], first_us: int, last_us: int) -> None:
    """Recompute the hours with first_us <= time < last_us (both whole hours) from their minutes, and their days.

    Each row of the ledger gets its part of its node's host. What /metrics shows of the ledger moves with them.
    """
    first, last = _datetime(first_us), _datetime(last_us)
    window = {"node_ids": list(node_ids), "first": first, "last": last}
    before = exposition.hour_sums(connection, node_ids, first, last)
    for table in ("host_hour", "meter_hour"):
        connection.execute(_SQL[f"clear_{table}"], window)
        connection.execute(_SQL[f"sum_{table}"], window)
    connection.execute(_SQL["clear_ledger_hour"], window)
    connection.execute(_shared("sum_ledger_hour", "minute_entry"), window)
    sum_days(connection, node_ids, first_us, last_us)
    after = exposition.hour_sums(connection, node_ids, first, last)
    exposition.move_totals(connection, before, after)


def sum_days(connection: psycopg.Connection[Any], node_ids: Sequence[int], first_us: int, last_us: int) -> None:
    """Recompute the days that first_us <= time < last_us touches from their hours."""
    days: dict[str, Any] = _whole_days(first_us, last_us) | {"node_ids": list(node_ids)}
    unshared = _sum_ledger_days(connection, days)
    if unshared:
        of_before = days | {"node_ids": unshared}
        connection.execute(_shared("share_ledger_hour", "hour_entry"), of_before)
        _sum_ledger_days(connection, of_before)
    connection.execute(_SQL["clear_node_day"], days)
    connection.execute(_SQL["sum_node_day"], days)


def nodes_of_days(connection: psycopg.Connection[Any], first_us: int, last_us: int) -> list[int]:
    """The nodes that have hours in the days that first_us <= time < last_us touches."""
    return [node_id for (node_id,) in connection.execute(_SQL["nodes_of_days"], _whole_days(first_us, last_us))]


def _whole_days(first_us: int, last_us: int) -> dict[str, dt.datetime]:
    return {"first": _datetime(first_us // _DAY_US * _DAY_US), "last": _datetime(-(-last_us // _DAY_US) * _DAY_US)}


def _shared(name: str, entry: str) -> sql.Composed:
    """A statement that shares the host's energy out among entries."""
    return sql.SQL(_SQL[name]).format(shared=sql.SQL(_SQL["shared"]).format(entry=sql.SQL(_SQL[entry])))


def _sum_ledger_days(connection: psycopg.Connection[Any], days: Mapping[str, Any]) -> list[int]:
    """Whole days from their hours; the nodes of which an hour has no shares yet."""
    connection.execute(_SQL["clear_ledger_day"], days)
    return [node_id for (node_id,) in connection.execute(_SQL["sum_ledger_day"], days)]
