"""Placement that the operator wrote down: indices or UUIDs in the configuration, turned into UUIDs.

What an index means is remembered: a board that is lost keeps its index, though the driver may count the others anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wattmill_collector.placement import Board


def remember(known: Sequence[Board], boards: Sequence[Board]) -> tuple[Board, ...]:
    """The boards that a configuration may speak of: those of now, and those of `known` that are lost.

    While one is lost the indices stay as they were: the driver closes the gap when it is started again. Only a board
    that was never seen before takes over the index of a lost one, which it replaces. With all of them there, the
    driver's order counts.
    """
    present = {board.uuid for board in boards}
    if all(board.uuid in present for board in known):
        return tuple(boards)
    names = {board.uuid for board in known}
    new = [board for board in boards if board.uuid not in names]
    replaced = {board.index for board in new if board.index is not None}
    kept = [board for board in known if board.uuid in present or board.index not in replaced]
    taken = {board.index for board in kept}
    return (*kept, *(dataclasses.replace(b, index=None) if b.index in taken else b for b in new))


def configured(accelerators: Sequence[str], boards: Sequence[Board]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(UUIDs, what could not be resolved).

    `boards`: what `remember` gives. A number is an index in driver order. A UUID stands for itself, known to this
    agent or not (another source may read that board); the beginning of a UUID will do where it fits one board, as in
    CUDA_VISIBLE_DEVICES.
    """
    uuids: dict[str, None] = {}
    missing = []
    by_index = {board.index: board.uuid for board in boards}
    for name in accelerators:
        if name.isascii() and name.isdigit():
            uuid = by_index.get(int(name[:9]))
            if uuid is None:
                missing.append(name)
                continue
        else:
            begun = [board.uuid for board in boards if board.uuid.startswith(name)]
            uuid = begun[0] if len(begun) == 1 else name
        uuids[uuid] = None
    return tuple(uuids), tuple(missing)
