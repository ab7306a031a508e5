"""The slow obvious twin of every kernel: lists and Python integers, one series at a time, no cleverness.

Where a kernel and its twin disagree, read the twin first: it is meant to be the rule, word by word.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import floor, nan

FIRST, OK, RESTART, WRAP, GAP, ANOMALY, UNKNOWN, ESTIMATED, MISSING, GAP_RESTART = range(10)
COUNTED = {OK, GAP, WRAP, RESTART, GAP_RESTART}
SECOND_US = 10**6


@dataclass
class Reading:
    time_us: int
    value: int
    epoch: int = 0
    epoch_start_us: int = -1
    power_mw: int = -1


@dataclass
class Counter:
    watched_from_us: int = -1
    gap_us: int = 30 * SECOND_US
    wrap_at: int = 0
    highest_per_s: int = 0


Interval = tuple[int, int, int]
"""(delta, start_us, status)"""


def plausible(amount: int, highest_per_s: int, duration_us: int) -> bool:
    return highest_per_s == 0 or amount * SECOND_US <= highest_per_s * (duration_us + SECOND_US)


def judge(base: Reading, r: Reading, counter: Counter) -> tuple[int, int]:
    """(status, delta) of r when base is trusted."""
    passed = r.time_us - base.time_us
    far = passed > counter.gap_us
    no_evidence = base.epoch == 0 or r.epoch == 0
    if base.epoch == r.epoch or (no_evidence and r.value >= base.value):
        moved = r.value - base.value
        if moved >= 0:
            if not plausible(moved, counter.highest_per_s, passed):
                return ANOMALY, 0
            return (GAP if far else OK), moved
        moved += counter.wrap_at
        if counter.wrap_at == 0 or moved < 0:
            return ANOMALY, 0
        if counter.highest_per_s == 0:
            one_turn = not far and moved <= counter.wrap_at // 2
        else:
            one_turn = counter.highest_per_s * passed < (counter.wrap_at + 1) * SECOND_US
        if not one_turn or not plausible(moved, counter.highest_per_s, passed):
            return ANOMALY, 0
        return (GAP if far else WRAP), moved
    started = r.epoch_start_us
    if started < 0 or started <= base.time_us or started > r.time_us + SECOND_US:
        return UNKNOWN, 0
    if not plausible(r.value, counter.highest_per_s, max(0, r.time_us - started)):
        return ANOMALY, 0
    return (GAP_RESTART if far else RESTART), r.value


def judge_first(r: Reading, counter: Counter) -> tuple[int, int]:
    started = r.epoch_start_us
    if counter.watched_from_us < 0 or started <= counter.watched_from_us or started > r.time_us + SECOND_US:
        return FIRST, 0
    age = max(0, r.time_us - started)
    if not plausible(r.value, counter.highest_per_s, age):
        return ANOMALY, 0
    return (GAP_RESTART if age > counter.gap_us else RESTART), r.value


def increments(readings: Sequence[Reading], counter: Counter) -> list[Interval]:
    found: list[Interval] = []
    base: Reading | None = None
    for i, r in enumerate(readings):
        if r.value < 0:
            found.append((0, r.time_us, MISSING))
            continue
        status, delta = judge(base, r, counter) if base else judge_first(r, counter)
        if status != ANOMALY:
            if base:
                start = base.time_us
            elif status == FIRST:
                start = r.time_us
            else:
                start = min(r.epoch_start_us, r.time_us)
            found.append((delta, start, status))
            base = r
            continue
        found.append((0, r.time_us, ANOMALY))
        later = [x for x in readings[i + 1 :] if x.value >= 0]
        if not later:
            continue
        after = later[0]
        from_base = (judge(base, after, counter) if base else judge_first(after, counter))[0]
        same_epoch = r.epoch == after.epoch or ((r.epoch == 0 or after.epoch == 0) and after.value >= r.value)
        from_here = (
            same_epoch
            and after.value >= r.value
            and plausible(after.value - r.value, counter.highest_per_s, after.time_us - r.time_us)
        )
        if from_base not in COUNTED and from_here:
            base = r
    return found


def same_epoch(a: int, b: int) -> bool:
    return a == b or a == 0 or b == 0


def restarts(series: Sequence[Sequence[Reading]], highest_per_s: Sequence[int]) -> list[int]:
    """The times at which the counters of one group restarted although their epoch did not change."""
    found = []
    for now in sorted({r.time_us for readings in series for r in readings}):
        votes: list[bool] = []
        alone: list[bool] = []
        for readings, highest in zip(series, highest_per_s, strict=True):
            valid = [r for r in readings if r.value >= 0]
            at = [k for k, r in enumerate(valid) if r.time_us == now]
            if not at or at[0] == 0:
                continue
            r, before = valid[at[0]], valid[at[0] - 1]
            if before.value == 0 or not same_epoch(before.epoch, r.epoch):
                continue
            fell = r.value < before.value
            votes.append(fell and plausible(r.value, highest, now - before.time_us))
            after = valid[at[0] + 1] if at[0] + 1 < len(valid) else None
            alone.append(
                after is not None
                and same_epoch(r.epoch, after.epoch)
                and after.value >= r.value
                and plausible(after.value - r.value, highest, after.time_us - now)
                and not (
                    after.value >= before.value
                    and plausible(after.value - before.value, highest, after.time_us - before.time_us)
                )
            )
        if votes and all(votes) and (len(votes) > 1 or all(alone)):
            found.append(now)
    return found


Name = tuple[int, ...]
"""An epoch: (raw epoch,), or (raw epoch, restart, restart, ...)."""


def inferred_epochs(series: Sequence[Sequence[Reading]], highest_per_s: Sequence[int]) -> list[list[tuple[Name, int]]]:
    """(epoch, epoch_start_us) of every reading of one group."""
    times = restarts(series, highest_per_s)
    found = []
    for readings in series:
        row: list[tuple[Name, int]] = []
        suffix: Name = ()
        begun = (0, 0)
        for i, r in enumerate(readings):
            if i and not same_epoch(readings[i - 1].epoch, r.epoch):
                suffix = ()
            for at in times:
                if (readings[i - 1].time_us if i else -1) < at <= r.time_us:
                    earlier = [x for x in readings[:i] if x.value >= 0]
                    if earlier and same_epoch(earlier[-1].epoch, r.epoch):
                        begun = (r.epoch if not suffix else begun[0], earlier[-1].time_us + 1)
                        suffix = (*suffix, at)
            row.append(((begun[0], *suffix), begun[1]) if suffix else ((r.epoch,), r.epoch_start_us))
        found.append(row)
    return found


def trapezoid(a: Reading, b: Reading) -> int:
    return (a.power_mw + b.power_mw) * (b.time_us - a.time_us) // (2 * SECOND_US)


def energy_increments(readings: Sequence[Reading], counter: Counter) -> list[Interval]:
    """Counter first; then power where the counter is absent; then power where it stands still."""
    found = increments(readings, counter)
    position = {r.time_us: i for i, r in enumerate(readings)}

    def trusted(i: int) -> bool:
        power = readings[i].power_mw
        return power >= 0 and (counter.highest_per_s == 0 or power <= counter.highest_per_s)

    def estimate(a: int, b: int) -> Interval:
        near = readings[b].time_us - readings[a].time_us <= counter.gap_us
        if near and trusted(a) and trusted(b):
            return trapezoid(readings[a], readings[b]), readings[a].time_us, ESTIMATED
        return 0, readings[a].time_us, UNKNOWN

    # Absent: no counted interval that ends later begins before the reading.
    absent = set()
    for i, (_, _, status) in enumerate(found):
        later = [f for f in found[i + 1 :] if f[2] not in (MISSING, ANOMALY)]
        spanned = bool(later) and later[0][2] in COUNTED and later[0][1] < readings[i].time_us
        if status == MISSING and not spanned:
            absent.add(i)
    done_us = readings[0].time_us if readings else 0
    for i, r in enumerate(readings):
        _, start, status = found[i]
        returned = i > 0 and (status == FIRST or (status == UNKNOWN and start < done_us))
        if i in absent or returned:
            known = [k for k in range(i) if trusted(k)]
            if not trusted(i):
                if i in absent:
                    found[i] = (0, r.time_us, MISSING if r.power_mw < 0 else ANOMALY)
                elif status == UNKNOWN:
                    found[i] = (0, done_us, UNKNOWN)
            elif not known or readings[known[-1]].time_us < done_us:
                found[i] = (0, r.time_us, FIRST)
            else:
                found[i] = estimate(known[-1], i)
        if found[i][2] not in (MISSING, ANOMALY):
            done_us = r.time_us

    # Frozen: chains of equal readings, each based on the one before it, and the reading that ends the chain.
    chains: list[tuple[list[int], int | None]] = []
    chain: list[int] = []
    for i, r in enumerate(readings):
        delta, start, status = found[i]
        if status in (OK, GAP):
            base = position[start]
            follows = bool(chain) and chain[-1] == base
            if delta == 0 and follows:
                chain.append(i)
            elif delta == 0:
                chains.append((chain, None))
                chain = [base, i]
            else:
                chains.append((chain, i if follows else None))
                chain = [i]
        elif status == ANOMALY and r.value >= 0:
            later_rows = [k for k in range(i + 1, len(readings)) if readings[k].value >= 0]
            went_on = not later_rows or (found[later_rows[0]][2] in COUNTED and found[later_rows[0]][1] == r.time_us)
            if chain and same_epoch(readings[chain[-1]].epoch, r.epoch) and went_on:
                chains.append((chain, i))
                chain = [i]
        elif status in (FIRST, UNKNOWN, RESTART, WRAP, GAP_RESTART):
            chains.append((chain, None))
            chain = [i]
    chains.append((chain, None))

    for chain, mover in chains:
        links = list(pairwise(chain))
        seen_us = sum(readings[b].time_us - readings[a].time_us for a, b in links if estimate(a, b)[2] == ESTIMATED)
        rested = any(trusted(a) and trusted(b) and readings[b].power_mw <= 5_000 for a, b in links)
        if len(chain) < 3 or rested or seen_us < (120 if mover is None else 30) * SECOND_US:
            continue
        if mover is not None:
            whole = [*links, (chain[-1], mover)]
            moved = readings[mover].value - readings[chain[0]].value
            drawn = sum(trapezoid(readings[a], readings[b]) for a, b in whole)
            if (
                chain[0] > 0
                and all(trusted(k) for k in [*chain, mover])
                and moved > 0
                and drawn // 2 <= moved
                and moved // 2 <= drawn
            ):
                far = any(readings[b].time_us - readings[a].time_us > counter.gap_us for a, b in whole)
                found[mover] = (moved, readings[chain[0]].time_us, GAP if far else OK)
                for k in chain[1:]:
                    found[k] = (0, readings[k].time_us, ANOMALY)
                continue
            if found[mover][2] != ANOMALY or mover + 1 < len(readings):
                found[mover] = estimate(chain[-1], mover)
        for a, b in links:
            found[b] = estimate(a, b)
    return found


def spread(start_us: int, end_us: int, amount: int, bucket_us: int) -> list[tuple[int, int, int]]:
    """(bucket, amount, duration) of each piece of (start, end]."""
    if start_us == end_us:
        return [((end_us - 1) // bucket_us * bucket_us, amount, 0)]
    length = end_us - start_us
    pieces = []
    at = start_us
    while at < end_us:
        border = min((at // bucket_us + 1) * bucket_us, end_us)
        upto = amount * (border - start_us) // length
        before = amount * (at - start_us) // length
        pieces.append((at // bucket_us * bucket_us, upto - before, border - at))
        at = border
    return pieces


def sum_by_key(keys: Sequence[tuple[int, ...]], values: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    sums: dict[tuple[int, ...], list[int]] = {}
    for key, row in zip(keys, values, strict=True):
        total = sums.setdefault(key, [0] * len(row))
        for c, value in enumerate(row):
            total[c] += value
    return dict(sorted(sums.items()))


def largest_remainder(amount: int, weights: Sequence[int]) -> list[int]:
    if sum(weights) == 0:
        weights = [1] * len(weights)
    exact = [Fraction(amount * w, sum(weights)) for w in weights]
    parts = [floor(x) for x in exact]
    by_remainder = sorted(range(len(parts)), key=lambda k: (parts[k] - exact[k], k))
    for k in by_remainder[: amount - sum(parts)]:
        parts[k] += 1
    return parts


@dataclass
class Holding:
    start_us: int
    end_us: int
    active: bool
    weight: int
    share: int = -1
    """Parts of `shares.WHOLE`; -1: none of its own."""
    activity: int = -1


def share_from_ppm(ppm: int, whole: int) -> int:
    """The simplest fraction within a millionth; -1 stays -1."""
    if ppm < 0:
        return -1
    said = Fraction(min(ppm, 10**6), 10**6)
    for below in range(1, 65):
        near = Fraction(round(said * below), below)
        if whole % below == 0 and near > 0 and abs(near - said) <= Fraction(1, 10**6):
            return int(near * whole)
    return int(said * whole)


def along_a_counter(counter: int, amount: int, weights: Sequence[int]) -> list[int] | None:
    """Parts as differences of what the counter makes them before and after; None for a tiny or absurd amount."""
    if counter < 0 or amount > 2**61:
        return None

    def parts(at: int) -> list[int]:
        bounds = [at * sum(weights[:k]) // sum(weights) for k in range(len(weights) + 1)]
        return [b - a for a, b in pairwise(bounds)]

    found = [b - a for a, b in zip(parts(counter), parts(counter + amount), strict=True)]
    return None if min(found) < 0 else found


def attribute(
    start_us: int,
    end_us: int,
    energy_mj: int,
    empty: bool,
    holdings: Sequence[Holding],
    whole: int = 10**6,
    counter_mj: int = -1,
) -> list[tuple[int, int | None, int, int]]:
    """(account, holding, energy, time) of each piece of one accelerator interval."""
    covering = [h for h, held in enumerate(holdings) if held.start_us < end_us <= held.end_us]
    fixed = [h for h in covering if holdings[h].share >= 0]
    others = [h for h in covering if holdings[h].share < 0]
    if not covering:
        return [(3 if empty else 4, None, energy_mj, end_us - start_us)]
    # First the shares, and beside them what they leave.
    shares = [min(holdings[h].share, whole) for h in fixed]
    shares.append(max(whole - sum(shares), 0))
    *fixed_mj, left_mj = along_a_counter(counter_mj, energy_mj, shares) or largest_remainder(energy_mj, shares)
    *fixed_us, left_us = largest_remainder(end_us - start_us, shares)
    found: list[tuple[int, int | None, int, int]] = [
        (1 if holdings[h].active else 2, h, mj, us) for h, mj, us in zip(fixed, fixed_mj, fixed_us, strict=True)
    ]
    if not others:
        return [*found, (4, None, left_mj, left_us)] if shares[-1] else found
    # Then what they leave, among the others.
    active = [h for h in others if holdings[h].active]
    holders = active or others
    weights = [holdings[h].weight for h in active] or [1] * len(others)
    activities = [holdings[h].activity for h in active]
    if activities and min(activities) >= 0 and max(activities) > 0:
        weights = activities
    energies = largest_remainder(left_mj, weights)
    times = largest_remainder(left_us, weights)
    account = 1 if active else 2
    return found + [(account, h, e, t) for h, e, t in zip(holders, energies, times, strict=True)]


def divide(amount: int, parts: int) -> list[int]:
    return [amount // parts + (k < amount % parts) for k in range(parts)]


def ratio(above: int, below: int, numerator: int, denominator: int) -> float:
    return nan if above < 0 or below <= 0 else above * numerator / (below * denominator)


def price(energy_mj: int, time_us: int, valid_from_us: Sequence[int], micro_per_kwh: Sequence[int]) -> Fraction | None:
    """In pico-units of the currency; None before the first tariff."""
    tariff = bisect_right(valid_from_us, time_us) - 1
    if tariff < 0:
        return None
    return Fraction(energy_mj * micro_per_kwh[tariff] * 10**6, 3_600_000_000)
