"""From requests to tokens and watts: published curves, bursty arrivals, and a queue in front of a batch.

Promises: monotone curves through the published points; what arrives is served or still waiting, never lost; a tick's
results depend on earlier ticks only. Not here: noise on power, counters, incidents, time of day.

Sources: `figures.csv` (ML.ENERGY leaderboard v3) for watts and tokens/s against batch; the Mooncake conversation trace
(FAST'25, one hour, 12 031 requests) for the spread of lengths and arrivals.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.resources
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wattmill_api.simulator.scenario import HARDWARE, Hardware, Workload

Floats = NDArray[np.float64]

# (mean / standard deviation)^2 of the Mooncake trace's request lengths: 12 035 +- 15 800 in, 343 +- 250 out.
INPUT_SHAPE = 0.58
OUTPUT_SHAPE = 1.88
# Requests per 10 s in the trace have variance 71 at a mean of 34: a Poisson count whose rate is gamma(31) distributed.
ARRIVAL_SHAPE = 31.0
PREFILL_FLOPS_RATIO = 0.4  # share of the dense peak that prefill reaches
LONGEST_PREFILL_SHARE = 0.7  # a scheduler leaves decode some room even when long prompts queue up
MOST_TAPS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """One model on one kind of board: arrays over batch, beginning at batch 0 and rising.

    `watts` is per board; `tokens_per_s` is the replica's decode rate; `position` is where a batch lies on the axis
    along which is interpolated: linear up to 1 (a share of the time), logarithmic from there.
    """

    boards: int
    active_params_b: float
    position: Floats
    watts: Floats
    tokens_per_s: Floats
    prefill_tokens_per_s: float
    power_limit_w: float

    def rate(self, batch: float) -> float:
        """Decode tokens/s at a batch."""
        return float(np.interp(_position(np.float64(batch)), self.position, self.tokens_per_s))

    def batch_for(self, tokens_per_s: Floats) -> Floats:
        """The batch that decodes at this rate; beyond the last point, the last point."""
        where = np.interp(tokens_per_s, self.tokens_per_s, self.position)
        return np.where(where <= 1.0, where, np.exp(np.maximum(where, 1.0) - 1.0))

    def watts_at(self, batch: Floats, prefill_share: Floats) -> Floats:
        """Watts per board; prefill is compute-bound and draws close to the limit for its share of the time."""
        decode = np.interp(_position(batch), self.position, self.watts)
        return decode + 0.6 * prefill_share * (0.98 * self.power_limit_w - decode)

    def joules(self, tokens: Floats, prefill_s: Floats, batch: Floats | float) -> Floats:
        """Joules of all boards for decoding tokens at a batch and prefilling for a while, and for no idle time."""
        batches = np.asarray(batch, np.float64)
        decode_s = tokens / np.maximum(np.interp(_position(batches), self.position, self.tokens_per_s), 1e-9)
        busy_s = np.maximum(decode_s + prefill_s, 1e-9)
        return self.watts_at(batches, prefill_s / busy_s) * self.boards * busy_s

    def joules_per_token(self, batch: float) -> float:
        """Joules of all boards per output token in steady decode at this batch."""
        position = _position(np.float64(batch))
        return float(np.interp(position, self.position, self.watts)) * self.boards / self.rate(batch)


def _position(batch: Floats | np.float64) -> Floats:
    return np.where(batch <= 1.0, batch, 1.0 + np.log(np.maximum(batch, 1.0)))


def load_curves() -> dict[tuple[str, str], Curve]:
    """(model, accelerator) -> curve, from the cited figures."""
    text = importlib.resources.files("wattmill_api.simulator").joinpath("figures.csv").read_text(encoding="utf-8")
    grouped: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in csv.DictReader(text.splitlines()):
        grouped.setdefault((row["model"], row["accelerator"]), []).append(row)
    return {key: _curve(rows, HARDWARE[key[1]]) for key, rows in grouped.items()}


def _curve(rows: list[dict[str, str]], hardware: Hardware) -> Curve:
    boards = int(rows[0]["accelerators"])
    active = float(rows[0]["active_params_b"])
    batch = np.array([float(r["batch"]) for r in rows])
    watts = np.array([float(r["watts"]) for r in rows]) / boards
    rate = np.maximum.accumulate(np.array([float(r["output_tokens_per_s"]) for r in rows]))
    # Nobody measures batch 1: decode is bound by memory there, so its step is about as long as at the smallest
    # measured batch and its power a little lower. An idle replica draws what a loaded board draws.
    first_watts = max(hardware.loaded_w * 1.3, 0.88 * watts[0])
    first_rate = rate[0] / batch[0] * 1.08
    rate = np.concatenate(([0.0, first_rate], rate))
    rate += np.arange(rate.size) * 1e-6  # strictly rising, so that it can be inverted
    return Curve(
        boards,
        active,
        _position(np.concatenate(([0.0, 1.0], batch))),
        np.concatenate(([hardware.loaded_w, first_watts], watts)),
        rate,
        PREFILL_FLOPS_RATIO * hardware.dense_bf16_flops * boards / (2e9 * active),
        hardware.power_limit_w,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Arrivals:
    """Per tick: requests, and the tokens they bring and ask for."""

    requests: Floats
    input_tokens: Floats
    cached_input_tokens: Floats
    output_tokens: Floats

    def part(self, ticks: slice) -> Arrivals:
        """Some of the ticks."""
        return Arrivals(
            self.requests[ticks], self.input_tokens[ticks], self.cached_input_tokens[ticks], self.output_tokens[ticks]
        )


def arrive(
    rng: np.random.Generator,
    requests_per_s: Floats,
    interval_s: float,
    workload: Workload,
    cached_ratio: Floats | None = None,
) -> Arrivals:
    """Draw one chunk of arrivals. A sum of gamma-distributed lengths is one too, so one draw a tick will do.

    `cached_ratio`: mean share of the input that is found in the prefix cache, by tick; None: the workload's own.
    """
    normal = workload.cached_ratio if cached_ratio is None else cached_ratio
    ticks = requests_per_s.size
    burst = rng.gamma(ARRIVAL_SHAPE, 1.0 / ARRIVAL_SHAPE, ticks)
    requests = rng.poisson(requests_per_s * interval_s * burst).astype(np.float64)
    inputs = requests + _lengths(rng, requests, workload.input_tokens, INPUT_SHAPE)
    outputs = requests + _lengths(rng, requests, workload.output_tokens, OUTPUT_SHAPE)
    share = np.clip(rng.normal(normal, 0.06, ticks), 0.0, 0.95)
    return Arrivals(requests, inputs, inputs * share, outputs)


def _lengths(rng: np.random.Generator, requests: Floats, mean: int, shape: float) -> Floats:
    return rng.standard_gamma(requests * shape) * (max(mean - 1, 0) / shape)


def busiest_requests_per_s(workload: Workload, curve: Curve) -> float:
    """Request rate at which prefill and decode together fill `load_ratio` of a replica's time."""
    return workload.load_ratio * full_requests_per_s(workload, curve, workload.max_num_seqs)


