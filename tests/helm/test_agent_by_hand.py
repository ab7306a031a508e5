"""The chart's agent, run beside stand-ins of all it meets on a node: its own file, but for where the stand-ins are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import chart
from support.fake_engine import FakeEngine
from support.kube_api_standin import NODE, KubeApiStandin, pod
from support.kubelet_standin import KubeletStandin
from support.nvml_standin import NvmlStandin
from support.processes import Agent


def once(folder: Path, variation: str, standins: dict[str, str], env: dict[str, str]) -> list[dict[str, Any]]:
    """The readings of `wattmill agent --once` with this variation's file and its container's variables."""
    found = chart.manifests(variation)
    config = yaml.safe_load(chart.named(found, "ConfigMap", "agent")["data"]["agent.yaml"])
    config["kubernetes"] |= standins
    (container,) = chart.named(found, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    given = {**chart.environment(container), "NODE_NAME": NODE, "WATTMILL_NODE": NODE, **env}
    assert container["command"] + container["args"] == ["wattmill", "agent"]
    agent = Agent(folder, config, {name: value for name, value in given.items() if name != "WATTMILL_CONFIG"})
    done = subprocess.run(
        [sys.executable, "-m", "wattmill_collector.cli", *agent.arguments, "--once"],
        env=agent.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "unknown" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("variation", ["pod-resources", "all-profiles"])
def test_it_reports_the_right_pod_for_each_accelerator(variation: str, tmp_path: Path) -> None:
    gpus = NvmlStandin(tmp_path / "nvml", boards=2)
    (tmp_path / "pod-resources").mkdir()
    with (
        KubeletStandin(tmp_path / "pod-resources/kubelet.sock") as kubelet,
        KubeApiStandin(tmp_path / "api") as api,
        FakeEngine("vllm", host="127.0.1.1") as chat,
        FakeEngine("vllm", host="127.0.1.2") as code,
    ):
        for number, (name, engine) in enumerate({"chat": chat, "code": code}.items()):
            labels = {"app.kubernetes.io/name": name, "team": f"team-{number}"}
            api.put(pod("serving", f"{name}-0", ip=f"127.0.1.{number + 1}", labels=labels, ports={"http": engine.port}))
            kubelet.give("serving", f"{name}-0", "engine", {"nvidia.com/gpu": [gpus.uuid(1 - number)]})
        standins = {"socket": str(kubelet.socket), "api": api.url, "service_account": str(api.service_account)}
        readings = once(tmp_path, variation, standins, {**gpus.env(), "KUBERNETES_SERVICE_HOST": "192.0.2.1"})
    placed = {r["workload"]: (r["accelerators"], r["method"], r["team"]) for r in readings if r["kind"] == "engine"}
    assert placed == {
        "chat": ([gpus.uuid(1)], "pod", "team-0"),
        "code": ([gpus.uuid(0)], "pod", "team-1"),
    }


def test_the_default_agent_reads_engines_and_boards_and_claims_no_placement_that_it_cannot_know(tmp_path: Path) -> None:
    """Restricted: no socket of the kubelet, and in a container's own namespace the driver lists no process."""
    gpus = NvmlStandin(tmp_path / "nvml", boards=2)
    with KubeApiStandin(tmp_path / "api") as api, FakeEngine("vllm", host="127.0.1.1") as chat:
        chat.add(output=7)
        api.put(pod("serving", "chat-0", ip="127.0.1.1", labels={"app": "chat"}, ports={"http": chat.port}))
        standins = {
            "socket": str(tmp_path / "none/kubelet.sock"),
            "api": api.url,
            "service_account": str(api.service_account),
        }
        readings = once(tmp_path, "default", standins, {**gpus.env(), "KUBERNETES_SERVICE_HOST": "192.0.2.1"})
    (engine,) = [r for r in readings if r["kind"] == "engine"]
    assert (engine["workload"], engine["output_tokens"]) == ("chat", 7)
    assert not engine.keys() & {"accelerators", "method"}
    boards = [r["uuid"] for r in readings if r["kind"] == "accelerator" and "energy_mj" in r]
    assert boards == [gpus.uuid(0), gpus.uuid(1)]
