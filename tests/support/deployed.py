"""The rule files and dashboards that are shipped, as data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus"
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
# What Prometheus itself adds to a target.
OF_PROMETHEUS = {"up"}


def rules(name: str) -> list[dict[str, Any]]:
    """All rules of `recording` or `alerts`, in order."""
    document = yaml.safe_load((RULES / f"{name}.rules.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def panels(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every panel, those inside rows too."""
    return [each for panel in document["panels"] for each in (panel, *panel.get("panels", []))]


def targets(document: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    """(title, query) of everything that asks a data source of `kind`: prometheus or postgres."""
    field = "expr" if kind == "prometheus" else "rawSql"
    found = [
        (panel["title"], target[field])
        for panel in panels(document)
        for target in panel.get("targets", [])
        if field in target
    ]
    for variable in document["templating"]["list"]:
        if variable["type"] == "query" and variable["datasource"]["uid"] == f"${{{kind}}}":
            query = variable["query"]
            found.append((f"variable {variable['name']}", query["query"] if isinstance(query, dict) else query))
    return found


def metric_names(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}", "{}", bare)
    return set(re.findall(r"\b(up|wattmill_\w+|\w+:wattmill_\w+:\w+)\b", bare))
