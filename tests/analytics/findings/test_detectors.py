"""Detectors on hand-made minutes: they fire on what they are for, stay quiet on what only looks like it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.minutes import board_minutes, engine_minutes, joined
from wattmill_analytics.curves import least_factor
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.detectors import detect_boards, detect_engines
from wattmill_analytics.findings.idle import IdleEmpty, IdleLoaded
from wattmill_analytics.findings.low_batch import LowBatch
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes
from wattmill_analytics.findings.spin_idle import SpinIdle
from wattmill_analytics.findings.telemetry_untrusted import TelemetryUntrusted

LIMIT_W = 700


def watt_minutes(watts: float) -> float:
    return watts * 60_000


IDLE: dict[str, Any] = {"idle_loaded_mj": watt_minutes(110), "power_ratio": 110 / LIMIT_W, "requests_running": 0}
BUSY: dict[str, Any] = {
    "serving_mj": watt_minutes(600),
    "power_ratio": 600 / LIMIT_W,
    "requests_running": 128,
    "output_tokens": 90_000,
}


def found_by(detector: Any, table: EngineMinutes) -> list[Incident]:
    """What an engine detector finds where nothing hides anything."""
    found: list[Incident] = detector.detect(table, np.zeros(table.minute_us.size, bool))
    return found


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


def test_idle_loaded_costs_its_idle_engine_minutes() -> None:
    incident = only(
        found_by(
            IdleLoaded(), joined(engine_minutes(30, **BUSY), engine_minutes(60, **IDLE), engine_minutes(30, **BUSY))
        )
    )
    assert (incident.since_us, incident.until_us) == (30 * MINUTE_US, 90 * MINUTE_US)
    assert incident.energy_mj == 60 * 110 * 60_000
    assert incident.over


def test_idle_loaded_survives_one_busy_minute_and_is_open_at_the_end_of_data() -> None:
    incident = only(
        found_by(
            IdleLoaded(), joined(engine_minutes(20, **IDLE), engine_minutes(1, **BUSY), engine_minutes(20, **IDLE))
        )
    )
    assert incident.until_us == 41 * MINUTE_US
    assert incident.energy_mj == 40 * 110 * 60_000
    assert not incident.over


@pytest.mark.parametrize("pause", [1, 5, 9])
def test_a_pause_between_requests_is_not_idle(pause: int) -> None:
    assert (
        found_by(
            IdleLoaded(),
            joined(*[engine_minutes(30, **BUSY), engine_minutes(pause, **IDLE)] * 4, engine_minutes(30, **BUSY)),
        )
        == []
    )


def test_idle_empty() -> None:
    empty: dict[str, Any] = {"idle_empty_mj": watt_minutes(70), "utilisation_ratio": 0.0}
    assert IdleEmpty().detect(board_minutes(9, **empty)) == []
    assert only(IdleEmpty().detect(board_minutes(45, **empty))).energy_mj == 45 * 70 * 60_000


def test_spin_idle_is_power_without_tokens_and_not_idle_loaded() -> None:
    spinning: dict[str, Any] = {
        "idle_loaded_mj": watt_minutes(420),
        "power_ratio": 420 / LIMIT_W,
        "requests_running": 0,
    }
    table = joined(engine_minutes(20, **BUSY), engine_minutes(30, **spinning), engine_minutes(20, **BUSY))
    assert only(found_by(SpinIdle(), table)).energy_mj == 30 * 420 * 60_000
    assert [d.kind for d, _ in detect_engines(table)] == ["spin-idle"]
    assert found_by(SpinIdle(), engine_minutes(60, **IDLE)) == []
    assert found_by(SpinIdle(), engine_minutes(60, **BUSY)) == []


def test_spin_idle_sees_a_hung_engine_that_says_it_runs_requests() -> None:
    hung: dict[str, Any] = {"serving_mj": watt_minutes(400), "power_ratio": 400 / LIMIT_W, "requests_running": 3}
    assert only(found_by(SpinIdle(), engine_minutes(15, **hung))).evidence["output_tokens"] == 0


@pytest.mark.parametrize(
    ("batch", "fires"), [(1, True), (8, True), (16, True), (32, True), (64, False), (255, False), (511, False)]
)
def test_low_batch_fires_at_8_to_32_and_is_quiet_at_255(batch: float, fires: bool) -> None:
    table = engine_minutes(300, serving_mj=watt_minutes(500), output_tokens=9_000, requests_running=batch)
    assert bool(found_by(LowBatch(), table)) is fires


def test_a_quiet_night_of_an_engine_that_fills_its_batch_by_day_is_not_low_batch() -> None:
    def hours(count: int, batch: float) -> EngineMinutes:
        return engine_minutes(count * 60, serving_mj=watt_minutes(400), output_tokens=9_000, requests_running=batch)

    assert found_by(LowBatch(), joined(hours(10, 120), hours(6, 16), hours(2, 120))) == []
    assert found_by(LowBatch(), joined(hours(10, 120), hours(3, 2), hours(2, 120))) == []


def test_low_batch_waste_is_a_lower_bound_of_the_published_curves() -> None:
    assert least_factor(np.array([8.0]))[0] == pytest.approx(3.77)
    assert np.all(np.diff(least_factor(np.linspace(1, 300, 500))) <= 0)
    table = engine_minutes(300, serving_mj=watt_minutes(500), output_tokens=9_000, requests_running=8)
    incident = only(found_by(LowBatch(), table))
    assert (incident.since_us, incident.known_us) == (240 * MINUTE_US, 250 * MINUTE_US), "hours were seen before"
    wasted = incident.energy_mj
    assert wasted == pytest.approx(60 * 500 * 60_000 * (1 - 1 / 3.77), rel=1e-6)


def test_telemetry_untrusted_names_the_energy_it_makes_doubtful() -> None:
    good: dict[str, Any] = {"serving_mj": watt_minutes(500)}
    bad: dict[str, Any] = {**good, "estimated_mj": watt_minutes(500)}
    incident = only(
        TelemetryUntrusted().detect(
            joined(board_minutes(30, **good), board_minutes(10, **bad), board_minutes(30, **good))
        )
    )
    assert incident.energy_mj == 0
    assert incident.evidence["estimated_mj"] == 10 * 500 * 60_000
    assert TelemetryUntrusted().detect(board_minutes(60, **good)) == []
    assert (
        TelemetryUntrusted().detect(
            joined(board_minutes(30, **good), board_minutes(1, **good, anomalies=1), board_minutes(30, **good))
        )
        == []
    )


def test_subjects_do_not_mix() -> None:
    table = engine_minutes(9, engines=3, **IDLE)
    assert found_by(IdleLoaded(), table) == []
    assert {i.subject for i in found_by(IdleLoaded(), engine_minutes(10, engines=3, **IDLE))} == {0, 1, 2}


def test_no_minutes_no_findings_and_every_finding_says_what_to_change() -> None:
    assert detect_engines(engine_minutes(0)) == []
    assert detect_boards(board_minutes(0)) == []
    incident = only(found_by(IdleLoaded(), engine_minutes(30, **IDLE)))
    assert "replica" in incident.remedy
    assert "110 W" in incident.summary
    assert incident.known_us == 10 * MINUTE_US


def test_the_kind_that_names_the_cause_speaks_alone() -> None:
    spinning: dict[str, Any] = {"idle_loaded_mj": watt_minutes(420), "power_ratio": 0.6, "requests_running": 0}
    kinds = [d.kind for d, _ in detect_engines(joined(engine_minutes(30, **spinning), engine_minutes(30, **IDLE)))]
    assert kinds == ["spin-idle", "idle-loaded"]
