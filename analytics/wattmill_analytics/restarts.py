"""Restarts that no epoch tells of: the kernels behind `increments.infer_restarts`.

Counters of one process die together. When all of them fall at once, the process restarted; when one falls alone
among several, that reading is wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.exact import times
from wattmill_analytics.kernel import kernel

Int64s = NDArray[np.int64]

_SECOND_US = 1_000_000


@kernel
def _same_epoch(before: int, after: int) -> bool:
    return before == after or before == 0 or after == 0


@kernel
def _within(amount: int, highest_per_s: int, duration_us: int) -> bool:
    return highest_per_s <= 0 or amount <= times(highest_per_s, duration_us + _SECOND_US, _SECOND_US)


@kernel
def count_falls(value: Int64s, epoch: Int64s, offsets: Int64s) -> int:
    """How many readings lie below the reading before them without a new epoch."""
    found = 0
    for s in range(offsets.size - 1):
        before = -1
        for i in range(offsets[s], offsets[s + 1]):
            if value[i] < 0:
                continue
            if before >= 0 and value[i] < value[before] and _same_epoch(epoch[before], epoch[i]):
                found += 1
            before = i
    return found


@kernel
def fill_falls(value: Int64s, epoch: Int64s, offsets: Int64s, fell: Int64s) -> None:
    """fell int64 [2, k]: the series and the reading of each fall."""
    found = 0
    for s in range(offsets.size - 1):
        before = -1
        for i in range(offsets[s], offsets[s + 1]):
            if value[i] < 0:
                continue
            if before >= 0 and value[i] < value[before] and _same_epoch(epoch[before], epoch[i]):
                fell[0, found] = s
                fell[1, found] = i
                found += 1
            before = i


@kernel
def _before(value: Int64s, first: int, i: int) -> int:
    """The last reading with a value before reading i of a series that begins at `first`; -1 if there is none."""
    i -= 1
    while i >= first and value[i] < 0:
        i -= 1
    return i if i >= first else -1


@kernel
def _goes_on(time_us: Int64s, value: Int64s, epoch: Int64s, before: int, i: int, end: int, highest: int) -> bool:
    """Whether the reading after i continues from i and not from the reading before the fall."""
    j = i + 1
    while j < end and value[j] < 0:
        j += 1
    if j >= end or not _same_epoch(epoch[i], epoch[j]) or value[j] < value[i]:
        return False
    if not _within(value[j] - value[i], highest, time_us[j] - time_us[i]):
        return False
    return value[j] < value[before] or not _within(value[j] - value[before], highest, time_us[j] - time_us[before])


@kernel
def decide_falls(
    time_us: Int64s,
    value: Int64s,
    epoch: Int64s,
    offsets: Int64s,
    group: Int64s,
    by_group: Int64s,
    members: Int64s,
    highest_per_s: Int64s,
    fell: Int64s,
    restarted: NDArray[np.bool_],
) -> None:
    """Sets restarted bool [k] where the fall is shared by every witness in the group.

    group int64 [s] is dense; by_group int64 [s] lists the series group after group, members (CSR) says where.
    """
    for f in range(fell.shape[1]):
        fallen_series, fallen = int(fell[0, f]), int(fell[1, f])
        now_us = time_us[fallen]
        witnesses = 0
        agree = True
        for m in range(members[group[fallen_series]], members[group[fallen_series] + 1]):
            s = int(by_group[m])
            i = int(offsets[s] + np.searchsorted(time_us[offsets[s] : offsets[s + 1]], now_us))
            if i >= offsets[s + 1] or time_us[i] != now_us or value[i] < 0:
                continue
            before = _before(value, offsets[s], i)
            if before < 0 or value[before] <= 0 or not _same_epoch(epoch[before], epoch[i]):
                continue
            witnesses += 1
            if value[i] >= value[before] or not _within(value[i], highest_per_s[s], now_us - time_us[before]):
                agree = False
                break
        if agree and witnesses == 1:
            before = _before(value, offsets[fallen_series], fallen)
            agree = _goes_on(
                time_us, value, epoch, before, fallen, offsets[fallen_series + 1], highest_per_s[fallen_series]
            )
        restarted[f] = agree


@kernel
def apply_restarts(
    time_us: Int64s,
    value: Int64s,
    epoch: Int64s,
    offsets: Int64s,
    group: Int64s,
    bounds: Int64s,
    when_us: Int64s,
    names: Int64s,
    new_epoch: Int64s,
    new_start_us: Int64s,
) -> None:
    """Writes the epochs that begin at each group's restarts: when_us and names int64 [k], CSR bounds over groups."""
    for s in range(offsets.size - 1):
        r, last = bounds[group[s]], bounds[group[s] + 1]
        if r == last:
            continue
        before = -1
        inferred = False
        name = 0
        start_us = 0
        for i in range(offsets[s], offsets[s + 1]):
            if inferred and not _same_epoch(epoch[i - 1], epoch[i]):
                inferred = False
            while r < last and when_us[r] <= time_us[i]:
                if before >= 0 and time_us[before] < when_us[r] and _same_epoch(epoch[before], epoch[i]):
                    name = (name if inferred else epoch[i]) ^ names[r]
                    if name == 0:
                        name = ~names[r]
                    start_us = time_us[before] + 1
                    inferred = True
                r += 1
            if inferred:
                new_epoch[i] = name
                new_start_us[i] = start_us
            if value[i] >= 0:
                before = i
