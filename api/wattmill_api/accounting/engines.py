"""Engines: what their counters moved in each interval, whether they worked, and their minutes.

An engine holds its boards from one sample to the next. Its counters prove it, over a gap too. Where a page shows none,
or a worker has none, two samples prove it that are no gap apart, or that are of one process.

What an engine works is told by the first of these that is known: its token counters and its running requests; finished
requests; the activity of its kernels; and, for one whose page says nothing, whether its board was busy
(`EngineIntervals.silent`, settled board by board). A worker works while its activity is above 0. Activity alone never
makes an engine active whose page says that it rests.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics import buckets, increments
from wattmill_api.accounting.counted import count
from wattmill_api.accounting.gauges import mean, ppm
from wattmill_api.accounting.status import COVERED
from wattmill_api.accounting.windows import HOUR_US, Window, gap_us, minute_of_sample, nodes_of
from wattmill_api.store import rollup
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Fleet, Held, Int64, MinuteTable, Samples

TOKEN_COUNTERS = ("input_tokens", "cached_input_tokens", "computed_input_tokens", "output_tokens")
LATE_COUNTERS = (*TOKEN_COUNTERS, "requests_finished", "preemptions")
DRAFT_COUNTERS = ("draft_tokens", "accepted_draft_tokens")
ENGINE_COUNTERS = (*LATE_COUNTERS, *DRAFT_COUNTERS)
# Input of a decode engine was computed, and counted, by its prefill engine, which in turn makes but one token of
# output. What passes through a front end is counted by the engines behind it.
NOT_ITS_OWN = {
    "prefill": frozenset({"output_tokens"}),
    "decode": frozenset({"input_tokens", "cached_input_tokens", "computed_input_tokens"}),
    "frontend": frozenset(TOKEN_COUNTERS),
    "worker": frozenset(TOKEN_COUNTERS),
}


def with_late_counters(connection: Connection, samples: Samples) -> Samples:
    """Give a counter that comes late, or comes back, the value it stood at in the sample before.

    TGI and SGLang print a token counter only once it has counted. The page without it was read and understood, in the
    same process: so it stood at 0, and its first value is all its own. One that this process had shown before, and
    that went missing for a while, goes on from where it was. The columns `bare` and `tokenless` are 1 where the page
    had no counter at all, and none of tokens.
    """
    columns = dict(samples.integers)
    for column, names in (("bare", ENGINE_COUNTERS), ("tokenless", TOKEN_COUNTERS)):
        columns[column] = np.all([samples[name] < 0 for name in names], axis=0).astype(np.int64)
    for i, id_ in enumerate(samples.ids.tolist()):
        first, end = int(samples.offsets[i]), int(samples.offsets[i + 1])
        for name in LATE_COUNTERS:
            shown = np.flatnonzero(samples[name][first:end] >= 0)
            row = first + int(shown[0]) - 1 if shown.size else -1
            if row < first or samples["epoch"][row] != samples["epoch"][row + 1]:
                continue
            at_us, epoch = int(samples["time_us"][row]), int(samples["epoch"][row])
            stood_at = rollup.last_counted(connection, id_, name, epoch, at_us, at_us - 24 * HOUR_US)
            columns[name] = columns[name].copy()
            columns[name][row] = 0 if stood_at is None else stood_at
    return dataclasses.replace(samples, integers=columns)


@dataclasses.dataclass(frozen=True, slots=True)
class EngineIntervals:
    """One entry per engine sample: the interval it ends, what moved in it, and whether the engine worked.

    `start_us`: of what its counters moved, -1 where the sample ends no interval of theirs. `held_from_us`: since when
    it has held its boards, -1 where that is not known. `moved[c]` int64: exact increment of counter c, -1 unknown.
    `silent`: nothing on the page says whether it worked.
    """

    samples: Samples
    start_us: Int64
    held_from_us: Int64
    moved: dict[str, Int64]
    anomalies: Int64
    active: NDArray[np.bool_]
    silent: NDArray[np.bool_]
    covered: NDArray[np.bool_]

    def own(self, name: str, fleet: Fleet) -> Int64:
        """What of a counter's increments is this engine's to account for; -1 unknown, or another one's."""
        roles = {role for role, names in NOT_ITS_OWN.items() if name in names}
        return np.where(_has_role(self.samples, fleet, roles), -1, self.moved[name])


