"""A simulated week at minute level: demand meets replicas, replicas become tokens and watts, events bend both.

Every figure is simulated. Truth is exact: the energy of an incident is what its minutes cost less what the same
demand would have cost without it, by the definition of its kind (`truth`). Randomness is drawn from the plan's seed,
workload by workload, so that one workload's events never change another's noise.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from scoreboard.load import Effects, Served, effects_of, serve, spread
from scoreboard.plan import DAY, Event, Plan, Spec
from scoreboard.truth import Label, labels_of

Float = NDArray[np.float64]
Int = NDArray[np.int64]
IDLE, POWER_CAP = 0x1, 0x4
HARMFUL = (0x20, 0x40, 0x8, 0x80)


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Minutes of some subjects: `present` bool [subjects, minutes]; columns alike, of no meaning elsewhere."""

    present: NDArray[np.bool_]
    columns: dict[str, Float]


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What a fleet did: engines and boards with their minutes, and what is true of them.

    `engine_workload`, `engine_boards`, `engine_looks` (readings a minute) one an engine; `board_engine` -1 for a spare
    one. Boards are numbered from 0.
    """

    plan: Plan
    engines: Table
    boards: Table
    engine_workload: Int
    engine_boards: Int
    engine_looks: Float
    board_engine: Int
    labels: tuple[Label, ...]


def simulate(plan: Plan, seed: int) -> World:
    """Run the plan."""
    hot_day = np.where(np.arange(plan.minutes) // DAY == 3, 1.03, 1.0)
    engine_tables, board_tables, labels = [], [], []
    engine_workload: list[int] = []
    engine_boards: list[int] = []
    engine_looks: list[float] = []
    board_engine: list[int] = []
    for w, spec in enumerate(plan.specs):
        rng = np.random.default_rng([seed, 2, w])
        looks = float(rng.choice([1, 2, 6, 6]))  # agents read every 60, 30 or 10 s
        events = [event for event in plan.events if event.workload == w]
        effects = effects_of(spec, events, plan.minutes, rng)
        shares = spread(spec, effects, rng)
        served = serve(spec, effects, shares, rng)
        first_engine, first_board = len(engine_workload), len(board_engine)
        engines, boards = _measure(spec, effects, served, hot_day, events, first_board, looks, rng)
        labels += labels_of(w, spec, effects, served, events, first_engine, first_board, hot_day)
        engine_tables.append(engines)
        board_tables.append(boards)
        engine_workload += [w] * served.batch.shape[0]
        engine_boards += [spec.plant.boards] * served.batch.shape[0]
        engine_looks += [looks] * served.batch.shape[0]
        board_engine += list(np.repeat(first_engine + np.arange(served.batch.shape[0]), spec.plant.boards))
    spare, spare_labels = _spares(plan, len(board_engine), np.random.default_rng([seed, 3]))
    return World(
        plan,
        _stacked(engine_tables),
        _stacked([*board_tables, spare]),
        np.array(engine_workload, np.int64),
        np.array(engine_boards, np.int64),
        np.array(engine_looks),
        np.array(board_engine + [-1] * plan.spare_boards, np.int64),
        (*labels, *spare_labels),
    )


def _stacked(tables: list[Table]) -> Table:
    return Table(
        np.concatenate([table.present for table in tables]),
        {name: np.concatenate([table.columns[name] for table in tables]) for name in tables[0].columns},
    )


def _noise(rng: np.random.Generator, rows: int, minutes: int, sigma: float, memory: float) -> Float:
    """AR(1) noise with this standard deviation [rows, minutes]."""
    steps = rng.normal(0.0, sigma * np.sqrt(1 - memory**2), (rows, minutes))
    values = np.empty((rows, minutes))
    last = rng.normal(0.0, sigma, rows)
    for minute in range(minutes):
        last = memory * last + steps[:, minute]
        values[:, minute] = last
    return values


def _measure(
    spec: Spec,
    effects: Effects,
    served: Served,
    hot_day: Float,
    events: list[Event],
    first_board: int,
    looks: float,
    rng: np.random.Generator,
) -> tuple[Table, Table]:
    """What the meters and the engines' pages say of it."""
    plant = spec.plant
    replicas, minutes = served.batch.shape
    k = plant.boards
    limit_w = plant.limit_w * k
    # No two boards are alike, and a sensor drifts.
    noise = rng.normal(1.0, 0.015, (replicas, 1)) + _noise(rng, replicas, minutes, float(rng.uniform(0.01, 0.03)), 0.8)
    watts = np.minimum(served.watts * hot_day * noise, limit_w)
    # Warm-up, spinning and holding a model are powers of their own.
    held = ~np.isnan(effects.power_ratio) & (served.output == 0)
    watts = np.where(held, effects.power_ratio * limit_w * noise, watts)
    up = effects.up
    # Ten-second intervals without a request are charged to idle-loaded; few where more than one request runs.
    active = np.where(served.output > 0, np.ceil(6 * (1 - np.exp(-4 * served.batch))) / 6, effects.stuck)

    # Boards: an equal part each, but for a constant of the board, a slow rank, and a little noise.
    part = 1 + rng.normal(0, 0.01, (replicas, k))[:, :, None] + rng.normal(0, 0.005, (replicas, k, minutes))
    part[:, 0] *= np.where(effects.slow_rank < 1, 0.9, 1.0)
    part /= part.sum(axis=1, keepdims=True)
    board_mj = np.floor(np.where(up, watts, 0.0)[:, None] * part * 60_000)
    empty_w = plant.empty_w * (1 + rng.normal(0, 0.02, (replicas, k, minutes)))
    shape = (replicas * k, minutes)
    trusted = 1 - effects.untrusted.reshape(replicas, k, minutes)
    serving = np.floor(board_mj * active[:, None] * trusted)
    idle_loaded = np.floor(board_mj * trusted) - serving
    idle_empty = np.floor(np.where(effects.on & ~up, 1.0, 0.0)[:, None] * empty_w * 60_000 * trusted)
    estimated = np.where(effects.estimated.reshape(replicas, k, minutes), serving + idle_loaded + idle_empty, 0.0)
    utilisation = np.where(served.output > 0, np.clip(0.55 + 0.4 * served.batch, 0, 0.99), 0.0)
    utilisation = np.where(held & (effects.power_ratio > 0.3), 0.97, utilisation)
    boards = Table(
        np.repeat(effects.on & effects.seen, k, axis=0),
        {
            "serving_mj": serving.reshape(shape),
            "idle_loaded_mj": idle_loaded.reshape(shape),
            "idle_empty_mj": idle_empty.reshape(shape),
            "estimated_mj": estimated.reshape(shape),
            "anomalies": effects.anomalies.copy(),
            "untrusted_us": np.floor(effects.untrusted * 60e6),
            "power_ratio": ((board_mj + idle_empty) / 60_000 / plant.limit_w).reshape(shape),
            "utilisation_ratio": np.repeat(utilisation * up, k, axis=0),
        },
    )

    def whole(values: Float) -> Float:
        return np.asarray(values.reshape(replicas, k, minutes).sum(axis=1))

    # The mean of a few looks at a number that comes and goes with requests.
    sampled = rng.poisson(served.batch * looks) / looks
    running = np.where(effects.stuck > 0, 3.0, np.where(served.output > 0, sampled, 0.0))
    running = np.minimum(running, served.most_batch)
    per_request = served.mean_input + 0.5 * served.mean_output
    room = spec.max_batch * (spec.input_tokens + 0.5 * spec.output_tokens) / 0.82
    usage = np.clip(running * per_request / room, 0, 0.96)
    usage = np.where(effects.recomputed_ratio > 0, rng.uniform(0.965, 1.0, usage.shape), usage)
    clock_ratio = np.where(effects.slow_rank < 1, effects.slow_rank, 0.99) + rng.normal(0, 0.006, usage.shape)
    throttled = effects.clock_events > 0
    reasons = np.where(throttled & (rng.random(usage.shape) < 0.95), effects.clock_events, 0)
    capped = watts > 0.93 * limit_w
    reasons = reasons + np.where(capped, POWER_CAP, 0) + np.where(watts < 1.3 * plant.loaded_w * k, IDLE, 0)
    lowest = np.repeat(np.arange(replicas)[:, None] * k + first_board, minutes, axis=1)
    other = rng.integers(0, k, usage.shape)
    engines = Table(
        up & effects.seen,
        {
            "serving_mj": whole(serving),
            "idle_loaded_mj": whole(idle_loaded),
            "estimated_mj": whole(estimated),
            "input_tokens": np.round(served.input + np.where(spec.counts_recomputed, served.recomputed, 0.0)),
            "cached_input_tokens": np.round(served.cached),
            "output_tokens": np.round(served.output),
            "requests_finished": np.round(served.requests),
            "preemptions": np.round(served.preemptions),
            "anomalies": whole(effects.anomalies),
            "untrusted_us": np.floor(effects.untrusted.reshape(replicas, k, minutes).max(axis=1) * 60e6),
            "version": effects.version,
            "clock_event_reasons": reasons,
            "slow_board": np.where(effects.slow_rank < 1, lowest, lowest + other) + 1.0
            if k > 1
            else np.zeros(usage.shape),
            "power_ratio": whole(board_mj) / 60_000 / limit_w,
            "utilisation_ratio": utilisation,
            "requests_running": running,
            "requests_waiting": served.waiting,
            "kv_cache_usage_ratio": usage,
            "slow_board_ratio": clock_ratio if k > 1 else np.full(usage.shape, np.nan),
        },
    )
    return engines, boards


