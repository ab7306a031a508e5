"""A pod of this node as the Kubernetes API describes it, cut down to what placement and reading need.

Of a pod's JSON (10 to 20 kB) some hundred bytes are kept: the agent has 40 MiB.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

OURS = "wattmill.io/"
PROMETHEUS = "prometheus.io/"
MAX_PORTS = 64
LONGEST_VALUE = 256
# Kubernetes' own alphabet for generated names (apimachinery, rand.SafeEncodeString): no vowels, no 0, 1 and 3.
_SAFE = "[bcdfghjklmnpqrstvwxz2456789]"
_OF_DEPLOYMENT = re.compile(rf"(.+)-{_SAFE}{{6,10}}-{_SAFE}{{5}}")
_OF_SET_OR_JOB = re.compile(rf"(.+)-(?:{_SAFE}{{5}}|\d+)")
_ACCELERATOR = re.compile(r"nvidia\.com/(gpu|mig-)|amd\.com/gpu|habana\.ai/gaudi|gpu\.intel\.com/|huawei\.com/Ascend")


@dataclasses.dataclass(frozen=True, slots=True)
class Container:
    """A container with the TCP ports that it declares: (name, number)."""

    name: str
    ports: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `owner`: the deployment, set or job that made it. `wants`: it asks for accelerators."""

    namespace: str
    name: str
    ip: str = ""
    phase: str = "Running"
    host_network: bool = False
    owner: str = ""
    wants: bool = False
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    containers: tuple[Container, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the other pods of a node."""
        return self.namespace, self.name

    @property
    def ended(self) -> bool:
        """Whether it has ended for good; a kubelet may list its devices for a while yet."""
        return self.phase in ("Succeeded", "Failed")


def pod_of(said: Mapping[str, Any]) -> Pod:
    """A pod from its JSON. Errors: ValueError when it has no name."""
    about, spec, status = (_mapping(said.get(part)) for part in ("metadata", "spec", "status"))
    namespace, name = _text(about.get("namespace")), _text(about.get("name"))
    if not namespace or not name:
        raise ValueError("a pod has no name")
    containers = [_mapping(one) for kind in ("containers", "initContainers") for one in _list(spec.get(kind))]
    labels = {key: _text(value) for key, value in _mapping(about.get("labels")).items()}
    annotations = {
        key: _text(value)
        for key, value in _mapping(about.get("annotations")).items()
        if key.startswith((OURS, PROMETHEUS))
    }
    return Pod(
        namespace=namespace,
        name=name,
        ip=_text(status.get("podIP")),
        phase=_text(status.get("phase")),
        host_network=spec.get("hostNetwork") is True,
        owner=_owner(about, labels) or owner_by_name(name),
        wants=any(_wants(container) for container in containers),
        labels=labels,
        annotations=annotations,
        containers=tuple(_container(one) for one in containers),
    )


def owner_by_name(pod: str) -> str:
    """What made a pod, by the pod's name alone: generated endings and ordinals are taken off.

    A guess: a pod that a person called db-2 loses its 2.
    """
    for form in (_OF_DEPLOYMENT, _OF_SET_OR_JOB):
        found = form.fullmatch(pod)
        if found:
            return found[1]
    return pod


def _owner(about: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    for reference in _list(about.get("ownerReferences")):
        one = _mapping(reference)
        if one.get("controller") is not True:
            continue
        name = _text(one.get("name"))
        stamp = labels.get("pod-template-hash", "")
        return name.removesuffix(f"-{stamp}") if one.get("kind") == "ReplicaSet" and stamp else name
    return ""


def _wants(container: Mapping[str, Any]) -> bool:
    resources = _mapping(container.get("resources"))
    return any(_ACCELERATOR.match(name) for name in _mapping(resources.get("limits"))) or any(
        "gpu" in _text(_mapping(claim).get("name")) for claim in _list(resources.get("claims"))
    )


def _container(said: Mapping[str, Any]) -> Container:
    ports: list[tuple[str, int]] = []
    for entry in _list(said.get("ports"))[:MAX_PORTS]:
        one = _mapping(entry)
        number = one.get("containerPort")
        if isinstance(number, int) and 0 < number < 65_536 and one.get("protocol", "TCP") == "TCP":
            ports.append((_text(one.get("name")), number))
    return Container(_text(said.get("name")), tuple(ports))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value[:LONGEST_VALUE].replace("\x00", "") if isinstance(value, str) else ""
