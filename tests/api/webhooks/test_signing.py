"""Signatures, checked as a receiver checks them; secrets by name, from files, and only there."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from wattmill_api.webhooks.signing import NoSecret, Secrets, signature


def valid(header: str, body: bytes, secret: str, now_s: int, tolerance_s: int = 300) -> bool:
    """As docs/webhooks.md tells receivers to check."""
    parts = [part.partition("=")[::2] for part in header.split(",")]
    time_s = next(value for name, value in parts if name == "t")
    wanted = hmac.new(secret.encode(), time_s.encode() + b"." + body, hashlib.sha256).hexdigest()
    fresh = abs(now_s - int(time_s)) <= tolerance_s
    return fresh and any(hmac.compare_digest(value, wanted) for name, value in parts if name == "v1")


def test_a_known_signature() -> None:
    """Computed with `printf '1700000000.{}' | openssl dgst -sha256 -hmac hush`."""
    digest = "763081ea12e3b1f903f958994c023cde07f1224b02a538ad6f959112a2f780ba"
    assert signature(b"{}", ["hush"], 1_700_000_000) == f"t=1700000000,v1={digest}"


def test_a_receiver_believes_the_secret_the_body_and_the_time() -> None:
    header = signature(b"body", ["hush"], 1000)
    assert valid(header, b"body", "hush", 1000)
    assert not valid(header, b"bodies", "hush", 1000)
    assert not valid(header, b"body", "hash", 1000)
    assert not valid(header, b"body", "hush", 1301)
    assert not valid(header.replace("t=1000", "t=1300"), b"body", "hush", 1300)


def test_two_lines_sign_twice_so_that_a_secret_can_be_rotated(tmp_path: Path) -> None:
    (tmp_path / "on-call").write_text("old\nnew\n\n")
    secrets = Secrets(folder=str(tmp_path))
    header = signature(b"body", secrets.of("on-call"), 1000)
    assert valid(header, b"body", "old", 1000)
    assert valid(header, b"body", "new", 1000)
    (tmp_path / "on-call").write_text("new")
    assert secrets.of("on-call") == ("new",)


def test_the_default_is_for_those_that_name_none(tmp_path: Path) -> None:
    (tmp_path / "on-call").write_text("theirs")
    secrets = Secrets("ours", str(tmp_path))
    assert (secrets.of(""), secrets.of("on-call")) == (("ours",), ("theirs",))
    assert Secrets().of("") == ()
    assert "ours" not in repr(secrets)


@pytest.mark.parametrize("name", ["../passwd", "/etc/passwd", "a/b", "..", ".hidden", "A", "a" * 64, "a\n"])
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(NoSecret, match="no name of a secret"):
        Secrets(folder=str(tmp_path)).of(name)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a\nb\nc\nd\ne", b"a" * 4097, b"\xff"])
def test_a_file_that_is_no_secret_is_said_so_without_its_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "on-call").write_bytes(content)
    with pytest.raises(NoSecret, match="on-call"):
        Secrets(folder=str(tmp_path)).of("on-call")


def test_a_secret_that_is_not_there_names_the_variable(tmp_path: Path) -> None:
    for secrets in (Secrets("ours"), Secrets("ours", str(tmp_path))):
        with pytest.raises(NoSecret, match="WATTMILL_WEBHOOK_SECRETS"):
            secrets.of("on-call")
