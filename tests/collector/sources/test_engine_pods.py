"""Engines in pods: found, read, placed and named; and a reason for every pod that holds accelerators and shows none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.fake_engine import FakeEngine
from support.kube_api_standin import pod
from wattmill_collector.kubelet.book import Snapshot
from wattmill_collector.kubelet.pod_resources import Device, Holder
from wattmill_collector.kubelet.pods import Pod, pod_of
from wattmill_collector.kubelet.settings import KubernetesSettings
from wattmill_collector.placement import Board
from wattmill_collector.settings import EngineSettings
from wattmill_collector.sources.addresses import Failure
from wattmill_collector.sources.engine import EngineSource
from wattmill_collector.sources.engine_pods import PodView
from wattmill_collector.wire import AbsenceReading, EngineReading, Reading

SECOND_US = 1_000_000
START_US = 1_764_030_001 * SECOND_US  # one second after a minute's edge
BOARDS = (Board("GPU-a", 0, ()), Board("GPU-b", 1, ()))


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine("vllm", host="127.0.0.7", model="served", process_start=1_764_030_000.5) as one:
        yield one


@pytest.fixture
def other() -> Iterator[FakeEngine]:
    with FakeEngine("vllm", host="127.0.0.8", process_start=1_764_030_000.7) as one:
        yield one


class Node:
    """What the kubelet and the API say, to be changed by the test."""

    def __init__(self) -> None:
        self.snapshot = Snapshot((), {})
        self.sources: list[EngineSource] = []

    def give(self, name: str, *ids: str, namespace: str = "search", container: str = "engine") -> None:
        devices = tuple(Device("nvidia.com/gpu", one) for one in ids)
        holders = (*(self.snapshot.holders or ()), Holder(namespace, name, container, devices))
        self.snapshot = dataclasses.replace(self.snapshot, holders=holders)

    def show(self, name: str, engine: FakeEngine | None = None, *, namespace: str = "search", **said: Any) -> None:
        said = {"ip": engine.host, "ports": {"http": engine.port}} | said if engine else said
        one = pod_of(pod(namespace, name, **said))
        pods = {**(self.snapshot.pods or {}), one.key: one}
        self.snapshot = dataclasses.replace(self.snapshot, pods=pods)

    def hide(self, name: str, namespace: str = "search") -> None:
        pods = {key: one for key, one in (self.snapshot.pods or {}).items() if key != (namespace, name)}
        self.snapshot = dataclasses.replace(self.snapshot, pods=pods)

    def source(
        self,
        *engines: EngineSettings,
        boards: Sequence[Board] = BOARDS,
        settings: KubernetesSettings | None = None,
        discover: bool = True,
    ) -> EngineSource:
        view = PodView(settings or KubernetesSettings(), lambda: self.snapshot, discover=discover)
        made = EngineSource(engines, interval_us=SECOND_US, boards=lambda: boards, pods=view, proc=Path("/nonexistent"))
        self.sources.append(made)
        return made


@pytest.fixture
def node() -> Iterator[Node]:
    one = Node()
    yield one
    for source in one.sources:
        source.close()


def engines(readings: list[Reading]) -> list[EngineReading]:
    return [r for r in readings if isinstance(r, EngineReading)]


def absences(readings: list[Reading]) -> list[tuple[str, str]]:
    return [(r.id, r.reason) for r in readings if isinstance(r, AbsenceReading)]


def only(readings: list[Reading]) -> EngineReading:
    (one,) = readings
    assert isinstance(one, EngineReading)
    return one


def test_an_engine_in_a_pod_is_read_placed_and_named_at_the_first_tick(node: Node, engine: FakeEngine) -> None:
    node.give("chat-0", "GPU-a", "GPU-b")
    node.show("chat-0", engine, labels={"app": "chat", "team": "nlp"}, annotations={"wattmill.io/model": "qwen3"})
    engine.add(output=64)
    reading = only(node.source().read(START_US))
    assert (reading.target, reading.output_tokens) == (engine.url, 64)
    assert (reading.accelerators, reading.method) == (("GPU-a", "GPU-b"), "pod")
    assert (reading.workload, reading.team, reading.model) == ("chat", "nlp", "qwen3")


def test_without_a_rule_that_fits_the_page_names_the_model(node: Node, engine: FakeEngine) -> None:
    node.give("chat-0", "GPU-a")
    node.show("chat-0", engine)
    reading = only(node.source().read(START_US))
    assert (reading.model, reading.workload, reading.team) == ("served", "chat", "search")


def test_time_slices_of_two_pods_are_shares(node: Node, engine: FakeEngine, other: FakeEngine) -> None:
    node.give("chat-0", "GPU-a::0")
    node.give("rank-0", "GPU-a::1")
    node.show("chat-0", engine)
    node.show("rank-0", other)
    found = engines(node.source().read(START_US))
    assert {(r.workload, r.accelerators, r.method, r.accelerator_shares_ppm, r.share_by) for r in found} == {
        ("chat", ("GPU-a",), "share", (500_000,), "replicas"),
        ("rank", ("GPU-a",), "share", (500_000,), "replicas"),
    }


def test_a_pod_that_comes_and_goes(node: Node, engine: FakeEngine) -> None:
    source = node.source()
    assert source.read(START_US) == []
    node.give("chat-0", "GPU-a")
    node.show("chat-0", engine)
    assert only(source.read(START_US + SECOND_US)).workload == "chat"
    node.hide("chat-0")
    assert source.read(START_US + 2 * SECOND_US) == []


def test_new_labels_rename_without_a_new_connection(node: Node, engine: FakeEngine) -> None:
    node.give("chat-0", "GPU-a")
    node.show("chat-0", engine, labels={"app": "chat"})
    source = node.source()
    epoch = only(source.read(START_US)).epoch
    node.show("chat-0", engine, labels={"app": "search"})
    reading = only(source.read(START_US + SECOND_US))
    assert (reading.workload, reading.epoch) == ("search", epoch)


@pytest.mark.parametrize(
    ("annotations", "path"),
    [
        ({"wattmill.io/port": "PORT"}, "/metrics"),
        ({"wattmill.io/port": "api"}, "/metrics"),
        ({"prometheus.io/scrape": "true", "prometheus.io/port": "PORT"}, "/metrics"),
        ({"prometheus.io/scrape": "true", "prometheus.io/port": "1", "wattmill.io/port": "PORT"}, "/metrics"),
        ({"prometheus.io/scrape": "true", "prometheus.io/port": "PORT", "prometheus.io/path": "/metrics?a=1"}, ""),
    ],
)
def test_annotations_name_the_page(node: Node, engine: FakeEngine, annotations: dict[str, str], path: str) -> None:
    said = {name: value.replace("PORT", str(engine.port)) for name, value in annotations.items()}
    node.give("chat-0", "GPU-a")
    node.show("chat-0", ip=engine.host, annotations=said, ports={"api": engine.port, "metrics": 1})
    engine.read_state = lambda: None
    readings = node.source().read(START_US)
    if path:
        assert [r.target for r in engines(readings)] == [engine.url]
    else:
        assert engine.requests[0] == "/metrics?a=1"


def test_prometheus_annotations_can_be_left_out(node: Node, engine: FakeEngine) -> None:
    said = {"prometheus.io/scrape": "true", "prometheus.io/port": "1"}
    node.give("chat-0", "GPU-a")
    node.show("chat-0", engine, annotations=said)
    assert engines(node.source().read(START_US)) == []
    assert only(node.source(settings=KubernetesSettings(annotations=False)).read(START_US)).workload == "chat"


def test_a_kind_that_the_pod_names_is_the_only_one_tried(node: Node, engine: FakeEngine) -> None:
    said = {"wattmill.io/port": str(engine.port), "wattmill.io/kind": "tgi"}
    node.give("chat-0", "GPU-a")
    node.show("chat-0", engine, annotations=said)
    assert absences(node.source().read(START_US)) == [(engine.url, "not_understood")]


@pytest.mark.parametrize(
    ("ports", "tried"),
    [
        ({"metrics": 9001, "http": 9000}, [9001, 9000]),
        ({"grpc": 9000, "x": 8000}, [8000]),
        ({"grpc": 9000}, [9000]),
        ({"grpc": 9000, "zmq": 9001}, []),
        ({}, [8000, 30_000, 8080, 3000, 8002, 23_333]),
    ],
)
def test_ports_that_are_guessed(ports: dict[str, int], tried: list[int]) -> None:
    one = pod_of(pod("search", "chat-0", ip="10.0.0.7", ports=ports))
    view = PodView(KubernetesSettings(), lambda: Snapshot((), {one.key: one}))
    view.refresh(())
    assert [engine.port for engine in view.engines] == tried
    assert not any(engine.certain for engine in view.engines)


def test_ipv6_addresses_are_written_as_urls_want_them() -> None:
    one = pod_of(pod("search", "chat-0", ip="fd00::7", ports={"http": 8000}))
    view = PodView(KubernetesSettings(), lambda: Snapshot((), {one.key: one}))
    view.refresh(())
    assert [engine.settings.target for engine in view.engines] == ["http://[fd00::7]:8000/metrics"]


def test_two_ports_of_one_engine_are_read_once(node: Node, engine: FakeEngine) -> None:
    with FakeEngine("vllm", host=engine.host, process_start=1_764_030_000.5) as same:
        node.give("chat-0", "GPU-a")
        node.show("chat-0", ip=engine.host, ports={"http": engine.port, "metrics": same.port})
        source = node.source()
        for second in range(3):
            assert [r.target for r in engines(source.read(START_US + second * SECOND_US))] == [same.url]
        node.show("chat-0", ip=engine.host, ports={"http": engine.port, "metrics": same.port}, labels={"app": "x"})
        assert [r.target for r in engines(source.read(START_US + 3 * SECOND_US))] == [same.url]


def test_a_configured_engine_is_not_read_again_as_a_pod(node: Node, engine: FakeEngine) -> None:
    """Nor placed anew: its pod places and names it, as far as the configuration does not."""
    node.give("chat-0", "GPU-b")
    node.show("chat-0", engine, labels={"app": "chat"})
    source = node.source(EngineSettings(engine.url, team="finance"))
    for second in range(2):
        reading = only(source.read(START_US + second * SECOND_US))
        assert (reading.workload, reading.team, reading.method) == ("chat", "finance", "pod")
        assert reading.accelerators == ("GPU-b",)


def test_pods_of_the_hosts_network_are_told_by_their_ports(node: Node, engine: FakeEngine, other: FakeEngine) -> None:
    """Both have the node's address; here that is another one than the target's, as with a service on localhost."""
    node.give("chat-0", "GPU-a")
    node.give("rank-0", "GPU-b")
    node.show("chat-0", engine, ip="127.0.0.1", host_network=True)
    node.show("rank-0", other, ip="127.0.0.1", host_network=True)
    source = node.source(EngineSettings(engine.url), EngineSettings(other.url))
    found = {r.target: (r.workload, r.accelerators) for r in engines(source.read(START_US))}
    assert found == {engine.url: ("chat", ("GPU-a",)), other.url: ("rank", ("GPU-b",))}


def test_without_discovery_pods_only_place_and_name(node: Node, engine: FakeEngine, other: FakeEngine) -> None:
    node.give("chat-0", "GPU-a")
    node.give("rank-0", "GPU-b")
    node.show("chat-0", engine)
    node.show("rank-0", other)
    reading = only(node.source(EngineSettings(engine.url), discover=False).read(START_US))
    assert (reading.workload, reading.method) == ("chat", "pod")


def test_a_selector_adds_pods_without_accelerators(node: Node, engine: FakeEngine) -> None:
    node.show("router-0", engine, labels={"role": "router"}, gpus=0)
    assert node.source().read(START_US) == []
    reading = only(node.source(settings=KubernetesSettings(selector="role in (router)")).read(START_US))
    assert (reading.workload, reading.method) == ("router", "")


def test_an_engine_that_is_still_loading_is_found_when_it_answers(node: Node, engine: FakeEngine) -> None:
    node.give("chat-0", "GPU-a")
    node.show("chat-0", engine)
    engine.down()
    source = node.source()
    assert absences(source.read(START_US)) == [("pod:search/chat-0", "connection_refused")]
    assert absences(source.read(START_US + SECOND_US)) == []  # nothing new
    assert absences(source.read(START_US + 59 * SECOND_US)) == [("pod:search/chat-0", "connection_refused")]
    engine.up()
    assert only(source.read(START_US + 70 * SECOND_US)).method == "pod"


def test_an_engine_that_its_pod_names_fails_under_its_own_name(node: Node, engine: FakeEngine) -> None:
    node.give("chat-0", "GPU-a")
    node.show("chat-0", engine, annotations={"wattmill.io/port": str(engine.port)})
    engine.down()
    assert absences(node.source().read(START_US)) == [(engine.url, "connection_refused")]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"ip": "127.0.0.9", "ports": {"grpc": 1, "zmq": 2}}, "no_metrics_port"),
        ({"ip": "127.0.0.9", "ports": {"http": 1}}, "connection_refused"),
        ({"ip": "127.0.0.9", "annotations": {"wattmill.io/scrape": "false"}}, None),
        ({"phase": "Pending"}, None),
    ],
)
def test_a_pod_with_accelerators_and_no_page_is_accounted_for(
    node: Node, said: dict[str, Any], reason: str | None
) -> None:
    node.give("train-0", "GPU-a")
    node.show("train-0", **said)
    assert absences(node.source().read(START_US)) == ([("pod:search/train-0", reason)] if reason else [])


def test_a_pod_that_asks_for_accelerators_is_looked_at_without_the_kubelet(node: Node, engine: FakeEngine) -> None:
    node.snapshot = Snapshot(None, {})
    node.show("chat-0", engine)
    reading = only(node.source(boards=(Board("GPU-a", 0, (99,)),)).read(START_US))
    assert (reading.workload, reading.accelerators, reading.method) == ("chat", ("GPU-a",), "exclusive")


def test_without_the_api_the_pods_name_comes_from_its_boards(node: Node, engine: FakeEngine) -> None:
    """The engine is placed by other means; the pod that alone has its boards names it."""
    node.snapshot = Snapshot((), None)
    node.give("chat-7d9c5b8f6d-x2x4z", "GPU-a")
    source = node.source(EngineSettings(engine.url, accelerators=("0",)))
    reading = only(source.read(START_US))
    assert (reading.workload, reading.team, reading.method) == ("chat", "search", "configured")


def test_without_the_api_a_pod_whose_engine_is_not_known_is_an_absence(node: Node) -> None:
    node.snapshot = Snapshot((), None)
    node.give("chat-0", "GPU-a")
    assert absences(node.source().read(START_US)) == [("pod:search/chat-0", "no_address")]


def test_a_device_of_no_known_board_is_an_absence(node: Node, engine: FakeEngine) -> None:
    node.give("chat-0", "MIG-strange")
    node.show("chat-0", engine)
    assert absences(node.source().read(START_US)) == [("pod:search/chat-0", "accelerator_not_found")]


def test_a_source_that_is_away_is_an_absence_with_its_reason(node: Node) -> None:
    node.snapshot = Snapshot(
        None, None, {"pods": Failure("forbidden", "let it"), "pod-resources": Failure("timeout", "t")}
    )
    assert set(absences(node.source().read(START_US))) == {("kubernetes-api", "forbidden"), ("kubelet", "timeout")}


@pytest.mark.parametrize("path", ["/a b", "/" + "x" * 200, "/ü"])
def test_a_path_that_makes_no_url_does_no_harm(node: Node, engine: FakeEngine, path: str) -> None:
    node.give("chat-0", "GPU-a")
    node.show("chat-0", engine, annotations={"wattmill.io/port": "1" * 3, "wattmill.io/path": path * 3})
    readings = node.source().read(START_US)
    assert engines(readings) == []
    assert len(absences(readings)) == 1


def test_hundreds_of_pods_are_no_flood(node: Node, engine: FakeEngine) -> None:
    """Only so many are tried; the rest are absences, once."""
    pods: dict[tuple[str, str], Pod] = {}
    for number in range(300):
        one = pod_of(pod("search", f"chat-{number}", ip="127.0.0.9", ports={"http": 1}))
        pods[one.key] = one
    node.snapshot = Snapshot((), pods)
    node.show("chat-0", engine)
    node.give("chat-0", "GPU-a")
    assert [r.workload for r in engines(node.source().read(START_US))] == ["chat"]


# --- roles and workers ---


@pytest.mark.parametrize(
    ("labels", "annotations", "role", "boards"),
    [
        ({}, {}, "", ("GPU-a",)),
        ({"llm-d.ai/role": "prefill"}, {}, "prefill", ("GPU-a",)),
        ({"llm-d.ai/role": "both"}, {}, "", ("GPU-a",)),
        ({"llm-d.ai/role": "prefill"}, {"wattmill.io/role": "decode"}, "decode", ("GPU-a",)),
        ({"nvidia.com/dynamo-component": "VllmDecodeWorker"}, {}, "decode", ("GPU-a",)),
        ({"nvidia.com/dynamo-component-type": "frontend"}, {}, "frontend", ()),
        ({}, {"wattmill.io/role": "frontend"}, "frontend", ()),
    ],
)
def test_the_role_of_an_engine_is_its_pods(
    node: Node,
    engine: FakeEngine,
    labels: dict[str, str],
    annotations: dict[str, str],
    role: str,
    boards: tuple[str, ...],
) -> None:
    node.give("chat-0", "GPU-a")
    node.show("chat-0", engine, labels=labels, annotations=annotations)
    reading = only(node.source().read(START_US))
    assert (reading.role, reading.accelerators) == (role, boards)


LWS = {"leaderworkerset.sigs.k8s.io/name": "llama-405b"}
RAY = {"ray.io/cluster": "llama-405b", "app.kubernetes.io/name": "kuberay"}


@pytest.mark.parametrize(
    ("leader", "worker"),
    [
        (
            LWS | {"leaderworkerset.sigs.k8s.io/worker-index": "0"},
            LWS | {"leaderworkerset.sigs.k8s.io/worker-index": "1"},
        ),
        (RAY | {"ray.io/node-type": "head"}, RAY | {"ray.io/node-type": "worker", "ray.io/group": "gpu"}),
    ],
)
def test_the_pods_of_an_engine_that_spans_nodes_are_one_workload(
    node: Node, engine: FakeEngine, leader: dict[str, str], worker: dict[str, str]
) -> None:
    node.give("llama-405b-0", "GPU-a")
    node.give("llama-405b-0-1", "GPU-b")
    node.show("llama-405b-0", engine, labels=leader)
    node.show("llama-405b-0-1", labels=worker, ip="127.0.0.9", ports={"http": 1})
    source = node.source()
    for second in (0, 1, 59, 70):
        readings = source.read(START_US + second * SECOND_US)
        assert absences(readings) == []
        assert {(r.target, r.workload, r.role, r.accelerators, r.method) for r in engines(readings)} == {
            (engine.url, "llama-405b", "", ("GPU-a",), "pod"),
            ("pod:search/llama-405b-0-1", "llama-405b", "worker", ("GPU-b",), "pod"),
        }


def test_a_worker_pod_that_is_kept_away_is_still_a_worker(node: Node) -> None:
    node.give("w-1", "GPU-b")
    node.show("w-1", ip="127.0.0.9", annotations={"wattmill.io/scrape": "false", "wattmill.io/role": "worker"})
    reading = only(node.source().read(START_US))
    assert (reading.role, reading.accelerators, reading.confidence) == ("worker", ("GPU-b",), "high")


def test_a_pod_that_serves_is_no_worker_whatever_its_index(node: Node, engine: FakeEngine) -> None:
    node.give("dp-0-1", "GPU-a")
    node.show("dp-0-1", engine, labels={"leaderworkerset.sigs.k8s.io/worker-index": "1"})
    reading = only(node.source().read(START_US))
    assert (reading.target, reading.role) == (engine.url, "")
