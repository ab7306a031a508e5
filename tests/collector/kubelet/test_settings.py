"""The `kubernetes:` section: read in full, refused by name, and filled by what Kubernetes tells a pod."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattmill_collector.kubelet.settings import KubernetesSettings
from wattmill_collector.settings import Settings, SettingsError, load

IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "NODE_NAME": "gpu-017"}

ALL = """
kubernetes:
  pod_resources: on
  socket: /run/kubelet.sock
  pods: off
  api: https://[fd00::1]:6443
  service_account: /run/account
  node_name: gpu-018
  selector: role in (router, gateway)
  metrics:
    annotations: false
    port_names: [api]
    ports: [9000, 9001]
    path: /prometheus/metrics
  workload: ["{namespace}/{app}", owner]
  team: [cost-centre]
  model: []
"""


def loaded(tmp_path: Path, text: str = "", **environment: str) -> Settings:
    file = tmp_path / "agent.yaml"
    file.write_text(text)
    return load(environment, config=file, hostname=lambda: "agent-x2x4z")


def test_everything_can_be_set(tmp_path: Path) -> None:
    settings = loaded(tmp_path, ALL)
    assert settings.kubernetes == KubernetesSettings(
        pod_resources="on",
        socket=Path("/run/kubelet.sock"),
        pods="off",
        api="https://[fd00::1]:6443",
        service_account=Path("/run/account"),
        node_name="gpu-018",
        selector="role in (router, gateway)",
        annotations=False,
        port_names=("api",),
        ports=(9000, 9001),
        path="/prometheus/metrics",
        workload=("{namespace}/{app}", "owner"),
        team=("cost-centre",),
        model=(),
    )
    assert settings.warnings == ()


def test_everything_can_be_set_by_variables(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        WATTMILL_KUBERNETES_POD_RESOURCES="off",
        WATTMILL_KUBERNETES_WORKLOAD="app, {namespace}/{owner}",
        WATTMILL_KUBERNETES_METRICS_PORTS="9000,9001",
        WATTMILL_KUBERNETES_METRICS_ANNOTATIONS="no",
    )
    kubernetes = settings.kubernetes
    assert (kubernetes.pod_resources, kubernetes.ports, kubernetes.annotations) == ("off", (9000, 9001), False)
    assert kubernetes.workload == ("app", "{namespace}/{owner}")
    assert settings.warnings == ()


def test_kubernetes_tells_where_it_is_and_which_node(tmp_path: Path) -> None:
    """A pod's hostname is the pod's: a node of that name would end with the pod."""
    settings = loaded(tmp_path, **IN_A_POD)
    assert (settings.kubernetes.api, settings.kubernetes.node_name) == ("https://10.96.0.1:443", "gpu-017")
    assert settings.node == "gpu-017"
    assert loaded(tmp_path, "node: rack-7", **IN_A_POD).node == "rack-7"
    assert loaded(tmp_path, NODE_NAME="gpu-017").node == "agent-x2x4z"  # somebody else's NODE_NAME


def test_an_address_of_ipv6_is_bracketed(tmp_path: Path) -> None:
    settings = loaded(tmp_path, **{**IN_A_POD, "KUBERNETES_SERVICE_HOST": "fd00:1::1"})
    assert settings.kubernetes.api == "https://[fd00:1::1]:443"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{pod_resources: maybe}", "kubernetes.pod_resources"),
        ("{selector: 'a in b'}", "kubernetes.selector"),
        ("{workload: ['{app']}", "kubernetes.workload"),
        ("{workload: {app: x}}", "kubernetes.workload"),
        ("{metrics: {ports: [http]}}", "kubernetes.metrics.ports"),
        ("{metrics: {ports: [70000]}}", "kubernetes.metrics.ports"),
        ("{metrics: {path: metrics}}", "kubernetes.metrics.path"),
        ("{api: 'ftp://x'}", "kubernetes.api"),
    ],
)
def test_a_wrong_value_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        loaded(tmp_path, f"kubernetes: {text}")


def test_an_unknown_key_is_named_in_full(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "kubernetes: {metrics: {port: [1]}, pod_resource: on}")
    assert [warning.split("'")[1] for warning in settings.warnings] == [
        "kubernetes.metrics.port",
        "kubernetes.pod_resource",
    ]


def test_auto_asks_what_is_there(tmp_path: Path) -> None:
    account = tmp_path / "account"
    socket = tmp_path / "pod-resources" / "kubelet.sock"
    inside = KubernetesSettings(api="https://10.96.0.1:443", node_name="n", service_account=account, socket=socket)
    assert (inside.asks_kubelet(), inside.asks_api()) == (False, False)
    account.mkdir()
    (account / "token").write_text("t")
    socket.parent.mkdir()  # mounted, and the kubelet is just being started again
    assert (inside.asks_kubelet(), inside.asks_api()) == (True, True)
    outside = KubernetesSettings(service_account=account, socket=tmp_path / "nowhere/kubelet.sock")
    assert (outside.asks_kubelet(), outside.asks_api()) == (False, False)
