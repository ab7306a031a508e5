"""Running totals of a gateway's consumers, out of series that may restart or vanish one by one.

A consumer's total is the plain sum of its series for as long as they only rise, so an agent that was started again goes
on where the last one was. Differences are taken series by series before they are summed:

- A series that vanishes keeps what it stood at; one that comes back goes on from there. One that is new counts from
  zero. But a collector drops series that rest and shows them again, so of its pages a new series is only a baseline.
- A series that falls is not believed at once. If the next reading goes on from the fallen value, it began again at
  zero; if it returns, that was a glitch (so a series that began again and passed where it stood within one reading is
  counted from there only). When every series that had counted tokens fell, and there were two or more,
  the gateway was started again, and that is believed at once.
- From then on the consumer's total is no longer the plain sum: it begins at zero, at the reading before, under an epoch
  of its own. An agent that forgets all this shows the plain sum under the old epoch, and the service, which knows no
  start of that, takes it for a baseline. So a restart of the agent may lose a minute then; nothing is ever counted
  twice.

Pure: lines in, totals out; times are given.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

from wattmill_collector.sources.gateway_pages import Consumer, Key, Line
from wattmill_collector.sources.gateway_tables import FIELDS

FORGET_AFTER_US = 86_400_000_000
OTHERS = "(others)"
# With nobody left to tell apart: those of a team, of a model, all others.
_GROUPS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Total:
    """A consumer's counters: one for each of FIELDS, None where the page has none. `moved_us`: when any rose last."""

    consumer: Consumer
    values: tuple[int | None, ...]
    epoch: int
    start_us: int | None
    moved_us: int


@dataclasses.dataclass(slots=True)
class _Series:
    who: Consumer  # as the page says
    consumer: Consumer  # under which that is counted
    field: int
    value: int
    fallen: int = -1
    seen_us: int = 0
    held: bool = False


@dataclasses.dataclass(slots=True)
class _Account:
    values: list[int]
    epoch: int
    start_us: int | None
    moved_us: int = 0
    seen_us: int = 0


