"""Where someone is in `wattmill top`, and where a key leads. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wattmill_api.terminal.view import SORTS, VIEWS, Finding, Only, Row, View, ranked, ranked_findings

HELP = (
    ("1 2 3 4, Tab", "workloads, nodes, accelerators, findings"),
    ("s S", "next, previous order"),
    ("r", "turn the order round"),
    ("↑ ↓ k j, PgUp PgDn, g G", "choose a row"),
    ("Enter, →", "look into it: its accelerators, an accelerator's workloads, a finding in full"),
    ("Esc, ←, Backspace", "back"),
    ("Space", "look again now"),
    ("h ?", "this"),
    ("q", "leave"),
)
_PAGE = 10
_NAMES = tuple(VIEWS)


@dataclass(frozen=True, slots=True)
class Place:
    """What is looked at. `opened`: id of the finding that is shown in full; `before`: where `back` leads."""

    view: str = _NAMES[0]
    sort: str = SORTS[0]
    reverse: bool = False
    only: Only = ()
    chosen: int = 0
    opened: int | None = None
    help: bool = False
    before: Place | None = None

    @property
    def question(self) -> tuple[str, Only]:
        """What the service is to be asked; everything else is a matter of showing."""
        return self.view, self.only


def rows_of(place: Place, seen: View) -> list[Row]:
    return ranked(seen.rows, place.sort, reverse=place.reverse)


def findings_of(place: Place, seen: View) -> list[Finding]:
    return ranked_findings(seen.findings, place.sort, reverse=place.reverse)


def lines_of(place: Place, seen: View) -> Sequence[Row | Finding]:
    """What can be chosen from; nothing while the answer is still of another place."""
    if (seen.view, seen.only) != place.question:
        return []
    return findings_of(place, seen) if place.view == "findings" else rows_of(place, seen)


def pressed(place: Place, key: str, seen: View) -> Place | None:
    """Where a key leads; None is out. Unknown keys lead nowhere."""
    if key == "q":
        return None
    if place.help:
        return replace(place, help=False)
    if key in ("h", "?"):
        return replace(place, help=True)
    if key == "back":
        return replace(place, opened=None) if place.opened is not None else place.before or place
    if key in ("1", "2", "3", "4"):
        return _to(place, _NAMES[int(key) - 1])
    if key in ("tab", "back-tab"):
        step = 1 if key == "tab" else -1
        return _to(place, _NAMES[(_NAMES.index(place.view) + step) % len(_NAMES)])
    if place.opened is not None:
        return place
    if key in ("s", "S"):
        step = 1 if key == "s" else -1
        return replace(place, sort=SORTS[(SORTS.index(place.sort) + step) % len(SORTS)], chosen=0)
    if key == "r":
        return replace(place, reverse=not place.reverse, chosen=0)
    lines = lines_of(place, seen)
    if key == "enter":
        return _into(place, lines)
    moves = {"up": -1, "k": -1, "down": 1, "j": 1, "page-up": -_PAGE, "page-down": _PAGE}
    ends = {"first": 0, "g": 0, "last": len(lines) - 1, "G": len(lines) - 1}
    wanted = ends.get(key, place.chosen + moves.get(key, 0))
    return replace(place, chosen=max(0, min(wanted, len(lines) - 1)))


def _to(place: Place, view: str) -> Place:
    """Another view of the same part of the fleet."""
    if view == place.view:
        return replace(place, opened=None)
    return replace(place, view=view, chosen=0, opened=None)


def _into(place: Place, lines: Sequence[Row | Finding]) -> Place:
    """What a row is made of."""
    if not lines:
        return place
    line = lines[min(place.chosen, len(lines) - 1)]
    if isinstance(line, Finding):
        return replace(place, opened=line.id)
    kept = {name: value or "" for name, value in line.names.items()}  # an empty name is what nobody owns
    if place.view == "accelerators":
        kept.pop("accelerator_model")
    only = tuple({**dict(place.only), **kept}.items())
    view = "workloads" if place.view == "accelerators" else "accelerators"
    return place if only == place.only else Place(view, place.sort, place.reverse, only, before=place)
