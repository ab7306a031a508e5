"""Which container of this node holds which device: `List` of the kubelet's pod-resources API, version v1.

Devices come in two ways, and both are listed: from device plugins, as ids under a resource name, and by dynamic
resource allocation, as (driver, pool, device) of a claim. What such an id means is `devices.py`'s business.

Not here: labels, addresses and states of pods, which this API does not know. Older kubelets list pods that have ended
(kubernetes issue 132020); who knows the pods from the Kubernetes API leaves those out.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from wattmill_collector.kubelet import http2
from wattmill_collector.kubelet.protobuf import fields, message, text
from wattmill_collector.sources.addresses import FetchError

SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
LIST = "/v1.PodResourcesLister/List"


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """One device of a container.

    `resource`: the resource name (nvidia.com/gpu), or the driver of a claim (gpu.nvidia.com). `claimed`: by a claim.
    `portion`: the claim holds a portion of the device only.
    """

    resource: str
    id: str
    claimed: bool = False
    portion: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """A container that holds devices."""

    namespace: str
    pod: str
    container: str
    devices: tuple[Device, ...]


def list_holders(socket: Path = SOCKET, timeout_s: float = 1.0) -> tuple[Holder, ...]:
    """All containers of the node that hold a device. Errors: FetchError."""
    answer = http2.call(socket, LIST, timeout_s=timeout_s)
    try:
        return parse_holders(answer)
    except ValueError as error:
        raise FetchError("not_understood", f"the kubelet's list of pod resources can't be read: {error}") from None


def parse_holders(answer: bytes) -> tuple[Holder, ...]:
    """A ListPodResourcesResponse. Errors: ValueError."""
    found: list[Holder] = []
    for number, pod in fields(memoryview(answer)):
        if number == 1:
            found += _pod(message(pod))
    return tuple(found)


def _pod(pod: memoryview) -> list[Holder]:
    """PodResources: name 1, namespace 2, containers 3."""
    name = namespace = ""
    containers: list[tuple[str, tuple[Device, ...]]] = []
    for number, value in fields(pod):
        if number == 1:
            name = text(value)
        elif number == 2:
            namespace = text(value)
        elif number == 3:
            containers.append(_container(message(value)))
    return [Holder(namespace, name, container, devices) for container, devices in containers if devices]


def _container(container: memoryview) -> tuple[str, tuple[Device, ...]]:
    """ContainerResources: name 1, devices 2, dynamic_resources 5."""
    name, devices = "", list[Device]()
    for number, value in fields(container):
        if number == 1:
            name = text(value)
        elif number == 2:
            devices += _plugin_devices(message(value))
        elif number == 5:
            for inner, resource in fields(message(value)):
                if inner == 4:  # DynamicResource: claim_resources 4
                    devices += _claim_devices(message(resource))
    # Since resources may be split by NUMA node, the kubelet can name a device more than once.
    return name, tuple(dict.fromkeys(devices))


def _plugin_devices(entry: memoryview) -> list[Device]:
    """ContainerDevices: resource_name 1, device_ids 2."""
    resource, ids = "", list[str]()
    for number, value in fields(entry):
        if number == 1:
            resource = text(value)
        elif number == 2:
            ids.append(text(value))
    return [Device(resource, one) for one in ids]


def _claim_devices(entry: memoryview) -> list[Device]:
    """ClaimResource: cdi_devices 1 (name 1), driver_name 2, device_name 4, share_id 5.

    Kubelets before 1.34 name the CDI devices only: vendor/class=device.
    """
    cdi: list[str] = []
    driver = device = share = ""
    for number, value in fields(entry):
        if number == 1:
            cdi += [text(name) for inner, name in fields(message(value)) if inner == 1]
        elif number == 2:
            driver = text(value)
        elif number == 4:
            device = text(value)
        elif number == 5:
            share = text(value)
    if driver and device:
        return [Device(driver, device, claimed=True, portion=bool(share))]
    named = [name.rpartition("=") for name in cdi]
    return [Device(resource, one, claimed=True) for resource, _, one in named if resource]
