"""The boards of a node as placement sees them: who computes on them, and what MIG has divided them into. Pure.

A MIG instance here is what CUDA is given: a compute instance inside a GPU instance. A GPU instance's slices belong to
its compute instances in proportion to theirs, so that the instances of a board are all of what has been given out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from wattmill_collector.wire import AcceleratorReading, Reading

PPM = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A part of a board that somebody holds; `key` tells it from the board's other parts. `by`: what it is made of."""

    key: str
    ppm: int
    by: str


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """One MIG instance. Ids of the driver are -1, slices 0 and `pids` None where the driver does not tell."""

    uuid: str
    gpu_instance: int = -1
    compute_instance: int = -1
    gpu_slices: int = 0  # of the GPU instance that it is in
    slices: int = 0  # its own
    pids: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Board:
    """One accelerator of this node. `pids`: the compute processes on it, None when the driver does not list them.

    `instances`: what MIG has divided it into; None: MIG is off, or not known to be on.
    """

    uuid: str
    index: int | None = None
    pids: tuple[int, ...] | None = None
    instances: tuple[Instance, ...] | None = None


def boards_of(
    readings: Iterable[Reading],
    pids: Mapping[str, tuple[int, ...]],
    instances: Mapping[str, tuple[Instance, ...]] | None = None,
) -> tuple[Board, ...]:
    """The boards of one tick's readings, with process lists and MIG instances by UUID; None without a list."""
    found = instances or {}
    return tuple(
        Board(r.uuid, r.index, pids.get(r.uuid), found.get(r.uuid))
        for r in readings
        if isinstance(r, AcceleratorReading)
    )


def pieces_of(instances: Sequence[Instance]) -> dict[str, Piece] | None:
    """MIG instance by UUID → its part of the board; None when the slices of one are not known.

    They add up to 1 000 000 ppm: what is given out on a board is all of it.
    """
    inside: dict[int | str, int] = {}
    for one in instances:
        if one.slices <= 0 or one.gpu_slices <= 0:
            return None
        inside[_group(one)] = inside.get(_group(one), 0) + one.slices
    weights = [Fraction(one.gpu_slices * one.slices, inside[_group(one)]) for one in instances]
    parts = divided(PPM, weights)
    return {one.uuid: Piece(one.uuid, part, "mig") for one, part in zip(instances, parts, strict=True)}


def divided(whole: int, weights: Sequence[Fraction | int]) -> list[int]:
    """`whole` divided by weights into whole numbers, by largest remainders; the first of equal ones is served first."""
    total = sum(weights)
    if not total:
        return [0] * len(weights)
    exact = [Fraction(whole) * weight / total for weight in weights]
    found = [int(one) for one in exact]
    by_rest = sorted(range(len(found)), key=lambda nth: found[nth] - exact[nth])
    for nth in by_rest[: whole - sum(found)]:
        found[nth] += 1
    return found


def _group(one: Instance) -> int | str:
    """The GPU instance; one of which the driver gives no id is taken to hold this one alone."""
    return one.gpu_instance if one.gpu_instance >= 0 else one.uuid
