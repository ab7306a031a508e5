"""The list of detectors, and which kind explains which: one incident is one finding. Adding one is a file and a line.

Where two kinds would say the same of the same minutes, the one that names the cause speaks and the other is silent: an
engine on a throttled board is slow, but the finding is the throttling.
"""

from __future__ import annotations

import numpy as np

from wattmill_analytics.findings import BoardDetector, EngineDetector, Incident
from wattmill_analytics.findings.cache_miss import CacheMiss
from wattmill_analytics.findings.idle import IdleEmpty, IdleLoaded
from wattmill_analytics.findings.kv_thrash import KvThrash
from wattmill_analytics.findings.low_batch import LowBatch
from wattmill_analytics.findings.minutes import MINUTE_US, BoardMinutes, EngineMinutes
from wattmill_analytics.findings.over_provisioned import OverProvisioned
from wattmill_analytics.findings.queue_starved import QueueStarved
from wattmill_analytics.findings.regression import Regression
from wattmill_analytics.findings.spin_idle import SpinIdle, SpinIdleBoard
from wattmill_analytics.findings.straggler import Straggler
from wattmill_analytics.findings.telemetry_untrusted import CountersStandStill, TelemetryUntrusted
from wattmill_analytics.findings.throttled import Throttled

# How far beyond its own minutes a kind explains another. A cache that throws requests out keeps the batch small and the
# queue long for a while, and the advice for those (more requests at a time, fewer replicas) would make it worse.
BESIDE_US = {("kv-thrash", "queue-starved"): 30 * MINUTE_US, ("kv-thrash", "low-batch"): 30 * MINUTE_US}

BOARD_DETECTORS: tuple[BoardDetector, ...] = (IdleEmpty(), SpinIdleBoard(), TelemetryUntrusted())

ENGINE_DETECTORS: tuple[tuple[EngineDetector, frozenset[str]], ...] = (
    # Each with the kinds, standing above it, whose minutes it leaves alone.
    (CountersStandStill(), frozenset()),
    (SpinIdle(), frozenset({"telemetry-untrusted"})),
    (IdleLoaded(), frozenset({"telemetry-untrusted", "spin-idle"})),
    (Throttled(), frozenset()),
    (KvThrash(), frozenset()),
    (Straggler(), frozenset({"throttled", "kv-thrash"})),
    (Regression(), frozenset({"throttled", "kv-thrash", "straggler"})),
    (QueueStarved(), frozenset({"throttled", "kv-thrash"})),
    (CacheMiss(), frozenset({"kv-thrash"})),
    (OverProvisioned(), frozenset()),
    (LowBatch(), frozenset({"spin-idle", "idle-loaded", "kv-thrash", "queue-starved", "over-provisioned"})),
)


def detect_boards(minutes: BoardMinutes) -> list[tuple[str, Incident]]:
    """(kind, incident) of all detectors that look at boards."""
    return [(detector.kind, incident) for detector in BOARD_DETECTORS for incident in detector.detect(minutes)]


def detect_engines(minutes: EngineMinutes) -> list[tuple[EngineDetector, Incident]]:
    """(detector, incident) of all detectors that look at engines, causes before what they explain."""
    found: list[tuple[EngineDetector, Incident]] = []
    for detector, hidden_by in ENGINE_DETECTORS:
        hidden = np.zeros(minutes.minute_us.size, np.bool_)
        for other, incident in found:
            if other.kind in hidden_by:
                of_workload = other.about == "workload"
                engines = np.flatnonzero(minutes.workload == incident.subject) if of_workload else [incident.subject]
                for engine in engines:
                    low, high = minutes.offsets[engine], minutes.offsets[engine + 1]
                    beside_us = BESIDE_US.get((other.kind, detector.kind), 0)
                    span_us = [incident.since_us - beside_us, incident.until_us + beside_us]
                    first, last = low + np.searchsorted(minutes.minute_us[low:high], span_us)
                    hidden[first:last] = True
        found += [(detector, incident) for incident in detector.detect(minutes, hidden)]
    return found
