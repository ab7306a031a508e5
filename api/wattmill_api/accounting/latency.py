"""Latency histograms: what each bucket counted, minute by minute, under the rules of the token counters.

A bucket is a counter like any other: its increments are exact inside an epoch, a restart begins at zero when its epoch
is known to have begun, a glitch counts for nothing. Histograms come less often than token counters (an agent reads them
every ten seconds), so their intervals reach further: what is rewritten is worked out for each of them anew, from the
sample before the new ones to the sample after.

Not here: targets and shares, which are a question's, not a fact's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics import buckets, increments
from wattmill_api.accounting.counted import TOKENS_PER_S
from wattmill_api.accounting.status import COUNTED
from wattmill_api.accounting.windows import HOUR_US, MINUTE_US, Window, context_us, gap_us, nodes_of
from wattmill_api.store import latency as store
from wattmill_api.store.database import Connection
from wattmill_api.store.latency import Histograms, Reach
from wattmill_api.store.rollup import Fleet, Int64

NEAR_US = 10 * MINUTE_US
Pair = tuple[int, int]  # engine, metric


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """Samples, and the stretch of time in which there are no others."""

    samples: Histograms
    first_us: int
    last_us: int


def close_latencies(connection: Connection, fleet: Fleet, window: Window) -> None:
    """Recompute the latency minutes, and hours, that the samples in a window take part in."""
    ids = store.touched(connection, fleet.engine_ids.tolist(), window.first_us, window.last_us)
    if not ids:
        return
    read = _read(connection, fleet, ids, window.first_us, window.last_us)
    inside = (read.samples.time_us > window.first_us) & (read.samples.time_us <= window.last_us)
    pairs = sorted(set(zip(read.samples.engine_id[inside].tolist(), read.samples.metric[inside].tolist(), strict=True)))
    reaches = _reaches(connection, fleet, read, pairs, window)
    near = [r for r in reaches if window.first_us - r.first_us <= NEAR_US and r.last_us - window.last_us <= NEAR_US]
    if near:
        first, last = min(r.first_us for r in near), max(r.last_us for r in near)
        if (first, last) != (window.first_us, window.last_us):
            read = _read(connection, fleet, sorted({r.engine_id for r in near}), first, last)
        _close(connection, fleet, read, near)
    for reach in reaches:
        if reach not in near:  # one that comes back from a long gap must not make all others read days of samples
            _close(
                connection, fleet, _read(connection, fleet, [reach.engine_id], reach.first_us, reach.last_us), [reach]
            )


def _read(connection: Connection, fleet: Fleet, ids: Sequence[int], first_us: int, last_us: int) -> _Read:
    context = context_us(fleet)
    first, last = first_us - context, last_us + context
    return _Read(store.read_samples(connection, ids, first, last), first, last)


def _reaches(connection: Connection, fleet: Fleet, read: _Read, pairs: Sequence[Pair], window: Window) -> list[Reach]:
    """The whole minutes of each histogram that its samples in the window take part in."""
    befores, afters = _edges(connection, fleet, read, [Reach(*pair, window.first_us, window.last_us) for pair in pairs])
    reaches = []
    for pair, before_us, after_us in zip(pairs, befores, afters, strict=True):
        first = window.first_us if before_us is None else min(before_us, window.first_us)
        last = window.last_us if after_us is None else after_us
        reaches.append(Reach(*pair, first // MINUTE_US * MINUTE_US, -(-last // MINUTE_US) * MINUTE_US))
    return reaches


def _edges(
    connection: Connection, fleet: Fleet, read: _Read, reaches: Sequence[Reach]
) -> tuple[list[int | None], list[int | None]]:
    """For each reach the sample at or before its begin, and the one behind its end.

    Where there is none before, the instant from which its first sample counts.
    """
    node_of = nodes_of(fleet, "engine")
    times = _times_by_pair(read.samples)
    befores: list[int | None] = []
    afters: list[int | None] = []
    for reach in reaches:
        mine = times.get((reach.engine_id, reach.metric), np.zeros(0, np.int64))
        begin, end = np.searchsorted(mine, [reach.first_us, reach.last_us], side="right")
        befores.append(int(mine[begin - 1]) if begin > 0 else None)
        afters.append(int(mine[end]) if end < mine.size else None)
    alone = [i for i, before in enumerate(befores) if before is None]
    found = store.neighbours(connection, "before", [_asked(reaches[i], reaches[i].first_us) for i in alone])
    for n, i in enumerate(alone):
        befores[i] = found.get(n)
    # A node that has sent nothing newer has no sample behind the window: nothing to look for, which is the normal case.
    alone = [
        i
        for i, after in enumerate(afters)
        if after is None and fleet.nodes[node_of[reaches[i].engine_id]].last_seen_us > reaches[i].last_us
    ]
    found = store.neighbours(connection, "after", [_asked(reaches[i], reaches[i].last_us) for i in alone])
    for n, i in enumerate(alone):
        afters[i] = found.get(n)
    first_ever = [i for i, before in enumerate(befores) if before is None]
    begins = _begins(connection, fleet, read.samples, [(reaches[i].engine_id, reaches[i].metric) for i in first_ever])
    for i in first_ever:
        befores[i] = begins.get((reaches[i].engine_id, reaches[i].metric))
    return befores, afters


def _asked(reach: Reach, at_us: int) -> tuple[int, int, int]:
    return reach.engine_id, reach.metric, at_us


def _times_by_pair(samples: Histograms) -> dict[Pair, Int64]:
    pair = np.stack([samples.engine_id, samples.metric], axis=1)
    cuts = np.flatnonzero((pair[1:] != pair[:-1]).any(axis=1)) + 1
    begins = [0, *cuts.tolist()] if samples.rows else []
    parts = np.split(samples.time_us, cuts)
    return {(int(pair[b, 0]), int(pair[b, 1])): part for b, part in zip(begins, parts, strict=False)}


def _begins(connection: Connection, fleet: Fleet, samples: Histograms, pairs: Sequence[Pair]) -> dict[Pair, int]:
    """From when the first sample ever of these histograms counts, if it counts from zero."""
    node_of = nodes_of(fleet, "engine")
    wanted = set(pairs)
    first: dict[Pair, int] = {}
    for row, pair in enumerate(zip(samples.engine_id.tolist(), samples.metric.tolist(), strict=True)):
        if pair in wanted:
            first.setdefault(pair, row)
    idle = store.idle_before(connection, samples, list(first.values()))
    found = {}
    for pair, row in first.items():
        start_us = int(samples.epoch_start_us[row])
        if row in idle:
            found[pair] = idle[row]
        elif fleet.nodes[node_of[pair[0]]].first_seen_us < start_us <= samples.time_us[row]:
            found[pair] = start_us
    return found


def _close(connection: Connection, fleet: Fleet, read: _Read, reaches: Sequence[Reach]) -> None:
    """Write the minutes of these reaches, and the hours they are in."""
    samples = _far_edges(connection, fleet, read, reaches)
    keys, offsets, counts = latency_minutes(_with_idle_starts(connection, samples, reaches), fleet, reaches)
    store.clear_minutes(connection, reaches)
    store.write(connection, "minutes", keys, offsets, counts)
    first = min(r.first_us for r in reaches) // HOUR_US * HOUR_US
    last = -(-max(r.last_us for r in reaches) // HOUR_US) * HOUR_US
    ids = sorted({r.engine_id for r in reaches})
    minutes = store.read_minutes(connection, ids, first, last)
    store.clear_hours(connection, ids, first, last)
    store.write(connection, "hours", *sums(minutes, HOUR_US))


def _far_edges(connection: Connection, fleet: Fleet, read: _Read, reaches: Sequence[Reach]) -> Histograms:
    """The samples, and from beyond them those that intervals across the edges of the reaches begin or end at."""
    befores, afters = _edges(connection, fleet, read, reaches)
    beyond = {
        (reach.engine_id, at)
        for reach, *edges in zip(reaches, befores, afters, strict=True)
        for at in edges
        if at is not None and not read.first_us <= at <= read.last_us
    }
    parts = [read.samples] + [store.read_samples(connection, [id_], at, at) for id_, at in sorted(beyond)]
    return _joined(parts)


def _joined(parts: Sequence[Histograms]) -> Histograms:
    """All rows, sorted by engine, metric and time."""
    if len(parts) == 1:
        return parts[0]
    names = [f.name for f in dataclasses.fields(Histograms) if f.name != "offsets"]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    whole = Histograms(**columns, offsets=np.concatenate([[0], np.cumsum(sizes)]))
    return whole.take(np.lexsort((whole.time_us, whole.metric, whole.engine_id)))


def _with_idle_starts(connection: Connection, samples: Histograms, reaches: Sequence[Reach]) -> Histograms:
    """Give a histogram that a process shows late its zero, at the last reading before that process made a token.

    SGLang and TGI print a histogram only once it has counted. The page without it was read and understood.
    """
    firsts, lasts = _limits(samples, reaches)
    late = _begins_epoch(samples) & (samples.epoch != 0) & (samples.time_us > firsts) & (lasts > 0)
    idle = store.idle_before(connection, samples, np.flatnonzero(late).tolist())
    if not idle:
        return samples
    zeros = samples.take(np.array(list(idle), np.int64))
    times = np.array(list(idle.values()), np.int64)
    return _joined([samples, dataclasses.replace(zeros, time_us=times, counts=np.zeros_like(zeros.counts))])


def _begins_epoch(samples: Histograms) -> NDArray[np.bool_]:
    """Which rows are the first of their histogram here, or the first of another epoch of it."""
    begins = np.ones(samples.rows, bool)
    columns = np.stack([samples.engine_id, samples.metric, samples.epoch], axis=1)
    begins[1:] = (columns[1:] != columns[:-1]).any(axis=1)
    return begins


def latency_minutes(samples: Histograms, fleet: Fleet, reaches: Sequence[Reach]) -> tuple[Int64, Int64, Int64]:
    """Minutes of histograms: keys [n, 6] = time_us, engine, metric, bounds, placement, node, and counts in CSR.

    `samples`: sorted by engine, metric and time. Only minutes in the reaches; only those in which anything was counted.
    """
    node_of = nodes_of(fleet, "engine")
    wanted = {(r.engine_id, r.metric) for r in reaches}
    epoch, epoch_start_us = _epochs(samples)
    begins = _begins_epoch(samples)
    order = np.lexsort((samples.time_us, samples.bounds_id, samples.metric, samples.engine_id))
    ids = np.stack([samples.engine_id, samples.metric, samples.bounds_id], axis=1)[order]
    cuts = np.concatenate([[0], np.flatnonzero((ids[1:] != ids[:-1]).any(axis=1)) + 1, [samples.rows]])
    series = [order[a:b] for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True) if b > a]
    series = [rows for rows in series if (int(samples.engine_id[rows[0]]), int(samples.metric[rows[0]])) in wanted]
    sizes = [int(samples.offsets[rows[0] + 1] - samples.offsets[rows[0]]) for rows in series]
    values = [_buckets(samples, rows, size) for rows, size in zip(series, sizes, strict=True)]
    nodes = [fleet.nodes[node_of[int(samples.engine_id[rows[0]])]] for rows in series]
    # A series that goes on from other bounds in one epoch was counted under those: it begins with a baseline.
    watched = [n.first_seen_us if begins[r[0]] else -1 for n, r in zip(nodes, series, strict=True)]
    row = np.concatenate([np.zeros(0, np.int64), *(np.tile(r, size) for r, size in zip(series, sizes, strict=True))])
    lengths = np.repeat([len(rows) for rows in series], sizes).astype(np.int64)
    found = increments.increments(
        time_us=samples.time_us[row],
        value=np.concatenate([np.zeros(0, np.int64), *values]),
        epoch=epoch[row],
        epoch_start_us=epoch_start_us[row],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        watched_from_us=np.repeat(watched, sizes).astype(np.int64),
        gap_us=np.repeat([gap_us(n.interval_us) for n in nodes], sizes).astype(np.int64),
        wrap_at=np.zeros(lengths.size, np.int64),
        highest_per_s=np.full(lengths.size, TOKENS_PER_S, np.int64),
    )
    some = np.flatnonzero(np.isin(found.status, COUNTED) & (found.delta > 0))
    parts = buckets.spread(start_us=found.start_us[some], end_us=samples.time_us[row[some]], amount=found.delta[some])
    source = row[some[parts.source]]
    firsts, lasts = _limits(samples, reaches)
    kept = (parts.bucket_us >= firsts[source]) & (parts.bucket_us < lasts[source])
    source = source[kept]
    bucket = np.concatenate(
        [np.zeros(0, np.int64), *(np.repeat(np.arange(k), len(r)) for r, k in zip(series, sizes, strict=True))]
    )
    node = np.array([node_of[id_] for id_ in samples.engine_id[source].tolist()], np.int64)
    keys = np.stack(
        [
            parts.bucket_us[kept],
            samples.engine_id[source],
            samples.metric[source],
            samples.bounds_id[source],
            samples.placement_id[source],
            node,
        ],
        axis=1,
    )
    size = np.diff(samples.offsets)[source]
    return _summed(keys, size, bucket[some[parts.source[kept]]], parts.amount[kept])


def _epochs(samples: Histograms) -> tuple[Int64, Int64]:
    """Epochs with the restarts that only the common fall of an engine's totals betrays.

    Where there is no evidence at all, the totals are it: what they do not give away is one epoch, even for a bucket
    that a new process has filled above where the old one left it.
    """
    pair = np.stack([samples.engine_id, samples.metric], axis=1)
    cuts = np.concatenate([[0], np.flatnonzero((pair[1:] != pair[:-1]).any(axis=1)) + 1, [samples.rows]])
    offsets = np.unique(cuts).astype(np.int64)
    group = samples.engine_id[offsets[:-1]]
    epoch, epoch_start_us = increments.infer_restarts(
        time_us=samples.time_us,
        value=samples.counts[samples.offsets[1:] - 1],
        epoch=samples.epoch,
        epoch_start_us=samples.epoch_start_us,
        offsets=offsets,
        group=group,
        highest_per_s=np.full(group.size, TOKENS_PER_S, np.int64),
    )
    without = np.maximum.reduceat(samples.epoch != 0, offsets[:-1]) == 0
    return np.where(np.repeat(without, np.diff(offsets)) & (epoch == 0), 1, epoch), epoch_start_us


def _buckets(samples: Histograms, rows: Int64, size: int) -> Int64:
    """Counts of one series, bucket after bucket, no longer cumulative over bounds."""
    cumulative = samples.counts[samples.offsets[rows][:, np.newaxis] + np.arange(size)]
    return np.ascontiguousarray(np.diff(cumulative, axis=1, prepend=0).T).reshape(-1)


def _limits(samples: Histograms, reaches: Iterable[Reach]) -> tuple[Int64, Int64]:
    """Of each row the begin and end of its histogram's reach; 0 and 0 without one."""
    reach_of = {(r.engine_id, r.metric): r for r in reaches}
    none = Reach(0, 0, 0, 0)
    mine = [reach_of.get(pair, none) for pair in zip(samples.engine_id.tolist(), samples.metric.tolist(), strict=True)]
    return np.array([r.first_us for r in mine], np.int64), np.array([r.last_us for r in mine], np.int64)


