"""One post over real sockets: what is sent, who is never connected to, and that it always ends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from support.receiver import LOOPBACK, Receiver
from wattmill_api.webhooks.address import parse_networks
from wattmill_api.webhooks.post import judge, post

HERE = parse_networks(LOOPBACK)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    yield opened
    opened.close()


def to(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    """A name server that knows one answer."""
    return lambda _host, _port: addresses


@contextlib.contextmanager
def server(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """One connection of a server that talks as it likes, until the event."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    talk(connection, over)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        over.set()
        thread.join()


def test_what_a_receiver_gets(receiver: Receiver) -> None:
    outcome = post(receiver.url("/hook?a=b"), b"{}", {"X-Our": "own"}, HERE)
    assert (outcome.delivered, outcome.status, outcome.reason) == (True, 200, "")
    (came,) = receiver.came
    assert (came.path, came.body, came.headers["x-our"]) == ("/hook?a=b", b"{}", "own")
    assert came.headers["host"] == f"127.0.0.1:{receiver.port}"


def test_the_name_is_sent_and_the_address_that_was_looked_at_is_connected_to(receiver: Receiver) -> None:
    asked: list[str] = []

    def once(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    assert post(receiver.url(host="alerts.example"), b"{}", {}, HERE, resolve=once).delivered
    assert asked == ["alerts.example"]
    assert receiver.came[0].headers["host"] == f"alerts.example:{receiver.port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "localhost"])
def test_this_host_is_not_connected_to_however_it_is_written(receiver: Receiver, host: str) -> None:
    outcome = post(receiver.url(host=host), b"{}", {}, ())
    assert not outcome.delivered
    assert not outcome.final
    assert "is this host" in outcome.reason
    assert receiver.came == []


@pytest.mark.parametrize("addresses", [("127.0.0.1", "169.254.169.254"), ("169.254.169.254", "127.0.0.1")])
def test_one_address_that_is_refused_refuses_the_name(receiver: Receiver, addresses: Sequence[str]) -> None:
    """Or whoever owns the name could have the second one tried by letting the first fail."""
    resolve = to(*addresses)
    outcome = post(receiver.url(host="alerts.example"), b"{}", {}, HERE, resolve=resolve)
    assert "alerts.example has the address 169.254.169.254, which is a link-local address" in outcome.reason
    assert receiver.came == []


def test_the_next_address_is_tried_where_the_first_takes_no_connection(receiver: Receiver) -> None:
    resolve = to("127.0.0.2", "127.0.0.1")  # the receiver listens on the second alone
    assert post(receiver.url(host="alerts.example"), b"{}", {}, HERE, resolve=resolve).delivered


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.answers = [(302, {"Location": receiver.url("/elsewhere")})]
    outcome = post(receiver.url(), b"{}", {}, HERE)
    assert (outcome.delivered, outcome.final) == (False, False)
    assert "redirects are not followed" in outcome.reason
    assert [came.path for came in receiver.came] == ["/hook"]


def test_no_proxy_is_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert post(receiver.url(), b"{}", {}, HERE).delivered


@pytest.mark.parametrize(
    ("status", "retry_after", "delivered", "final", "wait_s"),
    [
        (200, "", True, False, 0),
        (202, "", True, False, 0),
        (301, "", False, False, 0),
        (400, "", False, True, 0),
        (401, "", False, True, 0),
        (404, "", False, True, 0),
        (408, "", False, False, 0),
        (410, "", False, True, 0),
        (429, "120", False, False, 120),
        (429, "999999999999", False, False, 3600),
        (429, "Wed, 21 Oct 2015 07:28:00 GMT", False, False, 0),
        (500, "", False, False, 0),
        (503, "30", False, False, 30),
    ],
)
def test_what_a_status_means(status: int, retry_after: str, delivered: bool, final: bool, wait_s: int) -> None:
    outcome = judge(status, retry_after)
    assert (outcome.delivered, outcome.final, outcome.retry_after_s) == (delivered, final, wait_s)


def drip(piece: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not over.wait(0.02):
            connection.sendall(piece)

    return talk


def silent(_connection: socket.socket, over: threading.Event) -> None:
    over.wait()


@pytest.mark.parametrize("talk", [silent, drip(b"a")])
def test_a_receiver_that_never_comes_to_an_end_is_left(
    talk: Callable[[socket.socket, threading.Event], None],
) -> None:
    with server(talk) as url:
        outcome = post(url, b"{}", {}, HERE, within_s=0.3)
    assert (outcome.delivered, outcome.final, outcome.reason) == (False, False, "no whole answer within 0.3 s")


def test_of_an_answer_without_end_only_the_head_is_read() -> None:
    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.is_set():
            connection.sendall(bytes(65_536))

    with server(talk) as url:
        assert post(url, b"{}", {}, HERE).delivered


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"])
def test_what_is_not_http_may_be_later(said: bytes) -> None:
    def talk(connection: socket.socket, _over: threading.Event) -> None:
        connection.recv(65_536)
        connection.sendall(said)

    with server(talk) as url:
        outcome = post(url, b"{}", {}, HERE)
    assert (outcome.delivered, outcome.final) == (False, False)
    assert outcome.reason.startswith("no answer: ")


def test_a_name_that_can_not_be_resolved_may_be_later() -> None:
    def resolve(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    outcome = post("http://alerts.example/", b"{}", {}, HERE, resolve=resolve)
    assert outcome.reason == "its name can't be resolved: Name or service not known"
    assert not outcome.final
    assert post("http://alerts.example/", b"{}", {}, HERE, resolve=to()).reason == "no answer: OSError"
    assert not post(f"http://{'a' * 64}.example/", b"{}", {}, HERE).delivered  # no label is that long


def test_a_certificate_is_checked_against_the_name_and_trusted_only_if_we_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=alerts.example", "-addext", "subjectAltName=DNS:alerts.example",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver = Receiver(context)

    def said(host: str) -> str:
        return post(receiver.url(host=host, scheme="https"), b"{}", {}, HERE, resolve=to("127.0.0.1")).reason

    try:
        assert "certificate is not trusted" in said("alerts.example")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert "certificate is not trusted" in said("other.example")
        assert receiver.came == []
        assert said("alerts.example") == ""
        assert [came.body for came in receiver.came] == [b"{}"]
    finally:
        receiver.close()


def test_tls_that_never_begins_is_left() -> None:
    with server(silent) as url:
        outcome = post(url.replace("http://", "https://"), b"{}", {}, HERE, within_s=0.3)
    assert outcome.reason == "no whole answer within 0.3 s"
