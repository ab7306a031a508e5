"""Keeps child processes running: restarts what dies, with back-off, and ends everything in order.

Children die with us, however we die: the kernel sends them their stop signal (PR_SET_PDEATHSIG, prctl(2)). Each has a
session of its own, so that a Ctrl-C in the terminal reaches us alone and the order of stopping is ours. For one thread
only: the death signal follows the thread that started the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
FIRST_BACK_OFF_SECONDS = 0.2
LAST_BACK_OFF_SECONDS = 10.0
# A child that lived this long had started well: its next death is a new story.
STEADY_SECONDS = 30.0

_libc = ctypes.CDLL(None, use_errno=True)


class GaveUp(Exception):
    """A child said that starting it again is of no use."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run and how to end it. `log`: where its output goes; None: where ours goes."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    user: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 3.0
    folder: str | None = None
    log: Path | None = None
    give_up_on: tuple[int, ...] = ()


@dataclass(slots=True)
class Child:
    """One command and the process that runs it now, if one does."""

    command: Command
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    back_off: float = FIRST_BACK_OFF_SECONDS
    again_at: float = 0.0
    restarts: int = 0


@dataclass(slots=True)
class Supervisor:
    """Children in the order in which they were started; they are stopped in the reverse order."""

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    children: list[Child] = field(default_factory=list[Child])

    def start(self, command: Command) -> Child:
        """Run `command` from now on."""
        child = Child(command)
        self.children.append(child)
        self._spawn(child)
        return child

    def check(self) -> None:
        """Notice who died and start them again when their back-off is over. Errors: GaveUp."""
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                self._buried(child)
            if child.process is None and self.clock() >= child.again_at:
                child.restarts += 1
                self._spawn(child)

    def restart(self, child: Child) -> None:
        """Stop `child` and start it anew, now."""
        _end(child)
        self._spawn(child)

    def stop(self) -> None:
        """End every child, the last started first; whoever does not go when asked is killed."""
        for child in reversed(self.children):
            _end(child)
        self.children.clear()

    def _spawn(self, child: Child) -> None:
        child.started = self.clock()
        try:
            child.process = _spawn(child.command)
        except OSError as error:
            child.process = None
            self._put_off(child, f"could not be started ({error})")

    def _buried(self, child: Child) -> None:
        assert child.process is not None
        status = child.process.returncode
        child.process = None
        if status in child.command.give_up_on:
            raise GaveUp(f"{child.command.name} ended with exit status {status}; its last lines say why")
        if self.clock() - child.started >= STEADY_SECONDS:
            child.back_off = FIRST_BACK_OFF_SECONDS
        how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        self._put_off(child, how)

    def _put_off(self, child: Child, how: str) -> None:
        child.again_at = self.clock() + child.back_off
        self.say(f"{child.command.name} {how}; starting it again in {child.back_off:g} s")
        child.back_off = min(2 * child.back_off, LAST_BACK_OFF_SECONDS)


def _spawn(command: Command) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def die_with_parent() -> None:
        # After the change of user: a change of credentials would clear it.
        _libc.prctl(PR_SET_PDEATHSIG, int(command.stop_signal), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    with _output(command.log) as output:
        return subprocess.Popen(
            command.arguments,
            env=dict(command.environment),
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,
            user=command.user,
            group=None if command.user is None else pwd.getpwuid(command.user).pw_gid,
            extra_groups=None if command.user is None else [],
        )


@contextlib.contextmanager
def _output(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    with log.open("ab") as file:
        yield file


def _end(child: Child) -> None:
    process, child.process = child.process, None
    if process is None:
        return
    if process.poll() is None:
        process.send_signal(child.command.stop_signal)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(child.command.stop_seconds)
    # What it may have left behind in its session goes too.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
