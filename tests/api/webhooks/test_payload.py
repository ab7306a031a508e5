"""The body of a post, field by field as Alertmanager's version 4 has it."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest

from wattmill_analytics.findings.detectors import BOARD_DETECTORS, ENGINE_DETECTORS
from wattmill_api.webhooks import payload

ROOT = Path(__file__).resolve().parents[3]
T0 = dt.datetime(2026, 3, 2, 10, 0, tzinfo=dt.UTC)
FINDING: dict[str, Any] = {
    "id": 42,
    "kind": "throttled",
    "subject": "engine:ams1/gpu-1 e",
    "site": "ams1",
    "node": "gpu-1",
    "workload": "chat",
    "since": T0,
    "until": None,
    "last_seen": T0 + dt.timedelta(hours=1),
    "impact": {
        "energy_mj": 7_200_000_000,
        "kwh": 2.0,
        "cost": {"currency": "EUR", "total": 0.5},
        "co2_grams": 700.0,
        "energy_mj_per_day": 14_400_000_000,
    },
    "summary": "Power holds it back.",
    "remedy": "Raise the limit.",
    "simulated": False,
}


def composed(firing: bool = True, external_url: str = "https://mill.example/", **changes: Any) -> dict[str, Any]:
    body = payload.of_finding(
        {**FINDING, **changes},
        receiver="on-call",
        firing=firing,
        teams=["search"],
        external_url=external_url,
        runbooks_url="https://docs.example/runbooks",
    )
    document: dict[str, Any] = json.loads(body)
    return document


def test_a_finding_that_is_open() -> None:
    labels = {
        "alertname": "WattmillFinding",
        "kind": "throttled",
        "subject": "engine:ams1/gpu-1 e",
        "severity": "warning",
        "site": "ams1",
        "node": "gpu-1",
        "workload": "chat",
        "team": "search",
    }
    annotations = {
        "summary": "Power holds it back.",
        "description": "2 kWh, 0.50 EUR, 0.7 kg CO2 so far, since 2026-03-02T10:00:00Z. At this rate 4 kWh a day.",
        "remedy": "Raise the limit.",
        "runbook_url": "https://docs.example/runbooks/WattmillHardwareSlowed.md",
        "finding": "42",
    }
    document = composed()
    (alert,) = document.pop("alerts")
    fingerprint = alert.pop("fingerprint")
    assert alert == {
        "status": "firing",
        "labels": labels,
        "annotations": annotations,
        "startsAt": "2026-03-02T10:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "https://mill.example/#finding-42",
    }
    assert re.fullmatch("[0-9a-f]{16}", fingerprint)
    assert document == {
        "version": "4",
        "groupKey": '{}:{alertname="WattmillFinding", kind="throttled", subject="engine:ams1/gpu-1 e"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "on-call",
        "groupLabels": {name: labels[name] for name in ("alertname", "kind", "subject")},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "https://mill.example",
    }


def test_a_finding_that_is_over_says_when_and_is_the_same_alert() -> None:
    impact = {**FINDING["impact"], "cost": None, "co2_grams": None, "energy_mj_per_day": None}
    over = composed(False, until=T0 + dt.timedelta(minutes=30), impact=impact, workload="renamed")
    (alert,) = over["alerts"]
    assert (over["status"], alert["status"], alert["endsAt"]) == ("resolved", "resolved", "2026-03-02T10:30:00Z")
    assert alert["annotations"]["description"] == (
        "2 kWh in all, since 2026-03-02T10:00:00Z, until 2026-03-02T10:30:00Z."
    )
    assert over["groupKey"] == composed()["groupKey"]
    assert alert["fingerprint"] == composed()["alerts"][0]["fingerprint"]
    assert alert["fingerprint"] != composed(subject="engine:other")["alerts"][0]["fingerprint"]


def test_what_is_not_known_is_left_out() -> None:
    (alert,) = composed(node=None, workload=None, external_url="", simulated=True)["alerts"]
    assert not {"node", "workload"} & set(alert["labels"])
    assert (alert["labels"]["simulated"], alert["generatorURL"]) == ("true", "")


def test_names_of_agents_stay_text() -> None:
    hostile = 'x"}\r\nInjected: 1 {{ .Secret }} \ud7ff'
    document = composed(subject=hostile, workload=hostile, summary=hostile)
    assert document["alerts"][0]["labels"]["subject"] == hostile
    assert "\n" not in document["groupKey"]


def test_every_kind_has_a_runbook_that_an_alert_rule_names_and_no_other_has() -> None:
    kinds = {detector.kind for detector in BOARD_DETECTORS} | {detector.kind for detector, _ in ENGINE_DETECTORS}
    assert set(payload.KINDS) == kinds
    rules = (ROOT / "deploy/prometheus/alerts.rules.yaml").read_text()
    named = set(re.findall(r"runbook_url: docs/runbooks/(\w+)\.md", rules))
    assert {runbook for runbook, _ in payload.KINDS.values()} <= named
    assert {severity for _, severity in payload.KINDS.values()} <= {"info", "warning"}


@pytest.mark.parametrize("external_url", ["", "https://mill.example"])
def test_a_test_says_that_it_is_one(external_url: str) -> None:
    document = json.loads(payload.of_test(receiver="on-call", now=T0, external_url=external_url))
    assert document["commonLabels"] == {"alertname": "WattmillTest", "severity": "info"}
    assert "Nothing is wrong" in document["alerts"][0]["annotations"]["description"]
