"""Closes minutes: samples -> increments -> minute parts -> accounts -> ledger rows.

Every run recomputes whole minutes from raw samples and replaces their rows, so it may run twice, late, or in any
order and end with the same ledger. What a run rewrites is what the new samples touched: from the sample before the
first of them to the sample after the last. Nothing here reads a clock.

The steps, each a kernel of `wattmill_analytics`:
  1. `energy_increments`: exact differences of each board's counter inside an epoch, with a status per interval;
  2. `spread`: intervals cut at minute borders (normally none is: every minute border is a tick);
  3. `attribute`: each part's energy goes to an account, split between the engines that held the board;
  4. `increments` of each engine's token counters, spread and divided over the boards of its placement;
  5. sums by (minute, board, placement, account).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from wattmill_analytics import attribution, buckets, increments
from wattmill_api.store import rollup
from wattmill_api.store.rollup import Device, Fleet, Int64, MinuteTable, Samples

MINUTE_US = 60_000_000
HOUR_US = 3_600_000_000
CONTEXT_US = 120_000_000  # readings around a window by which its first and last are judged
FARTHEST_US = 15 * 24 * HOUR_US  # a spool keeps 14 days: nothing that continues a counter is further away
ANY_BOARD_MW = 4_500_000  # above any module sold; where the board's own limit is unknown
TOKENS_PER_S = 10_000_000  # above any engine; a larger jump is a sentinel, not tokens
HOST_UW = 20_000_000_000  # 20 kW in microwatts: above any package
EMPTY_BELOW_BYTES = 2 * 1024**3  # a driver keeps up to about 1 GiB on an empty board

TOKEN_COUNTERS = ("input_tokens", "cached_input_tokens", "computed_input_tokens", "output_tokens")
ENGINE_COUNTERS = (*TOKEN_COUNTERS, "requests_finished", "preemptions")
LEDGER_TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens")
_COUNTED = (increments.OK, increments.RESTART, increments.WRAP, increments.GAP, increments.GAP_RESTART, increments.ESTIMATED)
_COVERED = (increments.OK, increments.RESTART, increments.WRAP, increments.ESTIMATED)


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Some nodes and the whole minutes first_us <= minute < last_us to recompute for them."""

    node_ids: tuple[int, ...]
    first_us: int
    last_us: int


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


def roll_up(connection: psycopg.Connection[Any], *, most_spans: int = 20_000, most_windows: int = 8) -> int:
    """Close what ingest touched, in one transaction; returns how many windows were closed (0: nothing waits).

    What was taken and not closed is put back in the same transaction, so a crash loses no mark. A window that can't be
    closed does not hold up the others: it is put back too, and its error is raised once the rest is committed.
    """
    errors: list[Exception] = []
    with connection.transaction():
        windows = windows_of(rollup.take_dirty(connection, most_spans))
        rest = windows[most_windows:]
        for window in windows[:most_windows]:
            try:
                with connection.transaction():
                    close_window(connection, window)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                errors.append(error)
                rest.append(window)
        spans = [(node_id, w.first_us + 1, w.last_us) for w in rest for node_id in w.node_ids]
        if spans:
            rollup.put_back_dirty(connection, spans)
    if errors:
        raise errors[0]
    return min(len(windows), most_windows)


def close_window(connection: psycopg.Connection[Any], window: Window) -> None:
    """Recompute the minutes of a window, and of what its first and last samples reach into."""
    for part in _widened(connection, window):
        fleet = rollup.read_fleet(connection, part.node_ids)
        engines = _engine_intervals(_read(connection, "engine", fleet, part), fleet)
        boards = _read(connection, "accelerator", fleet, part)
        tables = [*_ledger(boards, engines, fleet, part), _engine_minutes(engines, fleet, part)]
        tables += _host_minutes(connection, fleet, part)
        rollup.replace_minutes(connection, part.node_ids, part.first_us, part.last_us, tables)
        first, last = part.first_us // HOUR_US * HOUR_US, -(-part.last_us // HOUR_US) * HOUR_US
        rollup.sum_hours(connection, part.node_ids, first, last)


