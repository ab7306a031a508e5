"""Whose energy it was; it always adds up to the meter."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support import naive
from support.counters import int64s
from support.naive import Holding
from wattmill_analytics.attribution import (
    EMPTY,
    IDLE_EMPTY,
    IDLE_LOADED,
    OCCUPIED,
    SERVING,
    UNATTRIBUTED,
    UNKNOWN_OCCUPANCY,
    Pieces,
    attribute,
    divide,
)
from wattmill_analytics.shares import WHOLE, from_ppm

Interval = tuple[int, int, int, int]
"""(start_us, end_us, energy_mj, occupancy)"""


def split(boards: list[tuple[list[Interval], list[Holding]]], counters: list[int] | None = None) -> Pieces:
    """`counters`: where each interval's counter stood at its begin; without them there are none."""
    intervals = [i for own, _ in boards for i in own]
    holdings = [h for _, held in boards for h in held]
    return attribute(
        offsets=int64s(np.cumsum([0, *(len(own) for own, _ in boards)]).tolist()),
        start_us=int64s([i[0] for i in intervals]),
        end_us=int64s([i[1] for i in intervals]),
        energy_mj=int64s([i[2] for i in intervals]),
        counter_mj=int64s(counters or [-1] * len(intervals)),
        occupancy=np.array([i[3] for i in intervals], np.uint8),
        held_offsets=int64s(np.cumsum([0, *(len(held) for _, held in boards)]).tolist()),
        held_start_us=int64s([h.start_us for h in holdings]),
        held_end_us=int64s([h.end_us for h in holdings]),
        held_active=np.array([h.active for h in holdings], np.uint8),
        held_weight=int64s([h.weight for h in holdings]),
        held_share=int64s([h.share for h in holdings]),
        held_activity=int64s([h.activity for h in holdings]),
    )


