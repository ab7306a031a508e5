"""What each golden page of an engine says: the kind of engine, and for each engine behind the page what names it, the
value of every field that it has, and the family that each of its histograms is to be read from.

Written pages lie in `tests/fixtures/metrics`; `expected.json` there has what was written into them, worked out by hand.
Recorded pages lie in `tests/fixtures/recorded/engines`, each sent by the engine's own program, with what it says in a
JSON file of the same name: tokens and requests as the client that sent the load counted them from the answers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parents[1] / "fixtures/metrics"
RECORDED = Path(__file__).parents[1] / "fixtures/recorded/engines"


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
    written = PAGES / f"{name}.prom"
    return (written if written.exists() else RECORDED / f"{name}.prom").read_bytes()


def _page(said: Any) -> Page:
    return Page(said["kind"], tuple(One(**one) for one in said["engines"]))


GOLDEN: dict[str, Page] = {
    name: _page(page) for name, page in json.loads((PAGES / "expected.json").read_text()).items()
} | {path.stem: _page(json.loads(path.read_text())) for path in sorted(RECORDED.glob("*.json"))}
