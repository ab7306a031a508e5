"""One call: against a real gRPC server, and against peers that do what servers may do and what they must not."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kubelet_standin import CLASSES, KubeletStandin
from wattmill_collector.kubelet import http2
from wattmill_collector.kubelet.hpack import encode
from wattmill_collector.kubelet.pod_resources import LIST
from wattmill_collector.sources.addresses import FetchError

END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
OK_HEAD = encode([(":status", "200"), ("content-type", "application/grpc")])
OK_TRAILER = encode([("grpc-status", "0")])


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 1) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message(payload: bytes) -> bytes:
    return struct.pack(">BI", 0, len(payload)) + payload


SETTINGS_FRAME = frame(SETTINGS, stream=0)
HEAD_FRAME = frame(HEADERS, OK_HEAD, END_HEADERS)
END_FRAME = frame(HEADERS, OK_TRAILER, END_HEADERS | END_STREAM)
PLAIN = SETTINGS_FRAME + HEAD_FRAME + frame(DATA, message(b"hello")) + END_FRAME


class Peer:
    """Answers one connection with these bytes and remembers what it was sent."""

    def __init__(self, path: Path, answer: bytes, *, hold: bool = False) -> None:
        self.path, self.answer, self.received = path, answer, b""
        self._hold = hold
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            self.received += connection.recv(65_536)
            connection.sendall(self.answer)
            if not self._hold:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65_536):
                self.received += data

    def close(self) -> None:
        self._thread.join(5)
        self._server.close()


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[KubeletStandin]:
    with KubeletStandin(tmp_path / "kubelet.sock") as standin:
        yield standin


def ask(tmp_path: Path, answer: bytes, *, hold: bool = False, timeout_s: float = 5) -> bytes:
    peer = Peer(tmp_path / "peer.sock", answer, hold=hold)
    try:
        return http2.call(peer.path, LIST, timeout_s=timeout_s)
    finally:
        peer.close()


def refused(tmp_path: Path, answer: bytes, *, hold: bool = False, timeout_s: float = 5) -> str:
    with pytest.raises(FetchError) as caught:
        ask(tmp_path, answer, hold=hold, timeout_s=timeout_s)
    return caught.value.failure.reason


def test_a_real_server_answers(kubelet: KubeletStandin) -> None:
    kubelet.give("search", "chat-0", "vllm", {"nvidia.com/gpu": ["GPU-a", "GPU-b"]})
    assert http2.call(kubelet.socket, LIST) == kubelet.answer.SerializeToString()


def test_an_empty_answer_is_an_answer(kubelet: KubeletStandin) -> None:
    assert http2.call(kubelet.socket, LIST) == b""


def test_a_large_answer_comes_in_many_frames_through_the_open_window(kubelet: KubeletStandin) -> None:
    """3 MB: beyond the first windows of 65 535 bytes, which a real server keeps to."""
    for number in range(3000):
        kubelet.give("search", f"chat-{number}", "vllm", {"nvidia.com/gpu": ["x" * 1000]})
    sent = kubelet.answer.SerializeToString()
    assert len(sent) > 3_000_000
    assert http2.call(kubelet.socket, LIST, timeout_s=20) == sent


def test_call_after_call_over_one_server(kubelet: KubeletStandin) -> None:
    for number in range(50):
        kubelet.give("search", f"chat-{number}", "vllm", {"nvidia.com/gpu": [str(number)]})
        assert http2.call(kubelet.socket, LIST) == kubelet.answer.SerializeToString()
    assert kubelet.calls == 50


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("RESOURCE_EXHAUSTED", "grpc_resource_exhausted"),
        ("UNAVAILABLE", "grpc_unavailable"),
        ("INTERNAL", "grpc_internal"),
        ("UNAUTHENTICATED", "grpc_unauthenticated"),
    ],
)
def test_a_status_becomes_the_reason(kubelet: KubeletStandin, mode: str, reason: str) -> None:
    kubelet.mode, kubelet.detail = mode, "zu viele Fragen für 100 % Last: später"
    with pytest.raises(FetchError) as caught:
        http2.call(kubelet.socket, LIST)
    assert caught.value.failure.reason == reason
    assert "zu viele Fragen für 100 % Last: später" in caught.value.failure.detail


def test_a_method_that_the_server_does_not_have(kubelet: KubeletStandin) -> None:
    with pytest.raises(FetchError) as caught:
        http2.call(kubelet.socket, "/v1.PodResourcesLister/Get")
    assert caught.value.failure.reason == "grpc_unimplemented"


def test_headers_longer_than_a_frame_are_continued(kubelet: KubeletStandin) -> None:
    kubelet.mode, kubelet.detail = "INTERNAL", "much " * 4500 + "to say"
    with pytest.raises(FetchError) as caught:
        http2.call(kubelet.socket, LIST)
    assert caught.value.failure.reason == "grpc_internal"


def test_a_server_that_hangs_costs_the_time_that_was_given(kubelet: KubeletStandin) -> None:
    kubelet.mode = "hang"
    with pytest.raises(FetchError) as caught:
        http2.call(kubelet.socket, LIST, timeout_s=0.2)
    assert caught.value.failure.reason in ("timeout", "grpc_deadline_exceeded")  # whoever notices first


def test_a_kubelet_that_is_started_again_is_simply_asked_again(kubelet: KubeletStandin) -> None:
    assert http2.call(kubelet.socket, LIST) == b""
    kubelet.down()
    with pytest.raises(FetchError) as caught:
        http2.call(kubelet.socket, LIST)
    assert caught.value.failure.reason == "no_socket"
    kubelet.up()
    assert http2.call(kubelet.socket, LIST) == b""


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "old.sock"))
    with pytest.raises(FetchError) as caught:
        http2.call(tmp_path / "old.sock", LIST)
    assert caught.value.failure.reason == "connection_refused"


def test_the_request_is_what_the_standard_asks_for(tmp_path: Path) -> None:
    peer = Peer(tmp_path / "peer.sock", PLAIN)
    assert http2.call(peer.path, LIST, b"abc", timeout_s=2) == b"hello"
    peer.close()
    sent = peer.received
    assert sent.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert LIST.encode() in sent
    assert b"grpc-timeout\x052000m" in sent
    assert message(b"abc") in sent
    assert frame(SETTINGS, flags=1, stream=0) in sent  # the other side's settings are taken note of


@pytest.mark.parametrize(
    "answer",
    [
        SETTINGS_FRAME
        + frame(HEADERS, OK_HEAD[:1], 0)
        + frame(CONTINUATION, OK_HEAD[1:9], 0)
        + frame(CONTINUATION, OK_HEAD[9:], END_HEADERS)
        + frame(DATA, message(b"hello"))
        + END_FRAME,
        SETTINGS_FRAME
        + frame(HEADERS, bytes([3]) + OK_HEAD + bytes(3), END_HEADERS | PADDED)
        + frame(DATA, bytes([9]) + message(b"hello") + bytes(9), PADDED)
        + END_FRAME,
        SETTINGS_FRAME
        + frame(HEADERS, bytes([2]) + bytes(5) + OK_HEAD + bytes(2), END_HEADERS | PADDED | PRIORITY)
        + b"".join(frame(DATA, bytes([byte])) for byte in message(b"hello"))
        + END_FRAME,
        SETTINGS_FRAME
        + frame(PING, b"12345678", stream=0)
        + frame(WINDOW_UPDATE, bytes(4), stream=0)
        + frame(99, b"what may come one day")
        + HEAD_FRAME
        + frame(GOAWAY, struct.pack(">II", 1, 0), stream=0)
        + frame(DATA, message(b"hello"))
        + END_FRAME,
    ],
    ids=["continued", "padded", "one byte a frame", "pinged and on its way out"],
)
def test_what_a_server_may_do(tmp_path: Path, answer: bytes) -> None:
    assert ask(tmp_path, answer) == b"hello"


def test_a_ping_is_answered(tmp_path: Path) -> None:
    peer = Peer(tmp_path / "peer.sock", SETTINGS_FRAME + frame(PING, b"12345678", stream=0) + PLAIN[9:])
    http2.call(peer.path, LIST)
    peer.close()
    assert frame(PING, b"12345678", flags=1, stream=0) in peer.received


TRAILER_ONLY = encode([(":status", "200"), ("grpc-status", "14"), ("grpc-message", "starting")])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(20), "not_http2"),
        (HEAD_FRAME, "not_http2"),
        (SETTINGS_FRAME + frame(DATA, bytes(16_385)), "not_http2"),
        (SETTINGS_FRAME + frame(CONTINUATION, OK_HEAD, END_HEADERS), "not_http2"),
        (SETTINGS_FRAME + frame(HEADERS, OK_HEAD, 0) + frame(DATA, b""), "not_http2"),
        (SETTINGS_FRAME + frame(HEADERS, bytes([200]) + OK_HEAD, END_HEADERS | PADDED), "not_http2"),
        (SETTINGS_FRAME + frame(HEADERS, b"\xff\xff\xff", END_HEADERS), "not_http2"),
        (SETTINGS_FRAME + frame(HEADERS, OK_HEAD, END_HEADERS, stream=3), "not_http2"),
        (SETTINGS_FRAME + frame(PUSH_PROMISE, OK_HEAD, END_HEADERS), "not_http2"),
        (SETTINGS_FRAME + frame(HEADERS, b"\0" * 16_384) + frame(CONTINUATION, b"\0" * 16_384) * 5, "not_http2"),
        (SETTINGS_FRAME + frame(RST_STREAM, struct.pack(">I", 7)), "stream_reset"),
        (SETTINGS_FRAME + frame(GOAWAY, struct.pack(">II", 0, 11), stream=0), "going_away"),
        (SETTINGS_FRAME + frame(HEADERS, TRAILER_ONLY, END_HEADERS | END_STREAM), "grpc_unavailable"),
        (SETTINGS_FRAME + frame(HEADERS, encode([(":status", "503")]), END_HEADERS | END_STREAM), "http_503"),
        (SETTINGS_FRAME + HEAD_FRAME + frame(DATA, message(b"hello"), END_STREAM), "not_grpc"),
        (SETTINGS_FRAME + HEAD_FRAME + END_FRAME, "not_grpc"),
        (SETTINGS_FRAME + HEAD_FRAME + frame(DATA, b"\x01" + message(b"x")[1:]) + END_FRAME, "not_grpc"),
        (SETTINGS_FRAME + HEAD_FRAME + frame(DATA, message(b"hello")[:-1]) + END_FRAME, "not_grpc"),
        (PLAIN[:-4], "cut_off"),
        (b"", "cut_off"),
    ],
)
def test_what_a_server_must_not_do_is_refused_with_a_reason(tmp_path: Path, answer: bytes, reason: str) -> None:
    assert refused(tmp_path, answer) == reason


def test_an_answer_that_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    assert refused(tmp_path, SETTINGS_FRAME + HEAD_FRAME, hold=True, timeout_s=0.1) == "timeout"


def test_an_answer_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "MAX_ANSWER_BYTES", 1000)
    assert refused(tmp_path, SETTINGS_FRAME + HEAD_FRAME + frame(DATA, message(bytes(2000))) + END_FRAME) == "too_large"


def test_the_messages_of_the_stand_in_are_those_of_the_proto_file() -> None:
    """A spot check against the numbers of api.proto: PodResources.name is field 1, ClaimResource.share_id field 5."""
    assert CLASSES["PodResources"](name="a").SerializeToString() == b"\x0a\x01a"
    assert CLASSES["ClaimResource"](share_id="a").SerializeToString() == b"\x2a\x01a"
