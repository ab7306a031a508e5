"""What the whole node draws, as something says that must not be waited for: a BMC, or a meter behind its firmware.

A thread of its own asks, a tick takes the last answer. It asks shortly before the ticks on multiples of its interval,
so that what a minute's edge reads is fresh. An answer older than `STALE_POLLS` polls is none: then the domain is absent
with the reason of the last failure, or `stale` when nothing came back at all.

Several sources may know a domain of the host. It is read by the first in the order of the lineup (Redfish, IPMI,
hwmon, exporters) and left out of the others: `Domains`.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from wattmill_collector.clock import Clock
from wattmill_collector.log import LOG
from wattmill_collector.sources import Source
from wattmill_collector.sources.addresses import Failure, FetchError
from wattmill_collector.wire import AbsenceReading, HostReading, Reading

CHASSIS = "chassis"
MINUTE_US = 60_000_000
ASK_EVERY_US = 10_000_000
LEAD_US = 2_000_000  # a BMC answers within a second or so
STALE_POLLS = 3
LONGEST_PAUSE_US = 60_000_000
REFUSED_PAUSE_US = 300_000_000  # a BMC locks an account after a few wrong passwords
LONGEST_ASK_US = 60_000_000  # the first answer of a BMC with dozens of chassis takes long
REFUSALS = ("unauthorised", "forbidden", "not_supported")


@dataclasses.dataclass(frozen=True, slots=True)
class Draw:
    """What a chassis draws: power in mW and, where its meter has a counter to rely on, energy in µJ."""

    power_mw: int | None
    energy_uj: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Said:
    """The last answer with the monotonic time at which it came, and what became of the last question."""

    draw: Draw | None = None
    at_us: int = 0
    failure: Failure | None = None


class ChassisSource:
    """Asks for the node's power in the background from `start` on; a source as any other from then.

    `ask` gives the answer or raises FetchError. `cancel` ends an `ask` that is under way, from any thread. `optional`:
    that it never answered is said once and not again. `release` lets go of what `ask` holds; the thread calls it last.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Draw],
        clock: Clock,
        *,
        every_us: int = ASK_EVERY_US,
        optional: bool = False,
        cancel: Callable[[], None] = lambda: None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._ask = ask
        self._clock = clock
        self._every_us = max(every_us, ASK_EVERY_US)
        self._optional = optional
        self._cancel = cancel
        self._release = release
        self._said = _Said()
        self._asking_since_us: int | None = None
        self._said_minute = -1
        self._pause_us = self._every_us
        self._stop = threading.Event()
        self._first = threading.Event()
        self._thread: threading.Thread | None = None
        self._began_us = clock.monotonic_us()

    @property
    def name(self) -> str:
        """What the readings say of where they come from."""
        return self._name

    def start(self, patience_us: int = 0) -> ChassisSource:
        """Begin to ask, and wait up to `patience_us` for the first answer."""
        self._began_us = self._clock.monotonic_us()
        self._thread = threading.Thread(target=self._repeat, name=self._name, daemon=True)
        self._thread.start()
        if patience_us:
            self._clock.wait(self._first, patience_us)
        return self

    def ask(self) -> int:
        """Ask once and keep what comes; returns how long to wait until the next time."""
        self._asking_since_us = self._clock.monotonic_us()
        try:
            draw = self._ask()
        except FetchError as error:
            wait_us = self._fail(error.failure)
        except Exception as error:  # whatever was said, the asking goes on
            wait_us = self._fail(Failure("unforeseen", f"{type(error).__name__}: {error}"))
        else:
            if self._said.failure is not None:
                LOG.info("%s answers again.", self._name)
            self._said = _Said(draw, self._clock.monotonic_us())
            self._pause_us = self._every_us
            wait_us = self._until_next_us()
        self._asking_since_us = None
        self._first.set()
        return wait_us

    def read(self, time_us: int) -> list[Reading]:
        """The chassis, or once a minute why it is absent; nothing while the first answer may still come."""
        now_us, said = self._clock.monotonic_us(), self._said
        since_us = self._asking_since_us
        if since_us is not None and now_us - since_us > LONGEST_ASK_US:
            self._cancel()
        fresh_us = STALE_POLLS * self._every_us
        if said.draw is not None and now_us - said.at_us <= fresh_us:
            self._said_minute = -1
            return [
                HostReading(
                    domain=CHASSIS, source=self._name, power_mw=said.draw.power_mw, energy_uj=said.draw.energy_uj
                )
            ]
        failure = said.failure
        if failure is None and said.draw is None and now_us - self._began_us <= fresh_us:
            return []
        failure = failure or Failure("stale", f"No answer for {(now_us - (said.at_us or self._began_us)) // 10**6} s.")
        minute = time_us // MINUTE_US
        if minute == self._said_minute or (self._optional and said.draw is None and self._said_minute >= 0):
            return []
        self._said_minute = minute
        detail = f"{self._name}: {failure.detail}"[:512]
        return [AbsenceReading(subject="host", id=CHASSIS, reason=failure.reason, detail=detail)]

    def close(self) -> None:
        """Stop asking, even in the middle of it."""
        self._stop.set()
        if self._asking_since_us is not None:  # a connection at rest is needed still, for `release`
            self._cancel()
        if self._thread is not None:
            self._thread.join(1.0)

    def _repeat(self) -> None:
        while not self._stop.is_set():
            if self._clock.wait(self._stop, self.ask()):
                break
        self._release()

    def _fail(self, failure: Failure) -> int:
        if self._said.failure is None:
            LOG.warning("%s: %s", self._name, failure.detail)
        self._said = dataclasses.replace(self._said, failure=failure)
        pause_us, self._pause_us = self._pause_us, min(2 * self._pause_us, max(LONGEST_PAUSE_US, self._every_us))
        return REFUSED_PAUSE_US if failure.reason in REFUSALS else pause_us

    def _until_next_us(self) -> int:
        past_us = (self._clock.wall_us() + LEAD_US) % self._every_us
        return self._every_us - past_us


