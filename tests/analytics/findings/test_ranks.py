"""Boards of one engine beside each other: the kernel and its slow twin say the same, with holes and unknown clocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from support import naive_ranks
from wattmill_analytics.findings import ranks


def csr(lengths: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@pytest.mark.parametrize("seed", range(20))
def test_the_kernel_agrees_with_its_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boards = int(rng.integers(1, 9))
    ids = np.sort(rng.choice(1000, boards, replace=False) + 1)
    minutes = [np.flatnonzero(rng.random(40) < 0.8) for _ in range(boards)]
    columns = [
        {
            int(t): (
                int(rng.choice([-1, 0, 1200, 1500, 1980])),
                int(rng.integers(0, 512)),
                float(rng.choice([math.nan, 0.5, 0.9])),
            )
            for t in mine
        }
        for mine in minutes
    ]
    held = [rng.permutation(boards)[: int(rng.integers(0, boards + 1))] for _ in range(3)]
    seen = [np.flatnonzero(rng.random(40) < 0.9) for _ in range(3)]
    flat = [row for of in columns for row in of.values()]
    found = ranks.compare(
        offsets=csr([len(s) for s in seen]),
        minute_us=np.concatenate(seen),
        held=np.concatenate(held).astype(np.int64),
        held_offsets=csr([len(h) for h in held]),
        board_ids=ids,
        board_offsets=csr([len(m) for m in minutes]),
        board_minute_us=np.concatenate(minutes),
        board_clock_mhz=np.array([row[0] for row in flat], np.int64),
        board_reasons=np.array([row[1] for row in flat], np.int64),
        board_utilisation=np.array([row[2] for row in flat]),
    )
    rows = [
        row
        for mine, whose in zip(seen, held, strict=True)
        for row in naive_ranks.compare(mine.tolist(), {int(ids[b]): columns[b] for b in whose})
    ]
    assert found.clock_event_reasons.tolist() == [row[0] for row in rows]
    for i, (_, board, ratio, used) in enumerate(rows):
        # Of two equally slow boards either may be named; their ratio is the same.
        assert (found.slow_board[i] == 0) == (board == 0)
        assert found.slow_board_ratio[i] == pytest.approx(math.nan if ratio is None else ratio, nan_ok=True)
        assert found.utilisation_ratio[i] == pytest.approx(math.nan if used is None else used, nan_ok=True)


def test_one_slow_rank_is_named_with_its_clock_over_the_others() -> None:
    found = ranks.compare(
        offsets=np.array([0, 1]),
        minute_us=np.array([60]),
        held=np.array([0, 1, 2, 3]),
        held_offsets=np.array([0, 4]),
        board_ids=np.array([11, 12, 13, 14]),
        board_offsets=np.array([0, 1, 2, 3, 4]),
        board_minute_us=np.array([60, 60, 60, 60]),
        board_clock_mhz=np.array([1980, 1980, 1485, 1980]),
        board_reasons=np.array([0x4, 0, 0x40, 0]),
        board_utilisation=np.array([0.9, 0.9, 1.0, 0.8]),
    )
    assert (found.slow_board.tolist(), found.slow_board_ratio.tolist()) == ([13], [0.75])
    assert found.clock_event_reasons.tolist() == [0x44]
    assert found.utilisation_ratio[0] == pytest.approx(0.9)


def test_a_fleet_without_engines_has_nothing_to_compare() -> None:
    none = np.zeros(0, np.int64)
    found = ranks.compare(
        offsets=np.zeros(1, np.int64),
        minute_us=none,
        held=none,
        held_offsets=np.zeros(1, np.int64),
        board_ids=none,
        board_offsets=np.zeros(1, np.int64),
        board_minute_us=none,
        board_clock_mhz=none,
        board_reasons=none,
        board_utilisation=np.zeros(0),
    )
    assert found.slow_board.size == 0
