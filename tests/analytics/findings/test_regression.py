"""regression: a workload's tokens become dearer at one moment, at equal load; what only looks like it stays quiet."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from support.minutes import side_by_side
from support.replicas import LOAD, USUAL_MJ, assert_known_when_said, costs, detected, replicas, without
from wattmill_analytics.curves import LOAD_BINS, Curves, position_of
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes
from wattmill_analytics.findings.regression import Regression

ALL = slice(None)


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


@pytest.mark.parametrize("engines", [1, 2, 5])
@pytest.mark.parametrize("factor", [1.12, 1.3, 1.5])
def test_the_moment_the_cost_and_the_end_of_a_regression(engines: int, factor: float) -> None:
    cost = costs(engines, 1_200, factor, ALL, slice(600, 1_000))
    incident = only(detected(Regression(), replicas(1_200, engines, cost=cost)))
    assert incident.subject == 0
    assert abs(incident.since_us / MINUTE_US - 600) <= 5
    assert abs(incident.until_us / MINUTE_US - 1_000) <= 10
    assert incident.over
    assert incident.energy_mj == pytest.approx(400 * engines * (factor - 1) * USUAL_MJ, rel=0.1)
    assert incident.evidence["energy_ratio"] == pytest.approx(factor, abs=0.02)
    assert incident.evidence["engines_affected"] == engines


def test_fifteen_percent_is_known_within_ten_minutes_in_the_median() -> None:
    delays: list[float] = []
    for seed in range(30):
        table = replicas(900, 1, seed, noise=0.06, cost=costs(1, 900, 1.15, ALL, slice(600, 900)))
        delays += [i.known_us / MINUTE_US - 600 for i in detected(Regression(), table) if i.until_us > 600 * MINUTE_US]
    assert len(delays) == 30
    assert np.median(delays) <= 10


def test_noise_alone_is_less_than_one_regression_in_fifty_workload_weeks() -> None:
    weeks = [replicas(10_080, 1, seed, noise=(0.03, 0.05, 0.08)[seed % 3], workload=seed) for seed in range(100)]
    assert len(detected(Regression(), side_by_side(weeks))) < 0.02 * 100


def test_one_bad_replica_is_not_the_workloads_regression() -> None:
    for engines in (2, 3, 8):
        cost = costs(engines, 600, 1.5, slice(0, 1), slice(200, 600))
        assert detected(Regression(), replicas(600, engines, cost=cost)) == []


def test_a_hot_day_is_three_percent() -> None:
    assert (
        detected(Regression(), replicas(1_440, 3, noise=0.05, cost=costs(3, 1_440, 1.03, ALL, slice(600, 1_200)))) == []
    )


def test_more_load_is_judged_at_its_load() -> None:
    busy = costs(3, 600, 2.0, ALL, slice(200, 600))
    assert detected(Regression(), replicas(600, 3, cost=busy, expected_mj=(USUAL_MJ * busy).ravel())) == []


def deployed(factor: float, warm_up: float = 1.0, versions: tuple[int, int] = (1, 2)) -> EngineMinutes:
    """Three replicas restarted one after the other, ten minutes each: six down, then five cold."""
    cost, version, lost = np.ones((3, 900)), np.full((3, 900), versions[0]), np.zeros((3, 900), bool)
    for engine in range(3):
        up = 600 + 10 * (engine + 1)
        lost[engine, up - 6 : up] = True
        cost[engine, up:] = factor
        cost[engine, up : up + 5] *= warm_up
        version[engine, up:] = versions[1]
    return without(replicas(900, 3, cost=cost, version=version.ravel()), lost.ravel())


def test_a_deploy_with_cold_minutes_is_no_regression() -> None:
    assert detected(Regression(), deployed(1.0, warm_up=2.5)) == []


def test_the_change_of_version_is_named_where_there_was_one() -> None:
    incident = only(detected(Regression(), deployed(1.25)))
    assert (incident.evidence["version_before"], incident.evidence["version_after"]) == (1, 2)
    assert "version" in incident.summary
    assert "rollout undo" in incident.remedy
    same = only(detected(Regression(), deployed(1.25, versions=(1, 1))))
    assert "version_before" not in same.evidence
    assert "version" not in same.summary


def test_a_change_of_version_hours_before_is_not_to_blame() -> None:
    version = np.where(np.arange(900) < 300, 1, 2)
    table = replicas(900, 1, cost=costs(1, 900, 1.3, ALL, slice(600, 900)), version=version)
    assert "version_before" not in only(detected(Regression(), table)).evidence


def test_a_version_that_comes_up_after_the_alarm_is_named() -> None:
    """The first replica's restart overloads the others; the new version is seen when it has come up."""
    version = np.where(np.arange(900) < 612, 1, 2)
    table = replicas(900, 1, cost=costs(1, 900, 1.4, ALL, slice(600, 900)), version=version)
    incident = only(detected(Regression(), table))
    assert incident.known_us < 612 * MINUTE_US
    assert (incident.evidence["version_before"], incident.evidence["version_after"]) == (1, 2)


