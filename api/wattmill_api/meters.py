"""Power meters beside what stands below them: do they agree, and if not, why not. Pure.

Meters of one site and level that cover the same nodes are feeds of one thing (A and B of a rack) and are added up
before anything is compared. What is below is what the ledger has: energy of the nodes' accelerators and of their hosts.
The two are compared over the hours and minutes in which the meter counted; docs/scopes.md states the rule.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from wattmill_api.parameters import Window
from wattmill_api.store.meters import Below, Counted, Meter, Node
from wattmill_api.store.prices import History

LEAST_COVERED = 0.95  # of both sides; below it nothing is compared
OVER = 0.05  # what stands below may show so much more: counters of boards and supplies are good to 5 %
LOSS_WHOLE = (
    0.15  # what may be lost where every node below is measured whole: cables, switches, shelves, fans of a rack
)
LOSS_PARTLY = 0.5  # where fans, drives, network and supplies of the nodes are not measured at all
HIGHEST_PUE = 3.0
COARSEST = 0.05  # a meter that counts in larger steps than this share of its energy is not compared
_KWH_MJ = 3_600_000_000
# Outermost first. A chassis stands below whatever else is read of its node.
LEVELS = ("facility", "rack", "node", "chassis")


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Meters that are compared as one, and the nodes below them. `level` is one of LEVELS."""

    site: str
    level: str
    covers: tuple[str, ...]
    meters: tuple[Meter, ...]
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        return " + ".join(meter.name for meter in self.meters)


def groups(meters: Iterable[Meter], nodes: Iterable[Node]) -> list[Group]:
    """The meters by what they cover, from the outermost level on. Labels are taken as they are now."""
    on_site: dict[str, dict[int, Node]] = defaultdict(dict)
    named: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in nodes:
        on_site[node.site][node.node_id] = node
        for name in {f"node={node.name}", *(f"{label}={value}" for label, value in node.labels.items())}:
            named[node.site, name].append(node)
    feeds: dict[tuple[str, str, tuple[str, ...], int], list[Meter]] = defaultdict(list)
    for meter in meters:
        level = "chassis" if meter.node_id else meter.level
        feeds[meter.site, level, tuple(sorted(set(meter.covers))), meter.node_id].append(meter)
    found = []
    for (site, level, covers, node_id), members in feeds.items():
        below = {node.node_id: node for cover in covers for node in named[site, cover]} if covers else on_site[site]
        if node_id:
            below = {node_id: on_site[site][node_id]} if node_id in on_site[site] else {}
        found.append(Group(site, level, covers, tuple(members), tuple(below.values())))
    return sorted(found, key=lambda group: (group.site, LEVELS.index(group.level), group.name, group.covers))


def inside(wanted: Iterable[Group], every: Iterable[Group]) -> list[list[Group]]:
    """For each group the meters of the next level down that together stand above all the same nodes, each node once.

    Empty where there are none, or they miss a node.
    """
    above: dict[tuple[str, int], list[Group]] = defaultdict(list)
    for group in every:
        for node in group.nodes:
            above[group.level, node.node_id].append(group)
    return [_inside(group, above) for group in wanted]


def _inside(group: Group, above: dict[tuple[str, int], list[Group]]) -> list[Group]:
    ids = {node.node_id for node in group.nodes}
    for level in LEVELS[LEVELS.index(group.level) + 1 :]:
        near = {each.meters[0].meter_id: each for node_id in ids for each in above.get((level, node_id), [])}
        inner = [each for each in near.values() if ids.issuperset(node.node_id for node in each.nodes)]
        if inner:
            reached = [node.node_id for each in inner for node in each.nodes]
            return inner if len(reached) == len(ids) and set(reached) == ids else []
    return []


def chassis(wanted: Iterable[Group], every: Iterable[Group]) -> list[Group]:
    """The chassis of all nodes below some groups."""
    ids = {node.node_id for group in wanted for node in group.nodes}
    return [each for each in every if each.level == "chassis" and any(node.node_id in ids for node in each.nodes)]


def together(wanted: Iterable[Group], chassis: Iterable[Group]) -> list[Group]:
    """Those of which `rows` needs to know what is below, each once, the wanted ones first."""
    return list({group.meters[0].meter_id: group for group in (*wanted, *chassis)}.values())


