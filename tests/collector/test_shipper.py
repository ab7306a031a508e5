"""The shipper against a service that answers anything: what it keeps, what it releases, when it comes back."""

from __future__ import annotations

import http.server
import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from support.batches import Ledger, encode, everything, lines_of, number_of, waiting
from support.fake_clock import START_US, FakeClock
from support.faulty_disk import FaultyDisk
from wattmill_collector.answers import retry_after_us
from wattmill_collector.shipper import KeySource, Shipper
from wattmill_collector.spool import Spool
from wattmill_collector.transport import Answer, HttpTransport

SECOND_US = 1_000_000
Reply = Callable[[list[bytes]], Answer]


def answer(status: int, document: object, content_type: str = "application/json", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": content_type, **named}, json.dumps(document).encode())


def problem(status: int, **headers: str) -> Answer:
    return answer(status, {"title": "no", "status": status}, "application/problem+json", **headers)


def page(status: int, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "text/html; charset=utf-8", **named}, b"<html>Welcome</html>")


class Service:
    """A transport with a ledger behind it; `script` answers first, one entry a post, None lets the ledger answer."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.ledger = Ledger()
        self.script: list[Reply | Answer | Exception | None] = []
        self.always: Reply | None = None
        self.posts: list[tuple[list[bytes], dict[str, str]]] = []
        self.takes_us = 0

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        self.clock.advance(self.takes_us)
        lines = lines_of(body, dict(headers))
        self.posts.append((lines, dict(headers)))
        said = self.script.pop(0) if self.script else self.always
        if isinstance(said, Exception):
            raise said
        if isinstance(said, Answer):
            return said
        return said(lines) if said is not None else self.commit(lines)

    def commit(self, lines: list[bytes]) -> Answer:
        receipts = [self.ledger.store(line) for line in lines]
        statuses = {receipt["status"] for receipt in receipts}
        status = 200 if statuses & {"stored", "duplicate"} else 409
        return answer(
            status, {"receipts": receipts}, "application/json" if status == 200 else "application/problem+json"
        )

    def numbers(self) -> list[int]:
        return sorted(self.ledger.numbers())

    def sizes(self) -> list[int]:
        return [len(lines) for lines, _ in self.posts]


class Rig:
    def __init__(self, key: KeySource | None = None, disk: FaultyDisk | None = None) -> None:
        self.clock = FakeClock()
        self.disk = disk or FaultyDisk()
        self.spool = Spool.open(Path("/spool"), clock=self.clock, disk=self.disk, host="a")
        self.service = Service(self.clock)
        self.shipper = Shipper(
            self.spool, self.service, self.clock, key=key or KeySource(), random=random.Random(3), interval_us=SECOND_US
        )

    def append(self, *numbers: int, padding: int = 0) -> None:
        for number in numbers:
            self.spool.append(encode(number, padding))

    def run(self, seconds: float) -> None:
        """Let the shipper work for a while of fake time."""
        end_us = self.clock.monotonic_us() + int(seconds * SECOND_US)
        for _ in range(5000):
            if self.clock.monotonic_us() >= end_us:
                return
            self.clock.advance(max(self.shipper.step(), 0))
        raise AssertionError("the shipper spins")


@pytest.fixture
def rig() -> Rig:
    return Rig()


# ---- receipts


def test_what_waits_goes_out_in_one_post_and_its_receipts_release_it(rig: Rig) -> None:
    rig.append(1, 2, 3)
    rig.shipper.step()
    assert rig.service.sizes() == [3]
    assert rig.service.posts[0][1]["Content-Encoding"] == "gzip"
    assert waiting(rig.spool) == []
    assert rig.spool.acknowledged_through(rig.spool.stream) == 3
    assert rig.shipper.stats().batches_acknowledged == 3
    assert rig.shipper.stats().last_success_us == rig.clock.wall_us()


def test_nothing_is_posted_when_nothing_waits(rig: Rig) -> None:
    assert rig.shipper.step() == 5 * SECOND_US
    assert rig.service.posts == []


@pytest.mark.parametrize(
    "reply",
    [
        page(200),
        Answer(200, {}, b""),
        Answer(200, {"content-type": "application/json"}, b""),
        Answer(200, {"content-type": "application/json"}, b"[" * 100_000),
        answer(200, {"receipts": []}),
        answer(200, {"receipts": "all"}),
        answer(200, {"receipts": [{"stream": 7}]}),
        answer(200, {"receipts": [{"stream": "x", "sequence": 1, "sha256": "0" * 64, "status": "stored"}]}),
        answer(204, {}),
        answer(200, {"ok": True}),
    ],
)
def test_a_success_without_our_receipts_releases_nothing(rig: Rig, reply: Answer) -> None:
    rig.append(1)
    rig.service.script = [reply]
    rig.shipper.step()
    assert waiting(rig.spool) == [1]
    assert rig.shipper.stats().consecutive_failures == 1
    rig.run(10)
    assert rig.service.numbers() == [1]


def test_a_receipt_for_another_content_releases_nothing(rig: Rig) -> None:
    rig.append(1)
    forged = {"stream": rig.spool.stream, "sequence": 1, "sha256": "ab" * 32, "status": "stored"}
    rig.service.script = [answer(200, {"receipts": [forged]})]
    rig.shipper.step()
    assert waiting(rig.spool) == [1]


def test_a_reply_lost_after_the_commit_is_answered_from_the_ledger(rig: Rig) -> None:
    rig.append(1, 2)

    def commit_and_cut(lines: list[bytes]) -> Answer:
        rig.service.commit(lines)
        raise ConnectionResetError("cut")

    rig.service.script = [commit_and_cut]
    rig.run(10)
    assert rig.service.posts[0][0] == rig.service.posts[1][0], "the repeat is byte for byte the same"
    assert rig.service.numbers() == [1, 2]
    assert waiting(rig.spool) == []


def test_a_rejected_reading_goes_to_quarantine_and_its_batch_is_done(rig: Rig) -> None:
    rig.append(1)

    def partly(lines: list[bytes]) -> Answer:
        receipt = rig.service.ledger.store(lines[0])
        receipt["rejected"] = [{"index": 0, "field": "readings[0].power_mw", "reason": "must not be negative"}]
        return answer(200, {"receipts": [receipt]})

    rig.service.script = [partly]
    rig.shipper.step()
    assert waiting(rig.spool) == []
    entry = json.loads(rig.disk.content(Path("/spool/quarantine/rejected.ndjson")))
    assert entry["reason"] == "must not be negative"
    assert entry["reading"] == {"kind": "test", "number": 1}
    assert rig.spool.stats().rejected_readings == 1


def test_a_rejected_batch_goes_to_quarantine_and_the_others_pass(rig: Rig) -> None:
    rig.append(1, 2, 3)

    def middle_rejected(lines: list[bytes]) -> Answer:
        receipts = [rig.service.ledger.store(line) for line in (lines[0], lines[2])]
        bad = json.loads(lines[1])
        from_us = {"stream": bad["stream"], "sequence": bad["sequence"], "status": "rejected"}
        from_us["sha256"] = everything(rig.spool)[1].sha256
        from_us["rejected"] = [{"index": -1, "field": "node.name", "reason": "is required"}]
        return answer(200, {"receipts": [*receipts, from_us]})

    rig.service.script = [middle_rejected]
    rig.shipper.step()
    assert waiting(rig.spool) == []
    assert rig.service.numbers() == [1, 3]
    assert rig.spool.stats().dropped == {"quarantined": 1}


def test_the_service_restored_from_a_backup_gets_everything_again(rig: Rig) -> None:
    rig.append(1, 2)
    rig.run(6)
    backup = dict(rig.service.ledger.lines)
    rig.append(3, 4)
    rig.run(6)
    rig.service.ledger.lines = backup
    rig.append(5)
    rig.run(30)
    assert rig.service.numbers() == [1, 2, 3, 4, 5]
    assert rig.spool.stats().rewinds == 1


def test_a_service_that_never_commits_further_does_not_get_everything_for_ever(rig: Rig) -> None:
    def stuck(lines: list[bytes]) -> Answer:
        receipts = [rig.service.ledger.store(line) | {"committed_through": 0, "status": "stored"} for line in lines]
        return answer(200, {"receipts": receipts})

    rig.service.always = stuck
    for number in range(1, 60):
        rig.append(number)
        rig.run(5)
    assert rig.spool.stats().rewinds == 1


# ---- conflict


def test_a_conflict_moves_to_a_new_stream_and_nothing_is_lost_or_doubled(rig: Rig) -> None:
    foreign = encode(-1)(rig.spool.stream, 2, [])
    rig.service.ledger.store(foreign)
    rig.append(1, 2, 3)
    rig.run(10)
    rig.append(4)
    rig.run(10)
    assert rig.service.numbers() == [-1, 1, 2, 3, 4]
    assert rig.shipper.stats().retried["conflict"] == 1
    assert len({stream for stream, _ in rig.service.ledger.lines}) == 2


def test_a_conflict_alone_is_a_409_with_receipts(rig: Rig) -> None:
    rig.service.ledger.store(encode(-1)(rig.spool.stream, 1, []))
    rig.append(1)
    rig.run(10)
    assert rig.service.numbers() == [-1, 1]


# ---- trouble of the way


@pytest.mark.parametrize("status", [401, 403, 404, 405, 421, 301, 302, 307])
def test_a_closed_door_parks_everything_and_probes_once_a_minute(rig: Rig, status: int) -> None:
    rig.append(*range(1, 11))
    rig.service.always = lambda _: page(status, location="http://elsewhere/login")
    rig.run(600)
    assert 9 <= len(rig.service.posts) <= 12
    assert rig.service.sizes()[1:] == [1] * (len(rig.service.posts) - 1), "a probe is small"
    assert str(status) in str(rig.shipper.stats().parked)
    assert len(waiting(rig.spool)) == 10
    rig.service.always = None
    rig.run(80)
    assert waiting(rig.spool) == []
    assert rig.shipper.stats().parked is None


def test_a_new_key_in_the_file_opens_the_door_at_once(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("old\n")
    rig = Rig(key=KeySource(file))
    rig.append(1)

    def check(lines: list[bytes]) -> Answer:
        key = rig.service.posts[-1][1].get("Authorization")
        return rig.service.commit(lines) if key == "Bearer new-one" else problem(401)

    rig.service.always = check
    rig.run(6)
    assert waiting(rig.spool) == [1]
    file.write_text("new-one\n")
    rig.run(6)
    assert waiting(rig.spool) == []


def test_a_key_file_that_can_not_be_read_is_said(tmp_path: Path) -> None:
    rig = Rig(key=KeySource(tmp_path / "missing"))
    rig.append(1)
    rig.service.always = lambda _: problem(401)
    rig.shipper.step()
    assert "missing" in rig.shipper.stats().last_error


@pytest.mark.parametrize("trouble", [408, 425, 429, 500, 502, 503, 504, 507, 418, OSError("no route"), TimeoutError()])
def test_anything_else_is_retried_for_ever_with_jitter_up_to_a_minute(rig: Rig, trouble: int | Exception) -> None:
    rig.append(1)
    rig.service.always = None
    rig.service.script = [trouble if isinstance(trouble, Exception) else page(trouble)] * 30
    delays = []
    while rig.service.script:
        delay = rig.shipper.step()
        delays.append(delay)
        rig.clock.advance(delay)
    assert max(delays) <= 61 * SECOND_US
    late = [d for d in delays[8:] if d <= 60 * SECOND_US]
    assert max(late) - min(late) > 20 * SECOND_US, "the jitter stays full at the cap"
    rig.run(300)
    assert rig.service.numbers() == [1]
    assert rig.spool.stats().dropped == {}


def test_the_first_retries_are_quick(rig: Rig) -> None:
    rig.append(1)
    rig.service.script = [ConnectionRefusedError("refused")]
    assert rig.shipper.step() <= SECOND_US


def test_a_retry_after_is_honoured_up_to_a_quarter_of_an_hour(rig: Rig) -> None:
    rig.append(1)
    rig.service.script = [problem(503, retry_after="120"), problem(429, retry_after="999999")]
    assert 120 * SECOND_US <= rig.shipper.step() <= 130 * SECOND_US
    rig.shipper.wake()
    rig.shipper.step()
    assert len(rig.service.posts) == 1
    rig.clock.advance(131 * SECOND_US)
    assert 900 * SECOND_US <= rig.shipper.step() <= 910 * SECOND_US


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("Tue, 25 Nov 2025 00:01:00 GMT", 60), ("-5", 0), ("soon", 0), ("", 0), ("٣", 0), ("9" * 400, 900)],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: int) -> None:
    assert retry_after_us(problem(503, retry_after=header), START_US) == seconds * SECOND_US


def test_a_disk_that_can_not_be_read_is_trouble_like_any_other(rig: Rig) -> None:
    rig.append(1)
    rig.disk.fail("read", 5)
    rig.shipper.step()
    assert rig.shipper.stats().retried == {"disk": 1}
    rig.run(10)
    assert rig.service.numbers() == [1]


# ---- what is too large or not understood


def test_too_large_posts_are_halved_until_they_pass(rig: Rig) -> None:
    rig.append(*range(1, 101))
    rig.service.always = lambda lines: problem(413) if len(lines) > 12 else rig.service.commit(lines)
    rig.run(30)
    assert rig.service.numbers() == list(range(1, 101))
    assert rig.spool.stats().quarantined_batches == 0


def test_one_batch_that_is_too_large_alone_goes_to_quarantine(rig: Rig) -> None:
    rig.append(*range(1, 21))
    rig.service.always = lambda lines: (
        problem(413) if any(b'"number":7}' in x for x in lines) else rig.service.commit(lines)
    )
    rig.run(60)
    assert rig.service.numbers() == [n for n in range(1, 21) if n != 7]
    assert rig.spool.stats().dropped == {"quarantined": 1}


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_poisoned_batch_is_found_by_bisection_and_the_others_pass(rig: Rig, status: int) -> None:
    rig.append(*range(1, 101))
    poison = (b'"number":13}', b'"number":77}')
    rig.service.always = lambda lines: (
        problem(status) if any(p in line for p in poison for line in lines) else rig.service.commit(lines)
    )
    rig.run(60)
    assert rig.service.numbers() == [n for n in range(1, 101) if n not in (13, 77)]
    assert rig.spool.stats().quarantined_batches == 2
    assert waiting(rig.spool) == []


def test_the_plain_encoding_is_tried_before_anything_is_given_up(rig: Rig) -> None:
    rig.append(1, 2, 3)

    def no_gzip(lines: list[bytes]) -> Answer:
        return problem(415) if "Content-Encoding" in rig.service.posts[-1][1] else rig.service.commit(lines)

    rig.service.always = no_gzip
    rig.run(6)
    assert rig.service.sizes() == [3, 3]
    rig.append(4)
    rig.run(6)
    assert rig.service.numbers() == [1, 2, 3, 4]
    assert len(rig.service.posts) == 3, "what works is kept for a while"


def test_a_proxy_that_refuses_everything_makes_nothing_go_to_quarantine(rig: Rig) -> None:
    rig.append(*range(1, 21))
    rig.service.always = lambda _: page(400)
    rig.run(4 * 3600)
    assert len(waiting(rig.spool)) == 20
    rig.service.always = None
    rig.run(1200)
    assert rig.service.numbers() == list(range(1, 21))


def test_a_batch_that_crashes_the_service_does_not_keep_the_others(rig: Rig) -> None:
    rig.append(*range(1, 21))
    rig.service.always = lambda lines: (
        page(500) if any(b'"number":7}' in x for x in lines) else rig.service.commit(lines)
    )
    rig.run(1200)
    assert set(range(1, 21)) - {7} <= set(rig.service.numbers())
    assert rig.spool.stats().pending_batches + rig.spool.stats().quarantined_batches == 1
    for number in range(21, 1000):
        if rig.spool.stats().quarantined_batches:
            break
        rig.append(number)
        rig.run(120)
    assert rig.spool.stats().dropped == {"quarantined": 1}


# ---- lanes


def test_fresh_batches_do_not_wait_for_the_backlog(rig: Rig) -> None:
    rig.append(*range(1, 2001))
    rig.service.takes_us = SECOND_US
    worst = 0
    number = 2000
    while rig.spool.pending()[0] > 50:
        number += 1
        rig.append(number)
        taken_us = rig.clock.monotonic_us()
        delay_us = rig.shipper.step()
        while number not in rig.service.ledger.numbers():
            rig.clock.advance(delay_us)
            delay_us = rig.shipper.step()
        worst = max(worst, rig.clock.monotonic_us() - taken_us)
        rig.clock.advance(delay_us)
    assert worst <= 5 * SECOND_US
    rig.run(20)
    assert rig.service.numbers() == list(range(1, number + 1))


def test_a_backlog_gets_at_most_half_of_the_time(rig: Rig) -> None:
    rig.append(*range(1, 4001))
    rig.service.takes_us = SECOND_US
    start_us = rig.clock.monotonic_us()
    rig.run(14)
    busy = sum(size > 60 for size in rig.service.sizes()) * SECOND_US
    assert busy <= 0.6 * (rig.clock.monotonic_us() - start_us)
    assert rig.service.sizes()[0] <= 60, "the newest first"
    assert 4000 in rig.service.ledger.numbers()


def test_a_post_has_limits(rig: Rig) -> None:
    rig.append(*range(1, 1200), padding=3000)
    rig.run(60)
    assert rig.service.numbers() == list(range(1, 1200))
    assert max(rig.service.sizes()) <= 500


# ---- the loop


def test_the_thread_ends_when_told_and_a_bug_does_not_end_it(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    rig.append(1)
    rig.service.script = [ZeroDivisionError("bug"), None]

    def stop_after(lines: list[bytes]) -> Answer:
        stop.set()
        return rig.service.commit(lines)

    rig.service.script[1] = stop_after
    rig.shipper.run(stop)
    assert rig.service.numbers() == [1]
    assert rig.shipper.stats().retried == {"internal": 1}
    assert "ZeroDivisionError" in caplog.text


def test_drain_empties_the_spool_or_gives_up(rig: Rig) -> None:
    rig.append(*range(1, 1500))
    assert rig.shipper.drain(60 * SECOND_US)
    assert waiting(rig.spool) == []
    rig.append(1500)
    rig.service.always = lambda _: page(503)
    assert not rig.shipper.drain(60 * SECOND_US)


# ---- the real transport


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ledger = Ledger()
    mode = "receipts"
    connections: ClassVar[set[tuple[str, int]]] = set()

    def do_POST(self) -> None:
        type(self).connections.add(self.client_address)
        lines = lines_of(self.rfile.read(int(self.headers["Content-Length"])), dict(self.headers.items()))
        body = json.dumps({"receipts": [self.ledger.store(line) for line in lines]}).encode()
        if self.mode == "redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.mode == "receipts" else body[:20])
        self.close_connection = self.mode == "cut"

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Quiet."""


