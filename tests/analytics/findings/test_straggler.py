"""straggler: one replica costs more than its siblings at equal load, or waits for one slow board."""

from __future__ import annotations

import math

import numpy as np
import pytest

from support.minutes import side_by_side
from support.replicas import USUAL_MJ, assert_known_when_said, costs, detected, replicas, without
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.minutes import MINUTE_US
from wattmill_analytics.findings.straggler import Straggler


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


@pytest.mark.parametrize("engines", [2, 3, 8])
@pytest.mark.parametrize("factor", [1.12, 1.25, 1.6])
def test_one_replica_dearer_than_its_siblings(engines: int, factor: float) -> None:
    cost = costs(engines, 900, factor, slice(1, 2), slice(600, 800))
    incident = only(detected(Straggler(), replicas(900, engines, cost=cost)))
    assert incident.subject == 1
    assert incident.over
    assert abs(incident.since_us / MINUTE_US - 600) <= 5
    assert abs(incident.until_us / MINUTE_US - 800) <= 10
    assert incident.known_us <= 620 * MINUTE_US
    assert incident.energy_mj == pytest.approx(200 * (factor - 1) * USUAL_MJ, rel=0.1)
    assert incident.evidence["siblings_compared"] == engines - 1
    assert "kubectl" in incident.remedy


@pytest.mark.parametrize("seed", range(5))
def test_equal_replicas_have_no_straggler(seed: int) -> None:
    assert detected(Straggler(), replicas(3_000, 6, seed, noise=0.06)) == []


def test_what_all_replicas_do_is_not_a_straggler() -> None:
    cost = costs(4, 900, 1.3, slice(0, 4), slice(500, 900))
    assert detected(Straggler(), replicas(900, 4, cost=cost)) == []


def test_of_two_that_differ_the_curve_says_which_is_wrong() -> None:
    better = replicas(600, 2, cost=costs(2, 600, 0.75, slice(0, 1), slice(100, 600)))
    assert detected(Straggler(), better) == []
    worse = replicas(600, 2, cost=costs(2, 600, 1.25, slice(0, 1), slice(100, 600)))
    assert only(detected(Straggler(), worse)).subject == 0


def test_more_load_on_one_replica_is_judged_at_its_load() -> None:
    dearer = costs(3, 600, 1.5, slice(0, 1), slice(200, 600))
    shifted = replicas(600, 3, cost=dearer, expected_mj=(USUAL_MJ * dearer).ravel())
    assert detected(Straggler(), shifted) == []


def test_a_canary_of_another_version_is_no_straggler() -> None:
    cost = costs(4, 600, 1.3, slice(0, 1), slice(200, 600))
    version = np.where(cost > 1, 2, 1).ravel()
    assert detected(Straggler(), replicas(600, 4, cost=cost, version=version)) == []


def test_five_cold_minutes_after_a_restart_are_not_judged() -> None:
    table = replicas(600, 3, cost=costs(3, 600, 2.0, slice(2, 3), slice(300, 305)))
    lost = np.zeros((3, 600), bool)
    lost[2, 294:300] = True
    assert detected(Straggler(), without(table, lost.ravel())) == []


@pytest.mark.parametrize("curve", [0, -1])
def test_a_slow_board_holds_its_replica_up_even_alone(curve: int) -> None:
    ratio = np.ones(300)
    ratio[100:200] = 0.85
    slow = ratio < 1
    table = replicas(
        300,
        1,
        cost=np.where(slow, 1.2, 1.0)[None, :],
        curve=curve,
        expected_mj=float(USUAL_MJ) if curve == 0 else math.nan,
        slow_board=np.where(slow, 77, 3),
        slow_board_ratio=ratio,
    )
    incident = only(detected(Straggler(), table))
    assert (incident.since_us, incident.until_us) == (100 * MINUTE_US, 200 * MINUTE_US)
    assert incident.known_us - incident.since_us <= 8 * MINUTE_US
    assert incident.evidence["slow_board"] == 77
    assert incident.evidence["slow_board_clock_ratio"] == 0.85
    assert incident.energy_mj == (pytest.approx(100 * 0.2 * USUAL_MJ, rel=0.1) if curve == 0 else 0)


def test_boards_that_clock_down_while_idle_hold_nobody_up() -> None:
    assert detected(Straggler(), replicas(300, 1, output_tokens=0, serving_mj=0, slow_board_ratio=0.3)) == []
    assert detected(Straggler(), replicas(300, 1, slow_board_ratio=0.95)) == []


def test_a_slow_board_and_dearer_tokens_are_one_finding() -> None:
    cost = costs(3, 600, 1.25, slice(0, 1), slice(300, 500))
    ratio = np.where(cost > 1, 0.8, 1.0).ravel()
    incident = only(detected(Straggler(), replicas(600, 3, cost=cost, slow_board=9, slow_board_ratio=ratio)))
    assert incident.evidence["slow_board_minutes"] == 200
    assert incident.evidence["siblings_compared"] == 2


def test_hidden_minutes_neither_accuse_nor_compare() -> None:
    cost = costs(3, 600, 1.4, slice(0, 1), slice(200, 600))
    assert Straggler().detect(replicas(600, 3, cost=cost), (cost > 1).ravel()) == []


def test_workloads_are_not_compared_with_each_other() -> None:
    dear = replicas(300, 2, cost=costs(2, 300, 1.4, slice(0, 2), slice(0, 300)))
    cheap = replicas(300, 4, workload=1)
    assert detected(Straggler(), side_by_side([dear, cheap])) == []


def test_it_is_known_when_it_says() -> None:
    cost = costs(4, 900, 1.2, slice(1, 2), slice(300, 500)) * costs(4, 900, 1.4, slice(3, 4), slice(600, 900))
    ratio = np.ones((4, 900))
    ratio[0, 700:800] = 0.8
    assert_known_when_said(Straggler(), replicas(900, 4, cost=cost, slow_board_ratio=ratio.ravel()))


def test_few_requests_say_little() -> None:
    cost = costs(3, 200, 1.25, slice(0, 1), slice(190, 200))
    assert detected(Straggler(), replicas(200, 3, cost=cost, noise=0.02, requests_running=60))
    assert detected(Straggler(), replicas(200, 3, cost=cost, noise=0.02, requests_running=2)) == []


def test_a_bad_sibling_does_not_make_stragglers_of_the_others_when_it_is_well_again() -> None:
    cost = costs(3, 1_500, 1.4, slice(0, 1), slice(200, 1_000))
    assert [i.subject for i in detected(Straggler(), replicas(1_500, 3, cost=cost))] == [0]
