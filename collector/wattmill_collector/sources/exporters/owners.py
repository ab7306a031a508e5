"""Who reads what, when several sources see the same board or the same part of a host: each is read once.

What the agent reads itself goes first (NVML, its own host sources); then the exporters in the order in which they are
configured. Whoever has read a thing keeps it while it is seen, and for `KEPT_US` after: another's counter in between
would be taken for its continuation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from wattmill_collector.sources.exporters.host_domains import family_of
from wattmill_collector.wire import AcceleratorReading, HostReading, Reading

KEPT_US = 600_000_000
OWN = ""  # the agent's own sources, before all exporters


@dataclasses.dataclass(slots=True)
class _Claim:
    by: str
    until_us: int


class Owners:
    """Claims on boards (by UUID), on a vendor's boards that have no UUID, and on domains of the host (by family)."""

    def __init__(self) -> None:
        self._claims: dict[str, _Claim] = {}

    def note_own(self, readings: Iterable[Reading], time_us: int) -> None:
        """What the agent itself has read at this tick is nobody else's."""
        for reading in readings:
            if isinstance(reading, AcceleratorReading):
                self._claims[f"board {reading.uuid}"] = _Claim(OWN, time_us + KEPT_US)
                self._claims[f"named {reading.vendor}"] = _Claim(OWN, time_us + KEPT_US)
            elif isinstance(reading, HostReading):
                self._claims[f"host {family_of(reading.domain)}"] = _Claim(OWN, time_us + KEPT_US)

    def take_board(self, by: str, uuid: str, vendor: str, *, is_vendors: bool, time_us: int) -> bool:
        """Whether `by` may read this board.

        Without a vendor's UUID nothing tells whether two exporters see the same board, so one of them reads all such
        boards of a vendor, and none where another has shown that vendor's boards by UUID.
        """
        if is_vendors:
            unnamed = self._claims.get(f"unnamed {vendor}")
            if unnamed and unnamed.by != by and self._holds(unnamed, time_us):
                return False
            taken = self._take(f"board {uuid}", by, time_us)
            if taken:
                self._take(f"named {vendor}", by, time_us)
            return taken
        others = self._claims.get(f"named {vendor}")
        if others and others.by != by and self._holds(others, time_us):
            return False
        return self._take(f"unnamed {vendor}", by, time_us) and self._take(f"board {uuid}", by, time_us)

    def take_domain(self, by: str, domain: str, time_us: int) -> bool:
        """Whether `by` may read this domain of the host."""
        return self._take(f"host {family_of(domain)}", by, time_us)

    def _take(self, key: str, by: str, time_us: int) -> bool:
        claim = self._claims.get(key)
        if claim and claim.by != by and self._holds(claim, time_us):
            return False
        self._claims[key] = _Claim(by, time_us + KEPT_US)
        return True

    def _holds(self, claim: _Claim, time_us: int) -> bool:
        """A clock that was set back does not stretch a claim."""
        return time_us < claim.until_us <= time_us + 2 * KEPT_US
