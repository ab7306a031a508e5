"""Keys made elsewhere: read from a folder, registered at start, never falling open before that, revoked for good."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from support.processes import PACKAGES, Service, eventually
from wattmill_api import auth, given_keys, migrate
from wattmill_api.errors import Unauthenticated
from wattmill_api.settings import Settings


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


def made(scope: str = "ingest") -> str:
    """As a chart or a shell makes one: without a checksum."""
    return f"wm_{scope}_{secrets.token_hex(6)}_{secrets.token_hex(32)}"


def folder_of(path: Path, **keys: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in keys.items():
        (path / name).write_text(text)
    return path


def test_a_key_without_its_checksum_is_the_same_key() -> None:
    whole = auth.new_key("read")
    bare = whole.text.rpartition("_")[0]
    assert auth.parse_key(bare) == auth.parse_key(whole.text) == (whole.key_id, whole.sha256)
    assert auth.parse_key(f"{bare}_{'0' * 8}") is None, "a checksum that is there must be right"
    assert auth.parse_key(bare[:-1]) is None


def test_kubernetes_own_files_in_a_mounted_secret_are_no_keys(tmp_path: Path) -> None:
    real = folder_of(tmp_path / "..2026_01_01", agents=made(), people=made("admin") + "\n")
    (tmp_path / "..data").symlink_to(real.name)
    for name in ("agents", "people"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    assert [(name, key.scope) for name, key in given_keys.read(tmp_path)] == [("agents", "ingest"), ("people", "admin")]


@pytest.mark.parametrize("text", ["", "hunter2", "wm_root_" + "0" * 12 + "_" + "1" * 64, "é", made() + made()])
def test_a_file_that_holds_no_key_is_named_and_not_shown(tmp_path: Path, text: str) -> None:
    folder = folder_of(tmp_path / "keys", good=made(), bad=text)
    with pytest.raises(ValueError, match="holds no key") as told:
        given_keys.read(folder)
    assert str(folder / "bad") in str(told.value)
    assert not text or text not in str(told.value)


def test_a_folder_that_is_empty_or_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} holds no key"):
        given_keys.read(tmp_path)
    with pytest.raises(ValueError, match="gone can't be read: No such file"):
        given_keys.read(tmp_path / "gone")


def test_registering_again_changes_nothing_and_brings_no_revoked_key_back(database_url: str, tmp_path: Path) -> None:
    keys = given_keys.read(folder_of(tmp_path / "keys", agents=made(), prometheus=made("read")))
    settings = Settings(database_url=database_url)
    for _ in range(2):
        given_keys.register(settings, keys)
    with psycopg.connect(database_url, autocommit=True) as connection:
        rows = connection.execute("SELECT name, scope FROM api_key ORDER BY name").fetchall()
        assert rows == [("agents", "ingest"), ("prometheus", "read")]
        connection.execute("UPDATE api_key SET revoked = now() WHERE name = 'agents'")
        assert given_keys.register(settings, keys) == []
        row = connection.execute("SELECT count(*) FROM api_key WHERE revoked IS NULL").fetchone()
    assert row == (1,)


class Rounds(threading.Event):
    """Ends after as many waits as there are steps; does one between two looks, instead of the time that would pass."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self.steps = list(steps)
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0)
        if self.steps:
            self.steps.pop(0)()
        else:
            self.set()
        return self.is_set()


def test_a_key_that_is_exchanged_is_registered_without_a_restart(database_url: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "keys", agents=made())
    rounds = Rounds(
        lambda: (folder / "agents").write_text("half a ke"),
        lambda: (folder / "agents").write_text(made()),
        lambda: None,
    )
    given_keys.keep_registered(Settings(database_url=database_url), folder, rounds)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT name, revoked FROM api_key").fetchall()
    assert rows == [("agents", None)] * 2, "the old one is valid until somebody revokes it"
    assert rounds.waited == [given_keys.LOOK_SECONDS, given_keys.RETRY_SECONDS, *[given_keys.LOOK_SECONDS] * 2]


