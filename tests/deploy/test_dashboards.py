"""Dashboards and rules against what there really is: live pages, Prometheus' own engine, a real database."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from fix_promtool import Promtool
from support.deployed import DASHBOARDS, OF_PROMETHEUS, ROOT, RULES, dashboard, metric_names, panels, rules, targets
from support.fake_clock import START_US, FakeClock
from support.mill import Node
from wattmill_api import accounting
from wattmill_api.app import create_app
from wattmill_api.settings import Settings
from wattmill_api.store import exposition, jobs
from wattmill_api.store.ingest import Interner
from wattmill_collector.agent import Agent
from wattmill_collector.errors import Broken
from wattmill_collector.health import Health
from wattmill_collector.log import Throttle
from wattmill_collector.reader import Reader
from wattmill_collector.shipper import Shipper
from wattmill_collector.spool import Spool, SpoolStats
from wattmill_collector.transport import Answer
from wattmill_collector.wire import HostReading, NodeHeader, Reading

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def service_page(connection: psycopg.Connection[Any], database_url: str) -> str:
    """/metrics of a service with a busy node, an idle one, findings and jobs."""
    node = Node("gpu-1", site="ams1")
    node.board("GPU-a")
    node.board("GPU-b", processes=0, memory_used_bytes=0)
    node.engine("http://e/metrics", ["GPU-a"], running=1)
    node.tick(seconds=0)
    for i in range(60):
        host = HostReading(domain="package-0", epoch=1, energy_uj=10**9 * (i + 1))
        node.tick(energy={"GPU-a": 4_000_000, "GPU-b": 700_000}, tokens={"http://e/metrics": (50, 20, 30)}, host=[host])
    node.post(connection, Interner())
    while accounting.roll_up(connection):
        pass
    now = EPOCH + dt.timedelta(microseconds=node.time_us)
    connection.execute(
        "INSERT INTO finding (kind, subject, site, workload, since, last_seen, energy_mj, mj_per_day, evidence,"
        " summary, remedy) VALUES ('low-batch', 'engine:e', 'ams1', 'chat', %s, %s, 5000, 86400000, '{}', 's', 'r')",
        (now, now),
    )
    exposition.count_findings(connection, now)
    for job in ("roll-up", "verify"):
        jobs.began(connection, job)
        jobs.ended(connection, job, True, "")
    app = create_app(Settings(database_url=database_url, jobs=False), unknown_settings=["WATTMILL_X"])
    app.state.now = lambda: now + dt.timedelta(minutes=2)
    with TestClient(app) as client:
        client.get("/healthz")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.text


class Away:
    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        raise ConnectionRefusedError("refused")


@pytest.fixture
def agent_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """/metrics of an agent with a source that can't be read, and batches that were lost."""
    clock, node = FakeClock(), NodeHeader(name="gpu-1", site="ams1")
    throttle = Throttle(clock)

    def broken() -> Reading:
        raise Broken("Permission denied.")

    spool = Spool.open(tmp_path / "spool", clock=clock, host="test")
    readers = [Reader("nvml", "accelerator", broken, clock, throttle, wanted=True)]  # type: ignore[arg-type]
    agent = Agent(readers, spool, clock, node, throttle)
    agent.tick(START_US)
    stats = spool.stats

    def with_losses(_: Spool) -> SpoolStats:
        return dataclasses.replace(stats(), dropped={"dropped_max_age": 3}, not_taken={"disk_full": 1})

    monkeypatch.setattr(Spool, "stats", with_losses)
    return Health(agent, spool, Shipper(spool, Away(), clock), clock, node).metrics()


def families(page: str) -> list[Metric]:
    return list(text_string_to_metric_families(page))


@pytest.mark.parametrize("page", ["service_page", "agent_page"])
def test_the_page_is_as_prometheus_wants_it(promtool: Promtool, page: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(page)
    said = promtool("check", "metrics", text=text)
    assert said.strip() == ""
    names = [family.name for family in families(text)]
    assert len(names) == len(set(names))


def exposed(*pages: str) -> set[str]:
    """Every name that a query may use: of families, whether or not they have a sample."""
    names = set()
    for page in pages:
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
            names |= {name} if kind != "histogram" else {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def test_rules_and_dashboards_use_what_there_is(service_page: str, agent_page: str) -> None:
    known = exposed(service_page, agent_page) | {rule["record"] for rule in rules("recording")} | OF_PROMETHEUS
    used = {name: rule["alert"] for rule in rules("alerts") for name in metric_names(rule["expr"])}
    used |= {name: rule["record"] for rule in rules("recording") for name in metric_names(rule["expr"])}
    for path in DASHBOARDS:
        for title, expression in targets(dashboard(path), "prometheus"):
            assert metric_names(expression), f"{path.name}, {title}: {expression}"
            used |= dict.fromkeys(metric_names(expression), f"{path.name}, {title}")
    assert {name: where for name, where in used.items() if name not in known} == {}


def test_rules_and_dashboards_name_labels_that_there_are(service_page: str, agent_page: str) -> None:
    samples = [sample for page in (service_page, agent_page) for family in families(page) for sample in family.samples]
    known = {"job", "instance", "__name__"}.union(*(sample.labels for sample in samples))
    texts = [str(rule) for kind in ("recording", "alerts") for rule in rules(kind)]
    texts += [path.read_text() for path in DASHBOARDS]
    used: set[str] = set()
    for text in texts:
        for names in re.findall(r"\b(?:by|on|without) \(([\w, ]*)\)", text):
            used |= {name.strip() for name in names.split(",") if name.strip()}
        used |= set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text))
        used |= set(re.findall(r"""(\w+)(?:=~|!=|!~|=)\\?["']""", text))
    assert used - known == set()