@pytest.fixture
def address() -> Iterator[str]:
    _Handler.ledger, _Handler.mode, _Handler.connections = Ledger(), "receipts", set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_posts_share_a_connection_and_a_redirect_is_not_followed(rig: Rig, address: str) -> None:
    transport = HttpTransport(address)
    shipper = Shipper(rig.spool, transport, rig.clock)
    for number in range(1, 4):
        rig.append(number)
        shipper.step()
    assert _Handler.ledger.numbers() == [1, 2, 3]
    assert len(_Handler.connections) == 1
    _Handler.mode = "redirect"
    rig.append(4)
    shipper.step()
    assert "302" in str(shipper.stats().parked)
    assert waiting(rig.spool) == [4]
    transport.close()


def test_an_answer_cut_short_is_no_answer(rig: Rig, address: str) -> None:
    transport = HttpTransport(address)
    shipper = Shipper(rig.spool, transport, rig.clock)
    rig.append(1)
    _Handler.mode = "cut"
    shipper.step()
    assert [number_of(r) for r in everything(rig.spool)] == [1]
    assert shipper.stats().retried == {"network": 1}
    _Handler.mode = "receipts"
    rig.clock.advance(SECOND_US)
    shipper.step()
    assert waiting(rig.spool) == []
    transport.close()


def test_nobody_there_is_trouble_of_the_network(rig: Rig) -> None:
    rig.append(1)
    shipper = Shipper(rig.spool, HttpTransport("http://127.0.0.1:1", timeout_s=1), rig.clock)
    shipper.step()
    assert shipper.stats().retried == {"network": 1}


@pytest.mark.parametrize("server", ["wattmill:8080", "ftp://wattmill", "http://", "/api"])
def test_an_address_that_is_none_is_said_at_once(server: str) -> None:
    with pytest.raises(ValueError, match="must be an http"):
        HttpTransport(server)
