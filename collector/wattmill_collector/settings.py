"""Settings of the agent: a YAML file, `WATTMILL_*` variables and options, in one frozen record.

An option on the command line goes before a variable, a variable before the file. What is set wrongly stops the agent
with a sentence that names the setting, where it was set and what is allowed. What is merely unknown is reported and the
agent runs: a newer chart must not stop an older agent; `wattmill doctor` is the one that refuses.

Values are read as the text that a person wrote (no YAML types), so that `node: 017` is the name 017 and `nvml: on` is
the word on. Nobody else in the agent reads the environment.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from wattmill_collector.kubelet import settings as kubernetes
from wattmill_collector.kubelet.settings import KubernetesSettings
from wattmill_collector.wire import MAX_LABELS, MAX_NAME_BYTES

PREFIX = "WATTMILL_"
MINUTE_US = 60_000_000
DEFAULT_CONFIG = Path("/etc/wattmill/agent.yaml")
INTERVALS = "1s, 2s, 3s, 4s, 5s, 6s, 10s, 12s, 15s, 20s, 30s or 60s"
Switch = Literal["auto", "on", "off"]

# Variables that other verbs read (DESIGN 5.1): known, though not ours. A test holds them to the service's own list.
OTHER_OPTIONS = """
    ACCELERATORS BACKFILL CONFIG CURRENCY DATA DATABASE_PASSWORD_FILE DATABASE_URL DETECT_EVERY_S DURATION END
    EXTERNAL_URL FORMAT GIVEN_KEYS GIVE_UP HOST INGEST_DEADLINE_S INGEST_QUEUE_READINGS JOBS JSON KIND LOG_LEVEL
    MIGRATE MIN_ENERGY_KWH MONTH NAME NODES NOTIFY_EVERY_S NO_JOBS NO_MIGRATE NO_RESOLVED NO_SIMULATE ONCE ONLY OUT
    OUTPUT PORT POSTERS READ_CONNECTIONS RETAIN_MINUTES_DAYS RETAIN_SAMPLES_DAYS ROLL_UP_EVERY_S RUNBOOKS_URL
    SCENARIO SCOPE SECRET SEED SIMULATE SORT SOURCES SPEED START STATE STATEMENT_TIMEOUT_S TEAM TRUTH URL VIEW
    WEBHOOK_ALLOW WEBHOOK_SECRET WEBHOOK_SECRETS WINDOW WRITE_CONNECTIONS
"""
OTHER_VARIABLES = frozenset(PREFIX + name for name in OTHER_OPTIONS.split())
# Not settings: the tests' own, and what Kubernetes puts into every pod beside a Service called wattmill-something.
FOREIGN = re.compile(r"WATTMILL_(TEST_.*|(.*_)?SERVICE_(HOST|PORT)(_.*)?|(.*_)?PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)")


class SettingsError(Exception):
    """A setting has a value that can't be used."""


@dataclasses.dataclass(frozen=True, slots=True)
class SpoolSettings:
    """Where batches are kept until the service has them, and how much of them."""

    path: Path
    max_bytes: int = 2 << 30
    max_age_us: int = 14 * 86_400_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class SourceSettings:
    """Which sources to read: `auto` reads what is there, `on` complains when it is not, `off` leaves it alone."""

    nvml: Switch = "auto"
    host: Switch = "auto"


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine to read, besides those that are discovered. `accelerators` are indices or UUIDs; none = find out."""

    target: str
    kind: str = "auto"
    workload: str = ""
    team: str = ""
    accelerators: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set on the agent; units are in the names."""

    spool: SpoolSettings
    node: str
    server: str = ""
    key_file: Path | None = None
    key: str = dataclasses.field(default="", repr=False)
    interval_us: int = 10_000_000
    site: str = "default"
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    listen: str = "127.0.0.1:9477"
    sources: SourceSettings = SourceSettings()
    engines: tuple[EngineSettings, ...] = ()
    discover: bool = True
    kubernetes: KubernetesSettings = dataclasses.field(default_factory=KubernetesSettings)
    nvml_library: Path | None = None
    host_root: Path = Path("/")
    config: Path | None = None
    warnings: tuple[str, ...] = ()

    def described(self) -> str:
        """One line for the log at start: every setting, the key masked."""
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "warnings"}
        shown |= {"key": "(set)" if self.key else "", "engines": [e.target for e in self.engines]}
        shown |= {
            "spool": f"{self.spool.path} up to {self.spool.max_bytes} bytes and {self.spool.max_age_us // 1_000_000} s"
        }
        shown |= {"sources": f"nvml {self.sources.nvml}, host {self.sources.host}", "labels": dict(self.labels)}
        shown |= {"kubernetes": f"pod_resources {self.kubernetes.pod_resources}, pods {self.kubernetes.pods}"}
        return ", ".join(f"{name}={value}" for name, value in shown.items() if value not in ("", None, [], {}))


