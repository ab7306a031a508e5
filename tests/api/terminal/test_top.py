"""`wattmill top`: the figures of a known fleet, the order of its workloads, and what reaches a terminal."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import pty
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from support.ledger import MINUTE, T0, Books
from wattmill_api.terminal import top
from wattmill_api.terminal.client import Failure, Server
from wattmill_api.terminal.screen import picture
from wattmill_api.terminal.view import SORTS, View, Workload, ranked

SPENT_MJ = 3 * (7_000_001 + 1_000_009 + 13 + 333_333 + 503)
PLAN = top.Plan(interval_s=5, window_s=180, sort="waste", once=True, json=False)


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
    Console(file=out, width=160, highlight=False, markup=False, emoji=False).print(picture(view, **options))
    return out.getvalue()


def test_the_figures_add_up_to_the_meter(server: Server, fleet: Books) -> None:
    view = top.look(PLAN, server)
    assert sum(view.accounts.values()) == view.energy_mj == view.meter_mj == SPENT_MJ
    assert sum(row.energy_mj for row in view.workloads) == SPENT_MJ
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
    text = shown(top.look(PLAN, server))
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\\x1b]0;owned\\x07" in text
    assert "\\u202e|\\x0a# <b" in text
    for expected in ("no traffic", "residual", "Scale it to zero.", "idle-loaded", "tokens/kWh", "kW (mean"):
        assert expected in text
    assert "Then rest" not in text
    assert "nan" not in text.lower()


def test_a_screen_is_not_overrun(server: Server, fleet: Books) -> None:
    view = top.look(PLAN, server)
    assert shown(view, height=24).count("\n") <= 24
    assert shown(view, note="away").startswith("away")


def test_nothing_read_yet(server: Server) -> None:
    view = top.look(PLAN, server)
    assert (view.tokens_per_kwh, view.power_mw, view.coverage, view.energy_mj) == (None, None, None, 0)
    assert "nothing was read in this window" in shown(view)
    json.dumps(view.document(), allow_nan=False)


def test_simulated_is_said_first(server: Server, fleet: Books) -> None:
    fleet.do("UPDATE node SET simulated = true")
    view = top.look(PLAN, server)
    assert view.simulated
    assert shown(view).startswith("SIMULATED")


def test_the_order_of_workloads() -> None:
    def workload(name: str, energy_mj: int, waste_mj: int, tokens: int | None, ratio: float | None) -> Workload:
        made = Workload(name, None, None, energy_mj, waste_mj, tokens)
        made.tokens_per_kwh = ratio
        return made

    rows = [
        workload("a", 10, 1, 5, 9.0),
        workload("b", 30, 0, 9, 5.0),
        workload("c", 20, 9, None, None),
    ]
    orders = {sort: "".join(row.workload or "" for row in ranked(rows, sort)) for sort in SORTS}
    assert orders == {"waste": "cab", "tokens_per_kwh": "bac", "power": "bca", "tokens": "bac"}


def test_once_as_json_is_one_document(address: str, fleet: Books, capsys: pytest.CaptureFixture[str]) -> None:
    assert top.main(["--once", "--json", "--server", address, "--window", "1h"], {}) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    document = json.loads(out)
    assert document["server"] == address
    assert document["findings"][0]["remedy"] == "Scale it to zero."


def test_without_a_terminal_pictures_follow_each_other(server: Server, fleet: Books) -> None:
    out, waits = io.StringIO(), iter([False, True])
    plan = top.Plan(interval_s=5, window_s=180, sort="waste", once=False, json=False)
    assert top.run(plan, server, out, lambda _seconds: next(waits)) == 0
    assert out.getvalue().count("Where the energy went") == 2
    assert "\x1b" not in out.getvalue()


def test_a_service_that_goes_away_later_is_waited_for(
    server: Server, fleet: Books, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = top.look(PLAN, server)
    looks: Iterator[View | None] = iter([seen, None, seen])

    def look(_plan: top.Plan, _server: Server) -> View:
        found = next(looks)
        if found is None:
            raise Failure("it is away")
        return found

    monkeypatch.setattr(top, "look", look)
    out, waits = io.StringIO(), iter([False, False, True])
    plan = top.Plan(interval_s=5, window_s=180, sort="waste", once=False, json=True)
    assert top.run(plan, server, out, lambda _seconds: next(waits)) == 0
    assert len([json.loads(line) for line in out.getvalue().splitlines()]) == 2
    assert "it is away" in capsys.readouterr().err


@contextlib.contextmanager
def terminal() -> Iterator[tuple[Any, Any, Callable[[], bytes]]]:
    """A pseudo-terminal whose user types q once something is drawn: keys, a file to draw on, and what was drawn."""
    near, far = pty.openpty()
    drawn: list[bytes] = []

    def use() -> None:
        typed = False
        with contextlib.suppress(OSError):  # EIO: the far end was closed
            while True:
                drawn.append(os.read(near, 65_536))
                if not typed and b"[?1049h" in b"".join(drawn):
                    typed = os.write(near, b"\x1b[A") + os.write(near, b"xq") > 0

    user = threading.Thread(target=use)
    user.start()
    try:
        with open(far, closefd=False) as keys, open(far, "w", closefd=False) as out:
            yield keys, out, lambda: b"".join(drawn)
    finally:
        os.close(far)
        user.join(10)
        os.close(near)


@pytest.mark.parametrize("colourless", [True, False])
def test_q_leaves_the_live_view(
    server: Server, fleet: Books, monkeypatch: pytest.MonkeyPatch, colourless: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("LINES", "50")
    monkeypatch.setenv("NO_COLOR", "1") if colourless else monkeypatch.delenv("NO_COLOR", raising=False)
    plan = top.Plan(interval_s=60, window_s=180, sort="waste", once=False, json=False)
    with terminal() as (keys, out, drawn):
        monkeypatch.setattr("sys.stdin", keys)
        assert top.run(plan, server, out) == 0
    screen = drawn()
    assert screen.index(b"\x1b[?1049h") < screen.index(b"\x1b[?1049l")
    assert b"]0;owned\x07" not in screen
    assert b"\\x1b]0;owned" in screen
    assert (b"\x1b[32m" in screen or b"\x1b[33m" in screen) is not colourless
