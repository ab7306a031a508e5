"""The compose file: everything it names is there, nothing in it may do more than it needs, and its files work.

Docker itself is not run here. What it would hand to the programs (files, variables, SQL) is given to them for real.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from fix_promtool import Promtool
from support.deployed import ROOT, RULES
from wattmill_api import given_keys, migrate
from wattmill_api.settings import Settings, unknown_names
from wattmill_collector import settings as agent_settings

FOLDER = ROOT / "deploy/compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# Of the Compose specification, what is used here: another key is a misspelt one, or one to think about.
KEYS = """
    build cap_drop command depends_on deploy entrypoint environment extra_hosts healthcheck image logging networks ports
    profiles read_only restart secrets security_opt shm_size stop_grace_period tmpfs user uts volumes
"""
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def filled(text: str) -> str:
    """As compose fills in the defaults."""
    return VARIABLE.sub(lambda found: found[2] or "", text)


def variables(service: str) -> dict[str, str]:
    return {name: filled(value) for name, value in SERVICES[service]["environment"].items()}


def test_every_key_is_one_of_the_specification() -> None:
    assert {key for key in COMPOSE if not key.startswith("x-")} == {
        "name",
        "services",
        "networks",
        "volumes",
        "secrets",
    }
    for name, service in SERVICES.items():
        assert service.keys() <= set(KEYS.split()), name


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_is_root_or_may_do_anything_more(name: str) -> None:
    service = SERVICES[name]
    assert not service["user"].startswith(("0", "root"))
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "pid", "network_mode", "ipc", "devices"}
    for volume in service["volumes"]:
        source, _, rest = volume.partition(":")
        assert not source.startswith("/"), "no path of the host"
        assert rest.endswith(":ro") or source in COMPOSE["volumes"], "what is not a volume is read-only"


def test_what_is_named_is_there() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys(), name
        assert set(service["networks"]) <= COMPOSE["networks"].keys(), name
        assert set(service.get("depends_on", {})) <= SERVICES.keys(), name
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith(".") and not source.startswith("./secrets"):
                assert (FOLDER / source).exists(), source
            elif not source.startswith("."):
                assert source in COMPOSE["volumes"], source
        secret_files = set(re.findall(r"/run/secrets/(\w+)", yaml.safe_dump(service)))
        assert secret_files <= set(service.get("secrets", [])), name


def test_what_starts_without_a_profile_is_the_database_and_the_service() -> None:
    plain = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert plain == {"database", "service"}
    assert SERVICES["agent"]["profiles"] == ["gpu"]
    assert {name for name, s in SERVICES.items() if s.get("profiles") == ["observability"]} == {"prometheus", "grafana"}


def test_the_database_has_no_way_out_and_its_neighbours_are_named() -> None:
    assert COMPOSE["networks"]["database"]["internal"] is True
    assert SERVICES["database"]["networks"] == ["database"]
    assert "ports" not in SERVICES["database"]
    assert {n for n, s in SERVICES.items() if "database" in s["networks"]} == {"database", "service", "grafana"}


def test_it_listens_on_this_host_only_unless_told_otherwise() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert filled(port).startswith("127.0.0.1:")


def test_every_variable_stands_in_the_example_with_its_default() -> None:
    used = dict(VARIABLE.findall((FOLDER / "compose.yaml").read_text()))
    example = dict(re.findall(r"^#(\w+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE))
    assert example == used


def test_images_are_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in ("service", "agent"):
        assert filled(SERVICES[name]["image"]) == f"wattmill/{name}:{version}"
        assert SERVICES[name]["build"]["target"] == name


def test_the_agent_asks_for_every_gpu() -> None:
    (device,) = SERVICES["agent"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu", "utility"]}


def test_the_service_knows_its_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = variables("service")
    assert unknown_names(given) == []
    (tmp_path / "password").write_text("p")
    for name, value in (given | {"WATTMILL_DATABASE_PASSWORD_FILE": str(tmp_path / "password")}).items():
        monkeypatch.setenv(name, value)
    assert Settings().database_url == "postgresql://wattmill:p@database:5432/wattmill"


def test_the_agent_knows_its_file() -> None:
    settings = agent_settings.load({**variables("agent"), "WATTMILL_CONFIG": str(FOLDER / "agent.yaml")})
    assert settings.warnings == ()
    assert settings.server == "http://service:8080"
    assert settings.key_file == Path("/run/secrets/agents_key")
    assert "agents_key" in SERVICES["agent"]["secrets"]


class TestSecrets:
    """`./make-secrets`, run."""

    @pytest.fixture
    def made(self, tmp_path: Path) -> Path:
        shutil.copy(FOLDER / "make-secrets", tmp_path)
        self.run(tmp_path)
        return tmp_path / "secrets"

    @staticmethod
    def run(folder: Path) -> str:
        elsewhere = {**os.environ, "PATH": "/usr/bin:/bin"}
        program = str(folder / "make-secrets")
        done = subprocess.run([program], cwd="/", env=elsewhere, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    def test_it_makes_every_file_that_compose_reads(self, made: Path) -> None:
        for name, secret in COMPOSE["secrets"].items():
            assert (made.parent / secret["file"]).stat().st_size > 40, name

    def test_the_service_takes_the_keys(self, made: Path) -> None:
        keys = {name: key.scope for name, key in given_keys.read(made / "keys")}
        assert keys == {"admin": "admin", "agents": "ingest", "prometheus": "read"}

    def test_once_made_they_stay(self, made: Path) -> None:
        before = {file: file.read_text() for file in made.rglob("*") if file.is_file()}
        (made / "keys/prometheus").unlink()
        assert self.run(made.parent) == "made secrets/keys/prometheus\n"
        after = {file: file.read_text() for file in made.rglob("*") if file.is_file()}
        changed = {file.name for file in after if after[file] != before[file]}
        assert changed == {"prometheus"}
        assert len(set(after.values())) == len(after)

    def test_containers_may_read_them_and_other_people_of_the_host_may_not(self, made: Path) -> None:
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        for file in made.rglob("*"):
            assert stat.S_IMODE(file.stat().st_mode) == (0o755 if file.is_dir() else 0o444)

    def test_git_leaves_them_alone(self) -> None:
        ignored = (ROOT / ".gitignore").read_text().splitlines()
        assert {"/deploy/compose/secrets/", "/deploy/compose/.env"} <= set(ignored)


def test_grafanas_login_sees_the_views_and_nothing_else(empty_database_url: str) -> None:
    """The SQL of the script, run before the schema is there, as at the first start."""
    statements = (FOLDER / "grafana-login.sh").read_text().partition("<<'SQL'\n")[2].partition("SQL\n")[0]
    statements = statements.replace(":'password'", "'of the test'")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        # Roles are the whole server's: another test's schema may have made this one.
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'wattmill_read'").fetchone():
            statements = statements.replace("CREATE ROLE wattmill_read NOLOGIN;\n", "")
        connection.execute(statements.encode())
        try:
            migrate.migrate(empty_database_url)
            connection.execute("SET ROLE grafana")
            connection.execute("SELECT * FROM wattmill_v1_ledger_minute WHERE time > now() LIMIT 1")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT * FROM api_key")
        finally:
            connection.execute("RESET ROLE")
            connection.execute("DROP ROLE grafana")


def test_prometheus_takes_its_configuration(promtool: Promtool, tmp_path: Path) -> None:
    for file in (FOLDER / "prometheus.yaml", *RULES.glob("*.rules.yaml")):
        shutil.copy(file, tmp_path)
    (tmp_path / "key").write_text("wm_read_")
    config = tmp_path / "prometheus.yaml"
    config.write_text(config.read_text().replace("/run/secrets/prometheus_key", str(tmp_path / "key")))
    assert "SUCCESS" in promtool("check", "config", str(config))
    jobs = [each["job_name"] for each in yaml.safe_load(config.read_text())["scrape_configs"]]
    assert jobs == ["wattmill", "wattmill-agent"], "the names that the alerts ask for"


def test_grafanas_sources_have_the_uids_that_deploy_gives_them() -> None:
    def sources(path: Path) -> dict[str, tuple[str, str]]:
        found = yaml.safe_load(path.read_text())["datasources"]
        return {each["uid"]: (each["type"], each["name"]) for each in found}

    ours = sources(FOLDER / "datasources.yaml")
    assert ours == sources(ROOT / "deploy/grafana/provisioning/datasources/wattmill.yaml")
