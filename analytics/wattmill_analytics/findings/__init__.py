"""Detectors: minutes of engines and boards in, incidents out. Pure; one detector a file.

A detector marks the minutes in which its inefficiency shows; `runs.join` joins marked minutes into incidents with
hysteresis. Whatever depends on load is judged at equal load, by the learnt curves (`curves`). What an incident cost is
counted in integer millijoules, by a rule that stands in the detector's first lines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np

from wattmill_analytics.findings.minutes import BoardMinutes, Bool, EngineMinutes, Float64

Evidence = Mapping[str, float | int | str]


@dataclasses.dataclass(frozen=True, slots=True)
class Incident:
    """One stretch of waste of one subject: [since_us, until_us); `over` when it had ended before the data did.

    `known_us`: the end of the minute at which it could first be told. `subject`: index of an engine, a board or, where
    the detector is about workloads, a workload.
    """

    subject: int
    since_us: int
    until_us: int
    known_us: int
    over: bool
    energy_mj: int
    evidence: Evidence
    summary: str
    remedy: str


class BoardDetector(Protocol):
    """What to look for in the minutes of boards, and what to say."""

    @property
    def kind(self) -> str: ...

    def detect(self, minutes: BoardMinutes) -> list[Incident]: ...


class EngineDetector(Protocol):
    """What to look for in the minutes of engines. `about`: whether subjects of its incidents are engines or workloads.

    `hidden` bool [n]: minutes that another kind has explained already; they must not be marked.
    """

    @property
    def kind(self) -> str: ...

    @property
    def about(self) -> Literal["engine", "workload"]: ...

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]: ...


def mean(values: Float64) -> float:
    """Mean of the known values, NaN when none is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def watts(energy_mj: int, run_us: int) -> float:
    """Mean power of an energy over a time: mJ / us = kW."""
    return energy_mj * 1000 / run_us if run_us else 0.0
