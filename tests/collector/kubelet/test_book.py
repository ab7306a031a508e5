"""The pods of a node, listed and watched over TLS, and what holds while one of the two that know them is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_clock import FakeClock
from support.kube_api_standin import NODE, KubeApiStandin, pod
from support.kubelet_standin import KubeletStandin
from support.processes import eventually
from wattmill_collector.clock import SystemClock
from wattmill_collector.kubelet.api import PAGE, GoneError, PodApi
from wattmill_collector.kubelet.book import Book
from wattmill_collector.kubelet.pod_resources import Holder, list_holders
from wattmill_collector.sources.addresses import FetchError


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubeApiStandin]:
    with KubeApiStandin(tmp_path / "api") as standin:
        yield standin


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[KubeletStandin]:
    with KubeletStandin(tmp_path / "kubelet.sock") as standin:
        yield standin


@pytest.fixture
def book(api: KubeApiStandin, kubelet: KubeletStandin) -> Iterator[Book]:
    one = Book(lambda: list_holders(kubelet.socket), client(api), SystemClock())
    yield one
    one.close()


def client(api: KubeApiStandin, node: str = NODE) -> PodApi:
    return PodApi(api.url, node, api.service_account)


def names(book: Book) -> set[str]:
    return {name for _, name in book.snapshot().pods or {}}


def test_the_pods_of_the_node_come_in_pages(api: KubeApiStandin) -> None:
    for number in range(2 * PAGE + 3):
        api.put(pod("search", f"chat-{number}"))
    api.put(pod("search", "elsewhere", node="gpu-018"))
    pages = list(client(api).pages())
    assert [len(page) for page, _ in pages] == [PAGE, PAGE, 3]
    assert [said["limit"] for said in api.requests] == [str(PAGE)] * 3


def test_the_token_is_read_anew_for_every_request(api: KubeApiStandin) -> None:
    one = client(api)
    list(one.pages())
    api.set_token("second-token")
    list(one.pages())


@pytest.mark.parametrize(("status", "reason"), [(403, "forbidden"), (500, "http_500"), (429, "http_429")])
def test_a_refusal_has_a_reason(api: KubeApiStandin, status: int, reason: str) -> None:
    api.refuse = status
    with pytest.raises(FetchError) as caught:
        list(client(api).pages())
    assert caught.value.failure.reason == reason


def test_a_wrong_token_is_named(api: KubeApiStandin) -> None:
    (api.service_account / "token").write_text("stolen")
    with pytest.raises(FetchError) as caught:
        list(client(api).pages())
    assert caught.value.failure.reason == "unauthorised"


def test_a_certificate_of_nobody_is_refused(api: KubeApiStandin, tmp_path: Path) -> None:
    with KubeApiStandin(tmp_path / "impostor") as impostor:
        (impostor.service_account / "ca.crt").write_bytes((api.service_account / "ca.crt").read_bytes())
        with pytest.raises(FetchError) as caught:
            list(client(impostor).pages())
    assert caught.value.failure.reason == "tls"


def test_an_api_that_is_not_there(tmp_path: Path) -> None:
    with KubeApiStandin(tmp_path / "gone") as gone:
        one = client(gone)
    with pytest.raises(FetchError) as caught:
        list(one.pages())
    assert caught.value.failure.reason == "connection_failed"


def test_a_version_that_is_too_old_is_gone(api: KubeApiStandin) -> None:
    api.forget_history()
    with pytest.raises(GoneError):
        list(client(api).watch("1"))


def test_the_first_answers_are_there_when_it_has_started(
    api: KubeApiStandin, kubelet: KubeletStandin, book: Book
) -> None:
    api.put(pod("search", "chat-0"))
    kubelet.give("search", "chat-0", "engine", {"nvidia.com/gpu": ["GPU-a"]})
    book.start()
    assert names(book) == {"chat-0"}
    assert [holder.pod for holder in book.snapshot().holders or ()] == ["chat-0"]


def test_what_changes_is_seen_without_listing_again(api: KubeApiStandin, book: Book) -> None:
    api.put(pod("search", "chat-0"))
    book.start()
    api.put(pod("search", "chat-1"))
    eventually(lambda: names(book) == {"chat-0", "chat-1"}, 20, "a pod that came")
    api.put(pod("search", "chat-1", phase="Succeeded"))
    eventually(lambda: (book.snapshot().pods or {})["search", "chat-1"].ended, 20, "a pod that ended")
    api.delete("search", "chat-0")
    eventually(lambda: names(book) == {"chat-1"}, 20, "a pod that went")
    assert ["watch" in said for said in api.requests] == [False, True]


def test_a_watch_that_ends_goes_on_where_it_was(api: KubeApiStandin, book: Book) -> None:
    book.start()
    eventually(lambda: len(api.requests) == 2, 20, "a watch")
    api.end_watches()
    eventually(lambda: len(api.requests) == 3, 20, "another watch")
    api.put(pod("search", "chat-0"))
    eventually(lambda: names(book) == {"chat-0"}, 20, "a pod that came")
    assert ["watch" in said for said in api.requests] == [False, True, True]
    assert book.snapshot().faults == {}


def test_a_history_that_is_gone_is_made_up_for_by_listing_again(api: KubeApiStandin, book: Book) -> None:
    api.put(pod("search", "chat-0"))
    book.start()
    eventually(lambda: len(api.requests) == 2, 20, "a watch")
    api.delete("search", "chat-0")
    api.put(pod("search", "chat-1"))
    api.forget_history()
    eventually(lambda: names(book) == {"chat-1"} and len(api.requests) >= 5, 30, "the new list")


def test_without_permission_there_are_no_pods_and_a_fault(api: KubeApiStandin, book: Book) -> None:
    api.refuse = 403
    book.start()
    assert book.snapshot().pods is None
    assert book.snapshot().faults["pods"].reason == "forbidden"
    api.refuse = 0
    eventually(lambda: book.snapshot().pods is not None, 20, "the permission")
    assert book.snapshot().faults == {}


def test_what_the_kubelet_said_stands_while_it_is_away(kubelet: KubeletStandin, book: Book) -> None:
    kubelet.give("search", "chat-0", "engine", {"nvidia.com/gpu": ["GPU-a"]})
    book.ask_kubelet()
    known = book.snapshot()
    kubelet.down()
    assert book.ask_kubelet() == 0
    assert book.snapshot().holders == known.holders
    assert book.snapshot().faults["pod-resources"].reason == "no_socket"
    kubelet.up()
    book.ask_kubelet()
    assert book.snapshot() == known


def test_as_long_as_nothing_changes_it_is_the_same_object(kubelet: KubeletStandin, book: Book) -> None:
    kubelet.give("search", "chat-0", "engine", {"nvidia.com/gpu": ["GPU-a"]})
    book.ask_kubelet()
    known = book.snapshot()
    book.ask_kubelet()
    assert book.snapshot() is known


def test_a_pod_that_gets_its_address_has_its_devices_in_the_same_snapshot(
    api: KubeApiStandin, kubelet: KubeletStandin, book: Book
) -> None:
    """Between two questions to the kubelet lie 10 s, in which a small engine is up and counts."""
    api.put(pod("search", "chat-0"))
    book.start()
    kubelet.give("search", "chat-0", "engine", {"nvidia.com/gpu": ["GPU-a"]})
    seen: list[bool] = []

    def addressed() -> bool:
        snapshot = book.snapshot()
        there = bool((snapshot.pods or {})["search", "chat-0"].ip)
        seen.extend([bool(snapshot.holders)] if there else [])
        return there

    api.put(pod("search", "chat-0", ip="10.0.0.7"))
    eventually(addressed, 20, "the address")
    assert seen == [True]


def test_an_unforeseen_error_is_a_fault_and_the_asking_goes_on() -> None:
    answers: list[tuple[Holder, ...]] = [()]

    def list_once() -> tuple[Holder, ...]:
        if not answers:
            raise KeyError("what nobody thought of")
        return answers.pop()

    book = Book(list_once, None, FakeClock())
    book.start()
    eventually(lambda: "pod-resources" in book.snapshot().faults, 20, "the fault")
    assert book.snapshot().faults["pod-resources"].reason == "unforeseen"
    answers.append((Holder("search", "chat-0", "engine", ()),))
    eventually(lambda: bool(book.snapshot().holders), 20, "the next answer")
    book.close()


def test_closing_ends_the_threads(book: Book) -> None:
    book.start()
    assert {"kubelet", "pods"} <= {thread.name for thread in threading.enumerate()}
    book.close()
    assert not {"kubelet", "pods"} & {thread.name for thread in threading.enumerate()}
