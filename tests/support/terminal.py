"""A pseudo-terminal with someone in front of it, who types when the screen shows what they wait for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from typing import Any

from support.processes import PACKAGES

_PATIENCE_S = 60.0


class Person:
    """Someone at a terminal on which a `wattmill` command runs."""

    def __init__(self, near: int, far: int, process: subprocess.Popen[bytes]) -> None:
        self._near, self._far, self._process = near, far, process
        self.drawn = b""
        self._looked = 0

    def sees(self, text: str) -> str:
        """What was drawn since the last look, up to and with this text. AssertionError when it does not come."""
        wanted, until = text.encode(), time.monotonic() + _PATIENCE_S
        while (found := self.drawn.find(wanted, self._looked)) < 0:
            left = until - time.monotonic()
            assert left > 0, f"{text!r} was not drawn; since the last look: {self.drawn[self._looked :]!r}"
            if not self._read(left) and self._process.poll() is not None and not self._read(0.2):
                raise AssertionError(f"it ended without {text!r}: {self.drawn[self._looked :]!r}")
        before, self._looked = self._looked, found + len(wanted)
        return self.drawn[before : self._looked].decode(errors="replace")

    def types(self, keys: bytes) -> None:
        """From here on only what is drawn later counts."""
        while self._read(0):
            pass
        self._looked = len(self.drawn)
        os.write(self._near, keys)

    def resizes(self, columns: int, lines: int) -> None:
        self._looked = len(self.drawn)
        _size(self._near, columns, lines)  # the kernel tells the process

    def leaves(self) -> int:
        """The exit status, once it ends."""
        until = time.monotonic() + _PATIENCE_S
        while self._process.poll() is None:
            assert time.monotonic() < until, "it does not end"
            self._read(0.1)
        while self._read(0.1):
            pass
        return self._process.returncode

    def modes(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self._far)

    def signals(self, number: int) -> None:
        self._process.send_signal(number)

    def _read(self, within_s: float) -> bytes:
        if not select.select([self._near], [], [], min(within_s, 1.0))[0]:
            return b""
        with contextlib.suppress(OSError):
            got = os.read(self._near, 65_536)
            self.drawn += got
            return got
        return b""


def _size(descriptor: int, columns: int, lines: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextlib.contextmanager
def at_a_terminal(
    *arguments: str, env: Mapping[str, str] | None = None, columns: int = 160, lines: int = 50
) -> Iterator[Person]:
    """`wattmill` with these arguments on a terminal of its own, which is its controlling one. Killed at the end."""
    near, far = pty.openpty()
    _size(near, columns, lines)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WATTMILL_") and name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "wattmill_collector.cli", *arguments],
        env={**kept, "PYTHONPATH": PACKAGES, "TERM": "xterm-256color", **(env or {})},
        stdin=far,
        stdout=far,
        stderr=far,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that a change of size is a signal to it
    )
    try:
        yield Person(near, far, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(far)
        os.close(near)
