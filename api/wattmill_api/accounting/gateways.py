"""Gateways: what each consumer drew, minute by minute, under the rules of the engines' token counters.

Increments are exact inside an epoch, a restart begins at zero when its epoch is known to have begun, a glitch counts
for nothing. A gateway counts when a request ends, so its minutes lag behind the engines'. None of this is ever added to
the ledger.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from wattmill_analytics import buckets
from wattmill_api.accounting.counted import count
from wattmill_api.accounting.windows import MINUTE_US, Window
from wattmill_api.store import gateways as store
from wattmill_api.store.database import Connection
from wattmill_api.store.gateways import COUNTERS, Reach
from wattmill_api.store.rollup import Fleet, Int64, Samples

BEFORE, BEHIND = 5, 2  # readings that judge the first and the last one of a stretch
GAP_US = 1_800_000_000  # a consumer at rest is read every ten minutes


def close_gateways(connection: Connection, fleet: Fleet, window: Window) -> None:
    """Recompute the minutes and hours of the consumers that were read in a window, as far as those readings reach."""
    nodes = sorted(fleet.nodes)
    ids = store.touched(connection, nodes, window.first_us, window.last_us)
    if not ids:
        return
    samples = store.read_samples(connection, ids, window.first_us, window.last_us, before=BEFORE, behind=BEHIND)
    seen_us = {node_id: node.first_seen_us for node_id, node in fleet.nodes.items()}
    start_us, moved = _increments(_with_late_counters(samples), window, seen_us)
    reaches = _reaches(samples, start_us, window)
    store.replace_minutes(connection, reaches, *_minutes(samples, start_us, moved, reaches))


def _with_late_counters(samples: Samples) -> Samples:
    """Give a counter that comes late the 0 at which it stood: the page without it was read and understood."""
    columns = dict(samples.integers)
    for name in COUNTERS:
        values = columns[name]
        late = (values[1:] >= 0) & (values[:-1] < 0) & (samples["epoch"][1:] == samples["epoch"][:-1])
        late[samples.offsets[1:-1] - 1] = False
        for row in np.flatnonzero(late).tolist():
            series = int(np.searchsorted(samples.offsets, row, side="right")) - 1
            if (values[samples.offsets[series] : row] < 0).all():
                columns[name] = columns[name].copy()
                columns[name][row] = 0
    return dataclasses.replace(samples, integers=columns)


def _increments(samples: Samples, window: Window, seen_us: dict[int, int]) -> tuple[Int64, dict[str, Int64]]:
    """When the interval that each reading ends began, -1 for none, and what each counter moved in it, -1 unknown."""
    time_us = samples["time_us"]
    watched = np.full(len(samples.ids), -1, np.int64)
    for i, (first, end) in enumerate(zip(samples.offsets[:-1].tolist(), samples.offsets[1:].tolist(), strict=True)):
        # With fewer before the window than were asked for, the first of them is its first ever.
        if np.count_nonzero(time_us[first:end] <= window.first_us) < BEFORE:
            watched[i] = seen_us.get(int(samples["node_id"][first]), -1)
    # A total that an agent began anew in between starts at its own reading before, a microsecond ahead of its epoch.
    found = count(
        samples,
        COUNTERS,
        watched_from_us=watched,
        gap_us=np.full(len(samples.ids), GAP_US, np.int64),
        begun_before_start_us=1,
    )
    return found.start_us, found.moved


def _reaches(samples: Samples, start_us: Int64, window: Window) -> list[Reach]:
    """Of each consumer the whole minutes that its readings in the window take part in."""
    reaches = []
    for i, client_id in enumerate(samples.ids.tolist()):
        rows = slice(int(samples.offsets[i]), int(samples.offsets[i + 1]))
        times, starts = samples["time_us"][rows], start_us[rows]
        begin, end = np.searchsorted(times, [window.first_us, window.last_us], side="right").tolist()
        first = min([window.first_us, *(s for s in starts[begin : end + 1].tolist() if s >= 0)])
        if begin > 0:  # a fall that was read last is judged by the reading after it
            first = min(first, int(times[max(begin - 2, 0)]))
        last = max(window.last_us, int(times[end])) if end < times.size else window.last_us
        reaches.append(Reach(client_id, first // MINUTE_US * MINUTE_US, -(-last // MINUTE_US) * MINUTE_US))
    return reaches


def _minutes(samples: Samples, start_us: Int64, moved: dict[str, Int64], reaches: list[Reach]) -> tuple[Int64, Int64]:
    """Minutes in the reaches where anything moved: keys [n, 3] = time_us, consumer, node; values [n, 4], -1 unknown."""
    lengths = np.diff(samples.offsets)
    first_us = np.repeat(np.array([r.first_us for r in reaches], np.int64), lengths)
    last_us = np.repeat(np.array([r.last_us for r in reaches], np.int64), lengths)
    some = np.zeros(samples.count, bool)
    for amounts in moved.values():
        some |= amounts > 0
    keys, values = [np.zeros((0, 3), np.int64)], [np.zeros((0, 2 * len(COUNTERS)), np.int64)]
    for column, name in enumerate(COUNTERS):
        rows = np.flatnonzero((start_us >= 0) & some & (moved[name] >= 0))
        parts = buckets.spread(start_us=start_us[rows], end_us=samples["time_us"][rows], amount=moved[name][rows])
        source = rows[parts.source]
        kept = (parts.bucket_us >= first_us[source]) & (parts.bucket_us < last_us[source])
        source = source[kept]
        table = np.zeros((len(source), 2 * len(COUNTERS)), np.int64)
        table[:, 2 * column], table[:, 2 * column + 1] = parts.amount[kept], 1
        keys.append(np.stack([parts.bucket_us[kept], samples["id"][source], samples["node_id"][source]], axis=1))
        values.append(table)
    key, sums = buckets.sum_by_key(np.concatenate(keys), np.concatenate(values))
    return key, np.where(sums[:, 1::2] > 0, sums[:, ::2], -1)
