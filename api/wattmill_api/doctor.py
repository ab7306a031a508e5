"""The service's part of `wattmill doctor`: its settings, its database, its jobs, and who reports to it.

Given as tuples (subject, status, text, fix), because the agent, whose verb this is, knows nothing of the service. Reads
only. What it can't see: the process that serves; that one's `/readyz` and `/metrics` speak for themselves.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from pydantic import ValidationError

from wattmill_api import migrate
from wattmill_api.settings import Settings, unknown_names, without_password
from wattmill_api.store import doctor as store
from wattmill_api.store.doctor import Health

Status = Literal["OK", "WARN", "FAIL"]
Told = tuple[str, Status, str, str]
WORRYING_SKEW_S = 2
REFUSED_SKEW_S = 300  # readings from further in the future are refused
SILENT = dt.timedelta(minutes=10)
SLACK = dt.timedelta(days=2)  # retention drops whole chunks, once an hour
LATE_S, LOST_S = 180, 900  # of the newest minute behind the newest reading
_RARE_S = 3600
_LEARNERS_S = 600
_JOBS_CONNECTIONS = 2
MOST_NAMES = 3


def examine(database_url: str, environment: Mapping[str, str], now: dt.datetime) -> list[Told]:
    """Everything, in the order in which it is needed. `now`: this host's time."""
    try:
        settings = Settings(database_url=database_url)
    except ValidationError as error:
        return [
            (
                "service",
                "FAIL",
                f"WATTMILL_{str(fault['loc'][0]).upper()}: {fault['msg']}",
                "Correct this setting; the service does not start with it.",
            )
            for fault in error.errors()
        ]
    shown = without_password(database_url)
    found = list(check_settings(environment))
    try:
        engine, current = migrate.look(database_url)
        found += check_engine(engine, shown, current=current)
        if not current:
            return found
        health = store.read(
            database_url,
            now=now,
            samples=dt.timedelta(days=settings.retain_samples_days) + SLACK,
            minutes=dt.timedelta(days=settings.retain_minutes_days) + SLACK,
            silent=SILENT,
            ahead=dt.timedelta(seconds=REFUSED_SKEW_S),
        )
    except migrate.Unreachable as error:
        fix = "Check address, password and network, and that the database runs."
        return [*found, ("database", "FAIL", f"{shown} does not answer: {_first_line(error)}", fix)]
    return [*found, *judge(health, settings, now)]


def judge(health: Health, settings: Settings, now: dt.datetime) -> list[Told]:
    """What the answers mean; pure."""
    return [
        *check_server(health.server, settings, now),
        *check_jobs(health, settings, now),
        *check_roll_up(health),
        *check_retention(health, settings),
        *check_nodes(health),
        *check_access(health),
        *check_prices(health),
        *check_webhooks(health),
    ]


def check_settings(environment: Mapping[str, str]) -> Iterator[Told]:
    for name in unknown_names(environment):
        yield "settings", "FAIL", f"The variable {name} means nothing to Wattmill.", "Correct the spelling or unset it."


def check_engine(engine: migrate.Engine, shown: str, *, current: bool) -> Iterator[Told]:
    """What the database server is, and whether it has this version's schema."""
    if engine.server_version < migrate.OLDEST_SERVER:
        yield "database", "FAIL", f"{shown}: {engine}", "Wattmill needs PostgreSQL 15 or later."
    elif engine.timescaledb == "available":
        fix = "Run `CREATE EXTENSION timescaledb` there as a superuser, then `wattmill migrate`."
        yield "database", "WARN", f"{shown}: {engine}, though the server has it.", fix
    else:
        yield "database", "OK", f"{shown}: {engine}", ""
    if current:
        yield "schema", "OK", "The schema is this version's.", ""
    else:
        yield "schema", "FAIL", "The schema is not this version's.", "Run `wattmill migrate` with this database."


def check_server(server: store.Server, settings: Settings, now: dt.datetime) -> Iterator[Told]:
    if not (server.fsync and server.full_page_writes):
        fix = "Set fsync = on and full_page_writes = on: receipts promise that readings survive a crash."
        yield "database", "FAIL", "The database does not sync what it commits.", fix
    skew_s = (now - server.now).total_seconds()
    text = f"This host's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the database's."
    if abs(skew_s) > REFUSED_SKEW_S:
        yield "clock", "FAIL", text, "Set the clocks; readings and jobs are joined by time."
    elif abs(skew_s) > WORRYING_SKEW_S:
        yield "clock", "WARN", text, "Run an NTP client on both hosts."
    wanted = settings.read_connections + settings.write_connections + 1 + _JOBS_CONNECTIONS
    if wanted > server.connections:
        fix = "Raise max_connections there, or lower WATTMILL_READ_CONNECTIONS."
        text = f"A service takes up to {wanted} connections; the database gives {server.connections}."
        yield "database", "FAIL", text, fix


