"""Minutes out of the store as detectors take them: engines beside their boards, versions and curves.

What belongs together is read together: workloads that share a board, and all engines of a workload, are one group.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Sequence

import numpy as np

from wattmill_analytics.curves import judge
from wattmill_analytics.findings import ranks
from wattmill_analytics.findings.low_batch import BUSY_BATCH
from wattmill_analytics.findings.minutes import MINUTE_US, BoardMinutes, EngineMinutes, Float64, Int64
from wattmill_analytics.findings.workloads import highest_learnt
from wattmill_analytics.steady_load import steady_load
from wattmill_api.store import curves
from wattmill_api.store import detection as store
from wattmill_api.store.curves import Reference
from wattmill_api.store.database import Connection
from wattmill_api.store.detection import Board, Engine, Inventory, Pool
from wattmill_api.store.rollup import Samples


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Engines and boards that are looked at together."""

    engines: tuple[Engine, ...]
    boards: tuple[Board, ...]

    @property
    def size(self) -> int:
        return len(self.engines) + len(self.boards)


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A group's minutes. `engines`, `boards` and `pools` say who the indices in the minutes are."""

    engines: tuple[Engine, ...]
    boards: tuple[Board, ...]
    pools: tuple[Pool, ...]
    versions: tuple[str, ...]
    engine_minutes: EngineMinutes
    board_minutes: BoardMinutes


def groups(inventory: Inventory, most: int) -> list[Group]:
    """Everything there is in groups of about `most` engines and boards; a workload is never split, however large."""
    board_of = {board.accelerator_id: board for board in inventory.boards}
    parent: dict[tuple[str, int], tuple[str, int]] = {}

    def root(of: tuple[str, int]) -> tuple[str, int]:
        parent.setdefault(of, of)
        while parent[of] != of:
            parent[of] = of = parent[parent[of]]
        return of

    for engine in inventory.engines:
        for board_id in engine.board_ids:
            parent[root(("board", board_id))] = root(("workload", engine.workload_id))
    engines: dict[tuple[str, int], list[Engine]] = {}
    boards: dict[tuple[str, int], list[Board]] = {}
    for engine in inventory.engines:
        engines.setdefault(root(("workload", engine.workload_id)), []).append(engine)
    for board_id, board in board_of.items():
        boards.setdefault(root(("board", board_id)), []).append(board)
    found = [Group((), ())]
    for key in dict.fromkeys([*engines, *boards]):
        one = Group(tuple(engines.get(key, ())), tuple(boards.get(key, ())))
        if found[-1].size and found[-1].size + one.size > most:
            found.append(Group((), ()))
        found[-1] = Group(found[-1].engines + one.engines, found[-1].boards + one.boards)
    return found


def read(connection: Connection, group: Group, reference: Reference, first: dt.datetime, last: dt.datetime) -> Judged:
    """The group's minutes in [first, last), judged by `reference`."""
    boards = store.board_minutes(connection, [board.accelerator_id for board in group.boards], first, last)
    engines = store.engine_minutes(connection, group.engines, first, last)
    board_of = {board.accelerator_id: board for board in group.boards}
    engine_of = {engine.engine_id: engine for engine in group.engines}
    seen = tuple(engine_of[id_] for id_ in engines.ids.tolist())
    pools = tuple(dict.fromkeys(engine.pool for engine in seen))
    versions, version = _versions(connection, seen, engines)
    known = store.before(connection, sorted({engine.workload_id for engine in seen}), first)
    before = [known.get(engine.workload_id, store.UNKNOWN).of(engine.role) for engine in seen]
    return Judged(
        engines=seen,
        boards=tuple(board_of[id_] for id_ in boards.ids.tolist()),
        pools=pools,
        versions=versions,
        engine_minutes=dataclasses.replace(
            _engine_minutes(seen, pools, version, engines, boards, board_of, reference),
            peak_requests_running=_carried(connection, seen, reference, first),
            peak_tokens_per_s=np.array([each.peak_tokens_per_s for each in before], np.float64),
            usual_hit_ratio=np.array([each.usual_hit_ratio for each in before], np.float64),
        ),
        board_minutes=_board_minutes(boards, [board_of[id_] for id_ in boards.ids.tolist()]),
    )


def _carried(connection: Connection, seen: Sequence[Engine], reference: Reference, first: dt.datetime) -> Float64:
    """Batch that engines carried in the days before [s], where it matters: alone in a workload, small by the curve.

    Only they are judged by it, and minutes of days are much to read.
    """
    engines = Counter(engine.pool for engine in seen)
    highest = np.append(highest_learnt(reference.curves), np.nan)
    rows = [reference.row_of_engine.get(engine.engine_id, -1) for engine in seen]
    asked = [
        engine.engine_id
        for engine, row in zip(seen, rows, strict=True)
        if engines[engine.pool] == 1 and not highest[row] >= BUSY_BATCH
    ]
    known = store.carried(connection, asked, first)
    return np.array([known.get(engine.engine_id, np.nan) for engine in seen], np.float64)


