"""The algebra behind `phases`: the best of seven faces, clustered errors, the verdict, and the split of a total.

Kernels only, on rows of sums as laid out here. Three unknowns at most, so every subset of them is solved and
compared: the optimum is exact and needs no iteration.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.exact import share
from wattmill_analytics.kernel import kernel
from wattmill_analytics.phase_reasons import (
    IDENTIFIED,
    INPUT_STEADY,
    NO_ENERGY,
    NO_SPLIT,
    NO_TOKENS,
    NOT_WHOLE,
    OUTPUT_STEADY,
    STEADY,
    TOGETHER,
    TOO_FEW,
    TOO_NOISY,
    UNRELATED,
)

Int64s = NDArray[np.int64]
Uint8s = NDArray[np.uint8]
Float64s = NDArray[np.float64]

# A row of sums. q = E/s, u = (t, input, output)/s with s the prediction that weighs the minute.
MINUTES: Final = 0
BLOCKS: Final = 1
WILD: Final = 2
UNKNOWN: Final = 3  # whole minutes whose tokens are not known
POWERLESS: Final = 4  # whole minutes without energy
PARTIAL: Final = 5  # minutes that are not whole
ENERGY: Final = 6  # sum of E, mJ
TIME: Final = 7  # sum of t, us
INPUT: Final = 8
OUTPUT: Final = 9
QQ: Final = 10
V: Final = 11  # 9 sums: q x u, then u x u as tt, ti, to, ii, io, oo
VV: Final = 20  # 45 sums over blocks: products of the block's own nine, upper triangle by rows
WIDTH: Final = 65

_LEAST_MINUTES = 60.0
_LEAST_BLOCKS = 12.0
_LEAST_SPREAD = 0.10
_MOST_CORRELATION = 0.995
_MOST_ERROR_SHARE = 0.05
_SINGULAR = 1e-10
_TIE = 1e-13  # what float sums can't tell from nothing: the face looked at first wins
_PARTS = 2.0**40


@kernel
def fit_rows(
    sums: Float64s,
    coefficients: Float64s,
    errors: Float64s,
    residual_ratio: Float64s,
    r_squared: Float64s,
    verdict: Uint8s,
) -> None:
    """`phases.phase_fit` of every row; the outputs come as zeros, NaN where they are errors or r_squared."""
    normal, inverse, free, beta, found = (
        np.empty((3, 3)),
        np.empty((3, 3)),
        np.empty((3, 3)),
        np.empty(3),
        np.empty(3),
    )
    covariance = np.empty((3, 3))
    for k in range(sums.shape[0]):
        row = sums[k]
        _normal(row, normal)
        present = 0
        for j in range(3):
            if normal[j, j] > 0.0:
                present |= 1 << j
        best, explained = 0, 0.0
        found[:] = 0.0
        for face in range(1, 8):
            if face & ~present or not _invert(normal, face, inverse):
                continue
            least, gain = 0.0, 0.0
            for j in range(3):
                beta[j] = 0.0
                for m in range(3):
                    beta[j] += inverse[j, m] * row[V + m]
                least = min(least, beta[j])
                gain += beta[j] * row[V + j]
            if least >= 0.0 and gain > explained + _TIE * row[QQ]:
                best, explained = face, gain
                found[:] = beta
        coefficients[k] = found
        n, unknowns = row[MINUTES], (best & 1) + ((best >> 1) & 1) + ((best >> 2) & 1)
        left = max(row[QQ] - explained, 0.0)
        if n > unknowns and row[QQ] > 0.0:
            residual_ratio[k] = math.sqrt(left / (n - unknowns) / (row[QQ] / n))
        if normal[0, 0] > 0.0:
            constant = row[QQ] - row[V] * row[V] / normal[0, 0]
            if constant > _SINGULAR * row[QQ]:
                r_squared[k] = max(1.0 - left / constant, 0.0)
        if best and _invert(normal, best, inverse):
            _covariance(row, found, inverse, n, unknowns, covariance)
            for j in range(3):
                if found[j] > 0.0:
                    errors[k, j] = math.sqrt(max(covariance[j, j], 0.0))
        # What the errors would be if none were held at 0: a border must not make the others look certain.
        determined = present != 0 and _invert(normal, present, free)
        if determined:
            _covariance(row, found, free, n, 3, covariance)
        verdict[k] = _verdict(row, normal, present, best, determined, covariance, errors[k])


@kernel
def _normal(row: Float64s, normal: Float64s) -> None:
    """The 3 x 3 matrix of u x u."""
    k = V + 3
    for j in range(3):
        for m in range(j, 3):
            normal[j, m] = row[k]
            normal[m, j] = row[k]
            k += 1


@kernel
def _invert(matrix: Float64s, face: int, inverse: Float64s) -> bool:
    """Inverse of the rows and columns in `face`, 0 elsewhere; False if they are not independent.

    Gauss-Jordan on the matrix scaled to a unit diagonal, so that watts and tokens weigh alike.
    """
    work = np.zeros((3, 6))
    size = np.ones(3)
    for j in range(3):
        if face >> j & 1:
            size[j] = math.sqrt(matrix[j, j])
    for j in range(3):
        work[j, 3 + j] = 1.0
        if not face >> j & 1:
            work[j, j] = 1.0
            continue
        for m in range(3):
            if face >> m & 1:
                work[j, m] = matrix[j, m] / size[j] / size[m]
    for j in range(3):
        pivot = work[j, j]
        if not pivot > _SINGULAR:  # a NaN is no pivot either
            return False
        for m in range(6):
            work[j, m] /= pivot
        for i in range(3):
            if i != j:
                factor = work[i, j]
                for m in range(6):
                    work[i, m] -= factor * work[j, m]
    for j in range(3):
        for m in range(3):
            both = (face >> j & 1) and (face >> m & 1)
            inverse[j, m] = work[j, 3 + m] / size[j] / size[m] if both else 0.0
    return True


@kernel
def _covariance(
    row: Float64s, beta: Float64s, inverse: Float64s, n: float, unknowns: int, covariance: Float64s
) -> None:
    """inverse x (sum over blocks of score x score) x inverse; score = the block's q x u - (u x u) beta.

    A score is linear in the block's nine sums, so their products are all it takes. Corrected for few blocks and
    unknowns, and widened so that 1.96 errors are the 95 % interval of Student's t with blocks - 1 degrees of freedom.
    """
    linear = np.zeros((3, 9))
    place = np.array([[3, 4, 5], [4, 6, 7], [5, 7, 8]])
    for j in range(3):
        linear[j, j] = 1.0
        for m in range(3):
            linear[j, place[j, m]] -= beta[m]
    meat = np.zeros((3, 3))
    k = VV
    for p in range(9):
        for r in range(p, 9):
            product = row[k]
            k += 1
            for j in range(3):
                for m in range(3):
                    meat[j, m] += product * linear[j, p] * linear[m, r]
                    if p != r:
                        meat[j, m] += product * linear[j, r] * linear[m, p]
    blocks = row[BLOCKS]
    widened = np.inf
    if blocks > 1.0 and n > unknowns:
        degrees = blocks - 1.0
        students = 1.0 + 1.2104 / degrees + 1.440 / (degrees * degrees)
        widened = blocks / degrees * (n - 1.0) / (n - unknowns) * students * students
    for j in range(3):
        for m in range(3):
            total = 0.0
            for p in range(3):
                for r in range(3):
                    total += inverse[j, p] * meat[p, r] * inverse[r, m]
            covariance[j, m] = total * widened


@kernel
def _spread(normal: Float64s, j: int) -> float:
    """Weighted spread of tokens per time about their mean rate, relative to it; 0 where there are none."""
    both = normal[0, 0] * normal[j, j]
    if both <= 0.0 or normal[0, j] <= 0.0:
        return 0.0
    return math.sqrt(max(both / (normal[0, j] * normal[0, j]) - 1.0, 0.0))


@kernel
def _correlation_given_time(normal: Float64s) -> float:
    """Partial correlation of input and output."""
    tt = normal[0, 0]
    if tt <= 0.0:
        return 0.0
    xx = normal[1, 1] - normal[0, 1] * normal[0, 1] / tt
    yy = normal[2, 2] - normal[0, 2] * normal[0, 2] / tt
    xy = normal[1, 2] - normal[0, 1] * normal[0, 2] / tt
    if xx <= 0.0 or yy <= 0.0:
        return 0.0
    return float(xy / math.sqrt(xx * yy))


@kernel
def _verdict(
    row: Float64s,
    normal: Float64s,
    present: int,
    best: int,
    determined: bool,
    covariance: Float64s,
    error: Float64s,
) -> int:
    """`present`, `best`: faces of what was seen and of the fit; `covariance`: without a border; `error`: of the fit."""
    n = row[MINUTES]
    if n < _LEAST_MINUTES or row[BLOCKS] < _LEAST_BLOCKS:
        most = max(row[UNKNOWN], row[POWERLESS], row[PARTIAL])
        if most < _LEAST_MINUTES or most <= n:
            return TOO_FEW
        if most == row[UNKNOWN]:
            return NO_SPLIT
        return NO_ENERGY if most == row[POWERLESS] else NOT_WHOLE
    if present == 1:
        return NO_TOKENS
    # Mean share of the energy that one error of each coefficient is.
    share_of = np.zeros(3)
    for j in range(3):
        if present >> j & 1:
            share_of[j] = row[V + j] / row[QQ]
    has_input, has_output = (present >> 1 & 1) == 1, (present >> 2 & 1) == 1
    steady_input = _spread(normal, 1) < _LEAST_SPREAD
    steady_output = _spread(normal, 2) < _LEAST_SPREAD
    if (steady_input or not has_input) and (steady_output or not has_output):
        return STEADY
    if has_input and steady_input:
        return INPUT_STEADY
    if has_output and steady_output:
        return OUTPUT_STEADY
    if best & 6 == 0:
        return UNRELATED
    together = has_input and has_output and abs(_correlation_given_time(normal)) > _MOST_CORRELATION
    sure = determined
    if determined:
        for j in range(3):
            if present >> j & 1 and math.sqrt(max(covariance[j, j], 0.0)) * share_of[j] > _MOST_ERROR_SHARE:
                sure = False
    if sure and not together:
        return IDENTIFIED
    standing_sure = math.isnan(error[0]) or error[0] * share_of[0] <= _MOST_ERROR_SHARE
    related = has_input and has_output and abs(_correlation_given_time(normal)) > 0.9
    return TOGETHER if related and standing_sure else TOO_NOISY


@kernel
def split_rows(
    coefficients: Float64s,
    energy_mj: Int64s,
    engine_us: Int64s,
    uncached_input_tokens: Int64s,
    output_tokens: Int64s,
    parts: Int64s,
) -> None:
    """`phases.phase_energy` of every row."""
    weight = np.empty(3, np.int64)
    rest = np.empty(3, np.int64)
    for i in range(energy_mj.size):
        standing = coefficients[i, 0] * engine_us[i]
        prefill = coefficients[i, 1] * uncached_input_tokens[i]
        decode = coefficients[i, 2] * output_tokens[i]
        whole = standing + prefill + decode
        if not 0.0 < whole < np.inf:
            weight[:] = 0
        else:
            weight[1] = np.int64(prefill / whole * _PARTS)
            weight[2] = np.int64(decode / whole * _PARTS)
            weight[0] = np.int64(standing / whole * _PARTS)
        total = int(weight[0]) + int(weight[1]) + int(weight[2])
        if total == 0:
            weight[0] = 1
            total = 1
        left = energy_mj[i]
        for j in range(3):
            parts[i, j], rest[j] = share(energy_mj[i], weight[j], total)
            left -= parts[i, j]
        while left > 0:
            best = 0
            for j in range(1, 3):
                if rest[j] > rest[best]:
                    best = j
            parts[i, best] += 1
            rest[best] = -1
            left -= 1
