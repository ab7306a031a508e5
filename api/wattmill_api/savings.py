"""What a remedy really saved: measured for up to 7 days after a finding's end, by one rule for each group of kinds.

saved = rate before x units after - spent after, where

| group | spent | unit |
|---|---|---|
| idle | idle energy of the boards it was about | board-hours that were watched |
| equal-load | serving energy | energy that the curve of the finding's end allows for the same tokens at equal load |
| cost-per-token | serving and idle-loaded energy of the workload, wherever it runs | its output tokens |
| batch | the same, of as many tokens a day as the replica made while the incident lasted | those tokens |
| prefix | uncached input at the price of prefill | input tokens |

No more is claimed for a unit than the finding's own impact was for one: what was spent before for other reasons is
not what its remedy saved. At equal load it is claimed for no more units than the incident had either, so for its own
impact at most: what noise or a hot day raised comes down by itself, and nobody knows for how long it would have stayed.

The rate before is that of the incident; for idle and cost-per-token that of the whole days that end with it, so that
nights are compared with nights. A batch that was too small costs more than any load the workload has by itself: its
replica may be gone since, so what followed is the workload's. A saving below 0 is reported as such; without anything to
compare with it is unknown. Followed are findings that a person resolved, and those that ended by themselves after a
person had seen them.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Literal

import numpy as np

from wattmill_api import judged
from wattmill_api.judged import Group
from wattmill_api.store import curves, detection, savings
from wattmill_api.store.database import Connection
from wattmill_api.store.savings import Pending, Saving

Method = Literal["idle", "equal-load", "cost-per-token", "batch", "prefix"]
METHOD_OF: dict[str, Method] = {
    **dict.fromkeys(("idle-loaded", "idle-empty", "spin-idle"), "idle"),
    **dict.fromkeys(("throttled", "straggler", "regression", "kv-thrash"), "equal-load"),
    **dict.fromkeys(("low-batch", "queue-starved"), "batch"),
    "over-provisioned": "cost-per-token",
    "cache-miss": "prefix",
}
METHODS: dict[str, str] = {
    "idle": "Idle energy of its boards per board-hour: the whole days up to its end, less the time after.",
    "equal-load": "Serving energy over what the learnt curve allows at equal load: the incident, less the time after, "
    "for as much work as it had.",
    "cost-per-token": "Energy of the workload per output token: the whole days up to its end, less the time after.",
    "batch": "Energy per output token: the incident, less its workload since, for as many tokens a day as it had.",
    "prefix": "Uncached share of the input, at the energy of prefill: the incident, less the time after.",
}
FOLLOW = dt.timedelta(days=7)
_AT_LEAST = dt.timedelta(minutes=10)
_MINUTE, _DAY = dt.timedelta(minutes=1), dt.timedelta(days=1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def measure(connection: Connection, last: dt.datetime) -> int:
    """Follow what ended, up to the minute that ends at `last`; returns how many findings were followed.

    The longer one was followed, the rarer it is looked at: every twentieth of the time since, at least 10 minutes.
    """
    followed = 0
    for finding in savings.pending(connection, list(METHOD_OF), last - FOLLOW - _DAY, FOLLOW):
        since = finding.from_time or finding.until + (_EPOCH - finding.until) % _MINUTE
        done = finding.measured_until or since
        until = min(last, since + FOLLOW)
        if until < since + FOLLOW and until - done < max(_AT_LEAST, (until - since) / 20):
            continue
        savings.put(connection, _followed(connection, finding, since, done, until))
        followed += 1
    return followed


def _followed(
    connection: Connection, finding: Pending, since: dt.datetime, done: dt.datetime, until: dt.datetime
) -> Saving:
    method = METHOD_OF[finding.kind]
    before_mj, before_units = finding.before_mj, finding.before_units
    if before_mj is None or before_units is None:
        before_mj, before_units = _spent(connection, finding, method, _begin(finding, method, since), since)
    if method == "batch":
        mj, tokens = savings.workload(connection, finding.engine_ids, finding.until, done, until)
        units = before_units * ((until - done) / _whole_days(finding, since)) if tokens else 0.0
        spent_mj = mj / tokens * units if tokens else 0.0
    else:
        spent_mj, units = _spent(connection, finding, method, done, until)
    spent_mj, units = spent_mj + (finding.spent_mj or 0.0), units + (finding.units or 0.0)
    return Saving(
        finding_id=finding.finding_id,
        since=since,
        until=until,
        method=method,
        before_mj=before_mj,
        before_units=before_units,
        spent_mj=spent_mj,
        units=units,
        saved_mj=saved_mj(method, _wasted_mj(finding, since), before_mj, before_units, spent_mj, units),
    )


def saved_mj(
    method: Method, wasted_mj: float, before_mj: float, before_units: float, spent_mj: float, units: float
) -> int | None:
    """What the units after would have cost at the rate before, less what was spent; None without a rate or a unit.

    At most the finding's own impact `wasted_mj` in the time before for each unit of it.
    """
    if before_units <= 0 or units <= 0:
        return None
    claimed = min(units, before_units) if method == "equal-load" else units
    saved = (before_mj * units / before_units - spent_mj) * (claimed / units)
    return round(min(saved, wasted_mj * (claimed / before_units)))


def _wasted_mj(finding: Pending, end: dt.datetime) -> float:
    """The finding's impact in the time before its end that is looked at: all of it, or the share of a week."""
    return finding.energy_mj * min(1.0, FOLLOW / max(end - finding.since, _MINUTE))


def _begin(finding: Pending, method: Method, end: dt.datetime) -> dt.datetime:
    """Where the time before the end begins."""
    if method in ("idle", "cost-per-token"):
        return end - _whole_days(finding, end)
    return end - min(end - finding.since, FOLLOW)


def _whole_days(finding: Pending, end: dt.datetime) -> dt.timedelta:
    """How long it lasted, rounded up to whole days, a week at most."""
    return max(1, math.ceil(min(end - finding.since, FOLLOW) / _DAY)) * _DAY


def _spent(
    connection: Connection, finding: Pending, method: Method, first: dt.datetime, last: dt.datetime
) -> tuple[float, float]:
    """(mJ, units) of [first, last)."""
    if method == "idle":
        return savings.idle(connection, finding.board_ids, first, last)
    if method == "cost-per-token":
        return savings.workload(connection, finding.engine_ids, finding.until, first, last)
    if method == "batch":
        return savings.engines(connection, finding.engine_ids, first, last)
    inventory = detection.inventory(connection, first)
    named = {engine.workload_id for engine in inventory.engines if engine.engine_id in finding.engine_ids}
    whole = finding.kind in ("regression", "cache-miss")  # of the workload's engines, also those that came later
    engines = tuple(
        engine
        for engine in inventory.engines
        if engine.engine_id in finding.engine_ids or (whole and engine.workload_id in named)
    )
    reference = curves.reference(connection, finding.until)
    minutes = judged.read(connection, Group(engines, ()), reference, first, last).engine_minutes
    if method == "equal-load":
        told = ~np.isnan(minutes.expected_mj)
        return float(minutes.serving_mj[told].sum()), float(minutes.expected_mj[told].sum())
    price = np.append(minutes.curves.prefill_mj_per_token, 0.0)[minutes.curve]  # -1, no curve, takes the last one
    prices = np.repeat(price, np.diff(minutes.offsets))
    told = (minutes.cached_input_tokens >= 0) & (prices > 0)
    spent_mj = float((minutes.uncached_input_tokens * prices)[told].sum())
    return spent_mj, float(minutes.input_tokens[told].sum())
