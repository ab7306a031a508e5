"""Runs the detectors over closed minutes, group by group, and hands what they find to the life of findings.

A run looks back over a day and more, so that a day loaded at once is seen whole and a peak is known before anything is
called too large. It looks at all of a fleet, or, where that would take longer than a run may, at the next part of it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.detectors import detect_boards, detect_engines
from wattmill_analytics.findings.minutes import TOLD_FROM_BEFORE
from wattmill_analytics.findings.residuals import LEAST_LEVEL_MINUTES
from wattmill_api import judged, lifecycle, savings
from wattmill_api.judged import Group, Judged
from wattmill_api.lifecycle import Sighting
from wattmill_api.store import curves
from wattmill_api.store import detection as store
from wattmill_api.store import lifecycle as findings
from wattmill_api.store.database import Connection
from wattmill_api.store.detection import Engine
from wattmill_api.store.lifecycle import Known, Subject

# A run reads minutes from a whole quarter of a day on, so that it stays the same minute for some hours.
LOOK_BACK, _STEP = dt.timedelta(hours=24), dt.timedelta(hours=6)
# Engines and boards whose minutes are in memory at once (a million of each day's), and that one run looks at.
MOST_AT_ONCE, MOST_IN_A_RUN = 700, 2_800
_MINUTE = dt.timedelta(minutes=1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def detect(connection: Connection, now: dt.datetime) -> str:
    """One run over the newest closed minutes; returns what it did in a few words."""
    newest = store.newest(connection, now)
    if newest is None:
        return "no minutes yet"
    last = newest + _MINUTE
    first = last - LOOK_BACK - (last - LOOK_BACK - _EPOCH) % _STEP
    inventory = store.inventory(connection, first)
    groups = judged.groups(inventory, MOST_AT_ONCE)
    reference = curves.reference(connection, last)
    names = workload_names(inventory.engines)
    known = findings.known_findings(connection, first)
    windows = findings.windows(connection, first)
    seen = new = 0
    for group in _whose_turn_it_is(connection, groups):
        minutes = under_way(judged.read(connection, group, reference, first, last), names, known, first)
        sightings = look(minutes, names)
        subjects = _subjects(group, names)
        with connection.transaction():
            mine = [each for each in known if each.subject in subjects]
            new += lifecycle.keep(connection, sightings, mine, windows, first, now)
        seen += len(sightings)
    everyone = _subjects(Group(tuple(inventory.engines), tuple(inventory.boards)), names)
    with connection.transaction():
        gone = lifecycle.close_unseen(connection, [each for each in known if each.subject not in everyone])
        followed = savings.measure(connection, last)
    return f"{seen} incidents, {new} new findings, {gone} of subjects that are gone, {followed} remedies followed"


def _whose_turn_it_is(connection: Connection, groups: Sequence[Group]) -> list[Group]:
    """All groups, or as many as a run may look at, beginning after those of the run before."""
    if sum(group.size for group in groups) <= MOST_IN_A_RUN:
        return list(groups)
    count = max(1, MOST_IN_A_RUN // MOST_AT_ONCE)
    begin = store.turn(connection) * count
    return [groups[i % len(groups)] for i in range(begin, begin + min(count, len(groups)))]


def under_way(minutes: Judged, names: Mapping[int, str], known: Iterable[Known], first: dt.datetime) -> Judged:
    """The same minutes, from `first` on, with what is known of incidents that they don't reach far enough back to tell.

    The level that was usual before such an incident stands in its finding's evidence (`usual_energy_ratio`).
    """
    rows: dict[str, list[int]] = {}
    for i, engine in enumerate(minutes.engines):
        rows.setdefault(f"engine:{engine.name}", []).append(i)
        rows.setdefault(_of_workload(engine, names), []).append(i)
    levels = np.full((len(minutes.engines), len(TOLD_FROM_BEFORE)), np.nan)
    since_us = np.zeros(levels.shape, np.int64)
    told_before = first + dt.timedelta(minutes=LEAST_LEVEL_MINUTES)
    for each in known:
        going_on = each.until is None and each.last_seen >= first
        if each.kind in TOLD_FROM_BEFORE and going_on and each.since < told_before:
            whose, column = rows.get(each.subject, []), TOLD_FROM_BEFORE.index(each.kind)
            levels[whose, column] = math.log(float(each.evidence.get("usual_energy_ratio", 1.0)))
            since_us[whose, column] = (each.since - _EPOCH) // dt.timedelta(microseconds=1)
    engine_minutes = dataclasses.replace(minutes.engine_minutes, levels_under_way=levels, under_way_since_us=since_us)
    return dataclasses.replace(minutes, engine_minutes=engine_minutes)


def look(minutes: Judged, names: Mapping[int, str]) -> list[Sighting]:
    """What all detectors find in a group's minutes. `names`: of workloads, by id."""
    sightings: list[Sighting] = []
    for kind, incident in detect_boards(minutes.board_minutes):
        board = minutes.boards[incident.subject]
        subject = Subject(
            f"accelerator:{board.uuid}", board.site, board.node, "", board.simulated, (), (board.accelerator_id,)
        )
        sightings.append(Sighting(kind, subject, incident))
    for detector, incident in detect_engines(minutes.engine_minutes):
        if detector.about == "workload":
            whose = [engine for engine in minutes.engines if engine.pool == minutes.pools[incident.subject]]
            name = _of_workload(whose[0], names)
        else:
            whose = [minutes.engines[incident.subject]]
            name = f"engine:{whose[0].name}"
        sightings.append(Sighting(detector.kind, _about(name, whose), _in_words(incident, minutes)))
    return sightings


