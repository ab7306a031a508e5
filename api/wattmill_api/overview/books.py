"""The ledger of a view, read once by step, workload and account: what all parts of the page are sums of."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wattmill_api import efficiency
from wattmill_api.efficiency import ExpectedUs
from wattmill_api.parameters import Window, window
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
    """`facts` sum to the range by workload and account; `stepped` to the same by step, of each workload or of all."""

    view: View
    window: Window
    steps: Window
    prices: Prices
    cuts: Sequence[dt.datetime]
    facts: Sequence[Facts]
    stepped: Sequence[Facts]

    def owners(self) -> list[Owner]:
        """Workload, model and team of all energy there is; Nones for nobody's."""
        return list(dict.fromkeys(owner_of(item) for item in self.facts))

    def rows(self, facts: Iterable[Facts], expected_us: ExpectedUs | None = None) -> list[dict[str, Any]]:
        """Rows of /efficiency at the scope of accelerators."""
        return efficiency.rows(
            list(facts),
            self.prices,
            scope="accelerator",
            start=self.window.start,
            cuts=self.cuts,
            expected_us=expected_us,
        )

    def total(self, expected_us: ExpectedUs | None) -> dict[str, Any] | None:
        """The one row of /efficiency for the whole range; None where nothing was read."""
        rows = self.rows((dataclasses.replace(item, group=(), account=None) for item in self.facts), expected_us)
        return rows[0] if rows else None

    def by_account(self) -> dict[int, int]:
        """Energy in mJ by account."""
        sums: dict[int, int] = {}
        for item in self.facts:
            if item.account is not None:
                sums[item.account] = sums.get(item.account, 0) + item.energy_mj
        return sums


def read(connection: Connection, view: View, step: dt.timedelta) -> Books:
    """The books of a view. Where workloads are very many, their trends are left out."""
    known = prices.load(connection)
    whole = window(view.question(), None, view.now, known.cuts())
    steps = window(view.question(), step, view.now, known.cuts())
    cuts = [cut for cut in known.cuts() if whole.start < cut < whole.end]

    def facts(asked: Window, by: Sequence[str]) -> list[Facts]:
        return query.energy(
            connection, asked, by=by, filters=view.filters, cuts=cuts, by_account=True, limit=MOST_FACTS + 1
        )

    stepped = facts(steps, OWNER)
    if len(stepped) > MOST_FACTS:
        return Books(view, whole, steps, known, cuts, facts(whole, OWNER), facts(steps, ()))
    return Books(view, whole, steps, known, cuts, merged(stepped, whole.start), stepped)


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
