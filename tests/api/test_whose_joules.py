"""Whose joules, asked as people ask: every joule and token belongs to one workload, to the unit, and all to the meters.

From readings of agents to the answers of the API; the truth is what the test turned the counters by.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from support.mill import START_US, Node
from wattmill_api import accounting
from wattmill_api.lifecycle import time_of
from wattmill_api.store.ingest import Interner
from wattmill_collector.catalogue import Histogram
from wattmill_collector.wire import AbsenceReading, AcceleratorReading, HostReading

KWH_MJ = 3_600_000_000
DAY = {"start": time_of(START_US).isoformat(), "end": time_of(START_US + 86_400_000_000).isoformat()}


class Hall:
    """Nodes whose readings are posted and closed, and the questions that are asked of them."""

    def __init__(self, client: TestClient, connection: psycopg.Connection[Any]) -> None:
        self.client, self.connection, self.interner = client, connection, Interner()

    def close(self, *nodes: Node) -> None:
        for node in nodes:
            node.post(self.connection, self.interner)
        while accounting.roll_up(self.connection):
            pass

    def rows(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        response = self.client.get(f"/api/v1/{path}", params={**DAY, **parameters} if path != "engines" else parameters)
        assert response.status_code == 200, response.text
        return list(response.json()["rows"])

    def efficiency(self, **parameters: Any) -> dict[str | None, dict[str, Any]]:
        """Rows of /efficiency by their workload."""
        rows = self.rows("efficiency", by="workload", **parameters)
        return {row["group"]["workload"]: row for row in rows}

    def accounts(self, **filters: str) -> dict[str, int]:
        """Energy by account, of a ledger that closes: in minutes, and in hours."""
        answers = [
            self.client.get("/api/v1/ledger", params={**DAY, "step": step, **filters}).json() for step in ("1m", "1h")
        ]
        sums: list[dict[str, int]] = []
        for answer in answers:
            assert answer["closes"] is not False, answer
            assert answer["residual_mj"] in (0, None)
            sums.append({})
            for row in answer["rows"]:
                sums[-1][row["account"]] = sums[-1].get(row["account"], 0) + row["energy_mj"]
        assert sums[0] == sums[1]
        return {account: energy for account, energy in sums[0].items() if energy}


@pytest.fixture
def hall(client: TestClient, database_url: str) -> Iterator[Hall]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Hall(client, connection)


def target(port: int) -> str:
    return f"http://127.0.0.1:{port}/metrics"


def test_two_models_on_disjoint_boards(hall: Hall) -> None:
    node, rng = Node(), random.Random(1)
    boards = [f"GPU-{i}" for i in range(4)]
    for uuid in boards:
        node.board(uuid)
    node.engine(target(8000), boards[:2], "chat", confidence="high", method="process")
    node.engine(target(8001), boards[2:], "code", confidence="high", method="process")
    node.tick()
    spent = dict.fromkeys(boards, 0)
    for _ in range(90):
        energy = {uuid: rng.randrange(1, 7_000_000) for uuid in boards}
        spent = {uuid: spent[uuid] + energy[uuid] for uuid in boards}
        node.tick(energy=energy, tokens={target(8000): (7, 3, 11), target(8001): (5, 0, 13)})
    hall.close(node)
    found = hall.efficiency()
    assert {name: row["energy_mj"] for name, row in found.items()} == {
        "chat": spent["GPU-0"] + spent["GPU-1"],
        "code": spent["GPU-2"] + spent["GPU-3"],
    }
    assert found["chat"]["tokens"] == {"input": 630, "cached_input": 270, "output": 990}
    assert found["code"]["tokens"] == {"input": 450, "cached_input": 0, "output": 1170}
    assert hall.accounts() == {"serving": sum(spent.values())}


def test_one_mig_board_with_three_tenants(hall: Hall) -> None:
    """Slices 3, 2 and 2 of 7. Millionths can't say that, and yet nothing is left over; who rests pays for its own."""
    node = Node()
    node.board("GPU-a")
    tenants = {"big": (target(8000), 428_571), "small": (target(8001), 285_714), "idle": (target(8002), 285_714)}
    for name, (url, share) in tenants.items():
        node.engine(url, ["GPU-a"], name, shares_ppm=(share,), share_by="mig", method="share", confidence="medium")
    node.tick()
    for nth in range(60):
        node.tick(energy={"GPU-a": 7_000_000}, tokens={target(8000): (nth, 0, 1), target(8001): (900, 0, 999)})
    hall.close(node)
    found = hall.efficiency()
    slice_mj = 60 * 1_000_000
    assert {name: row["energy_mj"] for name, row in found.items()} == {
        "big": 3 * slice_mj,
        "small": 2 * slice_mj,
        "idle": 2 * slice_mj,
    }
    assert hall.accounts() == {"serving": 5 * slice_mj, "idle-loaded": 2 * slice_mj}
    [row] = hall.client.get("/api/v1/accelerators").json()["rows"]
    assert {p["workload"]: p["share"] for p in row["placements"]} == {
        "big": 0.428571,
        "small": 0.285714,
        "idle": 0.285714,
    }
    assert {(p["share_by"], p["confidence"], p["method"]) for p in row["placements"]} == {("mig", "medium", "share")}