def _about(name: str, engines: Sequence[Engine]) -> Subject:
    sites, nodes = {engine.site for engine in engines}, {(engine.site, engine.node) for engine in engines}
    return Subject(
        name=name,
        site=engines[0].site if len(sites) == 1 else "",
        node=engines[0].node if len(nodes) == 1 else "",
        workload=engines[0].workload,
        simulated=any(engine.simulated for engine in engines),
        engine_ids=tuple(engine.engine_id for engine in engines),
        board_ids=tuple(sorted({board for engine in engines for board in engine.board_ids})),
    )


def _in_words(incident: Incident, minutes: Judged) -> Incident:
    """Codes of versions and ids of boards in the evidence become the names that people know them by."""
    evidence: dict[str, float | int | str] = {}
    uuids = {board.accelerator_id: board.uuid for board in minutes.boards}
    for name, value in incident.evidence.items():
        if name in ("version_before", "version_after") and isinstance(value, int):
            if 0 <= value < len(minutes.versions):
                evidence[name] = minutes.versions[value]
        elif name == "slow_board" and isinstance(value, int):
            if value in uuids:
                evidence[name] = uuids[value]
        else:
            evidence[name] = value
    return dataclasses.replace(incident, evidence=evidence)


def workload_names(engines: Sequence[Engine]) -> dict[int, str]:
    """What each workload is called in findings: its name, with model and team where two have the same one."""
    known = {engine.workload_id: engine for engine in engines}
    same = Counter(engine.workload for engine in known.values())
    return {
        id_: engine.workload if same[engine.workload] == 1 else f"{engine.workload} ({engine.model}, {engine.team})"
        for id_, engine in known.items()
    }


def _of_workload(engine: Engine, names: Mapping[int, str]) -> str:
    """The subject of findings about an engine's workload, or about the part of it that does what this engine does."""
    return f"workload:{names[engine.workload_id]}{f' ({engine.role})' if engine.role else ''}"


def _subjects(group: Group, names: Mapping[int, str]) -> set[str]:
    return (
        {f"engine:{engine.name}" for engine in group.engines}
        | {_of_workload(engine, names) for engine in group.engines}
        | {f"accelerator:{board.uuid}" for board in group.boards}
    )
