"""Placement that the operator wrote down: indices, UUIDs or MIG instances in the configuration, turned into UUIDs.

What an index means is remembered: a board that is lost keeps its index, though the driver may count the others anew.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from wattmill_collector.placement.boards import Board

_INSTANCE = re.compile(r"(\d{1,5}|GPU-[0-9a-f-]+):(\d{1,3})(?::(\d{1,3}))?")  # board, GPU instance, compute instance
_OLD_UUID = re.compile(r"MIG-(GPU-[0-9a-f-]+)/(\d{1,3})/(\d{1,3})")  # drivers before 470


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """What a configured name means: a board, or by their UUIDs the MIG instances of it that are meant."""

    board: str
    instances: tuple[str, ...] = ()


def remember(known: Sequence[Board], boards: Sequence[Board]) -> tuple[Board, ...]:
    """The boards that a configuration may speak of: those of now, and those of `known` that are lost.

    While one is lost the indices stay as they were: the driver closes the gap when it is started again. Only a board
    that was never seen before takes over the index of a lost one, which it replaces. With all of them there, the
    driver's order counts.
    """
    present = {board.uuid: board for board in boards}
    if all(board.uuid in present for board in known):
        return tuple(boards)
    names = {board.uuid for board in known}
    new = [board for board in boards if board.uuid not in names]
    replaced = {board.index for board in new if board.index is not None}
    kept = [board for board in known if board.uuid in present or board.index not in replaced]
    taken = {board.index for board in kept}
    now = [dataclasses.replace(present.get(board.uuid, board), index=board.index) for board in kept]
    return (*now, *(dataclasses.replace(b, index=None) if b.index in taken else b for b in new))


def resolve(name: str, boards: Sequence[Board]) -> Named | None:
    """What a configured name means; None when no board or instance is known by it.

    `boards`: what `remember` gives. A number is an index in driver order, 0:3 the GPU instance 3 of board 0, 0:3:1 its
    compute instance 1. A UUID of a board stands for itself, known to this agent or not (another source may read that
    board); the beginning of a UUID will do where it fits one board, as in CUDA_VISIBLE_DEVICES.
    """
    if name.isascii() and name.isdigit():
        uuid = next((board.uuid for board in boards if board.index == int(name[:9])), None)
        return None if uuid is None else Named(uuid)
    if found := _INSTANCE.fullmatch(name) or _OLD_UUID.fullmatch(name):
        board = next((b for b in boards if found[1] in (str(b.index), b.uuid)), None)
        return None if board is None else _instances(board, int(found[2]), found[3])
    if name.startswith("MIG-"):
        all_ = [(board.uuid, one.uuid) for board in boards for one in board.instances or ()]
        begun = [(board, uuid) for board, uuid in all_ if uuid.startswith(name)]
        return Named(begun[0][0], (begun[0][1],)) if len(begun) == 1 else None
    whole = [board.uuid for board in boards if board.uuid.startswith(name)]
    return Named(whole[0] if len(whole) == 1 else name)


def _instances(board: Board, gpu_instance: int, compute_instance: str | None) -> Named | None:
    inside = tuple(
        one.uuid
        for one in board.instances or ()
        if one.gpu_instance == gpu_instance
        and (compute_instance is None or one.compute_instance == int(compute_instance))
    )
    return Named(board.uuid, inside) if inside else None
