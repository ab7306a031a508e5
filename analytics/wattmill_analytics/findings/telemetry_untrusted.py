"""telemetry-untrusted: a board's numbers can't carry a bill: estimated energy, distrusted readings, missing time."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from wattmill_analytics.findings import MINUTE_US, Incident, Minutes, incidents, span


@dataclasses.dataclass(frozen=True, slots=True)
class TelemetryUntrusted:
    """At least 5 minutes, or one distrusted reading in each of 3, in which a board was not measured as it should be.

    The incident wastes nothing: its energy is 0, and the energy it makes doubtful stands in the evidence.
    """

    kind: str = "telemetry-untrusted"
    looks_at: Literal["engine", "accelerator"] = "accelerator"

    def detect(self, minutes: Minutes) -> list[Incident]:
        newest_us = int(minutes.minute_us.max()) if minutes.minute_us.size else 0
        complete = minutes.minute_us < newest_us  # the running minute is never whole
        marked = complete & (
            (minutes.estimated_mj > 0) | (minutes.anomalies > 0) | (minutes.untrusted_us > MINUTE_US // 2)
        )
        found = []
        for run in incidents(minutes, marked, opens_after=3, closes_after=15):
            rows = slice(run.first, run.last + 1)
            mine = marked[rows]
            energy = minutes.serving_mj + minutes.idle_loaded_mj + minutes.idle_empty_mj
            anomalies, missing_us = int(minutes.anomalies[rows].sum()), int(minutes.untrusted_us[rows][mine].sum())
            estimated_mj = int(minutes.estimated_mj[rows].sum())
            reasons = [
                text
                for text, there in (
                    ("energy integrated from power", estimated_mj > 0),
                    (f"{anomalies} distrusted readings", anomalies > 0),
                    (f"{missing_us // MINUTE_US} minutes without readings", missing_us >= MINUTE_US),
                )
                if there
            ]
            since_us, until_us = span(minutes, run)
            found.append(
                Incident(
                    *(run.subject, since_us, until_us, run.over, 0),
                    evidence={
                        "minutes": int(np.count_nonzero(mine)),
                        "anomalies": anomalies,
                        "estimated_mj": estimated_mj,
                        "doubtful_mj": int(energy[rows][mine].sum()),
                        "untrusted_seconds": missing_us // 1_000_000,
                    },
                    summary="not measured as it should be: " + (", ".join(reasons) or "incomplete readings"),
                    remedy="Run `wattmill doctor` on the node: it names the source that fails and the permission or "
                    "driver setting it needs. A frozen or jumping counter goes away with a driver reload or update.",
                )
            )
        return found
