"""Who is told what, and how often: nothing twice, nothing lost, whatever receivers do."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from support.ledger import T0, Books
from support.receiver import LOOPBACK, Receiver
from wattmill_analytics.findings import Incident
from wattmill_api import lifecycle
from wattmill_api.store import findings
from wattmill_api.store import webhooks as store
from wattmill_api.store.lifecycle import Subject, known_findings
from wattmill_api.webhooks import notify
from wattmill_api.webhooks.address import Network, parse_networks
from wattmill_api.webhooks.notify import Outside
from wattmill_api.webhooks.post import Outcome, post
from wattmill_api.webhooks.signing import Secrets

HOUR = dt.timedelta(hours=1)
TAKEN, AWAY, NO = Outcome(True, status=200), Outcome(False, "answered 500"), Outcome(False, "answered 404", True)


class Hall:
    """A database with findings, and receivers that answer as told and note what came."""

    def __init__(self, books: Books) -> None:
        self.books, self.connection = books, books.connection
        self.now = T0
        self.answers: dict[str, Outcome] = {}
        self.came: list[tuple[str, str, str, str]] = []  # receiver, status, subject, token
        self.outside = Outside((), Secrets("hush"), "", "docs/runbooks", self.send)

    def send(self, url: str, body: bytes, headers: Mapping[str, str], allowed: Sequence[Network]) -> Outcome:
        (alert,) = json.loads(body)["alerts"]
        name = url.rpartition("/")[2]
        self.came.append((name, alert["status"], alert["labels"]["subject"], headers["Idempotency-Key"]))
        return self.answers.get(name, TAKEN)

    def hook(self, name: str = "on-call", **wanted: Any) -> int:
        empty: dict[str, Any] = {"secret": "", "kinds": [], "teams": [], "sites": [], "min_energy_mj": 0, "by": ""}
        url = f"https://alerts.example/{name}"
        added = store.add(self.connection, {**empty, "name": name, "url": url, "send_resolved": True, **wanted})
        assert added is not None
        self.books.do("UPDATE webhook SET next_try = %s", T0)
        return added.webhook_id

    def finding(self, subject: str = "engine:e", kind: str = "idle-loaded", **columns: Any) -> int:
        row: dict[str, Any] = {"site": "ams1", "energy_mj": 5, "state": "open", "engine_ids": [], "board_ids": []}
        row |= {"workload": "", "until": None, **columns}
        return int(
            self.books.one(
                "INSERT INTO finding (kind, subject, site, workload, energy_mj, state, until, engine_ids, board_ids,"
                " since, last_seen, evidence, summary, remedy)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, '{}', 's', 'r') RETURNING finding_id",
                *(kind, subject, row["site"], row["workload"], row["energy_mj"], row["state"], row["until"]),
                *(row["engine_ids"], row["board_ids"], T0, T0),
            )
        )

    def over(self, finding_id: int) -> None:
        self.books.do("UPDATE finding SET state = 'closed', until = %s WHERE finding_id = %s", T0 + HOUR, finding_id)

    def open_again(self, finding_id: int) -> None:
        self.books.do("UPDATE finding SET state = 'open', until = NULL WHERE finding_id = %s", finding_id)

    def notify(self, later: dt.timedelta = dt.timedelta()) -> list[tuple[str, str, str]]:
        """One run, so much later; what came of it, without tokens."""
        self.now += later
        before = len(self.came)
        notify.notify(self.connection, self.now, self.outside)
        return [came[:3] for came in self.came[before:]]

    def states(self) -> list[tuple[str, int, str]]:
        return self.connection.execute(
            "SELECT state, attempts, reason FROM webhook_delivery ORDER BY delivery_id"
        ).fetchall()


@pytest.fixture
def hall(books: Books) -> Hall:
    return Hall(books)


def test_a_finding_is_told_once_when_it_opens_and_once_when_it_is_over(hall: Hall) -> None:
    hall.hook()
    finding = hall.finding()
    assert hall.notify() == [("on-call", "firing", "engine:e")]
    assert hall.notify() == []
    hall.books.do("UPDATE finding SET energy_mj = 99, revision = 2")
    findings.acknowledge(hall.connection, finding, "on it", "")
    assert hall.notify() == []
    hall.over(finding)
    assert hall.notify() == [("on-call", "resolved", "engine:e")]
    assert hall.notify() == []
    hall.books.do("UPDATE finding SET state = 'acknowledged', until = NULL")
    assert hall.notify() == []  # it flared up, and somebody has seen it already
    hall.open_again(finding)
    assert hall.notify() == [("on-call", "firing", "engine:e")]
    findings.resolve(hall.connection, finding, "done", "")
    assert hall.notify() == [("on-call", "resolved", "engine:e")]
    assert len({token for *_, token in hall.came}) == 4


def test_the_life_of_a_finding_as_detection_writes_it(hall: Hall) -> None:
    """Not by hand, so that the two agree about what is open."""
    hall.hook()
    subject = Subject("engine:e", "ams1", "gpu-1", "", False, (), ())
    incident = Incident(0, _us(T0), _us(T0 + HOUR), _us(T0 + HOUR), False, 5, {}, "s", "r")

    def detect(*sightings: lifecycle.Sighting) -> None:
        known = known_findings(hall.connection, T0)
        lifecycle.keep(hall.connection, sightings, known, [], T0, T0 + HOUR)

    detect(lifecycle.Sighting("idle-loaded", subject, incident))
    assert hall.notify() == [("on-call", "firing", "engine:e")]
    detect(lifecycle.Sighting("idle-loaded", subject, dataclasses.replace(incident, over=True)))
    assert hall.notify() == [("on-call", "resolved", "engine:e")]
    detect(lifecycle.Sighting("idle-loaded", subject, incident))
    assert hall.notify() == [("on-call", "firing", "engine:e")]
    detect()
    assert hall.notify() == [("on-call", "resolved", "engine:e")]


def _us(time: dt.datetime) -> int:
    return int(time.timestamp()) * 1_000_000


def test_what_is_over_before_anybody_looked_wakes_nobody(hall: Hall) -> None:
    hall.hook()
    hall.finding(until=T0)
    hall.finding("engine:f", state="suppressed")
    hall.finding("engine:g", state="acknowledged")
    assert hall.notify() == []


def test_a_receiver_gets_what_it_asked_for(hall: Hall) -> None:
    hall.hook("kinds", kinds=["throttled"])
    hall.hook("sites", sites=["fra1"])
    hall.hook("much", min_energy_mj=100)
    hall.hook("quiet", send_resolved=False)
    first, second = hall.finding("a", "throttled"), hall.finding("b", site="fra1", energy_mj=99)
    assert sorted(hall.notify()) == [
        *(("kinds", "firing", "a"), ("quiet", "firing", "a"), ("quiet", "firing", "b"), ("sites", "firing", "b")),
    ]
    hall.books.do("UPDATE finding SET energy_mj = 100 WHERE finding_id = %s", second)
    assert hall.notify() == [("much", "firing", "b")]
    hall.over(first)
    hall.over(second)
    assert sorted(hall.notify()) == [("kinds", "resolved", "a"), ("much", "resolved", "b"), ("sites", "resolved", "b")]
    hall.open_again(first)
    assert sorted(hall.notify()) == [("kinds", "firing", "a"), ("quiet", "firing", "a")]


def test_a_team_hears_of_its_own_engines_and_boards_alone(hall: Hall) -> None:
    node = hall.books.node("gpu-1")
    boards = [hall.books.board(node, f"GPU-{letter}") for letter in "abc"]
    hall.books.placement(node, [boards[0]], "chat", team="search", target="http://a/metrics")
    hall.books.placement(node, [boards[1]], "code", team="tools", target="http://b/metrics")
    # The engine of tools ran for search, too; a finding about a workload concerns its team alone.
    hall.books.placement(node, [boards[1]], "chat", team="search", target="http://b/metrics")
    a, b = (hall.books.one("SELECT engine_id FROM engine WHERE target = %s", f"http://{e}/metrics") for e in "ab")
    for team in ("search", "tools", "other"):
        hall.hook(team, teams=[team])
    hall.finding("engine:a", workload="chat", engine_ids=[a], board_ids=[boards[0]])
    hall.finding("engine:b", workload="code", engine_ids=[b], board_ids=[boards[1]])
    hall.finding("accelerator:a", "telemetry-untrusted", board_ids=[boards[0]])
    hall.finding("accelerator:c", "idle-empty", board_ids=[boards[2]])
    assert sorted((name, subject) for name, _, subject in hall.notify()) == [
        ("search", "accelerator:a"),
        ("search", "engine:a"),
        ("tools", "engine:b"),
    ]


def test_a_new_receiver_is_told_of_what_is_open(hall: Hall) -> None:
    hall.finding("a")
    hall.over(hall.finding("b"))
    assert hall.notify() == []
    hall.hook()
    assert hall.notify() == [("on-call", "firing", "a")]


def test_a_receiver_that_is_away_is_told_later_in_order_and_under_the_same_tokens(hall: Hall) -> None:
    hall.hook()
    hall.answers["on-call"] = AWAY
    finding = hall.finding()
    assert hall.notify() == [("on-call", "firing", "engine:e")]
    assert hall.notify() == []  # not at once
    hall.over(finding)
    assert hall.notify(HOUR) == [("on-call", "firing", "engine:e")]
    assert hall.states() == [("waiting", 2, "answered 500"), ("waiting", 0, "")]
    hall.answers.clear()
    assert hall.notify(HOUR) == [("on-call", "firing", "engine:e")]
    assert hall.notify() == [("on-call", "resolved", "engine:e")]
    assert hall.states() == [("delivered", 3, ""), ("delivered", 1, "")]
    tokens = [token for *_, token in hall.came]
    assert tokens[:3] == tokens[:1] * 3 != tokens[3:] * 3


def test_one_that_is_away_is_tried_once_a_run_and_holds_up_nobody_else(hall: Hall) -> None:
    hall.hook("away")
    hall.hook("here")
    hall.answers["away"] = AWAY
    for number in range(5):
        hall.finding(f"e{number}")
    assert Counter(name for name, *_ in hall.notify()) == {"away": 1, "here": 5}
    assert hall.notify() == []
    assert [name for name, *_ in hall.notify(HOUR)] == ["away"]
    hall.answers.clear()
    assert Counter(name for name, *_ in hall.notify(HOUR)) == {"away": 5}


def test_a_refusal_is_final_for_one_and_keeps_its_reason(hall: Hall) -> None:
    hall.hook()
    hall.answers["on-call"] = NO
    finding = hall.finding("a")
    hall.finding("b")
    assert hall.notify() == [("on-call", "firing", "a"), ("on-call", "firing", "b")]
    assert hall.states() == [("gave up", 1, "answered 404")] * 2
    (webhook,) = store.all_webhooks(hall.connection)
    assert (webhook.failures, webhook.waiting, webhook.error) == (0, 0, "answered 404")
    hall.answers.clear()
    hall.over(finding)
    assert hall.notify(HOUR) == [("on-call", "resolved", "a")]
    (webhook,) = store.all_webhooks(hall.connection)
    assert (webhook.delivered, webhook.error) == (hall.now, "")


def test_it_is_tried_for_a_day(hall: Hall) -> None:
    hall.hook()
    hall.finding()
    hall.answers["on-call"] = AWAY
    tried = sum(len(hall.notify(HOUR / 2)) for _ in range(60))
    assert tried == 49  # at 0, 30 minutes, … 24 hours
    assert hall.states() == [("gave up", 49, "answered 500; given up after a day")]


def test_what_was_under_way_when_everything_ended_is_told_again(hall: Hall) -> None:
    hall.hook()
    hall.finding()
    notify.note_changes(hall.connection, hall.now, hall.outside)
    claimed = store.claim(hall.connection, hall.now, hall.now + notify.CLAIMED_FOR, notify.EACH)
    assert len(claimed) == 1  # … and nothing became of it
    assert hall.notify() == []
    assert hall.notify(notify.CLAIMED_FOR) == [("on-call", "firing", "engine:e")]
    assert hall.came[0][3] == claimed[0].token


def test_two_that_note_the_same_change_note_it_once(hall: Hall) -> None:
    hall.hook()
    hall.finding()
    (change,) = store.changes(hall.connection, 10)
    assert store.tell(hall.connection, change, "{}", T0)
    assert not store.tell(hall.connection, change, "{}", T0)
    assert [state for state, *_ in hall.states()] == ["waiting"]


def test_a_post_that_breaks_is_put_off_and_said(hall: Hall) -> None:
    def broken(*_: Any) -> Outcome:
        raise RuntimeError("hush")

    hall.hook()
    hall.finding()
    notify.notify(hall.connection, T0, dataclasses.replace(hall.outside, send=broken))
    assert hall.states() == [("waiting", 1, "failed unexpectedly: RuntimeError")]


def test_a_run_ends_though_a_receiver_does_not(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def stuck(url: str, *rest: Any) -> Outcome:
        if url.endswith("stuck"):
            over.wait()
        return TAKEN

    monkeypatch.setattr(notify, "RUN_S", 0.2)
    hall.hook("stuck")
    hall.hook("here")
    hall.finding()
    said = notify.notify(hall.connection, T0, dataclasses.replace(hall.outside, send=stuck))
    over.set()
    assert said == "2 new, 1 delivered, 1 waiting"
    assert hall.notify(notify.CLAIMED_FOR) == [("stuck", "firing", "engine:e")]


def test_a_secret_that_is_not_there_is_waited_for(hall: Hall) -> None:
    hall.hook(secret="on-call")
    hall.finding()
    assert hall.notify() == []
    ((state, attempts, reason),) = hall.states()
    assert (state, attempts) == ("waiting", 1)
    assert "WATTMILL_WEBHOOK_SECRETS" in reason


def test_waits_double_up_to_half_an_hour_and_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    assert [notify.wait_s(n) for n in (1, 2, 3, 8, 9, 99)] == [10, 20, 40, 1280, 1800, 1800]
    monkeypatch.setattr(random, "uniform", lambda low, _high: low)
    assert [notify.wait_s(n) for n in (1, 99)] == [1, 180]
    assert notify.wait_s(1, retry_after_s=600) == 600


def test_retry_after_is_kept_for_everything_of_that_receiver(hall: Hall) -> None:
    hall.hook()
    hall.finding("a")
    hall.finding("b")
    hall.answers["on-call"] = Outcome(False, "answered 429", retry_after_s=3600)
    assert hall.notify() == [("on-call", "firing", "a")]
    assert hall.notify(HOUR / 2) == []
    assert len(hall.notify(HOUR / 2)) == 1


def test_what_ended_a_month_ago_is_forgotten_and_told_no_second_time(hall: Hall) -> None:
    hall.hook()
    hall.finding("open")
    hall.over(hall.finding("other"))
    hall.notify()
    later = T0 + 31 * dt.timedelta(days=1)
    assert notify.forget(hall.connection, later - 2 * dt.timedelta(days=1)) == 0
    assert notify.forget(hall.connection, later) == 1
    assert hall.notify(later - T0) == []


def test_a_webhook_that_goes_takes_its_outbox_along(hall: Hall) -> None:
    webhook_id = hall.hook()
    hall.answers["on-call"] = AWAY
    hall.finding()
    hall.notify()
    assert store.remove(hall.connection, webhook_id) is not None
    assert store.remove(hall.connection, webhook_id) is None
    assert (hall.states(), hall.notify(HOUR)) == ([], [])


def test_over_a_real_socket_signed(hall: Hall) -> None:
    receiver = Receiver()
    try:
        hall.hook(url=receiver.url())
        hall.finding()
        outside = dataclasses.replace(hall.outside, allowed=parse_networks(LOOPBACK), send=post)
        receiver.answers = [(503, {})]
        notify.notify(hall.connection, T0, outside)
        assert notify.notify(hall.connection, T0 + HOUR, outside) == "0 new, 1 delivered, 0 waiting"
    finally:
        receiver.close()
    first, second = receiver.came
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.headers["x-wattmill-signature"].startswith(f"t={int(T0.timestamp())},v1=")
    assert first.headers["x-wattmill-signature"] != second.headers["x-wattmill-signature"]
    assert json.loads(first.body)["version"] == "4"
