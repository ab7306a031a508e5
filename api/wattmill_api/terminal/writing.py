"""A report as Markdown, for people. Pure; every name is escaped, every column adds up to its total as printed."""

from __future__ import annotations

from fractions import Fraction

from wattmill_api.terminal import appendices
from wattmill_api.terminal.client import Document
from wattmill_api.terminal.tables import (
    column,
    moment,
    money,
    owner,
    per_million,
    plain_kwh,
    priced,
    quality,
    table,
    tokens,
    unpriced,
    within,
)
from wattmill_api.terminal.text import (
    MJ_PER_KWH,
    NOT_SET,
    SCOPES,
    count,
    decimal,
    figure,
    joules_per_token,
    markdown,
    per_kwh,
    percent,
    rounded,
    why_none,
)

ACCOUNTS = ("serving", "idle-loaded", "idle-empty", "unattributed")


def to_markdown(report: Document) -> str:
    """The report as GitHub-flavoured Markdown."""
    lines = [f"# Wattmill report, {moment(report['start'])} to {moment(report['end'])} UTC", ""]
    if report["simulated"]:
        lines += ["**SIMULATED: figures of this report come from a simulated fleet.**", ""]
    if report["provisional_at"]:
        lines += [f"**Provisional**: as known at {moment(report['provisional_at'])} UTC; readings still arrive.", ""]
    lines += [f"From {markdown(report['server'])}.", ""]
    if report["scope"] != "accelerator":
        of = SCOPES[report["scope"]]
        lines += [f"Sites, teams, workloads, nodes and days count the energy of: {of}. The ledger is the boards'.", ""]
    for sentence in report["disagreements"]:
        lines += [f"**{sentence}**", ""]
    if not report["ledger"]["rows"]:
        lines += ["No energy was read in this period.", ""]
    for title, body in (
        ("Efficiency", _efficiency(report["efficiency"])),
        ("Where the energy went", _ledger(report)),
        ("Compared with the period before", appendices.comparison(report)),
        ("Sites", _breakdown(report, "sites", {"site": "Site"})),
        ("Teams", _breakdown(report, "teams", {"team": "Team"})),
        ("Workloads", _breakdown(report, "workloads", appendices.OWNERS)),
        ("Nodes", _breakdown(report, "nodes", {"site": "Site", "node": "Node"})),
        *([("Days", _days(report))] if report["days"] else []),
        ("Prefill, decode and standing power", appendices.phases(report["phases"])),
        ("Distance to the best published", appendices.frontier(report["frontier"])),
        ("Findings", appendices.findings(report["findings"])),
        ("Not covered", appendices.coverage(report["coverage"])),
        ("Prices applied", appendices.prices(report["prices"])),
        ("How to read this", _notes(report["scope"])),
    ):
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _efficiency(scopes: Document) -> list[str]:
    rows = []
    for scope, row in scopes.items():
        if row is None:
            rows.append([SCOPES[scope], *["—"] * 10])
            continue
        energy_mj, output = row["energy_mj"], row["tokens"]["output"]
        rows.append(
            [
                SCOPES[scope],
                f"PUE {NOT_SET}" if energy_mj is None else plain_kwh(energy_mj),
                count(output),
                figure(row["tokens_per_kwh"], "—" if energy_mj is None else why_none(output, energy_mj)),
                figure(row["total_tokens_per_kwh"]),
                figure(row["joules_per_token"]),
                money(row["cost"]) if row["cost"] else unpriced(row, "tariff"),
                unpriced(row, "carbon") if row["co2_grams"] is None else figure(row["co2_grams"]),
                within(row),
                percent(row["coverage"]),
                quality(row),
            ]
        )
    heads = ["Energy of", "kWh", "Output tokens", "Tokens/kWh", "Input + output tokens/kWh", "J/token", "Cost", "CO2 g"]
    return table([*heads, "In time", "Coverage", "Quality"], rows, left=1)