def rows(
    wanted: Sequence[Group],
    inner: Sequence[Sequence[Group]],
    counted: Iterable[Counted],
    below: Iterable[Below],
    pue: History,
    asked: Window,
    chassis: Sequence[Group],
) -> list[dict[str, Any]]:
    """The rows of /meters by bucket. `below` is numbered as `together` says, `inner` is what `inside` says of each of
    `wanted`, `chassis` those of all nodes below.

    A chassis that shows less than the parts of its node measures nobody whole. A bucket without a reading of any feed
    has no row.
    """
    by_meter = {(each.meter_id, each.bucket): each for each in counted}
    buckets: dict[int, set[dt.datetime]] = defaultdict(set)
    for meter_id, bucket in by_meter:
        buckets[meter_id].add(bucket)
    used = {(each.n, each.bucket): each for each in below}
    short_us: dict[tuple[int, dt.datetime], int] = {}  # node and bucket → how long its chassis was read, and wrong
    numbers = {group.meters[0].meter_id: n for n, group in enumerate(together(wanted, chassis))}
    for group in chassis:
        n = numbers[group.meters[0].meter_id]
        for bucket in set().union(*(buckets[meter.meter_id] for meter in group.meters)):
            feeds = [by_meter.get((meter.meter_id, bucket)) for meter in group.meters]
            under = used.get((n, bucket))
            if under and _row(group, bucket, feeds, under, None, pue, asked, 0)["reconciles"] is False:
                short_us[group.nodes[0].node_id, bucket] = under.whole_us or 0
    found = []
    for n, (group, parts) in enumerate(zip(wanted, inner, strict=True)):
        for bucket in sorted(set().union(*(buckets[meter.meter_id] for meter in group.meters))):
            feeds = [by_meter.get((meter.meter_id, bucket)) for meter in group.meters]
            inner_mj = _energy(parts, by_meter, bucket)
            wrong_us = sum(short_us.get((node.node_id, bucket), 0) for node in group.nodes) if short_us else 0
            found.append(_row(group, bucket, feeds, used.get((n, bucket)), inner_mj, pue, asked, wrong_us))
    return sorted(found, key=lambda row: row["time"])


def _energy(
    inner: Sequence[Group], by_meter: dict[tuple[int, dt.datetime], Counted], bucket: dt.datetime
) -> int | None:
    """What the meters below counted in a bucket; None where there are none, or one of them counted nothing."""
    found = [by_meter.get((meter.meter_id, bucket)) for group in inner for meter in group.meters]
    if not found or any(each is None for each in found):
        return None
    return sum(each.energy_mj for each in found if each)


