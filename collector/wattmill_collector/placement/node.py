"""What is known of a node's boards and of the processes on them, while its engines are placed on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from wattmill_collector.placement.boards import PPM, Board, Instance, Piece, divided, pieces_of
from wattmill_collector.placement.configured import Named, resolve
from wattmill_collector.placement.kin import Kin, is_mps_server, is_ray_worker
from wattmill_collector.placement.networks import Networks
from wattmill_collector.placement.process import Process, Processes

if TYPE_CHECKING:
    from wattmill_collector.placement.pods import Allocation

WHOLE = (Piece("", PPM, ""),)


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """What is known of one engine before it is placed.

    `listener` is the process at its target's `port`, `peer` its address where that is not this host's own; `allocation`
    what the kubelet gave to its pod; None: not known. `shares_ppm` go with `accelerators`. A worker is the part of an
    engine of another node: it has no process of its own to be found by.
    """

    target: str
    accelerators: tuple[str, ...] = ()
    listener: Process | None = None
    holds_accelerators: bool = True
    allocation: Allocation | None = None
    shares_ppm: tuple[int, ...] = ()
    peer: tuple[str, int] | None = None
    is_worker: bool = False
    port: int = 0


@dataclasses.dataclass(slots=True)
class Held:
    """What one engine holds: board → its pieces."""

    method: str
    boards: dict[str, tuple[Piece, ...]] = dataclasses.field(default_factory=dict)
    missing: tuple[str, ...] = ()
    doubt: str = ""


class Node:
    """What is known of the node's boards and processes while its engines are placed."""

    def __init__(
        self,
        seats: Sequence[Seat],
        boards: Sequence[Board],
        table: Processes,
        known: Sequence[Board],
        taken: frozenset[str],
    ) -> None:
        self.table, self.known, self.taken = table, known, taken
        self.holders = {p for board in boards for p in board.pids or () if not is_mps_server(p, table)}
        asked = {s.target: (s.listener, s.peer, s.port) for s in seats if s.holds_accelerators}
        networks = Networks(self.holders, table)
        self.servers, self.doubts = networks.servers(asked), networks.doubts
        kin = Kin(self.servers, table)
        self.theirs: dict[str, set[int]] = {target: set() for target in self.servers}
        for pid in sorted(self.holders):
            for target in kin.targets_of(pid):
                self.theirs[target].add(pid)
        self.orphans = {pid for pid in self.holders if kin.has_lost_its_server(pid)}
        self.boards = {board.uuid: board for board in boards}
        self._pieces = {b.uuid: pieces_of(b.instances) for b in (*known, *boards) if b.instances is not None}

    def configured(self, seat: Seat) -> Held:
        held = Held("configured")
        missing = []
        for nth, name in enumerate(seat.accelerators):
            named = resolve(name, self.known)
            if named is None:
                missing.append(name)
            elif nth < len(seat.shares_ppm):
                share = Piece(f"{seat.target} {nth}", seat.shares_ppm[nth], "configured")
                held.boards[named.board] = (*held.boards.get(named.board, ()), share)
            else:
                self._hold(held, named)
        held.missing = tuple(missing)
        return held

    def given(self, target: str, allocation: Allocation) -> Held:
        """What the kubelet gave; of several engines with the same slices, each has those that its processes are on."""
        held = Held("pod" if allocation.whole else "share")
        parts = {portion.board for portion in allocation.portions}
        mine = self.by_processes(target).boards
        for portion in allocation.portions:
            if portion.instance and (named := resolve(portion.instance, self.known)) and named.instances:
                whole = self._some(named)
                if whole is None:
                    held.doubt = _no_slices(portion.board)
                    continue
            elif portion.replica:
                whole = (Piece("", PPM, "replicas"),)
            elif portion.board in mine:
                held.boards[portion.board] = mine[portion.board]
                continue
            else:
                held.doubt = f"it is not known which MIG instance of {portion.board} is {portion.device}"
                continue
            pieces = tuple(_nth(piece, portion.nth, portion.of) for piece in whole)
            held.boards[portion.board] = (*held.boards.get(portion.board, ()), *pieces)
        for board, pieces in held.boards.items():
            own = {piece.key for piece in mine.get(board, ())}
            held.boards[board] = tuple(piece for piece in pieces if piece.key in own) or pieces
        held.boards |= {board: WHOLE for board in allocation.accelerators if board not in parts}
        return held

    def by_processes(self, target: str) -> Held:
        pids = self.theirs.get(target, set())
        held = Held("process")
        for board in self.boards.values():
            if not pids.isdisjoint(board.pids or ()):
                self._hold_instances(held, board, lambda one: not pids.isdisjoint(one.pids or ()))
        return held

    def by_exclusion(self, seat: Seat) -> Held:
        """The boards in use that nothing says are somebody else's, for the only engine of the node."""
        held = Held("exclusive")
        listed = any(board.pids is not None for board in self.boards.values())
        foreign = {p for p in self.holders if self._is_foreign(p, seat)}
        for board in self.boards.values():
            used = set(board.pids or ()) & self.holders
            if board.uuid not in self.taken and (used - foreign if listed else True):
                self._hold_instances(held, board, lambda one: not listed or bool(set(one.pids or ()) - foreign))
        return held

    def left_over(self, held: Iterable[str]) -> Held:
        """The boards in use that nobody has; all of them that nobody has where the driver lists no processes."""
        found = Held("exclusive")
        listed = any(board.pids is not None for board in self.boards.values())
        spoken_for = self.taken.union(held)
        for board in self.boards.values():
            if board.uuid not in spoken_for and (not listed or set(board.pids or ()) & self.holders):
                self._hold_instances(found, board, lambda one: not listed or bool(one.pids))
        return found

    def strangers(self, spoken_for: Collection[str]) -> dict[str, tuple[Process, ...]]:
        """Processes on boards that belong to no engine, on boards that are not given to one as they are."""
        ours = set().union(*self.theirs.values())
        found = {}
        for board in self.boards.values():
            pids = sorted(set(board.pids or ()) & self.holders - ours) if board.uuid not in spoken_for else ()
            if processes := tuple(p for p in map(self.table.get, pids) if p is not None):
                found[board.uuid] = processes
        return found

    def _is_foreign(self, pid: int, seat: Seat) -> bool:
        """Whether a process is seen, and seen not to be the engine's."""
        if pid in self.orphans:
            return True
        table = self.table
        # of an engine that answers from elsewhere: in no network that could be looked into
        is_elsewhere = seat.peer is not None and bool(table.network(pid))
        is_sure = seat.target in self.servers or is_elsewhere
        return is_sure and table.get(pid) is not None and not is_ray_worker(pid, table)

    def _hold(self, held: Held, named: Named) -> None:
        pieces = self._some(named) if named.instances else WHOLE
        if pieces is None:
            held.doubt = _no_slices(named.board)
        else:
            held.boards[named.board] = (*held.boards.get(named.board, ()), *pieces)

    def _hold_instances(self, held: Held, board: Board, is_held: Callable[[Instance], bool]) -> None:
        if board.instances is None:
            held.boards[board.uuid] = WHOLE
            return
        names = tuple(one.uuid for one in board.instances if is_held(one))
        if not names and len(board.instances) == 1 and board.instances[0].pids is None:
            names = (board.instances[0].uuid,)
        if names:
            self._hold(held, Named(board.uuid, names))
        else:
            held.doubt = (
                f"the driver does not say on which MIG instance of {board.uuid} its processes run: let the agent run as"
                " root, or name the instance under `accelerators`"
            )

    def _some(self, named: Named) -> tuple[Piece, ...] | None:
        pieces = self._pieces.get(named.board)
        return None if pieces is None else tuple(pieces[one] for one in named.instances if one in pieces)


def _nth(piece: Piece, nth: int, of: int) -> Piece:
    if of == 1:
        return piece
    return Piece(f"{piece.key}#{nth}", divided(piece.ppm, [1] * of)[nth], "replicas")


def _no_slices(board: str) -> str:
    return f"the driver does not say how large the MIG instances of {board} are: set `shares` of this engine"