def rows(pieces: Pieces) -> list[tuple[int, int, int, int]]:
    """(account, holder, energy, time)"""
    columns = (pieces.account, pieces.holder, pieces.energy_mj, pieces.time_us)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def parts(*slices: int) -> list[int]:
    """Slices of a board that has seven."""
    return [k * WHOLE // 7 for k in slices]


def one(interval: Interval, *holdings: Holding) -> list[tuple[int, int, int, int]]:
    return rows(split([([interval], list(holdings))]))


def test_active_holders_share_by_weight() -> None:
    found = one((0, 10, 100, OCCUPIED), Holding(0, 10, True, 2), Holding(0, 10, True, 1))
    assert found == [(SERVING, 0, 67, 7), (SERVING, 1, 33, 3)]


def test_without_weights_active_holders_share_equally_and_the_lower_one_gets_the_odd_millijoule() -> None:
    found = one((0, 10, 101, OCCUPIED), Holding(0, 10, True, 0), Holding(0, 10, True, 0))
    assert found == [(SERVING, 0, 51, 5), (SERVING, 1, 50, 5)]


def test_an_idle_neighbour_of_an_active_engine_pays_nothing() -> None:
    found = one((0, 10, 100, OCCUPIED), Holding(0, 10, False, 5), Holding(0, 10, True, 1))
    assert found == [(SERVING, 1, 100, 10)]


def test_only_inactive_holders_are_idle_loaded() -> None:
    found = one((0, 10, 101, OCCUPIED), Holding(0, 10, False, 9), Holding(0, 10, False, 1))
    assert found == [(IDLE_LOADED, 0, 51, 5), (IDLE_LOADED, 1, 50, 5)]


@pytest.mark.parametrize(
    ("occupancy", "account"), [(EMPTY, IDLE_EMPTY), (OCCUPIED, UNATTRIBUTED), (UNKNOWN_OCCUPANCY, UNATTRIBUTED)]
)
def test_nobody_holds_it(occupancy: int, account: int) -> None:
    assert one((0, 10, 100, occupancy)) == [(account, -1, 100, 10)]


@pytest.mark.parametrize(
    ("held", "covers"), [((0, 10), True), ((9, 10), True), ((0, 9), False), ((10, 20), False), ((5, 15), True)]
)
def test_the_end_of_the_interval_decides_who_holds_it(held: tuple[int, int], covers: bool) -> None:
    found = one((0, 10, 100, OCCUPIED), Holding(*held, True, 1))
    assert found[0][0] == (SERVING if covers else UNATTRIBUTED)


def test_a_long_holding_behind_short_ones_is_found() -> None:
    held = [Holding(8, 10, True, 1), Holding(10, 12, True, 1), Holding(0, 99, True, 3)]
    assert one((0, 10, 100, OCCUPIED), *held) == [(SERVING, 0, 25, 3), (SERVING, 2, 75, 7)]


def test_boards_do_not_see_each_others_holders() -> None:
    found = rows(split([([(0, 10, 5, EMPTY)], []), ([(0, 10, 7, EMPTY)], [Holding(0, 10, True, 1)])]))
    assert found == [(IDLE_EMPTY, -1, 5, 10), (SERVING, 0, 7, 10)]


def test_seven_mig_slices_are_one_board() -> None:
    """field.md 7, check 7: the board's joules once."""
    found = one((0, 10, 7_000_001, OCCUPIED), *(Holding(0, 10, True, 1, share=WHOLE // 7) for _ in range(7)))
    assert sum(energy for _, _, energy, _ in found) == 7_000_001
    assert {energy for _, _, energy, _ in found} == {1_000_000, 1_000_001}


def test_three_mig_tenants_pay_for_their_slices_whatever_the_others_do() -> None:
    three, two, also_two = parts(3, 2, 2)
    tenants = (Holding(0, 10, True, 9, three), Holding(0, 10, False, 0, two), Holding(0, 10, True, 1, also_two))
    found = one((0, 10, 7_000_000, OCCUPIED), *tenants)
    assert found == [(SERVING, 0, 3_000_000, 4), (IDLE_LOADED, 1, 2_000_000, 3), (SERVING, 2, 2_000_000, 3)]


@given(
    st.integers(0, 2**60),
    st.lists(st.integers(10_000, 700_000), min_size=1, max_size=60),
    st.permutations([3, 2, 1]),
)
def test_along_a_counter_no_tenant_is_off_by_two_millijoules_however_often_the_board_is_read(
    counter: int, amounts: list[int], slices: list[int]
) -> None:
    """One of seven slices is nobody's. Without where the counter stood, each reading could add its own rounding."""
    stood = [counter + sum(amounts[:i]) for i in range(len(amounts))]
    intervals = [(10 * i, 10 * i + 10, amount, OCCUPIED) for i, amount in enumerate(amounts)]
    tenants = [Holding(0, 10**6, True, 1, share) for share in parts(*slices)]
    found = split([(intervals, tenants)], stood)
    assert found.energy_mj.min() >= 0
    for holder, part in zip((0, 1, 2, -1), (*slices, 1), strict=True):
        mine = sum(found.energy_mj[found.holder == holder].tolist())
        assert abs(mine - Fraction(sum(amounts) * part, 7)) < 2


def test_the_same_board_without_a_counter_adds_up_its_roundings() -> None:
    intervals = [(10 * i, 10 * i + 10, 100_001, OCCUPIED) for i in range(700)]
    tenants = [Holding(0, 10**6, True, 1, share) for share in parts(3, 2, 2)]
    alone, along = (
        split([(intervals, tenants)], stood) for stood in (None, [100_001 * i for i in range(len(intervals))])
    )
    off = [
        [sum(found.energy_mj[found.holder == h].tolist()) - 100_001 * 100 * part for h, part in enumerate((3, 2, 2))]
        for found in (alone, along)
    ]
    assert off == [[-400, 200, 200], [0, 0, 0]]


def test_what_shares_leave_to_nobody_is_unattributed_even_on_an_empty_board() -> None:
    for occupancy in (EMPTY, OCCUPIED, UNKNOWN_OCCUPANCY):
        found = one((0, 7, 100, occupancy), *(Holding(0, 7, True, 1, share) for share in parts(3, 2)))
        assert found == [(SERVING, 0, 43, 3), (SERVING, 1, 29, 2), (UNATTRIBUTED, -1, 28, 2)]


def test_holders_without_a_share_have_what_the_shares_leave() -> None:
    found = one(
        (0, 70, 7_000, OCCUPIED),
        Holding(0, 70, True, 1),
        Holding(0, 70, False, 1, parts(3)[0]),
        Holding(0, 70, True, 3),
        Holding(0, 70, False, 9),
    )
    assert found == [(IDLE_LOADED, 1, 3_000, 30), (SERVING, 0, 1_000, 10), (SERVING, 2, 3_000, 30)]


def test_idle_holders_without_a_share_share_the_rest_equally() -> None:
    found = one(
        (0, 70, 700, OCCUPIED), Holding(0, 70, True, 1, parts(3)[0]), *(Holding(0, 70, False, w) for w in (5, 0))
    )
    assert found == [(SERVING, 0, 300, 30), (IDLE_LOADED, 1, 200, 20), (IDLE_LOADED, 2, 200, 20)]


def test_shares_above_the_whole_are_scaled_down() -> None:
    found = one((0, 10, 90, OCCUPIED), *(Holding(0, 10, True, 1, share) for share in (WHOLE, WHOLE // 2)))
    assert found == [(SERVING, 0, 60, 7), (SERVING, 1, 30, 3)]


def test_a_share_of_nothing_costs_nothing() -> None:
    assert one((0, 10, 9, OCCUPIED), Holding(0, 10, True, 1, 0)) == [(SERVING, 0, 0, 0), (UNATTRIBUTED, -1, 9, 10)]


def test_activity_comes_before_tokens_where_all_active_holders_know_it() -> None:
    quiet = Holding(0, 10, False, 0)
    found = one(
        (0, 10, 100, OCCUPIED), Holding(0, 10, True, 1, activity=30), Holding(0, 10, True, 9, activity=10), quiet
    )
    assert [energy for _, _, energy, _ in found] == [75, 25]
    found = one((0, 10, 100, OCCUPIED), Holding(0, 10, True, 1, activity=30), Holding(0, 10, True, 9), quiet)
    assert [energy for _, _, energy, _ in found] == [10, 90]
    found = one((0, 10, 100, OCCUPIED), *(Holding(0, 10, True, w, activity=0) for w in (1, 9)))
    assert [energy for _, _, energy, _ in found] == [10, 90]


def test_parts_that_are_no_whole_millionths() -> None:
    said = [428_571, 428_572, 285_714, 142_857, 999_999, 10**6, 2 * 10**6, 0, 1, -1, 350_000, 123_457, 15_625, 333_333]
    seventh = WHOLE // 7
    assert from_ppm(int64s(said)).tolist() == [
        *(3 * seventh, 3 * seventh, 2 * seventh, seventh, WHOLE, WHOLE, WHOLE, 0, WHOLE // 10**6, -1),
        *(7 * WHOLE // 20, 123_457 * (WHOLE // 10**6), WHOLE // 64, WHOLE // 3),
    ]


@given(st.lists(st.integers(-1, 1_100_000), max_size=20))
def test_parts_twin(said: list[int]) -> None:
    assert from_ppm(int64s(said)).tolist() == [naive.share_from_ppm(ppm, WHOLE) for ppm in said]


@given(st.integers(2, 28), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_slices_of_a_board_are_exact(slices: int, mine: list[int]) -> None:
    """Whatever way an agent rounds k of n slices to millionths, all of them are the whole board."""
    mine = [k for k in mine if k <= slices]
    exact = [k * WHOLE // slices for k in mine]
    assert from_ppm(int64s([k * 10**6 // slices for k in mine])).tolist() == exact
    assert from_ppm(int64s([-(-k * 10**6 // slices) for k in mine])).tolist() == exact


instants = st.integers(0, 12)
some_share = st.just(-1) | st.integers(0, 7).map(lambda k: k * WHOLE // 7) | st.integers(0, WHOLE)
held = st.builds(
    Holding,
    instants,
    instants,
    st.booleans(),
    st.integers(0, 4) | st.integers(0, 2**48),
    some_share,
    st.integers(-1, 3) | st.integers(0, 10**6),
).filter(lambda h: h.start_us <= h.end_us)
interval = st.tuples(
    instants,
    instants,
    st.integers(0, 100) | st.integers(0, 2**62),
    st.sampled_from([UNKNOWN_OCCUPANCY, EMPTY, OCCUPIED]),
).filter(lambda i: i[0] <= i[1])


@given(
    st.lists(st.tuples(st.lists(interval, max_size=4), st.lists(held, max_size=5)), min_size=1, max_size=3),
    st.lists(st.just(-1) | st.integers(0, 1000) | st.integers(0, 2**62), min_size=12, max_size=12),
)
@example([([(0, 10, 2**62, OCCUPIED)], [Holding(0, 10, True, 2**48)] * 5)], [-1])
@example([([(0, 10, 2**62, OCCUPIED)], [Holding(0, 10, True, 2**48, WHOLE)] * 5)], [-1])
@example([([(0, 10, 2**61, OCCUPIED)], [Holding(0, 10, True, 2**48, WHOLE)] * 5)], [2**62])
def test_twin_and_conservation(cases: list[tuple[list[Interval], list[Holding]]], counters: list[int]) -> None:
    counters = counters[: sum(len(own) for own, _ in cases)]
    boards = [(own, sorted(holdings, key=lambda h: h.end_us)) for own, holdings in cases]
    pieces = split(boards, counters)
    expected = []
    before = 0
    stood = iter(counters)
    for own, holdings in boards:
        for start, end, energy, occupancy in own:
            empty, counter = occupancy == EMPTY, next(stood)
            for account, h, mj, us in naive.attribute(start, end, energy, empty, holdings, WHOLE, counter):
                expected.append((account, -1 if h is None else before + h, mj, us))
        before += len(holdings)
    assert rows(pieces) == expected
    for i, (start, end, energy, _) in enumerate(i for own, _ in boards for i in own):
        mine = pieces.interval == i
        assert sum(pieces.energy_mj[mine].tolist()) == energy
        assert sum(pieces.time_us[mine].tolist()) == end - start


@given(st.integers(0, 10**12), st.lists(held, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_holders_moves_a_millijoule_at_most(energy: int, holdings: list[Holding], random: Random) -> None:
    """Equal remainders go to the earlier one, twice over where a holder has a part of what shares leave."""
    holdings = [replace(h, start_us=0, end_us=10) for h in holdings]
    order = list(range(len(holdings)))
    random.shuffle(order)
    found = {h: (account, mj) for account, h, mj, _ in one((0, 10, energy, OCCUPIED), *holdings)}
    again = one((0, 10, energy, OCCUPIED), *(holdings[h] for h in order))
    assert len(again) == len(found)
    for account, place, mj, _ in again:
        before = found[order[place] if place >= 0 else -1]
        assert before[0] == account
        assert abs(before[1] - mj) <= (2 if place >= 0 and holdings[order[place]].share < 0 else 1)


@given(st.integers(0, 10**12), st.lists(some_share.filter(lambda share: share >= 0), min_size=1, max_size=6))
def test_shares_are_in_proportion_to_the_millijoule(energy: int, shares: list[int]) -> None:
    found = one((0, 10, energy, OCCUPIED), *(Holding(0, 10, True, 1, share) for share in shares))
    assert sum(mj for _, _, mj, _ in found) == energy
    for _, h, mj, _ in found:
        part = shares[h] if h >= 0 else WHOLE - sum(shares)
        assert abs(Fraction(energy * part, max(WHOLE, sum(shares))) - mj) < 1


def test_absurd_weights_still_close() -> None:
    found = one((0, 10, 2**62, OCCUPIED), Holding(0, 10, True, 2**63 - 1), Holding(0, 10, True, 2**62))
    assert [energy for _, _, energy, _ in found] == [2**61, 2**61]


def test_arrays_are_checked() -> None:
    with pytest.raises(ValueError, match="sorted by their end"):
        one((0, 10, 1, EMPTY), Holding(0, 10, True, 1), Holding(0, 9, True, 1))
    with pytest.raises(ValueError, match="less than no energy"):
        one((0, 10, -1, EMPTY))
    with pytest.raises(ValueError, match="less than no energy or time"):
        one((10, 0, 1, EMPTY))


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 9)), max_size=5))
def test_divide(cases: list[tuple[int, int]]) -> None:
    offsets, shares = divide(int64s([a for a, _ in cases]), int64s([p for _, p in cases]))
    found = [shares[a:b].tolist() for a, b in pairwise(offsets.tolist())]
    assert found == [naive.divide(amount, parts) for amount, parts in cases]
    assert [sum(part) for part in found] == [amount for amount, _ in cases]


def test_seven_in_three() -> None:
    assert divide(int64s([7]), int64s([3]))[1].tolist() == [3, 2, 2]
    with pytest.raises(ValueError, match="parts at least 1"):
        divide(int64s([7]), int64s([0]))