def _ledger(report: Document) -> list[str]:
    ledger = report["ledger"]
    spent = {row["account"]: row for row in ledger["rows"]}
    names = [*ACCOUNTS, *(name for name in spent if name not in ACCOUNTS)]
    energies = [spent[name]["energy_mj"] if name in spent else 0 for name in names]
    total_mj = ledger["total"]["energy_mj"]
    kwh, total_kwh = column([Fraction(energy_mj, MJ_PER_KWH) for energy_mj in energies], 3)
    shares = rounded([Fraction(100 * mj, total_mj) for mj in energies], 1) if total_mj else []
    rows = [
        [markdown(name), kwh[i], f"{energies[i]:,}", f"{decimal(shares[i], 1)} %" if shares else "—"]
        for i, name in enumerate(names)
    ]
    rows.append(["**Sum of the accounts**", total_kwh, f"{total_mj:,}", "100.0 %" if total_mj else "—"])
    if ledger["meter_mj"] is None:
        rows.append(["Meter", "—", f"none: {markdown(ledger['meter_reason'])}", ""])
    else:
        rows.append(["Meter", "", f"{ledger['meter_mj']:,}", ""])
        rows.append(["Residual (meter less accounts)", "", f"{ledger['residual_mj']:,}", ""])
    for check in report["checks"]:
        same = "" if check["same_tokens"] else "; other tokens"
        difference = f"difference {check['difference_mj']:,} mJ{same}"
        of = "" if check["sum"] == "efficiency" or report["scope"] == "accelerator" else f", {SCOPES[report['scope']]}"
        rows.append([f"Sum of the {check['sum']}{of}", "", f"{check['energy_mj']:,}", difference])
    closing = {True: "The ledger closes: the accounts add up to the meter, to the millijoule."}
    closing[False] = "**The ledger does not close: the accounts are not what the meter says.**"
    sentence = closing.get(ledger["closes"])
    return [*table(["Account", "kWh", "mJ", "Share"], rows, left=1), *(["", sentence] if sentence else [])]


def _breakdown(report: Document, section: str, names: dict[str, str]) -> list[str]:
    rows, total = report[section]["rows"], report[section]["total"]
    if not rows:
        return ["None."]
    kwh, total_kwh = column([Fraction(row["energy_mj"], MJ_PER_KWH) for row in rows], 3)
    costs, total_cost = priced([row["cost"] and row["cost"]["total"] for row in rows], rows, "tariff", 2)
    co2, total_co2 = priced([row["co2_grams"] for row in rows], rows, "carbon", 1)
    currency = next((row["cost"]["currency"] for row in rows if row["cost"]), "")
    cells = [
        [
            *(owner(name, row["group"][name]) for name in names),
            *tokens(row),
            kwh[i],
            figure(row["tokens_per_kwh"], why_none(row["tokens"]["output"], row["energy_mj"])),
            figure(row["joules_per_token"]),
            costs[i],
            figure(row["cost"]["per_million_tokens"] if row["cost"] else None),
            co2[i],
            figure(per_million(row["co2_grams"], row["tokens"]["output"])),
            within(row),
            percent(row["coverage"]),
            quality(row),
        ]
        for i, row in enumerate(rows)
    ]
    output, energy_mj = total["tokens"]["output"], total["energy_mj"]
    cells.append(
        [
            *("**Total**", *[""] * (len(names) - 1)),
            *tokens(total),
            total_kwh,
            figure(per_kwh(output, energy_mj), why_none(output, energy_mj)),
            figure(joules_per_token(output, energy_mj)),
            *(total_cost, "", total_co2, "", "", "", ""),
        ]
    )
    heads = [*names.values(), "Input tokens", "Cached input", "Output tokens", "kWh", "Tokens/kWh", "J/token"]
    heads += [f"Cost {markdown(currency)}".strip(), "Per M tokens", "CO2 g", "CO2 g per M tokens"]
    return table([*heads, "In time", "Coverage", "Quality"], cells, len(names))


def _days(report: Document) -> list[str]:
    rows = report["days"]
    kwh, total_kwh = column([Fraction(row["energy_mj"], MJ_PER_KWH) for row in rows], 3)
    cells = [
        [
            moment(row["time"])[:10],
            kwh[i],
            count(row["tokens"]["output"]),
            figure(row["tokens_per_kwh"], why_none(row["tokens"]["output"], row["energy_mj"])),
            figure(row["joules_per_token"]),
            percent(row["coverage"]),
        ]
        for i, row in enumerate(rows)
    ]
    output = [row["tokens"]["output"] for row in rows if row["tokens"]["output"] is not None]
    cells.append(["**Total**", total_kwh, count(sum(output) if output else None), "", "", ""])
    return table(["Day (UTC)", "kWh", "Output tokens", "Tokens/kWh", "J/token", "Coverage"], cells, left=1)


def _notes(scope: str) -> list[str]:
    whose = {
        "accelerator": "the accelerators, as the ledger does",
        "node": "whole nodes: the accelerators and, by their energy, the hosts. The ledger has the accelerators alone",
        "facility": "whole nodes × PUE, hosts shared by the energy of the accelerators. The ledger has these alone",
    }
    return [
        f"- Sites, teams, workloads and nodes count the energy of {whose[scope]}; cost and CO2 are of the same energy.",
        "- Energies and tokens add up exactly. kWh, cost and CO2 are rounded so that each column adds up to its total "
        "as printed, which may move a figure by one in its last digit; json and csv have whole millijoules.",
        "- Tokens/kWh counts output tokens. `no traffic`: none were generated. `not known`: none were read.",
        "- Input tokens include those served from the prefix cache. `(nobody)` is energy that no workload owns.",
        "- In time: the share of output tokens that met the target of their workload, where there is one.",
        "- Quality is `estimated` where part of the energy was not read from a counter; what was missing is named.",
    ]
