"""The embedded PostgreSQL: made once, private, and back again after any death."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from support.processes import eventually
from wattmill_api import embedded, migrate
from wattmill_api.embedded import NoPostgres, Place
from wattmill_api.supervisor import Supervisor


@pytest.fixture
def data() -> Iterator[Path]:
    """A directory that the user nobody may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="wattmill-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor(say=lambda line: None)
    yield made
    made.stop()


def started(data: Path, supervisor: Supervisor) -> Place:
    place = embedded.settle(data)
    embedded.initialise(place)
    supervisor.start(embedded.command(place, data / "postgres.log"))
    eventually(lambda: answers(place))
    return place


def answers(place: Place) -> bool:
    try:
        migrate.create_database(place.server_url, embedded.DATABASE)
    except migrate.Unreachable:
        return False
    return True


def test_what_was_committed_is_there_after_a_stop(data: Path, supervisor: Supervisor) -> None:
    place = started(data, supervisor)
    with psycopg.connect(place.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
    supervisor.stop()
    place = started(data, supervisor)
    with psycopg.connect(place.url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(42,)]


def test_a_killed_server_comes_back_with_everything(data: Path, supervisor: Supervisor) -> None:
    place = started(data, supervisor)
    with psycopg.connect(place.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
    (child,) = supervisor.children
    assert child.process is not None
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()

    def back() -> bool:
        supervisor.check()
        return child.restarts > 0 and answers(place)

    eventually(back)
    with psycopg.connect(place.url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(42,)]


def test_it_listens_on_no_network(data: Path, supervisor: Supervisor) -> None:
    place = started(data, supervisor)
    with psycopg.connect(place.url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    assert place.socket.stat().st_mode & 0o077 == 0
    assert place.data.stat().st_mode & 0o077 == 0


def test_the_server_is_never_root(data: Path, supervisor: Supervisor) -> None:
    started(data, supervisor)
    (child,) = supervisor.children
    assert child.process is not None
    assert Path(f"/proc/{child.process.pid}").stat().st_uid != 0


def test_a_crash_while_making_the_data_directory_is_made_good(data: Path, supervisor: Supervisor) -> None:
    half = data / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    assert answers(started(data, supervisor))


def test_data_of_another_version_is_refused_and_left_alone(data: Path) -> None:
    place = embedded.settle(data)
    embedded.initialise(place)
    (place.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(NoPostgres, match="written by PostgreSQL 9"):
        embedded.initialise(place)
    assert (place.data / "base").is_dir()


def test_two_ups_never_share_a_data_directory(data: Path) -> None:
    with (
        embedded.held(data),
        pytest.raises(NoPostgres, match=rf"in use by another `wattmill up` \(process {os.getpid()}\)"),
        embedded.held(data),
    ):
        raise AssertionError("both hold it")
    with embedded.held(data):
        pass


def test_a_socket_path_is_never_longer_than_the_kernel_takes(data: Path, supervisor: Supervisor) -> None:
    deep = data.joinpath(*["a" * 30] * 4)
    deep.mkdir(parents=True)
    place = started(deep, supervisor)
    assert len(os.fsencode(place.socket / embedded.SOCKET_NAME)) <= 107
    supervisor.stop()
    shutil.rmtree(place.socket)


def test_binaries_that_others_may_not_reach_are_copied_once(data: Path) -> None:
    binaries = embedded.find_binaries()
    copied = embedded.copied(binaries, data)
    assert copied.is_relative_to(data)
    stamp = (copied / "postgres").stat()
    assert embedded.copied(binaries, data) == copied
    assert (copied / "postgres").stat().st_ino == stamp.st_ino


def test_processes_that_copy_the_binaries_together_get_the_same_ones(data: Path) -> None:
    binaries = embedded.find_binaries()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: embedded.copied(binaries, data), range(3)))
    assert len(set(found)) == 1
    assert (found[0] / "postgres").exists()
    assert len(list(data.iterdir())) == 1


def test_where_the_database_is_can_be_asked_while_it_runs(data: Path) -> None:
    place = embedded.settle(data)
    assert embedded.running_url(data) is None
    embedded.remember(data, place)
    assert embedded.running_url(data) == place.url
    embedded.forget(data)
    assert embedded.running_url(data) is None


def test_root_is_told_where_data_may_lie_instead() -> None:
    if os.geteuid() != 0:
        assert embedded.default_data().is_relative_to(Path.home())
        return
    closed = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        with pytest.raises(NoPostgres, match="the user nobody cannot enter"):
            embedded.settle(closed / "data")
    finally:
        shutil.rmtree(closed)
