"""What goes wrong, where and when: drawn by seed for each period, besides what the scenario file asks for.

Promises: the same options give the same incidents; none makes exact totals ambiguous. An engine dies right after a tick
that is delivered, no reading is lost near an engine's end or a counter's glitch, and nothing is spoilt at the edges of
a period. A period is the run, or a day of a longer run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from wattmill_api.simulator.scenario import NodePlan, Options, ScenarioError, Wish

DAY_US = 86_400_000_000
MINUTE_US = 60_000_000
CALM_TICKS = 6  # ticks kept clean on both sides of anything that touches a reading

DOWN_KINDS = ("engine-restart", "engine-start", "idle-empty")
DEMAND_KINDS = ("idle-loaded", "spin-idle", "low-batch", "throttled", "straggler", "kv-thrash", "queue-starved")
# These hold for all replicas of a workload; a wish names one of them.
WORKLOAD_KINDS = ("regression", "cache-miss", "over-provisioned")
# Of an over-provisioned workload's replicas, those it needs serve it until the others are deployed when it begins: then
# each has this share of its usual demand, until the incident ends and the demand is as usual. Said only by a wish, and
# meant for replicas on one kind of board.
SPARE_DEMAND = 0.3
GLITCH_FORMS = ("backwards", "zero", "spike")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Incident:
    """Something that holds from just after the tick `start_us` up to and including the tick `end_us`.

    Ticks inside are touched; of what takes an engine down, `end_us` is the first reading of the new process.
    `engine` and `accelerator` are positions on the node, -1 where they do not matter. One of a whole workload has its
    name, and -1 for the node.
    """

    start_us: int
    end_us: int
    kind: str
    node: int
    engine: int = -1
    accelerator: int = -1
    form: str = ""
    workload: str = ""


def period_us(options: Options) -> int:
    """The whole run, or a day of a run that is longer or has no end."""
    return DAY_US if options.duration_us is None else min(DAY_US, options.duration_us)


def incidents_of_period(options: Options, nodes: Sequence[NodePlan], period: int) -> tuple[Incident, ...]:
    """Everything that begins in this period (0, 1, …), in order of time.

    Errors: ScenarioError when the scenario file names a node, replica or board that is not there.
    """
    length = period_us(options)
    begin = options.start_us + period * length
    wished = [
        incident
        for wish in options.scenario.wishes
        if period == (0 if wish.kind in ("engine-start", "over-provisioned") else wish.at_us // length)
        for incident in _granted(wish, options, nodes)
    ]
    drawn: Iterable[Incident] = ()
    if options.scenario.seeded:
        drawn = _Draw(options, nodes, period, begin, length, wished).all()
    return tuple(sorted((*wished, *drawn)))


def _granted(wish: Wish, options: Options, nodes: Sequence[NodePlan]) -> list[Incident]:
    if not 1 <= wish.node <= len(nodes):
        raise ScenarioError(f"the scenario wants {wish.kind} on node {wish.node}, but there are {len(nodes)} nodes")
    node = nodes[wish.node - 1]
    on_engine = wish.kind in DOWN_KINDS + DEMAND_KINDS + WORKLOAD_KINDS
    if on_engine and not 0 <= wish.engine < len(node.engines):
        raise ScenarioError(f"{wish.kind} wants engine {wish.engine} of {node.name}, which has {len(node.engines)}")
    if wish.kind == "energy-glitch" and not 0 <= wish.accelerator < len(node.uuids):
        raise ScenarioError(f"{wish.kind} wants board {wish.accelerator} of {node.name}, which has {len(node.uuids)}")
    if wish.kind == "energy-glitch" and wish.form and wish.form not in GLITCH_FORMS:
        raise ScenarioError(f"form of an energy-glitch must be one of {', '.join(GLITCH_FORMS)}, not {wish.form!r}")
    step = options.interval_us
    start = options.start_us + wish.at_us // step * step
    lasts = step if wish.kind == "energy-glitch" else max(2 * step, wish.lasts_us // step * step)
    if wish.kind == "engine-start":
        start, lasts = options.start_us - step, wish.at_us // step * step + step
    elif wish.kind in ("energy-glitch", "lost-readings") and wish.at_us < 2 * step:
        raise ScenarioError(f"{wish.kind} must not begin before the third tick: the first readings are the baseline")
    if wish.kind in WORKLOAD_KINDS:
        name = node.engines[wish.engine].workload.name
        if wish.kind == "over-provisioned":
            return _scaled_up(name, start, start + lasts, options, nodes)
        return [Incident(start, start + lasts, wish.kind, -1, workload=name)]
    return [
        Incident(
            start,
            start + lasts,
            wish.kind,
            wish.node - 1,
            wish.engine if on_engine else -1,
            wish.accelerator if wish.kind == "energy-glitch" else -1,
            wish.form or ("backwards" if wish.kind == "energy-glitch" else ""),
        )
    ]


def _scaled_up(name: str, start_us: int, end_us: int, options: Options, nodes: Sequence[NodePlan]) -> list[Incident]:
    replicas = [(node.index, e.index) for node in nodes for e in node.engines if e.workload.name == name]
    needed = math.ceil(SPARE_DEMAND * len(replicas))
    begin_us = options.start_us - options.interval_us
    form = f"{needed}/{len(replicas)}"  # replicas needed, and there
    late = replicas[needed:] if start_us > options.start_us else []
    starts = [Incident(begin_us, start_us, "engine-start", *replica) for replica in late]
    return [Incident(start_us, end_us, "over-provisioned", -1, form=form, workload=name), *starts]


class _Draw:
    """The seeded incidents of one period. Each kind is rare enough that most of the fleet is well at any time."""

    def __init__(
        self,
        options: Options,
        nodes: Sequence[NodePlan],
        period: int,
        begin: int,
        length: int,
        wished: Sequence[Incident],
    ) -> None:
        self.options, self.nodes, self.begin, self.length = options, nodes, begin, length
        self.first_period = period == 0
        self.rng = np.random.default_rng([options.seed, 7, period])
        self.busy: dict[int, list[tuple[int, int]]] = {}
        self.found: list[Incident] = []
        for incident in wished:
            self._occupy(incident)
        taken = {(i.node, i.engine) for i in wished if i.engine >= 0}
        engines = [(n.index, e.index) for n in nodes for e in n.engines if (n.index, e.index) not in taken]
        self.engines = [engines[int(i)] for i in self.rng.permutation(len(engines))]
        self.spoilt_at_most = max(1, len(engines) // 2)

    def all(self) -> list[Incident]:
        """Long conditions first, because they are hardest to place."""
        few = max(1, round(len(self.nodes) / 10))
        for kind in ("idle-loaded", "low-batch", "idle-empty", "spin-idle", "throttled"):
            for number in range(few):
                self._condition(kind, prompt=number == 0 and self.first_period)
        if self.first_period:
            for _ in range(few):
                self._late_start()
        for _ in range(max(1, self.rng.poisson(len(self.engines) * 0.5 * self.length / DAY_US))):
            self._restart()
        for i in range(max(3, len(self.nodes))):
            self._on_node("energy-glitch", lambda: self.options.interval_us, GLITCH_FORMS[i % 3])
        for _ in range(max(1, len(self.nodes) // 5)):
            self._on_node("lost-readings", lambda: int(self.rng.uniform(2, 10) * MINUTE_US))
            self._on_node("late-batches", lambda: int(self.rng.uniform(1, 20) * MINUTE_US))
        for _ in range(max(2, len(self.nodes) // 2)):
            self._on_node("duplicate-batches", lambda: 3 * self.options.interval_us)
        # What needs a day of its own to be told stays rare: only in fleets that have room for it.
        for kind in ("straggler", "kv-thrash", "queue-starved"):
            for _ in range(len(self.nodes) // 10):
                self._condition(kind, prompt=False)
        names = sorted({engine.workload.name for node in self.nodes for engine in node.engines})
        for kind, name in zip(("regression", "cache-miss"), self.rng.permutation(names), strict=False):
            if len(self.nodes) >= 20 and (window := self._window(0.05, 0.6, 0.3 * self.length)) is not None:
                self._add(Incident(*window, kind, -1, workload=str(name)))
        return self.found

    def _ticks(self, span_us: float) -> int:
        step = self.options.interval_us
        return max(step, int(span_us) // step * step)

    def _edge(self) -> int:
        return self._ticks(max(min(5 * MINUTE_US, self.length / 8), 2 * self.options.interval_us))

    def _window(self, earliest: float, latest: float, lasts: float) -> tuple[int, int] | None:
        """Start and end inside the period, its edges left alone; None when the period is too short."""
        edge = self._edge()
        start = self.begin + max(edge, self._ticks(self.rng.uniform(earliest, latest) * self.length))
        end = min(start + self._ticks(lasts), self.begin + self.length - edge)
        return (start, end) if end - start >= self.options.interval_us else None

    def _free(self, node: int, start: int, end: int) -> bool:
        calm = CALM_TICKS * self.options.interval_us
        return all(end + calm < s or start - calm > e for s, e in self.busy.get(node, ()))

    def _occupy(self, incident: Incident) -> None:
        """Remember where readings must be left alone: at both ends of what takes an engine away, else all along."""
        spans = [(incident.start_us, incident.end_us)]
        if incident.kind in DEMAND_KINDS + WORKLOAD_KINDS:
            spans = []
        elif incident.kind in ("engine-start", "idle-empty"):
            spans = [(incident.start_us, incident.start_us), (incident.end_us, incident.end_us)]
        self.busy.setdefault(incident.node, []).extend(spans)

    def _add(self, incident: Incident) -> None:
        self._occupy(incident)
        self.found.append(incident)

    def _next_engine(self) -> tuple[int, int] | None:
        if not self.spoilt_at_most or not self.engines:
            return None
        self.spoilt_at_most -= 1
        return self.engines.pop()

    def _condition(self, kind: str, *, prompt: bool) -> None:
        """Hours of one condition; the first of each kind begins soon: a new installation has something to show."""
        lasts = self.rng.uniform(0.15, 0.45) * self.length
        window = self._window(0.002, 0.01, lasts) if prompt else self._window(0.05, 0.6, lasts)
        if window is None or window[1] - window[0] < 2 * self.options.interval_us:
            return
        if (engine := self._next_engine()) is None:
            return
        if kind in DOWN_KINDS and not all(self._free(engine[0], edge, edge) for edge in window):
            return
        self._add(Incident(*window, kind, *engine))

    def _late_start(self) -> None:
        """A replica that is deployed while the run goes on: its counters are to be counted from zero."""
        window = self._window(0.02, 0.1, self.options.interval_us)
        if window is None or (engine := self._next_engine()) is None or not self._free(engine[0], window[0], window[0]):
            return
        self._add(Incident(self.options.start_us - self.options.interval_us, window[0], "engine-start", *engine))

    def _restart(self) -> None:
        if not self.engines:
            return
        node, engine = self.engines[int(self.rng.integers(len(self.engines)))]
        down_us = max(60e6, 2.0 * self.options.interval_us)
        self._place(
            lambda: self.rng.uniform(1.0, 2.5) * down_us, lambda s, e: Incident(s, e, "engine-restart", node, engine)
        )

    def _on_node(self, kind: str, lasts: Callable[[], int], form: str = "") -> None:
        node = self.nodes[int(self.rng.integers(len(self.nodes)))]
        board = int(self.rng.integers(len(node.uuids))) if kind == "energy-glitch" else -1
        self._place(lasts, lambda s, e: Incident(s, e, kind, node.index, -1, board, form))

    def _place(self, lasts: Callable[[], float], made: Callable[[int, int], Incident]) -> None:
        """Try a few times to find a calm place; a short or crowded run simply gets fewer incidents."""
        for _ in range(20):
            span = min(lasts(), self.length / 6)
            window = self._window(0.05, 0.85, span)
            if window is not None:
                incident = made(*window)
                if self._free(incident.node, *window):
                    self._add(incident)
                    return
