"""A report as Markdown, for people. Pure; every name is escaped, every column adds up to its total as printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction

from wattmill_api.terminal.client import Document
from wattmill_api.terminal.text import (
    MJ_PER_KWH,
    NOT_KNOWN,
    NOT_SET,
    count,
    decimal,
    digits_for,
    figure,
    joules_per_token,
    markdown,
    per_kwh,
    percent,
    rounded,
    why_none,
)

MOST_GAPS = 100
PRICES = ("tariff", "carbon", "pue", "currency")  # their own columns say that they are not set
ACCOUNTS = ("serving", "idle-loaded", "idle-empty", "unattributed")
SCOPES = {"accelerator": "accelerators", "node": "whole nodes", "facility": "facility (× PUE)"}


def to_markdown(report: Document) -> str:
    """The report as GitHub-flavoured Markdown."""
    lines = [f"# Wattmill report, {_time(report['start'])} to {_time(report['end'])} UTC", ""]
    if report["simulated"]:
        lines += ["**SIMULATED: figures of this report come from a simulated fleet.**", ""]
    lines += [f"Written {_time(report['written'])} UTC from {markdown(report['server'])}.", ""]
    for sentence in report["disagreements"]:
        lines += [f"**{sentence}**", ""]
    if not report["ledger"]["rows"]:
        lines += ["No energy was read in this period.", ""]
    for title, body in (
        ("Efficiency", _efficiency(report["efficiency"])),
        ("Where the energy went", _ledger(report["ledger"])),
        ("Workloads", _breakdown(report, "workloads", {"workload": "Workload", "model": "Model", "team": "Team"})),
        ("Nodes", _breakdown(report, "nodes", {"site": "Site", "node": "Node"})),
        ("Findings", _findings(report["findings"])),
        ("Not covered", _coverage(report["coverage"])),
        ("Prices applied", _prices(report["prices"])),
        ("How to read this", _notes()),
    ):
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _efficiency(scopes: Document) -> list[str]:
    rows = []
    for scope, row in scopes.items():
        if row is None:
            rows.append([SCOPES[scope], *["—"] * 9])
            continue
        energy_mj, tokens = row["energy_mj"], row["tokens"]["output"]
        rows.append(
            [
                SCOPES[scope],
                f"PUE {NOT_SET}" if energy_mj is None else _plain_kwh(energy_mj),
                count(tokens),
                figure(row["tokens_per_kwh"], "—" if energy_mj is None else why_none(tokens, energy_mj)),
                figure(row["total_tokens_per_kwh"]),
                figure(row["joules_per_token"]),
                _money(row["cost"]) if row["cost"] else _unpriced(row, "tariff"),
                _unpriced(row, "carbon") if row["co2_grams"] is None else figure(row["co2_grams"]),
                percent(row["coverage"]),
                _quality(row),
            ]
        )
    heads = ["Energy of", "kWh", "Output tokens", "Tokens/kWh", "Input + output tokens/kWh", "J/token", "Cost", "CO2 g"]
    return _table([*heads, "Coverage", "Quality"], rows, left=1)


def _ledger(ledger: Document) -> list[str]:
    spent = {row["account"]: row for row in ledger["rows"]}
    names = [*ACCOUNTS, *(name for name in spent if name not in ACCOUNTS)]
    energies = [spent[name]["energy_mj"] if name in spent else 0 for name in names]
    total_mj = ledger["total"]["energy_mj"]
    kwh, total_kwh = _column([Fraction(energy_mj, MJ_PER_KWH) for energy_mj in energies], 3)
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
    closing = {True: "The ledger closes: the accounts add up to the meter, to the millijoule."}
    closing[False] = "**The ledger does not close: the accounts are not what the meter says.**"
    sentence = closing.get(ledger["closes"])
    return [*_table(["Account", "kWh", "mJ", "Share"], rows, left=1), *(["", sentence] if sentence else [])]


def _breakdown(report: Document, section: str, names: dict[str, str]) -> list[str]:
    rows, total = report[section]["rows"], report[section]["total"]
    if not rows:
        return ["None."]
    rows = sorted(rows, key=lambda row: -row["energy_mj"])
    kwh, total_kwh = _column([Fraction(row["energy_mj"], MJ_PER_KWH) for row in rows], 3)
    costs, total_cost = _priced([row["cost"] and row["cost"]["total"] for row in rows], rows, "tariff", 2)
    co2, total_co2 = _priced([row["co2_grams"] for row in rows], rows, "carbon", 1)
    currency = next((row["cost"]["currency"] for row in rows if row["cost"]), "")
    cells = [
        [
            *(_owner(name, row["group"][name]) for name in names),
            *_tokens(row),
            kwh[i],
            figure(row["tokens_per_kwh"], why_none(row["tokens"]["output"], row["energy_mj"])),
            figure(row["joules_per_token"]),
            costs[i],
            figure(row["cost"]["per_million_tokens"] if row["cost"] else None),
            co2[i],
            figure(_per_million(row["co2_grams"], row["tokens"]["output"])),
            percent(row["coverage"]),
            _quality(row),
        ]
        for i, row in enumerate(rows)
    ]
    output, energy_mj = total["tokens"]["output"], total["energy_mj"]
    cells.append(
        [
            *("**Total**", *[""] * (len(names) - 1)),
            *_tokens(total),
            total_kwh,
            figure(per_kwh(output, energy_mj), why_none(output, energy_mj)),
            figure(joules_per_token(output, energy_mj)),
            *(total_cost, "", total_co2, "", "", ""),
        ]
    )
    money = f"Cost {markdown(currency)}".strip()
    heads = [*names.values(), "Input tokens", "Cached input", "Output tokens", "kWh", "Tokens/kWh", "J/token", money]
    return _table([*heads, "Per M tokens", "CO2 g", "CO2 g per M tokens", "Coverage", "Quality"], cells, len(names))


def _findings(findings: Document) -> list[str]:
    lines: list[str] = []
    for row in findings["rows"]:
        impact = row["impact"]
        cost, grams = impact["cost"], impact["co2_grams"]
        until = f"until {_time(row['until'])}" if row["until"] else "going on"
        lines += [
            f"- **{markdown(row['kind'])}**: {markdown(row['subject'])}; {markdown(row['state'])}, "
            f"since {_time(row['since'])}, {until}{', simulated' if row['simulated'] else ''}",
            f"  - Impact since it began: {_plain_kwh(impact['energy_mj'])} kWh ({impact['energy_mj']:,} mJ), cost "
            f"{_money(cost) if cost else NOT_SET}, CO2 {NOT_SET if grams is None else f'{figure(grams)} g'}",
            f"  - {markdown(row['summary'])}",
            f"  - Remedy: {markdown(row['remedy'])}",
        ]
    if findings["truncated"]:
        lines += ["", f"These are the {len(findings['rows'])} largest; there may be more."]
    return lines or ["None."]


def _coverage(coverage: Document) -> list[str]:
    lines: list[str] = []
    for what, part in coverage.items():
        gaps = [(row, gap) for row in part["rows"] for gap in row["gaps"]]
        covered = sum(row["covered_seconds"] for row in part["rows"])
        expected = sum(row["expected_seconds"] for row in part["rows"])
        lines += ["", f"**{what.capitalize()}**: {percent(covered / expected if expected else None)} covered."]
        if part["reason"]:
            lines += ["", f"Not told: {markdown(part['reason'])}"]
        if not gaps:
            continue
        cells = [
            [markdown(_of(row["group"])), _time(gap["start"]), _time(gap["end"]), markdown(gap["reason"]),
             markdown(gap["detail"])]
            for row, gap in gaps[:MOST_GAPS]
        ]  # fmt: skip
        lines += ["", *_table(["Of", "From", "To", "Reason", "Detail"], cells, left=5)]
        if len(gaps) > MOST_GAPS:
            lines += ["", f"And {len(gaps) - MOST_GAPS} more, all of which are in the json and csv formats."]
    return lines[1:]


def _prices(prices: Sequence[Document]) -> list[str]:
    cells = [
        [
            markdown(site["site"]),
            what,
            _time(held["start"]),
            _time(held["end"]),
            markdown(price(what, held["version"])),
        ]
        for site in prices
        for what in ("tariffs", "carbon", "pue")
        for held in site[what]
    ]
    return _table(["Site", "What", "From", "To", "Value"], cells, left=5) if cells else [f"{NOT_SET.capitalize()}."]


def price(what: str, version: Document | None) -> str:
    if version is None:
        return NOT_SET
    if what == "tariffs":
        return f"{version['price_per_kwh']} {version['currency']}/kWh"
    if what == "carbon":
        return f"{version['grams_per_kwh']} g/kWh" + (f" ({version['source']})" if version["source"] else "")
    return f"PUE {version['pue']}"


def _notes() -> list[str]:
    return [
        "- Workloads and nodes count the energy of the accelerators, as the ledger does; so do cost and CO2.",
        "- Energies and tokens add up exactly. kWh, cost and CO2 are rounded so that each column adds up to its total "
        "as printed, which may move a figure by one in its last digit; json and csv have whole millijoules.",
        "- Tokens/kWh counts output tokens. `no traffic`: none were generated. `not known`: none were read.",
        "- Input tokens include those served from the prefix cache. `(nobody)` is energy that no workload owns.",
        "- Quality is `estimated` where part of the energy was not read from a counter; what was missing is named.",
    ]


def _column(values: Sequence[Fraction], least: int) -> tuple[list[str], str]:
    """Cells that add up to their total as printed, and that total."""
    digits = digits_for(sum(values, Fraction(0)), least)
    parts = rounded(values, digits)
    return [decimal(part, digits) for part in parts], decimal(sum(parts, Fraction(0)), digits)


def _priced(values: Sequence[float | None], rows: Sequence[Document], what: str, least: int) -> tuple[list[str], str]:
    """A column of money or CO2. Rows without energy cost nothing; where a price is not set, there is no total."""
    unknown = [value is None and bool(row["energy_mj"]) for value, row in zip(values, rows, strict=True)]
    cells, total = _column([Fraction(Decimal(repr(value or 0))) for value in values], least)
    shown = [_unpriced(row, what) if gone else cell for row, gone, cell in zip(rows, unknown, cells, strict=True)]
    return shown, NOT_SET if any(unknown) else total


def _owner(dimension: str, name: str | None) -> str:
    return markdown(name) if name is not None else "(nobody)" if dimension == "workload" else "—"


def _tokens(row: Document) -> list[str]:
    return [count(row["tokens"][kind]) for kind in ("input", "cached_input", "output")]


def _per_million(value: float | None, tokens: int | None) -> float | None:
    return value * 1_000_000 / tokens if value is not None and tokens else None


def _quality(row: Document) -> str:
    missing = ", ".join(str(name).replace("_", " ") for name in row["missing"] if name not in PRICES)
    return markdown(row["quality"] + (f"; missing: {missing}" if missing else ""))


def _unpriced(row: Document, what: str) -> str:
    """Why there is no cost (`tariff`) or CO2 (`carbon`)."""
    if what == "tariff" and "currency" in row["missing"]:
        return "several currencies"
    return NOT_SET if what in row["missing"] or "pue" in row["missing"] else "—"


def _money(cost: Document) -> str:
    return markdown(f"{figure(cost['total'])} {cost['currency']}")


def _plain_kwh(energy_mj: int) -> str:
    value = Fraction(energy_mj, MJ_PER_KWH)
    return decimal(value, digits_for(value, 3))


def _of(group: Document) -> str:
    return ", ".join(str(value) for value in group.values()) or NOT_KNOWN


def _time(text: str) -> str:
    return markdown(text.removesuffix("Z").replace("T", " "))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> list[str]:
    """Lines of a table whose first `left` columns are text."""
    rule = [":---" if i < left else "---:" for i in range(len(heads))]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]
