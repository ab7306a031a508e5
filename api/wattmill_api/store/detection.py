"""What detection reads: who there is, and closed minutes of engines and boards as columns."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Sequence

from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection
from wattmill_api.store.rollup import Samples, read_columns

_SQL = statements("detection")
_ENGINE = (
    *("id", "time_us", "serving_mj", "idle_loaded_mj", "estimated_mj", "input_tokens", "cached_input_tokens"),
    *("output_tokens", "requests_finished", "preemptions", "anomalies", "untrusted_us"),
    *("requests_running", "requests_waiting", "kv_cache_usage_ratio"),
)
_BOARD = (
    *("id", "time_us", "serving_mj", "idle_loaded_mj", "idle_empty_mj", "estimated_mj", "anomalies", "untrusted_us"),
    *("clock_event_reasons", "sm_clock_mhz", "unattributed_mj", "power_mw", "power_ratio", "utilisation_ratio"),
)
_RATIOS = frozenset(
    {"requests_running", "requests_waiting", "kv_cache_usage_ratio", "power_mw", "power_ratio", "utilisation_ratio"}
)

PEAKS_OF, HIT_RATIOS_OF, CARRIED_OF = dt.timedelta(days=7), dt.timedelta(days=14), dt.timedelta(days=2)


Pool = tuple[int, str]  # workload, role


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """An engine under the workload, in the role and on the boards of its latest placement."""

    engine_id: int
    name: str
    site: str
    node: str
    simulated: bool
    workload_id: int
    workload: str
    model: str
    team: str
    board_ids: Sequence[int]
    placement_ids: Sequence[int]
    interval_us: int
    role: str = ""

    @property
    def pool(self) -> Pool:
        """The engines that are compared with each other: a workload's that do the same part of the work."""
        return self.workload_id, self.role


@dataclasses.dataclass(frozen=True, slots=True)
class Board:
    accelerator_id: int
    uuid: str
    site: str
    node: str
    simulated: bool
    power_limit_mw: int


@dataclasses.dataclass(frozen=True, slots=True)
class Before:
    """What a workload did in the days before: its busiest hour, and its usual hit ratio; NaN unknown."""

    peak_tokens_per_s: float
    usual_hit_ratio: float

    def of(self, role: str) -> Before:
        """What of it is known of the engines in one role: prefill has the input of a workload, decode the output."""
        return Before(
            math.nan if role == "prefill" else self.peak_tokens_per_s,
            math.nan if role == "decode" else self.usual_hit_ratio,
        )


UNKNOWN = Before(math.nan, math.nan)


@dataclasses.dataclass(frozen=True, slots=True)
class Inventory:
    """Engines and boards, each sorted by id."""

    engines: Sequence[Engine]
    boards: Sequence[Board]


def newest(connection: Connection, now: dt.datetime) -> dt.datetime | None:
    """The newest closed minute of the last 30 days."""
    row = connection.execute(
        _SQL["newest"], {"oldest": now - dt.timedelta(days=30), "now": now + dt.timedelta(hours=1)}
    ).fetchone()
    return row[0] if row else None


def turn(connection: Connection) -> int:
    """1, 2, 3, …: a number that no run had before, whichever process runs."""
    row = connection.execute(_SQL["turn"]).fetchone()
    assert row is not None  # a sequence always answers
    return int(row[0])


def inventory(connection: Connection, first: dt.datetime) -> Inventory:
    """Engines and boards that were seen since `first`."""
    with connection.cursor(row_factory=class_row(Engine)) as cursor:
        engines = cursor.execute(_SQL["engines"], {"first": first}).fetchall()
    with connection.cursor(row_factory=class_row(Board)) as cursor:
        boards = cursor.execute(_SQL["boards"], {"first": first}).fetchall()
    return Inventory(engines, boards)


def engine_minutes(connection: Connection, engines: Sequence[Engine], first: dt.datetime, last: dt.datetime) -> Samples:
    """Minutes of these engines in [first, last): increments, means and energy; -1 and NaN where nothing is known."""
    parameters = {
        "first": first,
        "last": last,
        "engine_ids": [engine.engine_id for engine in engines],
        "placement_ids": [placement for engine in engines for placement in engine.placement_ids],
    }
    return read_columns(connection, _SQL["engine_minutes"], parameters, _ENGINE, _RATIOS)


def board_minutes(connection: Connection, board_ids: Sequence[int], first: dt.datetime, last: dt.datetime) -> Samples:
    """Minutes of these boards in [first, last)."""
    parameters = {"first": first, "last": last, "board_ids": list(board_ids)}
    return read_columns(connection, _SQL["board_minutes"], parameters, _BOARD, _RATIOS)


def before(connection: Connection, workload_ids: Sequence[int], first: dt.datetime) -> dict[int, Before]:
    """Workloads in the week (hit ratios: the two weeks) before `first`; of whom nothing is known there is no entry."""
    parameters = {
        "workload_ids": list(workload_ids),
        "oldest": first - HIT_RATIOS_OF,
        "oldest_peak": first - PEAKS_OF,
        "first": first,
    }
    return {row[0]: Before(*row[1:]) for row in connection.execute(_SQL["before"], parameters)}


def carried(connection: Connection, engine_ids: Sequence[int], first: dt.datetime) -> dict[int, float]:
    """The batch that these engines exceeded in a hundredth of their minutes of the two days before `first`."""
    parameters = {"engine_ids": list(engine_ids), "oldest": first - CARRIED_OF, "first": first}
    return {row[0]: float(row[1]) for row in connection.execute(_SQL["carried"], parameters)} if engine_ids else {}
