"""How many requests ran while how many tokens were made: what the frontier asks besides the ledger."""

from __future__ import annotations

import dataclasses

from psycopg.rows import class_row

from wattmill_api.parameters import Window
from wattmill_api.store import statements
from wattmill_api.store.database import Connection
from wattmill_api.store.query import FilterValues

_SQL = statements("frontier")


@dataclasses.dataclass(frozen=True, slots=True)
class Concurrency:
    """Sums over the minutes of one workload on one kind of accelerator that were read from end to end.

    `request_s`: requests running x seconds, `output_tokens` made in the same minutes; `answered_tokens` and
    `requests_finished`: of minutes in which both were read; boards: of a replica, the fewest and the most seen.
    """

    workload: str
    team: str | None
    model: str | None
    accelerator_model: str | None
    request_s: float
    output_tokens: int
    answered_tokens: int
    requests_finished: int
    fewest_boards: int
    most_boards: int


def concurrency(connection: Connection, window: Window, filters: FilterValues, limit: int) -> list[Concurrency]:
    """By workload, team, model and accelerator's model, at most `limit` rows."""
    parameters = {"start": window.start, "end": window.end, "limit": limit, **filters}
    with connection.cursor(row_factory=class_row(Concurrency)) as cursor:
        return cursor.execute(_SQL["concurrency"], parameters).fetchall()
