"""Demand of one workload, spread over its replicas, queued, batched: tokens, batches and watts, minute by minute."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from scoreboard.physics import LONGEST_PREFILL_SHARE
from scoreboard.plan import Event, Spec, shape

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
# (mean / standard deviation)^2 of the Mooncake trace's request lengths, and of its arrival rate in a minute.
INPUT_SHAPE, OUTPUT_SHAPE, ARRIVAL_SHAPE = 0.58, 1.88, 60.0
_STRADDLES = 0.04  # of the input is counted, at the end of its prefill, a minute after its energy was spent
CLOCK_EVENTS = (0x20, 0x40, 0x8, 0x80)


@dataclasses.dataclass(frozen=True, slots=True)
class Effects:
    """What events do, [minutes] for the workload, [replicas, minutes] for its engines, boards side by side.

    `power_ratio` NaN unless power is not that of serving; `stuck`: share of idle time in which requests hang;
    `target_batch` inf, or what a router or a setting holds the replica to; `limit` of the batch with a queue before it;
    `cold`: share of the prefix cache that a new process lacks.
    """

    demand: Float
    input_factor: Float
    cached_drop: Float
    on: Bool
    up: Bool
    seen: Bool
    routed: Float
    power_ratio: Float
    stuck: Float
    speed: Float
    power: Float
    target_batch: Float
    limit: Float
    cold: Float
    recomputed_ratio: Float
    clock_events: Float
    slow_rank: Float
    version: Float
    estimated: Bool
    anomalies: Float
    untrusted: Float
    replicas_needed: int


def effects_of(spec: Spec, events: list[Event], minutes: int, rng: np.random.Generator) -> Effects:
    """Lay all events over a quiet week."""
    extra = max((int(e.size) * spec.replicas for e in events if e.kind == "over-provisioned"), default=0)
    n, k = spec.replicas + extra, spec.plant.boards
    one = np.ones((n, minutes))
    on = one > 0
    on[spec.replicas :] = False
    e = Effects(
        demand=shape(spec, minutes),
        input_factor=1 + 0.12 * np.sin(np.arange(minutes) / minutes * rng.uniform(3, 9) + rng.uniform(0, 6)),
        cached_drop=np.zeros(minutes),
        on=on,
        up=on.copy(),
        seen=one > 0,
        routed=one.copy(),
        power_ratio=np.full((n, minutes), np.nan),
        stuck=np.zeros((n, minutes)),
        speed=one.copy(),
        power=one.copy(),
        target_batch=one * np.inf,
        limit=one * spec.max_batch,
        cold=np.zeros((n, minutes)),
        recomputed_ratio=np.zeros((n, minutes)),
        clock_events=np.zeros((n, minutes)),
        slow_rank=one.copy(),
        version=np.zeros((n, minutes)),
        estimated=np.zeros((n * k, minutes), bool),
        anomalies=np.zeros((n * k, minutes)),
        untrusted=np.zeros((n * k, minutes)),
        replicas_needed=spec.replicas,
    )
    for event in events:
        _apply(e, spec, event, rng)
    e.up[:] &= e.on
    idle = spec.plant.loaded_w / spec.plant.limit_w
    silent = e.up & (e.routed == 0) & np.isnan(e.power_ratio)
    e.power_ratio[silent] = idle
    return e


def _apply(e: Effects, spec: Spec, event: Event, rng: np.random.Generator) -> None:
    who, span, k = list(event.replicas), slice(event.since, event.until), spec.plant.boards
    rows = np.ix_(who, range(event.since, event.until))
    count, size = event.until - event.since, event.size
    match event.kind:
        case "idle-loaded":
            e.routed[rows] = 0
        case "spin-idle":
            e.routed[rows] = 0
            e.power_ratio[rows] = size
            e.stuck[rows] = float(event.form)
        case "low-batch":
            e.target_batch[rows] = size
        case "kv-thrash":
            e.recomputed_ratio[rows] = np.maximum(0.01, size * (1 + rng.normal(0, 0.2, (len(who), count))))
        case "throttled":
            e.speed[rows] *= 1 - size
            e.power[rows] *= 1 - size * rng.uniform(0.35, 0.75)
            e.clock_events[rows] = CLOCK_EVENTS[event.form]
            if k > 1 and rng.random() < 0.5:
                e.slow_rank[rows] = 1 - size
        case "straggler":
            power = rng.uniform(0.85, 1.0)
            speed = power / (1 + size)
            e.speed[rows] *= speed
            e.power[rows] *= power
            if event.form == 1:
                e.slow_rank[rows] = speed
        case "regression":
            # More power at the old speed as far as the limit allows, or the old power at less speed.
            most = 0.97 * spec.plant.limit_w * k / float(spec.plant.watts_table.max())
            power = min(1 + size, max(1.0, most)) if event.form else 1.0
            e.power[:, span] *= power  # extra replicas run the same software
            e.speed[:, span] *= power / (1 + size)
            if rng.random() < 0.5:
                e.version[:, event.since :] += 1
        case "over-provisioned":
            extra = slice(spec.replicas, spec.replicas * (1 + int(size)))
            e.on[extra, span] = e.up[extra, span] = True
            _warm_up(e, list(range(extra.start, extra.stop)), event.since, rng)
        case "queue-starved":
            e.limit[rows] = np.floor(size)
        case "cache-miss":
            e.cached_drop[span] = size
        case "telemetry-untrusted":
            boards = np.ix_([who[0] * k + int(rng.integers(k))], range(event.since, event.until))
            if event.form == 0:
                e.estimated[boards] = True
            elif event.form == 1:
                e.anomalies[boards] = rng.poisson(1.5, count)
            else:
                e.untrusted[boards] = rng.uniform(0.6, 1.0, count)
        case "deploy" | "restart":
            for place, replica in enumerate(who):
                begin = event.since + 14 * place
                down = begin + int(rng.integers(3, 9))
                e.up[replica, begin:down] = False
                _warm_up(e, [replica], down, rng)
                if event.kind == "deploy" and event.form:
                    e.version[replica, begin:] += 1
        case "scale-down":
            e.on[rows] = e.up[rows] = False
            _warm_up(e, who, event.until, rng)
        case "hot-minutes":
            e.clock_events[rows] = CLOCK_EVENTS[int(rng.integers(4))]
        case "batch-job":
            e.demand[span] = np.maximum(e.demand[span], size * 1.15)
        case "traffic-shift":
            e.routed[rows] *= size
        case "pause":
            e.demand[span] = 0
        case "longer-prompts":
            e.input_factor[span] *= size
        case "lost-minutes":
            e.seen[rows] = False


def _warm_up(e: Effects, replicas: list[int], since: int, rng: np.random.Generator) -> None:
    for replica in replicas:
        until = since + int(rng.integers(2, 6))
        e.power_ratio[replica, since:until] = rng.uniform(0.2, 0.6)
        e.routed[replica, since:until] = 0
        # A new process has seen no prompt yet.
        warm = min(e.cold.shape[1], until + int(rng.integers(4, 13)))
        e.cold[replica, until:warm] = np.linspace(1.0, 0.0, warm - until)


def spread(spec: Spec, e: Effects, rng: np.random.Generator) -> Float:
    """Mean requests a minute of each replica: a router that is not perfect, and replicas that take only so much."""
    n, minutes = e.up.shape
    computed = spec.input_tokens * (1 - spec.cached_ratio)
    peak = 60 * spec.plant.requests_per_s(spec.peak_batch, spec.output_tokens, computed) * spec.replicas
    bias = 1 + rng.normal(0, 0.04, (n, 1))
    waves = 1 + 0.05 * np.sin(np.arange(minutes) / rng.uniform(40, 300, (n, 1)) + rng.uniform(0, 6, (n, 1)))
    weight = bias * waves * e.routed * e.up
    total = peak * e.demand
    share = total * weight / np.maximum(weight.sum(axis=0), 1e-9)
    held = np.isfinite(e.target_batch)
    if held.any():
        at = np.where(held, e.target_batch, 1.0)
        rate = spec.plant.rate(at)
        most = 60 / (spec.output_tokens / rate + computed / spec.plant.prefill_tokens_per_s)
        kept = np.where(held, np.minimum(share, most), share)
        free = weight * ~held
        rest = (share - kept).sum(axis=0)
        share = kept + rest * free / np.maximum(free.sum(axis=0), 1e-9)
    return np.asarray(share)


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What the replicas did in each minute [replicas, minutes].

    `watts`: of all boards while serving, with the events' power but without noise; `wanted_batch`: what demand would
    have filled without a limit; `most_batch`: the limit in force; `prefill_share` of the time.
    """

    requests: Float
    input: Float
    cached: Float
    output: Float
    recomputed: Float
    preemptions: Float
    batch: Float
    wanted_batch: Float
    most_batch: Float
    waiting: Float
    prefill_share: Float
    watts: Float
    mean_input: Float
    mean_output: Float


