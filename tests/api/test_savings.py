"""What a remedy saved, against figures worked out by hand: each group of kinds by its own rule."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from support.ledger import IDLE_EMPTY, IDLE_LOADED, MINUTE, SERVING, T0, Books
from wattmill_analytics.curves import LOAD_BINS, Curves
from wattmill_api import savings
from wattmill_api.store import curves as store
from wattmill_api.store.curves import Reference

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


class Mill:
    """One engine on one board, written minute by minute around T0, when its finding ends."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.node = books.node("gpu-1", first_seen=T0 - 8 * DAY)
        self.board = books.board(self.node, "GPU-a", first_seen=T0 - 8 * DAY)
        self.placement = books.placement(self.node, [self.board], "chat")
        self.engine = books.one("SELECT engine_id FROM engine")
        books.do("UPDATE engine SET last_seen = last_seen + interval '8 days'")
        books.do("UPDATE placement SET since = since - interval '8 days', until = until + interval '8 days'")

    def minute(
        self, at: dt.datetime, energy_mj: int, account: int = SERVING, tokens: tuple[int, int, int] | None = None
    ) -> None:
        """Energy of one minute; with tokens (input, cached, output) the engine ran 16 requests."""
        placement = 0 if account == IDLE_EMPTY else self.placement
        self.books.spent(
            self.node, self.board, placement, account, energy_mj, at=at, tokens=tokens or (None, None, None)
        )
        if tokens is not None:
            self.books.do(
                "INSERT INTO engine_minute (time, engine_id, node_id, placement_id, input_tokens, cached_input_tokens,"
                " output_tokens, covered_us, anomalies, requests_running)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, 60000000, 0, 16)",
                *(at, self.engine, self.node, self.placement, *tokens),
            )

    def finding(
        self, kind: str, lasted: dt.timedelta, state: str = "resolved", seen: bool = True, wasted_mj: int = 10**9
    ) -> None:
        self.books.do(
            "INSERT INTO finding (kind, subject, state, since, until, last_seen, energy_mj, evidence, summary, remedy,"
            " acknowledged, engine_ids, board_ids) VALUES (%s, 'x', %s, %s, %s, %s, %s, '{}', '', '', %s, %s, %s)",
            *(kind, state, T0 - lasted, T0, T0, wasted_mj, T0 if seen else None, [self.engine], [self.board]),
        )

    def saved(self, after: dt.timedelta) -> int | None:
        savings.measure(self.books.connection, T0 + after)
        return self.books.one("SELECT saved_mj FROM finding_saving")  # type: ignore[no-any-return]


@pytest.fixture
def mill(books: Books) -> Mill:
    return Mill(books)


def test_idle_energy_per_hour_nights_compared_with_nights(mill: Mill) -> None:
    """Idle from 8 to 10 of a watched day at 6 J a minute; then two hours on empty boards at 4 J a minute."""
    for i in range(24 * 60):
        idle = i >= 22 * 60
        mill.minute(T0 - DAY + i * MINUTE, 6000 if idle else 30_000, IDLE_LOADED if idle else SERVING)
    for i in range(120):
        mill.minute(T0 + i * MINUTE, 4000, IDLE_EMPTY)
    mill.finding("idle-loaded", 2 * HOUR)
    # 120 x 6000 mJ in 24 h before is 30 000 mJ/h: 60 000 mJ were to be expected, and 480 000 were spent.
    assert mill.saved(2 * HOUR) == 60_000 - 480_000


def test_a_board_that_idled_all_day_and_serves_now_saves_all_of_it(mill: Mill) -> None:
    for i in range(24 * 60):
        mill.minute(T0 - DAY + i * MINUTE, 6000, IDLE_EMPTY)
    for i in range(60):
        mill.minute(T0 + i * MINUTE, 30_000, SERVING)
    mill.finding("idle-empty", 24 * HOUR, state="closed")
    assert mill.saved(HOUR) == 60 * 6000


