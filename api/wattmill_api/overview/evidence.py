"""One finding in full: what was measured around it, and what happened to it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

from wattmill_api.errors import NotFound
from wattmill_api.parameters import DIMENSIONS, HOUR, MINUTE, RangeQuestion, window
from wattmill_api.routes.findings import document
from wattmill_api.routes.series import CHARTS
from wattmill_api.store import findings, prices, query
from wattmill_api.store.database import Connection
from wattmill_api.store.findings import Event, Finding
from wattmill_api.view import STEPS

MOST_POINTS = 240
LONGEST = 48 * HOUR
MOST_ROWS = 5000
LEAST_BESIDE = 30 * MINUTE
# What shows a kind best, the most telling first.
METRICS = {
    "idle-empty": ("power_mw", "memory_used_bytes"),
    "idle-loaded": ("output_tokens", "requests_running"),
    "spin-idle": ("output_tokens", "requests_running"),
    "throttled": ("sm_clock_mhz", "power_mw", "output_tokens"),
    "kv-thrash": ("preemptions", "kv_cache_usage_ratio"),
    "straggler": ("output_tokens", "requests_running", "sm_clock_mhz"),
    "regression": ("output_tokens", "requests_running"),
    "queue-starved": ("requests_waiting", "requests_running"),
    "cache-miss": ("cached_input_tokens", "input_tokens"),
    "over-provisioned": ("requests_running", "output_tokens"),
    "low-batch": ("requests_running", "output_tokens"),
    "telemetry-untrusted": ("covered_ratio", "power_mw"),
}
TITLES = {
    "power_mw": ("Power", "W", 1e-3),
    "utilisation_ratio": ("Utilisation", "%", 100.0),
    "temperature_celsius": ("Temperature", "°C", 1.0),
    "memory_used_bytes": ("Memory used", "GiB", 2.0**-30),
    "sm_clock_mhz": ("Clock", "MHz", 1.0),
    "covered_ratio": ("Coverage", "%", 100.0),
    "input_tokens": ("Input tokens", "tokens/s", 1.0),
    "cached_input_tokens": ("Cached input tokens", "tokens/s", 1.0),
    "output_tokens": ("Output tokens", "tokens/s", 1.0),
    "preemptions": ("Preemptions", "1/s", 1.0),
    "requests_running": ("Requests running", "requests", 1.0),
    "requests_waiting": ("Requests waiting", "requests", 1.0),
    "kv_cache_usage_ratio": ("KV cache in use", "%", 100.0),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Chart:
    """One metric of what the finding is about. `lines` name what is told apart; None where nothing was read."""

    title: str
    unit: str
    lines: tuple[str, ...]
    points: tuple[tuple[dt.datetime, tuple[float | None, ...]], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """`finding` as /findings answers it. Charts over [start, end), which holds it or its end."""

    finding: dict[str, Any]
    events: tuple[Event, ...]
    start: dt.datetime
    end: dt.datetime
    step: dt.timedelta
    charts: tuple[Chart, ...]


def evidence(connection: Connection, finding_id: int, now: dt.datetime) -> Evidence:
    """A finding with its charts. Errors: NotFound."""
    with connection.transaction():
        query.one_snapshot(connection)
        found = findings.find(connection, finding_id=finding_id)
        if not found:
            raise NotFound(f"There is no finding {finding_id}.")
        finding = found[0]
        until = finding.until or finding.last_seen
        beside = max(LEAST_BESIDE, (until - finding.since) / 4)
        end = min(until + beside, now)
        start = max(finding.since - beside, end - LONGEST)
        step = next((step for step in STEPS if (end - start) <= MOST_POINTS * step), STEPS[-1])
        names = METRICS.get(
            finding.kind, ("power_mw",) if finding.subject.startswith("accelerator:") else ("output_tokens",)
        )
        boards = findings.boards(connection, finding_id)
        charts = [_chart(connection, finding, boards, name, start, end, step, now) for name in names]
        events = findings.history(connection, finding_id)
        return Evidence(
            document(finding, prices.load(connection)), tuple(events), start, end, step, tuple(c for c in charts if c)
        )


def _chart(
    connection: Connection,
    finding: Finding,
    boards: Sequence[str],
    metric: str,
    start: dt.datetime,
    end: dt.datetime,
    step: dt.timedelta,
    now: dt.datetime,
) -> Chart | None:
    how = CHARTS[metric]
    title, unit, factor = TITLES[metric]
    asked = window(RangeQuestion(start=start, end=end), step, now)
    # A straggler is told by the one board that is slower than its neighbours.
    apart = finding.kind == "straggler" and how.device == "accelerator"
    rows = query.series(
        connection,
        how.device,
        asked,
        metric=metric,
        within=how.within,
        across=how.across,
        by=["accelerator"] if apart else [],
        filters=_filters(finding, boards, how.device),
        limit=MOST_ROWS,
    )
    if how.within == "sum":
        # A step at the end that is not over would show less of a sum than there was.
        factor /= step.total_seconds()
        rows = [row for row in rows if row["bucket"] + step <= asked.end]
    if not rows:
        return None
    values = {(row["by_accelerator"] or title.lower(), row["bucket"]): row["value"] * factor for row in rows}
    lines = tuple(dict.fromkeys(name for name, _ in values))
    first, last = min(row["bucket"] for row in rows), max(row["bucket"] for row in rows)
    times = [first + i * step for i in range((last - first) // step + 1)]
    points = tuple((time, tuple(values.get((name, time)) for name in lines)) for time in times)
    return Chart(title, unit, lines, points)


def _filters(finding: Finding, boards: Sequence[str], device: str) -> dict[str, list[str] | None]:
    """Whose metric it is: the boards that it is about, or the engine of its subject, else its workload."""
    filters: dict[str, list[str] | None] = dict.fromkeys(DIMENSIONS)
    about, _, name = finding.subject.partition(":")
    if device == "accelerator":
        filters["accelerator"] = list(boards) or ([name] if about == "accelerator" else [])
        return filters
    filters["site"] = [finding.site] if finding.site else None
    filters["node"] = [finding.node] if finding.node else None
    filters["workload"] = [finding.workload] if finding.workload else None
    if about == "engine":
        # An engine is called `site/node target series`.
        target = name.removeprefix(f"{finding.site}/{finding.node} ").partition(" ")[0]
        filters["engine"] = [target]
    return filters
