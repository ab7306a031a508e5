"""Curves: learnt from minutes whose physics is known, judged at equal load, and silent where nothing was learnt."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest

from support import naive_curves as naive
from wattmill_analytics.curve_counts import (
    COST_GROUPS,
    MIX_BINS,
    MOMENTS,
    PRODUCTS,
    SETTLING_MINUTES,
    VALUE_BINS,
    Counts,
    add,
    learn,
    moved,
    no_counts,
    of_row,
)
from wattmill_analytics.curve_learning import (
    LEAST_MINUTES,
    _decode,
    _find_quartiles,
    _prefill_price,
    _smoothed,
    describe,
    solve,
)
from wattmill_analytics.curves import (
    LOAD_BINS,
    LOADS,
    Curves,
    best_point,
    decode_mj,
    decode_mj_beyond,
    extended,
    judge,
    least_factor,
    no_curves,
    speed,
    speed_beyond,
)

MINUTE_US = 60_000_000
PREFILL_MJ = 30.0


def decode_cost_mj(load: Any) -> Any:
    return 6_000 / load**0.75


def pace(load: Any) -> Any:
    """Tokens a second of one request."""
    return 60 / (1 + load / 60)


@dataclasses.dataclass
class Day:
    """Minutes of one engine, whose load swings with the day; prompts have heavy tails."""

    load: Any
    uncached: Any
    output: Any
    energy: Any

    def counts(self, **changed: Any) -> Counts:
        n = self.load.size
        zero = np.zeros(n, np.int64)
        columns: dict[str, Any] = {
            "rows": 1,
            "curve": np.zeros(1, np.int64),
            "offsets": np.array([0, n], np.int64),
            "minute_us": np.arange(n, dtype=np.int64) * MINUTE_US,
            "serving_mj": self.energy,
            "estimated_mj": zero,
            "uncached_input_tokens": self.uncached,
            "output_tokens": self.output,
            "requests_running": self.load,
            "load": changed.get("requests_running", self.load),
            "untrusted_us": zero,
            "excluded": np.zeros(n, bool),
        }
        return learn(**columns | changed)

    def judged(self, curves: Curves) -> Any:
        return judge(
            curves=curves,
            curve=np.zeros(1, np.int64),
            offsets=np.array([0, self.load.size], np.int64),
            uncached_input_tokens=self.uncached,
            output_tokens=self.output,
            requests_running=self.load,
        )


def day(
    seed: int = 1, minutes: int = 1440, prefill_mj: float = PREFILL_MJ, noise: float = 0.04, busiest: float = 60
) -> Day:
    rng = np.random.default_rng(seed)
    swing = 0.55 + 0.45 * np.sin(np.arange(minutes) * 2 * np.pi / 1440)
    load = 1 + busiest * swing * rng.lognormal(0, 0.15, minutes)
    output = np.rint(load * 60 * pace(load) * rng.lognormal(0, 0.05, minutes)).astype(np.int64)
    uncached = np.rint(output * 1.5 * rng.lognormal(0, 0.5, minutes)).astype(np.int64)
    energy = (output * decode_cost_mj(load) + uncached * prefill_mj) * rng.lognormal(0, noise, minutes)
    return Day(load, uncached, output, np.rint(energy).astype(np.int64))


def test_the_curve_and_the_price_of_prefill_come_back_from_a_noisy_week() -> None:
    counts = add([day(seed).counts() for seed in range(7)], 1)
    learnt = describe(counts)
    curves = learnt.curves
    well_seen = curves.minutes[0] >= 100
    assert well_seen.sum() >= 8
    assert curves.decode_mj_per_token[0, well_seen] == pytest.approx(decode_cost_mj(LOADS[well_seen]), rel=0.04)
    assert curves.tokens_per_request_s[0, well_seen] == pytest.approx(pace(LOADS[well_seen]), rel=0.04)
    assert curves.prefill_mj_per_token[0] == pytest.approx(PREFILL_MJ, rel=0.1)
    assert learnt.prefill_reason == ("",)
    assert counts.minutes.tolist() == [7 * (1440 - SETTLING_MINUTES)]
    low, high = learnt.decode_quartiles[0, well_seen].T
    assert np.all((low < curves.decode_mj_per_token[0, well_seen]) & (curves.decode_mj_per_token[0, well_seen] < high))
    assert np.median(high / low) == pytest.approx(np.exp(2 * 0.674 * 0.04), rel=0.06)  # quartiles of 4 % noise


def test_another_day_is_judged_without_bias_whatever_its_load_and_its_prompts() -> None:
    curves = solve(add([day(seed).counts() for seed in range(7)], 1))
    other = day(99)
    longer = dataclasses.replace(
        other, uncached=2 * other.uncached, energy=other.energy + np.rint(other.uncached * PREFILL_MJ).astype(np.int64)
    )
    for seen in (other, longer, day(98, busiest=45)):
        expected_mj, expected_output = seen.judged(curves)
        assert np.mean(~np.isnan(expected_mj)) > 0.95
        assert np.nanmedian(np.log(seen.energy / expected_mj)) == pytest.approx(0, abs=0.02)
        assert np.nanmedian(np.log(seen.output / expected_output)) == pytest.approx(0, abs=0.02)


def test_a_fifth_of_the_minutes_twice_as_dear_moves_the_curve_by_less_than_a_twentieth() -> None:
    clean = day(3, minutes=3 * 1440)
    bad = np.random.default_rng(5).random(clean.load.size) < 0.2
    dirty = dataclasses.replace(clean, energy=np.where(bad, 2 * clean.energy, clean.energy))
    assert dirty.energy.sum() > 1.15 * clean.energy.sum()
    was, now = solve(clean.counts()), solve(dirty.counts())
    load = LOADS[was.minutes[0] >= 50]
    assert load.size >= 5
    moved = decode_mj(now, 0, load) / decode_mj(was, 0, load)
    assert np.all(np.abs(np.log(moved)) < 0.05)


def test_counts_of_parts_are_the_counts_of_the_whole() -> None:
    days = [day(seed) for seed in range(3)]
    n = 1440
    whole = learn(
        rows=2,
        curve=np.array([0, 1, 0], np.int64),
        offsets=np.arange(4, dtype=np.int64) * n,
        minute_us=np.tile(np.arange(n, dtype=np.int64) * MINUTE_US, 3),
        serving_mj=np.concatenate([d.energy for d in days]),
        estimated_mj=np.zeros(3 * n, np.int64),
        uncached_input_tokens=np.concatenate([d.uncached for d in days]),
        output_tokens=np.concatenate([d.output for d in days]),
        requests_running=np.concatenate([d.load for d in days]),
        load=np.concatenate([d.load for d in days]),
        untrusted_us=np.zeros(3 * n, np.int64),
        excluded=np.zeros(3 * n, bool),
    )
    parts = [d.counts(rows=2, curve=np.array([row], np.int64)) for d, row in zip(days, (0, 1, 0), strict=True)]
    for order in (parts, parts[::-1], [add(parts[:2], 2), parts[2], no_counts(2)]):
        summed = add(order, 2)
        for one, other in ((summed.cost, whole.cost), (summed.speed, whole.speed)):
            assert [a.tolist() for a in one] == [a.tolist() for a in other]
        assert summed.moments[0].tolist() == whole.moments[0].tolist()
        np.testing.assert_allclose(summed.moments[1], whole.moments[1], rtol=1e-12, atol=1e-9)
    assert whole.minutes.tolist() == [2 * (n - SETTLING_MINUTES), n - SETTLING_MINUTES]
    alone = solve(days[1].counts())
    np.testing.assert_allclose(solve(whole).decode_mj_per_token[1], alone.decode_mj_per_token[0], rtol=1e-9)
    apart = [moved(of_row(whole, row), row, 2) for row in (1, 0)]
    assert [a.tolist() for a in add(apart, 2).cost] == [a.tolist() for a in whole.cost]
    np.testing.assert_array_equal(add(apart, 2).moments[1], whole.moments[1])


def test_only_minutes_that_are_fit_are_learnt_from() -> None:
    seen = day(4, minutes=60)
    n = 60

    def one(value: Any, otherwise: Any, kind: Any) -> Any:
        column = np.full(n, otherwise, kind)
        column[30] = value
        return column

    all_of_it = n - SETTLING_MINUTES
    assert seen.counts().minutes.tolist() == [all_of_it]
    for changed in (
        {"estimated_mj": one(1, 0, np.int64)},
        {"untrusted_us": one(7_000_000, 0, np.int64)},
        {"excluded": one(True, False, bool)},
        {"requests_running": np.where(np.arange(n) == 30, np.nan, seen.load)},
        {"requests_running": np.where(np.arange(n) == 30, 0.4, seen.load)},
        {"requests_running": np.where(np.arange(n) == 30, np.inf, seen.load)},
        {"serving_mj": np.where(np.arange(n) == 30, 0, seen.energy)},
        {"output_tokens": np.where(np.arange(n) == 30, 0, seen.output)},
    ):
        assert seen.counts(**changed).minutes.tolist() == [all_of_it - 1], changed.keys()
    assert seen.counts(curve=np.array([-1], np.int64)).minutes.tolist() == [0]
    hole = np.arange(n, dtype=np.int64) * MINUTE_US + (np.arange(n) >= 30) * MINUTE_US
    assert seen.counts(minute_us=hole).minutes.tolist() == [all_of_it - SETTLING_MINUTES]


def test_prefill_that_does_not_vary_has_no_price_and_says_why() -> None:
    steady = day(6)
    steady = dataclasses.replace(steady, uncached=steady.output, energy=steady.output * 400)
    learnt = describe(steady.counts())
    assert learnt.curves.prefill_mj_per_token.tolist() == [0]
    assert learnt.prefill_reason == ("input per output token does not vary at equal load",)
    free = describe(day(7, prefill_mj=0.0).counts())
    assert free.curves.prefill_mj_per_token[0] * 1.5 < 0.02 * np.nanmin(free.curves.decode_mj_per_token)
    assert describe(day(8, minutes=8).counts()).prefill_reason == ("too few minutes at any load",)


@pytest.mark.parametrize("spread", [0.05, 0.13, 0.5])
def test_the_price_of_prefill_is_found_however_little_or_much_input_varies(spread: float) -> None:
    rng = np.random.default_rng(21)
    week = day(20, minutes=7 * 1440, noise=0.03)
    uncached = np.rint(week.output * 3 * rng.lognormal(0, spread, week.output.size)).astype(np.int64)
    more = np.rint((uncached - week.uncached) * PREFILL_MJ).astype(np.int64)
    learnt = describe(dataclasses.replace(week, uncached=uncached, energy=week.energy + more).counts())
    assert learnt.curves.prefill_mj_per_token[0] == pytest.approx(PREFILL_MJ, rel=0.15)
    well_seen = learnt.curves.minutes[0] >= 100
    decode = learnt.curves.decode_mj_per_token[0, well_seen]
    assert decode == pytest.approx(decode_cost_mj(LOADS[well_seen]), rel=0.08)


@pytest.mark.parametrize("missing", [0.2, 0.5, 0.8])
def test_a_full_batch_is_learnt_at_its_price_though_the_cache_misses_for_part_of_the_time(missing: float) -> None:
    """The batch stays at its limit; input, and with it the cost of a token, varies more than anything else."""
    rng = np.random.default_rng(24)
    week, n = day(25, minutes=4 * 1440), 3000
    full = np.full(n, 128.0)
    output = np.rint(full * 60 * pace(full) * rng.lognormal(0, 0.05, n)).astype(np.int64)
    usual = np.where(rng.random(n) < missing, 6.0, 1.5)
    uncached = np.rint(output * usual * rng.lognormal(0, 0.15, n)).astype(np.int64)
    energy = np.rint((output * decode_cost_mj(full) + uncached * PREFILL_MJ) * rng.lognormal(0, 0.03, n))
    pinned = Day(full, uncached, output, energy.astype(np.int64))
    curves = solve(add([week.counts(), pinned.counts()], 1))
    assert decode_mj(curves, 0, 128.0) == pytest.approx(decode_cost_mj(128.0), rel=0.04)
    expected_mj, _ = pinned.judged(curves)
    for some in (usual < 2, usual > 2):
        assert np.median(pinned.energy[some] / expected_mj[some]) == pytest.approx(1, abs=0.02)


def test_the_price_of_prefill_survives_a_fifth_of_the_minutes_being_twice_as_dear() -> None:
    week = day(22, minutes=7 * 1440)
    bad = np.random.default_rng(23).random(week.load.size) < 0.2
    dirty = dataclasses.replace(week, energy=np.where(bad, 2 * week.energy, week.energy))
    assert solve(dirty.counts()).prefill_mj_per_token[0] == pytest.approx(PREFILL_MJ, rel=0.15)


def test_nothing_learnt_judges_nothing() -> None:
    seen = day(9, minutes=10)
    for curves in (solve(no_counts(0)), no_curves()):
        assert curves.minutes.shape == (0, LOAD_BINS)
        assert best_point(curves)[0].size == 0
        assert extended(curves).decode_mj_per_token.shape == (0, LOAD_BINS)
    empty = solve(no_counts(2))
    assert np.isnan(empty.decode_mj_per_token).all()
    assert np.isnan(np.concatenate(best_point(empty))).all()
    assert np.isnan(np.concatenate(seen.judged(empty))).all()
    assert np.isnan(decode_mj_beyond(empty, 1, 300.0))
    assert add([], 3).minutes.tolist() == [0, 0, 0]
    few = solve(seen.counts())  # five minutes in all, and hardly all of one load
    assert few.minutes.sum() == 10 - SETTLING_MINUTES
    assert np.isnan(few.decode_mj_per_token[few.minutes < LEAST_MINUTES]).all()


def flat(*known: int) -> Curves:
    """A power-law curve known in some bins."""
    decode, slow = np.full((1, LOAD_BINS), np.nan), np.full((1, LOAD_BINS), np.nan)
    decode[0, list(known)], slow[0, list(known)] = decode_cost_mj(LOADS[list(known)]), pace(LOADS[list(known)])
    return Curves(decode, slow, np.array([PREFILL_MJ]), np.where(np.isnan(decode), 0, 100))


def test_a_curve_is_a_straight_line_between_loads_and_ends_with_its_last_bin() -> None:
    curves = flat(*range(4, 30), 40)
    assert decode_mj(curves, 0, 17.3) == pytest.approx(decode_cost_mj(17.3))  # a power law is straight
    assert decode_mj(curves, 0, LOADS[29] * 1.08) == pytest.approx(decode_cost_mj(LOADS[29]))
    assert np.isnan(decode_mj(curves, 0, LOADS[29] * 1.1))
    assert decode_mj(curves, 0, LOADS[40] / 1.08) == pytest.approx(decode_cost_mj(LOADS[40]))
    nowhere = np.array([0.0, -1.0, 0.4, LOADS[35], 1e4, 1e300, np.inf, np.nan])
    assert np.isnan(decode_mj(curves, 0, nowhere)).all()
    assert np.isnan(speed(curves, -1, 5.0))
    assert speed(curves, np.array([[0], [-1]]), np.array([8.0, 9.0])).shape == (2, 2)


def test_judging_multiplies_out() -> None:
    expected_mj, expected_output = judge(
        curves=flat(*range(4, 30)),
        curve=np.array([0, -1], np.int64),
        offsets=np.array([0, 4, 5], np.int64),
        uncached_input_tokens=np.array([1000, -1, 1000, 1000, 1000], np.int64),
        output_tokens=np.array([500, 500, 0, 500, 500], np.int64),
        requests_running=np.array([8.0, 8.0, 8.0, 900.0, 8.0]),
    )
    cost = 500 * decode_cost_mj(8.0)
    np.testing.assert_allclose(expected_mj, [cost + 1000 * PREFILL_MJ, cost, np.nan, np.nan, np.nan])
    made = 8 * 60 * pace(8.0)
    np.testing.assert_allclose(expected_output, [made, made, made, np.nan, np.nan])


def test_beyond_the_highest_load_power_stays_and_energy_falls_by_the_least_published_factor() -> None:
    curves = flat(*range(4, 25))
    top = LOADS[24]
    assert top == 32
    assert decode_mj_beyond(curves, 0, 10.0) == decode_mj(curves, 0, 10.0)
    assert decode_mj_beyond(curves, 0, 64.0) == pytest.approx(decode_cost_mj(top) * 1.34 / 1.63)
    assert decode_mj_beyond(curves, 0, 1024.0) == pytest.approx(decode_cost_mj(top) / 1.63)
    power_mw = decode_cost_mj(top) * pace(top) * top
    for load in (64.0, 128.0, 1024.0):
        assert decode_mj_beyond(curves, 0, load) * speed_beyond(curves, 0, load) * load == pytest.approx(power_mw)
    assert np.isnan(decode_mj_beyond(curves, 0, 0.5))
    assert extended(curves).minutes[0, 30] == 0


def test_the_best_point_is_the_cheapest_load_that_was_seen() -> None:
    load, cost = best_point(flat(*range(4, 25)))
    assert (load[0], cost[0]) == (32.0, pytest.approx(decode_cost_mj(32.0)))


def test_the_least_published_factor() -> None:
    assert least_factor(np.array([8.0, 256.0, 900.0])) == pytest.approx([3.77, 1.0, 1.0])
    assert np.all(np.diff(least_factor(np.linspace(1, 300, 500))) <= 0)
    assert np.isnan(least_factor(np.array([np.nan]))).all()


def test_judging_agrees_with_its_twin() -> None:
    rng = np.random.default_rng(11)
    decode = np.where(rng.random((3, LOAD_BINS)) < 0.3, np.nan, rng.uniform(50, 5000, (3, LOAD_BINS)))
    slow = np.where(np.isnan(decode), np.nan, rng.uniform(1, 100, (3, LOAD_BINS)))
    curves = Curves(decode, slow, np.array([0.0, 5.0, 70.0]), np.where(np.isnan(decode), 0, 9))
    curve = np.array([2, -1, 0, 1], np.int64)
    offsets = np.array([0, 200, 250, 250, 500], np.int64)
    uncached, output = rng.integers(-1, 5000, 500), np.maximum(rng.integers(-500, 5000, 500), 0)
    load = np.where(rng.random(500) < 0.05, np.nan, np.exp2(rng.uniform(-2, 13, 500)))
    load[:40] = LOADS[:40] * 2**0.125  # halfway between two bins
    got = judge(
        curves=curves,
        curve=curve,
        offsets=offsets,
        uncached_input_tokens=uncached,
        output_tokens=output,
        requests_running=load,
    )
    for s, row in enumerate(curve.tolist()):
        for i in range(offsets[s], offsets[s + 1]):
            wanted = (np.nan, np.nan)
            if row >= 0:
                wanted = naive.judge(
                    *(decode[row].tolist(), slow[row].tolist(), float(curves.prefill_mj_per_token[row])),
                    *(int(uncached[i]), int(output[i]), float(load[i])),
                )
            np.testing.assert_allclose((got[0][i], got[1][i]), wanted, rtol=1e-9, err_msg=f"{i}: load {load[i]}")


def test_learning_agrees_with_its_twin() -> None:
    rng = np.random.default_rng(12)
    n, offsets = 900, np.array([0, 300, 300, 600, 900], np.int64)
    curve = np.array([1, 0, -1, 0], np.int64)
    columns: dict[str, Any] = {
        "minute_us": np.concatenate([np.cumsum(1 + (rng.random(300) < 0.03)) for _ in range(3)]) * MINUTE_US,
        "serving_mj": np.maximum(0, rng.integers(-(10**6), 10**8, n)),
        "estimated_mj": np.where(rng.random(n) < 0.1, 1, 0),
        "uncached_input_tokens": np.where(rng.random(n) < 0.2, 0, np.exp2(rng.uniform(0, 24, n)).astype(np.int64)),
        "output_tokens": np.where(rng.random(n) < 0.1, 0, np.exp2(rng.uniform(0, 18, n)).astype(np.int64)),
        "requests_running": np.where(rng.random(n) < 0.05, np.nan, np.exp2(rng.uniform(-2, 13, n))),
        "untrusted_us": np.where(rng.random(n) < 0.1, 10**7, 10**6),
        "excluded": rng.random(n) < 0.1,
    }
    load = columns["requests_running"] * rng.lognormal(0, 0.2, n)
    got = learn(rows=2, curve=curve, offsets=offsets, load=load, **columns)
    cost: Counter[int] = Counter()
    slow: Counter[int] = Counter()
    sums: dict[int, Any] = {}
    for s, row in enumerate(curve.tolist()):
        parts = [column[offsets[s] : offsets[s + 1]].tolist() for column in columns.values()]
        at = load[offsets[s] : offsets[s + 1]].tolist()
        for i, found in naive.cells(row, *[*parts[:5], at, *parts[6:]]):
            for counter, (r, b, mix, value) in zip((cost, slow), found, strict=True):
                counter[((r * LOAD_BINS + b) * MIX_BINS + mix) * VALUE_BINS + value] += 1
            r, b, _, value = found[0]
            group = (r * LOAD_BINS + b) * COST_GROUPS + value // 4
            _, energy, _, uncached, output, running, *_ = (part[i] for part in parts)
            sums[group] = sums.get(group, np.zeros(MOMENTS)) + naive.moments(energy, uncached, output, running, at[i])
    assert sum(cost.values()) > 150
    for counted, counter in ((got.cost, cost), (got.speed, slow)):
        assert dict(zip(counted[0].tolist(), counted[1].tolist(), strict=True)) == dict(counter)
    assert got.moments[0].tolist() == sorted(sums)
    np.testing.assert_allclose(got.moments[1], [sums[group] for group in sorted(sums)], rtol=1e-12)


def test_decoding_agrees_with_its_twin() -> None:
    rng = np.random.default_rng(15)
    places = zip(
        *(rng.integers(0, n, 400).tolist() for n in (2, 3, 90)), rng.integers(240, 260, 400).tolist(), strict=True
    )
    minutes = {place: int(rng.integers(1, 30)) for place in places}
    cells = sorted(
        (((r * LOAD_BINS + load) * MIX_BINS + mix) * VALUE_BINS + value, n)
        for (r, load, mix, value), n in minutes.items()
    )
    counted = np.array([cell for cell, _ in cells], np.int64), np.array([n for _, n in cells], np.int64)
    price = np.array([0.0, 7.0])
    got = _decode(counted, price).reshape(2, LOAD_BINS)
    for r in range(2):
        for load in range(3):
            assert got[r, load] == pytest.approx(naive.decode(minutes, price.tolist(), r, load))
    assert np.isnan(got[:, 3:]).all()


def test_quartiles_and_smoothing_agree_with_their_twins() -> None:
    rng = np.random.default_rng(13)
    groups = 40
    cells = np.sort(rng.choice(groups * VALUE_BINS, 300, replace=False)).astype(np.int64)
    counts = rng.integers(1, 30, 300)
    found, minutes = np.full((groups, 3), np.nan), np.zeros(groups, np.int64)
    _find_quartiles(cells, counts, VALUE_BINS, np.zeros(groups), found, minutes)
    for g in range(groups):
        mine = np.flatnonzero(cells // VALUE_BINS == g)
        histogram = {int(cells[i] % VALUE_BINS): float(counts[i]) for i in mine}
        assert minutes[g] == sum(histogram.values())
        np.testing.assert_allclose(found[g], [naive.quartile(histogram, q) for q in (1, 2, 3)], rtol=1e-12)
    # Moving every minute of a histogram moves its quartiles as far; by whole bins, exactly so.
    moved = np.full((groups, 3), np.nan)
    _find_quartiles(cells, counts, VALUE_BINS, np.full(groups, -3.0), moved, minutes)
    inside = found[:, 0] > 4
    np.testing.assert_allclose(moved[inside], found[inside] - 3.0)

    logs = np.where(rng.random((6, LOAD_BINS)) < 0.6, np.nan, rng.normal(5, 1, (6, LOAD_BINS)))
    many = rng.integers(0, 200, (6, LOAD_BINS))
    logs[4], many[5] = np.nan, 0
    logs[3, :-1], logs[3, -1], many[3] = np.nan, 5.0, 50
    drawn = _smoothed(logs, many)
    for row in range(6):
        np.testing.assert_allclose(drawn[row], naive.smoothed(logs[row].tolist(), many[row].tolist()), rtol=1e-6)
    assert np.isnan(drawn[4]).all()
    assert np.isnan(drawn[5]).all()


def test_the_price_of_prefill_agrees_with_its_twin() -> None:
    rng = np.random.default_rng(14)
    load = rng.integers(20, 24, 400)
    ell, x = rng.uniform(-0.5, 0.5, 400), rng.lognormal(0, 0.3, 400)
    off = 0.1 * (x - x.mean())  # what is taken in costs tokens, and the load is told from tokens
    y = 500 - 20 * (load + ell + off * 4 / np.log(2)) + 40 * x + rng.normal(0, 5, 400)
    r = (1 + off) * rng.lognormal(0, 0.1, 400)
    values = np.stack([ell, x, y, r])
    rows = np.stack([np.ones(400), *values, *(values[i] * values[j] for i, j in PRODUCTS)], axis=1)
    moments, typical = np.zeros((LOAD_BINS, MOMENTS)), np.full(LOAD_BINS, np.nan)
    np.add.at(moments, load, rows)
    for each in range(20, 24):
        typical[each] = np.median(y[load == each])
    cost_rise = np.full(LOAD_BINS, -20 * 4 / np.log(2))
    mix_rise = rng.normal(0, 0.02, LOAD_BINS)
    price, reason = _prefill_price(moments, typical, cost_rise, mix_rise)
    assert reason == ""
    minutes = list(zip(load.tolist(), *(column.tolist() for column in values), strict=True))
    rises = [dict(enumerate(each.tolist())) for each in (cost_rise, mix_rise)]
    assert price == pytest.approx(naive.prefill_price(minutes, *rises), rel=1e-9)
    assert price == pytest.approx(40, rel=0.05)


def test_the_price_of_prefill_is_right_though_what_is_taken_in_hides_the_batch() -> None:
    """Tokens stand still while input is prefilled: a load told from tokens is too low. The batch as read is noisy."""
    rng = np.random.default_rng(26)
    week = day(27, minutes=7 * 1440, noise=0.03)
    mix = 3 * rng.lognormal(0, 0.15, week.load.size)
    busy = 0.4 * mix / 3  # of the time with prefill
    output = np.rint(week.load * 60 * pace(week.load) * (1 - busy)).astype(np.int64)
    uncached = np.rint(output * mix).astype(np.int64)
    energy = (output * decode_cost_mj(week.load) + uncached * PREFILL_MJ) * rng.lognormal(0, 0.03, week.load.size)
    told = week.load * (1 - busy) / 0.6
    read = rng.poisson(week.load).astype(np.float64)
    seen = dataclasses.replace(week, output=output, uncached=uncached, energy=np.rint(energy).astype(np.int64))
    learnt = describe(seen.counts(requests_running=read, load=told))
    assert learnt.curves.prefill_mj_per_token[0] == pytest.approx(PREFILL_MJ, rel=0.1)
    blind = describe(seen.counts(requests_running=told, load=told))  # as if the batch were not read
    assert blind.curves.prefill_mj_per_token[0] < 0.75 * PREFILL_MJ


def test_a_load_seen_for_a_few_minutes_is_drawn_to_its_neighbours_and_one_seen_for_hours_is_not() -> None:
    logs = np.full((1, LOAD_BINS), np.nan)
    logs[0, 10:21] = 8.0 - 0.1 * np.arange(11)
    many = np.full((1, LOAD_BINS), 500)
    logs[0, 15] += 0.3
    many[0, 15] = LEAST_MINUTES
    sparse = _smoothed(logs, many)[0]
    assert sparse[15] == pytest.approx(8.0 - 0.5, abs=0.06)
    many[0, 15] = 500
    assert _smoothed(logs, many)[0, 15] == pytest.approx(8.0 - 0.5 + 0.3, abs=0.03)
