"""What part a pod plays, by what the projects that make such pods write on them."""

from __future__ import annotations

import pytest

from wattmill_collector.kubelet.pods import Pod
from wattmill_collector.kubelet.roles import is_worker, role_of


def pod(labels: dict[str, str], annotations: dict[str, str] | None = None) -> Pod:
    return Pod("ns", "pod-0", labels=labels, annotations=annotations or {})


@pytest.mark.parametrize(
    ("labels", "role"),
    [
        ({}, ""),
        ({"wattmill.io/role": "Prefill"}, "prefill"),
        ({"wattmill.io/role": "none of ours", "llm-d.ai/role": "decode"}, ""),
        ({"llm-d.ai/role": "decode"}, "decode"),
        ({"llm-d.ai/role": "prefill-decode"}, ""),
        ({"nvidia.com/dynamo-component-type": "worker", "nvidia.com/dynamo-sub-component-type": "prefill"}, "prefill"),
        ({"nvidia.com/dynamo-component-type": "worker"}, ""),
        ({"nvidia.com/dynamo-component": "Frontend"}, "frontend"),
        ({"nvidia.com/dynamo-component": "TRTLLMPrefillWorker"}, "prefill"),
        ({"app": "decode"}, ""),
    ],
)
def test_roles(labels: dict[str, str], role: str) -> None:
    assert role_of(pod(labels)) == role


@pytest.mark.parametrize(
    ("labels", "answer"),
    [
        ({}, False),
        ({"leaderworkerset.sigs.k8s.io/worker-index": "0"}, False),
        ({"leaderworkerset.sigs.k8s.io/worker-index": "3"}, True),
        ({"leaderworkerset.sigs.k8s.io/worker-index": "³"}, False),
        ({"ray.io/node-type": "head"}, False),
        ({"ray.io/node-type": "worker"}, True),
        ({"wattmill.io/role": "worker"}, True),
        ({"llm-d.ai/role": "worker"}, False),
    ],
)
def test_workers(labels: dict[str, str], answer: bool) -> None:
    assert is_worker(pod(labels)) is answer