# --- how far a window reaches -----------------------------------------------------------------------------------------


def _ids(fleet: Fleet, device: Device) -> Int64:
    if device == "accelerator":
        return fleet.accelerator_ids
    return fleet.engine_ids if device == "engine" else np.array(sorted(fleet.nodes), np.int64)


def _nodes_of(fleet: Fleet, device: Device) -> dict[int, int]:
    if device == "host":
        return {node_id: node_id for node_id in fleet.nodes}
    ids, nodes = (
        (fleet.accelerator_ids, fleet.accelerator_node_ids)
        if device == "accelerator"
        else (fleet.engine_ids, fleet.engine_node_ids)
    )
    return dict(zip(ids.tolist(), nodes.tolist(), strict=True))


def _read(connection: psycopg.Connection[Any], device: Device, fleet: Fleet, window: Window, domain: str = "") -> Samples:
    first, last = window.first_us - CONTEXT_US, window.last_us + CONTEXT_US
    return rollup.read_samples(connection, device, _ids(fleet, device).tolist(), first, last, domain)


def _widened(connection: psycopg.Connection[Any], window: Window) -> list[Window]:
    """The window, wide enough for every interval that the samples in it begin or end.

    Nodes that come back from a long gap get a window of their own, so that one of them does not make all others read
    days of samples.
    """
    fleet = rollup.read_fleet(connection, window.node_ids)
    reach = {node_id: [window.first_us, window.last_us] for node_id in window.node_ids}
    devices: tuple[Device, ...] = ("accelerator", "engine", "host")
    for device in devices:
        node_of = _nodes_of(fleet, device)
        for id_, first_us, last_us in _intervals_at_edges(connection, device, fleet, window):
            limits = reach[node_of[id_]]
            limits[0], limits[1] = min(limits[0], first_us), max(limits[1], last_us)
    near, far = [], []
    for node_id, (first_us, last_us) in reach.items():
        first, last = first_us // MINUTE_US * MINUTE_US, -(-last_us // MINUTE_US) * MINUTE_US
        is_near = window.first_us - first <= 10 * MINUTE_US and last - window.last_us <= 10 * MINUTE_US
        (near if is_near else far).append((node_id, first, last))
    parts = [Window((node_id,), first, last) for node_id, first, last in far]
    if near:
        nodes = tuple(node_id for node_id, _, _ in near)
        parts.append(Window(nodes, min(first for _, first, _ in near), max(last for _, _, last in near)))
    return parts


def _intervals_at_edges(
    connection: psycopg.Connection[Any], device: Device, fleet: Fleet, window: Window
) -> list[tuple[int, int, int]]:
    """Per device with samples in the window: (id, time of the sample it begins from, time of the sample it ends at)."""
    ids = _ids(fleet, device).tolist()
    domains = [""]
    if device == "host":
        domains = rollup.host_domains(connection, ids, window.first_us - CONTEXT_US, window.last_us + CONTEXT_US)
    found: list[tuple[int, int, int]] = []
    lonely_before: set[int] = set()
    lonely_after: set[int] = set()
    began: dict[int, int] = {}
    node_of = _nodes_of(fleet, device)
    for domain in domains:
        samples = _read(connection, device, fleet, window, domain)
        for i, id_ in enumerate(samples.ids.tolist()):
            times = samples["time_us"][samples.offsets[i] : samples.offsets[i + 1]]
            begin = int(np.searchsorted(times, window.first_us, side="right"))  # first sample inside the window
            end = int(np.searchsorted(times, window.last_us, side="right"))  # first sample behind it
            if begin == end:
                continue
            if begin > 0:
                found.append((id_, int(times[begin - 1]), window.last_us))
            else:
                lonely_before.add(id_)
                start_us = int(samples["epoch_start_us"][samples.offsets[i]])
                if device == "engine" and fleet.nodes[node_of[id_]].first_seen_us < start_us < times[0]:
                    began[id_] = start_us
            if times[end - 1] < window.last_us:
                if end < len(times):
                    found.append((id_, window.first_us, int(times[end])))
                else:
                    lonely_after.add(id_)
    before = rollup.neighbours(
        connection, device, "before", sorted(lonely_before), window.first_us, window.first_us - FARTHEST_US
    )
    found += [(id_, time_us, window.last_us) for id_, time_us in before.items()]
    # An engine's first sample ever may count from its process start, which may lie before the window.
    found += [(id_, began[id_], window.last_us) for id_ in lonely_before - before.keys() if id_ in began]
    lonely_after = {id_ for id_ in lonely_after if fleet.nodes[node_of[id_]].last_seen_us > window.last_us}
    after = rollup.neighbours(
        connection, device, "after", sorted(lonely_after), window.last_us, window.last_us + FARTHEST_US
    )
    return found + [(id_, window.first_us, time_us) for id_, time_us in after.items()]


