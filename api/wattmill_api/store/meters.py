"""Power meters: their samples as arrays, their minutes and hours, and what the nodes below them used.

They are beside the ledger, never in it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.rows import class_row

from wattmill_api import visibility
from wattmill_api.parameters import Window
from wattmill_api.store import statements
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Int64, Samples, read_columns

_SQL = statements("meters")
_POSTGRES_EPOCH_US = 946_684_800_000_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_COLUMNS = ("id", "time_us", "energy_mj", "power_mw", "epoch", "epoch_start_us", "interval_us", "is_facility")
FARTHEST = dt.timedelta(days=15)  # a spool keeps 14 days


@dataclasses.dataclass(frozen=True, slots=True)
class Board:
    """On which node an accelerator is, and when it was first and last seen."""

    accelerator_id: int
    node_id: int
    first_us: int
    last_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class Touched:
    """A meter with new readings, and how far the readings around them reach; None where there are none."""

    meter_id: int
    before_us: int | None
    after_us: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Meter:
    """`node_id` 0: read as a meter; else the chassis of that node. `covers`: node=NAME or LABEL=VALUE, any of them."""

    meter_id: int
    site: str
    name: str
    level: str
    covers: list[str]
    node_id: int
    first_seen: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node that may stand below a meter; `boards`: how many accelerators it should have."""

    node_id: int
    site: str
    name: str
    labels: Mapping[str, str]
    simulated: bool
    boards: int


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """What one meter counted in one bucket; `step_mj` None where it has no counter, or none that rose."""

    meter_id: int
    bucket: dt.datetime
    energy_mj: int
    estimated_mj: int
    covered_us: int
    step_mj: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Below:
    """What the nodes below a group of meters used in one bucket, in the time that the group counted at all.

    `metered_us` is that time. None where nothing was read: `domains_mj` of the host's own counters, `rest_mj` of what
    only its chassis measures; `board_us` summed over boards, `host_us` over nodes without boards, `whole_us` over nodes
    whose chassis was read.
    """

    n: int
    bucket: dt.datetime
    metered_us: int
    accelerator_mj: int | None
    domains_mj: int | None
    rest_mj: int | None
    board_us: int | None
    host_us: int | None
    whole_us: int | None


def boards_of(connection: Connection, node_ids: Sequence[int]) -> list[Board]:
    """The accelerators of some nodes."""
    return [Board(*row) for row in connection.execute(_SQL["boards_of"], {"node_ids": list(node_ids)})]


def chassis_meters(connection: Connection, node_ids: Sequence[int]) -> dict[int, int]:
    """Under which id the chassis of each node is kept, where it has one."""
    return dict(connection.execute(_SQL["chassis_meters"], {"node_ids": list(node_ids)}).fetchall())


def touched(connection: Connection, node_ids: Sequence[int], first_us: int, last_us: int) -> list[Touched]:
    """The meters that these nodes read in (first_us, last_us]."""
    first, last = _datetime(first_us), _datetime(last_us)
    parameters = {"node_ids": list(node_ids), "first": first, "last": last}
    parameters |= {"oldest": first - FARTHEST, "newest": last + FARTHEST}
    return [
        Touched(meter_id, _time_us(before), _time_us(after))
        for meter_id, before, after in connection.execute(_SQL["touched"], parameters)
    ]


def read_samples(connection: Connection, ids: Sequence[int], first_us: int, last_us: int) -> Samples:
    """Samples with first_us <= time <= last_us, whoever read them, and four more on each side.

    `interval_us` is the reading node's.
    """
    first, last = _datetime(first_us), _datetime(last_us)
    parameters = {"ids": list(ids), "first": first, "last": last, "oldest": first - FARTHEST, "newest": last + FARTHEST}
    return read_columns(connection, _SQL["samples"], parameters, _COLUMNS, frozenset())


def replace_minutes(
    connection: Connection, ids: Sequence[int], first_us: int, last_us: int, columns: Sequence[Int64]
) -> None:
    """Put minutes in the place of all old ones of these meters with first_us <= time < last_us, and sum their hours
    and days.

    `columns`: minute in microseconds since 1970, meter, energy, estimated part, covered time, step (-1: not known).
    """
    within = {"ids": list(ids), "first": _datetime(first_us), "last": _datetime(last_us)}
    connection.execute(_SQL["clear_minutes"], within)
    with connection.cursor() as cursor, cursor.copy(_SQL["copy_minutes"]) as copy:
        copy.set_types(("int8", "int4", "int8", "int8", "int8", "int8"))
        for time_us, *values, step_mj in zip(*(column.tolist() for column in columns), strict=True):
            copy.write_row((time_us - _POSTGRES_EPOCH_US, *values, None if step_mj < 0 else step_mj))
    _sum_hours(connection, ids, first_us, last_us)


def _sum_hours(connection: Connection, ids: Sequence[int], first_us: int, last_us: int) -> None:
    hours = {"ids": list(ids), **_whole(first_us, last_us, 3_600_000_000)}
    moved: Counter[int] = Counter()
    for meter_id, energy_mj in connection.execute(_SQL["clear_hours"], hours):
        moved[meter_id] -= energy_mj
    for meter_id, energy_mj in connection.execute(_SQL["sum_hours"], hours):
        moved[meter_id] += energy_mj
    sum_days(connection, ids, first_us, last_us)
    changed = sorted(meter_id for meter_id, by_mj in moved.items() if by_mj)
    if changed:
        connection.execute(_SQL["move_totals"], {"ids": changed, "moved_mj": [moved[i] for i in changed]})


