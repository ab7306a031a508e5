"""The catalogue of metrics: what a reading may carry, in which unit, and within which limits.

A reading's fields are declared once, as dataclass fields made by the functions below (see `wire.py`). The validator
of the wire, the columns of the store, `/series` and `docs/metrics.md` are all derived from that declaration, so a
metric has one name, one unit and one limit in the whole house.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

INT64_MAX = 2**63 - 1
MAX_BOUNDS = 64
MAX_LISTED = 256  # texts or integers of one field
Kind = Literal["counter", "gauge", "identity", "epoch"]


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
    """A cumulative histogram of durations as its source shows it.

    `le_us`: upper bounds in rising order, without +Inf; `counts`: observations at or under each bound so far, and all
    of them as the last entry.
    """

    le_us: tuple[int, ...]
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """One field of a reading: `low` and `high` are inclusive; for text `high` is the longest length in characters.

    For a histogram they are the limits of its bounds and counts alike, for a list of integers those of each of them.

    `high_bytes`: the longest length of a text in bytes of UTF-8; lower than four a character where the text is part of
    a key, since a row of a PostgreSQL index holds 2704 bytes.
    """

    name: str
    kind: Kind
    type: Literal["int", "float", "text", "texts", "ints", "histogram"]
    unit: str
    help: str
    low: float
    high: float
    high_bytes: int
    required: bool


def _field(
    kind: Kind, type_: str, unit: str, help_: str, low: float, high: float, required: bool, high_bytes: int = 0
) -> Any:
    metadata = {
        "kind": kind,
        "type": type_,
        "unit": unit,
        "help": help_,
        "low": low,
        "high": high,
        "high_bytes": high_bytes,
    }
    if required:
        return dataclasses.field(metadata=metadata)
    default: Any = () if type_ in ("texts", "ints") else "" if type_ == "text" else 0 if kind == "epoch" else None
    return dataclasses.field(default=default, metadata=metadata)


def counter(unit: str, help_: str, *, high: int = INT64_MAX) -> Any:
    """A raw integer counter that only rises within an epoch; None when the source does not have it."""
    return _field("counter", "int", unit, help_, 0, high, False)


def gauge(unit: str, help_: str, *, low: int = 0, high: int = INT64_MAX) -> Any:
    """An integer that may go up and down; None when the source does not have it."""
    return _field("gauge", "int", unit, help_, low, high, False)


def ratio(help_: str) -> Any:
    """A share from 0 to 1; None when the source does not have it."""
    return _field("gauge", "float", "1", help_, 0.0, 1.0, False)


def histogram(help_: str) -> Any:
    """A `Histogram` whose counts only rise within an epoch; None when the source does not have it."""
    return _field("counter", "histogram", "us", help_, 0, INT64_MAX, False)


def text(help_: str, *, longest: int = 256, longest_bytes: int = 0, required: bool = False) -> Any:
    """A label; empty when unknown. At most `longest` characters, and `longest_bytes` if that is less."""
    return _field("identity", "text", "", help_, 1 if required else 0, longest, required, longest_bytes or 4 * longest)


def texts(help_: str, *, most: int = MAX_LISTED) -> Any:
    """A list of labels; empty when unknown."""
    return _field("identity", "texts", "", help_, 0, most, False)


def integers(unit: str, help_: str, *, high: int) -> Any:
    """A list of at most `MAX_LISTED` integers, as long as the list that its help names; empty when unknown."""
    return _field("identity", "ints", unit, help_, 0, high, False)


def epoch(help_: str) -> Any:
    """Opaque 64-bit name of the stretch over which this reading's counters are known to continue; 0 = no evidence."""
    return _field("epoch", "int", "", help_, -(2**63), INT64_MAX, False)


def metrics_of(reading_class: type) -> tuple[Metric, ...]:
    """The fields of a reading class in declaration order."""
    return tuple(
        Metric(
            name=f.name,
            required=f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING,
            **f.metadata,
        )
        for f in dataclasses.fields(reading_class)
    )