def _row(
    group: Group,
    bucket: dt.datetime,
    feeds: Sequence[Counted | None],
    used: Below | None,
    inner_mj: int | None,
    pue: History,
    asked: Window,
    wrong_us: int,
) -> dict[str, Any]:
    energy_mj = sum(feed.energy_mj for feed in feeds if feed)
    estimated_mj = sum(feed.estimated_mj for feed in feeds if feed)
    begin = max(bucket, asked.start, min(meter.first_seen for meter in group.meters).replace(second=0, microsecond=0))
    end = min(bucket + asked.step, asked.end) if asked.step else asked.end
    covered_us = min(feed.covered_us if feed else 0 for feed in feeds)
    coverage = min(1.0, covered_us / max(1, (end - begin) // dt.timedelta(microseconds=1)))
    there = _Below.of(group, used, wrong_us)
    steps_mj = sum(feed.step_mj or 0 for feed in feeds if feed)
    compared = min(1.0, covered_us / there.metered_us) if there.metered_us else 0.0
    reconciles, reason = _judged(group, energy_mj, coverage, compared, steps_mj, there)
    difference_mj = None if there.energy_mj is None else energy_mj - there.energy_mj
    trusted = coverage >= LEAST_COVERED and (there.coverage or 0.0) >= LEAST_COVERED
    is_facility = group.level == "facility"
    set_pue = pue.at(group.site, begin) if is_facility else None
    return {
        "time": bucket,
        "meter": group.name,
        "meters": [meter.name for meter in group.meters],
        "level": "node" if group.level == "chassis" else group.level,
        "chassis": group.level == "chassis",
        "site": group.site,
        "covers": list(group.covers),
        "nodes": len(group.nodes),
        "energy_mj": energy_mj,
        "below": {"accelerator_mj": there.accelerator_mj, "host_mj": there.host_mj, "meters_mj": inner_mj},
        "difference_mj": difference_mj,
        "ratio": there.energy_mj / energy_mj if there.energy_mj is not None and energy_mj else None,
        "coverage": coverage,
        "below_coverage": there.coverage,
        "whole_ratio": there.whole,
        "reconciles": reconciles,
        "reason": reason,
        "measured_pue": energy_mj / there.energy_mj if is_facility and trusted and there.energy_mj else None,
        "set_pue": None if set_pue is None else float(set_pue),
        "quality": "estimated" if estimated_mj else "measured",
        "estimated_mj": estimated_mj,
        "simulated": any(node.simulated for node in group.nodes),
    }


@dataclasses.dataclass(frozen=True, slots=True)
class _Below:
    """What was used below a group; None where nothing was read.

    `coverage`: of its accelerators, or of its hosts where it has none. `whole`: share of the node time in which all of
    the node was measured, by a chassis that is not below its parts.
    """

    metered_us: int
    accelerator_mj: int | None
    host_mj: int | None
    coverage: float | None
    whole: float

    @property
    def energy_mj(self) -> int | None:
        known = [each for each in (self.accelerator_mj, self.host_mj) if each is not None]
        return sum(known) if known else None

    @classmethod
    def of(cls, group: Group, used: Below | None, wrong_us: int) -> _Below:
        if used is None or not group.nodes:
            return cls(used.metered_us if used else 0, None, None, None, 0.0)
        # The rest of a node is made of its chassis: a chassis is compared with what is measured beside it.
        is_chassis = group.level == "chassis"
        hosts = [used.domains_mj, None if is_chassis else used.rest_mj]
        known = [each for each in hosts if each is not None]
        boards = sum(node.boards for node in group.nodes)
        time_us = max(1, used.metered_us * (boards or len(group.nodes)))
        return cls(
            metered_us=used.metered_us,
            accelerator_mj=used.accelerator_mj,
            host_mj=sum(known) if known else None,
            coverage=min(1.0, ((used.board_us if boards else used.host_us) or 0) / time_us),
            whole=min(1.0, max(0, (used.whole_us or 0) - wrong_us) / max(1, used.metered_us * len(group.nodes))),
        )


def _judged(
    group: Group, energy_mj: int, coverage: float, compared: float, steps_mj: int, there: _Below
) -> tuple[bool | None, str | None]:
    """Whether a meter and what stands below it agree, and why not, or why that can't be told.

    Time that only one side covered widens what is allowed by as much: `compared` is the share of the compared time that
    the meter covered.
    """
    if not group.nodes:
        what = ", ".join(group.covers) or "any node of this site"
        return None, f"no node below it is known: none has {what}"
    if not energy_mj:
        return None, "it counted nothing"
    if coverage < LEAST_COVERED:
        return None, f"the meter was covered for {coverage:.0%} of the time"
    if there.coverage is None or there.energy_mj is None:
        return None, "nothing below it was read"
    if there.coverage < LEAST_COVERED:
        return None, f"what stands below it was covered for {there.coverage:.0%} of the time"
    if steps_mj > COARSEST * energy_mj:
        return None, f"it counts in steps of {steps_mj / _KWH_MJ:g} kWh, too coarse for so short a time"
    slack_mj = steps_mj + (1 - compared) * energy_mj
    over_mj = there.energy_mj - energy_mj
    if over_mj > OVER * energy_mj + slack_mj:
        more = f"what stands below it used {over_mj / energy_mj:.0%} more than it counted"
        return False, f"{more}: a node or accelerator is not below it, or its unit is wrong"
    if group.level == "chassis":
        return True, None  # what is not measured beside it is booked as the rest of the node
    missing_mj = -over_mj - slack_mj - (1 - there.coverage) * energy_mj
    if missing_mj > _loss(group.level, there.whole) * energy_mj:
        return False, f"{-over_mj / energy_mj:.0%} of what it counted is not below it: {_where(group, there)}"
    return True, None


def _loss(level: str, whole: float) -> float:
    """The share of a meter's energy that may be missing below it."""
    if level == "facility":
        return 1 - 1 / HIGHEST_PUE
    return LOSS_WHOLE if whole >= LEAST_COVERED else LOSS_PARTLY


def _where(group: Group, there: _Below) -> str:
    if group.level == "facility":
        return "nodes without an agent, or other loads than these nodes"
    if there.whole >= LEAST_COVERED:
        return "a node without an agent, or something else than nodes"
    return "a node without an agent, or the parts of these nodes that no chassis reading measures"
