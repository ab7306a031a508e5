"""A key of one team: whatever another team has or does, its answers stay the same to the last byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support import postgres as servers
from support import site
from support.ledger import MINUTE, SERVING, T0, Books
from support.postgres import Postgres
from support.two_teams import NOW, SECRET, Asker, key_for
from wattmill_api import auth, session
from wattmill_api.view import RANGES as LENGTHS

RANGES: tuple[dict[str, str], ...] = (
    {"start": "2026-03-02T09:58:00Z", "end": "2026-03-02T10:05:00Z"},  # minutes alone
    {"start": "2026-03-02T09:00:00Z", "end": "2026-03-02T12:01:00Z"},  # hours too
    {"start": "2026-03-01T00:00:00Z", "end": "2026-03-03T00:00:00Z"},  # days too
)
# Whose answers name what the other team has, to a key of everybody.
TELLING = {
    *("accelerators", "carbon", "chargeback", "coverage", "curves", "efficiency", "engines", "findings", "frontier"),
    *("ledger", "live", "metrics", "nodes", "phases", "pue", "series", "sites", "suppressions", "targets", "tariffs"),
    "workloads",
}


@pytest.fixture
def alone(postgres: Postgres, template: str) -> Iterator[Asker]:
    """The team has the service for itself."""
    name = servers.create_database(postgres, template)
    url = postgres.url(name)
    asker = Asker(site.application(url, NOW), url, with_theirs=False)
    with asker.client:
        yield asker
    asker.books.close()
    servers.drop_database(postgres, name)


@pytest.fixture
def beside(database_url: str) -> Iterator[Asker]:
    """Another team is there too."""
    asker = Asker(site.application(database_url, NOW), database_url, with_theirs=True)
    with asker.client:
        yield asker
    asker.books.close()


def questions(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(operation, path, parameters): each GET route with each value of each of its choices, in each range."""
    for path, operations in document["paths"].items():
        operation = operations.get("get")
        if operation is None or operation.get("security") == [{"key": ["admin"]}]:
            continue
        choices: dict[str, list[str]] = {}
        for parameter in operation.get("parameters", []):
            schema = parameter["schema"]
            kinds = [schema, *schema.get("anyOf", []), schema.get("items", {})]
            values = [value for kind in kinds for value in kind.get("enum", [])]
            if values:
                choices[parameter["name"]] = list(dict.fromkeys(values))
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        fixed = {"metric": choices["metric"][0]} if "metric" in choices else {}
        fixed |= {"events": "1"} if "events" in names else {}
        fixed |= {"after": "2026-03-01T00:00:00Z"} if "after" in names else {}
        place = path.replace("{finding_id}", "1")
        for times in RANGES if "start" in names else ({},):
            yield operation["operationId"], place, {**fixed, **times}
            for name, values in choices.items():
                for value in values:
                    yield operation["operationId"], place, {**fixed, **times, name: value}
            for metric, by in itertools.product(choices.get("metric", []), choices.get("by", [])):
                yield operation["operationId"], place, {**fixed, **times, "metric": metric, "by": by}


def of_hosts(parameters: dict[str, Any]) -> bool:
    """A share of a host is what it is because of all who share it."""
    return parameters.get("scope") in ("node", "facility")


def test_no_answer_depends_on_what_another_team_has(alone: Asker, beside: Asker) -> None:
    told: set[str] = set()
    answered: dict[str, int] = {}
    document = beside.client.get("/openapi.json").json()
    for operation, path, parameters in questions(document):
        everybody = beside.get(path, parameters, beside.all)
        if SECRET.encode() in everybody.content:
            told.add(operation)
        ours = beside.get(path, parameters)
        assert ours.status_code == everybody.status_code, (path, parameters, ours.text)
        assert SECRET.encode() not in ours.content, (path, parameters)
        if operation in ("metrics", "healthz", "readyz"):
            continue
        answered[operation] = answered.get(operation, 0) + (ours.status_code == 200)
        if not of_hosts(parameters):
            assert ours.content == alone.get(path, parameters).content, (path, parameters)
    assert told >= TELLING
    assert all(answered.values()), answered


