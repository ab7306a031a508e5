"""Between the twins' readings and the kernels' arrays: packs series one behind the other, and unpacks the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.naive import Counter, Interval, Reading
from wattmill_analytics.increments import Increments, energy_increments, increments, infer_restarts

Int64s = NDArray[np.int64]


def int64s(values: Sequence[int]) -> Int64s:
    return np.array(values, dtype=np.int64)


def pack(series: Sequence[Sequence[Reading]]) -> dict[str, Any]:
    rows = [r for readings in series for r in readings]
    return {
        "time_us": int64s([r.time_us for r in rows]),
        "value": int64s([r.value for r in rows]),
        "epoch": int64s([r.epoch for r in rows]),
        "epoch_start_us": int64s([r.epoch_start_us for r in rows]),
        "offsets": int64s([sum(len(x) for x in series[:s]) for s in range(len(series) + 1)]),
    }


def unpack(found: Increments, series: Sequence[Sequence[Reading]]) -> list[list[Interval]]:
    rows = list(zip(found.delta.tolist(), found.start_us.tolist(), found.status.tolist(), strict=True))
    split = []
    for readings in series:
        split.append(rows[: len(readings)])
        rows = rows[len(readings) :]
    return split


def count(series: Sequence[Sequence[Reading]], counters: Sequence[Counter]) -> list[list[Interval]]:
    found = increments(
        **pack(series),
        watched_from_us=int64s([c.watched_from_us for c in counters]),
        gap_us=int64s([c.gap_us for c in counters]),
        wrap_at=int64s([c.wrap_at for c in counters]),
        highest_per_s=int64s([c.highest_per_s for c in counters]),
    )
    return unpack(found, series)


def count_energy(series: Sequence[Sequence[Reading]], counters: Sequence[Counter]) -> list[list[Interval]]:
    arrays = pack(series)
    found = energy_increments(
        energy_mj=arrays.pop("value"),
        power_mw=int64s([r.power_mw for readings in series for r in readings]),
        **arrays,
        watched_from_us=int64s([c.watched_from_us for c in counters]),
        gap_us=int64s([c.gap_us for c in counters]),
        highest_mw=int64s([c.highest_per_s for c in counters]),
    )
    return unpack(found, series)


def infer(
    series: Sequence[Sequence[Reading]], groups: Sequence[int], highest_per_s: Sequence[int]
) -> list[list[tuple[int, int]]]:
    epoch, start_us = infer_restarts(**pack(series), group=int64s(groups), highest_per_s=int64s(highest_per_s))
    rows = list(zip(epoch.tolist(), start_us.tolist(), strict=True))
    split = []
    for readings in series:
        split.append(rows[: len(readings)])
        rows = rows[len(readings) :]
    return split