def load(
    environment: Mapping[str, str],
    options: Mapping[str, str] | None = None,
    *,
    config: Path | None = None,
    default_config: Path = DEFAULT_CONFIG,
    hostname: Callable[[], str] = socket.gethostname,
    spool_path: Callable[[], Path] | None = None,
) -> Settings:
    """The agent's settings from the command line's `options` (key → text), the environment and the file.

    Without `config` the file is $WATTMILL_CONFIG, or `default_config` where there is one.
    Errors: SettingsError, a sentence that names the setting.
    """
    named = config or (Path(environment["WATTMILL_CONFIG"]) if environment.get("WATTMILL_CONFIG") else None)
    file = named or (default_config if default_config.is_file() else None)
    values: dict[str, tuple[str, Any]] = {
        f"kubernetes.{name}": ("Kubernetes' own variables", said)
        for name, said in kubernetes.from_environment(environment).items()
        if said
    }
    warnings: list[str] = []
    if file is not None:
        for key, value in _flatten(_read_yaml(file)):
            if key in PARSERS and key != "key":
                values[key] = (f"{key} in {file}", value)
            else:
                warnings.append(f"{file} has an unknown key '{key}'; it is ignored.")
            if key == "engines":
                warnings += [
                    f"{file} has an unknown key '{name}' in an engine; it is ignored." for name in _strange(value)
                ]
    for variable, value in sorted(environment.items()):
        if variable in VARIABLES:
            key = VARIABLES[variable]
            if value or key == "listen":  # an empty variable is one that a chart left unset; "" for listen means off
                values[key] = (variable, value)
        elif variable.startswith(PREFIX) and variable not in OTHER_VARIABLES and not FOREIGN.fullmatch(variable):
            warnings.append(f"The variable {variable} is unknown; it is ignored.")
    for key, value in (options or {}).items():
        values[key] = (f"--{key.replace('_', '-').removesuffix('.path')}", value)
    parsed = {key: _parse(key, where, value) for key, (where, value) in values.items()}
    return _build(parsed, file, tuple(warnings), hostname, spool_path or default_spool_path)


