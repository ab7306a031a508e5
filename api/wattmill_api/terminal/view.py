"""What `wattmill top` shows: a window of the ledger as headline, rows of one view and accounts, and the findings. Pure.

Rows and accounts come out of one answer, so that they add up to each other and to the meter. What only newer services
answer (phases, frontier) is beside the rows where it is there.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wattmill_api.terminal.client import USELESS, Document, Failure
from wattmill_api.terminal.text import MJ_PER_KWH, first_sentence, joules_per_token, per_kwh

ACCOUNTS = ("serving", "idle-loaded", "idle-empty", "unattributed")
SORTS = ("waste", "tokens_per_kwh", "power", "tokens", "share", "name")
# What tells the rows of a view apart; the findings have rows of their own.
VIEWS: dict[str, tuple[str, ...]] = {
    "workloads": ("workload", "model", "team"),
    "nodes": ("site", "node"),
    "accelerators": ("accelerator", "accelerator_model", "site", "node"),
    "findings": ("workload", "model", "team"),
}
OWNERS = ("workload", "model", "team")
FILTERS = (*OWNERS, "site", "node", "accelerator", "accelerator_model")
# Filters that a route knows besides.
_FINDING_FILTERS = ("workload", "node", "site")
_PHASE_FILTERS = (*OWNERS, "accelerator_model")
_FRONTIER_FILTERS = (*OWNERS, "node", "site")
SETTLING_MINUTES = 2  # the last ones are still being written
MOST_FINDINGS = 100

Only = tuple[tuple[str, str], ...]
Get = Callable[[str, Mapping[str, Any]], Document]


@dataclass(frozen=True, slots=True)
class Split:
    """Where energy went on the whole days (UTC) of the window, each a share of it; None where it can't be told."""

    standing_ratio: float | None
    prefill_ratio: float | None
    decode_ratio: float | None


@dataclass(slots=True)
class Row:
    """One workload, node or accelerator over the window; a name of None is nobody's. `waste_mj`: all but `serving`.

    `waste_mj` is a part of `boards_mj`, which is the whole energy where that is None.
    `best_ratio`: joules per token as a multiple of the best that was published; the worst of its accelerators.
    """

    names: dict[str, str | None]
    energy_mj: int = 0
    waste_mj: int = 0
    output_tokens: int | None = None
    mean_power_mw: int | None = None
    simulated: bool = False
    boards_mj: int | None = None
    tokens_per_kwh: float | None = field(init=False, default=None)
    joules_per_token: float | None = field(init=False, default=None)
    split: Split | None = field(init=False, default=None)
    best_ratio: float | None = field(init=False, default=None)

    @property
    def name(self) -> str | None:
        """The first of its names."""
        return next(iter(self.names.values()), None)

    @property
    def waste_share(self) -> float | None:
        """What is not serving, of the energy of the accelerators; None where they used nothing."""
        whole_mj = self.energy_mj if self.boards_mj is None else self.boards_mj
        return self.waste_mj / whole_mj if whole_mj else None

    def document(self) -> Document:
        cells = asdict(self)
        if self.boards_mj is None:
            cells["boards_mj"] = self.energy_mj
        return {**cells.pop("names"), **cells}


@dataclass(frozen=True, slots=True)
class Finding:
    id: int
    kind: str
    subject: str
    state: str
    since: str
    until: str | None
    energy_mj: int
    energy_kwh: float
    realised_mj: int | None
    simulated: bool
    summary: str
    remedy: str
    whole_remedy: str
    evidence: Any


@dataclass(frozen=True, slots=True)
class View:
    """One picture. `coverage`: of all accelerators, 0–1. `power_mw`: in the last whole minute that is complete.

    `scope`: of energies and power; `boards_mj` is what the accelerators used, which `accounts` and the meter are of.
    """

    server: str
    start: str
    end: str
    view: str
    only: Only
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
    rows: Sequence[Row]
    findings: Sequence[Finding]
    scope: str
    boards_mj: int

    def document(self) -> Document:
        """As JSON has it: the rows stand under the name of the view."""
        cells = {name: value for name, value in asdict(self).items() if name != "rows"}
        cells["only"] = dict(self.only)
        if self.view != "findings":
            cells[self.view] = [row.document() for row in self.rows]
        return cells