def check_jobs(health: Health, settings: Settings, now: dt.datetime) -> Iterator[Told]:
    """Whether someone leads, and what the jobs said last."""
    ended = [run.finished for run in health.jobs if run.finished is not None]
    fix = "Run `wattmill serve` without --no-jobs somewhere, or look at its log: /readyz and /metrics tell more."
    if not ended:
        yield "jobs", "FAIL" if health.nodes.nodes else "WARN", "No job has ever ended.", fix
        return
    idle_s = (now - max(ended)).total_seconds()
    if idle_s > allowed_s("roll-up", settings):
        yield "jobs", "FAIL", f"No job has ended for {lasted(idle_s)}.", fix
        return
    well = True
    for run in health.jobs:
        # One that runs for the first time has not ended yet.
        late_s = (now - (run.finished or run.started)).total_seconds()
        if run.ok is False:
            well = False
            yield "jobs", "FAIL", f"{run.job} failed {lasted(late_s)} ago: {run.detail}", "The service's log says more."
        elif late_s > allowed_s(run.job, settings):
            well = False
            text = f"{run.job} has not ended for {lasted(late_s)}."
            yield "jobs", "WARN", text, "Jobs take turns: look which one takes long, in the service's log."
    if well:
        yield "jobs", "OK", f"{len(health.jobs)} jobs run; the last ended {lasted(max(0.0, idle_s))} ago.", ""


def allowed_s(job: str, settings: Settings) -> float:
    """How long after its last end a job is not missed: three periods, and time for the others."""
    learners = dict.fromkeys(("curves", "phases", "verify"), _LEARNERS_S)
    periods = {"roll-up": settings.roll_up_every_s, "detect": settings.detect_every_s, **learners}
    return 3 * periods.get(job, _RARE_S) + 300


def check_roll_up(health: Health) -> Iterator[Told]:
    """How far the ledger is behind what agents sent."""
    rolled, newest = health.rolled_up, health.rolled_up.newest_reading
    if newest is None:
        return
    fix = "Look at the job roll-up; a large backlog is worked off by itself, with `waiting` falling."
    if rolled.newest_minute is None:
        yield "ledger", "FAIL", f"Readings arrive, but there is no minute of them; {rolled.waiting:,} spans wait.", fix
        return
    behind_s = (newest - rolled.newest_minute).total_seconds()
    behind = lasted(max(0.0, behind_s))
    text = f"The newest minute is {behind} behind the newest reading; {rolled.waiting:,} spans wait."
    status: Status = "FAIL" if behind_s > LOST_S else "WARN" if behind_s > LATE_S else "OK"
    yield "ledger", status, text, "" if status == "OK" else fix


def check_retention(health: Health, settings: Settings) -> Iterator[Told]:
    kept = {
        f"samples older than {settings.retain_samples_days} days": health.kept_too_long.samples,
        f"minutes older than {settings.retain_minutes_days} days": health.kept_too_long.minutes,
    }
    late = [what for what, there in kept.items() if there]
    text = f"Samples are kept {settings.retain_samples_days} days, minutes {settings.retain_minutes_days} days."
    if late:
        fix = "Look at the job retain; the days are WATTMILL_RETAIN_SAMPLES_DAYS and WATTMILL_RETAIN_MINUTES_DAYS."
        yield "retention", "WARN", f"There are still {' and '.join(late)}.", fix
    else:
        yield "retention", "OK", text, ""


def check_nodes(health: Health) -> Iterator[Told]:
    nodes = health.nodes
    if not nodes.nodes:
        fix = "Set `server:` of an agent to this service; `wattmill simulate` gives it a simulated fleet."
        yield "nodes", "WARN", "No node has reported in the last week.", fix
        return
    if nodes.silent:
        names = ", ".join((nodes.longest_silent or [])[:MOST_NAMES])
        text = f"{nodes.silent} of {nodes.nodes} nodes are silent for {lasted(SILENT.total_seconds())} or more: {names}"
        yield "nodes", "WARN", text, "Run `wattmill doctor` there; what is gone for good drops out after a week."
    else:
        yield "nodes", "OK", f"{nodes.nodes} nodes report.", ""
    if nodes.ahead:
        yield "clock", "WARN", f"{nodes.ahead} nodes are ahead of this clock.", "Run an NTP client there and here."


def check_access(health: Health) -> Iterator[Told]:
    if health.access.keys:
        yield "keys", "OK", "A key is needed.", ""
    else:
        fix = "Create one with `wattmill key create --scope admin`; from then on everyone needs a key."
        yield "keys", "WARN", "There is no key: whoever reaches the service may read and write.", fix


def check_prices(health: Health) -> Iterator[Told]:
    for what, path, missing in (
        ("tariff", "tariffs", [site.site for site in health.sites if site.tariff]),
        ("carbon intensity", "carbon", [site.site for site in health.sites if site.carbon]),
    ):
        if missing:
            more = f" and {len(missing) - MOST_NAMES} more" if len(missing) > MOST_NAMES else ""
            text = f"No {what} is set for {', '.join(missing[:MOST_NAMES])}{more}: nothing is said of it there."
            yield "prices", "WARN", text, f"PUT /api/v1/{path}, for a site or for `*`."


def check_webhooks(health: Health) -> Iterator[Told]:
    for webhook in health.failing_webhooks:
        text = f"{webhook.name} did not take {webhook.failures} posts in a row: {webhook.error}"
        yield "webhooks", "WARN", text, f"Try `wattmill webhook test {webhook.name}`."


def lasted(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h`, `2 days`."""
    for unit_s, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds:.0f} s"


def _first_line(error: Exception) -> str:
    lines: Iterable[str] = str(error).strip().splitlines()
    return next(iter(lines), type(error).__name__)
