"""How sure a match is, and how long a name may be. No more than that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

Confidence = Literal["exact", "same-architecture", "approximate", "none"]
CONFIDENCES: Final[tuple[Confidence, ...]] = ("exact", "same-architecture", "approximate", "none")
LONGEST_NAME: Final = 512


def least(confidences: Iterable[Confidence]) -> Confidence:
    """The least sure of some."""
    return CONFIDENCES[max(map(CONFIDENCES.index, confidences))]
