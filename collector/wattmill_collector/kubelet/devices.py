"""What a device id of the kubelet means: which board, and whether all of it.

Forms (k8s-device-plugin, GKE's device plugin, NVIDIA's DRA driver):

    GPU-<uuid>                        the whole board
    GPU-<uuid>::<n>                   a replica: time-slicing or MPS
    MIG-<uuid>, MIG-<uuid>::<n>       a MIG slice, a replica of one; only the driver knows its board
    MIG-GPU-<uuid>/<gi>/<ci>          a MIG slice as drivers before 470 call it
    nvidia<minor>, nvidia<minor>/gi<n>, nvidia<minor>/vgpu<n>      GKE
    <index>, <index>:<n>              device plugin with DEVICE_ID_STRATEGY=index, and CDI
    gpu-<minor>, gpu-<minor>-mig-…    claims of gpu.nvidia.com

A minor number is that of /dev/nvidia<minor>: the driver's order may differ, so the driver is asked.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

from wattmill_collector.kubelet.pod_resources import Device

_NODE_FILE = re.compile(r"nvidia(\d{1,5})(/.+)?")
_CLAIMED = re.compile(r"(?:.*-)?gpu-(\d{1,5})(-mig-.+)?")  # older CDI names begin with the claim's UID
_INDEX = re.compile(r"(\d{1,5})(:\d+)?")
_GPU_INSTANCE = re.compile(r"/gi(\d{1,3})")
_MEANT = ("nvidia.com/gpu", "nvidia.com/mig-", "gpu.nvidia.com", "k8s.gpu.nvidia.com")


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """How this node's boards are called besides their UUIDs; `parent_of` asks the driver for a MIG slice's board."""

    by_index: Mapping[int, str] = dataclasses.field(default_factory=dict)
    by_minor: Mapping[int, str] = dataclasses.field(default_factory=dict)
    parent_of: Callable[[str], str | None] = lambda _: None


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A board, or a part of it; `uuid` is "" when it is an accelerator, but not known which.

    `instance`: a MIG slice, as `placement.configured.resolve` knows it; "" where it is none, or not known which.
    `replica`: one of several equal parts of the board or the slice.
    """

    uuid: str
    whole: bool
    instance: str = ""
    replica: bool = False


def part_of(device: Device, names: Names) -> Part | None:
    """The part of a board that a device is. None: no accelerator of a kind that is known here (a network card, …)."""
    name, mark, _ = device.id.partition("::")
    replica = bool(mark) or device.portion
    if name.startswith("MIG-GPU-"):
        return Part(name.removeprefix("MIG-").partition("/")[0], False, name, replica)
    if name.startswith("MIG-"):
        return Part(names.parent_of(name) or "", False, name, replica)
    if name.startswith("GPU-"):
        return Part(name, not replica, "", replica)
    if not device.resource.startswith(_MEANT):
        return None
    for form, table in ((_NODE_FILE, names.by_minor), (_CLAIMED, names.by_minor), (_INDEX, names.by_index)):
        found = form.fullmatch(name)
        if found:
            uuid, part = table.get(int(found[1]), ""), found[2] or ""
            slice_ = _GPU_INSTANCE.match(part)
            instance = f"{uuid}:{slice_[1]}" if slice_ and uuid else ""
            return Part(uuid, not replica and not part, instance, replica or "/vgpu" in part)
    return Part("", not replica, "", replica)
