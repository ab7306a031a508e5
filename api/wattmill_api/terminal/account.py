"""The account of a period, gathered so that its sections agree with each other.

Every section is an answer of the REST API over the same minutes. Late readings may change the books between two
answers; then all are asked again, and an account whose sections still differ says so. For a period that is over for
an hour the account depends on nothing but what is stored: asked twice, it is the same to the last character.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from wattmill_api.terminal.client import USELESS, Document, Failure, Server
from wattmill_api.terminal.comparing import compared
from wattmill_api.terminal.text import SCOPES

ATTEMPTS = 3
MOST_FINDINGS = 1000
MOST_DAYS = 100  # of a period that is also told day by day
QUESTIONS = 25  # of an account whose sections agree at once
# The sections that each add up to the ledger, and what tells their rows apart.
SECTIONS = {
    "sites": "site",
    "teams": "team",
    "workloads": "workload,model,team",
    "nodes": "site,node",
}
SETTLED = timedelta(hours=1)
_DAY = timedelta(days=1)
_TOKENS = ("input", "cached_input", "output")
Told = Callable[[int, str], None]


class Asking:
    """A service that tells how many questions it was asked. Errors: those of `Server.get`."""

    def __init__(self, server: Server, told: Told) -> None:
        self._server, self._told, self._asked = server, told, 0

    def get(self, path: str, parameters: Mapping[str, Any]) -> Document:
        self._told(self._asked, path.strip("/"))
        answer = self._server.get(path, parameters)
        self._asked += 1
        self._told(self._asked, path.strip("/"))
        return answer

    def known(self, path: str, parameters: Mapping[str, Any]) -> Document | None:
        """None where the service, or this key, does not have it."""
        try:
            return self.get(path, parameters)
        except Failure as failure:
            if failure.status != USELESS:
                raise
            return None


def gather(
    server: Server, start: str, end: str, told: Told = lambda _done, _what: None, scope: str = "accelerator"
) -> Document:
    """The whole account as one document. `end` empty: now. `scope`: of the energy in all sections but the ledger.

    Errors: Failure, also where that energy is not known for want of a PUE.
    """
    try:
        return _gather(Asking(server, told), server, start, end, scope)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Failure(f"{server.address} answers, but not as a Wattmill service does ({error!r})") from None


def _gather(asking: Asking, server: Server, start: str, end: str, scope: str) -> Document:
    ledger = asking.get("/ledger", {"start": start, **({"end": end} if end else {})})
    times = _whole(ledger, server.now())
    energy, differences = _agreeing(asking, times, scope)
    days = None
    if _DAY < _length(times) <= MOST_DAYS * _DAY:
        days = asking.get("/efficiency", {**times, "step": "1d", "scope": scope})["rows"]
    before = _previous(asking, times, scope)
    sites = sorted({row["group"]["site"] for row in energy["nodes"]["rows"]})
    provisional = server.now() - datetime.fromisoformat(times["end"]) < SETTLED
    return {
        **times,
        "provisional_at": server.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if provisional else None,
        "server": server.address,
        "simulated": any(row["simulated"] for row in [*energy["ledger"]["rows"], *energy["nodes"]["rows"]]),
        **energy,
        "checks": checks(energy),
        "days": days,
        "previous": before,
        "comparison": None if before is None else compared(energy, before),
        "phases": asking.known("/phases", {**times, "step": "none"}),
        "frontier": asking.known("/frontier", times),
        "findings": _findings(asking, times),
        "coverage": {"accelerators": _coverage(asking, times, "node"), "engines": _coverage(asking, times, "engine")},
        "prices": _prices(asking, times, sites),
        "disagreements": differences,
    }


def _whole(ledger: Document, now: datetime) -> dict[str, str]:
    """The period in whole minutes, the same for every section; what has not been yet is no part of it.

    Errors: Failure when nothing is left.
    """
    end = datetime.fromisoformat(ledger["end"])
    latest = now.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    times = {"start": ledger["start"], "end": min(end, latest).strftime("%Y-%m-%dT%H:%M:%SZ")}
    if _length(times) <= timedelta(0):
        raise Failure(f"--start {times['start']}: must lie before --end and before now, {times['end']}", USELESS)
    return times


def _length(times: Mapping[str, str]) -> timedelta:
    return datetime.fromisoformat(times["end"]) - datetime.fromisoformat(times["start"])


def _agreeing(asking: Asking, times: Mapping[str, str], scope: str) -> tuple[Document, list[str]]:
    """Everything that adds up, and what still differs after it was asked a few times."""
    energy: Document = {}
    differences: list[str] = []
    for _ in range(ATTEMPTS):
        energy = _energy(asking, times, scope)
        differences = disagreements(energy)
        if not differences:
            break
    return energy, differences


def _energy(asking: Asking, times: Mapping[str, str], scope: str) -> Document:
    """Everything that adds up: the ledger, the three scopes, and the sections, each with its integer total."""
    ledger = asking.get("/ledger", times)
    scopes = {}
    for name in SCOPES:
        rows = asking.get("/efficiency", {**times, "scope": name})["rows"]
        scopes[name] = rows[0] if rows else None
    headline = scopes[scope]
    if headline and headline["energy_mj"] is None:
        raise Failure(f"--scope {scope}: no PUE is set for every site in all of this time (PUT /api/v1/pue)", USELESS)
    sections = {}
    for name, by in SECTIONS.items():
        rows = asking.get("/efficiency", {**times, "by": by, "scope": scope})["rows"]
        rows.sort(key=lambda row: [-row["energy_mj"], *((v is None, v or "") for v in row["group"].values())])
        sections[name] = {"rows": rows, "total": total(rows)}
    return {
        "scope": scope,
        "efficiency": scopes,
        "ledger": {
            "rows": ledger["rows"],
            "total": total(ledger["rows"]),
            **{name: ledger[name] for name in ("meter_mj", "residual_mj", "closes", "meter_reason")},
        },
        **sections,
    }


def total(rows: Sequence[Document]) -> Document:
    """Exact sums of the rows; tokens of a kind that no row knows are None."""
    return {
        "energy_mj": sum(row["energy_mj"] for row in rows),
        "tokens": {kind: _sum(row["tokens"][kind] for row in rows) for kind in _TOKENS},
    }


def checks(energy: Document) -> list[Document]:
    """Every sum that must be another: its energy, the difference, and whether the tokens are the same too.

    All are the ledger's; at a wider scope the sections' are that of all energy at this scope.
    """
    ledger, headlines = energy["ledger"]["total"], energy["efficiency"]
    boards, whole = (total([row] if row else []) for row in (headlines["accelerator"], headlines[energy["scope"]]))
    section = ledger if energy["scope"] == "accelerator" else whole
    totals = {"efficiency": (boards, ledger), **{name: (energy[name]["total"], section) for name in SECTIONS}}
    return [
        {
            "sum": name,
            "energy_mj": found["energy_mj"],
            "difference_mj": found["energy_mj"] - expected["energy_mj"],
            "same_tokens": found["tokens"] == expected["tokens"],
        }
        for name, (found, expected) in totals.items()
    ]


def disagreements(energy: Document) -> list[str]:
    """Where the sections' totals differ from what they must be, as sentences."""
    return [
        f"The total of the {check['sum']} is not that of everything: readings arrived meanwhile. Ask again."
        for check in checks(energy)
        if check["difference_mj"] or not check["same_tokens"]
    ]


