"""The slow obvious twin of `shared_entry` in sql/query.sql: hosts shared out hour by hour, minute by minute."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from support.naive import largest_remainder
from wattmill_api.parameters import EPOCH, Window
from wattmill_api.store.query import Facts

Row = dict[str, Any]
# A worker's tokens are its leader's, a decode engine's input is its prefill engine's, and the other way round.
INPUT_ELSEWHERE, OUTPUT_ELSEWHERE = ("decode", "worker"), ("prefill", "worker")


def energy(
    connection: psycopg.Connection[Any],
    asked: Window,
    by: Sequence[str],
    cuts: Sequence[dt.datetime],
    *,
    team: str | None,
) -> list[Facts]:
    """As `query.energy` with hosts and by account, grouped by any of node, accelerator, workload and team."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in _named(connection, _shared(connection, asked)):
        if team is None or row["team"] == team:
            names = tuple((name, row[name] or None) for name in by)
            bucket = row["time"] - (row["time"] - EPOCH) % asked.step if asked.step else asked.start
            part = sum(cut <= row["time"] for cut in cuts)
            groups[bucket, part, row["site"], names, row["account"]].append(row)
    return [
        Facts(
            bucket=bucket,
            slice=part,
            site=site,
            group=group,
            account=account,
            simulated=any(row["simulated"] for row in rows),
            energy_mj=sum(row["energy_mj"] for row in rows),
            estimated_mj=sum(row["estimated_mj"] for row in rows),
            input_tokens=_sum([row["input_tokens"] for row in rows]),
            cached_input_tokens=_sum([row["cached_input_tokens"] for row in rows]),
            output_tokens=_sum([row["output_tokens"] for row in rows]),
            input_unknown=_untold(rows, "input_tokens", INPUT_ELSEWHERE),
            cached_unknown=_untold(rows, "cached_input_tokens", INPUT_ELSEWHERE),
            output_unknown=_untold(rows, "output_tokens", OUTPUT_ELSEWHERE),
            placement_unknown=any(row["accelerator_id"] == 0 and (row["output_tokens"] or 0) > 0 for row in rows),
            host_unknown=any(row["host_unknown"] for row in rows),
            covered_us=sum(row["covered_us"] for row in rows),
            span_us=sum(row["span_us"] for row in rows),
        )
        for (bucket, part, site, group, account), rows in groups.items()
    ]


def _shared(connection: psycopg.Connection[Any], asked: Window) -> list[Row]:
    """The ledger's rows with what they bear of their host, and a row for what nobody bears."""
    boards = _by_node(_rows(connection, asked, "ledger"))
    hosts = _by_node(_rows(connection, asked, "host"))
    found = []
    for place in boards.keys() | hosts.keys():
        rows = sorted(
            boards.get(place, []), key=lambda row: (row["accelerator_id"], row["placement_id"], row["account"])
        )
        host_mj = sum(row["energy_mj"] for row in hosts.get(place, []))
        estimated_mj = sum(row["estimated_mj"] for row in hosts.get(place, []))
        boards_mj = sum(row["energy_mj"] for row in rows)
        shares = largest_remainder(host_mj, [row["energy_mj"] for row in rows]) if boards_mj else [0] * len(rows)
        for row, share_mj in zip(rows, shares, strict=True):
            found.append(
                row
                | {
                    "energy_mj": row["energy_mj"] + share_mj,
                    "estimated_mj": row["estimated_mj"]
                    + (estimated_mj * row["energy_mj"] // boards_mj if boards_mj else 0),
                    "host_unknown": place not in hosts and row["energy_mj"] > 0,
                }
            )
        if place in hosts and not boards_mj:
            tokens = dict.fromkeys(("input_tokens", "cached_input_tokens", "output_tokens"))
            unborne = {"energy_mj": host_mj, "estimated_mj": estimated_mj, "account": 5, "host_unknown": False}
            nobody = {"accelerator_id": 0, "placement_id": 0, "covered_us": 0, "span_us": 0}
            found.append({"time": place[1], "node_id": place[0], **tokens, **unborne, **nobody})
    return found


def _rows(connection: psycopg.Connection[Any], asked: Window, kind: str) -> list[Row]:
    """Hours where the range has whole ones, minutes before and behind them."""
    found = []
    parts = (
        ("hour", asked.hour_start, asked.hour_end),
        ("minute", asked.start, asked.hour_start),
        ("minute", asked.hour_end, asked.end),
    )
    for length, first, last in parts:
        table = sql.Identifier(f"{kind}_{length}")
        with connection.cursor(row_factory=dict_row) as cursor:
            question = sql.SQL("SELECT * FROM {} WHERE time >= %s AND time < %s").format(table)
            found += cursor.execute(question, [first, last]).fetchall()
    return found


def _by_node(rows: Sequence[Row]) -> dict[tuple[int, dt.datetime], list[Row]]:
    found: dict[tuple[int, dt.datetime], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["node_id"], row["time"]].append(row)
    return dict(found)


def _named(connection: psycopg.Connection[Any], rows: Sequence[Row]) -> list[Row]:
    nodes = {
        row[0]: {"node": row[1], "site": row[2], "simulated": row[3]}
        for row in connection.execute(
            "SELECT node_id, n.name, s.name, simulated FROM node n JOIN site s USING (site_id)"
        )
    }
    boards = dict(connection.execute("SELECT accelerator_id, uuid FROM accelerator").fetchall())
    placements = {
        row[0]: {"workload": row[1], "team": row[2], "role": row[3]}
        for row in connection.execute(
            "SELECT placement_id, w.name, w.team, role FROM placement JOIN workload w USING (workload_id)"
        )
    }
    nowhere = {"workload": None, "team": "", "role": ""}
    return [
        row
        | nodes[row["node_id"]]
        | placements.get(row["placement_id"], nowhere)
        | {"accelerator": boards.get(row["accelerator_id"])}
        for row in rows
    ]


def _untold(rows: Sequence[Row], name: str, elsewhere: Sequence[str]) -> bool:
    return any(row["account"] == 1 and row[name] is None and row["role"] not in elsewhere for row in rows)


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
