"""What /metrics shows of the ledger: totals that only rise, and a few facts of right now.

A total moves by what an hour of the ledger holds after roll-up less what it held before, in the same transaction: it
is the sum of the ledger since the table was made, whichever process asks, and nothing is ever added up again. What is
*shown* of a total is the highest it has been: late data that takes something back makes the shown value stand still
until the total has caught up, because Prometheus would read a fall as a restart and count everything again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.rows import class_row

from wattmill_api.store import statements
from wattmill_api.store.database import Connection

_SQL = statements("exposition")
# Label sets on the page, of energy and of findings each; what comes later is counted as `other`.
MOST_SERIES = 2000
OVERHEAD = 5
_OTHER_SITE, _OTHER_WORKLOAD, _OTHER_MODEL = 0, -1, "other"
_GONE_AFTER = dt.timedelta(days=7)  # as /coverage takes it
_FINDINGS_CHANGE_FOR = dt.timedelta(days=8)  # detection looks back a day and a half
_MINUTE = dt.timedelta(minutes=1)

Key = tuple[int, int, int, bool, str]  # site_id, workload_id, account, simulated, accelerator_model
Amounts = tuple[int | None, ...]  # energy_mj, input, cached input and output tokens
_NOTHING: Amounts = (None, None, None, None)
_MOVED = (
    *("site_ids", "workload_ids", "accounts", "simulated", "accelerator_models"),
    *("energy_mj", "input_tokens", "cached_input_tokens", "output_tokens"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Energy:
    """Shown totals of one label set; tokens are None where no reading ever had them."""

    site: str
    workload: str
    model: str
    team: str
    accelerator_model: str
    account: int
    simulated: bool
    shown_mj: int
    shown_input_tokens: int | None
    shown_cached_input_tokens: int | None
    shown_output_tokens: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Waste:
    """Energy of all findings, open or over, of one kind about one workload."""

    kind: str
    site: str
    workload: str
    simulated: bool
    shown_mj: int


@dataclasses.dataclass(frozen=True, slots=True)
class WasteNow:
    """What the findings that are not over waste, at their rate of the last day."""

    kind: str
    site: str
    workload: str
    simulated: bool
    mj_per_day: int


@dataclasses.dataclass(frozen=True, slots=True)
class FindingCount:
    kind: str
    state: str
    findings: int


@dataclasses.dataclass(frozen=True, slots=True)
class NodeSeen:
    site: str
    node: str
    simulated: bool
    last_seen: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class SiteNow:
    """A site and its boards over the last settled minutes; energy_mj is None where no minute was written."""

    site: str
    simulated: bool
    nodes: int
    last_seen: dt.datetime
    boards: int
    expected_minutes: int
    energy_mj: int | None
    covered_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class MeterTotal:
    """What a power meter counted since it was first read; not of the ledger."""

    site: str
    meter: str
    level: str
    shown_mj: int


@dataclasses.dataclass(frozen=True, slots=True)
class Exposed:
    """Everything the page shows, of one instant; `minutes` is what the figures of `sites` are over."""

    energy: Sequence[Energy]
    waste: Sequence[Waste]
    waste_now: Sequence[WasteNow]
    findings: Sequence[FindingCount]
    nodes: Sequence[NodeSeen]
    sites: Sequence[SiteNow]
    minutes: int
    newest_minute: dt.datetime | None
    waiting_spans: int
    meters: Sequence[MeterTotal] = ()


def hour_sums(
    connection: Connection, node_ids: Sequence[int], first: dt.datetime, last: dt.datetime
) -> dict[Key, Amounts]:
    """What the hours first <= time < last of some nodes hold, by label set."""
    rows = connection.execute(_SQL["hour_sums"], {"node_ids": list(node_ids), "first": first, "last": last})
    return {_key(row): tuple(row[5:]) for row in rows}


def move_totals(connection: Connection, before: Mapping[Key, Amounts], after: Mapping[Key, Amounts]) -> None:
    """Move the totals by the difference of two `hour_sums`, taken around the change of the hours."""
    moves: dict[Key, Amounts] = {}
    for key in before.keys() | after.keys():
        pairs = zip(after.get(key, _NOTHING), before.get(key, _NOTHING), strict=True)
        amounts = tuple(_plus(new, None if old is None else -old) for new, old in pairs)
        if any(amounts):
            moves[key] = amounts
    if not moves:
        return
    if strangers := moves.keys() - _known(connection):
        _make_room(connection, moves, strangers)
    columns = zip(*[(*key, *amounts) for key, amounts in sorted(moves.items())], strict=True)
    parameters = {name: list(column) for name, column in zip(_MOVED, columns, strict=True)}
    connection.execute(_SQL["move_totals"], parameters)


def _known(connection: Connection) -> set[Key]:
    return {_key(row) for row in connection.execute(_SQL["known_rows"])}


def _key(row: tuple[Any, ...]) -> Key:
    return (row[0], row[1], row[2], row[3], row[4])


def _make_room(connection: Connection, moves: dict[Key, Amounts], strangers: set[Key]) -> None:
    """Fold label sets for which there is no room into `other`; those that stood still for long make room first."""
    known = _known(connection)
    if len(known) + len(strangers) > MOST_SERIES:
        connection.execute(_SQL["forget_idle_rows"])
        known = _known(connection)
    for key in sorted(strangers)[max(0, MOST_SERIES - len(known)) :]:
        amounts = moves.pop(key)
        other = (_OTHER_SITE, _OTHER_WORKLOAD, key[2], key[3], _OTHER_MODEL)
        moves[other] = tuple(_plus(*pair) for pair in zip(amounts, moves.get(other, _NOTHING), strict=True))


def _plus(left: int | None, right: int | None) -> int | None:
    """Unknown and unknown is unknown; unknown and a number is the number."""
    return None if left is None and right is None else (left or 0) + (right or 0)


def count_findings(connection: Connection, now: dt.datetime) -> None:
    """Bring the totals of wasted energy in line with the findings that may have changed."""
    parameters = {"since": now - _FINDINGS_CHANGE_FOR, "most": MOST_SERIES}
    connection.execute(_SQL["count_findings"], parameters)


def read(connection: Connection, settled: dt.datetime, minutes: int) -> Exposed:
    """Everything the page shows. `settled`: up to here everything that arrived is written."""
    first = settled - minutes * _MINUTE
    now = settled + 60 * _MINUTE  # clocks of nodes may run ahead
    parameters = {
        "first": first,
        "last": settled,
        "minutes": minutes,
        "since": first - _GONE_AFTER,
        "oldest": first - _GONE_AFTER,
        "now": now,
        "most": MOST_SERIES,
    }

    def rows(name: str, kind: type[Any]) -> list[Any]:
        with connection.cursor(row_factory=class_row(kind)) as cursor:
            return cursor.execute(_SQL[name], parameters).fetchall()

    newest = connection.execute(_SQL["newest_minute"], parameters).fetchone()
    waiting = connection.execute(_SQL["waiting_spans"]).fetchone()
    return Exposed(
        energy=rows("energy", Energy),
        waste=rows("waste", Waste),
        waste_now=rows("waste_now", WasteNow),
        findings=rows("findings_now", FindingCount),
        nodes=rows("nodes", NodeSeen),
        sites=rows("sites", SiteNow),
        minutes=minutes,
        newest_minute=newest[0] if newest else None,
        waiting_spans=int(waiting[0]) if waiting else 0,
        meters=rows("meters", MeterTotal),
    )
