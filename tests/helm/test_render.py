"""The chart renders: for every variation as its snapshot says, and as Kubernetes' own schemas want it.

`WATTMILL_TEST_UPDATE=1` writes the snapshots anew; a difference is read like any other change.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from support import chart

SNAPSHOTS = Path(__file__).parent / "snapshots"
# Oldest that Chart.yaml allows, those in which something that we use changed, and the newest whose schemas there are.
VERSIONS = ("1.25", "1.30", "1.34", "1.37")
# No part of Kubernetes: their schemas are the operators'.
FOREIGN = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"}
RECOMMENDED = {
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
}


@pytest.mark.parametrize("variation", chart.VARIATIONS)
def test_lint_has_nothing_against_it(variation: str) -> None:
    values = () if variation == "default" else ("--values", str(chart.CHART / f"ci/{variation}-values.yaml"))
    done = chart.helm("lint", "--strict", str(chart.CHART), *values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.parametrize("variation", chart.VARIATIONS)
def test_it_is_as_its_snapshot(variation: str) -> None:
    file = SNAPSHOTS / f"{variation}.yaml"
    now = chart.without_secrets(chart.text(variation))
    if os.environ.get("WATTMILL_TEST_UPDATE"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(now)
    then = file.read_text()
    changed = "\n".join(difflib.unified_diff(then.splitlines(), now.splitlines(), "snapshot", "now", lineterm="", n=2))
    assert not changed, f"WATTMILL_TEST_UPDATE=1 takes this as the new snapshot:\n{changed}"


def test_every_snapshot_is_of_a_variation() -> None:
    assert {file.stem for file in SNAPSHOTS.iterdir()} == set(chart.VARIATIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_this_kubernetes_takes(version: str) -> None:
    seen: set[str] = set()
    for variation in chart.VARIATIONS:
        for manifest in chart.manifests(variation, kubernetes=f"{version}.0"):
            written = yaml.safe_dump(manifest)
            if written in seen or manifest["kind"] in FOREIGN:
                continue
            seen.add(written)
            kubernetes_validate.validate(manifest, version, strict=True)
    assert len(seen) > 40


def test_a_field_that_is_misspelt_would_be_noticed() -> None:
    pod = chart.named(chart.manifests(), "DaemonSet")
    pod["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostPid"):
        kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


def test_an_old_kubernetes_is_refused_and_an_older_one_than_1_30_gets_no_sleep_before_its_end() -> None:
    assert "kubeVersion" in chart.refusal("--kube-version", "1.24.0")
    assert "preStop" not in chart.text(kubernetes="1.29.0")
    assert "preStop" in chart.text(kubernetes="1.30.0")


@pytest.mark.parametrize("variation", chart.VARIATIONS)
def test_every_object_has_the_recommended_labels_a_name_of_its_own_and_its_namespace(variation: str) -> None:
    found = chart.manifests(variation)
    for each in found:
        about = each["metadata"]
        assert set(about["labels"]) >= RECOMMENDED, about["name"]
        assert len(about["name"]) <= 63
        assert ("namespace" in about) == (not each["kind"].startswith("Cluster")), about["name"]
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("variation", chart.VARIATIONS)
def test_what_selects_pods_selects_those_of_its_own_part_only(variation: str) -> None:
    found = chart.manifests(variation)
    workloads = {e["metadata"]["name"]: e for e in found if e["kind"] in ("Deployment", "DaemonSet", "StatefulSet")}
    parts = set()
    for each in workloads.values():
        chosen, labels = each["spec"]["selector"]["matchLabels"], each["spec"]["template"]["metadata"]["labels"]
        assert chosen.items() <= labels.items()
        assert set(chosen) == {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}
        parts.add(chosen["app.kubernetes.io/component"])
    assert len(parts) == len(workloads)
    for each in found:
        if each["kind"] in ("Service", "PodDisruptionBudget", "ServiceMonitor", "PodMonitor"):
            selector = each["spec"]["selector"]
            assert selector.get("matchLabels", selector)["app.kubernetes.io/component"] in parts


def test_long_names_stay_within_what_kubernetes_takes() -> None:
    for each in chart.manifests("default", "--set", f"fullnameOverride={'m' * 60}"):
        assert len(each["metadata"]["name"]) <= 63


@pytest.mark.parametrize("variation", chart.VARIATIONS)
def test_no_pod_is_told_of_services_by_variables(variation: str) -> None:
    """A Service called wattmill would put WATTMILL_PORT=tcp://… into them, and Wattmill reads that name."""
    for name, pod in chart.pods(chart.manifests(variation)):
        assert pod["enableServiceLinks"] is False, name


@pytest.mark.parametrize("variation", chart.VARIATIONS)
def test_every_long_running_container_has_probes_and_every_container_its_resources(variation: str) -> None:
    for name, pod in chart.pods(chart.manifests(variation)):
        for container in chart.containers(pod):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
        if not name.startswith(("Pod", "Job")):
            (container,) = pod["containers"]
            assert {"livenessProbe", "readinessProbe"} <= container.keys(), name


