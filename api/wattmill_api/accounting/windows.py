"""How far a run reaches: which minutes of which nodes the new samples touched, and the samples that judge them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from wattmill_api.store import rollup
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Device, Fleet, Int64, Samples

MINUTE_US = 60_000_000
HOUR_US = 3_600_000_000
CONTEXT_US = 150_000_000  # at least this much around a window: a frozen counter is given up after 120 s
FARTHEST_US = 15 * 24 * HOUR_US  # a spool keeps 14 days: nothing that continues a counter is further away


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Some nodes and the whole minutes first_us <= minute < last_us to recompute for them.

    Samples are read from `read_from_us` to `read_to_us`: what lies around the window, and as far as the intervals reach
    that cross its edges.
    """

    node_ids: tuple[int, ...]
    first_us: int
    last_us: int
    read_from_us: int = 0
    read_to_us: int = 0


def windows_of(spans: Sequence[tuple[int, int, int]], most_nodes: int = 64) -> list[Window]:
    """Group touched spans (node_id, first_us, last_us) into windows of at most an hour, oldest first."""
    by_hour: dict[int, dict[int, tuple[int, int]]] = {}
    for node_id, first_us, last_us in spans:
        first = (first_us - 1) // MINUTE_US * MINUTE_US  # the minute an interval that ends at first_us belongs to
        last = -(-last_us // MINUTE_US) * MINUTE_US
        for hour in range(first // HOUR_US, -(-last // HOUR_US)):
            low, high = max(first, hour * HOUR_US), min(last, (hour + 1) * HOUR_US)
            old = by_hour.setdefault(hour, {}).get(node_id, (low, high))
            by_hour[hour][node_id] = (min(low, old[0]), max(high, old[1]))
    windows = []
    for hour in sorted(by_hour):
        nodes = sorted(by_hour[hour])
        for i in range(0, len(nodes), most_nodes):
            group = tuple(nodes[i : i + most_nodes])
            limits = [by_hour[hour][node_id] for node_id in group]
            windows.append(Window(group, min(low for low, _ in limits), max(high for _, high in limits)))
    return windows


def ids_of(fleet: Fleet, device: Device) -> Int64:
    if device == "accelerator":
        return fleet.accelerator_ids
    if device == "chassis":
        return fleet.chassis_node_ids
    return fleet.engine_ids if device == "engine" else np.array(sorted(fleet.nodes), np.int64)


def nodes_of(fleet: Fleet, device: Device) -> dict[int, int]:
    if device in ("host", "chassis"):
        return {node_id: node_id for node_id in fleet.nodes}
    ids, nodes = (
        (fleet.accelerator_ids, fleet.accelerator_node_ids)
        if device == "accelerator"
        else (fleet.engine_ids, fleet.engine_node_ids)
    )
    return dict(zip(ids.tolist(), nodes.tolist(), strict=True))


def context_us(fleet: Fleet) -> int:
    """How far around a window samples are read: three readings before decide whether the first one is trusted."""
    return max([CONTEXT_US, *(4 * node.interval_us for node in fleet.nodes.values())])


def read(connection: Connection, device: Device, fleet: Fleet, window: Window, domain: str = "") -> Samples:
    """All samples that the minutes of a window depend on."""
    ids = ids_of(fleet, device).tolist()
    return rollup.read_samples(connection, device, ids, window.read_from_us, window.read_to_us, domain)


@dataclasses.dataclass(frozen=True, slots=True)
class Edge:
    """One device at the edges of a window: the last sample up to it, and the first behind it, where they matter.

    `inside`: it has samples in the window. `before_us` may be the start of the engine's process, when the device's
    first sample ever counts from there. The sample behind counts though the last one inside lies on the edge: it was
    booked from an earlier one, if that one came late.
    """

    node_id: int
    inside: bool
    before_us: int | None
    after_us: int | None


def widened(connection: Connection, window: Window) -> list[Window]:
    """The window, wide enough for every interval that the samples in it begin or end.

    Nodes that come back from a long gap get a window of their own, so that one of them does not make all others read
    days of samples.
    """
    fleet = rollup.read_fleet(connection, window.node_ids)
    edges = _edges(connection, fleet, window)
    reach = dict.fromkeys(window.node_ids, (window.first_us, window.last_us))
    for edge in edges:
        if edge.inside:
            first, last = reach[edge.node_id]
            before_us = first if edge.before_us is None else edge.before_us
            after_us = last if edge.after_us is None else edge.after_us
            reach[edge.node_id] = (min(first, before_us), max(last, after_us))
    near: list[tuple[int, int, int]] = []
    far: list[tuple[int, int, int]] = []
    for node_id, (first_us, last_us) in reach.items():
        first, last = first_us // MINUTE_US * MINUTE_US, -(-last_us // MINUTE_US) * MINUTE_US
        is_near = window.first_us - first <= 10 * MINUTE_US and last - window.last_us <= 10 * MINUTE_US
        (near if is_near else far).append((node_id, first, last))
    parts = [Window((node_id,), first, last) for node_id, first, last in far]
    if near:
        nodes = tuple(node_id for node_id, _, _ in near)
        parts.append(Window(nodes, min(first for _, first, _ in near), max(last for _, _, last in near)))
    if parts == [window]:
        return [_with_reach(window, edges, fleet)]
    found = []
    for part in parts:
        fleet = rollup.read_fleet(connection, part.node_ids)
        found.append(_with_reach(part, _edges(connection, fleet, part), fleet))
    return found


def extended(connection: Connection, fleet: Fleet, window: Window, first_us: int) -> Window:
    """The window from an earlier minute on."""
    wider = dataclasses.replace(window, first_us=first_us)
    return _with_reach(wider, _edges(connection, fleet, wider), fleet)


def _with_reach(window: Window, edges: list[Edge], fleet: Fleet) -> Window:
    context = context_us(fleet)
    befores = [e.before_us for e in edges if e.before_us is not None]
    afters = [e.after_us for e in edges if e.after_us is not None]
    return dataclasses.replace(
        window,
        read_from_us=min([window.first_us, *befores]) - context,
        read_to_us=max([window.last_us, *afters]) + context,
    )


def _edges(connection: Connection, fleet: Fleet, window: Window) -> list[Edge]:
    devices: tuple[Device, ...] = ("accelerator", "engine", "host", "chassis")
    return [edge for device in devices for edge in _edges_of(connection, device, fleet, window)]


def _edges_of(connection: Connection, device: Device, fleet: Fleet, window: Window) -> list[Edge]:
    context, node_of = context_us(fleet), nodes_of(fleet, device)
    ids = ids_of(fleet, device).tolist()
    samples = rollup.read_times(connection, device, ids, window.first_us - context, window.last_us + context)
    position = {id_: i for i, id_ in enumerate(samples.ids.tolist())}
    inside: dict[int, int] = {}  # device -> process start of its first sample inside, or -1
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for id_, i in position.items():
        low, high = int(samples.offsets[i]), int(samples.offsets[i + 1])
        times = samples["time_us"][low:high]
        begin = int(np.searchsorted(times, window.first_us, side="right"))  # first sample inside the window
        end = int(np.searchsorted(times, window.last_us, side="right"))  # first sample behind it
        if begin > 0:
            before[id_] = int(times[begin - 1])
        if end < len(times):
            after[id_] = int(times[end])
        if begin < end:
            inside[id_] = int(samples["epoch_start_us"][low + begin])
    alone = [i for i in ids if i not in after]
    # A node that has sent nothing newer has no sample behind the window: nothing to look for, which is the normal case.
    alone = [i for i in alone if fleet.nodes[node_of[i]].last_seen_us > window.last_us]
    after |= rollup.neighbours(connection, device, "after", alone, window.last_us, window.last_us + FARTHEST_US)
    alone = [i for i in ids if i not in before and (i in inside or i in after)]
    before |= rollup.neighbours(connection, device, "before", alone, window.first_us, window.first_us - FARTHEST_US)
    if device == "engine":
        # Its first sample ever may count from its process start, which may lie before the window.
        for id_ in alone:
            start_us = inside.get(id_, -1)
            if id_ not in before and fleet.nodes[node_of[id_]].first_seen_us < start_us:
                before[id_] = min(start_us, window.last_us)
    return [
        Edge(node_of[id_], id_ in inside, before.get(id_), after.get(id_))
        for id_ in ids
        if id_ in inside or (id_ in before and id_ in after)
    ]


def gap_us(interval_us: int) -> int:
    return max(3 * interval_us, 30_000_000)


def minute_of_sample(time_us: Int64) -> Int64:
    return (time_us - 1) // MINUTE_US * MINUTE_US
