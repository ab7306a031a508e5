"""`wattmill agent` in Kubernetes, beside stand-ins of all it meets there: the right pod for each accelerator."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_engine import FakeEngine
from support.kube_api_standin import NODE, KubeApiStandin, pod
from support.kubelet_standin import KubeletStandin
from support.nvml_standin import NvmlStandin
from support.processes import Agent, eventually, free_port

MOST_RESIDENT_BYTES = 40 << 20  # DESIGN section 2, promise 8


class Cluster:
    """One node of four boards with its kubelet, and the API that knows its pods."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.engines = 0
        self.gpus = NvmlStandin(folder / "nvml", boards=4)
        self.slices = self.gpus.set_instances(3, "1g.10gb", "3g.40gb", "3g.40gb")
        (folder / "pod-resources").mkdir()
        self.kubelet = stack.enter_context(KubeletStandin(folder / "pod-resources/kubelet.sock"))
        self.api = stack.enter_context(KubeApiStandin(folder / "api"))

    def run(self, name: str, *, output: int = 0, **said: Any) -> FakeEngine:
        """A pod with an engine that has made so many tokens."""
        self.engines += 1
        host = f"127.0.1.{self.engines}"
        engine = self.stack.enter_context(FakeEngine("vllm", host=host, model="served"))
        engine.add(output=output)
        self.api.put(pod("search", name, ip=host, ports={"http": engine.port}, **said))
        return engine

    def config(self) -> dict[str, Any]:
        """What the chart's agent has, but for the places of the stand-ins."""
        return {
            "interval": "1s",
            "spool": str(self.folder / "spool"),
            "listen": "",
            "sources": {"host": "off"},
            "kubernetes": {
                "socket": str(self.kubelet.socket),
                "api": self.api.url,
                "service_account": str(self.api.service_account),
            },
        }

    def environment(self) -> dict[str, str]:
        return {**self.gpus.env(), "KUBERNETES_SERVICE_HOST": "192.0.2.1", "NODE_NAME": NODE}

    def once(self, **config: Any) -> list[dict[str, Any]]:
        """The readings of `wattmill agent --once`."""
        agent = Agent(self.folder, self.config() | config, self.environment())
        done = subprocess.run(
            [sys.executable, "-m", "wattmill_collector.cli", *agent.arguments, "--once"],
            env=agent.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def test_each_accelerator_has_its_pod(cluster: Cluster) -> None:
    """Whole boards, time-slices, MIG slices and a claim, and a pod that trains and shows no page."""
    boards = [cluster.gpus.uuid(board) for board in range(4)]
    stamp = {"pod-template-hash": "7d9c5b8f6d"}
    cluster.run("chat-7d9c5b8f6d-x2x4z", output=7, owner=("ReplicaSet", "chat-7d9c5b8f6d"), labels=stamp)
    cluster.kubelet.give("search", "chat-7d9c5b8f6d-x2x4z", "engine", {"nvidia.com/gpu": [boards[0]]})
    for number in range(2):
        cluster.run(f"rank-{number}", labels={"app": f"rank-{number}"}, annotations={"wattmill.io/team": "ads"})
        cluster.kubelet.give(
            "search", f"rank-{number}", "engine", {"nvidia.com/gpu.shared": [f"{boards[1]}::{number}"]}
        )
    cluster.run("embed-0", annotations={"wattmill.io/model": "bge-m3"})
    cluster.kubelet.give("search", "embed-0", "engine", {"nvidia.com/mig-1g.10gb": [cluster.slices[0]]})
    cluster.run("claim-0")
    cluster.kubelet.claim("search", "claim-0", "engine", driver="gpu.nvidia.com", pool=NODE, device="gpu-2")
    cluster.api.put(pod("research", "train-0", ip="127.0.1.99", ports={"ssh": 22, "nccl": 1}))
    cluster.kubelet.give("research", "train-0", "engine", {"nvidia.com/mig-3g.40gb": [cluster.slices[1]]})
    cluster.kubelet.give("search", "ended-zzk2w", "engine", {"nvidia.com/gpu": [boards[0]]})
    cluster.api.put(pod("search", "ended-zzk2w", phase="Succeeded"))

    readings = cluster.once()
    assert [r["uuid"] for r in readings if r["kind"] == "accelerator"] == boards
    placed = {
        r["workload"]: (r["accelerators"], r["method"], r["team"], r["model"])
        for r in readings
        if r["kind"] == "engine"
    }
    assert placed == {
        "chat": ([boards[0]], "pod", "search", "served"),
        "rank-0": ([boards[1]], "share", "ads", "served"),
        "rank-1": ([boards[1]], "share", "ads", "served"),
        "embed": ([boards[3]], "share", "search", "bge-m3"),
        "claim": ([boards[2]], "pod", "search", "served"),
    }
    shares = {r["workload"]: r.get("accelerator_shares_ppm") for r in readings if r["kind"] == "engine"}
    assert shares == {"chat": None, "rank-0": [500_000], "rank-1": [500_000], "embed": [142_857], "claim": None}
    absent = {r["id"]: r["reason"] for r in readings if r["kind"] == "absence" and r["subject"] == "engine"}
    assert absent == {"pod:research/train-0": "no_metrics_port"}
    assert sum(r.get("output_tokens", 0) for r in readings) == 7


def test_without_the_api_a_pod_is_named_by_its_boards(cluster: Cluster) -> None:
    """The operator wrote the engine down; which pod it is comes from the board that this pod alone holds."""
    cluster.api.refuse = 403
    board = cluster.gpus.uuid(0)
    cluster.kubelet.give("search", "chat-7d9c5b8f6d-x2x4z", "engine", {"nvidia.com/gpu": [board]})
    with FakeEngine("vllm") as engine:
        readings = cluster.once(engines=[{"target": engine.url, "accelerators": ["0"]}])
    [reading] = [r for r in readings if r["kind"] == "engine"]
    assert (reading["workload"], reading["team"], reading["accelerators"]) == ("chat", "search", [board])
    assert {r["id"]: r["reason"] for r in readings if r["kind"] == "absence"} == {"kubernetes-api": "forbidden"}


def test_an_agent_among_a_hundred_pods_stays_a_good_guest(cluster: Cluster) -> None:
    """The pods' JSON is 2 MB here; what comes and goes meanwhile is followed."""
    for number in range(110):
        one = pod("search", f"other-{number}", ip=f"127.0.2.{number}", gpus=0, labels={"app": "x" * 60})
        one["metadata"]["managedFields"] = [{"fieldsV1": {f"f:field-{n}": {} for n in range(800)}}]
        cluster.api.put(one)
    for board in range(4):
        cluster.run(f"chat-{board}", output=1)
        cluster.kubelet.give("search", f"chat-{board}", "engine", {"nvidia.com/gpu": [cluster.gpus.uuid(board)]})
    port = free_port()
    config = {**cluster.config(), "listen": f"127.0.0.1:{port}"}
    agent = Agent(cluster.folder, config, cluster.environment()).start()

    def page() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return str(answer.read(), "utf-8")
        except OSError:
            return ""

    def engines() -> int:
        return sum(line.startswith("wattmill_engine_output_tokens_total{") for line in page().splitlines())

    try:
        eventually(lambda: engines() == 4, 30, f"four engines; its log says {agent.text()[-1000:]}")
        cluster.api.delete("search", "chat-0")
        cluster.kubelet.take("search", "chat-0")
        eventually(lambda: engines() == 3, 30, "three engines")
        values = dict(line.rsplit(" ", 1) for line in page().splitlines() if not line.startswith("#"))
        assert int(values["wattmill_agent_resident_memory_bytes"]) < MOST_RESIDENT_BYTES
        assert agent.stop() == 0
    finally:
        agent.kill()
