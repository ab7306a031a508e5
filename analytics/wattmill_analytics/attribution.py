"""Whose energy it was: each accelerator interval split among the engines that held the board, to the millijoule.

Promises: the pieces of an interval sum to what the meter counted; idle and unattributed are accounts, not rests.
Does not: find out who held what (placement does), or read a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.exact import share
from wattmill_analytics.kernel import int64s, kernel, uint8s
from wattmill_analytics.shares import WHOLE

Int64s = NDArray[np.int64]
Uint8s = NDArray[np.uint8]

SERVING: Final = 1
IDLE_LOADED: Final = 2
IDLE_EMPTY: Final = 3
UNATTRIBUTED: Final = 4

UNKNOWN_OCCUPANCY: Final = 0
EMPTY: Final = 1
OCCUPIED: Final = 2

LARGEST_ALONG: Final = 2**61
"""An amount up to it leaves room for where its counter stood."""

HEAVIEST: Final = 2**48
"""Weights above it count as this much, so that 4096 holders of one board still sum within the exact arithmetic."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parts of accelerator intervals, in the order of the intervals; within one, holdings with a share come first.

    Each kind is in the order of the holdings; what the shares leave to nobody is last.
    interval int64 [k]: index of the interval; account uint8 [k]; holder int64 [k]: index of the holding, -1 = none;
    energy_mj, time_us int64 [k].
    """

    interval: Int64s
    account: Uint8s
    holder: Int64s
    energy_mj: Int64s
    time_us: Int64s


def attribute(
    *,
    offsets: Int64s,
    start_us: Int64s,
    end_us: Int64s,
    energy_mj: Int64s,
    counter_mj: Int64s,
    occupancy: Uint8s,
    held_offsets: Int64s,
    held_start_us: Int64s,
    held_end_us: Int64s,
    held_active: Uint8s,
    held_weight: Int64s,
    held_share: Int64s,
    held_activity: Int64s,
) -> Pieces:
    """Splits the energy and time of accelerator intervals among those who held the accelerator.

    Shapes and units: intervals int64 [n], grouped by accelerator by offsets [a+1]; counter_mj: where the board's
    counter stood when the interval began, -1 = no counter; occupancy uint8 [n] (UNKNOWN_OCCUPANCY, EMPTY, OCCUPIED).
    Holdings [m], grouped by held_offsets [a+1] and sorted by held_end_us within an accelerator; held_active uint8, 1 =
    it worked in that time; held_weight int64 >= 0; held_share int64: the part of the board that is this holding's
    alone, of `shares.WHOLE`, -1 = none; held_activity int64: how busy it kept the board, in any unit that all holdings
    have in common, -1 = unknown.
    Returns: `Pieces`, at least one per interval.
    Rules: a holding covers an interval if held_start < end <= held_end. One with a share gets its share, whatever the
    others do: SERVING if it is active, else IDLE_LOADED; shares above WHOLE in sum are scaled down to it. The others
    have what the shares leave, everything where there are none: active ones share it by activity if all of them know
    it and it is above 0 for one, else by weight, equally if no weight is above 0 -> SERVING. Only inactive ones share
    it equally -> IDLE_LOADED. What the shares leave to nobody is UNATTRIBUTED. No holding at all: IDLE_EMPTY if the
    board is known to be EMPTY, else UNATTRIBUTED.
    Conserves: energy_mj and time_us of an interval's pieces sum to the interval's, exactly (largest remainder, ties to
    the earlier piece; first among the shares and what they leave, then within what they leave). Along a counter shares
    are split by where it stands, so that what one share was given over any stretch is off by less than two millijoules,
    and not by as many as there are intervals.
    Errors: ValueError when shapes differ, holdings are not sorted, or an interval has less than no energy or time.
    Accuracy: exact integers. Cost: O(n + m) for intervals in order of time, plus, for each, the holdings that end after
    it and began before its end.
    Source: facts/reliability 8.3, rule 7.
    Example: 100 mJ, active holders of weight 2 and 1 -> 67 and 33 mJ. With shares of 3/7 and 2/7: 43, 29 and 28 to
    nobody.
    """
    offsets = int64s(offsets)
    start_us, end_us, energy_mj = int64s(start_us), int64s(end_us), int64s(energy_mj)
    counter_mj, occupancy = int64s(counter_mj), uint8s(occupancy)
    held_offsets, held_start_us = int64s(held_offsets), int64s(held_start_us)
    held_end_us, held_weight = int64s(held_end_us), int64s(held_weight)
    held_share, held_activity = int64s(held_share), int64s(held_activity)
    held_active = uint8s(held_active)
    n, m = start_us.size, held_start_us.size
    if any(array.shape != (n,) for array in (start_us, end_us, energy_mj, counter_mj, occupancy)):
        raise ValueError("starts, ends, energies, counters and occupancies of intervals must be equally long")
    held = (held_start_us, held_end_us, held_active, held_weight, held_share, held_activity)
    if any(array.shape != (m,) for array in held):
        raise ValueError("starts, ends, activities, weights and shares of holdings must be equally long")
    if offsets.shape != held_offsets.shape or offsets.size < 1:
        raise ValueError("intervals and holdings must be grouped by the same accelerators")
    for what, size, bounds in (("intervals", n, offsets), ("holdings", m, held_offsets)):
        if bounds[0] != 0 or bounds[-1] != size or (np.diff(bounds) < 0).any():
            raise ValueError(f"the offsets of {what} must rise from 0 to {size}")
    if (energy_mj < 0).any() or (end_us < start_us).any():
        raise ValueError("an interval must not have less than no energy or time")
    earliest_us = np.empty_like(held_start_us)
    if not _earliest_start_after(held_offsets, held_start_us, held_end_us, earliest_us):
        raise ValueError("holdings must be sorted by their end within an accelerator")
    counts = np.empty(n + 1, np.int64)
    _count_pieces(
        offsets, end_us, held_offsets, held_start_us, held_end_us, held_active, held_share, earliest_us, counts
    )
    k = int(counts[-1])
    pieces = Pieces(
        np.empty(k, np.int64),
        np.empty(k, np.uint8),
        np.empty(k, np.int64),
        np.empty(k, np.int64),
        np.empty(k, np.int64),
    )
    _fill_pieces(
        offsets,
        start_us,
        end_us,
        energy_mj,
        counter_mj,
        occupancy,
        held_offsets,
        held_start_us,
        held_end_us,
        held_active,
        held_weight,
        held_share,
        held_activity,
        earliest_us,
        counts,
        np.empty(k, np.int64),
        np.empty(k, np.int64),
        pieces.interval,
        pieces.account,
        pieces.holder,
        pieces.energy_mj,
        pieces.time_us,
    )
    return pieces


def divide(amount: Int64s, parts: Int64s) -> tuple[Int64s, Int64s]:
    """Splits whole amounts into nearly equal whole parts.

    Shapes and units: amount, parts int64 [n]; amount >= 0, parts >= 1.
    Returns: (offsets int64 [n+1], shares int64 [sum of parts]); the first (amount mod parts) shares are one larger.
    Conserves: shares[offsets[i]:offsets[i+1]] sum to amount[i].
    Errors: ValueError when shapes differ or a value is out of range.
    Example: 7 in 3 parts -> 3, 2, 2.
    """
    amount, parts = int64s(amount), int64s(parts)
    if amount.ndim != 1 or amount.shape != parts.shape:
        raise ValueError(f"amounts {amount.shape} and parts {parts.shape} must be equally long")
    if (amount < 0).any() or (parts < 1).any():
        raise ValueError("amounts must be at least 0 and parts at least 1")
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(parts)))
    shares = np.empty(int(offsets[-1]), np.int64)
    _divide(amount, offsets, shares)
    return offsets, shares


@kernel
def _earliest_start_after(
    held_offsets: Int64s, held_start_us: Int64s, held_end_us: Int64s, earliest_us: Int64s
) -> bool:
    """The earliest start among each holding and those sorted after it: where a search may stop. False if unsorted."""
    for a in range(held_offsets.size - 1):
        first, end = held_offsets[a], held_offsets[a + 1]
        for h in range(end - 1, first - 1, -1):
            earliest_us[h] = held_start_us[h]
            if h + 1 < end:
                if held_end_us[h] > held_end_us[h + 1]:
                    return False
                earliest_us[h] = min(earliest_us[h], earliest_us[h + 1])
    return True


@kernel
def _first_ending_from(held_end_us: Int64s, first: int, end: int, h: int, at_us: int) -> int:
    """The first holding in [first, end) that ends at or after `at_us`, searched from h: next to it as a rule."""
    while h > first and held_end_us[h - 1] >= at_us:
        h -= 1
    while h < end and held_end_us[h] < at_us:
        h += 1
    return h


@kernel
def _holders(
    at_us: int,
    first: int,
    last: int,
    held_start_us: Int64s,
    held_active: Uint8s,
    held_share: Int64s,
    earliest_us: Int64s,
) -> tuple[int, int, int, int]:
    """Of the holdings that cover an interval ending at `at_us`: those with a share and the sum of these, active and
    inactive ones without."""
    shared, given, active, inactive = 0, 0, 0, 0
    h = first
    while h < last and earliest_us[h] < at_us:
        if held_start_us[h] < at_us:
            if held_share[h] >= 0:
                shared += 1
                given += min(int(held_share[h]), WHOLE)
            elif held_active[h] == 1:
                active += 1
            else:
                inactive += 1
        h += 1
    return shared, given, active, inactive


@kernel
def _count_pieces(
    offsets: Int64s,
    end_us: Int64s,
    held_offsets: Int64s,
    held_start_us: Int64s,
    held_end_us: Int64s,
    held_active: Uint8s,
    held_share: Int64s,
    earliest_us: Int64s,
    counts: Int64s,
) -> None:
    """counts int64 [n+1]: where each interval's pieces begin."""
    counts[0] = 0
    for a in range(offsets.size - 1):
        first_h, last = held_offsets[a], held_offsets[a + 1]
        for i in range(offsets[a], offsets[a + 1]):
            first_h = _first_ending_from(held_end_us, held_offsets[a], last, first_h, end_us[i])
            shared, given, active, inactive = _holders(
                end_us[i], first_h, last, held_start_us, held_active, held_share, earliest_us
            )
            pieces = shared + (active if active > 0 else inactive)
            if active + inactive == 0 and (shared == 0 or given < WHOLE):
                pieces += 1
            counts[i + 1] = counts[i] + pieces


