"""The kernel's list of listening sockets: the same as in /proc, for a fraction of the price."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from wattmill_collector.placement.process import parse_listening
from wattmill_collector.placement.sockets import ERROR, HEADER, listening_sockets, parse_sockets


def test_the_kernel_lists_what_listens_with_its_inode() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as all_of_them,
        socket.create_connection(one.getsockname()) as connected,
    ):
        found = listening_sockets()
        assert found["127.0.0.1", one.getsockname()[1]] == os.fstat(one.fileno()).st_ino
        assert found["::", all_of_them.getsockname()[1]] == os.fstat(all_of_them.fileno()).st_ino
        assert os.fstat(connected.fileno()).st_ino not in found.values()


def test_it_says_the_same_as_proc() -> None:
    with socket.create_server(("0.0.0.0", 0)) as one:
        place = ("0.0.0.0", one.getsockname()[1])
        assert listening_sockets()[place] == parse_listening(Path("/proc/net/tcp").read_bytes())[place]


def test_a_refusal_is_an_oserror() -> None:
    refusal = HEADER.pack(20, ERROR, 0, 1, 0) + (-errno.ENOENT).to_bytes(4, "little", signed=True)
    with pytest.raises(OSError, match="by netlink") as refused:
        parse_sockets(refusal, {})
    assert refused.value.errno == errno.ENOENT


def test_a_message_without_length_does_not_hang() -> None:
    with pytest.raises(OSError, match="by netlink"):
        parse_sockets(bytes(64), {})
