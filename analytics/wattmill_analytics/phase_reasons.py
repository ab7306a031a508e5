"""What a fit of phases may tell, why not more, and what the cache saved: for whoever only reads what was learned."""

from __future__ import annotations

import math
from typing import Final

IDENTIFIED: Final = 0
TOO_FEW: Final = 1
NO_ENERGY: Final = 2
NO_SPLIT: Final = 3
NOT_WHOLE: Final = 4
NO_TOKENS: Final = 5
STEADY: Final = 6
TOGETHER: Final = 7
INPUT_STEADY: Final = 8
OUTPUT_STEADY: Final = 9
TOO_NOISY: Final = 10
UNRELATED: Final = 11

REASONS: Final = {
    IDENTIFIED: "",
    TOO_FEW: "too few minutes",
    NO_ENERGY: "no energy",
    NO_SPLIT: "no cached/uncached split known",
    NOT_WHOLE: "its minutes are partly covered, estimated, or of shared accelerators",
    NO_TOKENS: "no tokens were served",
    STEADY: "load does not vary",
    TOGETHER: "input and output rise and fall together",
    INPUT_STEADY: "input does not vary",
    OUTPUT_STEADY: "output does not vary",
    TOO_NOISY: "the minutes scatter too much",
    UNRELATED: "energy does not rise with the tokens",
}
STANDING_KNOWN: Final = frozenset({IDENTIFIED, TOGETHER, NO_TOKENS})
"""Verdicts under which the standing power, and with it the dynamic energy as a whole, is told."""
PREFILL_KNOWN: Final = frozenset({IDENTIFIED, OUTPUT_STEADY})
DECODE_KNOWN: Final = frozenset({IDENTIFIED, INPUT_STEADY})


def cached_savings_mj(
    prefill_mj_per_token: float, standard_error: float, cached_input_tokens: int
) -> tuple[int, int | None]:
    """Cached input tokens at the price of computed ones, in mJ rounded down, and the error of it, rounded up.

    The error is None where the price has none. What reading the cache itself costs is in neither.
    Example: 80 mJ/token +- 2, 1000 tokens -> (80_000, 2_000).
    """
    saved = math.floor(prefill_mj_per_token * cached_input_tokens)
    return saved, math.ceil(standard_error * cached_input_tokens) if math.isfinite(standard_error) else None
