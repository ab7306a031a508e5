"""Stores the posts that are waiting together in one commit, so that the rate is not bound by commits per second.

A few writers, each on a thread and a connection of its own; while one commits, posts pile up for the next. Idle, a post
waits for nobody. A receipt is given only after the commit. A group that fails is tried again post by post, and a post
batch by batch, so that one agent's bad batch never fails its neighbours'.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from wattmill_api.errors import Busy, DatabaseAway, TooMuchAsked
from wattmill_api.store.ingest import ParsedBatch
from wattmill_collector.wire import Receipt, Rejection

log = logging.getLogger(__name__)

# Stores a group in one transaction; called on a writer's thread. Errors: DatabaseAway; anything else means the content.
Store = Callable[[Sequence[ParsedBatch]], list[Receipt]]

_GROUP_READINGS = 20_000


@dataclasses.dataclass(slots=True)
class _Waiting:
    batches: list[ParsedBatch]
    readings: int
    answer: asyncio.Future[list[Receipt]]


@dataclasses.dataclass(slots=True)
class Tally:
    """What was stored since the start; for /metrics."""

    groups: int = 0
    posts: int = 0
    batches: int = 0
    readings: int = 0
    duplicates: int = 0
    rejections: int = 0
    retried_groups: int = 0
    commit_seconds: float = 0.0


class Coalescer:
    """Queue and writers. `start` and `stop` belong to the event loop that calls `store`."""

    def __init__(self, stores: Sequence[Store], *, queue_readings: int, deadline_seconds: float) -> None:
        self._stores = stores
        self._queue_readings = queue_readings
        self._deadline_seconds = deadline_seconds
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._waiting_readings = 0
        self._work = asyncio.Condition()
        self._writers: list[asyncio.Task[None]] = []
        self._threads = ThreadPoolExecutor(len(stores), "wattmill-writer")
        self._stopping = False
        self.tally = Tally()

    @property
    def waiting_readings(self) -> int:
        return self._waiting_readings

    def start(self) -> None:
        self._writers = [asyncio.create_task(self._write(store)) for store in self._stores]

    async def stop(self) -> None:
        """Finish what is queued, then let go of the threads."""
        self._stopping = True
        async with self._work:
            self._work.notify_all()
        await asyncio.gather(*self._writers)
        self._threads.shutdown()

    async def store(self, batches: list[ParsedBatch]) -> list[Receipt]:
        """Receipts of these batches, in order, after their commit. Errors: Busy, DatabaseAway."""
        # An empty batch costs a ledger row too.
        readings = sum(len(batch.readings) for batch in batches) + len(batches)
        if self._stopping or self._waiting_readings + readings > self._queue_readings:
            raise Busy(headers={"Retry-After": "2"})
        waiting = _Waiting(batches, readings, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._waiting_readings += readings
        async with self._work:
            self._work.notify()
        try:
            return await asyncio.wait_for(waiting.answer, self._deadline_seconds)
        except TimeoutError:
            raise DatabaseAway(
                f"This was not stored within {self._deadline_seconds:g} s; send it again, repeats are recognised."
            ) from None

    async def _write(self, store: Store) -> None:
        while True:
            async with self._work:
                await self._work.wait_for(lambda: self._queue or self._stopping)
                group = self._take()
            if not group:
                return
            outcome = await asyncio.get_running_loop().run_in_executor(self._threads, self._store_group, store, group)
            for waiting, answer in zip(group, outcome, strict=True):
                _settle(waiting.answer, answer)

    def _take(self) -> list[_Waiting]:
        """The next posts to store together; those whose sender has given up are let go."""
        group: list[_Waiting] = []
        readings = 0
        while self._queue and (not group or readings + self._queue[0].readings <= _GROUP_READINGS):
            waiting = self._queue.popleft()
            self._waiting_readings -= waiting.readings
            if not waiting.answer.done():
                group.append(waiting)
                readings += waiting.readings
        if not group and self._queue:
            return self._take()
        return group

    def _store_group(self, store: Store, group: list[_Waiting]) -> list[list[Receipt] | Exception]:
        """Runs on a writer's thread. One answer a post."""
        batches = [batch for waiting in group for batch in waiting.batches]
        begun = time.perf_counter()
        try:
            receipts = store(batches)
        except (DatabaseAway, TooMuchAsked) as error:
            return [error] * len(group)
        except Exception as error:  # whatever it is, neighbours must not suffer from it
            self.tally.retried_groups += 1
            log.warning(
                "storing %d batches one by one, as a group they failed: %r",
                len(batches),
                error,
                extra={"action": "store"},
            )
            return [self._store_alone(store, waiting.batches) for waiting in group]
        self._count(group, receipts, time.perf_counter() - begun)
        answers: list[list[Receipt] | Exception] = []
        at = 0
        for waiting in group:
            answers.append(receipts[at : at + len(waiting.batches)])
            at += len(waiting.batches)
        return answers

    def _store_alone(self, store: Store, batches: list[ParsedBatch]) -> list[Receipt] | Exception:
        receipts: list[Receipt] = []
        for batch in batches:
            try:
                receipts += store([batch])
            except (DatabaseAway, TooMuchAsked) as error:
                return error
            except Exception:  # content must never cause a 5xx
                log.exception("batch %s/%d can't be stored", batch.stream, batch.sequence, extra={"action": "store"})
                receipts.append(_refusal(batch))
        return receipts

    def _count(self, group: list[_Waiting], receipts: list[Receipt], seconds: float) -> None:
        tally = self.tally
        tally.groups += 1
        tally.posts += len(group)
        tally.batches += len(receipts)
        tally.commit_seconds += seconds
        for receipt in receipts:
            if receipt.status == "stored":
                tally.readings += receipt.stored
            tally.duplicates += receipt.stored if receipt.status == "duplicate" else receipt.duplicates
            tally.rejections += len(receipt.rejected) if receipt.status != "duplicate" else 0


def _settle(answer: asyncio.Future[list[Receipt]], outcome: list[Receipt] | Exception) -> None:
    if answer.done():  # its sender gave up; the repeat will get the stored receipt
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _refusal(batch: ParsedBatch) -> Receipt:
    reason = "the store refuses this batch; the service's log says why"
    return Receipt(
        stream=batch.stream,
        sequence=batch.sequence,
        sha256=batch.sha256.hex(),
        status="rejected",
        rejected=(*batch.rejections, Rejection(-1, "batch", reason)),
    )
