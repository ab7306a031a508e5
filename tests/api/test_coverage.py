"""GET /coverage: a gap is a gap, with its reason."""

from __future__ import annotations

import datetime as dt

from fastapi.testclient import TestClient

from support.ledger import IDLE_EMPTY, MINUTE, T0, Books
from wattmill_api import coverage
from wattmill_api.coverage import NO_READING, Gap
from wattmill_api.store.query import Absence, Expected, Island

BOARD = Expected(1, "GPU-a", "H100", "gpu-1", "ams1", 9, T0)
LATER = T0 + dt.timedelta(days=1)
S = dt.timedelta(seconds=1)


def full(first_minute: int, minutes: int, covered_s: float = 60) -> Island:
    return Island(1, T0 + first_minute * MINUTE, minutes, int(covered_s * 1_000_000), 0)


def judge(
    *islands: Island,
    absences: tuple[Absence, ...] = (),
    first_seen: dt.datetime = T0,
    minutes: int = 10,
    now: dt.datetime = LATER,
) -> coverage.Covered:
    device = Expected(1, "GPU-a", "H100", "gpu-1", "ams1", 9, first_seen)
    [covered] = coverage.of_devices(
        [device], islands, absences, kind="accelerator", start=T0, end=T0 + minutes * MINUTE, now=now
    )
    return covered


def spans(covered: coverage.Covered) -> list[tuple[float, float]]:
    return [((gap.start - T0) / MINUTE, (gap.end - T0) / MINUTE) for gap in covered.gaps]


def test_all_minutes_covered_is_no_gap() -> None:
    covered = judge(full(0, 10))
    assert (covered.covered_us, covered.expected_us, covered.gaps) == (600_000_000, 600_000_000, ())


def test_missing_minutes_half_minutes_and_the_end_are_gaps() -> None:
    covered = judge(full(0, 2), full(3, 1, 30), full(4, 4))
    assert spans(covered) == [(2, 4), (8, 10)]  # minute 2 has no row, minute 3 half of one
    assert covered.covered_us == 390_000_000
    assert {gap.reason for gap in covered.gaps} == {NO_READING[0]}


def test_nothing_is_expected_before_the_first_reading() -> None:
    covered = judge(full(3, 1, 30), full(4, 6), first_seen=T0 + 3.5 * MINUTE)
    assert (covered.covered_us, covered.expected_us, covered.gaps) == (390_000_000, 390_000_000, ())
    assert judge(first_seen=LATER).expected_us == 0


def test_minutes_still_being_written_are_judged_by_nobody() -> None:
    now = T0 + 10 * MINUTE
    assert judge(full(0, 8), now=now).gaps == ()
    assert judge(full(0, 9), now=now).gaps == ()
    assert spans(judge(full(0, 7), now=now)) == [(7, 8)]


def test_the_reason_that_explains_most_is_told() -> None:
    lost = Absence(
        9, "accelerator", "GPU-a", "gpu_is_lost", "The board fell off the bus.", T0 + 3 * MINUTE, T0 + 5 * MINUTE
    )
    slow = Absence(9, "accelerator", "GPU-a", "timeout", "", T0 + 2 * MINUTE, T0 + 2 * MINUTE + S)
    other = Absence(9, "accelerator", "GPU-b", "not_this_one", "", T0, T0 + 9 * MINUTE)
    elsewhere = Absence(8, "accelerator", "GPU-a", "not_here", "", T0, T0 + 9 * MINUTE)
    [gap] = judge(full(0, 2), full(5, 5), absences=(slow, lost, other, elsewhere)).gaps
    assert (gap.reason, gap.detail) == ("gpu_is_lost", "The board fell off the bus.")


def test_gaps_of_many_boards_become_one_where_they_touch() -> None:
    a, b, c = Gap(T0, T0 + MINUTE, "x", ""), Gap(T0 + MINUTE, T0 + 2 * MINUTE, "x", ""), Gap(T0, T0 + MINUTE, "y", "")
    assert coverage.join([b, c, a]) == [Gap(T0, T0 + 2 * MINUTE, "x", ""), c] or coverage.join([b, c, a]) == [
        c,
        Gap(T0, T0 + 2 * MINUTE, "x", ""),
    ]


def test_the_endpoint(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    for minute in (0, 1, 2, 5, 6):
        books.spent(node, board, 0, IDLE_EMPTY, 1, at=T0 + minute * MINUTE)
    books.do(
        "INSERT INTO absence (time, node_id, subject, id, start_time, reason, detail)"
        " VALUES (%s, %s, 'batch', '', %s, 'dropped_max_age', 'The spool was full.')",
        *(T0 + 5 * MINUTE, node, T0 + 3 * MINUTE),
    )
    times = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:07:00Z"}
    for by in ("accelerator", "node", "site"):
        [row] = client.get("/api/v1/coverage", params={**times, "by": by}).json()["rows"]
        assert row["group"][by] == {"accelerator": "GPU-a", "node": "gpu-1", "site": "ams1"}[by]
        assert (row["covered_seconds"], row["expected_seconds"]) == (300, 420)
        assert row["coverage"] == 300 / 420
        assert row["gaps"] == [
            {
                "start": "2026-03-02T10:03:00Z",
                "end": "2026-03-02T10:05:00Z",
                "reason": "dropped_max_age",
                "detail": "The spool was full.",
            }
        ]
    assert client.get("/api/v1/coverage", params={**times, "node": "none"}).json()["rows"] == []
    assert client.get("/api/v1/coverage", params={**times, "by": "workload"}).status_code == 422


def test_engines_have_coverage_too(client: TestClient, books: Books) -> None:
    node = books.node("gpu-1")
    placement = books.placement(node, [books.board(node, "GPU-a")], "chat")
    engine = books.one("SELECT engine_id FROM placement WHERE placement_id = %s", placement)
    for minute in (0, 2):
        books.do(
            "INSERT INTO engine_minute (time, covered_us, engine_id, node_id, placement_id, anomalies)"
            " VALUES (%s, 60000000, %s, %s, %s, 1)",
            *(T0 + minute * MINUTE, engine, node, placement),
        )
    times = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:03:00Z"}
    [row] = client.get("/api/v1/coverage", params={**times, "by": "engine"}).json()["rows"]
    assert row["group"]["engine"] == "http://127.0.0.1:8000/metrics"
    assert (row["coverage"], row["anomalies"], len(row["gaps"])) == (2 / 3, 2, 1)


def test_efficiency_counts_minutes_without_a_row_as_not_covered(client: TestClient, books: Books) -> None:
    """A sum over an hour of which half was read must not look like a whole one."""
    node = books.node("gpu-1")
    board, late = books.board(node, "GPU-a"), books.board(node, "GPU-b", first_seen=T0 + 5 * MINUTE)
    for minute in range(5):
        books.spent(node, board, 0, IDLE_EMPTY, 10, at=T0 + minute * MINUTE)
    books.spent(node, late, 0, IDLE_EMPTY, 10, at=T0 + 9 * MINUTE)
    times = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:10:00Z"}

    def ask(**parameters: str) -> list[float]:
        return [r["coverage"] for r in client.get("/api/v1/efficiency", params={**times, **parameters}).json()["rows"]]

    assert ask() == [6 / 15]
    assert ask(by="node") == [6 / 15]
    assert ask(by="accelerator") == [5 / 10, 1 / 5]
    assert ask(accelerator="GPU-a", step="1m") == [1.0] * 5
    assert ask(by="workload") == [1.0]  # nobody knows where a workload should have been