def gather(get: Get, now: dt.datetime, window_s: int, shown: str, only: Only) -> dict[str, Document]:
    """Every answer that a picture needs but `sites`, by name. Errors: those of `get`."""
    times = {"start": f"{(now - dt.timedelta(seconds=window_s)).timestamp():.0f}", "end": f"{now.timestamp():.0f}"}
    minutes = {**times, "step": "1m", **dict(only)}
    answers = {
        "ledger": get("/ledger", {**times, "by": ",".join(VIEWS[shown]), **dict(only)}),
        "findings": get(
            "/findings",
            {
                "state": "all" if shown == "findings" else "open",
                "limit": MOST_FINDINGS,
                **_some(only, _FINDING_FILTERS),
            },
        ),
    }
    if any(name in OWNERS for name, _ in only):  # neither a counter nor a gap can tell workloads apart
        answers["efficiency"] = get("/efficiency", {**times, **dict(only)})
    else:
        answers["coverage"] = get("/coverage", {**times, "by": "site", **dict(only)})
        answers["power"] = get("/series", {**minutes, "metric": "power_mw"})
        answers["covered"] = get("/series", {**minutes, "metric": "covered_ratio"})
    return answers


def gather_more(get: Get, now: dt.datetime, window_s: int, only: Only) -> dict[str, Document]:
    """What stands beside workloads, where the service knows it. Errors: those of `get`, but no refusal."""
    times = {"start": f"{(now - dt.timedelta(seconds=window_s)).timestamp():.0f}", "end": f"{now.timestamp():.0f}"}
    asked = {
        "phases": {**times, "step": "none", **_some(only, _PHASE_FILTERS)},
        "frontier": {**times, **_some(only, _FRONTIER_FILTERS)},
    }
    answers = {}
    for name, parameters in asked.items():
        try:
            answers[name] = get(f"/{name}", parameters)
        except Failure as failure:  # an older service does not have it
            if failure.status != USELESS:
                raise
    return answers


def view(answers: Mapping[str, Document], server: str, shown: str, only: Only) -> View:
    """The picture of these answers. Errors: KeyError, TypeError, ValueError if they are not what the contract says."""
    ledger, sites = answers["ledger"], answers["sites"]["rows"]
    rows = ledger["rows"]
    energy_mj = sum(row["energy_mj"] for row in rows)
    output_tokens = _sum(row["tokens"]["output"] for row in rows)
    coverage, measured_s = _covered(answers)
    found = _rows(rows, VIEWS[shown], measured_s)
    if shown == "workloads":
        _add_splits(found, answers.get("phases"))
        _add_best(found, answers.get("frontier"))
    return View(
        server=server,
        start=ledger["start"],
        end=ledger["end"],
        view=shown,
        only=only,
        simulated=any(row["simulated"] for row in [*rows, *answers["findings"]["rows"]]),
        sites=len(sites),
        nodes=sum(site["nodes"] for site in sites),
        accelerators=sum(site["accelerators"] for site in sites),
        output_tokens=output_tokens,
        energy_mj=energy_mj,
        energy_kwh=energy_mj / MJ_PER_KWH,
        tokens_per_kwh=per_kwh(output_tokens, energy_mj),
        joules_per_token=joules_per_token(output_tokens, energy_mj),
        power_mw=_latest(answers["power"]) if "power" in answers else None,
        mean_power_mw=_mean(energy_mj, measured_s),
        coverage=coverage,
        quality="estimated" if any(row["estimated_mj"] for row in rows) else "measured",
        accounts={name: sum(row["energy_mj"] for row in rows if row["account"] == name) for name in ACCOUNTS},
        meter_mj=ledger["meter_mj"],
        residual_mj=ledger["residual_mj"],
        meter_reason=ledger["meter_reason"],
        rows=found,
        findings=[_finding(row) for row in answers["findings"]["rows"]],
        scope="accelerator",
        boards_mj=energy_mj,
    )


def _covered(answers: Mapping[str, Document]) -> tuple[float | None, float]:
    """The share of the time that was covered, and for how many seconds there is energy."""
    if "coverage" in answers:
        rows = answers["coverage"]["rows"]
        expected_s = sum(row["expected_seconds"] for row in rows)
        coverage = sum(row["covered_seconds"] for row in rows) / expected_s if expected_s else None
        return coverage, 60 * sum(_values(answers["covered"]))
    ledger = answers["ledger"]
    lasted = dt.datetime.fromisoformat(ledger["end"]) - dt.datetime.fromisoformat(ledger["start"])
    headline = next(iter(answers["efficiency"]["rows"]), None)
    coverage = None if headline is None else headline["coverage"]
    return coverage, lasted.total_seconds() * (coverage or 0.0)


