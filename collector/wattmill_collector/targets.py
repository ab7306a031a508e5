"""What the agent is told to read, as lists in its settings: engines, workers, exporters, gateways, meters, BMCs. Pure.

Each is a list of mappings; in a variable also JSON, or addresses between commas. Unknown keys are reported by
`strange`, not refused: a newer chart must not stop an older agent.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wattmill_collector.setting_values import parse_bool, parse_name, parse_path, parse_target, parse_url, text_of
from wattmill_collector.wire import METER_LEVELS, ROLES

PPM = 1_000_000
MAX_TARGETS = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine to read, besides those that are discovered. `accelerators` are indices or UUIDs; none = find out.

    `shares_ppm`: the part of each of them that is this engine's (MPS, time slices, MIG); none: all of each. `role`:
    prefill, decode or frontend.
    """

    target: str
    kind: str = "auto"
    workload: str = ""
    team: str = ""
    accelerators: tuple[str, ...] = ()
    model: str = ""
    role: str = ""
    shares_ppm: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Boards of this node that work for an engine whose counters are read on another node.

    `engine`: that engine's target, as its own agent calls it; a name only. No `accelerators`: the boards that no engine
    of this node holds and on which a process runs.
    """

    workload: str
    team: str = ""
    model: str = ""
    engine: str = ""
    accelerators: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ExporterSettings:
    """A Prometheus exporter of power and energy of this node: of its accelerators, or of the host."""

    target: str
    kind: str = "auto"
    user: str = ""
    password_file: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class GatewaySettings:
    """A gateway whose counters tell who used how much of a model.

    `labels`: which label of its series says team, api_key, user and agent, where that is not the gateway's own.
    `workloads`: model as the gateway calls it → workload that serves it. `providers`: whose series are ours; empty: of
    all of them, those whose model a workload serves.
    """

    target: str
    kind: str = "auto"
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    workloads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    providers: tuple[str, ...] = ()
    key_file: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class MeterSettings:
    """A meter above nodes, by an exporter: a rack's PDU, the hall's feed.

    `covers`: node=NAME or LABEL=VALUE of the nodes below it; none: the whole site. `metric`, `unit` and `select` (label
    → value) say what to read where the table of exporters does not know it.
    """

    target: str
    name: str
    kind: str = "auto"
    level: str = "rack"
    covers: tuple[str, ...] = ()
    metric: str = ""
    unit: str = ""
    select: Mapping[str, str] = dataclasses.field(default_factory=dict)
    user: str = ""
    password_file: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class BmcSettings:
    """This node's management controller, asked by Redfish.

    `verify`: whether its certificate must be a known one. `session`: log in once, and not with every question.
    """

    url: str
    user: str = ""
    password_file: Path | None = None
    verify: bool = True
    ca_file: Path | None = None
    session: bool = False


def parse_engines(value: Any) -> tuple[EngineSettings, ...]:
    """Engines to read."""
    allowed = "a list of engines such as [{target: 'http://127.0.0.1:8000/metrics', workload: chat}]"
    engines = tuple(_engine(item, allowed) for item in _items(value, "target", allowed))
    _each_once([engine.target for engine in engines])
    return engines


def parse_workers(value: Any) -> tuple[WorkerSettings, ...]:
    """Boards that work for engines of other nodes."""
    allowed = "a list of workers such as [{workload: chat-405b, accelerators: [0, 1]}]"
    return tuple(
        WorkerSettings(
            parse_name(item["workload"]),
            _label(item, "team", allowed),
            _label(item, "model", allowed),
            parse_target(item["engine"]) if item.get("engine") else "",
            _accelerators(item),
        )
        for item in _items(value, "workload", allowed)
    )


def parse_exporters(value: Any) -> tuple[ExporterSettings, ...]:
    """Exporters to read."""
    allowed = "a list of exporters such as [{target: 'http://127.0.0.1:9400/metrics', kind: dcgm}]"
    found = tuple(
        ExporterSettings(parse_target(item["target"]), _kind(item, allowed), *_login(item, allowed))
        for item in _items(value, "target", allowed)
    )
    if wrong := next((one.kind for one in found if one.kind != "auto" and one.kind not in _exporter_kinds()), None):
        raise ValueError(
            f"a list of exporters whose kind is auto or one of {', '.join(_exporter_kinds())}; not {wrong}"
        )
    _each_once([one.target for one in found])
    return found


def parse_gateways(value: Any) -> tuple[GatewaySettings, ...]:
    """Gateways to read."""
    allowed = "a list of gateways such as [{target: 'http://127.0.0.1:4000/metrics', kind: litellm}]"
    found = []
    for item in _items(value, "target", allowed):
        labels = _mapping(item, "labels", allowed)
        if unknown := sorted(labels.keys() - {"team", "api_key", "user", "agent", "model", "provider"}):
            raise ValueError(f"a list of gateways whose labels are team, api_key, user, agent, … not {unknown[0]}")
        found.append(
            GatewaySettings(
                parse_target(item["target"]),
                _gateway_kind(item, allowed),
                labels,
                _mapping(item, "workloads", allowed),
                _texts(item, "providers", allowed),
                parse_path(item["key_file"]) if item.get("key_file") else None,
            )
        )
    _each_once([one.target for one in found])
    return tuple(found)


def parse_meters(value: Any) -> tuple[MeterSettings, ...]:
    """Meters to read; a target may stand several times, as one exporter shows several meters."""
    allowed = "a list of meters such as [{name: rack-12-a, target: 'http://127.0.0.1:9116/snmp?…', covers: [rack=r12]}]"
    found = []
    for item in _items(value, "target", allowed):
        level = text_of(item.get("level", "rack"), allowed).lower()
        if level not in METER_LEVELS:
            raise ValueError(f"a list of meters whose level is one of {', '.join(METER_LEVELS)}; not {level}")
        covers = _texts(item, "covers", allowed)
        if wrong := next((one for one in covers if not all(one.partition("="))), None):
            raise ValueError(f"a list of meters that cover node=NAME or LABEL=VALUE; not {wrong}")
        kind, metric, unit = _kind(item, allowed), _label(item, "metric", allowed), _label(item, "unit", allowed)
        _check_meter(kind, metric, unit)
        found.append(
            MeterSettings(
                parse_target(item["target"]),
                parse_name(item.get("name", ""))[:128],
                kind,
                level,
                covers,
                metric,
                unit,
                _mapping(item, "select", allowed),
                *_login(item, allowed),
            )
        )
    _each_once([one.name for one in found])
    return tuple(found)


def parse_bmcs(value: Any) -> tuple[BmcSettings, ...]:
    """Management controllers to ask; as a rule one."""
    allowed = "a list such as [{url: 'https://10.0.0.7', user: monitor, password_file: /etc/wattmill/bmc}]"
    return tuple(
        BmcSettings(
            parse_url(item["url"]),
            *_login(item, allowed),
            parse_bool(item.get("verify", "true")),
            parse_path(item["ca_file"]) if item.get("ca_file") else None,
            parse_bool(item.get("session", "false")),
        )
        for item in _items(value, "url", allowed)
    )


PARSERS: dict[str, Callable[[Any], Any]] = {
    "engines": parse_engines,
    "workers": parse_workers,
    "exporters": parse_exporters,
    "gateways": parse_gateways,
    "meters": parse_meters,
    "bmc": parse_bmcs,
}
KEYS = {
    "engines": {*(f.name for f in dataclasses.fields(EngineSettings)), "shares"} - {"shares_ppm"},
    "workers": {f.name for f in dataclasses.fields(WorkerSettings)},
    "exporters": {f.name for f in dataclasses.fields(ExporterSettings)},
    "gateways": {f.name for f in dataclasses.fields(GatewaySettings)},
    "meters": {f.name for f in dataclasses.fields(MeterSettings)},
    "bmc": {f.name for f in dataclasses.fields(BmcSettings)},
}
ONE_OF = {"engines": "an engine", "workers": "a worker", "exporters": "an exporter", "gateways": "a gateway"}
ONE_OF |= {"meters": "a meter", "bmc": "a bmc"}


def strange(section: str, value: Any) -> list[str]:
    """Keys in the mappings of a list that mean nothing."""
    items = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    return sorted({str(name) for item in items for name in item} - KEYS[section])


def _items(value: Any, key: str, allowed: str) -> list[dict[str, Any]]:
    """The mappings of a list, each with its `key`; a text stands for a mapping with nothing else."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            value = json.loads(value, parse_int=str, parse_float=str)  # its ValueError is ours
        else:
            value = [item.strip() for item in value.split(",") if item.strip()]
    if not isinstance(value, list) or len(value) > MAX_TARGETS:
        raise ValueError(allowed)
    items = [{key: item} if isinstance(item, str) else item for item in value]
    if not all(isinstance(item, dict) and key in item for item in items):
        raise ValueError(allowed)
    return items


