"""What a report tells beside its books, as Markdown: the period before, phases, findings, gaps, prices. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wattmill_api.terminal.client import Document
from wattmill_api.terminal.tables import change, moment, money, names, owner, plain_kwh, table
from wattmill_api.terminal.text import NOT_SET, count, figure, markdown, percent

MOST_GAPS = 100
MOST_COMPARED = 50
_WHEN = ("now", "before")
OWNERS = {"workload": "Workload", "model": "Model", "team": "Team"}
_FIGURES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "energy_mj": ("Energy, kWh", lambda value: plain_kwh(value)),
    "output_tokens": ("Output tokens", lambda value: count(value)),
    "tokens_per_kwh": ("Tokens/kWh", lambda value: figure(value)),
    "joules_per_token": ("J/token", lambda value: figure(value)),
    "not_serving_ratio": ("Not serving", lambda value: percent(value)),
    "co2_grams": ("CO2, g", lambda value: figure(value)),
    "coverage": ("Coverage", lambda value: percent(value)),
}


def comparison(report: Document) -> list[str]:
    """This period beside the one of equal length before it."""
    before = report["previous"]
    if before is None:
        return ["The service has no period before this one."]
    lines = [f"The period before: {moment(before['start'])} to {moment(before['end'])} UTC, of equal length."]
    if not before["ledger"]["rows"]:
        return [*lines, "", "No energy was read in it."]
    cells = []
    for row in report["comparison"]["total"]:
        name, written = _FIGURES.get(row["what"], (f"Cost, {row['what'].removeprefix('cost_')}", figure))
        shown = ["—" if value is None else written(value) for value in (row["now"], row["before"])]
        cells.append([markdown(name), *shown, change(row["change_ratio"])])
    lines += ["", *table(["Figure", "This period", "Before", "Change"], cells, left=1)]
    workloads = report["comparison"]["workloads"]
    cells = [
        [
            *(owner(name, row["group"][name]) for name in OWNERS),
            *("—" if row["energy_mj"][when] is None else plain_kwh(row["energy_mj"][when]) for when in _WHEN),
            change(row["energy_mj"]["change_ratio"]),
            *(figure(row["tokens_per_kwh"][when]) for when in _WHEN),
            change(row["tokens_per_kwh"]["change_ratio"]),
        ]
        for row in workloads[:MOST_COMPARED]
    ]
    heads = [*OWNERS.values(), "kWh", "kWh before", "Change", "Tokens/kWh", "Tokens/kWh before", "Change"]
    lines += ["", *table(heads, cells, left=3)]
    return [*lines, *_and_more(len(workloads) - MOST_COMPARED)]


def phases(answer: Document | None) -> list[str]:
    """Standing, prefill and decode, where the days tell them apart."""
    if answer is None:
        return ["The service does not tell them."]
    if not answer["rows"]:
        return ["Nothing has been learned of these days."]
    cells = [
        [
            *(owner(name, row["group"][name]) for name in (*OWNERS, "accelerator_model")),
            plain_kwh(row["energy"]["total_mj"]),
            *(_part(row["energy"], part) for part in ("standing_mj", "prefill_mj", "decode_mj", "unsplit_mj")),
            markdown(row["reason"]) if row["reason"] else "—",
        ]
        for row in answer["rows"]
    ]
    heads = [*OWNERS.values(), "Accelerator", "kWh", "Standing", "Prefill", "Decode", "Not split", "Why not"]
    whole = f"Of the whole days (UTC) {moment(answer['start'])} to {moment(answer['end'])}: serving and idle-loaded."
    return [whole, "", *table(heads, cells, left=4)]


def _part(energy: Mapping[str, Any], part: str) -> str:
    value, total_mj = energy[part], energy["total_mj"]
    if value is None:
        return "—"
    return f"{plain_kwh(value)} ({percent(value / total_mj)})" if total_mj else plain_kwh(value)


def frontier(answer: Document | None) -> list[str]:
    """How far workloads run from the best that was published."""
    if answer is None:
        return ["The service does not tell it."]
    cells = [
        [
            *(owner(name, row["group"][name]) for name in ("workload", "model", "accelerator_model")),
            figure(row["observed"]["joules_per_token"]),
            figure(row["reference"]["joules_per_token"] if row["reference"] else None),
            "—" if row["ratio"] is None else f"{figure(row['ratio'])} ×",
            markdown(row["verdict"]),
        ]
        for row in answer["rows"]
    ]
    heads = ["Workload", "Model", "Accelerator", "J/token", "Best published", "Distance", "Verdict"]
    return table(heads, cells, left=3) if cells else ["None."]


def findings(found: Document) -> list[str]:
    """Each with what it wasted since it began, and what its end really saved."""
    if not found["rows"]:
        return ["None."]
    lines = [
        f"{len(found['rows'])} findings. They wasted {plain_kwh(found['impact_mj'])} kWh ({found['impact_mj']:,} mJ) "
        "since they began, where the same energy may count for several. "
        + (
            f"The end of {found['realised_findings']} of them saved {plain_kwh(found['realised_mj'])} kWh "
            f"({found['realised_mj']:,} mJ) so far, as measured."
            if found["realised_findings"]
            else "What their end saved has not been measured."
        ),
        "",
    ]
    for row in found["rows"]:
        until = f"until {moment(row['until'])}" if row["until"] else "going on"
        lines += [
            f"- **{markdown(row['kind'])}**: {markdown(row['subject'])}; {markdown(row['state'])}, "
            f"since {moment(row['since'])}, {until}{', simulated' if row['simulated'] else ''}",
            f"  - Impact since it began: {_spent(row['impact'])}",
            *([f"  - Saved: {_saved(row['realised'])}"] if row.get("realised") else []),
            f"  - {markdown(row['summary'])}",
            f"  - Remedy: {markdown(row['remedy'])}",
        ]
    if found["truncated"]:
        lines += ["", f"These are the {len(found['rows'])} largest; there may be more."]
    return lines


def _spent(impact: Mapping[str, Any]) -> str:
    cost, grams = impact["cost"], impact["co2_grams"]
    return (
        f"{plain_kwh(impact['energy_mj'])} kWh ({impact['energy_mj']:,} mJ), cost "
        f"{money(cost) if cost else NOT_SET}, CO2 {NOT_SET if grams is None else f'{figure(grams)} g'}"
    )


def _saved(realised: Mapping[str, Any]) -> str:
    span = f"{moment(realised['since'])} to {moment(realised['until'])}"
    if realised["energy_mj"] is None:
        return f"not known for {span}: there is nothing to compare with"
    return f"{_spent(realised)}, {span}. {markdown(realised['method'])}"


def coverage(parts: Document) -> list[str]:
    """What was not covered, when and why."""
    lines: list[str] = []
    for what, part in parts.items():
        gaps = [(row, gap) for row in part["rows"] for gap in row["gaps"]]
        covered = sum(row["covered_seconds"] for row in part["rows"])
        expected = sum(row["expected_seconds"] for row in part["rows"])
        lines += ["", f"**{what.capitalize()}**: {percent(covered / expected if expected else None)} covered."]
        if part["reason"]:
            lines += ["", f"Not told: {markdown(part['reason'])}"]
        if not gaps:
            continue
        reasons = (f"{markdown(reason)} {lasted_s / 3600:,.2f} h" for reason, lasted_s in part["gaps_s"].items())
        lines[-1] += f" Gaps by reason: {', '.join(reasons)}."
        cells = [
            [
                *(markdown(names(row["group"])), moment(gap["start"]), moment(gap["end"])),
                *(markdown(gap["reason"]), markdown(gap["detail"])),
            ]
            for row, gap in gaps[:MOST_GAPS]
        ]
        lines += ["", *table(["Of", "From", "To", "Reason", "Detail"], cells, left=5)]
        lines += _and_more(len(gaps) - MOST_GAPS)
    return lines[1:]


def prices(sites: Sequence[Document]) -> list[str]:
    """Which tariff, carbon intensity and PUE held when."""
    cells = [
        [
            *(markdown(site["site"]), what, moment(held["start"]), moment(held["end"])),
            markdown(price(what, held["version"])),
        ]
        for site in sites
        for what in ("tariffs", "carbon", "pue")
        for held in site[what]
    ]
    return table(["Site", "What", "From", "To", "Value"], cells, left=5) if cells else [f"{NOT_SET.capitalize()}."]


def price(what: str, version: Document | None) -> str:
    if version is None:
        return NOT_SET
    if what == "tariffs":
        return f"{version['price_per_kwh']} {version['currency']}/kWh"
    if what == "carbon":
        return f"{version['grams_per_kwh']} g/kWh" + (f" ({version['source']})" if version["source"] else "")
    return f"PUE {version['pue']}"


def _and_more(left: int) -> list[str]:
    return ["", f"And {left} more, all of which are in the json and csv formats."] if left > 0 else []