def test_a_mig_slice_that_is_nobodys_is_unattributed(hall: Hall) -> None:
    node = Node()
    node.board("GPU-a")
    node.engine(target(8000), ["GPU-a"], "chat", shares_ppm=(428_571,), share_by="mig")
    node.tick()
    for _ in range(30):
        node.tick(energy={"GPU-a": 7_000_003}, tokens={target(8000): (0, 0, 9)})
    hall.close(node)
    # 3/7 of each tick's 3 odd millijoules is 1.3, which no tick alone can give: all of them together do.
    whole = 30 * 7_000_003
    assert hall.accounts() == {"serving": whole * 3 // 7, "unattributed": whole - whole * 3 // 7}


def test_a_tensor_parallel_pair_across_two_nodes(hall: Hall) -> None:
    """Energy of both nodes, tokens of the one that has counters; nothing of it is called unknown."""
    leader, other, rng = Node("n1"), Node("n2"), random.Random(2)
    spent = {"n1": 0, "n2": 0}
    for node in (leader, other):
        for i in range(4):
            node.board(f"GPU-{node.header.name}-{i}")
    leader.engine(target(8000), list(leader.boards), "chat", confidence="high")
    other.worker("http://n1:8000/metrics", list(other.boards), "chat", confidence="high", activity_ppm=870_000)
    for node in (leader, other):
        node.tick()
        for _ in range(60):
            energy = {uuid: rng.randrange(1, 7_000_000) for uuid in node.boards}
            spent[node.header.name] += sum(energy.values())
            node.tick(energy=energy, tokens=dict.fromkeys(node.engines, (10, 4, 20)) if node is leader else {})
    hall.close(leader, other)
    [row] = hall.efficiency().values()
    everything = sum(spent.values())
    assert (row["energy_mj"], row["tokens"]) == (everything, {"input": 600, "cached_input": 240, "output": 1200})
    assert row["tokens_per_kwh"] == pytest.approx(1200 * KWH_MJ / everything, rel=1e-12)
    assert (row["quality"], row["coverage"], row["estimated_mj"]) == ("measured", 1.0, 0)
    assert not {"input_tokens", "cached_input_tokens", "output_tokens", "placement"} & set(row["missing"])
    by_node = {row["group"]["node"]: row for row in hall.rows("efficiency", by="node", workload="chat")}
    assert {node: row["energy_mj"] for node, row in by_node.items()} == spent
    assert [by_node[node]["tokens"]["output"] for node in ("n1", "n2")] == [1200, None]
    assert hall.accounts() == {"serving": everything}
    covered = "SELECT sum(covered_us)::bigint FROM engine_minute GROUP BY engine_id"
    assert hall.connection.execute(covered).fetchall() == [(600_000_000,), (600_000_000,)]


def test_a_worker_that_knows_the_name_alone_belongs_to_its_leaders_model_and_team(hall: Hall) -> None:
    """Also when it was read first: from the next minute on. Two models of one name leave it with the name."""
    leader, other = Node("n1"), Node("n2")
    leader.board("GPU-a")
    other.board("GPU-b")
    engine = leader.engine(target(8000), ["GPU-a"], "chat", model="llama-405b", team="search")
    other.worker("http://n1:8000/metrics", ["GPU-b"], "chat", model="", activity_ppm=1)
    nodes = (other, leader)
    for _ in range(19):
        for node in nodes:
            node.tick(
                energy=dict.fromkeys(node.boards, 1_000), tokens={engine.target: (0, 0, 1)} if node is leader else {}
            )
            node.post(hall.connection, hall.interner)
    hall.close(*nodes)
    rows = {row["group"]["team"]: row["energy_mj"] for row in hall.rows("efficiency", by="team")}
    assert rows == {"search": 18_000 + 14_000, None: 4_000}
    by_model = {row["group"]["model"]: row["energy_mj"] for row in hall.rows("efficiency", by="model")}
    assert by_model == {"llama-405b": 32_000, None: 4_000}
    leader.engine(target(8001), [], "chat", model="another")
    for _ in range(12):
        for node in (leader, other):
            node.tick(energy=dict.fromkeys(node.boards, 1_000))
            node.post(hall.connection, hall.interner)
    hall.close(*nodes)
    rows = {row["group"]["team"]: row["energy_mj"] for row in hall.rows("efficiency", by="team")}
    assert rows[None] > 4_000 + 6_000


def test_a_worker_rests_while_its_boards_do(hall: Hall) -> None:
    node = Node()
    node.board("GPU-a")
    worker = node.worker("worker:chat", ["GPU-a"], activity_ppm=0)
    node.tick()
    for activity_ppm in (0, 500_000, None, 1):
        worker.activity_ppm = activity_ppm
        for _ in range(6):
            node.tick(energy={"GPU-a": 100})
    hall.close(node)
    assert hall.accounts() == {"serving": 1200, "idle-loaded": 1200}


def test_a_router_before_four_engines_counts_nothing_again(hall: Hall) -> None:
    node = Node()
    router = node.engine(target(8080), ["GPU-0"], "chat", role="frontend", running=9)
    for i in range(4):
        node.board(f"GPU-{i}")
        node.engine(target(8000 + i), [f"GPU-{i}"], "chat")
    node.tick()
    for _ in range(30):
        tokens = {target(8000 + i): (100 + i, 10, 50 + i) for i in range(4)}
        tokens[router.target] = (406, 40, 206)
        node.tick(energy={f"GPU-{i}": 1_000 + i for i in range(4)}, tokens=tokens)
    hall.close(node)
    [row] = hall.efficiency().values()
    assert row["energy_mj"] == 30 * 4_006
    assert row["tokens"] == {"input": 30 * 406, "cached_input": 30 * 40, "output": 30 * 206}
    assert hall.accounts() == {"serving": 30 * 4_006}
    assert (row["missing"], row["quality"]) == (["carbon", "tariff"], "measured")
    # A chart of the workload counts each token once; the router's own chart shows what it counted.
    asked = {**DAY, "metric": "output_tokens", "step": "1h"}
    [whole] = hall.client.get("/api/v1/series", params={**asked, "by": "workload"}).json()["series"]
    assert whole["values"][0] == 30 * 206
    by_engine = hall.client.get("/api/v1/series", params={**asked, "by": "engine"}).json()["series"]
    assert {s["labels"]["engine"]: s["values"][0] for s in by_engine}[router.target] == 30 * 206


def test_a_prefill_and_a_decode_pool_are_one_workload(hall: Hall) -> None:
    """Prefill makes one token a request and decode counts the prompts again: each side is asked for its own."""
    node = Node()
    for uuid in ("GPU-p", "GPU-d"):
        node.board(uuid)
    node.engine(target(8000), ["GPU-p"], "chat", role="prefill")
    node.engine(target(8001), ["GPU-d"], "chat", role="decode")
    node.tick()
    for _ in range(30):
        node.tick(
            energy={"GPU-p": 300, "GPU-d": 200}, tokens={target(8000): (1000, 400, 1), target(8001): (1000, 0, 80)}
        )
    hall.close(node)
    [row] = hall.efficiency().values()
    assert (row["energy_mj"], row["tokens"]) == (15_000, {"input": 30_000, "cached_input": 12_000, "output": 2_400})
    assert row["missing"] == ["carbon", "tariff"]
    assert row["uncached_total_tokens_per_kwh"] == pytest.approx(20_400 * KWH_MJ / 15_000)
    sides = {row["group"]["engine"]: row for row in hall.rows("efficiency", by="engine")}
    assert sides[target(8000)]["tokens"] == {"input": 30_000, "cached_input": 12_000, "output": None}
    assert sides[target(8001)]["tokens"] == {"input": None, "cached_input": None, "output": 2_400}
    assert [row["missing"] for row in sides.values()] == [["carbon", "tariff"]] * 2
    raw = "SELECT sum(input_tokens)::int, sum(output_tokens)::int FROM engine_minute GROUP BY engine_id ORDER BY 2"
    assert hall.connection.execute(raw).fetchall() == [(30_000, 30), (30_000, 2_400)]


def test_two_engines_on_one_board_share_it_by_how_busy_each_kept_it(hall: Hall) -> None:
    node = Node()
    node.board("GPU-a")
    long = node.engine(target(8000), ["GPU-a"], "long", activity_ppm=600_000, confidence="medium")
    short = node.engine(target(8001), ["GPU-a"], "short", activity_ppm=200_000, confidence="medium")
    node.tick()
    tokens = {target(8000): (0, 0, 1), target(8001): (0, 0, 99)}
    for _ in range(6):
        node.tick(energy={"GPU-a": 4_000}, tokens=tokens)
    short.activity_ppm = None  # from here on one of them is not known, so tokens tell
    for _ in range(6):
        node.tick(energy={"GPU-a": 4_000}, tokens=tokens)
    assert long.activity_ppm
    hall.close(node)
    assert {name: row["energy_mj"] for name, row in hall.efficiency().items()} == {
        "long": 6 * 3_000 + 6 * 40,
        "short": 6 * 1_000 + 6 * 3_960,
    }


def test_an_engine_whose_page_has_no_token_counter_holds_its_board(hall: Hall) -> None:
    """What it works is told by running requests; without them by finished ones, its kernels, its board."""
    node = Node()
    board = node.board("GPU-a", utilisation_ratio=0.0)
    engine = node.engine(
        target(8000), ["GPU-a"], input_tokens=None, cached_input_tokens=None, output_tokens=None, running=0
    )
    node.tick()

    def minute() -> None:
        for _ in range(6):
            if engine.requests_finished is not None:
                engine.requests_finished += 3
            node.tick(energy={"GPU-a": 1_000})

    minute()  # rests
    engine.running = 2
    minute()  # works
    engine.running, board.utilisation_ratio = None, 0.0
    node.tick(energy={"GPU-a": 1_000})  # it ran when this tick began
    minute()  # nothing is said, and the board rests
    board.utilisation_ratio = 0.4
    minute()  # nothing is said, and the board works
    board.utilisation_ratio, engine.activity_ppm = 0.0, 1
    minute()
    engine.activity_ppm, engine.requests_finished = 0, 1
    node.tick(energy={"GPU-a": 1_000})  # it has finished one, on a board that rests
    minute()
    hall.close(node)
    assert hall.accounts() == {"idle-loaded": 12_000, "serving": 26_000}
    [row] = hall.efficiency().values()
    assert row["tokens"] == {"input": None, "cached_input": None, "output": None}
    assert {"input_tokens", "output_tokens"} <= set(row["missing"])
    covered = "SELECT sum(covered_us)::bigint / 1000000 FROM engine_minute"
    assert hall.connection.execute(covered).fetchone() == (380,)


def test_a_worker_that_was_not_read_for_long_is_not_taken_to_have_held_its_boards(hall: Hall) -> None:
    """Counters that go on prove that an engine was there; a worker has none. One process before and after proves it."""
    node = Node()
    for uuid in ("GPU-a", "GPU-b", "GPU-c"):
        node.board(uuid)
    node.worker("worker:a", ["GPU-a"], "a", activity_ppm=1)
    node.worker("worker:b", ["GPU-b"], "b", activity_ppm=1, epoch=77)
    node.engine(target(8000), ["GPU-c"], "c", running=1)
    node.tick()
    for seconds in (10, 30, 600, 10):
        node.tick(seconds, energy=dict.fromkeys(node.boards, 1_000_000))
    hall.close(node)
    found = {name: row["energy_mj"] for name, row in hall.efficiency().items()}
    assert found == {"a": 3_000_000, "b": 4_000_000, "c": 4_000_000, None: 1_000_000}
    assert hall.accounts() == {"serving": 11_000_000, "unattributed": 1_000_000}


def test_a_page_without_counters_of_a_new_process_holds_its_board_from_its_start(hall: Hall) -> None:
    node = Node()
    node.board("GPU-a")
    engine = node.engine(
        target(8000), ["GPU-a"], running=1, input_tokens=None, cached_input_tokens=None, output_tokens=None
    )
    node.tick()
    node.tick(energy={"GPU-a": 1_000})
    engine.epoch, engine.epoch_start_us = 8, node.time_us + 4_000_000
    node.tick(energy={"GPU-a": 1_000})
    hall.close(node)
    # The end of an interval decides whose it is; how long it was held is told by its coverage.
    assert hall.accounts() == {"serving": 2_000}
    covered = "SELECT sum(covered_us)::bigint FROM engine_minute"
    assert hall.connection.execute(covered).fetchone() == (16_000_000,)


def test_any_cut_gives_the_same_ledger_with_shares_workers_and_pages_without_counters(hall: Hall) -> None:
    rng = random.Random(4)
    node = Node()
    for uuid in ("GPU-a", "GPU-b", "GPU-c"):
        node.board(uuid, utilisation_ratio=0.5)
    one = node.engine(target(8000), ["GPU-a"], "one", shares_ppm=(428_571,), share_by="mig")
    two = node.engine(target(8001), ["GPU-a", "GPU-b"], "two", output_tokens=None, running=None)
    three = node.worker("worker:three", ["GPU-b", "GPU-c"], "three")
    two.input_tokens = two.cached_input_tokens = None
    for nth in range(300):
        one.running, three.activity_ppm = rng.randrange(2), rng.choice([None, 0, 400_000])
        two.activity_ppm, two.silent = rng.choice([None, 5]), rng.random() < 0.1
        three.silent = rng.random() < 0.2
        if nth == 150:
            two.output_tokens = 0  # its counter shows late
        elif nth > 150:
            two.output_tokens = None if rng.random() < 0.3 else nth * 10
        node.tick(
            energy={uuid: rng.randrange(7_000_000) for uuid in node.boards},
            tokens={target(8000): (9, 1, 5)} if rng.random() < 0.5 else {},
            lost=rng.random() < 0.2,
        )
    node.tick()
    batches = list(node.batches)
    hall.close(node)
    columns = "time, accelerator_id, placement_id, account, energy_mj, output_tokens, covered_us, span_us"
    dump = f"SELECT {columns} FROM ledger_minute ORDER BY 1, 2, 3, 4"
    straight = hall.connection.execute(dump).fetchall()
    assert sum(row[4] for row in straight) == sum((b.energy_mj or 0) for b in node.boards.values()) - sum(
        r.energy_mj or 0 for _, r in batches[0].readings if isinstance(r, AcceleratorReading)
    )
    hall.connection.execute(
        "TRUNCATE batch_ledger, stream, accelerator_sample, engine_sample, ledger_minute, ledger_hour, ledger_day,"
        " meter_hour, accelerator_minute, engine_minute, dirty_span CASCADE"
    )
    rng.shuffle(batches)
    hall.interner = Interner()
    for i in range(0, len(batches), 11):
        node.batches, node._posted = batches[i : i + 11], 0
        node.post(hall.connection, hall.interner)
        if rng.random() < 0.5:
            accounting.roll_up(hall.connection)
    hall.close()
    again = hall.connection.execute(dump).fetchall()
    assert again == straight


def test_placements_say_how_far_to_trust_them(hall: Hall) -> None:
    node = Node()
    for uuid in ("GPU-a", "GPU-b"):
        node.board(uuid)
    node.engine(
        target(8000),
        ["GPU-b", "GPU-a"],
        shares_ppm=(250_000, 1_000_000),
        share_by="replicas",
        confidence="medium",
        method="pod",
        role="decode",
        draft_tokens=5,
    )
    node.tick(host=[HostReading(domain="package-0", source="rapl", epoch=1, energy_uj=5)])
    node.tick(host=[HostReading(domain="package-0", source="hwmon", epoch=1, energy_uj=6)])
    node.post(hall.connection, hall.interner)
    [engine] = hall.rows("engines")
    [held] = engine["placements"]
    assert dict(zip(held["accelerators"], held["shares"], strict=True)) == {"GPU-a": 1.0, "GPU-b": 0.25}
    assert (held["method"], held["confidence"], held["share_by"]) == ("pod", "medium", "replicas")
    assert held["role"] == "decode"
    [workload] = hall.client.get("/api/v1/workloads").json()["rows"]
    assert workload["placements"][0]["shares"] == held["shares"]
    boards = hall.client.get("/api/v1/accelerators").json()["rows"]
    assert {row["uuid"]: (row["source"], row["placements"][0]["share"]) for row in boards} == {
        "GPU-a": ("nvml", 1.0),
        "GPU-b": ("nvml", 0.25),
    }
    assert hall.client.get("/api/v1/nodes").json()["rows"][0]["host_sources"] == {"package-0": "hwmon"}


def test_another_share_is_another_placement_and_the_old_one_keeps_its_time(hall: Hall) -> None:
    node = Node()
    node.board("GPU-a")
    engine = node.engine(target(8000), ["GPU-a"], shares_ppm=(500_000,), share_by="mig")
    node.tick()
    for share in (500_000, 250_000):
        engine.shares_ppm = (share,)
        for _ in range(6):
            node.tick(energy={"GPU-a": 1_000}, tokens={target(8000): (0, 0, 1)})
    hall.close(node)
    assert hall.accounts() == {"serving": 3_000 + 1_500, "unattributed": 3_000 + 4_500}
    assert [p["shares"] for p in hall.rows("engines")[0]["placements"]] == [[0.25], [0.5]]


def test_the_state_of_what_is_not_read_is_visible(hall: Hall) -> None:
    """Not understood, never read, silent, gone: each is a state with a sentence, and reading again ends it."""
    node = Node()
    read = node.engine(target(8000), [])
    lost = node.engine(target(8001), [])
    node.engine(target(8002), [])

    def states() -> dict[str, tuple[str, Any, Any]]:
        return {row["target"]: (row["state"], row["since"], row["detail"]) for row in hall.rows("engines")}

    def tick(*absent: str) -> None:
        said = "The page has no counter that is known: it may be another program's."
        node.tick(host=[AbsenceReading(subject="engine", id=t, reason="not_understood", detail=said) for t in absent])
        node.post(hall.connection, hall.interner)
        hall.client.app.state.now = lambda: time_of(node.time_us)  # type: ignore[attr-defined]

    tick()
    assert {state for state, _, _ in states().values()} == {"reading"}
    last_read = time_of(node.time_us).isoformat().replace("+00:00", "Z")
    lost.silent = True
    for _ in range(3):
        tick(lost.target, "http://other:1/metrics")
    found = states()
    assert found[target(8000)] == found[target(8002)] == ("reading", None, None)
    assert found[lost.target] == (
        "not_understood",
        last_read,
        "The page has no counter that is known: it may be another program's.",
    )
    assert found["http://other:1/metrics"][0] == "not_understood"
    [never] = [row for row in hall.rows("engines") if row["target"] == "http://other:1/metrics"]
    assert (never["engine_kind"], never["placements"], never["node"]) == (None, [], "n1")
    pages = hall.client.get("/api/v1/engines", params={"limit": 2}).json()
    rest = hall.client.get("/api/v1/engines", params={"limit": 2, "cursor": pages["next_cursor"]}).json()
    assert [row["target"] for row in pages["rows"] + rest["rows"]] == [
        *map(target, (8000, 8001, 8002)),
        never["target"],
    ]
    assert rest["next_cursor"] is None
    lost.silent = False
    tick("http://other:1/metrics")
    assert states()[lost.target] == ("reading", None, None)
    read.silent = True
    for _ in range(40):
        tick()
    assert states()[read.target][0] == "gone"
    assert states()[lost.target][0] == "reading"
    assert "http://other:1/metrics" not in states()
    hall.client.app.state.now = lambda: time_of(node.time_us) + dt.timedelta(minutes=5)  # type: ignore[attr-defined]
    assert {state for state, _, _ in states().values()} == {"no_reading"}


def test_a_request_is_observed_once_in_latencies(hall: Hall) -> None:
    """A front end sees every request, too; the first token is prefill's, those after it decode's."""
    node, bounds = Node(), (1_000, 2_000)
    engines = [
        node.engine(target(8000 + i), [], "chat", epoch_start_us=START_US - 1, role=role)
        for i, role in enumerate(("frontend", "prefill", "decode"))
    ]
    for count in (0, 10):
        for i, engine in enumerate(engines):
            engine.output_tokens = count
            # Front end: over the second bound. Prefill: in the first bucket. Decode: in the second.
            seen = Histogram(bounds, [(0, 0, count), (count, count, count), (0, count, count)][i])
            engine.inter_token_latency = engine.time_to_first_token = seen
            engine.queue_time = engine.request_latency = seen
        node.tick()
    hall.close(node)
    [row] = hall.efficiency().values()
    slo = row["slo"]
    assert slo["median_inter_token_latency_ms"] == slo["median_request_latency_ms"] == 1.5
    assert slo["median_time_to_first_token_ms"] == slo["median_queue_time_ms"] == 0.5
