"""Power meters of racks and halls, and the chassis of nodes: their minutes and hours, beside the ledger.

A meter has no owner: whichever nodes read it, its minutes are made of all its readings. How far a run reaches is
worked out for each meter anew: from two readings before the new ones to two after, so that any order of arrival ends
with the same minutes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from wattmill_analytics import increments
from wattmill_api.accounting.metered import SLOWEST_US, Minutes, minutes
from wattmill_api.accounting.windows import MINUTE_US, Window, gap_us
from wattmill_api.store import meters as store
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Samples

# The most that is believed: 20 MW of a rack or node, 20 GW of a hall or site.
RACK_MW, FACILITY_MW = 20_000_000_000, 20_000_000_000_000


def close_meters(connection: Connection, window: Window, chassis: Minutes) -> None:
    """Recompute the minutes of the meters that the window's nodes read; `chassis`: minutes by node, made already."""
    _close_chassis(connection, window, chassis)
    together: dict[tuple[int, int], list[int]] = {}
    for each in store.touched(connection, window.node_ids, window.first_us, window.last_us):
        first_us = window.first_us if each.before_us is None else min(window.first_us, each.before_us)
        last_us = window.last_us if each.after_us is None else each.after_us
        reach = (first_us // MINUTE_US * MINUTE_US, -(-last_us // MINUTE_US) * MINUTE_US)
        together.setdefault(reach, []).append(each.meter_id)
    for (first_us, last_us), ids in together.items():
        samples = store.read_samples(connection, ids, first_us, last_us)
        _write(connection, ids, first_us, last_us, _minutes(samples, Window((), first_us, last_us)))


def _minutes(samples: Samples, window: Window) -> Minutes:
    begins = samples.offsets[:-1]
    highest = np.where(samples["is_facility"][begins] > 0, FACILITY_MW, RACK_MW)
    longest = np.maximum.reduceat(samples["interval_us"], begins) if samples.count else begins
    # A counter that fell and goes on from there was reset; one that fell once was misread.
    epoch, epoch_start_us = increments.infer_restarts(
        time_us=samples["time_us"],
        value=samples["energy_mj"],
        epoch=samples["epoch"],
        epoch_start_us=samples["epoch_start_us"],
        offsets=samples.offsets,
        group=np.arange(len(samples.ids), dtype=np.int64),
        highest_per_s=highest,
    )
    integers = {**samples.integers, "epoch": epoch, "epoch_start_us": epoch_start_us}
    return minutes(
        Samples(samples.ids, samples.offsets, integers, samples.ratios),
        "energy_mj",
        window,
        per_mj=1,
        gap_us=np.array([max(gap_us(interval), SLOWEST_US) for interval in longest.tolist()], np.int64),
        highest_mw=highest,
    )


def _close_chassis(connection: Connection, window: Window, chassis: Minutes) -> None:
    meters = store.chassis_meters(connection, window.node_ids)
    if not meters:
        return
    ids = np.array([meters[node_id] for node_id in chassis.meter.tolist()], np.int64)
    named = dataclasses.replace(chassis, meter=ids)
    _write(connection, sorted(meters.values()), window.first_us, window.last_us, named)


def _write(connection: Connection, ids: Sequence[int], first_us: int, last_us: int, found: Minutes) -> None:
    store.replace_minutes(
        connection, ids, first_us, last_us, [getattr(found, field.name) for field in dataclasses.fields(found)]
    )
