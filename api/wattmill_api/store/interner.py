"""Ids for names: sites, nodes, streams, boards, engines, workloads and placements, and for the bounds of histograms.

Asking is a look into a dictionary. A name that is not known is noted, and `settle` then asks the database for all of
them at once: a post of thousands of new engines costs a few dozen statements, not tens of thousands. Names of one kind
are written in the order of their keys, whoever writes them, and what stands as wanted is not touched; so two writers
that meet the same fleet for the first time do not wait for each other in a ring. What names a thing: `identities.py`.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from wattmill_api.store import statements

_SQL = statements("interner")
UNKNOWN = 0  # no id of the database: serials begin at 1
# `last_seen` may lag this much: an update per device and tick would cost more than the samples.
_SEEN_EVERY_US = 30_000_000
_MOST_LEADERS = 10_000

# What tells one row of a kind from another.
_IDENTITIES = {
    "site": ("name",),
    "node": ("site_id", "name"),
    "stream": ("name",),
    "accelerator": ("uuid",),
    "named": ("uuid",),
    "engine": ("node_id", "target", "series"),
    "workload": ("name", "model", "team"),
    "bounds": ("le_us",),
    "meter": ("site_id", "name", "node_id"),
    "gateway_client": ("node_id", "fingerprint"),
    "host_domain": ("node_id", "domain"),
    "leader": ("name", "model", "team", "minute"),
    "placement": (
        *("engine_id", "workload_id", "accelerator_ids", "method"),
        *("shares_ppm", "share_by", "role", "confidence"),
    ),
}
# Who refers to another kind comes after it.
_STAGES = (
    ("site",),
    ("node",),
    ("stream", "accelerator", "named", "engine", "workload", "bounds", "meter", "gateway_client", "host_domain"),
    ("placement",),
    ("leader",),  # placements of workers come after it
)
_SIGHTINGS = {
    "node": "saw_nodes",
    "accelerator": "saw_accelerators",
    "engine": "saw_engines",
    "placement": "saw_placements",
    "meter": "saw_meters",
}


_SEEN_AS = {"named": "accelerator"}
Key = tuple[Any, ...]


class _Wanted(NamedTuple):
    """A row that is not known: `key` is all that was said, `identity` what tells it from others of its kind."""

    key: Key
    identity: Key
    row: dict[str, Any]
    time_us: int


def datetime_of(time_us: int) -> dt.datetime:
    """Microseconds since 1970 as a time in UTC."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)


