"""idle-loaded, idle-empty, spin-idle, telemetry-untrusted: known in time, and in data that end there."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from support.minutes import board_minutes, engine_minutes, joined
from support.replicas import assert_known_when_said, detected
from wattmill_analytics.findings.detectors import detect_engines
from wattmill_analytics.findings.idle import IdleEmpty, IdleLoaded
from wattmill_analytics.findings.minutes import MINUTE_US, BoardMinutes, EngineMinutes
from wattmill_analytics.findings.spin_idle import SpinIdle, SpinIdleBoard
from wattmill_analytics.findings.telemetry_untrusted import TelemetryUntrusted

IDLE_MJ, BUSY_MJ, TOKENS = 110 * 60_000, 600 * 60_000, 60_000


def busy(count: int, tokens: int = TOKENS) -> EngineMinutes:
    return engine_minutes(count, serving_mj=BUSY_MJ, output_tokens=tokens, requests_running=64, power_ratio=0.85)


def idle(count: int, power_ratio: float = 0.16) -> EngineMinutes:
    return engine_minutes(count, idle_loaded_mj=IDLE_MJ, requests_running=0, power_ratio=power_ratio)


def test_the_minute_in_which_the_last_requests_ran_out_counts_as_a_minute_but_not_as_waste() -> None:
    (incident,) = detected(IdleLoaded(), joined(busy(30), busy(1, TOKENS // 3), idle(60), busy(30)))
    assert (incident.since_us, incident.known_us) == (30 * MINUTE_US, 40 * MINUTE_US)
    assert incident.energy_mj == 60 * IDLE_MJ
    assert incident.evidence["idle_minutes"] == 60


@pytest.mark.parametrize("runs_out", [0, 1])
@pytest.mark.parametrize("pause", [2, 6, 9])
def test_a_pause_of_nine_minutes_is_no_finding_whether_requests_run_out_in_it_or_not(pause: int, runs_out: int) -> None:
    stop = [busy(30), busy(1, TOKENS // 4), idle(pause - 1)] if runs_out else [busy(30), idle(pause)]
    assert detected(IdleLoaded(), joined(*stop, busy(30), *stop, busy(30))) == []


def test_the_last_minute_of_another_engine_is_not_one_in_which_requests_ran_out() -> None:
    table = dataclasses.replace(
        joined(busy(19), busy(1, 10), idle(9)), offsets=np.array([0, 20, 29]), workload=np.array([0, 0])
    )
    table = dataclasses.replace(table, boards=np.ones(2, np.int64), curve=np.full(2, -1))
    assert detected(IdleLoaded(), table) == []


@pytest.mark.parametrize("warm_up", [2, 5, 7])
def test_a_warm_up_is_not_spinning(warm_up: int) -> None:
    assert detected(SpinIdle(), joined(idle(warm_up, 0.55), busy(60))) == []


def test_they_are_known_in_data_that_end_there() -> None:
    assert_known_when_said(IdleLoaded(), joined(busy(30), busy(1, TOKENS // 3), idle(60), busy(30)))
    assert_known_when_said(SpinIdle(), joined(busy(30), idle(60, 0.5), busy(30)))


@pytest.mark.parametrize("wrong", [{"anomalies": 1}, {"estimated_mj": 5}, {"untrusted_us": 40_000_000}])
def test_distrust_is_known_when_the_minute_after_has_begun(wrong: dict[str, Any]) -> None:
    table = joined(board_minutes(30, serving_mj=9), board_minutes(30, serving_mj=9, **wrong))
    (incident,) = TelemetryUntrusted().detect(table)
    assert incident.known_us == 34 * MINUTE_US
    assert TelemetryUntrusted().detect(_until(table, 34)) != []
    assert TelemetryUntrusted().detect(_until(table, 33)) == []


def test_an_empty_board_is_known_after_ten_minutes() -> None:
    table = joined(board_minutes(30, serving_mj=9), board_minutes(30, idle_empty_mj=4))
    (incident,) = IdleEmpty().detect(table)
    assert (incident.since_us, incident.known_us) == (30 * MINUTE_US, 40 * MINUTE_US)
    assert IdleEmpty().detect(_until(table, 40)) != []
    assert IdleEmpty().detect(_until(table, 39)) == []


def _until(minutes: BoardMinutes, count: int) -> BoardMinutes:
    names = [f.name for f in dataclasses.fields(minutes) if f.name not in ("offsets", "node")]
    columns = {name: getattr(minutes, name)[:count] for name in names}
    return dataclasses.replace(minutes, offsets=np.array([0, count]), **columns)


def test_a_board_that_every_job_gives_back_for_a_while_has_one_trouble() -> None:
    """Three hours of work and one of nothing, all day: one finding, the energy of the empty hours only."""
    job = [board_minutes(180, serving_mj=9), board_minutes(60, idle_empty_mj=4)]
    (incident,) = IdleEmpty().detect(joined(*job * 6))
    assert (incident.since_us, incident.until_us) == (180 * MINUTE_US, 1440 * MINUTE_US)
    assert incident.energy_mj == 6 * 60 * 4
    assert incident.evidence["stretches"] == 6
    (first, second) = IdleEmpty().detect(joined(*job, board_minutes(400, serving_mj=9), *job))
    assert first.over
    assert first.until_us == 240 * MINUTE_US, "two troubles, a working day apart"
    assert second.evidence["empty_minutes"] == 60


def test_a_process_that_no_engine_owns_is_not_an_empty_board() -> None:
    """310 W of 700 W for 12 hours: nobody's, and neither empty nor idle."""
    orphan = board_minutes(
        720, idle_empty_mj=310 * 60_000, power_ratio=310 / 700, utilisation_ratio=1.0, unattributed_mj=0
    )
    unattributed = board_minutes(720, unattributed_mj=310 * 60_000, power_ratio=310 / 700, utilisation_ratio=1.0)
    for table in (orphan, unattributed):
        assert IdleEmpty().detect(table) == []
        (incident,) = SpinIdleBoard().detect(table)
        assert incident.known_us == 10 * MINUTE_US
        assert incident.energy_mj == 720 * 310 * 60_000
        assert "310 W for 720 minutes by a process that no known engine owns" in incident.summary
    assert SpinIdleBoard().detect(board_minutes(720, serving_mj=9, power_ratio=0.9)) == []
    assert SpinIdleBoard().detect(board_minutes(720, idle_empty_mj=9, power_ratio=0.15)) == []


