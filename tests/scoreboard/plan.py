"""What will happen in a simulated week: which workloads there are, what looks like waste and isn't, and what is.

The first day holds no incident, as a service has learnt a day before anyone looks. Everything is drawn from a seed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from scoreboard.figures import FIGURES
from scoreboard.physics import Plant, build

Float = NDArray[np.float64]
DAY = 1440
KINDS = (
    *("idle-loaded", "idle-empty", "spin-idle", "low-batch", "kv-thrash", "throttled", "straggler", "regression"),
    *("over-provisioned", "queue-starved", "cache-miss", "telemetry-untrusted"),
)
BENIGN = (
    *("deploy", "batch-job", "traffic-shift", "pause", "longer-prompts", "lost-minutes", "restart"),
    *("scale-down", "hot-minutes"),
)
# Pairs that are seen side by side: neither is the cause of the other, nor hidden by it.
TOGETHER = (
    *(("regression", "cache-miss"), ("straggler", "cache-miss"), ("throttled", "cache-miss")),
    *(("low-batch", "cache-miss"), ("over-provisioned", "cache-miss"), ("over-provisioned", "regression")),
    *(("queue-starved", "cache-miss"), ("regression", "telemetry-untrusted"), ("regression", "idle-loaded")),
    *(("throttled", "telemetry-untrusted"), ("regression", "spin-idle"), ("cache-miss", "idle-loaded")),
)
_FILLED = 72.0  # requests at once: every workload but the one that is always low has its busy hours
_SHORTEST = 40
_APART = 90
_TRIES = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """One workload. `peak_batch`: what each replica runs in the busiest hour; `low_ratio`: night over peak."""

    name: str
    plant: Plant
    replicas: int
    max_batch: int
    peak_batch: float
    low_ratio: float
    peak_minute: int
    weekend_ratio: float
    input_tokens: float
    output_tokens: float
    cached_ratio: float
    counts_recomputed: bool
    always_low: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that befalls some replicas of a workload in minutes [since, until). `benign`: no finding is due."""

    kind: str
    workload: int
    replicas: tuple[int, ...]
    since: int
    until: int
    size: float = 0.0
    form: int = 0
    benign: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A fleet and its week: `minutes` in all. `spare_boards` belong to no workload that is watched."""

    minutes: int
    specs: tuple[Spec, ...]
    events: tuple[Event, ...]
    spare_boards: int


def draw(seed: int, days: int = 8, workloads: int = 0) -> Plan:
    """The plan of a seed; `workloads` 0 draws their number too."""
    rng = np.random.default_rng([seed, 1])
    count = workloads or int(rng.integers(10, 14))
    chosen = rng.permutation(len(FIGURES))[:count]
    specs = [_spec(rng, int(figure), f"workload-{i}") for i, figure in enumerate(chosen)]
    low = int(rng.integers(count))
    specs[low] = dataclasses.replace(
        specs[low], replicas=1, peak_batch=float(rng.uniform(4, 8)), low_ratio=0.4, weekend_ratio=0.9, always_low=True
    )
    spare = int(rng.integers(4, 9))
    minutes = days * DAY
    draft = _Draft(rng, minutes, specs, spare)
    return Plan(minutes, tuple(specs), draft.events(), spare)


def shape(spec: Spec, minutes: int) -> Float:
    """Demand over its peak, minute by minute: a day, and a weekend of quieter ones."""
    at = np.arange(minutes)
    day = 0.5 + 0.5 * np.cos(2 * np.pi * (at - spec.peak_minute) / DAY)
    weekend = (at // DAY) % 7 >= 5
    return np.asarray((spec.low_ratio + (1 - spec.low_ratio) * day**1.3) * np.where(weekend, spec.weekend_ratio, 1.0))


def _spec(rng: np.random.Generator, figure: int, name: str) -> Spec:
    plant = build(FIGURES[figure], rng)
    most = {1: 8, 2: 6, 4: 4, 8: 3}[plant.boards]
    # Not larger than the batch that was measured for this model and fits its memory.
    max_batch = int(rng.choice([128, 192, 256]))
    max_batch = min(max_batch, int(FIGURES[figure].points[-1][0]))
    replicas = 1 + int(rng.integers(most) if rng.random() < 0.8 else 0)
    # Well run: in the busiest hour one replica less would not do, and all together just about do.
    full = float(plant.rate(np.array([0.9 * max_batch]))[0])
    filled = float(plant.rate(np.array([_FILLED]))[0]) / full
    busy = float(rng.uniform(min(0.95, max(0.6, filled, 1.04 * (replicas - 1) / replicas)), 0.97))
    return Spec(
        name,
        plant,
        replicas,
        max_batch,
        peak_batch=float(plant.batch(np.array([busy * full]))[0]),
        low_ratio=float(rng.uniform(0.1, 0.35)),
        peak_minute=int(rng.normal(14 * 60, 180)) % DAY,
        weekend_ratio=float(rng.uniform(0.55, 0.9)),
        input_tokens=float(np.exp(rng.uniform(np.log(500), np.log(4000)))),
        output_tokens=float(np.exp(rng.uniform(np.log(180), np.log(800)))),
        cached_ratio=float(rng.uniform(0.3, 0.75)),
        counts_recomputed=bool(rng.random() < 0.5),
        always_low=False,
    )


class _Draft:
    """Places events so that no two meet on one workload unless they are meant to."""

    def __init__(self, rng: np.random.Generator, minutes: int, specs: list[Spec], spare: int) -> None:
        self.rng, self.minutes, self.specs = rng, minutes, specs
        self.demand = [shape(spec, minutes) for spec in specs]
        self.placed: list[Event] = []
        self.spare_free = [2 * DAY // 3] * spare

    def events(self) -> tuple[Event, ...]:
        """Incidents first, then companions of some, then the look-alikes round them."""
        for kind in KINDS:
            for _ in range(int(self.rng.integers(1, 4))):
                self._incident(kind)
        hosts = [event for event in self.placed if event.workload >= 0]
        for host in hosts:
            if self.rng.random() < 0.35:
                self._companion(host)
        for kind in BENIGN:
            for workload in range(len(self.specs)):
                for _ in range(int(self.rng.integers(1, 4))):
                    self._look_alike(kind, workload)
        return tuple(self.placed)

    def _incident(self, kind: str) -> None:
        if kind == "idle-empty":
            self._empty_boards()
            return
        for _ in range(_TRIES):
            workload = int(self.rng.integers(len(self.specs)))
            event = self._propose(kind, workload, DAY + 60, self.minutes - _SHORTEST)
            if event is not None and self._free(event):
                self.placed.append(event)
                return

    def _companion(self, host: Event) -> None:
        partners = [b if a == host.kind else a for a, b in TOGETHER if host.kind in (a, b)]
        if not partners or host.until - host.since < 2 * _SHORTEST:
            return
        kind = partners[int(self.rng.integers(len(partners)))]
        for _ in range(_TRIES):
            event = self._propose(kind, host.workload, host.since, host.until - _SHORTEST // 2)
            # Where the only replica stands idle, nothing else of it can be seen.
            alone = self.specs[host.workload].replicas == 1 and {kind, host.kind} & {"idle-loaded", "spin-idle"}
            if not alone and event is not None and self._free(event, beside=host):
                self.placed.append(event)
                return

    def _propose(self, kind: str, workload: int, first: int, last: int) -> Event | None:
        """One try: the event at a random time in [first, last), or None where it would not show."""
        rng, spec, demand = self.rng, self.specs[workload], self.demand[workload]
        if spec.always_low or last <= first:
            return None
        since = int(rng.integers(first, last))
        n, one = spec.replicas, (int(rng.integers(spec.replicas)),)
        everyone = tuple(range(n))
        batch = spec.peak_batch * demand[since] ** 1.2
        size, form, longest = 0.0, 0, 20 * 60
        who: tuple[int, ...] = one
        match kind:
            case "idle-loaded" | "spin-idle":
                fits = n >= 3 or n == 1
                size, longest = float(rng.uniform(0.36, 0.6)), 12 * 60
                form = int(rng.integers(2))
            case "low-batch":
                size, fits, longest = float(rng.uniform(1, 10)), n >= 2 and batch >= 40, 12 * 60
            case "kv-thrash":
                size, fits = float(rng.uniform(0.05, 0.4)), batch >= 24
                longest = min(6 * 60, self._busy_for(workload, since))
            case "throttled":
                size, fits, form = float(rng.uniform(0.15, 0.45)), batch >= 12, int(rng.integers(4))
            case "straggler":
                form = int(rng.integers(2)) if spec.plant.boards > 1 else 0
                size, fits = float(rng.uniform(0.1, 0.6)), batch >= 12 and (n >= 3 or (form == 1))
            case "regression":
                size, fits, who, form = float(rng.uniform(0.1, 0.5)), batch >= 8, everyone, int(rng.integers(2))
            case "over-provisioned":
                size, fits, who = float(rng.integers(1, 3)), n <= 3 and spec.plant.boards <= 4, everyone
            case "queue-starved":
                size, fits, longest = float(rng.uniform(3, max(4.0, batch / 5))), batch >= 32, 10 * 60
            case "cache-miss":
                most = min(0.6, spec.cached_ratio - 0.03)
                size, fits, who = float(rng.uniform(0.2, max(0.2, most))), most > 0.2 and batch >= 8, everyone
            case _:  # telemetry-untrusted
                fits, form, longest = True, int(rng.integers(3)), 10 * 60
        shortest = 240 if kind in ("over-provisioned", "regression") else _SHORTEST
        longest = min(longest, self.minutes - since)
        if not fits or longest < shortest:
            return None
        until = since + int(np.exp(rng.uniform(np.log(shortest), np.log(longest + 1))))
        return Event(kind, workload, who, since, until, size, form)

    def _busy_for(self, workload: int, since: int) -> int:
        quiet = np.flatnonzero(self.demand[workload][since:] < 0.35)
        return int(quiet[0]) if quiet.size else self.minutes - since

    def _free(self, event: Event, beside: Event | None = None) -> bool:
        return all(
            other is beside
            or other.workload != event.workload
            or other.until + _APART <= event.since
            or event.until + _APART <= other.since
            for other in self.placed
        ) and not (beside is not None and event.kind == beside.kind)

    def _empty_boards(self) -> None:
        """One or two spare boards, that worked for others before, are released for hours."""
        first = int(self.rng.integers(len(self.spare_free)))
        since = self.spare_free[first] + int(self.rng.integers(DAY // 2, 2 * DAY))
        until = since + int(np.exp(self.rng.uniform(np.log(60), np.log(20 * 60))))
        if until < self.minutes:
            self.placed.append(Event("idle-empty", -1, (first,), since, until))
            self.spare_free[first] = until

    def _look_alike(self, kind: str, workload: int) -> None:
        rng, spec = self.rng, self.specs[workload]
        since = int(rng.integers(6 * 60, self.minutes - 4 * 60))
        who: tuple[int, ...] = tuple(range(spec.replicas))
        size, lasts = 0.0, 1
        match kind:
            case "deploy":  # one replica after the other, ten minutes each; `form` says that the version changes
                lasts = 14 * spec.replicas
            case "restart":
                who, lasts = (int(rng.integers(spec.replicas)),), 14
            case "batch-job":
                size, lasts = float(rng.uniform(1.1, 1.6)), int(rng.integers(60, 181))
            case "traffic-shift":
                most = 0.25 if spec.replicas > 2 else 0.12
                who, size = (int(rng.integers(spec.replicas)),), 1 + float(rng.choice([-1, 1])) * most
                lasts = int(rng.integers(60, 360))
            case "pause":
                lasts = int(rng.integers(2, 7))
            case "scale-down":  # by night a third of the replicas is given back
                who = who[-(spec.replicas // 3) :] if spec.replicas > 2 else ()
                since = since - since % DAY + (spec.peak_minute + DAY // 2 - 200) % DAY
                lasts = int(rng.integers(240, 400))
            case "hot-minutes":  # clock events that come and go
                who, lasts = (int(rng.integers(spec.replicas)),), int(rng.integers(1, 4))
            case "longer-prompts":
                size, lasts = 1.5, int(rng.integers(120, 600))
            case _:  # lost-minutes
                who, lasts = (int(rng.integers(spec.replicas)),), int(rng.integers(1, 3))
        event = Event(kind, workload, who, since, since + lasts, size, int(rng.integers(2)), benign=True)
        unfit = spec.always_low and kind in ("batch-job", "pause")
        if who and not unfit and event.until < self.minutes and self._free(event):
            self.placed.append(event)
