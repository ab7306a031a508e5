"""One replica: demand, processes that live and die, and what it draws, a chunk of ticks at a time.

Promises: token counters are integers that only rise while a process lives; a process dies right after a tick and takes
what it had accepted with it; a new one starts from zero, with an epoch of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wattmill_api.simulator import latency, physics, waste
from wattmill_api.simulator.incidents import DOWN_KINDS, SPARE_DEMAND, Incident
from wattmill_api.simulator.lines import ENGINE_COLUMNS, ENGINE_FIELDS, GONE, LOADING, Ints
from wattmill_api.simulator.physics import Curve, Floats, Queue, Served
from wattmill_api.simulator.scenario import EnginePlan, Hardware, Options

Flags = NDArray[np.bool_]

LIFE_COLUMNS = ("input_tokens", "cached_input_tokens", "output_tokens")


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """One life of a replica: its epoch, its counters so far, its queue. `from_zero`: all its tokens lie in the run.

    `observed`: inter-token latencies by bucket, not yet whole.
    """

    number: int
    from_zero: bool
    requests: float
    input_tokens: float
    cached_input_tokens: float
    output_tokens: float
    preemptions: int
    queue: Queue
    observed: Floats


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
class Stretch:
    """One replica through one chunk, per tick: reported fields, watts of each board, utilisation, state.

    `slow`: one of its boards holds up the others; `wasted`: by kind of incident, the share of its power it wastes.
    """

    rows: Ints
    watts: Floats
    busy: Floats
    state: Ints
    throttled: Flags
    slow: Flags
    lives: tuple[Life, ...]
    wasted: Mapping[str, Floats]


class Replica:
    """Steps one replica through time. `began(number, start_us)` hears of every process."""

    def __init__(
        self,
        plan: EnginePlan,
        node: int,
        hardware: Hardware,
        curve: Curve,
        options: Options,
        began: Callable[[int, int], None],
        carried_on_us: int | None,
    ) -> None:
        self.plan, self.node, self.hardware, self.curve, self.options = plan, node, hardware, curve, options
        self.interval_s = options.interval_us / 1e6
        self.weights = physics.spread(plan.workload, curve, self.interval_s)
        self.busiest = physics.busiest_requests_per_s(plan.workload, curve)
        self.began = began
        self.started = 0
        if carried_on_us is None:
            self.running: Process | None = self._old_process()
        else:
            self.running = self._new_process(carried_on_us)

    def _new_process(self, start_us: int) -> Process:
        number = self.started
        self.started += 1
        self.began(number, start_us)
        return Process(
            number, True, 0.0, 0.0, 0.0, 0.0, 0, physics.empty_queue(self.weights), np.zeros(latency.BUCKETS)
        )

    def _old_process(self) -> Process:
        """One that has served for hours or days before the first tick."""
        rng = np.random.default_rng([self.options.seed, 19, self.node, self.plan.index])
        up_s = int(rng.integers(3600, 5 * 86_400))
        load = self.plan.workload
        requests = int(up_s * self.busiest * 0.5)
        inputs = requests * load.input_tokens
        typical_s = load.max_num_seqs / 2 / self.curve.rate(load.max_num_seqs / 2)
        return dataclasses.replace(
            self._new_process(self.options.start_us - up_s * 1_000_000 - 300_000),
            from_zero=False,
            requests=float(requests),
            input_tokens=float(inputs),
            cached_input_tokens=float(int(inputs * load.cached_ratio)),
            output_tokens=float(requests * load.output_tokens),
            observed=requests * load.output_tokens * latency.shares(np.array([typical_s]))[0],
        )

    def chunk(self, index: int, times: Ints, incidents: Sequence[Incident]) -> Stretch:
        """The ticks `times`, which are chunk `index` of the run, under these incidents (all of them its own)."""
        rng = np.random.default_rng([self.options.seed, 17, self.node, self.plan.index, index])
        downs = [i for i in incidents if i.kind in DOWN_KINDS]
        down, loading = np.zeros(times.size, bool), np.zeros(times.size, bool)
        for incident in downs:
            gone = (times > incident.start_us) & (times < incident.end_us)
            down |= gone
            loading |= gone & (incident.kind == "engine-restart")
        rate = self._demand(index, times)
        rate[inside(times, incidents, "idle-loaded", "spin-idle")] = 0.0
        load, at = self.plan.workload, {kind: inside(times, incidents, kind) for kind in waste.COUNTED}
        rate[at["low-batch"]] = self.curve.rate(waste.LOW_BATCH) / load.output_tokens
        starved = waste.STARVED_DEMAND * physics.full_requests_per_s(load, self.curve, waste.STARVED_BATCH)
        rate[at["queue-starved"]] = starved
        for incident in incidents:
            if incident.kind == "over-provisioned":
                needed, there = (int(n) for n in incident.form.split("/"))
                rate[times <= incident.start_us] *= SPARE_DEMAND * there / needed
        rate[at["over-provisioned"]] *= SPARE_DEMAND
        rate[down] = 0.0
        spinning = inside(times, incidents, "spin-idle")
        speed, drawn_ratio = np.ones(times.size), np.ones(times.size)
        for kind in waste.SPEED:
            speed[at[kind]] *= waste.SPEED[kind]
            drawn_ratio[at[kind]] *= waste.WATTS[kind]
        most = np.where(at["queue-starved"], waste.STARVED_BATCH, load.max_num_seqs)
        again = np.where(at["kv-thrash"], waste.COMPUTED_AGAIN, 1.0)
        cached_ratio = load.cached_ratio * np.where(at["cache-miss"], waste.CACHE_LEFT, 1.0)
        arrivals = physics.arrive(rng, rate, self.interval_s, load, cached_ratio)
        wasted = {kind: np.zeros(times.size) for kind in waste.COUNTED if at[kind].any()}
        rows = np.zeros((times.size, ENGINE_COLUMNS), np.int64)
        state = np.where(loading, LOADING, GONE)
        watts = np.where(loading, self.hardware.loading_w, self.hardware.empty_w)
        busy = np.where(loading, 0.05, 0.0)
        lives: list[Life] = []
        for first, last in runs(~down):
            part = slice(first, last)
            process = self._alive(int(times[first]), downs, continues=first == 0)
            served, queue = physics.serve(
                arrivals.part(part),
                self.curve,
                load,
                self.weights,
                speed[part],
                self.interval_s,
                process.queue,
                most[part],
                again[part],
            )
            observed = latency.observe(process.observed, self.curve, served, speed[part])
            fields = _fields(process, served, load.max_num_seqs, at["kv-thrash"][part], rng)
            rows[part] = np.concatenate((fields, latency.counts(observed)), axis=1)
            tokens = rows[part][:, [ENGINE_FIELDS.index(n) for n in LIFE_COLUMNS]]
            lives.append(Life(self.plan.index, process.number, process.from_zero, first, last, tokens))
            state[part] = process.number
            drawn = self.curve.watts_at(served.batch, served.prefill_share)
            used = np.clip(served.batch + served.prefill_share, 0.0, 1.0) * 0.98
            idle = spinning[part] & (served.batch < 0.5)
            watts[part] = np.where(idle, self.hardware.spinning_w, drawn * drawn_ratio[part])
            busy[part] = np.where(idle, 1.0, used)
            preemptions = int(rows[last - 1, ENGINE_FIELDS.index("preemptions")])
            work = waste.Work(
                np.diff(served.output_tokens, prepend=0.0),
                served.prefill_share * self.interval_s,
                served.batch,
                served.waiting,
                watts[part] * self.curve.boards * self.interval_s,
                self.interval_s,
            )
            for kind, ratio in wasted.items():
                form = next(i.form for i in incidents if i.kind == kind)
                ratio[part] = waste.wasted_ratio(kind, form, self.curve, load, work)
            self.running = _after(process, served, queue, preemptions, observed[-1])
        if down[-1]:
            self.running = None
        throttled, slow = at["throttled"] & ~down, at["straggler"] & ~down
        return Stretch(rows, watts, busy, state, throttled, slow, tuple(lives), wasted)

    def _alive(self, first_us: int, downs: Sequence[Incident], *, continues: bool) -> Process:
        """The process that answers at `first_us`: the one that runs, or a new one after what took the last one down."""
        if self.running is not None and continues:
            return self.running
        incident = max((i for i in downs if i.end_us <= first_us), key=lambda i: i.end_us)
        # A restart begins seconds after the last reading; a new replica takes up to 75 s until it answers.
        start_us = incident.start_us + 1_700_000 if incident.kind == "engine-restart" else incident.end_us - 75_300_000
        earliest_us = max(incident.start_us, self.options.start_us) + 300_000
        return self._new_process(min(max(start_us, earliest_us), first_us - 100_000))

    def _demand(self, index: int, times: Ints) -> Floats:
        """Requests/s asked of this replica: time of day and bursts, which all replicas of the workload share."""
        load = self.plan.workload
        hour = (times % 86_400_000_000) / 3.6e9
        day = 0.75 + 0.25 * (0.5 + 0.5 * np.cos((hour - load.peak_hour) * (2 * np.pi / 24)))
        name = int.from_bytes(hashlib.blake2b(load.name.encode(), digest_size=4).digest(), "big")
        rng = np.random.default_rng([self.options.seed, 11, name, index])
        span_us = int(times[-1] - times[0])
        burst = np.ones(times.size)
        for _ in range(int(rng.poisson(2.0 * span_us / 3.6e9))):
            start = int(times[0]) + int(rng.uniform(0, span_us))
            end = start + int(rng.uniform(60, 360) * 1e6)
            burst[(times >= start) & (times < end)] = rng.uniform(1.3, 1.9)
        return np.asarray(self.busiest * day * burst, dtype=np.float64)


def _fields(process: Process, served: Served, max_num_seqs: int, thrash: Flags, rng: np.random.Generator) -> Ints:
    """Columns in the order of ENGINE_FIELDS. A full batch now and then puts a request back, a full cache many."""
    inputs = _whole(process.input_tokens + served.input_tokens)
    cached = np.minimum(inputs, _whole(process.cached_input_tokens + served.cached_input_tokens))
    full = served.batch >= 0.999 * max_num_seqs
    put_back = np.round(0.15 * np.diff(served.requests, prepend=0.0) * thrash).astype(np.int64)
    columns = (
        inputs,
        cached,
        inputs - cached,
        _whole(process.output_tokens + served.output_tokens),
        _whole(process.requests + served.requests),
        process.preemptions + np.cumsum(rng.poisson(0.3, full.size) * full + put_back),
        np.round(served.batch).astype(np.int64),
        np.round(served.waiting).astype(np.int64),
        np.where(thrash, 995, np.round(900 * served.batch / max_num_seqs).astype(np.int64).clip(0, 1000)),
    )
    return np.stack(columns, axis=1)


def _whole(tokens: Floats) -> Ints:
    return np.floor(tokens).astype(np.int64)


def _after(process: Process, served: Served, queue: Queue, preemptions: int, observed: Floats) -> Process:
    """The process at the end of a chunk."""
    return dataclasses.replace(
        process,
        requests=process.requests + float(served.requests[-1]),
        input_tokens=process.input_tokens + float(served.input_tokens[-1]),
        cached_input_tokens=process.cached_input_tokens + float(served.cached_input_tokens[-1]),
        output_tokens=process.output_tokens + float(served.output_tokens[-1]),
        preemptions=preemptions,
        queue=queue,
        observed=observed,
    )


def inside(times: Ints, incidents: Sequence[Incident], *kinds: str) -> Flags:
    """Which ticks lie in (start, end] of any incident of these kinds."""
    found = np.zeros(times.size, bool)
    for incident in incidents:
        if incident.kind in kinds:
            found |= (times > incident.start_us) & (times <= incident.end_us)
    return found


def runs(flags: Flags) -> list[tuple[int, int]]:
    """[first, last) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
