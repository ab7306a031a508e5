"""Placement by the kubelet: which boards it gave to which pods, and whether all of them.

A board is a pod's alone when the pod was given all of it and no other pod was given any. Pods that have ended, or are
gone, hold nothing, whatever an old kubelet lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from wattmill_collector.kubelet.book import Snapshot
from wattmill_collector.kubelet.devices import Names, Part, part_of
from wattmill_collector.kubelet.pod_resources import Device, Holder

PodKey = tuple[str, str]  # namespace, name


@dataclasses.dataclass(frozen=True, slots=True)
class Portion:
    """A device that is a part of a board: a MIG slice, or the `nth` of `of` equal parts that are given out.

    `instance`: the slice, or the slice that is divided, as `resolve` knows it; "" where it is not known which.
    """

    board: str
    device: str
    instance: str = ""
    replica: bool = False
    nth: int = 0
    of: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Allocation:
    """The boards that a pod, or one container of it, was given; none: it was given none. `whole`: and nobody else.

    `unknown`: ids of devices of which it is not known what board they are. `portions`: what of it are parts of boards.
    """

    accelerators: tuple[str, ...] = ()
    whole: bool = True
    unknown: tuple[str, ...] = ()
    portions: tuple[Portion, ...] = ()


class Allocations:
    """What the kubelet gave to whom, as of one snapshot."""

    def __init__(self, snapshot: Snapshot, names: Names) -> None:
        self.known = snapshot.holders is not None
        self._parts: dict[PodKey, dict[str, Allocation]] = {}
        claims: list[tuple[PodKey, str]] = []
        holders = [holder for holder in snapshot.holders or () if not _is_over(holder, snapshot)]
        given = _given_out(holders, names)
        for holder in holders:
            allocation = _allocation(holder, names, given)
            if allocation.accelerators or allocation.unknown:
                key = (holder.namespace, holder.pod)
                self._parts.setdefault(key, {})[holder.container] = allocation
                claims += [(key, uuid) for uuid in allocation.accelerators]
        self._pods_of: dict[str, set[PodKey]] = {}
        for key, uuid in claims:
            self._pods_of.setdefault(uuid, set()).add(key)

    def pods(self) -> Iterable[PodKey]:
        """The pods that were given accelerators."""
        return self._parts

    def containers(self, pod: PodKey) -> Iterable[str]:
        """The containers of a pod that were given accelerators."""
        return self._parts.get(pod, {})

    def boards(self) -> frozenset[str]:
        """The boards that were given to pods."""
        return frozenset(self._pods_of)

    def of(self, pod: PodKey, container: str = "") -> Allocation | None:
        """What a container was given; all that its pod was given where the container got none or is not known.

        None when the kubelet was never asked with success.
        """
        if not self.known:
            return None
        parts = self._parts.get(pod, {})
        found = [parts[container]] if container in parts else list(parts.values())
        uuids = tuple(dict.fromkeys(uuid for one in found for uuid in one.accelerators))
        alone = all(self._pods_of[uuid] == {pod} for uuid in uuids)
        unknown = tuple(name for one in found for name in one.unknown)
        portions = [portion for one in found for portion in one.portions]
        cut = {portion.board for portion in portions}
        for uuid in uuids:
            pods = sorted(self._pods_of[uuid])
            if len(pods) > 1 and uuid not in cut:  # given whole, and more than once
                portions.append(Portion(uuid, uuid, replica=True, nth=pods.index(pod), of=len(pods)))
        return Allocation(uuids, alone and all(one.whole for one in found), unknown, tuple(portions))

    def pod_on(self, boards: Iterable[str]) -> PodKey | None:
        """The one pod that holds all of these boards, alone; None when there is no such pod."""
        pods = {frozenset(self._pods_of.get(uuid, ())) for uuid in boards}
        if len(pods) != 1:
            return None
        (keys,) = pods
        return next(iter(keys)) if len(keys) == 1 else None


def _is_over(holder: Holder, snapshot: Snapshot) -> bool:
    if snapshot.pods is None:
        return False
    pod = snapshot.pods.get((holder.namespace, holder.pod))
    if pod is None:  # gone; or new, and the API, which would say so, is away
        return "pods" not in snapshot.faults
    return pod.ended


Units = dict[tuple[str, str], list[tuple[str, ...]]]  # (board, slice) → its parts that are given out, in order


def _unit(holder: Holder, device: Device, part: Part) -> tuple[str, ...]:
    """What tells one part from the others: the device, and who has it where several have the same."""
    owner = (holder.namespace, holder.pod, holder.container)
    return (device.id, *owner) if device.portion or not part.replica else (device.id,)


def _given_out(holders: Iterable[Holder], names: Names) -> Units:
    units: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for holder in holders:
        for device in holder.devices:
            part = part_of(device, names)
            if part is not None and part.uuid and not part.whole:
                units.setdefault((part.uuid, part.instance), set()).add(_unit(holder, device, part))
    return {thing: sorted(found) for thing, found in units.items()}


def _allocation(holder: Holder, names: Names, given: Units) -> Allocation:
    found = [(device, part) for device in holder.devices if (part := part_of(device, names)) is not None]
    portions = []
    for device, part in found:
        if part.uuid and not part.whole:
            units = given[part.uuid, part.instance]
            nth = units.index(_unit(holder, device, part))
            portions.append(Portion(part.uuid, device.id, part.instance, part.replica, nth, len(units)))
    return Allocation(
        tuple(dict.fromkeys(part.uuid for _, part in found if part.uuid)),
        all(part.whole for _, part in found),
        tuple(device.id for device, part in found if not part.uuid),
        tuple(portions),
    )
