"""DCMI power readings, byte for byte, and the exchange with the kernel's IPMI device."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill_collector.errors import NotHere
from wattmill_collector.sources.addresses import FetchError
from wattmill_collector.sources.chassis import Draw
from wattmill_collector.sources.ipmi import PowerReading, power_of
from wattmill_collector.sources.ipmi_device import (
    ANSWER,
    RECEIVE_TRUNCATED,
    SEND_COMMAND,
    Address,
    IpmiDevice,
    Received,
    Request,
    find_device,
)

# 00: done; dc: the group; 5634 W now, 180 W least, 9650 W most, 5210 W mean; a time; 1000 ms; 40: measuring.
ACTIVE = bytes.fromhex("00 dc 02 16 b4 00 b2 25 5a 14 0a 1c 25 69 e8 03 00 00 40")


class Exchanges:
    """A transport that replays answers and keeps what was asked."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = deque(answers)
        self.asked: list[tuple[int, int, bytes]] = []

    def exchange(self, network_function: int, command: int, data: bytes) -> bytes:
        self.asked.append((network_function, command, data))
        return self.answers.popleft()


def reason_of(answer: bytes) -> str:
    with pytest.raises(FetchError) as caught:
        power_of(answer)
    return caught.value.failure.reason


def test_the_power_is_the_present_one_in_milliwatts() -> None:
    bmc = Exchanges(ACTIVE)
    assert PowerReading(bmc).ask() == Draw(5_634_000)
    assert bmc.asked == [(0x2C, 0x02, bytes.fromhex("dc 01 00 00"))]


def test_an_answer_may_be_longer_than_the_standard_says() -> None:
    assert power_of(ACTIVE + b"\x00\x00") == 5_634_000


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("c1", "not_supported"),
        ("cc", "not_supported"),
        ("d3", "unreachable"),
        ("d4", "permission_denied"),
        ("c3", "timeout"),
        ("ff", "bmc_error"),
        ("", "not_understood"),
        ("00", "not_understood"),
        ("00 dc", "not_understood"),
        (ACTIVE[:18].hex(), "not_understood"),
        (ACTIVE.hex().replace("00dc", "00de", 1), "not_understood"),
        (ACTIVE[:18].hex() + "00", "power_reading_inactive"),
        (ACTIVE[:18].hex() + "bf", "power_reading_inactive"),
        ("00 dc 00 00" + ACTIVE[4:].hex(), "no_power_reading"),
        ("00 dc 09 00" + ACTIVE[4:].hex(), "no_power_reading"),
        ("00 dc ff ff" + ACTIVE[4:].hex(), "no_power_reading"),
    ],
)
def test_what_is_no_power_is_absent_with_a_reason(answer: str, reason: str) -> None:
    assert reason_of(bytes.fromhex(answer)) == reason


@given(st.binary(max_size=24) | st.binary(max_size=17).map(lambda tail: b"\x00\xdc" + tail))
def test_whatever_a_bmc_sends_is_power_or_a_reason(answer: bytes) -> None:
    with contextlib.suppress(FetchError):
        assert 0 < power_of(answer) < 65_535_000


def test_a_busy_bmc_is_asked_once_more() -> None:
    assert PowerReading(Exchanges(b"\xc0", ACTIVE)).ask() == Draw(5_634_000)
    with pytest.raises(FetchError, match="busy"):
        PowerReading(Exchanges(b"\xc0", b"\xc0", ACTIVE)).ask()


