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
import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wattmill_collector import targets
from wattmill_collector.kubelet import settings as kubernetes
from wattmill_collector.kubelet.settings import KubernetesSettings
from wattmill_collector.setting_values import (
    MINUTE_US,
    Switch,
    parse_age_us,
    parse_bool,
    parse_interval_us,
    parse_labels,
    parse_listen,
    parse_name,
    parse_path,
    parse_size_bytes,
    parse_switch,
    parse_url,
    text_of,
)
from wattmill_collector.targets import (
    BmcSettings,
    EngineSettings,
    ExporterSettings,
    GatewaySettings,
    MeterSettings,
    WorkerSettings,
)

__all__ = [
    "MINUTE_US",
    "EngineSettings",
    "Settings",
    "SettingsError",
    "SourceSettings",
    "SpoolSettings",
    "default_spool_path",
    "load",
]

PREFIX = "WATTMILL_"
DEFAULT_CONFIG = Path("/etc/wattmill/agent.yaml")

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
    ipmi: Switch = "auto"


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
    workers: tuple[WorkerSettings, ...] = ()
    exporters: tuple[ExporterSettings, ...] = ()
    gateways: tuple[GatewaySettings, ...] = ()
    meters: tuple[MeterSettings, ...] = ()
    bmc: tuple[BmcSettings, ...] = ()
    discover: bool = True
    kubernetes: KubernetesSettings = dataclasses.field(default_factory=KubernetesSettings)
    nvml_library: Path | None = None
    host_root: Path = Path("/")
    config: Path | None = None
    warnings: tuple[str, ...] = ()

    def described(self) -> str:
        """One line for the log at start: every setting, the key masked."""
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "warnings"}
        shown |= {"key": "(set)" if self.key else "", "bmc": [one.url for one in self.bmc]}
        shown |= {name: [one.target for one in shown[name]] for name in ("engines", "exporters", "gateways", "meters")}
        shown |= {"workers": [one.workload for one in self.workers]}
        shown |= {
            "spool": f"{self.spool.path} up to {self.spool.max_bytes} bytes and {self.spool.max_age_us // 1_000_000} s"
        }
        shown |= {
            "sources": f"nvml {self.sources.nvml}, host {self.sources.host}, ipmi {self.sources.ipmi}",
            "labels": dict(self.labels),
        }
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
            if key in targets.PARSERS:
                warnings += [
                    f"{file} has an unknown key '{name}' in {targets.ONE_OF[key]}; it is ignored."
                    for name in targets.strange(key, value)
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


PARSERS: dict[str, Callable[[Any], Any]] = {
    "server": parse_url,
    "key_file": parse_path,
    "key": lambda value: text_of(value, "a key"),
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
    "sources.ipmi": parse_switch,
    **targets.PARSERS,
    "discover": parse_bool,
    **kubernetes.parsers(parse_switch, parse_path, parse_url, parse_name, parse_bool),
    "nvml_library": parse_path,
    "host_root": parse_path,
}
FIELDS = {"interval": "interval_us", "spool.max_age": "max_age_us"}
VARIABLES = {PREFIX + key.replace(".", "_").upper(): key for key in PARSERS} | {PREFIX + "SPOOL": "spool.path"}
