"""Posts that wait together share a commit; none suffers from its neighbour, and no receipt comes before its commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from wattmill_api.coalescer import Coalescer, Store
from wattmill_api.errors import Busy, DatabaseAway
from wattmill_api.store.ingest import ParsedBatch
from wattmill_collector.wire import AcceleratorReading, NodeHeader, Receipt


def batch(sequence: int, stream: str = "s") -> ParsedBatch:
    reading = AcceleratorReading(uuid="GPU-a", energy_mj=1)
    return ParsedBatch(stream, sequence, 0, NodeHeader("n"), [(0, reading)], bytes(32))


class Table:
    """A store in memory that refuses poisoned batches, can hold a commit back, and can be away."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.began = threading.Event()
        self.away = False

    def store(self, batches: Sequence[ParsedBatch]) -> list[Receipt]:
        self.began.set()
        assert self.go_on.wait(10)
        if self.away:
            raise DatabaseAway
        if any(b.stream == "poison" for b in batches):
            raise ValueError("this batch can't be stored")
        self.groups.append([b.sequence for b in batches])
        return [Receipt(b.stream, b.sequence, b.sha256.hex(), "stored", stored=1) for b in batches]


def run(
    stores: Sequence[Store],
    what: Callable[[Coalescer], Awaitable[None]],
    *,
    queue: int = 1000,
    deadline_s: float = 10,
) -> Coalescer:
    async def main() -> Coalescer:
        coalescer = Coalescer(stores, queue_readings=queue, deadline_seconds=deadline_s)
        coalescer.start()
        try:
            await what(coalescer)
        finally:
            await coalescer.stop()
        return coalescer

    return asyncio.run(main())


async def while_a_commit_is_held(table: Table, coalescer: Coalescer) -> asyncio.Task[list[Receipt]]:
    table.go_on.clear()
    first = asyncio.create_task(coalescer.store([batch(0)]))
    await asyncio.to_thread(table.began.wait, 10)
    return first


def test_what_waits_together_is_stored_together() -> None:
    table = Table()

    async def what(coalescer: Coalescer) -> None:
        first = await while_a_commit_is_held(table, coalescer)
        posts = [asyncio.create_task(coalescer.store([batch(2 * n), batch(2 * n + 1)])) for n in range(1, 6)]
        await asyncio.sleep(0)
        assert not first.done()
        table.go_on.set()
        answers = await asyncio.gather(*posts)
        assert [[r.sequence for r in answer] for answer in answers] == [[2 * n, 2 * n + 1] for n in range(1, 6)]

    coalescer = run([table.store], what)
    assert table.groups == [[0], list(range(2, 12))]
    assert (coalescer.tally.groups, coalescer.tally.posts, coalescer.tally.readings) == (2, 6, 11)
    assert coalescer.waiting_readings == 0


def test_one_bad_batch_fails_nobody_else() -> None:
    table = Table()

    async def what(coalescer: Coalescer) -> None:
        await while_a_commit_is_held(table, coalescer)
        good = asyncio.create_task(coalescer.store([batch(1)]))
        mixed = asyncio.create_task(coalescer.store([batch(2), batch(3, "poison"), batch(4)]))
        await asyncio.sleep(0)
        table.go_on.set()
        assert [r.status for r in await good] == ["stored"]
        answer = await mixed
        assert [r.status for r in answer] == ["stored", "rejected", "stored"]
        assert answer[1].rejected[0].field == "batch"

    run([table.store], what)
    assert table.groups == [[0], [1], [2], [4]]


def test_a_database_that_is_away_fails_the_post_not_its_content() -> None:
    table = Table()
    table.away = True

    async def what(coalescer: Coalescer) -> None:
        with pytest.raises(DatabaseAway):
            await coalescer.store([batch(1)])
        table.away = False
        assert [r.status for r in await coalescer.store([batch(1)])] == ["stored"]

    run([table.store], what)


def test_a_full_queue_puts_posts_off_and_a_slow_one_gives_up() -> None:
    table = Table()

    async def what(coalescer: Coalescer) -> None:
        first = await while_a_commit_is_held(table, coalescer)
        waiting = asyncio.create_task(coalescer.store([batch(1)]))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await coalescer.store([batch(2), batch(3)])
        with pytest.raises(DatabaseAway, match="send it again"):
            await waiting
        with pytest.raises(DatabaseAway):
            await first
        table.go_on.set()

    run([table.store], what, queue=4, deadline_s=0.05)
    assert table.groups == [[0]]  # whoever gave up before its turn was not stored


def test_what_is_queued_is_stored_before_the_end() -> None:
    table = Table()

    async def main() -> None:
        coalescer = Coalescer([table.store], queue_readings=100, deadline_seconds=10)
        coalescer.start()
        await while_a_commit_is_held(table, coalescer)
        last = asyncio.create_task(coalescer.store([batch(1)]))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(coalescer.stop())
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await coalescer.store([batch(2)])
        table.go_on.set()
        assert [r.status for r in await last] == ["stored"]
        await stopping

    asyncio.run(main())