def _login(item: dict[str, Any], allowed: str) -> tuple[str, Path | None]:
    """User and password's file of a target that asks for them."""
    return _label(item, "user", allowed), parse_path(item["password_file"]) if item.get("password_file") else None


def _each_once(names: list[str]) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"a list in which each stands once, not {twice} twice")


def _engine(item: dict[str, Any], allowed: str) -> EngineSettings:
    kind = _kind(item, allowed)
    if kind != "auto" and kind not in (kinds := _engine_kinds()):
        raise ValueError(f"a list of engines whose kind is auto or one of {', '.join(kinds)}; not {kind}")
    role = text_of(item.get("role", ""), allowed).lower()
    if role not in ROLES or role == "worker":
        raise ValueError(f"a list of engines whose role is prefill, decode or frontend; not {role}")
    held = _accelerators(item)
    shares = _shares(item)
    if shares and len(shares) != len(held):
        raise ValueError("a list of engines with a share for each of their accelerators, such as shares: [0.5, 0.5]")
    workload, team, model = (_label(item, name, allowed) for name in ("workload", "team", "model"))
    return EngineSettings(parse_target(item["target"]), kind, workload, team, held, model, role, shares)


def _kind(item: Mapping[str, Any], allowed: str) -> str:
    return text_of(item.get("kind", ""), allowed).lower() or "auto"


