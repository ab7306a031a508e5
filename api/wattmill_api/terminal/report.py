"""`wattmill report`: a written account of a period, gathered so that its sections agree with each other.

Every section is an answer of the REST API over the same minutes. Late readings may change the books between two
answers; then all are asked again, and a report whose sections still differ says so.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wattmill_api.terminal.client import DONE, FAILED, USELESS, Document, Failure, Server
from wattmill_api.terminal.options import Options, one_of, printing, say
from wattmill_api.terminal.sheet import to_csv
from wattmill_api.terminal.text import to_json
from wattmill_api.terminal.writing import to_markdown

FORMATS = ("md", "json", "csv")
ATTEMPTS = 3
MOST_FINDINGS = 1000
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TOKENS = ("input", "cached_input", "output")


def main(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """0: written; 1: the service is away or the file can't be written; 2: it can't be asked like this."""
    options = Options("report", "Write an account of a period.", os.environ if environ is None else environ)
    options.option("start", "begin: RFC 3339, unix seconds, or a day (UTC)")
    options.option("end", "end, not included (default now)")
    options.option("format", "md, json or csv (default md)", "md")
    options.option("out", "file to write (default: standard output)")
    given = options.parser.parse_args(argv)
    with printing():
        try:
            format_ = one_of(given.format, "format", FORMATS)
            if not given.start:
                raise Failure("--start is needed: RFC 3339 (2026-01-31T12:00:00Z), unix seconds or a day", USELESS)
            server = options.server(given, argv)
            try:
                text = written(gather(server, instant(given.start), instant(given.end or "")), format_)
            finally:
                server.close()
            if given.out:
                put(Path(given.out), text)
            else:
                sys.stdout.write(text)
                sys.stdout.flush()
        except Failure as failure:
            say("report", failure)
            return failure.status
        return DONE
    return FAILED  # whoever read this went away


def instant(text: str) -> str:
    """A day is its first instant in UTC; anything else is for the service to read."""
    return f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text


def written(report: Document, format_: str) -> str:
    """The report as `md`, `json` or `csv`."""
    if format_ == "json":
        return to_json(report, indent=2) + "\n"
    return to_csv(report) if format_ == "csv" else to_markdown(report)


def put(path: Path, text: str) -> None:
    """The whole file or none. Errors: Failure."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        raise Failure(f"{path} can't be written: {error.strerror}") from None


def gather(server: Server, start: str, end: str) -> Document:
    """The whole report as one document. `end` empty: now. Errors: Failure."""
    try:
        return _gather(server, start, end)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Failure(f"{server.address} answers, but not as a Wattmill service does ({error!r})") from None


def _gather(server: Server, start: str, end: str) -> Document:
    asked = {"start": start, **({"end": end} if end else {})}
    ledger = server.get("/ledger", asked)
    times = {"start": ledger["start"], "end": ledger["end"]}  # whole minutes; the same for every section
    differences: list[str] = []
    energy: Document = {}
    for _ in range(ATTEMPTS):
        energy = _energy(server, times)
        differences = disagreements(energy)
        if not differences:
            break
    nodes = energy["nodes"]["rows"]
    return {
        **times,
        "written": server.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "server": server.address,
        "simulated": any(row["simulated"] for row in [*energy["ledger"]["rows"], *energy["nodes"]["rows"]]),
        **energy,
        "findings": _findings(server, times),
        "coverage": {"accelerators": _coverage(server, times, "node"), "engines": _coverage(server, times, "engine")},
        "prices": _prices(server, times, sorted({row["group"]["site"] for row in nodes})),
        "disagreements": differences,
    }


def _energy(server: Server, times: Mapping[str, str]) -> Document:
    """Everything that adds up: the ledger, the three scopes, workloads and nodes, each with its integer total."""

    def section(path: str, **more: str) -> Document:
        answer = server.get(path, {**times, **more})
        return {"rows": answer["rows"], "total": total(answer["rows"])}

    ledger = server.get("/ledger", times)
    scopes = {}
    for scope in ("accelerator", "node", "facility"):
        rows = server.get("/efficiency", {**times, "scope": scope})["rows"]
        scopes[scope] = rows[0] if rows else None
    return {
        "efficiency": scopes,
        "ledger": {
            "rows": ledger["rows"],
            "total": total(ledger["rows"]),
            **{name: ledger[name] for name in ("meter_mj", "residual_mj", "closes", "meter_reason")},
        },
        "workloads": section("/efficiency", by="workload,model,team"),
        "nodes": section("/efficiency", by="site,node"),
    }


def total(rows: Sequence[Document]) -> Document:
    """Exact sums of the rows; tokens of a kind that no row knows are None."""
    return {
        "energy_mj": sum(row["energy_mj"] for row in rows),
        "tokens": {kind: _sum(row["tokens"][kind] for row in rows) for kind in _TOKENS},
    }


def disagreements(energy: Document) -> list[str]:
    """Where the sections' totals differ from the ledger's, as sentences."""
    expected = energy["ledger"]["total"]
    headline = energy["efficiency"]["accelerator"]
    totals = {
        "the efficiency": total([headline] if headline else []),
        "the workloads": energy["workloads"]["total"],
        "the nodes": energy["nodes"]["total"],
    }
    return [
        f"The total of {name} is not that of the ledger: readings arrived while this was written. Ask again."
        for name, found in totals.items()
        if found != expected
    ]


def _findings(server: Server, times: Mapping[str, str]) -> Document:
    rows = server.get("/findings", {**times, "state": "all", "limit": MOST_FINDINGS})["rows"]
    return {"rows": rows, "truncated": len(rows) == MOST_FINDINGS}


def _coverage(server: Server, times: Mapping[str, str], by: str) -> Document:
    """What was covered; a period too full of changes for one answer is a reason, not the end of the report."""
    try:
        return {"rows": server.get("/coverage", {**times, "by": by})["rows"], "reason": None}
    except Failure as failure:
        if failure.status != USELESS:
            raise
        return {"rows": [], "reason": str(failure)}


def _prices(server: Server, times: Mapping[str, str], sites: Sequence[str]) -> list[Document]:
    """For every site that used energy, which tariff, carbon intensity and PUE held when."""
    versions = {name: server.get(f"/{name}")["rows"] for name in ("tariffs", "carbon", "pue")}
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
