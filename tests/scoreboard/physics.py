"""What a replica draws and makes at a batch: a published curve, bent and shifted as no two deployments are alike.

Time is sliced between prefill, at its own power, and decode, at the power of its batch. So a minute's energy is
output tokens x cost at the batch + computed input tokens x cost of one, and truth can be told exactly.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from scoreboard.figures import BOARDS, Figure

Float = NDArray[np.float64]
LONGEST_PREFILL_SHARE = 0.8
_GRID = np.linspace(0.0, np.log(2048.0), 500)


@dataclasses.dataclass(frozen=True, slots=True)
class Plant:
    """One model as it really runs here. `log_watts`-style tables lie over log batch from 1 to 2048; replica totals."""

    boards: int
    limit_w: float
    empty_w: float
    loaded_w: float
    watts_table: Float
    rate_table: Float
    prefill_tokens_per_s: float
    prefill_w: float

    def rate(self, batch: Float) -> Float:
        """Decode tokens a second at a batch; below 1 a share of the time."""
        at_least_one = np.interp(np.log(np.maximum(batch, 1.0)), _GRID, self.rate_table)
        return np.asarray(at_least_one * np.minimum(batch, 1.0))

    def batch(self, tokens_per_s: Float) -> Float:
        """The batch that decodes at this rate; the largest of the table where none does."""
        first = self.rate_table[0]
        above = np.exp(np.interp(tokens_per_s, self.rate_table, _GRID))
        return np.asarray(np.where(tokens_per_s < first, tokens_per_s / first, above))

    def decode_w(self, batch: Float) -> Float:
        """Watts of all boards while decoding at a batch; below 1 a mean with loaded idling."""
        busy = np.interp(np.log(np.maximum(batch, 1.0)), _GRID, self.watts_table)
        idle = self.loaded_w * self.boards
        return np.asarray(idle + (busy - idle) * np.minimum(batch, 1.0))

    def decode_j(self, batch: Float) -> Float:
        """Joules per output token at a batch, prefill apart."""
        at = np.maximum(batch, 0.05)
        return np.asarray(self.decode_w(at) / self.rate(at))

    @property
    def prefill_j(self) -> float:
        """Joules of one computed input token."""
        return self.prefill_w / self.prefill_tokens_per_s

    def watts(self, batch: Float, prefill_share: Float) -> Float:
        """Mean watts of all boards in a minute."""
        return np.asarray((1 - prefill_share) * self.decode_w(batch) + prefill_share * self.prefill_w)

    def requests_per_s(self, batch: float, output: float, computed: float) -> float:
        """Requests a second that keep this batch busy, each with so many output and computed input tokens."""
        rate = float(self.rate(np.array([batch]))[0])
        return 1.0 / (output / rate + computed / self.prefill_tokens_per_s)


def build(figure: Figure, rng: np.random.Generator) -> Plant:
    """The figure as one deployment meets it: joules per token off by 0.85 to 1.2 and wavy, speed off by a tenth."""
    board = BOARDS[figure.accelerator]
    batch, watts, rate = (np.array(column, np.float64) for column in zip(*figure.points, strict=True))
    rate = np.maximum.accumulate(rate)
    at = np.log(np.concatenate(([1.0], batch, [2048.0])))
    loaded = board.loaded_w * figure.boards
    # Batch 1 was not measured: decode is bound by memory there, so a step takes nearly as long as at 8.
    watts = np.concatenate(([max(1.3 * loaded, 0.9 * watts[0])], watts, [watts[-1]]))
    rate = np.concatenate(([1.08 * rate[0] / batch[0]], rate, [rate[-1] * 1.02]))
    faster, dearer = rng.uniform(0.9, 1.1), rng.uniform(0.85, 1.2)
    wave = 1 + 0.03 * np.sin(rng.uniform(1.0, 2.5) * _GRID + rng.uniform(0, 6.28))
    rate_table = np.interp(_GRID, at, np.log(rate))
    rate_table = np.maximum.accumulate(np.exp(rate_table) * faster) + np.arange(_GRID.size) * 1e-6
    limit = board.limit_w * figure.boards
    watts_table = np.minimum(np.interp(_GRID, at, watts) * wave * faster * dearer, 0.99 * limit)
    prefill = rng.uniform(0.35, 0.5) * board.flops * figure.boards / (2e9 * figure.active_params_b)
    prefill_w = rng.uniform(0.80, 0.95) * limit
    # Small active sizes are bound by other things than FLOPs.
    prefill = min(prefill, 12 * float(rate_table[np.searchsorted(_GRID, np.log(128.0))]))
    return Plant(
        figure.boards, board.limit_w, board.empty_w, board.loaded_w, watts_table, rate_table, prefill, prefill_w
    )