class Totals:
    """The consumers of one target: at most `most` of them. The largest are kept apart, the rest put together."""

    def __init__(self, most: int) -> None:
        self._most = max(most, 2 * _GROUPS)
        self._epoch = 0
        self._run_us = 0  # when this process read first: names the epochs of those that are put together
        self._read_us: int | None = None
        self._series: dict[Key, _Series] = {}
        self._accounts: dict[Consumer, _Account] = {}
        self._together: dict[Consumer, Consumer] = {}
        self._members: dict[Consumer, int] = {}

    def take(
        self,
        lines: Sequence[Line],
        shown: Iterable[int],
        time_us: int,
        *,
        epoch: int,
        start_us: int | None,
        keeps: bool,
    ) -> list[Total]:
        """Take in one page.

        `epoch`, never 0: what is known of the gateway's process; `start_us`: when that began; `keeps`: a series stays
        on the page while that process lives.
        """
        if epoch != self._epoch:
            self._series, self._accounts, self._members, self._together = {}, {}, {}, {}
            self._read_us, self._run_us = None, time_us
            self._epoch = epoch
        before_us = self._read_us
        usable = [line for line in lines if line.value is not None]
        restarted = self._fell_together(usable)
        if restarted:
            self._series = {}
        self._assign(lines)
        from_zero = keeps or restarted or before_us is None
        counted: dict[Consumer, list[int]] = {}
        broken = set(self._accounts) if restarted else set[Consumer]()
        for line in usable:
            consumer = self._together[line.consumer]
            known = self._series.get(line.key)
            if known is not None and known.consumer != consumer:  # who it is of has changed
                broken |= {known.consumer, consumer}
                known.who, known.consumer = line.consumer, consumer
            amount, began = self._difference(line, consumer, time_us, from_zero=from_zero)
            counted.setdefault(consumer, [0] * len(FIELDS))[line.field] += amount
            if began:
                broken.add(consumer)
        there = {line.key for line in lines}
        for key, series in self._series.items():
            if series.seen_us != time_us and key not in there and not series.held:
                series.held = True
                broken.add(series.consumer)
        self._add(counted, broken, time_us, before_us, start_us, from_zero=from_zero)
        if not keeps:
            self._forget(time_us)
        self._read_us = time_us
        fields = set(shown)
        return [
            Total(
                consumer,
                tuple(value if field in fields else None for field, value in enumerate(account.values)),
                account.epoch,
                account.start_us,
                account.moved_us,
            )
            for consumer, account in self._accounts.items()
            if account.seen_us == time_us
        ]

    def _fell_together(self, lines: Sequence[Line]) -> bool:
        # Of requests there may be as many again: one before, one since.
        told = [line for line in lines if line.key in self._series and FIELDS[line.field] != "requests_finished"]
        known = [(self._series[line.key], line.value) for line in told]
        counted = [(series.value, value) for series, value in known if series.value > 0]
        return len(counted) > 1 and all(value is not None and value < old for old, value in counted)

    def _difference(self, line: Line, consumer: Consumer, time_us: int, *, from_zero: bool) -> tuple[int, bool]:
        """What a series counted since it was read last, and whether its consumer's plain sum is broken by that."""
        assert line.value is not None
        series = self._series.get(line.key)
        if series is None:
            self._series[line.key] = _Series(line.consumer, consumer, line.field, line.value, seen_us=time_us)
            return (line.value, False) if from_zero else (0, True)
        series.seen_us, series.held = time_us, False
        if line.value >= series.value:
            amount, series.value, series.fallen = line.value - series.value, line.value, -1
            return amount, False
        if 0 <= series.fallen <= line.value:
            series.value, series.fallen = line.value, -1
            return line.value, True
        series.fallen = line.value
        return 0, False

    def _add(
        self,
        counted: dict[Consumer, list[int]],
        broken: set[Consumer],
        time_us: int,
        before_us: int | None,
        start_us: int | None,
        *,
        from_zero: bool,
    ) -> None:
        since_us = None if before_us is None else before_us + 1
        for consumer in [*counted, *(one for one in self._accounts if one in broken and one not in counted)]:
            amounts = counted.get(consumer, [0] * len(FIELDS))
            account = self._accounts.get(consumer)
            if account is None:
                epoch = self._epoch
                if not from_zero or consumer in broken:
                    epoch = name_of(self._epoch, "from", time_us)
                elif consumer in self._members:  # who is in it is this run's choice
                    epoch = name_of(self._epoch, "run", self._run_us)
                starts = [at for at in (start_us, since_us) if at is not None and from_zero]
                account = self._accounts[consumer] = _Account(list(amounts), epoch, max(starts, default=None))
                account.moved_us = time_us
            elif consumer in broken:
                account.values = list(amounts)
                account.epoch, account.start_us = name_of(self._epoch, "from", time_us), since_us
                account.moved_us = time_us
            else:
                account.values = [a + b for a, b in zip(account.values, amounts, strict=True)]
                if any(amounts):
                    account.moved_us = time_us
            if consumer in counted:
                account.seen_us = time_us

    def _assign(self, lines: Sequence[Line]) -> None:
        """Decide of consumers that are new whether they are kept apart; the largest first, and for good."""
        sizes: dict[Consumer, int] = {}
        for line in lines:
            if line.consumer not in self._together:
                sizes[line.consumer] = sizes.get(line.consumer, 0) + (line.value or 0)
        room = self._most - len(set(self._together.values()))
        if len(sizes) <= room - _GROUPS and not self._members:
            self._together.update({consumer: consumer for consumer in sizes})
            return
        # A tenth is left for groups: by team, then by model, at last one for all.
        apart = self._most - max(self._most // 10, _GROUPS)
        taken = set(self._together.values())
        for consumer in sorted(sizes, key=lambda one: (-sizes[one], one)):
            whole = consumer
            if len(taken) >= apart:
                model, provider, team, *_ = consumer
                whole = Consumer(model, provider, team, OTHERS, OTHERS, OTHERS)
                if whole not in taken and len(taken) >= self._most - 2:
                    whole = Consumer(model, provider, OTHERS, OTHERS, OTHERS, OTHERS)
                if whole not in taken and len(taken) >= self._most - 1:
                    whole = Consumer(OTHERS, "", OTHERS, OTHERS, OTHERS, OTHERS)
                self._members[whole] = self._members.get(whole, 0) + 1
            taken.add(whole)
            self._together[consumer] = whole

    def _forget(self, time_us: int) -> None:
        """Let go of what has been off the page for a day: it comes back as new, and that is a baseline."""
        old = [key for key, one in self._series.items() if one.held and time_us - one.seen_us >= FORGET_AFTER_US]
        if not old:
            return
        for key in old:
            del self._series[key]
        named = {one.who for one in self._series.values()}
        counted = {one.consumer for one in self._series.values()}
        self._together = {who: consumer for who, consumer in self._together.items() if who in named}
        self._accounts = {consumer: account for consumer, account in self._accounts.items() if consumer in counted}


def name_of(*evidence: str | int) -> int:
    """The name of an epoch: 8 bytes of a hash, never 0, which means no evidence."""
    text = "\n".join(map(str, evidence)).encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True) or 1
