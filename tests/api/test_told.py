"""What agents could not read or explain: told by node and board while it lasts, and listed on the page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from support import site
from support.ledger import MINUTE, T0, Books
from support.two_teams import key_for

LAST = T0 + 10 * MINUTE  # when the nodes were last seen
NOW = LAST + MINUTE
SENTENCE = "the board is held by process 4242 (secret-trainer), of no engine that is read: end it"


@pytest.fixture
def client(database_url: str) -> Iterator[TestClient]:
    with TestClient(site.application(database_url, NOW)) as client:
        yield client


def say(
    books: Books, node: int, subject: str, name: str, reason: str, detail: str = "", *, at: dt.datetime = LAST,
    since: dt.datetime | None = None,
) -> None:  # fmt: skip
    books.do(
        "INSERT INTO absence (time, node_id, subject, id, start_time, reason, detail)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        *(at, node, subject, name, since or at, reason, detail),
    )


def rows(client: TestClient, what: str, **parameters: Any) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1/{what}", params=parameters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["rows"]
    return found


def told(client: TestClient, what: str = "nodes") -> dict[str, list[tuple[str, str, str]]]:
    key = "name" if what == "nodes" else "uuid"
    return {row[key]: [(t["subject"], t["id"], t["reason"]) for t in row["told"]] for row in rows(client, what)}


def test_a_board_that_a_stranger_holds_says_who_and_since_when(client: TestClient, books: Books) -> None:
    node = books.node("n1")
    books.board(node, "GPU-a")
    books.board(node, "GPU-b")
    for minute in range(8, 11):
        words = f"{SENTENCE} {minute}"
        say(books, node, "accelerator", "GPU-a", "no_endpoint", words, at=T0 + minute * MINUTE, since=T0 - MINUTE)
    [row] = rows(client, "nodes")
    held, free = rows(client, "accelerators")
    [said] = held["told"]
    assert row["told"] == held["told"]
    assert free["told"] == []
    assert (said["id"], said["reason"], said["detail"]) == ("GPU-a", "no_endpoint", f"{SENTENCE} 10")
    at = [dt.datetime.fromisoformat(said[name]) for name in ("since", "last_seen")]
    assert at == [T0 - MINUTE, LAST]


def test_what_is_read_beside_boards_is_told_of_its_node_alone(client: TestClient, books: Books) -> None:
    first, second = books.node("n1"), books.node("n2")
    books.board(first, "GPU-a")
    for subject, name in (("accelerator", "http://exporter/metrics"), ("gateway", "http://gate"), ("host", "chassis")):
        say(books, first, subject, name, "not_understood", "Correct the target.")
    say(books, second, "meter", "rack-12", "timeout", at=LAST - MINUTE)
    say(books, second, "meter", "rack-12", "connection_refused")
    assert told(client) == {
        "n1": [
            ("accelerator", "http://exporter/metrics", "not_understood"),
            ("gateway", "http://gate", "not_understood"),
            ("host", "chassis", "not_understood"),
        ],
        "n2": [("meter", "rack-12", "connection_refused"), ("meter", "rack-12", "timeout")],
    }
    assert told(client, "accelerators") == {"GPU-a": []}
    [row] = rows(client, "nodes", node="n2")
    assert [said["detail"] for said in row["told"]] == [None, None]


@pytest.mark.parametrize(
    ("interval_s", "ago_s", "shown"), [(10, 179, True), (10, 181, False), (120, 359, True), (120, 361, False)]
)
def test_what_is_not_repeated_is_over(
    client: TestClient, books: Books, interval_s: int, ago_s: int, shown: bool
) -> None:
    """Held against what the node said last, not against now: a minute of silence makes nothing well."""
    node = books.node("n1")
    books.do("UPDATE node SET interval_us = %s", interval_s * 1_000_000)
    say(books, node, "meter", "rack-12", "timeout", at=LAST - dt.timedelta(seconds=ago_s))
    assert bool(told(client)["n1"]) is shown


def test_a_node_silent_for_an_hour_tells_nothing_now(database_url: str, books: Books) -> None:
    say(books, books.node("n1"), "meter", "rack-12", "timeout")
    for minutes, count in ((59, 1), (61, 0)):
        with TestClient(site.application(database_url, LAST + minutes * MINUTE)) as client:
            assert len(told(client)["n1"]) == count


def test_at_most_fifty_a_node_are_told_and_ten_on_the_page(client: TestClient, books: Books) -> None:
    node, other = books.node("n1"), books.node("n2")
    for n in range(60):
        say(books, node, "meter", f"pdu-{n:02}", "timeout", since=T0 - n * MINUTE)
    say(books, other, "meter", "pdu-x", "timeout")
    assert {name: len(said) for name, said in told(client).items()} == {"n1": 50, "n2": 1}
    text = client.get("/", params={"start": T0.isoformat(), "end": NOW.isoformat()}).text
    assert "51 things that agents could not read or explain" in text
    assert "and 41 more" in text
    assert text.count("meter pdu-") == 10
    assert "meter pdu-49, since" in text  # the longest first


def test_the_page_says_the_sentence_and_leaves_engines_to_their_own_line(client: TestClient, books: Books) -> None:
    node = books.node("n1")
    books.board(node, "GPU-a")
    page = {"start": T0.isoformat(), "end": NOW.isoformat()}
    say(books, node, "engine", "http://e/metrics", "not_understood", "It is something else.")
    text = client.get("/", params=page).text
    assert "http://e/metrics on" in text
    assert "could not read or explain" not in text
    say(books, node, "accelerator", "GPU-a", "no_endpoint", SENTENCE)
    say(books, node, "meter", "rack-12", "connection_refused")
    text = client.get("/", params=page).text
    assert SENTENCE in text
    assert "meter rack-12, since" in text
    assert "connection refused" in text
    one = client.get("/", params={**page, "accelerator": "GPU-a"}).text
    assert SENTENCE in one
    assert "meter rack-12" not in one


def test_a_key_of_a_team_reads_of_its_own_things_and_of_no_stranger(client: TestClient, books: Books) -> None:
    node = books.node("n1")
    mine, theirs = books.board(node, "GPU-own"), books.board(node, "GPU-secret")
    books.placement(node, [mine], "chat", target="http://own/metrics")
    books.placement(node, [theirs], "secret-chat", team="secret-team", target="http://secret/metrics")
    say(books, node, "accelerator", "GPU-own", "no_endpoint", SENTENCE, since=T0)
    say(books, node, "accelerator", "GPU-own", "timeout", "It did not answer.")
    say(books, node, "accelerator", "GPU-secret", "no_endpoint", SENTENCE)
    say(books, node, "engine", "http://secret/metrics", "timeout", "secret")
    say(books, node, "gateway", "http://secret-gate", "timeout", "secret")
    say(books, node, "host", "", "timeout", "secret")
    everybody, team = ({"Authorization": f"Bearer {key_for(books, 'read', *teams)}"} for teams in ((), ("search",)))
    answer = client.get("/api/v1/nodes", headers=everybody).json()
    assert len(answer["rows"][0]["told"]) == 6
    assert SENTENCE in [said["detail"] for said in answer["rows"][0]["told"]]
    own = [("GPU-own", "no_endpoint", None), ("GPU-own", "timeout", "It did not answer.")]
    for what, expected in (("nodes", [*own, ("", "timeout", None)]), ("accelerators", own)):
        answer = client.get(f"/api/v1/{what}", headers=team)
        [row] = answer.json()["rows"]
        assert [(said["id"], said["reason"], said["detail"]) for said in row["told"]] == expected
        assert "secret" not in answer.text
    times = {"start": T0.isoformat(), "end": NOW.isoformat()}
    # Who holds a board is no reason why it was not read, whoever asks.
    for headers in (everybody, team):
        assert "secret-trainer" not in client.get("/api/v1/coverage", params=times, headers=headers).text
    client.cookies.set("wattmill_key", team["Authorization"].removeprefix("Bearer "))
    page = client.get("/", params=times)
    assert (page.status_code, "secret" in page.text) == (200, False)
