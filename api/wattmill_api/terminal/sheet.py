"""A report as CSV, for spreadsheets: integers as they are, and no cell that a spreadsheet or a terminal would obey."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wattmill_api.terminal.appendices import price
from wattmill_api.terminal.client import Document
from wattmill_api.terminal.text import MJ_PER_KWH, joules_per_token, per_kwh, printable

COLUMNS = (
    *("section", "start", "end", "site", "node", "workload", "model", "team", "engine", "account", "kind", "subject"),
    *("state", "reason", "text", "input_tokens", "cached_input_tokens", "output_tokens", "energy_mj", "energy_kwh"),
    *("tokens_per_kwh", "joules_per_token", "currency", "cost", "cost_per_million_tokens", "co2_grams", "coverage"),
    *("quality", "missing", "value", "simulated"),
    *("accelerator_model", "method", "met_ratio", "standing_mj", "prefill_mj", "decode_mj", "unsplit_mj"),
    *("previous", "change_ratio"),
)
# The name of a row, and the section of the report it comes from.
SECTIONS = {"account": "ledger", "site": "sites", "team": "teams", "workload": "workloads", "node": "nodes"}


def to_csv(report: Document) -> str:
    """One table, told apart by `section`; rows of accounts, sites, teams, workloads, nodes each add up to `total`.

    At a wider scope all but the accounts add up to `efficiency-SCOPE`.
    """
    from wattmill_api.export import to_csv as table  # brings the web framework, which Markdown does without

    return table(({name: _clean(value) for name, value in row.items()} for row in _records(report)), COLUMNS)


def _records(report: Document) -> Iterable[Document]:
    times = {"start": report["start"], "end": report["end"]}
    for scope, row in report["efficiency"].items():
        if row:
            yield {**times, **_record(row), "section": f"efficiency-{scope}"}
    yield {**times, **_record(report["ledger"]["total"]), "section": "total", "simulated": report["simulated"]}
    if report["ledger"]["meter_mj"] is not None:
        for name in ("meter", "residual"):
            yield {**times, "section": name, "energy_mj": report["ledger"][f"{name}_mj"]}
    for check in report["checks"]:
        yield {**times, "section": "check", "kind": check["sum"], "energy_mj": check["energy_mj"],
               "value": check["difference_mj"]}  # fmt: skip
    for section, name in SECTIONS.items():
        for row in report[name]["rows"]:
            yield {**times, **_record(row), "section": section}
    for row in report["days"] or ():
        yield {**_record(row), "section": "day", "start": row["time"]}
    yield from _comparison(report)
    yield from _beside(report)
    yield from _findings(report)
    yield from _coverage(report, times)
    for site in report["prices"]:
        for what in ("tariffs", "carbon", "pue"):
            for held in site[what]:
                yield {
                    "section": what,
                    "site": site["site"],
                    "start": held["start"],
                    "end": held["end"],
                    "value": price(what, held["version"]),
                }


def _comparison(report: Document) -> Iterable[Document]:
    if report["previous"] is None:
        return
    times = {"start": report["previous"]["start"], "end": report["previous"]["end"]}
    yield {**times, **_record(report["previous"]["ledger"]["total"]), "section": "previous-total"}
    compared = report["comparison"]
    rows: list[tuple[Document, Document]] = [({}, row) for row in compared["total"]]
    rows += [(one["group"], one[what]) for one in compared["workloads"] for what in ("energy_mj", "tokens_per_kwh")]
    for group, row in rows:
        yield {
            **times,
            **group,
            "section": "comparison",
            "kind": row["what"],
            "value": row["now"],
            "previous": row["before"],
            "change_ratio": row["change_ratio"],
        }


def _beside(report: Document) -> Iterable[Document]:
    for name in ("phases", "frontier"):
        answer = report[name]
        for row in answer["rows"] if answer else ():
            cells = {"section": name, "start": answer["start"], "end": answer["end"], **row["group"]}
            if name == "phases":
                energy = {key: value for key, value in row["energy"].items() if key in COLUMNS}
                total_mj = row["energy"]["total_mj"]
                yield {**cells, **energy, "energy_mj": total_mj, "energy_kwh": total_mj / MJ_PER_KWH,
                       "reason": row["reason"], "simulated": row["simulated"]}  # fmt: skip
            else:
                best = row["reference"]["joules_per_token"] if row["reference"] else None
                yield {**cells, "joules_per_token": row["observed"]["joules_per_token"], "kind": "best published",
                       "previous": best, "value": row["ratio"], "text": row["verdict"]}  # fmt: skip


def _findings(report: Document) -> Iterable[Document]:
    for row in report["findings"]["rows"]:
        yield {
            **_record({name: row["impact"][name] for name in ("energy_mj", "cost", "co2_grams")}),
            **{name: row[name] for name in ("kind", "subject", "state", "site", "node", "workload", "simulated")},
            "section": "finding",
            "start": row["since"],
            "end": row["until"],
            "reason": row["summary"],
            "text": row["remedy"],
        }
        realised = row.get("realised")
        if realised and realised["energy_mj"] is not None:
            yield {
                **_record({name: realised[name] for name in ("energy_mj", "cost", "co2_grams")}),
                **{name: row[name] for name in ("kind", "subject", "site", "node", "workload", "simulated")},
                "section": "saving",
                "start": realised["since"],
                "end": realised["until"],
                "method": realised["method"],
            }


def _coverage(report: Document, times: Document) -> Iterable[Document]:
    for part in report["coverage"].values():
        for row in part["rows"]:
            group = {name: value for name, value in row["group"].items() if name in COLUMNS}
            yield {**times, **group, "section": "coverage", "coverage": row["coverage"]}
            for gap in row["gaps"]:
                yield {
                    **group,
                    "section": "gap",
                    "text": gap["detail"],
                    **{k: gap[k] for k in ("start", "end", "reason")},
                }


def _record(row: Document) -> Document:
    """A row of the API as cells."""
    energy_mj, cost = row["energy_mj"], row.get("cost")
    tokens = row.get("tokens", {})
    return {
        **row.get("group", {}),
        **{f"{kind}_tokens": value for kind, value in tokens.items()},
        **{name: row.get(name) for name in ("account", "co2_grams", "coverage", "quality", "reason", "simulated")},
        "energy_mj": energy_mj,
        "energy_kwh": None if energy_mj is None else energy_mj / MJ_PER_KWH,
        "tokens_per_kwh": None if energy_mj is None else per_kwh(tokens.get("output"), energy_mj),
        "joules_per_token": None if energy_mj is None else joules_per_token(tokens.get("output"), energy_mj),
        "met_ratio": (row.get("slo") or {}).get("met_ratio"),
        "missing": ";".join(row.get("missing", ())),
        "currency": cost["currency"] if cost else None,
        "cost": cost["total"] if cost else None,
        "cost_per_million_tokens": cost.get("per_million_tokens") if cost else None,
    }


def _clean(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
