"""Placement that the operator wrote down: indices or UUIDs in the configuration, turned into UUIDs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wattmill_collector.placement import Board


def configured(accelerators: Sequence[str], boards: Sequence[Board]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(UUIDs, what could not be resolved).

    A number is an index in driver order. A UUID stands for itself, known to this agent or not (another source may read
    that board); the beginning of a UUID will do where it fits one board, as in CUDA_VISIBLE_DEVICES.
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
