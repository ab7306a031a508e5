"""The line that says how far work is: on terminals alone, never longer than they are wide."""

from __future__ import annotations

import io

import pytest

from wattmill_api.progress import Bar, clock_face


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def test_nothing_is_written_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    bar = Bar(out, 3)
    bar.show(1, "x")
    bar.end()
    assert out.getvalue() == ""
    monkeypatch.setenv("TERM", "dumb")
    dumb = Terminal()
    Bar(dumb, 3).show(1)
    assert dumb.getvalue() == ""


def test_half_done_in_twenty_seconds_has_twenty_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    clock, out = Clock(), Terminal()
    bar = Bar(out, 4, clock)
    clock.s = 10.0
    bar.show(1, "ledger")
    assert out.getvalue() == f"\r[{'#' * 7:<30}]  25%  "  # cut: nobody told how wide the terminal is
    monkeypatch.setattr("wattmill_api.progress.Bar._columns", lambda _bar: 80)
    clock.s = 20.0
    bar.show(2, "ledger")
    assert "50%  0:20 left      ledger" in out.getvalue()


def test_it_is_drawn_rarely_but_to_the_end_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    clock, out = Clock(), Terminal()
    bar = Bar(out, 1000, clock)
    for done in range(1, 1001):
        clock.s += 0.001
        bar.show(done)
    bar.end()
    bar.end()
    drawn = out.getvalue().split("\r")[1:]
    assert len(drawn) <= 13  # ten a second, and the last
    assert "100%" in drawn[-3]
    assert drawn[-2].strip() == drawn[-1] == ""


def test_work_of_unknown_length_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    Bar(out, None).show(1234, "batches")
    assert out.getvalue() == "\r1,234 batches"


def test_work_of_no_steps_and_more_steps_than_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    Bar(out, 0).show(0)
    Bar(out, 2).show(5)
    assert out.getvalue().count("100%") == 2


@pytest.mark.parametrize(("s", "face"), [(0, "0:00"), (61.9, "1:01"), (3723, "1:02:03"), (1e12, "99:59:59")])
def test_the_time_that_is_left(s: float, face: str) -> None:
    assert clock_face(s) == face
