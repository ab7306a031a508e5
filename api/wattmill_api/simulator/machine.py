"""One simulated node: its counters and its lines, a chunk of ticks at a time.

Promises: energy and tokens are integers that only rise within an epoch; what an incident spoils is the reading, never
the truth beside it; a line is byte for byte what `wire.encode_batch` would have written. Not here: which node comes
when, and what the totals are.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wattmill_api.simulator import physics
from wattmill_api.simulator.incidents import DOWN_KINDS, Incident
from wattmill_api.simulator.lines import ENGINE_FIELDS, GONE, LOADING, PACKAGES, RAPL_RANGE_UJ, Lines, Shape
from wattmill_api.simulator.physics import Curve, Floats, Queue
from wattmill_api.simulator.scenario import EnginePlan, NodePlan, Options

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

CHUNK_TICKS = 360  # divides a day's ticks at every interval that divides 60 s
SPIKE_MJ = 2**47
REASON_IDLE, REASON_POWER_CAP, REASON_THERMAL = 0x1, 0x4, 0x40  # nvml.h, nvmlClocksEventReason*


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """One life of a replica: its epoch, its counters so far, its queue. `from_zero`: all its tokens lie in the run."""

    number: int
    start_us: int
    from_zero: bool
    requests: float
    input_tokens: float
    cached_input_tokens: float
    output_tokens: float
    preemptions: int
    queue: Queue


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """The part of a process that lies in a chunk: ticks [first, last); tokens in columns input, cached, output."""

    engine: int
    number: int
    from_zero: bool
    first: int
    last: int
    tokens: Ints


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """`CHUNK_TICKS` ticks of one node: what is reported, and beside it the truth.

    `rows` holds every field that changes; `shape_of[k]` says which of `shapes` turns row k into a line. `energy_mj`
    and `host_uj` are true counters (ticks x boards, ticks x packages, without glitch or wrap).
    """

    times_us: Ints
    rows: Ints
    shape_of: Ints
    shapes: tuple[Shape, ...]
    lost: Flags
    glitched: Flags
    energy_mj: Ints
    spent_mj: Ints
    host_uj: Ints
    lives: tuple[Life, ...]

    def line(self, tick: int, sequence: int) -> bytes:
        """The line of one tick, without its line end."""
        shape = self.shapes[int(self.shape_of[tick])]
        return shape.line(sequence, int(self.times_us[tick]), self.rows[tick])

    def readings(self, tick: int) -> int:
        """How many readings that line has."""
        return self.shapes[int(self.shape_of[tick])].readings


class Machine:
    """Steps one node through time. Chunks must be asked for in order."""

    def __init__(self, plan: NodePlan, options: Options, curves: Mapping[tuple[str, str], Curve], stream: str) -> None:
        self.plan, self.options = plan, options
        self.fresh = plan.index >= options.continued_nodes
        self.interval_s = options.interval_us / 1e6
        rng = np.random.default_rng([options.seed, 3, plan.index, options.start_us // options.interval_us])
        boards = len(plan.uuids)
        self.offset = np.random.default_rng([options.seed, 5, plan.index]).normal(1.0, 0.02, boards).clip(0.95, 1.05)
        # Carried on: counters are at zero just after the last tick of the run before. Fresh: they have a past.
        self.boot_us = options.start_us - options.interval_us + 1000
        self.energy_mj = np.zeros(boards, np.int64)
        self.host_uj = np.zeros(PACKAGES, np.int64)
        if self.fresh:
            self.boot_us = options.start_us - int(rng.integers(86_400, 30 * 86_400)) * 1_000_000 - 700_000
            self.energy_mj = rng.integers(10**9, 10**12, boards)
            self.host_uj = rng.integers(10**9, RAPL_RANGE_UJ, PACKAGES)
        self.curves = [curves[e.workload.model, plan.hardware.name] for e in plan.engines]
        self.weights = [
            physics.spread(e.workload, c, self.interval_s) for e, c in zip(plan.engines, self.curves, strict=True)
        ]
        self.busiest = [
            physics.busiest_requests_per_s(e.workload, c) for e, c in zip(plan.engines, self.curves, strict=True)
        ]
        self.running: list[Process | None] = [self._first_process(e, rng) for e in plan.engines]
        self.started = [1] * len(plan.engines)
        self.lines = Lines(plan, options, stream, self.boot_us)
        for engine, process in zip(plan.engines, self.running, strict=True):
            if process is not None:
                self.lines.began(engine.index, process.number, process.start_us)

    def _first_process(self, engine: EnginePlan, rng: np.random.Generator) -> Process:
        queue = physics.empty_queue(self.weights[engine.index])
        if not self.fresh:
            return Process(0, self.boot_us + 250_000, True, 0.0, 0.0, 0.0, 0.0, 0, queue)
        up_s = int(rng.integers(3600, 5 * 86_400))
        requests = int(up_s * self.busiest[engine.index] * 0.5)
        load = engine.workload
        inputs = requests * load.input_tokens
        return Process(
            0,
            self.options.start_us - up_s * 1_000_000 - 300_000,
            False,
            float(requests),
            float(inputs),
            float(int(inputs * load.cached_ratio)),
            float(requests * load.output_tokens),
            0,
            queue,
        )

    def chunk(self, index: int, incidents: Sequence[Incident]) -> Chunk:
        """Ticks [index x CHUNK_TICKS, …) under these incidents (those of other nodes are ignored)."""
        step = self.options.interval_us
        times = self.options.start_us + step * np.arange(index * CHUNK_TICKS, (index + 1) * CHUNK_TICKS, dtype=np.int64)
        here = [i for i in incidents if i.node == self.plan.index and i.end_us >= times[0] and i.start_us < times[-1]]
        boards, hardware = len(self.plan.uuids), self.plan.hardware
        rng = np.random.default_rng([self.options.seed, 13, self.plan.index, index])
        watts = np.full((CHUNK_TICKS, boards), hardware.empty_w)
        busy = np.zeros((CHUNK_TICKS, boards))
        memory = np.full((CHUNK_TICKS, boards), 4_325_376, np.int64)
        clock = np.full((CHUNK_TICKS, boards), hardware.idle_clock_mhz, np.int64)
        hot = np.zeros((CHUNK_TICKS, boards), bool)
        held = np.zeros((CHUNK_TICKS, boards), np.int64)
        states = np.full((CHUNK_TICKS, len(self.plan.engines)), GONE, np.int64)
        engine_rows = np.zeros((CHUNK_TICKS, len(self.plan.engines) * len(ENGINE_FIELDS)), np.int64)
        lives: list[Life] = []
        for engine in self.plan.engines:
            mine = list(engine.accelerators)
            own = [i for i in here if i.engine == engine.index]
            block = engine_rows[:, engine.index * len(ENGINE_FIELDS) : (engine.index + 1) * len(ENGINE_FIELDS)]
            drawn, used, state = self._engine(engine, index, times, own, block, lives)
            states[:, engine.index] = state
            watts[:, mine], busy[:, mine] = drawn[:, None], used[:, None]
            loaded, loading = (state >= 0)[:, None], (state == LOADING)[:, None]
            memory[:, mine] = np.where(loaded, hardware.memory_total_bytes * 9 // 10, memory[:, mine])
            memory[:, mine] = np.where(loading, hardware.memory_total_bytes // 2, memory[:, mine])
            throttled = _inside(times, [i for i in own if i.kind == "throttled"])[:, None] & loaded
            hot[:, mine] = throttled
            clock[:, mine] = np.where(loaded | loading, hardware.sm_clock_mhz, clock[:, mine])
            clock[:, mine] = np.where(throttled, hardware.sm_clock_mhz * 6 // 10, clock[:, mine])
            held[:, mine] = loaded | loading
        watts = np.minimum(watts * self.offset * rng.normal(1.0, 0.012, watts.shape), hardware.power_limit_w * 1.01)
        power_mw = np.round(watts * 1000).astype(np.int64)
        spent = power_mw * self.options.interval_us // 1_000_000
        energy = self.energy_mj + np.cumsum(spent, axis=0)
        capped = watts > 0.97 * hardware.power_limit_w
        reasons = np.where(held == 0, REASON_IDLE, 0) | np.where(capped, REASON_POWER_CAP, 0)
        instant_mw = np.round(watts * rng.normal(1000, 25, watts.shape)).astype(np.int64).clip(1000, 10_000_000)
        warmth = np.round(28 + 46 * watts / hardware.power_limit_w + rng.normal(0, 0.7, watts.shape) + 12 * hot)
        glitched, reported = self._spoil(times, energy, here)
        board_columns = (
            reported,
            power_mw,
            instant_mw,
            np.round(busy * 1000).astype(np.int64),
            memory,
            clock,
            warmth.astype(np.int64),
            reasons | np.where(hot, REASON_THERMAL, 0),
            held,
        )
        board_rows = np.stack(board_columns, axis=2).reshape(CHUNK_TICKS, -1)
        feeding_mw = power_mw.sum(axis=1, keepdims=True) * 4 // 100 // PACKAGES
        package_mw = 55_000 + feeding_mw + rng.integers(0, 9000, (CHUNK_TICKS, PACKAGES))
        host = self.host_uj + np.cumsum(np.minimum(package_mw, 290_000) * self.options.interval_us // 1000, axis=0)
        lost = _inside(times, [i for i in here if i.kind == "lost-readings"]) & ~_read_anyway(host)
        self.energy_mj, self.host_uj = energy[-1].copy(), host[-1].copy()
        rows: Ints = np.concatenate((board_rows, engine_rows, host % RAPL_RANGE_UJ), axis=1).astype(np.int64)
        kinds, shape_of = np.unique(states, axis=0, return_inverse=True)
        return Chunk(
            times,
            rows,
            shape_of.reshape(-1).astype(np.int64),
            tuple(self.lines.shape(tuple(int(s) for s in kind)) for kind in kinds),
            lost,
            glitched,
            energy,
            spent,
            host,
            tuple(lives),
        )

    def _spoil(self, times: Ints, energy: Ints, here: Sequence[Incident]) -> tuple[Flags, Ints]:
        glitched = np.zeros(energy.shape, bool)
        reported = energy.copy()
        before = np.concatenate((self.energy_mj[None, :], energy[:-1]))
        for incident in here:
            if incident.kind == "energy-glitch":
                at, board = _inside(times, [incident]), incident.accelerator
                glitched[at, board] = True
                wrong = {"backwards": before[at, board] - 1000, "zero": 0, "spike": energy[at, board] + SPIKE_MJ}
                reported[at, board] = np.maximum(0, wrong[incident.form])
        return glitched, reported

    def _engine(
        self, engine: EnginePlan, index: int, times: Ints, own: Sequence[Incident], block: Ints, lives: list[Life]
    ) -> tuple[Floats, Floats, Ints]:
        """One replica through one chunk: watts per board, utilisation, state per tick; fills `block` and `lives`."""
        load, curve, hardware = engine.workload, self.curves[engine.index], self.plan.hardware
        rng = np.random.default_rng([self.options.seed, 17, self.plan.index, engine.index, index])
        downs = [i for i in own if i.kind in DOWN_KINDS]
        down = np.zeros(times.size, bool)
        loading = np.zeros(times.size, bool)
        for incident in downs:
            gone = (times > incident.start_us) & (times < incident.end_us)
            down |= gone
            if incident.kind == "engine-restart":
                loading |= gone
        rate = self._demand(engine, index, times)
        rate[_inside(times, [i for i in own if i.kind in ("idle-loaded", "spin-idle")])] = 0.0
        rate[_inside(times, [i for i in own if i.kind == "low-batch"])] = curve.rate(2.0) / load.output_tokens
        rate[down] = 0.0
        spinning = _inside(times, [i for i in own if i.kind == "spin-idle"])
        throttled = _inside(times, [i for i in own if i.kind == "throttled"])
        arrivals = physics.arrive(rng, rate, self.interval_s, load)
        speed = np.where(throttled, 0.65, 1.0)
        state = np.where(loading, LOADING, GONE)
        watts = np.where(loading, hardware.loading_w, hardware.empty_w)
        busy = np.where(loading, 0.05, 0.0)
        for first, last in _runs(~down):
            process = self._alive(engine, int(times[first]), downs, continues=first == 0)
            part = slice(first, last)
            came = physics.Arrivals(
                arrivals.requests[part],
                arrivals.input_tokens[part],
                arrivals.cached_input_tokens[part],
                arrivals.output_tokens[part],
            )
            served, queue = physics.serve(
                came, curve, load, self.weights[engine.index], speed[part], self.interval_s, process.queue
            )
            inputs = np.floor(process.input_tokens + served.input_tokens).astype(np.int64)
            cached = np.floor(process.cached_input_tokens + served.cached_input_tokens).astype(np.int64)
            cached = np.minimum(inputs, cached)
            outputs = np.floor(process.output_tokens + served.output_tokens).astype(np.int64)
            full = served.batch >= 0.999 * load.max_num_seqs
            preemptions = process.preemptions + np.cumsum(rng.poisson(0.3, full.size) * full)
            block[part] = np.stack(
                (
                    inputs,
                    cached,
                    inputs - cached,
                    outputs,
                    np.floor(process.requests + served.requests).astype(np.int64),
                    preemptions,
                    np.round(served.batch).astype(np.int64),
                    np.round(served.waiting).astype(np.int64),
                    np.round(900 * served.batch / load.max_num_seqs).astype(np.int64).clip(0, 1000),
                ),
                axis=1,
            )
            tokens = np.stack((inputs, cached, outputs), axis=1)
            lives.append(Life(engine.index, process.number, process.from_zero, first, last, tokens))
            watts[part] = curve.watts_at(served.batch, served.prefill_share) * np.where(throttled[part], 0.78, 1.0)
            busy[part] = np.clip(served.batch + served.prefill_share, 0.0, 1.0) * 0.98
            state[part] = process.number
            idle = spinning[part] & (served.batch < 0.5)
            watts[part][idle], busy[part][idle] = hardware.spinning_w, 1.0
            self.running[engine.index] = dataclasses.replace(
                process,
                requests=process.requests + float(served.requests[-1]),
                input_tokens=process.input_tokens + float(served.input_tokens[-1]),
                cached_input_tokens=process.cached_input_tokens + float(served.cached_input_tokens[-1]),
                output_tokens=process.output_tokens + float(served.output_tokens[-1]),
                preemptions=int(preemptions[-1]),
                queue=queue,
            )
        if down[-1]:
            self.running[engine.index] = None
        return watts, busy, state

    def _alive(self, engine: EnginePlan, first_us: int, downs: Sequence[Incident], *, continues: bool) -> Process:
        """The process that answers at `first_us`: the one that runs, or a new one after what took the last one down."""
        running = self.running[engine.index]
        if running is not None and continues:
            return running
        incident = max((i for i in downs if i.end_us <= first_us), key=lambda i: i.end_us)
        # A restart begins seconds after the last reading; a new replica is up to 75 s before it answers.
        began = incident.start_us + 1_700_000 if incident.kind == "engine-restart" else incident.end_us - 75_300_000
        earliest = max(incident.start_us, self.options.start_us) + 300_000
        latest = first_us - 100_000
        number = self.started[engine.index]
        self.started[engine.index] += 1
        queue = physics.empty_queue(self.weights[engine.index])
        start_us = min(max(began, earliest), latest)
        self.lines.began(engine.index, number, start_us)
        return Process(number, start_us, True, 0.0, 0.0, 0.0, 0.0, 0, queue)

    def _demand(self, engine: EnginePlan, index: int, times: Ints) -> Floats:
        """Requests/s asked of this replica: time of day and bursts, which all replicas of the workload share."""
        load = engine.workload
        hour = (times % 86_400_000_000) / 3.6e9
        day = 0.45 + 0.55 * (0.5 + 0.5 * np.cos((hour - load.peak_hour) * (2 * np.pi / 24)))
        name = int.from_bytes(hashlib.blake2b(load.name.encode(), digest_size=4).digest(), "big")
        rng = np.random.default_rng([self.options.seed, 11, name, index])
        span_us = int(times[-1] - times[0])
        burst = np.ones(times.size)
        for _ in range(int(rng.poisson(2.0 * span_us / 3.6e9))):
            start = int(times[0]) + int(rng.uniform(0, span_us))
            end = start + int(rng.uniform(60, 360) * 1e6)
            burst[(times >= start) & (times < end)] = rng.uniform(1.3, 1.9)
        return np.asarray(self.busiest[engine.index] * day * burst, dtype=np.float64)


def _read_anyway(host_uj: Ints) -> Flags:
    """Ticks that are not lost even in a gap: after a long one nobody could tell one wrap of a counter from two.

    Those on both sides of a wrap, and those at the seams of chunks, where the other side is not known yet.
    """
    wrapped = np.any(np.diff(host_uj // RAPL_RANGE_UJ, axis=0) != 0, axis=1)
    beside = np.ones(host_uj.shape[0], bool)
    beside[1:-1] = wrapped[1:] | wrapped[:-1]
    return beside


def _inside(times: Ints, incidents: Sequence[Incident]) -> Flags:
    """Which ticks lie in (start, end] of any of these incidents."""
    inside = np.zeros(times.size, bool)
    for incident in incidents:
        inside |= (times > incident.start_us) & (times <= incident.end_us)
    return inside


def _runs(flags: Flags) -> list[tuple[int, int]]:
    """[first, last) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
