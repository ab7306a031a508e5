"""straggler: one replica needs more energy for its tokens than its siblings do, at equal load.

Told in two ways, either is enough. Siblings: replicas of the workload under the same curve and version, judged in the
same minute; the replica's residual lies 8 % or more above their median and stays there. A slow rank: one of the
replica's boards runs at 93 % or less of the others' median clock while it serves, and all ranks wait for it.

Cost: energy above what the siblings' median would have spent on the same tokens at the same load, less what the replica
differed by in the 12 hours before, 5 % at most, which is kept with the finding for when those hours are out of sight
(`levels_under_way`); above the curve where no sibling was judged; 0 where there is no curve.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from wattmill_analytics.findings import Incident, mean
from wattmill_analytics.findings.minutes import Bool, EngineMinutes, Float64, Int64
from wattmill_analytics.findings.residuals import level_before, residuals, trusted
from wattmill_analytics.findings.runs import Run, join, span_us
from wattmill_analytics.findings.shifts import EIGHT_PERCENT, shifts, united
from wattmill_analytics.findings.siblings import above_siblings

SLOW_RANK_RATIO = 0.93
OPENS_AFTER, CLOSES_AFTER = 6, 5


@dataclasses.dataclass(frozen=True, slots=True)
class Straggler:
    """A replica 8 % above its siblings, or with a rank that holds the others up for at least 6 minutes."""

    kind: str = "straggler"
    about: Literal["engine", "workload"] = "engine"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        residual, requests = residuals(minutes, hidden)
        x, others, siblings = above_siblings(minutes, residual, requests)
        compared = np.where(siblings > 0, requests, 0.0)
        levels, began_us = minutes.under_way(self.kind)
        apart = shifts(minutes.offsets, minutes.minute_us, x, compared, EIGHT_PERCENT, (levels, began_us))
        slow = (minutes.slow_board_ratio <= SLOW_RANK_RATIO) & (minutes.output_tokens > 0) & ~hidden
        ranks = join(minutes, slow, opens_after=OPENS_AFTER, closes_after=CLOSES_AFTER)
        found = []
        for run in united(apart, ranks):
            since_us = int(minutes.minute_us[run.first])
            usual = float(levels[run.subject])
            level = level_before(minutes, [run.subject], since_us, residual - others, compared, usual)
            found.append(_incident(minutes, run, hidden, slow, others, siblings, level))
        return found


def _incident(
    minutes: EngineMinutes, run: Run, hidden: Bool, slow: Bool, others: Float64, siblings: Int64, level: float
) -> Incident:
    rows = np.arange(run.first, run.last + 1)
    rows = rows[~hidden[rows] & (minutes.serving_mj[rows] > 0) & (minutes.output_tokens[rows] > 0)]
    usual = others[rows] + level
    filled = np.where(np.isnan(usual), np.nan_to_num(mean(usual)), usual)
    would_mj = minutes.expected_mj[rows] * np.exp(filled)
    known = ~np.isnan(would_mj) & trusted(minutes)[rows]
    spent_mj, usual_mj = int(minutes.serving_mj[rows][known].sum()), float(would_mj[known].sum())
    beside = int(siblings[rows].max()) if rows.size else 0
    evidence: dict[str, float | int | str] = {"minutes": int(rows.size), "siblings_compared": beside}
    parts = []
    if usual_mj > 0:
        evidence |= {
            "energy_ratio": round(spent_mj / usual_mj, 3),
            "usual_energy_ratio": round(math.exp(level), 3),
            "judged_minutes": int(known.sum()),
        }
        against = f"{beside} siblings" if beside > 1 else "its sibling" if beside else "its curve"
        parts.append(f"needs {100 * (spent_mj / usual_mj - 1):.0f} % more energy a token than {against} at equal load")
    held_up = rows[slow[rows]]
    if held_up.size:
        boards, counts = np.unique(minutes.slow_board[held_up], return_counts=True)
        ratio = mean(minutes.slow_board_ratio[held_up])
        evidence |= {
            "slow_board": int(boards[np.argmax(counts)]),
            "slow_board_clock_ratio": round(ratio, 3),
            "slow_board_minutes": int(held_up.size),
        }
        parts.append(f"one of its boards runs at {100 * ratio:.0f} % of the others' clock and holds them up")
    since_us, until_us, known_us = span_us(minutes, run)
    return Incident(
        *(run.subject, since_us, until_us, known_us, run.over, max(0, int(spent_mj - usual_mj))),
        evidence=evidence,
        summary="; ".join(parts) or "slower than its siblings",
        remedy="Take the replica out of the router and compare its boards with a sibling's (nvidia-smi -q -d "
        "CLOCK,PERFORMANCE,ECC; nvidia-smi nvlink -e; PCIe width; dcgmi diag -r 3). Give it other boards (kubectl "
        "cordon the node, delete the pod), and reset or replace the slow one (nvidia-smi -rgc if its clocks are "
        "locked).",
    )