class Driver:
    """The kernel's side of the ioctls: sees the request's bytes and queues answers as a BMC would."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, int, int, bytes]] = []
        self.queue: deque[tuple[int, int, bytes]] = deque()  # receive type, offset of the id, answer
        self.errors: dict[int, int] = {}

    def ioctl(self, fd: int, number: int, argument: ctypes.Structure) -> int:
        if code := self.errors.pop(number, 0):
            raise OSError(code, os.strerror(code))
        if number == SEND_COMMAND:
            assert isinstance(argument, Request)
            address = Address.from_address(argument.address)
            message = argument.message
            body = ctypes.string_at(message.data, message.length)
            self.sent.append((address.kind, address.channel, message.network_function, message.command, body))
            self.id = argument.id
            assert argument.address_length >= 8  # less is EINVAL
            return 0
        assert number == RECEIVE_TRUNCATED
        assert isinstance(argument, Received)
        kind, offset, answer = self.queue.popleft()
        room = argument.message.length
        ctypes.memmove(argument.message.data, answer, min(room, len(answer)))
        argument.kind, argument.id, argument.message.length = kind, self.id + offset, min(room, len(answer))
        if len(answer) > room:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return 0

    def wait(self, fd: int, seconds: float) -> bool:
        return bool(self.queue)


@pytest.fixture
def device(tmp_path: Path) -> tuple[IpmiDevice, Driver]:
    path = tmp_path / "ipmi0"
    path.touch()
    driver = Driver()
    return IpmiDevice(path, ioctl=driver.ioctl, wait=driver.wait), driver


def test_the_ioctls_are_those_of_64_bit_linux() -> None:
    assert (SEND_COMMAND, RECEIVE_TRUNCATED) == (0x8028690D, 0xC030690B)


def test_the_request_goes_to_the_bmc_over_the_system_interface(device: tuple[IpmiDevice, Driver]) -> None:
    ipmi, driver = device
    driver.queue.append((ANSWER, 0, ACTIVE))
    assert PowerReading(ipmi).ask() == Draw(5_634_000)
    assert driver.sent == [(0x0C, 0x0F, 0x2C, 0x02, b"\xdc\x01\x00\x00")]
    ipmi.close()


def test_answers_to_others_and_late_ones_are_passed_over(device: tuple[IpmiDevice, Driver]) -> None:
    ipmi, driver = device
    driver.queue += [(2, 0, b"\x00event"), (ANSWER, -1, b"\xc1"), (ANSWER, 0, ACTIVE)]
    assert ipmi.exchange(0x2C, 0x02, b"\xdc\x01\x00\x00") == ACTIVE
    ipmi.close()


def test_a_bmc_that_does_not_answer_is_left_and_asked_anew(device: tuple[IpmiDevice, Driver]) -> None:
    ipmi, driver = device
    with pytest.raises(FetchError) as caught:
        ipmi.exchange(0x2C, 0x02, b"\xdc\x01\x00\x00")
    assert caught.value.failure.reason == "timeout"
    driver.queue.append((ANSWER, 0, ACTIVE))
    assert ipmi.exchange(0x2C, 0x02, b"\xdc\x01\x00\x00") == ACTIVE
    ipmi.close()


def test_a_driver_that_went_away_is_a_reason_and_not_a_crash(device: tuple[IpmiDevice, Driver]) -> None:
    ipmi, driver = device
    driver.errors[SEND_COMMAND] = errno.ENODEV
    with pytest.raises(FetchError) as caught:
        ipmi.exchange(0x2C, 0x02, b"")
    assert caught.value.failure.reason == "read_error"
    driver.queue.append((ANSWER, 0, ACTIVE))
    assert ipmi.exchange(0x2C, 0x02, b"") == ACTIVE
    ipmi.close()


def test_an_answer_that_is_too_long_is_cut(device: tuple[IpmiDevice, Driver]) -> None:
    ipmi, driver = device
    driver.queue.append((ANSWER, 0, ACTIVE + bytes(1000)))
    assert power_of(ipmi.exchange(0x2C, 0x02, b"")) == 5_634_000
    ipmi.close()


@pytest.mark.parametrize("name", ["dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0"])
def test_the_device_is_found_under_each_of_its_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert find_device((tmp_path / "other", tmp_path)) == tmp_path / name


def test_a_node_without_a_device_is_told_which_modules_are_missing(tmp_path: Path) -> None:
    with pytest.raises(NotHere, match="ipmi_devintf"):
        find_device((tmp_path,))


def test_a_device_that_may_not_be_opened_says_how_to_permit_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotHere, match="udev rule") as caught:
        IpmiDevice(tmp_path / "ipmi0")
    assert "DeviceAllow=char-ipmidev" in str(caught.value)
