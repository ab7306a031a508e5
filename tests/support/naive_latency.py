"""The slow obvious twin of `latency`: one histogram at a time, exact fractions, observation by observation."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def edges(le_us: Sequence[int], bucket: int) -> tuple[int, int | None]:
    """Where a bucket begins and ends; the last one has no end."""
    return (le_us[bucket - 1] if bucket else 0), (le_us[bucket] if bucket < len(le_us) else None)


def share(le_us: Sequence[int], counts: Sequence[int], target_us: int) -> tuple[Fraction, Fraction, Fraction] | None:
    """(estimate, lowest, highest) of what was at or under the target."""
    total = sum(counts)
    if not total:
        return None
    estimate = lowest = highest = Fraction(0)
    for bucket, count in enumerate(counts):
        begin, end = edges(le_us, bucket)
        if end is not None and end <= target_us:
            part = Fraction(1)
        elif end is not None and begin < target_us:
            part = Fraction(target_us - begin, end - begin)
        else:
            part = Fraction(0)
        estimate += count * part
        lowest += count if part == 1 else 0
        highest += count if part > 0 or (end is None and begin < target_us) else 0
    return estimate / total, lowest / total, highest / total


def quantile(le_us: Sequence[int], counts: Sequence[int], ratio: Fraction) -> Fraction | None:
    """What this ratio of the observations took at most."""
    rank = ratio * sum(counts)
    if not rank:
        return None
    seen = Fraction(0)
    for bucket, count in enumerate(counts):
        if seen + count >= rank:
            begin, end = edges(le_us, bucket)
            return Fraction(begin) if end is None else begin + (end - begin) * (rank - seen) / count
        seen += count
    raise AssertionError("the ranks of all buckets sum to the total")
