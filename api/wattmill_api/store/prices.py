"""Versions of tariff, carbon intensity and PUE. The row with the latest `valid_from` not after t holds at t."""

from __future__ import annotations

import bisect
import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from psycopg.rows import dict_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("prices")
ANY_SITE = "*"
Version = tuple[dt.datetime, Any]


class History:
    """One kind of price by site: what held when. Site `*` is every site that has no row of its own at that time."""

    def __init__(self, rows: Iterable[tuple[str, dt.datetime, Any]]) -> None:
        self._versions: dict[str, tuple[list[dt.datetime], list[Any]]] = {}
        for site, valid_from, value in sorted(rows, key=lambda row: (row[0], row[1])):
            times, values = self._versions.setdefault(site, ([], []))
            times.append(valid_from)
            values.append(value)

    def at(self, site: str, time: dt.datetime) -> Any:
        """The value that holds for a site at a time; None if none does."""
        for name in (site, ANY_SITE):
            times, values = self._versions.get(name, ([], []))
            index = bisect.bisect_right(times, time) - 1
            if index >= 0:
                return values[index]
        return None

    def changes(self, *names: str) -> set[dt.datetime]:
        """When anything changes; with names, when anything of theirs does."""
        of = self._versions.values() if not names else [self._versions[n] for n in names if n in self._versions]
        return {time for times, _ in of for time in times}


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
    """All three histories. A tariff's value is (currency, price per kWh)."""

    tariff: History
    carbon: History
    pue: History

    def cuts(self) -> Sequence[dt.datetime]:
        """Every instant at which anything changes, in order."""
        return sorted(self.tariff.changes() | self.carbon.changes() | self.pue.changes())


def load(connection: Connection) -> Prices:
    """All versions of all prices: few rows, read whole."""
    tariffs = connection.execute(_SQL["tariffs"]).fetchall()
    carbons = connection.execute(_SQL["carbons"]).fetchall()
    pues = connection.execute(_SQL["pues"]).fetchall()
    return Prices(
        History((site, since, (currency, Decimal(price))) for site, since, currency, price, _ in tariffs),
        History((site, since, Decimal(grams)) for site, since, grams, _, _ in carbons),
        History((site, since, Decimal(pue)) for site, since, pue, _ in pues),
    )


def rows(connection: Connection, kind: str) -> list[dict[str, Any]]:
    """The versions of one kind: `tariff`, `carbon` or `pue`."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_SQL[f"{kind}s"]).fetchall()


def put(connection: Connection, kind: str, versions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write versions in one transaction; the same site and time again replaces. Returns them as stored."""
    stored: list[dict[str, Any]] = []
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        for version in versions:
            stored += cursor.execute(_SQL[f"put_{kind}"], version).fetchall()
    return stored