@kernel
def _fill_pieces(
    offsets: Int64s,
    start_us: Int64s,
    end_us: Int64s,
    energy_mj: Int64s,
    counter_mj: Int64s,
    occupancy: Uint8s,
    held_offsets: Int64s,
    held_start_us: Int64s,
    held_end_us: Int64s,
    held_active: Uint8s,
    held_weight: Int64s,
    held_share: Int64s,
    held_activity: Int64s,
    earliest_us: Int64s,
    counts: Int64s,
    weight: Int64s,
    rest: Int64s,
    interval: Int64s,
    account: Uint8s,
    holder: Int64s,
    piece_mj: Int64s,
    piece_us: Int64s,
) -> None:
    for a in range(offsets.size - 1):
        first_h, last = held_offsets[a], held_offsets[a + 1]
        for i in range(offsets[a], offsets[a + 1]):
            first_h = _first_ending_from(held_end_us, held_offsets[a], last, first_h, end_us[i])
            shared, given, active, inactive = _holders(
                end_us[i], first_h, last, held_start_us, held_active, held_share, earliest_us
            )
            k, after = counts[i], counts[i + 1]
            for piece in range(k, after):
                interval[piece] = i
            nobody = active + inactive == 0
            if nobody and (shared == 0 or given < WHOLE):
                holder[after - 1] = -1
                empty = shared == 0 and occupancy[i] == EMPTY
                account[after - 1] = IDLE_EMPTY if empty else UNATTRIBUTED
            fixed, free = k, k + shared
            by_activity, total = active > 0, 0
            h = first_h
            while h < last and earliest_us[h] < end_us[i]:
                if held_start_us[h] < end_us[i]:
                    if held_share[h] >= 0:
                        holder[fixed] = h
                        account[fixed] = SERVING if held_active[h] == 1 else IDLE_LOADED
                        weight[fixed] = min(int(held_share[h]), WHOLE)
                        fixed += 1
                    elif active == 0 or held_active[h] == 1:
                        holder[free] = h
                        account[free] = SERVING if active > 0 else IDLE_LOADED
                        counts_as = min(max(int(held_activity[h]), 0), HEAVIEST)
                        weight[free] = counts_as
                        total += counts_as
                        by_activity &= held_activity[h] >= 0
                        free += 1
                h += 1
            piece_mj[k] = energy_mj[i]
            piece_us[k] = end_us[i] - start_us[i]
            free = k + shared
            if shared > 0:
                # What the shares leave is a part beside them, and lies where the first of the others will.
                whole, parts, its_own = max(given, WHOLE), min(free + 1, after), 0
                if free < after:
                    its_own, weight[free] = weight[free], max(WHOLE - given, 0)
                if not _split_along(counter_mj[i], energy_mj[i], weight, whole, k, parts, piece_mj):
                    _split(energy_mj[i], weight, whole, k, parts, rest, piece_mj)
                _split(end_us[i] - start_us[i], weight, whole, k, parts, rest, piece_us)
                if free < after:
                    weight[free] = its_own
            if after - free < 2:
                continue
            if not (by_activity and total > 0):
                total = 0
                for piece in range(free, after):
                    counts_as = min(max(int(held_weight[holder[piece]]), 0), HEAVIEST) if active > 0 else 0
                    weight[piece] = counts_as
                    total += counts_as
            if total == 0:
                for piece in range(free, after):
                    weight[piece] = 1
                total = after - free
            _split(int(piece_mj[free]), weight, total, free, after, rest, piece_mj)
            _split(int(piece_us[free]), weight, total, free, after, rest, piece_us)


