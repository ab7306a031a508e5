"""The latest that the kubelet and the Kubernetes API said of this node, kept by two threads of its own.

The tick asks for the `Snapshot` and never waits for either. What was said last stands while they are away: without its
kubelet a node gets no new pods, and without the API nobody would learn of them. That one is away is said as a fault.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any

from wattmill_collector.clock import Clock
from wattmill_collector.kubelet.api import GoneError, PodApi
from wattmill_collector.kubelet.pod_resources import Holder
from wattmill_collector.kubelet.pods import Pod, pod_of
from wattmill_collector.sources.addresses import Failure, FetchError

ASK_EVERY_US = 10_000_000
LONGEST_PAUSE_US = 60_000_000
FIRST_ANSWERS_US = 3_000_000
SOURCE_OF = {"kubelet": "pod-resources", "pods": "pods"}  # thread → name of its fault


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known; None: that source was never read. `faults`: source → why it can't be read now."""

    holders: tuple[Holder, ...] | None = None
    pods: Mapping[tuple[str, str], Pod] | None = None
    faults: Mapping[str, Failure] = dataclasses.field(default_factory=dict)


class Book:
    """Asks in the background from `start` on. `list_holders` and `api` are None when they are not to be asked."""

    def __init__(self, list_holders: Callable[[], tuple[Holder, ...]] | None, api: PodApi | None, clock: Clock) -> None:
        self._list_holders = list_holders
        self._api = api
        self._clock = clock
        self._snapshot = Snapshot()
        self._changing = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._first = {"kubelet": threading.Event(), "pods": threading.Event()}
        self._version = ""

    def snapshot(self) -> Snapshot:
        """The same object as long as nothing changed."""
        return self._snapshot

    def start(self) -> None:
        """Begin to ask, and wait a moment for the first answers, so that the first tick has them."""
        for name, asked, ask in (
            ("kubelet", self._list_holders is not None, self.ask_kubelet),
            ("pods", self._api is not None, self.ask_api),
        ):
            if asked:
                self._threads.append(threading.Thread(target=self._repeat, args=(name, ask), name=name, daemon=True))
                self._threads[-1].start()
        until_us = self._clock.monotonic_us() + FIRST_ANSWERS_US
        for thread in self._threads:
            self._clock.wait(self._first[thread.name], until_us - self._clock.monotonic_us())

    def close(self) -> None:
        """Stop asking."""
        self._stop.set()
        if self._api is not None:
            self._api.close()
        for thread in self._threads:
            thread.join(1.0)

    def ask_kubelet(self) -> int:
        """Ask for the holders once; returns how long to wait until the next time, 0 after a failure."""
        assert self._list_holders is not None
        try:
            holders = self._list_holders()
        except FetchError as error:
            self._fault("pod-resources", error.failure)
            return 0
        self._change(holders=holders, fault="pod-resources")
        return ASK_EVERY_US

    def ask_api(self) -> int:
        """List the pods unless they are known, then watch them until that ends; returns how long to wait then."""
        assert self._api is not None
        try:
            if not self._version:
                pods: dict[tuple[str, str], Pod] = {}
                version = ""
                for page, version in self._api.pages():  # noqa: B007 (that of the last page counts)
                    pods |= {pod.key: pod for pod in map(_pod, page) if pod is not None}
                self._version = version
                self._change(pods=pods, fault="pods")
            self._first["pods"].set()
            for kind, thing in self._api.watch(self._version):
                self._digest(kind, thing)
        except GoneError:
            self._version = ""
            return 1_000_000
        except FetchError as error:
            if not self._stop.is_set():
                self._fault("pods", error.failure)
            if error.failure.reason == "not_understood":
                self._version = ""  # something was missed
            return 0
        return 1_000_000

    def _digest(self, kind: str, thing: dict[str, Any]) -> None:
        if kind == "OPENED":
            self._change(fault="pods")
            return
        about = thing.get("metadata")
        version = about.get("resourceVersion") if isinstance(about, dict) else None
        self._version = version if isinstance(version, str) and version else self._version
        pod = _pod(thing) if kind in ("ADDED", "MODIFIED", "DELETED") else None
        if pod is None:
            return
        known = self._snapshot.pods or {}
        before = known.get(pod.key)
        if kind == "DELETED":
            self._change(pods={key: one for key, one in known.items() if key != pod.key}, fault="pods")
        elif before != pod:
            if self._list_holders is not None and (before is None or before.ip != pod.ip):
                self.ask_kubelet()  # a pod that has its address may serve at once: know its devices by then
            self._change(pods={**known, pod.key: pod}, fault="pods")

    def _repeat(self, name: str, ask: Callable[[], int]) -> None:
        pause_us = 1_000_000
        while not self._stop.is_set():
            try:
                wait_us = ask()
            except Exception as error:  # whatever was said, the asking goes on
                wait_us = 0
                self._fault(SOURCE_OF[name], Failure("unforeseen", f"{type(error).__name__}: {error}"))
            self._first[name].set()
            pause_us = 1_000_000 if wait_us else min(2 * pause_us, LONGEST_PAUSE_US)
            if self._clock.wait(self._stop, wait_us or pause_us):
                return

    def _change(self, *, fault: str, **news: Any) -> None:
        with self._changing:
            now = self._snapshot
            faults = {name: one for name, one in now.faults.items() if name != fault}
            changed = dataclasses.replace(now, faults=faults, **news)
            if changed != now:
                self._snapshot = changed

    def _fault(self, source: str, failure: Failure) -> None:
        with self._changing:
            now = self._snapshot
            if now.faults.get(source) != failure:
                self._snapshot = dataclasses.replace(now, faults={**now.faults, source: failure})


def _pod(said: dict[str, Any]) -> Pod | None:
    try:
        return pod_of(said)
    except ValueError:
        return None  # an object without a name is none that could be placed
