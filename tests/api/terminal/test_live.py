"""`wattmill top` on a real pseudo-terminal: keys, sizes, trouble, and a terminal that is left as it was."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from support.terminal import at_a_terminal

Answer = tuple[int, str, Any]
Stub = Callable[[Callable[[str], Answer]], contextlib.AbstractContextManager[str]]
BOARDS = 80


class Mill:
    """Answers of a service with one busy workload, many quiet ones, and a name that attacks a terminal."""

    def __init__(self, hostile: str) -> None:
        self.hostile = hostile
        self.asked: list[str] = []
        self.away = False

    def __call__(self, target: str) -> Answer:
        parts = urlsplit(target)
        asked = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        route = parts.path.removeprefix("/api/v1/")
        self.asked.append(f"{route}?{asked.get('by', '')}&{asked.get('workload', '')}")
        if self.away:
            return 503, "application/problem+json", {"detail": "the database is away"}
        found = getattr(self, route, None)
        if found is None:
            return 404, "application/problem+json", {"detail": "there is no such path"}
        return 200, "application/json", found(asked)

    def sites(self, _asked: dict[str, str]) -> Any:
        return {"rows": [{"name": "ams1", "nodes": 2, "accelerators": BOARDS}]}

    def ledger(self, asked: dict[str, str]) -> Any:
        names = asked.get("by", "site").split(",")
        first = {"workload": self.hostile, "accelerator": "GPU-000", "site": "ams1"}[names[0]]
        rows = [self._row(names, first, "serving", 9_000_000_000, 5_000)]
        rows += [self._row(names, f"quiet-{i:03}", "idle-loaded", 1_000_000 * (BOARDS - i), 0) for i in range(BOARDS)]
        spent = sum(row["energy_mj"] for row in rows)
        times = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:15:00Z"}
        return {**times, "rows": rows, "meter_mj": spent, "residual_mj": 0, "closes": True, "meter_reason": None}

    def _row(self, names: list[str], first: str, account: str, energy_mj: int, tokens: int) -> Any:
        return {
            "group": {name: first if i == 0 else f"{first}-{name}" for i, name in enumerate(names)},
            "account": account,
            "energy_mj": energy_mj,
            "estimated_mj": 0,
            "tokens": {"output": tokens},
            "simulated": False,
        }

    def series(self, asked: dict[str, str]) -> Any:
        return {"series": [{"values": [1.0] * 15}]}

    def coverage(self, _asked: dict[str, str]) -> Any:
        return {"rows": [{"expected_seconds": 900.0, "covered_seconds": 900.0}]}

    def efficiency(self, _asked: dict[str, str]) -> Any:
        return {"rows": [{"coverage": 1.0}]}

    def findings(self, _asked: dict[str, str]) -> Any:
        finding = {
            "id": 7,
            "kind": "idle-loaded",
            "subject": self.hostile,
            "state": "open",
            "since": "2026-03-02T10:00:00Z",
            "until": None,
            "impact": {"energy_mj": 3_600_000_000},
            "realised": None,
            "summary": "It idles.",
            "remedy": "Scale it to zero. Then rest.",
            "evidence": {"requests": 0},
            "simulated": False,
        }
        return {"rows": [finding]}


@pytest.fixture
def mill(hostile: str) -> Mill:
    return Mill(hostile)


@pytest.fixture
def address(stub: Stub, mill: Mill) -> Iterator[str]:
    with stub(mill) as address:
        yield address


def test_views_orders_and_ways_in_and_back(address: str, mill: Mill, hostile: str) -> None:
    with at_a_terminal("top", "--server", address, "--interval", "1h") as person:
        person.sees("[1 workloads]")
        person.sees("quiet-000")
        person.types(b"s")
        person.sees("order: tokens_per_kwh")
        person.types(b"r")
        person.sees("(turned)")
        person.types(b"2")
        person.sees("[2 nodes]")
        person.types(b"\t")
        person.sees("[3 accelerators]")
        person.types(b"1ssr")  # workloads by tokens, the busy one first
        person.sees("order: tokens ")
        person.sees("quiet-003")  # the answer is there
        person.types(b"\x1b[B\x1b[A\r")
        person.sees("only workload")
        person.sees("GPU-000")
        assert f"ledger?accelerator,accelerator_model,site,node&{hostile}" in mill.asked
        person.types(b"\x1b")
        person.sees("[1 workloads]")
        person.types(b"4")
        person.sees("saved kWh")  # the answer is there
        person.sees("Scale it to zero.")
        person.types(b"\r")
        person.sees("Then rest.")
        person.sees('{"requests": 0}')
        person.types(b"?")
        person.sees("next, previous order")
        person.types(b"q")
        assert person.leaves() == 0
    drawn = person.drawn
    assert b"]0;owned\x07" not in drawn
    assert b"\\x1b]0;owned" in drawn
    assert "\u202e".encode() not in drawn
    assert drawn.rindex(b"\x1b[?1049h") < drawn.rindex(b"\x1b[?1049l")


def test_a_changed_size_is_drawn_at_once(address: str) -> None:
    with at_a_terminal("top", "--server", address, "--interval", "1h", columns=160, lines=50) as person:
        person.sees("Where the energy went")
        person.resizes(70, 20)
        shown = person.sees("residual 0 mJ")  # in one line: there is no room for the table
        assert "Where the energy went" not in shown
        person.types(b"G")
        person.sees("quiet-079")  # the last one of many, on a page of few
        person.resizes(160, 50)
        person.sees("Where the energy went")
        person.types(b"q")
        assert person.leaves() == 0


def test_trouble_stands_above_what_was_seen_last(address: str, mill: Mill) -> None:
    with at_a_terminal("top", "--server", address, "--interval", "1s") as person:
        person.sees("quiet-000")
        mill.away = True
        person.sees("the database is away")
        person.sees("quiet-000")
        mill.away = False
        person.types(b" ")
        person.sees("[1 workloads]")
        person.types(b"q")
        assert person.leaves() == 0


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_terminal_is_left_as_it_was(address: str, ending: signal.Signals) -> None:
    with at_a_terminal("top", "--server", address) as person:
        before = person.modes()
        person.sees("quiet-000")
        assert person.modes() != before
        person.signals(ending)
        assert person.leaves() == 0
        assert person.modes() == before
    assert person.drawn.endswith(b"\x1b[?25h") or b"\x1b[?25h" in person.drawn.rsplit(b"\x1b[?1049l")[-2][-80:]


@pytest.mark.parametrize("colourless", [True, False])
def test_colours_only_where_they_are_wanted(address: str, colourless: bool) -> None:
    with at_a_terminal("top", "--server", address, env={"NO_COLOR": "1"} if colourless else {}) as person:
        person.sees("residual")
        person.types(b"q")
        person.leaves()
    coloured = b"\x1b[32m" in person.drawn or b"\x1b[33m" in person.drawn
    assert coloured is not colourless
    assert "│" not in person.drawn.decode()


@pytest.mark.parametrize("term", ["dumb", "", "unknown"])
def test_a_terminal_that_nobody_can_draw_on_gets_text(address: str, term: str) -> None:
    with at_a_terminal("top", "--server", address, "--interval", "1s", env={"TERM": term}) as person:
        person.sees("Where the energy went")
        person.sees("Where the energy went")
        person.signals(signal.SIGINT)
        assert person.leaves() == 0
    assert b"\x1b" not in person.drawn
    assert b"s order" not in person.drawn


def test_once_leaves_by_itself_and_a_report_shows_how_far_it_is(address: str, mill: Mill) -> None:
    with at_a_terminal("top", "--server", address, "--once") as person:
        assert person.leaves() == 0
    assert b"\x1b[?1049h" not in person.drawn
    with at_a_terminal("report", "--server", address, "--start", "2026-03-02") as person:
        person.sees("0%                 ledger")
        assert person.leaves() == 1  # of this mill a whole report can't be written
