"""The scoreboard itself: its world has the truth it claims, its matching is fair, and detectors stay above a floor."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from scoreboard.adapter import Told, found_when_cut, watch
from scoreboard.figures import FIGURES
from scoreboard.physics import build
from scoreboard.plan import BENIGN, DAY, KINDS, Plan, draw
from scoreboard.rules import thresholds
from scoreboard.score import Finding, match, row, table
from scoreboard.truth import Label
from scoreboard.world import World, simulate

SEEDS = (9, 10)  # neither tuned on nor reported
LEAST = 0.9


@pytest.fixture(scope="module")
def weeks() -> list[tuple[Plan, World, Told]]:
    told = []
    for seed in SEEDS:
        plan = draw(seed)
        world = simulate(plan, seed)
        told.append((plan, world, watch(world)))
    return told


def test_the_simulated_world_knows_nothing_of_the_detectors() -> None:
    """Only the adapter may bring them together."""
    folder = Path(__file__).parent
    for file in folder.glob("*.py"):
        names = [
            alias.name if isinstance(node, ast.Import) else node.module or ""
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        ]
        strangers = [name for name in names if name.startswith("wattmill_")]
        assert file.name == "adapter.py" or strangers == [], file.name


def test_a_seed_is_a_week_and_another_seed_another() -> None:
    one, same, other = draw(9, days=2), draw(9, days=2), draw(10, days=2)
    assert one.events == same.events != other.events
    first, second = simulate(one, 9), simulate(same, 9)
    for name, column in first.engines.columns.items():
        assert np.array_equal(column, second.engines.columns[name], equal_nan=True), name


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{f.model}-{f.accelerator}")
def test_a_larger_batch_is_cheaper_and_faster(figure: object) -> None:
    plant = build(next(f for f in FIGURES if f is figure), np.random.default_rng(1))
    batch = np.array([0.2, 1.0, 4.0, 16.0, 64.0])
    assert (np.diff(plant.rate(batch)) > 0).all()
    assert (np.diff(plant.decode_j(batch)) < 0).all()
    assert np.allclose(plant.batch(plant.rate(batch)), batch, rtol=0.02)


def test_energy_is_that_of_its_tokens_and_boards_add_up_to_their_engines(weeks: list[tuple[Plan, World, Told]]) -> None:
    """Over minutes of plain serving, power = output x cost at the batch + computed input x price, but for noise."""
    plan, world, _ = weeks[0]
    e = world.engines.columns
    busy_workloads = {event.workload for event in plan.events if event.kind not in BENIGN}
    checked = 0
    for engine, workload in enumerate(world.engine_workload.tolist()):
        mine = world.board_engine == engine
        for name in ("serving_mj", "idle_loaded_mj"):
            here = world.engines.present[engine]
            boards = world.boards.columns[name][mine].sum(axis=0)
            assert np.array_equal(boards[here], e[name][engine][here])
        if workload in busy_workloads:
            continue
        plant = plan.specs[workload].plant
        # Where the batch was looked at often enough to be known.
        plain = world.engines.present[engine] & (e["requests_running"][engine] * world.engine_looks[engine] >= 100)
        if plain.sum() < 60:
            continue
        computed = e["input_tokens"][engine] - e["cached_input_tokens"][engine]
        cost = e["output_tokens"][engine] * plant.decode_j(e["requests_running"][engine]) + computed * plant.prefill_j
        ratio = (e["serving_mj"][engine] / 1000)[plain] / cost[plain]
        assert 0.93 < np.median(ratio) < 1.07
        checked += 1
    assert checked


def test_every_kind_is_there_and_truth_is_within_what_was_spent(weeks: list[tuple[Plan, World, Told]]) -> None:
    labels = [label for _, world, _ in weeks for label in world.labels]
    assert {label.kind for label in labels} == set(KINDS)
    for _, world, _ in weeks:
        for label in world.labels:
            span = slice(label.since, label.until)
            if label.kind == "telemetry-untrusted":
                assert label.energy_mj == 0
                continue
            engines = list(label.engines)
            spent = sum(world.engines.columns[c][engines, span].sum() for c in ("serving_mj", "idle_loaded_mj"))
            spent += world.boards.columns["idle_empty_mj"][list(label.boards), span].sum()
            assert 0 <= label.energy_mj <= 1.05 * spent
            if label.kind in ("idle-loaded", "spin-idle", "idle-empty"):
                assert label.energy_mj == pytest.approx(spent, rel=0.1)


def test_what_is_benign_has_no_label() -> None:
    plan = draw(9, days=3)
    quiet = dataclasses.replace(plan, events=tuple(e for e in plan.events if e.benign))
    assert {label.kind for label in simulate(quiet, 9).labels} == {"low-batch"}  # the workload that always is


LABEL = Label("throttled", 2, (7,), (), 2000, 2100, 1_000)


def finding(**changes: object) -> Finding:
    usual = Finding("throttled", -1, 7, -1, since=2003, until=2100, known=2009, energy_mj=900)
    return dataclasses.replace(usual, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "right"),
    [
        (finding(), True),
        (finding(engine=-1, workload=2), True),
        (finding(since=2110, until=2130, known=2114), True),
        (finding(since=2120, until=2130, known=2124), False),
        (finding(since=1900, known=1990), False),
        (finding(engine=6), False),
        (finding(kind="straggler"), False),
    ],
)
def test_a_finding_is_right_about_kind_subject_and_time(one: Finding, right: bool) -> None:
    result = match([LABEL], [one], 1, DAY)
    assert bool(result.found[0][1]) is right
    assert bool(result.false) is not right


def test_figures_of_a_kind_by_hand() -> None:
    other = dataclasses.replace(LABEL, engines=(8,), energy_mj=500)
    told = [finding(), finding(since=2060, known=2066, energy_mj=0), finding(engine=3)]
    figures = row("throttled", [match([LABEL, other], told, workloads=2, minutes=7 * DAY)])
    assert (figures.labels, figures.recall, figures.splits) == (2, 0.5, 1)
    assert figures.precision == pytest.approx(2 / 3)
    assert (figures.delay, figures.false_per_workload_week) == (9, 0.5)
    assert figures.energy_error == pytest.approx(0.1)


def test_the_detectors_stay_above_a_floor(weeks: list[tuple[Plan, World, Told]]) -> None:
    """The scoreboard proper has more weeks; this says that nothing has come apart."""
    results = [match(w.labels, t.findings, len(p.specs), p.minutes - DAY) for p, w, t in weeks]
    text = table(results)
    found = sum(1 for result in results for _, mine in result.found if mine)
    right = sum(len(mine) for result in results for _, mine in result.found)
    assert found >= LEAST * sum(len(result.found) for result in results), text
    assert right >= LEAST * (right + sum(len(result.false) for result in results)), text


def test_what_is_found_is_found_in_data_that_end_there(weeks: list[tuple[Plan, World, Told]]) -> None:
    _, world, told = weeks[1]
    sample = told.findings[:: max(1, len(told.findings) // 12)]
    late = [f for f in sample if not found_when_cut(world, told, f)]
    assert late == []


def test_fixed_thresholds_see_idle_boards_and_much_that_is_none(weeks: list[tuple[Plan, World, Told]]) -> None:
    results = [match(w.labels, thresholds(w), len(p.specs), p.minutes - DAY) for p, w, _ in weeks]
    assert row("idle-empty", results).recall == 1.0
    assert (row("regression", results).precision or 0) < 0.5
