"""Times the kernels on one day of 1000 boards and prints rows a second beside this machine's memory bandwidth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from wattmill_analytics.buckets import spread, sum_by_key
from wattmill_analytics.increments import increments

SERIES, READINGS, STEP_US = 1000, 8640, 10_000_000
ROUNDS = 3


def best(action: Callable[[], object]) -> float:
    """The shortest of a few runs, in seconds; the first run, which compiles, does not count."""
    action()
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return min(times)


def say(name: str, rows: int, bytes_per_row: int, seconds: float) -> None:
    rate, bandwidth = rows / seconds / 1e6, rows * bytes_per_row / seconds / 1e9
    sys.stdout.write(f"{name:<12}{rate:>10.1f} M rows/s{bandwidth:>10.2f} GB/s\n")


def main() -> None:
    rows = SERIES * READINGS
    rng = np.random.default_rng(1)
    time_us = np.tile(np.arange(1, READINGS + 1) * STEP_US, SERIES)
    value = rng.integers(1_000_000, 7_000_000, rows).reshape(SERIES, READINGS).cumsum(axis=1).ravel()
    epoch, start_us = np.ones(rows, np.int64), np.full(rows, -1)
    offsets = np.arange(SERIES + 1) * READINGS
    each, none = np.zeros(SERIES, np.int64), np.full(SERIES, -1)
    gap_us = np.full(SERIES, 3 * STEP_US)

    copied = best(lambda: time_us.copy())
    say("copy", rows, 16, copied)
    say(
        "increments",
        rows,
        40,
        best(
            lambda: increments(
                time_us=time_us,
                value=value,
                epoch=epoch,
                epoch_start_us=start_us,
                offsets=offsets,
                watched_from_us=none,
                gap_us=gap_us,
                wrap_at=each,
                highest_per_s=each,
            )
        ),
    )
    amount = rng.integers(0, 7_000_000, rows)
    say("spread", rows, 64, best(lambda: spread(start_us=time_us - STEP_US, end_us=time_us, amount=amount)))
    keys = (np.repeat(np.arange(SERIES), READINGS), (time_us - 1) // 60_000_000)
    say("sum_by_key", rows, 24, best(lambda: sum_by_key(keys, amount.reshape(-1, 1))))


main()
