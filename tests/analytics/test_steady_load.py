"""The load of a minute, told from tokens and few looks."""

from __future__ import annotations

import numpy as np
import pytest

from support import naive_steady_load
from wattmill_analytics.steady_load import Float64, Int64, steady_load

MINUTE_US = 60_000_000


def load_of(minute: Int64, tokens: Int64, seen: Float64, looks: float) -> Float64:
    """Of one engine."""
    return steady_load(
        offsets=np.array([0, minute.size], np.int64),
        minute_us=minute * MINUTE_US,
        output_tokens=tokens,
        requests_running=seen,
        looks_a_minute=np.array([looks]),
    )


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_a_loop_over_lists(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes, looks = [150, 0, 200, 1], [1.0, 2.0, 6.0, 0.5]
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    minute = np.concatenate([np.cumsum(random.choice([1, 1, 1, 2, 9, 10, 11, 40], n)) for n in sizes]).astype(np.int64)
    tokens = random.choice([0, 90, 100, 140, 141, 180, 2000], minute.size).astype(np.int64)
    seen = random.poisson(random.choice([0.2, 3.0, 40.0], minute.size)).astype(float)
    seen[random.random(minute.size) < 0.1] = np.nan

    load = steady_load(
        offsets=offsets,
        minute_us=minute * MINUTE_US,
        output_tokens=tokens,
        requests_running=seen,
        looks_a_minute=np.array(looks),
    )

    for s, (low, high) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        mine = list(zip(minute[low:high].tolist(), tokens[low:high].tolist(), seen[low:high].tolist(), strict=True))
        np.testing.assert_allclose(load[low:high], naive_steady_load.steady_load(mine, looks[s]), rtol=1e-12)


@pytest.mark.parametrize("looks", [1, 2, 6])
def test_a_steady_batch_is_told_within_15_percent_however_seldom_it_is_looked_at(looks: int) -> None:
    """A look sees 9 to 15 requests where 12 run; tokens are counted, not looked at."""
    random = np.random.default_rng(7)
    minute = np.arange(600)
    seen = random.poisson(12.0, (600, looks)).mean(axis=1)
    tokens = np.round(12 * 30 * 60 * random.normal(1.0, 0.03, 600)).astype(np.int64)

    load = load_of(minute, tokens, seen, looks)[60:]

    assert load.mean() == pytest.approx(12, rel=0.03)
    assert np.abs(load / 12 - 1).max() < 0.25
    assert load.std() < 0.15 * 12
    assert load.std() < 0.8 * seen[60:].std() or looks == 6


def test_half_the_tokens_at_the_same_speed_a_request_are_half_the_load_at_once() -> None:
    """The minutes of the fuller batch are another load: they say nothing of this one but by their seconds a token."""
    tokens = np.where(np.arange(60) < 40, 20_000, 10_000).astype(np.int64)
    seen = np.where(np.arange(60) < 40, 20.0, 10.0)

    load = load_of(np.arange(60), tokens, seen, 6)

    np.testing.assert_allclose(load, seen)


def test_a_slower_engine_runs_more_requests_for_the_same_tokens() -> None:
    """Within so many minutes as carry enough requests the old speed is forgotten."""
    seen = np.where(np.arange(120) < 60, 10.0, 20.0)

    load = load_of(np.arange(120), np.full(120, 10_000, np.int64), seen, 6)

    assert load[59] == pytest.approx(10)
    assert load[62] == pytest.approx(20)  # 50 requests seen in three minutes are enough at six looks a minute


def test_minutes_before_a_hole_are_not_remembered() -> None:
    """Ten minutes without data may be a restart with other settings."""
    minute = np.array([0, 1, 2, 14])

    load = load_of(minute, np.full(4, 1000, np.int64), np.array([5.0, 5.0, 5.0, 9.0]), 1)

    assert load.tolist() == [5, 5, 5, 9]


def test_a_minute_without_tokens_or_looks_keeps_what_was_seen() -> None:
    load = load_of(np.arange(3), np.array([100, 0, 100]), np.array([4.0, 7.0, np.nan]), 6)

    np.testing.assert_array_equal(load, [4.0, 7.0, np.nan])


def test_it_is_the_same_wherever_the_arrays_begin() -> None:
    """What learning and judging read of the time before may differ beyond the two hours."""
    random = np.random.default_rng(3)
    tokens = random.integers(500, 900, 400)
    seen = random.poisson(2.0, 400).astype(float)
    minute = np.arange(400)

    whole = load_of(minute, tokens, seen, 1)
    late = load_of(minute[100:], tokens[100:], seen[100:], 1)

    np.testing.assert_array_equal(whole[220:], late[120:])