def _board_minutes(boards: Samples, seen: Sequence[Board]) -> BoardMinutes:
    nodes = {node: i for i, node in enumerate(dict.fromkeys((board.site, board.node) for board in seen))}
    return BoardMinutes(
        offsets=boards.offsets,
        minute_us=boards["time_us"],
        serving_mj=boards["serving_mj"],
        idle_loaded_mj=boards["idle_loaded_mj"],
        idle_empty_mj=boards["idle_empty_mj"],
        estimated_mj=boards["estimated_mj"],
        anomalies=boards["anomalies"],
        untrusted_us=boards["untrusted_us"],
        power_ratio=boards.ratios["power_ratio"],
        utilisation_ratio=boards.ratios["utilisation_ratio"],
        unattributed_mj=boards["unattributed_mj"],
        power_mw=boards.ratios["power_mw"],
        node=np.array([nodes[board.site, board.node] for board in seen], np.int64),
    )


def _versions(connection: Connection, seen: Sequence[Engine], engines: Samples) -> tuple[tuple[str, ...], Int64]:
    """Versions by code, and the code of each minute: -1 before the first version that is known."""
    history = curves.versions(connection, [engine.engine_id for engine in seen])
    codes: dict[str, int] = {}
    column = np.full(engines.count, -1, np.int64)
    for i, engine in enumerate(seen):
        changes = history.get(engine.engine_id, [])
        if changes:
            rows = slice(int(engines.offsets[i]), int(engines.offsets[i + 1]))
            since = np.array([since_us for since_us, _ in changes], np.int64)
            code = np.array([-1, *(codes.setdefault(version, len(codes)) for _, version in changes)], np.int64)
            # A minute in which the version changed counts as the new one's.
            column[rows] = code[np.searchsorted(since, engines["time_us"][rows] + MINUTE_US - 1, side="right")]
    return tuple(codes), column


def _engine_minutes(
    seen: Sequence[Engine],
    pools: Sequence[Pool],
    version: Int64,
    engines: Samples,
    boards: Samples,
    board_of: dict[int, Board],
    reference: Reference,
) -> EngineMinutes:
    place = {id_: i for i, id_ in enumerate(boards.ids.tolist())}
    held = [[place[b] for b in engine.board_ids if b in place] for engine in seen]
    limit_mw = np.array([sum(board_of[b].power_limit_mw for b in e.board_ids if b in board_of) for e in seen], float)
    spent_mj = engines["serving_mj"] + engines["idle_loaded_mj"]
    limits = np.repeat(np.where(limit_mw > 0, limit_mw, np.nan), np.diff(engines.offsets))
    compared = ranks.compare(
        offsets=engines.offsets,
        minute_us=engines["time_us"],
        held=np.array([b for of in held for b in of], np.int64),
        held_offsets=np.cumsum([0, *map(len, held)], dtype=np.int64),
        board_ids=boards.ids,
        board_offsets=boards.offsets,
        board_minute_us=boards["time_us"],
        board_clock_mhz=boards["sm_clock_mhz"],
        board_reasons=boards["clock_event_reasons"],
        board_utilisation=boards.ratios["utilisation_ratio"],
    )
    curve = np.array([reference.row_of_engine.get(engine.engine_id, -1) for engine in seen], np.int64)
    running = engines.ratios["requests_running"]
    looks = np.array([MINUTE_US / engine.interval_us for engine in seen], np.float64)
    load = steady_load(
        offsets=engines.offsets,
        minute_us=engines["time_us"],
        output_tokens=engines["output_tokens"],
        requests_running=running,
        looks_a_minute=looks,
    )
    expected_mj, expected_output_tokens = judge(
        curves=reference.curves,
        curve=curve,
        offsets=engines.offsets,
        uncached_input_tokens=engines["input_tokens"] - np.maximum(engines["cached_input_tokens"], 0),
        output_tokens=engines["output_tokens"],
        requests_running=load,
    )
    index = {pool: i for i, pool in enumerate(pools)}
    return EngineMinutes(
        offsets=engines.offsets,
        workload=np.array([index[engine.pool] for engine in seen], np.int64),
        boards=np.array([len(engine.board_ids) for engine in seen], np.int64),
        curve=curve,
        curves=reference.curves,
        minute_us=engines["time_us"],
        serving_mj=engines["serving_mj"],
        idle_loaded_mj=engines["idle_loaded_mj"],
        estimated_mj=engines["estimated_mj"],
        input_tokens=engines["input_tokens"],
        cached_input_tokens=engines["cached_input_tokens"],
        output_tokens=engines["output_tokens"],
        requests_finished=engines["requests_finished"],
        preemptions=engines["preemptions"],
        anomalies=engines["anomalies"],
        untrusted_us=engines["untrusted_us"],
        version=version,
        clock_event_reasons=compared.clock_event_reasons,
        slow_board=compared.slow_board,
        power_ratio=spent_mj / 60.0 / limits,
        utilisation_ratio=compared.utilisation_ratio,
        requests_running=running,
        requests_waiting=engines.ratios["requests_waiting"],
        kv_cache_usage_ratio=engines.ratios["kv_cache_usage_ratio"],
        slow_board_ratio=compared.slow_board_ratio,
        looks_a_minute=looks,
        expected_mj=expected_mj,
        expected_output_tokens=expected_output_tokens,
    )
