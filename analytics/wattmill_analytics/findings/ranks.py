"""An engine's boards beside each other, minute by minute: what they said of their clocks, and which one was slowest.

The boards of one engine wait for each other in every step, so the slowest one sets the pace of all.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.kernel import int64s, kernel

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Ranks:
    """One entry a minute of an engine [n]; names and meanings are those of `EngineMinutes`."""

    clock_event_reasons: Int64
    slow_board: Int64
    slow_board_ratio: Float64
    utilisation_ratio: Float64


def compare(
    *,
    offsets: Int64,
    minute_us: Int64,
    held: Int64,
    held_offsets: Int64,
    board_ids: Int64,
    board_offsets: Int64,
    board_minute_us: Int64,
    board_clock_mhz: Int64,
    board_reasons: Int64,
    board_utilisation: Float64,
) -> Ranks:
    """Compare the boards of each engine in each of its minutes.

    Shapes: offsets int64 [s+1], minute_us int64 [n] of engines; `held` int64: for engine i the boards
    held[held_offsets[i]:held_offsets[i+1]], as indices into board_ids int64 [b]; board_offsets int64 [b+1] and the
    columns of boards [m]: minute, SM clock in MHz (below 1: unknown), clock-event reasons, utilisation (NaN: unknown).
    Minutes of both are sorted. Reasons are OR-ed over the boards; `slow_board` is 0 and its ratio NaN where less than
    two clocks are known; utilisation is the mean of the boards that have one.
    """
    n = minute_us.size
    reasons, slow_board = np.zeros(n, np.int64), np.zeros(n, np.int64)
    slow_ratio, utilisation = np.full(n, np.nan), np.full(n, np.nan)
    most = int(np.diff(held_offsets).max()) if held_offsets.size > 1 else 0
    _compare(
        int64s(offsets),
        int64s(minute_us),
        int64s(held),
        int64s(held_offsets),
        int64s(board_ids),
        int64s(board_offsets),
        int64s(board_minute_us),
        int64s(board_clock_mhz),
        int64s(board_reasons),
        np.require(board_utilisation, np.float64, ["C", "W"]),
        np.zeros(most, np.int64),
        np.zeros(most, np.int64),
        reasons,
        slow_board,
        slow_ratio,
        utilisation,
    )
    return Ranks(reasons, slow_board, slow_ratio, utilisation)


@kernel
def _compare(
    offsets: Int64,
    minute_us: Int64,
    held: Int64,
    held_offsets: Int64,
    board_ids: Int64,
    board_offsets: Int64,
    board_minute_us: Int64,
    clock_mhz: Int64,
    board_reasons: Int64,
    board_utilisation: Float64,
    at: Int64,
    clocks: Int64,
    reasons: Int64,
    slow_board: Int64,
    slow_ratio: Float64,
    utilisation: Float64,
) -> None:
    for s in range(offsets.size - 1):
        low = held_offsets[s]
        count = held_offsets[s + 1] - low
        for j in range(count):
            at[j] = board_offsets[held[low + j]]
        for i in range(offsets[s], offsets[s + 1]):
            known = slowest = slowest_mhz = used_by = 0
            used = 0.0
            for j in range(count):
                board = held[low + j]
                end = board_offsets[board + 1]
                while at[j] < end and board_minute_us[at[j]] < minute_us[i]:
                    at[j] += 1
                row = at[j]
                if row >= end or board_minute_us[row] != minute_us[i]:
                    continue
                reasons[i] |= board_reasons[row]
                if not np.isnan(board_utilisation[row]):
                    used += board_utilisation[row]
                    used_by += 1
                mhz = int(clock_mhz[row])
                if mhz < 1:
                    continue
                if known == 0 or mhz < slowest_mhz:
                    slowest, slowest_mhz = board_ids[board], mhz
                _insert(clocks, known, mhz)
                known += 1
            if used_by > 0:
                utilisation[i] = used / used_by
            if known >= 2:
                others = known - 1  # the slowest stands first
                middle = (clocks[1 + (others - 1) // 2] + clocks[1 + others // 2]) / 2.0
                slow_board[i] = slowest
                slow_ratio[i] = slowest_mhz / middle


@kernel
def _insert(clocks: Int64, known: int, mhz: int) -> None:
    """Keep `clocks[:known]` sorted with one more."""
    place = known
    while place > 0 and clocks[place - 1] > mhz:
        clocks[place] = clocks[place - 1]
        place -= 1
    clocks[place] = mhz
