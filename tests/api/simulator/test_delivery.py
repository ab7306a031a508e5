"""Only receipts for the very bytes count; trouble that passes is waited out; a refusal is said aloud."""

import gzip
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from wattmill_api.simulator.delivery import Answer, Away, Delivery, DeliveryError, HttpPost, Refused, check_receipts
from wattmill_api.simulator.fleet import Emission
from wattmill_collector.wire import Receipt, body_hash


def emission(sequence: int, node: int = 0, readings: int = 10) -> Emission:
    line = json.dumps({"sequence": sequence, "node": node}).encode()
    return Emission(0, 0, node, f"stream-{node}", sequence, line, readings)


def receipt(line: bytes, **changes: Any) -> dict[str, Any]:
    batch = json.loads(line)
    return {
        "stream": f"stream-{batch['node']}",
        "sequence": batch["sequence"],
        "sha256": body_hash(line),
        "status": "stored",
    } | changes


class Service:
    """Answers every post: first with the troubles it was given, then with receipts."""

    def __init__(self, *troubles: Answer | Exception, changes: dict[str, Any] | None = None, status: int = 200) -> None:
        self.troubles = list(troubles)
        self.changes, self.status = changes or {}, status
        self.posts: list[list[bytes]] = []
        self.lock = threading.Lock()

    def __call__(self, body: bytes) -> Answer:
        lines = gzip.decompress(body).splitlines()
        with self.lock:
            self.posts.append(lines)
            trouble = self.troubles.pop(0) if self.troubles else None
        if isinstance(trouble, Exception):
            raise trouble
        if trouble is not None:
            return trouble
        content = json.dumps({"receipts": [receipt(line, **self.changes) for line in lines]}).encode()
        return Answer(self.status, content, None)


class FakeTime:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


def delivered(service: Callable[[bytes], Answer], *emissions: Emission, lanes: int = 1) -> tuple[Delivery, FakeTime]:
    time = FakeTime()
    delivery = Delivery([service] * lanes, give_up_s=600, clock=time.clock, sleep=time.sleep)
    for one in emissions:
        delivery.put(one)
    delivery.close()
    return delivery, time


def test_lines_go_together_in_order_and_are_counted_when_acknowledged() -> None:
    service = Service()
    delivery, _ = delivered(service, *(emission(i) for i in range(1, 101)))
    assert [json.loads(line)["sequence"] for post in service.posts for line in post] == list(range(1, 101))
    assert len(service.posts) == 1
    assert (delivery.counts().lines, delivery.counts().readings, delivery.counts().posts) == (100, 1000, 1)


def test_a_post_holds_at_most_5000_readings() -> None:
    service = Service()
    delivered(service, *(emission(i, readings=1200) for i in range(1, 11)))
    assert [len(post) for post in service.posts] == [4, 4, 2]


def test_a_node_keeps_to_its_lane() -> None:
    services = [Service(), Service()]
    delivery = Delivery(services)
    for sequence in range(1, 4):
        for node in range(4):
            delivery.put(emission(sequence, node))
    delivery.flush()
    delivery.close()
    for number, service in enumerate(services):
        assert {json.loads(line)["node"] % 2 for post in service.posts for line in post} == {number}


@pytest.mark.parametrize(
    "trouble",
    [
        ConnectionRefusedError(111, "refused"),
        TimeoutError("timed out"),
        Answer(503, b"{}", None),
        Answer(429, b"", None),
        Answer(500, b"oops", None),
        Answer(200, b"<html>a proxy</html>", None),
        Answer(200, b'{"receipts": 5}', None),
    ],
)
def test_what_passes_is_tried_again_with_the_same_bytes(trouble: Answer | Exception) -> None:
    service = Service(trouble, trouble)
    delivery, time = delivered(service, emission(1))
    assert service.posts == [[emission(1).line]] * 3
    assert delivery.counts().retries == len(time.pauses) == 2


def test_retry_after_is_heeded() -> None:
    _, time = delivered(Service(Answer(503, b"", 17.0)), emission(1))
    assert time.pauses[0] >= 17.0


def test_patience_ends_with_a_sentence() -> None:
    with pytest.raises(Away, match=r"answers 503; gave up after 6\d\d s with 1 batches"):
        delivered(lambda body: Answer(503, b"", 60.0), emission(1))


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"status": "conflict"}, 409, "batch 1 of stream stream-0 was answered with conflict"),
        ({"status": "rejected", "rejected": [{"index": -1, "field": "line", "reason": "is odd"}]}, 422, "line: is odd"),
        ({"rejected": [{"index": 3, "field": "energy_mj", "reason": "must be"}]}, 200, "reading 3 was rejected"),
        ({"sha256": "00"}, 200, "for something else"),
        ({"sequence": 2}, 200, "for something else"),
    ],
)  # fmt: skip
def test_a_refusal_is_loud(changes: dict[str, Any], status: int, says: str) -> None:
    with pytest.raises(Refused, match=says):
        delivered(Service(changes=changes, status=status), emission(1))


@pytest.mark.parametrize(("status", "says"), [(401, "scope ingest"), (403, "scope ingest"), (413, "413"), (404, "404")])
def test_answers_that_will_not_change_end_the_run(status: int, says: str) -> None:
    with pytest.raises(Refused, match=says):
        delivered(lambda body: Answer(status, b"no", None), emission(1))


def test_a_missing_receipt_is_noticed() -> None:
    with pytest.raises(Refused, match="2 batches were sent, 1 receipts"):
        check_receipts([Receipt("stream-0", 1, "", "stored")], [emission(1), emission(2)])


def test_put_raises_what_a_lane_met() -> None:
    delivery = Delivery([lambda body: Answer(401, b"", None)])
    delivery.put(emission(1))
    delivery.flush()
    delivery.closing.wait(10)
    with pytest.raises(Refused):
        delivery.put(emission(2))


def test_a_duplicate_is_an_acknowledgement() -> None:
    delivery, _ = delivered(Service(changes={"status": "duplicate"}), emission(1))
    assert delivery.counts().duplicates == 1


@pytest.mark.parametrize("server", ["localhost:8080", "ftp://x", "http://"])
def test_an_address_that_is_none_is_named(server: str) -> None:
    with pytest.raises(DeliveryError, match="--server"):
        HttpPost(server, None)