def _has_role(samples: Samples, fleet: Fleet, roles: set[str]) -> NDArray[np.bool_]:
    """Which samples are of placements with one of these roles."""
    placements = [id_ for id_, held in fleet.placements.items() if held.role in roles]
    return np.isin(samples["placement_id"], placements) if placements else np.zeros(samples.count, bool)


def held_by(fleet: Fleet, placement_id: int) -> Held:
    """What a placement holds; nothing for one that is not known."""
    return fleet.placements.get(placement_id, NOTHING)


NOTHING = Held((), (), "")


def engine_intervals(samples: Samples, fleet: Fleet) -> EngineIntervals:
    n = samples.count
    counters = (*LATE_COUNTERS, *(name for name in DRAFT_COUNTERS if (samples[name] >= 0).any()))
    node_of = nodes_of(fleet, "engine")
    nodes = [fleet.nodes[node_of[id_]] for id_ in samples.ids.tolist()]
    first_seen = dict(zip(fleet.engine_ids.tolist(), fleet.engine_first_seen_us.tolist(), strict=True))
    time_us = samples["time_us"]
    # A sample that is not the engine's first ever is only a baseline: what came before it was counted before.
    watched = np.array(
        [
            node.first_seen_us if time_us[samples.offsets[i]] <= first_seen[id_] else -1
            for i, (id_, node) in enumerate(zip(samples.ids.tolist(), nodes, strict=True))
        ],
        np.int64,
    )
    gap = np.array([gap_us(node.interval_us) for node in nodes], np.int64)
    counted = count(samples, counters, watched_from_us=watched, gap_us=gap)
    start_us, status = counted.start_us, counted.status
    moved = dict.fromkeys(ENGINE_COUNTERS, np.full(n, -1, np.int64)) | counted.moved
    running = samples["requests_running"]
    ran_before = np.zeros(n, bool)
    ran_before[1:] = (running[:-1] > 0) & (samples["epoch"][1:] == samples["epoch"][:-1])
    ran_before[samples.offsets[:-1]] = False
    active = (running > 0) | ran_before
    for name in TOKEN_COUNTERS:
        active |= moved[name] > 0
    tokenless, activity = samples["tokenless"] > 0, samples["activity_ppm"]
    active |= tokenless & ((moved["requests_finished"] > 0) | ((running < 0) & (activity > 0)))
    held_from_us, near = _held_from(samples, start_us, np.repeat(gap, np.diff(samples.offsets)))
    is_worker = _has_role(samples, fleet, {"worker"})
    return EngineIntervals(
        samples=samples,
        start_us=start_us,
        held_from_us=held_from_us,
        moved=moved,
        anomalies=(status == increments.ANOMALY).any(axis=0).astype(np.int64) if n else np.zeros(0, np.int64),
        active=np.where(is_worker, activity > 0, active),
        silent=tokenless & ~active & (running < 0) & (activity < 0) & ~is_worker,
        covered=np.where(start_us >= 0, np.asarray(np.isin(status, COVERED).any(axis=0), bool), near),
    )


def _held_from(samples: Samples, start_us: Int64, gap: Int64) -> tuple[Int64, NDArray[np.bool_]]:
    """Since when each sample's engine has held its boards, and where two samples that are no gap apart say so."""
    n = samples.count
    time_us, epoch, began_us = samples["time_us"], samples["epoch"], samples["epoch_start_us"]
    before_us, same = np.full(n, -1, np.int64), np.zeros(n, bool)
    before_us[1:] = time_us[:-1]
    same[1:] = (epoch[1:] == epoch[:-1]) & (epoch[1:] != 0)
    firsts = samples.offsets[:-1]
    before_us[firsts] = -1
    near = (before_us >= 0) & (time_us - before_us <= gap)
    bare = (start_us < 0) & (samples["bare"] > 0) & (near | (same & (before_us >= 0)))
    # A process that began in between has held them from then on.
    began_us = np.where(~same & (began_us > before_us) & (began_us < time_us), began_us, before_us)
    held_from_us = np.where(bare, began_us, start_us)
    # Counters that come back span samples without them, which hold their own time already.
    held_before = np.zeros(n, bool)
    held_before[1:] = held_from_us[:-1] >= 0
    held_before[firsts] = False
    return np.where((start_us >= 0) & held_before, np.maximum(held_from_us, before_us), held_from_us), near & bare


