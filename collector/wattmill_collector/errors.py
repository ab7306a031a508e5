"""What a source says when it can't read: three kinds of absence, each with its own consequence.

The docstring of an error is its message, unless the place that raises knows something better. Every message is a
sentence for the person on call.
"""

from __future__ import annotations


class SourceError(Exception):
    """A source could not read."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class NotHere(SourceError):
    """This host does not have what the source reads. That is expected: the source is left out."""


class TryAgain(SourceError):
    """What the source reads is away for the moment. The agent goes on and tries again later."""


class Broken(SourceError):
    """The source can't work until a person repairs something. The agent stops this source and says so."""
