"""The verbs of the service as processes: `serve`, `up`, `key`, `migrate`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.postgres import Postgres
from support.processes import PACKAGES, Program, Service, eventually, free_port
from wattmill_api import commands


def wattmill(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WATTMILL_")}
    return subprocess.run(
        [sys.executable, "-m", "wattmill_collector.cli", *arguments],
        env={**clean, "PYTHONPATH": PACKAGES, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def status(url: str, key: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def rows(url: str) -> list[dict[str, Any]]:
    import json

    with urllib.request.urlopen(url, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["rows"]
        return found


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that the user nobody may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="wattmill-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class TestUp:
    """Everything on this host."""

    @pytest.fixture
    def port(self) -> int:
        return free_port()

    @pytest.fixture
    def up(self, data: Path, port: int) -> Iterator[Program]:
        program = Program(data / "up.log", "up", "--port", str(port), "--data", str(data / "kept"), "--simulate", "1")
        yield program
        program.stop()

    def test_figures_come_a_stop_leaves_nobody_and_the_next_up_continues(
        self, up: Program, data: Path, port: int
    ) -> None:
        address = f"http://127.0.0.1:{port}"
        question = f"{address}/api/v1/efficiency?by=workload&scope=accelerator"
        up.start()
        eventually(lambda: status(f"{address}/readyz") == 200, 120, up.text())
        first = eventually(
            lambda: [row for row in rows(question) if row["tokens_per_kwh"] is not None], 60, "figures within a minute"
        )
        assert all(row["simulated"] for row in first)
        said = up.text()
        assert f"Wattmill is up: {address}" in said
        assert "simulated" in said
        assert "open" in said
        assert status(f"{address}/") == 200

        assert up.process is not None
        family = psutil.Process(up.process.pid).children(recursive=True)
        assert len(family) > 3
        begun = time.monotonic()
        os.killpg(up.process.pid, signal.SIGINT)
        assert up.process.wait(15) == 0
        assert time.monotonic() - begun < 10
        assert [process for process in family if process.is_running() and process.status() != "zombie"] == []

        up.start()
        eventually(lambda: status(f"{address}/readyz") == 200, 120, up.text())
        assert {row["group"]["workload"] for row in first} <= {row["group"]["workload"] for row in rows(question)}

    def test_a_key_closes_the_service_and_the_readings_keep_coming(self, up: Program, data: Path, port: int) -> None:
        address = f"http://127.0.0.1:{port}"
        up.start()
        eventually(lambda: "Wattmill is up" in up.text(), 120, "up")
        made = wattmill("key", "create", "--scope", "read", "--name", "me", WATTMILL_DATA=str(data / "kept"))
        assert made.returncode == 0, made.stderr
        key = made.stdout.strip()
        eventually(lambda: status(f"{address}/api/v1/nodes") == 401, 30, "closed")
        assert status(f"{address}/api/v1/nodes", key) == 200
        eventually(lambda: "this host's readings use" in up.text(), 30, up.text())
        assert (data / "kept" / "ingest.key").stat().st_mode & 0o077 == 0

    def test_a_killed_part_comes_back(self, up: Program, port: int) -> None:
        address = f"http://127.0.0.1:{port}"
        up.start()
        eventually(lambda: "Wattmill is up" in up.text(), 120, "up")
        assert up.process is not None
        for child in psutil.Process(up.process.pid).children():
            child.kill()
        eventually(lambda: up.text().count("was killed by signal 9") == 3, 30, up.text())
        eventually(lambda: status(f"{address}/readyz") == 200, 60, up.text())

    def test_a_port_that_is_taken_is_named(self, data: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            done = wattmill("up", "--port", str(port), "--data", str(data / "kept"))
        assert done.returncode == 2
        assert f"127.0.0.1:{port} can't be listened on" in done.stdout
        assert "--port" in done.stdout

    @pytest.mark.parametrize("nodes", ["many", "-1", "1.5", "10001"])
    def test_a_wrong_number_of_nodes_is_named(self, nodes: str) -> None:
        done = wattmill("up", f"--simulate={nodes}")
        assert done.returncode == 2
        assert "--simulate: must be a number of nodes" in done.stderr


class TestServe:
    """API and jobs."""

    def test_a_database_that_comes_later_is_waited_for(self, own_postgres: Postgres, tmp_path: Path) -> None:
        from support import postgres as servers

        url = own_postgres.url(servers.create_database(own_postgres))
        own_postgres.stop()
        service = Service(tmp_path, url, WATTMILL_JOBS="false")
        service.start()
        try:
            eventually(lambda: status(f"{service.url}/healthz") == 200, 60, "alive without a database")
            assert status(f"{service.url}/readyz") == 503
            own_postgres.start()
            eventually(lambda: status(f"{service.url}/readyz") == 200, 60, service.text())
            assert service.stop() == 0
        finally:
            service.kill()

    def test_without_a_database_it_says_what_it_needs(self) -> None:
        done = wattmill("serve")
        assert done.returncode == 2
        assert "--database-url" in done.stderr

    def test_a_value_that_is_wrong_is_named(self) -> None:
        done = wattmill("serve", "--port", "eighty", "--database-url", "postgresql://127.0.0.1:1/nowhere")
        assert done.returncode == 2
        assert "--port (or WATTMILL_PORT)" in done.stderr

    def test_a_schema_that_was_tampered_with_is_refused(self, database_url: str, tmp_path: Path) -> None:
        import psycopg

        with psycopg.connect(database_url) as connection:
            connection.execute("UPDATE schema_migration SET sha256 = '\\x00' WHERE number = 1")
        done = wattmill("serve", "--port", str(free_port()), "--database-url", database_url, "--no-jobs")
        assert done.returncode == 2
        assert "changed after it was applied" in done.stderr

    def test_an_unknown_variable_is_reported(self, empty_database_url: str) -> None:
        done = wattmill("migrate", "--database-url", empty_database_url, WATTMILL_PROT="8080")
        assert done.returncode == 0
        assert "WATTMILL_PROT" in done.stderr


class TestKey:
    """Keys by command."""

    def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(self, database_url: str) -> None:
        made = wattmill("key", "create", "--scope", "admin", "--name", "me", WATTMILL_DATABASE_URL=database_url)
        assert made.returncode == 0, made.stderr
        key = made.stdout.strip()
        listed = wattmill("key", "list", WATTMILL_DATABASE_URL=database_url).stdout
        key_id = key.split("_")[2]
        assert key_id in listed
        assert "admin" in listed
        assert key.split("_")[3] not in listed
        assert "revoked" not in listed
        assert wattmill("key", "revoke", key_id, WATTMILL_DATABASE_URL=database_url).returncode == 0
        assert "revoked" in wattmill("key", "list", WATTMILL_DATABASE_URL=database_url).stdout

    def test_a_key_of_teams_is_listed_with_them_and_only_reads(self, database_url: str) -> None:
        reads = ("key", "create", "--scope", "read", "--team", "search", "--team", "ads")
        made = wattmill(*reads, "--team", "ads", WATTMILL_DATABASE_URL=database_url)
        assert made.returncode == 0, made.stderr
        assert (
            wattmill(
                "key", "create", "--scope", "read", WATTMILL_DATABASE_URL=database_url, WATTMILL_TEAM="t"
            ).returncode
            == 0
        )
        listed = wattmill("key", "list", WATTMILL_DATABASE_URL=database_url).stdout
        assert ["ads, search" in listed, " t " in listed] == [True, True]
        for scope in ("admin", "ingest"):
            refused = wattmill("key", "create", "--scope", scope, "--team", "ads", WATTMILL_DATABASE_URL=database_url)
            assert refused.returncode == 2
            assert "only a key of scope read" in refused.stderr
        empty = wattmill("key", "create", "--scope", "read", "--team", "", WATTMILL_DATABASE_URL=database_url)
        assert (empty.returncode, empty.stdout) == (2, "")
        assert "must be the name of a team" in empty.stderr

    def test_a_key_that_is_not_there_cannot_be_revoked(self, database_url: str) -> None:
        done = wattmill("key", "revoke", "000000000000", WATTMILL_DATABASE_URL=database_url)
        assert done.returncode == 1
        assert "there is no key 000000000000" in done.stderr

    def test_an_unknown_scope_is_named(self) -> None:
        done = wattmill("key", "create", "--scope", "root", WATTMILL_DATABASE_URL="postgresql://127.0.0.1:1/nowhere")
        assert done.returncode == 2
        assert "ingest, read, admin" in done.stderr

    def test_a_database_that_is_away_is_said_so_without_its_password(self) -> None:
        url = "postgresql://me:secret@127.0.0.1:1/nowhere"
        done = wattmill("key", "list", WATTMILL_DATABASE_URL=url)
        assert done.returncode == 1
        assert "me@127.0.0.1:1" in done.stderr
        assert "secret" not in done.stderr


class TestMigrate:
    """The schema by command."""

    def test_it_says_what_it_did_and_the_second_time_that_there_was_nothing(self, empty_database_url: str) -> None:
        first = wattmill("migrate", "--database-url", empty_database_url)
        assert first.returncode == 0, first.stderr
        assert "0001_schema.sql" in first.stdout
        assert "nothing to do" in wattmill("migrate", "--database-url", empty_database_url).stdout

    def test_a_database_that_is_away_is_said_so(self) -> None:
        done = wattmill("migrate", "--database-url", "postgresql://me:secret@127.0.0.1:1/nowhere")
        assert done.returncode == 1
        assert "does not answer" in done.stderr
        assert "secret" not in done.stderr


@pytest.mark.parametrize("verb", ["up", "serve", "migrate"])
def test_every_option_names_its_variable(verb: str) -> None:
    shown = " ".join(wattmill(verb, "--help").stdout.split())
    for option in (word.strip("[],") for word in shown.split() if word.startswith(("--", "[--"))):
        if option != "--help":
            assert commands._variable(option.removeprefix("--")) in shown
