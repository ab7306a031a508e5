"""Values: closed, documented line by line, and those of Wattmill's own settings are its settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support import chart
from wattmill_api.settings import Settings
from wattmill_collector.kubelet.settings import KubernetesSettings

VALUES = (chart.CHART / "values.yaml").read_text()
DEFAULTS: dict[str, Any] = yaml.safe_load(VALUES)
SCHEMA: dict[str, Any] = json.loads((chart.CHART / "values.schema.json").read_text())
# Objects of Kubernetes' own, passed on as they are; their fields are judged by Kubernetes.
KUBERNETES_OWN = {
    "definitions.objects.items",
    "definitions.affinity.properties.nodeAffinity",
    "definitions.affinity.properties.podAffinity",
    "definitions.affinity.properties.podAntiAffinity",
    "definitions.peers.items.properties.podSelector",
    "definitions.peers.items.properties.namespaceSelector",
    "properties.global",
    *(
        f"properties.{part}.properties.{name}.items"
        for part in ("service", "agent")
        for name in ("extraEnv", "extraVolumes", "extraVolumeMounts")
    ),
}


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of an object, with its path."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path.removeprefix("."), schema
        for name, inner in schema.items():
            yield from objects(inner, f"{path}.{name}")


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = SCHEMA["definitions"][name] if name else schema
    return found


def test_the_schema_is_closed_at_every_level() -> None:
    found = dict(objects(SCHEMA))
    assert len(found) > 50
    for path, schema in found.items():
        if path not in KUBERNETES_OWN:
            assert schema.get("additionalProperties") in (False, {"type": "string"}), path
    assert found.keys() >= KUBERNETES_OWN


@pytest.mark.parametrize(
    "key",
    [
        "agnet.enabled=true",
        "agent.profile=rapl",
        "agent.config.intervall=10s",
        "agent.config.kubernetes.pod_resource=on",
        "agent.image.tags=1",
        "agent.resources.limit.memory=1Gi",
        "agent.resources.limits.memroy=1Gi",
        "service.api.replica=2",
        "service.api.autoscaling.minReplica=2",
        "service.settings.currancy=EUR",
        "database.bundled.storage.sise=1Gi",
        "database.external.passwordSecret.nmae=x",
        "networkPolicy.enable=true",
        "monitoring.serviceMonitor.enable=true",
        "keys.existingsecret=x",
    ],
)
def test_a_key_that_is_misspelt_fails_with_its_name(key: str) -> None:
    said = chart.refusal("--set-string", key)
    wrong = next(part for part in key.partition("=")[0].split(".") if f"property {part} " in said)
    assert f"Additional property {wrong} is not allowed" in said


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("service.api.replicas=0", "service.api.replicas"),
        ("service.settings.currency=euro", "service.settings.currency"),
        ("agent.config.interval=7s", "agent.config.interval"),
        ("agent.image.repository=Wattmill", "agent.image.repository"),
        ("agent.resources.limits.memory=much", "agent.resources.limits.memory"),
        ("agent.spool.hostPath=var/lib", "agent.spool.hostPath"),
        ("agent.server=wattmill:8080", "agent.server"),
        ("database.external.url=postgresql://me:hunter2@db/wattmill", "database.external.url"),
        ("networkPolicy.webhooks.cidrs={everywhere}", "networkPolicy.webhooks.cidrs.0"),
        ("monitoring.podMonitor.interval=often", "monitoring.podMonitor.interval"),
    ],
)
def test_a_value_that_can_not_be_is_refused_with_its_path(value: str, path: str) -> None:
    assert f"- {path}:" in chart.refusal("--set", value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["service.enabled=false", "keys.existingSecret=k"], "agent.server: must be the address of the service"),
        (["service.enabled=false", "agent.server=http://w"], "keys.existingSecret: must name a Secret"),
        (["database.bundled.enabled=false"], "database.external: url or urlSecret.name must say where"),
        (["service.ingress.enabled=true"], "service.ingress.host: must be the name"),
        (["service.gateway.enabled=true"], "service.gateway.parentRefs: must name a gateway"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_a_sentence(options: list[str], sentence: str) -> None:
    assert sentence in chart.refusal(*(part for option in options for part in ("--set", option)))


def test_every_key_of_the_schema_has_a_default_and_every_default_is_in_the_schema() -> None:
    def same(values: Any, schema: dict[str, Any], path: str) -> None:
        schema = resolved(schema)
        if "properties" not in schema or not isinstance(values, dict):
            return
        named = schema["properties"].keys() - {"global"}
        if path.endswith(("resources", "requests", "limits", "affinity")):
            assert values.keys() <= named, path
        else:
            assert values.keys() == named, path
        for name, value in values.items():
            same(value, schema["properties"][name], f"{path}.{name}")

    same(DEFAULTS, SCHEMA, "values")


def test_every_key_has_its_sentence() -> None:
    """A comment on the line before; mappings whose keys all have one need none of their own."""
    lines = VALUES.splitlines()
    for number, line in enumerate(lines):
        key = re.match(r"( *)[A-Za-z_]+:(.*)", line)
        if key is None or key[2].strip() == "":
            continue
        indent = len(key[1])
        above = lines[number - 1].strip()
        if above.startswith("#"):
            continue
        parent = next(one for one in reversed(lines[:number]) if len(one) - len(one.lstrip()) < indent and one.strip())
        assert re.search(r"(requests|limits|resources|labels|requiredDuring\w+|nodeAffinity):?", parent + line), (
            f"values.yaml line {number + 1} says nothing of {line.strip()}"
        )


class TestSettings:
    """What values call by the names of Wattmill's own settings is what they mean there."""

    SET_BY_THE_CHART = {  # noqa: RUF012  # never changed
        "database_url",
        "database_password_file",
        "host",
        "port",
        "jobs",
        "migrate",
        "given_keys",
        "external_url",
        "runbooks_url",
        "webhook_allow",
        "webhook_secret",
        "webhook_secrets",
    }

    def test_every_setting_of_the_service_is_a_value_with_the_same_default(self) -> None:
        fields = {name: field.default for name, field in Settings.model_fields.items()}
        values = DEFAULTS["service"]["settings"]
        assert values.keys() == fields.keys() - self.SET_BY_THE_CHART
        assert values == {name: fields[name] for name in values}

    def test_its_limits_are_the_services(self) -> None:
        properties = Settings.model_json_schema()["properties"]
        for name, limits in SCHEMA["properties"]["service"]["properties"]["settings"]["properties"].items():
            if "enum" in limits:
                assert properties[name]["pattern"] == f"^({'|'.join(limits['enum'])})$"
                continue
            for limit in ("minimum", "maximum", "exclusiveMinimum", "pattern", "type"):
                assert limits.get(limit) == properties[name].get(limit), (name, limit)

    def test_the_rules_for_pods_are_the_agents_own(self) -> None:
        given, own = DEFAULTS["agent"]["config"]["kubernetes"], KubernetesSettings()
        assert (given["pod_resources"], given["pods"], given["selector"]) == (own.pod_resources, own.pods, own.selector)
        for name in ("workload", "team", "model"):
            assert tuple(given[name]) == getattr(own, name)
        for name, value in given["metrics"].items():
            default = getattr(own, name)
            assert (tuple(value) if isinstance(default, tuple) else value) == default


