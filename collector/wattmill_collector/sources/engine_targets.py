"""Which targets the engine source reads: configured ones, those that pods offer, those found behind boards' processes.

One engine is one target, whatever its address is called: what is configured or a pod's is not found a second time. A
found port that turns out to be no engine's is tried again ever more seldom, and what is gone for long is forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from wattmill_collector.placement.process import Processes, candidates
from wattmill_collector.settings import EngineSettings
from wattmill_collector.sources.addresses import Failure, place_of
from wattmill_collector.sources.engine_pages import EnginePage
from wattmill_collector.sources.engine_placing import PLACE_EVERY_US
from wattmill_collector.sources.engine_tables import named
from wattmill_collector.sources.engine_target import Target, may_be_here
from wattmill_collector.sources.scraper import Scraper
from wattmill_collector.wire import LATEST_US

if TYPE_CHECKING:  # loaded where there is a Kubernetes only
    from wattmill_collector.sources.engine_pods import PodEngine

FORGET_AFTER_US = 600_000_000  # a discovered engine that has been gone for so long
LONGEST_PROBE_PAUSE_US = 600_000_000
PROBE_PATHS = ("/metrics", "/prometheus/metrics")
MOST_CANDIDATES = 64
MOST_POD_TARGETS = 256  # 8 boards of 7 slices, some ports each


class Targets:
    """All targets, each with its connection. Errors: ValueError when a target or an engine kind can't be used."""

    def __init__(self, engines: Sequence[EngineSettings], scraper: Scraper, processes: Processes) -> None:
        self._scraper = scraper
        self._processes = processes
        self._targets = [self._target(one) for one in engines]

    def __iter__(self) -> Iterator[Target]:
        return iter(tuple(self._targets))

    def look_behind(self, holders: Collection[int]) -> None:
        """Take up the ports at which processes listen that hold a board; each has to show an engine's page yet."""
        known = {t.link.place.port for t in self._targets if t.discovered or may_be_here(t)}
        for address, port in sorted(candidates(holders, self._processes)) if holders else ():
            if port not in known and len(self._targets) < MOST_CANDIDATES:
                host = f"[{address}]" if ":" in address else address
                settings = EngineSettings(f"http://{host}:{port}/metrics")
                self._targets.append(self._target(settings, discovered=True))

    def is_configured(self, candidate: Target) -> bool:
        """Whether what was found is a configured engine, or a pod's, whose target calls the same place another name."""
        port, pod = candidate.link.place.port, candidate.pod
        others = [t for t in self._targets if t.link.place.port == port and not t.discovered and t is not candidate]
        if candidate.discovered:
            return any(map(may_be_here, others))
        if pod is None:
            return False
        links = [t for t in others if t.pod is None]
        return any(
            pod.pod.ip in (t.link.place.host, t.link.peer) or (pod.pod.host_network and may_be_here(t)) for t in links
        )

    def is_second_guess(self, target: Target) -> bool:
        """Whether an engine's page has been found in this container, and this port was only guessed."""
        one = target.pod
        if one is None or one.certain:
            return False
        found = [t.pod for t in self._targets if t.pod and t.confirmed and t is not target]
        return any((other.pod.key, other.container) == (one.pod.key, one.container) for other in found)

    def follow_pods(self, engines: Iterable[PodEngine]) -> None:
        """Take up what pods offer now; drop what they no longer offer, or offer differently."""
        wanted = {(engine.pod.key, engine.port): engine for engine in engines}
        for target in [t for t in self._targets if t.pod is not None]:
            assert target.pod is not None
            engine = wanted.pop((target.pod.pod.key, target.pod.port), None)
            if engine is None or (engine.settings, engine.certain) != (target.pod.settings, target.pod.certain):
                self.drop(target)
                if engine is not None:
                    wanted[engine.pod.key, engine.port] = engine
            else:
                target.pod = engine
        for engine in wanted.values():
            if sum(t.pod is not None for t in self._targets) >= MOST_POD_TARGETS:
                break
            try:
                target = self._target(engine.settings)
            except ValueError:
                continue  # an annotation that makes no URL; the pod then shows no page, which is said
            target.pod, target.confirmed = engine, engine.certain
            if not self.is_configured(target) and not self.is_second_guess(target):
                self._targets.append(target)

    def drop(self, target: Target) -> None:
        """Read it no more."""
        target.link.close()
        self._targets.remove(target)

    def postpone(self, target: Target, refusal: Failure, time_us: int) -> None:
        """A port that is no engine's, or not yet: try again later, and later still; the other path next time.

        A port that keeps answering something else is another protocol's and is left in peace; one that does not
        answer may be an engine that is still loading.
        """
        target.link.close()
        target.refusal = refusal
        if refusal.reason == "connection_refused":
            if target.pod is None:
                self._targets.remove(target)
            target.probe_us = time_us + PLACE_EVERY_US
            return
        if target.probe_pause_us >= LONGEST_PROBE_PAUSE_US and refusal.reason != "timeout":
            target.probe_us = LATEST_US
        else:
            target.probe_us = time_us + target.probe_pause_us
            target.probe_pause_us = min(2 * target.probe_pause_us, LONGEST_PROBE_PAUSE_US)
        if target.path in PROBE_PATHS:
            target.path = PROBE_PATHS[(PROBE_PATHS.index(target.path) + 1) % len(PROBE_PATHS)]
            address = target.settings.target.rpartition(":")[0] + f":{target.link.place.port}"
            target.settings = dataclasses.replace(target.settings, target=address + target.path)

    def forget_gone(self, time_us: int) -> None:
        """Drop what was found and has been gone for long."""
        for target in [t for t in self._targets if t.discovered and t.confirmed]:
            if "" in target.problems and time_us - target.since_us.get("", time_us) >= FORGET_AFTER_US:
                self.drop(target)

    def _target(self, settings: EngineSettings, *, discovered: bool = False) -> Target:
        kinds = named(settings.kind)
        place = place_of(settings.target, kinds[0].path if settings.kind != "auto" else "/metrics")
        link = self._scraper.link(place)
        return Target(settings, link, place.path, EnginePage(kinds), discovered, confirmed=not discovered)
