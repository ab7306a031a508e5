"""Cells and tables of Markdown: escaped names, columns that add up to their total as printed. Pure."""

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
    markdown,
    percent,
    rounded,
)

PRICES = ("tariff", "carbon", "pue", "currency")  # their own columns say that they are not set


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> list[str]:
    """Lines of a table whose first `left` columns are text."""
    rule = [":---" if i < left else "---:" for i in range(len(heads))]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]


def column(values: Sequence[Fraction], least: int) -> tuple[list[str], str]:
    """Cells that add up to their total as printed, and that total."""
    digits = digits_for(sum(values, Fraction(0)), least)
    parts = rounded(values, digits)
    return [decimal(part, digits) for part in parts], decimal(sum(parts, Fraction(0)), digits)


def priced(values: Sequence[float | None], rows: Sequence[Document], what: str, least: int) -> tuple[list[str], str]:
    """A column of money or CO2. Rows without energy cost nothing; where a price is not set, there is no total."""
    unknown = [value is None and bool(row["energy_mj"]) for value, row in zip(values, rows, strict=True)]
    cells, total = column([Fraction(Decimal(repr(value or 0))) for value in values], least)
    shown = [unpriced(row, what) if gone else cell for row, gone, cell in zip(rows, unknown, cells, strict=True)]
    return shown, NOT_SET if any(unknown) else total


def unpriced(row: Document, what: str) -> str:
    """Why there is no cost (`tariff`) or CO2 (`carbon`)."""
    if what == "tariff" and "currency" in row["missing"]:
        return "several currencies"
    return NOT_SET if what in row["missing"] or "pue" in row["missing"] else "—"


def owner(dimension: str, name: str | None) -> str:
    return markdown(name) if name is not None else "(nobody)" if dimension == "workload" else "—"


def tokens(row: Document) -> list[str]:
    return [count(row["tokens"][kind]) for kind in ("input", "cached_input", "output")]


def per_million(value: float | None, tokens: int | None) -> float | None:
    return value * 1_000_000 / tokens if value is not None and tokens else None


def quality(row: Document) -> str:
    missing = ", ".join(str(name).replace("_", " ") for name in row["missing"] if name not in PRICES)
    return markdown(row["quality"] + (f"; missing: {missing}" if missing else ""))


def money(cost: Document) -> str:
    return markdown(f"{figure(cost['total'])} {cost['currency']}")


def plain_kwh(energy_mj: int) -> str:
    value = Fraction(energy_mj, MJ_PER_KWH)
    return decimal(value, digits_for(value, 3))


def within(row: Document) -> str:
    """The share of tokens that came in time, for workloads that have a target."""
    slo = row.get("slo")
    return percent(slo["met_ratio"]) if slo else "—"


def change(ratio: float | None) -> str:
    """`+12.3 %`; a change that rounds to nothing has no sign."""
    if ratio is None:
        return "—"
    shown = f"{ratio * 100:+.1f}"
    return f"{'0.0' if shown in ('+0.0', '-0.0') else shown} %"


def names(group: Document) -> str:
    return ", ".join(str(value) for value in group.values()) or NOT_KNOWN


def moment(text: str) -> str:
    return markdown(text.removesuffix("Z").replace("T", " "))
