"""low-batch: beside its siblings, or against published curves for an engine that never fills its batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from support.curve_shapes import PREFILL_MJ, decode_mj, law, tokens_a_minute
from support.minutes import engine_minutes, joined, side_by_side
from support.replicas import assert_known_when_said, detected
from wattmill_analytics.curves import least_factor
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.detectors import detect_engines
from wattmill_analytics.findings.low_batch import LowBatch, _saved
from wattmill_analytics.findings.minutes import MINUTE_US, EngineMinutes

DAY = 1440


def decoding(count: int, load: Any, **more: Any) -> EngineMinutes:
    """Minutes of one engine of workload 0 at a load, at the curve's cost, without input."""
    load = np.broadcast_to(np.asarray(load, np.float64), count)
    tokens = np.round(60 * 100 * load**0.75)
    columns: dict[str, Any] = {
        "workload": 0,
        "curve": 0,
        "curves": law(),
        "requests_running": load,
        "requests_waiting": 0,
        "output_tokens": tokens,
        "serving_mj": tokens * decode_mj(1) * load**-0.75,
        "expected_mj": tokens * decode_mj(1) * load**-0.75,
    }
    return engine_minutes(count, **columns | more)


def only(found: list[Incident]) -> Incident:
    (incident,) = found
    return incident


def test_an_engine_left_out_by_the_router_pays_the_price_of_its_batch() -> None:
    left_out = joined(decoding(60, 60), decoding(90, 6), decoding(60, 60))
    incident = only(detected(LowBatch(), side_by_side([decoding(210, 60), left_out, decoding(210, 60)])))
    assert (incident.subject, incident.since_us, incident.until_us) == (1, 60 * MINUTE_US, 150 * MINUTE_US)
    assert incident.known_us - incident.since_us == 10 * MINUTE_US
    assert incident.energy_mj == pytest.approx(90 * tokens_a_minute(6) * (decode_mj(6) - decode_mj(60)), rel=0.01)
    assert incident.evidence["mean_requests_running_of_siblings"] == 60.0
    assert "its siblings decode 60" in incident.summary


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (40, 60),  # an uneven router
        (25, 80),  # a third of the load, and a good batch
        (3, 6),  # a quiet night, unevenly spread
        (60, 60),
    ],
)
def test_uneven_routing_is_no_finding(mine: float, theirs: float) -> None:
    assert detected(LowBatch(), side_by_side([decoding(300, mine), decoding(300, theirs), decoding(300, theirs)])) == []


def test_siblings_that_are_slow_hold_many_requests_and_are_no_measure() -> None:
    slow = decoding(300, 60, output_tokens=tokens_a_minute(10))
    assert detected(LowBatch(), side_by_side([decoding(300, 10), slow])) == []


def test_a_lone_engine_whose_curve_knows_full_batches_waits_for_its_busy_hours() -> None:
    night = decoding(700, 8)
    assert detected(LowBatch(), night) == []
    assert detected(LowBatch(), joined(night, decoding(700, 60), night)) == []


def test_a_lone_engine_that_never_comes_near_a_full_batch_is_found_after_a_day() -> None:
    incident = only(detected(LowBatch(), decoding(2 * DAY, 6)))
    assert incident.known_us == (1320 + 10) * MINUTE_US


def test_a_curve_of_a_day_without_a_full_batch_says_so_at_once() -> None:
    incident = only(detected(LowBatch(), decoding(60, 6, curves=law(highest=8, minutes=200))))
    assert incident.known_us == 10 * MINUTE_US
    least = 1 - 1 / least_factor(np.array([6.0]))[0]
    assert incident.energy_mj == pytest.approx(60 * tokens_a_minute(6) * decode_mj(6) * least, rel=0.001)
    assert detected(LowBatch(), decoding(60, 6, curves=law(highest=8, minutes=20))) == [], "learnt from too little"


@pytest.mark.parametrize("seed", range(3))
def test_it_is_known_in_data_that_end_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = np.where(np.arange(300) < 100, 50, 5) * np.exp(rng.normal(0, 0.15, 300))
    table = side_by_side([decoding(300, load), decoding(300, 55), decoding(300, 55)])
    assert_known_when_said(LowBatch(), table)


def test_prefill_is_no_part_of_the_price_of_a_small_batch() -> None:
    """Two thirds of the energy here is for reading, which no batch makes cheaper."""
    curves = law(highest=8, minutes=200)
    writing_mj = tokens_a_minute(6) * decode_mj(6)
    read = round(2 * writing_mj / PREFILL_MJ)
    reading: dict[str, Any] = {
        "input_tokens": read,
        "cached_input_tokens": 0,
        "serving_mj": writing_mj + read * PREFILL_MJ,
    }
    least = 1 - 1 / least_factor(np.array([6.0]))[0]
    shares = []
    for known in (decoding(60, 6, curves=curves), decoding(60, 6, curves=curves, **reading)):
        rows = np.arange(60)
        shares.append(_saved(known, rows, np.full(60, np.nan))[0])
    assert shares == pytest.approx([least, least / 3], rel=0.01)
    assert detected(LowBatch(), decoding(60, 6, curves=curves, **reading)) == []