class TestPage:
    """docs/install/kubernetes.md says what the chart does."""

    PAGE = (chart.ROOT / "docs/install/kubernetes.md").read_text()

    def test_it_has_every_profile_with_what_it_adds(self) -> None:
        profiles = SCHEMA["properties"]["agent"]["properties"]["profiles"]["items"]["enum"]
        assert re.findall(r"^\| `([a-z-]+)` \| .* \| user 0;", self.PAGE, re.MULTILINE) == profiles

    def test_it_has_every_policy(self) -> None:
        policies = {
            each["metadata"]["name"].partition("-")[2]
            for variation in chart.VARIATIONS
            for each in chart.manifests(variation)
            if each["kind"] == "NetworkPolicy"
        }
        table = self.PAGE.partition("| policy |")[2].partition("\n\n")[0]
        assert set(re.findall(r"`([a-z-]+-(?:to|from)-[a-z-]+)`", table)) == policies - {"default-deny"}

    def test_every_value_that_it_names_there_is(self) -> None:
        tops = "|".join(DEFAULTS)
        for name in re.findall(rf"`((?:{tops})(?:\.\w+)+)", self.PAGE):
            value: Any = DEFAULTS
            for part in name.split("."):
                assert part in value, name
                value = value[part]

    def test_every_file_that_it_links_there_is(self) -> None:
        for page in (self.PAGE, (chart.ROOT / "docs/install/compose.md").read_text()):
            for link in re.findall(r"\]\(([^)#:]+)\)", page):
                assert (chart.ROOT / "docs/install" / link).exists(), link
