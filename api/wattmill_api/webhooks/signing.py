"""Signatures of posts and the secrets behind them.

A secret comes from the service's own environment or a file of a folder named there; it is in no table and no answer.
Files are read at every post, so that one that is rotated counts at once. A file of two lines signs twice: that is how
a receiver gets from an old secret to a new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path

HEADER = "X-Wattmill-Signature"
NAME = "^[a-z0-9][a-z0-9.-]{0,62}$"
MOST_BYTES = 4096
MOST_SECRETS = 4


class NoSecret(Exception):
    """The secret that a webhook names is not there; the message says where it was looked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Secrets:
    """`default` signs for webhooks that name none; `folder` has a file for each name."""

    default: str = dataclasses.field(default="", repr=False)
    folder: str = ""

    def of(self, name: str) -> tuple[str, ...]:
        """The secrets behind a name; none where a webhook names none and there is no default. Errors: NoSecret."""
        if not name:
            return (self.default,) if self.default else ()
        if re.fullmatch(NAME, name) is None:
            raise NoSecret(f"{name!r} is no name of a secret")
        if not self.folder:
            raise NoSecret(f"the secret {name} is in a folder that WATTMILL_WEBHOOK_SECRETS does not name")
        try:
            with (Path(self.folder) / name).open("rb") as file:
                content = file.read(MOST_BYTES + 1)
            lines = tuple(line.strip() for line in content.decode().splitlines() if line.strip())
        except (OSError, UnicodeDecodeError):
            raise NoSecret(f"the secret {name} can't be read from the folder WATTMILL_WEBHOOK_SECRETS") from None
        if not lines or len(lines) > MOST_SECRETS or len(content) > MOST_BYTES:
            raise NoSecret(
                f"the file of the secret {name} must have 1 to {MOST_SECRETS} lines, {MOST_BYTES} bytes at most"
            )
        return lines


def signature(body: bytes, secrets: Sequence[str], time_s: int) -> str:
    """The header's value: `t=<unix seconds>,v1=<hex>`, one v1 a secret: HMAC-SHA-256 over `<t>.<body>`."""
    signed = f"{time_s}.".encode() + body
    digests = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={time_s}", *(f"v1={digest}" for digest in digests)])
