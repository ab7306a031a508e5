"""The host: energy of its packages and memory per minute, the overhead around the boards."""

from __future__ import annotations

import numpy as np

from wattmill_analytics import buckets, increments
from wattmill_api.accounting.status import COUNTED, COVERED
from wattmill_api.accounting.windows import Window, gap_us, ids_of, read
from wattmill_api.store import rollup
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Fleet, MinuteTable, Samples

HOST_UW = 1_200_000_000  # 1.2 kW in microwatts: above any package, and slow enough to tell one wrap from two


def host_minutes(connection: Connection, fleet: Fleet, window: Window) -> list[MinuteTable]:
    """One table per energy domain: counted in the counter's microjoules, stored in whole millijoules."""
    ids = ids_of(fleet, "host").tolist()
    domains = rollup.host_domains(connection, ids, window.read_from_us, window.read_to_us)
    return [_host_minute(read(connection, "host", fleet, window, domain), domain, fleet, window) for domain in domains]


def _host_minute(samples: Samples, domain: str, fleet: Fleet, window: Window) -> MinuteTable:
    gap = np.array([gap_us(fleet.nodes[id_].interval_us) for id_ in samples.ids.tolist()], np.int64)
    unwatched = np.full(len(samples.ids), -1, np.int64)
    common = {
        "time_us": samples["time_us"],
        "epoch": samples["epoch"],
        # A host counter may wrap between boot and the agent's first look: then nobody knows what it counted.
        "epoch_start_us": np.where(samples["energy_range_uj"] > 0, -1, samples["epoch_start_us"]),
        "offsets": samples.offsets,
        "watched_from_us": unwatched,
        "gap_us": gap,
    }
    counter = increments.increments(
        value=samples["energy_uj"],
        wrap_at=samples["energy_range_uj"][samples.offsets[:-1]],
        highest_per_s=np.full(len(samples.ids), HOST_UW, np.int64),
        **common,
    )
    meterless = np.full(samples.count, -1, np.int64)
    by_power = increments.energy_increments(
        energy_mj=np.where(samples["energy_uj"] >= 0, 0, meterless),
        power_mw=np.where(samples["energy_uj"] >= 0, -1, samples["power_mw"]),
        highest_mw=np.full(len(samples.ids), HOST_UW // 1000, np.int64),
        **common,
    )
    has_counter = samples["energy_uj"] >= 0
    status = np.where(has_counter, counter.status, by_power.status)
    start = np.where(has_counter, counter.start_us, by_power.start_us)
    # Whole millijoules by the difference of two floors: they telescope inside an epoch, so nothing is lost to rounding.
    value = np.where(has_counter, samples["energy_uj"], 0)
    energy = np.where(has_counter, value // 1000 - (value - counter.delta) // 1000, by_power.delta)
    rows = np.flatnonzero(
        np.isin(status, COUNTED)
        & (samples["time_us"] > window.first_us)
        & (start < window.last_us)
        & (start < samples["time_us"])
    )
    parts = buckets.spread(start_us=start[rows], end_us=samples["time_us"][rows], amount=energy[rows])
    inside = (parts.bucket_us >= window.first_us) & (parts.bucket_us < window.last_us)
    source = rows[parts.source[inside]]
    node = np.repeat(samples.ids, np.diff(samples.offsets))
    keys, sums = buckets.sum_by_key(
        np.stack([parts.bucket_us[inside], node[source]], axis=1),
        np.stack(
            [
                parts.amount[inside],
                np.where(status[source] == increments.ESTIMATED, parts.amount[inside], 0),
                np.where(np.isin(status[source], COVERED), parts.duration_us[inside], 0),
            ],
            axis=1,
        ),
    )
    return MinuteTable(
        "host_minute",
        ("int8", "int4", "text", "int8", "int8", "int8"),
        [keys[:, 0], keys[:, 1], [domain] * len(keys), sums[:, 0], sums[:, 1], sums[:, 2]],
    )
