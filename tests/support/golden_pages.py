"""What each golden page of an engine says, worked out by hand from the numbers that were written into it.

`tests/fixtures/metrics/expected.json`: for each page the kind of engine, and for each engine behind it what names it,
the value of every field that it has, and the family that each of its histograms is to be read from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

PAGES = Path(__file__).parents[1] / "fixtures/metrics"


@dataclasses.dataclass(frozen=True)
class One:
    """One engine behind a page."""

    series: str
    model: str
    moves: str
    role: str
    values: Mapping[str, float]
    histograms: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Page:
    """A golden page."""

    kind: str
    engines: tuple[One, ...]


def golden(name: str) -> bytes:
    """A golden page as its engine would send it."""
    return (PAGES / f"{name}.prom").read_bytes()


GOLDEN: dict[str, Page] = {
    name: Page(page["kind"], tuple(One(**one) for one in page["engines"]))
    for name, page in json.loads((PAGES / "expected.json").read_text()).items()
}
