"""throttled: the driver holds the clocks down while an engine serves, and says why by clock-event reasons.

Always suspicious when they last: software thermal, hardware thermal, hardware slowdown, power brake. They count alone,
with or without a curve. The software power cap is normal at full load, and what it costs there is part of the curve:
it counts only where the engine both makes fewer tokens and draws less than its curve says at equal concurrency, as
under a lowered power limit. Long prompts slow decoding too, but never at less power.

Cost: energy above the curve for the same tokens at the same load, summed over its minutes, never below 0 (a slow board
also draws less); what the engine lay off its curve in the 12 hours before, 5 % at most, is taken as usual, and kept
with the finding for when those hours are out of sight (`levels_under_way`). Beside it stand the tokens lost against the
curve.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.minutes import Bool, EngineMinutes, Float64
from wattmill_analytics.findings.residuals import level_before, residuals, trusted
from wattmill_analytics.findings.runs import Run, join, span_us
from wattmill_analytics.findings.shifts import EIGHT_PERCENT, shifts, united

POWER_CAP = 0x4
# Idle, application clocks, sync boost and display clocks are not throttling.
HARMFUL: dict[int, str] = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
HARMFUL_BITS = sum(HARMFUL)
OPENS_AFTER, CLOSES_AFTER = 5, 5

_COOL = (
    "Look at the node's fans, inlet air and heat sinks (nvidia-smi -q -d TEMPERATURE,PERFORMANCE), and move the "
    "replica until it is cool; a lower limit on purpose (nvidia-smi -pl) loses less than thermal slowdown does."
)
_FEED = (
    "Look at power supplies, cables and the rack's power budget: the board or the host asked for less power "
    "(nvidia-smi -q -d PERFORMANCE,POWER); move the replica until that is repaired."
)
_RAISE = (
    "Raise the board's power limit to its default (nvidia-smi -q -d POWER, nvidia-smi -pl WATTS), or, if the limit is "
    "meant, expect this speed: fewer requests a replica (max_num_seqs) keep latency."
)


def below_curve(minutes: EngineMinutes) -> Float64:
    """Smaller of ln(curve's speed / speed) and ln(curve's power / power) at equal concurrency [n], NaN unknown."""
    x = np.full(minutes.minute_us.size, np.nan)
    capped = (minutes.clock_event_reasons & POWER_CAP) != 0
    rows = np.flatnonzero(capped & (minutes.output_tokens > 0) & (minutes.serving_mj > 0))
    if not rows.size:
        return x
    output, expected = minutes.output_tokens[rows], minutes.expected_output_tokens[rows]
    curve = minutes.curve[np.searchsorted(minutes.offsets, rows, side="right") - 1]
    price = np.append(minutes.curves.prefill_mj_per_token, 0.0)[curve]  # curve -1: the 0 at the end
    decode_mj = (minutes.expected_mj[rows] - price * minutes.uncached_input_tokens[rows]) / output
    with np.errstate(invalid="ignore", divide="ignore"):
        speed = np.log(expected / output)
        power = np.log(np.maximum(decode_mj * expected, 0.0) / minutes.serving_mj[rows])
    x[rows] = np.minimum(speed, power)
    return x


@dataclasses.dataclass(frozen=True, slots=True)
class Throttled:
    """A harmful reason in at least 5 minutes of serving, or a power cap that costs 8 % of the speed."""

    kind: str = "throttled"
    about: Literal["engine", "workload"] = "engine"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        reasons = minutes.clock_event_reasons
        if not ((reasons & (HARMFUL_BITS | POWER_CAP)) != 0).any():
            return []
        harmful = ((reasons & HARMFUL_BITS) != 0) & (minutes.serving_mj > 0) & ~hidden
        held = join(minutes, harmful, opens_after=OPENS_AFTER, closes_after=CLOSES_AFTER)
        residual, requests = residuals(minutes, hidden)
        below = np.nan_to_num(below_curve(minutes), nan=0.0, posinf=0.0, neginf=0.0)
        levels, began_us = minutes.under_way(self.kind)
        usual = np.where(np.isnan(levels), levels, 0.0)  # of speed and power: what is usual there is the curve
        capped = shifts(minutes.offsets, minutes.minute_us, below, requests, EIGHT_PERCENT, (usual, began_us))
        free = np.where(harmful, 0.0, requests)
        found = []
        for run in united(held, capped):
            since_us = int(minutes.minute_us[run.first])
            level = level_before(minutes, [run.subject], since_us, residual, free, float(levels[run.subject]))
            found.append(_incident(minutes, run, harmful, hidden, level))
        return found


def _incident(minutes: EngineMinutes, run: Run, harmful: Bool, hidden: Bool, level: float) -> Incident:
    rows = np.arange(run.first, run.last + 1)
    rows = rows[~hidden[rows] & (minutes.serving_mj[rows] > 0)]
    reasons = minutes.clock_event_reasons[rows]
    by_thermal_or_brake = bool(harmful[rows].any())
    names = HARMFUL if by_thermal_or_brake else {POWER_CAP: "software power cap"}
    count_of = {name: int(np.count_nonzero(reasons & bit)) for bit, name in names.items()}
    count_of = {name: count for name, count in sorted(count_of.items(), key=lambda item: -item[1]) if count}
    words = " and ".join(count_of)
    output, expected = minutes.output_tokens[rows], minutes.expected_output_tokens[rows]
    known = ~np.isnan(expected) & ~np.isnan(minutes.expected_mj[rows]) & trusted(minutes)[rows]
    excess_mj = max(0, int((minutes.serving_mj[rows] - minutes.expected_mj[rows] * np.exp(level))[known].sum()))
    usual = float(expected[known].sum())
    evidence: dict[str, float | int | str] = {
        "minutes": int(rows.size),
        "reasons": words,
        **{f"minutes_{name.replace(' ', '_')}": count for name, count in count_of.items()},
    }
    summary = f"clocks held down by {words} in {rows.size} minutes of serving"
    if usual > 0:
        speed, lost = float(output[known].sum()) / usual, max(0, int(usual - output[known].sum()))
        evidence |= {
            "usual_energy_ratio": round(math.exp(level), 3),
            "speed_ratio": round(speed, 3),
            "tokens_lost": lost,
            "judged_minutes": int(known.sum()),
            "judged_by": "its curve at equal concurrency",
        }
        summary += f": {100 * speed:.0f} % of the usual tokens, {lost:,} lost"
    else:
        evidence["judged_by"] = "clock-event reasons alone, no curve yet"
    since_us, until_us, known_us = span_us(minutes, run)
    return Incident(
        *(run.subject, since_us, until_us, known_us, run.over, excess_mj),
        evidence=evidence,
        summary=summary,
        remedy=_remedy(int(np.bitwise_or.reduce(reasons)) if reasons.size else 0, by_thermal_or_brake),
    )


def _remedy(reasons: int, by_thermal_or_brake: bool) -> str:
    if not by_thermal_or_brake:
        return _RAISE
    thermal = reasons & (0x20 | 0x40)
    return " ".join([_COOL] * bool(thermal) + [_FEED] * bool(reasons & 0x80 or not thermal))
