"""The host: energy around the boards per minute, by domain, so that boards and host together are the node.

Domains of the host's own counters (packages, memory) are booked as they are. A `chassis` reading measures all of the
node, boards and packages included; it is never booked itself. In each minute in which it and every board of the node
were covered, what it counted less the boards less the other domains is booked as `rest-of-node` (fans, drives,
network, losses of the supplies), so that boards + host = chassis. Where the parts count more than the chassis, the
rest is 0. In any other minute there is no rest, and the host is what its own counters say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from wattmill_api.accounting.metered import SLOWEST_US, Minutes, minutes
from wattmill_api.accounting.windows import MINUTE_US, Window, gap_us, ids_of, read
from wattmill_api.store import meters as store
from wattmill_api.store import rollup
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Fleet, MinuteTable, Samples

CHASSIS, REST = "chassis", "rest-of-node"
DOMAIN_MW = 1_200_000  # 1.2 kW: above any package, and slow enough to tell one wrap from two
CHASSIS_MW = 20_000_000_000  # 20 MW: what a counter in whole kilowatt-hours shows when it rises within a second
# A chassis counter that moves in larger steps than this share of a minute's energy can't tell minutes apart.
COARSEST = 0.05
WEEK_US = 7 * 24 * 3_600_000_000  # a board that was not seen for so long is taken for removed, as /coverage does
Sums = dict[tuple[int, int], int]  # by minute and node


def host_minutes(
    connection: Connection, fleet: Fleet, window: Window, boards: Sequence[MinuteTable]
) -> tuple[list[MinuteTable], Minutes]:
    """One table of host_minute per domain, and the chassis' own minutes by node. `boards`: what was booked for them."""
    ids = ids_of(fleet, "host").tolist()
    domains = rollup.host_domains(connection, ids, window.read_from_us, window.read_to_us)
    found = {
        domain: _domain(read(connection, "host", fleet, window, domain), fleet, window)
        for domain in domains
        if domain != CHASSIS
    }
    tables = [_table(name, each) for name, each in found.items()]
    if CHASSIS not in domains:
        return tables, _chassis(None, fleet, window)
    chassis = _chassis(read(connection, "host", fleet, window, CHASSIS), fleet, window)
    rest = _rest(chassis, found.values(), boards, store.boards_of(connection, sorted(fleet.nodes)))
    return [*tables, _table(REST, rest)], chassis


def _domain(samples: Samples, fleet: Fleet, window: Window) -> Minutes:
    gaps = np.array([gap_us(fleet.nodes[id_].interval_us) for id_ in samples.ids.tolist()], np.int64)
    # A host counter may wrap between boot and the agent's first look: then nobody knows what it counted.
    start_us = np.where(samples["energy_range_uj"] > 0, -1, samples["epoch_start_us"])
    samples = Samples(samples.ids, samples.offsets, {**samples.integers, "epoch_start_us": start_us}, samples.ratios)
    return minutes(
        samples,
        "energy_uj",
        window,
        per_mj=1000,
        gap_us=gaps,
        highest_mw=np.full(len(gaps), DOMAIN_MW, np.int64),
        wrap_at=samples["energy_range_uj"][samples.offsets[:-1]],
    )


def _chassis(samples: Samples | None, fleet: Fleet, window: Window) -> Minutes:
    """By its counter in minutes that the counter can tell apart, else by its power."""
    if samples is None:
        return Minutes(*(np.zeros(0, np.int64) for _ in range(6)))
    gaps = np.array([max(gap_us(fleet.nodes[id_].interval_us), SLOWEST_US) for id_ in samples.ids.tolist()], np.int64)
    counterless = np.full(samples.count, -1, np.int64)
    by_power = Samples(samples.ids, samples.offsets, {**samples.integers, "energy_uj": counterless}, samples.ratios)
    highest = np.full(len(gaps), CHASSIS_MW, np.int64)
    counted, integrated = (
        minutes(each, "energy_uj", window, per_mj=1000, gap_us=gaps, highest_mw=highest) for each in (samples, by_power)
    )
    fine = {
        key
        for key, energy_mj, step_mj, covered_us in zip(
            _keys(counted),
            counted.energy_mj.tolist(),
            counted.step_mj.tolist(),
            counted.covered_us.tolist(),
            strict=True,
        )
        if covered_us >= MINUTE_US and energy_mj and step_mj <= COARSEST * energy_mj
    }
    has_power = {
        key
        for key, covered_us in zip(_keys(integrated), integrated.covered_us.tolist(), strict=True)
        if covered_us >= MINUTE_US
    }
    kept = [i for i, key in enumerate(_keys(counted)) if key in fine or key not in has_power]
    used = [i for i, key in enumerate(_keys(integrated)) if key in has_power and key not in fine]
    both = [counted.take(np.array(kept, np.int64)), integrated.take(np.array(used, np.int64))]
    joined = Minutes(*(np.concatenate([getattr(each, name) for each in both]) for name in Minutes.__slots__))
    return joined.take(np.lexsort((joined.meter, joined.minute_us)))


