"""Options and scenario files: what is understood, what is refused, and what stands where."""

import dataclasses

import pytest

from wattmill_api.simulator.incidents import incidents_of_period
from wattmill_api.simulator.physics import boards_needed, load_curves
from wattmill_api.simulator.scenario import (
    INCIDENT_KINDS,
    NodePlan,
    Options,
    ScenarioError,
    duration_us,
    lay_out,
    parse_scenario,
    tiny,
)

START_US = 1_760_000_400_000_000
BOARDS = boards_needed(load_curves())


def laid_out(nodes: int, accelerators: int = 8, seed: int = 1) -> tuple[NodePlan, ...]:
    return lay_out(Options(nodes=nodes, accelerators=accelerators, seed=seed, start_us=START_US), BOARDS)


@pytest.mark.parametrize(
    ("text", "us"), [("90s", 90_000_000), ("1h30m", 5_400_000_000), ("0.5h", 1_800_000_000), ("2d", 172_800_000_000)]
)
def test_durations(text: str, us: int) -> None:
    assert duration_us(text, "--duration") == us


@pytest.mark.parametrize("text", ["", "10", "h", "-5s", "5 minutes", "1h x"])
def test_what_is_no_duration_names_the_option(text: str) -> None:
    with pytest.raises(ScenarioError, match="--backfill"):
        duration_us(text, "--backfill")


@pytest.mark.parametrize("accelerators", [1, 2, 4, 8, 16])
def test_replicas_fit_on_their_node_and_share_no_board(accelerators: int) -> None:
    for node in laid_out(12, accelerators):
        held = [b for e in node.engines for b in e.accelerators]
        assert node.engines
        assert len(held) == len(set(held))
        assert all(0 <= b < accelerators for b in held)
        for engine in node.engines:
            assert len(engine.accelerators) == BOARDS[engine.workload.model, node.hardware.name]


def test_eight_boards_are_filled() -> None:
    for node in laid_out(6):
        assert sum(len(e.accelerators) for e in node.engines) == 8


def test_a_node_keeps_its_boards_whatever_stands_beside_it() -> None:
    assert laid_out(2)[1].uuids == laid_out(9)[1].uuids
    assert laid_out(2)[1].uuids != laid_out(2, seed=2)[1].uuids


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nodes": 0}, "--nodes"),
        ({"accelerators": 65}, "--accelerators"),
        ({"interval_us": 7_000_000}, "--interval"),
        ({"interval_us": 500_000}, "--interval"),
        ({"start_us": START_US + 1}, "aligned"),
        ({"duration_us": 1}, "--duration"),
    ],
)
def test_bad_options_are_sentences(change: dict[str, int], says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        dataclasses.replace(Options(nodes=1, start_us=START_US), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1", "mapping"),
        ("a: [", "not YAML"),
        ("nodez: []", "nodez"),
        ("workloads: [{name: a}]", "model is required"),
        ("workloads: [{name: a, model: b, load_ratio: much}]", "load_ratio"),
        ("nodes: [{accelerator: TPU}]", "H100"),
        ("nodes: [{accelerator: H100, workloads: [nobody]}]", "nobody"),
        ("incidents: [{kind: flood}]", "flood"),
        ("incidents: [{kind: throttled, at: soon}]", "at must be a duration"),
    ],
)
def test_bad_scenarios_name_the_key(text: str, says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(text)


def test_an_empty_scenario_is_the_default() -> None:
    assert parse_scenario("") == Options(nodes=1, start_us=START_US).scenario


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ("{kind: idle-loaded, node: 3}", "2 nodes"),
        ("{kind: idle-loaded, node: 1, engine: 9}", "engine 9"),
        ("{kind: energy-glitch, node: 1, accelerator: 9, at: 5m}", "board 9"),
        ("{kind: energy-glitch, node: 1, at: 5m, form: odd}", "odd"),
        ("{kind: lost-readings, node: 1, at: 10s}", "third tick"),
    ],
)
def test_wishes_that_cannot_be_granted_are_refused(wish: str, says: str) -> None:
    options = dataclasses.replace(tiny(START_US), scenario=parse_scenario(f"seeded: false\nincidents: [{wish}]"))
    with pytest.raises(ScenarioError, match=says):
        incidents_of_period(options, lay_out(options, BOARDS), 0)


def test_a_day_of_a_fleet_has_every_kind_of_incident_and_leaves_most_replicas_well() -> None:
    options = Options(nodes=50, start_us=START_US, duration_us=duration_us("24h", ""))
    nodes = lay_out(options, BOARDS)
    found = incidents_of_period(options, nodes, 0)
    assert {i.kind for i in found} == set(INCIDENT_KINDS) - {"over-provisioned"}
    spoilt = {(i.node, i.engine) for i in found if i.kind in ("idle-loaded", "low-batch", "spin-idle", "idle-empty")}
    assert len(spoilt) < sum(len(n.engines) for n in nodes) / 2


@pytest.mark.parametrize("seed", range(8))
def test_no_reading_is_lost_near_a_restart_or_a_glitch(seed: int) -> None:
    options = Options(nodes=4, seed=seed, start_us=START_US, duration_us=duration_us("6h", ""))
    found = incidents_of_period(options, lay_out(options, BOARDS), 0)
    lost = [i for i in found if i.kind == "lost-readings"]
    fragile = ("engine-restart", "engine-start", "idle-empty", "energy-glitch")
    assert lost
    for gap in lost:
        for other in found:
            if other.node == gap.node and other.kind in fragile:
                for edge in (other.start_us, other.end_us):
                    assert not gap.start_us - 60_000_000 <= edge <= gap.end_us + 60_000_000
