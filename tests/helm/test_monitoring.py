"""Monitors, rules and dashboards of the chart: those of deploy/, and wired so that they see what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fix_promtool import Promtool
from support import chart
from support.deployed import DASHBOARDS, RULES

ALL = ("--set", "monitoring.rules.enabled=true", "--set", "monitoring.dashboards.enabled=true")


def shipped(folder: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (chart.CHART / "files" / folder).iterdir()}


def test_the_charts_copies_are_what_deploy_has() -> None:
    """`make chart` copies: a chart is packed from its own folder, and a link would be packed as a link."""
    assert shipped("rules") == {file.name: file.read_bytes() for file in RULES.glob("*.rules.yaml")}
    assert shipped("dashboards") == {file.name: file.read_bytes() for file in DASHBOARDS}


def test_nothing_of_it_is_there_unless_asked_for() -> None:
    """Their kinds are known to clusters with the Prometheus operator only."""
    for variation in chart.VARIATIONS:
        kinds = {each["kind"] for each in chart.manifests(variation)}
        assert kinds.isdisjoint({"PrometheusRule"})
        assert variation == "everything" or kinds.isdisjoint({"ServiceMonitor", "PodMonitor"})


class TestRules:
    """Alerts and recording rules as the operator reads them."""

    @pytest.fixture
    def rules(self) -> list[dict[str, Any]]:
        found = chart.manifests("everything", *ALL, "--set", "monitoring.rules.labels.release=prometheus")
        return [each for each in found if each["kind"] == "PrometheusRule"]

    def test_prometheus_takes_them(self, rules: list[dict[str, Any]], promtool: Promtool, tmp_path: Path) -> None:
        files = []
        for each in rules:
            files.append(tmp_path / f"{each['metadata']['name']}.yaml")
            files[-1].write_text(yaml.safe_dump(each["spec"]))
        said = promtool("check", "rules", *map(str, files))
        assert said.count("SUCCESS") == 2

    def test_they_are_those_of_deploy_but_for_where_runbooks_are_read(self, rules: list[dict[str, Any]]) -> None:
        names = {each["metadata"]["name"].rpartition("-")[2]: each for each in rules}
        assert names.keys() == {"alerts", "recording"}
        assert all(each["metadata"]["labels"]["release"] == "prometheus" for each in rules)
        for name, each in names.items():
            ours = yaml.safe_load((RULES / f"{name}.rules.yaml").read_text())
            for group in ours["groups"]:
                for rule in group["rules"]:
                    if "runbook_url" in rule.get("annotations", {}):
                        path = rule["annotations"]["runbook_url"].removeprefix("docs/")
                        rule["annotations"]["runbook_url"] = f"https://wattmill.example/{path}"
            assert each["spec"] == ours


class TestMonitors:
    """How Prometheus scrapes the service and the agents."""

    def test_the_service_is_asked_with_a_key_that_may_read_and_its_labels_are_honoured(self) -> None:
        found = chart.manifests("everything")
        (endpoint,) = chart.named(found, "ServiceMonitor")["spec"]["endpoints"]
        assert endpoint["honorLabels"] is True
        credentials = endpoint["authorization"]["credentials"]
        assert credentials["name"] == "mill-keys"
        assert credentials["key"] in chart.named(found, "Secret", "-keys")["data"]
        assert endpoint["authorization"]["type"] == "Bearer"

    def test_ports_are_named_as_the_pods_name_them(self) -> None:
        found = chart.manifests("everything")
        (endpoint,) = chart.named(found, "ServiceMonitor")["spec"]["endpoints"]
        assert endpoint["port"] in [port["name"] for port in chart.named(found, "Service", "mill")["spec"]["ports"]]
        (endpoint,) = chart.named(found, "PodMonitor")["spec"]["podMetricsEndpoints"]
        (container,) = chart.named(found, "DaemonSet")["spec"]["template"]["spec"]["containers"]
        assert endpoint["port"] in [port["name"] for port in container["ports"]]
        assert endpoint["honorLabels"] is True

    def test_jobs_are_called_what_the_alerts_ask_for_whatever_the_release_is_called(self) -> None:
        """WattmillAgentDown asks for job=~".*wattmill-agent.*"; this release is called mill."""
        found = chart.manifests("everything")
        (service,) = chart.named(found, "ServiceMonitor")["spec"]["endpoints"]
        (agents,) = chart.named(found, "PodMonitor")["spec"]["podMetricsEndpoints"]
        assert service["relabelings"][0] == {"targetLabel": "job", "replacement": "wattmill", "action": "replace"}
        assert agents["relabelings"][0]["replacement"] == "wattmill-agent"

    def test_more_relabelings_come_after_ours(self) -> None:
        (endpoint,) = chart.named(chart.manifests("everything"), "ServiceMonitor")["spec"]["endpoints"]
        assert endpoint["relabelings"][1] == {"targetLabel": "cluster", "replacement": "a"}
        assert endpoint["metricRelabelings"] == [{"action": "labeldrop", "regex": "x"}]


def test_dashboards_arrive_unchanged_and_labelled_for_grafanas_sidecar() -> None:
    found = [each for each in chart.manifests("default", *ALL) if "-dashboard-" in each["metadata"]["name"]]
    assert len(found) == len(DASHBOARDS)
    for each in found:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((name, text),) = each["data"].items()
        (ours,) = [file for file in DASHBOARDS if file.name == name]
        assert json.loads(text) == json.loads(ours.read_text())
        assert len(text) < 1_000_000, "a ConfigMap holds 1 MiB"
