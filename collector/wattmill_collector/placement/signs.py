"""Signs that what was placed is no longer so, cheap enough to be looked for at every tick.

A process that a board's list names has ended; a socket listens that did not before. Neither says what is true now: that
say the driver's lists and /proc, which are dearer. A `Pace` bounds how often they are asked.
"""

from __future__ import annotations

from collections.abc import Collection

from wattmill_collector.placement.process import Process, Processes

SHORTEST_PAUSE_US = 1_000_000
LONGEST_PAUSE_US = 8_000_000
CALM_US = 30_000_000


class Pace:
    """Lets something dear be done at the first sign; while signs keep coming after 1, 2, 4, 8, 8 … s, until a calm."""

    def __init__(self) -> None:
        self._next_us = 0
        self._pause_us = SHORTEST_PAUSE_US
        self._wanted = False

    def is_due(self, time_us: int, *, wanted: bool) -> bool:
        """Whether it is to be done now; a sign for which it is too early is kept."""
        self._wanted |= wanted
        if not self._wanted or 0 < self._next_us - time_us <= LONGEST_PAUSE_US:  # the clock may be set back
            return False
        is_calm = not 0 <= time_us - self._next_us < CALM_US
        self._pause_us = SHORTEST_PAUSE_US if is_calm else min(2 * self._pause_us, LONGEST_PAUSE_US)
        self._next_us, self._wanted = time_us + self._pause_us, False
        return True


class Signs:
    """What is watched: the processes on boards, and the sockets that listen in this network namespace."""

    def __init__(self, table: Processes) -> None:
        self._table = table
        self._watched: dict[int, Process] = {}
        self._listening: frozenset[int] | None = None

    def watch(self, pids: Collection[int]) -> None:
        """Watch these processes and no others. One that is not seen, as from inside a container, gives no sign."""
        before, self._watched = self._watched, {}
        for pid in pids:
            one = before.get(pid)
            if one is None or not self._table.runs(one):
                one = self._table.get(pid) or one  # gone, and named by the driver still: a sign until it is not
            if one is not None:
                self._watched[pid] = one

    def has_ended(self) -> bool:
        """Whether a watched process runs no more."""
        return not all(map(self._table.runs, self._watched.values()))

    def has_opened(self) -> bool:
        """Whether a socket listens that did not at the last call; False at the first."""
        before, self._listening = self._listening, self._table.listening_inodes()
        return before is not None and not self._listening <= before
