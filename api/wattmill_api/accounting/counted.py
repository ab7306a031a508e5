"""Several token counters of each series at once: what they moved between two readings, and when that began."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from wattmill_analytics import increments
from wattmill_analytics.increments import Uint8s
from wattmill_api.accounting.status import COUNTED
from wattmill_api.store.rollup import Int64, Samples

TOKENS_PER_S = 10_000_000  # above any engine; a larger jump is a sentinel, not tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """One entry a sample: the interval that it ends. `start_us` int64 [n]: -1 where it ends none of any counter.

    `moved[c]` int64 [n]: exact increment of counter c, -1 unknown; `status` uint8 [c, n], in the order of the counters.
    """

    start_us: Int64
    moved: dict[str, Int64]
    status: Uint8s


def count(
    samples: Samples,
    counters: Sequence[str],
    *,
    watched_from_us: Int64,
    gap_us: Int64,
    begun_before_start_us: int = 0,
) -> Counted:
    """Differences inside epochs, in one pass over all counters of all series.

    `watched_from_us`, `gap_us` int64 [s]: one a series, as `increments` wants them. `begun_before_start_us`: how long
    before the start of an epoch its counters stood at zero.
    """
    n, stacked, series = samples.count, len(counters), len(samples.ids)
    time_us = samples["time_us"]
    offsets = np.concatenate([*(samples.offsets[:-1] + c * n for c in range(stacked)), np.array([stacked * n])])
    times = np.tile(time_us, stacked)
    values = np.concatenate([samples[name] for name in counters])
    limit = np.full(series * stacked, TOKENS_PER_S, np.int64)
    epoch, epoch_start_us = increments.infer_restarts(
        time_us=times,
        value=values,
        epoch=np.tile(samples["epoch"], stacked),
        epoch_start_us=np.tile(samples["epoch_start_us"], stacked),
        offsets=offsets,
        group=np.tile(np.arange(series), stacked),
        highest_per_s=limit,
    )
    found = increments.increments(
        time_us=times,
        value=values,
        epoch=epoch,
        epoch_start_us=epoch_start_us,
        offsets=offsets,
        watched_from_us=np.tile(watched_from_us, stacked),
        gap_us=np.tile(gap_us, stacked),
        wrap_at=np.zeros(series * stacked, np.int64),
        highest_per_s=limit,
    )
    status = found.status.reshape(stacked, n)
    is_counted = np.isin(status, COUNTED)
    # A counter that began from zero moved while its process lived, not while nothing ran.
    began = np.where(
        np.isin(status, (increments.RESTART, increments.GAP_RESTART)),
        epoch_start_us.reshape(stacked, n) - begun_before_start_us,
        -1,
    )
    starts = np.where(is_counted, np.maximum(found.start_us.reshape(stacked, n), began), -1)
    start_us = starts.max(axis=0) if n else np.zeros(0, np.int64)
    delta = np.where(is_counted, found.delta.reshape(stacked, n), np.where(values.reshape(stacked, n) < 0, -1, 0))
    return Counted(
        np.where(start_us < time_us, start_us, -1), {name: delta[c] for c, name in enumerate(counters)}, status
    )
