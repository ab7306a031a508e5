"""Gateways in and out of the store: readings of consumers as arrays, their minutes and hours, what they drew."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from psycopg.rows import class_row

from wattmill_api.parameters import Window
from wattmill_api.store import statements
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Int64, Samples, read_columns

_SQL = statements("gateways")
_POSTGRES_EPOCH_US = 946_684_800_000_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
COUNTERS = ("input_tokens", "cached_input_tokens", "output_tokens", "requests_finished")
_COLUMNS = ("id", "time_us", "node_id", "epoch", "epoch_start_us", *COUNTERS)


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """The minutes first_us <= minute < last_us of one consumer."""

    client_id: int
    first_us: int
    last_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """What a consumer drew through one gateway in one bucket. `cached_input_tokens` None: the gateway does not say."""

    bucket: dt.datetime
    node_id: int
    target: str
    gateway_kind: str
    model: str
    provider: str
    workload: str
    team: str
    api_key: str
    user: str
    agent: str
    input_tokens: int
    cached_input_tokens: int | None
    output_tokens: int
    requests_finished: int | None


def _datetime(time_us: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=time_us)


def touched(connection: Connection, node_ids: Sequence[int], first_us: int, last_us: int) -> list[int]:
    """The consumers that some nodes read in (first_us, last_us]."""
    parameters = {"node_ids": list(node_ids), "first": _datetime(first_us), "last": _datetime(last_us)}
    return [row[0] for row in connection.execute(_SQL["touched"], parameters)]


def read_samples(
    connection: Connection, client_ids: Sequence[int], first_us: int, last_us: int, *, before: int, behind: int
) -> Samples:
    """The readings of some consumers in (first_us, last_us], and up to so many before and behind that, by consumer."""
    parameters = {
        "ids": list(client_ids),
        "first": _datetime(first_us),
        "last": _datetime(last_us),
        "before": before,
        "behind": behind,
    }
    return read_columns(connection, _SQL["samples"], parameters, _COLUMNS, frozenset())


def replace_minutes(connection: Connection, reaches: Sequence[Reach], keys: Int64, values: Int64) -> None:
    """Put minutes in the place of those in the reaches, and hours in the place of theirs.

    keys int64 [n, 3]: time_us, consumer, node; values int64 [n, 4]: COUNTERS, -1 where not known.
    """
    first = min(r.first_us for r in reaches)
    last = max(r.last_us for r in reaches)
    connection.execute(
        _SQL["clear_minutes"],
        {
            "ids": [r.client_id for r in reaches],
            "firsts": [_datetime(r.first_us) for r in reaches],
            "lasts": [_datetime(r.last_us) for r in reaches],
            "first": _datetime(first),
            "last": _datetime(last),
        },
    )
    with connection.cursor() as cursor, cursor.copy(_SQL["copy_minutes"]) as copy:
        copy.set_types(("int8", "int4", "int4", "int8", "int8", "int8", "int8"))
        for (time_us, *ids), counted in zip(keys.tolist(), values.tolist(), strict=True):
            copy.write_row((time_us - _POSTGRES_EPOCH_US, *ids, *(None if value < 0 else value for value in counted)))
    hour_us = 3_600_000_000
    hours = {
        "ids": sorted({r.client_id for r in reaches}),
        "first": _datetime(first // hour_us * hour_us),
        "last": _datetime(-(-last // hour_us) * hour_us),
    }
    connection.execute(_SQL["clear_hours"], hours)
    connection.execute(_SQL["sum_hours"], hours)


def drawn(connection: Connection, window: Window, limit: int) -> list[Drawn]:
    """What every consumer drew in every bucket in which it drew anything, at most `limit` rows."""
    parameters = {
        "start": window.start,
        "end": window.end,
        "hour_start": window.hour_start,
        "hour_end": window.hour_end,
        "step": window.step,
        "limit": limit,
    }
    with connection.cursor(row_factory=class_row(Drawn)) as cursor:
        return cursor.execute(_SQL["drawn"], parameters).fetchall()


def any_drawn(connection: Connection, start: dt.datetime, end: dt.datetime) -> bool:
    """Whether any gateway was read in a range."""
    row = connection.execute(_SQL["any_drawn"], {"start": start, "end": end}).fetchone()
    return bool(row and row[0])


def served(connection: Connection, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """The models that some workloads serve, by the workload's name."""
    rows = connection.execute(_SQL["served"], {"names": list(names)})
    return {name: frozenset(models) for name, models in rows}