def promql(expression: str) -> str:
    """As Grafana would send it; `.+` is stricter than its `.*`: a label that is not there matches nothing."""
    for name, value in {"$__rate_interval": "5m", "$__range": "1h"}.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$(site|workload|instance|simulated)\b", ".+", expression)


def test_every_panel_shows_something(promtool: Promtool, service_page: str, agent_page: str, tmp_path: Path) -> None:
    """In Prometheus' own engine, on the series of live pages: names, labels and joins are right."""
    series = []
    for job, page in (("wattmill", service_page), ("wattmill-agent", agent_page)):
        for family in families(page):
            rises = 60 if family.type in ("counter", "histogram") else 0
            for sample in family.samples:
                labels = {**sample.labels, "job": job, "instance": f"{job}:1"}
                inside = ", ".join(f"{name}={json.dumps(value)}" for name, value in labels.items() if value)
                value = 0 if rises else sample.value
                series.append({"series": f"{sample.name}{{{inside}}}", "values": f"{value}+{rises}x90"})
    asked = [
        (f"{path.stem}: {title}", promql(expression))
        for path in DASHBOARDS
        for title, expression in targets(dashboard(path), "prometheus")
        if not expression.startswith("label_values(")
    ]
    document = {
        "rule_files": [str(RULES / "recording.rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": f"count({expression}) > bool 0",
                        "eval_time": "80m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                    for _, expression in asked
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(tmp_path / "test.yaml"))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_sql_query_runs(service_page: str, connection: psycopg.Connection[Any], path: Path) -> None:
    """As the reader that Grafana is, with its macros filled in; each one is bound in time and finds something."""
    connection.execute("SET ROLE wattmill_read")
    for title, query in targets(dashboard(path), "postgres"):
        assert "wattmill_v1_" in query
        bound = "$__timeFilter(" in query or "node_status" in query
        assert bound, f"{title}: {query}"
        statement = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN '2025-01-01' AND '2027-01-01'", query)
        statement = statement.replace("${site:sqlstring}", "'ams1'")
        assert "$" not in statement, f"{title}: a variable or macro that this test does not know: {statement}"
        found = connection.execute(statement.encode()).fetchall()
        assert found or "phase_day" in query, f"{title} is empty"


def test_there_are_four_dashboards_and_all_are_told_apart() -> None:
    uids = [dashboard(path)["uid"] for path in DASHBOARDS]
    assert uids == ["wattmill-agents", "wattmill-fleet", "wattmill-ledger", "wattmill-workload"]
    readme = (ROOT / "deploy/grafana/README.md").read_text()
    assert all(f"`{uid}`" in readme for uid in uids)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_sound(path: Path) -> None:
    document = dashboard(path)
    assert path.stem == document["uid"].removeprefix("wattmill-")
    assert document["description"]
    assert document["tags"] == ["wattmill"]
    everything = panels(document)
    assert len({panel["id"] for panel in everything}) == len(everything)
    variables = {variable["name"]: variable["type"] for variable in document["templating"]["list"]}
    for panel in everything:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"]
        assert defaults["noValue"] in ("No traffic", "No data")
        if defaults["noValue"] == "No traffic":
            special = [mapping["options"] for mapping in defaults["mappings"] if mapping["type"] == "special"]
            assert [(each["match"], each["result"]["text"]) for each in special] == [("null+nan", "No traffic")]
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert variables[source["uid"].removeprefix("${").removesuffix("}")] == "datasource"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for one, other in combinations([panel["gridPos"] for panel in everything], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    text = json.dumps(document)
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__range", "__timeFilter", "__all", "1"}
    assert used <= set(variables)
    assert "http://" not in text
    assert "https://" not in text


def test_provisioning_names_what_is_there() -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    sources = yaml.safe_load((folder / "datasources/wattmill.yaml").read_text())["datasources"]
    assert {source["type"] for source in sources} == {"prometheus", "grafana-postgresql-datasource"}
    kinds = {
        variable["query"]
        for path in DASHBOARDS
        for variable in dashboard(path)["templating"]["list"]
        if variable["type"] == "datasource"
    }
    assert kinds == {source["type"] for source in sources}
    (provider,) = yaml.safe_load((folder / "dashboards/wattmill.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] in (ROOT / "deploy/grafana/README.md").read_text()
