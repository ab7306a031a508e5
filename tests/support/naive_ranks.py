"""The slow twin of `findings.ranks`: dictionaries and `statistics`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

# minute -> (SM clock, clock-event reasons, utilisation)
BoardMinutes = Mapping[int, tuple[int, int, float]]


def compare(
    minutes: Sequence[int], boards: Mapping[int, BoardMinutes]
) -> list[tuple[int, int, float | None, float | None]]:
    """(reasons, slow board, its clock over the median of the others, mean utilisation) of each minute of one engine."""
    found: list[tuple[int, int, float | None, float | None]] = []
    for minute in minutes:
        here = {board: of[minute] for board, of in boards.items() if minute in of}
        reasons = 0
        for _, mask, _ in here.values():
            reasons |= mask
        used = [utilisation for _, _, utilisation in here.values() if not math.isnan(utilisation)]
        clocks = {board: mhz for board, (mhz, _, _) in here.items() if mhz > 0}
        slow, ratio = 0, None
        if len(clocks) >= 2:
            slow = min(clocks, key=lambda board: clocks[board])
            ratio = clocks[slow] / statistics.median([mhz for board, mhz in clocks.items() if board != slow])
        found.append((reasons, slow, ratio, statistics.fmean(used) if used else None))
    return found
