"""Rules over a pod's labels: what a workload, a team or a model is called, and which pods a selector means.

A rule is the name of a label, `app.kubernetes.io/name`, or a text with names in braces, `{namespace}/{app}`. Besides
labels there are the annotations of wattmill.io, and `namespace`, `pod` and `owner` (the deployment, set or job that
made the pod). The first rule of which every name has a value wins.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from wattmill_collector.kubelet.pods import Pod

LONGEST_NAME = 256
_BRACES = re.compile(r"\{([^{}]*)\}")
_KEY = r"[A-Za-z0-9](?:[\w./-]*[A-Za-z0-9])?"
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s+\(([^()]*)\)")
_EQUAL = re.compile(rf"({_KEY})\s*(==|=|!=)\s*([\w.-]*)")
_THERE = re.compile(rf"(!?)\s*({_KEY})")
_PARTS = re.compile(r",(?![^()]*\))")


@dataclasses.dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a selector: the label must be one of the values, or must not; no values: any value."""

    key: str
    wanted: bool
    values: frozenset[str] | None = None

    def fits(self, labels: Mapping[str, str]) -> bool:
        """As Kubernetes has it: what must not be something may also be absent."""
        value = labels.get(self.key)
        found = value is not None and (self.values is None or value in self.values)
        return found == self.wanted


Selector = tuple[Requirement, ...]


def parse_selector(text: str) -> Selector:
    """A label selector as kubectl takes it. Errors: ValueError naming the part that is not one."""
    return tuple(_requirement(part.strip()) for part in _PARTS.split(text) if part.strip())


def _requirement(part: str) -> Requirement:
    if found := _SET.fullmatch(part):
        values = frozenset(value.strip() for value in found[3].split(","))
        return Requirement(found[1], found[2] == "in", values)
    if found := _EQUAL.fullmatch(part):
        return Requirement(found[1], found[2] != "!=", frozenset([found[3]]))
    if found := _THERE.fullmatch(part):
        return Requirement(found[2], not found[1])
    raise ValueError(f"a label selector such as app=vllm,tier in (gpu),!canary; not '{part}'")


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether a selector means a pod with these labels; an empty one means none."""
    return bool(selector) and all(one.fits(labels) for one in selector)


def check_rule(rule: str) -> str:
    """A rule that can be used. Errors: ValueError."""
    names = _names(rule)
    if not names or any(not re.fullmatch(_KEY, name) for name in names) or len(rule) > LONGEST_NAME:
        raise ValueError(f"labels such as app, or texts such as '{{namespace}}/{{app}}'; not '{rule[:80]}'")
    return rule


def apply(rules: Sequence[str], pod: Pod) -> str:
    """What the first rule that fits says of a pod; "" when none does."""
    for rule in rules:
        values = {name: value_of(pod, name) for name in _names(rule)}
        if all(values.values()):
            parts = (values[part] if at % 2 else part for at, part in enumerate(_split(rule)))
            return "".join(parts)[:LONGEST_NAME]
    return ""


def value_of(pod: Pod, name: str) -> str:
    """What a name in a rule stands for."""
    match name:
        case "namespace":
            return pod.namespace
        case "pod":
            return pod.name
        case "owner":
            return pod.owner
    return pod.labels.get(name) or pod.annotations.get(name, "")


def _split(rule: str) -> list[str]:
    """Plain text, name, plain text, name, …"""
    return _BRACES.split(rule) if "{" in rule else ["", rule]


def _names(rule: str) -> list[str]:
    return _split(rule)[1::2]
