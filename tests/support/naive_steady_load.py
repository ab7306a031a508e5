"""Slow and obvious twin of `steady_load`: each minute looks back over a list of minutes of its own engine."""

from __future__ import annotations

import math
from collections.abc import Sequence

Minute = tuple[int, int, float]  # minute number, output tokens, requests seen running


def steady_load(minutes: Sequence[Minute], looks_a_minute: float) -> list[float]:
    """Load of each minute of one engine, in order of time; nan where nobody looked."""
    return [_load(minutes[: i + 1], 300.0 / max(looks_a_minute, 1.0)) for i in range(len(minutes))]


def _load(so_far: Sequence[Minute], enough: float) -> float:
    now, tokens_now, seen_now = so_far[-1]
    if tokens_now <= 0 or math.isnan(seen_now):
        return seen_now
    requests, tokens, later = 0.0, 0, now
    for minute, its_tokens, its_requests in reversed(so_far):
        if now - minute >= 120 or later - minute > 10 or requests >= enough:
            break
        later = minute
        alike = 1 / 1.4 <= its_tokens / tokens_now <= 1.4
        if alike and not math.isnan(its_requests):
            requests += its_requests
            tokens += its_tokens
    return tokens_now * requests / tokens if requests > 0 else seen_now
