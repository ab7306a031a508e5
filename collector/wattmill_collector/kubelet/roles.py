"""What part a pod plays in a deployment of several: by labels and annotations. Pure.

Sources: llm-d's `llm-d.ai/role`; the labels of NVIDIA's Dynamo operator; LeaderWorkerSet's and KubeRay's for the pods
of an engine that spans nodes, of which only the leader serves.
"""

from __future__ import annotations

from wattmill_collector.kubelet.pods import OURS, Pod
from wattmill_collector.kubelet.rules import value_of
from wattmill_collector.wire import ROLES

_SAYS_ROLE = (OURS + "role", "llm-d.ai/role")
_DYNAMO_TYPES = ("nvidia.com/dynamo-sub-component-type", "nvidia.com/dynamo-component-type")
_DYNAMO_NAME = "nvidia.com/dynamo-component"
_LWS_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
_RAY_TYPE = "ray.io/node-type"


def role_of(pod: Pod) -> str:
    """The role of a pod; "" when it has none, does both prefill and decode, or nothing is said."""
    for name in _SAYS_ROLE:
        if said := value_of(pod, name).lower():
            return said if said in ROLES else ""
    for name in _DYNAMO_TYPES:
        if (said := value_of(pod, name).lower()) in ("prefill", "decode", "frontend"):
            return said
    name = value_of(pod, _DYNAMO_NAME).lower()
    return next((role for role in ("prefill", "decode", "frontend") if role in name), "")


def is_worker(pod: Pod) -> bool:
    """Whether a pod works for an engine that is served by another pod."""
    if value_of(pod, _SAYS_ROLE[0]).lower() == "worker" or value_of(pod, _RAY_TYPE) == "worker":
        return True
    index = value_of(pod, _LWS_INDEX)
    return index.isascii() and index.isdigit() and int(index[:9]) > 0