def sum_days(connection: Connection, ids: Sequence[int], first_us: int, last_us: int) -> None:
    """Recompute the days of these meters that first_us <= time < last_us touches from their hours."""
    days = {"ids": list(ids), **_whole(first_us, last_us, 86_400_000_000)}
    connection.execute(_SQL["clear_days"], days)
    connection.execute(_SQL["sum_days"], days)


def meters_of_days(connection: Connection, first_us: int, last_us: int) -> list[int]:
    """The meters that have hours in the days that first_us <= time < last_us touches."""
    days = _whole(first_us, last_us, 86_400_000_000)
    return [meter_id for (meter_id,) in connection.execute(_SQL["meters_of_days"], days)]


def _whole(first_us: int, last_us: int, unit_us: int) -> dict[str, dt.datetime]:
    """The whole hours or days that a stretch touches."""
    return {
        "first": _datetime(first_us // unit_us * unit_us),
        "last": _datetime(-(-last_us // unit_us) * unit_us),
    }


def any_meter(connection: Connection) -> bool:
    """Whether a meter was ever read. A key of some teams sees none: a meter stands above everybody."""
    if visibility.teams() is not None:
        return False
    row = connection.execute(_SQL["any_meter"]).fetchone()
    return bool(row and row[0])


def meters(connection: Connection, asked: Window, sites: list[str] | None, limit: int) -> list[Meter]:
    """The meters that should have been read in the range; none for a key of some teams."""
    if visibility.teams() is not None:
        return []
    parameters = {"start": asked.start, "end": asked.end, "site": sites, "limit": limit}
    with connection.cursor(row_factory=class_row(Meter)) as cursor:
        return cursor.execute(_SQL["meters"], parameters).fetchall()


def nodes(connection: Connection, asked: Window, sites: list[str] | None) -> list[Node]:
    """The nodes that should have been read in the range, with their labels as they are now."""
    parameters = {"start": asked.start, "end": asked.end, "site": sites}
    with connection.cursor(row_factory=class_row(Node)) as cursor:
        return cursor.execute(_SQL["nodes"], parameters).fetchall()


def counted(connection: Connection, asked: Window, meter_ids: Sequence[int]) -> list[Counted]:
    """What each meter counted, by meter and bucket."""
    parameters = {**_times(asked), "meter_ids": list(meter_ids)}
    with connection.cursor(row_factory=class_row(Counted)) as cursor:
        return cursor.execute(_SQL["counted"], parameters).fetchall()


def below(
    connection: Connection, asked: Window, meter_ids: Sequence[Sequence[int]], nodes: Sequence[Sequence[Node]]
) -> list[Below]:
    """What stands below each group of meters: `meter_ids[n]` stand together above `nodes[n]`."""
    pairs = [(n, meter_id) for n, ids in enumerate(meter_ids) for meter_id in ids]
    kinds = _kinds(nodes)
    parameters: dict[str, Any] = {
        **_times(asked),
        "groups": [n for n, _ in pairs],
        "meter_ids": [meter_id for _, meter_id in pairs],
        "node_ids": [node.node_id for its in kinds.values() for node in its],
        "of_kinds": [kind for kind, its in enumerate(kinds.values()) for _ in its],
        "alone": [not node.boards for its in kinds.values() for node in its],
        "below_groups": [n for above, _ in kinds for n in above],
        "below_kinds": [kind for kind, (above, _) in enumerate(kinds) for _ in above],
    }
    broken = connection.execute(_SQL["broken_days"], parameters).fetchall()
    hourly = sorted({(node.node_id, day) for n, day in broken for node in nodes[n]})
    parameters |= {
        "broken": [n for n, _ in broken],
        "broken_days": [day for _, day in broken],
        "hourly": [node_id for node_id, _ in hourly],
        "hourly_days": [day for _, day in hourly],
    }
    with connection.cursor(row_factory=class_row(Below)) as cursor:
        return cursor.execute(_SQL["below"], parameters).fetchall()


def _kinds(nodes: Sequence[Sequence[Node]]) -> dict[tuple[tuple[int, ...], int], list[Node]]:
    """The nodes by the groups that they stand below: what is added up together. One without boards stands alone, since
    its own hours of being read are asked for.
    """
    above: dict[int, list[int]] = {}
    by_id = {node.node_id: node for its in nodes for node in its}
    for n, its in enumerate(nodes):
        for node in its:
            above.setdefault(node.node_id, []).append(n)
    kinds: dict[tuple[tuple[int, ...], int], list[Node]] = {}
    for node_id, groups in above.items():
        kinds.setdefault((tuple(groups), 0 if by_id[node_id].boards else node_id), []).append(by_id[node_id])
    return kinds


def _times(asked: Window) -> dict[str, Any]:
    return {
        "start": asked.start,
        "end": asked.end,
        "hour_start": asked.hour_start,
        "hour_end": asked.hour_end,
        "day_start": asked.day_start,
        "day_end": asked.day_end,
        "step": asked.step,
    }


def _datetime(time_us: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=time_us)


def _time_us(time: dt.datetime | None) -> int | None:
    return None if time is None else (time - _EPOCH) // dt.timedelta(microseconds=1)