def counted(
    count: int, energy_ratio: float = 1.0, scatter: float = 0.03, seed: int = 0, watts: float = 480
) -> BoardMinutes:
    """A board whose counter counts this part of what its power makes; the power readings scatter."""
    power_w = watts * np.exp(np.random.default_rng(seed).normal(0, scatter, count))
    return board_minutes(count, serving_mj=watts * 60_000 * energy_ratio, power_mw=power_w * 1000)


@pytest.mark.parametrize("energy_ratio", [0.5, 0.85, 2.0])
def test_a_counter_at_another_rate_than_the_power_beside_it_is_found(energy_ratio: float) -> None:
    table = joined(counted(60), counted(600, energy_ratio, seed=1), counted(60, seed=2))
    (incident,) = TelemetryUntrusted().detect(table)
    assert abs(incident.since_us - 60 * MINUTE_US) <= 5 * MINUTE_US
    assert incident.known_us - 60 * MINUTE_US <= 14 * MINUTE_US
    assert incident.evidence["counter_over_power_ratio"] == pytest.approx(energy_ratio, rel=0.05)
    assert TelemetryUntrusted().detect(_until(table, incident.known_us // MINUTE_US))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("energy_ratio", "scatter", "watts"), [(1.06, 0.02, 480), (1.0, 0.3, 480), (0.8, 0.02, 70)])
def test_few_looks_at_the_power_and_watts_at_rest_are_no_proof(
    energy_ratio: float, scatter: float, watts: float, seed: int
) -> None:
    assert TelemetryUntrusted().detect(counted(3000, energy_ratio, scatter, seed, watts)) == []


def test_a_counter_that_stands_still_is_not_one_that_was_never_there() -> None:
    frozen = {"serving_mj": 480 * 60_000, "estimated_mj": 480 * 60_000}
    assert TelemetryUntrusted().detect(board_minutes(600, **frozen)) == []
    (incident,) = TelemetryUntrusted().detect(joined(board_minutes(30, serving_mj=9), board_minutes(60, **frozen)))
    assert "stood still or was gone" in incident.summary
    assert "480 W" in incident.summary


def test_boards_that_fall_silent_together_are_one_finding_of_their_node() -> None:
    silence = np.tile(np.where((np.arange(120) >= 40) & (np.arange(120) < 80), 60_000_000, 0), 3)
    table = board_minutes(120, boards=3, serving_mj=9, untrusted_us=silence)
    assert [each.subject for each in TelemetryUntrusted().detect(table)] == [0, 1, 2]
    (incident,) = TelemetryUntrusted().detect(dataclasses.replace(table, node=np.zeros(3, np.int64)))
    assert (incident.subject, incident.since_us, incident.until_us) == (0, 40 * MINUTE_US, 80 * MINUTE_US)
    assert "all 3 boards of the node" in incident.summary
    elsewhere = dataclasses.replace(table, node=np.array([0, 0, 1]))
    assert [each.subject for each in TelemetryUntrusted().detect(elsewhere)] == [0, 2]


def frozen_counters(count: int, running: Any, power_ratio: float = 0.85) -> EngineMinutes:
    return engine_minutes(count, serving_mj=BUSY_MJ, requests_running=running, power_ratio=power_ratio)


def test_counters_that_stand_still_while_the_batch_moves_are_no_spinning() -> None:
    running = np.random.default_rng(0).poisson(40, 60)
    found = detect_engines(joined(busy(30), frozen_counters(60, running), busy(30)))
    ((detector, incident),) = found
    assert (detector.kind, incident.energy_mj) == ("telemetry-untrusted", 0)
    assert incident.since_us <= 31 * MINUTE_US
    assert incident.known_us - incident.since_us <= 10 * MINUTE_US
    assert "check the scrape" in incident.remedy.lower()


def test_a_hang_does_not_move_and_is_spinning() -> None:
    ((detector, incident),) = detect_engines(joined(busy(30), frozen_counters(60, 40), busy(30)))
    assert (detector.kind, incident.energy_mj) == ("spin-idle", 60 * BUSY_MJ)


def test_an_engine_that_only_reads_does_not_spin() -> None:
    reading = engine_minutes(60, serving_mj=BUSY_MJ, input_tokens=90_000, requests_running=8, power_ratio=0.6)
    assert detect_engines(reading) == []
