"""Gateways: who drew how many tokens, by the `/metrics` pages of LiteLLM, Envoy AI Gateway, OpenTelemetry.

Read once at the start and then at every minute's edge, or at the first tick after it: a gateway counts when a request
ends, so more often would say no more. A page that takes longer than a tick stays under way, holds up nobody, and is
read at the tick at which it is complete; what has not come within `LONGEST_ANSWER_US` is asked for once more. A
consumer whose counters rest is sent again every ten minutes. These tokens are shares of a workload's energy and are
never added to those of engines. Names of callers leave the node as the gateway shows them, secrets as hashes.

At most `MOST_CONSUMERS` for all gateways of this agent together: the smallest beyond are put together, and counted. A
target must be one process: behind a balancer each page would be another one's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from wattmill_collector.clock import Clock, SystemClock
from wattmill_collector.secret_files import read_secret
from wattmill_collector.sources.addresses import Failure, place_of
from wattmill_collector.sources.gateway_pages import GatewayPage, Line, NotUnderstoodError
from wattmill_collector.sources.gateway_tables import FIELDS, named
from wattmill_collector.sources.gateway_totals import Total, Totals, name_of
from wattmill_collector.sources.promtext import ParseError, number
from wattmill_collector.sources.scraper import Answer, Link, Scraper
from wattmill_collector.targets import GatewaySettings
from wattmill_collector.wire import EARLIEST_US, LATEST_US, AbsenceReading, GatewayReading, Reading

MOST_CONSUMERS = 5000  # a batch holds 10 000 readings
MINUTE_US = 60_000_000
RESTING_US = 600_000_000
LONGEST_ANSWER_US = 10_000_000
TRIES = 2  # a minute
LONGEST_WAIT_S = 5.0  # at the tick at which it is asked
LONGEST_PATIENCE_S = 0.5  # at those after it
_REDIRECTS = ("http_301", "http_302", "http_307", "http_308")


@dataclasses.dataclass(slots=True)
class _Target:
    settings: GatewaySettings
    link: Link
    path: str
    page: GatewayPage
    totals: Totals
    tries: int = 0  # left in this minute; 0: it has answered, or failed
    asked_us: int = 0  # monotonic
    everybody: bool = True  # whether its next answer is to send those at rest, too
    moved: Failure | None = None  # the redirect because of which `path` has got its slash, until that is answered
    problem: str = ""
    since_us: int = 0
    not_computed: int = 0


class GatewaySource:
    """Reads all configured gateways.

    `patience_us`: how long answers are waited for, where a tick need not end in time.

    Errors: ValueError when a target, a gateway kind or a key file can't be used.
    """

    name = "gateway"

    def __init__(
        self,
        gateways: Sequence[GatewaySettings],
        *,
        interval_us: int = 10_000_000,
        patience_us: int = 0,
        scraper: Scraper | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._scraper = scraper or Scraper()
        self._clock = clock or SystemClock()
        self._interval_us = interval_us
        least_s = min(patience_us, LONGEST_ANSWER_US) / 1e6
        self._wait_s = max(min(0.5 * interval_us / 1e6, LONGEST_WAIT_S), least_s)
        self._patience_s = min(0.1 * interval_us / 1e6, LONGEST_PATIENCE_S)
        self._most = MOST_CONSUMERS // max(len(gateways), 1)
        self._minute = -1  # the one in which the pages were asked for last
        self._targets = [self._target(one) for one in gateways]

    def read(self, time_us: int) -> list[Reading]:
        """A GatewayReading per consumer, and AbsenceReadings for what can't be read; nothing between minutes, but what
        was asked for at the last edge and is complete now."""
        self._begin_minute(time_us)
        asked = [target for target in self._targets if target.tries]
        readings: list[Reading] = []
        for target, answer in zip(asked, self._ask(asked), strict=True):
            if isinstance(answer, Failure):
                if answer.reason in ("http_401", "http_403"):  # LiteLLM's page wants a key, as a rule
                    answer = Failure(answer.reason, f"{answer.detail}; name a file with a key it takes in `key_file`")
                if answer.reason != "pending":
                    readings += _absence(target, answer, time_us)
                continue
            try:
                lines = target.page.read(answer.body)
            except NotUnderstoodError as error:
                readings += _absence(target, Failure("not_understood", str(error)), time_us)
                continue
            except ParseError as error:
                failure = Failure("not_understood", f"the page can't be read: {error}")
                readings += _absence(target, failure, time_us)
                continue
            readings += self._read(target, lines, time_us)
        return readings

    def close(self) -> None:
        """Close all connections."""
        self._scraper.close()

    def _target(self, settings: GatewaySettings) -> _Target:
        place = place_of(settings.target)
        page = GatewayPage(named(settings.kind), settings.labels, settings.providers)
        key = read_secret(settings.key_file, "key") if settings.key_file else ""
        return _Target(settings, self._scraper.link(place, key), place.path, page, Totals(self._most))

    def _begin_minute(self, time_us: int) -> None:
        before, self._minute = self._minute, time_us // MINUTE_US
        if before == self._minute:
            return
        rest = RESTING_US // MINUTE_US
        for target in self._targets:
            target.tries = TRIES
            target.everybody = target.everybody or before // rest != self._minute // rest

    def _ask(self, targets: Sequence[_Target]) -> list[Answer | Failure]:
        """What there is of the answers by now; `pending` for one that is still to come."""
        began_us = self._clock.monotonic_us()
        is_asking = False
        for target in targets:
            if not target.link.is_pending:
                target.asked_us, is_asking = began_us, True
        wait_s = self._wait_s if is_asking else self._patience_s
        answers = self._fetch(targets, wait_s)
        # LiteLLM has its page at `/metrics/`, and sends whoever asks for `/metrics` there.
        moved: list[int] = []
        for i, (target, answer) in enumerate(zip(targets, answers, strict=True)):
            if isinstance(answer, Failure) and answer.reason in _REDIRECTS and target.path.endswith("/metrics"):
                target.moved, target.path = answer, target.path + "/"
                moved.append(i)
        if moved:
            left_s = max(wait_s - (self._clock.monotonic_us() - began_us) / 1e6, 0.0)
            for i, answer in zip(moved, self._fetch([targets[i] for i in moved], left_s), strict=True):
                answers[i] = answer
        return [self._judge(target, answer) for target, answer in zip(targets, answers, strict=True)]

    def _fetch(self, targets: Sequence[_Target], wait_s: float) -> list[Answer | Failure]:
        asks = [(target.link, target.path) for target in targets]
        patient = {target.link for target in targets}
        return self._scraper.fetch(asks, self._wait_s, patient=patient, patience_s=wait_s)

    def _judge(self, target: _Target, answer: Answer | Failure) -> Answer | Failure:
        """What an answer, or that there is none yet, means for the target's next tick."""
        if isinstance(answer, Failure) and answer.reason == "pending":
            waited_us = self._clock.monotonic_us() - target.asked_us
            if waited_us + self._interval_us <= LONGEST_ANSWER_US:
                return answer
            target.link.close()  # at the next tick it would be too old
            target.tries -= 1
            return Failure("timeout", f"{target.settings.target} did not answer in full within {waited_us / 1e6:.1f} s")
        target.tries = 0
        if isinstance(answer, Failure) and target.moved is not None:
            target.path, answer = target.path[:-1], target.moved
        target.moved = None
        return answer

    def _read(self, target: _Target, lines: list[Line], time_us: int) -> list[Reading]:
        page, name = target.page, target.settings.target
        assert page.kind is not None
        start_us = _start_us(page.process_start)
        totals = target.totals.take(
            lines,
            page.shown,
            time_us,
            epoch=name_of(name, "page", page.process_start.decode()) if start_us is not None else name_of(name, "none"),
            start_us=start_us,
            keeps=page.kind.keeps or start_us is not None,
        )
        unusable = sum(line.value is None for line in lines)
        before, target.not_computed = target.not_computed, page.not_computed
        idle = page.not_computed - (before if before <= page.not_computed else 0)
        if not totals:
            failure = Failure("no_series", "the gateway shows none of its token counters yet")
        elif unusable:
            failure = Failure("not_a_number", f"{unusable} of its series have a value that can't be used")
        elif idle:
            what = f"{idle} of the tokens it counted are of answers out of its own cache, which no engine computed"
            failure = Failure("not_computed", f"{what}: its consumers' shares hold them")
        else:
            failure = Failure("", "")
        everybody, target.everybody = target.everybody, False
        sent: list[Reading] = [
            _reading(target.settings, page.kind.name, one)
            for one in totals
            if everybody or time_us - one.moved_us <= RESTING_US
        ]
        return sent + _absence(target, failure, time_us)


