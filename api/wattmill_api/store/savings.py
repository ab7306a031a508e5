"""What remedies saved: findings to follow, and the sums to follow them by."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("saving")


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """A finding whose end is followed, and what was measured so far (None before the first time)."""

    finding_id: int
    kind: str
    since: dt.datetime
    until: dt.datetime
    energy_mj: int
    engine_ids: list[int]
    board_ids: list[int]
    from_time: dt.datetime | None
    measured_until: dt.datetime | None
    before_mj: float | None
    before_units: float | None
    spent_mj: float | None
    units: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Saving:
    """One row of the table `finding_saving`."""

    finding_id: int
    since: dt.datetime
    until: dt.datetime
    method: str
    before_mj: float
    before_units: float
    spent_mj: float
    units: float
    saved_mj: int | None


def pending(connection: Connection, kinds: Sequence[str], after: dt.datetime, follow: dt.timedelta) -> list[Pending]:
    """Findings of these kinds that ended since `after` and were not followed for `follow` yet."""
    with connection.cursor(row_factory=class_row(Pending)) as cursor:
        return cursor.execute(_SQL["pending"], {"kinds": list(kinds), "ends_after": after, "follow": follow}).fetchall()


def put(connection: Connection, saving: Saving) -> None:
    """Write what is known now."""
    connection.execute(_SQL["put"], dataclasses.asdict(saving))


def idle(
    connection: Connection, board_ids: Sequence[int], first: dt.datetime, last: dt.datetime
) -> tuple[float, float]:
    """(idle energy in mJ, board-hours that were watched) of boards in [first, last)."""
    row = connection.execute(_SQL["idle"], {"board_ids": list(board_ids), "first": first, "last": last}).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    return row[0], row[1]


def workload(
    connection: Connection, engine_ids: Sequence[int], ended: dt.datetime, first: dt.datetime, last: dt.datetime
) -> tuple[float, float]:
    """(mJ, output tokens) in [first, last) of the workloads that these engines served when a finding ended."""
    row = connection.execute(
        _SQL["workload"], {"engine_ids": list(engine_ids), "ended": ended, "first": first, "last": last}
    ).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    return row[0], row[1]


def engines(
    connection: Connection, engine_ids: Sequence[int], first: dt.datetime, last: dt.datetime
) -> tuple[float, float]:
    """(serving energy in mJ, output tokens) of engines in [first, last)."""
    row = connection.execute(_SQL["engines"], {"engine_ids": list(engine_ids), "first": first, "last": last}).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    return row[0], row[1]
