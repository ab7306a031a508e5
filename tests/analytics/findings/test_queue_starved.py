"""queue-starved: a queue beside room in the batch; a full batch with a queue is health."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.curve_shapes import PREFILL_MJ, decode_mj, law, tokens_a_minute
from support.minutes import engine_minutes, joined
from support.replicas import assert_known_when_said, detected
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.detectors import detect_engines
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes
from wattmill_analytics.findings.queue_starved import QueueStarved

INPUT = 10_000


def running(count: int, load: float, waiting: float, **more: Any) -> EngineMinutes:
    """Minutes of one engine at a load, at the curve's cost, with so many waiting."""
    tokens = tokens_a_minute(load)
    columns: dict[str, Any] = {
        "curve": 0,
        "curves": law(highest=128),
        "requests_running": load,
        "requests_waiting": waiting,
        "kv_cache_usage_ratio": 0.3,
        "preemptions": 0,
        "output_tokens": tokens,
        "expected_output_tokens": float(tokens),
        "input_tokens": INPUT,
        "serving_mj": tokens * decode_mj(load) + INPUT * PREFILL_MJ,
        "expected_mj": tokens * decode_mj(load) + INPUT * PREFILL_MJ,
    }
    return engine_minutes(count, **columns | more)


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


def test_a_queue_beside_room_costs_what_the_fuller_batch_would_have_saved() -> None:
    incident = only(detected(QueueStarved(), joined(running(60, 60, 0), running(60, 8, 40), running(60, 60, 0))))
    assert (incident.since_us, incident.until_us) == (60 * MINUTE_US, 120 * MINUTE_US)
    assert incident.known_us - incident.since_us == 6 * MINUTE_US
    saved = tokens_a_minute(8) * (decode_mj(8) - decode_mj(48))
    assert incident.energy_mj == pytest.approx(60 * saved, rel=0.01)
    assert incident.evidence["requests_carried_before"] == 128.0
    assert "max_num_seqs" in incident.remedy


def test_more_waiting_than_was_ever_carried_counts_up_to_that() -> None:
    incident = only(detected(QueueStarved(), running(60, 8, 1000)))
    assert incident.evidence["mean_load_without_limit"] == 128.0


@pytest.mark.parametrize(
    "healthy",
    [
        {"load": 128, "waiting": 500},  # a batch job: full, with a queue
        {"load": 90, "waiting": 20},  # nearly full
        {"load": 8, "waiting": 0.5},  # a queue that comes and goes
        {"load": 60, "waiting": 3},  # few beside many
        {"load": 8, "waiting": 40, "kv_cache_usage_ratio": 0.95},  # no memory for more
        {"load": 8, "waiting": 40, "preemptions": 5},  # thrashing: another finding
        {"load": 30, "waiting": 40, "output_tokens": tokens_a_minute(30) // 2},  # busy with long prompts
    ],
)
def test_what_looks_like_it(healthy: dict[str, Any]) -> None:
    assert detected(QueueStarved(), running(300, **healthy)) == []


def test_without_a_curve_what_the_engine_carried_before_is_its_room() -> None:
    unknown: dict[str, Any] = {"curve": -1, "expected_output_tokens": float("nan")}
    starved = running(60, 8, 40, **unknown)
    assert detected(QueueStarved(), starved) == [], "nothing shows that it could carry more"
    incident = only(detected(QueueStarved(), joined(running(30, 64, 0, **unknown), starved)))
    assert incident.evidence["requests_carried_before"] == 64.0
    assert incident.energy_mj > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_queue_is_one_incident_known_in_data_that_end_there(seed: int) -> None:
    waiting = np.random.default_rng(seed).gamma(2, 8, 90)
    table = joined(running(60, 60, 0), running(90, 10, 0, requests_waiting=waiting), running(60, 60, 0))
    assert len(detected(QueueStarved(), table)) == 1
    assert_known_when_said(QueueStarved(), table)


def test_it_explains_the_small_batch() -> None:
    """An engine held to 8 while its siblings decode 60 is starved, and not a low batch beside."""
    starved = running(60, 8, 40)
    table = engine_minutes(
        60,
        engines=2,
        workload=0,
        curve=0,
        curves=starved.curves,
        **{
            name: np.concatenate([getattr(starved, name), getattr(running(60, 60, 0), name)])
            for name in ("requests_running", "requests_waiting", "output_tokens", "serving_mj", "expected_mj")
        },
    )
    assert [(d.kind, i.subject) for d, i in detect_engines(table)] == [("queue-starved", 0)]
