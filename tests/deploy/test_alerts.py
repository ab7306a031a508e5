"""Every alert fires when it should and is quiet when it should, in Prometheus' own rule engine; each has a runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from fix_promtool import Promtool
from support.deployed import OF_PROMETHEUS, ROOT, RULES, metric_names, rules

ALERTS = {rule["alert"]: rule for rule in rules("alerts")}
CHAT = 'site="ams1", workload="chat", model="llama", team="search", simulated="{}"'


def chat(more: str = "", simulated: str = "false") -> str:
    return CHAT.format(simulated) + more


class Case(NamedTuple):
    """Series of one point a minute from time 0 on; when to look; the labels of the alert that fires then."""

    fires: dict[str, str]
    quiet: dict[str, str]
    at: str
    labels: dict[str, str] = {}  # noqa: RUF012  # never changed


def finding(kind: str, state: str = "open") -> str:
    return f'wattmill_findings{{job="wattmill", kind="{kind}", state="{state}"}}'


def waste(site: str, simulated: str) -> str:
    return f'wattmill_finding_waste_watts{{kind="low-batch", site="{site}", workload="chat", simulated="{simulated}"}}'


def energy(rest: str, simulated: str = "false") -> str:
    return f'wattmill_energy_joules_total{{job="wattmill", instance="a", {chat(rest, simulated)}}}'


OUTPUT = f'wattmill_tokens_total{{job="wattmill", instance="a", {chat(", type=" + chr(34) + "output" + chr(34))}}}'
SERVING, IDLE = energy(', account="serving"'), energy(', account="idle-loaded"')
NOBODYS = 'wattmill_energy_joules_total{job="wattmill", site="ams1", account="unattributed", simulated="false"}'
NODE = 'wattmill_node_last_reading_timestamp_seconds{site="ams1", node="gpu-1", simulated="false"}'
SIMULATED_NODE = 'wattmill_node_last_reading_timestamp_seconds{site="sim", node="sim-1", simulated="true"}'
SITE = 'wattmill_site_last_reading_timestamp_seconds{site="ams1", simulated="false"}'
INGEST = 'wattmill_requests_total{route="/api/v1/ingest", method="POST", status="%s"}'
TWO_DAYS, MORE = 2880, 300
GROUP = {"site": "ams1", "workload": "chat", "model": "llama", "team": "search", "simulated": "false"}

CASES: dict[str, Case] = {
    "WattmillDown": Case({}, {"wattmill_build_info": "1+0x20"}, "10m"),
    "WattmillDatabaseDown": Case(
        {'wattmill_database_up{instance="a"}': "1+0x5 0+0x10", 'wattmill_database_up{instance="b"}': "1+0x20"},
        {'wattmill_database_up{instance="a"}': "1 1 1 1 1 0 1+0x10"},
        "10m",
        {"instance": "a"},
    ),
    "WattmillLedgerDoesNotClose": Case(
        {'wattmill_job_ok{name="verify"}': "1+0x5 0+0x9"},
        {'wattmill_job_ok{name="verify"}': "1+0x20", 'wattmill_job_ok{name="detect"}': "0+0x20"},
        "10m",
    ),
    "WattmillJobFailing": Case(
        {'wattmill_job_ok{name="detect"}': "0+0x40", 'wattmill_job_ok{name="roll-up"}': "1+0x40"},
        {'wattmill_job_ok{name="detect"}': "0+0x10 1 0+0x20", 'wattmill_job_ok{name="verify"}': "0+0x40"},
        "24m",
        {"name": "detect"},
    ),
    "WattmillJobNotRun": Case(
        {'wattmill_job_finished_timestamp_seconds{name="roll-up"}': "0+0x60"},
        {
            'wattmill_job_finished_timestamp_seconds{name="roll-up"}': "0+60x60",
            'wattmill_job_finished_timestamp_seconds{name="verify"}': "0+0x60",
            'wattmill_job_finished_timestamp_seconds{name="retain"}': "0+0x60",
        },
        "40m",
        {"name": "roll-up"},
    ),
    "WattmillRollUpBehind": Case(
        {"wattmill_ledger_last_minute_timestamp_seconds": "0+0x60", SITE: "0+60x60"},
        {"wattmill_ledger_last_minute_timestamp_seconds": "0+0x60", SITE: "0+0x60"},
        "40m",
    ),
    "WattmillLedgerWithheld": Case(
        {"wattmill_ledger_withheld": "1+0x60", "wattmill_database_up": "1+0x60"},
        {"wattmill_ledger_withheld": "1+0x60", "wattmill_database_up": "0+0x60"},
        "20m",
    ),
    "WattmillIngestRejecting": Case(
        {"wattmill_ingest_rejected_readings_total": "0+5x60", "wattmill_ingest_readings_total": "0+100x60"},
        {"wattmill_ingest_rejected_readings_total": "0+5x60", "wattmill_ingest_readings_total": "0+1000x60"},
        "30m",
    ),
    "WattmillIngestOverloaded": Case(
        {INGEST % 200: "0+90x60", INGEST % 503: "0+10x60"}, {INGEST % 200: "0+99x60", INGEST % 503: "0+1x60"}, "30m"
    ),
    "WattmillIngestUnauthorised": Case(
        {INGEST % 401: "0+1x60"}, {INGEST % 401: "7+0x60", INGEST % 200: "0+100x60"}, "40m"
    ),
    "WattmillNodeSilent": Case(
        {NODE: "0+60x10 600+0x60"},
        {NODE: "0+60x60", SIMULATED_NODE: "0+0x60"},
        "30m",
        {"site": "ams1", "node": "gpu-1"},
    ),
    "WattmillSiteSilent": Case(
        {SITE: "0+60x10 600+0x60"}, {SITE: "0+60x60", NODE: "0+0x60"}, "30m", {"site": "ams1"}
    ),
    "WattmillCoverageLow": Case(
        {'wattmill_coverage_ratio{site="ams1", simulated="false"}': "0.9+0x60"},
        {
            'wattmill_coverage_ratio{site="ams1", simulated="false"}': "0.9+0x10 1+0x60",
            'wattmill_coverage_ratio{site="sim", simulated="true"}': "0.1+0x60",
        },
        "30m",
        {"site": "ams1"},
    ),
    "WattmillClockAhead": Case({NODE: "90+60x60"}, {NODE: "10+60x60"}, "30m", {"site": "ams1", "node": "gpu-1"}),
    "WattmillAgentDown": Case(
        {'up{job="wattmill-agent", instance="gpu-1:9477"}': "0+0x60"},
        {'up{job="wattmill-agent", instance="gpu-1:9477"}': "1+0x60", 'up{job="other"}': "0+0x60"},
        "30m",
        {"job": "wattmill-agent", "instance": "gpu-1:9477"},
    ),
    "WattmillAgentStuck": Case(
        {"wattmill_agent_last_tick_timestamp_seconds": "0+0x60", "wattmill_agent_interval_seconds": "10+0x60"},
        {"wattmill_agent_last_tick_timestamp_seconds": "-80+60x60", "wattmill_agent_interval_seconds": "10+0x60"},
        "30m",
    ),
    "WattmillAgentSourceFailing": Case(
        {'wattmill_agent_source_up{source="nvml"}': "0+0x60"},
        {'wattmill_agent_source_up{source="nvml"}': "0+0x5 1+0x60"},
        "30m",
        {"source": "nvml"},
    ),
    "WattmillAgentTicksMissed": Case(
        {"wattmill_agent_missed_ticks_total": "0+1x90", "wattmill_agent_ticks_total": "0+5x90"},
        {"wattmill_agent_missed_ticks_total": "9+0x90", "wattmill_agent_ticks_total": "0+6x90"},
        "60m",
    ),
    "WattmillAgentHeavy": Case(
        {"wattmill_agent_cpu_seconds_total": "0+3x90"},
        {"wattmill_agent_cpu_seconds_total": "0+0.3x90", "wattmill_agent_resident_memory_bytes": "31457280+0x90"},
        "80m",
    ),
    "WattmillSpoolFilling": Case(
        {"wattmill_agent_spool_oldest_pending_timestamp_seconds": "0+0x90"},
        {"wattmill_agent_spool_oldest_pending_timestamp_seconds": "-20+60x90"},
        "60m",
    ),
    "WattmillSpoolDropping": Case(
        {'wattmill_agent_spool_dropped_batches_total{instance="a", reason="age"}': "0+0x20 5+0x40"},
        {'wattmill_agent_spool_dropped_batches_total{instance="a", reason="age"}': "5+0x90"},
        "30m",
        {"instance": "a"},
    ),
    "WattmillAgentDiskFull": Case(
        {"wattmill_agent_spool_disk_full": "1+0x9"}, {"wattmill_agent_spool_disk_full": "0+0x9"}, "5m"
    ),
    "WattmillAgentParked": Case(
        {"wattmill_agent_shipper_parked": "1+0x20"}, {"wattmill_agent_shipper_parked": "1 1 0+0x20"}, "15m"
    ),
    # 1 kW and 1000 tokens/s for two days; then twice the power at equal traffic, or half the traffic at equal power.
    "WattmillEfficiencyFell": Case(
        {SERVING: f"0+60000x{TWO_DAYS} 172920000+120000x{MORE}", OUTPUT: f"0+60000x{TWO_DAYS + MORE}"},
        {SERVING: f"0+60000x{TWO_DAYS + MORE}", OUTPUT: f"0+60000x{TWO_DAYS} 172824000+24000x{MORE}"},
        f"{TWO_DAYS + 150}m",
        GROUP,
    ),
    "WattmillRegression": Case(
        {finding("regression"): "1+0x20"},
        {finding("regression", "acknowledged"): "1+0x20"},
        "10m",
        {"kind": "regression"},
    ),
    "WattmillWasteFound": Case(
        {waste("ams1", "false"): "800+0x40"},
        {
            waste("ams1", "false"): "80+0x40",
            waste("sim", "true"): "9000+0x40",
        },
        "30m",
        {"kind": "low-batch", "site": "ams1", "workload": "chat"},
    ),
    "WattmillIdleShareHigh": Case(
        {SERVING: "0+10000x300", IDLE: "0+20000x300"},
        {SERVING: "0+20000x300", IDLE: "0+10000x300", energy(', account="idle-loaded"', "true"): "0+90000x300"},
        "240m",
        {"site": "ams1"},
    ),
    "WattmillUnattributedHigh": Case(
        {SERVING: "0+10000x300", NOBODYS: "0+5000x300"},
        {SERVING: "0+10000x300", NOBODYS: "0+1000x300"},
        "180m",
        {"site": "ams1"},
    ),
    "WattmillTokensMissing": Case(
        {SERVING: "0+60000x300"}, {SERVING: "0+60000x300", OUTPUT: "0+0x300"}, "180m", GROUP
    ),
    "WattmillTelemetryUntrusted": Case(
        {finding("telemetry-untrusted"): "2+0x30"},
        {finding("telemetry-untrusted"): "0+0x30"},
        "20m",
        {"kind": "telemetry-untrusted"},
    ),
    "WattmillHardwareSlowed": Case(
        {finding("throttled"): "1+0x30", finding("straggler"): "0+0x30"},
        {finding("throttled"): "0+0x30", finding("idle-loaded"): "3+0x30"},
        "20m",
        {"kind": "throttled"},
    ),
}  # fmt: skip


def bare_rules(folder: Path) -> list[str]:
    """Both files, the alerts without annotations: promtool compares those word by word, and they are for people."""
    alerts = yaml.safe_load((RULES / "alerts.rules.yaml").read_text())
    for group in alerts["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations")
    (folder / "alerts.yaml").write_text(yaml.safe_dump(alerts))
    return [str(RULES / "recording.rules.yaml"), str(folder / "alerts.yaml")]


def run(promtool: Promtool, folder: Path, tests: list[dict[str, Any]]) -> None:
    document = {"rule_files": bare_rules(folder), "evaluation_interval": "1m", "tests": tests}
    (folder / "test.yaml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(folder / "test.yaml"))


def series(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"series": name, "values": points} for name, points in values.items()]


@pytest.mark.parametrize("name", ["recording", "alerts"])
def test_the_rules_are_well_formed(promtool: Promtool, name: str) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES / f"{name}.rules.yaml"))


def test_the_example_is_well_formed(promtool: Promtool) -> None:
    promtool("check", "config", str(RULES / "prometheus.yaml"))


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("alert", sorted(CASES))
def test_an_alert_fires_and_is_quiet(promtool: Promtool, tmp_path: Path, alert: str) -> None:
    case = CASES[alert]
    fired = [{"exp_labels": {**case.labels, **ALERTS[alert]["labels"]}}]
    looks: tuple[tuple[dict[str, str], list[dict[str, Any]]], ...] = ((case.fires, fired), (case.quiet, []))
    run(
        promtool,
        tmp_path,
        [
            {
                "interval": "1m",
                "input_series": series(values),
                "alert_rule_test": [{"eval_time": case.at, "alertname": alert, "exp_alerts": expected}],
            }
            for values, expected in looks
        ],
    )


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_says_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert re.fullmatch(r"Wattmill([A-Z][a-z]+)+|WattmillRollUpBehind", alert)
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    notes = rule["annotations"]
    assert notes["summary"]
    assert not notes["summary"].endswith(".")
    assert notes["description"].endswith(".")
    assert notes["runbook_url"] == f"docs/runbooks/{alert}.md"
    page = (ROOT / notes["runbook_url"]).read_text()
    assert page.startswith(f"# {alert}\n")
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings == ["Meaning", "Impact", "How to look", "How to fix"]
    assert all(len(part.split()) > 5 for part in page.split("\n## ")[1:]), "each part says something"


def test_every_runbook_belongs_to_an_alert_and_is_listed() -> None:
    pages = {page.stem for page in (ROOT / "docs/runbooks").glob("Wattmill*.md")}
    assert pages == set(ALERTS)
    index = (ROOT / "docs/runbooks/README.md").read_text()
    assert [alert for alert in ALERTS if f"({alert}.md)" not in index] == []


def test_replicas_are_not_added_up(promtool: Promtool, tmp_path: Path) -> None:
    """Two replicas show the same kilowatt and the same tokens: the rules see one of each, however many answer."""
    both = {
        name.replace('instance="a"', f'instance="{instance}"'): "0+60000x90"
        for name in (SERVING, OUTPUT)
        for instance in "ab"
    }
    group = "{" + chat() + "}"
    site = '{site="ams1", simulated="false"}'
    expected = {
        "workload:wattmill_energy_watts:rate5m": (group, 1000),
        "workload:wattmill_output_tokens:rate1h": (group, 1000),
        "workload:wattmill_tokens_per_kwh:ratio_rate5m": (group, 3_600_000),
        "site:wattmill_tokens_per_kwh:ratio_rate5m": (site, 3_600_000),
    }
    run(
        promtool,
        tmp_path,
        [
            {
                "interval": "1m",
                "input_series": series(both),
                "promql_expr_test": [
                    {"expr": f"round({name})", "eval_time": "80m", "exp_samples": [{"labels": labels, "value": value}]}
                    for name, (labels, value) in expected.items()
                ],
            }
        ],
    )


def test_without_traffic_there_is_no_ratio(promtool: Promtool, tmp_path: Path) -> None:
    none = {"expr": "workload:wattmill_tokens_per_kwh:ratio_rate5m", "eval_time": "30m", "exp_samples": []}
    values = {SERVING: "0+60000x60", OUTPUT: "7+0x60"}
    run(promtool, tmp_path, [{"interval": "1m", "input_series": series(values), "promql_expr_test": [none]}])


def test_the_first_batch_that_is_lost_is_seen(promtool: Promtool, tmp_path: Path) -> None:
    """Its counter was not there before, so it has no increase."""
    alert = "WattmillSpoolDropping"
    look = {"alertname": alert, "exp_alerts": [{"exp_labels": {"instance": "a", "severity": "critical"}}]}
    values = {'wattmill_agent_spool_not_taken_batches_total{instance="a", reason="disk_full"}': "_x60 1+0x60"}
    later = {"alertname": alert, "eval_time": "110m", "exp_alerts": []}
    tests = [
        {"interval": "1m", "input_series": series(values), "alert_rule_test": [{**look, "eval_time": "62m"}, later]}
    ]
    run(promtool, tmp_path, tests)


def test_rules_read_recorded_series_that_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules("recording")}
    read = {name for kind in ("recording", "alerts") for rule in rules(kind) for name in metric_names(rule["expr"])}
    assert {name for name in read if ":" in name} <= recorded
    assert read & OF_PROMETHEUS == {"up"}