def _rest(
    chassis: Minutes, domains: Iterable[Minutes], tables: Sequence[MinuteTable], boards: Sequence[store.Board]
) -> Minutes:
    """What of the chassis is neither a board's nor another domain's, in minutes in which that is known."""
    energy_mj, estimated_mj, covered = _of_boards(tables)
    for each in domains:
        for key, energy, estimated in zip(
            _keys(each), each.energy_mj.tolist(), each.estimated_mj.tolist(), strict=True
        ):
            energy_mj[key] = energy_mj.get(key, 0) + energy
            estimated_mj[key] = estimated_mj.get(key, 0) + estimated
    on_node: dict[int, list[store.Board]] = {}
    for board in boards:
        on_node.setdefault(board.node_id, []).append(board)
    rows, rests, estimates = [], [], []
    for row, (minute_us, node_id) in enumerate(_keys(chassis)):
        all_mj, step_mj = int(chassis.energy_mj[row]), int(chassis.step_mj[row])
        expected = [
            board.accelerator_id
            for board in on_node.get(node_id, [])
            if board.first_us < minute_us + MINUTE_US and board.last_us >= minute_us - WEEK_US
        ]
        if (
            chassis.covered_us[row] < MINUTE_US
            or not all_mj
            or step_mj > COARSEST * all_mj
            or any(covered.get((minute_us, board), 0) < MINUTE_US for board in expected)
        ):
            continue
        key = (minute_us, node_id)
        rest_mj = max(0, all_mj - energy_mj.get(key, 0))
        rows.append(row)
        rests.append(rest_mj)
        estimates.append(min(rest_mj, int(chassis.estimated_mj[row]) + estimated_mj.get(key, 0)))
    kept = chassis.take(np.array(rows, np.int64))
    return Minutes(
        kept.minute_us,
        kept.meter,
        np.array(rests, np.int64),
        np.array(estimates, np.int64),
        kept.covered_us,
        kept.step_mj,
    )


def _of_boards(tables: Sequence[MinuteTable]) -> tuple[Sums, Sums, Sums]:
    """Energy and its estimated part by minute and node, and the covered time by minute and board."""
    energy_mj: Sums = {}
    estimated_mj: Sums = {}
    covered_us: Sums = {}
    for table in tables:
        if table.table != "accelerator_minute":
            continue
        columns = [np.asarray(column, np.int64).tolist() for column in table.columns[:6]]
        for minute_us, board, node_id, energy, estimated, covered in zip(*columns, strict=True):
            key = (minute_us, node_id)
            energy_mj[key] = energy_mj.get(key, 0) + energy
            estimated_mj[key] = estimated_mj.get(key, 0) + estimated
            covered_us[minute_us, board] = covered
    return energy_mj, estimated_mj, covered_us


def _keys(found: Minutes) -> list[tuple[int, int]]:
    return list(zip(found.minute_us.tolist(), found.meter.tolist(), strict=True))


def _table(domain: str, found: Minutes) -> MinuteTable:
    return MinuteTable(
        "host_minute",
        ("int8", "int4", "text", "int8", "int8", "int8"),
        [
            *(found.minute_us, found.meter, [domain] * len(found.minute_us)),
            *(found.energy_mj, found.estimated_mj, found.covered_us),
        ],
    )
