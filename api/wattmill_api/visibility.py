"""Whose rows the answer in hand may hold: set where a key is checked, obeyed where the store is read.

A key of some teams sees their rows and nothing else. That is decided in one place, for every route that there is and
will be: `Guard.check` calls `see_only`, and `Database.reading` then reads through the views of the schema
`wattmill_team`. What is kept for the next request (a cache) must be kept under `teams()`.
"""

from __future__ import annotations

from contextvars import ContextVar

Teams = tuple[str, ...] | None  # None: everybody's rows

_teams: ContextVar[Teams] = ContextVar("teams", default=None)


def see_only(teams: Teams) -> None:
    """From here on, this request (its tasks and threads too) reads the rows of these teams; None: all rows."""
    _teams.set(teams)


def teams() -> Teams:
    """The teams whose rows this request may read; None: all rows. Jobs and commands read all."""
    return _teams.get()
