"""The emitted lines are the real wire; an independent count of them gives the truth, to the unit."""

import collections
import dataclasses
import hashlib
import itertools
import json
from typing import Any

import pytest

from wattmill_api.simulator.fleet import Fleet
from wattmill_api.simulator.scenario import Options, duration_us, tiny
from wattmill_collector.wire import Batch, decode_header, decode_reading, encode_batch

START_US = 1_760_000_400_000_000
MOST_WATTS = 2000


def collected(options: Options) -> tuple[list[bytes], dict[str, Any]]:
    fleet = Fleet(options)
    lines = [line for _, _, line in fleet.batches()]
    return lines, fleet.truth()


class NaiveCount:
    """Counts as a careful person with a pencil would: one series at a time, in order of time."""

    def __init__(self, lines: list[bytes]) -> None:
        seen: dict[tuple[str, int], bytes] = {}
        self.series: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = collections.defaultdict(list)
        self.first_seen: dict[str, int] = {}
        self.node_of: dict[str, str] = {}
        for line in lines:
            batch = json.loads(line)
            key = (batch["stream"], batch["sequence"])
            if key in seen:
                assert seen[key] == line
                continue
            seen[key] = line
            node, time_us = batch["node"]["name"], batch["time_us"]
            self.first_seen[node] = min(time_us, self.first_seen.get(node, time_us))
            for reading in batch["readings"]:
                if reading["kind"] == "absence":
                    continue
                name = {"accelerator": "uuid", "engine": "target", "host": "domain"}[reading["kind"]]
                identity = reading[name] if name != "domain" else f"{node}/{reading[name]}"
                self.node_of[identity] = node
                self.series[reading["kind"], identity].append((time_us, reading))
        self.batches = len(seen)
        for readings in self.series.values():
            readings.sort(key=lambda r: r[0])

    def energy_mj(self, uuid: str) -> int:
        total, before = 0, None
        for time_us, reading in self.series["accelerator", uuid]:
            if before is not None:
                rise = reading["energy_mj"] - before[1]
                if not 0 <= rise <= MOST_WATTS * (time_us - before[0]) // 1000:
                    continue
                total += rise
            before = (time_us, reading["energy_mj"])
        return total

    def tokens(self, target: str, field: str) -> int:
        total = 0
        before: tuple[int, dict[str, Any]] | None = None
        for time_us, reading in self.series["engine", target]:
            watched_us = before[0] if before else self.first_seen[self.node_of[target]]
            if before is not None and before[1]["epoch"] == reading["epoch"]:
                assert reading[field] >= before[1][field]
                total += reading[field] - before[1][field]
            elif reading["epoch_start_us"] > watched_us:
                assert reading["epoch_start_us"] < time_us
                total += reading[field]
            else:
                assert before is None, "an engine changed its epoch without evidence"
            before = (time_us, reading)
        return total

    def host_uj(self, node: str) -> int:
        total = 0
        for (kind, identity), readings in self.series.items():
            if kind == "host" and self.node_of[identity] == node:
                values = [r["energy_uj"] for _, r in readings]
                size = readings[0][1]["energy_range_uj"]
                assert max(values) < size
                total += sum((b - a) % size for a, b in itertools.pairwise(values))
        return total


def assert_true(lines: list[bytes], truth: dict[str, Any]) -> None:
    count = NaiveCount(lines)
    assert {u: count.energy_mj(u) for u in truth["accelerators"]} == {
        u: a["energy_mj"] for u, a in truth["accelerators"].items()
    }
    for target, engine in truth["engines"].items():
        for field in ("input_tokens", "cached_input_tokens", "output_tokens"):
            assert count.tokens(target, field) == engine[field], (target, field)
    for node, energy in truth["nodes"].items():
        assert count.host_uj(node) == energy["host_energy_uj"]
    assert count.batches == truth["batches"]
    assert truth["totals"]["energy_mj"] == sum(a["energy_mj"] for a in truth["accelerators"].values())
    assert truth["totals"]["energy_mj"] > 0
    for name in ("input", "cached_input", "output"):
        assert truth["totals"]["tokens"][name] == sum(e[f"{name}_tokens"] for e in truth["engines"].values())
        assert truth["totals"]["tokens"][name] == sum(w[f"{name}_tokens"] for w in truth["workloads"].values())


@pytest.mark.parametrize("seed", range(3))
def test_a_naive_count_of_the_lines_gives_the_truth(seed: int) -> None:
    assert_true(*collected(tiny(START_US, seed)))


@pytest.mark.parametrize(("seed", "continued"), [(0, 0), (1, 0), (2, 3)])
def test_seeded_incidents_leave_the_truth_exact(seed: int, continued: int) -> None:
    options = Options(nodes=3, seed=seed, start_us=START_US, duration_us=duration_us("3h", ""), interval_us=30_000_000)
    lines, truth = collected(dataclasses.replace(options, continued_nodes=continued))
    if continued:  # the last tick of the run before, as the service has it
        first = json.loads(lines[0])
        assert all(r["epoch_start_us"] > first["time_us"] - 30_000_000 for r in first["readings"])
        lines = [_before(json.loads(line)) for line in lines[:3]] + lines
        truth["batches"] += 3
        count = NaiveCount(lines)
        for target, engine in truth["engines"].items():
            assert count.tokens(target, "output_tokens") == engine["output_tokens"]
    else:
        assert_true(lines, truth)