def test_what_a_team_has_is_there(beside: Asker) -> None:
    times = RANGES[0]
    [row] = beside.get("/api/v1/efficiency", times).json()["rows"]
    assert (row["energy_mj"], row["tokens"]["output"]) == (3 * 6_000_014, 75)
    assert row["slo"]["target"]["inter_token_latency_ms"] == 20
    ledger = beside.get("/api/v1/ledger", times).json()
    assert [row["account"] for row in ledger["rows"]] == ["serving", "idle-loaded"]
    assert (ledger["meter_mj"], ledger["closes"], ledger["meter_reason"]) == (
        None,
        None,
        "a counter can't tell workloads apart",
    )
    assert [row["name"] for row in beside.get("/api/v1/nodes", {}).json()["rows"]] == ["gpu-1"]
    assert [row["accelerators"] for row in beside.get("/api/v1/sites", {}).json()["rows"]] == [1]
    assert [row["kind"] for row in beside.get("/api/v1/findings", {}).json()["rows"]] == ["low-batch", "spin-idle"]
    assert len(beside.get("/api/v1/finding" + "s/1", {}).json()["history"]) == 1
    assert [row["group"]["workload"] for row in beside.get("/api/v1/phases", times).json()["rows"]] == ["own-chat"]
    assert [row["group"]["model"] for row in beside.get("/api/v1/curves", times).json()["rows"]] == ["own-model"]
    assert len(beside.get("/api/v1/targets", {}).json()["rows"]) == 1
    assert {row["site"] for row in beside.get("/api/v1/tariffs", {}).json()["rows"]} == {"*", "ams1"}
    windows = beside.get("/api/v1/suppressions", {}).json()["rows"]
    assert [(row["workload"], row["reason"]) for row in windows] == [("own-chat", "own"), ("*", None)]
    gaps = beside.get("/api/v1/coverage", {**times, "by": "engine"}).json()["rows"]
    assert [row["group"]["engine"] for row in gaps] == ["http://own:8000/metrics"]


@pytest.mark.parametrize("scope", ["accelerator", "node", "facility"])
@pytest.mark.parametrize("by", ["workload", "node", "site"])
@pytest.mark.parametrize("times", RANGES)
def test_a_team_sees_the_figures_that_others_see_of_it(
    beside: Asker, scope: str, by: str, times: dict[str, str]
) -> None:
    """Its share of a host too, to the millijoule."""
    asked = {**times, "scope": scope, "by": by}
    ours = beside.get("/api/v1/efficiency", asked)
    assert ours.json()["rows"]
    assert ours.json() == beside.get("/api/v1/efficiency", {**asked, "team": "search"}, beside.all).json()


def test_a_team_sees_what_it_drew_and_others_only_as_the_rest(beside: Asker) -> None:
    asked = {**RANGES[0], "by": "team,api_key"}
    answer = beside.get("/api/v1/chargeback", asked).json()
    assert [(row["group"]["workload"], row["group"]["api_key"], row["via"]) for row in answer["rows"]] == [
        ("own-chat", "search-key", "gateway"),
        ("own-chat", None, "direct"),
    ]
    [energy] = beside.get("/api/v1/efficiency", RANGES[0]).json()["rows"]
    assert sum(row["energy_mj"] for row in answer["rows"]) == energy["energy_mj"]
    assert [(row["model"], row["reason"]) for row in answer["unmatched"]] == [
        ("nobodys-model", "no workload serves this model")
    ]
    everybody = beside.get("/api/v1/chargeback", asked, beside.all).json()
    keys = [row["group"]["api_key"] for row in everybody["rows"] if row["group"]["workload"] == "own-chat"]
    assert keys == ["search-key", "secret-team-key", None]


def test_another_team_may_not_be_asked_for(beside: Asker) -> None:
    for asked, named in (
        ({"team": "secret-team"}, "secret-team"),
        ({"team": ["search", "x"]}, "x"),
        ({"team": ""}, "''"),
    ):
        for path in ("efficiency", "ledger", "series", "frontier", "phases", "targets"):
            refused = beside.get(f"/api/v1/{path}", {**asked, "metric": "output_tokens"})
            assert refused.status_code == 403, path
            assert refused.json()["detail"].startswith("This key is for team 'search'; it does not see team ")
            assert named in refused.json()["detail"]
    assert beside.get("/api/v1/efficiency", {**RANGES[0], "team": "search"}).json()["rows"]


