"""Where a target may be, and where not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wattmill_collector.sources.addresses import is_denied, place_of


@pytest.mark.parametrize(
    ("address", "denied"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("fd12::1", False),
        ("8.8.8.8", False),
        ("169.254.0.1", True),
        ("fe80::1%eth0", True),
        ("ff02::1", True),
        ("239.1.1.1", True),
        ("255.255.255.255", True),
        ("fd00:ec2::254", True),
        ("::ffff:169.254.169.254", True),
        ("2002:a9fe:a9fe::1", True),
        ("64:ff9b::169.254.169.254", True),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_denied_addresses(address: str, denied: bool) -> None:
    assert is_denied(address) == denied


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://a", (False, "a", 80, "/metrics")),
        ("https://a:8443/x?y=1", (True, "a", 8443, "/x?y=1")),
        ("http://[::1]:8000/", (False, "::1", 8000, "/metrics")),
    ],
)
def test_places(url: str, place: tuple[bool, str, int, str]) -> None:
    found = place_of(url)
    assert (found.secure, found.host, found.port, found.path) == place


def test_hostile_urls_do_not_smuggle_a_request() -> None:
    checks: list[Callable[[], object]] = [lambda: place_of("http://a/\r\nX: y"), lambda: place_of("http://a/?\r\nX: y")]
    for check in checks:
        try:
            place = check()
        except ValueError:
            continue
        assert "\r" not in repr(place)
        assert "\n" not in repr(place)
