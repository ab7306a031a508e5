"""The shipper: posts what waits in the spool, and releases what the service has receipted.

Two lanes. While more waits than one post holds, posts take turns: the newest batches (so that the present is always
seen), then the oldest of the backlog, after which the shipper rests as long as that post took: a backlog gets at most
half of the time.

Promises: a batch leaves the queue by a receipt whose sequence and hash match, into the quarantine with a reason, or
under a new number after a conflict, and by no status at all. Nothing about one batch keeps another from going out.

It does not do: reading the clock or the network by itself; both are passed in, so that every answer can be scripted.
"""

from __future__ import annotations

import dataclasses
import http.client
import logging
import random as random_module
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from wattmill_collector.answers import Verdict, is_ours, judge, reason_of, retry_after_us
from wattmill_collector.clock import Clock
from wattmill_collector.spool import NotTaken, Record, Spool
from wattmill_collector.transport import Answer, HttpTransport, KeySource, Transport
from wattmill_collector.wire import Receipt, Rejection

SECOND_US = 1_000_000
POST_BYTES = 1 << 20
POST_READINGS = 5_000
POST_BATCHES = 500
FRESH_BATCHES = 60
SHORTEST_FLUSH_US = 5 * SECOND_US
LONGEST_BACKOFF_US = 60 * SECOND_US
SHORTEST_BACKOFF_US = SECOND_US // 10
PARK_US = 60 * SECOND_US
KEY_LOOK_US = 5 * SECOND_US
PLAIN_US = 3_600 * SECOND_US
REWIND_AGAIN_US = 3_600 * SECOND_US
FAILURES_BEFORE_BISECTING = 5
REFUSALS_BEFORE_QUARANTINE = 5
MOST_SUSPECTS = 64
SUSPECT_US = 60 * SECOND_US

__all__ = ["HttpTransport", "KeySource", "Shipper", "ShipperStats"]

log = logging.getLogger("wattmill.shipper")


@dataclasses.dataclass(frozen=True, slots=True)
class ShipperStats:
    """The books of the shipper; counts are since it was made, `next_attempt_us` is monotonic, 0 = at the next flush."""

    posts: int
    batches_sent: int
    batches_acknowledged: int
    bytes_sent: int
    retried: Mapping[str, int]
    parked: str | None
    last_success_us: int | None
    last_error: str
    consecutive_failures: int
    next_attempt_us: int


@dataclasses.dataclass(slots=True)
class _Suspect:
    """A batch that failed alone, by an answer that may not be about it: set aside, tried again, judged late."""

    until_us: int
    refusals: int
    acknowledged: int  # in all, when it was last refused: only a refusal that others did not meet counts