def test_liveness_asks_nothing_of_the_database_and_readiness_does() -> None:
    for part in ("api", "jobs"):
        (container,) = chart.named(chart.manifests(), "Deployment", part)["spec"]["template"]["spec"]["containers"]
        probed = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")}
        assert set(probed.values()) == {"/healthz"}
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


class TestMigrations:
    """Before new pods, as a hook; by the pods where there is no database before them."""

    @pytest.mark.parametrize(
        ("variation", "hook", "pods_migrate"),
        [
            ("default", "post-install,pre-upgrade", "true"),
            ("cloudnativepg", "pre-install,pre-upgrade", "false"),
            ("managed-database", None, "true"),
        ],
    )
    def test_who_brings_the_schema_up_to_date(self, variation: str, hook: str | None, pods_migrate: str) -> None:
        found = chart.manifests(variation)
        jobs = [each for each in found if each["kind"] == "Job"]
        assert [job["metadata"]["annotations"]["helm.sh/hook"] for job in jobs] == ([hook] if hook else [])
        for deployment in (each for each in found if each["kind"] == "Deployment"):
            (container,) = deployment["spec"]["template"]["spec"]["containers"]
            assert chart.environment(container)["WATTMILL_MIGRATE"] == pods_migrate

    def test_before_the_first_install_the_job_needs_nothing_that_the_release_makes(self) -> None:
        found = chart.manifests("cloudnativepg")
        pod = chart.named(found, "Job")["spec"]["template"]["spec"]
        assert "serviceAccountName" not in pod
        made = {each["metadata"]["name"] for each in found}
        for volume in pod["volumes"]:
            source = volume.get("secret", volume.get("configMap", {}))
            assert source.get("secretName", source.get("name")) not in made


class TestJobs:
    """Pods of the API and of the jobs."""

    def jobs(self, variation: str) -> dict[str, str]:
        deployments = [each for each in chart.manifests(variation) if each["kind"] == "Deployment"]
        return {
            each["metadata"]["name"]: chart.environment(each["spec"]["template"]["spec"]["containers"][0])[
                "WATTMILL_JOBS"
            ]
            for each in deployments
        }

    def test_the_jobs_run_in_pods_of_their_own_or_in_those_of_the_api(self) -> None:
        assert self.jobs("default") == {"wattmill-api": "false", "wattmill-jobs": "true"}
        assert self.jobs("managed-database") == {"wattmill-api": "true"}

    def test_an_autoscaler_is_not_contradicted(self) -> None:
        found = chart.manifests("everything")
        assert "replicas" not in chart.named(found, "Deployment", "api")["spec"]
        assert chart.named(found, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "mill-api"
        assert chart.named(chart.manifests(), "Deployment", "api")["spec"]["replicas"] == 2


def test_chart_images_and_program_have_one_version() -> None:
    version = tomllib.loads((chart.ROOT / "pyproject.toml").read_text())["project"]["version"]
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (version, version)
    images = set(re.findall(r"image: (wattmill/\S+)", chart.text()))
    assert images == {f"wattmill/agent:{version}", f"wattmill/service:{version}"}


def test_a_digest_pins_an_image() -> None:
    assert f"image: registry.example/wattmill/service:0.1.0@sha256:{'0' * 64}" in chart.text("everything")


@pytest.fixture(scope="module")
def with_notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes in a ConfigMap: `helm template` leaves notes out, and installing needs a cluster."""
    copy = tmp_path_factory.mktemp("chart") / "wattmill"
    shutil.copytree(chart.CHART, copy)
    notes = copy / "templates/NOTES.txt"
    (copy / "templates/_notes.tpl").write_text(f'{{{{ define "notes" }}}}{notes.read_text()}{{{{ end }}}}')
    (copy / "templates/notes.yaml").write_text('kind: Notes\nsaid: |\n  {{- include "notes" . | nindent 2 }}\n')
    notes.unlink()
    return copy


@pytest.mark.parametrize("variation", chart.VARIATIONS)
def test_the_notes_say_what_to_do_next(with_notes: Path, variation: str) -> None:
    values = () if variation == "default" else ("--values", str(chart.CHART / f"ci/{variation}-values.yaml"))
    done = chart.helm(
        "template", "mine", str(with_notes), "--namespace", "mill", "--show-only", "templates/notes.yaml", *values
    )
    assert done.returncode == 0, done.stderr
    notes = yaml.safe_load(done.stdout)["said"]
    assert "Wattmill 0.1.0" in notes
    assert ("helm --namespace mill test mine" in notes) == (variation != "agents-only")
    assert ("wattmill doctor" in notes) == (variation != "service-only")
    assert ("kubectl label namespace mill" in notes) == (variation not in chart.RESTRICTED)
    assert ("unattributed" in notes) == (variation in chart.RESTRICTED and variation != "service-only")
