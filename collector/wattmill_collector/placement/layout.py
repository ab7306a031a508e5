"""Placement of a whole node at once: whether a board is shared depends on all engines, and on everybody else on it.

Each engine holds boards whole, or pieces of them: MIG instances, replicas that a kubelet gave out, configured shares.
Who holds one piece together divides it equally. A board that engines hold whole together is divided by the service, by
how busy each keeps it. A board on which processes of nobody compute is cut into equal pieces, one for each engine and
each foreign group: nothing better is known that holds still, and what is not an engine's stays unattributed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from wattmill_collector.placement.boards import PPM, Board, Piece, divided
from wattmill_collector.placement.node import WHOLE, Held, Node, Seat
from wattmill_collector.placement.process import Process, Processes

TOO_MANY_WORKERS = "several `workers` of this node have no `accelerators`: name those of all but one"
_ORDER = ("configured", "mig", "replicas", "processes")


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where an engine is. `missing`: configured accelerators that this node does not have.

    `shares_ppm`: the part of each board that is its alone; empty: all of each, or to be divided by the service.
    `doubt`: why it is nowhere, or not on all of its boards, though one is known. `alone`: nobody else is on what it
    holds. `pids`: its processes on boards. `guessed`: it holds them together with other engines behind its target,
    and nobody says what is whose.
    """

    accelerators: tuple[str, ...] = ()
    method: str = ""
    missing: tuple[str, ...] = ()
    shares_ppm: tuple[int, ...] = ()
    share_by: str = ""
    doubt: str = dataclasses.field(default="", compare=False)
    alone: bool = dataclasses.field(default=True, compare=False)
    pids: frozenset[int] = dataclasses.field(default=frozenset(), compare=False)
    guessed: bool = dataclasses.field(default=False, compare=False)

    @property
    def confidence(self) -> str:
        """How far it is to be trusted: high, medium or low; "" when it is nowhere."""
        if not self.method:
            return ""
        if self.guessed or self.share_by == "processes" or not (self.alone or self.share_by == "configured"):
            return "low"
        return "medium" if self.method == "exclusive" or self.share_by in ("mig", "replicas") else "high"

    def part(self, nth: int, of: int) -> Placement:
        """That of the `nth` of several engines behind one target: what is its alone is divided equally."""
        if of == 1:
            return self
        if not self.shares_ppm:
            return dataclasses.replace(self, guessed=True)
        shares = tuple(divided(share, [1] * of)[nth] for share in self.shares_ppm)
        return dataclasses.replace(self, shares_ppm=shares, alone=False, guessed=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Target → placement, and the processes on boards that belong to no engine, where none would account for them."""

    engines: Mapping[str, Placement]
    strangers: Mapping[str, tuple[Process, ...]]


def lay_out(
    seats: Sequence[Seat],
    boards: Sequence[Board],
    table: Processes,
    known: Sequence[Board] | None = None,
    taken: Collection[str] = (),
    stays: Callable[[str, Process], bool] = lambda _board, _process: True,
) -> Layout:
    """All engines of a node, placed.

    `known`: the boards that a configuration may speak of, lost ones too (`remember`); as a rule `boards`. `taken`: the
    boards that pods or workers were given, which are nobody else's by exclusion. `stays`: whether a foreign process has
    been on a board for long enough to cost an engine a part of it.
    """
    node = Node(seats, boards, table, boards if known is None else known, frozenset(taken))
    held: dict[str, Held] = {}
    for seat in seats:
        if seat.accelerators:
            held[seat.target] = node.configured(seat)
        elif seat.holds_accelerators and seat.allocation and seat.allocation.accelerators:
            held[seat.target] = node.given(seat.target, seat.allocation)
    fixed = {board for one in held.values() for board in one.boards}
    of_workers = {board for s in seats if s.is_worker and s.target in held for board in held[s.target].boards}
    node.taken |= of_workers
    engines = [seat for seat in seats if seat.holds_accelerators and not seat.is_worker]
    for seat in engines:
        if seat.target not in held:
            found = node.by_processes(seat.target)
            is_only = seat.allocation is None and len(engines) == 1
            one = node.by_exclusion(seat) if is_only and not (found.boards or found.doubt) else found
            one.doubt = one.doubt or ("" if one.boards else node.doubts.get(seat.target, ""))
            held[seat.target] = one
    waiting = [seat.target for seat in seats if seat.is_worker and seat.target not in held]
    for target in waiting:
        rest = node.left_over(board for one in held.values() for board in one.boards)
        held[target] = rest if len(waiting) == 1 else Held("", doubt=TOO_MANY_WORKERS)
    spoken_for = fixed | node.taken | {b for one in held.values() if one.method == "exclusive" for b in one.boards}
    strangers = node.strangers(spoken_for)
    _make_room(held, node, {b: [p for p in found if stays(b, p)] for b, found in strangers.items()})
    claims = _claims(held)
    return Layout(
        {s.target: _placement(s.target, held.get(s.target), claims, node.theirs) for s in seats},
        strangers,
    )


def _make_room(held: Mapping[str, Held], node: Node, strangers: Mapping[str, Iterable[Process]]) -> None:
    """Cut what engines hold on boards with foreign processes: equal pieces for all groups that compute there."""
    for uuid, found in strangers.items():
        board = node.boards[uuid]
        engines = sorted(t for t, one in held.items() if one.method == "process" and uuid in one.boards)
        whole = [t for t in engines if held[t].boards[uuid] == WHOLE]
        groups = {process.group for process in found}
        if whole and groups:
            parts = divided(PPM, [1] * (len(whole) + len(groups)))
            for part, target in zip(parts, whole, strict=False):
                held[target].boards[uuid] = (Piece(f"{target} among processes", part, "processes"),)
        for one in board.instances or ():
            beside = {process.group for process in found if process.pid in (one.pids or ())}
            on_it = [t for t in engines if any(piece.key == one.uuid for piece in held[t].boards[uuid])]
            for nth, target in enumerate(on_it if beside else ()):
                pieces = held[target].boards[uuid]
                mine = next(piece for piece in pieces if piece.key == one.uuid)
                part = divided(mine.ppm, [1] * (len(on_it) + len(beside)))[nth]
                cut = Piece(f"{one.uuid} {target} among processes", part, "processes")
                held[target].boards[uuid] = tuple(cut if piece is mine else piece for piece in pieces)


Claims = dict[tuple[str, str], list[str]]  # (board, key of a piece) → who holds it


def _claims(held: Mapping[str, Held]) -> Claims:
    claims: Claims = {}
    for target in sorted(held):
        for board, pieces in held[target].boards.items():
            for piece in pieces:
                claims.setdefault((board, piece.key), []).append(target)
    return claims


def _placement(target: str, held: Held | None, claims: Claims, theirs: Mapping[str, set[int]]) -> Placement:
    if held is None:
        return Placement()
    pids = frozenset(theirs.get(target, ()))
    if not held.boards:
        return Placement(missing=held.missing, doubt=held.doubt)
    on = {board: {t for (b, _), names in claims.items() if b == board for t in names} for board in held.boards}
    alone = not any(
        len(on[board]) > 1 if pieces == WHOLE else any(len(claims[board, piece.key]) > 1 for piece in pieces)
        for board, pieces in held.boards.items()
    )
    kinds = {piece.by for pieces in held.boards.values() for piece in pieces if piece.by}
    share_by = next((kind for kind in _ORDER if kind in kinds), "")
    method = held.method
    if method in ("pod", "process") and (share_by or not alone):
        method = "share"
    shares: tuple[int, ...] = ()
    if share_by:
        shares = tuple(
            min(sum(_my_part(target, piece, claims[board, piece.key]) for piece in pieces), PPM)
            for board, pieces in held.boards.items()
        )
    return Placement(tuple(held.boards), method, held.missing, shares, share_by, held.doubt, alone, pids)


def _my_part(target: str, piece: Piece, holders: Sequence[str]) -> int:
    return divided(piece.ppm, [1] * len(holders))[holders.index(target)]