class Shipper:
    """One thread runs `run`; `wake` and `stats` may be called from any."""

    def __init__(
        self,
        spool: Spool,
        transport: Transport,
        clock: Clock,
        *,
        key: KeySource | None = None,
        interval_us: int = 10 * SECOND_US,
        user_agent: str = "wattmill-agent",
        random: random_module.Random | None = None,
    ) -> None:
        self._spool = spool
        self._transport = transport
        self._clock = clock
        self._key = key or KeySource()
        self._flush_us = max(interval_us, SHORTEST_FLUSH_US)
        self._user_agent = user_agent
        self._random = random or random_module.Random()
        self._event = threading.Event()

        self._batch_limit = POST_BATCHES
        self._byte_limit = POST_BYTES
        self._backlog_turn = False
        self._not_before_us = 0
        self._plain_until_us = 0
        self._plain_tried = False
        self._key_tried = ""
        self._suspects: dict[tuple[str, int], _Suspect] = {}
        self._rewound: dict[str, tuple[int, int]] = {}

        self._posts = 0
        self._sent = 0
        self._acknowledged = 0
        self._bytes = 0
        self._retried: Counter[str] = Counter()
        self._parked: str | None = None
        self._last_success_us: int | None = None
        self._last_error = ""
        self._failures = 0

    # ---- the loop

    def run(self, stop: threading.Event) -> None:
        """Ship until `stop` is set; call `wake` after setting it to end at once."""
        while not stop.is_set():
            try:
                delay_us = self.step()
            except Exception as error:  # a bug here must not end the thread: the spool keeps everything meanwhile
                log.exception("The shipper failed and goes on")
                delay_us = self._back_off("internal", f"{type(error).__name__}: {error}")
            if self._clock.wait(self._event, delay_us):
                self._event.clear()

    def wake(self) -> None:
        """Do not wait for the next flush. Does not shorten a back-off."""
        self._event.set()

    def drain(self, timeout_us: int) -> bool:
        """Post until nothing waits (True), or until trouble or the time is over (False). For the end of the agent."""
        deadline_us = self._clock.monotonic_us() + timeout_us
        while self._spool.pending()[0]:
            if self._failures or self._parked or self._clock.monotonic_us() >= deadline_us:
                return False
            posts = self._posts
            self._not_before_us = 0
            self.step()
            if self._posts == posts:
                return False
        return True

    def step(self) -> int:
        """One decision: at most one post. Returns the microseconds until the next one is due."""
        now_us = self._clock.monotonic_us()
        if self._parked and self._key.current() != self._key_tried:
            self._not_before_us = now_us
        if now_us < self._not_before_us:
            left_us = self._not_before_us - now_us
            return min(left_us, KEY_LOOK_US) if self._parked else left_us
        try:
            records, backlog = self._choose(now_us)
            if not records:
                return self._flush_us
            delay_us = self._post(records)
        except OSError as error:
            return self._back_off("disk", f"The spool can't be read or written: {error}")
        except NotTaken as error:
            return self._back_off("disk", str(error))
        if backlog and delay_us == 0:
            delay_us = self._clock.monotonic_us() - now_us
            self._not_before_us = now_us + 2 * delay_us
        return delay_us

    def stats(self) -> ShipperStats:
        return ShipperStats(
            posts=self._posts,
            batches_sent=self._sent,
            batches_acknowledged=self._acknowledged,
            bytes_sent=self._bytes,
            retried=dict(self._retried),
            parked=self._parked,
            last_success_us=self._last_success_us,
            last_error=self._key.error or self._last_error,
            consecutive_failures=self._failures,
            next_attempt_us=self._not_before_us if self._failures or self._parked else 0,
        )

    # ---- choosing

    def _choose(self, now_us: int) -> tuple[list[Record], bool]:
        """The records of the next post, and whether they are of a backlog."""
        skip = {key for key, suspect in self._suspects.items() if suspect.until_us > now_us}
        batches, size = self._spool.pending()
        limit = 1 if self._parked else self._batch_limit
        backlog = batches - len(skip) > POST_BATCHES or size > 2 * POST_BYTES
        if backlog and not self._backlog_turn:
            self._backlog_turn = True
            fresh = self._spool.read_newest(
                limit_bytes=self._byte_limit,
                limit_batches=min(limit, FRESH_BATCHES),
                limit_readings=POST_READINGS,
                skip=skip,
            )
            if fresh and (fresh[-1].stream, fresh[-1].sequence) == self._spool.newest():
                return fresh, False
        self._backlog_turn = False
        oldest = self._spool.read_oldest(
            limit_bytes=self._byte_limit, limit_batches=limit, limit_readings=POST_READINGS, skip=skip
        )
        return oldest, backlog

    # ---- posting

    def _post(self, records: Sequence[Record]) -> int:
        plain = self._clock.monotonic_us() < self._plain_until_us
        headers = {"Content-Type": "application/x-ndjson", "User-Agent": self._user_agent}
        if plain:
            body = b"".join(record.line() + b"\n" for record in records)
        else:
            body = b"".join(record.member for record in records)
            headers["Content-Encoding"] = "gzip"
        self._key_tried = self._key.current()
        if self._key_tried:
            headers["Authorization"] = f"Bearer {self._key_tried}"
        self._posts += 1
        self._sent += len(records)
        self._bytes += len(body)
        try:
            answer = self._transport.post(body, headers)
        except TimeoutError as error:
            return self._back_off("timeout", f"The service did not answer in time: {error}")
        except (OSError, http.client.HTTPException) as error:
            return self._back_off("network", f"The service can't be reached: {error or type(error).__name__}")
        return self._act(records, answer, plain=plain)

    def _act(self, records: Sequence[Record], answer: Answer, *, plain: bool) -> int:
        verdict, receipts = judge(answer)
        if verdict is Verdict.RECEIPTS:
            return self._release(records, receipts, answer)
        if verdict is Verdict.PARK:
            return self._park(answer)
        if verdict is Verdict.SPLIT:
            self._byte_limit = max(sum(len(r.member) for r in records) // 2, 1)
            return self._halve(records, answer)
        if verdict is Verdict.REFUSED and answer.status != 409:
            if not plain and not self._plain_tried:
                self._plain_tried = True
                self._plain_until_us = self._clock.monotonic_us() + PLAIN_US
                self._retried["plain"] += 1
                return 0
            self._plain_until_us = 0
        if verdict is Verdict.REFUSED:
            return self._halve(records, answer)
        if answer.status >= 500 and answer.status not in (502, 503, 504):
            if self._failures >= FAILURES_BEFORE_BISECTING:
                self._halve(records, answer)
            return self._back_off(f"status_{answer.status}", reason_of(answer), answer)
        label = "not_ours" if answer.status < 300 else f"status_{answer.status}"
        return self._back_off(label, f"The answer is no receipt: {reason_of(answer)}", answer)

    def _halve(self, records: Sequence[Record], answer: Answer) -> int:
        """Look for what is refused in ever smaller posts; alone and surely refused, it leaves the queue."""
        self._last_error = reason_of(answer)
        if len(records) > 1:
            self._batch_limit = len(records) // 2
            self._retried["halved"] += 1
            return 0
        self._plain_tried = False
        record = records[0]
        if is_ours(answer) and answer.status < 500:
            if answer.status == 409:
                self._spool.move_to_new_stream(records)
            else:
                self._quarantine(record, reason_of(answer))
            return 0
        return self._suspect(record, answer)

    def _suspect(self, record: Record, answer: Answer) -> int:
        now_us = self._clock.monotonic_us()
        key = (record.stream, record.sequence)
        suspect = self._suspects.get(key)
        if suspect is None:
            if len(self._suspects) < MOST_SUSPECTS:
                self._suspects[key] = _Suspect(now_us + SUSPECT_US, 1, self._acknowledged)
        else:
            suspect.refusals += self._acknowledged > suspect.acknowledged
            suspect.acknowledged = self._acknowledged
            suspect.until_us = now_us + SUSPECT_US * suspect.refusals
            if suspect.refusals >= REFUSALS_BEFORE_QUARANTINE:
                self._quarantine(record, f"refused {suspect.refusals} times while others passed: {reason_of(answer)}")
                return 0
        if answer.status >= 500:
            return 0  # the caller backs off
        return self._back_off(f"status_{answer.status}", reason_of(answer), answer)

    def _quarantine(self, record: Record, reason: str) -> None:
        log.warning("Batch %s of stream %s goes to quarantine: %s", record.sequence, record.stream, reason)
        self._spool.quarantine(record, reason)
        self._suspects.pop((record.stream, record.sequence), None)

    # ---- receipts

    def _release(self, records: Sequence[Record], receipts: Sequence[Receipt], answer: Answer) -> int:
        waiting = {(record.stream, record.sequence): record for record in records}
        stored: list[tuple[str, int]] = []
        conflicts: list[Record] = []
        committed: dict[str, int] = {}
        answered = 0
        for receipt in receipts:
            key = (receipt.stream, receipt.sequence)
            record = waiting.get(key)
            if record is None or receipt.sha256 != record.sha256:
                continue
            if receipt.status in ("stored", "duplicate"):
                if receipt.rejected:
                    self._spool.quarantine_readings(record, receipt.rejected)
                stored.append(key)
                if receipt.status == "stored":  # the receipt of a duplicate may be an old one
                    committed[receipt.stream] = max(committed.get(receipt.stream, 0), receipt.committed_through)
            elif receipt.status == "rejected":
                self._quarantine(record, _sentence(receipt.rejected))
            elif receipt.status == "conflict":
                conflicts.append(record)
            else:
                continue
            answered += 1
            del waiting[key]
        self._spool.acknowledge(stored)
        self._acknowledged += len(stored)
        for key in stored:
            self._suspects.pop(key, None)
        if conflicts:
            log.warning("The service holds other batches under %d of our numbers: they get new ones", len(conflicts))
            self._retried["conflict"] += len(conflicts)
            self._spool.move_to_new_stream(conflicts)
        if not answered:
            return self._back_off("not_ours", "The answer has no receipt for any batch of the post", answer)
        self._succeed()
        for stream, through in committed.items():
            self._rewind(stream, through)
        return 0 if self._spool.pending()[0] else self._flush_us

    def _succeed(self) -> None:
        self._failures = 0
        self._parked = None
        self._last_error = ""
        self._not_before_us = 0
        self._last_success_us = self._clock.wall_us()
        self._plain_tried = False
        self._batch_limit = min(self._batch_limit * 2, POST_BATCHES)
        self._byte_limit = min(self._byte_limit + self._byte_limit // 16 + 1, POST_BYTES)

    def _rewind(self, stream: str, committed_through: int) -> None:
        """The service was restored from a backup: send again what it has lost, hourly at most for the same place."""
        if committed_through >= self._spool.acknowledged_through(stream):
            return
        now_us = self._clock.monotonic_us()
        place, at_us = self._rewound.get(stream, (-1, 0))
        if place == committed_through and now_us - at_us < REWIND_AGAIN_US:
            return
        self._rewound = {stream: (committed_through, now_us)}
        again = self._spool.rewind(stream, committed_through)
        log.warning("The service has stream %s through %d only: %d batches go again", stream, committed_through, again)

    # ---- waiting

    def _park(self, answer: Answer) -> int:
        if answer.status == 401 and self._key.read_again() != self._key_tried:
            self._retried["key"] += 1
            return 0
        reason = f"The service at this address does not let the agent in: {reason_of(answer)}"
        if reason != self._parked:
            log.warning("%s; everything is kept, probing each minute", reason)
        self._parked = self._last_error = reason
        self._retried[f"status_{answer.status}"] += 1
        delay_us = int(PARK_US * self._random.uniform(0.9, 1.1))
        self._not_before_us = self._clock.monotonic_us() + delay_us
        return min(delay_us, KEY_LOOK_US)

    def _back_off(self, label: str, reason: str, answer: Answer | None = None) -> int:
        """Full jitter, drawn after the cap so that it stays full at the cap; never before a Retry-After."""
        self._retried[label] += 1
        self._last_error = reason
        self._failures += 1
        ceiling_us = min(SECOND_US << min(self._failures - 1, 16), LONGEST_BACKOFF_US)
        delay_us = max(int(self._random.uniform(0, ceiling_us)), SHORTEST_BACKOFF_US)
        if answer is not None and (asked_us := retry_after_us(answer, self._clock.wall_us())):
            delay_us = asked_us + int(self._random.uniform(0, min(asked_us, 10 * SECOND_US)))
        self._not_before_us = self._clock.monotonic_us() + delay_us
        return delay_us


def _sentence(rejected: Sequence[Rejection]) -> str:
    return "; ".join(f"{r.field}: {r.reason}" for r in rejected[:5])[:500] or "rejected without a reason"
