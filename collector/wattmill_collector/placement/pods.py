"""Placement by the kubelet: which boards it gave to which pods, and whether all of them.

A board is a pod's alone when the pod was given all of it and no other pod was given any. Pods that have ended, or are
gone, hold nothing, whatever an old kubelet lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from wattmill_collector.kubelet.book import Snapshot
from wattmill_collector.kubelet.devices import Names, part_of
from wattmill_collector.kubelet.pod_resources import Holder

PodKey = tuple[str, str]  # namespace, name


@dataclasses.dataclass(frozen=True, slots=True)
class Allocation:
    """The boards that a pod, or one container of it, was given; none: it was given none. `whole`: and nobody else.

    `unknown`: ids of devices of which it is not known what board they are.
    """

    accelerators: tuple[str, ...] = ()
    whole: bool = True
    unknown: tuple[str, ...] = ()


class Allocations:
    """What the kubelet gave to whom, as of one snapshot."""

    def __init__(self, snapshot: Snapshot, names: Names) -> None:
        self.known = snapshot.holders is not None
        self._parts: dict[PodKey, dict[str, Allocation]] = {}
        claims: list[tuple[PodKey, str]] = []
        for holder in snapshot.holders or ():
            if _is_over(holder, snapshot):
                continue
            allocation = _allocation(holder, names)
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
        return Allocation(uuids, alone and all(one.whole for one in found), unknown)

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


def _allocation(holder: Holder, names: Names) -> Allocation:
    found = [(device, part) for device in holder.devices if (part := part_of(device, names)) is not None]
    return Allocation(
        tuple(dict.fromkeys(part.uuid for _, part in found if part.uuid)),
        all(part.whole for _, part in found),
        tuple(device.id for device, part in found if not part.uuid),
    )
