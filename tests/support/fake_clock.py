"""A clock that only moves when a test moves it, or when somebody waits on it."""

from __future__ import annotations

from wattmill_collector.clock import Waitable

START_US = 1_764_028_800_000_000  # 2025-11-25 00:00:00 UTC


class FakeClock:
    def __init__(self, wall_us: int = START_US, monotonic_us: int = 1_000_000_000) -> None:
        self._wall_us = wall_us
        self._monotonic_us = monotonic_us

    def wall_us(self) -> int:
        return self._wall_us

    def monotonic_us(self) -> int:
        return self._monotonic_us

    def advance(self, us: int) -> None:
        """Time passes."""
        self._wall_us += us
        self._monotonic_us += us

    def jump_wall(self, us: int) -> None:
        """Somebody sets the wall clock."""
        self._wall_us += us

    def wait(self, event: Waitable, timeout_us: int) -> bool:
        if event.wait(0):
            return True
        self.advance(max(timeout_us, 0))
        return False
