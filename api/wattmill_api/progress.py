"""A line that says how far long work has come: on a terminal only, redrawn at most ten times a second.

For `simulate`, `report` and `migrate`. Elsewhere than on a terminal nothing is written, so that logs stay logs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TextIO

_BAR = 30
_EVERY_S = 0.1
_LONGEST_S = 359_999.0  # 99:59:59
_NARROW = 40  # of a terminal whose width is not told


class Bar:
    """One piece of work of `total` steps; None: nobody knows how many. `clock_s` only rises.

    `shown`: whether anything is ever written.
    """

    def __init__(self, out: TextIO, total: int | None, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._out, self._total, self._clock_s = out, total, clock_s
        self.shown = out.isatty() and os.environ.get("TERM", "") != "dumb"
        self._begun_s = clock_s()
        self._drawn_s = float("-inf")
        self._width = 0

    def show(self, done: int, what: str = "") -> None:
        """So many steps are done. `what`: what is being done, printable text."""
        now_s = self._clock_s()
        if not self.shown or (now_s - self._drawn_s < _EVERY_S and done != self._total):
            return
        self._drawn_s = now_s
        line = self._line(done, now_s - self._begun_s, what)[: self._columns() - 1]
        # The rest of a longer line before is blanked: not every terminal can erase.
        self._out.write("\r" + line.ljust(self._width))
        self._out.flush()
        self._width = len(line)

    def _line(self, done: int, took_s: float, what: str) -> str:
        if self._total is None:
            return f"{done:,} {what}"
        share = min(1.0, done / self._total) if self._total else 1.0
        left = f"{clock_face(took_s * (1 - share) / share)} left" if 0 < share < 1 else ""
        return f"[{'#' * int(share * _BAR):<{_BAR}}] {share:4.0%}  {left:<13}  {what}"

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._out.fileno()).columns or _NARROW
        except (OSError, ValueError):
            return _NARROW

    def end(self) -> None:
        """Leave the line empty. Harmless when nothing was shown, and more than once."""
        if self._width:
            self._out.write("\r" + " " * self._width + "\r")
            self._out.flush()
            self._width = 0


def clock_face(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    whole = int(min(seconds, _LONGEST_S))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
