"""Minutes for the detectors as arrays; findings as they are kept: one incident is one row."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from wattmill_analytics.findings import Incident, Minutes
from wattmill_api.store import statements
from wattmill_api.store.rollup import Int64, read_columns

_SQL = statements("detection")
_INTEGERS = (
    "serving_mj",
    "idle_loaded_mj",
    "idle_empty_mj",
    "estimated_mj",
    "output_tokens",
    "anomalies",
    "untrusted_us",
)
_RATIOS = ("power_ratio", "utilisation_ratio", "requests_running", "requests_waiting")


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """Who a finding is about."""

    name: str
    site: str
    node: str
    workload: str
    simulated: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A finding that may be about an incident found now."""

    finding_id: int
    kind: str
    subject: str
    state: str
    since: dt.datetime
    until: dt.datetime | None
    last_seen: dt.datetime
    resolved: dt.datetime | None


def window(connection: psycopg.Connection[Any], now: dt.datetime) -> tuple[int, dt.datetime | None, dt.datetime | None]:
    """Number of accelerators, begin of the oldest open finding, newest closed minute of the last 30 days."""
    row = connection.execute(
        _SQL["window"], {"after": now - dt.timedelta(days=30), "now": now + dt.timedelta(hours=1)}
    ).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    return row[0], row[1], row[2]


def read_minutes(
    connection: psycopg.Connection[Any],
    looks_at: Literal["engine", "accelerator"],
    first: dt.datetime,
    last: dt.datetime,
) -> tuple[Int64, Minutes]:
    """Ids of the subjects, and their minutes in [first, last)."""
    names = ("id", "time_us", *_INTEGERS, *_RATIOS)
    parameters = {"first": first, "last": last}
    samples = read_columns(connection, _SQL[f"{looks_at}_minutes"], parameters, names, frozenset(_RATIOS))
    columns: dict[str, Any] = {name: samples[name] for name in _INTEGERS} | dict(samples.ratios)
    minutes = Minutes(offsets=samples.offsets, minute_us=samples["time_us"], **columns)
    return samples.ids, minutes


def subjects(
    connection: psycopg.Connection[Any], looks_at: Literal["engine", "accelerator"], ids: Sequence[int]
) -> dict[int, Subject]:
    """Names and places of engines or accelerators."""
    rows = connection.execute(_SQL[f"{looks_at}_subjects"], {"ids": list(ids)})
    return {row[0]: Subject(*row[1:]) for row in rows}


def known_findings(connection: psycopg.Connection[Any], first: dt.datetime) -> list[Known]:
    """Findings that are not over, or were seen since `first`."""
    return [Known(*row) for row in connection.execute(_SQL["findings_since"], {"first": first})]


def _row(incident: Incident, state: str, until: dt.datetime | None) -> dict[str, Any]:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return {
        "state": state,
        "since": epoch + dt.timedelta(microseconds=incident.since_us),
        "until": until,
        "last_seen": epoch + dt.timedelta(microseconds=incident.until_us),
        "energy_mj": incident.energy_mj,
        "evidence": Jsonb(dict(incident.evidence)),
        "summary": incident.summary,
        "remedy": incident.remedy,
    }


def insert_finding(
    connection: psycopg.Connection[Any],
    kind: str,
    subject: Subject,
    incident: Incident,
    state: str,
    until: dt.datetime | None,
) -> None:
    """A new incident."""
    place = {"subject": subject.name, "site": subject.site, "node": subject.node}
    row = _row(incident, state, until)
    connection.execute(
        _SQL["insert_finding"],
        {**row, **place, "kind": kind, "workload": subject.workload, "simulated": subject.simulated},
    )


def update_finding(
    connection: psycopg.Connection[Any],
    known: Known,
    subject: Subject,
    incident: Incident,
    state: str,
    until: dt.datetime | None,
) -> None:
    """What is known now of an incident that has its finding."""
    row = _row(incident, state, until)
    connection.execute(_SQL["update_finding"], {**row, "finding_id": known.finding_id, "workload": subject.workload})


def close_finding(connection: psycopg.Connection[Any], known: Known) -> None:
    """The incident is not there any more, for instance because late data showed that it never was."""
    connection.execute(_SQL["close_finding"], {"finding_id": known.finding_id})
