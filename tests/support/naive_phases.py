"""The slow obvious twin of `phases`: fractions, residuals one by one, every subset of the coefficients tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import sqrt

BLOCK_US = 600 * 10**6


@dataclass(frozen=True)
class Minute:
    minute_us: int
    engine_us: int
    energy_mj: int
    uncached_input_tokens: int
    output_tokens: int
    whole: bool = True

    @property
    def counts(self) -> bool:
        tokens_known = self.uncached_input_tokens >= 0 and self.output_tokens >= 0
        return self.whole and self.energy_mj > 0 and self.engine_us > 0 and tokens_known

    @property
    def regressors(self) -> list[Fraction]:
        return [Fraction(value) for value in (self.engine_us, self.uncached_input_tokens, self.output_tokens)]


@dataclass(frozen=True)
class Scale:
    coefficients: tuple[float, float, float] = (0.0, 0.0, 0.0)
    least_mj: float = 1.0
    wild_at: float | None = None

    def prediction(self, minute: Minute) -> Fraction:
        return sum((Fraction(c) * r for c, r in zip(self.coefficients, minute.regressors, strict=True)), Fraction(0))

    def weighs(self, minute: Minute) -> Fraction:
        return max(self.prediction(minute), Fraction(self.least_mj))

    def wild(self, minute: Minute) -> bool:
        off = abs(minute.energy_mj - self.prediction(minute))
        return self.wild_at is not None and off > Fraction(self.wild_at) * self.weighs(minute)


@dataclass(frozen=True)
class Fit:
    coefficients: list[float]
    errors: list[float | None]
    residual_ratio: float
    r_squared: float | None


def solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction] | None:
    """Gauss, on fractions; None if the rows depend on each other."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for j in range(size):
        pivot = next((i for i in range(j, size) if rows[i][j] != 0), None)
        if pivot is None:
            return None
        rows[j], rows[pivot] = rows[pivot], rows[j]
        rows[j] = [value / rows[j][j] for value in rows[j]]
        for i in range(size):
            if i != j:
                rows[i] = [a - rows[i][j] * b for a, b in zip(rows[i], rows[j], strict=True)]
    return [row[-1] for row in rows]


def fit(engines: Sequence[Sequence[Minute]], scale: Scale) -> Fit:
    """The best of all subsets whose coefficients are not below 0, with errors clustered by engine and block."""
    kept = [(e, m) for e, minutes in enumerate(engines) for m in minutes if m.counts and not scale.wild(m)]
    q = [Fraction(m.energy_mj) / scale.weighs(m) for _, m in kept]
    u = [[r / scale.weighs(m) for r in m.regressors] for _, m in kept]

    def scatter(coefficients: Sequence[Fraction]) -> Fraction:
        return sum(
            (
                (a - sum(c * r for c, r in zip(coefficients, row, strict=True))) ** 2
                for a, row in zip(q, u, strict=True)
            ),
            Fraction(0),
        )

    best = [Fraction(0)] * 3
    chosen: tuple[int, ...] = ()
    for size in (1, 2, 3):
        for subset in combinations(range(3), size):
            found = solve(*normal(q, u, subset))
            if found is None or min(found) < 0:
                continue
            candidate = [Fraction(0)] * 3
            for j, value in zip(subset, found, strict=True):
                candidate[j] = value
            if scatter(candidate) < scatter(best):
                best, chosen = candidate, subset
    left, n, k = scatter(best), len(kept), len(chosen)
    scores: dict[tuple[int, int], list[Fraction]] = {}
    for (engine, minute), a, row in zip(kept, q, u, strict=True):
        residual = a - sum(c * r for c, r in zip(best, row, strict=True))
        score = scores.setdefault((engine, minute.minute_us // BLOCK_US), [Fraction(0)] * 3)
        for j in range(3):
            score[j] += row[j] * residual
    errors: list[float | None] = [None] * 3
    matrix, _ = normal(q, u, chosen)
    degrees = len(scores) - 1
    for position, j in enumerate(chosen):
        unit = [Fraction(int(i == position)) for i in range(k)]
        line = solve(matrix, unit)
        assert line is not None
        variance = sum(
            (sum(c * score[m] for c, m in zip(line, chosen, strict=True)) ** 2 for score in scores.values()),
            Fraction(0),
        )
        student = 1 + 1.2104 / degrees + 1.440 / degrees**2
        errors[j] = sqrt(float(variance) * len(scores) / degrees * (n - 1) / (n - k)) * student
    constant = scatter([solve(*normal(q, u, (0,)))[0], Fraction(0), Fraction(0)])  # type: ignore[index]
    return Fit(
        coefficients=[float(value) for value in best],
        errors=errors,
        residual_ratio=sqrt(float(left / (n - k)) / float(sum(a * a for a in q) / n)),
        r_squared=float(1 - left / constant) if constant else None,
    )


def normal(
    q: Sequence[Fraction], u: Sequence[Sequence[Fraction]], subset: Sequence[int]
) -> tuple[list[list[Fraction]], list[Fraction]]:
    matrix = [[sum((row[i] * row[j] for row in u), Fraction(0)) for j in subset] for i in subset]
    return matrix, [sum((a * row[i] for a, row in zip(q, u, strict=True)), Fraction(0)) for i in subset]


def split(coefficients: Sequence[float], energy_mj: int, totals: Sequence[int]) -> list[Fraction]:
    """Exact parts of the energy, before they are made whole."""
    parts = [Fraction(c) * total for c, total in zip(coefficients, totals, strict=True)]
    if sum(parts) == 0:
        return [Fraction(energy_mj), Fraction(0), Fraction(0)]
    return [energy_mj * part / sum(parts) for part in parts]
