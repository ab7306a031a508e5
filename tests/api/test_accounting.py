"""Closing minutes on a real database: what the counters say is what the ledger holds, whatever happened in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest

from support.mill import START_US, Node
from wattmill_api import accounting
from wattmill_api.store.ingest import Interner, store_batches
from wattmill_collector.wire import HostReading

SERVING, IDLE_LOADED, IDLE_EMPTY, UNATTRIBUTED = 1, 2, 3, 4
E = "http://e:8000/metrics"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def post_and_close(connection: psycopg.Connection[Any], *nodes: Node, interner: Interner | None = None) -> None:
    for node in nodes:
        node.post(connection, interner or Interner())
    while accounting.roll_up(connection):
        pass


def ledger(connection: psycopg.Connection[Any]) -> dict[int, int]:
    return dict(
        connection.execute("SELECT account, sum(energy_mj)::bigint FROM ledger_minute GROUP BY account").fetchall()
    )


def total(
    connection: psycopg.Connection[Any], what: LiteralString, table: LiteralString = "ledger_minute"
) -> int | None:
    row = connection.execute(f"SELECT sum({what})::bigint FROM {table}").fetchone()
    assert row is not None
    return None if row[0] is None else int(row[0])


def dump(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT time, accelerator_id, placement_id, account, energy_mj, input_tokens, cached_input_tokens,"
        " output_tokens, covered_us, span_us FROM ledger_minute ORDER BY 1, 2, 3, 4"
    ).fetchall()


def test_serving_energy_and_tokens_are_the_counters_differences(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-a", energy_mj=1_000)
    node.engine(E, ["GPU-a"], input_tokens=5, output_tokens=9)
    node.tick()
    for _ in range(30):
        node.tick(energy={"GPU-a": 7_000_001}, tokens={E: (100, 40, 333)})
    post_and_close(connection, node)
    assert ledger(connection) == {SERVING: 30 * 7_000_001}
    assert total(connection, "input_tokens") == 3_000
    assert total(connection, "cached_input_tokens") == 1_200
    assert total(connection, "output_tokens") == 30 * 333
    assert total(connection, "energy_mj", "accelerator_minute") == 30 * 7_000_001
    assert total(connection, "energy_mj", "ledger_hour") == 30 * 7_000_001
    assert total(connection, "covered_us") == 300_000_000


def test_accounts(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-serving")
    node.board("GPU-loaded")
    node.board("GPU-empty", processes=0, memory_used_bytes=600 * 2**20)
    node.board("GPU-unknown")
    node.engine(E, ["GPU-serving"])
    node.engine("http://idle/metrics", ["GPU-loaded"])
    node.tick()
    for _ in range(6):
        node.tick(
            energy={"GPU-serving": 100, "GPU-loaded": 30, "GPU-empty": 7, "GPU-unknown": 5}, tokens={E: (0, 0, 1)}
        )
    post_and_close(connection, node)
    assert ledger(connection) == {SERVING: 600, IDLE_LOADED: 180, IDLE_EMPTY: 42, UNATTRIBUTED: 30}


def test_the_interval_in_which_a_board_was_left_is_nobodys_and_not_an_empty_boards(
    connection: psycopg.Connection[Any],
) -> None:
    node = Node()
    board = node.board("GPU-a")
    engine = node.engine(E, ["GPU-a"])
    node.tick()
    node.tick(energy={"GPU-a": 700}, tokens={E: (0, 0, 1)})
    engine.silent, board.processes, board.memory_used_bytes = True, 0, 600 * 2**20
    node.tick(energy={"GPU-a": 650})  # it was killed somewhere in between
    node.tick(energy={"GPU-a": 70})
    post_and_close(connection, node)
    assert ledger(connection) == {SERVING: 700, UNATTRIBUTED: 650, IDLE_EMPTY: 70}


def test_tensor_parallel_tokens_are_divided_whole(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    boards = [f"GPU-{i}" for i in range(4)]
    for uuid in boards:
        node.board(uuid)
    node.engine(E, boards)
    node.tick()
    for _ in range(7):
        node.tick(energy=dict.fromkeys(boards, 11), tokens={E: (3, 0, 7)})
    post_and_close(connection, node)
    rows = connection.execute(
        "SELECT accelerator_id, sum(output_tokens)::int FROM ledger_minute GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert sum(tokens for _, tokens in rows) == 49
    assert max(t for _, t in rows) - min(t for _, t in rows) <= 7
    assert total(connection, "energy_mj") == 4 * 77


def test_engine_without_board_keeps_its_tokens(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-a")
    node.engine(E, [], method="")
    node.tick()
    node.tick(energy={"GPU-a": 50}, tokens={E: (1, 0, 2)})
    post_and_close(connection, node)
    assert ledger(connection) == {SERVING: 0, UNATTRIBUTED: 50}
    assert total(connection, "output_tokens") == 2


def test_restart_counts_from_zero_and_a_restart_unseen_does_not(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-a")
    engine = node.engine(E, ["GPU-a"], output_tokens=1_000)
    node.tick()
    node.tick(energy={"GPU-a": 10}, tokens={E: (0, 0, 5)})
    engine.epoch, engine.epoch_start_us, engine.output_tokens = 8, node.time_us + 2_000_000, 40
    node.tick(energy={"GPU-a": 10})
    engine.epoch, engine.epoch_start_us, engine.output_tokens = 9, None, 400
    node.tick(energy={"GPU-a": 10})
    node.tick(energy={"GPU-a": 10}, tokens={E: (0, 0, 3)})
    post_and_close(connection, node)
    assert total(connection, "output_tokens") == 5 + 40 + 3
    assert total(connection, "energy_mj") == 40


def test_engine_that_starts_under_watch_counts_from_zero(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-a")
    for _ in range(20):
        node.tick(energy={"GPU-a": 10})
    node.engine(E, ["GPU-a"], epoch=8, epoch_start_us=node.time_us - 95_000_000, output_tokens=40)
    node.tick(energy={"GPU-a": 10})
    node.tick(energy={"GPU-a": 10}, tokens={E: (0, 0, 2)})
    post_and_close(connection, node)
    assert total(connection, "output_tokens") == 42
    assert total(connection, "energy_mj") == 210


def test_a_counter_that_shows_late_counts_from_zero_and_one_that_was_lost_goes_on(
    connection: psycopg.Connection[Any],
) -> None:
    node, interner = Node(), Interner()
    node.board("GPU-a")
    engine = node.engine(E, ["GPU-a"], output_tokens=None)

    def run(ticks: int) -> int | None:
        for _ in range(ticks):
            node.tick(energy={"GPU-a": 10})
            post_and_close(connection, node, interner=interner)
        return total(connection, "output_tokens")

    run(30)
    engine.output_tokens = 77
    assert run(4) == 77
    engine.output_tokens = None
    assert run(30) == 77
    engine.output_tokens = 95
    assert run(4) == 95
    engine.epoch, engine.epoch_start_us, engine.output_tokens = 8, node.time_us + 2_000_000, None
    assert run(30) == 95
    engine.output_tokens = 5
    assert run(4) == 100


def test_a_counter_that_froze_and_caught_up_is_booked_once(connection: psycopg.Connection[Any]) -> None:
    node, interner = Node(), Interner()
    board = node.board("GPU-a", energy_mj=0, power_mw=300_000)
    node.tick()
    for _ in range(8):
        node.tick(energy={"GPU-a": 3_000_000})
    for _ in range(13):
        node.tick()
        post_and_close(connection, node, interner=interner)
    assert total(connection, "energy_mj") == 24_000_000 + 13 * 3_000_000
    assert total(connection, "estimated_mj") == 13 * 3_000_000
    node.tick(energy={"GPU-a": 42_000_000})
    post_and_close(connection, node, interner=interner)
    assert (total(connection, "energy_mj"), total(connection, "estimated_mj")) == (board.energy_mj, 0)


@pytest.mark.parametrize("ticks", [2, 4, 6, 11])
def test_a_counter_that_rests_for_less_than_two_minutes_adds_nothing(
    connection: psycopg.Connection[Any], ticks: int
) -> None:
    node, interner = Node(), Interner()
    board = node.board("GPU-a", energy_mj=0, power_mw=300_000)
    node.tick()
    node.tick(energy={"GPU-a": 3_000_000})
    for _ in range(ticks):
        node.tick()
        post_and_close(connection, node, interner=interner)
    assert (total(connection, "energy_mj"), total(connection, "estimated_mj")) == (board.energy_mj, 0)


def test_a_gap_keeps_its_energy_and_says_it_was_not_covered(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-a")
    node.engine(E, ["GPU-a"])
    node.tick()
    node.tick(energy={"GPU-a": 600}, tokens={E: (0, 0, 6)})
    for _ in range(60):
        node.tick(energy={"GPU-a": 600}, tokens={E: (0, 0, 6)}, lost=True)
    node.tick(energy={"GPU-a": 600}, tokens={E: (0, 0, 6)})
    post_and_close(connection, node)
    assert total(connection, "energy_mj") == 62 * 600
    assert total(connection, "output_tokens") == 62 * 6
    assert total(connection, "covered_us") == 10_000_000
    assert total(connection, "span_us") == 620_000_000


def test_two_gaps_with_two_readings_between_them(connection: psycopg.Connection[Any]) -> None:
    node, other, interner = Node("n1"), Node("n2"), Interner()
    node.board("GPU-a")
    other.board("GPU-b")
    heard = {*range(1, 29), 63, 64, *range(74, 120)}
    for i in range(1, 120):
        node.tick(energy={"GPU-a": 600_007}, lost=i not in heard)
        other.tick(energy={"GPU-b": 500})
        if i in heard or i % 7 == 0:
            post_and_close(connection, node, other, interner=interner)
    assert total(connection, "energy_mj") == 118 * 600_007 + 118 * 500
    rows = connection.execute(
        "SELECT count(DISTINCT time), min(energy_mj) > 0 FROM accelerator_minute JOIN accelerator"
        " USING (accelerator_id) WHERE uuid = 'GPU-a'"
    )
    assert rows.fetchone() == (20, True)


def test_glitches_never_reach_the_ledger(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    board = node.board("GPU-a", energy_mj=10**9, power_mw=700_000)
    node.engine(E, ["GPU-a"])
    node.tick()
    true = 10**9
    for i in range(40):
        true += 7_000_000
        board.energy_mj = {7: true - 1, 13: 0, 23: 2**47, 31: true - 10_000_000}.get(i, true)
        node.tick()
    post_and_close(connection, node)
    assert total(connection, "energy_mj") == 40 * 7_000_000
    assert (total(connection, "anomalies", "accelerator_minute") or 0) >= 3


def test_missing_counter_is_integrated_and_marked(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-a", energy_mj=None, power_mw=300_000)
    node.tick()
    for _ in range(6):
        node.tick()
    post_and_close(connection, node)
    assert total(connection, "energy_mj") == total(connection, "estimated_mj") == 60 * 300_000


def _day(seed: int) -> list[Node]:
    rng = random.Random(seed)
    nodes = []
    for name in ("n1", "n2"):
        node = Node(name)
        node.board(f"GPU-{name}-0")
        node.board(f"GPU-{name}-1")
        node.engine(E, [f"GPU-{name}-0", f"GPU-{name}-1"])
        node.engine("http://f/metrics", [f"GPU-{name}-1"], workload="embed")
        node.tick()
        for _ in range(200):
            node.tick(
                energy={uuid: rng.randrange(1_000_000, 7_000_000) for uuid in node.boards},
                tokens={
                    t: (rng.randrange(50), rng.randrange(5), rng.randrange(99))
                    for t in node.engines
                    if rng.random() < 0.7
                },
                lost=rng.random() < 0.2,
            )
        node.tick()
        nodes.append(node)
    return nodes


def test_any_order_any_repeat_any_cut_gives_the_same_ledger(connection: psycopg.Connection[Any]) -> None:
    rng = random.Random(5)
    nodes = _day(3)
    post_and_close(connection, *nodes)
    straight = dump(connection)
    expected = sum(b.energy_mj or 0 for n in nodes for b in n.boards.values())
    assert total(connection, "energy_mj") == expected
    connection.execute("TRUNCATE batch_ledger, stream, accelerator_sample, engine_sample, ledger_minute, ledger_hour,"
                       " accelerator_minute, engine_minute, dirty_span CASCADE")  # fmt: skip
    batches = [batch for node in nodes for batch in node.batches]
    rng.shuffle(batches)
    batches += rng.choices(batches, k=100)
    interner = Interner()
    for i in range(0, len(batches), 23):
        receipts = store_batches(connection, batches[i : i + 23], interner)
        assert {r.status for r in receipts} <= {"stored", "duplicate"}
        if rng.random() < 0.3:
            accounting.roll_up(connection)
    while accounting.roll_up(connection):
        pass
    assert dump(connection) == straight


def test_a_reading_at_a_minutes_edge_that_comes_after_its_successor_moves_that_too(
    connection: psycopg.Connection[Any],
) -> None:
    node, interner = Node(), Interner()
    node.board("GPU-a")
    node.tick()
    for nth in range(7):
        node.tick(energy={"GPU-a": 1_000 * (nth + 1)})
    batches = node.batches
    assert (batches[5].time_us - START_US) % 60_000_000 == 0
    for posted in (batches[:5], batches[6:], batches[5:6]):
        store_batches(connection, posted, interner)
        post_and_close(connection, interner=interner)
    minutes = "SELECT energy_mj FROM ledger_minute ORDER BY time"
    assert connection.execute(minutes).fetchall() == [(15_000,), (13_000,)]


def test_host_counter_wraps(connection: psycopg.Connection[Any]) -> None:
    node, limit, value = Node(), 262_143_328_850, 262_000_000_000
    node.board("GPU-a")
    node.tick(host=[HostReading(domain="package-0", epoch=5, energy_uj=value, energy_range_uj=limit)])
    for _ in range(12):
        value = (value + 2_000_000_500) % limit
        node.tick(host=[HostReading(domain="package-0", epoch=5, energy_uj=value, energy_range_uj=limit)])
    post_and_close(connection, node)
    assert total(connection, "energy_mj", "host_minute") in (24_000_006, 24_000_005)


def test_minutes_are_whole_even_off_the_grid(connection: psycopg.Connection[Any]) -> None:
    node = Node()
    node.board("GPU-a")
    node.time_us += 3_333_333
    node.tick()
    for _ in range(40):
        node.tick(seconds=7, energy={"GPU-a": 1_000_003})
    post_and_close(connection, node)
    assert total(connection, "energy_mj") == 40 * 1_000_003
    assert node.time_us > START_US


def test_first_tokens_in_the_agents_first_minute_survive_rolling_up_again(connection: psycopg.Connection[Any]) -> None:
    node, interner = Node(), Interner()
    node.board("GPU-a")
    engine = node.engine(E, ["GPU-a"], output_tokens=None)
    for shown in (None, 90, 120, 120, 150, 200, 250, 300):
        engine.output_tokens = shown
        node.tick(energy={"GPU-a": 10})
        post_and_close(connection, node, interner=interner)
    assert total(connection, "output_tokens") == 300
