"""spin-idle: power without tokens. An engine that works hard while nothing moves: busy-wait, health probes, a hang.

Told from idle-loaded by power: a board that only holds a model draws about a sixth of its limit (ML.ENERGY and vendor
figures: 70-140 W of 700 W on H100), so more than a third of it for minutes without one token is work for nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.findings import Incident, Minutes, incidents, mean, span, watts

SPINNING_POWER_RATIO = 0.33


def is_spinning(minutes: Minutes) -> NDArray[np.bool_]:
    """Minutes in which boards drew more than a third of their limit and no token came or went."""
    held = (minutes.idle_loaded_mj > 0) | (minutes.serving_mj > 0)
    power = np.nan_to_num(minutes.power_ratio, nan=0.0)
    return np.asarray(held & (minutes.output_tokens == 0) & (power > SPINNING_POWER_RATIO))


@dataclasses.dataclass(frozen=True, slots=True)
class SpinIdle:
    """At least 10 minutes of power without tokens."""

    kind: str = "spin-idle"
    looks_at: Literal["engine", "accelerator"] = "engine"

    def detect(self, minutes: Minutes) -> list[Incident]:
        marked = is_spinning(minutes)
        found = []
        for run in incidents(minutes, marked, opens_after=10, closes_after=3):
            rows = slice(run.first, run.last + 1)
            energy_mj = int((minutes.idle_loaded_mj + minutes.serving_mj)[rows][marked[rows]].sum())
            since_us, until_us = span(minutes, run)
            power_w = watts(energy_mj, int(marked[rows].sum()) * 60_000_000)
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, run.over, energy_mj),
                    evidence={
                        "minutes": int(marked[rows].sum()),
                        "mean_power_watts": round(power_w, 1),
                        "mean_power_ratio": round(mean(minutes.power_ratio[rows]), 3),
                        "output_tokens": 0,
                    },
                    summary=f"power without tokens: {power_w:.0f} W for {marked[rows].sum()} minutes, not one token",
                    remedy="Look for a hung or busy-waiting engine (py-spy dump, restart it), for warm-up or health "
                    "probes that run inference (probe /health instead), and for another process on the same boards.",
                )
            )
        return found
