"""Detectors on hand-made minutes: they fire on what they are for, stay quiet on what only looks like it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from wattmill_analytics.findings import MINUTE_US, Incident, Minutes, incidents
from wattmill_analytics.findings.detectors import DETECTORS
from wattmill_analytics.findings.idle import IdleEmpty, IdleLoaded
from wattmill_analytics.findings.low_batch import LowBatch, least_factor
from wattmill_analytics.findings.spin_idle import SpinIdle
from wattmill_analytics.findings.telemetry_untrusted import TelemetryUntrusted

LIMIT_W = 700


def minutes(count: int, subjects: int = 1, **columns: Any) -> Minutes:
    """`count` equal minutes for each subject; energies and the like are per minute."""
    n = count * subjects
    integers: dict[str, Any] = {
        name: np.full(n, int(columns.pop(name, 0)), np.int64)
        for name in (
            "serving_mj",
            "idle_loaded_mj",
            "idle_empty_mj",
            "estimated_mj",
            "output_tokens",
            "anomalies",
            "untrusted_us",
        )
    }
    ratios: dict[str, Any] = {
        name: np.full(n, columns.pop(name, float("nan")))
        for name in ("power_ratio", "utilisation_ratio", "requests_running", "requests_waiting")
    }
    assert not columns
    return Minutes(
        offsets=np.arange(subjects + 1, dtype=np.int64) * count,
        minute_us=np.tile(np.arange(count, dtype=np.int64) * MINUTE_US, subjects),
        **integers,
        **ratios,
    )


def joined(*parts: Minutes) -> Minutes:
    """One subject that does one thing after the other."""
    columns = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts])
        for f in dataclasses.fields(Minutes)
        if f.name not in ("offsets", "minute_us")
    }
    total = sum(len(p.minute_us) for p in parts)
    return Minutes(
        offsets=np.array([0, total], np.int64), minute_us=np.arange(total, dtype=np.int64) * MINUTE_US, **columns
    )


def watt_minutes(watts: float) -> float:
    return watts * 60_000


IDLE: dict[str, Any] = {"idle_loaded_mj": watt_minutes(110), "power_ratio": 110 / LIMIT_W, "requests_running": 0}
BUSY: dict[str, Any] = {
    "serving_mj": watt_minutes(600),
    "power_ratio": 600 / LIMIT_W,
    "requests_running": 128,
    "output_tokens": 90_000,
}


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


def test_idle_loaded_costs_its_idle_minutes() -> None:
    incident = only(IdleLoaded().detect(joined(minutes(30, **BUSY), minutes(60, **IDLE), minutes(30, **BUSY))))
    assert (incident.since_us, incident.until_us) == (30 * MINUTE_US, 90 * MINUTE_US)
    assert incident.energy_mj == 60 * 110 * 60_000
    assert incident.over


def test_idle_loaded_survives_one_busy_minute_and_is_open_at_the_end_of_data() -> None:
    incident = only(IdleLoaded().detect(joined(minutes(20, **IDLE), minutes(1, **BUSY), minutes(20, **IDLE))))
    assert incident.until_us == 41 * MINUTE_US
    assert incident.energy_mj == 40 * 110 * 60_000
    assert not incident.over


@pytest.mark.parametrize("pause", [1, 5, 14])
def test_a_pause_between_requests_is_not_idle(pause: int) -> None:
    assert IdleLoaded().detect(joined(*[minutes(30, **BUSY), minutes(pause, **IDLE)] * 4, minutes(30, **BUSY))) == []


def test_idle_empty() -> None:
    empty: dict[str, Any] = {"idle_empty_mj": watt_minutes(70), "utilisation_ratio": 0.0}
    assert IdleEmpty().detect(minutes(29, **empty)) == []
    assert only(IdleEmpty().detect(minutes(45, **empty))).energy_mj == 45 * 70 * 60_000


def test_spin_idle_is_power_without_tokens_and_not_idle_loaded() -> None:
    spinning: dict[str, Any] = {
        "idle_loaded_mj": watt_minutes(420),
        "power_ratio": 420 / LIMIT_W,
        "requests_running": 0,
    }
    table = joined(minutes(20, **BUSY), minutes(30, **spinning), minutes(20, **BUSY))
    assert only(SpinIdle().detect(table)).energy_mj == 30 * 420 * 60_000
    assert IdleLoaded().detect(table) == []
    assert SpinIdle().detect(minutes(60, **IDLE)) == []
    assert SpinIdle().detect(minutes(60, **BUSY)) == []


def test_spin_idle_sees_a_hung_engine_that_says_it_runs_requests() -> None:
    hung: dict[str, Any] = {"serving_mj": watt_minutes(400), "power_ratio": 400 / LIMIT_W, "requests_running": 3}
    assert only(SpinIdle().detect(minutes(15, **hung))).evidence["output_tokens"] == 0


@pytest.mark.parametrize(
    ("batch", "fires"), [(1, True), (8, True), (16, True), (32, True), (64, False), (255, False), (511, False)]
)
def test_low_batch_fires_at_8_to_32_and_is_quiet_at_255(batch: float, fires: bool) -> None:
    table = minutes(60, serving_mj=watt_minutes(500), output_tokens=9_000, requests_running=batch)
    assert bool(LowBatch().detect(table)) is fires


def test_a_quiet_night_of_an_engine_that_fills_its_batch_by_day_is_not_low_batch() -> None:
    def hours(count: int, batch: float) -> Minutes:
        return minutes(count * 60, serving_mj=watt_minutes(400), output_tokens=9_000, requests_running=batch)

    assert LowBatch().detect(joined(hours(10, 120), hours(6, 16), hours(2, 120))) == []
    assert only(LowBatch().detect(joined(hours(10, 120), hours(3, 2), hours(2, 120)))).evidence["minutes"] == 180


def test_low_batch_waste_is_a_lower_bound_of_the_published_curves() -> None:
    assert least_factor(np.array([8.0]))[0] == pytest.approx(3.77)
    assert np.all(np.diff(least_factor(np.linspace(1, 300, 500))) <= 0)
    table = minutes(60, serving_mj=watt_minutes(500), output_tokens=9_000, requests_running=8)
    wasted = only(LowBatch().detect(table)).energy_mj
    assert wasted == pytest.approx(60 * 500 * 60_000 * (1 - 1 / 3.77), rel=1e-6)


def test_telemetry_untrusted_names_the_energy_it_makes_doubtful() -> None:
    good: dict[str, Any] = {"serving_mj": watt_minutes(500)}
    bad: dict[str, Any] = {**good, "estimated_mj": watt_minutes(500)}
    incident = only(TelemetryUntrusted().detect(joined(minutes(30, **good), minutes(10, **bad), minutes(30, **good))))
    assert incident.energy_mj == 0
    assert incident.evidence["estimated_mj"] == 10 * 500 * 60_000
    assert TelemetryUntrusted().detect(minutes(60, **good)) == []
    assert (
        TelemetryUntrusted().detect(joined(minutes(30, **good), minutes(1, **good, anomalies=1), minutes(30, **good)))
        == []
    )


def test_subjects_do_not_mix() -> None:
    table = minutes(12, subjects=3, **IDLE)
    assert IdleLoaded().detect(table) == []
    assert {i.subject for i in IdleLoaded().detect(minutes(15, subjects=3, **IDLE))} == {0, 1, 2}


def test_a_hole_in_the_data_ends_a_run() -> None:
    table = minutes(40, **IDLE)
    later = np.where(np.arange(40) < 20, table.minute_us, table.minute_us + 60 * MINUTE_US)
    runs = incidents(dataclasses.replace(table, minute_us=later), np.ones(40, bool), opens_after=15, closes_after=5)
    assert [(r.first, r.last, r.over) for r in runs] == [(0, 19, True), (20, 39, False)]


def test_no_minutes_no_findings_and_every_finding_says_what_to_change() -> None:
    for detector in DETECTORS:
        assert detector.detect(minutes(0)) == []
    incident = only(IdleLoaded().detect(minutes(30, **IDLE)))
    assert "replica" in incident.remedy
    assert "110 W" in incident.summary
