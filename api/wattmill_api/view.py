"""What a page is about: a time range and a part of the fleet, as its address says. No database, no HTML.

The address holds everything, so that it can be shared: `range` or `start` and `end`, `scope`, the filters of the API.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import get_args
from urllib.parse import urlencode

from pydantic import Field, ValidationError

from wattmill_api import visibility
from wattmill_api.errors import invalid
from wattmill_api.parameters import (
    DAY,
    DIMENSIONS,
    HOUR,
    MINUTE,
    OWNER_DIMENSIONS,
    EnergyScope,
    Filters,
    RangeQuestion,
    window,
)

RANGES = {"1h": HOUR, "6h": 6 * HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
DEFAULT_RANGE = "24h"
DEFAULT_SCOPE: EnergyScope = "accelerator"
SCOPES: tuple[EnergyScope, ...] = get_args(EnergyScope)
MOST_POINTS = 150
# What a trend may read, in minutes and in hours of boards: beyond the first hours are read, beyond the second days.
MOST_BOARD_MINUTES, MOST_BOARD_HOURS = 400_000, 200_000
STEPS = (MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, DAY)
LEVELS = ("site", "node", "accelerator_model", "accelerator", "team", "model", "workload", "engine")
# A browser's date fields know no zone: here they are UTC, and the page says so.
_ZONELESS = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(:\d\d)?")


class PageQuestion(RangeQuestion, Filters):
    """The parameters of a page: those of the API, and `range` for one that ends now."""

    range: str = Field("", pattern=f"^({'|'.join(RANGES)})?$")
    scope: EnergyScope = DEFAULT_SCOPE


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """[start, end) in whole minutes and what is kept of the fleet; `chosen` is empty where the range was given by hand.

    `filters` are the bound parameters of the statements: None where nothing is filtered.
    """

    start: dt.datetime
    end: dt.datetime
    now: dt.datetime
    chosen: str
    filters: Mapping[str, list[str] | None]
    scope: EnergyScope = DEFAULT_SCOPE

    @property
    def length(self) -> dt.timedelta:
        return self.end - self.start

    @property
    def names_owner(self) -> bool:
        """Whether it is about workloads, whose energy no meter can tell apart: a team's key sees its own alone."""
        return visibility.teams() is not None or any(self.filters[name] for name in OWNER_DIMENSIONS)

    @property
    def names_board(self) -> bool:
        """Whether it is about single boards, which have no part of their host's energy that a meter could tell."""
        return bool(self.filters["accelerator"] or self.filters["accelerator_model"])

    @property
    def refresh_s(self) -> int:
        """How long a page of it is fresh enough: a thousandth of its length, 10 to 60 s."""
        return int(min(max(self.length.total_seconds() / 1000, 10), 60))

    def only(self, name: str) -> str | None:
        """The one value of a filter; None if there are none or several."""
        values = self.filters[name]
        return values[0] if values and len(values) == 1 else None

    def question(self) -> RangeQuestion:
        return RangeQuestion(start=self.start, end=self.end)

    def address(self, path: str = "/", /, **changes: str | list[str] | None) -> str:
        """The address of this view with some parameters changed; None takes one away."""
        given: dict[str, str | list[str] | None]
        given = {"range": self.chosen} if self.chosen else {"start": _zulu(self.start), "end": _zulu(self.end)}
        given |= {name: values for name, values in self.filters.items() if values}
        given |= {"scope": self.scope}
        if changes.get("range"):
            given = {name: value for name, value in given.items() if name not in ("start", "end")}
        given |= changes
        given["scope"] = None if given["scope"] == DEFAULT_SCOPE else given["scope"]
        query = urlencode({name: value for name, value in given.items() if value}, doseq=True)
        return f"{path}?{query}" if query else path

    def api(self, path: str, **more: str) -> str:
        """The address of the same question to the API; `scope` is among `more` where the route has it."""
        given: dict[str, str | list[str]] = {"start": _zulu(self.start), "end": _zulu(self.end)}
        given |= {name: values for name, values in self.filters.items() if values}
        return f"/api/v1/{path}?{urlencode({**given, **more}, doseq=True)}"

    def moved(self, lengths: int) -> str | None:
        """The address of the range as many lengths later; None where it would begin after now."""
        start = self.start + lengths * self.length
        if start >= self.now:
            return None
        return self.address(range=None, start=_zulu(start), end=_zulu(start + self.length))

    def crumbs(self) -> list[tuple[str, str, str]]:
        """Filters from the outermost in: name, value, and the address that leads back to this level."""
        found = []
        kept: dict[str, list[str]] = {}
        for name in LEVELS:
            values = self.filters[name]
            if values:
                kept[name] = values
                deeper: dict[str, str | list[str] | None] = {n: kept.get(n) for n in LEVELS}
                found.append((name.replace("_", " "), ", ".join(values) or "", self.address(**deeper)))
        return found

    def without_filters(self) -> str:
        """The address of the whole fleet over the same range."""
        return self.address(**dict.fromkeys(LEVELS))

    def hidden(self) -> list[tuple[str, str]]:
        """The filters and the scope as fields of a form."""
        fields = [(name, value) for name, values in self.filters.items() for value in values or []]
        return fields if self.scope == DEFAULT_SCOPE else [*fields, ("scope", self.scope)]

    def earlier(self) -> tuple[View, str]:
        """What it is compared with: the same time of yesterday, or the equally long range before it."""
        back = DAY if self.length <= DAY else self.length
        name = "yesterday" if back == DAY else f"the {back.days} days before"
        return dataclasses.replace(self, start=self.start - back, end=self.end - back), name

    def last(self, length: dt.timedelta) -> View:
        """Its end, at most `length` long."""
        return dataclasses.replace(self, start=max(self.start, self.end - length))

    def step(self, boards: int) -> dt.timedelta:
        """The finest step of a trend that is quick to read and has no more points than can be seen."""
        if boards * (self.length // HOUR) > MOST_BOARD_HOURS:
            return DAY
        least = MINUTE if boards * (self.length // MINUTE) <= MOST_BOARD_MINUTES else HOUR
        return next((step for step in STEPS if step >= least and self.length <= MOST_POINTS * step), DAY)


def read(parameters: Iterable[tuple[str, str]], now: dt.datetime) -> View:
    """The view that an address asks for. Errors: Invalid naming the parameter and the limit."""
    given: dict[str, list[str]] = {}
    for name, value in parameters:
        # A form sends its empty fields too; an empty filter is what nobody owns.
        if value or name in DIMENSIONS:
            zoneless = _ZONELESS.fullmatch(value)
            given.setdefault(name, []).append(f"{zoneless[1]}{zoneless[2] or ':00'}Z" if zoneless else value)
    single = ("range", "start", "end", "scope")
    try:
        asked = PageQuestion.model_validate(
            {name: values[-1] if name in single else values for name, values in given.items()}
        )
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        if name == "range":
            raise invalid("range", f"must be one of {', '.join(RANGES)}") from None
        if name == "scope":
            raise invalid("scope", f"must be one of {', '.join(SCOPES)}") from None
        if fault["type"] == "extra_forbidden":
            raise invalid(
                name, f"is not a parameter of this page; there are {', '.join((*single, *DIMENSIONS))}"
            ) from None
        raise invalid(name, fault["msg"].removeprefix("Value error, ")) from None
    by_hand = not asked.range and (asked.start or asked.end)
    chosen = "" if by_hand else asked.range or DEFAULT_RANGE
    if chosen:
        end = window(RangeQuestion(start=None, end=now), None, now).end
        asked = asked.model_copy(update={"start": end - RANGES[chosen], "end": end})
    whole = window(asked, None, now)
    return View(whole.start, whole.end, now, chosen, asked.by_dimension(), asked.scope)


def _zulu(time: dt.datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
