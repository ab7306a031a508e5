"""A picture of `wattmill top` for rich. Names are text that rich never reads as markup, and printable.

A picture that can be steered fits its screen: what matters least is left out first, and what is left out is counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wattmill_api.terminal import steering
from wattmill_api.terminal.steering import Place
from wattmill_api.terminal.text import MJ_PER_KWH, SCOPES, count, figure, percent, printable, why_none
from wattmill_api.terminal.view import OWNERS, VIEWS, Finding, Row, View

MOST_NAME = 48
NOBODY = "(nobody)"
_STYLES = {"serving": "green", "idle-loaded": "yellow", "idle-empty": "yellow", "unattributed": "magenta"}
_ROWS_UNBOUND = 20
# Lines around the rows: with accounts as a table and the largest findings, and with a line for each of both.
_FULL_LINES, _FULL_FINDINGS = 19, 4
_SHORT_LINES = 11
_LEAST_FULL_HEIGHT = 36
Line = TypeVar("Line", Row, Finding)


def picture(
    view: View,
    place: Place | None = None,
    *,
    width: int = 160,
    height: int | None = None,
    note: str = "",
) -> RenderableType:
    """Everything, cut to `height` lines where there is a screen. `note`: a sentence that stands above all else.

    With a height, views and keys are named and a row is marked; without one, it is text to be kept.
    """
    steered = height is not None
    place = place or Place(view=view.view, only=view.only)
    parts: list[RenderableType] = [_headline(view, place), Text()]
    if steered:
        parts.insert(0, _bar(place))
    if note:
        parts.insert(0, Text(printable(note), style="bold red"))
    opened = next((one for one in view.findings if one.id == place.opened), None)
    if place.help:
        return Group(*parts, _help())
    if opened is not None:
        return Group(*parts, _finding(opened))
    full = height is None or height >= _LEAST_FULL_HEIGHT
    around = (_FULL_LINES + _FULL_FINDINGS if full else _SHORT_LINES) + bool(note) + bool(view.simulated)
    most = _ROWS_UNBOUND if height is None else max(1, height - around)
    if (view.view, view.only) != place.question:
        parts.append(Text("asking …", style="dim"))
    elif place.view == "findings":
        parts.append(_findings(view, place, most, steered))
    else:
        parts.append(_rows(view, place, most, width, steered))
    if not full:
        return Group(*parts, Text(), _accounts_line(view), _findings_line(view, place))
    parts.append(_accounts(view))
    if place.view != "findings":
        largest = _ROWS_UNBOUND if height is None else _FULL_FINDINGS
        parts.append(_findings(view, Place("findings"), largest, False))
    return Group(*parts)


def _bar(place: Place) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for number, name in enumerate(VIEWS, 1):
        chosen = name == place.view
        text.append(f"[{number} {name}]" if chosen else f" {number} {name} ", style="bold reverse" if chosen else "")
    text.append(f"   h help  q quit  s order: {place.sort}{' (turned)' if place.reverse else ''}  Enter into", "dim")
    return text


def _headline(view: View, place: Place) -> Text:
    text = Text()
    if view.simulated:
        text.append("SIMULATED ", style="bold black on yellow")
        text.append("these figures come from a simulated fleet\n", style="yellow")
    if place.only:
        shown = (f"{name} {printable(value, MOST_NAME) or NOBODY}" for name, value in place.only)
        text.append(f"only {', '.join(shown)}\n", style="bold")
    text.append(figure(view.tokens_per_kwh, why_none(view.output_tokens, view.energy_mj)), style="bold")
    text.append(" output tokens/kWh   " if view.tokens_per_kwh is not None else " (output tokens/kWh)   ")
    text.append(figure(view.joules_per_token), style="bold")
    text.append(" J/token   ")
    text.append(_kw(view.power_mw), style="bold")
    text.append(f" kW (mean {_kw(view.mean_power_mw)})   ")
    text.append(percent(view.coverage), style="bold" if view.coverage == 1 else "bold yellow")
    text.append(f" covered, {view.quality}\n")
    text.append(
        f"{view.nodes} nodes, {view.accelerators} accelerators, {count(view.output_tokens)} output tokens, "
        f"{_kwh(view.energy_mj)} kWh of {SCOPES[view.scope]}, {_time(view.start)} to {_time(view.end)} UTC, "
        f"{printable(view.server, 80)}",
        style="dim",
    )
    return text


def _rows(view: View, place: Place, most: int, width: int, steered: bool) -> Table:
    """The columns that matter least go first where the screen is narrow; a figure is never cut."""
    rows = steering.rows_of(place, view)
    names = VIEWS[view.view]
    names = names if width >= 120 else names[:1] if width < 90 or names[0] != "site" else names[:2]
    names = ("node",) if names == ("site",) else names
    with_split = width >= 140 and any(row.split for row in rows)
    with_best = width >= 100 and any(row.best_ratio is not None for row in rows)
    table = _table(view.view.capitalize())
    if steered:
        table.add_column("", width=1)
    for name in names:
        head = name.replace("_", " ")
        table.add_column(head, overflow="ellipsis", no_wrap=True, max_width=MOST_NAME, ratio=2)
    figures = ["tokens/kWh", *(["J/token", "kW"] if width >= 80 else []), "kWh", "not serving"]
    figures += [*(["x best"] if with_best else []), *(["standing", "prefill", "decode"] if with_split else [])]
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    shown, first = _page(rows, place.chosen, most)
    for index, row in enumerate(shown, first):
        chosen = steered and index == min(place.chosen, len(rows) - 1)
        table.add_row(
            *([">" if chosen else ""] if steered else []),
            *(_name(_owner(name, row.names[name])) for name in names),
            figure(row.tokens_per_kwh, why_none(row.output_tokens, row.energy_mj)),
            *([figure(row.joules_per_token), _kw(row.mean_power_mw)] if width >= 80 else []),
            _kwh(row.energy_mj),
            _wasted(row),
            *([_times(row.best_ratio)] if with_best else []),
            *(_split(row) if with_split else []),
            style="reverse" if chosen else "",
        )
    return _and_more(table, len(rows), len(shown), "nothing was read in this window", steered)


def _accounts(view: View) -> Table:
    table = _table("Where the energy went" + (", accelerators alone" if view.scope != "accelerator" else ""))
    table.add_column("account", no_wrap=True)
    for name in ("kWh", "mJ", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, energy_mj in view.accounts.items():
        share = percent(energy_mj / view.boards_mj) if view.boards_mj else "—"
        table.add_row(Text(name, style=_STYLES[name]), _kwh(energy_mj), f"{energy_mj:,}", share)
    if view.meter_mj is None or view.residual_mj is None:
        table.add_row("meter", "—", _name(view.meter_reason or "not known"), "")
    else:
        table.add_row("meter", _kwh(view.meter_mj), f"{view.meter_mj:,}", "")
        style = "green" if view.residual_mj == 0 else "bold red"
        table.add_row("residual", _kwh(view.residual_mj), Text(f"{view.residual_mj:,}", style=style), "")
    return table


def _accounts_line(view: View) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    if view.residual_mj is not None:
        text.append(f"residual {view.residual_mj:,} mJ  ", style="" if view.residual_mj == 0 else "bold red")
    for name, energy_mj in view.accounts.items():
        share = percent(energy_mj / view.boards_mj) if view.boards_mj else "—"
        text.append(f"{name} ", style=_STYLES[name])
        text.append(f"{share}  ")
    return text


def _findings(view: View, place: Place, most: int, steered: bool) -> Table:
    findings = steering.findings_of(place, view)
    whole = place.view == "findings" and view.view == "findings"
    table = _table("Findings" if whole else "Open findings")
    if steered:
        table.add_column("", width=1)
    table.add_column("kind", no_wrap=True)
    if whole:
        table.add_column("state", no_wrap=True)
    table.add_column("subject", overflow="ellipsis", no_wrap=True, max_width=MOST_NAME)
    table.add_column("kWh", justify="right", no_wrap=True)
    if whole:
        table.add_column("saved kWh", justify="right", no_wrap=True)
    table.add_column("what to change", overflow="ellipsis", no_wrap=True, ratio=1)
    shown, first = _page(findings, place.chosen, most)
    for index, finding in enumerate(shown, first):
        chosen = steered and index == min(place.chosen, len(findings) - 1)
        table.add_row(
            *([">" if chosen else ""] if steered else []),
            _name(finding.kind),
            *([_name(finding.state)] if whole else []),
            _name(finding.subject),
            _kwh(finding.energy_mj),
            *(["—" if finding.realised_mj is None else _kwh(finding.realised_mj)] if whole else []),
            _name(finding.remedy, 300),
            style="reverse" if chosen else "",
        )
    return _and_more(table, len(findings), len(shown), "none", steered)


def _findings_line(view: View, place: Place) -> Text:
    if place.view == "findings":
        return Text()
    first = next(iter(steering.findings_of(Place("findings"), view)), None)
    if first is None:
        return Text("no open findings", style="dim")
    return Text(
        f"{len(view.findings)} open findings, the largest {printable(first.kind)}: {printable(first.subject)}",
        style="yellow",
        no_wrap=True,
        overflow="ellipsis",
    )


def _finding(finding: Finding) -> Table:
    """A finding in full."""
    table = Table(box=None, show_header=False, pad_edge=False, expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    until = "going on" if finding.until is None else f"until {finding.until}"
    simulated = ", simulated" if finding.simulated else ""
    for name, value in (
        ("finding", f"{finding.id}: {finding.kind}{simulated}"),
        ("subject", finding.subject),
        ("state", f"{finding.state}, since {finding.since}, {until}"),
        ("wasted", f"{_kwh(finding.energy_mj)} kWh ({finding.energy_mj:,} mJ)"),
        ("saved", "not measured" if finding.realised_mj is None else f"{_kwh(finding.realised_mj)} kWh after it ended"),
        ("summary", finding.summary),
        ("remedy", finding.whole_remedy),
        ("evidence", json.dumps(finding.evidence, ensure_ascii=False)),
    ):
        table.add_row(Text(name, style="bold"), _name(value, 2000))
    return table


def _help() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for keys, sentence in steering.HELP:
        table.add_row(Text(keys, style="bold"), Text(sentence))
    table.add_row("", Text("Columns: not serving: all accounts but serving, of the accelerators' energy. "
                           f"{OWNERS[0]} '{NOBODY}': energy that no workload owns. x best: J/token as a multiple of "
                           "the best published measurement. standing, prefill, decode: shares of the energy "
                           "of whole days."))  # fmt: skip
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, expand=True, pad_edge=False)


def _page(lines: Sequence[Line], chosen: int, most: int) -> tuple[Sequence[Line], int]:
    """The lines around the chosen one, and the number of their first."""
    first = max(0, min(chosen, len(lines) - 1) - most + 1)
    return lines[first : first + most], first


def _and_more(table: Table, total: int, shown: int, none: str, steered: bool) -> Table:
    lead = [""] if steered else []
    if total > shown:
        table.add_row(*lead, Text(f"… and {total - shown} more", style="dim"))
    elif not total:
        table.add_row(*lead, Text(none, style="dim"))
    return table


def _name(value: str | None, most: int = MOST_NAME) -> Text:
    return Text("—" if value is None else printable(value, most))


def _owner(dimension: str, name: str | None) -> str | None:
    return NOBODY if name is None and dimension == "workload" else name


def _wasted(row: Row) -> Text:
    share = row.waste_share
    return Text(percent(share), style="yellow" if share and share > 0.5 else "")


def _split(row: Row) -> list[str]:
    if row.split is None:
        return ["—"] * 3
    return [percent(row.split.standing_ratio), percent(row.split.prefill_ratio), percent(row.split.decode_ratio)]


def _times(ratio: float | None) -> str:
    return "—" if ratio is None else f"{figure(ratio)} x"


def _kw(power_mw: int | None) -> str:
    return "—" if power_mw is None else figure(power_mw / 1_000_000)


def _kwh(energy_mj: int) -> str:
    return figure(energy_mj / MJ_PER_KWH)


def _time(text: str) -> str:
    return printable(text[11:16])
