"""Tell systemd that the agent is up, stopping, or still alive: one datagram, no library (sd_notify(3))."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping


class Notifier:
    """Sends to $NOTIFY_SOCKET, where there is one. `watchdog_us` is 0 when systemd expects no sign of life."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        watchdog = environment.get("WATCHDOG_USEC", "")
        self.watchdog_us = int(watchdog) if self._socket and watchdog.isdigit() else 0

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """A sign of life, sent from the tick itself, so that a wedged tick goes silent."""
        if self.watchdog_us:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(
                OSError
            ):  # systemd restarts us if it misses the signs; there is nobody else to tell
                self._socket.sendto(message.encode(), self._address)
