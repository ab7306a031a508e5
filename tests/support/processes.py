"""The service and the agent as processes of their own, as an operator runs them: started, asked, killed, started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = os.pathsep.join(str(ROOT / folder) for folder in ("collector", "analytics", "api"))


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any], within_s: float = 60, what: str = "") -> Any:
    """The first true answer; AssertionError when there is none in time. For processes: they have no clock to turn."""
    deadline, last = time.monotonic() + within_s, None
    while time.monotonic() < deadline:
        last = condition()
        if last:
            return last
        time.sleep(0.1)
    raise AssertionError(f"not within {within_s} s: {what or condition}; last answer {last!r}")


class Program:
    """One `wattmill` command as a child process; its output goes to a file that a failing test can show."""

    def __init__(self, log: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.arguments, self.log = arguments, log
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WATTMILL_")}
        self.env = {**clean, "PYTHONPATH": PACKAGES, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wattmill_collector.cli", *self.arguments],
                env=self.env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """kill -9 of the whole group, as the out-of-memory killer would."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def stop(self, within_s: float = 15) -> int:
        """Ask politely; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Service(Program):
    """`wattmill serve` with its jobs."""

    def __init__(self, folder: Path, database_url: str, **env: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            folder / "serve.log",
            *("serve", "--database-url", database_url, "--host", "127.0.0.1", "--port", str(self.port)),
            env={"WATTMILL_ROLL_UP_EVERY_S": "1", **env},
        )

    def get(self, path: str) -> Any:
        """The JSON answer of a path; None while nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def ready(self) -> Self:
        eventually(lambda: self.get("/readyz"), 90, f"ready; its log says {self.text()[-2000:]}")
        return self


class Agent(Program):
    """`wattmill agent` with a configuration file (JSON is YAML)."""

    def __init__(self, folder: Path, config: Mapping[str, Any], env: Mapping[str, str]) -> None:
        self.folder = folder
        path = folder / "agent.yaml"
        path.write_text(json.dumps(config))
        super().__init__(folder / "agent.log", "agent", "--config", str(path), env=env)
