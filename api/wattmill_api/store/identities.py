"""What a node, a board, an engine, a placement or a meter is told apart by: from a reading to the id of what it is of.

Every question answers UNKNOWN when its thing, or one that it refers to, is new: see `Interner`.
"""

from __future__ import annotations

import hashlib
import itertools
import json

from wattmill_api.store.interner import UNKNOWN, Interner, datetime_of
from wattmill_collector.wire import (
    AcceleratorReading,
    EngineReading,
    GatewayReading,
    HostReading,
    MeterReading,
    NodeHeader,
)

_ALL_PPM = 1_000_000


def node(interner: Interner, header: NodeHeader, time_us: int) -> int:
    """The node's id; a changed header (labels, boot, version) is written at once."""
    site_id = interner.id_of("site", (header.site,), 0, lambda: {"name": header.site})
    if site_id == UNKNOWN:
        return UNKNOWN
    key = (site_id, header.name, header.boot_id, header.agent_version, header.interval_us, header.simulated)
    return interner.id_of(
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


def stream(interner: Interner, name: str, node_id: int) -> int:
    return interner.id_of("stream", (name,), 0, lambda: {"name": name, "node_id": node_id})


def accelerator(interner: Interner, r: AcceleratorReading, node_id: int, time_us: int) -> int:
    """The id of a board that was read, on the node where it is now."""
    return interner.id_of(
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


def _named(interner: Interner, uuid: str, node_id: int, time_us: int) -> int:
    """The id of a board that an engine names, wherever it is."""
    return interner.id_of("named", (uuid,), time_us, lambda: {"uuid": uuid, "node_id": node_id})


def engine(interner: Interner, r: EngineReading, node_id: int, time_us: int) -> int:
    """The engine's id; a version that it did not run before is noted, see `Interner.write_sightings`."""
    id_ = interner.id_of(
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
    if r.version and id_ != UNKNOWN:
        interner.runs(id_, r.version, time_us)
    return id_


def placement(interner: Interner, r: EngineReading, engine_id: int, node_id: int, time_us: int) -> int:
    """What the engine serves, for whom, on which boards."""
    # An engine without a configured workload is its own deployment: the model it serves names it.
    name = r.workload or r.model or r.target
    workload_id = interner.id_of(
        "workload", (name, r.model, r.team), 0, lambda: {"name": name, "model": r.model, "team": r.team}
    )
    if r.role == "worker" and r.workload and not (r.model and r.team):
        workload_id = _leader(interner, r, workload_id, time_us)
    named = [_named(interner, uuid, node_id, time_us) for uuid in r.accelerators]
    if UNKNOWN in (engine_id, workload_id) or UNKNOWN in named:
        return UNKNOWN
    parts: dict[int, int] = {}  # of a board that is named twice, both
    said = r.accelerator_shares_ppm[: len(named)]
    for board_id, part in itertools.zip_longest(named, said, fillvalue=0):
        parts[board_id] = parts.get(board_id, 0) + part
    ids = tuple(sorted(parts))
    shares = tuple(min(parts[board_id], _ALL_PPM) for board_id in ids) if r.accelerator_shares_ppm else ()
    return interner.id_of(
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


def _leader(interner: Interner, r: EngineReading, workload_id: int, time_us: int) -> int:
    """The workload of the engine that a worker works for, where the worker knows its name alone.

    Asked for anew every minute: the leader may be seen later, or serve another model from now on.
    """
    if workload_id == UNKNOWN:
        return UNKNOWN
    minute = time_us // 60_000_000
    key = (r.workload, r.model, r.team, minute)
    return interner.id_of(
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


def host_domain(interner: Interner, r: HostReading, node_id: int) -> int:
    """Notes what reads a domain of a host; its node's id."""
    return interner.id_of(
        "host_domain",
        (node_id, r.domain, r.source),
        0,
        lambda: {"node_id": node_id, "domain": r.domain, "source": r.source},
    )


def bounds(interner: Interner, le_us: tuple[int, ...]) -> int:
    """The id of the bounds of a histogram."""
    return interner.id_of("bounds", (le_us,), 0, lambda: {"le_us": le_us})


def gateway_client(interner: Interner, r: GatewayReading, node_id: int) -> int:
    """The id of a consumer as one gateway tells it apart; which workload serves it may be said anew."""
    who = (r.target, r.model, r.provider, r.team, r.api_key, r.user, r.agent)
    return interner.id_of(
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


def meter(interner: Interner, r: MeterReading, header: NodeHeader, time_us: int) -> int:
    """The id of a meter of the site, whoever read it."""
    return _meter(interner, header.site, r.meter, 0, r.level, r.covers, r.source, time_us)


def chassis(interner: Interner, r: HostReading, header: NodeHeader, node_id: int, time_us: int) -> int:
    """The id under which the minutes of a node's chassis are kept: a meter that stands above this node alone."""
    return _meter(interner, header.site, header.name, node_id, "node", (f"node={header.name}",), r.source, time_us)


def _meter(
    interner: Interner,
    site: str,
    name: str,
    node_id: int,
    level: str,
    covers: tuple[str, ...],
    source: str,
    time_us: int,
) -> int:
    site_id = interner.id_of("site", (site,), 0, lambda: {"name": site})
    if site_id == UNKNOWN:
        return UNKNOWN
    return interner.id_of(
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
