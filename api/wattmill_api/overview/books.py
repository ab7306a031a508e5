"""The ledger of a view, read once by step, workload and account: what all parts of the page are sums of.

At the scopes node and facility it is read with the hosts' energy shared out, as /efficiency does it, and x PUE. Where a
site lacks a PUE the facility is not known: the books are those of the nodes then, and say so.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wattmill_api import efficiency, facility
from wattmill_api.efficiency import ExpectedUs
from wattmill_api.parameters import EnergyScope, RangeQuestion, Window, window
from wattmill_api.store import prices, query
from wattmill_api.store.database import Connection
from wattmill_api.store.prices import Prices
from wattmill_api.store.query import Facts
from wattmill_api.view import View

OWNER = ("workload", "model", "team")
SERVING, IDLE_LOADED, IDLE_EMPTY, UNATTRIBUTED = 1, 2, 3, 4
MOST_FACTS = 60_000
Owner = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Books:
    """`facts` sum to the range by workload and account; `stepped` to the same by step, of each workload or of all.

    Both are at `scope`, which is node where facility was asked for and `without_pue` names sites. `boards` are as
    `facts`, at the accelerators.
    """

    view: View
    window: Window
    steps: Window
    prices: Prices
    cuts: Sequence[dt.datetime]
    facts: Sequence[Facts]
    stepped: Sequence[Facts]
    boards: Sequence[Facts]
    scope: EnergyScope
    without_pue: tuple[str, ...] = ()

    def owners(self) -> list[Owner]:
        """Workload, model and team of all energy there is; Nones for nobody's."""
        return list(dict.fromkeys(owner_of(item) for item in self.facts))

    def rows(self, facts: Iterable[Facts], expected_us: ExpectedUs | None = None) -> list[dict[str, Any]]:
        """Rows of /efficiency out of facts that are at the scope of the books already."""
        rows = efficiency.rows(
            list(facts),
            self.prices,
            scope="accelerator",
            start=self.window.start,
            cuts=self.cuts,
            expected_us=expected_us,
        )
        return [{**row, "scope": self.scope} for row in rows]

    def other(self, connection: Connection, question: RangeQuestion, step: str | None, limit: int) -> list[Facts]:
        """All energy of another range at the scope of the books; none where a site lacks a PUE in it."""
        cuts = self.prices.cuts() if self.scope == "facility" else []
        asked = window(question, step, self.view.now, cuts)
        cuts = [cut for cut in cuts if asked.start < cut < asked.end]
        facts = energy(connection, self.view, asked, self.scope, by=(), cuts=cuts, by_account=False, limit=limit)
        return [] if self._lacks_pue(facts, asked, cuts) else at_scope(facts, self.prices, self.scope, asked, cuts)

    def _lacks_pue(self, facts: Sequence[Facts], asked: Window, cuts: Sequence[dt.datetime]) -> bool:
        return self.scope == "facility" and bool(facility.without_pue(facts, self.prices, asked.start, cuts))

    def total(self, expected_us: ExpectedUs | None) -> dict[str, Any] | None:
        """The one row of /efficiency for the whole range; None where nothing was read."""
        rows = self.rows((dataclasses.replace(item, group=(), account=None) for item in self.facts), expected_us)
        return rows[0] if rows else None

    @staticmethod
    def by_account(facts: Iterable[Facts]) -> dict[int, int]:
        """Energy in mJ by account."""
        sums: dict[int, int] = {}
        for item in facts:
            if item.account is not None:
                sums[item.account] = sums.get(item.account, 0) + item.energy_mj
        return sums


def read(connection: Connection, view: View, step: dt.timedelta) -> Books:
    """The books of a view. Where workloads are very many, their trends are left out."""
    known = prices.load(connection)
    whole = window(view.question(), None, view.now, known.cuts())
    steps = window(view.question(), step, view.now, known.cuts())
    cuts = [cut for cut in known.cuts() if whole.start < cut < whole.end]

    def facts(asked: Window, by: Sequence[str], scope: EnergyScope = view.scope) -> list[Facts]:
        return energy(connection, view, asked, scope, by=by, cuts=cuts, limit=MOST_FACTS + 1)

    stepped = facts(steps, OWNER)
    many = len(stepped) > MOST_FACTS
    stepped = facts(steps, ()) if many else stepped
    if view.scope == "accelerator":
        boards = facts(whole, OWNER) if many else merged(stepped, whole.start)
        return Books(view, whole, steps, known, cuts, boards, stepped, boards, view.scope)
    # Not the sum of the steps: hosts are shared by the minute or by the hour, as /efficiency does it for the range.
    nodes = facts(whole, OWNER)
    lacking = facility.without_pue(nodes, known, whole.start, cuts) if view.scope == "facility" else ()
    scope: EnergyScope = "node" if lacking else view.scope
    return Books(
        *(view, whole, steps, known, cuts),
        facts=at_scope(nodes, known, scope, whole, cuts),
        stepped=at_scope(stepped, known, scope, steps, cuts),
        boards=facts(whole, OWNER, "accelerator"),
        scope=scope,
        without_pue=lacking,
    )


def energy(
    connection: Connection,
    view: View,
    asked: Window,
    scope: EnergyScope,
    *,
    by: Sequence[str],
    cuts: Sequence[dt.datetime],
    by_account: bool = True,
    limit: int,
) -> list[Facts]:
    """Energy of a view: of the boards, or of the nodes for the two wider scopes."""
    return query.energy(
        connection,
        asked,
        by=by,
        filters=view.filters,
        cuts=cuts,
        by_account=by_account,
        with_host=scope != "accelerator",
        limit=limit,
    )


def at_scope(
    facts: Sequence[Facts], known: Prices, scope: EnergyScope, asked: Window, cuts: Sequence[dt.datetime]
) -> list[Facts]:
    """Facts of nodes with the energy that the scope makes of it; every site has a PUE."""
    scaled = efficiency.scoped(facts, known, scope, asked.start, cuts)
    return [dataclasses.replace(item, energy_mj=energy_mj or 0) for item, energy_mj in zip(facts, scaled, strict=True)]


def merged(facts: Iterable[Facts], start: dt.datetime) -> list[Facts]:
    """Facts of all steps added up, by group, account, site and slice."""
    sums: dict[tuple[Any, ...], list[Facts]] = {}
    for item in facts:
        sums.setdefault((item.group, item.account, item.site, item.slice), []).append(item)
    return [_sum(items, start) for items in sums.values()]


def _sum(items: list[Facts], start: dt.datetime) -> Facts:
    return dataclasses.replace(
        items[0],
        bucket=start,
        simulated=any(item.simulated for item in items),
        energy_mj=sum(item.energy_mj for item in items),
        estimated_mj=sum(item.estimated_mj for item in items),
        input_tokens=plus(item.input_tokens for item in items),
        cached_input_tokens=plus(item.cached_input_tokens for item in items),
        output_tokens=plus(item.output_tokens for item in items),
        input_unknown=any(item.input_unknown for item in items),
        cached_unknown=any(item.cached_unknown for item in items),
        output_unknown=any(item.output_unknown for item in items),
        placement_unknown=any(item.placement_unknown for item in items),
        host_unknown=any(item.host_unknown for item in items),
        covered_us=sum(item.covered_us for item in items),
        span_us=sum(item.span_us for item in items),
    )


def plus(values: Iterable[int | None]) -> int | None:
    """The sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def owner_of(facts: Facts) -> Owner:
    """Workload, model and team."""
    group: Mapping[str, str | None] = dict(facts.group)
    return tuple(group.get(name) for name in OWNER)