def test_another_teams_finding_is_not_there(beside: Asker) -> None:
    ids = [row[0] for row in beside.books.connection.execute("SELECT finding_id FROM finding ORDER BY 1")]
    assert [beside.get(f"/api/v1/findings/{id_}", {}).status_code for id_ in ids] == [200, 200, 404, 404, 404, 404]


def test_a_key_of_two_teams_sees_both(beside: Asker) -> None:
    key = key_for(beside.books, "read", "search", "secret-team")
    names = [row["name"] for row in beside.get("/api/v1/workloads", {}, key).json()["rows"]]
    assert names == ["own-chat", "secret-chat", "secret2-chat"]
    assert beside.get("/api/v1/efficiency", {**RANGES[0], "team": "secret-team"}, key).json()["rows"]


@pytest.mark.parametrize(
    "team", ["no-such-team", "'; DROP TABLE finding; --", '{a,"b"}', "NULL", 'x"\\', "%s", "*", " "]
)
def test_a_team_is_a_name_and_nothing_else(beside: Asker, team: str) -> None:
    node = beside.books.node("odd", "odd")
    board = beside.books.board(node, "GPU-odd")
    beside.books.placement(node, [board], "odd-chat", team=team, target="http://odd/metrics")
    rows = beside.get("/api/v1/workloads", {}, key_for(beside.books, "read", team)).json()["rows"]
    assert [(row["name"], row["team"]) for row in rows] == [("odd-chat", team)]


def test_a_board_that_two_teams_share(beside: Asker) -> None:
    """Each has its part of the energy; what the gauges say of both is nobody's to see."""
    books = beside.books
    node = books.one("SELECT node_id FROM node WHERE name = 'gpu-1'")
    board = books.board(node, "GPU-both")
    own = books.placement(node, [board], "own-chat", model="own-model", target="http://own:8000/metrics")
    other = books.placement(
        node, [board], "secret-chat", model="secret-model", team="secret-team", target="http://secret:8000/metrics"
    )
    for placement, energy_mj in ((own, 60_000), (other, 540_000)):
        books.spent(node, board, placement, SERVING, energy_mj)
    books.spent(node, board, own, SERVING, 120_000, at=T0 + MINUTE)
    for metric, values in (("energy_mj", [60_000, 120_000]), ("power_mw", [None, 2000]), ("covered_ratio", [1, 1])):
        asked = {
            "metric": metric,
            "step": "1m",
            "accelerator": "GPU-both",
            "start": "2026-03-02T10:00:00Z",
            "end": "2026-03-02T10:02:00Z",
        }
        [series] = beside.get("/api/v1/series", asked).json()["series"]
        assert series["values"] == values
    placements = beside.get("/api/v1/accelerators", {}).json()["rows"][-1]["placements"]
    assert [row["workload"] for row in placements] == ["own-chat"]


def test_what_two_teams_taught_belongs_to_neither(beside: Asker) -> None:
    books = beside.books
    node = books.one("SELECT node_id FROM node WHERE name = 'gpu-1'")
    board = books.board(node, "GPU-alike", "own-board")
    books.placement(node, [board], "x", model="own-model", team="secret-team", target="http://x/metrics")
    assert beside.get("/api/v1/curves", RANGES[0]).json()["rows"] == []


def test_a_finding_about_an_engine_that_was_another_teams_meanwhile_is_hidden(beside: Asker) -> None:
    assert beside.get("/api/v1/findings/1", {}).status_code == 200
    beside.books.do(
        "INSERT INTO placement (engine_id, workload_id, accelerator_ids, method, since, until) SELECT 1, workload_id,"
        " '{}', 'configured', %s, %s FROM workload WHERE name = 'secret-chat'",
        *(T0, T0 + MINUTE),
    )
    assert beside.get("/api/v1/findings/1", {}).status_code == 404
    assert beside.get("/api/v1/findings/1", {}, beside.all).status_code == 200


