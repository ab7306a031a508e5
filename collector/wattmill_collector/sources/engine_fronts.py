"""Targets that are no engine of their own, but stand before engines and answer with their pages.

vllm-router passes `/metrics` on to one of its workers, as does any balancer. Where the workers take turns, the process
that the page is of comes back after another one: then nothing it says can be told apart, and it is not read. Where it
is always the same worker, and that is a target too, its tokens would count twice: that is told, since two engines that
are alike to the token can't be ruled out.
"""

from __future__ import annotations

from collections.abc import Sequence

from wattmill_collector.placement import Placement
from wattmill_collector.sources.engine_pages import EngineValues
from wattmill_collector.sources.engine_target import Problems, Target

TURNS_US = 600_000_000  # for so long a target that was seen to change between processes is not read
MOST_EPOCHS = 64

TURNS = (
    "several_processes",
    "its page is of one process now and of another then, so it is a balancer's or a router's, or a server's with"
    " several workers: configure each engine behind it by its own page",
)
COPY = (
    "it shows the page of {}, to the token, so it is a router or a proxy before it and its tokens count twice:"
    " configure one of the two"
)


def takes_turns(target: Target, epoch: int, time_us: int) -> bool:
    """Whether the target answers for several processes in turn: one came back that another had followed.

    A process that was started again is never the one that it was. 0 is no evidence.
    """
    if target.evidence is not None and epoch not in (0, target.evidence.epoch):
        if epoch in target.past_epochs:
            target.turns_until_us = time_us + TURNS_US
        target.past_epochs = (*target.past_epochs, target.evidence.epoch)[-MOST_EPOCHS:]
    return time_us < target.turns_until_us


def tell_copies(read: Sequence[tuple[Target, Sequence[EngineValues], Placement]]) -> dict[str, Problems]:
    """What is wrong with targets that show the page of another one: the same process, series and tokens.

    Only one that was found on no board can be such a front; of two of them it is the later one.
    """
    found: dict[str, Problems] = {}
    for nth, (target, values, placement) in enumerate(read):
        before, target.copy_of = target.copy_of, ""
        if placement.accelerators or not target.page.process_start or not _tokens(values):
            continue
        for mth, (other, its_values, its_placement) in enumerate(read):
            name = other.settings.target
            is_first = mth < nth or bool(its_placement.accelerators)
            is_like = other.page.process_start == target.page.process_start and _series(values) == _series(its_values)
            if other is target or not is_first or not is_like:
                continue
            if before == name or _tokens(values) == _tokens(its_values):  # between two answers tokens were made
                target.copy_of = name
                found[target.settings.target] = {"copy": ("same_page", COPY.format(name))}
                break
    return found


def _series(values: Sequence[EngineValues]) -> list[str]:
    return [one.series for one in values]


def _tokens(values: Sequence[EngineValues]) -> list[int]:
    """What all engines of a page have counted; empty where that is nothing."""
    counted = [one.values.get(field) for one in values for field in ("input_tokens", "output_tokens")]
    tokens = [one for one in counted if isinstance(one, int)]
    return tokens if any(tokens) else []