def engine_minutes(engines: EngineIntervals, fleet: Fleet, window: Window) -> MinuteTable:
    samples = engines.samples
    engine = np.repeat(np.arange(len(samples.ids)), np.diff(samples.offsets))
    node_of = nodes_of(fleet, "engine")
    width = 2 * len(ENGINE_COUNTERS) + 2 + 8
    keys, values = [np.zeros((0, 3), np.int64)], [np.zeros((0, width), np.int64)]
    for column, name in enumerate((*ENGINE_COUNTERS, "")):
        moved = engines.moved[name] if name else np.zeros(samples.count, np.int64)
        start_us = engines.start_us if name else engines.held_from_us
        rows = np.flatnonzero(
            (start_us >= 0) & (moved >= 0) & (samples["time_us"] > window.first_us) & (start_us < window.last_us)
        )
        parts = buckets.spread(start_us=start_us[rows], end_us=samples["time_us"][rows], amount=moved[rows])
        inside = (parts.bucket_us >= window.first_us) & (parts.bucket_us < window.last_us)
        source = rows[parts.source[inside]]
        table = np.zeros((len(source), width), np.int64)
        if name:
            table[:, 2 * column], table[:, 2 * column + 1] = parts.amount[inside], 1
        else:
            table[:, 2 * column] = np.where(engines.covered[source], parts.duration_us[inside], 0)
        keys.append(np.stack([parts.bucket_us[inside], engine[source], samples["placement_id"][source]], axis=1))
        values.append(table)
    rows = np.flatnonzero((samples["time_us"] > window.first_us) & (samples["time_us"] <= window.last_us))
    table = np.zeros((len(rows), width), np.int64)
    table[:, 2 * len(ENGINE_COUNTERS) + 1] = engines.anomalies[rows]
    gauges = (
        *(samples["requests_running"], samples["requests_waiting"]),
        *(ppm(samples.ratios["kv_cache_usage_ratio"]), samples["activity_ppm"]),
    )
    for i, gauge in enumerate(gauges):
        at = 2 * len(ENGINE_COUNTERS) + 2 + 2 * i
        table[:, at], table[:, at + 1] = np.where(gauge[rows] >= 0, gauge[rows], 0), gauge[rows] >= 0
    minute = minute_of_sample(samples["time_us"][rows])
    keys.append(np.stack([minute, engine[rows], samples["placement_id"][rows]], axis=1))
    values.append(table)
    key, sums = buckets.sum_by_key(np.concatenate(keys), np.concatenate(values))
    at = 2 * len(ENGINE_COUNTERS)
    return MinuteTable(
        "engine_minute",
        (
            "int8",
            "int4",
            "int4",
            "int4",
            *("int8",) * len(ENGINE_COUNTERS),
            "int8",
            "int4",
            *("float4",) * len(gauges),
        ),
        [
            *(key[:, 0], samples.ids[key[:, 1]]),
            np.array([node_of[id_] for id_ in samples.ids[key[:, 1]].tolist()], np.int64),
            key[:, 2],
            *(np.where(sums[:, 2 * c + 1] > 0, sums[:, 2 * c], -1) for c in range(len(ENGINE_COUNTERS))),
            *(sums[:, at], sums[:, at + 1]),
            *(mean(sums[:, at + 2], sums[:, at + 3]), mean(sums[:, at + 4], sums[:, at + 5])),
            *(mean(sums[:, at + 6], sums[:, at + 7], 1e6), mean(sums[:, at + 8], sums[:, at + 9], 1e6)),
        ],
    )