class Domains:
    """Which domains of the host have been read at this tick: each is read once, whoever else knows it.

    A domain that was ever read by a counter is left to that source: the counter bridges its own gaps, and another's
    power in between would be counted twice.
    """

    def __init__(self) -> None:
        self._time_us = -1
        self._taken: set[str] = set()
        self._counted: dict[str, str] = {}

    def once(self, source: Source) -> Source:
        """The source without the domains that another one before it has read at the same tick."""
        return _Once(source, self)

    def keep(self, reader: str, time_us: int, readings: Sequence[Reading]) -> list[Reading]:
        """What is left of the readings, and of the absences of domains that somebody else has read."""
        if time_us != self._time_us:
            self._time_us, self._taken = time_us, set()
        kept = [reading for reading in readings if not self._is_taken(reader, reading)]
        for reading in kept:
            if isinstance(reading, HostReading):
                self._taken.add(reading.domain)
                if reading.energy_uj is not None:
                    self._counted.setdefault(reading.domain, reader)
        return kept

    def _is_taken(self, reader: str, reading: Reading) -> bool:
        if isinstance(reading, AbsenceReading):
            return reading.subject == "host" and reading.id in self._taken
        if not isinstance(reading, HostReading):
            return False
        return reading.domain in self._taken or self._counted.get(reading.domain, reader) != reader


class _Once:
    """A source behind `Domains`."""

    def __init__(self, source: Source, domains: Domains) -> None:
        self._source = source
        self._domains = domains

    @property
    def name(self) -> str:
        return self._source.name

    def read(self, time_us: int) -> list[Reading]:
        return self._domains.keep(self.name, time_us, self._source.read(time_us))

    def close(self) -> None:
        self._source.close()
