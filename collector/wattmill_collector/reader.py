"""A source under watch: opened when it can be, timed, and kept from stopping the tick.

What a source raises decides what happens to it (`errors.py`): NotHere leaves it out and looks again after minutes;
TryAgain skips this tick; Broken stops it for good. An exception that nobody foresaw counts as TryAgain. Whatever was
not read comes back as an AbsenceReading, unless the source is merely not part of this host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from wattmill_collector.clock import Clock
from wattmill_collector.errors import Broken, NotHere, TryAgain
from wattmill_collector.log import LOG, Throttle
from wattmill_collector.sources import Source
from wattmill_collector.wire import AbsenceReading, Reading

State = Literal["new", "reading", "not_here", "trying", "broken"]
LOOK_AGAIN_US = 300_000_000  # a driver may be installed while the agent runs
LONGEST_PAUSE_US = 60_000_000


@dataclasses.dataclass(slots=True)
class ReaderStats:
    """What became of the attempts to read one source."""

    state: State = "new"
    detail: str = ""
    reads: int = 0
    failures: int = 0
    readings: int = 0
    last_duration_us: int = 0
    total_duration_us: int = 0


class Reader:
    """One source of the agent. `subject` is what an AbsenceReading of it is about; `wanted` means `on`, not `auto`."""

    def __init__(
        self,
        name: str,
        subject: str,
        open_source: Callable[[], Source],
        clock: Clock,
        throttle: Throttle,
        *,
        wanted: bool = False,
    ) -> None:
        self.name = name
        self.subject = subject
        self.wanted = wanted
        self.stats = ReaderStats()
        self.latest: Sequence[Reading] = ()  # what was read last, for sources that come after
        self.since_us: int | None = None  # monotonic, while a call is under way: the watchdog looks at it
        self._open = open_source
        self._clock = clock
        self._throttle = throttle
        self._source: Source | None = None
        self._open_after_us = 0
        self._pause_us = 1_000_000

    def open(self) -> None:
        """Open the source ahead of the first tick, which a slow driver would make late. Never raises."""
        self._attempt(None)

    def read(self, time_us: int) -> list[Reading]:
        """The source's readings at this tick, or why there are none. Never raises."""
        return self._attempt(time_us)

    def _attempt(self, time_us: int | None) -> list[Reading]:
        stats = self.stats
        started_us = self._clock.monotonic_us()
        if stats.state == "broken" or (self._source is None and started_us < self._open_after_us):
            return self._absence()
        self.since_us = started_us
        try:
            if self._source is None:
                self._source = self._open()
            if time_us is None:
                return []
            readings = self._source.read(time_us)
        except NotHere as error:
            return self._lost("not_here", str(error), LOOK_AGAIN_US)
        except Broken as error:
            return self._lost("broken", str(error), 0)
        except TryAgain as error:
            return self._failed(str(error))
        except Exception as error:  # the tick goes on whatever a source does
            return self._failed(f"Unforeseen trouble while reading {self.name}: {type(error).__name__}: {error}")
        finally:
            self.since_us = None
            stats.last_duration_us = self._clock.monotonic_us() - started_us
            stats.total_duration_us += stats.last_duration_us
        if stats.state != "reading":
            LOG.info("Source %s is read: %d readings.", self.name, len(readings))
            self._throttle.clear(self.name)
            stats.state, stats.detail, self._pause_us = "reading", "", 1_000_000
        self.latest = readings
        stats.reads += 1
        stats.readings += len(readings)
        return readings

    def in_trouble(self) -> bool:
        """Whether a person should look: what is merely not part of this host is no trouble."""
        state = self.stats.state
        return state in ("trying", "broken") or (state == "not_here" and self.wanted)

    def close(self) -> None:
        """Let go of the source; a source that fails at that is only mentioned."""
        source, self._source = self._source, None
        if source is not None:
            try:
                source.close()
            except Exception as error:  # the agent is ending, or is about to open the source afresh
                LOG.warning("Source %s did not close well: %s: %s", self.name, type(error).__name__, error)

    def _lost(self, state: Literal["not_here", "broken"], sentence: str, pause_us: int) -> list[Reading]:
        self.close()
        if self.stats.state != state:
            LOG.log(30 if state == "broken" or self.wanted else 20, "Source %s: %s", self.name, sentence)
        self.stats.state, self.stats.detail = state, sentence
        self.stats.failures += state == "broken"
        self._open_after_us = self._clock.monotonic_us() + pause_us
        return self._absence()

    def _failed(self, sentence: str) -> list[Reading]:
        self.stats.state, self.stats.detail = "trying", sentence
        self.stats.failures += 1
        self._throttle.warning(self.name, sentence)
        if self._source is None:
            self._open_after_us = self._clock.monotonic_us() + self._pause_us
            self._pause_us = min(2 * self._pause_us, LONGEST_PAUSE_US)
        return self._absence()

    def _absence(self) -> list[Reading]:
        self.latest = ()
        if self.stats.state == "not_here" and not self.wanted:
            return []
        reason = {"not_here": "not_here", "broken": "broken"}.get(self.stats.state, "try_again")
        return [AbsenceReading(subject=self.subject, reason=reason, detail=f"{self.name}: {self.stats.detail}"[:512])]
