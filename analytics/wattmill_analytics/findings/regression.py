"""regression: from one moment on a workload needs more energy for its tokens than its own curve says, at equal load.

A CUSUM over the workload's minutes: the residual that three in five of its judged energy exceed, so that one bad
replica is not the workload's regression. Fires at a lasting 8 % and more; names the moment, and the change of the
engine's version if there was one between 15 minutes before it and 15 minutes after it was known: a rise that is told
from noise looks older than it is, and then the change is the moment. As a rolling restart loads the replicas that are
left before the first new one runs, the version may become known after the incident. It is over when the residual has
come half way back.

Cost: energy above the curve over its minutes, of all engines of the workload that another kind has not explained. What
the workload lay above or below its curve in the 12 hours before, 5 % at most, is taken as usual, and kept with
the finding for when those hours are out of sight (`levels_under_way`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.minutes import MINUTE_US, Bool, EngineMinutes, Float64
from wattmill_analytics.findings.residuals import level_before, residuals, rows_between, trusted
from wattmill_analytics.findings.shifts import EIGHT_PERCENT, shifts
from wattmill_analytics.findings.siblings import workload_minutes

COINCIDES_US = 15 * MINUTE_US


@dataclasses.dataclass(frozen=True, slots=True)
class VersionChange:
    """Codes of the version before and after, and the minute in which the first engine ran the new one."""

    before: int
    after: int
    at_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class Regression:
    """A workload whose energy per token has risen by at least 8 % against its own curve."""

    kind: str = "regression"
    about: Literal["engine", "workload"] = "workload"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        residual, requests = residuals(minutes, hidden)
        workloads, offsets, minute_us, x, sums = workload_minutes(minutes, residual, requests)
        found = []
        first_engine = np.array([np.argmax(minutes.workload == w) for w in workloads.tolist()], np.int64)
        levels, began_us = minutes.under_way(self.kind)
        levels, began_us = levels[first_engine], began_us[first_engine]
        for run in shifts(offsets, minute_us, x, sums, EIGHT_PERCENT, (levels, began_us)):
            workload = int(workloads[run.subject])
            span = int(minute_us[run.first]), int(minute_us[run.last]) + MINUTE_US
            known_us = int(minute_us[run.opened]) + MINUTE_US
            versions = _version_change(minutes, workload, span[0], known_us)
            if versions is not None and versions.at_us > span[0] + COINCIDES_US:
                span = min(versions.at_us, int(minute_us[run.opened])), span[1]
            level = level_before(
                *(minutes, np.flatnonzero(minutes.workload == workload), span[0]),
                *(residual, requests, float(levels[run.subject])),
            )
            found.append(
                _incident(minutes, workload, span, known_us, run.over, hidden, residual, requests, level, versions)
            )
        return found


def _incident(
    minutes: EngineMinutes,
    workload: int,
    span: tuple[int, int],
    known_us: int,
    over: bool,
    hidden: Bool,
    residual: Float64,
    requests: Float64,
    level: float,
    versions: VersionChange | None,
) -> Incident:
    since_us, until_us = span
    engines = np.flatnonzero(minutes.workload == workload).tolist()
    parts = [rows_between(minutes, engine, since_us, until_us) for engine in engines]
    served = [rows[(requests[rows] > 0)] for rows in parts]
    means = [float(np.average(residual[rows], weights=requests[rows])) for rows in served if rows.size]
    rows = np.concatenate(parts)
    rows = rows[~hidden[rows] & trusted(minutes)[rows]]
    rows = rows[(minutes.output_tokens[rows] > 0) & (minutes.expected_mj[rows] > 0)]
    spent_mj = int(minutes.serving_mj[rows].sum())
    usual_mj = float(minutes.expected_mj[rows].sum()) * math.exp(level)
    output = int(minutes.output_tokens[rows].sum())
    ratio = spent_mj / usual_mj
    affected = sum(mean >= math.log(ratio) / 2 for mean in means)
    evidence: dict[str, float | int | str] = {
        "minutes": (until_us - since_us) // MINUTE_US,
        "energy_ratio": round(ratio, 3),
        "usual_energy_ratio": round(math.exp(level), 3),
        "joules_per_output_token": round(spent_mj / 1000 / output, 4),
        "usual_joules_per_output_token": round(usual_mj / 1000 / output, 4),
        "engines_affected": int(affected),
        "engines_judged": len(means),
    }
    summary = (
        f"from one moment on needs {100 * (ratio - 1):.0f} % more energy a token than its own curve at "
        f"equal load: {spent_mj / 1000 / output:.3g} J where {usual_mj / 1000 / output:.3g} J was usual"
    )
    if versions is not None:
        evidence |= {"version_before": versions.before, "version_after": versions.after}
        summary += "; it began with a change of the engine's version"
    return Incident(
        *(workload, since_us, until_us, known_us, over, max(0, int(spent_mj - usual_mj))),
        evidence=evidence,
        summary=summary,
        remedy=(
            "Roll back the engine's version (kubectl rollout undo deployment/NAME) and compare at the same load. "
            if versions is not None
            else "Look for what changed at that moment: image, flags, driver, power limit. "
        )
        + "Usual causes: quantization or dtype, attention backend, --enforce-eager or lost CUDA graphs, speculative "
        "decoding with few accepted tokens, locked clocks (nvidia-smi -rgc).",
    )


def _version_change(minutes: EngineMinutes, workload: int, since_us: int, known_us: int) -> VersionChange | None:
    """The change that most engines made from 15 minutes before `since_us` to 15 minutes after `known_us`."""
    changes: dict[tuple[int, int], list[int]] = {}
    for engine in np.flatnonzero(minutes.workload == workload):
        low, high = minutes.offsets[engine], minutes.offsets[engine + 1]
        around = [since_us - COINCIDES_US, known_us + COINCIDES_US]
        first, last = low + np.searchsorted(minutes.minute_us[low:high], around)
        rows = np.arange(max(low, first - 1), last)
        rows = rows[minutes.version[rows] >= 0]
        known = minutes.version[rows]
        if known.size and known[0] != known[-1]:
            at = rows[np.argmax(known != known[0])]
            changes.setdefault((int(known[0]), int(known[-1])), []).append(int(minutes.minute_us[at]))
    if not changes:
        return None
    (before, after), at_us = max(changes.items(), key=lambda change: len(change[1]))
    return VersionChange(before, after, min(at_us))