def test_a_board_that_held_nothing_is_no_teams_finding(beside: Asker) -> None:
    beside.books.do("UPDATE finding SET kind = 'idle-empty' WHERE finding_id = 2")
    assert beside.get("/api/v1/findings/2", {}).status_code == 404


def test_the_live_feed_is_kept_apart_by_who_may_see_what(beside: Asker) -> None:
    def workloads(key: str) -> set[str]:
        text = beside.get("/api/v1/live", {"events": 1}, key).text
        return {name for name in ("own-chat", "secret-chat") if f'"{name}"' in text}

    for _ in range(2):
        assert workloads(beside.all) == {"own-chat", "secret-chat"}
        assert workloads(beside.team) == {"own-chat"}


def test_a_connection_forgets_whom_it_answered(beside: Asker) -> None:
    """Many answers on few connections, in turn: a prepared statement is not carried from one view to the other."""
    for _ in range(12):
        assert len(beside.get("/api/v1/workloads", {}).json()["rows"]) == 1
        assert len(beside.get("/api/v1/workloads", {}, beside.all).json()["rows"]) == 3


def test_metrics_tell_a_team_nothing_of_the_ledger(beside: Asker) -> None:
    assert "secret-chat" in beside.get("/metrics", {}, beside.all).text
    page = beside.get("/metrics", {})
    assert page.status_code == 200
    assert "wattmill_requests_total" in page.text
    assert "wattmill_database_up 1.0" in page.text
    assert "own-chat" not in page.text


def test_no_page_depends_on_what_another_team_has(alone: Asker, beside: Asker) -> None:
    def page(asker: Asker, path: str, key: str) -> tuple[int, str]:
        answer = asker.client.get(path, headers={"Cookie": f"{session.COOKIE}={key}"})
        return answer.status_code, answer.text

    told = False
    for path in (
        "/",
        *(f"/?range={length}" for length in LENGTHS),
        "/?node=gpu-1",
        "/load",
        "/findings/1",
        "/findings/2",
    ):
        ours = page(beside, path, beside.team)
        assert ours[0] == 200, ours
        assert "own" in ours[1]
        assert SECRET not in ours[1]
        assert ours == page(alone, path, alone.team), path
        told |= "secret-chat" in page(beside, path, beside.all)[1]
    assert told
    assert page(beside, "/findings/3", beside.all)[0] == 200
    assert page(beside, "/findings/3", beside.team)[0] == 404


def test_a_key_of_a_team_changes_nothing(beside: Asker) -> None:
    refused = beside.client.post("/api/v1/findings/1/resolve", headers={"Authorization": f"Bearer {beside.team}"})
    assert refused.status_code == 403
    for scope, teams in (("admin", ["search"]), ("ingest", ["search"]), ("read", []), ("read", [""])):
        with pytest.raises(psycopg.errors.CheckViolation):
            beside.books.do("INSERT INTO api_key (key_id, sha256, scope, teams) VALUES ('k', '', %s, %s)", scope, teams)


def test_every_view_has_the_columns_of_its_table(database_url: str) -> None:
    """In their order and types, or a statement would mean something else, or fail, for a key of a team."""
    books = Books(database_url)
    columns: dict[str, dict[str, list[tuple[str, str]]]] = {"public": {}, "wattmill_team": {}}
    for schema, table, column, type_ in books.connection.execute(
        "SELECT table_schema, table_name, column_name, udt_name FROM information_schema.columns"
        " WHERE table_schema IN ('public', 'wattmill_team') ORDER BY table_name, ordinal_position"
    ):
        columns[schema].setdefault(table, []).append((column, type_))
    books.close()
    views = columns["wattmill_team"]
    assert len(views) > 25
    for view, found in views.items():
        assert found == columns["public"][view.removeprefix("every_")], view


def test_only_the_share_of_hosts_reads_whole_nodes() -> None:
    """The five views that hold other teams' rows are for one statement."""
    folder = Path(auth.__file__).parent
    users = [file.name for file in folder.rglob("*.py") if '"every_"' in file.read_text()]
    assert users == ["query.py"]
    assert [file.name for file in (folder / "sql").glob("*.sql") if "every_" in file.read_text()] == []
