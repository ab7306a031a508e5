"""Placement: which engine holds which accelerators, and by which method that is known.

`configured`: the operator wrote it down. `pod`: the kubelet gave the boards to the engine's pod, whole and to nobody
else. `process`: the process that listens at the engine's target belongs together with processes that the driver lists
on a board. `share`: one of these, and another engine or pod is on that board too, or the pod was given a part of it (a
time-slice, a MIG slice).
`exclusive`: the node has one engine only, so the boards in use are its. Otherwise the method is "" and there are no
accelerators: unknown, which the service books as unattributed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from wattmill_collector.placement.configured import configured, remember
from wattmill_collector.placement.process import Process, Processes, related
from wattmill_collector.wire import AcceleratorReading, Reading

if TYPE_CHECKING:
    from wattmill_collector.placement.pods import Allocation

__all__ = ["Board", "Placement", "Seat", "boards_of", "place", "remember"]


@dataclasses.dataclass(frozen=True, slots=True)
class Board:
    """One accelerator of this node. `pids`: the compute processes on it, None when the driver does not list them."""

    uuid: str
    index: int | None = None
    pids: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """What is known of one engine before it is placed.

    `listener` is the process at its target, `allocation` what the kubelet gave to its pod; None: not known.
    """

    target: str
    accelerators: tuple[str, ...] = ()
    listener: Process | None = None
    holds_accelerators: bool = True
    allocation: Allocation | None = None


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
    seats: Sequence[Seat],
    boards: Sequence[Board],
    table: Processes,
    known: Sequence[Board] | None = None,
    taken: Collection[str] = (),
) -> dict[str, Placement]:
    """Target → placement for all engines of a node at once: whether a board is shared depends on all of them.

    `known`: the boards that a configuration may speak of, lost ones too (`remember`); as a rule `boards`. `taken`: the
    boards that the kubelet gave to pods, which are nobody else's by exclusion.
    """
    placed: dict[str, Placement] = {}
    for seat in seats:
        if seat.accelerators:
            uuids, missing = configured(seat.accelerators, boards if known is None else known)
            placed[seat.target] = Placement(uuids, "configured" if uuids else "", missing)
    given = {
        s.target: s.allocation
        for s in seats
        if s.allocation and s.allocation.accelerators and s.holds_accelerators and not s.accelerators
    }
    fixed = {t: p.accelerators for t, p in placed.items()} | {t: a.accelerators for t, a in given.items()}
    open_seats = [s for s in seats if s.holds_accelerators and s.target not in fixed]
    holders = {pid for board in boards for pid in board.pids or ()}
    listeners = {s.target: s.listener for s in seats if s.listener is not None and s.holds_accelerators}
    theirs = related(listeners, holders, table) if holders and listeners else {}
    held = {
        target: tuple(b.uuid for b in boards if not pids.isdisjoint(b.pids or ())) for target, pids in theirs.items()
    }
    for target, allocation in given.items():
        others = {u for t, uuids in fixed.items() if t != target for u in uuids}
        others |= {u for t, uuids in held.items() if t not in fixed for u in uuids}
        alone = allocation.whole and others.isdisjoint(allocation.accelerators)
        placed[target] = Placement(allocation.accelerators, "pod" if alone else "share")
    for seat in open_seats:
        uuids = held.get(seat.target, ())
        if uuids:
            others = {u for t, p in (*held.items(), *fixed.items()) if t != seat.target for u in p}
            placed[seat.target] = Placement(uuids, "process" if others.isdisjoint(uuids) else "share")
        elif seat.allocation is None and sum(s.holds_accelerators for s in seats) == 1:
            listed = any(board.pids is not None for board in boards)
            uuids = tuple(b.uuid for b in boards if (b.pids or not listed) and b.uuid not in taken)
            placed[seat.target] = Placement(uuids, "exclusive" if uuids else "")
    return {seat.target: placed.get(seat.target, Placement()) for seat in seats}
