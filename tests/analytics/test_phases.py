"""Prefill, decode and standing energy: found where the load tells them apart, not told where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from support import naive_phases
from support.counters import int64s
from support.naive_phases import Minute, Scale
from wattmill_analytics import phase_reasons as reasons
from wattmill_analytics.phase_algebra import MINUTES, PARTIAL, POWERLESS, UNKNOWN, WIDTH, WILD
from wattmill_analytics.phase_reasons import REASONS, cached_savings_mj
from wattmill_analytics.phases import BLOCK_US, PhaseFits, phase_energy, phase_fit, phase_sums, settle

MINUTE_US = 60_000_000
TRUE = np.array([0.350, 80.0, 400.0])  # 350 W, 80 mJ per computed input token, 400 mJ per output token
Floats = NDArray[np.float64]
Engines = list[list[Minute]]


def columns(engines: Engines) -> dict[str, Any]:
    minutes = [m for own in engines for m in own]
    return {
        "offsets": int64s(np.cumsum([0, *(len(own) for own in engines)]).tolist()),
        "minute_us": int64s([m.minute_us for m in minutes]),
        "engine_us": int64s([m.engine_us for m in minutes]),
        "energy_mj": int64s([m.energy_mj for m in minutes]),
        "uncached_input_tokens": int64s([m.uncached_input_tokens for m in minutes]),
        "output_tokens": int64s([m.output_tokens for m in minutes]),
        "whole": np.array([m.whole for m in minutes], np.uint8),
    }


class Days:
    """Synthetic workloads, one engine each: requests come at random at a rate that follows the day."""

    def __init__(self, seed: int, workloads: int, minutes: int, requests: float = 120, spread: float = 0.3) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = (workloads, minutes)
        phase = self.rng.uniform(0, 2 * np.pi, (workloads, 1))
        load = 1 + 0.6 * np.sin(np.arange(minutes) * 2 * np.pi / 1440 + phase)
        came = self.rng.poisson(requests * load * np.exp(self.rng.normal(0, spread, self.shape)))
        self.input = self.rng.standard_gamma(came * 1.5 + 1e-9) * 400 / 1.5
        self.output = self.rng.standard_gamma(came * 1.5 + 1e-9) * 200 / 1.5
        self.input, self.output = np.floor(self.input), np.floor(self.output)

    def energy(self, noise: Floats) -> Floats:
        exact = TRUE[0] * MINUTE_US + TRUE[1] * self.input + TRUE[2] * self.output
        return np.asarray(np.rint(exact * (1 + noise)))

    def fits(self, energy: Floats) -> tuple[Floats, PhaseFits]:
        workloads, minutes = self.shape
        return settle(
            group=np.arange(workloads),
            groups=workloads,
            offsets=np.arange(workloads + 1) * minutes,
            minute_us=np.tile(np.arange(minutes) * MINUTE_US, workloads),
            engine_us=np.full(workloads * minutes, MINUTE_US),
            energy_mj=energy.ravel().astype(np.int64),
            uncached_input_tokens=self.input.ravel().astype(np.int64),
            output_tokens=self.output.ravel().astype(np.int64),
            whole=np.ones(workloads * minutes, np.uint8),
        )


def coverage(fits: PhaseFits) -> Floats:
    """Share of the 95 % intervals that hold the truth, by coefficient."""
    return np.asarray((np.abs(fits.coefficients - TRUE) <= 1.96 * fits.errors).mean(axis=0))


def why(fits: PhaseFits) -> list[str]:
    return [REASONS[verdict] for verdict in fits.verdict.tolist()]


def test_without_noise_the_physics_come_back() -> None:
    days = Days(1, 5, 240)
    _, fits = days.fits(days.energy(np.zeros(days.shape)))
    assert why(fits) == [""] * 5
    assert np.allclose(fits.coefficients, TRUE, rtol=1e-5)
    assert (fits.r_squared > 1 - 1e-9).all()
    assert (fits.residual_ratio < 1e-6).all()


@pytest.mark.parametrize("minutes", [120, 480])
def test_the_95_per_cent_intervals_hold_the_truth_95_times_in_100(minutes: int) -> None:
    days = Days(2, 800, minutes)
    _, fits = days.fits(days.energy(0.03 * days.rng.standard_normal(days.shape)))
    assert (coverage(fits) > 0.92).all()
    assert (coverage(fits) < 0.98).all()


def test_the_errors_bear_noise_that_does_not_grow_with_the_energy() -> None:
    days = Days(3, 800, 240)
    exact = days.energy(np.zeros(days.shape))
    _, fits = days.fits(np.rint(exact + 0.03 * exact.mean() * days.rng.standard_normal(days.shape)))
    assert (coverage(fits) > 0.92).all()


def test_the_errors_bear_minutes_that_share_their_noise() -> None:
    """Correlation 0.6 from minute to minute; errors of single minutes would hold the standing power 2 times in 3."""
    days = Days(4, 800, 480)
    noise = days.rng.standard_normal(days.shape)
    for i in range(1, days.shape[1]):
        noise[:, i] = 0.6 * noise[:, i - 1] + 0.8 * noise[:, i]
    _, fits = days.fits(days.energy(0.03 * noise))
    assert (coverage(fits) > 0.88).all()


def test_a_few_wild_minutes_do_not_spoil_the_fit() -> None:
    """Restarts that forget tokens, tokens told in a lump, energy of something else: 2 minutes in 100."""
    days = Days(5, 400, 480)
    energy = days.energy(0.03 * days.rng.standard_normal(days.shape))
    wild = days.rng.random(days.shape) < 0.02
    kind = days.rng.integers(0, 3, days.shape)
    energy[wild & (kind == 0)] *= 3
    for tokens in (days.input, days.output):
        tokens[wild & (kind == 1)] *= 20
        tokens[wild & (kind == 2)] = 0
    sums, fits = days.fits(energy)
    assert (coverage(fits) > 0.91).all()
    assert np.allclose(np.median(fits.coefficients, axis=0), TRUE, rtol=0.03)
    assert 0.8 * wild.sum() < sums[:, WILD].sum() < 1.1 * wild.sum()


def test_nothing_is_called_wild_for_plain_noise() -> None:
    days = Days(6, 100, 480)
    sums, _ = days.fits(days.energy(0.03 * days.rng.standard_normal(days.shape)))
    assert sums[:, WILD].sum() < 0.001 * days.input.size


def test_partial_sums_of_nodes_and_hours_add_up_to_the_same_fit() -> None:
    days = Days(7, 4, 360)  # four engines of one workload, six hours
    energy = days.energy(0.03 * days.rng.standard_normal(days.shape))
    engines = [
        [
            Minute(i * MINUTE_US, MINUTE_US, int(energy[e, i]), int(days.input[e, i]), int(days.output[e, i]))
            for i in range(360)
        ]
        for e in range(4)
    ]
    scale = np.array([[0.36, 70.0, 420.0, 3e6, 0.2]])
    whole = phase_sums(**columns(engines), scale=np.repeat(scale, 4, axis=0)).sum(axis=0)
    hours = [own[hour * 60 : hour * 60 + 60] for own in engines for hour in range(6)]
    parts = sum(phase_sums(**columns([hour]), scale=scale)[0] for hour in reversed(hours))
    assert np.allclose(parts, whole, rtol=1e-12)
    a, b = phase_fit(whole[np.newaxis]), phase_fit(np.asarray(parts)[np.newaxis])
    assert a.verdict.tolist() == b.verdict.tolist() == [reasons.IDENTIFIED]
    assert np.allclose(a.coefficients, b.coefficients, rtol=1e-10)
    assert np.allclose(a.errors, b.errors, rtol=1e-8)


@given(st.integers(0, 2**32), st.sampled_from([0.001, 0.5, 3.0, 1000.0]))
def test_another_unit_of_energy_is_another_unit_of_the_coefficients(seed: int, factor: float) -> None:
    days = Days(seed, 1, 150)
    energy = days.energy(0.02 * days.rng.standard_normal(days.shape)) * 1000
    _, a = days.fits(energy)
    _, b = days.fits(np.rint(energy * factor))
    assert np.allclose(b.coefficients, a.coefficients * factor, rtol=1e-4)
    assert np.allclose(b.errors, a.errors * factor, rtol=1e-3, equal_nan=True)
    assert why(a) == why(b)


def minutes_of(inputs: Floats, outputs: Floats, energy: Floats | None = None, **fields: Any) -> Engines:
    exact = TRUE[0] * MINUTE_US + TRUE[1] * inputs + TRUE[2] * outputs if energy is None else energy
    rows = zip(exact.tolist(), inputs.tolist(), outputs.tolist(), strict=True)
    return [[Minute(i * MINUTE_US, MINUTE_US, int(e), int(x), int(y), **fields) for i, (e, x, y) in enumerate(rows)]]


def verdict(engines: Engines) -> tuple[str, PhaseFits]:
    _, fits = settle(group=int64s([0] * len(engines)), groups=1, **columns(engines))
    return why(fits)[0], fits


VARIED = np.random.default_rng(8).uniform(10_000, 90_000, 240)
OTHER = np.random.default_rng(9).uniform(5_000, 40_000, 240)
STEADY = np.random.default_rng(10).normal(50_000, 1_000, 240)
NONE = np.zeros(240)
UNKNOWN_TOKENS = np.full(240, -1.0)


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        (VARIED, OTHER, reasons.IDENTIFIED),
        (VARIED, NONE, reasons.IDENTIFIED),  # a prefill pool: nothing to decode
        (NONE, OTHER, reasons.IDENTIFIED),
        (STEADY, STEADY[::-1], reasons.STEADY),
        (VARIED[:1].repeat(240), OTHER[:1].repeat(240), reasons.STEADY),
        (NONE, STEADY, reasons.STEADY),
        (VARIED, np.rint(VARIED / 2), reasons.TOGETHER),
        (STEADY, OTHER, reasons.INPUT_STEADY),
        (VARIED, STEADY, reasons.OUTPUT_STEADY),
        (NONE, NONE, reasons.NO_TOKENS),
        (UNKNOWN_TOKENS, OTHER, reasons.NO_SPLIT),
        (VARIED[:59], OTHER[:59], reasons.TOO_FEW),
        (VARIED[:0], OTHER[:0], reasons.TOO_FEW),
    ],
)
def test_what_can_not_be_told_apart_is_not_told(inputs: Floats, outputs: Floats, expected: int) -> None:
    energy = TRUE[0] * MINUTE_US + TRUE[1] * np.maximum(inputs, 0) + TRUE[2] * outputs
    assert verdict(minutes_of(inputs, outputs, energy))[0] == REASONS[expected]


def test_minutes_without_energy_and_minutes_that_are_not_whole_are_named() -> None:
    assert verdict(minutes_of(VARIED, OTHER, NONE))[0] == REASONS[reasons.NO_ENERGY]
    assert verdict(minutes_of(VARIED, OTHER, whole=False))[0] == REASONS[reasons.NOT_WHOLE]


def test_minutes_that_scatter_too_much_are_not_told() -> None:
    noise = np.random.default_rng(11).uniform(0.3, 1.7, 240)
    energy = (TRUE[0] * MINUTE_US + TRUE[1] * VARIED + TRUE[2] * OTHER) * noise
    assert verdict(minutes_of(VARIED, OTHER, energy))[0] == REASONS[reasons.TOO_NOISY]


def test_power_that_does_not_follow_the_tokens_is_not_called_standing() -> None:
    """A board at its limit draws the same whatever it serves."""
    energy = 700.0 * 60_000 - 3.0 * VARIED - 5.0 * OTHER
    assert verdict(minutes_of(VARIED, OTHER, energy))[0] == REASONS[reasons.UNRELATED]


def test_when_input_and_output_move_together_standing_power_is_told_all_the_same() -> None:
    _, fits = verdict(minutes_of(VARIED, np.rint(VARIED / 2)))
    assert fits.coefficients[0, 0] == pytest.approx(TRUE[0], rel=1e-3)
    dynamic = fits.coefficients[0, 1] * VARIED.sum() + fits.coefficients[0, 2] * np.rint(VARIED / 2).sum()
    assert dynamic == pytest.approx(TRUE[1] * VARIED.sum() + TRUE[2] * np.rint(VARIED / 2).sum(), rel=1e-3)


def test_a_cost_is_never_below_zero_and_has_no_error_at_zero() -> None:
    """More input, less energy: no cost explains it."""
    energy = 1e8 + TRUE[2] * OTHER - 50.0 * VARIED
    why_not, fits = verdict(minutes_of(VARIED, OTHER, energy))
    assert fits.coefficients[0, 1] == 0.0
    assert np.isnan(fits.errors[0, 1])
    assert (fits.coefficients[0, [0, 2]] > 0).all()
    assert np.isfinite(fits.errors[0, [0, 2]]).all()
    assert why_not == ""


def test_minutes_that_do_not_count_are_counted() -> None:
    engine = [
        Minute(0, MINUTE_US, 1000, 5, 5),
        Minute(MINUTE_US, MINUTE_US, 1000, 5, 5, whole=False),
        Minute(2 * MINUTE_US, MINUTE_US, 0, 5, 5),
        Minute(3 * MINUTE_US, MINUTE_US, 1000, -1, 5),
        Minute(4 * MINUTE_US, MINUTE_US, 1000, 5, -1),
    ]
    [row] = phase_sums(**columns([engine]))
    assert [row[c] for c in (MINUTES, PARTIAL, POWERLESS, UNKNOWN, WILD)] == [1, 1, 1, 2, 0]


amounts = st.integers(-1, 40) | st.integers(0, 10**6)
some_minute = st.builds(
    Minute,
    st.just(0),
    st.sampled_from([0, 1, MINUTE_US // 2, MINUTE_US]),
    st.integers(0, 10**9),
    amounts,
    amounts,
    st.booleans() | st.just(True),
)


def timed(engines: Engines) -> Engines:
    return [
        [Minute(7 * i * MINUTE_US, *list(vars(m).values())[1:]) for i, m in enumerate(minutes)] for minutes in engines
    ]


@given(st.lists(st.lists(some_minute, max_size=12), max_size=3))
@example([[]])
def test_whatever_comes_the_fit_stands(engines: Engines) -> None:
    sums, fits = settle(group=int64s([0] * len(engines)), groups=1, **columns(timed(engines)))
    assert np.isfinite(sums).all()
    assert (fits.coefficients >= 0).all()
    assert np.isfinite(fits.coefficients).all()
    assert not (fits.errors < 0).any()
    assert fits.verdict[0] != reasons.IDENTIFIED  # 36 minutes at most


def drawn(seed: int) -> Engines:
    """One or two engines of a few minutes each, far from any line; some minutes do not count."""
    rng = np.random.default_rng(seed)

    def minute() -> Minute:
        tokens = [int(n) for n in rng.integers(0, 10**5, 2)]
        if rng.random() < 0.1:
            tokens[int(rng.integers(2))] = -1
        engine_us = MINUTE_US // int(rng.integers(1, 4))
        return Minute(0, engine_us, int(rng.integers(10**7, 10**8)), tokens[0], tokens[1], bool(rng.random() < 0.9))

    return timed([[minute() for _ in range(rng.integers(6, 13))] for _ in range(rng.integers(1, 3))])


@given(
    st.integers(0, 2**32),
    st.sampled_from([Scale(), Scale((0.3, 60.0, 300.0), 1e6), Scale((0.5, 10.0, 500.0), 3e7, 0.6)]),
)
def test_twin(seed: int, scale: Scale) -> None:
    engines = drawn(seed)
    wild_at = np.inf if scale.wild_at is None else scale.wild_at
    given_scale = np.array([[*scale.coefficients, scale.least_mj, wild_at]] * len(engines))
    rows = phase_sums(**columns(engines), scale=given_scale)
    kept = [m for own in engines for m in own if m.counts and not scale.wild(m)]
    assert rows[:, MINUTES].sum() == len(kept)
    blocks = {(e, m.minute_us // BLOCK_US) for e, own in enumerate(engines) for m in own if m in kept}
    if len(blocks) < 2 or len(kept) < 5:
        return
    expected = naive_phases.fit(engines, scale)
    found = phase_fit(rows.sum(axis=0, keepdims=True))
    assert np.allclose(found.coefficients[0], expected.coefficients, rtol=1e-6, atol=1e-9)
    for mine, twin in zip(found.errors[0].tolist(), expected.errors, strict=True):
        assert np.isnan(mine) if twin is None else mine == pytest.approx(twin, rel=1e-4, abs=1e-6)
    assert found.residual_ratio[0] == pytest.approx(expected.residual_ratio, rel=1e-6, abs=1e-7)
    if expected.r_squared is not None and not np.isnan(found.r_squared[0]):
        assert found.r_squared[0] == pytest.approx(expected.r_squared, rel=1e-5, abs=1e-6)


whole_amounts = st.integers(0, 2**53) | st.integers(0, 50)
prices = st.floats(0, 1e6) | st.just(0.0)


@given(st.integers(0, 2**60), st.tuples(whole_amounts, whole_amounts, whole_amounts), st.tuples(prices, prices, prices))
@example(7, (1, 1, 1), (1.0, 1.0, 1.0))
@example(2**60, (2**53, 0, 1), (1e6, 0.0, 1e-300))
def test_split_closes_to_the_millijoule(
    energy_mj: int, totals: tuple[int, int, int], price: tuple[float, float, float]
) -> None:
    [parts] = phase_energy(
        np.array([price]),
        energy_mj=int64s([energy_mj]),
        engine_us=int64s([totals[0]]),
        uncached_input_tokens=int64s([totals[1]]),
        output_tokens=int64s([totals[2]]),
    ).tolist()
    assert sum(parts) == energy_mj
    assert min(parts) >= 0
    for part, exact in zip(parts, naive_phases.split(price, energy_mj, totals), strict=True):
        assert abs(part - exact) <= 1 + energy_mj * 1e-11


def test_seven_millijoules_in_three_like_parts() -> None:
    one = int64s([1])
    parts = phase_energy(
        np.ones((1, 3)), energy_mj=int64s([7]), engine_us=one, uncached_input_tokens=one, output_tokens=one
    )
    assert parts.tolist() == [[3, 2, 2]]


def test_savings_of_the_cache() -> None:
    assert cached_savings_mj(80.0, 2.0, 1000) == (80_000, 2_000)
    assert cached_savings_mj(0.3, 0.04, 7) == (2, 1)
    assert cached_savings_mj(0.0, float("nan"), 1000) == (0, None)


def test_arrays_are_checked() -> None:
    good = columns(minutes_of(VARIED, OTHER))
    with pytest.raises(ValueError, match="equally long"):
        phase_sums(**{**good, "energy_mj": good["energy_mj"][1:]})
    with pytest.raises(ValueError, match="must rise from 0 to 240"):
        phase_sums(**{**good, "offsets": int64s([0, 241])})
    with pytest.raises(ValueError, match=r"must have the shape \(1, 5\)"):
        phase_sums(**good, scale=np.zeros((2, 5)))
    with pytest.raises(ValueError, match=f"shape \\(k, {WIDTH}\\)"):
        phase_fit(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="from 0 to 0"):
        settle(group=int64s([1]), groups=1, **good)
    with pytest.raises(ValueError, match="must not be below 0"):
        phase_energy(
            -np.ones((1, 3)),
            energy_mj=int64s([1]),
            engine_us=int64s([1]),
            uncached_input_tokens=int64s([1]),
            output_tokens=int64s([1]),
        )
