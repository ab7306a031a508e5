"""Learns curves from closed minutes, hour by hour: what a token costs at a load, by model, boards and version.

An hour of a family (engines alike but for their version) is counted anew, whole, whenever its ledger or the findings in
it changed; days are sums of hours. Minutes inside findings that make tokens dear are left out, so that an incident
doesn't become the measure it is judged by. Promises: a run ends soon after `most_seconds`, what is left comes first in
the next; a day and its hours change in one transaction. Data that come more than 14 days late teach nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from wattmill_analytics.curve_counts import SETTLING_MINUTES, Counts, learn, of_row
from wattmill_analytics.curves import Int64
from wattmill_analytics.steady_load import FARTHEST_MINUTES, steady_load
from wattmill_api.store import curves as store
from wattmill_api.store.curves import Placement
from wattmill_api.store.database import Connection

HOUR, DAY, MINUTE = dt.timedelta(hours=1), dt.timedelta(days=1), dt.timedelta(minutes=1)
# What a replica costs while one of these goes on is not what its load costs.
MISLEADING_KINDS = ("kv-thrash", "regression", "spin-idle", "straggler", "telemetry-untrusted", "throttled")
# A regression without a cause may be a mistake of the curve, which must not stay uncorrected for the regression's sake.
UNCONFIRMED_REGRESSION = 24 * HOUR
HOURS_KEPT_DAYS = store.REFERENCE_DAYS
DAYS_KEPT = 60
MINUTE_US = 60_000_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# So much of the hour before is read too: whether an engine had settled when the hour began.
_LEAD_IN = max(SETTLING_MINUTES + 1, FARTHEST_MINUTES) * MINUTE

Span = tuple[dt.datetime, dt.datetime]
Hour = tuple[dt.datetime, int]
"""Its begin, and the id of a family."""


def learn_curves(connection: Connection, now: dt.datetime, *, most_seconds: float = 20.0) -> str:
    """One run; returns what it did in a few words."""
    now = now.astimezone(dt.UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    # Clocks of nodes may run ahead, by a little: tomorrow belongs to the range.
    first, last = midnight - HOURS_KEPT_DAYS * DAY, midnight + 2 * DAY
    found = store.placements(connection, first, last)
    store.add_families(connection, [*{placement.family for placement in found}])
    ids = {family: id_ for id_, family in store.families(connection).items()}
    family_of = {placement.placement_id: ids[placement.family] for placement in found}
    spans = store.incidents(connection, MISLEADING_KINDS, first, last, UNCONFIRMED_REGRESSION)
    look = _with_incidents(store.hours(connection, family_of, first, last), spans, family_of)
    seen = store.seen(connection, first, last)
    waiting = [hour for hour in {*look, *seen} if look.get(hour) != (seen[hour][0] if hour in seen else None)]
    history = store.versions(connection, [placement.engine_id for placement in found])
    until = time.monotonic() + most_seconds
    learnt = 0
    for day, batches in _in_turn(waiting, seen):
        if learnt and time.monotonic() > until:
            break
        with connection.transaction():
            touched: set[int] = set()
            for hour, family_ids in batches:
                if touched and time.monotonic() > until:
                    break
                mine = [p for p in found if family_of[p.placement_id] in family_ids]
                counts = _learn_hour(connection, hour, mine, family_of, spans, history)
                fingerprints = {id_: look.get((hour, id_), "") for id_ in sorted(family_ids)}
                store.replace_hour(connection, hour, fingerprints, counts, now)
                touched |= family_ids
                learnt += len(family_ids)
            store.sum_day(connection, day, sorted(touched))
    store.forget(connection, first, midnight - DAYS_KEPT * DAY)
    left = len(waiting) - learnt
    return f"{learnt} hours learnt" + (f", {left} left for the next run" if left else "")


def _with_incidents(
    ledger: Mapping[Hour, str], spans: Mapping[int, Sequence[Span]], family_of: Mapping[int, int]
) -> dict[Hour, str]:
    """What each hour of a family looks like: its ledger, and the parts of incidents that lie in it."""
    parts: dict[Hour, list[str]] = defaultdict(list)
    for placement_id, its in spans.items():
        if placement_id not in family_of:
            continue
        for since, until in its:
            hour = since - (since - _EPOCH) % HOUR
            while hour < until:
                begin, end = max(since, hour), min(until, hour + HOUR)
                parts[hour, family_of[placement_id]].append(f"{placement_id} {begin.timestamp()} {end.timestamp()}")
                hour += HOUR
    return {
        hour: text + (" " + hashlib.sha256("/".join(sorted(parts[hour])).encode()).hexdigest() if hour in parts else "")
        for hour, text in ledger.items()
    }


def _in_turn(
    waiting: Sequence[Hour], seen: Mapping[Hour, tuple[str, dt.datetime]]
) -> Iterator[tuple[dt.datetime, list[tuple[dt.datetime, set[int]]]]]:
    """Days, and in them hours with their families: never learnt before long ago, and new before old."""

    def turn(hour: Hour) -> tuple[dt.datetime, dt.timedelta]:
        return seen[hour][1] if hour in seen else _EPOCH, _EPOCH - hour[0]

    days: dict[dt.datetime, dict[dt.datetime, set[int]]] = {}
    for begin, family_id in sorted(waiting, key=turn):
        day = begin - (begin - _EPOCH) % DAY
        days.setdefault(day, {}).setdefault(begin, set()).add(family_id)
    for day, hours in days.items():
        yield day, list(hours.items())


def _learn_hour(
    connection: Connection,
    hour: dt.datetime,
    placements: Sequence[Placement],
    family_of: Mapping[int, int],
    spans: Mapping[int, Sequence[Span]],
    history: Mapping[int, Sequence[tuple[int, str]]],
) -> dict[tuple[int, str], Counts]:
    """Counts of one hour of some replicas, by family id and version."""
    samples = store.minutes(connection, [p.placement_id for p in placements], hour - _LEAD_IN, hour + HOUR)
    minute_us = samples["time_us"]
    excluded = minute_us < _us(hour)
    engine_of = {p.placement_id: p.engine_id for p in placements}
    rows: dict[tuple[int, str], int] = {}
    interval_us = {p.placement_id: p.interval_us for p in placements}
    load = steady_load(
        offsets=samples.offsets,
        minute_us=minute_us,
        output_tokens=samples["output_tokens"],
        requests_running=samples.ratios["requests_running"],
        looks_a_minute=np.array([MINUTE_US / interval_us[id_] for id_ in samples.ids.tolist()], np.float64),
    )
    offsets, curve = [0], []
    for i, placement_id in enumerate(samples.ids.tolist()):
        low, high = int(samples.offsets[i]), int(samples.offsets[i + 1])
        for since, until in spans.get(placement_id, ()):
            its = minute_us[low:high]
            excluded[low:high] |= (its + MINUTE_US > _us(since)) & (its < _us(until))
        # A version's minutes are a series of their own: it settles like any engine that has just begun.
        for end, version in _versions_within(history.get(engine_of[placement_id], ()), minute_us[low:high]):
            offsets.append(low + end)
            curve.append(rows.setdefault((family_of[placement_id], version), len(rows)))
    counts = learn(
        rows=len(rows),
        curve=np.array(curve, np.int64),
        offsets=np.array(offsets, np.int64),
        minute_us=minute_us,
        serving_mj=samples["serving_mj"],
        estimated_mj=samples["estimated_mj"],
        uncached_input_tokens=samples["uncached_input_tokens"],
        output_tokens=samples["output_tokens"],
        requests_running=samples.ratios["requests_running"],
        load=load,
        untrusted_us=samples["untrusted_us"],
        excluded=excluded,
    )
    return {key: of_row(counts, row) for key, row in rows.items() if counts.minutes[row]}


def _versions_within(history: Sequence[tuple[int, str]], minute_us: Int64) -> list[tuple[int, str]]:
    """(end, version) of the stretches of minutes with one version; '' before the first that is known.

    A minute in which the version changed counts as the new one's.
    """
    if not history:
        return [(minute_us.size, "")]
    since = np.array([since_us for since_us, _ in history], np.int64)
    code = np.searchsorted(since, minute_us + MINUTE_US - 1, side="right")
    ends = [*(np.flatnonzero(np.diff(code)) + 1).tolist(), minute_us.size]
    return [(end, history[code[end - 1] - 1][1] if code[end - 1] else "") for end in ends]


def _us(time: dt.datetime) -> int:
    return (time - _EPOCH) // dt.timedelta(microseconds=1)
