"""Sends lines to the service and believes only receipts.

Promises: every line handed over is acknowledged by a receipt with its stream, sequence and hash, or `Refused` or `Away`
is raised; the lines of one node go out in the order in which they were handed over. Trouble that passes (no connection,
429, 5xx, an answer without receipts) is tried again with jitter for as long as `give_up_s`; a refusal ends the run.
Not here: a spool. A simulator that is killed can be started again with the same options.
"""

from __future__ import annotations

import dataclasses
import gzip
import http.client
import json
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from wattmill_api.simulator.fleet import Emission
from wattmill_collector.wire import Receipt, WireError, body_hash, decode_receipt

MAX_POST_BYTES = 1 << 20  # of lines before compression
MAX_POST_READINGS = 5000
QUEUED_LINES = 1024
LONGEST_PAUSE_S = 30.0
TIMEOUT_S = 60.0


class DeliveryError(Exception):
    """The run can't go on; the message is for the person who started it."""


class Refused(DeliveryError):
    """The service understood and said no: trying again would not help."""


class Away(DeliveryError):
    """The service did not answer with receipts for too long."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `retry_after_s` is None where the service named no time."""

    status: int
    body: bytes
    retry_after_s: float | None


Post = Callable[[bytes], Answer]


class HttpPost:
    """One kept-alive connection to `/api/v1/ingest`. Errors: OSError and http.client.HTTPException."""

    def __init__(self, server: str, key: str | None) -> None:
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DeliveryError(f"--server must be an address such as http://wattmill:8080, not {server!r}")
        self._make: type[http.client.HTTPConnection] = http.client.HTTPConnection
        if parts.scheme == "https":
            self._make = http.client.HTTPSConnection
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + "/api/v1/ingest"
        self._headers = {
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "gzip",
            "User-Agent": "wattmill-simulator",
        }
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, body: bytes) -> Answer:
        if self._connection is None:
            self._connection = self._make(self._host, self._port, timeout=TIMEOUT_S)
        try:
            self._connection.request("POST", self._path, body=body, headers=self._headers)
            response = self._connection.getresponse()
            content = response.read()
        except BaseException:
            self.close()
            raise
        pause = response.getheader("Retry-After", "")
        return Answer(response.status, content, float(pause) if pause.isdigit() else None)

    def close(self) -> None:
        """Drop the connection; the next post opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclasses.dataclass(slots=True)
class Counts:
    """What has been acknowledged."""

    lines: int = 0
    readings: int = 0
    posts: int = 0
    duplicates: int = 0
    retries: int = 0


class _Lane:
    """One thread with one connection; holds the nodes whose number it divides."""

    def __init__(self, delivery: Delivery, post: Post, number: int) -> None:
        self.queue: queue.Queue[Emission | None] = queue.Queue(QUEUED_LINES)
        self.counts = Counts()
        self.unsent = 0
        self.delivery, self.post = delivery, post
        self.jitter = random.Random(number)
        self.thread = threading.Thread(target=self._run, name=f"poster-{number}", daemon=True)

    def _run(self) -> None:
        lines: list[Emission] = []
        size = readings = 0
        try:
            while not self.delivery.closing.is_set() or not self.queue.empty():
                try:
                    emission = self.queue.get(timeout=0.2)
                except queue.Empty:
                    continue
                if emission is None and lines:
                    self._send(lines)
                elif emission is not None:
                    fuller_bytes, fuller_readings = size + len(emission.line), readings + emission.readings
                    if lines and (fuller_bytes > MAX_POST_BYTES or fuller_readings > MAX_POST_READINGS):
                        self._send(lines)
                        size = readings = 0
                    lines.append(emission)
                    size += len(emission.line) + 1
                    readings += emission.readings
                    self.unsent = len(lines)
                if not lines:
                    size = readings = 0
            if lines:
                self._send(lines)
        except Exception as error:  # handed to the thread that waits, which raises it
            self.delivery.failed(error)

    def _send(self, lines: list[Emission]) -> None:
        """Post until receipts for all of these lines are there; empties the list."""
        body = gzip.compress(b"".join(e.line + b"\n" for e in lines), compresslevel=1, mtime=0)
        since = self.delivery.clock()
        attempt = 0
        while True:
            reason, pause = self._attempt(body, lines)
            if reason is None:
                break
            waited = self.delivery.clock() - since
            if waited > self.delivery.give_up_s or self.delivery.abandoned.is_set():
                raise Away(f"{reason}; gave up after {waited:.0f} s with {len(lines)} batches unacknowledged")
            attempt += 1
            self.counts.retries += 1
            ceiling = min(LONGEST_PAUSE_S, 0.25 * 2 ** min(attempt, 10))
            self.delivery.pause(max(pause or 0.0, self.jitter.uniform(0.0, ceiling)))
        self.counts.posts += 1
        self.counts.lines += len(lines)
        self.counts.readings += sum(e.readings for e in lines)
        lines.clear()
        self.unsent = 0

    def _attempt(self, body: bytes, lines: Sequence[Emission]) -> tuple[str | None, float | None]:
        """None when all is acknowledged, else why to try again and when. Errors: Refused."""
        try:
            answer = self.post(body)
        except (OSError, http.client.HTTPException) as error:
            return f"no answer from the service ({type(error).__name__}: {error})", None
        if answer.status in (408, 429) or answer.status >= 500:
            return f"the service answers {answer.status}", answer.retry_after_s
        receipts = parse_receipts(answer.body)
        if answer.status in (200, 409, 422) and receipts is not None:
            check_receipts(receipts, lines)
            self.counts.duplicates += sum(r.status == "duplicate" for r in receipts)
            return None, None
        if answer.status in (401, 403):
            raise Refused(
                f"the service answers {answer.status}: give a key with the scope ingest by --key or --key-file"
            )
        if 400 <= answer.status < 500:
            said = answer.body[:500].decode(errors="replace")
            raise Refused(f"the service refuses the post with {answer.status}: {said}")
        return f"the answer {answer.status} holds no receipts; is --server really Wattmill?", None


class Delivery:
    """A few lanes side by side. `put` blocks when the service is slower than the simulation."""

    def __init__(
        self,
        posts: Sequence[Post],
        *,
        give_up_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.give_up_s, self.clock = give_up_s, clock
        self.closing = threading.Event()
        self.abandoned = threading.Event()
        self.pause: Callable[[float], object] = sleep or self.abandoned.wait
        self._failure: Exception | None = None
        self._lanes = [_Lane(self, post, number) for number, post in enumerate(posts)]
        for lane in self._lanes:
            lane.thread.start()

    def failed(self, error: Exception) -> None:
        """A lane gave up: the others stop too."""
        self._failure = self._failure or error
        self.closing.set()
        self.abandoned.set()

    def put(self, emission: Emission) -> None:
        """Hand over one line. Errors: DeliveryError once any lane has failed."""
        self._push(self._lanes[emission.node % len(self._lanes)], emission)

    def flush(self) -> None:
        """What was handed over so far is to go out now, though a post is not full."""
        for lane in self._lanes:
            self._push(lane, None)

    def _push(self, lane: _Lane, item: Emission | None) -> None:
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                lane.queue.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def close(self, within_s: float | None = None) -> None:
        """Send what is left and end. Errors: DeliveryError when not everything was acknowledged (in time)."""
        self.closing.set()
        until = None if within_s is None else self.clock() + within_s
        for lane in self._lanes:
            lane.thread.join(None if until is None else max(0.0, until - self.clock()))
        if self._failure is not None:
            raise self._failure
        if any(lane.thread.is_alive() for lane in self._lanes):
            self.abandoned.set()
            unsent = sum(lane.unsent + lane.queue.qsize() for lane in self._lanes)
            raise Away(f"about {unsent} batches were not acknowledged within {within_s} s of the end")

    def counts(self) -> Counts:
        """The sum over all lanes."""
        names = [f.name for f in dataclasses.fields(Counts)]
        return Counts(**{n: sum(getattr(lane.counts, n) for lane in self._lanes) for n in names})


def parse_receipts(body: bytes) -> list[Receipt] | None:
    """The receipts of an answer; None when it has none that can be read."""
    try:
        document = json.loads(body)
        return [decode_receipt(r) for r in document["receipts"]]
    except (ValueError, KeyError, TypeError, WireError):
        return None


def check_receipts(receipts: Sequence[Receipt], lines: Sequence[Emission]) -> None:
    """One receipt per line, in order, for the very bytes that were sent, with nothing rejected. Errors: Refused."""
    if len(receipts) != len(lines):
        raise Refused(f"{len(lines)} batches were sent, {len(receipts)} receipts came back")
    for receipt, sent in zip(receipts, lines, strict=True):
        place = f"batch {sent.sequence} of stream {sent.stream}"
        if receipt.status not in ("stored", "duplicate"):
            reasons = "; ".join(f"{r.field}: {r.reason}" for r in receipt.rejected[:3]) or "no reason given"
            raise Refused(f"{place} was answered with {receipt.status} ({reasons})")
        if (receipt.stream, receipt.sequence, receipt.sha256) != (sent.stream, sent.sequence, body_hash(sent.line)):
            raise Refused(f"the receipt for {place} is for something else: {receipt}")
        if receipt.rejected:
            first = receipt.rejected[0]
            raise Refused(f"{place}: reading {first.index} was rejected ({first.field}: {first.reason})")
