"""Time, passed in. The only module of the agent that reads a clock.

Wall time (integer microseconds since 1970, UTC) says when something happened; monotonic time says how long it took.
Neither is derived from the other: a wall clock may jump, and everything that must survive the jump counts monotonic.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

LONGEST_SLEEP_US = 1_000_000  # a sleep towards a wall time looks at the wall again this often, because it may jump


class Waitable(Protocol):
    """What can be waited for: `threading.Event` is one."""

    def wait(self, timeout: float | None = None) -> bool: ...


class Clock(Protocol):
    """Two clocks and a way to let time pass."""

    def wall_us(self) -> int: ...

    def monotonic_us(self) -> int: ...

    def wait(self, event: Waitable, timeout_us: int) -> bool:
        """Wait until the event is set (True) or the time is over (False)."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1000

    def wait(self, event: Waitable, timeout_us: int) -> bool:
        return event.wait(max(timeout_us, 0) / 1_000_000)


def wait_until(clock: Clock, wall_us: int, event: Waitable) -> bool:
    """Wait for an instant of wall time; True when the event was set first.

    Sleeps in slices, so that a wall clock that jumps is noticed within a second.
    """
    while (left_us := wall_us - clock.wall_us()) > 0:
        if clock.wait(event, min(left_us, LONGEST_SLEEP_US)):
            return True
    return False


def boot_instant_us() -> int:
    """When this host booted, by its clock as it is now; /proc/stat's btime has whole seconds only."""
    return (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1000


def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """The kernel's identity of this boot, or "" where there is none: half of the evidence for an epoch."""
    return _first_line(path)


def machine_id(paths: tuple[Path, ...] = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))) -> str:
    """The identity of this installation across boots, or "" where there is none."""
    return next((found for found in map(_first_line, paths) if found), "")


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").split("\n", 1)[0].strip()
    except OSError:
        return ""
