"""Findings of incidents that change from run to run, on a real database: ids and energy stay, and no run stops."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from wattmill_analytics.findings import Incident
from wattmill_api import lifecycle
from wattmill_api.lifecycle import Sighting
from wattmill_api.store import lifecycle as store
from wattmill_api.store.lifecycle import Subject

T0 = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)
MINUTE, HOUR = dt.timedelta(minutes=1), dt.timedelta(hours=1)
CHAT = Subject("workload:chat", "ams1", "", "chat", False, (), ())
VERSIONS = {"version_before": "0.11.0", "version_after": "0.12.0"}


def seen(begin: int, end: int, energy_mj: int = 100, *, over: bool = False, subject: Subject = CHAT) -> Sighting:
    """A regression from minute `begin` to minute `end` after noon."""
    since_us = int(T0.timestamp()) * 1_000_000 + begin * 60_000_000
    until_us = since_us + (end - begin) * 60_000_000
    incident = Incident(0, since_us, until_us, since_us + 300_000_000, over, energy_mj, {"m": end - begin}, "dear", "r")
    return Sighting("regression", subject, incident)


class Store:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def keep(self, *sightings: Sighting, first: dt.datetime = T0, now: dt.datetime = T0 + HOUR) -> list[Any]:
        """One run; (id, state, energy) of all findings that are listed then."""
        known = store.known_findings(self.connection, first)
        with self.connection.transaction():
            lifecycle.keep(self.connection, sightings, known, [], first, now)
        return self.connection.execute(
            "SELECT finding_id, state, energy_mj FROM finding WHERE merged_into IS NULL ORDER BY finding_id"
        ).fetchall()

    def one(self, statement: str, *parameters: Any) -> Any:
        return self.connection.execute(statement.encode(), parameters).fetchone()


@pytest.fixture
def kept(database_url: str) -> Iterator[Store]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Store(connection)


def test_an_open_incident_that_vanishes_makes_room_for_the_next_one(kept: Store) -> None:
    """Seen from noon on; then not any more, but another one two hours later."""
    assert kept.keep(seen(0, 30)) == [(1, "open", 100)]
    assert kept.keep(seen(120, 150)) == [(1, "closed", 100), (2, "open", 100)]
    # And back: the same two, never two open ones.
    assert kept.keep(seen(0, 30)) == [(1, "open", 100), (2, "closed", 100)]


def test_what_the_store_refuses_of_one_subject_keeps_nothing_back_of_others(
    kept: Store, caplog: pytest.LogCaptureFixture
) -> None:
    odd = dataclasses.replace(CHAT, name="workload:\x00")  # no text can hold it
    other = dataclasses.replace(CHAT, name="workload:code")
    with caplog.at_level(logging.ERROR):
        found = kept.keep(seen(0, 10), seen(0, 20, subject=odd), seen(0, 30, 7, subject=other))
    assert [(state, energy_mj) for _, state, energy_mj in found] == [("open", 100), ("open", 7)]
    assert "regression about workload" in caplog.text


def test_one_incident_keeps_its_id_however_it_is_divided(kept: Store) -> None:
    kept.keep(seen(0, 40, 400, over=True))
    assert kept.keep(seen(0, 40, 400, over=True), seen(80, 120, 300)) == [(1, "closed", 400), (2, "open", 300)]
    # One piece, and two again, from run to run; the oldest stays and holds the energy of all.
    for minute in range(121, 131, 2):
        assert kept.keep(seen(0, minute, 1000 + minute)) == [(1, "open", 1000 + minute)]
        divided = seen(0, 40, 400, over=True), seen(80, minute + 1, 600 + minute)
        assert kept.keep(*divided) == [(1, "open", 1000 + minute)]
    assert kept.one("SELECT state, energy_mj, merged_into, until IS NULL FROM finding WHERE finding_id = 2") == (
        *("closed", 0, 1, False),
    )
    assert kept.one("SELECT string_agg(what, ' ' ORDER BY event_id) FROM finding_event WHERE finding_id = 1") == (
        "opened closed reopened",
    )


def test_the_one_that_a_person_has_marked_stays_and_takes_over_what_the_other_counted(kept: Store) -> None:
    kept.keep(seen(0, 40, 400, over=True), now=T0 + HOUR)
    kept.keep(seen(0, 40, 400, over=True), seen(80, 120, 300), now=T0 + 2 * HOUR)
    kept.connection.execute("UPDATE finding SET state = 'acknowledged', acknowledged = now() WHERE finding_id = 2")
    assert kept.keep(seen(0, 130, 900), now=T0 + 3 * HOUR) == [(2, "acknowledged", 900)]
    assert kept.one("SELECT since, known, found FROM finding WHERE finding_id = 2") == (
        *(T0, T0 + 5 * MINUTE, T0 + HOUR),
    )


def test_a_resolved_one_that_takes_over_another_has_the_energy_of_both(kept: Store) -> None:
    kept.keep(seen(0, 40, 400, over=True))
    kept.keep(seen(0, 40, 400, over=True), seen(80, 120, 300))
    said = T0 + 2 * HOUR
    kept.connection.execute(
        "UPDATE finding SET state = 'resolved', resolved = %s, until = %s WHERE finding_id = 2", [said, said]
    )
    assert kept.keep(seen(0, 130, 900)) == [(2, "resolved", 700)]
    assert kept.keep(seen(0, 140, 950)) == [(2, "resolved", 700)]


def test_energy_from_before_the_minutes_looked_at_survives_a_merge(kept: Store) -> None:
    """400 of the first hour, half of it out of sight; the finding that stays began after that."""
    kept.keep(seen(0, 60, 400, over=True))
    kept.keep(seen(0, 60, 400, over=True), seen(100, 160, 300))
    kept.connection.execute("UPDATE finding SET state = 'acknowledged', acknowledged = now() WHERE finding_id = 2")
    [(id_, state, energy_mj)] = kept.keep(seen(30, 170, 1400), first=T0 + HOUR / 2)
    # Of the 1400 in 140 minutes, 300 lie in the half hour that the first finding had counted: 100 are from before.
    assert (id_, state, energy_mj) == (2, "acknowledged", 1400 + 100)
    assert kept.keep(seen(30, 171, 1410), first=T0 + HOUR / 2) == [(2, "acknowledged", 1410 + 100)]


def test_the_version_it_began_with_is_told_when_that_is_out_of_sight(kept: Store) -> None:
    began = seen(0, 60)
    told = dataclasses.replace(began.incident, evidence={"m": 60, **VERSIONS}, remedy="Roll back.")
    kept.keep(dataclasses.replace(began, incident=told))
    for first in (30, 60):
        kept.keep(seen(first, 300), first=T0 + first * MINUTE)
        evidence, summary, remedy = kept.one("SELECT evidence, summary, remedy FROM finding")
        assert evidence.items() >= VERSIONS.items()
        assert evidence["m"] == 300 - first  # whatever else is told is new
        assert "dear; it began with the engine's change from version 0.11.0 to 0.12.0" in summary
        assert remedy == "Roll back."


def test_a_version_is_taken_back_while_one_can_see_better(kept: Store) -> None:
    began = seen(0, 60)
    kept.keep(dataclasses.replace(began, incident=dataclasses.replace(began.incident, evidence=VERSIONS)))
    kept.keep(seen(0, 70), first=T0 - 3 * HOUR)
    assert kept.one("SELECT evidence, remedy FROM finding") == ({"m": 70}, "r")
