"""What an address says a page is about, and that it says the same again when it is shared."""

from __future__ import annotations

import datetime as dt
from urllib.parse import parse_qsl, urlsplit

import pytest

from support.ledger import T0
from wattmill_api.errors import Invalid
from wattmill_api.parameters import parse_instant
from wattmill_api.view import MOST_POINTS, View, read

NOW = T0 + dt.timedelta(minutes=30, seconds=7)
HOUR = dt.timedelta(hours=1)


def again(address: str) -> View:
    return read(parse_qsl(urlsplit(address).query, keep_blank_values=True), NOW)


def test_a_range_ends_with_the_minute_that_is_now() -> None:
    view = read([("range", "6h")], NOW)
    assert view.end == T0 + dt.timedelta(minutes=31)
    assert view.length == 6 * HOUR
    assert view.chosen == "6h"


def test_browsers_write_times_without_a_zone() -> None:
    view = read([("start", "2026-03-02T09:00"), ("end", "2026-03-02T10:00")], NOW)
    assert (view.start, view.end, view.chosen) == (T0 - HOUR, T0, "")


def test_an_address_says_all_of_a_view_again() -> None:
    names = ["a&b=c", "ä ö", "<i>"]
    view = read([("range", "7d"), *(("workload", name) for name in names), ("site", "x/y")], NOW)
    assert again(view.address()) == view
    by_hand = read([("start", "2026-03-01T09:00:00Z"), ("end", "2026-03-02T10:00:00Z"), ("team", "")], NOW)
    assert again(by_hand.address()) == by_hand
    question = dict(parse_qsl(urlsplit(by_hand.api("efficiency", by="team")).query, keep_blank_values=True))
    assert question["by"] == "team"
    assert (parse_instant(question["start"]), parse_instant(question["end"])) == (by_hand.start, by_hand.end)


def test_another_range_keeps_the_filters_and_a_filter_the_range() -> None:
    view = read([("start", "2026-03-01T09:00:00Z"), ("end", "2026-03-02T10:00:00Z"), ("node", "n1")], NOW)
    assert again(view.address(range="1h")) == read([("range", "1h"), ("node", "n1")], NOW)
    assert again(view.address(accelerator="GPU-1")).filters["accelerator"] == ["GPU-1"]
    assert again(view.without_filters()).filters["node"] is None


def test_the_way_back_leads_through_every_level() -> None:
    view = read([("site", "s"), ("node", "n"), ("accelerator", "GPU-1"), ("workload", "w")], NOW)
    crumbs = view.crumbs()
    assert [(name, value) for name, value, _ in crumbs] == [
        ("site", "s"), ("node", "n"), ("accelerator", "GPU-1"), ("workload", "w"),
    ]  # fmt: skip
    assert again(crumbs[1][2]) == read([("site", "s"), ("node", "n")], NOW)


def test_the_range_before_and_after() -> None:
    view = read([("start", "2026-03-02T08:00:00Z"), ("end", "2026-03-02T09:00:00Z")], NOW)
    earlier, later = view.moved(-1), view.moved(1)
    assert earlier is not None
    assert later is not None
    assert again(earlier).end == view.start
    assert again(later).start == view.end
    assert view.moved(4) is None, "nothing is known of the future"


@pytest.mark.parametrize(("chosen", "back", "name"), [
    ("1h", 24 * HOUR, "yesterday"), ("24h", 24 * HOUR, "yesterday"), ("7d", 7 * 24 * HOUR, "the 7 days before"),
])  # fmt: skip
def test_a_range_is_compared_with_the_same_time_before(chosen: str, back: dt.timedelta, name: str) -> None:
    view = read([("range", chosen)], NOW)
    earlier, said = view.earlier()
    assert (view.start - earlier.start, view.end - earlier.end, said) == (back, back, name)


@pytest.mark.parametrize("boards", [1, 8, 1000, 100_000])
@pytest.mark.parametrize("chosen", ["1h", "6h", "24h", "7d", "30d"])
def test_a_trend_is_as_fine_as_can_be_seen_and_no_more_is_read_than_is_quick(boards: int, chosen: str) -> None:
    view = read([("range", chosen)], NOW)
    step = view.step(boards)
    assert view.length / step <= MOST_POINTS
    if step < HOUR:
        assert boards * (view.length / dt.timedelta(minutes=1)) <= 400_000
    elif step < 24 * HOUR:
        assert boards * (view.length / HOUR) <= 200_000


@pytest.mark.parametrize(
    "parameters",
    [[("range", "2h")], [("start", "now")], [("start", "2026-03-02T10:00:00Z"), ("end", "2026-03-01T10:00:00Z")],
     [("wrokload", "chat")], [("node", "a\x00")], [("end", "1999-01-01T00:00:00Z")]],
)  # fmt: skip
def test_what_it_can_not_say(parameters: list[tuple[str, str]]) -> None:
    with pytest.raises(Invalid):
        read(parameters, NOW)
