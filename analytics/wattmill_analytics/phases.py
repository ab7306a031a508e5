"""Prefill, decode and standing energy of a workload: a non-negative fit E = P0 x t + a x input + b x output.

One observation is a whole minute of one replica: t its engine time, input the input tokens that were computed (not
those from the prefix cache), output the output tokens, E what its accelerators drew. P0 is the standing power of one
replica (all of its boards) as minutes under load show it, not the power of an empty board: real power rises steeply
with the first requests and flattens, and this is the straight line through it. `r_squared` says how straight it was.

Rules:
  1. Partial sums: everything a fit needs is a row of sums per engine and span; rows of nodes, hours or days add up.
  2. Weights: a minute's noise grows with its energy, so a minute counts by 1 / predicted energy squared, where the
     prediction is the fit before and never below a tenth of the mean minute.
  3. Wild minutes (a restart, tokens told in a lump) are left out: those further from the fit than 4 times the relative
     residual of the fit before and 2 % of their energy. Weights and rule are repeated until the fit stands.
  4. Errors are those of 10-minute blocks (a sandwich clustered by engine and block), because minutes that follow each
     other share their noise, widened for few blocks so that 1.96 errors either way are a 95 % interval.
  5. What can't be told apart is not told: `phase_fit` gives a verdict for every fit.

Promises: the same rows give the same fit, however they were cut into spans at block borders, to float rounding; the
split of `phase_energy` adds up to the millijoule. Does not: decide which minutes are whole, or know days or names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.kernel import int64s, kernel, uint8s
from wattmill_analytics.phase_algebra import (
    BLOCKS,
    ENERGY,
    INPUT,
    MINUTES,
    OUTPUT,
    PARTIAL,
    POWERLESS,
    QQ,
    TIME,
    UNKNOWN,
    VV,
    WIDTH,
    WILD,
    V,
    fit_rows,
    split_rows,
)

Int64s = NDArray[np.int64]
Uint8s = NDArray[np.uint8]
Float64s = NDArray[np.float64]

BLOCK_US: Final = 600_000_000

_WILD_AT = 4.0
_NEVER_WILD_RATIO = 0.02
_LEAST_SHARE_OF_MEAN = 0.1
_MOST_PASSES = 12
_STANDS_WITHIN = 1e-7


@dataclass(frozen=True, slots=True)
class PhaseFits:
    """One fit per row of sums.

    `coefficients`, `errors` float64 [k, 3]: P0 in mJ per us of engine time (x 1000 = watts per replica), a and b in mJ
    per token. A coefficient at the border (0) has the error NaN: data pull it below 0, which costs can't be.
    `residual_ratio` float64 [k]: relative scatter of a minute; `r_squared` float64 [k]: share of the weighted variance
    about constant power that tokens explain, NaN without variance; `verdict` uint8 [k]: a number of `phase_reasons`.
    """

    coefficients: Float64s
    errors: Float64s
    residual_ratio: Float64s
    r_squared: Float64s
    verdict: Uint8s


def phase_sums(
    *,
    offsets: Int64s,
    minute_us: Int64s,
    engine_us: Int64s,
    energy_mj: Int64s,
    uncached_input_tokens: Int64s,
    output_tokens: Int64s,
    whole: Uint8s,
    scale: Float64s | None = None,
) -> Float64s:
    """Partial sums of replica-minutes, one row per group; rows may be added.

    Shapes and units: minutes [n] int64, grouped by offsets [g+1] (one engine, or a span of one), sorted by minute_us in
    a group; tokens below 0 are not known; whole uint8 [n], 0 = count the minute, but leave it out of the fit.
    scale float64 [g, 5]: P0, a, b of the fit before, the least prediction in mJ, and the relative residual from which
    a minute is wild; None: every minute alike, none wild (the first pass).
    Returns: float64 [g, WIDTH]; columns as named in `phase_algebra`.
    Conserves: rows of one group cut at borders of BLOCK_US add up to the uncut row, to float rounding.
    Errors: ValueError when shapes differ or offsets do not fit.
    Accuracy: float64 sums of exact integers. Cost: O(n), about 100 operations a minute.
    """
    offsets, minute_us, engine_us = int64s(offsets), int64s(minute_us), int64s(engine_us)
    energy_mj, output_tokens = int64s(energy_mj), int64s(output_tokens)
    uncached_input_tokens, whole = int64s(uncached_input_tokens), uint8s(whole)
    n, groups = minute_us.size, offsets.size - 1
    columns = (minute_us, engine_us, energy_mj, uncached_input_tokens, output_tokens, whole)
    if any(column.shape != (n,) for column in columns):
        raise ValueError("times, energies, tokens and flags of minutes must be equally long")
    if groups < 0 or offsets[0] != 0 or offsets[-1] != n or (np.diff(offsets) < 0).any():
        raise ValueError(f"the offsets of minutes must rise from 0 to {n}")
    if scale is None:
        scale = np.tile(np.array([0.0, 0.0, 0.0, 1.0, np.inf]), (groups, 1))
    scale = np.require(scale, np.float64, ["C", "A", "W"])
    if scale.shape != (groups, 5):
        raise ValueError(f"scale must have the shape ({groups}, 5), not {scale.shape}")
    sums = np.zeros((groups, WIDTH))
    _sum(
        offsets, minute_us, engine_us, energy_mj, uncached_input_tokens, output_tokens, whole, scale, np.empty(9), sums
    )
    return sums


def phase_fit(sums: Float64s) -> PhaseFits:
    """The non-negative fit of each row of sums: of all subsets of the coefficients, the best with none below 0.

    Shapes and units: sums float64 [k, WIDTH], each a `phase_sums` row or a sum of such.
    Returns: `PhaseFits`; numbers are there for every row, the verdict says which of them mean something.
    Verdicts: at least 60 minutes in 12 blocks; the load varies by at least 10 % (weighted spread about its mean rate);
    input and output are not one and the same beyond a correlation of 0.995 given time (a variance inflation of 100);
    energy rises with input or output; and the error of each part is at most 5 % of the energy.
    Errors: ValueError when the shape is wrong. Accuracy: exact optimum (all 7 faces are looked at), float64.
    """
    sums = np.require(sums, np.float64, ["C", "A", "W"])
    if sums.ndim != 2 or sums.shape[1] != WIDTH:
        raise ValueError(f"sums must have the shape (k, {WIDTH}), not {sums.shape}")
    k = sums.shape[0]
    fits = PhaseFits(np.zeros((k, 3)), np.full((k, 3), np.nan), np.zeros(k), np.full(k, np.nan), np.zeros(k, np.uint8))
    fit_rows(sums, fits.coefficients, fits.errors, fits.residual_ratio, fits.r_squared, fits.verdict)
    return fits


def settle(
    *,
    group: Int64s,
    groups: int,
    offsets: Int64s,
    minute_us: Int64s,
    engine_us: Int64s,
    energy_mj: Int64s,
    uncached_input_tokens: Int64s,
    output_tokens: Int64s,
    whole: Uint8s,
) -> tuple[Float64s, PhaseFits]:
    """Sums and fits of several workloads: `phase_sums` and `phase_fit` in turn until weights and wild minutes stand.

    Shapes and units: as `phase_sums`; group int64 [g] in [0, groups): whose workload each engine is.
    Returns: sums float64 [groups, WIDTH], and their fits. At most 12 passes.
    """
    group = int64s(group)
    if group.shape != (offsets.size - 1,) or (group.size and not 0 <= group.min() <= group.max() < groups):
        raise ValueError(f"every engine must have a workload from 0 to {groups - 1}")

    def weighed(scale: Float64s | None) -> tuple[Float64s, PhaseFits]:
        rows = phase_sums(
            offsets=offsets,
            minute_us=minute_us,
            engine_us=engine_us,
            energy_mj=energy_mj,
            uncached_input_tokens=uncached_input_tokens,
            output_tokens=output_tokens,
            whole=whole,
            scale=None if scale is None else scale[group],
        )
        sums = np.zeros((groups, WIDTH))
        np.add.at(sums, group, rows)
        return sums, phase_fit(sums)

    sums, fits = weighed(None)
    scale = first_scale(sums)
    for _ in range(_MOST_PASSES - 1):
        sums, fits = weighed(scale)
        before, scale = scale, next_scale(sums, fits)
        if np.allclose(before, scale, rtol=_STANDS_WITHIN, atol=0.0):
            break
    return sums, fits


def first_scale(sums: Float64s) -> Float64s:
    """What the second pass weighs by: as if time, input and output each took the mean energy in proportion.

    It bounds what a minute with a hundred times the tokens of its like can do to the fit. None is wild yet.
    """
    mean = sums[:, ENERGY : OUTPUT + 1] / np.maximum(sums[:, MINUTES : MINUTES + 1], 1.0)
    per_unit = mean[:, :1] / np.maximum(mean[:, 1:], 1e-300)
    per_unit[mean[:, 1:] <= 0.0] = 0.0
    return np.column_stack((per_unit, np.maximum(mean[:, 0], 1.0), np.full(len(sums), np.inf)))


def next_scale(sums: Float64s, fits: PhaseFits) -> Float64s:
    """What the next pass weighs by: float64 [k, 5], as `phase_sums` takes it."""
    mean_mj = sums[:, ENERGY] / np.maximum(sums[:, MINUTES], 1.0)
    least_mj = np.maximum(_LEAST_SHARE_OF_MEAN * mean_mj, 1.0)
    wild_at = np.maximum(_WILD_AT * fits.residual_ratio, _NEVER_WILD_RATIO)
    return np.column_stack((fits.coefficients, least_mj, wild_at))


def phase_energy(
    coefficients: Float64s,
    *,
    energy_mj: Int64s,
    engine_us: Int64s,
    uncached_input_tokens: Int64s,
    output_tokens: Int64s,
) -> Int64s:
    """Measured energy split into standing, prefill and decode in proportion to P0 x t, a x input and b x output.

    Shapes and units: coefficients float64 [n, 3] as in `PhaseFits`; the others int64 [n] >= 0, totals of the same span.
    Returns: int64 [n, 3]: standing, prefill, decode in mJ.
    Conserves: each row sums to its energy_mj, exactly (largest remainder, ties in the order above). What a fit without
    any power can't explain is standing.
    Errors: ValueError when shapes differ or a value is below 0.
    Accuracy: proportions to 1e-12 of the energy.
    """
    coefficients = np.require(coefficients, np.float64, ["C", "A", "W"])
    energy_mj, engine_us = int64s(energy_mj), int64s(engine_us)
    uncached_input_tokens, output_tokens = int64s(uncached_input_tokens), int64s(output_tokens)
    totals = (energy_mj, engine_us, uncached_input_tokens, output_tokens)
    n = energy_mj.size
    if coefficients.shape != (n, 3) or any(column.shape != (n,) for column in totals):
        raise ValueError("coefficients, energies, times and tokens must be equally long")
    if not (coefficients >= 0).all() or any((column < 0).any() for column in totals):
        raise ValueError("coefficients, energies, times and tokens must not be below 0")
    parts = np.empty((n, 3), np.int64)
    split_rows(coefficients, energy_mj, engine_us, uncached_input_tokens, output_tokens, parts)
    return parts


@kernel
def _sum(
    offsets: Int64s,
    minute_us: Int64s,
    engine_us: Int64s,
    energy_mj: Int64s,
    uncached_input_tokens: Int64s,
    output_tokens: Int64s,
    whole: Uint8s,
    scale: Float64s,
    block: Float64s,
    sums: Float64s,
) -> None:
    """`block` float64 [9]: room for the sums of the block at hand."""
    for g in range(offsets.size - 1):
        row = sums[g]
        at = np.int64(-1)
        held = 0
        block[:] = 0.0
        for i in range(offsets[g], offsets[g + 1]):
            if whole[i] == 0:
                row[PARTIAL] += 1
                continue
            if energy_mj[i] <= 0 or engine_us[i] <= 0:
                row[POWERLESS] += 1
                continue
            if uncached_input_tokens[i] < 0 or output_tokens[i] < 0:
                row[UNKNOWN] += 1
                continue
            energy, t = float(energy_mj[i]), float(engine_us[i])
            x, y = float(uncached_input_tokens[i]), float(output_tokens[i])
            predicted = scale[g, 0] * t + scale[g, 1] * x + scale[g, 2] * y
            s = max(predicted, scale[g, 3])
            if abs(energy - predicted) > scale[g, 4] * s:
                row[WILD] += 1
                continue
            if minute_us[i] // BLOCK_US != at:
                _close_block(block, held, row)
                block[:] = 0.0
                held = 0
                at = minute_us[i] // BLOCK_US
            held += 1
            row[MINUTES] += 1
            row[ENERGY] += energy
            row[TIME] += t
            row[INPUT] += x
            row[OUTPUT] += y
            q, t, x, y = energy / s, t / s, x / s, y / s
            row[QQ] += q * q
            block[0] += q * t
            block[1] += q * x
            block[2] += q * y
            block[3] += t * t
            block[4] += t * x
            block[5] += t * y
            block[6] += x * x
            block[7] += x * y
            block[8] += y * y
        _close_block(block, held, row)


@kernel
def _close_block(block: Float64s, held: int, row: Float64s) -> None:
    if held == 0:
        return
    row[BLOCKS] += 1
    k = VV
    for j in range(9):
        row[V + j] += block[j]
        for m in range(j, 9):
            row[k] += block[j] * block[m]
            k += 1
