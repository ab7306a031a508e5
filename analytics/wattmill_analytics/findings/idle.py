"""idle-loaded: a model sits in memory and nobody asks it anything. idle-empty: a board that holds nothing stays on.

Both are read off the ledger's accounts: the energy of the incident is what those accounts were charged. A short pause
is how serving works, so an incident needs a stretch far longer than the pauses between requests.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from wattmill_analytics.findings import Incident, mean, watts
from wattmill_analytics.findings.minutes import MINUTE_US, BoardMinutes, Bool, EngineMinutes
from wattmill_analytics.findings.runs import Run, join, span_us
from wattmill_analytics.findings.spin_idle import is_spinning_alone

OPENS_AFTER, CLOSES_AFTER = 10, 5
RUNS_OUT_RATIO = 0.6
AGAIN_WITHIN_US = 6 * 60 * MINUTE_US


@dataclasses.dataclass(frozen=True, slots=True)
class IdleLoaded:
    """An engine that held its boards for at least 10 minutes without work, at idle power."""

    kind: str = "idle-loaded"
    about: Literal["engine", "workload"] = "engine"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        idle = (minutes.idle_loaded_mj > 0) & (minutes.serving_mj == 0) & ~hidden
        marked = idle | runs_out(minutes, idle)
        found = []
        for run in join(minutes, marked, opens_after=OPENS_AFTER, closes_after=CLOSES_AFTER):
            mine = idle[run.rows]
            count = int(np.count_nonzero(mine))
            energy_mj = int(minutes.idle_loaded_mj[run.rows][mine].sum())
            power_w = watts(energy_mj, count * MINUTE_US)
            since_us, until_us, known_us = span_us(minutes, run)
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, known_us, run.over, energy_mj),
                    evidence={
                        "idle_minutes": count,
                        "mean_power_watts": round(power_w, 1),
                        "output_tokens": 0,
                    },
                    summary=f"loaded but idle: {power_w:.0f} W for {count} minutes without a request",
                    remedy="Scale this replica to zero, or run fewer replicas, while there is no traffic (KEDA, "
                    "minReplicas: 0); use the engine's sleep mode; or put a second model on the same boards.",
                )
            )
        return found


def runs_out(minutes: EngineMinutes, idle: Bool) -> Bool:
    """The minute before each first idle one, if it made at most 0.6 of the tokens of the one before: traffic had ended.

    Requests that were running when it ended go on into the next minute; the stretch began when it ended.
    """
    output = minutes.output_tokens
    found: Bool = np.zeros(idle.size, np.bool_)
    last = np.flatnonzero(idle[1:] & ~idle[:-1])
    last = last[last >= 1]
    found[last] = output[last] <= RUNS_OUT_RATIO * output[last - 1]
    # The row after an engine's last, and the one before its first, are another's.
    begins, ends = minutes.offsets[:-1], minutes.offsets[1:]
    found[begins[begins < ends]] = False
    found[ends[begins < ends] - 1] = False
    return found


def folded(minutes: BoardMinutes, runs: list[Run]) -> list[tuple[Run, list[Run]]]:
    """Runs of one board with at most 6 hours between them as one, with what it is made of.

    A board that every job of a queue gives back for a while has one trouble, not one a job.
    """
    found: list[tuple[Run, list[Run]]] = []
    for run in runs:
        if found:
            whole, stretches = found[-1]
            apart_us = int(minutes.minute_us[run.first] - minutes.minute_us[whole.last])
            if whole.subject == run.subject and apart_us <= AGAIN_WITHIN_US:
                found[-1] = (dataclasses.replace(whole, last=run.last, over=run.over), [*stretches, run])
                continue
        found.append((run, [run]))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class IdleEmpty:
    """A board without process or model for at least 10 minutes; again and again within 6 hours is one incident."""

    kind: str = "idle-empty"

    def detect(self, minutes: BoardMinutes) -> list[Incident]:
        marked = (minutes.idle_empty_mj > 0) & (minutes.serving_mj == 0) & (minutes.idle_loaded_mj == 0)
        marked &= ~is_spinning_alone(minutes)
        found = []
        for run, stretches in folded(
            minutes, join(minutes, marked, opens_after=OPENS_AFTER, closes_after=CLOSES_AFTER)
        ):
            mine = np.zeros(run.last + 1 - run.first, np.bool_)
            for each in stretches:
                mine[each.first - run.first : each.last + 1 - run.first] = marked[each.rows]
            count = int(np.count_nonzero(mine))
            energy_mj = int(minutes.idle_empty_mj[run.rows][mine].sum())
            power_w = watts(energy_mj, count * MINUTE_US)
            utilisation = mean(minutes.utilisation_ratio[run.rows][mine])
            since_us, until_us, known_us = span_us(minutes, run)
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, known_us, run.over, energy_mj),
                    evidence={
                        "empty_minutes": count,
                        "mean_power_watts": round(power_w, 1),
                        **({"stretches": len(stretches)} if len(stretches) > 1 else {}),
                        **({} if utilisation != utilisation else {"mean_utilisation_ratio": round(utilisation, 4)}),
                    },
                    summary=f"empty but on: {power_w:.0f} W for {count} minutes with nothing on the board"
                    + (f", in {len(stretches)} stretches between jobs" if len(stretches) > 1 else ""),
                    remedy="Give the board to a workload that waits, drain and power the node down, or lower its idle "
                    "clocks (nvidia-smi -lgc); check that the scheduler still offers it.",
                )
            )
        return found