def _gap_us(interval_us: int) -> int:
    return max(3 * interval_us, 30_000_000)


# --- engines: intervals, activity, tokens -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class EngineIntervals:
    """One entry per engine sample: the interval it ends, what moved in it, and whether the engine worked.

    `start_us` is -1 where the sample ends no interval. `moved[c]` int64: exact increment of counter c, -1 unknown.
    """

    samples: Samples
    start_us: Int64
    moved: dict[str, Int64]
    anomalies: Int64
    active: NDArray[np.bool_]
    covered: NDArray[np.bool_]


def _engine_intervals(samples: Samples, fleet: Fleet) -> EngineIntervals:
    n, counters = samples.count, ENGINE_COUNTERS
    node_of = _nodes_of(fleet, "engine")
    nodes = [fleet.nodes[node_of[id_]] for id_ in samples.ids.tolist()]
    first_seen = dict(zip(fleet.engine_ids.tolist(), fleet.engine_first_seen_us.tolist(), strict=True))
    series = len(samples.ids)
    time_us = samples["time_us"]
    # A sample that is not the engine's first ever is only a baseline: what came before it was counted before.
    watched = np.array(
        [
            node.first_seen_us if time_us[samples.offsets[i]] <= first_seen[id_] else -1
            for i, (id_, node) in enumerate(zip(samples.ids.tolist(), nodes, strict=True))
        ],
        np.int64,
    )
    gap = np.array([_gap_us(node.interval_us) for node in nodes], np.int64)
    stacked = len(counters)
    offsets = np.concatenate(
        [samples.offsets[:-1] + c * n for c in range(stacked)] + [np.array([stacked * n], np.int64)]
    )
    times = np.tile(time_us, stacked)
    values = np.concatenate([samples[name] for name in counters])
    limit = np.full(series * stacked, TOKENS_PER_S, np.int64)
    epoch, epoch_start = increments.infer_restarts(
        time_us=times,
        value=values,
        epoch=np.tile(samples["epoch"], stacked),
        epoch_start_us=np.tile(samples["epoch_start_us"], stacked),
        offsets=offsets,
        group=np.tile(np.arange(series), stacked),
        highest_per_s=limit,
    )
    result = increments.increments(
        time_us=times,
        value=values,
        epoch=epoch,
        epoch_start_us=epoch_start,
        offsets=offsets,
        watched_from_us=np.tile(watched, stacked),
        gap_us=np.tile(gap, stacked),
        wrap_at=np.zeros(series * stacked, np.int64),
        highest_per_s=limit,
    )
    status = result.status.reshape(stacked, n)
    counted = np.isin(status, _COUNTED)
    delta = np.where(counted, result.delta.reshape(stacked, n), np.where(values.reshape(stacked, n) < 0, -1, 0))
    moved = {name: delta[c] for c, name in enumerate(counters)}
    # A counter that began from zero moved while its process lived, not while nothing ran.
    began = np.where(np.isin(status, (increments.RESTART, increments.GAP_RESTART)), epoch_start.reshape(stacked, n), -1)
    starts = np.where(counted, np.maximum(result.start_us.reshape(stacked, n), began), -1)
    start_us = starts.max(axis=0) if n else np.zeros(0, np.int64)
    start_us = np.where(start_us < time_us, start_us, -1)
    running = samples["requests_running"]
    ran_before = np.zeros(n, bool)
    ran_before[1:] = (running[:-1] > 0) & (samples["epoch"][1:] == samples["epoch"][:-1])
    ran_before[samples.offsets[:-1]] = False
    active = (running > 0) | ran_before
    for name in TOKEN_COUNTERS:
        active |= moved[name] > 0
    return EngineIntervals(
        samples=samples,
        start_us=start_us,
        moved=moved,
        anomalies=(status == increments.ANOMALY).any(axis=0).astype(np.int64) if n else np.zeros(0, np.int64),
        active=active,
        covered=np.isin(status, _COVERED).any(axis=0) if n else np.zeros(0, bool),
    )


