"""Detectors: minutes of engines and boards in, incidents out. Pure; one detector a file.

A detector marks the minutes in which its inefficiency shows; `incidents` joins marked minutes into incidents with
hysteresis, so that one busy minute neither ends an incident nor begins one. What an incident cost is the energy of
its own marked minutes, in integer millijoules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

MINUTE_US = 60_000_000
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Minutes:
    """Minutes of many subjects, sorted by subject and time. All columns have one entry per minute; NaN is unknown.

    `offsets` int64 [s+1]: CSR over subjects; `minute_us`: start of the minute. Energies in millijoules by account;
    `power_ratio`: mean power over the boards' limit; `idle_power_ratio`: the lowest tenth of it that the subject
    showed without tokens; `requests_*`: means; `untrusted_us`: time without a trusted reading; `boards`: boards held.
    """

    offsets: Int64
    minute_us: Int64
    serving_mj: Int64
    idle_loaded_mj: Int64
    idle_empty_mj: Int64
    estimated_mj: Int64
    output_tokens: Int64
    anomalies: Int64
    untrusted_us: Int64
    power_ratio: Float64
    utilisation_ratio: Float64
    requests_running: Float64
    requests_waiting: Float64

    @property
    def subject(self) -> Int64:
        """Index of the subject of each minute."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclasses.dataclass(frozen=True, slots=True)
class Incident:
    """One stretch of waste of one subject: [since_us, until_us); `over` when it had ended before the data did."""

    subject: int
    since_us: int
    until_us: int
    over: bool
    energy_mj: int
    evidence: Mapping[str, float | int | str]
    summary: str
    remedy: str


class Detector(Protocol):
    """What to look for, in what, and what to say."""

    @property
    def kind(self) -> str: ...

    @property
    def looks_at(self) -> Literal["engine", "accelerator"]: ...

    def detect(self, minutes: Minutes) -> list[Incident]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """Marked minutes of one subject that belong together: rows [first, last] of the table."""

    subject: int
    first: int
    last: int
    over: bool


def incidents(minutes: Minutes, marked: NDArray[np.bool_], *, opens_after: int, closes_after: int) -> list[Run]:
    """Join marked minutes into runs.

    A run opens when `opens_after` minutes are marked with never more than `closes_after` minutes unmarked or missing
    between two of them; it is over once `closes_after` minutes of data followed its last marked minute.
    """
    runs: list[Run] = []
    for subject in range(len(minutes.offsets) - 1):
        low, high = int(minutes.offsets[subject]), int(minutes.offsets[subject + 1])
        rows = low + np.flatnonzero(marked[low:high])
        if len(rows) < opens_after:
            continue
        times = minutes.minute_us[rows]
        breaks = np.flatnonzero(np.diff(times) > (closes_after + 1) * MINUTE_US) + 1
        for part in np.split(rows, breaks):
            if len(part) >= opens_after:
                silent_us = int(minutes.minute_us[high - 1] - minutes.minute_us[part[-1]])
                runs.append(Run(subject, int(part[0]), int(part[-1]), silent_us > closes_after * MINUTE_US))
    return runs


def span(minutes: Minutes, run: Run) -> tuple[int, int]:
    """[since, until) of a run in microseconds."""
    return int(minutes.minute_us[run.first]), int(minutes.minute_us[run.last]) + MINUTE_US


def mean(values: Float64) -> float:
    """Mean of the known values, NaN when none is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def watts(energy_mj: int, run_us: int) -> float:
    """Mean power of an energy over a time: mJ / us = kW."""
    return energy_mj * 1000 / run_us if run_us else 0.0