def test_energy_at_equal_load_against_the_curve(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve allows 2 mJ a token: 3 were spent on each before, 2.2 after."""
    curves = Curves(
        np.full((1, LOAD_BINS), 2.0), np.full((1, LOAD_BINS), 10.0), np.zeros(1), np.ones((1, LOAD_BINS), np.int64)
    )
    monkeypatch.setattr(store, "reference", lambda *_: Reference(curves, {mill.engine: 0}, ()))
    for i in range(30):
        mill.minute(T0 - 30 * MINUTE + i * MINUTE, 3000, tokens=(0, 0, 1000))
    for i in range(60):
        mill.minute(T0 + i * MINUTE, 1100, tokens=(0, 0, 500))
    mill.finding("regression", HOUR / 2)
    # Half the tokens: what counts is the price of one. 60 x 500 tokens x (3 - 2.2) mJ.
    assert mill.saved(HOUR) == 24_000


def test_at_equal_load_no_more_is_saved_than_was_wasted(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour of a hot board is no reason to claim what the following six hours did not spend."""
    curves = Curves(
        np.full((1, LOAD_BINS), 2.0), np.full((1, LOAD_BINS), 10.0), np.zeros(1), np.ones((1, LOAD_BINS), np.int64)
    )
    monkeypatch.setattr(store, "reference", lambda *_: Reference(curves, {mill.engine: 0}, ()))
    for i in range(30):
        mill.minute(T0 - 30 * MINUTE + i * MINUTE, 3000, tokens=(0, 0, 1000))
    for i in range(360):
        mill.minute(T0 + i * MINUTE, 2200, tokens=(0, 0, 1000))
    mill.finding("throttled", HOUR / 2, wasted_mj=30 * 1000)
    # Of a token 3 mJ were spent, then 2.2: for the 30 x 1000 tokens of the incident and not for all 360 000 since.
    assert mill.saved(6 * HOUR) == 30 * 800
    mill.books.do("DELETE FROM finding_saving")
    mill.books.do("UPDATE finding SET energy_mj = 5000")  # by its own account the incident cost less than that
    assert mill.saved(6 * HOUR) == 5000


def test_a_rate_above_the_findings_own_is_not_claimed(mill: Mill) -> None:
    """A board idles all day at 6 J a minute; of it, the finding's two hours are its own, and 720 J."""
    for i in range(24 * 60):
        mill.minute(T0 - DAY + i * MINUTE, 6000, IDLE_LOADED)
    for i in range(120):
        mill.minute(T0 + i * MINUTE, 30_000, SERVING)
    mill.finding("idle-loaded", 2 * HOUR, wasted_mj=120 * 6000)
    assert mill.saved(2 * HOUR) == 120 * 6000 * 2 / 24


def test_what_was_merged_away_is_not_followed(mill: Mill) -> None:
    for i in range(60):
        mill.minute(T0 - HOUR + i * MINUTE, 6000, IDLE_LOADED)
    mill.finding("idle-loaded", HOUR)
    mill.books.do("UPDATE finding SET merged_into = finding_id")
    assert savings.measure(mill.books.connection, T0 + HOUR) == 0


def test_energy_of_the_workload_per_token_wherever_it_runs(mill: Mill) -> None:
    for i in range(60):
        mill.minute(T0 - HOUR + i * MINUTE, 5000, tokens=(0, 0, 1000))
    mill.finding("over-provisioned", HOUR)
    moved(mill)
    assert mill.saved(HOUR) == 120_000 * 5 - (240_000 + 10_000)


def test_a_small_batch_is_compared_with_its_workload_since(mill: Mill) -> None:
    """60 000 tokens at 5 mJ in one hour of a day; the day's first hour after, the workload spends 25/12 mJ on one."""
    for i in range(60):
        mill.minute(T0 - HOUR + i * MINUTE, 5000, tokens=(0, 0, 1000))
    mill.minute(T0 - HOUR, 700, IDLE_LOADED)  # idle energy of the incident is not what its tokens cost
    mill.finding("low-batch", HOUR)
    moved(mill)
    assert mill.saved(HOUR) == round(60_000 / 24 * (5 - 250_000 / 120_000))


def moved(mill: Mill) -> None:
    """Its traffic goes to another replica of the workload, which spends 2 mJ a token; the old one idles at first."""
    board = mill.books.board(mill.node, "GPU-b")
    other = mill.books.placement(mill.node, [board], "chat", target="http://127.0.0.1:8001/metrics")
    for i in range(60):
        mill.books.spent(mill.node, board, other, SERVING, 4000, at=T0 + i * MINUTE, tokens=(0, 0, 2000))
        if i < 10:
            mill.minute(T0 + i * MINUTE, 1000, IDLE_LOADED)


def test_uncached_input_at_the_price_of_prefill(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 % of the input was computed before, 50 % after; a token's prefill costs 0.5 mJ."""
    curves = Curves(
        np.full((1, LOAD_BINS), 2.0), np.full((1, LOAD_BINS), 10.0), np.array([0.5]), np.ones((1, LOAD_BINS), np.int64)
    )
    monkeypatch.setattr(store, "reference", lambda *_: Reference(curves, {mill.engine: 0}, ()))
    for i in range(30):
        mill.minute(T0 - 30 * MINUTE + i * MINUTE, 3000, tokens=(1000, 200, 1000))
    for i in range(60):
        mill.minute(T0 + i * MINUTE, 3000, tokens=(2000, 1000, 1000))
    mill.finding("cache-miss", HOUR / 2)
    assert mill.saved(HOUR) == 60 * 2000 * 0.3 * 0.5


def test_without_a_curve_nothing_is_claimed(mill: Mill) -> None:
    for i in range(60):
        mill.minute(T0 - 30 * MINUTE + i * MINUTE, 3000, tokens=(1000, 200, 1000))
    mill.finding("throttled", HOUR / 2)
    assert mill.saved(HOUR / 2) is None


def test_it_is_followed_for_seven_days_and_then_left_alone(mill: Mill) -> None:
    for i in range(60):
        mill.minute(T0 - HOUR + i * MINUTE, 6000, IDLE_LOADED)
    mill.finding("idle-loaded", HOUR)
    for i in range(30):
        mill.minute(T0 + i * MINUTE, 1000, IDLE_LOADED)
        savings.measure(mill.books.connection, T0 + (i + 1) * MINUTE)
    # Taken up piece by piece, it is the same as measured at once.
    assert mill.books.one("SELECT saved_mj FROM finding_saving") == 30 * 6000 - 30 * 1000
    for late in (7 * DAY - MINUTE, 7 * DAY, 7 * DAY + MINUTE):
        mill.minute(T0 + late, 50_000, IDLE_LOADED)
    saved = 31 * 6000 - 30 * 1000 - 50_000  # the minute before seven days were up, no later one
    assert mill.saved(7 * DAY + 2 * MINUTE) == saved
    assert mill.books.one("SELECT until - since FROM finding_saving") == 7 * DAY
    assert savings.measure(mill.books.connection, T0 + 7 * DAY + HOUR) == 0


@pytest.mark.parametrize(
    ("kind", "state", "seen"),
    [("idle-loaded", "closed", False), ("telemetry-untrusted", "resolved", True), ("idle-loaded", "open", True)],
)
def test_only_what_a_person_saw_and_what_ended_is_followed(mill: Mill, kind: str, state: str, seen: bool) -> None:
    mill.finding(kind, HOUR, state, seen)
    assert savings.measure(mill.books.connection, T0 + HOUR) == 0