def _label(item: Mapping[str, Any], name: str, allowed: str) -> str:
    return text_of(item.get(name, ""), allowed)[:256]


def _accelerators(item: Mapping[str, Any]) -> tuple[str, ...]:
    held = item.get("accelerators", "")
    held = [part for part in held.split(",") if part.strip()] if isinstance(held, str) else held
    if not isinstance(held, list) or not all(isinstance(one, str) and one.strip() for one in held):
        raise ValueError("a list whose accelerators are a list of indices or UUIDs, such as [0, 1]")
    return tuple(one.strip() for one in held)


def _shares(item: Mapping[str, Any]) -> tuple[int, ...]:
    allowed = "a list of engines whose shares are above 0 and at most 1, such as [0.5, 0.5]"
    said = item.get("shares", "")
    said = [part for part in said.split(",") if part.strip()] if isinstance(said, str) else said
    if not isinstance(said, list):
        raise ValueError(allowed)
    try:
        found = tuple(round(float(text_of(one, allowed)) * PPM) for one in said)
    except (ValueError, OverflowError):
        raise ValueError(allowed) from None
    if not all(0 < one <= PPM for one in found):
        raise ValueError(allowed)
    return found


def _texts(item: Mapping[str, Any], name: str, allowed: str) -> tuple[str, ...]:
    said = item.get(name, "")
    said = [part for part in said.split(",") if part.strip()] if isinstance(said, str) else said
    if not isinstance(said, list) or not all(isinstance(one, str) and 0 < len(one) <= 256 for one in said):
        raise ValueError(allowed)
    return tuple(one.strip() for one in said)


def _mapping(item: Mapping[str, Any], name: str, allowed: str) -> dict[str, str]:
    said = item.get(name) or {}
    if not isinstance(said, dict) or not all(isinstance(v, str) and len(k) + len(v) <= 1024 for k, v in said.items()):
        raise ValueError(allowed)
    return dict(said)


def _gateway_kind(item: Mapping[str, Any], allowed: str) -> str:
    from wattmill_collector.sources.gateway_tables import GATEWAY_KINDS  # only where there is one

    kind, kinds = _kind(item, allowed), sorted(one.name for one in GATEWAY_KINDS)
    if kind != "auto" and kind not in kinds:
        raise ValueError(f"a list of gateways whose kind is auto or one of {', '.join(kinds)}; not {kind}")
    return kind


def _engine_kinds() -> list[str]:
    from wattmill_collector.sources.engine_tables import ENGINE_KINDS  # only when a kind is to be checked

    return sorted({kind.name for kind in ENGINE_KINDS})


def _exporter_kinds() -> tuple[str, ...]:
    from wattmill_collector.sources.exporters.kinds import KIND_NAMES

    return KIND_NAMES


def _check_meter(kind: str, metric: str, unit: str) -> None:
    """Errors: ValueError when it is not known how such a meter is read."""
    if kind == "auto" and not metric and not unit:
        return
    from wattmill_collector.sources.exporters.meters import METER_NAMES
    from wattmill_collector.sources.exporters.units import ENERGY, POWER

    if kind not in ("auto", *METER_NAMES):
        raise ValueError(f"a list of meters whose kind is auto or one of {', '.join(METER_NAMES)}; not {kind}")
    if bool(metric) != bool(unit) or (unit and unit not in POWER | ENERGY):
        units = ", ".join((*POWER, *ENERGY))
        raise ValueError(f"a list of meters that have metric and unit together; unit is one of {units}; not {unit!r}")