def sums(minutes: Histograms, length_us: int) -> tuple[Int64, Int64, Int64]:
    """Longer buckets of time out of minutes; keys, offsets and counts as of `latency_minutes`."""
    time_us = minutes.time_us // length_us * length_us
    keys = np.stack(
        [time_us, minutes.engine_id, minutes.metric, minutes.bounds_id, minutes.placement_id, minutes.epoch], axis=1
    )
    sizes = np.diff(minutes.offsets)
    row = np.repeat(np.arange(minutes.rows), sizes)
    bucket = np.arange(minutes.counts.size) - np.repeat(minutes.offsets[:-1], sizes)
    return _summed(keys[row], sizes[row], bucket, minutes.counts)


def _summed(keys: Int64, size: Int64, bucket: Int64, amount: Int64) -> tuple[Int64, Int64, Int64]:
    """Sums by key and bucket as rows of `size` counts each."""
    table = np.concatenate([keys, size[:, np.newaxis], bucket[:, np.newaxis]], axis=1)
    unique, total = buckets.sum_by_key(table, amount[:, np.newaxis])
    begins = np.ones(unique.shape[0], bool)
    begins[1:] = (unique[1:, :-1] != unique[:-1, :-1]).any(axis=1)
    rows = unique[begins]
    offsets = np.concatenate([[0], np.cumsum(rows[:, -2])]).astype(np.int64)
    counts = np.zeros(int(offsets[-1]), np.int64)
    counts[offsets[np.cumsum(begins) - 1] + unique[:, -1]] = total[:, 0]
    return rows[:, :-2], offsets, counts
