"""`wattmill top`: the figures of a known fleet, the order of its workloads, and what reaches a terminal."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from rich.console import Console

from support.ledger import MINUTE, T0, Books
from wattmill_api.terminal import top
from wattmill_api.terminal.client import Failure, Server
from wattmill_api.terminal.screen import picture
from wattmill_api.terminal.steering import Place
from wattmill_api.terminal.view import SORTS, VIEWS, Row, View, ranked

SPENT_MJ = 3 * (7_000_001 + 1_000_009 + 13 + 333_333 + 503)
WHOLE = Place()
PLAN = top.Plan(interval_s=5, window_s=180, place=WHOLE, once=True, json=False)
FOREVER = top.Plan(interval_s=60, window_s=180, place=WHOLE, once=False, json=False)


class Then(Server):
    """The service at a time that the books know."""

    def now(self) -> dt.datetime:
        return T0 + 3 * MINUTE


@pytest.fixture
def server(address: str) -> Iterator[Server]:
    opened = Then(address)
    yield opened
    opened.close()


def shown(view: View, **options: Any) -> str:
    out = io.StringIO()
    width = options.get("width", 160)
    Console(file=out, width=width, highlight=False, markup=False, emoji=False).print(picture(view, **options))
    return out.getvalue()


def test_the_figures_add_up_to_the_meter(server: Server, fleet: Books) -> None:
    view = top.look(PLAN, WHOLE, server)
    assert sum(view.accounts.values()) == view.energy_mj == view.meter_mj == SPENT_MJ
    assert sum(row.energy_mj for row in view.rows) == SPENT_MJ
    assert view.residual_mj == 0
    assert view.output_tokens == 9000
    assert view.tokens_per_kwh == 9000 * 3_600_000_000 / SPENT_MJ
    assert view.joules_per_token == SPENT_MJ / 9_000_000
    # Two boards over three minutes; the power is that of the last minute.
    assert view.mean_power_mw == round(SPENT_MJ / 180)
    assert view.power_mw is not None
    assert abs(view.power_mw - SPENT_MJ / 180) < 2e5
    assert (view.sites, view.nodes, view.accelerators, view.coverage) == (2, 2, 2, 1.0)
    assert not view.simulated


def test_hostile_names_are_shown_and_not_obeyed(server: Server, fleet: Books, hostile: str) -> None:
    text = shown(top.look(PLAN, WHOLE, server))
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\\x1b]0;owned\\x07" in text
    assert "\\u202e|\\x0a# <b" in text
    for expected in ("no traffic", "residual", "Scale it to zero.", "idle-loaded", "tokens/kWh", "kW (mean"):
        assert expected in text
    assert "Then rest" not in text
    assert "nan" not in text.lower()


def test_a_screen_is_not_overrun(server: Server, fleet: Books) -> None:
    view = top.look(PLAN, WHOLE, server)
    for height in (12, 24, 36, 60):
        for name in VIEWS:
            assert shown(top.look(PLAN, Place(name), server), place=Place(name), height=height).count("\n") <= height
    assert shown(view, note="away").startswith("away")


def test_nothing_read_yet(server: Server) -> None:
    view = top.look(PLAN, WHOLE, server)
    assert (view.tokens_per_kwh, view.power_mw, view.coverage, view.energy_mj) == (None, None, None, 0)
    assert "nothing was read in this window" in shown(view)
    json.dumps(view.document(), allow_nan=False)


def test_simulated_is_said_first(server: Server, fleet: Books) -> None:
    fleet.do("UPDATE node SET simulated = true")
    view = top.look(PLAN, WHOLE, server)
    assert view.simulated
    assert shown(view).startswith("SIMULATED")


def row(name: str | None, energy_mj: int, waste_mj: int, tokens: int | None, ratio: float | None) -> Row:
    made = Row({"workload": name, "model": None, "team": None}, energy_mj, waste_mj, tokens)
    made.tokens_per_kwh = ratio
    return made


def test_the_order_of_workloads() -> None:
    rows = [row("a", 10, 1, 5, 9.0), row("b", 30, 0, 9, 5.0), row("c", 20, 9, None, None), row(None, 0, 0, None, None)]
    orders = {sort: "".join(one.name or "-" for one in ranked(rows, sort)) for sort in SORTS}
    assert orders == {
        "waste": "cab-",
        "tokens_per_kwh": "bac-",
        "power": "bca-",
        "tokens": "bac-",
        "share": "cab-",
        "name": "abc-",
    }
    assert "".join(one.name or "-" for one in ranked(rows, "name", reverse=True)) == "-cba"


def test_once_as_json_is_one_document(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    assert top.main(["--once", "--json", "--server", address, "--window", "1h"], {}) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    document = json.loads(out)
    assert document["server"] == address
    assert document["findings"][0]["remedy"] == "Scale it to zero."
    assert document["workloads"] == []  # the fleet's minutes are long over


def test_without_a_terminal_pictures_follow_each_other(server: Server, fleet: Books) -> None:
    out, waits = io.StringIO(), iter([False, True])
    plan = top.Plan(interval_s=5, window_s=180, place=WHOLE, once=False, json=False)
    assert top.run(plan, server, out, lambda _seconds: next(waits)) == 0
    assert out.getvalue().count("Where the energy went") == 2
    assert "\x1b" not in out.getvalue()


def test_a_service_that_goes_away_later_is_waited_for(
    server: Server, fleet: Books, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = top.look(PLAN, WHOLE, server)
    looks: Iterator[View | None] = iter([seen, None, seen])

    def look(_plan: top.Plan, _place: Place, _server: Server, _beside: top.Beside | None = None) -> View:
        found = next(looks)
        if found is None:
            raise Failure("it is away")
        return found

    monkeypatch.setattr(top, "look", look)
    out, waits = io.StringIO(), iter([False, False, True])
    plan = top.Plan(interval_s=5, window_s=180, place=WHOLE, once=False, json=True)
    assert top.run(plan, server, out, lambda _seconds: next(waits)) == 0
    assert len([json.loads(line) for line in out.getvalue().splitlines()]) == 2
    assert "it is away" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in VIEWS if name != "findings"])
def test_every_view_adds_up_to_the_meter(server: Server, fleet: Books, name: str) -> None:
    view = top.look(PLAN, Place(name), server)
    assert sum(one.energy_mj for one in view.rows) == view.energy_mj == view.meter_mj == SPENT_MJ
    document = view.document()
    assert sum(one["energy_mj"] for one in document[name]) == SPENT_MJ
    assert {"nodes": {"ams1", "zrh1"}, "accelerators": {"GPU-a", "GPU-b"}}.get(name, set()) <= {
        str(one.name) for one in view.rows
    }


def test_a_part_of_the_fleet(server: Server, fleet: Books, hostile: str) -> None:
    one = top.look(PLAN, Place("accelerators", only=(("node", "gpu-2"),)), server)
    assert (one.energy_mj, one.meter_mj, one.residual_mj, one.coverage) == (3 * 333_836, 3 * 333_836, 0, 1.0)
    owned = top.look(PLAN, Place("nodes", only=(("workload", hostile),)), server)
    assert owned.energy_mj == 3 * 8_000_010
    assert owned.meter_mj is None
    assert owned.mean_power_mw == round(owned.energy_mj / 180)
    assert "a counter can't tell workloads apart" in shown(owned)
    nobody = top.look(PLAN, Place("accelerators", only=(("workload", ""),)), server)
    assert nobody.energy_mj == 3 * (13 + 503)
    assert "only workload (nobody)" in shown(nobody)


def test_phases_and_the_best_stand_beside_where_the_service_knows_them(server: Server, fleet: Books) -> None:
    group = {"workload": "quiet", "model": "qwen3", "team": "search", "accelerator_model": "H100"}
    energy = {"standing_mj": 30, "prefill_mj": 20, "decode_mj": None, "total_mj": 100}
    more: dict[str, dict[str, Any]] = {
        "/phases": {"rows": [{"group": group, "energy": energy}]},
        "/frontier": {"rows": [{"group": group, "ratio": 2.5}, {"group": group, "ratio": None}]},
    }

    class Knows(Then):
        asked: ClassVar[list[str]] = []

        def get(self, path: str, parameters: Any = None) -> dict[str, Any]:
            self.asked.append(path)
            return more[path] if path in more else super().get(path, parameters)

    knows, beside = Knows(server.address), top.Beside()
    view = top.look(PLAN, WHOLE, knows, beside)
    top.look(PLAN, WHOLE, knows, beside)
    knows.close()
    quiet = next(one for one in view.rows if one.name == "quiet")
    assert quiet.split is not None
    assert (quiet.split.standing_ratio, quiet.split.prefill_ratio, quiet.split.decode_ratio) == (0.3, 0.2, None)
    assert quiet.best_ratio == 2.5
    assert "2.5 x" in shown(view)
    assert "prefill" in shown(view)
    assert "prefill" not in shown(view, width=100)
    assert Knows.asked.count("/phases") == 1  # once a minute


def test_an_older_service_is_shown_without_them(server: Server, fleet: Books) -> None:
    class Older(Then):
        def get(self, path: str, parameters: Any = None) -> dict[str, Any]:
            return super().get("/nowhere" if path in ("/phases", "/frontier") else path, parameters)

    older = Older(server.address)
    view = top.look(PLAN, WHOLE, older)
    older.close()
    assert view.energy_mj == SPENT_MJ
    assert "x best" not in shown(view)


def test_a_narrow_screen_keeps_the_figures(server: Server, fleet: Books) -> None:
    lines = shown(top.look(PLAN, WHOLE, server), width=60, height=24).splitlines()
    assert all(len(line) <= 60 for line in lines)
    (quiet,) = [line for line in lines if "quiet" in line]
    assert "no traffic" in quiet
    assert "100.0 %" in quiet


@pytest.mark.parametrize("scope", ["node", "facility"])
@pytest.mark.parametrize("name", VIEWS)
def test_at_a_wider_scope_rows_bear_their_hosts(server: Server, fleet: Books, name: str, scope: str) -> None:
    """Each minute a host spends 1 kJ beside each board; PUE 2."""
    for (node,) in fleet.connection.execute("SELECT node_id FROM node").fetchall():
        for minute in range(3):
            fleet.host(node, 1_000_000, at=T0 + minute * MINUTE)
    fleet.do("INSERT INTO pue VALUES ('*', %s, 2)", T0 - MINUTE)
    whole_mj = 2 * (SPENT_MJ + 6_000_000) if scope == "facility" else SPENT_MJ + 6_000_000
    boards, view = top.look(PLAN, Place(name), server), top.look(replace(PLAN, scope=scope), Place(name), server)
    assert (view.scope, view.energy_mj, view.boards_mj) == (scope, whole_mj, SPENT_MJ)
    assert sum(one.energy_mj for one in view.rows) == whole_mj
    assert sum(one.boards_mj or 0 for one in view.rows) == SPENT_MJ
    assert (view.accounts, view.meter_mj, view.residual_mj) == (boards.accounts, SPENT_MJ, 0)
    assert view.tokens_per_kwh == 9000 * 3_600_000_000 / whole_mj
    assert view.mean_power_mw is not None
    assert abs(view.mean_power_mw - whole_mj / 180) < 2
    share = {one.name: one.waste_share for one in boards.rows}
    assert {one.name: one.waste_share for one in view.rows} == share, "of the boards, whatever the scope"
    text = shown(view)
    assert ("whole nodes" if scope == "node" else "facility (× PUE)") in text
    assert "Where the energy went, accelerators alone" in text
    json.dumps(view.document(), allow_nan=False)


def test_power_of_nodes_is_that_of_the_last_whole_minute(server: Server, fleet: Books) -> None:
    """The window ends at 10:03: of its three minutes the first has been reported by everybody."""
    fleet.host(fleet.one("SELECT min(node_id) FROM node"), 6_000_000)
    view = top.look(replace(PLAN, scope="node"), WHOLE, server)
    assert view.power_mw == round((SPENT_MJ / 3 + 6_000_000) / 60)


def test_a_facility_without_a_pue_says_what_to_set(server: Server, fleet: Books) -> None:
    fleet.do("INSERT INTO pue VALUES ('ams1', %s, 1.5)", T0 - MINUTE)
    with pytest.raises(Failure, match=r"no PUE is set .*PUT /api/v1/pue"):
        top.look(replace(PLAN, scope="facility"), WHOLE, server)


@pytest.mark.parametrize(
    "words", [["--only", "planet=earth"], ["--only", "node"], ["--view", "racks"], ["--scope", "hall"]]
)
def test_views_and_parts_that_are_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert top.main(words, {}) == 2
    assert words[0] in capsys.readouterr().err


def test_parts_from_a_variable(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"WATTMILL_ONLY": "node=gpu-2 'workload=a b'", "WATTMILL_SERVER": address}
    assert top.main(["--once", "--json", "--view", "nodes"], environ) == 0
    assert json.loads(capsys.readouterr().out)["only"] == {"node": "gpu-2", "workload": "a b"}
