"""Detectors and the parts that engines play: what has no tokens of its own is not waste for that."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from support.mill import Node
from wattmill_api import accounting, detection, judged
from wattmill_api.lifecycle import time_of
from wattmill_api.store import curves
from wattmill_api.store.detection import Before, inventory
from wattmill_api.store.ingest import Interner

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def found(connection: psycopg.Connection[Any], *nodes: Node) -> list[tuple[str, str]]:
    """Kind and subject of all findings once these nodes' readings are closed."""
    interner = Interner()
    for node in nodes:
        node.post(connection, interner)
    while accounting.roll_up(connection):
        pass
    detection.detect(connection, time_of(nodes[0].time_us))
    return connection.execute("SELECT kind, subject FROM finding ORDER BY 1, 2").fetchall()


def board(node: Node, uuid: str, watts: int) -> dict[str, int]:
    node.board(uuid, power_mw=watts * 1000)
    return {uuid: watts * 60_000}


def test_a_worker_that_computes_for_another_node_is_no_finding(connection: psycopg.Connection[Any]) -> None:
    leader, other = Node("n1", interval_us=60_000_000), Node("n2", interval_us=60_000_000)
    spends = {"n1": board(leader, "GPU-a", 600), "n2": board(other, "GPU-b", 600)}
    engine = leader.engine("http://e/metrics", ["GPU-a"], running=200)
    other.worker(engine.target, ["GPU-b"], activity_ppm=900_000)
    for node in (leader, other):
        for _ in range(40):
            tokens = {engine.target: (9_000, 0, 90_000)} if node is leader else {}
            node.tick(seconds=60, energy=spends[node.header.name], tokens=tokens)
    assert found(connection, leader, other) == []
    # As an engine that makes nothing of the same power it would be one.
    connection.execute("UPDATE placement SET role = '' WHERE role = 'worker'")
    detection.detect(connection, time_of(leader.time_us))
    assert connection.execute("SELECT kind FROM finding").fetchall() == [("spin-idle",)]


def test_prefill_and_decode_pools_and_the_front_end_before_them_are_no_findings(
    connection: psycopg.Connection[Any],
) -> None:
    """Beside a decode engine a prefill engine makes little output at a small batch; that is what it is for."""
    node = Node(interval_us=60_000_000)
    spends: dict[str, int] = {}
    tokens = {"http://router/metrics": (6_400, 0, 80_000)}
    node.engine("http://router/metrics", [], role="frontend", running=0)
    for i in range(4):
        role, target = ("prefill" if i < 2 else "decode"), f"http://e{i}/metrics"
        spends |= board(node, f"GPU-{i}", 650)
        node.engine(target, [f"GPU-{i}"], role=role, running=3 if i < 2 else 120)
        tokens[target] = (3_200, 800, 400) if i < 2 else (3_200, 0, 40_000)
    for _ in range(40):
        node.tick(seconds=60, energy=spends, tokens=tokens)
    assert found(connection, node) == []
    # The pools are compared within themselves, each with the tokens that are its own.
    last = time_of(node.time_us)
    [group] = judged.groups(inventory(connection, last - HOUR), 10)
    read = judged.read(connection, group, curves.reference(connection, last), last - HOUR, last)
    minutes = read.engine_minutes
    assert [role for _, role in read.pools] == ["prefill", "decode"]
    assert minutes.workload.tolist() == [0, 0, 1, 1]
    ends = minutes.offsets[1:] - 2
    assert minutes.input_tokens[ends].tolist() == [3_200, 3_200, 0, 0]
    assert minutes.output_tokens[ends].tolist() == [0, 0, 40_000, 40_000]
    assert minutes.cached_input_tokens[ends].tolist() == [800, 800, -1, -1]


def test_what_a_workload_did_before_is_known_of_the_pool_that_did_it() -> None:
    before = Before(peak_tokens_per_s=900.0, usual_hit_ratio=0.4)
    assert before.of("") == before
    assert str(dataclasses.astuple(before.of("prefill"))) == "(nan, 0.4)"
    assert str(dataclasses.astuple(before.of("decode"))) == "(900.0, nan)"


def test_a_finding_about_a_pool_names_it(connection: psycopg.Connection[Any]) -> None:
    node = Node(interval_us=60_000_000)
    node.engine("http://e/metrics", [], role="decode")
    node.tick(seconds=60)
    node.post(connection, Interner())
    seen = inventory(connection, time_of(node.time_us) - HOUR).engines
    names = detection.workload_names(seen)
    assert detection._subjects(judged.Group(tuple(seen), ()), names) == {
        "engine:hall/n1 http://e/metrics",
        "workload:chat (decode)",
    }


def test_curves_are_learnt_of_whole_boards_and_of_what_makes_output(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-a")
    node.engine("http://plain/metrics", ["GPU-a"])
    node.engine("http://slice/metrics", ["GPU-a"], shares_ppm=(142_857,), share_by="mig")
    for role in ("prefill", "decode", "frontend"):
        node.engine(f"http://{role}/metrics", ["GPU-a"], role=role)
    node.worker("worker:chat", ["GPU-a"])
    node.tick()
    node.post(connection, Interner())
    at = time_of(node.time_us)
    kinds = [placement.family.engine_kind for placement in curves.placements(connection, at - HOUR, at + HOUR)]
    assert sorted(kinds) == ["vllm", "vllm decode"]
