"""What the chart puts into its pods, read by the programs that run there: the agent's file, the service's variables."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import chart
from support.lookup_standin import LookupStandin
from support.processes import Service
from wattmill_api import auth, given_keys
from wattmill_api.settings import Settings, unknown_names
from wattmill_collector import settings as agent_settings

AGENTS = tuple(name for name in chart.VARIATIONS if name != "service-only")
SERVICES = tuple(name for name in chart.VARIATIONS if name != "agents-only")


def agent_file(variation: str, *more: str) -> str:
    text: str = chart.named(chart.manifests(variation, *more), "ConfigMap", "agent")["data"]["agent.yaml"]
    return text


def loaded(folder: Path, variation: str, *more: str) -> agent_settings.Settings:
    """The agent's settings from the chart's file, with the variables of its pod."""
    file = folder / "agent.yaml"
    file.write_text(agent_file(variation, *more))
    found = chart.named(chart.manifests(variation, *more), "DaemonSet")
    (container,) = found["spec"]["template"]["spec"]["containers"]
    variables = chart.environment(container)
    filled = {"WATTMILL_CONFIG": str(file), "WATTMILL_NODE": "gpu-017", "NODE_NAME": "gpu-017"}
    assert filled.keys() <= variables.keys()
    return agent_settings.load({**variables, **filled})


@pytest.mark.parametrize("variation", AGENTS)
def test_the_agent_knows_every_key_of_its_file(variation: str, tmp_path: Path) -> None:
    settings = loaded(tmp_path, variation)
    assert settings.warnings == ()
    assert settings.node == "gpu-017"
    assert settings.listen == "0.0.0.0:9477", "probes and Prometheus come from outside the pod"
    assert settings.spool.path == Path("/var/lib/wattmill")
    assert settings.spool.max_bytes == 1 << 30


def test_the_agent_posts_to_this_releases_service_or_to_the_one_that_is_named(tmp_path: Path) -> None:
    assert loaded(tmp_path, "default").server == "http://wattmill.mill.svc.cluster.local:8080"
    assert loaded(tmp_path, "everything").server == "http://mill.mill.svc.cluster.local:80"
    assert loaded(tmp_path, "agents-only").server == "https://wattmill.example"


def test_its_key_is_where_its_file_says(tmp_path: Path) -> None:
    pod = chart.named(chart.manifests(), "DaemonSet")["spec"]["template"]["spec"]
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "keys"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "keys"]
    assert loaded(tmp_path, "default").key_file == Path(mount["mountPath"]) / volume["secret"]["items"][0]["path"]


def test_a_word_that_yaml_takes_for_a_truth_value_means_what_it_says(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "agents-only")  # its values say `pods: off`
    assert settings.kubernetes.pods == "off"
    assert not settings.kubernetes.asks_api()


def test_what_is_set_in_values_arrives(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "everything")
    (engine,) = settings.engines
    assert (engine.target, engine.workload, engine.team) == ("http://10.0.0.7:8000/metrics", "chat", "search")
    assert engine.accelerators == ("0", "1")
    assert settings.interval_us == 1_000_000
    assert loaded(tmp_path, "agents-only").labels == {"hall": "3"}


def test_host_meters_are_looked_for_where_the_hosts_sys_is_mounted(tmp_path: Path) -> None:
    assert loaded(tmp_path, "default").host_root == Path("/")
    assert loaded(tmp_path, "rapl").host_root == Path("/host")
    (container,) = chart.named(chart.manifests("rapl"), "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert {"name": "host-sys", "mountPath": "/host/sys", "readOnly": True} in container["volumeMounts"]


def test_the_kubelets_socket_is_looked_for_where_its_folder_is_mounted(tmp_path: Path) -> None:
    socket = loaded(tmp_path, "pod-resources").kubernetes.socket
    (container,) = chart.named(chart.manifests("pod-resources"), "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert str(socket.parent) in [mount["mountPath"] for mount in container["volumeMounts"]]


def service_variables(variation: str, part: str = "api") -> dict[str, str]:
    (container,) = chart.named(chart.manifests(variation), "Deployment", part)["spec"]["template"]["spec"]["containers"]
    return chart.environment(container)


@pytest.mark.parametrize("variation", SERVICES)
def test_the_service_knows_every_variable_and_takes_every_value(
    variation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables = service_variables(variation)
    assert unknown_names(variables) == []
    (tmp_path / "password").write_text("p")
    if "WATTMILL_DATABASE_PASSWORD_FILE" in variables:
        variables["WATTMILL_DATABASE_PASSWORD_FILE"] = str(tmp_path / "password")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert settings.database_url.count(":p@") == int("WATTMILL_DATABASE_PASSWORD_FILE" in variables)


def test_large_numbers_stay_numbers_and_fractions_fractions() -> None:
    variables = service_variables("everything")
    assert variables["WATTMILL_INGEST_QUEUE_READINGS"] == "2000000"
    assert variables["WATTMILL_ROLL_UP_EVERY_S"] == "2.5"


@pytest.mark.parametrize(
    ("variation", "url"),
    [
        ("default", "postgresql://wattmill@wattmill-database:5432/wattmill"),
        ("cloudnativepg", "postgresql://app@wattmill-db-rw:5432/app"),
        ("managed-database", ""),  # from the Secret
    ],
)
def test_the_database_is_reached_as_the_values_say(variation: str, url: str) -> None:
    found = chart.manifests(variation)
    for name, pod in chart.pods(found):
        if not name.startswith(("Deployment", "Job")):
            continue
        (container,) = pod["containers"]
        variables = chart.environment(container)
        assert variables["WATTMILL_DATABASE_URL"] == url
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert ("/etc/wattmill/database" in mounted) == ("WATTMILL_DATABASE_PASSWORD_FILE" in variables)
        assert ("/etc/wattmill/database-ca" in mounted) == (variables.get("PGSSLMODE") == "verify-full")
    whole = [v for _, pod in chart.pods(found) for v in pod["containers"][0].get("env", []) if "valueFrom" in v]
    from_secret = [v["valueFrom"]["secretKeyRef"] for v in whole if "secretKeyRef" in v["valueFrom"]]
    assert from_secret == ([{"name": "my-database", "key": "url"}] if variation == "managed-database" else [])


def made_keys(rendered: list[chart.Manifest]) -> dict[str, str]:
    data: dict[str, str] = chart.named(rendered, "Secret", "-keys")["data"]
    return {name: base64.b64decode(text).decode() for name, text in data.items()}


class TestKeys:
    """Made by the chart, kept by it, registered by the service, opened by the test of the release."""

    def test_each_is_a_key_of_its_scope_and_no_two_installs_have_the_same(self) -> None:
        first, second = made_keys(chart.manifests()), made_keys(chart.manifests("rapl"))
        parsed = {name: auth.given_key(text) for name, text in first.items()}
        scopes = {name: key.scope for name, key in parsed.items() if key}
        assert scopes == {"agents": "ingest", "prometheus": "read", "admin": "admin"}
        assert not set(first.values()) & set(second.values())

    def test_they_stay_when_the_release_goes(self) -> None:
        for name in ("-keys", "-database"):
            about = chart.named(chart.manifests(), "Secret", name)["metadata"]
            assert about["annotations"] == {"helm.sh/resource-policy": "keep"}

    def test_an_upgrade_keeps_what_the_cluster_has_and_adds_what_it_lacks(self) -> None:
        kept = {"agents": f"wm_ingest_{secrets.token_hex(6)}_{secrets.token_hex(32)}", "admin": "mine"}
        with LookupStandin() as cluster:
            cluster.add_secret("mill", "wattmill-keys", kept)
            cluster.add_secret("mill", "wattmill-database", {"password": "kept"})
            rendered = chart.manifests("default", "--dry-run=server", "--kube-apiserver", cluster.url)
        keys = made_keys(rendered)
        assert {name: keys[name] for name in kept} == kept
        assert auth.given_key(keys["prometheus"]) is not None
        password = chart.named(rendered, "Secret", "-database")["data"]["password"]
        assert base64.b64decode(password) == b"kept"

    def test_a_secret_of_yours_is_used_and_none_is_made(self) -> None:
        found = chart.manifests("managed-database")
        assert [each for each in found if each["kind"] == "Secret"] == []
        used = {
            volume["secret"]["secretName"]
            for _, pod in chart.pods(found)
            for volume in pod.get("volumes", [])
            if volume["name"] == "keys"
        }
        assert used == {"my-keys"}

    def test_the_service_takes_them_and_the_test_of_the_release_passes(
        self, empty_database_url: str, tmp_path: Path
    ) -> None:
        folder = tmp_path / "keys"
        folder.mkdir()
        for name, text in made_keys(chart.manifests()).items():
            (folder / name).write_text(text)
        assert len(given_keys.read(folder)) == 3
        service = Service(tmp_path, empty_database_url, WATTMILL_JOBS="false", WATTMILL_GIVEN_KEYS=str(folder))
        service.start()
        try:
            service.ready()
            done = self.check(service.url, folder)
            assert done.returncode == 0, done.stdout + done.stderr
        finally:
            service.stop()

    def test_the_test_of_the_release_sees_an_open_service(self, database_url: str, tmp_path: Path) -> None:
        folder = tmp_path / "keys"
        folder.mkdir()
        for name, text in made_keys(chart.manifests()).items():
            (folder / name).write_text(text)
        service = Service(tmp_path, database_url, WATTMILL_JOBS="false")
        service.start()
        try:
            service.ready()
            done = self.check(service.url, folder, tries=1)
            assert done.returncode == 1
            assert "the service is open to everybody" in done.stdout
        finally:
            service.stop()

    @staticmethod
    def check(url: str, folder: Path, tries: int = 30) -> subprocess.CompletedProcess[str]:
        """As its pod runs it: the text as the argument of `python3 -c`."""
        container: dict[str, Any] = chart.named(chart.manifests(), "Pod", "test")["spec"]["containers"][0]
        assert container["command"] == ["python3", "-c"]
        script, server, where = container["args"]
        assert (server, where) == ("http://wattmill:8080", "/etc/wattmill/keys")
        script = script.replace("range(30)", f"range({tries})")
        return subprocess.run(
            [sys.executable, "-c", script, url, str(folder)], capture_output=True, text=True, timeout=120, check=False
        )


def test_a_spool_of_the_host_changes_its_owner_and_everything_in_it(tmp_path: Path) -> None:
    """The init container's program, run for real; giving to ourselves needs no right."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/segment").write_text("x")
    (tmp_path / "a/link").symlink_to("/etc/hostname")
    owner = chart.named(chart.manifests("all-profiles"), "DaemonSet")["spec"]["template"]["spec"]["initContainers"][0]
    wanted = 65532 if os.geteuid() == 0 else os.geteuid()
    before = os.lstat("/etc/hostname").st_uid
    subprocess.run([sys.executable, "-c", owner["args"][0], str(tmp_path), str(wanted)], check=True, timeout=30)
    for path in (tmp_path, *tmp_path.rglob("*")):
        assert path.lstat().st_uid == wanted, path
    assert os.lstat("/etc/hostname").st_uid == before
