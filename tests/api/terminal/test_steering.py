"""Keys by name, and where they lead."""

from __future__ import annotations

import os
import pty
import threading
from dataclasses import replace
from typing import Any

import pytest

from wattmill_api.terminal import keys
from wattmill_api.terminal.keys import GONE, RESIZED, WOKEN, Keys, decode
from wattmill_api.terminal.steering import HELP, Place, findings_of, lines_of, pressed
from wattmill_api.terminal.view import SORTS, Finding, Row, View


def finding(number: int, energy_mj: int, until: str | None = None) -> Finding:
    return Finding(number, "idle-loaded", "x", "open", "s", until, energy_mj, 0.0, None, False, "", "", "", {})


def seen(view: str = "workloads", rows: list[Row] | None = None, **changes: Any) -> View:
    if rows is None:
        rows = [
            Row({"workload": name, "model": None, "team": "t"}, energy, energy) for name, energy in (("a", 2), ("b", 3))
        ]
    nothing: dict[str, Any] = dict.fromkeys(View.__dataclass_fields__)
    return View(**{**nothing, "view": view, "only": (), "rows": rows, "findings": [], **changes})


def after(place: Place, *typed: str, view: View | None = None) -> Place:
    for key in typed:
        led = pressed(place, key, view or seen())
        assert led is not None
        place = led
    return place


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1bOB", ["up", "down"]),
        (b"\x1b[1;5Ax", ["x"]),  # Ctrl-up has no name
        (b"\x1b", ["back"]),
        (b"\x1bq", ["back", "q"]),
        (b"\x1b[5~\x1b[Z\t\r\n\x7f", ["page-up", "back-tab", "tab", "enter", "enter", "back"]),
        ("ä€".encode(), []),
        (b"\x1b]0;x\x07", ["back", "]", "0", ";", "x"]),
        (b"", []),
    ],
)
def test_keys_by_name(typed: bytes, names: list[str]) -> None:
    assert decode(typed) == names


def test_a_key_whose_bytes_come_apart_is_one_key() -> None:
    near, far = pty.openpty()
    try:
        os.set_blocking(far, True)
        listener = Keys(near)
        os.write(far, b"\x1b")
        late = threading.Timer(0.01, os.write, (far, b"[A"))
        late.start()
        assert listener.wait(10) == ["up"]
        late.join()
        listener.close()
    finally:
        os.close(near)
        os.close(far)


def test_whatever_comes_first_ends_the_wait() -> None:
    listener = Keys(None)
    assert listener.wait(0) == []
    listener.wake()
    listener.wake()
    listener.resized(0, None)
    assert listener.wait(10) == [RESIZED, WOKEN]
    listener.close()
    listener.wake()  # an answer that comes too late


def test_a_terminal_that_is_gone_is_said() -> None:
    near, far = pty.openpty()
    listener = Keys(far)
    os.close(near)
    assert listener.wait(10) == [GONE]
    listener.close()
    os.close(far)


def test_without_a_terminal_there_are_no_keys(tmp_path: Any) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open() as source, keys.listening(source) as listener:
        assert listener.wait(0) == []


def test_orders_go_round_and_turn() -> None:
    place = Place(chosen=1)
    assert [after(place, *["s"] * i).sort for i in range(len(SORTS) + 1)] == [*SORTS, SORTS[0]]
    assert after(place, "S").sort == SORTS[-1]
    assert after(place, "r") == Place(reverse=True)
    assert after(place, "r", "r").reverse is False


def test_views_keep_the_part_that_is_looked_at() -> None:
    place = Place(only=(("node", "n"),))
    assert after(place, "tab") == replace(place, view="nodes")
    assert after(place, "back-tab").view == "findings"
    assert after(place, "3").view == "accelerators"
    assert after(place, "1") == place


def test_into_a_row_and_back() -> None:
    place = Place(sort="power")
    inside = after(place, "down", "enter")
    assert (inside.view, inside.only) == ("accelerators", (("workload", "a"), ("model", ""), ("team", "t")))
    assert after(inside, "back") == replace(place, chosen=1)
    board = Row({"accelerator": "GPU-a", "accelerator_model": "H100", "site": "s", "node": "n"}, 1)
    deeper = after(inside, "enter", view=seen("accelerators", [board], only=inside.only))
    assert deeper.view == "workloads"
    assert dict(deeper.only) == {**dict(inside.only), "accelerator": "GPU-a", "site": "s", "node": "n"}
    assert after(deeper, "back", "back") == replace(place, chosen=1)
    assert after(Place(), "back") == Place()


def test_the_energy_of_nobody_has_accelerators_too() -> None:
    nobody = Row({"workload": None, "model": None, "team": None}, 1)
    assert dict(after(Place(), "enter", view=seen(rows=[nobody])).only) == {"workload": "", "model": "", "team": ""}


def test_a_finding_is_opened_and_closed() -> None:
    view = seen("findings", findings=[finding(1, 9, "over"), finding(2, 5), finding(3, 7)])
    place = Place("findings")
    assert [one.id for one in findings_of(place, view)] == [3, 2, 1]
    opened = after(place, "j", "enter", view=view)
    assert opened.opened == 2
    assert after(opened, "s", "down", view=view) == opened
    assert after(opened, "back", view=view) == replace(place, chosen=1)


def test_the_choice_stays_inside() -> None:
    assert [after(Place(), *typed).chosen for typed in (["up"], ["G"], ["G", "down"], ["page-down"], ["G", "g"])] == [
        0, 1, 1, 1, 0,
    ]  # fmt: skip
    assert after(Place(), "down", view=seen(rows=[])).chosen == 0
    assert after(Place(), "enter", view=seen(rows=[])) == Place()
    assert lines_of(Place("nodes"), seen("workloads")) == []  # an answer to another question


def test_out_and_help() -> None:
    assert pressed(Place(help=True), "q", seen()) is None
    assert after(Place(), "?", "x") == Place()
    assert after(Place(), "x", "resized") == Place()
    assert {key for names, _ in HELP for key in names.split()} >= {"s", "S", "r", "k", "g", "h", "q"}
