"""Latency histograms out of the store as arrays, their minutes and hours into it.

Counts of several histograms lie one behind the other in one array; `offsets` (CSR) says where each begins. They come
packed by the server like all samples (`rollup.read_columns`).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any, Literal, LiteralString

import numpy as np
import psycopg
from psycopg import sql

from wattmill_api.store import statements
from wattmill_api.store.rollup import Int64

_SQL = statements("latency")
_POSTGRES_EPOCH_US = 946_684_800_000_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NAMES = ("engine_id", "time_us", "metric", "bounds_id", "placement_id", "epoch", "epoch_start_us", "size")
Table = Literal["minutes", "hours"]


@dataclasses.dataclass(frozen=True, slots=True)
class Histograms:
    """Rows of histograms, int64 [n] a column, and their counts: row i has counts[offsets[i]:offsets[i + 1]].

    `epoch_start_us` is -1 where it is not known. Of minutes, `epoch` holds the node.
    """

    engine_id: Int64
    time_us: Int64
    metric: Int64
    bounds_id: Int64
    placement_id: Int64
    epoch: Int64
    epoch_start_us: Int64
    offsets: Int64
    counts: Int64

    @property
    def rows(self) -> int:
        return len(self.time_us)

    def take(self, order: Int64) -> Histograms:
        """Some rows, in another order."""
        sizes = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        places = np.repeat(self.offsets[order] - offsets[:-1], sizes) + np.arange(offsets[-1])
        columns = {f.name: getattr(self, f.name)[order] for f in dataclasses.fields(self)[:-2]}
        return Histograms(**columns, offsets=offsets, counts=self.counts[places])


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """The minutes first_us <= minute < last_us of one engine's histogram."""

    engine_id: int
    metric: int
    first_us: int
    last_us: int


def _datetime(time_us: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=time_us)


def touched(connection: psycopg.Connection[Any], engine_ids: Sequence[int], first_us: int, last_us: int) -> list[int]:
    """Which engines have a histogram in (first_us, last_us]."""
    parameters = {"ids": list(engine_ids), "first": _datetime(first_us), "last": _datetime(last_us)}
    return [row[0] for row in connection.execute(_SQL["touched"], parameters)]


def read_samples(
    connection: psycopg.Connection[Any], engine_ids: Sequence[int], first_us: int, last_us: int
) -> Histograms:
    """Samples with first_us <= time <= last_us, sorted by engine, metric and time."""
    return _read(connection, _SQL["samples"], engine_ids, first_us, last_us)


def read_minutes(
    connection: psycopg.Connection[Any], engine_ids: Sequence[int], first_us: int, last_us: int
) -> Histograms:
    """Minutes with first_us <= time < last_us, sorted by engine, metric and time."""
    return _read(connection, _SQL["minutes"], engine_ids, first_us, last_us)


def _read(
    connection: psycopg.Connection[Any], statement: LiteralString, ids: Sequence[int], first_us: int, last_us: int
) -> Histograms:
    send: dict[str, LiteralString] = {"time_us": "timestamptz_send", "counts": "array_send"}
    names = (*_NAMES, "counts")
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
    parameters = {"ids": list(ids), "first": _datetime(first_us), "last": _datetime(last_us)}
    row = connection.cursor(binary=True).execute(query, parameters).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    columns = {
        name: np.frombuffer(value or b"", ">i8").astype(np.int64) for name, value in zip(_NAMES, row[:-1], strict=True)
    }
    columns["time_us"] += _POSTGRES_EPOCH_US
    offsets = np.concatenate([[0], np.cumsum(columns.pop("size"))]).astype(np.int64)
    return Histograms(**columns, offsets=offsets, counts=_unpacked(row[-1] or b"", offsets))


def _unpacked(sent: bytes, offsets: Int64) -> Int64:
    """The elements of many one-dimensional bigint[] without NULLs as the server sends them.

    Each begins with 5 words (dimensions, flags, type, length, lower bound); an element is its length and 2 words.
    """
    words = np.frombuffer(sent, ">u4").astype(np.int64)
    sizes = np.diff(offsets)
    begins = 5 * np.arange(1, sizes.size + 1) + 3 * offsets[:-1]
    places = np.repeat(begins - 3 * offsets[:-1], sizes) + 3 * np.arange(offsets[-1])
    return np.asarray((words[places + 1] << 32) | words[places + 2], np.int64)


def neighbours(
    connection: psycopg.Connection[Any], side: Literal["before", "after"], wanted: Sequence[tuple[int, int, int]]
) -> dict[int, int]:
    """Of each (engine, metric, instant) when it was read last up to it, or first behind it; by number in `wanted`."""
    if not wanted:
        return {}
    engine_ids, metrics, ats = zip(*wanted, strict=True)
    parameters = {
        "ns": list(range(len(wanted))),
        "ids": list(engine_ids),
        "metrics": list(metrics),
        "ats": [_datetime(at) for at in ats],
    }
    return {n: _time_us(time) for n, time in connection.execute(_SQL[side], parameters)}


def idle_before(connection: psycopg.Connection[Any], samples: Histograms, rows: Sequence[int]) -> dict[int, int]:
    """When the processes of some rows were last read before them with no token made, by row; a day back at most."""
    if not rows:
        return {}
    parameters = {
        "ns": list(rows),
        "ids": samples.engine_id[rows].tolist(),
        "epochs": samples.epoch[rows].tolist(),
        "starts": [_datetime(max(0, start)) for start in samples.epoch_start_us[rows].tolist()],
        "ats": [_datetime(at) for at in samples.time_us[rows].tolist()],
    }
    return {n: _time_us(time) for n, time in connection.execute(_SQL["idle_before"], parameters)}


def _time_us(time: dt.datetime) -> int:
    return (time - _EPOCH) // dt.timedelta(microseconds=1)


def clear_minutes(connection: psycopg.Connection[Any], reaches: Sequence[Reach]) -> None:
    """Delete the minutes that are to be written anew."""
    connection.execute(
        _SQL["clear_minutes"],
        {
            "ids": [r.engine_id for r in reaches],
            "metrics": [r.metric for r in reaches],
            "firsts": [_datetime(r.first_us) for r in reaches],
            "lasts": [_datetime(r.last_us) for r in reaches],
            "first": _datetime(min(r.first_us for r in reaches)),
            "last": _datetime(max(r.last_us for r in reaches)),
        },
    )


def clear_hours(connection: psycopg.Connection[Any], engine_ids: Sequence[int], first_us: int, last_us: int) -> None:
    """Delete the hours that are to be written anew."""
    parameters = {"ids": list(engine_ids), "first": _datetime(first_us), "last": _datetime(last_us)}
    connection.execute(_SQL["clear_hours"], parameters)


def write(connection: psycopg.Connection[Any], table: Table, keys: Int64, offsets: Int64, counts: Int64) -> None:
    """Rows of minutes or hours: keys int64 [n, 6] = time_us, engine, metric, bounds, placement, node; counts in CSR."""
    rows, flat, cuts = keys.tolist(), counts.tolist(), offsets.tolist()
    with connection.cursor() as cursor, cursor.copy(_SQL[f"copy_{table}"]) as copy:
        copy.set_types(("int8", "int4", "int2", "int4", "int4", "int4", "int8[]"))
        for i, (time_us, *ids) in enumerate(rows):
            copy.write_row((time_us - _POSTGRES_EPOCH_US, *ids, flat[cuts[i] : cuts[i + 1]]))