def test_before_the_schema_is_there_it_is_tried_again(empty_database_url: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "keys", agents=made())
    rounds = Rounds(lambda: migrate.migrate(empty_database_url))
    given_keys.keep_registered(Settings(database_url=empty_database_url), folder, rounds)
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM api_key").fetchone() == (1,)
    assert rounds.waited == [given_keys.RETRY_SECONDS, given_keys.LOOK_SECONDS]


def test_before_its_keys_are_registered_a_service_is_not_open() -> None:
    class Empty:
        def any_key(self) -> bool:
            return False

        def find(self, key_id: str) -> None:
            return None

    async def ask(closed: bool) -> auth.Access:
        return await auth.Guard(Empty(), lambda: 0.0, closed=closed).check(None, "read")

    assert asyncio.run(ask(closed=False)).may_change
    with pytest.raises(Unauthenticated):
        asyncio.run(ask(closed=True))


def test_a_service_is_given_its_keys_and_its_password_as_files(empty_database_url: str, tmp_path: Path) -> None:
    agents, people = made(), made("admin")
    folder = folder_of(tmp_path / "keys", agents=agents, people=people)
    (tmp_path / "password").write_text("any will do here")
    service = Service(
        tmp_path,
        empty_database_url,
        WATTMILL_JOBS="false",
        WATTMILL_GIVEN_KEYS=str(folder),
        WATTMILL_DATABASE_PASSWORD_FILE=str(tmp_path / "password"),
    )
    service.start()
    try:
        service.ready()
        url = f"{service.url}/api/v1/nodes"
        assert status(url) == 401
        eventually(lambda: status(url, people) == 200, 30, "the key of people is registered")
        assert status(url, agents) == 403, "an agent's key reads nothing"
        assert status(f"{service.url}/api/v1/ingest", agents) == 405, "it may post, and only post"
    finally:
        service.stop()
    assert agents not in service.text()
    assert "any%20will" not in service.text()


def test_a_wrong_folder_of_keys_stops_the_service_at_once(tmp_path: Path) -> None:
    done = wattmill("serve", "--database-url", "postgresql://127.0.0.1:1/nowhere", "--given-keys", str(tmp_path))
    assert done.returncode == 2
    assert f"WATTMILL_GIVEN_KEYS): the folder {tmp_path} holds no key" in done.stderr


class TestPasswordFile:
    """The database's password as a file beside an address without one."""

    def test_the_address_is_completed_and_shown_without_it(self, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.write_text("p@ss/w:rd\n")
        settings = Settings(database_url="postgresql://mill@db:5432/wattmill", database_password_file=str(file))
        assert settings.database_url == "postgresql://mill:p%40ss%2Fw%3Ard@db:5432/wattmill"
        assert "p%40ss" not in str(settings.described())

    @pytest.mark.parametrize("text", ["", "two\nlines\n"])
    def test_a_file_without_a_password_is_named(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "password"
        file.write_text(text)
        done = wattmill("migrate", "--database-url", "postgresql://mill@db/w", "--database-password-file", str(file))
        assert done.returncode == 2
        assert f"WATTMILL_DATABASE_PASSWORD_FILE): Value error, the file {file} must hold one line" in done.stderr

    def test_a_file_that_is_not_there_is_named(self) -> None:
        done = wattmill("migrate", "--database-url", "postgresql://mill@db/w", WATTMILL_DATABASE_PASSWORD_FILE="/none")
        assert done.returncode == 2
        assert "/none can't be read" in done.stderr

    @pytest.mark.parametrize("url", ["postgresql://mill:old@db/w", "postgresql://db/w", "host=db user=mill"])
    def test_an_address_that_can_not_be_completed_is_refused(self, tmp_path: Path, url: str) -> None:
        file = tmp_path / "password"
        file.write_text("new")
        done = wattmill("migrate", "--database-url", url, WATTMILL_DATABASE_PASSWORD_FILE=str(file))
        assert done.returncode == 2
        assert "without a password, beside a password file" in done.stderr
