"""Placement: which engine holds which accelerators, and by which method that is known.

`configured`: the operator wrote it down. `process`: the process that listens at the engine's target belongs together
with processes that the driver lists on a board. `share`: the same, and another engine is on that board too.
`exclusive`: the node has one engine only, so the boards in use are its. Otherwise the method is "" and there are no
accelerators: unknown, which the service books as unattributed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from wattmill_collector.placement.configured import configured, remember
from wattmill_collector.placement.process import Process, Processes, related
from wattmill_collector.wire import AcceleratorReading, Reading

__all__ = ["Board", "Placement", "Seat", "boards_of", "place", "remember"]


@dataclasses.dataclass(frozen=True, slots=True)
class Board:
    """One accelerator of this node. `pids`: the compute processes on it, None when the driver does not list them."""

    uuid: str
    index: int | None = None
    pids: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """What is known of one engine before it is placed; `listener` is the process at its target, if that is known."""

    target: str
    accelerators: tuple[str, ...] = ()
    listener: Process | None = None
    holds_accelerators: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where an engine is. `missing`: configured accelerators that this node does not have."""

    accelerators: tuple[str, ...] = ()
    method: str = ""
    missing: tuple[str, ...] = ()


def boards_of(readings: Iterable[Reading], pids: Mapping[str, tuple[int, ...]]) -> tuple[Board, ...]:
    """The boards of one tick's readings, with the process lists by UUID; a board without a list has pids None."""
    return tuple(Board(r.uuid, r.index, pids.get(r.uuid)) for r in readings if isinstance(r, AcceleratorReading))


def place(
    seats: Sequence[Seat], boards: Sequence[Board], table: Processes, known: Sequence[Board] | None = None
) -> dict[str, Placement]:
    """Target → placement for all engines of a node at once: whether a board is shared depends on all of them.

    `known`: the boards that a configuration may speak of, lost ones too (`remember`); as a rule `boards`.
    """
    placed: dict[str, Placement] = {}
    for seat in seats:
        if seat.accelerators:
            uuids, missing = configured(seat.accelerators, boards if known is None else known)
            placed[seat.target] = Placement(uuids, "configured" if uuids else "", missing)
    open_seats = [s for s in seats if s.holds_accelerators and not s.accelerators]
    holders = {pid for board in boards for pid in board.pids or ()}
    listeners = {s.target: s.listener for s in seats if s.listener is not None and s.holds_accelerators}
    theirs = related(listeners, holders, table) if holders and listeners else {}
    held = {
        target: tuple(b.uuid for b in boards if not pids.isdisjoint(b.pids or ())) for target, pids in theirs.items()
    }
    for seat in open_seats:
        uuids = held.get(seat.target, ())
        if uuids:
            others = [u for t, p in held.items() if t != seat.target for u in p]
            others += [
                u for t, p in placed.items() if t != seat.target and p.method == "configured" for u in p.accelerators
            ]
            placed[seat.target] = Placement(uuids, "process" if set(uuids).isdisjoint(others) else "share")
        elif sum(s.holds_accelerators for s in seats) == 1:
            listed = any(board.pids is not None for board in boards)
            uuids = tuple(b.uuid for b in boards if b.pids or not listed)
            placed[seat.target] = Placement(uuids, "exclusive" if uuids else "")
    return {seat.target: placed.get(seat.target, Placement()) for seat in seats}
