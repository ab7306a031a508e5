"""Engines and workers on the boards of this node, from tick to tick.

Placing reads /proc, so it is done every 10 s, every 30 s while nothing changes, and at once when the engine source
finds an engine that is another process than before, when a board's list has changed, and, with lists read afresh, when
a process that they name has ended or an engine no longer answers. How busy the engines of one board keep it is asked
for at every tick, but only where several engines hold a board whole: it is another call to the driver.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from wattmill_collector.placement import Board, Placement, Seat, lay_out, remember
from wattmill_collector.placement.process import Processes
from wattmill_collector.placement.signs import Pace, Signs
from wattmill_collector.placement.strangers import Strangers
from wattmill_collector.wire import Reading

PLACE_EVERY_US = 10_000_000
SETTLED_US = 30_000_000  # with the same engines and the same processes on the boards, placing again is rarely news
PPM = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Hardware:
    """What the boards' source says besides its readings.

    `boards`: those of this tick with their processes. `list_processes` has the lists read afresh. `busy`: by process id
    the per cent of time in which its kernels ran on a board since this was last asked; None: not known.
    `utilisation`: ratio by UUID, of those boards that say it.
    """

    boards: Callable[[], Sequence[Board]] = tuple
    list_processes: Callable[[int], None] = lambda _: None
    busy: Callable[[str], Mapping[int, int] | None] = lambda _: None
    utilisation: Callable[[], Mapping[str, float]] = dict


class Placer:
    """Where the engines are, as of the last `place`."""

    def __init__(self, hardware: Hardware, table: Processes) -> None:
        self.hardware = hardware
        self.boards: Sequence[Board] = ()
        self._table = table
        self._strangers = Strangers(table)
        self.signs = Signs(table)
        self._lists_pace, self._boards_pace = Pace(), Pace()
        self._seen: Sequence[Board] = ()  # the boards when they were last placed on, lists included
        self._remembered: Sequence[Board] = ()
        self._placed: Mapping[str, Placement] = {}
        self._placed_at_us = -PLACE_EVERY_US
        self._settled_at_us = -SETTLED_US
        self._seats: tuple[Seat, ...] = ()
        self._contested: frozenset[str] = frozenset()
        self._busy: dict[str, Mapping[int, int] | None] = {}

    def of(self, target: str) -> Placement:
        """Where an engine or a worker is; nowhere when it was never placed."""
        return self._placed.get(target, Placement())

    def placements(self) -> Collection[Placement]:
        """All of them."""
        return self._placed.values()

    def place(
        self, seats: tuple[Seat, ...], taken: Collection[str], time_us: int, *, stale: bool, doubtful: bool = False
    ) -> bool:
        """Place them if there is reason to; True when the boards were looked at anew.

        `stale`: the process lists are not of the processes that are read, and are read afresh; `doubtful`: perhaps.
        """
        placed_anew = False
        suspect = self._lists_pace.is_due(time_us, wanted=doubtful or self.signs.has_ended())
        if stale or suspect:
            self.hardware.list_processes(time_us)
        boards = tuple(self.hardware.boards())
        changed = self._boards_pace.is_due(time_us, wanted=boards != self._seen)
        is_time = not 0 <= time_us - self._placed_at_us < PLACE_EVERY_US
        if stale or suspect or changed or is_time or seats != self._seats:
            settled = 0 <= time_us - self._settled_at_us < SETTLED_US and self._strangers.are_settled()
            placed_anew = suspect or not settled or (seats, boards) != (self._seats, self.boards)
            if placed_anew:
                self._lay_out(seats, boards, taken, time_us)
            self._seats, self._seen, self._placed_at_us = seats, boards, time_us
        self._busy = {board: self.hardware.busy(board) for board in self._contested}
        return placed_anew

    def activity_ppm(self, target: str) -> int | None:
        """For what part of the time an engine's kernels ran since the last tick, a mean over its boards.

        Known only where another engine is on one of them, too: else nobody asks.
        """
        placement = self.of(target)
        if placement.share_by or placement.alone or not placement.pids:
            return None
        sums = []
        for board in self.boards:
            if board.uuid in placement.accelerators:
                busy = self._busy.get(board.uuid)
                if busy is None:
                    return None
                here = placement.pids.intersection(board.pids or ())
                sums.append(min(sum(busy.get(pid, 0) for pid in here), 100))
        return sum(sums) * PPM // (100 * len(sums)) if sums else None

    def utilisation_ppm(self, target: str) -> int | None:
        """How busy a worker's boards are, a mean; None where one does not say."""
        said = self.hardware.utilisation()
        found = [said.get(board) for board in self.of(target).accelerators]
        known = [one for one in found if one is not None]
        return round(sum(known) * PPM / len(known)) if known and len(known) == len(found) else None

    def absences(self, time_us: int) -> list[Reading]:
        """Boards on which processes compute for no engine."""
        return self._strangers.absences(time_us)

    def _lay_out(
        self, seats: tuple[Seat, ...], boards: tuple[Board, ...], taken: Collection[str], time_us: int
    ) -> None:
        self.boards, self._settled_at_us = boards, time_us
        self._remembered = remember(self._remembered, boards)
        self._strangers.begin(time_us)
        layout = lay_out(seats, boards, self._table, self._remembered, taken, self._strangers.stays)
        self._strangers.take(layout.strangers)
        self.signs.watch({pid for board in boards for pid in board.pids or ()})
        self._placed = layout.engines
        self._contested = frozenset(
            board
            for placement in layout.engines.values()
            if not (placement.alone or placement.share_by) and placement.pids
            for board in placement.accelerators
        )
