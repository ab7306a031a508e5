"""Figures, times and names as people read them: the filters of the templates. Three digits that mean something."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Sequence

THIN = "\u202f"
UNKNOWN = "–"
_SCALES = ((1e9, "G"), (1e6, "M"))
BRIEF = 20  # letters that an advice has at least
PLOT_WIDTH, PLOT_HEIGHT = 600, 120


def grouped(value: int | float | None, digits: int = 0) -> str:
    """1234567 as 1 234 567; a dash where it is not known."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}".replace(",", THIN)


def figure(value: float | None) -> str:
    """Three significant digits: 1234567 as 1.23 M, 12345 as 12 300, 0.01234 as 0.0123."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    size = abs(value)
    for scale, letter in _SCALES:
        if size >= scale * 0.9995:
            return f"{figure(value / scale)}{THIN}{letter}"
    digits = 2 - math.floor(math.log10(size))
    rounded = round(value, digits)
    return grouped(rounded, max(0, 2 - math.floor(math.log10(abs(rounded)))))


def energy(energy_mj: int | None) -> str:
    """Energy in a unit that a person can read."""
    if energy_mj is None:
        return UNKNOWN
    watt_hours = energy_mj / 3_600_000
    for scale, unit in ((1e9, "GWh"), (1e6, "MWh"), (1e3, "kWh")):
        if abs(watt_hours) >= scale * 0.9995:
            return f"{figure(watt_hours / scale)}{THIN}{unit}"
    return f"{figure(watt_hours)}{THIN}Wh"


def power(kilowatts: float | None) -> str:
    """Power in W, kW or MW."""
    if kilowatts is None:
        return UNKNOWN
    for scale, unit in ((1e3, "MW"), (1.0, "kW")):
        if abs(kilowatts) >= scale * 0.9995:
            return f"{figure(kilowatts / scale)}{THIN}{unit}"
    return f"{figure(kilowatts * 1000)}{THIN}W"


def mass(grams: float | None) -> str:
    """CO2 in g, kg or t."""
    if grams is None:
        return UNKNOWN
    for scale, unit in ((1e6, "t"), (1e3, "kg")):
        if abs(grams) >= scale * 0.9995:
            return f"{figure(grams / scale)}{THIN}{unit}"
    return f"{figure(grams)}{THIN}g"


def money(cost: dict[str, object] | None, what: str = "total") -> str:
    """An amount with its currency."""
    if cost is None or not isinstance(cost.get(what), int | float):
        return UNKNOWN
    value = float(cost[what])  # type: ignore[arg-type]
    return f"{grouped(value, 2) if abs(value) >= 10 else figure(value)}{THIN}{cost['currency']}"


def percent(share: float | None) -> str:
    """A share with one decimal."""
    return UNKNOWN if share is None else f"{share * 100:.1f}{THIN}%"


def coverage(share: float | None) -> str:
    """A coverage; never called complete when it is not."""
    if share is None:
        return UNKNOWN
    return f"{math.floor(share * 1000) / 10:.1f}{THIN}%" if share < 1 else f"100{THIN}%"


def change(ratio: float | None) -> str:
    """How much more or less: 1.064 as +6.4 %."""
    return UNKNOWN if ratio is None else f"{(ratio - 1) * 100:+.1f}{THIN}%".replace("-", "−")


def clock(time: dt.datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def span(start: dt.datetime, end: dt.datetime) -> str:
    """A range, its day said once."""
    second = f"{end:%H:%M}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M}"
    return f"{start:%Y-%m-%d %H:%M} to {second} UTC"


def duration(length: dt.timedelta) -> str:
    """A length of time in its largest two units."""
    minutes = round(length.total_seconds() / 60)
    if minutes < 1:
        return f"{max(0, round(length.total_seconds()))}{THIN}s"
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    first = next(i for i, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count}{THIN}{unit}" for count, unit in parts[first : first + 2] if count)


def briefly(text: str) -> str:
    """The first thing that an advice says: up to its first bracket, semicolon or full stop."""
    cut = min((at for at in map(text.find, (" (", ";", ". ", ": ")) if at > BRIEF), default=len(text))
    return text[:cut].rstrip(".") + "."


def plot(
    points: Sequence[tuple[dt.datetime, float | None]], width: int = PLOT_WIDTH, height: int = PLOT_HEIGHT
) -> list[str]:
    """A trend from 0 up as SVG point lists: a new one begins after every gap, so that no gap is drawn over."""
    known = [value for _, value in points if value is not None]
    if len(known) < 2:
        return []
    top = max(known) * 1.05 or 1.0
    first, last = points[0][0], points[-1][0]
    length = (last - first).total_seconds() or 1.0
    typical = min((later[0] - earlier[0] for earlier, later in itertools.pairwise(points)), default=None)
    lines: list[list[str]] = [[]]
    before: dt.datetime | None = None
    for time, value in points:
        apart = before is not None and typical is not None and time - before > typical
        if value is None or apart:
            lines.append([])
        if value is not None:
            across = (time - first).total_seconds() / length * width
            lines[-1].append(f"{across:.1f},{height * (1 - value / top):.1f}")
        before = time
    return [" ".join(line) for line in lines if line]


FILTERS = {
    "grouped": grouped,
    "figure": figure,
    "energy": energy,
    "power": power,
    "mass": mass,
    "money": money,
    "percent": percent,
    "coverage": coverage,
    "change": change,
    "clock": clock,
    "duration": duration,
    "briefly": briefly,
    "plot": plot,
}
