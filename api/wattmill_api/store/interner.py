"""Ids for names: sites, nodes, streams, boards, engines, workloads and placements, and for the bounds of histograms.

Asking is a look into a dictionary. A name that is not known is noted, and `settle` then asks the database for all of
them at once: a post of thousands of new engines costs a few dozen statements, not tens of thousands. Names of one kind
are written in the order of their keys, whoever writes them, and what stands as wanted is not touched; so two writers
that meet the same fleet for the first time do not wait for each other in a ring.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from wattmill_api.store import statements
from wattmill_collector.wire import (
    AcceleratorReading,
    EngineReading,
    GatewayReading,
    HostReading,
    MeterReading,
    NodeHeader,
)

_SQL = statements("interner")
UNKNOWN = 0  # no id of the database: serials begin at 1
# `last_seen` may lag this much: an update per device and tick would cost more than the samples.
_SEEN_EVERY_US = 30_000_000
_ALL_PPM = 1_000_000
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
_Key = tuple[Any, ...]


class _Wanted(NamedTuple):
    """A row that is not known: `key` is all that was said, `identity` what tells it from others of its kind."""

    key: _Key
    identity: _Key
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
        self._ids: dict[tuple[str, _Key], int] = {}
        self._new: dict[str, dict[_Key, _Wanted]] = {}
        self._written: dict[tuple[str, int], tuple[int, int]] = {}
        self._sighted: dict[tuple[str, int], tuple[int, int]] = {}
        self._versions: dict[int, str] = {}  # what each engine said last
        self._led: set[_Key] = set()  # which leaders are known: of each minute anew, so they are not kept for ever
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
        times: Counter[_Key] = Counter()
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
    def _find(connection: psycopg.Connection[Any], kind: str, wanted: Sequence[_Wanted]) -> dict[_Key, int]:
        if not wanted:
            return {}
        rows = [{"n": n, **each.row} for n, each in enumerate(wanted)]
        return {wanted[n].key: id_ for n, id_ in connection.execute(_SQL[f"find_{kind}"], {"rows": Jsonb(rows)})}

    def _get(self, kind: str, key: _Key, time_us: int, row: Callable[[], dict[str, Any]]) -> int:
        """The id for a key. `time_us` 0: its sightings are not kept."""
        id_ = self._ids.get((kind, key), UNKNOWN)
        if id_ == UNKNOWN:
            new = self._new.setdefault(kind, {})
            if key not in new:
                columns = row()
                new[key] = _Wanted(key, tuple(columns[name] for name in _IDENTITIES[kind]), columns, time_us)
        elif time_us:
            place = (_SEEN_AS.get(kind, kind), id_)
            first, last = self._sighted.get(place, (time_us, time_us))
            self._sighted[place] = (min(first, time_us), max(last, time_us))
        return id_

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

    def node(self, header: NodeHeader, time_us: int) -> int:
        """The node's id; a changed header (labels, boot, version) is written at once."""
        site_id = self._get("site", (header.site,), 0, lambda: {"name": header.site})
        if site_id == UNKNOWN:
            return UNKNOWN
        key = (site_id, header.name, header.boot_id, header.agent_version, header.interval_us, header.simulated)
        return self._get(
            "node",
            (*key, *sorted(header.labels.items())),
            time_us,
            lambda: {
                "site_id": site_id,
                "name": header.name,
                "labels": dict(header.labels),
                "boot_id": header.boot_id,
                "agent_version": header.agent_version,
                "interval_us": header.interval_us,
                "simulated": header.simulated,
            },
        )

    def stream(self, name: str, node_id: int) -> int:
        return self._get("stream", (name,), 0, lambda: {"name": name, "node_id": node_id})

    def accelerator(self, r: AcceleratorReading, node_id: int, time_us: int) -> int:
        """The id of a board that was read, on the node where it is now."""
        return self._get(
            "accelerator",
            (r.uuid, node_id, r.index, r.model, r.memory_total_bytes, r.power_limit_mw, r.source),
            time_us,
            lambda: {
                "uuid": r.uuid,
                "node_id": node_id,
                "device_index": r.index,
                "model": r.model,
                "vendor": r.vendor,
                "source": r.source or "nvml",
                "memory_total_bytes": r.memory_total_bytes,
                "power_limit_mw": r.power_limit_mw,
            },
        )

    def _named(self, uuid: str, node_id: int, time_us: int) -> int:
        """The id of a board that an engine names, wherever it is."""
        return self._get("named", (uuid,), time_us, lambda: {"uuid": uuid, "node_id": node_id})

    def engine(self, r: EngineReading, node_id: int, time_us: int) -> int:
        """The engine's id; a version that it did not run before is noted, see `write_sightings`."""
        id_ = self._get(
            "engine",
            (node_id, r.target, r.series, r.engine_kind, r.version, r.tokens_move),
            time_us,
            lambda: {
                "node_id": node_id,
                "target": r.target,
                "series": r.series,
                "engine_kind": r.engine_kind,
                "version": r.version,
                "tokens_move": r.tokens_move,
            },
        )
        if r.version and id_ != UNKNOWN and self._versions.get(id_) != r.version:
            self._versions[id_] = r.version
            self._news.add((id_, time_us, r.version))
        return id_

    def placement(self, r: EngineReading, engine_id: int, node_id: int, time_us: int) -> int:
        """What the engine serves, for whom, on which boards."""
        # An engine without a configured workload is its own deployment: the model it serves names it.
        name = r.workload or r.model or r.target
        workload_id = self._get(
            "workload", (name, r.model, r.team), 0, lambda: {"name": name, "model": r.model, "team": r.team}
        )
        if r.role == "worker" and r.workload and not (r.model and r.team):
            workload_id = self._leader(r, workload_id, time_us)
        named = [self._named(uuid, node_id, time_us) for uuid in r.accelerators]
        if UNKNOWN in (engine_id, workload_id) or UNKNOWN in named:
            return UNKNOWN
        parts: dict[int, int] = {}  # of a board that is named twice, both
        said = r.accelerator_shares_ppm[: len(named)]
        for board_id, part in itertools.zip_longest(named, said, fillvalue=0):
            parts[board_id] = parts.get(board_id, 0) + part
        ids = tuple(sorted(parts))
        shares = tuple(min(parts[board_id], _ALL_PPM) for board_id in ids) if r.accelerator_shares_ppm else ()
        return self._get(
            "placement",
            (engine_id, workload_id, ids, r.method, shares, r.share_by, r.role, r.confidence),
            time_us,
            lambda: {
                "engine_id": engine_id,
                "workload_id": workload_id,
                "accelerator_ids": ids,
                "method": r.method,
                "shares_ppm": shares,
                "share_by": r.share_by,
                "role": r.role,
                "confidence": r.confidence,
            },
        )

    def _leader(self, r: EngineReading, workload_id: int, time_us: int) -> int:
        """The workload of the engine that a worker works for, where the worker knows its name alone.

        Asked for anew every minute: the leader may be seen later, or serve another model from now on.
        """
        if workload_id == UNKNOWN:
            return UNKNOWN
        minute = time_us // 60_000_000
        key = (r.workload, r.model, r.team, minute)
        self._led.add(key)
        return self._get(
            "leader",
            key,
            0,
            lambda: {
                "workload_id": workload_id,
                "name": r.workload,
                "model": r.model,
                "team": r.team,
                "minute": minute,
                "at": datetime_of(time_us).isoformat(),
            },
        )

    def host_domain(self, r: HostReading, node_id: int) -> int:
        """Notes what reads a domain of a host; its node's id."""
        return self._get(
            "host_domain",
            (node_id, r.domain, r.source),
            0,
            lambda: {"node_id": node_id, "domain": r.domain, "source": r.source},
        )

    def bounds(self, le_us: tuple[int, ...]) -> int:
        """The id of the bounds of a histogram."""
        return self._get("bounds", (le_us,), 0, lambda: {"le_us": le_us})

    def gateway_client(self, r: GatewayReading, node_id: int) -> int:
        """The id of a consumer as one gateway tells it apart; which workload serves it may be said anew."""
        who = (r.target, r.model, r.provider, r.team, r.api_key, r.user, r.agent)
        return self._get(
            "gateway_client",
            (node_id, who, r.gateway_kind, r.workload),
            0,
            lambda: {
                "node_id": node_id,
                "fingerprint": hashlib.blake2b(json.dumps(who).encode(), digest_size=16).hexdigest(),
                "target": r.target,
                "gateway_kind": r.gateway_kind,
                "model": r.model,
                "provider": r.provider,
                "workload": r.workload,
                "team": r.team,
                "api_key": r.api_key,
                "user": r.user,
                "agent": r.agent,
            },
        )

    def meter(self, r: MeterReading, header: NodeHeader, time_us: int) -> int:
        """The id of a meter of the site, whoever read it."""
        return self._meter(header.site, r.meter, 0, r.level, r.covers, r.source, time_us)

    def chassis(self, r: HostReading, header: NodeHeader, node_id: int, time_us: int) -> int:
        """The id under which the minutes of a node's chassis are kept: a meter that stands above this node alone."""
        return self._meter(header.site, header.name, node_id, "node", (f"node={header.name}",), r.source, time_us)

    def _meter(
        self, site: str, name: str, node_id: int, level: str, covers: tuple[str, ...], source: str, time_us: int
    ) -> int:
        site_id = self._get("site", (site,), 0, lambda: {"name": site})
        if site_id == UNKNOWN:
            return UNKNOWN
        return self._get(
            "meter",
            (site_id, name, node_id, level, covers, source),
            time_us,
            lambda: {
                "site_id": site_id,
                "name": name,
                "node_id": node_id,
                "level": level,
                "covers": list(covers),
                "source": source,
            },
        )