def serve(spec: Spec, e: Effects, mean_requests: Float, rng: np.random.Generator) -> Served:
    """Draw requests and serve them, first come, first served; beyond a full queue clients go away."""
    plant, (n, minutes) = spec.plant, mean_requests.shape
    burst = rng.gamma(ARRIVAL_SHAPE, 1 / ARRIVAL_SHAPE, minutes)
    requests = rng.poisson(mean_requests * burst).astype(np.float64)
    mean_input = np.broadcast_to(spec.input_tokens * e.input_factor, (n, minutes))
    inputs = np.ceil(rng.standard_gamma(requests * INPUT_SHAPE) * (mean_input / INPUT_SHAPE))
    outputs = np.ceil(rng.standard_gamma(requests * OUTPUT_SHAPE) * (spec.output_tokens / OUTPUT_SHAPE))
    # A long answer goes on into the next minute.
    seconds = spec.output_tokens * spec.peak_batch / float(plant.rate(np.array([spec.peak_batch]))[0])
    later = float(np.clip(seconds / 60, 0.03, 0.6))
    outputs = _carried(outputs, later)
    requests = _carried(requests, later)
    drop = e.cached_drop
    ratio = np.clip((spec.cached_ratio - drop) * (1 - e.cold) + rng.normal(0, 0.025, (n, minutes)), 0.0, 0.97)
    preempted = e.recomputed_ratio * requests
    preemptions = rng.poisson(preempted).astype(np.float64)
    again = preemptions * (mean_input + 0.5 * spec.output_tokens) * rng.uniform(0.85, 1.15, (n, minutes))
    computed = inputs * (1 - ratio) + again

    # Time of one output token: its part of a step, and the prefill that comes with it in this minute's mix.
    usual = spec.input_tokens * (1 - spec.cached_ratio) / spec.output_tokens
    mixed = outputs > 0
    mix = np.divide(computed, outputs, out=np.full_like(outputs, usual), where=mixed)
    prefill_s = mix / plant.prefill_tokens_per_s
    free_s = 60 * (1 - np.minimum(outputs * prefill_s / e.speed / 60, LONGEST_PREFILL_SHARE))
    wanted = np.minimum(plant.batch(outputs / (free_s * e.speed)), spec.max_batch)
    capacity = np.where(e.up, 60 * e.speed / (1 / plant.rate(e.limit) + prefill_s), 0.0)
    starved = e.limit < spec.max_batch
    # Behind a limit set too low wait those who would run; elsewhere clients are patient for a few batches.
    longest = np.where(starved, np.maximum(wanted - e.limit, 0) * rng.uniform(1.0, 1.8), 3.0 * spec.max_batch)
    done, backlog = _queued(outputs, capacity, longest * spec.output_tokens)
    share = np.divide(done, outputs, out=np.zeros_like(done), where=mixed)
    # What had waited brings the input of its kind along.
    late = np.where(mixed, 0.0, done)
    prefill_share = np.minimum(done * prefill_s / e.speed / 60, 0.98)
    batch = np.minimum(plant.batch(done / (60 * (1 - prefill_share) * e.speed)), e.limit)
    batch = np.where(done > 0, batch, 0.0)
    inputs_done = inputs * share + late * spec.input_tokens / spec.output_tokens
    cached_done = inputs * ratio * share + late * (spec.input_tokens / spec.output_tokens - usual)
    crowd = rng.poisson(np.maximum(0.0, batch / spec.max_batch - 0.85) * 4, (n, minutes)).astype(np.float64)
    waiting = backlog / spec.output_tokens + np.where(e.recomputed_ratio > 0, rng.uniform(1, 20, (n, minutes)), crowd)
    rare = rng.poisson(np.where(batch > 0.97 * spec.max_batch, 0.1, 0.0)).astype(np.float64)
    return Served(
        requests=requests * share + late / spec.output_tokens,
        input=_carried(inputs_done, _STRADDLES),
        cached=_carried(cached_done, _STRADDLES),
        output=done,
        recomputed=again * share,
        preemptions=preemptions + rare,
        batch=batch,
        wanted_batch=wanted,
        most_batch=e.limit,
        waiting=np.where(done > 0, waiting, 0.0),
        prefill_share=prefill_share,
        watts=np.where(done > 0, plant.watts(batch, prefill_share), plant.loaded_w * plant.boards) * e.power,
        mean_input=mean_input,
        mean_output=np.full((n, minutes), spec.output_tokens),
    )


def _carried(values: Float, later: float) -> Float:
    moved = values * later
    kept = values - moved
    kept[:, 1:] += moved[:, :-1]
    return kept


def _queued(wanted: Float, capacity: Float, longest: Float) -> tuple[Float, Float]:
    """(served, backlog) [replicas, minutes] of queues that hold at most `longest`."""
    done, backlog = np.empty_like(wanted), np.empty_like(wanted)
    waiting = np.zeros(wanted.shape[0])
    for minute in range(wanted.shape[1]):
        there = waiting + wanted[:, minute]
        now = np.minimum(there, capacity[:, minute])
        waiting = np.minimum(there - now, longest[:, minute])
        done[:, minute] = now
        backlog[:, minute] = waiting
    return done, backlog
