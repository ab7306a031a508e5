"""Histograms on a real database: what the buckets counted is what their minutes and hours hold, whatever happened."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any, LiteralString

import psycopg
import pytest

from support.mill import START_US, Engine, Node
from wattmill_api import accounting
from wattmill_api.store.ingest import Interner, store_batches
from wattmill_collector.catalogue import Histogram

E = "http://e:8000/metrics"
LE_US = (10_000, 25_000, 50_000)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


class Process:
    """An engine's process and what it has observed, bucket by bucket."""

    def __init__(self, engine: Engine, le_us: tuple[int, ...] = LE_US) -> None:
        self.engine, self.le_us = engine, le_us
        self.observed = [0] * (len(le_us) + 1)
        self.show()

    def add(self, *counts: int) -> None:
        self.observed = [a + b for a, b in zip(self.observed, counts, strict=True)]
        self.engine.output_tokens = (self.engine.output_tokens or 0) + sum(counts)
        self.show()

    def show(self) -> None:
        self.engine.inter_token_latency = Histogram(self.le_us, tuple(itertools.accumulate(self.observed)))


def serving(node: Node, **fields: Any) -> Process:
    node.board("GPU-a")
    return Process(node.engine(E, ["GPU-a"], **fields))


def close(connection: psycopg.Connection[Any]) -> None:
    while accounting.roll_up(connection):
        pass


def post_and_close(connection: psycopg.Connection[Any], *nodes: Node) -> None:
    for node in nodes:
        node.post(connection, Interner())
    close(connection)


def totals(connection: psycopg.Connection[Any], table: LiteralString = "latency_minute", metric: int = 1) -> list[int]:
    """Counts by bucket, added up over everything."""
    rows = connection.execute(
        f"SELECT sum(c)::bigint FROM {table}, unnest(counts) WITH ORDINALITY AS u (c, i) WHERE metric = %s"
        " GROUP BY i ORDER BY i",
        [metric],
    )
    return [row[0] for row in rows]


