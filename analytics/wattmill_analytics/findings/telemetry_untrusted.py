"""telemetry-untrusted: numbers that can't carry a bill.

Of a board: estimated energy, distrusted readings, missing time, or a counter that does not agree with the power beside
it by more than 10 % over 10 minutes (and by more than the readings scatter). A board that was never seen with an energy
counter is no finding: nobody can act on that, and its energy is called estimated wherever it is shown. Boards of a node
that fall silent together are one finding, that of the first of them: it is the agent or the node.

Of an engine: token counters that stand still while its batch goes up and down and its boards work. A hung engine is
another thing: its batch does not move (`spin_idle`).

Such an incident wastes nothing: its energy is 0, and the energy it makes doubtful stands in the evidence.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from wattmill_analytics.findings import Incident, mean, watts
from wattmill_analytics.findings.minutes import MINUTE_US, BoardMinutes, Bool, EngineMinutes, Float64, Int64
from wattmill_analytics.findings.runs import Run, join, span_us
from wattmill_analytics.findings.spin_idle import is_spinning

COMPARED_MINUTES = 10
MOST_APART = 0.10  # of the counter from the power beside it, in ln
SCATTERS = 7.0  # standard errors of that: they are told from 10 minutes only
LEAST_POWER_MW = 100_000  # below, a few watts of offset are 10 %
TOGETHER_US = 2 * MINUTE_US
LAST_MINUTES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class TelemetryUntrusted:
    """At least 3 minutes in which a board was not measured as it should be."""

    kind: str = "telemetry-untrusted"

    def detect(self, minutes: BoardMinutes) -> list[Incident]:
        newest_us = int(minutes.minute_us.max()) if minutes.minute_us.size else 0
        complete = minutes.minute_us < newest_us  # the running minute is never whole
        estimated = (minutes.estimated_mj > 0) & has_counted(minutes)
        silent = minutes.untrusted_us > MINUTE_US // 2
        apart = counter_over_power(minutes)
        marked = complete & (estimated | (minutes.anomalies > 0) | silent | ~np.isnan(apart))
        incidents = [
            _of_board(minutes, marked, apart, _from_where_it_was_compared(minutes, apart, run))
            for run in join(minutes, marked, opens_after=3, closes_after=15)
        ]
        return _by_node(minutes, incidents)


def has_counted(minutes: BoardMinutes) -> Bool:
    """Whether the board had an energy that was not estimated in any minute [n] so far."""
    counted = minutes.energy_mj > minutes.estimated_mj
    so_far = np.concatenate([[0], np.cumsum(counted)])
    begins = np.repeat(minutes.offsets[:-1], np.diff(minutes.offsets))
    return np.asarray(so_far[1:] > so_far[begins])


def counter_over_power(minutes: BoardMinutes) -> Float64:
    """Energy counted over energy by power in the last 10 minutes [n], NaN where they agree or can't be compared."""
    n = minutes.minute_us.size
    result = np.full(n, np.nan)
    if n < COMPARED_MINUTES or minutes.power_mw.size != n:
        return result
    counted = minutes.energy_mj.astype(np.float64)
    by_power = np.nan_to_num(minutes.power_mw) * 60.0
    usable = (minutes.estimated_mj == 0) & (minutes.anomalies == 0) & (minutes.untrusted_us <= MINUTE_US // 10)
    usable &= (minutes.power_mw >= LEAST_POWER_MW) & (counted > 0)
    ratio = np.log(np.where(usable, counted, 1.0) / np.where(usable, by_power, 1.0))
    # Sums over the last minutes of the same board, all of them usable.
    sums = [np.concatenate([[0.0], np.cumsum(values)]) for values in (usable, ratio, ratio * ratio)]
    ends = np.arange(COMPARED_MINUTES, n + 1)
    count, total, squares = (each[ends] - each[ends - COMPARED_MINUTES] for each in sums)
    middle = total / COMPARED_MINUTES
    variance = np.maximum(0.0, squares / COMPARED_MINUTES - middle**2)
    apart = np.abs(middle) > np.maximum(MOST_APART, SCATTERS * np.sqrt(variance / (COMPARED_MINUTES - 1)))
    begins = np.repeat(minutes.offsets[:-1], np.diff(minutes.offsets))[ends - 1]
    there = apart & (count == COMPARED_MINUTES) & (ends - COMPARED_MINUTES >= begins)
    result[COMPARED_MINUTES - 1 :] = np.where(there, np.exp(middle), np.nan)
    return result


def _from_where_it_was_compared(minutes: BoardMinutes, apart: Float64, run: Run) -> Run:
    """A counter that is told from the last 10 minutes was wrong in most of them already."""
    low = int(minutes.offsets[run.subject])
    first = max(low, run.first - COMPARED_MINUTES + 1) if not np.isnan(apart[run.first]) else run.first
    return dataclasses.replace(run, first=first)


def _of_board(minutes: BoardMinutes, marked: Bool, apart: Float64, run: Run) -> Incident:
    rows = run.rows
    mine = marked[rows]
    anomalies, missing_us = int(minutes.anomalies[rows].sum()), int(minutes.untrusted_us[rows][mine].sum())
    estimated_mj = int(minutes.estimated_mj[rows].sum())
    stood = int(np.count_nonzero(minutes.estimated_mj[rows]))
    power_w = watts(estimated_mj, stood * MINUTE_US)
    ratio = mean(apart[rows])
    reasons = [
        text
        for text, there in (
            (
                f"the energy counter stood still or was gone for {stood} minutes while power was {power_w:.0f} W "
                "(energy integrated from power)",
                estimated_mj > 0,
            ),
            (f"{anomalies} distrusted readings", anomalies > 0),
            (f"{missing_us // MINUTE_US} minutes without readings", missing_us >= MINUTE_US),
            (f"the energy counter counts {ratio:.0%} of what the power beside it makes", ratio == ratio),
        )
        if there
    ]
    since_us, until_us, known_us = span_us(minutes, run)
    return Incident(
        # The last minute was complete only when the next had begun.
        *(run.subject, since_us, until_us, known_us + MINUTE_US, run.over, 0),
        evidence={
            "minutes": int(np.count_nonzero(mine)),
            "anomalies": anomalies,
            "estimated_mj": estimated_mj,
            **({"mean_power_while_estimated_watts": round(power_w, 1)} if estimated_mj > 0 else {}),
            **({"counter_over_power_ratio": round(ratio, 3)} if ratio == ratio else {}),
            "doubtful_mj": int(minutes.energy_mj[rows][mine].sum()),
            "untrusted_seconds": missing_us // 1_000_000,
        },
        summary="not measured as it should be: " + (", ".join(reasons) or "incomplete readings"),
        remedy="Run `wattmill doctor` on the node: it names the source that fails and the permission or "
        "driver setting it needs. A frozen or jumping counter goes away with a driver reload or update.",
    )


def _by_node(minutes: BoardMinutes, incidents: list[Incident]) -> list[Incident]:
    """Incidents that began together on all of two or more boards of a node, as one of the first of them."""
    if not minutes.node.size:
        return incidents
    sizes = np.bincount(minutes.node[minutes.node >= 0]) if (minutes.node >= 0).any() else np.zeros(0, np.int64)
    silent: dict[int, list[Incident]] = {}
    found = []
    for each in sorted(incidents, key=lambda incident: incident.since_us):
        node = int(minutes.node[each.subject])
        if node < 0 or sizes[node] < 2 or not each.evidence["untrusted_seconds"]:
            found.append(each)
            continue
        together = silent.setdefault(node, [])
        if together and each.since_us - together[0].since_us > TOGETHER_US:
            found += _together(together, int(sizes[node]))
            silent[node] = together = []
        together.append(each)
    for node, together in silent.items():
        found += _together(together, int(sizes[node]))
    return sorted(found, key=lambda incident: (incident.subject, incident.since_us))


def _together(incidents: list[Incident], boards: int) -> list[Incident]:
    if len({each.subject for each in incidents}) < boards:
        return incidents
    first = min(incidents, key=lambda each: each.subject)
    longest = max(incidents, key=lambda each: each.until_us)
    sums = {
        name: sum(int(each.evidence[name]) for each in incidents)
        for name in ("anomalies", "estimated_mj", "doubtful_mj", "untrusted_seconds")
    }
    minutes = max(int(each.evidence["minutes"]) for each in incidents)
    return [
        dataclasses.replace(
            longest,
            subject=first.subject,
            since_us=min(each.since_us for each in incidents),
            known_us=max(each.known_us for each in incidents),
            over=all(each.over for each in incidents),
            evidence={**longest.evidence, "minutes": minutes, **sums, "boards": boards},
            summary=f"all {boards} boards of the node together were not measured for {minutes} minutes: the agent or "
            "the node was silent",
            remedy="Look whether the node was down or the agent stopped (`systemctl status wattmill-agent`, the "
            "DaemonSet's pod) and whether it reaches the service; run `wattmill doctor` on the node.",
        )
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class CountersStandStill:
    """At least 8 minutes in which the batch moves and the boards work, but no token is counted."""

    kind: str = "telemetry-untrusted"
    about: Literal["engine", "workload"] = "engine"

    def detect(self, minutes: EngineMinutes, hidden: Bool) -> list[Incident]:
        marked = is_spinning(minutes) & (minutes.requests_running > 0)
        if not marked.any():
            return []
        marked &= _moves(minutes) & ~hidden
        return [_of_engine(minutes, marked, run) for run in join(minutes, marked, opens_after=8, closes_after=3)]


def _moves(minutes: EngineMinutes) -> Bool:
    """Minutes [n] whose batch is another than in one of the 5 before, of the same engine."""
    running = np.round(minutes.requests_running, 3)
    moves: Bool = np.zeros(running.size, np.bool_)
    begins = np.repeat(minutes.offsets[:-1], np.diff(minutes.offsets))
    rows = np.arange(running.size)
    silent = is_spinning(minutes)
    for back in range(1, LAST_MINUTES + 1):
        before = np.maximum(rows - back, 0)
        # The minutes before it must have been without tokens too: a hang begins with a last change of the batch.
        moves |= (rows - back >= begins) & silent[before] & (running[before] > 0) & (running != running[before])
    return moves


def _of_engine(minutes: EngineMinutes, marked: Bool, run: Run) -> Incident:
    mine = marked[run.rows]
    count = int(np.count_nonzero(mine))
    energy_mj: Int64 = (minutes.serving_mj + minutes.idle_loaded_mj)[run.rows][mine]
    running = minutes.requests_running[run.rows][mine]
    since_us, until_us, known_us = span_us(minutes, run)
    return Incident(
        *(run.subject, since_us, until_us, known_us, run.over, 0),
        evidence={
            "minutes": count,
            "least_requests_running": round(float(running.min()), 2),
            "most_requests_running": round(float(running.max()), 2),
            "mean_power_watts": round(watts(int(energy_mj.sum()), count * MINUTE_US), 1),
            "doubtful_mj": int(energy_mj.sum()),
            "output_tokens": 0,
        },
        summary=f"token counters stand still while requests run: {running.min():.1f} to {running.max():.1f} of them in "
        f"{count} minutes, and not one token counted",
        remedy="Check the scrape of the engine's /metrics: whether its token counters move (a proxy that caches, a "
        "dead worker of several behind one port, PROMETHEUS_MULTIPROC_DIR, an engine version that renamed them). If "
        "they don't move and no answers come out either, the engine hangs: restart it.",
    )
