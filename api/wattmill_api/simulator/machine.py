"""One simulated node: its counters and its lines, a chunk of ticks at a time.

Promises: energy and tokens are integers that only rise within an epoch; what an incident spoils is the reading, never
the truth beside it; a line is byte for byte what `wire.encode_batch` would have written. Not here: which node comes
when, and what the totals are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from wattmill_api.simulator.incidents import Incident
from wattmill_api.simulator.lines import GONE, LOADING, PACKAGES, RAPL_RANGE_UJ, Ints, Lines, Shape
from wattmill_api.simulator.physics import Curve, Floats
from wattmill_api.simulator.replica import Flags, Life, Replica, inside
from wattmill_api.simulator.scenario import EnginePlan, NodePlan, Options
from wattmill_api.simulator.waste import SLOW_RANK_CLOCK

CHUNK_TICKS = 360  # divides a day's ticks at every interval that divides 60 s
SPIKE_MJ = 2**47
REASON_IDLE, REASON_POWER_CAP, REASON_THERMAL = 0x1, 0x4, 0x40  # nvml.h, nvmlClocksEventReason*


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """`CHUNK_TICKS` ticks of one node: what is reported, and beside it the truth.

    `rows` holds every field that changes; `shape_of[k]` says which of `shapes` turns row k into a line. `energy_mj`
    and `host_uj` are true counters (ticks x boards, ticks x packages, without glitch or wrap). `wasted`: by engine and
    kind of incident, the share of the engine's energy that the incident wastes at each tick.
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
    wasted: Mapping[tuple[int, str], Floats]

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
        self.lines = Lines(plan, options, stream, self.boot_us)
        self.replicas = [
            Replica(
                engine,
                plan.index,
                plan.hardware,
                curves[engine.workload.model, plan.hardware.name],
                options,
                functools.partial(self.lines.began, engine.index),
                None if self.fresh else self.boot_us + 250_000,
            )
            for engine in plan.engines
        ]

    def chunk(self, index: int, incidents: Sequence[Incident]) -> Chunk:
        """Ticks [index x CHUNK_TICKS, …) under these incidents (those of other nodes are ignored)."""
        step = self.options.interval_us
        times = self.options.start_us + step * np.arange(index * CHUNK_TICKS, (index + 1) * CHUNK_TICKS, dtype=np.int64)
        # What a workload will have too much of, it does without until then.
        now = [
            i for i in incidents if i.end_us >= times[0] and (i.start_us < times[-1] or i.kind == "over-provisioned")
        ]
        here = [i for i in now if i.node == self.plan.index]
        boards, hardware = len(self.plan.uuids), self.plan.hardware
        rng = np.random.default_rng([self.options.seed, 13, self.plan.index, index])
        watts = np.full((CHUNK_TICKS, boards), hardware.empty_w)
        busy = np.zeros((CHUNK_TICKS, boards))
        memory = np.full((CHUNK_TICKS, boards), 4_325_376, np.int64)
        clock = np.full((CHUNK_TICKS, boards), hardware.idle_clock_mhz, np.int64)
        hot = np.zeros((CHUNK_TICKS, boards), bool)
        held = np.zeros((CHUNK_TICKS, boards), np.int64)
        states = np.full((CHUNK_TICKS, len(self.plan.engines)), GONE, np.int64)
        stretches = [r.chunk(index, times, [i for i in now if concerns(i, self.plan, r.plan)]) for r in self.replicas]
        for engine, stretch in zip(self.plan.engines, stretches, strict=True):
            mine = list(engine.accelerators)
            states[:, engine.index] = stretch.state
            loaded, loading = (stretch.state >= 0)[:, None], (stretch.state == LOADING)[:, None]
            watts[:, mine], busy[:, mine] = stretch.watts[:, None], stretch.busy[:, None]
            hot[:, mine], held[:, mine] = stretch.throttled[:, None], loaded | loading
            memory[:, mine] = np.where(loaded, hardware.memory_total_bytes * 9 // 10, memory[:, mine])
            memory[:, mine] = np.where(loading, hardware.memory_total_bytes // 2, memory[:, mine])
            clock[:, mine] = np.where(loaded | loading, hardware.sm_clock_mhz, clock[:, mine])
            clock[stretch.slow, mine[0]] = round(hardware.sm_clock_mhz * SLOW_RANK_CLOCK)
        clock = np.where(hot, hardware.sm_clock_mhz * 6 // 10, clock)
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
        lost = inside(times, here, "lost-readings") & ~_read_anyway(host)
        self.energy_mj, self.host_uj = energy[-1].copy(), host[-1].copy()
        rows: Ints = np.concatenate((board_rows, *(s.rows for s in stretches), host % RAPL_RANGE_UJ), axis=1).astype(
            np.int64
        )
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
            tuple(life for s in stretches for life in s.lives),
            {
                (r.plan.index, kind): w
                for r, s in zip(self.replicas, stretches, strict=True)
                for kind, w in s.wasted.items()
            },
        )

    def _spoil(self, times: Ints, energy: Ints, here: Sequence[Incident]) -> tuple[Flags, Ints]:
        glitched = np.zeros(energy.shape, bool)
        reported = energy.copy()
        before = np.concatenate((self.energy_mj[None, :], energy[:-1]))
        for incident in here:
            if incident.kind == "energy-glitch":
                at, board = inside(times, [incident], "energy-glitch"), incident.accelerator
                glitched[at, board] = True
                wrong = {"backwards": before[at, board] - 1000, "zero": 0, "spike": energy[at, board] + SPIKE_MJ}
                reported[at, board] = np.maximum(0, wrong[incident.form])
        return glitched, reported


def concerns(incident: Incident, node: NodePlan, engine: EnginePlan) -> bool:
    """Whether an incident is about this replica, alone or with its workload."""
    if incident.workload:
        return incident.workload == engine.workload.name
    return incident.node == node.index and incident.engine == engine.index


def _read_anyway(host_uj: Ints) -> Flags:
    """Ticks that are not lost even in a gap: after a long one nobody could tell one wrap of a counter from two.

    Those on both sides of a wrap, and those at the seams of chunks, where the other side is not known yet.
    """
    wrapped = np.any(np.diff(host_uj // RAPL_RANGE_UJ, axis=0) != 0, axis=1)
    beside = np.ones(host_uj.shape[0], bool)
    beside[1:-1] = wrapped[1:] | wrapped[:-1]
    return beside
