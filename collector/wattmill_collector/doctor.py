"""`wattmill doctor`: what is wrong on this host, and how to fix it.

Looks at everything an agent with these settings would use, with the agent's own sources and transport, so that it can't
disagree with the agent. FAIL: something will be missing or lost. WARN: it works, but less well than it could. The exit
status is 0 only when nothing fails. Nothing is changed: the spool gets one file that is removed again, and the service
gets one empty batch that it refuses.

With a database the service is examined too (wattmill_api.doctor, which is named as text and loaded only then); where no
agent is configured beside it, the service alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wattmill_collector.checks import (
    Check,
    check_clock,
    check_host,
    check_settings,
    check_sources,
    check_spool,
)
from wattmill_collector.checks_kubernetes import check_kubernetes
from wattmill_collector.checks_service import check_own_pages, check_service
from wattmill_collector.clock import Clock, SystemClock
from wattmill_collector.lineup import PATIENCE_US, line_up
from wattmill_collector.log import Throttle
from wattmill_collector.settings import Settings, SettingsError, load
from wattmill_collector.transport import HttpTransport, Transport

SERVICE_TIMEOUT_S = 5.0
SERVICE = "wattmill_api.doctor"


def main(argv: Sequence[str]) -> int:
    """Print what was found, a line a check. Returns 0 when nothing fails, 1 when something does."""
    parser = argparse.ArgumentParser("wattmill doctor", description="Say what is wrong on this host and how to fix it.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML settings (default: /etc/wattmill/agent.yaml)")
    parser.add_argument("--server", metavar="URL", help="the service, such as http://wattmill:8080")
    parser.add_argument(
        "--database-url",
        metavar="URL",
        default=os.environ.get("WATTMILL_DATABASE_URL", ""),
        help="the service's database: examine the service, too [WATTMILL_DATABASE_URL]",
    )
    parser.add_argument("--json", action="store_true", default=_wanted("WATTMILL_JSON"), help="print JSON")
    arguments = parser.parse_args(argv)
    options = {"server": arguments.server} if arguments.server else {}
    try:
        settings = load(os.environ, options, config=arguments.config)
    except SettingsError as error:
        checks = [Check("settings", "FAIL", str(error), "Correct this setting; the agent does not start with it.")]
    else:
        checks = []
        if not arguments.database_url or settings.config or settings.server:
            checks += examine(settings)
        if arguments.database_url:
            checks += examine_service(arguments.database_url)
    sys.stdout.write(as_json(checks) if arguments.json else as_text(checks))
    return int(any(check.status == "FAIL" for check in checks))


def examine(settings: Settings, clock: Clock | None = None, transport: Transport | None = None) -> list[Check]:
    """Everything, in the order in which a reading travels."""
    clock = clock or SystemClock()
    if transport is None and settings.server:
        transport = HttpTransport(settings.server, timeout_s=SERVICE_TIMEOUT_S)
    readers = line_up(settings, clock, Throttle(clock), patience_us=PATIENCE_US)
    return [
        *check_settings(settings),
        *check_host(),
        *check_kubernetes(settings),
        *check_sources(readers, clock, discover=settings.discover),
        *check_spool(settings.spool.path, settings.spool.max_bytes),
        *check_clock(),
        *check_service(settings, transport),
        *check_own_pages(settings.listen),
    ]


def examine_service(database_url: str, load: Callable[[str], Any] = importlib.import_module) -> list[Check]:
    """What the service's own part of the doctor finds; the agent knows nothing of it but its name."""
    try:
        service = load(SERVICE)
    except ModuleNotFoundError as missing:
        text = f"The service is not installed here: there is no package '{missing.name}'."
        return [Check("service", "FAIL", text, "pip install 'wattmill[service]', or run this where the service runs.")]
    now = datetime.datetime.fromtimestamp(SystemClock().wall_us() / 1e6, datetime.UTC)
    return [Check(*told) for told in service.examine(database_url, os.environ, now)]


def _wanted(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on")


def as_text(checks: Sequence[Check]) -> str:
    """A line a check, and the fix below what is not well."""
    lines = []
    for check in checks:
        lines.append(f"{check.status:<5}{check.subject:<13}{printable(check.text)}")
        if check.status != "OK":
            lines.append(f"{'':<18}-> {printable(check.fix)}")
    counts = {status: sum(check.status == status for check in checks) for status in ("FAIL", "WARN")}
    lines.append(f"{counts['FAIL']} failures, {counts['WARN']} warnings." if any(counts.values()) else "All is well.")
    return "\n".join([*lines, ""])


def printable(text: str) -> str:
    """What a terminal would obey is shown instead: names come from engines, agents and other people."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_json(checks: Sequence[Check]) -> str:
    """The same for programs."""
    ok = all(check.status != "FAIL" for check in checks)
    document = {"ok": ok, "checks": [dataclasses.asdict(check) for check in checks]}
    return json.dumps(document, indent=2).replace("\x7f", "\\u007f") + "\n"
