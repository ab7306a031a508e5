"""Runs the detectors over closed minutes and keeps the findings: one incident is one finding, whatever runs again.

An incident is matched to its finding by kind, subject and overlapping time. It opens, grows, and closes by itself;
an acknowledged finding stays acknowledged, a resolved one opens again when its incident goes on for an hour.
"""

from __future__ import annotations

import datetime as dt

from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.detectors import DETECTORS
from wattmill_api.store import detection as store
from wattmill_api.store.database import Connection
from wattmill_api.store.detection import Known, Subject

# How far back a run looks: a day and a bit, so that a day loaded at once is seen whole; less for very large fleets,
# where a run would read more minutes than it has seconds for.
_LOOK_BACK = dt.timedelta(hours=26)
_LOOK_BACK_LARGE = dt.timedelta(hours=3)
_LARGE_FLEET = 2_000
_FARTHEST = dt.timedelta(days=8)
_REOPEN_AFTER = dt.timedelta(hours=1)


def detect(connection: Connection, now: dt.datetime) -> str:
    """One run over the newest closed minutes; returns what it did in a few words."""
    accelerators, oldest_open, newest = store.window(connection, now)
    if newest is None:
        return "no minutes yet"
    last = newest + dt.timedelta(minutes=1)
    first = last - (_LOOK_BACK if accelerators <= _LARGE_FLEET else _LOOK_BACK_LARGE)
    if oldest_open is not None:
        first = max(min(first, oldest_open), last - _FARTHEST)
    incidents: list[tuple[str, Subject, Incident]] = []
    for looks_at in ("engine", "accelerator"):
        ids, minutes = store.read_minutes(connection, looks_at, first, last)
        found = [
            (detector.kind, incident)
            for detector in DETECTORS
            if detector.looks_at == looks_at
            for incident in detector.detect(minutes)
        ]
        wanted = sorted({int(ids[incident.subject]) for _, incident in found})
        subjects = store.subjects(connection, looks_at, wanted)
        incidents += [(kind, subjects[int(ids[incident.subject])], incident) for kind, incident in found]
    with connection.transaction():
        return _keep(connection, first, incidents)


def _keep(connection: Connection, first: dt.datetime, incidents: list[tuple[str, Subject, Incident]]) -> str:
    by_subject: dict[tuple[str, str], list[Known]] = {}
    for known in store.known_findings(connection, first):
        by_subject.setdefault((known.kind, known.subject), []).append(known)
    touched: set[int] = set()
    opened = 0
    # Those that are over first: a finding must be closed before the next one of its subject opens.
    for kind, subject, incident in sorted(incidents, key=lambda item: (not item[2].over, item[2].since_us)):
        since, until = _time(incident.since_us), _time(incident.until_us)
        match = [
            known
            for known in by_subject.get((kind, subject.name), [])
            if known.finding_id not in touched and since <= known.last_seen and known.since <= until
        ]
        if match:
            known = match[0]
            touched |= {k.finding_id for k in match}
            for other in match[1:]:
                store.close_finding(connection, other)
            state = _state(known, incident, until)
            store.update_finding(
                connection, known, subject, incident, state, until if incident.over or state == "resolved" else None
            )
        else:
            opened += 1
            state = "closed" if incident.over else "open"
            store.insert_finding(connection, kind, subject, incident, state, until if incident.over else None)
    stale = [k for group in by_subject.values() for k in group if k.until is None and k.finding_id not in touched]
    for known in stale:
        store.close_finding(connection, known)
    return f"{len(incidents)} incidents, {opened} new findings, {len(stale)} closed"


def _state(known: Known, incident: Incident, until: dt.datetime) -> str:
    if known.state == "resolved":
        goes_on = known.resolved is not None and not incident.over and until > known.resolved + _REOPEN_AFTER
        return "open" if goes_on else "resolved"
    if incident.over:
        return "closed"
    return known.state if known.state == "acknowledged" else "open"


def _time(time_us: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)
