"""spin-idle: power without tokens. An engine that works hard while nothing moves: busy-wait, health probes, a hang.

Told from idle-loaded by power: a board that only holds a model draws about a sixth of its limit (ML.ENERGY and vendor
figures: 70-140 W of 700 W on H100), so more than a third of it for minutes without one token is work for nothing.
Tokens are input and output: an engine that only reads (embeddings, prefill for others) works.

A board on which no engine is known can do so too: a process left behind, a job that nobody registered. Whether its work
is for nothing can't be told from here; that nobody answers for the energy can, and that is what the finding says.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from wattmill_analytics.findings import Incident, mean, watts
from wattmill_analytics.findings.minutes import MINUTE_US, BoardMinutes, Bool, EngineMinutes
from wattmill_analytics.findings.runs import join, span_us

SPINNING_POWER_RATIO = 0.33


def is_spinning(minutes: EngineMinutes) -> Bool:
    """Minutes in which boards drew more than a third of their limit and no token came or went."""
    held = (minutes.idle_loaded_mj > 0) | (minutes.serving_mj > 0)
    power = np.nan_to_num(minutes.power_ratio, nan=0.0)
    silent = (minutes.output_tokens == 0) & (minutes.input_tokens <= 0)
    return np.asarray(held & silent & (power > SPINNING_POWER_RATIO))


def is_spinning_alone(minutes: BoardMinutes) -> Bool:
    """Minutes in which a board that no known engine held drew more than a third of its limit."""
    nobody = (minutes.serving_mj == 0) & (minutes.idle_loaded_mj == 0)
    return np.asarray(nobody & (np.nan_to_num(minutes.power_ratio, nan=0.0) > SPINNING_POWER_RATIO))


@dataclasses.dataclass(frozen=True, slots=True)
class SpinIdle:
    """At least 8 minutes of power without tokens."""

    kind: str = "spin-idle"
    about: Literal["engine", "workload"] = "engine"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        marked = is_spinning(minutes) & ~hidden
        found = []
        for run in join(minutes, marked, opens_after=8, closes_after=3):
            mine = marked[run.rows]
            count = int(np.count_nonzero(mine))
            energy_mj = int((minutes.idle_loaded_mj + minutes.serving_mj)[run.rows][mine].sum())
            power_w = watts(energy_mj, count * MINUTE_US)
            since_us, until_us, known_us = span_us(minutes, run)
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, known_us, run.over, energy_mj),
                    evidence={
                        "minutes": count,
                        "mean_power_watts": round(power_w, 1),
                        "mean_power_ratio": round(mean(minutes.power_ratio[run.rows]), 3),
                        "output_tokens": 0,
                    },
                    summary=f"power without tokens: {power_w:.0f} W for {count} minutes, not one token",
                    remedy="Look for a hung or busy-waiting engine (py-spy dump, restart it), for warm-up or health "
                    "probes that run inference (probe /health instead), and for another process on the same boards.",
                )
            )
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class SpinIdleBoard:
    """At least 10 minutes of power on a board that no known engine holds. Its energy is all that it drew."""

    kind: str = "spin-idle"

    def detect(self, minutes: BoardMinutes) -> list[Incident]:
        marked = is_spinning_alone(minutes)
        energy = minutes.idle_empty_mj + minutes.unattributed_mj if minutes.unattributed_mj.size else None
        found = []
        for run in join(minutes, marked, opens_after=10, closes_after=5):
            mine = marked[run.rows]
            count = int(np.count_nonzero(mine))
            energy_mj = int((minutes.idle_empty_mj if energy is None else energy)[run.rows][mine].sum())
            power_w = watts(energy_mj, count * MINUTE_US)
            utilisation = mean(minutes.utilisation_ratio[run.rows])
            since_us, until_us, known_us = span_us(minutes, run)
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, known_us, run.over, energy_mj),
                    evidence={
                        "minutes": count,
                        "mean_power_watts": round(power_w, 1),
                        "mean_power_ratio": round(mean(minutes.power_ratio[run.rows]), 3),
                        **({} if utilisation != utilisation else {"mean_utilisation_ratio": round(utilisation, 4)}),
                    },
                    summary=f"{power_w:.0f} W for {count} minutes by a process that no known engine owns",
                    remedy="Look who holds the board (nvidia-smi --query-compute-apps=pid,name,used_memory, the pods "
                    "on the node) and end what was left behind; if it is an engine, let the agent read its metrics; "
                    "if it is another job, suppress this kind for the board.",
                )
            )
        return found
