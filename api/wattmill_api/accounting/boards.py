"""Boards: exact energy of each interval, what it was for, and their minutes. Here the ledger is made."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics import attribution, buckets, increments, shares
from wattmill_api.accounting.engines import EngineIntervals, held_by
from wattmill_api.accounting.gauges import known, mean, ppm, whole_mean
from wattmill_api.accounting.status import COUNTED, COVERED
from wattmill_api.accounting.windows import MINUTE_US, Window, gap_us, minute_of_sample, nodes_of
from wattmill_api.store.rollup import Fleet, Int64, MinuteTable, Samples

ANY_BOARD_MW = 4_500_000  # above any module sold; where the board's own limit is unknown
EMPTY_BELOW_BYTES = 2 * 1024**3  # a driver keeps up to about 1 GiB on an empty board
LEDGER_TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens")


@dataclasses.dataclass(frozen=True, slots=True)
class BoardIntervals:
    """One entry per board sample: the interval it ends, its exact energy and how far that is trusted.

    `board` int64 [n]: position of the sample's board in `samples.ids`; `node_ids` int64: the node of each board.
    """

    samples: Samples
    increments: increments.Increments
    board: Int64
    node_ids: Int64

    def reaches_back_to_us(self, window: Window) -> int:
        """Where the earliest interval begins that changes what minutes before the window hold.

        A counter that comes back, or moves again, is booked over all it missed, in place of the estimates made
        meanwhile; and one that is found frozen was booked as 0 until then. Those minutes have to be written again.
        """
        time_us = self.samples["time_us"]
        before = np.concatenate([time_us[:1], time_us[:-1]])
        skips = (
            np.isin(self.increments.status, COUNTED)
            & (self.increments.start_us < before)
            & (time_us > window.first_us)
            & (time_us <= window.last_us)
        )
        skips[self.samples.offsets[:-1][np.diff(self.samples.offsets) > 0]] = False
        frozen = (self.increments.status == increments.ESTIMATED) & (self.samples["energy_mj"] >= 0)
        frozen &= np.isin(self.board, self.board[frozen & (time_us > window.first_us) & (time_us <= window.last_us)])
        return int(
            self.increments.start_us[skips | (frozen & (time_us <= window.last_us))].min(initial=window.first_us)
        )


def board_intervals(boards: Samples, fleet: Fleet) -> BoardIntervals:
    """Exact energy of every interval between two trusted readings of a board."""
    node_of = nodes_of(fleet, "accelerator")
    node_ids = np.array([node_of[id_] for id_ in boards.ids.tolist()], np.int64)
    limits = dict(zip(fleet.accelerator_ids.tolist(), fleet.accelerator_limit_mw.tolist(), strict=True))
    highest = np.array([limits[id_] * 3 or ANY_BOARD_MW for id_ in boards.ids.tolist()], np.int64)
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
        gap_us=np.array([gap_us(fleet.nodes[n].interval_us) for n in node_ids.tolist()], np.int64),
        highest_mw=highest,
    )
    board = np.repeat(np.arange(len(boards.ids)), np.diff(boards.offsets))
    return BoardIntervals(boards, result, board, node_ids)


def ledger(intervals: BoardIntervals, engines: EngineIntervals, fleet: Fleet, window: Window) -> list[MinuteTable]:
    """The ledger's rows of a window, and the meter's: what each board drew in each minute, before it was given away."""
    boards, result, board, node_ids = intervals.samples, intervals.increments, intervals.board, intervals.node_ids
    counted = np.flatnonzero(
        np.isin(result.status, COUNTED)
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
    # Where the counter stood when a part began: the parts of an interval come in order, and sum to its energy.
    moved = np.cumsum(parts.amount) - parts.amount
    moved -= moved[np.searchsorted(parts.source, parts.source)]
    stood = boards["energy_mj"][source] - result.delta[source] + moved[inside]
    part_start = np.maximum(result.start_us[source], minute)
    part_end = np.minimum(boards["time_us"][source], minute + MINUTE_US)
    estimated = np.where(result.status[source] == increments.ESTIMATED, energy, 0)
    is_covered = np.isin(result.status[source], COVERED)
    held = _holdings(engines, intervals, fleet)
    pieces = attribution.attribute(
        offsets=np.searchsorted(board[source], np.arange(len(boards.ids) + 1)).astype(np.int64),
        start_us=part_start,
        end_us=part_end,
        energy_mj=energy,
        counter_mj=np.where(result.status[source] == increments.ESTIMATED, -1, stood),
        occupancy=_occupancy(boards)[source],
        held_offsets=held.offsets,
        held_start_us=held.start_us,
        held_end_us=held.end_us,
        held_active=held.active,
        held_weight=held.weight,
        held_share=held.share,
        held_activity=held.activity_ppm,
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
    meter = accelerator_minutes(
        boards,
        result,
        board,
        node_ids,
        (source, minute, energy, estimated, np.where(is_covered, part_end - part_start, 0)),
        window,
    )
    return [ledger, meter]


def _occupancy(boards: Samples) -> NDArray[np.uint8]:
    """Whether something lives on the board, from processes and memory: a process list may be blind, memory is not.

    One entry per sample, of the interval that it ends. What left the board in between drew its part of that energy
    until nobody knows when: such an interval is not an empty board's.
    """
    processes, memory = boards["process_count"], boards["memory_used_bytes"]
    occupied = (processes > 0) | (memory >= EMPTY_BELOW_BYTES)
    left = np.zeros(boards.count, bool)
    left[1:] = occupied[:-1]
    left[boards.offsets[:-1][np.diff(boards.offsets) > 0]] = False
    empty = ~occupied & ~left & (memory >= 0)
    return np.where(
        occupied, attribution.OCCUPIED, np.where(empty, attribution.EMPTY, attribution.UNKNOWN_OCCUPANCY)
    ).astype(np.uint8)


@dataclasses.dataclass(frozen=True, slots=True)
class Holdings:
    """Engine intervals projected on boards: CSR over boards, sorted by end. `share` is in parts of `shares.WHOLE`."""

    offsets: Int64
    start_us: Int64
    end_us: Int64
    active: NDArray[np.uint8]
    weight: Int64
    share: Int64
    activity_ppm: Int64
    placement_id: Int64


def _holdings(engines: EngineIntervals, intervals: BoardIntervals, fleet: Fleet) -> Holdings:
    samples, board_ids = engines.samples, intervals.samples.ids
    ends = np.flatnonzero(engines.held_from_us >= 0)
    index = {id_: i for i, id_ in enumerate(board_ids.tolist())}
    placements = samples["placement_id"][ends]
    on_boards: dict[int, list[tuple[int, int]]] = {}  # (position of the board, part of it in ppm) by placement
    for placement_id in np.unique(placements).tolist():
        held = held_by(fleet, placement_id)
        parts = held.shares_ppm or (-1,) * len(held.accelerator_ids)
        on_boards[placement_id] = [
            (index[id_], part) for id_, part in zip(held.accelerator_ids, parts, strict=True) if id_ in index
        ]
    counts = np.array([len(on_boards[p]) for p in placements.tolist()], np.int64)
    rows = np.repeat(ends, counts)
    pairs = np.array([pair for p in placements.tolist() for pair in on_boards[p]], np.int64).reshape(-1, 2)
    board, share_ppm = pairs[:, 0], pairs[:, 1]
    order = np.lexsort((samples["placement_id"][rows], samples["time_us"][rows], board))
    rows, board = rows[order], board[order]
    input_tokens, cached, computed, output = (
        engines.own(name, fleet)[rows]
        for name in ("input_tokens", "cached_input_tokens", "computed_input_tokens", "output_tokens")
    )
    uncached = np.where(computed >= 0, computed, np.maximum(input_tokens, 0) - np.maximum(cached, 0))
    active = engines.active[rows].copy()
    silent = np.flatnonzero(engines.silent[rows])
    active[silent] = _was_busy(intervals, board[silent], samples["time_us"][rows[silent]])
    return Holdings(
        offsets=np.searchsorted(board, np.arange(len(board_ids) + 1)).astype(np.int64),
        start_us=engines.held_from_us[rows],
        end_us=samples["time_us"][rows],
        active=active.astype(np.uint8),
        weight=np.maximum(uncached, 0) + np.maximum(output, 0),
        share=shares.from_ppm(share_ppm[order]),
        activity_ppm=samples["activity_ppm"][rows],
        placement_id=samples["placement_id"][rows],
    )


def _was_busy(intervals: BoardIntervals, board: Int64, time_us: Int64) -> NDArray[np.bool_]:
    """Whether boards were in use when they were read at these times; False where they were not, or it was not said."""
    if not len(board):
        return np.zeros(0, bool)
    rows = np.flatnonzero(intervals.samples.ratios["utilisation_ratio"] > 0)
    busy = set(zip(intervals.board[rows].tolist(), intervals.samples["time_us"][rows].tolist(), strict=True))
    return np.array([pair in busy for pair in zip(board.tolist(), time_us.tolist(), strict=True)], bool)


def _token_rows(engines: EngineIntervals, fleet: Fleet, window: Window) -> tuple[Int64, Int64]:
    """Tokens by (minute, node, board, placement, account), divided over the boards of the placement in whole tokens."""
    samples = engines.samples
    node_of = nodes_of(fleet, "engine")
    node_ids = np.repeat(np.array([node_of[id_] for id_ in samples.ids.tolist()], np.int64), np.diff(samples.offsets))
    keys, values = [np.zeros((0, 5), np.int64)], [np.zeros((0, 4 + 2 * len(LEDGER_TOKENS)), np.int64)]
    for column, name in enumerate(LEDGER_TOKENS):
        moved = engines.own(name, fleet)
        rows = np.flatnonzero(
            (engines.start_us >= 0)
            & (moved >= 0)
            & (samples["time_us"] > window.first_us)
            & (engines.start_us < window.last_us)
        )
        parts = buckets.spread(start_us=engines.start_us[rows], end_us=samples["time_us"][rows], amount=moved[rows])
        inside = (parts.bucket_us >= window.first_us) & (parts.bucket_us < window.last_us)
        source, amount = rows[parts.source[inside]], parts.amount[inside]
        boards = [held_by(fleet, p).accelerator_ids or (0,) for p in samples["placement_id"][source].tolist()]
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


def accelerator_minutes(
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
        *known(boards["power_mw"][rows]),
        *known(boards["process_count"][rows]),
        *known(boards["memory_used_bytes"][rows]),
        *known(boards["sm_clock_mhz"][rows]),
        *known(ppm(boards.ratios["utilisation_ratio"][rows])),
        *known(boards["temperature_celsius"][rows], low=-900),
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
                np.stack([minute_of_sample(boards["time_us"][rows]), board[rows]], axis=1),
            ]
        ),
        np.concatenate([part_values, gauge_values]),
    )
    codes = keys[:, 0] // MINUTE_US * len(boards.ids) + keys[:, 1]
    order = np.argsort(codes)
    row_codes = minute_of_sample(boards["time_us"][rows]) // MINUTE_US * len(boards.ids) + board[rows]
    reasons = np.zeros(len(keys), np.int64)
    np.bitwise_or.at(
        reasons, order[np.searchsorted(codes, row_codes, sorter=order)], boards["clock_event_reasons"][rows]
    )
    return MinuteTable(
        "accelerator_minute",
        (
            "int8",
            "int4",
            "int4",
            "int8",
            "int8",
            "int8",
            "int4",
            "int4",
            "int4",
            "int8",
            "int8",
            "int4",
            "float4",
            "float4",
        ),
        [
            *(keys[:, 0], boards.ids[keys[:, 1]], node_ids[keys[:, 1]]),
            *(sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3]),
            *(
                whole_mean(sums[:, 4], sums[:, 5]),
                whole_mean(sums[:, 6], sums[:, 7]),
                whole_mean(sums[:, 8], sums[:, 9]),
            ),
            *(reasons, whole_mean(sums[:, 10], sums[:, 11])),
            *(mean(sums[:, 12], sums[:, 13], 1e6), mean(sums[:, 14], sums[:, 15])),
        ],
    )
