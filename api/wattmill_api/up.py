"""`wattmill up`: everything on this host, as children of one small supervisor.

Order of starting: PostgreSQL, the service, then whatever reads: this host's agent where an accelerator is found, else a
simulated fleet. All of them are the ordinary commands, on the same path from the wire on. Stopping is the reverse.
What is kept lies below one data directory: the next `up` continues.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wattmill_api import embedded, migrate
from wattmill_api.supervisor import Child, Command, GaveUp, Supervisor

DEFAULT_NODES = 4
ACCELERATORS_PER_NODE = 8
# So that the page has a trend to show from the first minute on.
BACKFILL = "2h"
CHECK_SECONDS = 0.2
READY_SECONDS = 120.0
KEYS_SECONDS = 5.0
LOOK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for. `simulate`: how many nodes at any rate; `may_simulate`: where no accelerator is found."""

    host: str
    port: int
    data: Path
    database_url: str
    config: Path | None
    simulate: int
    may_simulate: bool
    environment: Mapping[str, str]


class NotUp(Exception):
    """It can't be started; the message says why and what to do."""


class Stopped(Exception):
    """Somebody asked us to stop."""


def run(plan: Plan) -> int:
    """Everything until a signal. 0: stopped when asked; 1: failed; 2: failed and would again."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    supervisor = Supervisor(say)
    try:
        _refuse_taken_port(plan)
        with embedded.held(plan.data):
            try:
                Everything(plan, supervisor, stopping).run()
            finally:
                say("stopping")
                supervisor.stop()
                embedded.forget(plan.data)
    except Stopped:
        say("stopped; the data is kept in " + str(plan.data))
        return 0
    except (NotUp, embedded.NoPostgres, OSError) as error:
        say(str(error))
        return 2
    except GaveUp as error:
        say(str(error))
        return 1
    return 0


@dataclass(slots=True)
class Everything:
    """The children and the order in which they come."""

    plan: Plan
    supervisor: Supervisor
    stopping: threading.Event

    def run(self) -> None:
        """Start all, then watch. Ends by raising. Errors: Stopped, NotUp, GaveUp, NoPostgres."""
        url = self.plan.database_url or self._postgres()
        self.supervisor.start(self._serve(url))
        self._wait("the service", self._ready, READY_SECONDS)
        readers = self._readers()
        self._banner(bool(readers and readers[-1].command.name == "simulate"))
        asked = time.monotonic()
        while True:
            self._pause()
            if time.monotonic() - asked >= KEYS_SECONDS:
                asked = time.monotonic()
                if self._closed() and not self._key_file.exists():
                    self._make_key(url)
                    for child in readers:
                        self.supervisor.restart(child)

    def _postgres(self) -> str:
        place = embedded.settle(self.plan.data)
        embedded.initialise(place)
        embedded.remember(self.plan.data, place)
        self.supervisor.start(embedded.command(place, self.plan.data / "postgres.log"))

        def answers() -> bool:
            with contextlib.suppress(migrate.Unreachable):
                migrate.create_database(place.server_url, embedded.DATABASE)
                return True
            return False

        self._wait("PostgreSQL", answers, READY_SECONDS, f"its log is {self.plan.data / 'postgres.log'}")
        return place.url

    def _serve(self, url: str) -> Command:
        # By variable: an address may hold a password, and a command line can be read by everybody.
        level = self.plan.environment.get("WATTMILL_LOG_LEVEL", "warning")
        return self._command(
            "serve",
            ("serve", "--host", self.plan.host, "--port", str(self.plan.port)),
            {"WATTMILL_DATABASE_URL": url, "WATTMILL_LOG_LEVEL": level},
        )

    def _readers(self) -> list[Child]:
        """This host's agent, a simulated fleet, or both."""
        if self._closed():
            self._make_key(self.plan.database_url or embedded.running_url(self.plan.data) or "")
        readers = []
        agent = (
            not self.plan.may_simulate
            or self.plan.config is not None
            or (self.plan.simulate == 0 and self._has_accelerator())
        )
        if agent:
            readers.append(self.supervisor.start(self._agent()))
        nodes = self.plan.simulate or (0 if agent else DEFAULT_NODES)
        if nodes and self.plan.may_simulate:
            readers.append(self.supervisor.start(self._simulate(nodes)))
        return readers

    def _agent(self) -> Command:
        options = ("--config", str(self.plan.config)) if self.plan.config else ()
        return self._command("agent", ("agent", *options), {"WATTMILL_SERVER": self._address, **self._spool})

    def _simulate(self, nodes: int) -> Command:
        return self._command(
            "simulate",
            (
                *("simulate", "--nodes", str(nodes), "--accelerators", str(ACCELERATORS_PER_NODE), "--seed", "1"),
                *("--server", self._address, "--backfill", BACKFILL, "--state", str(self.plan.data / "simulate.json")),
            ),
            {},
        )

    def _command(self, name: str, arguments: tuple[str, ...], more: Mapping[str, str]) -> Command:
        """One of our own verbs as a child. Variables meant for another verb of ours do not reach it."""
        others = ("WATTMILL_SIMULATE", "WATTMILL_NO_SIMULATE", "WATTMILL_DATA", "WATTMILL_DATABASE_URL")
        environment = {name: value for name, value in self.plan.environment.items() if name not in others}
        environment["PYTHONUNBUFFERED"] = "1"
        if self._key_file.exists() and name != "serve":
            environment["WATTMILL_KEY_FILE"] = str(self._key_file)
        return Command(
            name=name,
            arguments=(sys.executable, "-P", "-m", "wattmill_collector.cli", *arguments),
            environment={**environment, **more},
            give_up_on=(2,),
        )

    def _has_accelerator(self) -> bool:
        """Whether one tick of this host's agent reads an accelerator."""
        once = self._command("agent", ("agent", "--once"), self._spool)
        try:
            said = _output(once, LOOK_SECONDS).stdout
        except subprocess.TimeoutExpired:
            say("looking for accelerators took too long; none is assumed")
            return False
        return any(_is_accelerator(line) for line in said.splitlines())

    def _banner(self, simulated: bool) -> None:
        lines = [f"Wattmill is up: {self._address}"]
        if simulated:
            lines.append("simulated: no accelerator was read here; every figure is of a simulated fleet")
        if not self._closed():
            lines.append("open: whoever can reach it may read and write, until `wattmill key create` makes a first key")
        lines.append(f"data: {self.plan.data}   stop: Ctrl-C")
        for line in lines:
            say(line)

    @property
    def _address(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.plan.host, self.plan.host)
        return f"http://{host}:{self.plan.port}"

    @property
    def _spool(self) -> dict[str, str]:
        return {"WATTMILL_SPOOL": str(self.plan.data / "spool")}

    @property
    def _key_file(self) -> Path:
        return self.plan.data / "ingest.key"

    def _ready(self) -> bool:
        return self._status("/readyz") == 200

    def _closed(self) -> bool:
        """Whether the service asks for keys."""
        return self._status("/api/v1/nodes") == 401

    def _status(self, path: str) -> int:
        """The status of an answer of our service; 0 when there is none."""
        connection = http.client.HTTPConnection(self._address.removeprefix("http://"), timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _make_key(self, url: str) -> None:
        """A key of our own for this host's readings: the service is no longer open."""
        if self._key_file.exists():
            return
        create = self._command(
            "key", ("key", "create", "--scope", "ingest", "--name", "wattmill up"), {"WATTMILL_DATABASE_URL": url}
        )
        done = _output(create, LOOK_SECONDS)
        if done.returncode != 0:
            raise NotUp(f"no key could be made for this host's readings: {done.stderr.strip()}")
        self._key_file.touch(0o600)
        self._key_file.write_text(done.stdout)
        say(f"the service asks for keys now; this host's readings use {self._key_file}")

    def _wait(self, whom: str, there: Callable[[], bool], seconds: float, hint: str = "") -> None:
        deadline = time.monotonic() + seconds
        while not there():
            if time.monotonic() > deadline:
                raise NotUp(f"{whom} did not answer within {seconds:g} s{f'; {hint}' if hint else ''}")
            self._pause()

    def _pause(self) -> None:
        if self.stopping.wait(CHECK_SECONDS):
            raise Stopped
        self.supervisor.check()


def say(line: str) -> None:
    """One line for the person at the terminal."""
    sys.stdout.write(f"wattmill up: {line}\n")
    sys.stdout.flush()


def _output(command: Command, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end and keep what it prints."""
    return subprocess.run(
        command.arguments, env=dict(command.environment), capture_output=True, text=True, timeout=seconds, check=False
    )


def _is_accelerator(line: str) -> bool:
    try:
        reading = json.loads(line)
    except ValueError:
        return False
    return isinstance(reading, dict) and reading.get("kind") == "accelerator"


def _refuse_taken_port(plan: Plan) -> None:
    if plan.port == 0:
        raise NotUp("--port: must be a number from 1 to 65535, because the agent has to know it")
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            plan.host or None, plan.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise NotUp(
            f"{plan.host}:{plan.port} can't be listened on ({error.strerror}); choose another port with --port"
        ) from error
