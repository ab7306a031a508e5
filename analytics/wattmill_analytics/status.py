"""What an interval of a counter is worth: the status codes of `increments`, one per reading."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0
"""The baseline: nothing counted."""
OK: Final = 1
"""The exact difference of two readings."""
RESTART: Final = 2
"""Counted from zero in a new epoch."""
WRAP: Final = 3
"""The exact difference across the counter's known range."""
GAP: Final = 4
"""The exact difference over more than the gap: counted, but the time is not covered."""
ANOMALY: Final = 5
"""The reading is not trusted: nothing counted."""
UNKNOWN: Final = 6
"""What happened since the last trusted reading cannot be known: nothing counted, time not covered."""
ESTIMATED: Final = 7
"""Integrated from power, because the energy counter is absent or frozen."""
MISSING: Final = 8
"""There is no value."""
GAP_RESTART: Final = 9
"""Counted from zero over more than the gap: counted, but the time is not covered."""

NAMES: Final = (
    "first",
    "ok",
    "restart",
    "wrap",
    "gap",
    "anomaly",
    "unknown",
    "estimated",
    "missing",
    "gap_restart",
)
