"""idle-loaded: a model sits in memory and nobody asks it anything. idle-empty: a board that holds nothing stays on.

Both are read off the ledger's accounts: the energy of the incident is what those accounts were charged. A short pause
is how serving works, so an incident needs a stretch far longer than the pauses between requests.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from wattmill_analytics.findings import Incident, Minutes, incidents, mean, span, watts
from wattmill_analytics.findings.spin_idle import is_spinning


@dataclasses.dataclass(frozen=True, slots=True)
class IdleLoaded:
    """An engine that held its boards for at least 15 minutes without work, at idle power."""

    kind: str = "idle-loaded"
    looks_at: Literal["engine", "accelerator"] = "engine"

    def detect(self, minutes: Minutes) -> list[Incident]:
        marked = (minutes.idle_loaded_mj > 0) & (minutes.serving_mj == 0) & ~is_spinning(minutes)
        found = []
        for run in incidents(minutes, marked, opens_after=15, closes_after=5):
            rows = slice(run.first, run.last + 1)
            energy_mj = int(minutes.idle_loaded_mj[rows][marked[rows]].sum())
            since_us, until_us = span(minutes, run)
            power_w = watts(energy_mj, int(marked[rows].sum()) * 60_000_000)
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, run.over, energy_mj),
                    evidence={
                        "idle_minutes": int(marked[rows].sum()),
                        "mean_power_watts": round(power_w, 1),
                        "output_tokens": 0,
                    },
                    summary=f"loaded but idle: {power_w:.0f} W for {marked[rows].sum()} minutes without a request",
                    remedy="Scale this replica to zero, or run fewer replicas, while there is no traffic (KEDA, "
                    "minReplicas: 0); use the engine's sleep mode; or put a second model on the same boards.",
                )
            )
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class IdleEmpty:
    """A board without process or model for at least 30 minutes."""

    kind: str = "idle-empty"
    looks_at: Literal["engine", "accelerator"] = "accelerator"

    def detect(self, minutes: Minutes) -> list[Incident]:
        marked = (minutes.idle_empty_mj > 0) & (minutes.serving_mj == 0) & (minutes.idle_loaded_mj == 0)
        found = []
        for run in incidents(minutes, marked, opens_after=30, closes_after=5):
            rows = slice(run.first, run.last + 1)
            energy_mj = int(minutes.idle_empty_mj[rows][marked[rows]].sum())
            since_us, until_us = span(minutes, run)
            power_w = watts(energy_mj, int(marked[rows].sum()) * 60_000_000)
            utilisation = mean(minutes.utilisation_ratio[rows])
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, run.over, energy_mj),
                    evidence={
                        "empty_minutes": int(marked[rows].sum()),
                        "mean_power_watts": round(power_w, 1),
                        **({} if utilisation != utilisation else {"mean_utilisation_ratio": round(utilisation, 4)}),
                    },
                    summary=f"empty but on: {power_w:.0f} W for {marked[rows].sum()} minutes with nothing on the board",
                    remedy="Give the board to a workload that waits, drain and power the node down, or lower its idle "
                    "clocks (nvidia-smi -lgc); check that the scheduler still offers it.",
                )
            )
        return found