def ranked(rows: Iterable[Row], sort: str, *, reverse: bool = False) -> list[Row]:
    """The most waste, power, tokens or share first; by tokens_per_kwh the least first, those without one last."""
    keys: dict[str, Callable[[Row], Any]] = {
        "waste": lambda row: (False, -row.waste_mj),
        "power": lambda row: (False, -row.energy_mj),
        "tokens": lambda row: (False, -(row.output_tokens or 0)),
        "tokens_per_kwh": lambda row: (row.tokens_per_kwh is None, row.tokens_per_kwh or 0),
        "share": lambda row: (False, -(row.waste_share or 0)),
        "name": lambda row: (row.name is None, 0),
    }

    def by_name(row: Row) -> tuple[tuple[bool, str], ...]:
        return tuple((name is None, name or "") for name in row.names.values())

    ordered = sorted(rows, key=lambda row: (keys[sort](row), by_name(row)))
    return ordered[::-1] if reverse else ordered


def ranked_findings(findings: Iterable[Finding], sort: str, *, reverse: bool = False) -> list[Finding]:
    """Those that are not over first, then by energy; by `name`: by kind and subject."""
    if sort == "name":
        ordered = sorted(findings, key=lambda finding: (finding.kind, finding.subject, finding.id))
    else:
        ordered = sorted(findings, key=lambda finding: (finding.until is not None, -finding.energy_mj, finding.id))
    return ordered[::-1] if reverse else ordered


def _rows(rows: Sequence[Document], names: Sequence[str], measured_s: float) -> list[Row]:
    found: dict[tuple[str | None, ...], Row] = {}
    for row in rows:
        group = {name: row["group"][name] for name in names}
        one = found.setdefault(tuple(group.values()), Row(group))
        one.energy_mj += row["energy_mj"]
        one.waste_mj += row["energy_mj"] if row["account"] != "serving" else 0
        one.output_tokens = _sum((one.output_tokens, row["tokens"]["output"]))
        one.simulated |= row["simulated"]
    for one in found.values():
        one.tokens_per_kwh = per_kwh(one.output_tokens, one.energy_mj)
        one.joules_per_token = joules_per_token(one.output_tokens, one.energy_mj)
        one.mean_power_mw = _mean(one.energy_mj, measured_s)
    return list(found.values())


def _add_splits(rows: Sequence[Row], phases: Document | None) -> None:
    if phases is None:
        return
    energies: dict[tuple[str | None, ...], list[Document]] = {}
    for row in phases["rows"]:
        energies.setdefault(tuple(row["group"][name] for name in OWNERS), []).append(row["energy"])
    for row in rows:
        its = energies.get(tuple(row.names.values()), [])
        total_mj = sum(energy["total_mj"] for energy in its)
        if total_mj:
            row.split = Split(*(_share(its, part, total_mj) for part in ("standing_mj", "prefill_mj", "decode_mj")))


def _share(energies: Sequence[Document], part: str, total_mj: int) -> float | None:
    """None unless it is known of every kind of accelerator."""
    known = [energy[part] for energy in energies if energy[part] is not None]
    return sum(known) / total_mj if len(known) == len(energies) else None


def _add_best(rows: Sequence[Row], frontier: Document | None) -> None:
    if frontier is None:
        return
    for row in rows:
        ratios = [
            other["ratio"]
            for other in frontier["rows"]
            if other["ratio"] is not None and all(other["group"][name] == value for name, value in row.names.items())
        ]
        row.best_ratio = max(ratios, default=None)


def _finding(row: Document) -> Finding:
    energy_mj, realised = row["impact"]["energy_mj"], row.get("realised")
    return Finding(
        id=row["id"],
        kind=row["kind"],
        subject=row["subject"],
        state=row["state"],
        since=row["since"],
        until=row["until"],
        energy_mj=energy_mj,
        energy_kwh=energy_mj / MJ_PER_KWH,
        realised_mj=realised["energy_mj"] if realised else None,
        simulated=row["simulated"],
        summary=row["summary"],
        remedy=first_sentence(row["remedy"]),
        whole_remedy=row["remedy"],
        evidence=row["evidence"],
    )


def _some(only: Only, names: Sequence[str]) -> dict[str, str]:
    return {name: value for name, value in only if name in names}


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
