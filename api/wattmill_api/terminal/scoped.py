"""`wattmill top` at a wider scope: the energy of whole nodes, or x PUE, in place of that of the accelerators. Pure.

Who bears how much of a host is told by /efficiency. Accounts, the meter, what is not serving and the findings stay
those of the accelerators: nothing tells them apart beyond these.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace

from wattmill_api.terminal.client import USELESS, Document, Failure
from wattmill_api.terminal.text import MJ_PER_KWH, joules_per_token, per_kwh
from wattmill_api.terminal.view import SETTLING_MINUTES, VIEWS, Get, Only, Row, View

_MINUTE = dt.timedelta(minutes=1)


def gather_scoped(get: Get, seen: View, only: Only, scope: str) -> dict[str, Document]:
    """Energy of the same rows and the same minutes as `seen`. Errors: those of `get`."""
    asked = {"start": seen.start, "end": seen.end, "scope": scope, **dict(only)}
    return {
        "rows": get("/efficiency", {**asked, "by": ",".join(VIEWS[seen.view])}),
        "minutes": get("/efficiency", {**asked, "step": "1m"}),
    }


def widened(seen: View, answers: Mapping[str, Document], scope: str) -> View:
    """The same picture at a wider scope. Errors: Failure where a PUE is missing; KeyError and the like as `view`."""
    rows, minutes = answers["rows"]["rows"], answers["minutes"]["rows"]
    if any(row["energy_mj"] is None for row in (*rows, *minutes)):
        sentence = f"--scope {scope}: no PUE is set for every site in all of this window (PUT /api/v1/pue)"
        raise Failure(sentence, USELESS)
    energy_mj = sum(row["energy_mj"] for row in rows)
    # The mean power is of the same time as that of the boards.
    measured_s = seen.energy_mj / seen.mean_power_mw if seen.mean_power_mw else 0.0
    return replace(
        seen,
        scope=scope,
        boards_mj=seen.energy_mj,
        energy_mj=energy_mj,
        energy_kwh=energy_mj / MJ_PER_KWH,
        tokens_per_kwh=per_kwh(seen.output_tokens, energy_mj),
        joules_per_token=joules_per_token(seen.output_tokens, energy_mj),
        power_mw=_latest(minutes, dt.datetime.fromisoformat(seen.end)),
        mean_power_mw=_mean(energy_mj, measured_s),
        quality="estimated" if any(row["quality"] != "measured" for row in rows) else seen.quality,
        rows=_rows(seen, rows, measured_s),
    )


def _rows(seen: View, rows: Sequence[Document], measured_s: float) -> list[Row]:
    """The rows of the accelerators with the energy that they bear now, and those of hosts that nobody uses."""
    known = {tuple(row.names.values()): row for row in seen.rows}
    found = []
    for row in rows:
        names = {name: row["group"][name] for name in VIEWS[seen.view]}
        one = known.get(tuple(names.values())) or Row(names)
        one = replace(one, boards_mj=one.energy_mj, energy_mj=row["energy_mj"], simulated=row["simulated"])
        before = known.get(tuple(names.values()))
        if before is not None:
            one.split, one.best_ratio = before.split, before.best_ratio
        one.tokens_per_kwh = per_kwh(one.output_tokens, one.energy_mj)
        one.joules_per_token = joules_per_token(one.output_tokens, one.energy_mj)
        one.mean_power_mw = _mean(one.energy_mj, measured_s)
        found.append(one)
    return found


def _latest(minutes: Sequence[Document], end: dt.datetime) -> int | None:
    """Power in the last minute that everybody has reported; None while there is no such minute."""
    settled = [row for row in minutes if dt.datetime.fromisoformat(row["time"]) < end - SETTLING_MINUTES * _MINUTE]
    return round(settled[-1]["energy_mj"] / _MINUTE.total_seconds()) if settled else None


def _mean(energy_mj: int, measured_s: float) -> int | None:
    return round(energy_mj / measured_s) if measured_s else None