def _before(batch: dict[str, Any]) -> bytes:
    """The same node one interval earlier, in another stream and in epochs that have ended."""
    batch["time_us"] -= batch["node"]["interval_us"]
    batch["stream"] = "before"
    batch["sequence"] = int(batch["node"]["name"].removeprefix("sim-"))
    for reading in batch["readings"]:
        reading["epoch"] = 1
        reading["epoch_start_us"] = 0
    return json.dumps(batch).encode()


def test_carried_on_boards_count_from_zero() -> None:
    options = dataclasses.replace(tiny(START_US), continued_nodes=2)
    lines, truth = collected(options)
    first = json.loads(lines[0])
    board = first["readings"][0]
    rest = NaiveCount(lines).energy_mj(board["uuid"])
    assert 0 < board["energy_mj"] < 10_000_000
    assert truth["accelerators"][board["uuid"]]["energy_mj"] == board["energy_mj"] + rest


def test_every_line_is_what_the_wire_would_have_written() -> None:
    for _, _, line in Fleet(tiny(START_US)).batches():
        stream, sequence, time_us, node, raw = decode_header(json.loads(line))
        readings = [decode_reading(r) for r in raw]
        assert encode_batch(Batch(stream, sequence, time_us, node, readings)) == line
        assert node.simulated
        assert node.labels["fleet"] == "tiny"


def test_the_same_options_give_the_same_bytes() -> None:
    def digest(options: Options) -> str:
        return hashlib.sha256(b"\n".join(line for _, _, line in Fleet(options).batches())).hexdigest()

    assert digest(tiny(START_US)) == digest(tiny(START_US))
    assert digest(tiny(START_US)) != digest(tiny(START_US, seed=2))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    scenario = dataclasses.replace(tiny(START_US).scenario, wishes=())
    short = Options(nodes=2, start_us=START_US, duration_us=duration_us("1h", ""), scenario=scenario)
    long = dataclasses.replace(short, duration_us=None)

    def readings(options: Options) -> list[Any]:
        batches = itertools.islice(Fleet(options).batches(), 2 * 361 - 1)
        return [json.loads(line)["readings"] for _, _, line in batches]

    assert readings(short) == readings(long)


def test_sequences_have_no_hole_and_times_stand_on_ticks() -> None:
    lines, truth = collected(tiny(START_US))
    by_stream: dict[str, set[int]] = collections.defaultdict(set)
    for line in lines:
        batch = json.loads(line)
        by_stream[batch["stream"]].add(batch["sequence"])
        assert batch["time_us"] % 10_000_000 == 0
    for sequences in by_stream.values():
        assert sequences == set(range(1, len(sequences) + 1))
    assert len(by_stream) == 2
    assert truth["start"] == "2025-10-09T09:00:00Z"
    assert truth["end"] == "2025-10-09T09:20:00Z"


def test_each_incident_shows_in_the_lines() -> None:
    lines, truth = collected(tiny(START_US))
    batches = [json.loads(line) for line in lines]
    keys = [(b["stream"], b["sequence"]) for b in batches]
    assert len(keys) - len(set(keys)) == 3, "three batches twice"
    times = {n: [b["time_us"] for b in batches if b["node"]["name"] == n] for n in ("sim-001", "sim-002")}
    assert times["sim-001"] != sorted(times["sim-001"]), "late ones come out of order"
    assert len(set(times["sim-002"])) == 121 - 12, "two minutes of readings are lost"
    refused = [r for b in batches for r in b["readings"] if r["kind"] == "absence"]
    assert {r["reason"] for r in refused} == {"connection_refused"}
    assert len(refused) == 8
    wasted = {i["kind"]: i["energy_mj"] for i in truth["incidents"] if i["energy_mj"] is not None}
    assert set(wasted) == {"idle-loaded", "idle-empty", "spin-idle", "low-batch", "throttled"}
    assert all(energy_mj > 0 for energy_mj in wasted.values())


def test_an_idle_replica_wastes_power_and_makes_no_tokens() -> None:
    lines, truth = collected(tiny(START_US))
    idle = next(i for i in truth["incidents"] if i["kind"] == "idle-loaded")
    spin = next(i for i in truth["incidents"] if i["kind"] == "spin-idle")
    assert idle["energy_mj"] / 300_000 == pytest.approx(196, rel=0.15)
    assert spin["energy_mj"] / 180_000 == pytest.approx(390, rel=0.15)
    count = NaiveCount(lines)
    mid_us = START_US + duration_us("8m", "")
    window = [
        r["output_tokens"] for t, r in count.series["engine", idle["subject"]] if mid_us < t < mid_us + 120_000_000
    ]
    assert len(window) > 5
    assert len(set(window)) == 1


def test_stopping_early_counts_only_what_was_sent() -> None:
    end_us = START_US + duration_us("13m", "")
    fleet = Fleet(tiny(START_US))
    lines = [e.line for e in fleet.emissions(lambda tick_us: tick_us <= end_us)]
    times = [json.loads(line)["time_us"] for line in lines]
    assert max(times) == end_us
    assert sum(t > START_US + duration_us("12m", "") for t in times) == 12, "what was held back came last"
    assert_true(lines, fleet.truth())


def test_no_package_wraps_inside_a_gap() -> None:
    options = Options(nodes=5, start_us=START_US, duration_us=duration_us("6h", ""))
    gaps = 0
    for (kind, _), readings in NaiveCount([line for _, _, line in Fleet(options).batches()]).series.items():
        for (before_us, before), (time_us, reading) in itertools.pairwise(readings):
            if kind == "host" and time_us - before_us > options.interval_us:
                gaps += 1
                assert reading["energy_uj"] >= before["energy_uj"]
    assert gaps
