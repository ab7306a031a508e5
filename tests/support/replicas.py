"""A workload of equal replicas for tests of detectors: noisy minutes of known cost, and what is to happen to them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.minutes import engine_minutes
from wattmill_analytics.findings import EngineDetector, Incident
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes

USUAL_MJ = 600 * 60_000  # one minute at 600 W, which is also what the curve says
TOKENS = 60_000  # of 1 000 a second
LOAD = 50.0


def replicas(
    count: int, engines: int, seed: int = 0, noise: float = 0.04, cost: NDArray[np.float64] | None = None, **more: Any
) -> EngineMinutes:
    """Engines of workload 0 that serve all the time at what the curve says, but for noise and `cost` [engines, count],
    the factor on their energy."""
    rng = np.random.default_rng(seed)
    factor = np.exp(rng.normal(0, noise, (engines, count))) * (1.0 if cost is None else cost)
    columns: dict[str, Any] = {
        "workload": 0,
        "curve": 0,
        "serving_mj": (USUAL_MJ * factor).ravel(),
        "expected_mj": float(USUAL_MJ),
        "output_tokens": TOKENS,
        "expected_output_tokens": float(TOKENS),
        "requests_running": LOAD,
    }
    return engine_minutes(count, engines, **columns | more)


def costs(engines: int, count: int, factor: float, who: slice, when: slice) -> NDArray[np.float64]:
    """1 everywhere, but for these engines in these minutes."""
    table = np.ones((engines, count))
    table[who, when] = factor
    return table


def without(minutes: EngineMinutes, lost: NDArray[np.bool_]) -> EngineMinutes:
    """The same but for the rows in `lost`: minutes without data."""
    keep = ~lost
    return _with_rows(minutes, np.flatnonzero(keep))


def until(minutes: EngineMinutes, end_us: int) -> EngineMinutes:
    """The data as they stood at `end_us`: minutes that were closed by then."""
    return _with_rows(minutes, np.flatnonzero(minutes.minute_us + MINUTE_US <= end_us))


def between(minutes: EngineMinutes, first_us: int, last_us: int) -> EngineMinutes:
    """Only the minutes in [first, last)."""
    return _with_rows(minutes, np.flatnonzero((minutes.minute_us >= first_us) & (minutes.minute_us < last_us)))


def _with_rows(minutes: EngineMinutes, rows: NDArray[np.int64]) -> EngineMinutes:
    n = minutes.minute_us.size
    per_minute = {
        f.name: getattr(minutes, f.name)[rows]
        for f in dataclasses.fields(minutes)
        if f.name not in ("offsets", "workload", "boards", "curve", "curves") and getattr(minutes, f.name).shape == (n,)
    }
    return dataclasses.replace(minutes, offsets=np.searchsorted(rows, minutes.offsets), **per_minute)


def detected(detector: EngineDetector, minutes: EngineMinutes) -> list[Incident]:
    """What is found where nothing hides anything."""
    return detector.detect(minutes, np.zeros(minutes.minute_us.size, bool))


def assert_known_when_said(detector: EngineDetector, minutes: EngineMinutes) -> None:
    """Every incident is found in data that end at its `known_us`, with the same beginning; and not a minute before."""
    found = detected(detector, minutes)
    assert found
    for incident in found:
        then = detected(detector, until(minutes, incident.known_us))
        assert (incident.subject, incident.since_us, incident.known_us) in [
            (i.subject, i.since_us, i.known_us) for i in then
        ]
        before = detected(detector, until(minutes, incident.known_us - MINUTE_US))
        assert (incident.subject, incident.since_us) not in [(i.subject, i.since_us) for i in before]
