"""A stand-in for the kubelet's pod-resources socket: a real gRPC server (grpcio) that serves the v1 API.

    with KubeletStandin(tmp_path / "kubelet.sock") as kubelet:
        kubelet.give("search", "chat-0", "vllm", {"nvidia.com/gpu": ["GPU-…"]})
        kubelet.claim("search", "chat-1", "vllm", driver="gpu.nvidia.com", device="gpu-0")

The messages are described here by hand, after api.proto of the kubelet's package pod-resources v1, and written by the
protobuf library: nothing of the agent's own reader is used. `mode`: ok, hang, or the name of a gRPC status.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Message → fields: (number, name, type); a type that is a message of this list is written with its name.
MESSAGES: dict[str, list[tuple[int, str, str]]] = {
    "ListPodResourcesRequest": [],
    "ListPodResourcesResponse": [(1, "pod_resources", "*PodResources")],
    "AllocatableResourcesRequest": [],
    "AllocatableResourcesResponse": [(1, "devices", "*ContainerDevices"), (2, "cpu_ids", "*int64")],
    "PodResources": [(1, "name", "string"), (2, "namespace", "string"), (3, "containers", "*ContainerResources")],
    "ContainerResources": [
        (1, "name", "string"),
        (2, "devices", "*ContainerDevices"),
        (3, "cpu_ids", "*int64"),
        (4, "memory", "*ContainerMemory"),
        (5, "dynamic_resources", "*DynamicResource"),
    ],
    "ContainerMemory": [(1, "memory_type", "string"), (2, "size", "uint64"), (3, "topology", "TopologyInfo")],
    "ContainerDevices": [
        (1, "resource_name", "string"),
        (2, "device_ids", "*string"),
        (3, "topology", "TopologyInfo"),
    ],
    "TopologyInfo": [(1, "nodes", "*NUMANode")],
    "NUMANode": [(1, "ID", "int64")],
    "DynamicResource": [
        (2, "claim_name", "string"),
        (3, "claim_namespace", "string"),
        (4, "claim_resources", "*ClaimResource"),
    ],
    "ClaimResource": [
        (1, "cdi_devices", "*CDIDevice"),
        (2, "driver_name", "string"),
        (3, "pool_name", "string"),
        (4, "device_name", "string"),
        (5, "share_id", "string"),
    ],
    "CDIDevice": [(1, "name", "string")],
}
SCALARS = {"string": 9, "int64": 3, "uint64": 4}  # FieldDescriptorProto.Type
MESSAGE_TYPE, OPTIONAL, REPEATED = 11, 1, 3


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="pod_resources.proto", package="v1", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, said in fields:
            kind = said.removeprefix("*")
            added = message.field.add(name=field, number=number, label=REPEATED if said.startswith("*") else OPTIONAL)
            setattr(added, "type", SCALARS.get(kind, MESSAGE_TYPE))  # noqa: B010 (its type is an enum of no module)
            if kind not in SCALARS:
                added.type_name = f".v1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}")) for name in MESSAGES}


CLASSES = _classes()


class KubeletStandin:
    """Serves on a Unix socket while the `with` lasts; `down` and `up` are a restart of the kubelet."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.answer = CLASSES["ListPodResourcesResponse"]()
        self.mode = "ok"
        self.detail = "the stand-in was told to"
        self.calls = 0
        self._released = threading.Event()
        self._server: Any = None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self.down()

    def up(self) -> None:
        """Listen."""
        method = grpc.unary_unary_rpc_method_handler(
            self._list,
            request_deserializer=CLASSES["ListPodResourcesRequest"].FromString,
            response_serializer=CLASSES["ListPodResourcesResponse"].SerializeToString,
        )
        self._server = grpc.server(ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": method})]
        )
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()

    def down(self) -> None:
        """Stop listening; the socket's file is removed, as the kubelet's is at a restart."""
        self._server.stop(0).wait()
        self.socket.unlink(missing_ok=True)

    def give(self, namespace: str, pod: str, container: str, devices: Mapping[str, Sequence[str]]) -> None:
        """A container was given devices by device plugins."""
        where = self._container(namespace, pod, container)
        where.memory.add(memory_type="memory", size=1 << 33).topology.nodes.add(ID=0)
        where.cpu_ids.extend([2, 3, 300])
        for resource, ids in devices.items():
            entry = where.devices.add(resource_name=resource, device_ids=ids)
            entry.topology.nodes.add(ID=1)

    def claim(self, namespace: str, pod: str, container: str, **resource: str) -> None:
        """A container was given a device by a claim: `driver`, `pool`, `device` and `share`, or a `cdi` name."""
        where = self._container(namespace, pod, container)
        claim = where.dynamic_resources.add(claim_name="gpu", claim_namespace=namespace)
        fields = {"driver": "driver_name", "pool": "pool_name", "device": "device_name", "share": "share_id"}
        entry = claim.claim_resources.add(**{fields[name]: value for name, value in resource.items() if name != "cdi"})
        if "cdi" in resource:
            entry.cdi_devices.add(name=resource["cdi"])

    def take(self, namespace: str, pod: str) -> None:
        """The pod is gone."""
        kept = [one for one in self.answer.pod_resources if (one.namespace, one.name) != (namespace, pod)]
        self.answer = CLASSES["ListPodResourcesResponse"](pod_resources=kept)

    def _container(self, namespace: str, pod: str, container: str) -> Any:
        for one in self.answer.pod_resources:
            if (one.namespace, one.name) == (namespace, pod):
                return one.containers.add(name=container)
        return self.answer.pod_resources.add(namespace=namespace, name=pod).containers.add(name=container)

    def _list(self, _: object, context: Any) -> Any:
        self.calls += 1
        if self.mode == "hang":
            self._released.wait(30)
        elif self.mode != "ok":
            context.abort(grpc.StatusCode[self.mode], self.detail)
        return self.answer
