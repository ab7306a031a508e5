"""Energy where the counter is absent or frozen: the kernel behind `increments.energy_increments`.

It takes what the counter alone says and replaces it, interval by interval, by the trapezoid under two power readings.
A difference of the counter always wins over an estimate of the same time, so nothing is counted twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.exact import INT64_MAX, times
from wattmill_analytics.kernel import kernel
from wattmill_analytics.status import (
    ANOMALY,
    ESTIMATED,
    FIRST,
    GAP,
    GAP_RESTART,
    MISSING,
    OK,
    RESTART,
    UNKNOWN,
    WRAP,
)

Int64s = NDArray[np.int64]
Uint8s = NDArray[np.uint8]

FROZEN_US = 30_000_000  # a stretch this long is judged by power, once the counter has moved again
STANDING_US = 120_000_000  # a counter that still stands is given up only after this long: until then it may just rest
FROZEN_READINGS = 3
FROZEN_MW = 5_000
_SECOND_US = 1_000_000


@kernel
def fill_estimates(
    time_us: Int64s,
    energy_mj: Int64s,
    power_mw: Int64s,
    epoch: Int64s,
    offsets: Int64s,
    gap_us: Int64s,
    highest_mw: Int64s,
    delta: Int64s,
    start_us: Int64s,
    status: Uint8s,
) -> None:
    """Rewrites delta, start_us and status [n] in place; shapes and rules as in `energy_increments`."""
    for s in range(offsets.size - 1):
        first, end = offsets[s], offsets[s + 1]
        _mark_absent(time_us, first, end, start_us, status)
        _fill_absent(time_us, power_mw, first, end, gap_us[s], highest_mw[s], delta, start_us, status)
        _fill_frozen(time_us, energy_mj, power_mw, epoch, first, end, gap_us[s], highest_mw[s], delta, start_us, status)


@kernel
def _counted(status: int) -> bool:
    return status in (OK, GAP, WRAP, RESTART, GAP_RESTART)


@kernel
def _trusted(power_mw: int, highest_mw: int) -> bool:
    return power_mw >= 0 and (highest_mw <= 0 or power_mw <= highest_mw)


@kernel
def _trapezoid(before_mw: int, after_mw: int, duration_us: int) -> int:
    return times(before_mw + after_mw, duration_us, 2 * _SECOND_US)


@kernel
def _mark_absent(time_us: Int64s, first: int, end: int, start_us: Int64s, status: Uint8s) -> None:
    """Marks ESTIMATED the missing readings over which no later difference of the counter reaches."""
    counted_from_us = INT64_MAX
    for i in range(end - 1, first - 1, -1):
        if status[i] == MISSING:
            if counted_from_us >= time_us[i]:
                status[i] = ESTIMATED
        elif status[i] != ANOMALY:
            counted_from_us = start_us[i] if _counted(status[i]) else INT64_MAX


@kernel
def _fill_absent(
    time_us: Int64s,
    power_mw: Int64s,
    first: int,
    end: int,
    gap_us: int,
    highest_mw: int,
    delta: Int64s,
    start_us: Int64s,
    status: Uint8s,
) -> None:
    """Integrates power over the marked readings, and up to the counter's return after them."""
    known = -1
    done_us = time_us[first] if first < end else 0
    for i in range(first, end):
        trusted = _trusted(power_mw[i], highest_mw)
        absent = status[i] == ESTIMATED
        returned = i > first and (status[i] == FIRST or (status[i] == UNKNOWN and start_us[i] < done_us))
        if absent or returned:
            if not trusted:
                if absent:
                    status[i] = MISSING if power_mw[i] < 0 else ANOMALY
                elif status[i] == UNKNOWN:
                    start_us[i] = done_us
            elif known < 0 or time_us[known] < done_us:
                status[i] = FIRST
                start_us[i] = time_us[i]
            else:
                start_us[i] = time_us[known]
                if time_us[i] - time_us[known] > gap_us:
                    status[i] = UNKNOWN
                else:
                    status[i] = ESTIMATED
                    delta[i] = _trapezoid(power_mw[known], power_mw[i], time_us[i] - time_us[known])
        if status[i] != MISSING and status[i] != ANOMALY:
            done_us = time_us[i]
        if trusted:
            known = i