def _reading(settings: GatewaySettings, kind: str, total: Total) -> GatewayReading:
    who = total.consumer
    workloads = settings.workloads
    return GatewayReading(
        target=settings.target,
        gateway_kind=kind,
        workload=workloads.get(who.model) or workloads.get(f"{who.provider}/{who.model}", ""),
        epoch=total.epoch,
        epoch_start_us=total.start_us,
        **who._asdict(),
        **dict(zip(FIELDS, total.values, strict=True)),  # type: ignore[arg-type]  # names of its fields, with integers
    )


def _absence(target: _Target, failure: Failure, time_us: int) -> list[Reading]:
    """What is wrong with a target: said in every minute while it lasts, so that a gap has its reason."""
    if failure.reason != target.problem:
        target.problem, target.since_us = failure.reason, time_us
    if not failure.reason:
        return []
    since_us = target.since_us if target.since_us < time_us else None
    detail = failure.detail.replace("\x00", "")[:512]
    return [
        AbsenceReading(
            subject="gateway", id=target.settings.target, reason=failure.reason, detail=detail, start_us=since_us
        )
    ]


def _start_us(printed: bytes) -> int | None:
    """A printed Unix time in microseconds; None when it was rounded to too few digits to tell two starts apart."""
    if len(printed.lower().partition(b"e")[0].replace(b".", b"").strip(b"+-")) < 10:
        return None
    try:
        start_us = round(number(printed) * 1_000_000)
    except (ParseError, OverflowError, ValueError):
        return None
    return start_us if EARLIEST_US <= start_us <= LATEST_US else None
