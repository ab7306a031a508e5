"""The doctor in Kubernetes: what is away is named with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.kube_api_standin import NODE, KubeApiStandin, pod
from support.kubelet_standin import KubeletStandin
from wattmill_collector.checks import Check
from wattmill_collector.checks_kubernetes import check_kubernetes
from wattmill_collector.kubelet.settings import KubernetesSettings
from wattmill_collector.settings import Settings, SpoolSettings


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubeApiStandin]:
    with KubeApiStandin(tmp_path / "api") as standin:
        yield standin


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[KubeletStandin]:
    (tmp_path / "pod-resources").mkdir()
    with KubeletStandin(tmp_path / "pod-resources/kubelet.sock") as standin:
        yield standin


def checked(tmp_path: Path, **kubernetes: Any) -> dict[str, Check]:
    settings = Settings(
        spool=SpoolSettings(tmp_path),
        node=NODE,
        kubernetes=KubernetesSettings(socket=tmp_path / "pod-resources/kubelet.sock", **kubernetes),
    )
    return {check.subject: check for check in check_kubernetes(settings)}


def inside(api: KubeApiStandin) -> dict[str, Any]:
    return {"api": api.url, "service_account": api.service_account, "node_name": NODE}


def test_outside_kubernetes_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert checked(tmp_path) == {}


def test_all_is_well(tmp_path: Path, api: KubeApiStandin, kubelet: KubeletStandin) -> None:
    kubelet.give("search", "chat-0", "engine", {"nvidia.com/gpu": ["GPU-a", "GPU-b"]})
    api.put(pod("search", "chat-0"))
    found = checked(tmp_path, **inside(api))
    assert [check.status for check in found.values()] == ["OK", "OK"]
    assert "1 containers hold 2 devices" in found["kubelet"].text
    assert f"1 pods on node {NODE}" in found["kubernetes"].text


def test_inside_without_mount_and_token_says_what_to_add(tmp_path: Path) -> None:
    found = checked(tmp_path, api="https://10.96.0.1", service_account=tmp_path / "none")
    assert [check.status for check in found.values()] == ["WARN", "WARN"]
    assert "pod-resources" in found["kubelet"].fix
    assert "NODE_NAME" in found["kubernetes"].fix


def test_a_kubelet_that_is_away(tmp_path: Path, kubelet: KubeletStandin) -> None:
    kubelet.down()
    found = checked(tmp_path)["kubelet"]
    assert (found.status, found.text.split(":")[0]) == ("FAIL", "no_socket")
    assert "Mount /var/lib/kubelet/pod-resources" in found.fix
    kubelet.up()


def test_a_missing_permission(tmp_path: Path, api: KubeApiStandin) -> None:
    api.refuse = 403
    found = checked(tmp_path, **inside(api))["kubernetes"]
    assert (found.status, found.text.split(":")[0]) == ("FAIL", "forbidden")
    assert "ClusterRole" in found.fix


def test_a_wrong_name_of_the_node(tmp_path: Path, api: KubeApiStandin) -> None:
    api.put(pod("search", "chat-0", node="gpu-018"))
    found = checked(tmp_path, **inside(api))["kubernetes"]
    assert (found.status, f"no pod on node {NODE}" in found.text) == ("WARN", True)