def _previous(asking: Asking, times: Mapping[str, str], scope: str) -> Document | None:
    """The period of equal length before; None where there can be none, or none at this scope."""
    start = datetime.fromisoformat(times["start"])
    before = {
        "start": (start - _length(times)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "end": times["start"],
    }
    try:
        return {**before, **_energy(asking, before, scope)}
    except Failure as failure:
        if failure.status != USELESS:
            raise
        return None


def _findings(asking: Asking, times: Mapping[str, str]) -> Document:
    rows = asking.get("/findings", {**times, "state": "all", "limit": MOST_FINDINGS})["rows"]
    realised = [row["realised"] for row in rows if row.get("realised") and row["realised"]["energy_mj"] is not None]
    return {
        "rows": rows,
        "truncated": len(rows) == MOST_FINDINGS,
        "impact_mj": sum(row["impact"]["energy_mj"] for row in rows),
        "realised_mj": sum(one["energy_mj"] for one in realised),
        "realised_findings": len(realised),
    }


def _coverage(asking: Asking, times: Mapping[str, str], by: str) -> Document:
    """What was covered; a period too full of changes for one answer is a reason, not the end of the account."""
    try:
        rows = asking.get("/coverage", {**times, "by": by})["rows"]
    except Failure as failure:
        if failure.status != USELESS:
            raise
        return {"rows": [], "reason": str(failure), "gaps_s": {}}
    gaps_s: dict[str, float] = {}
    for row in rows:
        for gap in row["gaps"]:
            lasted = datetime.fromisoformat(gap["end"]) - datetime.fromisoformat(gap["start"])
            gaps_s[gap["reason"]] = gaps_s.get(gap["reason"], 0.0) + lasted.total_seconds()
    return {"rows": rows, "reason": None, "gaps_s": dict(sorted(gaps_s.items()))}


def _prices(asking: Asking, times: Mapping[str, str], sites: Sequence[str]) -> list[Document]:
    """For every site that used energy, which tariff, carbon intensity and PUE held when."""
    versions = {name: asking.get(f"/{name}", {})["rows"] for name in ("tariffs", "carbon", "pue")}
    return [
        {"site": site, **{name: in_force(rows, site, times["start"], times["end"]) for name, rows in versions.items()}}
        for site in sites
    ]


def in_force(versions: Sequence[Document], site: str, start: str, end: str) -> list[Document]:
    """What held at a site from when to when, without a break; `version` None where nothing was set.

    A site's own version goes before one of `*`, as when energy is priced.
    """
    begin, finish = datetime.fromisoformat(start), datetime.fromisoformat(end)
    timed = sorted(
        ((datetime.fromisoformat(version["valid_from"]), version) for version in versions), key=lambda item: item[0]
    )
    cuts = [begin, *(time for time, version in timed if version["site"] in (site, "*") and begin < time < finish)]
    found: list[Document] = []
    for cut in cuts:
        held = next(
            (
                version
                for name in (site, "*")
                for time, version in reversed(timed)
                if version["site"] == name and time <= cut
            ),
            None,
        )
        if not found or found[-1]["version"] != held:
            found.append({"start": cut.isoformat().replace("+00:00", "Z"), "end": end, "version": held})
            if len(found) > 1:
                found[-2]["end"] = found[-1]["start"]
    return found


def _sum(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