def by_minute(connection: psycopg.Connection[Any]) -> dict[int, list[int]]:
    rows = connection.execute("SELECT (extract(epoch FROM time) * 1000000)::bigint, counts FROM latency_minute")
    return {(time_us - START_US) // 60_000_000: counts for time_us, counts in rows}


def dump(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return [
        row
        for table in ("latency_minute", "latency_hour")
        for row in connection.execute(
            "SELECT time, engine_id, metric, placement_id, bounds_id, node_id, counts"
            f" FROM {table} ORDER BY 1, 2, 3, 4, 5"
        )
    ]


def test_a_minute_holds_what_its_buckets_counted(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    process = serving(node)
    process.add(1_000, 0, 0, 7)  # before anyone watched
    node.tick(seconds=60)
    for minute in range(3):
        for _ in range(6):
            process.add(10, 5, minute, 0)
            node.tick()
    post_and_close(connection, node)
    assert by_minute(connection) == {1: [60, 30, 0, 0], 2: [60, 30, 6, 0], 3: [60, 30, 12, 0]}
    assert totals(connection, "latency_hour") == [180, 90, 18, 0]


def test_a_batch_without_histograms_writes_nothing(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-a")
    node.engine(E, ["GPU-a"])
    for _ in range(7):
        node.tick(tokens={E: (1, 0, 1)})
    post_and_close(connection, node)
    for table in ("latency_bounds", "latency_sample", "latency_minute", "latency_hour"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_a_receipt_counts_readings_and_not_their_histograms(connection: psycopg.Connection[Any]) -> None:
    node, interner = Node(), Interner()
    process = serving(node)
    process.add(1, 2, 3, 4)
    node.tick()
    [first] = node.post(connection, interner)
    assert (first.stored, first.duplicates) == (2, 0)
    twin = Node(stream="another agent on the same node")
    twin.board("GPU-a")
    twin.engines = node.engines
    twin.tick()
    [again] = twin.post(connection, interner)
    assert (again.stored, again.duplicates) == (0, 2)
    assert connection.execute("SELECT counts FROM latency_sample").fetchall() == [([1, 3, 6, 10],)]
    assert connection.execute("SELECT le_us FROM latency_bounds").fetchall() == [(list(LE_US),)]


def test_a_restart_begins_at_zero_and_loses_nothing(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    process = serving(node)
    node.tick()
    process.add(5, 5, 5, 5)
    node.tick()
    process.engine.epoch, process.engine.epoch_start_us = 8, node.time_us + 3_000_000
    process.engine.output_tokens, process.observed = 0, [0] * 4
    process.add(100, 0, 1, 0)  # some buckets are above, some below where the old process stood
    node.tick()
    process.add(1, 1, 1, 1)
    node.tick()
    post_and_close(connection, node)
    assert totals(connection) == [106, 6, 7, 6]


def test_a_restart_that_only_the_fall_betrays(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    process = serving(node, epoch=0, epoch_start_us=None)
    node.tick()
    process.add(50, 50, 50, 50)
    node.tick()
    process.observed = [0] * 4
    process.add(1, 2, 3, 60)  # the last bucket alone has not fallen
    node.tick()
    process.add(1, 0, 0, 0)
    node.tick()
    post_and_close(connection, node)
    assert totals(connection) == [52, 52, 53, 110]


def test_new_bounds_of_a_new_process_are_counted_from_zero(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    process = serving(node)
    node.tick()
    process.add(5, 5, 5, 5)
    node.tick()
    engine = process.engine
    engine.epoch, engine.epoch_start_us, engine.output_tokens = 8, node.time_us + 1_000_000, 0
    process = Process(engine, (20_000,))
    process.add(30, 3)
    node.tick()
    post_and_close(connection, node)
    rows = connection.execute("SELECT counts FROM latency_minute ORDER BY bounds_id").fetchall()
    assert rows == [([5, 5, 5, 5],), ([30, 3],)]


def test_a_histogram_shown_late_counts_from_when_its_process_had_made_no_token(
    connection: psycopg.Connection[Any],
) -> None:
    node = Node()
    node.board("GPU-a")
    engine = node.engine(E, ["GPU-a"], epoch_start_us=START_US - 1)
    for _ in range(20):
        node.tick()
    process = Process(engine)
    process.add(3, 2, 1, 0)
    node.tick()
    post_and_close(connection, node)
    assert by_minute(connection) == {3: [3, 2, 1, 0]}


def test_a_glitch_counts_for_nothing(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    process = serving(node)
    node.tick()
    process.add(5, 5, 5, 5)
    node.tick()
    good = process.observed
    process.observed = [0, 0, 0, 1]
    process.show()
    node.tick()
    process.observed = good
    process.add(1, 1, 1, 1)
    node.tick()
    post_and_close(connection, node)
    assert totals(connection) == [6, 6, 6, 6]


def test_an_agent_of_every_second_shows_histograms_every_tenth(connection: psycopg.Connection[Any]) -> None:
    node = Node(interval_us=1_000_000)
    process = serving(node)
    shown = process.engine.inter_token_latency
    for second in range(1, 241):
        process.add(1, 0, 1, 0)
        shown = process.engine.inter_token_latency
        process.engine.inter_token_latency = shown if second % 10 == 0 else None
        node.tick(seconds=1, lost=second in (60, 120, 121))
    post_and_close(connection, node)
    assert totals(connection) == [230, 0, 230, 0]
    assert by_minute(connection)[3] == [60, 0, 60, 0]


def test_a_gap_of_days_keeps_its_counts(connection: psycopg.Connection[Any]) -> None:
    node, other = Node(), Node("n2")
    process = serving(node)
    other.board("GPU-z")
    neighbour = Process(other.engine("http://z/metrics", ["GPU-z"]))
    for n in (node, other):
        n.tick(seconds=50)
    post_and_close(connection, node, other)
    process.add(1_000_000, 0, 3, 0)
    neighbour.add(0, 7, 0, 0)
    node.tick(seconds=2 * 86_400 + 33)
    other.tick(seconds=2 * 86_400 + 33)
    post_and_close(connection, node, other)
    node.tick()
    process.add(1, 0, 0, 0)
    node.tick()
    post_and_close(connection, node)
    assert totals(connection) == [1_000_001, 7, 3, 0] == totals(connection, "latency_hour")


def random_life(seed: int) -> tuple[Node, list[int]]:
    """Ticks with restarts, lost readings and gaps; and what all processes observed since the first reading."""
    draw = random.Random(seed)
    node = Node()
    process = serving(node, epoch_start_us=START_US - 5)
    node.tick()
    truth = [0, 0, 0, 0]

    def work() -> None:
        counts = [draw.choice((0, 0, 1, draw.randrange(1000))) for _ in truth]
        for i, count in enumerate(counts):
            truth[i] += count
        process.add(*counts)

    for _ in range(draw.randrange(30, 90)):
        if draw.random() < 0.06:  # right after a reading, so that nothing is lost with the process
            node.tick(seconds=1)
            process.engine.epoch += 1
            process.engine.epoch_start_us = node.time_us + 500_000
            process.engine.output_tokens, process.observed = 0, [0] * 4
            process.engine.inter_token_latency = None
        if process.engine.inter_token_latency is not None or draw.random() < 0.5:
            work()
        node.tick(seconds=draw.choice((10, 10, 10, 10, 20, 47, 400)), lost=draw.random() < 0.1)
    work()
    node.tick()
    return node, truth


@pytest.mark.parametrize("seed", range(8))
def test_totals_are_the_counters_through_restarts_losses_repeats_and_late_batches(
    connection: psycopg.Connection[Any], seed: int
) -> None:
    node, truth = random_life(seed)
    post_and_close(connection, node)
    in_order = dump(connection)
    assert totals(connection) == truth == totals(connection, "latency_hour")
    for table in (
        "latency_minute",
        "latency_hour",
        "latency_sample",
        "engine_sample",
        "accelerator_sample",
        "batch_ledger",
    ):
        connection.execute(f"DELETE FROM {table}".encode())
    draw = random.Random(seed)
    interner = Interner()
    shuffled = [*node.batches, *draw.sample(node.batches, len(node.batches) // 3)]
    draw.shuffle(shuffled)
    for some in _pieces(shuffled, draw):
        store_batches(connection, some, interner)
        if draw.random() < 0.7:
            close(connection)
    close(connection)
    assert dump(connection) == in_order


def _pieces(batches: Sequence[Any], draw: random.Random) -> Iterator[Sequence[Any]]:
    at = 0
    while at < len(batches):
        size = draw.randrange(1, 12)
        yield batches[at : at + size]
        at += size
