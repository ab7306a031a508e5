"""The life of findings: an incident opens one, feeds it and closes it, whatever is looked at again and again.

An incident is matched to its finding by kind, subject and time: up to half an hour of quiet does not part them, and
what was told as one incident stays one. Where several findings turn out to be one incident, the one that a person has
marked stays, else the oldest; it takes over what the others counted, and they are listed no more. States:

- `open` → `acknowledged` (a person) → `closed` (the cause is gone) or `resolved` (a person);
- a closed one that flares up within half an hour is the same finding, in the state it had;
- a resolved one opens again when its incident goes on for an hour;
- `suppressed`: the incident lies inside a suppression window, or has gone on into one that began after it, unless
  somebody has acknowledged it; one that outlasts the window opens when that ends.

Energy is that of all minutes since the finding began. Detection looks at a day or so only: when the minutes it looks
at no longer reach back to the beginning, what was counted before them is carried, and evidence says since when it is.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import logging
from collections.abc import Iterable, Sequence
from typing import Literal

from wattmill_analytics.findings import Incident
from wattmill_api.store import lifecycle as store
from wattmill_api.store.database import Connection
from wattmill_api.store.lifecycle import DETECTION, Known, Seen, Subject, Window

log = logging.getLogger(__name__)
State = Literal["open", "acknowledged", "resolved", "closed", "suppressed"]
FLAPS_WITHIN = dt.timedelta(minutes=30)
REOPENS_AFTER = dt.timedelta(hours=1)
# A change of version is looked for near the beginning of an incident, which may be told some way off.
VERSION_IN_SIGHT = dt.timedelta(hours=2)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Sighting:
    """An incident of a kind and who it is about."""

    kind: str
    subject: Subject
    incident: Incident

    @property
    def since(self) -> dt.datetime:
        return time_of(self.incident.since_us)

    @property
    def until(self) -> dt.datetime:
        return time_of(self.incident.until_us)


def time_of(time_us: int) -> dt.datetime:
    """Microseconds since 1970 as a time in UTC."""
    return _EPOCH + dt.timedelta(microseconds=time_us)


def keep(
    connection: Connection,
    sightings: Iterable[Sighting],
    known: Sequence[Known],
    windows: Sequence[Window],
    first: dt.datetime,
    now: dt.datetime,
) -> int:
    """Bring findings in line with the incidents seen at `now` in minutes from `first` on; returns how many are new.

    `known`: all findings of the subjects looked at. Those not over whose incident is not seen any more are closed.
    Each kind and subject stands or falls by itself: one that the store refuses is logged, and the others are kept.
    """
    seen: dict[tuple[str, str], list[Sighting]] = {}
    for sighting in sorted(sightings, key=lambda each: each.incident.since_us):
        seen.setdefault((sighting.kind, sighting.subject.name), []).append(sighting)
    before: dict[tuple[str, str], list[Known]] = {}
    for each in known:
        before.setdefault((each.kind, each.subject), []).append(each)
    new = 0
    for key in dict.fromkeys([*seen, *before]):
        mine = before.get(key, [])
        if key not in seen and all(each.until is not None for each in mine):
            continue
        try:
            with store.apart(connection):
                new += _keep_subject(connection, seen.get(key, []), mine, windows, first, now)
        except store.Refused:
            log.exception("findings of %s about %s can't be kept", *key, extra={"action": "detect"})
    return new


def _keep_subject(
    connection: Connection,
    sightings: Sequence[Sighting],
    known: Sequence[Known],
    windows: Sequence[Window],
    first: dt.datetime,
    now: dt.datetime,
) -> int:
    """The same for one kind and subject. At most one finding of it is open at any moment, so ends come first."""
    matched = match(sightings, known)
    touched = {each.finding_id for _, mine in matched for each in mine}
    close_unseen(connection, [each for each in known if each.finding_id not in touched])
    new = 0
    for sighting, mine in matched:
        carried = max((carried_mj(each, sighting, first) for each in mine), default=0)
        for other in mine[1:]:
            store.merge(connection, other.finding_id, mine[0].finding_id)
            note = f"It turned out to be one incident with finding {mine[0].finding_id}."
            store.note_event(connection, other.finding_id, "closed", DETECTION, note)
        kept = functools.reduce(_with, mine[1:], mine[0]) if mine else None
        new += _keep_one(connection, sighting, kept, windows, carried, first, now)
    return new


def match(sightings: Iterable[Sighting], known: Iterable[Known]) -> list[tuple[Sighting, list[Known]]]:
    """Incidents of one kind and subject in order of time, each with its findings, the one that stays first; pure.

    Only the newest of them may go on.
    """
    left = list(known)
    found = []
    for sighting in joined(sightings, left):
        mine = [each for each in left if _near(each, sighting)]
        left = [each for each in left if each not in mine]
        mine.sort(key=lambda each: (each.acknowledged is None and each.resolved is None, each.finding_id))
        found.append((sighting, mine))
    return [(sighting if i == len(found) - 1 else _ended(sighting), mine) for i, (sighting, mine) in enumerate(found)]


def _ended(sighting: Sighting) -> Sighting:
    return dataclasses.replace(sighting, incident=dataclasses.replace(sighting.incident, over=True))


def _with(kept: Known, other: Known) -> Known:
    """What is known of a finding that takes over another."""
    return dataclasses.replace(
        kept,
        since=min(kept.since, other.since),
        last_seen=max(kept.last_seen, other.last_seen),
        energy_mj=kept.energy_mj + other.energy_mj,
        evidence={**_version_of(other), **kept.evidence},
        remedy=other.remedy if _version_of(other) and not _version_of(kept) else kept.remedy,
    )


def close_unseen(connection: Connection, known: Iterable[Known]) -> int:
    """Close those not over yet: their incidents are not there any more, or never were; returns how many."""
    closed = 0
    for each in known:
        if each.until is None:
            state = each.state if each.state in ("resolved", "suppressed") else "closed"
            store.close(connection, each.finding_id, state)
            if state == "closed":
                store.note_event(connection, each.finding_id, "closed", DETECTION, "Its incident is not seen any more.")
            closed += 1
    return closed


def joined(sightings: Iterable[Sighting], known: Iterable[Known] = ()) -> list[Sighting]:
    """Sightings in order of time; those of one kind and subject that flap within half an hour are one.

    So are those that a finding of `known` told as one: where it is divided may change from run to run. Energy adds up;
    evidence and words are those of the stretch that cost most, with how many there were.
    """
    told: dict[tuple[str, str], list[Known]] = {}
    for each in known:
        told.setdefault((each.kind, each.subject), []).append(each)
    groups: dict[tuple[str, str], list[list[Sighting]]] = {}
    for sighting in sorted(sightings, key=lambda each: each.incident.since_us):
        key = (sighting.kind, sighting.subject.name)
        stretches = groups.setdefault(key, [])
        until = max((each.until for each in stretches[-1]), default=None) if stretches else None
        if until is not None and (
            sighting.since <= until + FLAPS_WITHIN
            or any(each.since < until and sighting.since < each.end for each in told.get(key, ()))
        ):
            stretches[-1].append(sighting)
        else:
            stretches.append([sighting])
    found = [_one(stretch) for stretches in groups.values() for stretch in stretches]
    return sorted(found, key=lambda each: each.incident.since_us)


def _one(stretch: Sequence[Sighting]) -> Sighting:
    if len(stretch) == 1:
        return stretch[0]
    incidents = [each.incident for each in stretch]
    worst = max(incidents, key=lambda each: (each.energy_mj, each.until_us - each.since_us))
    newest = max(incidents, key=lambda each: each.until_us)
    together = dataclasses.replace(
        worst,
        since_us=incidents[0].since_us,
        until_us=newest.until_us,
        known_us=min(each.known_us for each in incidents),
        over=newest.over,
        energy_mj=sum(each.energy_mj for each in incidents),
        evidence={**worst.evidence, "stretches": len(incidents)},
    )
    return Sighting(stretch[0].kind, stretch[0].subject, together)


def next_state(
    known: Known | None, *, over: bool, until: dt.datetime, suppressed: bool, silenced: bool = False
) -> State:
    """The state of a finding whose incident was seen, up to `until`; pure.

    `suppressed`: it lies inside a suppression window; `silenced`: its end does.
    """
    silenced = silenced or suppressed
    if known is not None and known.state == "resolved":
        goes_on = known.resolved is not None and not over and until > known.resolved + REOPENS_AFTER
        return "open" if goes_on and not silenced else "resolved"
    if suppressed and (known is None or known.state == "suppressed"):
        return "suppressed"
    if over:
        return "closed"
    # One that was resolved once and opened again has lost the mark of whoever saw it then.
    if known is not None and known.acknowledged is not None:
        return "acknowledged"
    return "suppressed" if silenced else "open"


def carried_mj(known: Known | None, sighting: Sighting, first: dt.datetime) -> int:
    """Energy of a finding from before `first`, which the incident seen since then does not hold; pure.

    When the first minute looked at has moved on, that is what was counted so far less the incident's energy up to
    where it was seen then; the one interval since is taken out at the incident's mean rate.
    """
    if known is None or known.since >= first:
        return 0
    if known.counted_from == first:
        return known.carried_mj
    begin = max(sighting.since, first)
    share = (known.last_seen - begin) / (sighting.until - begin)
    return max(0, known.energy_mj - round(sighting.incident.energy_mj * min(1.0, max(0.0, share))))


def _near(known: Known, sighting: Sighting) -> bool:
    return known.since - FLAPS_WITHIN <= sighting.until and sighting.since <= known.end + FLAPS_WITHIN


def _version_of(known: Known | None) -> dict[str, float | int | str]:
    """The change of version that a finding began with, if it was told."""
    names = ("version_before", "version_after")
    return {} if known is None else {name: known.evidence[name] for name in names if name in known.evidence}


def _keep_one(
    connection: Connection,
    sighting: Sighting,
    known: Known | None,
    windows: Sequence[Window],
    carried: int,
    first: dt.datetime,
    now: dt.datetime,
) -> int:
    incident, until = sighting.incident, sighting.until
    state = next_state(
        known,
        over=incident.over,
        until=until,
        suppressed=any(w.covers(sighting.kind, sighting.subject, sighting.since, until) for w in windows),
        silenced=any(w.silences(sighting.kind, sighting.subject, until) for w in windows),
    )
    if known is not None and state == "resolved" and known.resolved is not None and until > known.resolved:
        return 0  # over from when the person said so, unless it goes on for long
    out_of_sight = known is not None and known.since < first
    if known is not None and out_of_sight and state == known.state and known.until == until == known.last_seen:
        return 0  # it is over, and was seen whole before
    incident = _with_version(incident, known, first)
    rate = None if incident.over or state == "resolved" else _per_day(incident)
    seen = Seen(
        state=state,
        since=sighting.since,
        until=until if incident.over or state == "resolved" else None,
        last_seen=until,
        known=time_of(incident.known_us),
        energy_mj=carried + incident.energy_mj,
        carried_mj=carried,
        counted_from=first,
        mj_per_day=rate,
        evidence={**incident.evidence, "evidence_since": first.isoformat()} if out_of_sight else incident.evidence,
        summary=incident.summary + (f" (figures since {first:%Y-%m-%d %H:%M} UTC)" if out_of_sight else ""),
        remedy=incident.remedy,
    )
    if known is None:
        finding_id = store.insert(connection, sighting.kind, sighting.subject, seen, now)
        store.note_event(connection, finding_id, "suppressed" if state == "suppressed" else "opened", DETECTION)
        if state == "closed":
            store.note_event(connection, finding_id, "closed", DETECTION, "Its incident was over when it was found.")
        return int(state != "suppressed")
    store.update(connection, known.finding_id, sighting.subject, seen)
    if state != known.state:
        _note_change(connection, known, state)
    return 0


def _with_version(incident: Incident, known: Known | None, first: dt.datetime) -> Incident:
    """The incident with the change of version that its finding began with, where that is out of sight by now."""
    versions = _version_of(known)
    if (
        known is None
        or known.since >= first + VERSION_IN_SIGHT
        or len(versions) < 2
        or "version_after" in incident.evidence
    ):
        return incident
    return dataclasses.replace(
        incident,
        evidence={**incident.evidence, **versions},
        summary=f"{incident.summary}; it began with the engine's change from version {versions['version_before']} to "
        f"{versions['version_after']}",
        remedy=known.remedy or incident.remedy,
    )


def _note_change(connection: Connection, known: Known, state: State) -> None:
    if state == "closed":
        store.note_event(connection, known.finding_id, "closed", DETECTION, "The incident is over.")
    elif state == "suppressed":
        store.note_event(connection, known.finding_id, "suppressed", DETECTION, "A suppression window covers it now.")
        if known.state == "closed":
            store.forget_saving(connection, known.finding_id)
    elif known.state == "suppressed":
        store.note_event(connection, known.finding_id, "opened", DETECTION, "It outlasts its suppression window.")
    else:
        store.forget_saving(connection, known.finding_id)
        store.note_event(connection, known.finding_id, "reopened", DETECTION, "The incident goes on.")


def _per_day(incident: Incident) -> int:
    return round(incident.energy_mj * 86_400_000_000 / max(1, incident.until_us - incident.since_us))
