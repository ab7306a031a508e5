"""Tokens per kWh against load: what the replicas of one workload did, beside the curve that was learnt of their like.

Both are about decoding alone where the price of prefill is known: what prompts cost is taken off, as in /curves.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from wattmill_api import curve_rows
from wattmill_api.efficiency import MJ_PER_KWH
from wattmill_api.parameters import DAY, EPOCH
from wattmill_api.store import load as store
from wattmill_api.store.database import Connection
from wattmill_api.view import STEPS, View

LONGEST = DAY
MOST_DOTS = 300
MOST_REPLICAS = 200
CURVE_DAYS = 14
MOST_CURVES = 20
SHOWN_KINDS = 3
KWH_IN_J = 3_600_000


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """Replicas that are alike: the curve learnt of them, if any, and what they did.

    `curve` and `dots` are (requests running at a time, output tokens per kWh). `without_prefill`: whether the cost of
    prompts is taken off both.
    """

    name: str
    best_load: float | None
    without_prefill: bool
    curve: tuple[tuple[float, float], ...]
    dots: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What the replicas did from `start` to `end`; a dot is one replica over one `step`. Most dots come first."""

    start: dt.datetime
    end: dt.datetime
    step: dt.timedelta
    kinds: tuple[Kind, ...]
    simulated: bool

    @property
    def mean_load(self) -> float | None:
        loads = [at for kind in self.kinds for at, _ in kind.dots]
        return sum(loads) / len(loads) if loads else None

    @property
    def curves(self) -> list[Kind]:
        return [kind for kind in self.kinds if kind.curve]

    def rows(self) -> list[tuple[float, list[float | None]]]:
        """The table of the chart, by load: a curve and dots of each kind, one value a row."""
        columns = [points for kind in self.kinds for points in (kind.curve, kind.dots)]
        rows = [
            (at, [value if i == column else None for i in range(len(columns))])
            for column, points in enumerate(columns)
            for at, value in points
        ]
        return sorted(rows, key=lambda row: row[0])


def load(connection: Connection, view: View) -> Load:
    """The dots and curves of the view's workloads, over the last day of its range at most."""
    part = view.last(LONGEST)
    replicas = store.replicas(connection, part.start, part.end, view.filters, MOST_REPLICAS)
    count = max(1, len(replicas))
    step = next((step for step in STEPS if part.length // step * count <= MOST_DOTS), STEPS[-1])
    kind_of = {each.placement_id: (each.accelerator_model, each.boards) for each in replicas}
    points = store.points(connection, part.start, part.end, step, list(kind_of), 4 * MOST_DOTS)
    last = view.end + (EPOCH - view.end) % DAY
    rows = curve_rows.read(
        connection,
        last - CURVE_DAYS * DAY,
        last,
        model=view.filters["model"],
        accelerator_model=None,
        workload=view.filters["workload"],
        limit=MOST_CURVES,
    )
    curves: dict[tuple[str, int], dict[str, Any]] = {}
    # Of several versions of an engine the one with most minutes stands for all.
    for row in sorted(rows or [], key=lambda row: row["learnt"]["minutes"]):
        if row["points"]:
            curves[row["group"]["accelerator_model"], row["group"]["boards"]] = row
    done: dict[tuple[str, int], list[store.Point]] = defaultdict(list)
    for point in points:
        done[kind_of[point.placement_id]].append(point)
    kinds = [_kind(key, done[key], curves.get(key)) for key in sorted(done, key=lambda key: -len(done[key]))]
    return Load(part.start, part.end, step, tuple(kinds[:SHOWN_KINDS]), any(each.simulated for each in replicas))


def _kind(key: tuple[str, int], points: Sequence[store.Point], row: dict[str, Any] | None) -> Kind:
    prefill_mj = None
    if row is not None and row["prefill_joules_per_token"] is not None:
        prefill_mj = 1000 * row["prefill_joules_per_token"]
    dots = []
    for point in points:
        spent_mj = float(point.energy_mj)
        if prefill_mj is not None and point.uncached_input_tokens is not None:
            spent_mj -= prefill_mj * point.uncached_input_tokens
        if spent_mj > 0:
            dots.append((point.requests_running, point.output_tokens * MJ_PER_KWH / spent_mj))
    return Kind(
        name=f"{key[1]} × {key[0] or 'accelerator'}",
        best_load=row["best"]["concurrency"] if row is not None and row["best"] else None,
        without_prefill=prefill_mj is not None,
        curve=tuple((p["concurrency"], KWH_IN_J / p["joules_per_output_token"]) for p in row["points"]) if row else (),
        dots=tuple(dots),
    )
