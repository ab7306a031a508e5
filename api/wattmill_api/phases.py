"""Learns where each workload's energy goes, day by day: standing, prefill, decode; the kernels are `phases`'.

A workload-day is learned again when its ledger hours changed: the last 8 days at every run, one of the 24 days before
them in turn. Its minutes become partial sums, which are kept; a day that can't be told apart alone is fitted from the
sums of the 7 days that end with it. Promises: a run ends soon after `most_seconds`, what is left comes first in the
next; a day's row is replaced in one transaction with what was seen of it.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics import phases
from wattmill_analytics.phase_algebra import MINUTES, WILD
from wattmill_analytics.phase_reasons import DECODE_KNOWN, IDENTIFIED, PREFILL_KNOWN, STANDING_KNOWN
from wattmill_analytics.phases import PhaseFits
from wattmill_api.store import phases as store
from wattmill_api.store.database import Connection
from wattmill_api.store.phases import Changed, DayFit, DaySums, NewDay, Placement
from wattmill_api.store.rollup import Samples

DAY = dt.timedelta(days=1)
POOLED_DAYS = 7
MINUTE_US = 60_000_000
_RECENT_DAYS = 8
_OLDER_DAYS = 24
_OFTEN_S = 600
# Minutes that are read at once: a second's work, 100 MB.
_MOST_MINUTES = 400_000

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


def learn_phases(connection: Connection, now: dt.datetime, *, most_seconds: float = 20.0) -> str:
    """One run; returns what it did in a few words."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    recent = midnight - (_RECENT_DAYS - 1) * DAY
    older = recent - (1 + int(now.timestamp()) // _OFTEN_S % _OLDER_DAYS) * DAY
    # Clocks of nodes may run ahead, by a little: tomorrow belongs to the range.
    waiting = store.changed(connection, recent, midnight + 2 * DAY) + store.changed(connection, older, older + DAY)
    until = time.monotonic() + most_seconds
    learned = 0
    for batch in _batches(waiting):
        if learned and time.monotonic() > until:
            break
        with connection.transaction():
            _learn_day(connection, batch, now)
        learned += len(batch)
    left = len(waiting) - learned
    return f"{learned} workload-days learned" + (f", {left} left for the next run" if left else "")


def _batches(waiting: Sequence[Changed]) -> Iterator[list[Changed]]:
    """Workloads of one day whose minutes fit into memory together, in the order of their turn."""
    by_day: dict[dt.datetime, list[Changed]] = {}
    for change in waiting:
        by_day.setdefault(change.day, []).append(change)
    for changes in by_day.values():
        batch: list[Changed] = []
        minutes = 0
        for change in changes:
            its = change.replicas * 1440
            if batch and minutes + its > _MOST_MINUTES:
                yield batch
                batch, minutes = [], 0
            batch.append(change)
            minutes += its
        yield batch


def _learn_day(connection: Connection, batch: list[Changed], now: dt.datetime) -> None:
    day, workload_ids = batch[0].day, [change.workload_id for change in batch]
    placements = store.placements(connection, workload_ids)
    minutes = store.read_minutes(connection, day, [placement.placement_id for placement in placements])
    store.replace_day(connection, day, workload_ids, _days(day, minutes, placements))
    store.remember(connection, batch, now)
    # The days after it that may look back at it.
    stored = store.day_sums(connection, workload_ids, day - (POOLED_DAYS - 1) * DAY, day + POOLED_DAYS * DAY)
    fits: list[DayFit] = []
    for _, rows in groupby(stored, key=lambda row: (row.workload_id, row.accelerator_model)):
        fits += fitted(list(rows), day)
    store.store_fits(connection, fits)


def _days(day: dt.datetime, minutes: Samples, placements: Sequence[Placement]) -> list[NewDay]:
    """Totals and partial sums of each workload and accelerator model that has minutes."""
    known = {placement.placement_id: placement for placement in placements}
    replicas = [known[id_] for id_ in minutes.ids.tolist()]
    keys = sorted({(replica.workload_id, replica.accelerator_model) for replica in replicas})
    index = {key: i for i, key in enumerate(keys)}
    group = np.array([index[replica.workload_id, replica.accelerator_model] for replica in replicas], np.int64)
    lengths = np.diff(minutes.offsets)
    boards = np.repeat(np.array([replica.boards for replica in replicas], np.int64), lengths)
    energy, uncached, output = minutes["energy_mj"], minutes["uncached_input_tokens"], minutes["output_tokens"]
    whole = (
        (boards > 0)
        & (minutes["span_us"] == boards * MINUTE_US)
        & (minutes["covered_us"] == minutes["span_us"])
        & (minutes["engine_covered_us"] == MINUTE_US)
        & (minutes["estimated_mj"] == 0)
        & (minutes["anomalies"] == 0)
    )
    engine_us = minutes["span_us"] // np.maximum(boards, 1)
    sums, _ = phases.settle(
        group=group,
        groups=len(keys),
        offsets=minutes.offsets,
        minute_us=minutes["time_us"],
        engine_us=engine_us,
        energy_mj=energy,
        uncached_input_tokens=uncached,
        output_tokens=output,
        whole=whole.astype(np.uint8),
    )
    of = np.repeat(group, lengths)

    def totals(column: Int64, counted: NDArray[np.bool_]) -> list[int]:
        total = np.zeros(len(keys), np.int64)
        np.add.at(total, of[counted], column[counted])
        return [int(value) for value in total]

    explained = (energy > 0) & (uncached >= 0) & (output >= 0)
    cached_known = minutes["cached_input_tokens"] >= 0
    cached = totals(minutes["cached_input_tokens"], cached_known)
    knows_cached = np.bincount(of[cached_known], minlength=len(keys)) > 0
    columns = zip(
        keys,
        totals(energy, energy > 0),
        totals(energy, explained),
        totals(engine_us, explained),
        totals(uncached, explained),
        totals(output, explained),
        [tokens if known else None for tokens, known in zip(cached, knows_cached, strict=True)],
        sums.tolist(),
        strict=True,
    )
    return [NewDay(day, *key, *values) for key, *values in columns]


def fitted(rows: Sequence[DaySums], first: dt.datetime) -> list[DayFit]:
    """The fits of one workload's days from `first` on; `rows`: these days and those before them, in order.

    A day's own fit is taken where it is identified, else that of the last 7 days, unless it tells less.
    """
    wanted = [row for row in rows if row.time >= first]
    sums = store.as_array(rows)
    windows = [[i for i, r in enumerate(rows) if row.time - POOLED_DAYS * DAY < r.time <= row.time] for row in wanted]
    own = np.array([sums[window[-1]] for window in windows])
    pooled = np.array([sums[window].sum(axis=0) for window in windows])
    alone, together = phases.phase_fit(own), phases.phase_fit(pooled)
    pool = np.array([told(b) > told(a) for a, b in zip(alone.verdict.tolist(), together.verdict.tolist(), strict=True)])
    fits = PhaseFits(
        coefficients=np.where(pool[:, np.newaxis], together.coefficients, alone.coefficients),
        errors=np.where(pool[:, np.newaxis], together.errors, alone.errors),
        residual_ratio=np.where(pool, together.residual_ratio, alone.residual_ratio),
        r_squared=np.where(pool, together.r_squared, alone.r_squared),
        verdict=np.where(pool, together.verdict, alone.verdict),
    )
    parts = phases.phase_energy(
        fits.coefficients,
        energy_mj=np.array([row.explained_mj for row in wanted], np.int64),
        engine_us=np.array([row.engine_us for row in wanted], np.int64),
        uncached_input_tokens=np.array([row.uncached_input_tokens for row in wanted], np.int64),
        output_tokens=np.array([row.output_tokens for row in wanted], np.int64),
    )
    used: Float64 = np.where(pool[:, np.newaxis], pooled, own)
    return [
        DayFit(
            time=row.time,
            workload_id=row.workload_id,
            accelerator_model=row.accelerator_model,
            standing_mj=int(parts[i, 0]),
            prefill_mj=int(parts[i, 1]),
            decode_mj=int(parts[i, 2]),
            minutes=int(used[i, MINUTES]),
            wild_minutes=int(used[i, WILD]),
            residual_ratio=float(fits.residual_ratio[i]),
            r_squared=float(fits.r_squared[i]),
            window_days=POOLED_DAYS if pool[i] else 1,
            verdict=int(fits.verdict[i]),
            coefficients=fits.coefficients[i].tolist(),
            errors=fits.errors[i].tolist(),
        )
        for i, row in enumerate(wanted)
    ]


def told(verdict: int) -> int:
    """How much a verdict lets be told: 4 where everything is, 0 where nothing is."""
    return sum(verdict in known for known in (STANDING_KNOWN, PREFILL_KNOWN, DECODE_KNOWN, {IDENTIFIED}))
