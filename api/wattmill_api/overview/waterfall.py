"""Where every kWh went: accounts that sum to the meter, then the hosts, then the facility. Shares add up to 100.0 %.

The split of serving into prefill, decode and standing power is an estimate: tokens of the range at the prices that
`phases` learnt for their days. Everything else is the ledger's, to the millijoule.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal

from wattmill_analytics.phase_reasons import IDENTIFIED
from wattmill_api.efficiency import scale
from wattmill_api.overview.books import IDLE_EMPTY, IDLE_LOADED, SERVING, UNATTRIBUTED, Books, Owner, owner_of
from wattmill_api.parameters import DAY, EPOCH
from wattmill_api.store import phases, query
from wattmill_api.store.database import Connection
from wattmill_api.store.query import Facts
from wattmill_api.view import View

NAMES = {SERVING: "serving", IDLE_LOADED: "idle-loaded", IDLE_EMPTY: "idle-empty", UNATTRIBUTED: "unattributed"}
MEANINGS = {
    SERVING: "requests ran",
    IDLE_LOADED: "model loaded, no request",
    IDLE_EMPTY: "nothing loaded",
    UNATTRIBUTED: "holder unknown",
}
PARTS = ("prefill", "decode", "standing", "not split")
MOST_DAYS = 10_000
# What the parts beyond the meter may be missing for.
_BY_OWNER = "a meter can't tell workloads apart"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One line. `share` and `begin` are of the outermost total that is known, 0 to 1; `parts` lie inside it."""

    name: str
    meaning: str
    energy_mj: int
    share: float
    begin: float
    parts: tuple[Step, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Waterfall:
    """`steps` are the four accounts, then `host` and `facility` where they are known, and why where they are not.

    `meter_mj` is what the counters say past the ledger; None with `meter_reason`. `residual_mj` is the difference.
    """

    steps: tuple[Step, ...]
    ledger_mj: int
    meter_mj: int | None
    meter_reason: str | None
    host: Step | None
    host_reason: str | None
    facility: Step | None
    facility_reason: str | None
    pue: float | None

    @property
    def residual_mj(self) -> int | None:
        return None if self.meter_mj is None else self.meter_mj - self.ledger_mj

    @property
    def total_mj(self) -> int:
        return self.ledger_mj + sum(step.energy_mj for step in (self.host, self.facility) if step)

    @property
    def nodes_share(self) -> float:
        """Of the accelerators and the hosts together."""
        return sum(step.share for step in (*self.steps, self.host) if step)


def waterfall(connection: Connection, view: View, books: Books, nodes: int, retained: dt.timedelta) -> Waterfall:
    """The waterfall of a view. `nodes`: how many have boards. `retained`: how long minutes are kept."""
    accounts = books.by_account(books.boards)
    ledger_mj = sum(accounts.values())
    meter_mj, meter_reason = None, None
    if view.names_owner:
        meter_reason = _BY_OWNER
    elif view.start < view.now - retained:
        meter_reason = "minutes of this range are no longer kept"
    else:
        meter_mj = query.meter(connection, books.window, view.filters, with_host=False)
    hosts: list[Facts] = []
    host_reason: str | None = "not told apart by workload" if view.names_owner else "not told apart by board"
    if not (view.names_owner or view.names_board):
        hosts = query.overhead(connection, books.window, by=["node"], filters=view.filters, cuts=books.cuts)
        read = len({item.group for item in hosts})
        host_reason = None if read >= nodes else f"measured on {read} of {nodes} nodes" if read else "not measured"
    host_mj = sum(item.energy_mj for item in hosts)
    facility_mj, facility_reason = _facility(books, hosts)
    beyond = [(host_mj if hosts else 0), (facility_mj - ledger_mj - host_mj if facility_mj is not None else 0)]
    energies = [accounts.get(account, 0) for account in NAMES] + beyond
    shares = tenths(energies)
    begins = [sum(shares[:i]) / 1000 for i in range(len(shares))]
    lines = [
        Step(name, meaning, energy_mj, share / 1000, begin)
        for name, meaning, energy_mj, share, begin in zip(
            (*NAMES.values(), "host", "facility overhead"),
            (*MEANINGS.values(), "CPU, memory, and what a chassis adds", "cooling, distribution"),
            energies,
            shares,
            begins,
            strict=True,
        )
    ]
    lines[0] = dataclasses.replace(lines[0], parts=_split(lines[0], shares[0], _phases(connection, view, books)))
    return Waterfall(
        steps=tuple(lines[:4]),
        ledger_mj=ledger_mj,
        meter_mj=meter_mj,
        meter_reason=meter_reason,
        host=lines[4] if hosts else None,
        host_reason=host_reason,
        facility=lines[5] if facility_mj is not None else None,
        facility_reason=facility_reason,
        pue=facility_mj / (ledger_mj + host_mj) if facility_mj and ledger_mj + host_mj else None,
    )


def tenths(parts: Sequence[int], whole: int = 1000) -> list[int]:
    """Shares in tenths of a percent that add up to `whole`, by largest remainder; all 0 where there is nothing."""
    total = sum(parts)
    return scale(parts, Decimal(whole) / Decimal(total)) if total > 0 and min(parts) >= 0 else [0] * len(parts)


def _facility(books: Books, hosts: Sequence[Facts]) -> tuple[int | None, str | None]:
    """Energy of boards and hosts x PUE, rounded as /efficiency does: once for each site and stretch of one PUE."""
    if books.view.names_owner or books.view.names_board:
        return None, "not told apart"
    sums: dict[tuple[int, str], int] = defaultdict(int)
    for item in (*books.boards, *hosts):
        sums[item.slice, item.site] += item.energy_mj
    total = 0
    for (number, site), energy_mj in sums.items():
        pue = books.prices.pue.at(site, books.cuts[number - 1] if number else books.window.start)
        if pue is None:
            return None, f"no PUE is set for {site}"
        total += scale([energy_mj], pue)[0]
    return (total, None) if sums else (None, None)


def _phases(connection: Connection, view: View, books: Books) -> list[int]:
    """Energy of serving by part, in mJ: prefill, decode, standing, not split. Empty where nothing can be split."""
    day, end = view.start - (view.start - EPOCH) % DAY, view.end + (EPOCH - view.end) % DAY
    learnt = phases.days(
        connection,
        day,
        end,
        workload=view.filters["workload"],
        model=view.filters["model"],
        team=view.filters["team"],
        limit=MOST_DAYS,
    )
    days: dict[Owner, list[phases.Day]] = defaultdict(list)
    for each in learnt:
        if each.verdict == IDENTIFIED and each.output_tokens:
            days[each.workload, each.model or None, each.team or None].append(each)
    parts = [0, 0, 0, 0]
    for item in books.boards:
        if item.account == SERVING:
            mine = days.get(owner_of(item))
            for i, energy_mj in enumerate(_parts(item, mine) if mine else (0, 0, 0, item.energy_mj)):
                parts[i] += energy_mj
    return parts if any(parts[:3]) else []


def _parts(item: Facts, days: Sequence[phases.Day]) -> tuple[int, int, int, int]:
    if item.output_tokens is None or item.input_tokens is None or item.cached_input_tokens is None:
        return 0, 0, 0, item.energy_mj
    uncached = sum(day.uncached_input_tokens for day in days)
    output = sum(day.output_tokens for day in days)
    fresh = max(0, item.input_tokens - item.cached_input_tokens)
    prefill = sum(day.prefill_mj for day in days) * fresh // uncached if uncached else 0
    decode = sum(day.decode_mj for day in days) * item.output_tokens // output
    if prefill + decode > item.energy_mj:
        prefill = item.energy_mj * prefill // (prefill + decode)
        decode = item.energy_mj - prefill
    return prefill, decode, item.energy_mj - prefill - decode, 0


def _split(serving: Step, share: int, energies: Sequence[int]) -> tuple[Step, ...]:
    shares = tenths(energies, share) if energies else []
    meanings = ("prompts", "output tokens", "whatever the load", "not learnt yet")
    return tuple(
        Step(name, meaning, energy_mj, part / 1000, serving.begin + sum(shares[:i]) / 1000)
        for i, (name, meaning, energy_mj, part) in enumerate(zip(PARTS, meanings, energies, shares, strict=False))
        if energy_mj
    )
