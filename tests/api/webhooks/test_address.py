"""Whom a webhook may be posted to: every way of writing an inner address is refused, and a list opens what it names."""

from __future__ import annotations

import pytest

from wattmill_api.webhooks.address import Target, parse_networks, parse_url, refusal


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",  # 127.0.0.1 behind NAT64
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",  # 127.0.0.1 by 6to4
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
        "0.0.0.0",
        "::",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",  # Alibaba's metadata
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "168.63.129.16",  # Azure's
        "192.0.0.192",  # Oracle's
        "fd00:ec2::254",  # Amazon's
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "192.0.2.1",
        "2001:db8::1",
        "not-an-address",
    ],
)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert refusal(address, ())


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_what_is_public_is_not(address: str) -> None:
    assert refusal(address, ()) == ""


def test_a_list_opens_what_it_names_and_nothing_beside() -> None:
    allowed = parse_networks("10.2.0.0/16, 127.0.0.1 fd12::/32")
    assert [refusal(a, allowed) for a in ("10.2.255.1", "127.0.0.1", "::ffff:10.2.0.1", "fd12::5")] == [""] * 4
    assert all(refusal(a, allowed) for a in ("10.3.0.1", "127.0.0.2", "fd13::5", "::1"))
    assert "WATTMILL_WEBHOOK_ALLOW" in refusal("10.3.0.1", allowed)


def test_a_list_that_makes_no_sense_is_refused_by_the_part_that_does_not() -> None:
    with pytest.raises(ValueError, match=r"'10\.0\.0\.0/33'"):
        parse_networks("10.0.0.0/8,10.0.0.0/33")
    assert parse_networks("") == ()


def test_an_address_is_taken_apart() -> None:
    assert parse_url("https://alerts.example/hook?token=s3cret") == Target(
        "https", "alerts.example", 443, "/hook?token=s3cret"
    )
    assert parse_url("http://[fd00::1]:8080").origin == "[fd00::1]:8080"
    assert parse_url("http://a.example:80/").origin == "a.example"
    assert parse_url("http://a.example:443/").origin == "a.example:443"


def test_an_address_is_shown_without_what_may_be_a_token() -> None:
    assert parse_url("https://alerts.example/T0/B1/XXXX?key=s3cret").shown == "https://alerts.example/…"
    assert parse_url("https://alerts.example?key=s3cret").shown == "https://alerts.example/…"
    assert parse_url("https://alerts.example").shown == "https://alerts.example/"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://alerts.example/", "http"),
        ("file:///etc/passwd", "http"),
        ("//alerts.example/", "http"),
        ("https:///hook", "host"),
        ("https://me:secret@alerts.example/", "user"),
        ("https://alerts.example@10.0.0.1/", "user"),
        ("https://alerts.example:0/", "port"),
        ("https://alerts.example:99999/", "address such as"),
        ("https://[::1/", "address such as"),
        ("https://alerts.example/a b", "ASCII"),
        ("https://alerts.example/\r\nHost: other", "ASCII"),
        ("https://älerts.example/", "ASCII"),
        ("https://alerts.example/" + "a" * 2048, "2048"),
    ],
)
def test_an_address_that_can_not_be_posted_to_says_why(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_url(url)
    assert "secret" not in str(refused.value)
