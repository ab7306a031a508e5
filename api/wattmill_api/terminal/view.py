"""What `wattmill top` shows: a window of the ledger as headline, workloads and accounts, and the open findings. Pure.

Workloads and accounts come out of one answer, so that they add up to each other and to the meter.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wattmill_api.terminal.client import Document
from wattmill_api.terminal.text import MJ_PER_KWH, first_sentence, joules_per_token, per_kwh

ACCOUNTS = ("serving", "idle-loaded", "idle-empty", "unattributed")
SORTS = ("waste", "tokens_per_kwh", "power", "tokens")
SETTLING_MINUTES = 2  # the last ones are still being written


@dataclass(slots=True)
class Workload:
    """One workload over the window; a name of None is energy that nobody owns. `waste_mj`: all but `serving`."""

    workload: str | None
    model: str | None
    team: str | None
    energy_mj: int = 0
    waste_mj: int = 0
    output_tokens: int | None = None
    mean_power_mw: int | None = None
    simulated: bool = False
    tokens_per_kwh: float | None = field(init=False, default=None)
    joules_per_token: float | None = field(init=False, default=None)


@dataclass(frozen=True, slots=True)
class Finding:
    id: int
    kind: str
    subject: str
    since: str
    energy_mj: int
    energy_kwh: float
    summary: str
    remedy: str


@dataclass(frozen=True, slots=True)
class View:
    """One picture. `coverage`: of all accelerators, 0–1. `power_mw`: in the last whole minute that is complete."""

    server: str
    start: str
    end: str
    simulated: bool
    sites: int
    nodes: int
    accelerators: int
    output_tokens: int | None
    energy_mj: int
    energy_kwh: float
    tokens_per_kwh: float | None
    joules_per_token: float | None
    power_mw: int | None
    mean_power_mw: int | None
    coverage: float | None
    quality: str
    accounts: Mapping[str, int]
    meter_mj: int | None
    residual_mj: int | None
    meter_reason: str | None
    workloads: Sequence[Workload]
    findings: Sequence[Finding]

    def document(self) -> Document:
        return asdict(self)


def gather(get: Callable[[str, Mapping[str, Any]], Document], now: dt.datetime, window_s: int) -> dict[str, Document]:
    """Every answer that a picture needs but `sites`, by name. Errors: those of `get`."""
    times = {"start": f"{(now - dt.timedelta(seconds=window_s)).timestamp():.0f}", "end": f"{now.timestamp():.0f}"}
    minutes = {**times, "step": "1m"}
    return {
        "ledger": get("/ledger", {**times, "by": "workload,model,team"}),
        "power": get("/series", {**minutes, "metric": "power_mw"}),
        "covered": get("/series", {**minutes, "metric": "covered_ratio"}),
        "coverage": get("/coverage", {**times, "by": "site"}),
        "findings": get("/findings", {"state": "open", "limit": 100}),
    }


def view(answers: Mapping[str, Document], server: str, sort: str) -> View:
    """The picture of these answers. Errors: KeyError, TypeError, ValueError if they are not what the contract says."""
    ledger, sites = answers["ledger"], answers["sites"]["rows"]
    rows = ledger["rows"]
    energy_mj = sum(row["energy_mj"] for row in rows)
    output_tokens = _sum(row["tokens"]["output"] for row in rows)
    measured_s = 60 * sum(_values(answers["covered"]))
    coverage = answers["coverage"]["rows"]
    expected_s = sum(row["expected_seconds"] for row in coverage)
    return View(
        server=server,
        start=ledger["start"],
        end=ledger["end"],
        simulated=any(row["simulated"] for row in [*rows, *answers["findings"]["rows"]]),
        sites=len(sites),
        nodes=sum(site["nodes"] for site in sites),
        accelerators=sum(site["accelerators"] for site in sites),
        output_tokens=output_tokens,
        energy_mj=energy_mj,
        energy_kwh=energy_mj / MJ_PER_KWH,
        tokens_per_kwh=per_kwh(output_tokens, energy_mj),
        joules_per_token=joules_per_token(output_tokens, energy_mj),
        power_mw=_latest(answers["power"]),
        mean_power_mw=_mean(energy_mj, measured_s),
        coverage=sum(row["covered_seconds"] for row in coverage) / expected_s if expected_s else None,
        quality="estimated" if any(row["estimated_mj"] for row in rows) else "measured",
        accounts={name: sum(row["energy_mj"] for row in rows if row["account"] == name) for name in ACCOUNTS},
        meter_mj=ledger["meter_mj"],
        residual_mj=ledger["residual_mj"],
        meter_reason=ledger["meter_reason"],
        workloads=ranked(_workloads(rows, measured_s), sort),
        findings=[_finding(row) for row in answers["findings"]["rows"]],
    )


def ranked(workloads: Sequence[Workload], sort: str) -> list[Workload]:
    """The most waste, power or tokens first; by tokens_per_kwh the least first, those without one last."""
    keys: dict[str, Callable[[Workload], Any]] = {
        "waste": lambda w: -w.waste_mj,
        "power": lambda w: -w.energy_mj,
        "tokens": lambda w: -(w.output_tokens or 0),
        "tokens_per_kwh": lambda w: (w.tokens_per_kwh is None, w.tokens_per_kwh or 0),
    }
    return sorted(workloads, key=lambda w: (keys[sort](w), w.workload is None, w.workload or ""))


def _workloads(rows: Sequence[Document], measured_s: float) -> list[Workload]:
    found: dict[tuple[str | None, ...], Workload] = {}
    for row in rows:
        group = row["group"]
        key = (group["workload"], group["model"], group["team"])
        workload = found.setdefault(key, Workload(*key))
        workload.energy_mj += row["energy_mj"]
        workload.waste_mj += row["energy_mj"] if row["account"] != "serving" else 0
        workload.output_tokens = _sum((workload.output_tokens, row["tokens"]["output"]))
        workload.simulated |= row["simulated"]
    for workload in found.values():
        workload.tokens_per_kwh = per_kwh(workload.output_tokens, workload.energy_mj)
        workload.joules_per_token = joules_per_token(workload.output_tokens, workload.energy_mj)
        workload.mean_power_mw = _mean(workload.energy_mj, measured_s)
    return list(found.values())


def _finding(row: Document) -> Finding:
    energy_mj = row["impact"]["energy_mj"]
    return Finding(
        id=row["id"],
        kind=row["kind"],
        subject=row["subject"],
        since=row["since"],
        energy_mj=energy_mj,
        energy_kwh=energy_mj / MJ_PER_KWH,
        summary=row["summary"],
        remedy=first_sentence(row["remedy"]),
    )


def _sum(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _values(series: Document) -> list[float]:
    return [value for one in series["series"] for value in one["values"] if value is not None]


def _latest(series: Document) -> int | None:
    """The last minute that everybody has reported; a newer one only while there is no such minute."""
    values = [value for one in series["series"] for value in one["values"]]
    settled = [value for value in values[:-SETTLING_MINUTES] if value is not None]
    known = settled or _values(series)
    return round(known[-1]) if known else None


def _mean(energy_mj: int, measured_s: float) -> int | None:
    return round(energy_mj / measured_s) if measured_s else None
