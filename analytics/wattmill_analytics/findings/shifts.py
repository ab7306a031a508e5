"""Shifts: when a noisy series of minutes rose above what it should be, and when it came back.

A one-sided CUSUM: what exceeds a drift is added up, what falls below is taken off, down to nothing (Page 1954). The
threshold follows the noise of the series itself, by Siegmund's approximation (1985) of the mean time to a false alarm.
A series has a normal level of its own, its mean of the last day. Causal: a shift is found at the same row in data that
end there.

A shift that is older than the data can't be told from them, as the level before it is not in them. Whoever knows of one
says so, with that level: it is then under way from its beginning on, by 8 % at least, until the series comes back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.findings.minutes import MINUTE_US, Float64, Int64
from wattmill_analytics.findings.runs import Run
from wattmill_analytics.kernel import int64s, kernel

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]

HALF_WEIGHT_REQUESTS = 16.0  # a minute of so many requests tells half of what one of very many tells
CLIP = 0.35  # no single minute may count for more than +42 %
SHORTEST_MINUTES = 4
FORGETS_US = 60 * MINUTE_US  # nothing judged for so long, and a rise that was not yet a shift is forgotten
LOSES_US = 12 * 60 * MINUTE_US  # ... and one that was is over
# Series differ from their curve, and boards from each other, by some percent that are theirs: their own mean of a day.
NORMAL_MINUTES = 1440.0
MOST_NORMAL = 0.05
FEW_NORMAL = 60.0
UNDECIDED_MINUTES = 60  # a rise that is still too small after so long is a bias of the curve
# Noise is told from the means of blocks of minutes: real noise has a memory of some minutes, and sums feel it.
BLOCK_MINUTES = 5
NOISE_BLOCKS = 192.0  # 16 hours of judged minutes
FIRST_NOISE, FIRST_BLOCKS = 0.07, 30.0  # before anything is known, as if it had been seen for so many blocks
LOG_ALARM_MINUTES = math.log(3e7)  # by the approximation; estimated noise with a memory alarms far more often


@dataclasses.dataclass(frozen=True, slots=True)
class Rise:
    """What counts as a shift of ln(ratio): a mean of at least `smallest`, `floor` above `drift` in sum."""

    smallest: float
    drift: float
    floor: float


EIGHT_PERCENT = Rise(smallest=0.08, drift=0.065, floor=0.45)


def shifts(
    offsets: Int64,
    minute_us: Int64,
    x: Float64,
    requests: Float64,
    rise: Rise,
    under_way: tuple[Float64, Int64] | None = None,
) -> list[Run]:
    """Stretches in which x lies above its normal by at least `rise.smallest`, in order of series and time.

    Series in rows by `offsets` int64 [s+1]; `x`, `requests` float64 [n]: the more requests, the less noise a row has;
    rows with 0 are passed over. `first` is the row of the change, `opened` the row at which the sum passed its
    threshold, `last` the last row before the series came half way back, told by a CUSUM downwards. `under_way`,
    (level, since_us), each [s]: the normal level of a series that is known to be shifted since then, NaN of others.
    """
    levels, since_us = under_way or (np.full(offsets.size - 1, math.nan), np.zeros(offsets.size - 1, np.int64))
    found = np.empty((x.size // SHORTEST_MINUTES + offsets.size, 5), np.int64)
    count = _shifts(
        int64s(offsets),
        int64s(minute_us),
        np.ascontiguousarray(x),
        np.ascontiguousarray(requests),
        rise.smallest,
        rise.drift,
        rise.floor,
        np.ascontiguousarray(levels),
        int64s(since_us),
        found,
    )
    return [Run(s, f, last, o, bool(over)) for s, f, last, o, over in found[:count].tolist()]


@kernel
def _shifts(
    offsets: Int64s,
    minute_us: Int64s,
    x: Float64s,
    requests: Float64s,
    smallest: float,
    drift: float,
    floor: float,
    levels: Float64s,
    since_us: Int64s,
    found: Int64s,
) -> int:
    count = 0
    for s in range(offsets.size - 1):
        noise, blocks, judged = FIRST_NOISE, FIRST_BLOCKS, -1
        block, in_block, before = 0.0, 0, math.nan
        rise, first, length, mass, weighted = 0.0, -1, 0, 0.0, 0.0
        opened, shift, fall, falling, last = -1, 0.0, 0.0, 0, -1
        normal, seen, total = 0.0, 0.0, 0.0
        known = not math.isnan(levels[s])
        goes_on = False
        if known:
            normal = max(-MOST_NORMAL, min(MOST_NORMAL, levels[s]))
            seen, total = NORMAL_MINUTES, NORMAL_MINUTES * normal
        for i in range(offsets[s], offsets[s + 1]):
            if requests[i] <= 0:
                continue
            w = requests[i] / (requests[i] + HALF_WEIGHT_REQUESTS)
            value = w * max(-CLIP, min(CLIP, x[i] - normal))
            pause_us = minute_us[i] - minute_us[judged] if judged >= 0 else 0
            if judged < 0 or pause_us > BLOCK_MINUTES * MINUTE_US:
                block, in_block, before = 0.0, 0, math.nan
            block, in_block = block + value / math.sqrt(w), in_block + 1
            if in_block == BLOCK_MINUTES:
                mean = block / BLOCK_MINUTES
                if not math.isnan(before):
                    # Neighbours' differences do not see the shift itself; of normal noise their mean is 1.128 sigma.
                    blocks += 1.0
                    sigma = abs(mean - before) / 1.128 * math.sqrt(BLOCK_MINUTES)
                    noise += (sigma - noise) / min(NOISE_BLOCKS, blocks)
                block, in_block, before = 0.0, 0, mean
            if opened >= 0 and pause_us > LOSES_US:
                _put(found, count, s, first, judged, opened, 1)
                count += 1
                opened, rise, goes_on = -1, 0.0, False
            if pause_us > FORGETS_US:
                rise = 0.0
            judged = i
            if known and minute_us[i] >= since_us[s]:
                known = False
                if opened < 0:
                    goes_on = True
                    first = opened = last = i
                    length, mass, weighted = 0, 0.0, 0.0
                    shift, fall, falling = smallest, 0.0, 0
            if opened < 0:
                seen, total = seen + w, total + value + w * normal
                if seen > NORMAL_MINUTES:
                    seen, total = NORMAL_MINUTES, total * (NORMAL_MINUTES / seen)
                normal = max(-MOST_NORMAL, min(MOST_NORMAL, total / (seen + FEW_NORMAL)))
                if rise <= 0.0:
                    rise, first, length, mass, weighted = 0.0, i, 0, 0.0, 0.0
                rise += value - w * drift
                length, mass, weighted = length + 1, mass + w, weighted + value
                if rise <= 0.0:
                    continue
                large = weighted >= smallest * mass
                if large and length >= SHORTEST_MINUTES and rise > _threshold(noise, drift, floor):
                    opened, last, fall = i, i, 0.0
                    shift = weighted / mass
                elif length > UNDECIDED_MINUTES and not large:
                    rise = 0.0
            else:
                if length < UNDECIDED_MINUTES:  # the first minutes of a shift make it look higher than it is
                    length, mass, weighted = length + 1, mass + w, weighted + value
                    shift = max(weighted / mass, smallest) if goes_on else weighted / mass
                fall = max(0.0, fall + 0.5 * shift * w - value)
                if fall <= 0.0:
                    last, falling = i, 0
                else:
                    falling += 1
                    if falling >= SHORTEST_MINUTES and fall > _threshold(noise, 0.5 * shift, floor):
                        _put(found, count, s, first, last, opened, 1)
                        count += 1
                        opened, rise, goes_on = -1, 0.0, False
        if opened >= 0:
            over = 1 if minute_us[offsets[s + 1] - 1] - minute_us[judged] > LOSES_US else 0
            _put(found, count, s, first, judged, opened, over)
            count += 1
    return count


@kernel
def _threshold(noise: float, drift: float, floor: float) -> float:
    """Height at which noise alone arrives once in LOG_ALARM_MINUTES."""
    return max(floor, noise * noise / (2.0 * drift) * LOG_ALARM_MINUTES - noise)


@kernel
def _put(found: Int64s, row: int, subject: int, first: int, last: int, opened: int, over: int) -> None:
    found[row, 0] = subject
    found[row, 1] = first
    found[row, 2] = last
    found[row, 3] = opened
    found[row, 4] = over


def united(*groups: Iterable[Run]) -> list[Run]:
    """Runs of several criteria as one list: those of a subject that touch are one, known from the earliest."""
    whole: list[Run] = []
    for run in sorted((run for group in groups for run in group), key=lambda r: (r.subject, r.first)):
        before = whole[-1] if whole else None
        if before is None or before.subject != run.subject or run.first > before.last + 1:
            whole.append(run)
            continue
        ends = max(before, run, key=lambda r: r.last)
        whole[-1] = Run(run.subject, before.first, ends.last, min(before.opened, run.opened), before.over and run.over)
    return whole