@kernel
def _fill_frozen(
    time_us: Int64s,
    energy_mj: Int64s,
    power_mw: Int64s,
    epoch: Int64s,
    first: int,
    end: int,
    gap_us: int,
    highest_mw: int,
    delta: Int64s,
    start_us: Int64s,
    status: Uint8s,
) -> None:
    """Finds the stretches from `start` to `last` in which the counter stands still, and settles each."""
    start = -1
    last = -1
    for i in range(first, end):
        if status[i] == MISSING or status[i] == ESTIMATED:
            continue
        mover = -1
        next_start = i
        continues = start >= 0 and time_us[last] == start_us[i]
        if status[i] == ANOMALY:
            if (
                start < 0
                or energy_mj[i] < 0
                or not (epoch[i] == epoch[last] or epoch[i] == 0 or epoch[last] == 0)
                or not _moved_here(time_us, energy_mj, i, end, start_us, status)
            ):
                continue
            mover = i
        elif status[i] == OK or status[i] == GAP:
            if delta[i] == 0:
                if continues:
                    last = i
                    continue
                next_start = i - 1
                while time_us[next_start] != start_us[i]:
                    next_start -= 1
            elif continues:
                mover = i
        if start >= 0 and _stood_still(time_us, start, last):
            _settle(
                time_us, energy_mj, power_mw, first, start, last, mover, gap_us, highest_mw, delta, start_us, status
            )
        start = next_start
        last = i
    if start >= 0 and _stood_still(time_us, start, last):
        _settle(time_us, energy_mj, power_mw, first, start, last, -1, gap_us, highest_mw, delta, start_us, status)


@kernel
def _stood_still(time_us: Int64s, start: int, last: int) -> bool:
    return last - start + 1 >= FROZEN_READINGS and time_us[last] - time_us[start] >= FROZEN_US


@kernel
def _moved_here(time_us: Int64s, energy_mj: Int64s, i: int, end: int, start_us: Int64s, status: Uint8s) -> bool:
    """Whether counting went on from the anomaly i, or nothing after it has said otherwise yet."""
    j = i + 1
    while j < end and energy_mj[j] < 0:
        j += 1
    return j >= end or (_counted(status[j]) and start_us[j] == time_us[i])


@kernel
def _settle(
    time_us: Int64s,
    energy_mj: Int64s,
    power_mw: Int64s,
    first: int,
    start: int,
    last: int,
    mover: int,
    gap_us: int,
    highest_mw: int,
    delta: Int64s,
    start_us: Int64s,
    status: Uint8s,
) -> None:
    """Decides about one stretch of equal readings from `start` to `last`; `mover` is where it moved again, or -1.

    A board that rests draws nothing: one reading of rest after the stretch began, and the counter was right to stand.
    `first` is the series' first reading: whether a stretch that begins there was longer can't be seen, so that what
    the counter caught up with can't be compared.
    """
    readings = 1
    before = start
    power_known = True
    whole_mj = 0
    seen_us = 0
    far = False
    for j in range(start + 1, last + 1):
        if status[j] != OK and status[j] != GAP:
            continue
        readings += 1
        duration_us = time_us[j] - time_us[before]
        far |= duration_us > gap_us
        if _trusted(power_mw[before], highest_mw) and _trusted(power_mw[j], highest_mw):
            if power_mw[j] <= FROZEN_MW:
                return
            whole_mj += _trapezoid(power_mw[before], power_mw[j], duration_us)
            if duration_us <= gap_us:
                seen_us += duration_us
        else:
            power_known = False
        before = j
    if readings < FROZEN_READINGS or seen_us < (STANDING_US if mover < 0 else FROZEN_US):
        return

    caught_up = False
    if mover >= 0:
        duration_us = time_us[mover] - time_us[last]
        far |= duration_us > gap_us
        power_known &= _trusted(power_mw[last], highest_mw) and _trusted(power_mw[mover], highest_mw)
        moved_mj = energy_mj[mover] - energy_mj[start]
        if power_known:
            whole_mj += _trapezoid(power_mw[last], power_mw[mover], duration_us)
            caught_up = start > first and moved_mj > 0 and whole_mj // 2 <= moved_mj and moved_mj // 2 <= whole_mj
        if caught_up:
            delta[mover] = moved_mj
            start_us[mover] = time_us[start]
            status[mover] = GAP if far else OK
        elif status[mover] != ANOMALY or mover + 1 < status.size:
            _estimate(time_us, power_mw, last, mover, gap_us, highest_mw, delta, start_us, status)

    before = start
    for j in range(start + 1, last + 1):
        if status[j] != OK and status[j] != GAP:
            continue
        if caught_up:
            delta[j] = 0
            start_us[j] = time_us[j]
            status[j] = ANOMALY
        else:
            _estimate(time_us, power_mw, before, j, gap_us, highest_mw, delta, start_us, status)
        before = j


@kernel
def _estimate(
    time_us: Int64s,
    power_mw: Int64s,
    before: int,
    i: int,
    gap_us: int,
    highest_mw: int,
    delta: Int64s,
    start_us: Int64s,
    status: Uint8s,
) -> None:
    duration_us = time_us[i] - time_us[before]
    start_us[i] = time_us[before]
    if duration_us <= gap_us and _trusted(power_mw[before], highest_mw) and _trusted(power_mw[i], highest_mw):
        delta[i] = _trapezoid(power_mw[before], power_mw[i], duration_us)
        status[i] = ESTIMATED
    else:
        delta[i] = 0
        status[i] = UNKNOWN
