"""Fixed thresholds, one rule a kind, held for some minutes: what alert rules over a metrics store usually come to.

Our own choice of common values, as kind as we could (utilisation under 5 % for 10 minutes is idle; KV cache over 95 %;
more than 10 waiting; tokens per joule a fifth under the day's mean; any thermal bit; hit ratio under 30 %). They know
no curve and no cause, and tell energy of idle time only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scoreboard.score import Finding
from scoreboard.world import World

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
THERMAL = 0x20 | 0x40 | 0x8 | 0x80
_DAY = 1440


def thresholds(world: World) -> list[Finding]:
    """What such rules would have fired in this week."""
    e, b = world.engines.columns, world.boards.columns
    here, board_here = world.engines.present, world.boards.present
    spent = e["serving_mj"] + e["idle_loaded_mj"]
    empty_energy = b["idle_empty_mj"]
    owned = world.board_engine >= 0
    held_by = np.where(owned, world.board_engine, 0)
    held = owned[:, None] & here[held_by]
    hit_ratio = np.divide(
        e["cached_input_tokens"], e["input_tokens"], out=np.ones_like(spent), where=e["input_tokens"] > 0
    )
    tokens = e["output_tokens"]
    found = [
        *_fired("idle-loaded", here & (e["utilisation_ratio"] < 0.05), 10, "engine", spent),
        *_fired("idle-empty", board_here & ~held & (b["utilisation_ratio"] < 0.05), 10, "board", empty_energy),
        *_fired("spin-idle", here & (e["utilisation_ratio"] > 0.9) & (tokens == 0), 10, "engine", spent),
        *_fired("low-batch", here & (tokens > 0) & (e["requests_running"] < 8), 15, "engine"),
        *_fired("kv-thrash", here & (e["kv_cache_usage_ratio"] > 0.95), 5, "engine"),
        *_fired("throttled", here & ((e["clock_event_reasons"].astype(np.int64) & THERMAL) != 0), 5, "engine"),
        *_fired("queue-starved", here & (e["requests_waiting"] > 10), 5, "engine"),
        *_fired("cache-miss", here & (hit_ratio < 0.3), 10, "engine"),
        *_fired("telemetry-untrusted", board_here & ((b["untrusted_us"] > 30e6) | (b["anomalies"] > 0)), 5, "board"),
    ]
    straggling, regressed, roomy = (np.zeros(here.shape, bool) for _ in range(3))
    for workload in range(len(world.plan.specs)):
        rows = np.flatnonzero(world.engine_workload == workload)
        serving = here[rows] & (tokens[rows] > 0)
        mean = tokens[rows].sum(axis=0) / np.maximum(serving.sum(axis=0), 1)
        straggling[rows] = serving & (tokens[rows] < 0.8 * mean) & (serving.sum(axis=0) > 1)
        regressed[rows[:1]] = _below_its_day(tokens[rows].sum(axis=0), spent[rows].sum(axis=0))
        busy = (e["requests_running"][rows] * here[rows]).sum(axis=0) / np.maximum(here[rows].sum(axis=0), 1)
        roomy[rows[:1]] = (busy < 0.1 * world.plan.specs[workload].max_batch) & (len(rows) > 1)
    found += _fired("straggler", straggling, 10, "engine")
    found += _of_workloads(world, _fired("regression", regressed, 10, "engine"))
    found += _of_workloads(world, _fired("over-provisioned", roomy, 60, "engine"))
    return [finding for finding in found if finding.until > _DAY]


def _below_its_day(tokens: Float, spent: Float) -> Bool:
    """Tokens per joule under four fifths of the mean of the day before."""
    made, used = np.concatenate(([0], np.cumsum(tokens))), np.concatenate(([0], np.cumsum(spent)))
    at = np.arange(tokens.size)
    begin = np.maximum(0, at - _DAY)
    usual = (made[at] - made[begin]) / np.maximum(used[at] - used[begin], 1)
    return np.asarray((tokens > 0) & (tokens < 0.8 * usual * spent) & (at >= 360))


def _of_workloads(world: World, found: list[Finding]) -> list[Finding]:
    return [
        Finding(f.kind, int(world.engine_workload[f.engine]), -1, -1, f.since, f.until, f.known, f.energy_mj)
        for f in found
    ]


def _fired(kind: str, firing: Bool, holds: int, whose: str, energy: Float | None = None) -> list[Finding]:
    """Stretches of `holds` minutes and more."""
    found = []
    edges = np.diff(firing.astype(np.int8), axis=1, prepend=0, append=0)
    for row in np.flatnonzero(firing.any(axis=1)):
        begins, ends = np.flatnonzero(edges[row] == 1), np.flatnonzero(edges[row] == -1)
        for since, until in zip(begins.tolist(), ends.tolist(), strict=True):
            if until - since >= holds:
                cost = int(energy[row, since:until].sum()) if energy is not None else -1
                engine, board = (int(row), -1) if whose == "engine" else (-1, int(row))
                found.append(Finding(kind, -1, engine, board, since, until, since + holds, cost))
    return found
