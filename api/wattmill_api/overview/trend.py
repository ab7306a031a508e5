"""Efficiency and power over time, out of the same facts as the totals."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict

from wattmill_api.coverage import settled_at
from wattmill_api.efficiency import per_kwh
from wattmill_api.overview.books import IDLE_EMPTY, IDLE_LOADED, SERVING, UNATTRIBUTED, Books
from wattmill_api.view import View

ACCOUNTS = (SERVING, IDLE_LOADED, IDLE_EMPTY, UNATTRIBUTED)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One step: output tokens per kWh, and the mean power of each account in kW; None where nothing was read."""

    time: dt.datetime
    tokens_per_kwh: float | None
    kilowatts: tuple[float | None, float | None, float | None, float | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Trend:
    """Every step from the first to the last that was read, with gaps as points without values."""

    step: dt.timedelta
    points: tuple[Point, ...]

    @property
    def efficiency(self) -> list[tuple[dt.datetime, float | None]]:
        return [(point.time, point.tokens_per_kwh) for point in self.points]

    @property
    def best(self) -> Point | None:
        return max(self._known, key=lambda point: point.tokens_per_kwh or 0.0, default=None)

    @property
    def worst(self) -> Point | None:
        return min(self._known, key=lambda point: point.tokens_per_kwh or 0.0, default=None)

    @property
    def _known(self) -> list[Point]:
        return [point for point in self.points if point.tokens_per_kwh is not None]


def trend(view: View, books: Books) -> Trend:
    """The trend of the whole view. A step that is not over counts as far as it was read."""
    step = books.steps.step or view.length
    spent: dict[dt.datetime, dict[int, int]] = defaultdict(dict)
    tokens: dict[dt.datetime, int] = defaultdict(int)
    span_us: dict[dt.datetime, int] = defaultdict(int)
    for item in books.stepped:
        # A host without boards that used anything is nobody's, as far as boards go.
        account = item.account if item.account in ACCOUNTS else UNATTRIBUTED
        spent[item.bucket][account] = spent[item.bucket].get(account, 0) + item.energy_mj
        tokens[item.bucket] += item.output_tokens or 0
        span_us[item.bucket] += item.span_us
    if not spent:
        return Trend(step, ())
    settled = min(view.end, settled_at(view.now))
    first, last = min(spent), max(spent)
    points: list[Point] = []
    boards = 0.0  # of the step before
    for i in range((last - first) // step + 1):
        time = first + i * step
        accounts = spent.get(time)
        if accounts is None:
            points.append(Point(time, None, (None, None, None, None)))
            continue
        seconds = (min(time + step, view.end, view.now) - max(time, view.start)).total_seconds()
        if time + step > settled and boards:
            seconds = span_us[time] / 1e6 / boards
        elif seconds > 0:
            boards = span_us[time] / 1e6 / seconds
        power = [accounts.get(account, 0) / 1e6 / seconds if seconds > 0 else None for account in ACCOUNTS]
        serving, loaded, empty, nobody = power
        points.append(Point(time, per_kwh(tokens[time], sum(accounts.values())), (serving, loaded, empty, nobody)))
    return Trend(step, tuple(points))
