"""What a question may say: time range, step, dimensions and filters, checked before anything is asked of the store."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from wattmill_api import visibility
from wattmill_api.errors import invalid
from wattmill_collector.wire import EARLIEST_US, LATEST_US

Dimension = Literal["workload", "model", "engine", "team", "node", "site", "accelerator", "accelerator_model"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
OWNER_DIMENSIONS = frozenset({"workload", "model", "engine", "team"})  # known through a placement only
Step = Literal["1m", "1h", "1d", "auto"]
EnergyScope = Literal["accelerator", "node", "facility"]
Consumer = Literal["team", "api_key", "user", "agent", "model", "provider"]  # as a gateway tells callers apart

MINUTE, HOUR, DAY = dt.timedelta(minutes=1), dt.timedelta(hours=1), dt.timedelta(days=1)
STEPS: dict[str, dt.timedelta] = {"1m": MINUTE, "1h": HOUR, "1d": DAY}
LONGEST_IN_MINUTES_DAYS = 400
LONGEST_DAYS = 36_525
AUTO_POINTS = 1500
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_UNIX = re.compile(r"-?\d{1,12}(\.\d{1,9})?")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+ -]\d\d:\d\d)")
_HINT = "must be RFC 3339 with a zone (2026-01-31T12:00:00Z) or unix seconds"


def parse_instant(value: object) -> dt.datetime:
    """A time as people and tools write it. Errors: ValueError saying what is accepted."""
    text = str(value).strip()
    if _UNIX.fullmatch(text):
        time_us = int(Decimal(text) * 1_000_000)
    elif _RFC3339.fullmatch(text):
        # A + of the zone that was not percent-encoded arrives as a space.
        zoned = re.sub(r" (\d\d:\d\d)$", r"+\1", text).upper()
        try:
            time_us = (dt.datetime.fromisoformat(zoned) - EPOCH) // dt.timedelta(microseconds=1)
        except (ValueError, OverflowError):
            raise ValueError(_HINT) from None
    else:
        raise ValueError(_HINT)
    if not EARLIEST_US <= time_us <= LATEST_US:
        raise ValueError("must lie between 2020-01-01 and 2100-01-01")
    return EPOCH + dt.timedelta(microseconds=time_us)


def _split(value: object) -> object:
    """`by=a,b` and `by=a&by=b` are the same."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Iterable):
        return [part.strip() for item in value for part in str(item).split(",") if part.strip()]
    return value


def _unique(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _printable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain a NUL character")
    return text


Instant = Annotated[
    dt.datetime,
    BeforeValidator(parse_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00Z"]}),
]
Name = Annotated[str, Field(max_length=512, pattern="^[^\\x00]*$"), AfterValidator(_printable)]
Names = Annotated[list[Name], Field(max_length=100)]
By = Annotated[list[Dimension], BeforeValidator(_split), AfterValidator(_unique)]
ByConsumer = Annotated[list[Consumer], BeforeValidator(_split), AfterValidator(_unique)]


class Question(BaseModel):
    """No parameter that is not known: a misspelled filter must not answer another question."""

    model_config = ConfigDict(extra="forbid")


class RangeQuestion(Question):
    """A time range: `start` belongs to it, `end` does not. Both are widened to whole minutes."""

    start: Instant | None = Field(None, description="Begin; default one hour before `end`.")
    end: Instant | None = Field(None, description="End, not included; default now.")


class DeviceFilters(Question):
    """Keep only what has one of these names."""

    node: Names = Field([], description="Names of nodes; repeatable.")
    site: Names = Field([], description="Names of sites; repeatable.")
    accelerator: Names = Field([], description="UUIDs of accelerators; repeatable.")
    accelerator_model: Names = Field([], description="Product names of accelerators; repeatable.")


class Filters(DeviceFilters):
    """Keep only what has one of these names; an empty name is what nobody owns."""

    workload: Names = Field([], description="Names of workloads; repeatable.")
    model: Names = Field([], description="Names of served models; repeatable.")
    engine: Names = Field([], description="Targets of engines; repeatable.")
    team: Names = Field([], description="Names of teams; repeatable.")

    def by_dimension(self) -> dict[str, list[str] | None]:
        """Bound parameters of the statements: None where nothing is filtered."""
        return {name: getattr(self, name) or None for name in DIMENSIONS}

    @property
    def names_owner(self) -> bool:
        """Whether anything is kept by who it was for, so that the meter alone can't say how much that is."""
        return visibility.teams() is not None or any(getattr(self, name) for name in OWNER_DIMENSIONS)


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A range of whole minutes and the buckets in it. `step` None: the whole range is one bucket.

    `hour_start` to `hour_end` is the part that hours can answer; it is empty at `start` when only minutes can.
    `day_start` to `day_end` is the part of it that days can answer; it is empty at `hour_start` when none can.
    """

    start: dt.datetime
    end: dt.datetime
    step: dt.timedelta | None
    hour_start: dt.datetime
    hour_end: dt.datetime
    day_start: dt.datetime
    day_end: dt.datetime

    @property
    def step_name(self) -> str | None:
        return next((name for name, step in STEPS.items() if step == self.step), None)


def window(
    question: RangeQuestion, step: str | dt.timedelta | None, now: dt.datetime, cuts: Iterable[dt.datetime] = ()
) -> Window:
    """The range of a question. `cuts`: instants at which a price changes, which hours and days must not straddle.

    Errors: Invalid naming `start` or `step` and the limit.
    """
    end = _ceil(question.end or now, MINUTE)
    start = _floor(question.start, MINUTE) if question.start else end - HOUR
    if (question.start and question.end and question.start > question.end) or start > end:
        raise invalid("start", "must not lie after end")
    if end - start > dt.timedelta(days=LONGEST_DAYS):
        raise invalid("start", f"the range must not be longer than {LONGEST_DAYS} days")
    length = _length(step, end - start) if isinstance(step, str) else step
    if length == MINUTE and end - start > dt.timedelta(days=LONGEST_IN_MINUTES_DAYS):
        raise invalid("step", f"must be 1h or longer for a range of more than {LONGEST_IN_MINUTES_DAYS} days")
    inside = [cut for cut in cuts if start <= cut < end]
    hour_start, hour_end = _whole(start, end, HOUR, length, inside)
    day_start, day_end = _whole(hour_start, hour_end, DAY, length, inside)
    return Window(start, end, length, hour_start, hour_end, day_start, day_end)


def _whole(
    start: dt.datetime, end: dt.datetime, unit: dt.timedelta, step: dt.timedelta | None, cuts: Iterable[dt.datetime]
) -> tuple[dt.datetime, dt.datetime]:
    """The whole units in a range; none, at `start`, where a step or a cut would divide one."""
    first, last = _ceil(start, unit), _floor(end, unit)
    divided = bool(step and step % unit) or any(cut != _floor(cut, unit) for cut in cuts)
    return (start, start) if divided or first >= last else (first, last)


def _length(step: str, length: dt.timedelta) -> dt.timedelta:
    return _auto(length) if step == "auto" else STEPS[step]


def _auto(length: dt.timedelta) -> dt.timedelta:
    return next((step for step in (MINUTE, HOUR) if length <= AUTO_POINTS * step), DAY)


def _floor(time: dt.datetime, unit: dt.timedelta) -> dt.datetime:
    return time - (time - EPOCH) % unit


def _ceil(time: dt.datetime, unit: dt.timedelta) -> dt.datetime:
    return time + (EPOCH - time) % unit
