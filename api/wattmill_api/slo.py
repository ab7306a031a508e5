"""Latency targets in the answers of /efficiency: tokens that came in time, and what they cost. Pure.

Tokens are counted in whole numbers per workload and minute (or hour): those of engines that have a histogram, times the
share of the workload's observations at or under its target, rounded down. A target inside a bucket of the histogram
takes its part of the bucket, as if observations lay evenly in it. What has no histogram is not called met.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wattmill_analytics.latency import cut, merge, quantiles
from wattmill_analytics.units import joules_per_token, tokens_per_kwh
from wattmill_api.parameters import Window
from wattmill_api.store.prices import ANY_SITE, History
from wattmill_api.store.query import Group
from wattmill_api.store.slo import (
    INTER_TOKEN_LATENCY,
    QUEUE_TIME,
    REQUEST_LATENCY,
    TIME_TO_FIRST_TOKEN,
    Goal,
    Met,
    Observed,
    Use,
)

Key = tuple[dt.datetime, Group]
Bounds = Mapping[int, Sequence[int]]
MEDIAN, P99 = 0.5, 0.99


@dataclasses.dataclass(slots=True)
class Slo:
    """What belongs to one row of an answer. Quantiles: (median, p99) in milliseconds by metric."""

    known_tokens: int = 0
    judged_tokens: int = 0
    met_tokens: int = 0
    targets_us: set[int] = dataclasses.field(default_factory=set)
    first_observed: int = 0
    first_met: int = 0
    first_targets_us: set[int] = dataclasses.field(default_factory=set)
    quantiles_ms: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def add(self, met: Met) -> None:
        self.known_tokens += met.known_tokens
        self.judged_tokens += met.judged_tokens
        self.met_tokens += met.met_tokens
        self.targets_us.update(met.targets_us or ())
        self.first_observed += met.first_observed
        self.first_met += met.first_met
        self.first_targets_us.update(met.first_targets_us or ())


def goals(uses: Iterable[Use], targets: History, window: Window) -> tuple[list[Goal], int]:
    """What the targets of a range mean for its histograms, and the unit that their parts of buckets are in.

    Only times between and to first tokens have targets.
    """
    found: list[tuple[Use, dt.datetime, dt.datetime, int, tuple[int, int, int]]] = []
    for use in uses:
        if use.metric not in (INTER_TOKEN_LATENCY, TIME_TO_FIRST_TOKEN):
            continue
        changes = {time for time in targets.changes(use.name, ANY_SITE) if window.start < time < window.end}
        times = [window.start, *sorted(changes), window.end]
        for first, last in itertools.pairwise(times):
            target = targets.at(use.name, first)
            if target is None:
                continue
            is_itl = use.metric == INTER_TOKEN_LATENCY
            target_us = target.inter_token_latency_us if is_itl else target.time_to_first_token_us
            if target_us is not None:
                found.append((use, first, last, target_us, cut(use.le_us, target_us)))
    unit = math.lcm(*(denominator for *_, (_, _, denominator) in found))
    return [
        Goal(use.workload_id, use.metric, use.bounds_id, first, last, whole, numerator * unit // denominator, target_us)
        for use, first, last, target_us, (whole, numerator, denominator) in found
    ], unit


def combine(met: Iterable[Met], observed: Sequence[Observed], bounds: Bounds) -> dict[Key, Slo]:
    """By bucket and group; only where there is a histogram."""
    found: dict[Key, Slo] = {}
    for key, metric, pair in _quantiles(observed, bounds):
        found.setdefault(key, Slo()).quantiles_ms[metric] = pair
    for one in met:
        found.setdefault((one.bucket, one.group), Slo()).add(one)
    return found


def _quantiles(observed: Sequence[Observed], bounds: Bounds) -> Iterable[tuple[Key, int, tuple[float, float]]]:
    by_row: dict[tuple[Key, int], list[Observed]] = {}
    for one in observed:
        by_row.setdefault(((one.bucket, one.group), one.metric), []).append(one)
    alike: dict[int, list[tuple[Key, int]]] = {}
    for row, parts in by_row.items():
        if len({part.bounds_id for part in parts}) == 1:
            alike.setdefault(parts[0].bounds_id, []).append(row)
        else:
            le_us, counts = merge([(bounds[part.bounds_id], part.counts) for part in parts])
            yield *row, _pair(le_us, counts[np.newaxis])[0]
    for bounds_id, rows in alike.items():
        counts = np.array([np.sum([part.counts for part in by_row[row]], axis=0) for row in rows], np.int64)
        for row, pair in zip(rows, _pair(np.array(bounds[bounds_id], np.int64), counts), strict=True):
            yield *row, pair


def _pair(le_us: Any, counts: Any) -> list[tuple[float, float]]:
    median, p99 = (quantiles(le_us=le_us, counts=counts, ratio=ratio) / 1000 for ratio in (MEDIAN, P99))
    return list(zip(median.tolist(), p99.tolist(), strict=True))


def document(slo: Slo | None, output_tokens: int | None, energy_mj: int | None) -> dict[str, Any] | None:
    """The `slo` of a row with these tokens and this energy; None where there is no histogram."""
    if slo is None:
        return None
    has_target = bool(slo.targets_us)
    met = slo.met_tokens if has_target else None
    counted = slo.judged_tokens if has_target else slo.known_tokens
    median, p99 = slo.quantiles_ms.get(INTER_TOKEN_LATENCY, (None, None))
    first_median, first_p99 = slo.quantiles_ms.get(TIME_TO_FIRST_TOKEN, (None, None))
    queue_median, queue_p99 = slo.quantiles_ms.get(QUEUE_TIME, (None, None))
    request_median, request_p99 = slo.quantiles_ms.get(REQUEST_LATENCY, (None, None))
    return {
        "target": {
            "inter_token_latency_ms": _only(slo.targets_us),
            "time_to_first_token_ms": _only(slo.first_targets_us),
        },
        "met_ratio": met / slo.judged_tokens if met is not None and slo.judged_tokens else None,
        "met_output_tokens": met,
        "met_tokens_per_kwh": tokens_per_kwh(met, energy_mj),
        "joules_per_met_token": joules_per_token(met, energy_mj),
        "median_inter_token_latency_ms": median,
        "p99_inter_token_latency_ms": p99,
        "first_token_met_ratio": slo.first_met / slo.first_observed if slo.first_observed else None,
        "median_time_to_first_token_ms": first_median,
        "p99_time_to_first_token_ms": first_p99,
        "median_queue_time_ms": queue_median,
        "p99_queue_time_ms": queue_p99,
        "median_request_latency_ms": request_median,
        "p99_request_latency_ms": request_p99,
        "coverage": min(counted / output_tokens, 1.0) if output_tokens else None,
    }


def _only(targets_us: set[int]) -> float | None:
    """The one target of a row, in milliseconds; None when there is none, or workloads of several are added up."""
    return next(iter(targets_us)) / 1000 if len(targets_us) == 1 else None
