"""A picture of `wattmill top` for rich. Names are text that rich never reads as markup, and printable."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wattmill_api.terminal.text import MJ_PER_KWH, count, figure, percent, printable, why_none
from wattmill_api.terminal.view import View, Workload

MOST_NAME = 48
NOBODY = "(nobody)"
_STYLES = {"serving": "green", "idle-loaded": "yellow", "idle-empty": "yellow", "unattributed": "magenta"}
_AROUND_LINES = 22  # of headline, accounts and the heads of the tables


def picture(view: View, *, height: int | None = None, note: str = "") -> RenderableType:
    """Everything, cut to `height` lines where there is a screen. `note`: a sentence that stands above all else."""
    most = 20 if height is None else max(3, (height - _AROUND_LINES) // 2)
    parts: list[RenderableType] = [_headline(view), Text()]
    if note:
        parts.insert(0, Text(printable(note), style="bold red"))
    parts += [_workloads(view, most), _accounts(view), _findings(view, most)]
    return Group(*parts)


def _headline(view: View) -> Text:
    text = Text()
    if view.simulated:
        text.append("SIMULATED ", style="bold black on yellow")
        text.append("these figures come from a simulated fleet\n", style="yellow")
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
        f"{_kwh(view.energy_mj)} kWh at the accelerators, {_time(view.start)} to {_time(view.end)} UTC, "
        f"{printable(view.server, 80)}",
        style="dim",
    )
    return text


def _workloads(view: View, most: int) -> Table:
    table = _table("Workloads")
    for name in ("workload", "model", "team"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=MOST_NAME, ratio=2)
    for name in ("tokens/kWh", "J/token", "kW", "kWh", "not serving"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in view.workloads[:most]:
        table.add_row(
            *(_name(value) for value in (row.workload or NOBODY, row.model, row.team)),
            figure(row.tokens_per_kwh, why_none(row.output_tokens, row.energy_mj)),
            figure(row.joules_per_token),
            _kw(row.mean_power_mw),
            _kwh(row.energy_mj),
            _wasted(row),
        )
    return _and_more(table, len(view.workloads), most, "nothing was read in this window")


def _accounts(view: View) -> Table:
    table = _table("Where the energy went")
    table.add_column("account", no_wrap=True)
    for name in ("kWh", "mJ", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, energy_mj in view.accounts.items():
        share = percent(energy_mj / view.energy_mj) if view.energy_mj else "—"
        table.add_row(Text(name, style=_STYLES[name]), _kwh(energy_mj), f"{energy_mj:,}", share)
    if view.meter_mj is None or view.residual_mj is None:
        table.add_row("meter", "—", _name(view.meter_reason or "not known"), "")
    else:
        table.add_row("meter", _kwh(view.meter_mj), f"{view.meter_mj:,}", "")
        style = "green" if view.residual_mj == 0 else "bold red"
        table.add_row("residual", _kwh(view.residual_mj), Text(f"{view.residual_mj:,}", style=style), "")
    return table


def _findings(view: View, most: int) -> Table:
    table = _table("Open findings")
    table.add_column("kind", no_wrap=True)
    table.add_column("subject", overflow="ellipsis", no_wrap=True, max_width=MOST_NAME)
    table.add_column("kWh", justify="right", no_wrap=True)
    table.add_column("what to change", overflow="ellipsis", no_wrap=True, ratio=1)
    for finding in view.findings[:most]:
        table.add_row(_name(finding.kind), _name(finding.subject), _kwh(finding.energy_mj), _name(finding.remedy, 300))
    return _and_more(table, len(view.findings), most, "none")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, expand=True, pad_edge=False)


def _and_more(table: Table, total: int, most: int, none: str) -> Table:
    if total > most:
        table.add_row(Text(f"… and {total - most} more", style="dim"))
    elif not total:
        table.add_row(Text(none, style="dim"))
    return table


def _name(value: str | None, most: int = MOST_NAME) -> Text:
    return Text("—" if value is None else printable(value, most))


def _wasted(row: Workload) -> Text:
    share = row.waste_mj / row.energy_mj if row.energy_mj else None
    return Text(percent(share), style="yellow" if share and share > 0.5 else "")


def _kw(power_mw: int | None) -> str:
    return "—" if power_mw is None else figure(power_mw / 1_000_000)


def _kwh(energy_mj: int) -> str:
    return figure(energy_mj / MJ_PER_KWH)


def _time(text: str) -> str:
    return printable(text[11:16])