def test_a_rise_that_looks_older_than_the_new_version_began_with_it() -> None:
    """7.5 % are no regression, but they are where the sum of what followed began."""
    cost = costs(1, 900, 1.075, ALL, slice(555, 600)) * costs(1, 900, 1.3, ALL, slice(600, 900))
    version = np.where(np.arange(900) < 600, 1, 2)
    old = only(detected(Regression(), replicas(900, 1, noise=0.001, cost=cost, version=1)))
    new = only(detected(Regression(), replicas(900, 1, noise=0.001, cost=cost, version=version)))
    assert old.since_us / MINUTE_US == pytest.approx(555, abs=5)
    assert new.since_us == 600 * MINUTE_US
    assert new.known_us == old.known_us


def test_the_edge_of_the_curve_that_only_strays_have_seen_says_nothing() -> None:
    """A bin above the loads that are really run holds minutes of the one below it, read too high."""
    at = int(position_of(LOAD) + 0.5)
    for strays, count in ((90, 0), (400, 1)):
        minutes = np.zeros((1, LOAD_BINS), np.int64)
        minutes[0, at - 3 : at] = 400
        minutes[0, at] = strays
        curves = Curves(np.ones((1, LOAD_BINS)), np.ones((1, LOAD_BINS)), np.zeros(1), minutes)
        table = replicas(900, 1, cost=costs(1, 900, 1.3, ALL, slice(600, 900)), curves=curves)
        assert len(detected(Regression(), table)) == count


def test_minutes_that_another_kind_explains_are_left_out() -> None:
    cost = costs(3, 600, 1.4, ALL, slice(300, 600))
    table = replicas(600, 3, cost=cost)
    assert Regression().detect(table, (cost > 1).ravel()) == []
    hidden = (cost > 1) & (np.arange(3) == 0)[:, None]
    incident = only(Regression().detect(table, hidden.ravel()))
    assert incident.energy_mj == pytest.approx(300 * 2 * 0.4 * USUAL_MJ, rel=0.1)


def test_an_engine_without_workload_or_curve_is_not_judged() -> None:
    cost = costs(1, 600, 1.4, ALL, slice(300, 600))
    assert detected(Regression(), replicas(600, 1, cost=cost, workload=-1)) == []
    unknown: dict[str, Any] = {"expected_mj": float("nan")}
    assert detected(Regression(), replicas(600, 1, cost=cost, **unknown)) == []
    none = replicas(0, 0)
    assert detected(Regression(), none) == []


def test_a_quiet_hour_does_not_end_it_and_a_quiet_day_does() -> None:
    for pause, count in ((120, 1), (13 * 60, 2)):
        table = replicas(700, 1, cost=costs(1, 700, 1.3, ALL, slice(300, 700)))
        later = table.minute_us + np.where(np.arange(700) >= 500, pause, 0) * MINUTE_US
        found = detected(Regression(), dataclasses.replace(table, minute_us=later))
        assert len(found) == count
        assert not found[-1].over


def test_it_is_known_when_it_says() -> None:
    cost = costs(2, 1_200, 1.2, ALL, slice(300, 500)) * costs(2, 1_200, 1.4, ALL, slice(800, 1_200))
    assert_known_when_said(Regression(), replicas(1_200, 2, cost=cost))