def test_without_a_price_nothing_is_said_of_engines_that_mostly_read() -> None:
    for read, says in ((1_000, True), (23 * 9_000, False)):
        columns: dict[str, Any] = {
            "serving_mj": 500 * 60_000,
            "output_tokens": 9_000,
            "requests_running": 8,
            "input_tokens": read,
        }
        assert bool(detected(LowBatch(), engine_minutes(300, **columns))) is says


def test_a_fresh_engine_is_left_alone_for_hours() -> None:
    columns: dict[str, Any] = {"serving_mj": 500 * 60_000, "output_tokens": 9_000, "requests_running": 8}
    assert detected(LowBatch(), engine_minutes(240, **columns)) == []


def test_what_the_engine_carried_in_the_days_before_is_not_forgotten() -> None:
    steady = decoding(60, 6, curves=law(highest=8, minutes=200))
    assert detected(LowBatch(), dataclasses.replace(steady, peak_requests_running=np.array([10.0])))
    assert detected(LowBatch(), dataclasses.replace(steady, peak_requests_running=np.array([45.0]))) == []


def quiet(count: int, load: float = 0.3, peak: float = 2_000.0) -> EngineMinutes:
    """A lone engine whose workload made `peak` tokens a second in its busiest hour before."""
    return dataclasses.replace(decoding(count, load), peak_tokens_per_s=np.array([peak]))


def test_an_engine_that_lost_its_traffic_is_found_after_six_hours() -> None:
    table = dataclasses.replace(joined(decoding(120, 60), quiet(1200)), peak_tokens_per_s=np.array([2_000.0]))
    incident = only(detected(LowBatch(), table))
    assert (incident.since_us, incident.known_us) == (120 * MINUTE_US, 480 * MINUTE_US)
    assert 0.7 * table.serving_mj[120:].sum() < incident.energy_mj < table.serving_mj[120:].sum()
    assert "quiet for 20 hours" in incident.summary
    assert_known_when_said(LowBatch(), table)


@pytest.mark.parametrize(
    "night",
    [
        quiet(350),  # short of six hours
        quiet(700, load=6),  # a tenth of the day's load and more
        dataclasses.replace(quiet(700), peak_tokens_per_s=np.array([np.nan])),  # who knows
    ],
)
def test_a_night_is_no_lost_traffic(night: EngineMinutes) -> None:
    table = joined(decoding(120, 60), night, decoding(60, 60))
    assert detected(LowBatch(), dataclasses.replace(table, peak_tokens_per_s=night.peak_tokens_per_s)) == []


# Field figures, accelerators only. ML.ENERGY v3: joules per output token at a batch. NRP (boettiger-lab/nrp-carbon-api,
# issue 3): watts and tokens a second of production models, two of which stood at their power for next to no token.
MLENERGY = {
    "Llama-3.1-8B": {8: 0.455, 16: 0.263, 32: 0.165, 64: 0.119, 128: 0.095, 255: 0.077, 511: 0.070},
    "Llama-3.1-70B": {8: 3.76, 16: 2.09, 32: 1.21, 64: 0.797, 128: 0.563, 255: 0.479, 511: 0.421},
}
NRP = (  # (watts, tokens a second, requests in the batch that such a rate stands for)
    (597.0, 2341.0, 128.0),
    (577.0, 360.0, 16.0),
    (783.0, 18.0, 1.0),
    (670.0, 0.0, 0.0),
    (447.0, 0.02, 0.02),
)


@pytest.mark.parametrize("model", MLENERGY)
@pytest.mark.parametrize("batch", [8, 16, 32, 255, 511])
def test_published_batches_of_8_to_32_are_found_and_from_255_on_none(model: str, batch: int) -> None:
    tokens = 60_000
    joules = MLENERGY[model][batch] * tokens
    found = detected(
        LowBatch(), engine_minutes(300, serving_mj=joules * 1000, output_tokens=tokens, requests_running=batch)
    )
    assert bool(found) is (batch <= 32)
    for incident in found:
        truth = 1 - MLENERGY[model][511] / MLENERGY[model][batch]
        share = incident.energy_mj / (60 * joules * 1000)
        assert share <= truth, "a lower bound"
        assert share > 0.5 * truth


def test_the_dearest_model_and_two_that_stand_idle_are_the_worst_of_a_production_fleet() -> None:
    rows = []
    for watts, rate, batch in NRP:
        energy: dict[str, Any] = {"serving_mj" if rate else "idle_loaded_mj": watts * 60_000}
        tokens = round(rate * 60)
        rows.append(engine_minutes(300, **energy, output_tokens=tokens, requests_running=batch, power_ratio=0.3))
    assert NRP[2][0] / NRP[2][1] == pytest.approx(43.5)
    found = detect_engines(side_by_side(rows))
    worst = sorted(found, key=lambda each: -each[1].energy_mj)
    assert {incident.subject for _, incident in worst[:3]} == {2, 3, 4}
    assert {detector.kind for detector, _ in found} == {"low-batch", "idle-loaded"}
