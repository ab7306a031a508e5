"""Readings of one energy meter, be it a host's domain, a chassis or a rack, to minutes: counted, else integrated power.

A reading with a counter is counted, exactly; one without is integrated from power and is an estimate. Nothing here
knows what the meter stands for.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics import buckets, increments
from wattmill_api.accounting.status import COUNTED, COVERED
from wattmill_api.accounting.windows import Window
from wattmill_api.store.rollup import Int64, Samples

SLOWEST_US = 150_000_000  # supplies, racks and halls are often read once a minute: two may be missed


@dataclasses.dataclass(frozen=True, slots=True)
class Minutes:
    """One row for each minute and meter that has an interval in it, int64 [n] a column, sorted by minute and meter.

    `step_mj`: what the counter's values in the minute, and what its rises differ by, are multiples of; -1 where they do
    not differ. It tells a meter that counts in tenths of a kilowatt-hour from one that counts in joules.
    """

    minute_us: Int64
    meter: Int64
    energy_mj: Int64
    estimated_mj: Int64
    covered_us: Int64
    step_mj: Int64

    def take(self, rows: Int64) -> Minutes:
        """Some of the rows."""
        return Minutes(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def minutes(
    samples: Samples,
    counter: str,
    window: Window,
    *,
    per_mj: int,
    gap_us: Int64,
    highest_mw: Int64,
    wrap_at: Int64 | None = None,
) -> Minutes:
    """The minutes of a window, of many meters.

    `counter`: the column that counts, `per_mj` of its units to a millijoule. One a meter, int64 [s]: `gap_us`, beyond
    which the time between two readings is not covered; `highest_mw`, the most the meter can show; `wrap_at`, 0 where
    the counter never wraps. Energy is conserved: inside an epoch the whole millijoules of a counter telescope, whatever
    readings are lost.
    """
    zeros = np.zeros(len(samples.ids), np.int64)
    value = samples[counter]
    has_counter = value >= 0
    common = {
        "time_us": samples["time_us"],
        "epoch": samples["epoch"],
        "epoch_start_us": samples["epoch_start_us"],
        "offsets": samples.offsets,
        "watched_from_us": zeros - 1,
        "gap_us": gap_us,
    }
    by_counter = increments.increments(
        value=value,
        wrap_at=zeros if wrap_at is None else wrap_at,
        highest_per_s=highest_mw * per_mj,
        **common,
    )
    by_power = increments.energy_increments(
        energy_mj=np.where(has_counter, 0, -1),
        power_mw=np.where(has_counter, -1, samples["power_mw"]),
        highest_mw=highest_mw,
        **common,
    )
    # Whole millijoules by the difference of two floors: they telescope inside an epoch, so nothing is lost to rounding.
    whole = np.where(has_counter, value, 0)
    counted = whole // per_mj - (whole - by_counter.delta) // per_mj
    return _booked(
        samples,
        status=np.where(has_counter, by_counter.status, by_power.status),
        start_us=np.where(has_counter, by_counter.start_us, by_power.start_us),
        energy_mj=np.where(has_counter, counted, by_power.delta),
        step_mj=_steps(samples.offsets, whole // per_mj, counted, has_counter & np.isin(by_counter.status, COUNTED)),
        window=window,
    )


def _steps(offsets: Int64, value_mj: Int64, rise_mj: Int64, is_counted: NDArray[np.bool_]) -> Int64:
    """What each value, and the difference of its rise to the rise before, are multiples of; 0 where they are equal."""
    known = is_counted[1:] & is_counted[:-1]
    known[offsets[1:-1] - 1] = False  # two meters
    differ_mj = np.where(known, np.abs(np.diff(rise_mj)), 0)
    return np.concatenate([np.zeros(1, np.int64), np.where(differ_mj > 0, np.gcd(differ_mj, value_mj[1:]), 0)])


def _booked(
    samples: Samples,
    *,
    status: NDArray[np.uint8],
    start_us: Int64,
    energy_mj: Int64,
    step_mj: Int64,
    window: Window,
) -> Minutes:
    rows = np.flatnonzero(
        np.isin(status, COUNTED)
        & (samples["time_us"] > window.first_us)
        & (start_us < window.last_us)
        & (start_us < samples["time_us"])
    )
    parts = buckets.spread(start_us=start_us[rows], end_us=samples["time_us"][rows], amount=energy_mj[rows])
    inside = (parts.bucket_us >= window.first_us) & (parts.bucket_us < window.last_us)
    source = rows[parts.source[inside]]
    meter = np.repeat(samples.ids, np.diff(samples.offsets))
    keys = np.stack([parts.bucket_us[inside], meter[source]], axis=1)
    found, sums = buckets.sum_by_key(
        keys,
        np.stack(
            [
                parts.amount[inside],
                np.where(status[source] == increments.ESTIMATED, parts.amount[inside], 0),
                np.where(np.isin(status[source], COVERED), parts.duration_us[inside], 0),
            ],
            axis=1,
        ),
    )
    row = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)  # in the order of `found`
    steps = np.zeros(len(found), np.int64)
    np.gcd.at(steps, row, step_mj[source])
    steps[steps == 0] = -1
    return Minutes(found[:, 0], found[:, 1], sums[:, 0], sums[:, 1], sums[:, 2], steps)
