"""Serving engines: token counters, queue and cache of every engine on this node, by their `/metrics` pages.

All targets are asked at once and share one deadline. What comes out is raw: the engine's own counters as integers, and
the epoch evidence under which they continue. Counting is the service's business. An engine that can't be read gives an
AbsenceReading with the reason when that begins or changes, and again at every minute's edge while it lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wattmill_collector.clock import Clock, SystemClock
from wattmill_collector.placement import Board, Placement
from wattmill_collector.placement.process import Listeners, Process, Processes
from wattmill_collector.placement.signs import Pace
from wattmill_collector.settings import EngineSettings
from wattmill_collector.sources.addresses import Failure
from wattmill_collector.sources.engine_evidence import evidence_of
from wattmill_collector.sources.engine_fronts import TURNS, counts_for_several, find_fronts, takes_turns
from wattmill_collector.sources.engine_histograms import is_due
from wattmill_collector.sources.engine_pages import EngineValues, NotUnderstoodError, counts_tokens
from wattmill_collector.sources.engine_placing import PLACE_EVERY_US, Hardware, Placer
from wattmill_collector.sources.engine_target import (
    SECOND_US,
    About,
    Problems,
    Target,
    about_path,
    absences_of,
    hung_up,
    join,
    parse_about,
    problems_of,
    readings_of,
    role_on_page,
    seat_of,
)
from wattmill_collector.sources.engine_targets import Targets
from wattmill_collector.sources.engine_workers import Worker, configured_workers, reading_of_worker
from wattmill_collector.sources.promtext import ParseError
from wattmill_collector.sources.scraper import Answer, Scraper
from wattmill_collector.targets import WorkerSettings
from wattmill_collector.wire import Reading

if TYPE_CHECKING:  # loaded where there is a Kubernetes only
    from wattmill_collector.placement.pods import PodKey
    from wattmill_collector.sources.engine_pods import PodNames, PodView

LEAST_ABOUT_S = 0.15
MOST_ABOUT_TRIES = 5


class EngineSource:
    """Reads all configured engines, and those it finds behind the processes that hold a board.

    `boards` gives the node's accelerators with their process lists (`placement.boards_of`); it is asked at every tick.
    Such lists are up to 10 s old: `list_processes` has them read afresh at a tick at which an engine shows up as
    another process, whose counters begin at zero and must not lack their boards, and at one at which an engine stops
    answering or a process on a board has ended, whose board is nobody's from then on. `busy` and `utilisation` are
    `Hardware`'s. `workers` are boards that compute for engines of other nodes. `pods` shows the pods of this node,
    where there are any: their engines are read, placed and named as they say.

    Errors: ValueError when a target or an engine kind can't be used.
    """

    name = "engine"

    def __init__(
        self,
        engines: Sequence[EngineSettings],
        *,
        interval_us: int = 10_000_000,
        boards: Callable[[], Sequence[Board]] = tuple,
        list_processes: Callable[[int], None] = lambda _: None,
        busy: Callable[[str], Mapping[int, int] | None] = lambda _: None,
        utilisation: Callable[[], Mapping[str, float]] = dict,
        workers: Sequence[WorkerSettings] = (),
        discover: bool = False,
        pods: PodView | None = None,
        proc: Path = Path("/proc"),
        processes: Processes | None = None,
        scraper: Scraper | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._scraper = scraper or Scraper()
        self._clock = clock or SystemClock()
        self._interval_us = interval_us
        self._deadline_s = min(0.8 * interval_us / 1e6, 5.0)
        self._boards = boards
        self._discover = discover
        self._pods = pods
        self._processes = processes or Processes(proc)
        self._listeners = Listeners(self._processes)
        self._placer = Placer(Hardware(boards, list_processes, busy, utilisation), self._processes)
        self._workers = configured_workers(workers)
        self._pod_workers: list[Worker] = []
        self._workers_as_of: tuple[int, set[PodKey]] = (-1, set())
        self._look_pace = Pace()
        self._targets = Targets(engines, self._scraper, self._processes)

    def read(self, time_us: int) -> list[Reading]:
        """One EngineReading per engine that answers, and AbsenceReadings for what can't be read."""
        if self._pods is not None and self._pods.refresh(frozenset(board.uuid for board in self._boards())):
            self._targets.follow_pods(self._pods.engines)
        began_us, began_monotonic_us = self._clock.wall_us(), self._clock.monotonic_us()
        asked = [t for t in self._targets if t.confirmed or t.probe_us <= time_us]
        answers = self._scraper.fetch([(t.link, t.path) for t in asked], self._deadline_s)
        understood: list[tuple[Target, list[EngineValues]]] = []
        found: dict[str, Problems] = {}
        for target, answer in zip(asked, answers, strict=True):
            if self._targets.is_configured(target):
                self._targets.drop(target)
                continue
            values, problems = self._understand(target, answer, time_us, began_us)
            if values and self._targets.is_second_guess(target):
                self._targets.drop(target)
                continue
            found[target.settings.target] = problems
            if values:
                understood.append((target, values))
            elif not target.confirmed:
                self._targets.postpone(target, Failure(*problems[""]), time_us)
        self._ask_about(
            [t for t, _ in understood], self._deadline_s - (self._clock.monotonic_us() - began_monotonic_us) / 1e6
        )
        gone = any(hung_up(target, found.get(target.settings.target, {})) for target in asked)
        self._place(time_us, self._lists_are_stale([t for t, _ in understood], time_us), doubtful=gone)
        fronts = find_fronts([(t, values, self._placer.of(t.settings.target)) for t, values in understood], time_us)
        readings: list[Reading] = []
        for target, values in understood:
            placement, front = self._placer.of(target.settings.target), fronts.get(target.settings.target)
            if front is not None:
                found[target.settings.target] |= front.problems
            if front is None or not front.is_left_out:
                names = self._names(target, placement)
                activity_ppm = self._placer.activity_ppm(target.settings.target)
                readings += readings_of(target, values, placement, names, activity_ppm)
                found[target.settings.target] |= problems_of(placement)
        for target in asked:
            if target.confirmed and target.settings.target in found:
                readings += absences_of(target, target.settings.target, found[target.settings.target], time_us)
        for worker in (*self._workers, *self._pod_workers):
            placement = self._placer.of(worker.seat.target)
            readings.append(reading_of_worker(worker, placement, self._placer.utilisation_ppm(worker.seat.target)))
            readings += absences_of(worker, worker.target, problems_of(placement), time_us)
        readings += self._placer.absences(time_us)
        if self._pods is not None:
            readings += self._absent_pods(self._pods, time_us)
        self._targets.forget_gone(time_us)
        return readings

    def close(self) -> None:
        """Close all connections."""
        if self._pods is not None:
            self._pods.close()
        self._scraper.close()

    def _understand(
        self, target: Target, answer: Answer | Failure, time_us: int, began_us: int
    ) -> tuple[list[EngineValues], Problems]:
        if isinstance(answer, Failure):
            return [], {"": (answer.reason, answer.detail)}
        page = target.page
        try:
            page.scan(answer.body, with_histograms=is_due(time_us, self._interval_us))
            target.listener = self._listener(target, answer, time_us)
            evidence = evidence_of(target, answer, began_us, self._processes)
            if evidence is None:
                return [], {"": ("restarting", "the engine was restarted while it was read")}
            turns = takes_turns(target, evidence.epoch, time_us)
            is_other = evidence.epoch != (target.evidence or evidence).epoch
            if is_other or (not evidence.epoch and page.has_lost_its_choice()):
                page.forget(proven=is_other and evidence.epoch != 0)
                target.about, target.about_tries = None, 0
            target.evidence = evidence
            if turns:
                return [], {"": TURNS}
            values = page.values(time_us)
            if counts_for_several(target, values, self._placer.of(target.settings.target), time_us):
                return [], {"": TURNS}
        except NotUnderstoodError as error:
            return [], {"": ("not_understood", str(error))}
        except ParseError as error:
            return [], {"": ("not_understood", f"the page can't be read: {error}")}
        if not values:
            why = page.kind.without_tokens if page.kind else ""
            return [], {"": ("no_series", why or "the engine shows none of its counters yet")}
        target.confirmed = True
        roles = {role_on_page(one) for one in values}
        target.page_role = roles.pop() if len(roles) == 1 else ""
        problems: Problems = {}
        if not any(map(counts_tokens, values)):
            why = page.kind.without_tokens if page.kind else ""
            problems["tokens"] = ("no_token_counters", why or "the page has no counter of tokens (yet)")
        for one in values:
            for field, reason in one.faults:
                problems[f"{field} {one.series}"] = (reason, f"{field} of {one.series or 'the engine'} can't be used")
        return values, problems

    def _listener(self, target: Target, answer: Answer, time_us: int) -> Process | None:
        if not answer.local_address:
            return None
        if not answer.fresh and (target.listener is not None or time_us < target.look_again_us):
            return target.listener
        target.look_again_us = time_us + PLACE_EVERY_US
        holders = [pid for board in self._placer.boards for pid in board.pids or ()]
        return self._listeners.process(answer.local_address, target.link.place.port, time_us, holders)

    def _ask_about(self, targets: Iterable[Target], left_s: float) -> None:
        """Model and version, once an epoch, where the page does not say.

        An engine that has just been found is to have its name from its first reading on: so it is asked, if shortly,
        even where ports that answered nothing took the whole tick, and again where it did not answer.
        """
        asks = [(t, path) for t in targets if t.about is None and (path := about_path(t))]
        if not asks:
            return
        answers = self._scraper.fetch([(t.link, path) for t, path in asks], min(max(left_s, LEAST_ABOUT_S), 1.0))
        for (target, _), answer in zip(asks, answers, strict=True):
            target.about_tries += 1
            if isinstance(answer, Answer):
                target.about = parse_about(answer.body)
            elif answer.reason.startswith("http_") or target.about_tries >= MOST_ABOUT_TRIES:
                target.about = About()

    def _lists_are_stale(self, targets: Iterable[Target], time_us: int) -> bool:
        """Whether an engine is another process than before, or has no board yet: asked for a few times a process."""
        stale = False
        for target in targets:
            seat = seat_of(target)
            given = seat.accelerators or (seat.allocation and seat.allocation.accelerators)
            if given or not seat.holds_accelerators:
                continue
            now = (target.listener, target.evidence.epoch if target.evidence else 0)
            if now != target.placed_as:
                target.placed_as, target.list_pause_us = now, SECOND_US
            elif (
                time_us < target.list_us
                or target.list_pause_us > PLACE_EVERY_US
                or self._placer.of(seat.target).accelerators
            ):
                continue
            target.list_us = time_us + target.list_pause_us
            target.list_pause_us *= 2
            stale = True
        return stale

    def _place(self, time_us: int, stale: bool, *, doubtful: bool) -> None:
        targets = [t for t in self._targets if t.confirmed]
        taken: Iterable[str] = ()
        if self._pods is not None:
            taken = self._pods.allocations.boards()
            for target in targets:
                join(target, self._pods)
            self._follow_workers(self._pods)
        seats = [*map(seat_of, targets), *(one.seat for one in (*self._workers, *self._pod_workers))]
        looked = self._placer.place(tuple(seats), frozenset(taken), time_us, stale=stale, doubtful=doubtful)
        if self._discover:
            opened = self._placer.signs.has_opened()
            if self._look_pace.is_due(time_us, wanted=looked or opened):
                self._targets.look_behind({pid for board in self._placer.boards for pid in board.pids or ()})

    def _names(self, target: Target, placement: Placement) -> PodNames | None:
        """What the rules say of the pod that a target is in, or that alone holds the engine's boards."""
        view = self._pods
        if view is None:
            return None
        made_from = (view.version, target.joined, placement.accelerators)
        if target.named[0] != made_from:
            pod = target.joined[0] if target.joined else view.allocations.pod_on(placement.accelerators)
            target.named = made_from, view.names(pod) if pod else None
        return target.named[1]

    def _read_pods(self, view: PodView) -> set[PodKey]:
        """The pods whose engines are read, or hold what an engine does."""
        read = {t.joined[0] for t in self._targets if t.confirmed and t.joined}
        held = (self._placer.of(t.settings.target).accelerators for t in self._targets)
        return read | {pod for boards in held if (pod := view.allocations.pod_on(boards))}

    def _follow_workers(self, view: PodView) -> None:
        read = self._read_pods(view)
        if self._workers_as_of == (view.version, read):
            return
        self._workers_as_of = view.version, read
        before = {one.target: one for one in self._pod_workers}
        self._pod_workers = view.workers(read)
        for one in self._pod_workers:
            if one.target in before:
                one.problems, one.since_us = before[one.target].problems, before[one.target].since_us

    def _absent_pods(self, view: PodView, time_us: int) -> list[Reading]:
        read = self._read_pods(view) | {one.pod for one in self._pod_workers}
        tried = {t.pod.pod.key: t.refusal for t in self._targets if t.pod and not t.confirmed and t.refusal}
        return view.absences(read, tried, time_us)
