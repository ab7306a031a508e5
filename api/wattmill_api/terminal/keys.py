"""Keys of a terminal by name, changes of its size, and answers that arrive meanwhile: whatever comes first.

The terminal is left as it was, also when the process is asked to stop.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import termios
import threading
import time
import tty
from collections.abc import Iterator
from typing import TextIO

RESIZED, WOKEN, GONE = "resized", "woken", "gone"
_TOKEN = re.compile(rb"\x1b\[[0-9;?]*[@-~]|\x1bO[A-Za-z]|.", re.DOTALL)
_UNFINISHED = re.compile(rb"\x1b(\[[0-9;?]*|O)?\Z")
_REST_S = 0.05  # within which the rest of a key's sequence follows its first byte
_NAMES = {
    **{b"\x1b" + between + final: name for between in (b"[", b"O") for final, name in (
        (b"A", "up"), (b"B", "down"), (b"C", "enter"), (b"D", "back"), (b"H", "first"), (b"F", "last"),
    )},
    b"\x1b[5~": "page-up", b"\x1b[6~": "page-down", b"\x1b[1~": "first", b"\x1b[4~": "last", b"\x1b[Z": "back-tab",
    b"\r": "enter", b"\n": "enter", b"\t": "tab", b"\x1b": "back", b"\x7f": "back", b"\x08": "back", b"\x04": "q",
}  # fmt: skip


def decode(typed: bytes) -> list[str]:
    """Names of keys: letters and digits as they are, others such as `up`; what has no name is left out."""
    found: list[str] = []
    for token in _TOKEN.findall(typed):
        if token in _NAMES:
            found.append(_NAMES[token])
        elif len(token) == 1 and 32 < token[0] < 127:
            found.append(token.decode())
    return found


class Keys:
    """What may be waited for. `wake` may be called from any thread."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closed = threading.Lock()
        self._open = True

    def wake(self, why: bytes = b"w") -> None:
        with self._closed, contextlib.suppress(BlockingIOError):  # full: it will wake anyhow
            if self._open:
                os.write(self._waker, why)

    def resized(self, _number: int, _frame: object) -> None:
        """Handler of SIGWINCH; no lock, because it interrupts whatever holds one."""
        with contextlib.suppress(OSError):
            os.write(self._waker, b"r")

    def wait(self, seconds: float | None) -> list[str]:
        """Keys and events in order; none when time is up. `gone`: the terminal is."""
        sources = [self._woken, *([] if self._descriptor is None else [self._descriptor])]
        ready = select.select(sources, [], [], seconds if seconds is None else max(0.0, seconds))[0]
        found: list[str] = []
        if self._woken in ready:
            why = os.read(self._woken, 4096)
            found += [name for byte, name in ((b"r", RESIZED), (b"w", WOKEN)) if byte in why]
        if self._descriptor in ready and self._descriptor is not None:
            found += self._typed(self._descriptor)
        return found

    def _typed(self, descriptor: int) -> list[str]:
        try:
            typed = os.read(descriptor, 1024)
            until = time.monotonic() + _REST_S
            while _UNFINISHED.search(typed) and (left := until - time.monotonic()) > 0:
                if select.select([descriptor], [], [], left)[0]:
                    typed += os.read(descriptor, 1024)
        except OSError:
            return [GONE]
        return decode(typed) if typed else [GONE]

    def close(self) -> None:
        with self._closed:
            self._open = False
            os.close(self._woken)
            os.close(self._waker)


@contextlib.contextmanager
def listening(source: TextIO) -> Iterator[Keys]:
    """Keys of `source` one by one, unechoed; none at all where it is no terminal."""
    descriptor = source.fileno() if source.isatty() else None
    keys = Keys(descriptor)
    main = threading.current_thread() is threading.main_thread()
    before = None if descriptor is None else termios.tcgetattr(descriptor)
    former = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGWINCH, keys.resized), (signal.SIGTERM, signal.default_int_handler))
        if main
    }
    try:
        if descriptor is not None:
            tty.setcbreak(descriptor)
            modes = termios.tcgetattr(descriptor)
            modes[6][termios.VSUSP] = b"\x00"  # Ctrl-Z would leave a shell inside of our screen
            termios.tcsetattr(descriptor, termios.TCSANOW, modes)
        yield keys
    finally:
        if descriptor is not None and before is not None:
            with contextlib.suppress(termios.error):  # it may be gone
                termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in former.items():
            signal.signal(number, handler)
        keys.close()
