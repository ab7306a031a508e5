"""Passwords and keys that other systems ask of the agent, out of files that not everybody may read."""

from __future__ import annotations

from pathlib import Path

OPEN_TO_ALL = 0o006


class SecretError(ValueError):
    """A secret can't be read, or could be by everybody; `reason` is a word for machines."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def read_secret(path: Path, what: str) -> str:
    """The secret in a file, without the line end; `what` it is called. Errors: SecretError, a sentence."""
    try:
        if path.stat().st_mode & OPEN_TO_ALL:
            raise SecretError(
                f"{what}_file_open",
                f"Everybody may read or change the {what} file {path}: chmod 0640 it (a Kubernetes secret: "
                "defaultMode 0440).",
            )
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SecretError(f"no_{what}", f"The {what} file {path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SecretError(f"no_{what}", f"The {what} file {path} is not text in UTF-8.") from None
    if not secret:
        raise SecretError(f"no_{what}", f"The {what} file {path} is empty.")
    return secret
