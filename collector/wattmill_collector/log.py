"""The agent's log: one line an event on standard error, where systemd and Kubernetes look for it.

What could repeat every tick goes through a `Throttle`, which says how many similar lines it swallowed.
"""

from __future__ import annotations

import logging
import sys

from wattmill_collector.clock import Clock

ROOT = logging.getLogger("wattmill")
LOG = logging.getLogger("wattmill.agent")
REPEAT_AFTER_US = 60_000_000


def set_up(level: int = logging.INFO) -> None:
    """Send the log to standard error; under systemd the journal adds the time itself, elsewhere we do."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    ROOT.handlers[:] = [handler]
    ROOT.propagate = False
    ROOT.setLevel(level)


class Throttle:
    """Lets a line through at once, then at most one a minute for the same key."""

    def __init__(self, clock: Clock, log: logging.Logger = LOG) -> None:
        self._clock = clock
        self._log = log
        self._said_us: dict[str, int] = {}
        self._swallowed: dict[str, int] = {}

    def warning(self, key: str, sentence: str) -> None:
        """Say `sentence`, unless `key` was said within the last minute; then count it."""
        now_us = self._clock.monotonic_us()
        said_us = self._said_us.get(key)
        if said_us is not None and now_us - said_us < REPEAT_AFTER_US:
            self._swallowed[key] = self._swallowed.get(key, 0) + 1
            return
        self._said_us[key] = now_us
        swallowed = self._swallowed.pop(key, 0)
        self._log.warning("%s%s", sentence, f" ({swallowed} more times in the last minute)" if swallowed else "")

    def clear(self, key: str) -> bool:
        """The trouble behind `key` is over; True when it had been said, so that the end may be said too."""
        self._swallowed.pop(key, None)
        return self._said_us.pop(key, None) is not None
