"""What was not covered, when and why: islands of covered minutes -> gaps with reasons. Pure.

A device is expected from its first reading on; a minute is a gap when less of it is covered than was expected. The last
two minutes before now are still being written and are judged by nobody.
"""

from __future__ import annotations

import bisect
import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from wattmill_api.parameters import EPOCH, MINUTE, Window
from wattmill_api.store.query import Absence, Expected, Island

SETTLING = 2 * MINUTE
NO_READING = ("no_reading", "No reading arrived: the agent, its host or its way to this service was down.")
_MINUTE_US = 60_000_000
Span = tuple[dt.datetime, dt.datetime]


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Not covered from `start` to `end`, and why."""

    start: dt.datetime
    end: dt.datetime
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Covered:
    """One device over a range."""

    device: Expected
    covered_us: int
    expected_us: int
    anomalies: int
    gaps: tuple[Gap, ...]


def of_devices(
    devices: Sequence[Expected],
    islands: Iterable[Island],
    absences: Iterable[Absence],
    *,
    kind: str,
    start: dt.datetime,
    end: dt.datetime,
    now: dt.datetime,
) -> list[Covered]:
    """Each device's coverage from `start` to `end`, with its gaps in order. `kind`: accelerator or engine."""
    islands_of: dict[int, list[Island]] = defaultdict(list)
    for island in islands:
        islands_of[island.device_id].append(island)
    absences_of: dict[int, list[Absence]] = defaultdict(list)
    for absence in absences:
        if absence.subject in (kind, "batch", "node"):
            absences_of[absence.node_id].append(absence)
    return [
        _of_device(
            device,
            islands_of[device.device_id],
            [a for a in absences_of[device.node_id] if a.subject != kind or a.id in ("", device.name)],
            start,
            end,
            now,
        )
        for device in devices
    ]


def _of_device(
    device: Expected,
    islands: list[Island],
    absences: list[Absence],
    start: dt.datetime,
    end: dt.datetime,
    now: dt.datetime,
) -> Covered:
    first = max(start, device.first_seen)
    last = min(end, now)
    settled = settled_at(now)
    if last > settled:
        # Judged only as far as anything was written.
        written = max((island.first_time + island.minutes * MINUTE for island in islands), default=settled)
        last = min(last, max(settled, written))
    if first >= last:
        return Covered(device, 0, 0, sum(island.anomalies for island in islands), ())
    covered_us = sum(island.covered_us * island.minutes for island in islands)
    expected_us = (last - first) // dt.timedelta(microseconds=1)
    holes = _holes(first, last, islands)
    gaps = [Gap(begin, finish, *_why(begin, finish, absences)) for begin, finish in holes]
    return Covered(
        device,
        min(covered_us, expected_us),
        expected_us,
        sum(island.anomalies for island in islands),
        tuple(gaps),
    )


def settled_at(now: dt.datetime) -> dt.datetime:
    """Up to here everything that arrived is written."""
    return (now - SETTLING) - (now - EPOCH) % MINUTE


def expected_us(
    devices: Iterable[Expected], by: Sequence[str], window: Window, now: dt.datetime
) -> Callable[[dt.datetime, tuple[tuple[str, str | None], ...]], int]:
    """How long the devices of a group should have been read in a bucket, as a function of bucket and group."""
    first_seen: dict[tuple[tuple[str, str | None], ...], list[dt.datetime]] = defaultdict(list)
    for device in sorted(devices, key=lambda device: device.first_seen):
        names = {
            "accelerator": device.name,
            "accelerator_model": device.model,
            "node": device.node,
            "site": device.site,
        }
        first_seen[tuple((name, names[name]) for name in by)].append(device.first_seen)
    settled = settled_at(now)

    def expected(bucket: dt.datetime, group: tuple[tuple[str, str | None], ...]) -> int:
        begin = max(bucket, window.start)
        finish = min(bucket + window.step if window.step else window.end, window.end, settled)
        if finish <= begin:
            return 0
        times = first_seen.get(group, [])
        old = bisect.bisect_right(times, begin)
        new = times[old : bisect.bisect_left(times, finish)]
        total = old * (finish - begin) + sum((finish - time for time in new), dt.timedelta(0))
        return total // dt.timedelta(microseconds=1)

    return expected


def _holes(first: dt.datetime, last: dt.datetime, islands: list[Island]) -> list[Span]:
    """The stretches between `first` and `last` that no fully covered island fills, adjacent ones joined."""
    holes: list[Span] = []
    at = first
    for island in sorted(islands, key=lambda island: island.first_time):
        begin, finish = island.first_time, island.first_time + island.minutes * MINUTE
        if not _full(island, first, last):
            continue
        if begin > at:
            holes.append((at, min(begin, last)))
        at = max(at, finish)
    if at < last:
        holes.append((at, last))
    return holes


def _full(island: Island, first: dt.datetime, last: dt.datetime) -> bool:
    """Whether every minute is covered as far as it was expected: the first one only from the first reading on."""
    if island.covered_us >= _MINUTE_US:
        return True
    begin, finish = island.first_time, island.first_time + island.minutes * MINUTE
    expected = (min(finish, last) - max(begin, first)) // dt.timedelta(microseconds=1)
    return island.minutes == 1 and island.covered_us >= expected


def _why(begin: dt.datetime, finish: dt.datetime, absences: list[Absence]) -> tuple[str, str]:
    """The reason that explains most of a gap."""
    best, longest = NO_READING, dt.timedelta(0)
    for absence in absences:
        if absence.reason == "no_endpoint":  # says who holds a board that was read
            continue
        # A note of one tick speaks for the tick around it.
        overlap = min(finish, absence.end_time + MINUTE) - max(begin, absence.start_time - MINUTE)
        if overlap > longest:
            best, longest = (absence.reason, absence.detail), overlap
    return best


def join(gaps: Iterable[Gap]) -> list[Gap]:
    """Gaps of several devices as one list: those that touch and have the same reason become one."""
    joined: dict[tuple[str, str], list[Gap]] = defaultdict(list)
    for gap in sorted(gaps, key=lambda gap: gap.start):
        alike = joined[gap.reason, gap.detail]
        if alike and gap.start <= alike[-1].end:
            alike[-1] = dataclasses.replace(alike[-1], end=max(alike[-1].end, gap.end))
        else:
            alike.append(gap)
    return sorted((gap for alike in joined.values() for gap in alike), key=lambda gap: (gap.start, gap.end))


def grouped(covered: Iterable[Covered], by: str) -> Mapping[tuple[tuple[str, str], ...], list[Covered]]:
    """Devices by `accelerator`, `engine`, `node` or `site`."""
    groups: dict[tuple[tuple[str, str], ...], list[Covered]] = defaultdict(list)
    for item in covered:
        device = item.device
        keys = {
            "site": (("site", device.site),),
            "node": (("node", device.node), ("site", device.site)),
        }
        groups[keys.get(by, ((by, device.name), ("node", device.node), ("site", device.site)))].append(item)
    return groups
