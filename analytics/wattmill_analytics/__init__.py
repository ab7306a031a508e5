"""Wattmill's analytics: arrays in, arrays out. No I/O, no clock, no database.

Nothing is imported here, so that `units` stays free of numpy; `warm_up` compiles every kernel.
"""

from __future__ import annotations


def warm_up() -> None:
    """Runs every kernel once on a few numbers, so that no job waits for the compiler.

    Takes seconds on a machine that never ran them, and milliseconds where numba's cache is kept on disk.
    """
    import numpy as np

    from wattmill_analytics import attribution, buckets, efficiency, increments, pricing

    time_us = np.arange(0, 80_000_000, 10_000_000, dtype=np.int64)
    counter = np.array([10, 20, 5, 8, -1, 8, 8, 9], np.int64)
    same = np.zeros(8, np.int64)
    offsets = np.array([0, 8], np.int64)
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    epoch, epoch_start_us = increments.infer_restarts(
        time_us=time_us,
        value=counter,
        epoch=same,
        epoch_start_us=same - 1,
        offsets=offsets,
        group=zero,
        highest_per_s=zero,
    )
    found = increments.energy_increments(
        time_us=time_us,
        energy_mj=counter,
        power_mw=same + 6_000,
        epoch=epoch,
        epoch_start_us=epoch_start_us,
        offsets=offsets,
        watched_from_us=zero,
        gap_us=one * 30_000_000,
        highest_mw=zero,
    )
    pieces = buckets.spread(start_us=found.start_us, end_us=time_us, amount=found.delta)
    buckets.sum_by_key((pieces.source, pieces.bucket_us), pieces.amount[:, np.newaxis])
    attribution.attribute(
        offsets=offsets,
        start_us=found.start_us,
        end_us=time_us,
        energy_mj=found.delta,
        counter_mj=found.delta,
        occupancy=np.zeros(8, np.uint8),
        held_offsets=np.array([0, 1], np.int64),
        held_start_us=zero,
        held_end_us=one * 50_000_000,
        held_active=np.ones(1, np.uint8),
        held_weight=one,
        held_share=zero - 1,
        held_activity=zero - 1,
    )
    attribution.divide(one, one)
    efficiency.tokens_per_kwh(one, one)
    efficiency.joules_per_token(one, one)
    pricing.price(energy_mj=one, time_us=one, valid_from_us=zero, micro_per_kwh=one)
