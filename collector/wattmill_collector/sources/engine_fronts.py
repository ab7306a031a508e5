"""Targets that are no engine of their own, but stand before engines and answer with their pages.

vllm-router passes `/metrics` on to one of its workers, as does any balancer. Where the workers take turns, the process
that the page is of comes back after another one: then nothing it says can be told apart, and it is not read. Where it
is always the same worker, and that is a target too, its tokens would count twice: it is not read where that one is on
boards, and told where neither is, since two engines that are alike to the token can't be ruled out then.

Only a target that nothing ties to a board can be a front; that it is the only one is no tie. Pages of several API
servers do not say when their process began: then counters are the evidence, and a busy one is known at the first
reading that finds both the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from wattmill_collector.placement import Placement
from wattmill_collector.sources.engine_pages import EngineValues
from wattmill_collector.sources.engine_target import Alike, Problems, Target

TURNS_US = 600_000_000  # for so long a target that was seen to change between processes is not read
MOST_EPOCHS = 64
MOST_FALLS, READINGS = 3, 10  # counters that fall more often than that within so many readings are of several processes
LEAST_ALIKE = 3  # so many totals, each another one, have to be the same where neither start nor boards tell
ALIKE_US = 600_000_000  # without a process start: for so long after they were the same last

TURNS = (
    "several_processes",
    "its page is of one process now and of another then, so it is a balancer's or a router's, or a server's with"
    " several workers: configure each engine behind it by its own page",
)
COPY = "it shows the page of {}, to the token, so it is a router or a proxy before it"
NOT_READ = ", and is not read, since its tokens would count twice: take it out of `engines`"
READ = " and its tokens count twice: configure one of the two"


def takes_turns(target: Target, epoch: int, time_us: int) -> bool:
    """Whether the target answers for several processes in turn: one came back that another had followed.

    A process that was started again is never the one that it was. 0 is no evidence.
    """
    if target.evidence is not None and epoch != target.evidence.epoch:
        target.falls = ()
        if epoch != 0:
            if epoch in target.past_epochs:
                target.turns_until_us = time_us + TURNS_US
            target.past_epochs = (*target.past_epochs, target.evidence.epoch)[-MOST_EPOCHS:]
    return time_us < target.turns_until_us


def counts_for_several(target: Target, values: Sequence[EngineValues], placed: Placement, time_us: int) -> bool:
    """Whether a page that names no process start has counters that fall again and again, so that they are several's.

    To be asked at every reading. A single fall is a restart or a bad reading.
    """
    if target.page.process_start or _is_tied(placed):
        return False
    tokens = _tokens(values)
    before, target.tokens = target.tokens, tokens
    fell = len(before) == len(tokens) and any(now < then for now, then in zip(tokens, before, strict=True))
    target.falls = (*target.falls, fell)[-READINGS:]
    if sum(target.falls) > MOST_FALLS:
        target.turns_until_us, target.falls = time_us + TURNS_US, ()
    return time_us < target.turns_until_us


@dataclasses.dataclass(frozen=True, slots=True)
class Front:
    """What is wrong with a target that shows another one's page, and whether it is left out."""

    problems: Problems
    is_left_out: bool


def find_fronts(read: Sequence[tuple[Target, Sequence[EngineValues], Placement]], time_us: int) -> dict[str, Front]:
    """Targets on no board that show the page of another one: the same process, series and tokens.

    Of two that are both on no board it is the later one.
    """
    found: dict[str, Front] = {}
    for nth, (target, values, placement) in enumerate(read):
        tokens, start = _tokens(values), target.page.process_start
        before, target.alike = target.alike, {}
        if _is_tied(placement) or not tokens:
            continue
        others = [(other, its, _is_tied(where), mth) for mth, (other, its, where) in enumerate(read)]
        for other, its_values, is_tied, mth in sorted(others, key=lambda one: not one[2]):
            if other is target or not (is_tied or mth < nth):
                continue
            if other.page.process_start != start or _series(its_values) != _series(values):
                continue
            name = other.settings.target
            alike = before.get(name, Alike())
            if tokens == _tokens(its_values):  # between two answers tokens may be made; at rest they stay the same
                alike = Alike(tokens, alike.times + (tokens != alike.tokens), time_us)
            if not alike.times or (not start and time_us - alike.seen_us > ALIKE_US):
                continue
            target.alike[name] = alike
            if alike.times >= (1 if start or is_tied else LEAST_ALIKE) and target.settings.target not in found:
                detail = COPY.format(name) + (NOT_READ if is_tied else READ)
                found[target.settings.target] = Front({"copy": ("same_page", detail)}, is_tied)
    return found


def _is_tied(placement: Placement) -> bool:
    """Whether the target was found on its boards, and has not only got those that are left."""
    return placement.method not in ("", "exclusive")


def _series(values: Sequence[EngineValues]) -> list[str]:
    return [one.series for one in values]


def _tokens(values: Sequence[EngineValues]) -> tuple[int, ...]:
    """What all engines of a page have counted; empty where that is nothing."""
    counted = [one.values.get(field) for one in values for field in ("input_tokens", "output_tokens")]
    tokens = tuple(one for one in counted if isinstance(one, int))
    return tokens if any(tokens) else ()