def _spares(plan: Plan, first_board: int, rng: np.random.Generator) -> tuple[Table, list[Label]]:
    """Boards that serve somebody who isn't watched, and lie empty when released."""
    n, minutes = plan.spare_boards, plan.minutes
    empty = np.zeros((n, minutes), bool)
    labels = []
    watts = 520 * (1 + _noise(rng, n, minutes, 0.08, 0.9))
    idle_w = 70 * (1 + rng.normal(0, 0.02, (n, minutes)))
    for event in plan.events:
        if event.kind == "idle-empty":
            empty[event.replicas[0], event.since : event.until] = True
    for row in range(n):  # Benign: minutes between two jobs.
        for start in rng.integers(0, minutes - 10, 8):
            if not empty[row, max(0, start - 30) : start + 40].any():
                empty[row, start : start + int(rng.integers(2, 7))] = True
    energy = np.floor(np.where(empty, idle_w, watts) * 60_000)
    for event in plan.events:
        if event.kind == "idle-empty":
            board = event.replicas[0]
            cost = int(energy[board, event.since : event.until].sum())
            labels.append(Label(event.kind, -1, (), (first_board + board,), event.since, event.until, cost))
    zero = np.zeros((n, minutes))
    columns = {
        "serving_mj": np.where(empty, 0.0, energy),
        "idle_loaded_mj": zero,
        "idle_empty_mj": np.where(empty, energy, 0.0),
        "estimated_mj": zero,
        "anomalies": zero,
        "untrusted_us": zero,
        "power_ratio": energy / 60_000 / 700,
        "utilisation_ratio": np.where(empty, 0.0, 0.9),
    }
    return Table(np.ones((n, minutes), bool), columns), labels
