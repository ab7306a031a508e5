"""The `kubernetes:` section of the agent's settings, and how its values are checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from wattmill_collector.kubelet.rules import check_rule, parse_selector

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POD_RESOURCES = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
MAX_RULES = 16
# What a deployment is called in a cluster, best first: what its operator wrote for us, what the controllers of
# multi-pod deployments write, Helm's release, then what people write. `owner` is always there.
WORKLOAD_RULES = (
    "wattmill.io/workload",
    "leaderworkerset.sigs.k8s.io/name",
    "serving.kserve.io/inferenceservice",
    "nvidia.com/dynamo-graph-deployment-name",
    "ray.io/originated-from-cr-name",
    "ray.io/cluster",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/name",
    "app",
    "owner",
)
# Deployments of one name in two namespaces stay apart by their teams.
TEAM_RULES = ("wattmill.io/team", "team", "namespace")
MODEL_RULES = ("wattmill.io/model",)
PORT_NAMES = ("metrics", "http-metrics", "http", "http1", "system")
# vLLM and TensorRT-LLM, SGLang, llama.cpp and TEI, TGI, Triton, LMDeploy
PORTS = (8000, 30_000, 8080, 3000, 8002, 23_333)


@dataclasses.dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """How pods of this node are found, read and called.

    `pod_resources`, `pods`: whether to ask the kubelet's socket and the Kubernetes API; `auto`: where they are there.
    `selector`: pods whose engines are read though they hold no accelerators (routers, for example).
    """

    pod_resources: Literal["auto", "on", "off"] = "auto"
    socket: Path = POD_RESOURCES
    pods: Literal["auto", "on", "off"] = "auto"
    api: str = ""
    service_account: Path = SERVICE_ACCOUNT
    node_name: str = ""
    selector: str = ""
    annotations: bool = True
    port_names: tuple[str, ...] = PORT_NAMES
    ports: tuple[int, ...] = PORTS
    path: str = "/metrics"
    workload: tuple[str, ...] = WORKLOAD_RULES
    team: tuple[str, ...] = TEAM_RULES
    model: tuple[str, ...] = MODEL_RULES

    def asks_kubelet(self) -> bool:
        """Whether the kubelet's socket is to be asked."""
        # The folder stays while the kubelet is started again, and the socket does not.
        return self.pod_resources == "on" or (self.pod_resources == "auto" and self.socket.parent.is_dir())

    def asks_api(self) -> bool:
        """Whether the Kubernetes API is to be asked."""
        there = bool(self.api and self.node_name) and (self.service_account / "token").exists()
        return self.pods == "on" or (self.pods == "auto" and there)


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What Kubernetes itself tells a pod: where its API is, and NODE_NAME by the downward API."""
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT_HTTPS") or environment.get("KUBERNETES_SERVICE_PORT") or "443"
    api = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return {"api": api if host else "", "node_name": environment.get("NODE_NAME", "") if host else ""}


def _texts(value: Any, allowed: str) -> list[str]:
    """A list; in a variable, texts between commas."""
    value = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(value, list) or len(value) > MAX_RULES or not all(isinstance(one, str) for one in value):
        raise ValueError(allowed)
    return [one.strip() for one in value]


def parse_rules(value: Any) -> tuple[str, ...]:
    """Rules for a name, best first."""
    return tuple(check_rule(one) for one in _texts(value, f"a list of at most {MAX_RULES} labels such as [app, owner]"))


def parse_port_names(value: Any) -> tuple[str, ...]:
    """Names of container ports."""
    return tuple(_texts(value, f"a list of at most {MAX_RULES} names of ports such as [metrics, http]"))


def parse_ports(value: Any) -> tuple[int, ...]:
    """Numbers of container ports."""
    allowed = f"a list of at most {MAX_RULES} port numbers such as [8000, 8080]"
    numbers = _texts(value, allowed)
    if not all(one.isascii() and one.isdigit() and 0 < int(one[:6]) < 65_536 for one in numbers):
        raise ValueError(allowed)
    return tuple(map(int, numbers))


def parse_selector_text(value: Any) -> str:
    """A label selector, kept as text."""
    if not isinstance(value, str):
        raise ValueError("a label selector such as app=vllm")
    parse_selector(value)
    return value.strip()


def parse_path_of_pages(value: Any) -> str:
    """The path of a page."""
    if not isinstance(value, str) or not value.startswith("/") or not value.isascii() or " " in value:
        raise ValueError("a path such as /metrics")
    return value


def parsers(
    switch: Callable[[Any], Any],
    path: Callable[[Any], Path],
    url: Callable[[Any], str],
    name: Callable[[Any], str],
    yes_or_no: Callable[[Any], bool],
) -> dict[str, Callable[[Any], Any]]:
    """Key → what checks its value; the general kinds are the caller's."""
    return {
        "kubernetes.pod_resources": switch,
        "kubernetes.socket": path,
        "kubernetes.pods": switch,
        "kubernetes.api": url,
        "kubernetes.service_account": path,
        "kubernetes.node_name": name,
        "kubernetes.selector": parse_selector_text,
        "kubernetes.metrics.annotations": yes_or_no,
        "kubernetes.metrics.port_names": parse_port_names,
        "kubernetes.metrics.ports": parse_ports,
        "kubernetes.metrics.path": parse_path_of_pages,
        "kubernetes.workload": parse_rules,
        "kubernetes.team": parse_rules,
        "kubernetes.model": parse_rules,
    }