def full_requests_per_s(workload: Workload, curve: Curve, batch: float, again: float = 1.0) -> float:
    """Request rate at which prefill and decode at this batch fill all of a replica's time.

    `again`: how often each input token is computed.
    """
    decode_s = workload.output_tokens / curve.rate(batch)
    prefill_s = workload.input_tokens * (1.0 - workload.cached_ratio) / curve.prefill_tokens_per_s
    return 1.0 / (decode_s + again * prefill_s)


@dataclasses.dataclass(frozen=True, slots=True)
class Queue:
    """What a replica has accepted and not finished, from chunk to chunk. `recent_*`: latest ticks in order.

    `backlog_*`: what waits in front of the batch, as tokens to decode and seconds of prefill at full speed.
    """

    recent_output: Floats
    recent_computed: Floats
    backlog_tokens: float
    backlog_prefill_s: float
    pending_requests: float
    pending_input: float
    pending_cached: float
    pending_output: float


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """Per tick: tokens and requests since the chunk began, batch, queue, and prefill's share of the time."""

    requests: Floats
    input_tokens: Floats
    cached_input_tokens: Floats
    output_tokens: Floats
    batch: Floats
    waiting: Floats
    prefill_share: Floats


def spread(workload: Workload, curve: Curve, interval_s: float) -> Floats:
    """Weights over which a tick's output is decoded in the following ticks: exponential with the mean service time."""
    typical = min(workload.max_num_seqs, 48)
    service_ticks = workload.output_tokens * typical / curve.rate(typical) / interval_s
    taps = min(MOST_TAPS, math.ceil(4 * service_ticks) + 1)
    weights = np.exp(-np.arange(taps) / max(service_ticks, 0.05))
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def empty_queue(weights: Floats) -> Queue:
    """A replica that has just started."""
    nothing = np.zeros(weights.size - 1)
    return Queue(nothing, nothing, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def serve(
    arrivals: Arrivals,
    curve: Curve,
    workload: Workload,
    weights: Floats,
    speed: Floats,
    interval_s: float,
    queue: Queue,
    most: Floats | None = None,
    again: Floats | None = None,
) -> tuple[Served, Queue]:
    """Serve one chunk, first come, first served; what waits is neither decoded nor prefilled.

    `speed`: share of the curve's rate at each tick, below 1 when throttled; `weights`: from `spread`; `most`: largest
    batch at each tick, None: the workload's own; `again`: how often each input token is computed, None: once.
    """
    largest = np.full(speed.size, float(workload.max_num_seqs)) if most is None else most
    output = np.concatenate((queue.recent_output, arrivals.output_tokens))
    computed = np.concatenate((queue.recent_computed, arrivals.input_tokens - arrivals.cached_input_tokens))
    wanted = np.convolve(output, weights, "valid")
    times = np.ones(speed.size) if again is None else again
    prefill_s = np.convolve(computed, weights, "valid") / curve.prefill_tokens_per_s
    # Lindley's recursion q' = max(0, q + work - capacity), solved for the whole chunk at once; work is counted in
    # seconds of a replica that runs its largest batch at full speed.
    full_rate = curve.rate(workload.max_num_seqs)
    carried_s = queue.backlog_tokens / full_rate + queue.backlog_prefill_s
    work_s = wanted / full_rate + prefill_s
    ways, way = np.unique(np.stack((largest, times)), axis=1, return_inverse=True)
    slower = [full_requests_per_s(workload, curve, float(batch), float(n)) for batch, n in ways.T]
    whole = np.array(slower) / full_requests_per_s(workload, curve, workload.max_num_seqs)
    capacity_s = interval_s * speed * whole[way.reshape(-1)]
    walk_s = carried_s + np.cumsum(work_s - capacity_s)
    backlog_s = walk_s - np.minimum(0.0, np.minimum.accumulate(walk_s))
    done_s = np.maximum(0.0, np.cumsum(work_s - np.diff(backlog_s, prepend=carried_s)))
    asked_s = np.concatenate(([0.0, carried_s], carried_s + np.cumsum(work_s)))

    def through(carried: float, asked: Floats) -> Floats:
        """Running total of what was done of something that is asked for in the order of the work."""
        return np.interp(done_s, asked_s, np.concatenate(([0.0, carried], carried + np.cumsum(asked))))

    decoded, prefilled_s = through(queue.backlog_tokens, wanted), through(queue.backlog_prefill_s, prefill_s)
    done = np.diff(decoded, prepend=0.0)
    prefill_share = np.minimum(LONGEST_PREFILL_SHARE, np.diff(prefilled_s, prepend=0.0) * times / speed / interval_s)
    decode_s = (1.0 - prefill_share) * interval_s
    backlog = queue.backlog_tokens + np.cumsum(wanted) - decoded
    offered = np.concatenate(([0.0, queue.pending_output], queue.pending_output + np.cumsum(arrivals.output_tokens)))
    served_output = np.minimum(decoded, offered[-1])

    def in_step(pending: float, arrived: Floats) -> tuple[Floats, float]:
        total = np.concatenate(([0.0, pending], pending + np.cumsum(arrived)))
        so_far = np.interp(served_output, offered, total)
        return so_far, float(total[-1] - so_far[-1])

    requests, pending_requests = in_step(queue.pending_requests, arrivals.requests)
    inputs, pending_input = in_step(queue.pending_input, arrivals.input_tokens)
    cached, pending_cached = in_step(queue.pending_cached, arrivals.cached_input_tokens)
    batch = np.minimum(curve.batch_for(done / (decode_s * speed)), largest)
    waiting = np.maximum(0.0, backlog) / workload.output_tokens
    served = Served(requests, inputs, cached, served_output, batch, waiting, prefill_share)
    kept = weights.size - 1
    return served, Queue(
        output[output.size - kept :],
        computed[computed.size - kept :],
        max(0.0, float(backlog[-1])),
        max(0.0, float(queue.backlog_prefill_s + prefill_s.sum() - prefilled_s[-1])),
        pending_requests,
        pending_input,
        pending_cached,
        float(offered[-1] - served_output[-1]),
    )


def boards_needed(curves: Mapping[tuple[str, str], Curve]) -> dict[tuple[str, str], int]:
    """(model, accelerator) -> boards of one replica as measured."""
    return {key: curve.boards for key, curve in curves.items()}
