"""Curves as /api/v1/curves tells them: solved from the days asked for, in joules and tokens a second."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from wattmill_analytics.curve_learning import Learnt, describe
from wattmill_analytics.curves import LOADS, best_point
from wattmill_api.store import curves as store
from wattmill_api.store.database import Connection


def read(
    connection: Connection,
    first: dt.datetime,
    last: dt.datetime,
    *,
    model: list[str] | None,
    accelerator_model: list[str] | None,
    workload: list[str] | None,
    limit: int,
) -> list[dict[str, Any]] | None:
    """The curves of the days in [first, last), sorted by what they are of; None when there are more than `limit`."""
    found = store.learnt(connection, first, last, model=model, accelerator_model=accelerator_model, workload=workload)
    if len(found) > limit:
        return None
    families = store.families(connection)
    learnt = describe(store.counts_of(connection, [(each.family_id, each.version) for each in found], first, last))
    rows = [_row(each, families[each.family_id], learnt, i) for i, each in enumerate(found)]
    return sorted(rows, key=lambda row: [str(value or "") for value in row["group"].values()])


def _row(each: store.Learnt, family: store.Family, learnt: Learnt, i: int) -> dict[str, Any]:
    reason = learnt.prefill_reason[i]
    load, mj = (float(values[i]) for values in best_point(learnt.curves))
    return {
        "group": {
            "model": family.model,
            "accelerator_model": family.accelerator_model,
            "boards": family.boards,
            "engine_kind": family.engine_kind or None,
            "engine_version": each.version or None,
        },
        "learnt": {
            "days": each.days,
            "minutes": each.minutes,
            "first_day": each.first.date(),
            "last_day": each.last.date(),
        },
        "prefill_joules_per_token": None if reason else float(learnt.curves.prefill_mj_per_token[i]) / 1000,
        "prefill_reason": reason or None,
        "points": _points(learnt, i),
        "best": None if math.isnan(mj) else {"concurrency": load, "joules_per_output_token": mj / 1000},
        "simulated": family.simulated,
    }


def _points(learnt: Learnt, i: int) -> list[dict[str, Any]]:
    curves = learnt.curves
    columns = (LOADS, curves.decode_mj_per_token[i], curves.tokens_per_request_s[i], curves.minutes[i])
    points = []
    for load, mj, speed, minutes, (low, high) in zip(
        *(column.tolist() for column in columns), learnt.decode_quartiles[i].tolist(), strict=True
    ):
        if not math.isnan(mj):
            points.append(
                {
                    "concurrency": load,
                    "joules_per_output_token": mj / 1000,
                    "lower_quartile": _known(low / 1000),
                    "upper_quartile": _known(high / 1000),
                    "output_tokens_per_s_per_request": _known(speed),
                    "inter_token_latency_ms": _known(1000 / speed),
                    "minutes": minutes,
                }
            )
    return points


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
