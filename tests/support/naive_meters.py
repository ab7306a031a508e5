"""The slow obvious twin of `below` and `counted` in sql/meters.sql: all hours and minutes of a range, one by one."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from wattmill_api.parameters import EPOCH, Window
from wattmill_api.store.meters import Below, Counted, Node

Row = dict[str, Any]


def counted(connection: psycopg.Connection[Any], asked: Window, meter_ids: Sequence[int]) -> list[Counted]:
    """By meter and bucket."""
    found: dict[tuple[int, dt.datetime], list[Row]] = defaultdict(list)
    for row in _rows(connection, asked, "power_meter_hour", "power_meter_minute"):
        if row["meter_id"] in meter_ids:
            found[row["meter_id"], _bucket(asked, row["time"])].append(row)
    return [
        Counted(
            meter_id,
            bucket,
            sum(row["energy_mj"] for row in rows),
            sum(row["estimated_mj"] for row in rows),
            sum(row["covered_us"] for row in rows),
            min((row["step_mj"] for row in rows if row["step_mj"] is not None), default=None),
        )
        for (meter_id, bucket), rows in sorted(found.items())
    ]


def below(
    connection: psycopg.Connection[Any],
    asked: Window,
    meter_ids: Sequence[Sequence[int]],
    nodes: Sequence[Sequence[Node]],
) -> list[Below]:
    """Each group's nodes, in the hours and minutes of which any of its meters has a row."""
    read = _rows(connection, asked, "power_meter_hour", "power_meter_minute")
    boards = _by_node(_rows(connection, asked, "meter_hour", "accelerator_minute"))
    hosts = _by_node(_rows(connection, asked, "host_hour", "host_minute"))
    answer = []
    for n, (ids, its) in enumerate(zip(meter_ids, nodes, strict=True)):
        metered = {row["time"]: _span(asked, row["time"]) for row in read if row["meter_id"] in ids}
        for bucket in sorted({_bucket(asked, time) for time in metered}):
            times = [time for time in metered if _bucket(asked, time) == bucket]
            entries = [row for node in its for time in times for row in boards.get((node.node_id, time), [])]
            domains = [row for node in its for time in times for row in hosts.get((node.node_id, time), [])]
            rest = [row for row in domains if row["domain"] == "rest-of-node"]
            longest = [
                max(row["covered_us"] for row in hosts[node.node_id, time])
                for node in its
                for time in times
                if not node.boards and (node.node_id, time) in hosts
            ]
            answer.append(
                Below(
                    n=n,
                    bucket=bucket,
                    metered_us=sum(metered[time] for time in times),
                    accelerator_mj=_sum([row["energy_mj"] for row in entries]),
                    domains_mj=_sum([row["energy_mj"] for row in domains if row not in rest]),
                    rest_mj=_sum([row["energy_mj"] for row in rest]),
                    board_us=_sum([row["covered_us"] for row in entries]),
                    host_us=_sum(longest),
                    whole_us=_sum([row["covered_us"] for row in rest]),
                )
            )
    return answer


def _rows(connection: psycopg.Connection[Any], asked: Window, hours: str, minutes: str) -> list[Row]:
    """Hours where the range has whole ones, minutes before and behind them."""
    found = []
    parts = (
        (hours, asked.hour_start, asked.hour_end),
        (minutes, asked.start, asked.hour_start),
        (minutes, asked.hour_end, asked.end),
    )
    for table, first, last in parts:
        question = sql.SQL("SELECT * FROM {} WHERE time >= %s AND time < %s").format(sql.Identifier(table))
        with connection.cursor(row_factory=dict_row) as cursor:
            found += cursor.execute(question, [first, last]).fetchall()
    return found


def _by_node(rows: Sequence[Row]) -> dict[tuple[int, dt.datetime], list[Row]]:
    found: dict[tuple[int, dt.datetime], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["node_id"], row["time"]].append(row)
    return dict(found)


def _span(asked: Window, time: dt.datetime) -> int:
    return 3_600_000_000 if asked.hour_start <= time < asked.hour_end else 60_000_000


def _bucket(asked: Window, time: dt.datetime) -> dt.datetime:
    return time - (time - EPOCH) % asked.step if asked.step else asked.start


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
