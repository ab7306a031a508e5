"""cache-miss: hits fall below the workload's own normal, and what that cost is the prefill that came back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from support import naive_workloads as naive
from support.curve_shapes import PREFILL_MJ, law
from support.minutes import engine_minutes, joined, side_by_side
from support.replicas import assert_known_when_said, detected, without
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.cache_miss import CacheMiss, hit_ratios, is_warm
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes

INPUT = 100_000


def prompts(count: int, ratio: float, seed: int = 0, noise: float = 0.03, **more: Any) -> EngineMinutes:
    """Minutes of one engine of workload 0 that finds this share of its input in the cache, but for noise."""
    rng = np.random.default_rng(seed)
    hits = np.clip(ratio + rng.normal(0, noise, count), 0, 1)
    columns: dict[str, Any] = {
        "workload": 0,
        "curve": 0,
        "curves": law(),
        "serving_mj": 30_000_000,
        "expected_mj": 30_000_000.0,
        "output_tokens": 20_000,
        "input_tokens": INPUT,
        "cached_input_tokens": INPUT * hits,
        "version": 1,
    }
    return engine_minutes(count, **columns | more)


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


def test_a_fall_of_the_hit_ratio_costs_the_prefill_of_what_was_missed() -> None:
    incident = only(detected(CacheMiss(), joined(prompts(600, 0.6), prompts(120, 0.3, 1), prompts(120, 0.6, 2))))
    assert abs(incident.since_us - 600 * MINUTE_US) <= 3 * MINUTE_US
    assert incident.known_us - 600 * MINUTE_US <= 10 * MINUTE_US
    assert abs(incident.until_us - 720 * MINUTE_US) <= 6 * MINUTE_US
    assert incident.over
    assert incident.energy_mj == pytest.approx(120 * 0.3 * INPUT * PREFILL_MJ, rel=0.05)
    assert incident.evidence["hit_ratio_before"] == pytest.approx(0.6, abs=0.01)
    assert incident.evidence["hit_ratio"] == pytest.approx(0.3, abs=0.03)
    assert "enable_prefix_caching" in incident.remedy


@pytest.mark.parametrize("fall", [0.0, 0.05, 0.08])
def test_a_small_fall_is_the_traffics(fall: float) -> None:
    assert detected(CacheMiss(), joined(prompts(600, 0.6), prompts(600, 0.6 - fall, 1))) == []


def test_a_lasting_fall_never_becomes_the_normal() -> None:
    incident = only(detected(CacheMiss(), joined(prompts(600, 0.6), prompts(4000, 0.3, 1))))
    assert not incident.over
    assert incident.evidence["hit_ratio_before"] == pytest.approx(0.6, abs=0.01)


def test_longer_prompts_with_the_same_ratio_are_no_miss() -> None:
    usual = prompts(300, 0.6, 1)
    cached = usual.cached_input_tokens * 3
    longer = dataclasses.replace(usual, input_tokens=usual.input_tokens * 3, cached_input_tokens=cached)
    assert detected(CacheMiss(), joined(prompts(600, 0.6), longer)) == []


def test_without_a_price_the_energy_above_the_curve_is_the_cost() -> None:
    dear = prompts(120, 0.3, 1, serving_mj=33_000_000)
    table = joined(prompts(600, 0.6), dear, prompts(60, 0.6, 2))
    free = dataclasses.replace(table, curves=law(prefill_mj=0.0))
    incident = only(detected(CacheMiss(), free))
    assert incident.energy_mj == pytest.approx(120 * 3_000_000, rel=0.05)
    assert incident.evidence["impact_from"] == "energy above the curve at equal load"


def test_engines_that_do_not_count_hits_say_nothing() -> None:
    assert detected(CacheMiss(), prompts(900, 0.6, cached_input_tokens=-1)) == []


def test_a_cache_that_is_cold_after_a_restart_is_no_finding() -> None:
    table = joined(prompts(600, 0.6), prompts(5, 0.6), prompts(14, 0.1, 1), prompts(300, 0.6, 2))
    down = np.zeros(table.minute_us.size, bool)
    down[600:605] = True
    assert detected(CacheMiss(), without(table, down)) == []
    assert detected(CacheMiss(), table) != [], "with no restart it would be one"


def test_a_deploy_of_one_after_the_other_is_no_finding() -> None:
    engines = [
        joined(prompts(600 + 20 * i, 0.6, i), prompts(14, 0.1, 9, version=2), prompts(386 - 20 * i, 0.6, 10, version=2))
        for i in range(3)
    ]
    assert detected(CacheMiss(), side_by_side(engines)) == []


def test_a_new_version_that_misses_for_good_is_named() -> None:
    table = joined(prompts(600, 0.6), prompts(300, 0.2, 1, version=2))
    incident = only(detected(CacheMiss(), table))
    assert incident.evidence["coincides_with"] == "change of version"
    assert "since a change of version" in incident.summary
    assert incident.known_us <= 625 * MINUTE_US


def test_it_is_about_the_workload_and_weighs_its_engines_by_their_input() -> None:
    """One of four misses all: the workload's ratio falls by a quarter of that."""
    whole = [prompts(900, 0.6, i) for i in range(3)]
    spoilt = joined(prompts(600, 0.6, 4), prompts(300, 0.0, 5))
    incident = only(detected(CacheMiss(), side_by_side([*whole, spoilt])))
    assert incident.subject == 0
    assert incident.energy_mj == pytest.approx(300 * 0.6 * INPUT * PREFILL_MJ, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_is_quiet_and_a_fall_is_known_in_data_that_end_there(seed: int) -> None:
    assert detected(CacheMiss(), prompts(10_000, 0.5, seed, noise=0.08)) == []
    assert_known_when_said(CacheMiss(), joined(prompts(300, 0.5, seed), prompts(60, 0.3, seed + 50)))


@pytest.mark.parametrize("seed", range(3))
def test_a_ratio_that_wanders_by_itself_must_fall_farther(seed: int) -> None:
    """Two users with long prompts: hits come in spells of ten minutes, for no reason but who asks."""
    rng = np.random.default_rng(seed)
    spells = np.repeat(np.clip(0.5 + rng.normal(0, 0.1, 300), 0.2, 0.8), 10)
    wandering = dataclasses.replace(
        prompts(3000, 0.5, seed),
        cached_input_tokens=np.round(prompts(3000, 0.5, seed).input_tokens * spells).astype(int),
    )
    assert len(detected(CacheMiss(), wandering)) <= 2, "in two days"
    assert len(detected(CacheMiss(), joined(wandering, prompts(120, 0.05, seed)))) >= 1


@pytest.mark.parametrize("seed", range(4))
def test_the_normal_is_the_median_of_minutes_that_were_normal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = np.where(rng.random(2000) < 0.05, 0, rng.integers(1, 5000, 2000))
    ratio = np.where((np.arange(2000) % 700) > 600, 0.2, 0.7) + rng.normal(0, 0.07, 2000)
    cached = rng.binomial(inputs, np.clip(ratio, 0, 1))
    unknown = naive.hit_ratios(cached.tolist(), inputs.tolist())
    known = naive.hit_ratios(cached.tolist(), inputs.tolist(), 0.5 + seed / 10)
    offsets, usual = np.array([0, 2000, 4000]), np.array([np.nan, 0.5 + seed / 10])
    smoothed, normal, least = hit_ratios(offsets, np.tile(cached, 2), np.tile(inputs, 2), usual)
    assert smoothed.tolist() == pytest.approx(unknown[0] + known[0], nan_ok=True)
    assert normal.tolist() == pytest.approx(unknown[1] + known[1], nan_ok=True)
    assert least.tolist() == pytest.approx(unknown[2] + known[2])
    assert least.max() > 0.12


@pytest.mark.parametrize("seed", range(4))
def test_warm_is_15_minutes_after_a_start(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = engine_minutes(200, engines=2, version=rng.choice([-1, 1, 2], 400, p=[0.1, 0.88, 0.02]))
    table = without(table, rng.random(400) < np.where(np.arange(400) % 200 < 20, 0.9, 0.05))
    assert is_warm(table).tolist() == naive.is_warm(table)