@kernel
def _split_along(counter: int, amount: int, weight: Int64s, total: int, first: int, end: int, part: Int64s) -> bool:
    """Splits what a counter moved by where it stands: the first k parts hold floor(counter x their weight / total).

    The pieces of consecutive amounts then sum to those of the whole stretch. False where there is no counter, or the
    amount is so small that a part would be less than nothing.
    """
    if counter < 0 or amount > LARGEST_ALONG:
        return False
    stood = counter % total
    before, after, weights = 0, 0, 0
    for k in range(first, end):
        weights += weight[k]
        low, _ = share(stood, weights, total)
        high, _ = share(stood + amount, weights, total)
        part[k] = (high - after) - (low - before)
        if part[k] < 0:
            return False
        before, after = low, high
    return True


@kernel
def _split(amount: int, weight: Int64s, total: int, first: int, end: int, rest: Int64s, part: Int64s) -> None:
    """Largest remainder: part[first:end] in proportion to weight[first:end], which sums to total > 0."""
    left = amount
    for k in range(first, end):
        part[k], rest[k] = share(amount, weight[k], total)
        left -= part[k]
    while left > 0:
        best = first
        for k in range(first + 1, end):
            if rest[k] > rest[best]:
                best = k
        part[best] += 1
        rest[best] = -1
        left -= 1


@kernel
def _divide(amount: Int64s, offsets: Int64s, shares: Int64s) -> None:
    for i in range(amount.size):
        parts = offsets[i + 1] - offsets[i]
        each, larger = amount[i] // parts, amount[i] % parts
        for k in range(parts):
            shares[offsets[i] + k] = each + (1 if k < larger else 0)
