"""Workers: boards of this node that compute for an engine whose counters are read on another node.

Configured under `workers:`, or pods that a LeaderWorkerSet, KubeRay or the label wattmill.io/role makes one. A worker
has no counters; its energy belongs to its workload, and how busy its boards are says whether it works.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from wattmill_collector.placement import Placement, Seat
from wattmill_collector.sources.engine_target import Problems
from wattmill_collector.targets import WorkerSettings
from wattmill_collector.wire import EngineReading


@dataclasses.dataclass(slots=True)
class Worker:
    """One worker, what it is called, and what was said of it."""

    seat: Seat
    target: str
    series: str = ""
    workload: str = ""
    team: str = ""
    model: str = ""
    pod: tuple[str, str] = ("", "")
    problems: Problems = dataclasses.field(default_factory=dict)
    since_us: dict[str, int] = dataclasses.field(default_factory=dict)


def configured_workers(settings: Sequence[WorkerSettings]) -> list[Worker]:
    """Those of the configuration, numbered for each engine; its own series is none of theirs, should it be here too."""
    found: list[Worker] = []
    for nth, one in enumerate(settings):
        target = one.engine or f"worker:{one.workload}"
        same = sum(other.target == target for other in found)
        seat = Seat(f"worker {nth}", one.accelerators, is_worker=True)
        found.append(Worker(seat, target, f"worker {same}", one.workload, one.team, one.model))
    return found


def reading_of_worker(worker: Worker, placement: Placement, activity_ppm: int | None) -> EngineReading:
    """What is said of a worker at a tick."""
    return EngineReading(
        target=worker.target,
        series=worker.series,
        model=worker.model,
        workload=worker.workload,
        team=worker.team,
        accelerators=placement.accelerators,
        method=placement.method,
        confidence=placement.confidence,
        accelerator_shares_ppm=placement.shares_ppm,
        share_by=placement.share_by,
        role="worker",
        activity_ppm=activity_ppm,
    )
