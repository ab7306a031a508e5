"""Counter samples to increments: what each series counted between two readings, and how far that is trusted.

Promises: within an epoch the increments telescope, so any readings may be lost or repeated between two that are kept
and the total stays the same; a decrease is never taken for a reset without evidence; nothing is counted twice.
Does not: look at wall clocks, buckets or owners (`buckets`, `attribution`), or interpolate.

Many series lie one behind the other in the same arrays; `offsets` (CSR) says where each begins. Within a series time
rises strictly. Three readings of context before the stretch one cares for are enough to judge it the same wherever
the arrays were cut, as long as wrong readings are rarer than one in four.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.estimates import fill_estimates
from wattmill_analytics.exact import times
from wattmill_analytics.kernel import int64s, kernel
from wattmill_analytics.restarts import apply_restarts, count_falls, decide_falls, fill_falls
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

__all__ = [
    "ANOMALY",
    "ESTIMATED",
    "FIRST",
    "GAP",
    "GAP_RESTART",
    "MISSING",
    "OK",
    "RESTART",
    "UNKNOWN",
    "WRAP",
    "Increments",
    "energy_increments",
    "increments",
    "infer_restarts",
]

Int64s = NDArray[np.int64]
Uint8s = NDArray[np.uint8]

_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Increments:
    """Entry i is the interval (start_us[i], time_us[i]] that ends at reading i.

    delta int64 [n] in the counter's unit, start_us int64 [n], status uint8 [n]. With delta 0 and start_us = time_us
    there is no interval (FIRST, ANOMALY, MISSING); UNKNOWN keeps its start: that time is known to be uncovered.
    """

    delta: Int64s
    start_us: Int64s
    status: Uint8s


def increments(
    *,
    time_us: Int64s,
    value: Int64s,
    epoch: Int64s,
    epoch_start_us: Int64s,
    offsets: Int64s,
    watched_from_us: Int64s,
    gap_us: Int64s,
    wrap_at: Int64s,
    highest_per_s: Int64s,
) -> Increments:
    """Exact increments of many counter series.

    Shapes and units: per reading int64 [n]: time_us, strictly rising in a series; value, raw counter, -1 = missing;
    epoch, 0 = no evidence; epoch_start_us, -1 = unknown. offsets int64 [s+1]. Per series int64 [s]: watched_from_us,
    since when the node was watched, -1 = take the first reading as baseline; gap_us; wrap_at, 0 = never wraps;
    highest_per_s, the most it can plausibly rise in a second, 0 = no limit (one second's worth of slack is added).
    Returns: `Increments`, [n].
    Rules: same epoch, risen plausibly -> OK, or GAP beyond gap_us. Fallen -> WRAP if the range is known and only one
    turn was possible, else ANOMALY. Risen beyond the limit -> ANOMALY. After an anomaly the next reading decides: if
    it continues from the reading before, the anomaly was a glitch and the difference spans it; if it continues from
    the anomaly, the counter really moved, and is counted on from there. New epoch -> from zero if its start is known
    to lie after the last trusted reading (RESTART, GAP_RESTART), else UNKNOWN. Epoch 0 is a new epoch only if the
    value fell. A start up to a second after the reading is believed: readings carry the time of their tick.
    A series' first reading -> from zero if its epoch began while the node was watched, else FIRST.
    Conserves: within one epoch OK, GAP and WRAP sum to last - first.
    Errors: ValueError when shapes differ. Never raises on data.
    Accuracy: exact integers. Cost: O(n).
    Source: facts/reliability 6 (rows 1, 2, 8) and 8.3.
    Example: [10, 15, 3, 17] in one epoch -> [0, 5, 0, 2], [FIRST, OK, ANOMALY, OK].
    """
    time_us, value, epoch, epoch_start_us = _readings(time_us, value, epoch, epoch_start_us)
    offsets = _offsets(offsets, time_us.size)
    watched_from_us, gap_us, wrap_at, highest_per_s = _per_series(
        offsets, watched_from_us, gap_us, wrap_at, highest_per_s
    )
    found = Increments(np.empty_like(time_us), np.empty_like(time_us), np.empty(time_us.size, np.uint8))
    _count(
        time_us,
        value,
        epoch,
        epoch_start_us,
        offsets,
        watched_from_us,
        gap_us,
        wrap_at,
        highest_per_s,
        found.delta,
        found.start_us,
        found.status,
    )
    return found


def infer_restarts(
    *,
    time_us: Int64s,
    value: Int64s,
    epoch: Int64s,
    epoch_start_us: Int64s,
    offsets: Int64s,
    group: Int64s,
    highest_per_s: Int64s,
) -> tuple[Int64s, Int64s]:
    """Epochs of counters that live and die together, with the restarts that only their common fall betrays.

    Shapes and units: readings and offsets as in `increments`; group int64 [s]: series of one process or one driver
    share a number; highest_per_s int64 [s].
    Returns: (epoch, epoch_start_us), int64 [n], copies. From a restart on, every series of the group that had a
    reading before carries a new epoch, which started just after that reading.
    Rules: a restart is where the epoch did not change, every series that is read at that time and stood above zero
    before fell, and each new value is plausible from zero. One series alone is no witness: it needs a next reading
    that goes on from the fallen value and not from the one before the fall.
    Errors: ValueError when shapes differ. Never raises on data.
    Accuracy: exact. Cost: O(n), and O(series of the group) per fall.
    Source: facts/reliability 8.3, rules 2 and 9.
    """
    time_us, value, epoch, epoch_start_us = _readings(time_us, value, epoch, epoch_start_us)
    offsets = _offsets(offsets, time_us.size)
    group, highest_per_s = _per_series(offsets, group, highest_per_s)
    new_epoch, new_start_us = epoch.copy(), epoch_start_us.copy()
    fell = np.empty((2, count_falls(value, epoch, offsets)), np.int64)
    if fell.size == 0:
        return new_epoch, new_start_us
    fill_falls(value, epoch, offsets, fell)
    by_group = np.argsort(group, kind="stable")
    _, dense, sizes = np.unique(group, return_inverse=True, return_counts=True)
    members = np.concatenate(([0], np.cumsum(sizes)))
    restarted = np.zeros(fell.shape[1], np.bool_)
    decide_falls(time_us, value, epoch, offsets, dense, by_group, members, highest_per_s, fell, restarted)

    at = np.unique(np.stack((dense[fell[0, restarted]], time_us[fell[1, restarted]]), axis=1), axis=0)
    bounds = np.searchsorted(at[:, 0], np.arange(sizes.size + 1))
    when = np.ascontiguousarray(at[:, 1])
    apply_restarts(time_us, value, epoch, offsets, dense, bounds, when, _names_of(when), new_epoch, new_start_us)
    return new_epoch, new_start_us


def energy_increments(
    *,
    time_us: Int64s,
    energy_mj: Int64s,
    power_mw: Int64s,
    epoch: Int64s,
    epoch_start_us: Int64s,
    offsets: Int64s,
    watched_from_us: Int64s,
    gap_us: Int64s,
    highest_mw: Int64s,
) -> Increments:
    """Energy of accelerators: the counter's increments, and integrated power where there is no counter to trust.

    Shapes and units: as `increments` with energy_mj in millijoules; power_mw int64 [n], milliwatts, -1 = missing;
    highest_mw int64 [s], the most power the board can draw, 0 = no limit (1 mW for 1 s is 1 mJ). Power above it is
    not trusted.
    Returns: `Increments` in millijoules, [n].
    Rules: no energy value, and no counted difference that spans the reading -> ESTIMATED, the trapezoid between two
    power readings not more than gap_us apart; further apart -> UNKNOWN.
    Frozen: at least 3 equal readings, after the first of which no reading shows rest (5 W or less). While the counter
    still stands, every interval of the stretch is ESTIMATED once it lasts 120 s. When the counter moves again after at
    least 30 s, and the jump is 0.5 to 2 times what power says of the whole stretch, it is counted once, as the
    difference over the stretch, and the readings inside become ANOMALY; else the stretch and the last interval are
    ESTIMATED and counting goes on from there. What a stretch caught up with is compared only where it began in sight.
    Errors: ValueError when shapes differ. Never raises on data.
    Accuracy: counted energy exact; a trapezoid is floored to a millijoule. Cost: O(n).
    Source: facts/reliability 8.3, rule 5 (amdsmi issue 38, rocm_smi_lib issue 180).
    """
    time_us, energy_mj, epoch, epoch_start_us, power_mw = _readings(time_us, energy_mj, epoch, epoch_start_us, power_mw)
    offsets = _offsets(offsets, time_us.size)
    gap_us, highest_mw = _per_series(offsets, gap_us, highest_mw)
    found = increments(
        time_us=time_us,
        value=energy_mj,
        epoch=epoch,
        epoch_start_us=epoch_start_us,
        offsets=offsets,
        watched_from_us=watched_from_us,
        gap_us=gap_us,
        wrap_at=np.zeros_like(gap_us),
        highest_per_s=highest_mw,
    )
    fill_estimates(
        time_us, energy_mj, power_mw, epoch, offsets, gap_us, highest_mw, found.delta, found.start_us, found.status
    )
    return found


@kernel
def _counted(status: int) -> bool:
    return status in (OK, GAP, WRAP, RESTART, GAP_RESTART)


@kernel
def _within(amount: int, highest_per_s: int, duration_us: int) -> bool:
    return highest_per_s <= 0 or amount <= times(highest_per_s, duration_us + _SECOND_US, _SECOND_US)


@kernel
def _one_turn(moved: int, wrap_at: int, highest_per_s: int, duration_us: int, gap_us: int) -> bool:
    if highest_per_s > 0:
        most = times(highest_per_s, duration_us, _SECOND_US)
        return most <= wrap_at and _within(moved, highest_per_s, duration_us)
    # Without a known rate a small step back looks like almost a whole turn: believe the shorter way round only.
    return duration_us <= gap_us and moved <= wrap_at // 2


@kernel
def _judge(
    base_value: int,
    base_time_us: int,
    base_epoch: int,
    value: int,
    time_us: int,
    epoch: int,
    epoch_start_us: int,
    gap_us: int,
    wrap_at: int,
    highest_per_s: int,
) -> tuple[int, int]:
    """(status, delta) of a reading after a trusted one."""
    duration_us = time_us - base_time_us
    far = duration_us > gap_us
    if epoch == base_epoch or ((epoch == 0 or base_epoch == 0) and value >= base_value):
        moved = value - base_value
        if moved >= 0:
            if _within(moved, highest_per_s, duration_us):
                return (GAP if far else OK), moved
            return ANOMALY, 0
        if wrap_at > 0:
            moved += wrap_at
            if moved >= 0 and _one_turn(moved, wrap_at, highest_per_s, duration_us, gap_us):
                return (GAP if far else WRAP), moved
        return ANOMALY, 0
    if epoch_start_us <= base_time_us or epoch_start_us < 0 or epoch_start_us > time_us + _SECOND_US:
        return UNKNOWN, 0
    if _within(value, highest_per_s, max(time_us - epoch_start_us, 0)):
        return (GAP_RESTART if far else RESTART), value
    return ANOMALY, 0


@kernel
def _judge_first(
    value: int, time_us: int, epoch_start_us: int, watched_from_us: int, gap_us: int, highest_per_s: int
) -> tuple[int, int]:
    """(status, delta) of a reading before which nothing is trusted."""
    if watched_from_us < 0 or epoch_start_us <= watched_from_us or epoch_start_us > time_us + _SECOND_US:
        return FIRST, 0
    duration_us = max(time_us - epoch_start_us, 0)
    if _within(value, highest_per_s, duration_us):
        return (GAP_RESTART if duration_us > gap_us else RESTART), value
    return ANOMALY, 0


@kernel
def _count(
    time_us: Int64s,
    value: Int64s,
    epoch: Int64s,
    epoch_start_us: Int64s,
    offsets: Int64s,
    watched_from_us: Int64s,
    gap_us: Int64s,
    wrap_at: Int64s,
    highest_per_s: Int64s,
    delta: Int64s,
    start_us: Int64s,
    status: Uint8s,
) -> None:
    for s in range(offsets.size - 1):
        end = offsets[s + 1]
        watched, gap, wrap, highest = watched_from_us[s], gap_us[s], wrap_at[s], highest_per_s[s]
        base = -1
        for i in range(offsets[s], end):
            delta[i] = 0
            start_us[i] = time_us[i]
            if value[i] < 0:
                status[i] = MISSING
                continue
            if base < 0:
                verdict, moved = _judge_first(value[i], time_us[i], epoch_start_us[i], watched, gap, highest)
            else:
                verdict, moved = _judge(
                    value[base],
                    time_us[base],
                    epoch[base],
                    value[i],
                    time_us[i],
                    epoch[i],
                    epoch_start_us[i],
                    gap,
                    wrap,
                    highest,
                )
            status[i] = verdict
            if verdict != ANOMALY:
                delta[i] = moved
                if base >= 0:
                    start_us[i] = time_us[base]
                elif verdict != FIRST:
                    start_us[i] = min(epoch_start_us[i], time_us[i])
                base = i
                continue
            # A glitch or a move? The next reading decides.
            j = i + 1
            while j < end and value[j] < 0:
                j += 1
            if j == end:
                continue
            if base < 0:
                after, _ = _judge_first(value[j], time_us[j], epoch_start_us[j], watched, gap, highest)
            else:
                after, _ = _judge(
                    value[base],
                    time_us[base],
                    epoch[base],
                    value[j],
                    time_us[j],
                    epoch[j],
                    epoch_start_us[j],
                    gap,
                    wrap,
                    highest,
                )
            if _counted(after):
                continue
            after, _ = _judge(value[i], time_us[i], epoch[i], value[j], time_us[j], epoch[j], -1, gap, 0, highest)
            if _counted(after):
                base = i


def _names_of(time_us: Int64s) -> Int64s:
    """A number per restart that is never 0 and looks like no other: splitmix64 of its time."""
    x = time_us.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    names = (x ^ (x >> np.uint64(31))).view(np.int64)
    return np.where((names == 0) | (names == -1), np.int64(1), names)


def _readings(*arrays: Int64s) -> tuple[Int64s, ...]:
    checked = tuple(int64s(array) for array in arrays)
    if any(array.ndim != 1 or array.size != checked[0].size for array in checked):
        raise ValueError(f"readings must be one-dimensional and equally long, not {[a.shape for a in checked]}")
    return checked


def _offsets(offsets: Int64s, n: int) -> Int64s:
    offsets = int64s(offsets)
    if offsets.ndim != 1 or offsets.size < 1 or offsets[0] != 0 or offsets[-1] != n or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets must rise from 0 to the number of readings, {n}")
    return offsets


def _per_series(offsets: Int64s, *arrays: Int64s) -> tuple[Int64s, ...]:
    checked = tuple(int64s(array) for array in arrays)
    if any(array.shape != (offsets.size - 1,) for array in checked):
        raise ValueError(f"there are {offsets.size - 1} series, but values for {[a.shape for a in checked]}")
    return checked