def default_spool_path(system: Path = Path("/var/lib/wattmill"), home: Path | None = None) -> Path:
    """/var/lib/wattmill where this user may write there, else a directory of the user's own."""
    existing = next(p for p in (system, *system.parents) if p.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return system
    state = os.environ.get("XDG_STATE_HOME", "") if home is None else ""
    return (Path(state) if state else (home or Path.home()) / ".local" / "state") / "wattmill"


def _build(
    parsed: Mapping[str, Any],
    file: Path | None,
    warnings: tuple[str, ...],
    hostname: Callable[[], str],
    spool_path: Callable[[], Path],
) -> Settings:
    groups: dict[str, dict[str, Any]] = {"spool": {}, "sources": {}, "kubernetes": {}}
    top: dict[str, Any] = {}
    for key, value in parsed.items():
        group, name = key.partition(".")[0] if "." in key else "", key.rpartition(".")[2]
        (groups[group] if group else top)[FIELDS.get(key, name)] = value
    if "path" not in groups["spool"]:
        groups["spool"]["path"] = spool_path()
    # In a pod the host's name is the pod's, which lasts as long as the pod; the node's name is what continues.
    top.setdefault("node", groups["kubernetes"].get("node_name") or hostname() or "unknown")
    return Settings(
        spool=SpoolSettings(**groups["spool"]),
        sources=SourceSettings(**groups["sources"]),
        kubernetes=KubernetesSettings(**groups["kubernetes"]),
        config=file,
        warnings=warnings,
        **top,
    )


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml  # costs memory that an agent set up by variables alone need not spend

    try:
        document = yaml.load(file.read_bytes(), Loader=yaml.BaseLoader)  # BaseLoader: text, lists and mappings only
    except OSError as error:
        raise SettingsError(f"The configuration {file} can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"The configuration {file} is not valid YAML: {' '.join(str(error).split())}.") from error
    if document in ("", None):
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"The configuration {file} must be a mapping of settings, such as 'interval: 10s'.")
    return document


def _flatten(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """`spool: {path: x}` → ("spool.path", x); a key without a value counts as not set."""
    flat: list[tuple[str, Any]] = []
    for key, value in document.items():
        if key == "spool" and isinstance(value, str) and value:
            flat.append(("spool.path", value))
        elif key in ("spool", "sources", "kubernetes", "metrics") and isinstance(value, dict):
            flat += [(f"{key}.{name}", inner) for name, inner in _flatten(value)]
        elif value != "" or key == "listen":
            flat.append((key, value))
    return flat


def _parse(key: str, where: str, value: Any) -> Any:
    try:
        return PARSERS[key](value)
    except ValueError as error:
        shown = value if isinstance(value, str) else json.dumps(value)
        raise SettingsError(f"{where} is '{shown[:100]}', but must be {error}.") from None


def _text(value: Any, allowed: str) -> str:
    if not isinstance(value, str):
        raise ValueError(allowed)
    return value.strip()


def _duration_us(value: Any, allowed: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?", _text(value, allowed))
    if not found:
        raise ValueError(allowed)
    unit_us = {
        "ms": 1_000,
        "s": 1_000_000,
        "m": MINUTE_US,
        "h": 3_600_000_000,
        "d": 86_400_000_000,
        "w": 604_800_000_000,
    }
    return round(float(found[1]) * unit_us[found[2] or "s"])


def parse_interval_us(value: Any) -> int:
    """A tick every `value`; must divide a minute, so that every minute's edge is a tick."""
    interval_us = _duration_us(value, INTERVALS)
    if not 1_000_000 <= interval_us <= MINUTE_US or MINUTE_US % interval_us:
        raise ValueError(f"a whole part of a minute: {INTERVALS}")
    return interval_us


def parse_age_us(value: Any) -> int:
    """How long something is kept."""
    allowed = "a time from 1h to 3650d, such as 14d"
    age_us = _duration_us(value, allowed)
    if not 3_600_000_000 <= age_us <= 3650 * 86_400_000_000:
        raise ValueError(allowed)
    return age_us


def parse_size_bytes(value: Any) -> int:
    """How much something may take: KiB, MiB, GiB, TiB, or kB, MB, GB, TB of powers of ten."""
    allowed = "a size from 16MiB to 16TiB, such as 2GiB"
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", _text(value, allowed).lower())
    if not found:
        raise ValueError(allowed)
    power = "kmgt".index(found[2]) + 1 if found[2] else 0
    size = math.floor(float(found[1]) * float(1024 if found[3] else 1000) ** power)
    if not 16 << 20 <= size <= 16 << 40:
        raise ValueError(allowed)
    return size


def parse_url(value: Any) -> str:
    """An http or https address without user, password, query or fragment, and without the slash at its end."""
    allowed = "an address such as http://wattmill:8080, without user, password or '?'"
    url = _text(value, allowed)
    parts = urlsplit(url)
    try:
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        port_fits = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits:
        raise ValueError(allowed)
    if "@" in parts.netloc or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", url):
        raise ValueError(allowed)
    return url.rstrip("/")


def parse_listen(value: Any) -> str:
    """HOST:PORT, or "" for off."""
    allowed = "HOST:PORT such as 127.0.0.1:9477, or '' to switch it off"
    listen = _text(value, allowed)
    if listen:
        host, _, port = listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(allowed)
    return listen


def parse_switch(value: Any) -> Switch:
    """Whether to read a source."""
    match _text(value, "auto, on or off").lower():
        case "auto":
            return "auto"
        case "on" | "true" | "yes":
            return "on"
        case "off" | "false" | "no":
            return "off"
    raise ValueError("auto, on or off")


def parse_bool(value: Any) -> bool:
    """Yes or no."""
    word = _text(value, "true or false").lower()
    if word not in ("true", "on", "yes", "1", "false", "off", "no", "0"):
        raise ValueError("true or false")
    return word in ("true", "on", "yes", "1")


def parse_name(value: Any) -> str:
    """A name that the wire takes."""
    allowed = f"a name of 1 to 256 characters, {MAX_NAME_BYTES} bytes in UTF-8"
    name = _text(value, allowed)
    if not 1 <= len(name) <= 256 or len(name.encode(errors="replace")) > MAX_NAME_BYTES or "\x00" in name:
        raise ValueError(allowed)
    return name


def parse_path(value: Any) -> Path:
    """A path; ~ is the user's home."""
    text = _text(value, "a path")
    if not text or "\x00" in text:
        raise ValueError("a path")
    return Path(text).expanduser()


def parse_labels(value: Any) -> dict[str, str]:
    """Labels of the node: a mapping, or "rack=r12,row=3"."""
    allowed = f"at most {MAX_LABELS} labels such as rack=r12,row=3; names to 128 and values to 256 characters"
    if isinstance(value, str):
        pairs = [item.partition("=") for item in value.split(",") if item.strip()]
        if any(not mark for _, mark, _ in pairs):
            raise ValueError(allowed)
        value = {name.strip(): text.strip() for name, _, text in pairs}
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        raise ValueError(allowed)
    for name, text in value.items():
        if not isinstance(text, str) or not 1 <= len(name) <= 128 or len(text) > 256 or "\x00" in name + text:
            raise ValueError(allowed)
    return dict(value)


def parse_engines(value: Any) -> tuple[EngineSettings, ...]:
    """Engines to read: a list of mappings; in a variable also JSON, or target addresses between commas."""
    allowed = "a list of engines such as [{target: 'http://127.0.0.1:8000/metrics', workload: chat}]"
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            value = json.loads(value, parse_int=str, parse_float=str)  # its ValueError is ours
        else:
            value = [{"target": item.strip()} for item in value.split(",") if item.strip()]
    if not isinstance(value, list):
        raise ValueError(allowed)
    engines = tuple(_engine(item, allowed) for item in value)
    targets = [engine.target for engine in engines]
    if twice := next((t for t in targets if targets.count(t) > 1), None):
        raise ValueError(f"a list in which every target stands once, not {twice} twice")
    return engines


def _strange(engines: Any) -> list[str]:
    """Keys of engines that mean nothing."""
    known = {f.name for f in dataclasses.fields(EngineSettings)}
    items = [item for item in engines if isinstance(item, dict)] if isinstance(engines, list) else []
    return sorted({str(name) for item in items for name in item} - known)


def _engine(item: Any, allowed: str) -> EngineSettings:
    item = {"target": item} if isinstance(item, str) else item
    if not isinstance(item, dict) or "target" not in item:
        raise ValueError(allowed)
    kind = _text(item.get("kind", ""), allowed).lower() or "auto"
    if kind != "auto" and kind not in (kinds := _engine_kinds()):
        raise ValueError(f"a list of engines whose kind is auto or one of {', '.join(kinds)}; not {kind}")
    held = item.get("accelerators", "")
    held = [part for part in held.split(",") if part.strip()] if isinstance(held, str) else held
    if not isinstance(held, list) or not all(isinstance(one, str) and one.strip() for one in held):
        raise ValueError("a list of engines whose accelerators are a list of indices or UUIDs, such as [0, 1]")
    workload, team = (_text(item.get(name, ""), allowed)[:256] for name in ("workload", "team"))
    return EngineSettings(parse_url(item["target"]), kind, workload, team, tuple(one.strip() for one in held))


def _engine_kinds() -> list[str]:
    from wattmill_collector.sources.engine_tables import ENGINE_KINDS  # only when a kind is to be checked

    return sorted({kind.name for kind in ENGINE_KINDS})


PARSERS: dict[str, Callable[[Any], Any]] = {
    "server": parse_url,
    "key_file": parse_path,
    "key": lambda value: _text(value, "a key"),
    "interval": parse_interval_us,
    "node": parse_name,
    "site": parse_name,
    "labels": parse_labels,
    "spool.path": parse_path,
    "spool.max_bytes": parse_size_bytes,
    "spool.max_age": parse_age_us,
    "listen": parse_listen,
    "sources.nvml": parse_switch,
    "sources.host": parse_switch,
    "engines": parse_engines,
    "discover": parse_bool,
    **kubernetes.parsers(parse_switch, parse_path, parse_url, parse_name, parse_bool),
    "nvml_library": parse_path,
    "host_root": parse_path,
}
FIELDS = {"interval": "interval_us", "spool.max_age": "max_age_us"}
VARIABLES = {PREFIX + key.replace(".", "_").upper(): key for key in PARSERS} | {PREFIX + "SPOOL": "spool.path"}
