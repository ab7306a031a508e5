"""throttled: harmful clock-event reasons that last, and a power cap only where it costs speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.minutes import joined
from support.replicas import TOKENS, USUAL_MJ, assert_known_when_said, detected, replicas
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes
from wattmill_analytics.findings.throttled import Throttled

CAP, SLOWDOWN, THERMAL, HOT, BRAKE = 0x4, 0x8, 0x20, 0x40, 0x80


def serving(count: int, speed: float = 1.0, power: float = 1.0, **more: Any) -> EngineMinutes:
    """One engine that makes `speed` of the usual tokens at `power` of the usual power; the curve knows both."""
    usual: dict[str, Any] = {
        "output_tokens": int(speed * TOKENS),
        "serving_mj": int(power * USUAL_MJ),
        "expected_mj": speed * USUAL_MJ,
    }
    return replicas(count, 1, **usual | more)


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


@pytest.mark.parametrize("bit", [SLOWDOWN, THERMAL, HOT, BRAKE])
def test_a_harmful_reason_that_lasts_is_found_within_eight_minutes(bit: int) -> None:
    hot = serving(30, speed=0.7, power=0.8, clock_event_reasons=bit | CAP)
    incident = only(detected(Throttled(), joined(serving(60), hot, serving(60))))
    assert (incident.since_us, incident.until_us, incident.over) == (60 * MINUTE_US, 90 * MINUTE_US, True)
    assert incident.known_us - incident.since_us <= 8 * MINUTE_US
    assert incident.energy_mj == 30 * (int(0.8 * USUAL_MJ) - int(0.7 * USUAL_MJ))
    assert incident.evidence["tokens_lost"] == 30 * (TOKENS - int(0.7 * TOKENS))
    assert incident.evidence["speed_ratio"] == 0.7


def test_reasons_are_told_in_words_with_their_minutes() -> None:
    table = joined(serving(10, clock_event_reasons=HOT), serving(20, clock_event_reasons=HOT | BRAKE))
    incident = only(detected(Throttled(), table))
    assert incident.evidence["reasons"] == "hardware thermal slowdown and hardware power brake"
    assert incident.evidence["minutes_hardware_thermal_slowdown"] == 30
    assert incident.evidence["minutes_hardware_power_brake"] == 20
    assert "nvidia-smi" in incident.remedy
    assert "power supplies" in incident.remedy


@pytest.mark.parametrize("bit", [0, 0x1, 0x2, 0x10, 0x100, CAP])
def test_other_reasons_are_how_boards_live(bit: int) -> None:
    assert detected(Throttled(), serving(600, clock_event_reasons=bit)) == []


def test_a_short_slowdown_is_left_alone() -> None:
    table = joined(*[serving(4, clock_event_reasons=SLOWDOWN), serving(30)] * 5)
    assert detected(Throttled(), table) == []


def test_an_idle_board_is_not_throttled() -> None:
    assert detected(Throttled(), serving(60, clock_event_reasons=THERMAL, serving_mj=0, output_tokens=0)) == []


def test_a_cooler_board_that_spends_less_a_token_costs_nothing_but_tokens() -> None:
    incident = only(detected(Throttled(), serving(60, speed=0.85, power=0.6, clock_event_reasons=THERMAL)))
    assert incident.energy_mj == 0
    assert incident.evidence["tokens_lost"] == 60 * (TOKENS - int(0.85 * TOKENS))


def test_without_a_curve_the_reasons_count_alone_and_it_says_so() -> None:
    nan = float("nan")
    table = serving(60, curve=-1, clock_event_reasons=THERMAL, expected_mj=nan, expected_output_tokens=nan)
    incident = only(detected(Throttled(), table))
    assert incident.energy_mj == 0
    assert incident.evidence["judged_by"] == "clock-event reasons alone, no curve yet"
    table = serving(60, curve=-1, clock_event_reasons=CAP, expected_mj=nan, expected_output_tokens=nan)
    assert detected(Throttled(), table) == []


def test_a_lowered_power_limit_is_found_by_the_speed_it_costs() -> None:
    capped = serving(60, speed=0.85, power=0.75, clock_event_reasons=CAP)
    table = joined(serving(120, clock_event_reasons=CAP), capped, serving(60, clock_event_reasons=CAP))
    incident = only(detected(Throttled(), table))
    assert incident.since_us == 120 * MINUTE_US
    assert incident.known_us - incident.since_us <= 8 * MINUTE_US
    assert incident.evidence["reasons"] == "software power cap"
    assert "nvidia-smi -pl" in incident.remedy


def test_long_prompts_slow_decoding_at_full_power_and_are_not_a_cap() -> None:
    table = joined(serving(120, clock_event_reasons=CAP), serving(120, speed=0.7, power=1.05, clock_event_reasons=CAP))
    assert detected(Throttled(), table) == []


def test_a_small_loss_of_speed_at_the_cap_is_normal() -> None:
    assert detected(Throttled(), serving(600, speed=0.95, power=0.9, clock_event_reasons=CAP)) == []


def test_hidden_minutes_are_not_looked_at() -> None:
    table = serving(60, clock_event_reasons=THERMAL)
    assert Throttled().detect(table, np.ones(60, bool)) == []


def test_it_is_known_when_it_says() -> None:
    capped = serving(60, speed=0.85, power=0.75, clock_event_reasons=CAP)
    hot = serving(30, speed=0.7, power=0.8, clock_event_reasons=THERMAL)
    assert_known_when_said(Throttled(), joined(serving(60), hot, serving(90), capped, serving(60)))
