"""What the first page says, in numbers: the ledger's, to the millijoule, and shares that add up to a hundred."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from fastapi.testclient import TestClient

from support.ledger import IDLE_EMPTY, IDLE_LOADED, MINUTE, SERVING, T0, UNATTRIBUTED, Books
from wattmill_api.overview import Overview, overview
from wattmill_api.overview.waterfall import Waterfall, tenths
from wattmill_api.view import read

NOW = T0 + 30 * MINUTE
HOUR = dt.timedelta(hours=1)
RETAINED = dt.timedelta(days=400)


def shown(books: Books, *parameters: tuple[str, str], now: dt.datetime = NOW) -> Overview:
    return overview(books.connection, read(parameters, now), RETAINED)


def written(fall: Waterfall) -> dict[str, float]:
    """What the page prints beside each line, in percent."""
    lines = [*fall.steps, *(step for step in (fall.host, fall.facility) if step)]
    return {step.name: round(100 * step.share, 1) for step in lines}


def test_the_accounts_sum_to_the_meter(books: Books) -> None:
    node = books.node("a")
    board = books.board(node, "GPU-1")
    for account in range(1, 5):
        books.spent(node, board, 0, account, 10**account)
    fall = shown(books).waterfall
    assert [(step.name, step.energy_mj) for step in fall.steps] == [
        ("serving", 10),
        ("idle-loaded", 100),
        ("idle-empty", 1000),
        ("unattributed", 10_000),
    ]
    assert (fall.meter_mj, fall.residual_mj) == (11_110, 0)
    books.spent(node, board, 0, SERVING, 7, at=T0 + MINUTE, metered=False)
    assert shown(books).waterfall.residual_mj == -7


def test_the_published_split_of_a_prompt_closes_to_a_hundred(books: Books) -> None:
    """Google, 2025: accelerators 58 %, host 25 %, idle machines 10 %, overhead 8 %: rounded parts that add to 101."""
    node = books.node("a")
    board = books.board(node, "GPU-1")
    unit = 36_000_000
    books.spent(node, board, 0, SERVING, 58 * unit)
    books.spent(node, board, 0, IDLE_EMPTY, 10 * unit)
    books.host(node, 25 * unit)
    books.do("INSERT INTO pue VALUES ('*', %s, %s)", T0 - HOUR, Decimal(101) / Decimal(93))
    fall = shown(books).waterfall
    assert fall.total_mj == 101 * unit
    percents = written(fall)
    assert percents == {
        "serving": 57.4, "idle-loaded": 0, "idle-empty": 9.9, "unattributed": 0, "host": 24.8, "facility overhead": 7.9,
    }  # fmt: skip
    assert round(sum(percents.values()), 1) == 100.0
    for name, published in (("serving", 58), ("host", 25), ("idle-empty", 10), ("facility overhead", 8)):
        assert abs(percents[name] - published) <= 1


@pytest.mark.parametrize("parts", [[0, 0], [1], [1, 1, 1], [1, 10**15], [333, 333, 334, 0, 7], [2**70, 1]])
def test_shares_add_up_and_none_is_off_by_more_than_one_digit(parts: list[int]) -> None:
    shares = tenths(parts)
    assert sum(shares) == (1000 if sum(parts) else 0)
    for part, share in zip(parts, shares, strict=True):
        assert abs(share - (1000 * part / sum(parts) if sum(parts) else 0)) < 1


def test_bars_lie_end_to_end(books: Books) -> None:
    node = books.node("a")
    board = books.board(node, "GPU-1")
    for account in range(1, 5):
        books.spent(node, board, 0, account, 7**account)
    end = 0.0
    for step in shown(books).waterfall.steps:
        assert step.begin == pytest.approx(end)
        end = step.begin + step.share


def test_serving_is_split_at_learnt_prices_and_the_parts_sum_to_it(books: Books) -> None:
    node = books.node("a")
    board = books.board(node, "GPU-1")
    placement = books.placement(node, [board], "chat")
    other = books.placement(node, [board], "new", target="http://e2/metrics")
    books.spent(node, board, placement, SERVING, 10_000, tokens=(300, 100, 50))
    books.spent(node, board, other, SERVING, 1_000, tokens=(10, 0, 10))
    books.do(
        "INSERT INTO phase_day (time, workload_id, accelerator_model, energy_mj, explained_mj, engine_us,"
        " uncached_input_tokens, output_tokens, cached_input_tokens, standing_mj, prefill_mj, decode_mj, minutes,"
        " wild_minutes, residual_ratio, r_squared, window_days, verdict, coefficients, errors, sums)"
        " VALUES (%s, 1, 'H100', 100, 100, 1, 100, 100, 0, 0, 1000, 6000, 9, 0, 0, 1, 1, 0, '{0,10,60}', '{0,0,0}',"
        " '{0}')",
        T0.replace(hour=0),
    )
    serving = shown(books).waterfall.steps[0]
    # 200 computed tokens at 10 mJ, 50 output tokens at 60 mJ.
    assert {part.name: part.energy_mj for part in serving.parts} == {
        "prefill": 2_000, "decode": 3_000, "standing": 5_000, "not split": 1_000,
    }  # fmt: skip
    assert sum(part.share for part in serving.parts) == pytest.approx(serving.share)


def test_the_page_equals_the_api_for_every_part_of_the_fleet(client: TestClient, books: Books) -> None:
    boards = {}
    for site, name in (("ams1", "a"), ("ams1", "b"), ("fra2", "c")):
        node = books.node(name, site)
        boards[name] = (node, books.board(node, f"GPU-{name}"))
        books.host(node, 1_000_003)
    books.do("INSERT INTO pue VALUES ('ams1', %s, 1.21), ('fra2', %s, 1.37)", T0 - HOUR, T0 - HOUR)
    books.do("INSERT INTO tariff VALUES ('*', %s, 'EUR', 0.1234567)", T0 - HOUR)
    for i, (node, board) in enumerate(boards.values()):
        placement = books.placement(node, [board], f"w{i}")
        for minute in range(7):
            at = T0 + minute * MINUTE
            books.spent(node, board, placement, SERVING, 5_000_011 + i, at=at, tokens=(40, 10, 25 + i))
            books.spent(node, board, placement, IDLE_LOADED, 1_000_003, at=at)
            books.spent(node, board, 0, UNATTRIBUTED, 77, at=at)
    for filters in ({}, {"site": "ams1"}, {"site": "fra2", "node": "c"}, {"accelerator": "GPU-b"}, {"workload": "w1"}):
        page = shown(books, *filters.items())
        view = page.view
        asked = {"start": view.start.isoformat(), "end": view.end.isoformat(), **filters}
        ledger = client.get("/api/v1/ledger", params=asked).json()
        row = client.get("/api/v1/efficiency", params=asked).json()["rows"][0]
        total = page.headline.total
        assert total is not None
        for name in ("energy_mj", "tokens_per_kwh", "joules_per_token", "cost", "tokens", "quality"):
            assert total[name] == row[name], (filters, name)
        accounts = {step.name: step.energy_mj for step in page.waterfall.steps if step.energy_mj}
        assert accounts == {each["account"]: each["energy_mj"] for each in ledger["rows"]}
        assert (page.waterfall.meter_mj, page.waterfall.residual_mj) == (ledger["meter_mj"], ledger["residual_mj"])
        facility = client.get("/api/v1/efficiency", params={**asked, "scope": "facility"}).json()["rows"][0]
        if page.waterfall.facility is not None:
            assert page.waterfall.total_mj == facility["energy_mj"]
        assert (page.waterfall.facility is None) == (set(filters) & {"accelerator", "workload"} != set())


def test_minutes_hours_and_days_give_the_same_page(books: Books) -> None:
    node = books.node("a", first_seen=T0 - 72 * HOUR)
    board = books.board(node, "GPU-1", first_seen=T0 - 72 * HOUR)
    placement = books.placement(node, [board], "chat")
    for hour in range(0, 72, 5):
        at = T0 - hour * HOUR + 3 * MINUTE
        books.spent(node, board, placement, SERVING, 3_000_001, at=at, tokens=(9, 3, 7))
        books.spent(node, board, placement, IDLE_LOADED, 500_000, at=at)
    books.close_hours()
    week = shown(books, ("range", "7d"))
    assert week.headline.total is not None
    assert week.waterfall.ledger_mj == week.waterfall.meter_mj == 15 * 3_500_001
    assert week.headline.total["tokens"] == {"input": 135, "cached_input": 45, "output": 105}
    month = shown(books, ("range", "30d"))
    assert month.waterfall.ledger_mj == month.waterfall.meter_mj == week.waterfall.ledger_mj


def test_workloads_stand_by_what_they_waste(books: Books) -> None:
    node = books.node("a")
    board = books.board(node, "GPU-1")
    frugal = books.placement(node, [board], "frugal")
    idle = books.placement(node, [board], "idle", target="http://e2/metrics")
    slow = books.placement(node, [board], "slow", target="http://e3/metrics")
    for placement, serving, waiting in ((frugal, 9_000, 10), (idle, 1_000, 4_000), (slow, 9_000, 0)):
        books.spent(node, board, placement, SERVING, serving, tokens=(1, 0, 1))
        books.spent(node, board, placement, IDLE_LOADED, waiting)
    books.spent(node, board, 0, IDLE_EMPTY, 2_000)
    # Half of its hour lies in the range: 6 000 of 12 000 mJ; none of a finding that was over before.
    for since, until, energy_mj in (
        (NOW - 24 * HOUR - HOUR / 2, None, 12_000),
        (NOW - 72 * HOUR, NOW - 70 * HOUR, 9**9),
    ):
        books.do(
            "INSERT INTO finding (kind, subject, workload, since, last_seen, until, energy_mj, evidence, summary,"
            " remedy) VALUES ('low-batch', %s, 'slow', %s, %s, %s, %s, '{}', 's', 'Batch.')",
            *(f"engine:{energy_mj}", since, until or since + HOUR, until, energy_mj),
        )
    page = shown(books)
    assert [(one.name, one.idle_mj, one.serving_waste_mj) for one in page.workloads] == [
        ("slow", 0, 6_000),
        ("idle", 4_000, 0),
        (None, 2_000, 0),
        ("frugal", 10, 0),
    ]
    assert page.headline.worst is page.workloads[0]
    assert page.headline.action is not None
    assert page.headline.action.remedy == "Batch."
    assert page.headline.waste_mj == 6_010
    assert (page.open_count, page.over_count) == (1, 0)


def test_waste_is_never_more_than_all_energy(books: Books) -> None:
    node = books.node("a")
    board = books.board(node, "GPU-1")
    books.spent(node, board, books.placement(node, [board], "chat"), SERVING, 1_000, tokens=(1, 0, 1))
    books.do(
        "INSERT INTO finding (kind, subject, workload, since, last_seen, energy_mj, evidence, summary, remedy)"
        " VALUES ('throttled', 'engine:x', 'chat', %s, %s, 999999, '{}', 's', 'r')",
        *(T0, NOW),
    )
    assert shown(books).workloads[0].waste_share == 1.0


def test_yesterday_is_what_it_is_compared_with(books: Books) -> None:
    node = books.node("a", first_seen=T0 - 48 * HOUR)
    board = books.board(node, "GPU-1", first_seen=T0 - 48 * HOUR)
    placement = books.placement(node, [board], "chat")
    for at, tokens in ((T0, 120), (T0 - 24 * HOUR, 100)):
        books.spent(node, board, placement, SERVING, 3_600, at=at, tokens=(1, 0, tokens))
    top = shown(books, ("range", "1h")).headline
    assert top.compared == "yesterday"
    assert top.change == pytest.approx(1.2)


def test_now_is_the_last_minutes_that_are_closed(books: Books) -> None:
    node = books.node("a")
    board = books.board(node, "GPU-1")
    placement = books.placement(node, [board], "chat")
    for minute in range(30):
        books.spent(node, board, placement, SERVING, 30_000_000, at=T0 + minute * MINUTE, tokens=(1, 0, 1000))
    now = shown(books, ("range", "1h")).headline.now
    assert now is not None
    assert now.end == NOW - 2 * MINUTE
    assert now.kilowatts == pytest.approx(0.5)  # 30 kJ a minute
    assert now.tokens_per_kwh == pytest.approx(1000 * 120)


def test_a_step_that_is_not_over_shows_no_fall_of_power(books: Books) -> None:
    node = books.node("a")
    board = books.board(node, "GPU-1")
    placement = books.placement(node, [board], "chat")
    for minute in range(29):
        books.spent(node, board, placement, SERVING, 30_000_000, at=T0 + minute * MINUTE, tokens=(1, 0, 1))
    points = shown(books).trend.points
    assert [point.kilowatts[0] for point in points] == [pytest.approx(0.5)] * 3


def test_a_gap_of_the_trend_has_no_value(books: Books) -> None:
    node = books.node("a")
    board = books.board(node, "GPU-1")
    placement = books.placement(node, [board], "chat")
    for minute in (0, 1, 5, 6):
        books.spent(node, board, placement, SERVING, 6_000, at=T0 + minute * MINUTE, tokens=(1, 0, 1))
    points = shown(books, ("range", "1h")).trend.points
    assert [point.tokens_per_kwh is None for point in points] == [False, False, True, True, True, False, False]
    assert points[2].kilowatts == (None, None, None, None)


def test_silent_nodes_and_gaps_are_told(books: Books) -> None:
    node = books.node("a")
    board = books.board(node, "GPU-1")
    for minute in (0, 1, 2, 9):
        books.spent(node, board, 0, IDLE_EMPTY, 1_000, at=T0 + minute * MINUTE)
    told = shown(books, ("range", "1h")).quality
    assert [each.node for each in told.silent] == ["a"]
    assert [(gap.start, gap.end) for gap in told.gaps[0].gaps] == [
        (T0 + 3 * MINUTE, T0 + 9 * MINUTE),
        (T0 + 10 * MINUTE, T0 + 28 * MINUTE),
    ]
    assert told.covered_ratio == pytest.approx(4 / 28)


def test_each_level_leads_to_the_next(books: Books) -> None:
    for site, name in (("ams1", "a"), ("ams1", "b"), ("fra2", "c")):
        node = books.node(name, site)
        for i in range(2):
            books.spent(node, books.board(node, f"GPU-{name}{i}"), 0, IDLE_EMPTY, 1_000)
    fleet = shown(books)
    assert (fleet.places.level, sorted(place.name for place in fleet.places.rows)) == ("site", ["ams1", "fra2"])
    assert shown(books, ("site", "ams1")).places.level == "node"
    node_page = shown(books, ("site", "ams1"), ("node", "b"))
    assert [place.name for place in node_page.places.rows] == ["GPU-b0", "GPU-b1"]
    assert shown(books, ("accelerator", "GPU-b0")).places.rows == ()
    assert sum(place.row["energy_mj"] for place in fleet.places.rows) == fleet.waterfall.ledger_mj


def two_sites(books: Books) -> None:
    """Two workloads on a node of each site, whose host costs 1 000 003 mJ in each of seven minutes."""
    for i, (site, name) in enumerate((("ams1", "a"), ("fra2", "b"))):
        node = books.node(name, site)
        boards = [books.board(node, f"GPU-{name}{number}") for number in range(2)]
        placements = [
            books.placement(node, [board], f"w{number}", target=f"http://e{number}/metrics")
            for number, board in enumerate(boards)
        ]
        for minute in range(7):
            at = T0 + minute * MINUTE
            books.host(node, 1_000_003, at=at)
            for number, (board, placement) in enumerate(zip(boards, placements, strict=True)):
                books.spent(node, board, placement, SERVING, 5_000_011 + i, at=at, tokens=(40, 10, 25 + number))
                books.spent(node, board, placement, IDLE_LOADED, 1_000_003, at=at)
            books.spent(node, boards[0], 0, UNATTRIBUTED, 77, at=at)


@pytest.mark.parametrize("scope", ["accelerator", "node", "facility"])
def test_at_each_scope_the_page_equals_the_api(client: TestClient, books: Books, scope: str) -> None:
    two_sites(books)
    books.do("INSERT INTO pue VALUES ('ams1', %s, 1.21), ('fra2', %s, 1.37)", T0 - 48 * HOUR, T0 - 48 * HOUR)
    books.do("INSERT INTO pue VALUES ('fra2', %s, 1.5)", T0 + 3 * MINUTE)
    books.do("INSERT INTO tariff VALUES ('*', %s, 'EUR', 0.1234567)", T0 - 48 * HOUR)
    boards = shown(books).waterfall
    for filters in ({}, {"site": "fra2"}, {"workload": "w1"}, {"accelerator": "GPU-a1"}):
        page = shown(books, ("scope", scope), *filters.items())
        assert (page.scope, page.without_pue) == (scope, ())
        asked = {"start": page.view.start.isoformat(), "end": page.view.end.isoformat(), "scope": scope, **filters}
        row = client.get("/api/v1/efficiency", params=asked).json()["rows"][0]
        total = page.headline.total
        assert total is not None
        for name in ("scope", "energy_mj", "tokens_per_kwh", "joules_per_token", "tokens", "quality", "missing"):
            assert total[name] == row[name], (filters, name)
        assert total["cost"]["total"] == pytest.approx(row["cost"]["total"])
        of = {"by": "workload,model,team"}
        rows = client.get("/api/v1/efficiency", params={**asked, **of}).json()["rows"]
        mine = {one.name: one.row["energy_mj"] for one in page.workloads}
        assert set(mine) == {each["group"]["workload"] for each in rows}
        for each in rows:  # serving and idle are rounded apart on the page
            assert abs(mine[each["group"]["workload"]] - each["energy_mj"]) <= 4
        assert sum(mine.values()) == total["energy_mj"]
        drawn = sum(kilowatts or 0 for point in page.trend.points for kilowatts in point.kilowatts)
        assert drawn * page.trend.step.total_seconds() * 1e6 == pytest.approx(total["energy_mj"], rel=1e-6)
        if not filters:
            assert page.waterfall == boards, "the waterfall shows all three, whichever is chosen"
            edge = {
                "accelerator": boards.ledger_mj,
                "node": boards.ledger_mj + (boards.host.energy_mj if boards.host else 0),
                "facility": boards.total_mj,
            }
            assert total["energy_mj"] == edge[scope]
            assert sum(place.row["energy_mj"] for place in page.places.rows) == total["energy_mj"]


def test_a_facility_without_a_pue_is_shown_as_its_nodes_and_says_so(books: Books) -> None:
    two_sites(books)
    books.do("INSERT INTO pue VALUES ('ams1', %s, 1.2), ('fra2', %s, 1.3)", T0 - HOUR, T0 + MINUTE)
    page, nodes = shown(books, ("scope", "facility")), shown(books, ("scope", "node"))
    assert (page.scope, page.without_pue) == ("node", ("fra2",))
    assert page.headline.total == nodes.headline.total
    assert page.workloads == nodes.workloads
    assert shown(books, ("scope", "facility"), ("site", "ams1")).scope == "facility"


def test_earlier_and_now_are_of_the_same_scope(books: Books) -> None:
    """A host that costs as much as its board: at the node half as many tokens per kWh, yesterday as today."""
    node = books.node("a", first_seen=T0 - 48 * HOUR)
    board = books.board(node, "GPU-1", first_seen=T0 - 48 * HOUR)
    placement = books.placement(node, [board], "chat")
    for day, tokens in ((0, 120), (24, 100)):
        for minute in range(30):
            at = T0 - day * HOUR + minute * MINUTE
            books.spent(node, board, placement, SERVING, 30_000_000, at=at, tokens=(1, 0, tokens))
            books.host(node, 30_000_000, at=at)
    top = {scope: shown(books, ("range", "1h"), ("scope", scope)).headline for scope in ("accelerator", "node")}
    for each in top.values():
        assert each.change == pytest.approx(1.2)
        assert each.now is not None
    assert top["accelerator"].now is not None
    assert top["node"].now is not None
    assert top["node"].now.kilowatts == pytest.approx(2 * top["accelerator"].now.kilowatts) == pytest.approx(1.0)
    # A PUE that was set today says nothing of yesterday.
    books.do("INSERT INTO pue VALUES ('*', %s, 1.5)", T0 - HOUR)
    facility = shown(books, ("range", "1h"), ("scope", "facility")).headline
    assert facility.change is None
    assert facility.now is not None
    assert facility.now.kilowatts == pytest.approx(1.5)


def test_a_host_whose_boards_used_nothing_is_somewhere(books: Books) -> None:
    node = books.node("a")
    books.board(node, "GPU-1")
    books.host(node, 60_000_000)
    page = shown(books, ("scope", "node"), ("range", "1h"))
    assert page.headline.total is not None
    assert page.headline.total["energy_mj"] == 60_000_000
    assert page.trend.points[0].tokens_per_kwh is None


def test_a_shared_board_says_by_what_and_how_sure_that_is(books: Books) -> None:
    node = books.node("n1")
    board, alone = books.board(node, "GPU-a"), books.board(node, "GPU-b")
    for nth, share in enumerate(("{428571}", "{571429}")):
        held = books.placement(node, [board], f"w{nth}", target=f"http://{nth}/metrics")
        books.do(
            "UPDATE placement SET shares_ppm = %s, share_by = 'mig', confidence = %s WHERE placement_id = %s",
            *(share, ("high", "medium")[nth], held),
        )
        books.spent(node, board, held, SERVING, 1_000)
    books.spent(node, alone, books.placement(node, [alone], "w2", target="http://2/metrics"), SERVING, 1_000)
    places = {place.name: place.held for place in shown(books, ("node", "n1")).places.rows}
    assert places == {"GPU-a": "2 engines by mig, confidence medium", "GPU-b": None}


def test_a_target_that_is_not_understood_is_told_until_it_is_read(books: Books) -> None:
    node = books.node("n1")
    held = books.placement(node, [books.board(node, "GPU-a")], "chat")
    told = T0 + 10 * MINUTE
    for target in ("http://127.0.0.1:8000/metrics", "http://other/metrics"):
        books.do(
            "INSERT INTO absence VALUES (%s, %s, 'engine', %s, %s, 'not_understood', 'It is something else.')",
            *(told, node, target, told),
        )
    quality = shown(books, now=T0 + 11 * MINUTE).quality
    assert quality.unread_count == 2
    assert {each["target"]: each["reason"] for each in quality.unread} == {
        "http://127.0.0.1:8000/metrics": "not_understood",
        "http://other/metrics": "not_understood",
    }
    books.do(
        "INSERT INTO engine_sample (time, epoch, engine_id, node_id, placement_id)"
        " SELECT %s, 0, engine_id, %s, placement_id FROM placement WHERE placement_id = %s",
        *(told, node, held),
    )
    quality = shown(books, now=T0 + 11 * MINUTE).quality
    assert [each["target"] for each in quality.unread] == ["http://other/metrics"]
