"""What is kept of a pod, what its rules call it, and which pods a selector means."""

from __future__ import annotations

import pytest

from support.kube_api_standin import pod
from wattmill_collector.kubelet.pods import Container, Pod, owner_by_name, pod_of
from wattmill_collector.kubelet.rules import apply, check_rule, parse_selector, selects
from wattmill_collector.kubelet.settings import MODEL_RULES, TEAM_RULES, WORKLOAD_RULES


def test_what_is_kept_of_a_pod() -> None:
    said = pod(
        "search",
        "chat-7d9c5b8f6d-x2x4z",
        ip="10.1.2.3",
        labels={"app": "chat", "pod-template-hash": "7d9c5b8f6d"},
        annotations={"prometheus.io/scrape": "true", "wattmill.io/team": "search"},
        ports={"http": 8000},
        owner=("ReplicaSet", "chat-7d9c5b8f6d"),
    )
    assert pod_of(said) == Pod(
        namespace="search",
        name="chat-7d9c5b8f6d-x2x4z",
        ip="10.1.2.3",
        owner="chat",
        wants=True,
        labels={"app": "chat", "pod-template-hash": "7d9c5b8f6d"},
        annotations={"prometheus.io/scrape": "true", "wattmill.io/team": "search"},
        containers=(Container("engine", (("http", 8000),)),),
    )


@pytest.mark.parametrize("said", [{}, {"metadata": None}, {"metadata": {"name": 7, "namespace": "a"}}])
def test_a_pod_without_a_name_is_none(said: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no name"):
        pod_of(said)


def test_nonsense_in_a_pod_is_passed_over() -> None:
    said = {
        "metadata": {"name": "a", "namespace": "b", "labels": {"x": 7, "y": "z\x00"}, "ownerReferences": ["?"]},
        "spec": {"containers": [{"ports": [{"containerPort": 99_999}, {"containerPort": "80"}, 7]}, "?"]},
        "status": "?",
    }
    found = pod_of(said)
    assert found.labels == {"x": "", "y": "z"}
    assert found.containers == (Container(""), Container(""))


def test_udp_ports_are_no_pages() -> None:
    said = pod("a", "b")
    said["spec"]["containers"][0]["ports"] = [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 8000}]
    assert pod_of(said).containers[0].ports == (("", 8000),)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("chat-7d9c5b8f6d-x2x4z", "chat"),
        ("chat-qwen3-32b-5c9d7b6f48-zzk2w", "chat-qwen3-32b"),
        ("chat-0", "chat"),
        ("chat-12", "chat"),
        ("batch-zzk2w", "batch"),
        ("notebook", "notebook"),
        ("vllm-main", "vllm-main"),
    ],
)
def test_what_made_a_pod_by_its_name_alone(name: str, owner: str) -> None:
    assert owner_by_name(name) == owner


def test_the_controller_names_what_made_a_pod() -> None:
    assert pod_of(pod("a", "chat-0-1", owner=("LeaderWorkerSet", "chat"))).owner == "chat"
    assert pod_of(pod("a", "db-2", owner=("StatefulSet", "db-2-set"))).owner == "db-2-set"


CHAT = Pod(
    "search", "chat-0", owner="chat", labels={"app": "llm", "empty": ""}, annotations={"wattmill.io/model": "q3"}
)


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        (("app",), "llm"),
        (("missing", "app"), "llm"),
        (("{namespace}/{app}",), "search/llm"),
        (("{namespace}/{missing}", "{pod}"), "chat-0"),
        (("empty", "owner"), "chat"),
        (("wattmill.io/model",), "q3"),
        (("missing",), ""),
        ((), ""),
    ],
)
def test_the_first_rule_that_fits_names_it(rules: tuple[str, ...], name: str) -> None:
    assert apply(rules, CHAT) == name


def test_the_default_rules() -> None:
    """Helm's release before the chart's name, which all releases of one chart share; the namespace pays by default."""
    helm = Pod(
        "search", "a", owner="o", labels={"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": "chat"}
    )
    assert (apply(WORKLOAD_RULES, helm), apply(TEAM_RULES, helm), apply(MODEL_RULES, helm)) == ("chat", "search", "")
    said = Pod("search", "a", labels={"app": "b", "team": "t"}, annotations={"wattmill.io/workload": "w"})
    assert (apply(WORKLOAD_RULES, said), apply(TEAM_RULES, said)) == ("w", "t")
    assert apply(WORKLOAD_RULES, Pod("search", "a-0", owner="a")) == "a"


@pytest.mark.parametrize("rule", ["", "{}", "a b", "{app", "-x", "{a b}", "x" * 300])
def test_a_rule_that_names_nothing_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="labels such as app"):
        check_rule(rule)


LABELS = {"app": "vllm", "tier": "gpu", "app.kubernetes.io/name": "chat"}


@pytest.mark.parametrize(
    ("selector", "means"),
    [
        ("app=vllm", True),
        ("app==vllm,tier=gpu", True),
        ("app=vllm,tier=cpu", False),
        ("app!=vllm", False),
        ("other!=vllm", True),
        ("app", True),
        ("!app", False),
        ("!canary", True),
        ("tier in (gpu, tpu)", True),
        ("tier in (cpu),app=vllm", False),
        ("tier notin (cpu),app", True),
        ("zone notin (a)", True),
        ("app.kubernetes.io/name=chat", True),
        ("app=", False),
        ("", False),
    ],
)
def test_a_selector_means_what_kubectl_means(selector: str, means: bool) -> None:
    assert selects(parse_selector(selector), LABELS) is means


@pytest.mark.parametrize("selector", ["app in gpu", "a=b=c", "=x", "app in (a", "a b"])
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match="a label selector such as"):
        parse_selector(selector)
