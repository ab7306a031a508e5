"""Rules of a finding's life that need no database: states, flapping, carried energy, suppression windows."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest

from wattmill_analytics.findings import Incident
from wattmill_api import lifecycle
from wattmill_api.lifecycle import Sighting
from wattmill_api.store.lifecycle import Known, Subject, Window

T0 = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)
MINUTE, HOUR = dt.timedelta(minutes=1), dt.timedelta(hours=1)
ENGINE = Subject("engine:ams1/gpu-1 e", "ams1", "gpu-1", "chat", False, (1,), (1,))
KNOWN = Known(1, "idle-loaded", ENGINE.name, "open", T0, None, T0 + HOUR, None, None, 600, 0, T0)


def seen(begin: int, end: int, energy_mj: int = 100, *, over: bool = False, kind: str = "idle-loaded") -> Sighting:
    """An incident from minute `begin` to minute `end` after noon."""
    start_us, minute_us = int(T0.timestamp()) * 1_000_000, 60_000_000
    since_us, until_us = start_us + begin * minute_us, start_us + end * minute_us
    incident = Incident(0, since_us, until_us, since_us + 10 * minute_us, over, energy_mj, {"m": end - begin}, "s", "r")
    return Sighting(kind, ENGINE, incident)


@pytest.mark.parametrize(
    ("before", "over", "suppressed", "after"),
    [
        (None, False, False, "open"),
        (None, True, False, "closed"),
        (None, False, True, "suppressed"),
        ("open", False, False, "open"),
        ("open", True, False, "closed"),
        ("open", False, True, "suppressed"),
        ("open", True, True, "closed"),
        ("acknowledged", False, False, "acknowledged"),
        ("acknowledged", False, True, "acknowledged"),
        ("acknowledged", True, False, "closed"),
        ("closed", False, False, "open"),
        ("closed", True, False, "closed"),
        ("suppressed", False, True, "suppressed"),
        ("suppressed", True, True, "suppressed"),
        ("suppressed", False, False, "open"),
        ("suppressed", True, False, "closed"),
    ],
)
def test_states(before: str | None, over: bool, suppressed: bool, after: str) -> None:
    known = None
    if before is not None:
        known = dataclasses.replace(KNOWN, state=before, acknowledged=T0 if before == "acknowledged" else None)
    assert lifecycle.next_state(known, over=over, until=T0, suppressed=suppressed) == after


def test_a_resolved_one_opens_again_when_it_goes_on_for_an_hour() -> None:
    known = dataclasses.replace(KNOWN, state="resolved", resolved=T0, acknowledged=T0)

    def then(after: dt.timedelta, *, over: bool = False) -> str:
        return lifecycle.next_state(known, over=over, until=T0 + after, suppressed=False)

    assert [then(HOUR), then(HOUR + MINUTE), then(HOUR + MINUTE, over=True)] == ["resolved", "open", "resolved"]


def test_a_resolved_one_stays_so_while_a_window_silences_it() -> None:
    known = dataclasses.replace(KNOWN, state="resolved", resolved=T0)
    later = [
        lifecycle.next_state(known, over=False, until=T0 + 2 * HOUR, suppressed=False, silenced=silenced)
        for silenced in (True, False)
    ]
    assert later == ["resolved", "open"]


def test_what_was_told_as_one_incident_is_not_divided() -> None:
    """Told from noon to half past three; seen in two pieces an hour and a half apart now."""
    known = dataclasses.replace(KNOWN, last_seen=T0 + 210 * MINUTE)
    pieces = [seen(0, 60, 70, over=True), seen(150, 220, 300)]
    [(together, mine)] = lifecycle.match(pieces, [known])
    assert (together.since, together.until, together.incident.energy_mj) == (T0, T0 + 220 * MINUTE, 370)
    assert mine == [known]
    # Told up to one o'clock only, they are two.
    apart = lifecycle.match(pieces, [KNOWN])
    assert [mine for _, mine in apart] == [[KNOWN], []]


def test_of_several_findings_of_one_incident_the_marked_one_stays_else_the_oldest() -> None:
    oldest, middle, newest = (dataclasses.replace(KNOWN, finding_id=i, state="closed", until=T0) for i in (1, 2, 3))
    [(_, mine)] = lifecycle.match([seen(0, 60)], [newest, oldest, middle])
    assert [each.finding_id for each in mine] == [1, 2, 3]
    marked = dataclasses.replace(middle, acknowledged=T0)
    [(_, mine)] = lifecycle.match([seen(0, 60)], [oldest, marked, newest])
    assert [each.finding_id for each in mine] == [2, 1, 3]


def test_only_the_newest_incident_of_a_subject_goes_on() -> None:
    matched = lifecycle.match([seen(0, 20), seen(60, 90)], [])
    assert [sighting.incident.over for sighting, _ in matched] == [True, False]


def test_stretches_that_lie_half_an_hour_apart_are_one_incident_and_others_are_not() -> None:
    joined = lifecycle.joined([seen(131, 150, 50), seen(0, 20, 70, over=True), seen(50, 100, 300, over=True)])
    assert [(s.since, s.until, s.incident.energy_mj, s.incident.over) for s in joined] == [
        (T0, T0 + 100 * MINUTE, 370, True),
        (T0 + 131 * MINUTE, T0 + 150 * MINUTE, 50, False),
    ]
    # Evidence is that of the dearest stretch; known when the first one was.
    assert joined[0].incident.evidence == {"m": 50, "stretches": 2}
    assert joined[0].incident.known_us == seen(0, 20).incident.known_us


def test_kinds_and_subjects_are_never_joined() -> None:
    other = Sighting("idle-loaded", dataclasses.replace(ENGINE, name="engine:other"), seen(0, 9).incident)
    assert len(lifecycle.joined([seen(0, 9), seen(0, 9, kind="low-batch"), other])) == 3


def test_nothing_is_carried_while_the_minutes_reach_back_to_the_beginning() -> None:
    assert lifecycle.carried_mj(None, seen(0, 60), T0) == 0
    assert lifecycle.carried_mj(KNOWN, seen(0, 60), T0) == 0


def test_what_was_counted_before_the_minutes_looked_at_is_carried() -> None:
    """600 mJ in the first hour. Half an hour is out of sight now; 10 minutes later the rest costs 400 mJ in 40."""
    first = T0 + HOUR / 2
    now = seen(30, 70, 400)
    # Of the 400, 300 were counted already; so 300 of the 600 lie before.
    assert lifecycle.carried_mj(KNOWN, now, first) == 300
    carried = dataclasses.replace(KNOWN, counted_from=first, carried_mj=300, energy_mj=700)
    assert lifecycle.carried_mj(carried, seen(30, 71, 411), first) == 300


def test_a_window_silences_what_goes_on_into_it() -> None:
    window = Window("*", "*", "chat", "*", "*", T0, T0 + HOUR)
    ends = (T0, T0 + MINUTE, T0 + HOUR, T0 + HOUR + MINUTE)
    assert [window.silences("idle-loaded", ENGINE, end) for end in ends] == [False, True, True, False]
    assert not dataclasses.replace(window, node="gpu-2").silences("idle-loaded", ENGINE, T0 + MINUTE)


def test_a_window_covers_what_lies_inside_it_and_bears_its_names() -> None:
    window = Window("*", "*", "chat", "*", "*", T0, T0 + HOUR)

    def covers(since: dt.datetime, until: dt.datetime, **names: Any) -> bool:
        return dataclasses.replace(window, **names).covers("idle-loaded", ENGINE, since, until)

    assert covers(T0, T0 + HOUR)
    assert not covers(T0 - MINUTE, T0 + HOUR)
    assert not covers(T0, T0 + HOUR + MINUTE)
    assert covers(T0, T0 + HOUR, kind="idle-loaded", node="gpu-1", site="ams1", subject=ENGINE.name)
    assert not covers(T0, T0 + HOUR, kind="low-batch")
    assert not covers(T0, T0 + HOUR, workload="other")
