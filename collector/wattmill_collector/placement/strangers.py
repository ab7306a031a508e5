"""Processes that compute on a board for no engine that is read: kept in mind, and said.

One counts from its second listing on: lists are up to 10 s old, and a helper that is gone by the next one costs an
engine nothing. What they use is unattributed by itself; the absence says whose it is, and what to do.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from wattmill_collector.placement.process import Process, Processes
from wattmill_collector.wire import AbsenceReading, Reading

LISTED_EVERY_US = 10_000_000
MINUTE_US = 60_000_000
MOST_NAMED = 3


class Strangers:
    """What `lay_out` found of them, from tick to tick."""

    def __init__(self, table: Processes) -> None:
        self._table = table
        self._now_us = 0
        self._first_us: dict[tuple[str, Process], int] = {}
        self._said: dict[str, tuple[tuple[Process, ...], str, int]] = {}  # board → who, sentence, since when
        self._news: set[str] = set()

    def begin(self, time_us: int) -> None:
        """It is now `time_us`."""
        self._now_us = time_us

    def stays(self, board: str, process: Process) -> bool:
        """Whether a process was on a board at a listing before this one, too."""
        first_us = min(self._first_us.get((board, process), self._now_us), self._now_us)  # the clock may be set back
        self._first_us[board, process] = first_us
        return self._now_us - first_us >= LISTED_EVERY_US

    def take(self, found: Mapping[str, tuple[Process, ...]]) -> None:
        """Those that are there now; the others are forgotten."""
        present = {(board, process) for board, processes in found.items() for process in processes}
        self._first_us = {key: first_us for key, first_us in self._first_us.items() if key in present}
        said = self._said
        self._said = {}
        for board, processes in found.items():
            staying = tuple(process for process in processes if self.stays(board, process))
            if staying:
                known = board in said and said[board][0] == staying
                since_us = min(self._first_us[board, process] for process in staying)
                self._said[board] = said[board] if known else (staying, self._sentence(staying), since_us)
                if not known:
                    self._news.add(board)

    def are_settled(self) -> bool:
        """Whether nothing is waiting for a second listing."""
        return all(self._now_us - first_us >= LISTED_EVERY_US for first_us in self._first_us.values())

    def absences(self, time_us: int) -> list[Reading]:
        """Boards that are held without an endpoint: what is new, at a minute's edge all."""
        news, self._news = self._news, set()
        return [
            AbsenceReading(
                subject="accelerator",
                id=board,
                reason="no_endpoint",
                detail=sentence[:512],
                start_us=since_us if since_us < time_us else None,
            )
            for board, (_, sentence, since_us) in self._said.items()
            if board in news or time_us % MINUTE_US == 0
        ]

    def _sentence(self, processes: tuple[Process, ...]) -> str:
        people = ", ".join(self._describe(one) for one in processes[:MOST_NAMED])
        more = f" and {len(processes) - MOST_NAMED} more" if len(processes) > MOST_NAMED else ""
        return (
            f"the board is held by process {people}{more}, of no engine that is read: name its page under `engines:`,"
            " or the workload it works for under `workers:`; if its server is gone, end it"
        )

    def _describe(self, process: Process) -> str:
        started = datetime.datetime.fromtimestamp(self._table.start_us(process) // 1_000_000, datetime.UTC)
        name = "".join(c for c in self._table.name(process.pid) if c.isprintable()) or "?"
        return f"{process.pid} ({name}, started {started:%Y-%m-%dT%H:%M:%SZ})"
