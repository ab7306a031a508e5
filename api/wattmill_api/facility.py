"""What the facility adds to the energy of its nodes: (PUE − 1) × all of it, as rows of the account overhead. Pure.

For each bucket, site and stretch between two changes of a price it is rounded once, as /efficiency does it, so that
both say the same of a whole site. It belongs to nodes and sites alone: who bears it is asked of /efficiency.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence

from wattmill_api import efficiency
from wattmill_api.store.prices import Prices
from wattmill_api.store.query import Facts, Group, group_of

OVERHEAD = 5
Key = tuple[dt.datetime, int, str, Group]


def added(
    facts: Sequence[Facts], prices: Prices, *, by: Sequence[str], start: dt.datetime, cuts: Sequence[dt.datetime]
) -> tuple[list[Facts], set[tuple[dt.datetime, Group]]]:
    """Overhead by bucket, slice, site and node or site as asked for; and the buckets and groups that lack a PUE.

    `facts` are all energy of the nodes, hosts included. What lacks a PUE has a row of 0 mJ, so that it can be named.
    """
    nodes: dict[Key, list[Facts]] = {}
    for item in facts:
        nodes.setdefault((item.bucket, item.slice, item.site, _place(item, by)), []).append(item)
    sums = [_sum(key, its) for key, its in nodes.items()]
    found, unknown = [], set()
    for item, energy_mj in zip(sums, efficiency.scoped(sums, prices, "facility", start, cuts), strict=True):
        if energy_mj is None:
            unknown.add((item.bucket, item.group))
        found.append(dataclasses.replace(item, energy_mj=0 if energy_mj is None else energy_mj - item.energy_mj))
    return found, unknown


def without_pue(
    facts: Sequence[Facts], prices: Prices, start: dt.datetime, cuts: Sequence[dt.datetime]
) -> tuple[str, ...]:
    """The sites that had no PUE at some time at which there are facts, in order."""
    scaled = efficiency.scoped(facts, prices, "facility", start, cuts)
    return tuple(sorted({item.site for item, energy_mj in zip(facts, scaled, strict=True) if energy_mj is None}))


def _place(facts: Facts, by: Sequence[str]) -> Group:
    """The group without what tells boards and owners apart."""
    named: Mapping[str, str | None] = dict(facts.group)
    return group_of({"node_name": named.get("node") if "node" in by else None, "site": facts.site}, by)


def _sum(key: Key, facts: Sequence[Facts]) -> Facts:
    """Their energy alone: tokens and coverage are said where they were read."""
    bucket, number, site, group = key
    return Facts(
        bucket=bucket,
        slice=number,
        site=site,
        group=group,
        account=OVERHEAD,
        simulated=any(item.simulated for item in facts),
        energy_mj=sum(item.energy_mj for item in facts),
        estimated_mj=0,
        input_tokens=None,
        cached_input_tokens=None,
        output_tokens=None,
        input_unknown=False,
        cached_unknown=False,
        output_unknown=False,
        placement_unknown=False,
        host_unknown=False,
        covered_us=0,
        span_us=0,
    )
