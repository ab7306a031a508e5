"""The Helm chart as it is rendered: with the values of a file in helm/wattmill/ci, for a version of Kubernetes."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/wattmill"
HELM = Path(sys.executable).parent / "helm"
VARIATIONS = ("default", *sorted(path.name.removesuffix("-values.yaml") for path in CHART.glob("ci/*-values.yaml")))
# Those whose pods must all be admitted to a namespace that enforces the restricted Pod Security profile.
RESTRICTED = tuple(
    name for name in VARIATIONS if name not in ("pod-resources", "rapl", "host-pid", "mig", "all-profiles")
)
KUBERNETES = "1.34.0"
RANDOM = re.compile(r"^(  (?:agents|prometheus|admin|password): )\S+$", re.MULTILINE)

Manifest = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HELM), *arguments], capture_output=True, text=True, timeout=120, check=False)


@functools.cache
def text(variation: str = "default", *more: str, kubernetes: str = KUBERNETES) -> str:
    """All manifests as text; `more` are options of `helm template`."""
    values = () if variation == "default" else ("--values", str(CHART / f"ci/{variation}-values.yaml"))
    done = helm("template", "wattmill", str(CHART), "--namespace", "mill", "--kube-version", kubernetes, *values, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(*more: str) -> str:
    """What helm says against these options of `helm template`."""
    done = helm("template", "wattmill", str(CHART), "--namespace", "mill", *more)
    assert done.returncode != 0, f"helm had nothing against {more}"
    return done.stderr


def manifests(variation: str = "default", *more: str, kubernetes: str = KUBERNETES) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(text(variation, *more, kubernetes=kubernetes)) if each]


def named(found: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The one manifest of this kind whose name ends so."""
    (one,) = [each for each in found if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    return one


def pods(found: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind and name, pod's spec) of everything that makes a pod."""
    for each in found:
        if each["kind"] == "Pod":
            yield f"Pod {each['metadata']['name']}", each["spec"]
        elif "template" in each.get("spec", {}):
            yield f"{each['kind']} {each['metadata']['name']}", each["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Variables with their values; what Kubernetes fills in is empty."""
    return {each["name"]: each.get("value", "") for each in container.get("env", [])}


def without_secrets(rendered: str) -> str:
    """The same text at every rendering."""
    return RANDOM.sub(r"\1(random)", rendered)