class Interner:
    """Hands out the ids that are known; keeps them while they are true.

    One per process; guarded by its caller. Every question answers UNKNOWN when its thing, or one that it refers to, is
    new: call `settle` and ask again until nothing is. When a thing was seen is written in bulk by `write_sightings`,
    and only where it moved enough to matter.
    """

    def __init__(self) -> None:
        self._token = ""  # names the database incarnation: after a restore ids may differ
        self._ids: dict[tuple[str, Key], int] = {}
        self._new: dict[str, dict[Key, _Wanted]] = {}
        self._written: dict[tuple[str, int], tuple[int, int]] = {}
        self._sighted: dict[tuple[str, int], tuple[int, int]] = {}
        self._versions: dict[int, str] = {}  # what each engine said last
        self._led: set[Key] = set()  # which leaders are known: of each minute anew, so they are not kept for ever
        self._news: set[tuple[int, int, str]] = set()  # (engine, time, version) where it said something else

    def renew(self, connection: psycopg.Connection[Any]) -> None:
        """Forget everything when the database is not the one the ids came from."""
        row = connection.execute(_SQL["database_token"]).fetchone()
        token = str(row[0]) if row else ""
        if token != self._token:
            self.forget()
            self._token = token
        if len(self._led) > _MOST_LEADERS:
            for key in self._led:
                self._ids.pop(("leader", key), None)
            self._led.clear()

    def forget(self) -> None:
        """Drop all cached ids, after an error that may have come from a stale one."""
        self._ids.clear()
        self._new.clear()
        self._written.clear()
        self._sighted.clear()
        self._versions.clear()
        self._led.clear()
        self._news.clear()
        self._token = ""

    def settle(self, connection: psycopg.Connection[Any]) -> bool:
        """Get ids for what was asked for and is new. False: nothing was, all answers since the last call are ids.

        One stage a call: what refers to unknown things could not be asked for yet, and so all writers go through the
        kinds in one order.
        """
        new, self._new = self._new, {}
        for stage in _STAGES:
            kinds = [kind for kind in stage if kind in new]
            for kind in kinds:
                self._intern(connection, kind, new[kind].values())
            if kinds:
                return True
        return False

    def _intern(self, connection: psycopg.Connection[Any], kind: str, wanted: Iterable[_Wanted]) -> None:
        """Find or add rows. One that is wanted several times with several attributes is written as often, in order."""
        times: Counter[Key] = Counter()
        rounds: list[list[_Wanted]] = []
        for each in wanted:
            if times[each.identity] == len(rounds):
                rounds.append([])
            rounds[times[each.identity]].append(each)
            times[each.identity] += 1
        for versions in rounds:
            versions.sort(key=lambda each: each.identity)
            stand = self._find(connection, kind, [each for each in versions if times[each.identity] == 1])
            changed = [each for each in versions if each.key not in stand]
            if changed:
                rows = [{**each.row, "seen": datetime_of(each.time_us).isoformat()} for each in changed]
                connection.execute(_SQL[f"add_{kind}"], {"rows": Jsonb(rows)})
                stand |= self._find(connection, kind, changed)
                for each in changed:
                    self._wrote(_SEEN_AS.get(kind, kind), stand[each.key], each.time_us)
            for each in versions:
                self._ids[kind, each.key] = stand[each.key]

    @staticmethod
    def _find(connection: psycopg.Connection[Any], kind: str, wanted: Sequence[_Wanted]) -> dict[Key, int]:
        if not wanted:
            return {}
        rows = [{"n": n, **each.row} for n, each in enumerate(wanted)]
        return {wanted[n].key: id_ for n, id_ in connection.execute(_SQL[f"find_{kind}"], {"rows": Jsonb(rows)})}

    def id_of(self, kind: str, key: Key, time_us: int, row: Callable[[], dict[str, Any]]) -> int:
        """The id for a key of a kind; `row`: its columns, asked for when it is new. `time_us` 0: its sightings are not
        kept.
        """
        id_ = self._ids.get((kind, key), UNKNOWN)
        if id_ == UNKNOWN:
            new = self._new.setdefault(kind, {})
            if key not in new:
                if kind == "leader":
                    self._led.add(key)
                columns = row()
                new[key] = _Wanted(key, tuple(columns[name] for name in _IDENTITIES[kind]), columns, time_us)
        elif time_us:
            place = (_SEEN_AS.get(kind, kind), id_)
            first, last = self._sighted.get(place, (time_us, time_us))
            self._sighted[place] = (min(first, time_us), max(last, time_us))
        return id_

    def runs(self, engine_id: int, version: str, time_us: int) -> None:
        """Note the version of an engine, if it is another than it was."""
        if self._versions.get(engine_id) != version:
            self._versions[engine_id] = version
            self._news.add((engine_id, time_us, version))

    def _wrote(self, kind: str, id_: int, time_us: int) -> None:
        """A row was added or changed with this sighting in it."""
        if kind in _SIGHTINGS:
            first, last = self._written.get((kind, id_), (time_us, time_us))
            self._written[kind, id_] = (min(first, time_us), max(last, time_us))

    def write_sightings(self, connection: psycopg.Connection[Any]) -> dict[tuple[str, int], tuple[int, int]]:
        """Write new versions and sightings that moved; give what is returned to `sightings_stand` after the commit."""
        moved: dict[tuple[str, int], tuple[int, int]] = {}
        for place, (first, last) in self._sighted.items():
            old_first, old_last = self._written.get(place, (first + 1, last))
            if first < old_first or last > old_last + _SEEN_EVERY_US:
                moved[place] = (min(first, old_first), max(last, old_last))
        self._sighted.clear()
        for kind, statement in _SIGHTINGS.items():
            ids = sorted(id_ for name, id_ in moved if name == kind)  # one order for everybody: no deadlock
            if ids:
                times = [moved[kind, id_] for id_ in ids]
                connection.execute(
                    _SQL[statement],
                    {
                        "ids": ids,
                        "first_times": [datetime_of(first) for first, _ in times],
                        "last_times": [datetime_of(last) for _, last in times],
                    },
                )
        if self._news:
            news = sorted(self._news)
            connection.execute(
                _SQL["add_versions"],
                {
                    "ids": [engine_id for engine_id, _, _ in news],
                    "since": [datetime_of(time_us) for _, time_us, _ in news],
                    "versions": [version for _, _, version in news],
                },
            )
        return moved

    def sightings_stand(self, written: dict[tuple[str, int], tuple[int, int]]) -> None:
        """The transaction that wrote these sightings was committed."""
        self._written.update(written)
        self._news.clear()
