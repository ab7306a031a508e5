"""What is true of a simulated week: each incident with the energy that it wasted, by the definition of its kind.

idle-loaded, spin-idle, idle-empty: all energy of the time. throttled, straggler, regression: energy above what the
same tokens cost at the same batch on a replica in order, never less than 0. low-batch: above the same tokens at the
batch of the siblings in that minute, or at 64 for an engine that has none and never runs more. queue-starved: above
the same tokens at the batch that demand would have filled. kv-thrash, cache-miss: tokens computed again, at the price
of prefill. over-provisioned: above the same demand on the replicas needed. telemetry-untrusted wastes nothing.
Noise of the meter is left out.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from scoreboard.load import Effects, Served
from scoreboard.physics import LONGEST_PREFILL_SHARE
from scoreboard.plan import Event, Spec

Float = NDArray[np.float64]
FILLED_BATCH = 64.0


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """One incident: whom it befell, minutes [since, until), and its energy. `workload` -1: none is concerned."""

    kind: str
    workload: int
    engines: tuple[int, ...]
    boards: tuple[int, ...]
    since: int
    until: int
    energy_mj: int
    size: float = 0.0


def labels_of(
    workload: int,
    spec: Spec,
    e: Effects,
    served: Served,
    events: list[Event],
    first_engine: int,
    first_board: int,
    hot_day: Float,
) -> list[Label]:
    """Labels of one workload's incidents, engines and boards numbered from the ones given."""
    k, limit_w = spec.plant.boards, spec.plant.limit_w * spec.plant.boards
    minutes = served.batch.shape[1]
    if spec.always_low:
        spent = _spent(spec, served, hot_day)[0] - _cost(spec, e, served, np.full(minutes, FILLED_BATCH), 0, hot_day)
        waste = np.where(e.up[0] & (served.output[0] > 0), np.maximum(0, spent), 0)
        always = Label("low-batch", workload, (first_engine,), (), 0, minutes, _mj(waste), spec.peak_batch)
        return [always, *_incidents(workload, spec, e, served, events, first_engine, first_board, hot_day, k, limit_w)]
    return _incidents(workload, spec, e, served, events, first_engine, first_board, hot_day, k, limit_w)


def _incidents(
    workload: int,
    spec: Spec,
    e: Effects,
    served: Served,
    events: list[Event],
    first_engine: int,
    first_board: int,
    hot_day: Float,
    k: int,
    limit_w: float,
) -> list[Label]:
    spent = _spent(spec, served, hot_day)
    dearer = e.power / e.speed
    found = []
    for event in events:
        if event.benign:
            continue
        span, who = slice(event.since, event.until), list(event.replicas)
        boards: tuple[int, ...] = ()
        waste = np.zeros(event.until - event.since)
        match event.kind:
            case "idle-loaded" | "spin-idle":
                held = np.nan_to_num(e.power_ratio[who[0], span]) * limit_w
                waste = np.where(served.output[who[0], span] > 0, spent[who[0], span], held)
            case "throttled" | "straggler" | "regression":
                usual = np.minimum(served.watts / e.power * hot_day, limit_w) * e.speed
                here = np.where(e.up & (served.output > 0), np.maximum(0, spent - usual), 0)  # no token, no price
                waste = here[:, span].sum(axis=0) if event.kind == "regression" else here[who[0], span]
            case "low-batch":
                free = e.up & ~np.isfinite(e.target_batch) & (served.output > 0)
                batch = (served.batch * free).sum(axis=0) / np.maximum(free.sum(axis=0), 1)
                healthy = _cost(spec, e, served, np.maximum(batch, 1), who[0], hot_day)
                waste = np.maximum(0, np.where(batch > 0, spent[who[0]] - healthy, 0))[span]
            case "queue-starved":
                batch = np.maximum(served.wanted_batch, served.batch)[who[0]]
                waste = np.maximum(0, spent[who[0]] - _cost(spec, e, served, batch, who[0], hot_day))[span]
            case "kv-thrash":
                waste = (served.recomputed * dearer)[who[0], span] * spec.plant.prefill_j / 60
            case "cache-miss":
                waste = served.input[:, span].sum(axis=0) * e.cached_drop[span] * spec.plant.prefill_j / 60
            case "over-provisioned":
                waste = (np.where(e.up, spent, 0).sum(axis=0) - _on_fewer(spec, e, served, hot_day))[span]
                warming = np.isfinite(e.power_ratio) & e.up & (served.output == 0)
                held = np.where(warming, e.power_ratio * limit_w - spent, 0)
                waste = waste + held.sum(axis=0)[span]
            case _:
                rows = slice(who[0] * k, (who[0] + 1) * k)
                wrong = e.estimated | (e.anomalies > 0) | (e.untrusted > 0)
                board = int(np.flatnonzero(wrong[rows, span].any(axis=1))[0])
                boards = (first_board + who[0] * k + board,)
        engines = tuple(first_engine + replica for replica in who)
        if event.kind in ("over-provisioned", "cache-miss", "regression"):
            engines = tuple(first_engine + replica for replica in range(served.batch.shape[0]))
        found.append(Label(event.kind, workload, engines, boards, event.since, event.until, _mj(waste), event.size))
    return found


def _mj(watts: Float) -> int:
    """Mean watts of minutes to millijoules."""
    return int(np.sum(watts) * 60_000)


def _spent(spec: Spec, served: Served, hot_day: Float) -> Float:
    limit_w = spec.plant.limit_w * spec.plant.boards
    return np.asarray(np.minimum(served.watts * hot_day, limit_w))


def _cost(spec: Spec, e: Effects, served: Served, batch: Float, replica: int, hot_day: Float) -> Float:
    """Watts [minutes] that this replica's tokens would have needed at other batches."""
    computed = served.input[replica] - served.cached[replica] + served.recomputed[replica]
    energy_j = served.output[replica] * spec.plant.decode_j(batch) + computed * spec.plant.prefill_j
    return np.asarray(energy_j / 60 * (e.power / e.speed)[replica] * hot_day)


def _on_fewer(spec: Spec, e: Effects, served: Served, hot_day: Float) -> Float:
    """Watts [minutes] of the same tokens on the replicas that are needed."""
    plant, n = spec.plant, e.replicas_needed
    speed, power = e.speed[0], e.power[0]
    computed = (served.input - served.cached + served.recomputed).sum(axis=0) / n
    prefill = np.minimum(computed / (plant.prefill_tokens_per_s * speed * 60), LONGEST_PREFILL_SHARE)
    batch = np.minimum(plant.batch(served.output.sum(axis=0) / n / (60 * (1 - prefill) * speed)), spec.max_batch)
    return np.asarray(n * np.minimum(plant.watts(batch, prefill) * power * hot_day, plant.limit_w * plant.boards))
