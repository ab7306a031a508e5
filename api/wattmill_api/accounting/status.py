"""Which increments are booked, and which of them cover their time."""

from __future__ import annotations

from wattmill_analytics import increments

COUNTED = (
    increments.OK,
    increments.RESTART,
    increments.WRAP,
    increments.GAP,
    increments.GAP_RESTART,
    increments.ESTIMATED,
)
COVERED = (increments.OK, increments.RESTART, increments.WRAP, increments.ESTIMATED)