# --- the ledger -------------------------------------------------------------------------------------------------------


def _minute_of_sample(time_us: Int64) -> Int64:
    return (time_us - 1) // MINUTE_US * MINUTE_US


def _ledger(boards: Samples, engines: EngineIntervals, fleet: Fleet, window: Window) -> list[MinuteTable]:
    node_of = _nodes_of(fleet, "accelerator")
    node_ids = np.array([node_of[id_] for id_ in boards.ids.tolist()], np.int64)
    limits = dict(zip(fleet.accelerator_ids.tolist(), fleet.accelerator_limit_mw.tolist(), strict=True))
    highest = np.array([limits[id_] * 3 // 2 or ANY_BOARD_MW for id_ in boards.ids.tolist()], np.int64)
    epoch, epoch_start = increments.infer_restarts(
        time_us=boards["time_us"],
        value=boards["energy_mj"],
        epoch=boards["epoch"],
        epoch_start_us=boards["epoch_start_us"],
        offsets=boards.offsets,
        group=np.unique(node_ids, return_inverse=True)[1].astype(np.int64),
        highest_per_s=highest,
    )
    result = increments.energy_increments(
        time_us=boards["time_us"],
        energy_mj=boards["energy_mj"],
        power_mw=boards["power_mw"],
        epoch=epoch,
        epoch_start_us=epoch_start,
        offsets=boards.offsets,
        watched_from_us=np.full(len(boards.ids), -1, np.int64),  # a board's first reading is its baseline
        gap_us=np.array([_gap_us(fleet.nodes[n].interval_us) for n in node_ids.tolist()], np.int64),
        highest_mw=highest,
    )
    board = np.repeat(np.arange(len(boards.ids)), np.diff(boards.offsets))
    counted = np.flatnonzero(
        np.isin(result.status, _COUNTED)
        & (boards["time_us"] > window.first_us)
        & (result.start_us < window.last_us)
        & (result.start_us < boards["time_us"])
    )
    parts = buckets.spread(
        start_us=result.start_us[counted], end_us=boards["time_us"][counted], amount=result.delta[counted]
    )
    inside = (parts.bucket_us >= window.first_us) & (parts.bucket_us < window.last_us)
    source = counted[parts.source[inside]]  # the sample that ends the interval of each part
    minute, energy = parts.bucket_us[inside], parts.amount[inside]
    part_start = np.maximum(result.start_us[source], minute)
    part_end = np.minimum(boards["time_us"][source], minute + MINUTE_US)
    estimated = np.where(result.status[source] == increments.ESTIMATED, energy, 0)
    is_covered = np.isin(result.status[source], _COVERED)
    held = _holdings(engines, boards.ids, fleet)
    pieces = attribution.attribute(
        offsets=np.searchsorted(board[source], np.arange(len(boards.ids) + 1)).astype(np.int64),
        start_us=part_start,
        end_us=part_end,
        energy_mj=energy,
        occupancy=_occupancy(boards)[source],
        held_offsets=held.offsets,
        held_start_us=held.start_us,
        held_end_us=held.end_us,
        held_active=held.active,
        held_weight=held.weight,
    )
    part = pieces.interval
    placement = np.where(pieces.holder >= 0, held.placement_id[pieces.holder], 0) if held.placement_id.size else 0
    zeros = np.zeros(len(part), np.int64)
    energy_keys = (
        minute[part],
        node_ids[board[source[part]]],
        boards.ids[board[source[part]]],
        zeros + placement,
        pieces.account.astype(np.int64),
    )
    energy_values = np.stack(
        [
            pieces.energy_mj,
            np.where(estimated[part] > 0, pieces.energy_mj, 0),
            *(zeros for _ in range(2 * len(LEDGER_TOKENS))),
            np.where(is_covered[part], pieces.time_us, 0),
            pieces.time_us,
        ],
        axis=1,
    )
    token_keys, token_values = _token_rows(engines, fleet, window)
    keys, sums = buckets.sum_by_key(
        np.concatenate([np.stack(energy_keys, axis=1), token_keys]), np.concatenate([energy_values, token_values])
    )
    known = [np.where(sums[:, 3 + 2 * i] > 0, sums[:, 2 + 2 * i], -1) for i in range(len(LEDGER_TOKENS))]
    ledger = MinuteTable(
        "ledger_minute",
        ("int8", "int4", "int4", "int4", "int2", "int8", "int8", "int8", "int8", "int8", "int8", "int8", "int4"),
        [*(keys[:, i] for i in range(5)), sums[:, 0], sums[:, 1], *known, sums[:, -2], sums[:, -1]],
    )
    meter = _accelerator_minutes(
        boards, result, board, node_ids, (source, minute, energy, estimated, np.where(is_covered, part_end - part_start, 0)), window
    )
    return [ledger, meter]


def _occupancy(boards: Samples) -> NDArray[np.uint8]:
    """Whether something lives on the board, from processes and memory: a process list may be blind, memory is not."""
    processes, memory = boards["process_count"], boards["memory_used_bytes"]
    occupied = (processes > 0) | (memory >= EMPTY_BELOW_BYTES)
    empty = ~occupied & (memory >= 0)
    return np.where(occupied, attribution.OCCUPIED, np.where(empty, attribution.EMPTY, attribution.UNKNOWN_OCCUPANCY)).astype(
        np.uint8
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Holdings:
    """Engine intervals projected on boards: CSR over boards, sorted by end."""

    offsets: Int64
    start_us: Int64
    end_us: Int64
    active: NDArray[np.uint8]
    weight: Int64
    placement_id: Int64


def _holdings(engines: EngineIntervals, board_ids: Int64, fleet: Fleet) -> Holdings:
    samples = engines.samples
    ends = np.flatnonzero(engines.start_us >= 0)
    index = {id_: i for i, id_ in enumerate(board_ids.tolist())}
    placements = samples["placement_id"][ends]
    on_boards = {
        placement_id: [index[id_] for id_ in fleet.placement_accelerators.get(placement_id, ()) if id_ in index]
        for placement_id in np.unique(placements).tolist()
    }
    counts = np.array([len(on_boards[p]) for p in placements.tolist()], np.int64)
    rows = np.repeat(ends, counts)
    board = np.array([b for p in placements.tolist() for b in on_boards[p]], np.int64)
    order = np.lexsort((samples["placement_id"][rows], samples["time_us"][rows], board)) if len(rows) else np.zeros(0, np.int64)
    rows, board = rows[order], board[order]
    moved = engines.moved
    uncached = np.where(
        moved["computed_input_tokens"] >= 0,
        moved["computed_input_tokens"],
        np.maximum(moved["input_tokens"], 0) - np.maximum(moved["cached_input_tokens"], 0),
    )
    weight = np.maximum(uncached, 0) + np.maximum(moved["output_tokens"], 0)
    return Holdings(
        offsets=np.searchsorted(board, np.arange(len(board_ids) + 1)).astype(np.int64),
        start_us=engines.start_us[rows],
        end_us=samples["time_us"][rows],
        active=engines.active[rows].astype(np.uint8),
        weight=weight[rows],
        placement_id=samples["placement_id"][rows],
    )


def _token_rows(engines: EngineIntervals, fleet: Fleet, window: Window) -> tuple[Int64, Int64]:
    """Tokens by (minute, node, board, placement, account), divided over the boards of the placement in whole tokens."""
    samples = engines.samples
    node_of = _nodes_of(fleet, "engine")
    node_ids = np.repeat(
        np.array([node_of[id_] for id_ in samples.ids.tolist()], np.int64), np.diff(samples.offsets)
    )
    keys, values = [np.zeros((0, 5), np.int64)], [np.zeros((0, 4 + 2 * len(LEDGER_TOKENS)), np.int64)]
    for column, name in enumerate(LEDGER_TOKENS):
        rows = np.flatnonzero(
            (engines.start_us >= 0)
            & (engines.moved[name] >= 0)
            & (samples["time_us"] > window.first_us)
            & (engines.start_us < window.last_us)
        )
        parts = buckets.spread(
            start_us=engines.start_us[rows], end_us=samples["time_us"][rows], amount=engines.moved[name][rows]
        )
        inside = (parts.bucket_us >= window.first_us) & (parts.bucket_us < window.last_us)
        source, amount = rows[parts.source[inside]], parts.amount[inside]
        boards = [fleet.placement_accelerators.get(p, ()) or (0,) for p in samples["placement_id"][source].tolist()]
        counts = np.array([len(b) for b in boards], np.int64)
        _, shares = attribution.divide(amount, counts)
        each = np.repeat(np.arange(len(source)), counts)
        account = np.where(engines.active[source], attribution.SERVING, attribution.IDLE_LOADED)
        keys.append(
            np.stack(
                [
                    parts.bucket_us[inside][each],
                    node_ids[source][each],
                    np.array([id_ for b in boards for id_ in b], np.int64),
                    samples["placement_id"][source][each],
                    account.astype(np.int64)[each],
                ],
                axis=1,
            )
        )
        table = np.zeros((len(each), 4 + 2 * len(LEDGER_TOKENS)), np.int64)
        table[:, 2 + 2 * column], table[:, 3 + 2 * column] = shares, 1
        values.append(table)
    return np.concatenate(keys), np.concatenate(values)


# --- minutes of single devices ----------------------------------------------------------------------------------------


def _known(value: Int64, low: int = 0) -> tuple[Int64, Int64]:
    """The known values and their count as two columns, ready for `sum_by_key`."""
    known = value >= low
    return np.where(known, value, 0), known.astype(np.int64)


def _ppm(ratio: NDArray[np.float64]) -> Int64:
    return np.where(np.isnan(ratio), -1, np.nan_to_num(ratio) * 1_000_000).astype(np.int64)


def _mean(sums: Int64, counts: Int64, unit: float = 1.0) -> NDArray[np.float64]:
    return np.where(counts > 0, sums / np.maximum(counts, 1) / unit, np.nan)


def _whole_mean(sums: Int64, counts: Int64) -> Int64:
    return np.where(counts > 0, sums // np.maximum(counts, 1), -1)


def _accelerator_minutes(
    boards: Samples,
    result: increments.Increments,
    board: NDArray[np.int64],
    node_ids: Int64,
    parts: tuple[Int64, Int64, Int64, Int64, Int64],
    window: Window,
) -> MinuteTable:
    source, minute, energy, estimated, covered = parts
    rows = np.flatnonzero((boards["time_us"] > window.first_us) & (boards["time_us"] <= window.last_us))
    gauges = [
        *_known(boards["power_mw"][rows]),
        *_known(boards["process_count"][rows]),
        *_known(boards["memory_used_bytes"][rows]),
        *_known(boards["sm_clock_mhz"][rows]),
        *_known(_ppm(boards.ratios["utilisation_ratio"][rows])),
        *_known(boards["temperature_celsius"][rows], low=-900),
    ]
    zeros = np.zeros(len(rows), np.int64)
    anomalies = (result.status[rows] == increments.ANOMALY).astype(np.int64)
    gauge_values = np.stack([zeros, zeros, zeros, anomalies, *gauges], axis=1)
    part_zeros = np.zeros(len(source), np.int64)
    part_values = np.stack([energy, estimated, covered, *(part_zeros for _ in range(1 + len(gauges)))], axis=1)
    keys, sums = buckets.sum_by_key(
        np.concatenate(
            [
                np.stack([minute, board[source]], axis=1),
                np.stack([_minute_of_sample(boards["time_us"][rows]), board[rows]], axis=1),
            ]
        ),
        np.concatenate([part_values, gauge_values]),
    )
    codes = keys[:, 0] // MINUTE_US * len(boards.ids) + keys[:, 1]
    order = np.argsort(codes)
    row_codes = _minute_of_sample(boards["time_us"][rows]) // MINUTE_US * len(boards.ids) + board[rows]
    reasons = np.zeros(len(keys), np.int64)
    np.bitwise_or.at(
        reasons, order[np.searchsorted(codes, row_codes, sorter=order)], boards["clock_event_reasons"][rows]
    )
    return MinuteTable(
        "accelerator_minute",
        ("int8", "int4", "int4", "int8", "int8", "int8", "int4", "int4", "int4", "int8", "int8", "int4", "float4", "float4"),
        [
            *(keys[:, 0], boards.ids[keys[:, 1]], node_ids[keys[:, 1]]),
            *(sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3]),
            *(_whole_mean(sums[:, 4], sums[:, 5]), _whole_mean(sums[:, 6], sums[:, 7]), _whole_mean(sums[:, 8], sums[:, 9])),
            *(reasons, _whole_mean(sums[:, 10], sums[:, 11])),
            *(_mean(sums[:, 12], sums[:, 13], 1e6), _mean(sums[:, 14], sums[:, 15])),
        ],
    )


def _engine_minutes(engines: EngineIntervals, fleet: Fleet, window: Window) -> MinuteTable:
    samples = engines.samples
    engine = np.repeat(np.arange(len(samples.ids)), np.diff(samples.offsets))
    node_of = _nodes_of(fleet, "engine")
    width = 2 * len(ENGINE_COUNTERS) + 2 + 6
    keys, values = [np.zeros((0, 3), np.int64)], [np.zeros((0, width), np.int64)]
    for column, name in enumerate((*ENGINE_COUNTERS, "")):
        moved = engines.moved[name] if name else np.zeros(samples.count, np.int64)
        rows = np.flatnonzero(
            (engines.start_us >= 0) & (moved >= 0) & (samples["time_us"] > window.first_us) & (engines.start_us < window.last_us)
        )
        parts = buckets.spread(start_us=engines.start_us[rows], end_us=samples["time_us"][rows], amount=moved[rows])
        inside = (parts.bucket_us >= window.first_us) & (parts.bucket_us < window.last_us)
        source = rows[parts.source[inside]]
        table = np.zeros((len(source), width), np.int64)
        if name:
            table[:, 2 * column], table[:, 2 * column + 1] = parts.amount[inside], 1
        else:
            table[:, 2 * column] = np.where(engines.covered[source], parts.duration_us[inside], 0)
        keys.append(np.stack([parts.bucket_us[inside], engine[source], samples["placement_id"][source]], axis=1))
        values.append(table)
    rows = np.flatnonzero((samples["time_us"] > window.first_us) & (samples["time_us"] <= window.last_us))
    table = np.zeros((len(rows), width), np.int64)
    table[:, 2 * len(ENGINE_COUNTERS) + 1] = engines.anomalies[rows]
    gauges = (samples["requests_running"], samples["requests_waiting"], _ppm(samples.ratios["kv_cache_usage_ratio"]))
    for i, gauge in enumerate(gauges):
        at = 2 * len(ENGINE_COUNTERS) + 2 + 2 * i
        table[:, at], table[:, at + 1] = np.where(gauge[rows] >= 0, gauge[rows], 0), gauge[rows] >= 0
    minute = _minute_of_sample(samples["time_us"][rows])
    keys.append(np.stack([minute, engine[rows], samples["placement_id"][rows]], axis=1))
    values.append(table)
    key, sums = buckets.sum_by_key(np.concatenate(keys), np.concatenate(values))
    at = 2 * len(ENGINE_COUNTERS)
    return MinuteTable(
        "engine_minute",
        ("int8", "int4", "int4", "int4", *("int8",) * len(ENGINE_COUNTERS), "int8", "int4", "float4", "float4", "float4"),
        [
            *(key[:, 0], samples.ids[key[:, 1]]),
            np.array([node_of[id_] for id_ in samples.ids[key[:, 1]].tolist()], np.int64),
            key[:, 2],
            *(np.where(sums[:, 2 * c + 1] > 0, sums[:, 2 * c], -1) for c in range(len(ENGINE_COUNTERS))),
            *(sums[:, at], sums[:, at + 1]),
            *(_mean(sums[:, at + 2], sums[:, at + 3]), _mean(sums[:, at + 4], sums[:, at + 5])),
            _mean(sums[:, at + 6], sums[:, at + 7], 1e6),
        ],
    )


def _host_minutes(connection: psycopg.Connection[Any], fleet: Fleet, window: Window) -> list[MinuteTable]:
    """One table per energy domain of the hosts, counted in the counter's microjoules and stored in whole millijoules."""
    ids = _ids(fleet, "host").tolist()
    domains = rollup.host_domains(connection, ids, window.first_us - CONTEXT_US, window.last_us + CONTEXT_US)
    return [_host_minute(_read(connection, "host", fleet, window, domain), domain, fleet, window) for domain in domains]


def _host_minute(samples: Samples, domain: str, fleet: Fleet, window: Window) -> MinuteTable:
    gap = np.array([_gap_us(fleet.nodes[id_].interval_us) for id_ in samples.ids.tolist()], np.int64)
    unwatched = np.full(len(samples.ids), -1, np.int64)
    common = {
        "time_us": samples["time_us"],
        "epoch": samples["epoch"],
        # A host counter may have wrapped between its boot and the agent's first look: then nobody knows what it counted.
        "epoch_start_us": np.where(samples["energy_range_uj"] > 0, -1, samples["epoch_start_us"]),
        "offsets": samples.offsets,
        "watched_from_us": unwatched,
        "gap_us": gap,
    }
    counter = increments.increments(
        value=samples["energy_uj"],
        wrap_at=samples["energy_range_uj"][samples.offsets[:-1]],
        highest_per_s=np.full(len(samples.ids), HOST_UW, np.int64),
        **common,
    )
    meterless = np.full(samples.count, -1, np.int64)
    by_power = increments.energy_increments(
        energy_mj=np.where(samples["energy_uj"] >= 0, 0, meterless),
        power_mw=np.where(samples["energy_uj"] >= 0, -1, samples["power_mw"]),
        highest_mw=np.full(len(samples.ids), HOST_UW // 1000, np.int64),
        **common,
    )
    has_counter = samples["energy_uj"] >= 0
    status = np.where(has_counter, counter.status, by_power.status)
    start = np.where(has_counter, counter.start_us, by_power.start_us)
    # Whole millijoules by the difference of two floors: they telescope inside an epoch, so nothing is lost to rounding.
    value = np.where(has_counter, samples["energy_uj"], 0)
    energy = np.where(has_counter, value // 1000 - (value - counter.delta) // 1000, by_power.delta)
    rows = np.flatnonzero(
        np.isin(status, _COUNTED)
        & (samples["time_us"] > window.first_us)
        & (start < window.last_us)
        & (start < samples["time_us"])
    )
    parts = buckets.spread(start_us=start[rows], end_us=samples["time_us"][rows], amount=energy[rows])
    inside = (parts.bucket_us >= window.first_us) & (parts.bucket_us < window.last_us)
    source = rows[parts.source[inside]]
    node = np.repeat(samples.ids, np.diff(samples.offsets))
    keys, sums = buckets.sum_by_key(
        np.stack([parts.bucket_us[inside], node[source]], axis=1),
        np.stack(
            [
                parts.amount[inside],
                np.where(status[source] == increments.ESTIMATED, parts.amount[inside], 0),
                np.where(np.isin(status[source], _COVERED), parts.duration_us[inside], 0),
            ],
            axis=1,
        ),
    )
    return MinuteTable(
        "host_minute",
        ("int8", "int4", "text", "int8", "int8", "int8"),
        [keys[:, 0], keys[:, 1], [domain] * len(keys), sums[:, 0], sums[:, 1], sums[:, 2]],
    )
