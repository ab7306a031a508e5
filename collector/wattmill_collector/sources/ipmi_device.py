"""Requests to this node's BMC through the kernel's IPMI device, /dev/ipmi0, by ioctl.

What it promises: each answer belongs to its request, and none is waited for longer than `ANSWER_S`.
What it does not: keep others from the BMC; the driver orders the requests of all who have the device open.
Whoever may write to the device may do anything to the BMC: that is why it is root's, and giving it to the agent is a
decision (docs/host-power.md).

Source: kernel include/uapi/linux/ipmi.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
from collections.abc import Callable
from pathlib import Path

from wattmill_collector.errors import NotHere
from wattmill_collector.sources.addresses import FetchError

DEVICES = ("dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0")
SYSTEM_INTERFACE = 0x0C
ADDRESS_BYTES = 8  # of a struct ipmi_system_interface_addr
BMC_CHANNEL = 0x0F
ANSWER = 1  # receive type: the answer to a command of ours
ANSWER_S = 5.0
MAX_ANSWERS = 16  # late answers to requests that were given up
PERMISSION_ADVICE = (
    "{path} is there, but may not be opened: give the agent's group the device by a udev rule "
    '`KERNEL=="ipmi[0-9]*", GROUP="wattmill", MODE="0660"`, and its unit `DeviceAllow=char-ipmidev rw`; '
    "docs/host-power.md says what else that allows."
)
Ioctl = Callable[[int, int, ctypes.Structure], int]
Wait = Callable[[int, float], bool]


class Address(ctypes.Structure):
    """struct ipmi_system_interface_addr, as long as the longest address."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("channel", ctypes.c_short),
        ("lun", ctypes.c_ubyte),
        ("rest", ctypes.c_ubyte * 31),
    )


class Message(ctypes.Structure):
    """struct ipmi_msg."""

    _fields_ = (
        ("network_function", ctypes.c_ubyte),
        ("command", ctypes.c_ubyte),
        ("length", ctypes.c_ushort),
        ("data", ctypes.c_void_p),
    )


class Request(ctypes.Structure):
    """struct ipmi_req."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("address_length", ctypes.c_uint),
        ("id", ctypes.c_long),
        ("message", Message),
    )


class Received(ctypes.Structure):
    """struct ipmi_recv."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("address", ctypes.c_void_p),
        ("address_length", ctypes.c_uint),
        ("id", ctypes.c_long),
        ("message", Message),
    )


def _number(directions: int, number: int, argument: type[ctypes.Structure]) -> int:
    """The ioctl's number as include/uapi/asm-generic/ioctl.h makes it."""
    return directions << 30 | ctypes.sizeof(argument) << 16 | ord("i") << 8 | number


SEND_COMMAND = _number(2, 13, Request)
RECEIVE_TRUNCATED = _number(3, 11, Received)


def find_device(roots: tuple[Path, ...]) -> Path:
    """The first IPMI device there is. Errors: NotHere."""
    for path in (root / name for root in roots for name in DEVICES):
        if path.exists():
            return path
    raise NotHere(
        "There is no IPMI device /dev/ipmi0: the node has no BMC that the kernel knows, or the modules ipmi_si and "
        "ipmi_devintf are not loaded."
    )


class IpmiDevice:
    """One open device. Errors: NotHere when it may not be opened, with what to do about it."""

    def __init__(self, path: Path, *, ioctl: Ioctl = fcntl.ioctl, wait: Wait | None = None) -> None:
        self._path = path
        self._ioctl = ioctl
        self._wait = wait or _readable
        self._id = 0
        try:
            self._fd = self._open()
        except PermissionError:
            raise NotHere(PERMISSION_ADVICE.format(path=path)) from None
        except OSError as error:
            raise NotHere(f"{path} can't be opened: {error.strerror}.") from None

    def exchange(self, network_function: int, command: int, data: bytes) -> bytes:
        """Completion code and data of the answer to one request. Errors: FetchError, after which it is opened anew."""
        try:
            if self._fd < 0:
                self._fd = self._open()
            self._id += 1
            self._send(network_function, command, data)
            for _ in range(MAX_ANSWERS):
                if not self._wait(self._fd, ANSWER_S):
                    break
                kind, id_, answer = self._receive()
                if kind == ANSWER and id_ == self._id:
                    return answer
        except OSError as error:
            self.close()
            raise FetchError("read_error", f"{self._path}: {os.strerror(error.errno or 0)}.") from None
        self.close()  # what comes later belongs to nobody
        raise FetchError("timeout", f"The BMC did not answer through {self._path} within {ANSWER_S:.0f} s.")

    def close(self) -> None:
        """Close the device."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def _send(self, network_function: int, command: int, data: bytes) -> None:
        address = Address(SYSTEM_INTERFACE, BMC_CHANNEL, 0)
        body = ctypes.create_string_buffer(data, len(data))
        message = Message(network_function, command, len(data), ctypes.addressof(body))
        self._ioctl(self._fd, SEND_COMMAND, Request(ctypes.addressof(address), ADDRESS_BYTES, self._id, message))

    def _receive(self) -> tuple[int, int, bytes]:
        address = Address()
        body = ctypes.create_string_buffer(256)
        message = Message(0, 0, len(body), ctypes.addressof(body))
        received = Received(0, ctypes.addressof(address), ctypes.sizeof(address), 0, message)
        try:
            self._ioctl(self._fd, RECEIVE_TRUNCATED, received)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # longer than any answer that is asked for here: its beginning will do
                raise
        return received.kind, received.id, body.raw[: received.message.length]


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
