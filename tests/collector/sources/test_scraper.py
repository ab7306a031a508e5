"""HTTP as servers really speak it, and as they should not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill_collector.sources.addresses import Failure, Names, place_of
from wattmill_collector.sources.scraper import Answer, Scraper

PAGE = b"a 1\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + PAGE


@contextlib.contextmanager
def server(*replies: Sequence[bytes], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Accepts one connection a reply, reads a request before each part of it, and closes behind the last."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for parts in replies:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection, tls.wrap_socket(connection, server_side=True) if tls else connection as talk:
                    for part in parts:
                        if not talk.recv(65536):
                            break
                        talk.sendall(part)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()
        thread.join(5)


def fetch(*parts: bytes, times: int = 1, deadline_s: float = 2.0) -> list[Answer | Failure]:
    scraper = Scraper()
    with server(parts) as port:
        link = scraper.link(place_of(f"http://127.0.0.1:{port}"))
        found = [scraper.fetch([(link, "/metrics")], deadline_s)[0] for _ in range(times)]
        scraper.close()
    return found


def body(answer: Answer | Failure) -> bytes:
    assert isinstance(answer, Answer), answer
    return answer.body


def reason(answer: Answer | Failure) -> str:
    assert isinstance(answer, Failure), answer
    return answer.reason


@pytest.mark.parametrize(
    "reply",
    [
        OK,
        b"HTTP/1.1 200 OK\r\ncontent-length:4\r\nX: y\r\n\r\n" + PAGE,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.0 200 OK\r\n\r\n" + PAGE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na \r\n2;x=y\r\n1\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
def test_a_page_in_all_framings(reply: bytes) -> None:
    assert body(fetch(reply)[0]) == PAGE


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na 1\n", "cut_off"),
        (b"HTTP/1.0 200 OK\r\n\r\na 12", "cut_off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1", "cut_off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-4\r\na 1\n\r\n", "not_http"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", "too_large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not_http"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "too_large"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", "not_understood"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "http_401"),
        (b"HTTP/1.1 307 x\r\nLocation: http://169.254.169.254/\r\n\r\n", "http_307"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not_http"),
        (b"\x16\x03\x01" + b"x" * 70_000, "not_http"),
        (b"", "connection_reset"),
    ],
)
def test_what_is_no_page(reply: bytes, why: str) -> None:
    assert reason(fetch(reply)[0]) == why


def test_a_server_that_says_nothing_runs_into_the_deadline() -> None:
    hold = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scraper = Scraper()
        link = scraper.link(place_of(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        assert reason(scraper.fetch([(link, "/")], 0.1)[0]) == "timeout"
        hold.set()
        scraper.close()


def test_a_connection_is_used_again_and_says_so() -> None:
    first, second = fetch(OK, OK, times=2)
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert (first.fresh, second.fresh) == (True, False)
    assert first.local_address == "127.0.0.1"


def test_an_idle_connection_closed_by_the_server_is_opened_again() -> None:
    scraper = Scraper()
    with server([OK], [OK]) as port:
        link = scraper.link(place_of(f"http://127.0.0.1:{port}"))
        answers = [scraper.fetch([(link, "/metrics")], 2.0)[0] for _ in range(2)]
        scraper.close()
    assert all(isinstance(a, Answer) and a.fresh for a in answers)


def test_a_name_with_a_dead_first_address_reaches_the_second() -> None:
    with server([OK]) as port:
        scraper = Scraper(Names(lambda host, port: [("127.0.0.2", port), ("127.0.0.1", port)]))
        link = scraper.link(place_of(f"http://engine.test:{port}"))
        assert body(scraper.fetch([(link, "/metrics")], 2.0)[0]) == PAGE
        scraper.close()


def test_the_checked_address_is_the_one_connected_to() -> None:
    """A name that answers with another address the second time: DNS rebinding."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[tuple[str, int]]:
        asked.append(host)
        return [("127.0.0.1", port)] if len(asked) == 1 else [("169.254.169.254", port)]

    with server([OK, OK]) as port:
        scraper = Scraper(Names(resolve))
        link = scraper.link(place_of(f"http://engine.test:{port}"))
        assert [body(scraper.fetch([(link, "/")], 2.0)[0]) for _ in range(2)] == [PAGE, PAGE]
        assert asked == ["engine.test"]
        link.close()
        assert reason(scraper.fetch([(link, "/")], 2.0)[0]) == "address_denied"
        scraper.close()


def test_a_slow_name_server_holds_up_its_own_target_only() -> None:
    release = threading.Event()

    def resolve(host: str, port: int) -> list[tuple[str, int]]:
        release.wait(10)
        return [("127.0.0.1", port)]

    with server([OK]) as port:
        scraper = Scraper(Names(resolve))
        slow, good = (scraper.link(place_of(f"http://{host}:{port}")) for host in ("slow.test", "127.0.0.1"))
        first, second = scraper.fetch([(slow, "/"), (good, "/")], 0.8)
        assert (reason(first), body(second)) == ("name_not_resolved", PAGE)
        release.set()
        scraper.close()


def test_a_name_that_does_not_exist() -> None:
    def resolve(host: str, port: int) -> list[tuple[str, int]]:
        raise OSError("Name or service not known")

    scraper = Scraper(Names(resolve))
    assert reason(scraper.fetch([(scraper.link(place_of("http://nowhere.test")), "/")], 0.5)[0]) == "name_not_resolved"
    scraper.close()


def test_a_key_is_sent_to_its_own_target() -> None:
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(OK)

        thread = threading.Thread(target=serve)
        thread.start()
        scraper = Scraper()
        link = scraper.link(place_of(f"http://127.0.0.1:{listener.getsockname()[1]}/a b?x=1"), key="secret")
        scraper.fetch([(link, link.place.path)], 2.0)
        thread.join()
        scraper.close()
    assert seen[0].startswith(b"GET /a%20b?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer secret\r\n" in seen[0]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    options = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=engine -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        ["openssl", *options.split(), "-keyout", file, "-out", f"{file}.crt"], check=True, capture_output=True
    )
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


@pytest.mark.parametrize("trusted", [True, False])
def test_https(certificate: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    big = b"a 1\n" * 100_000
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(big) + big
    scraper = Scraper()
    with server([reply, reply], [reply], tls=context) as port:
        link = scraper.link(place_of(f"https://127.0.0.1:{port}"))
        answers = [scraper.fetch([(link, "/metrics")], 3.0)[0] for _ in range(3 if trusted else 1)]
        scraper.close()
    if trusted:
        assert [body(a) == big for a in answers] == [True, True, True]
    else:
        assert reason(answers[0]) == "tls"


@given(st.binary(max_size=200), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_any_reply_is_a_page_or_has_a_reason(noise: bytes, cut: int) -> None:
    for reply in (noise, OK[:cut] + noise, OK[:17] + noise + b"\r\n\r\n"):
        answer = fetch(reply or b"x", deadline_s=0.5)[0]
        assert isinstance(answer, Answer) or answer.reason
