"""What a driver calls an accelerator, as the accelerators that published figures are about. Pure; never raises.

The rule: a name is cut into words of letters and digits, and exactly one of them must name a measured chip. The words
beside it must be those of the measured board (H100: the SXM module with 80 GB of HBM3); other boards of the same chip
(PCIe, NVL, another memory) match as approximate, because their power limit and bandwidth differ. Another chip, a slice
of a board and a virtual one never match.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from wattmill_analytics.frontier.confidence import LONGEST_NAME, Confidence

_WORD = re.compile(r"[a-z0-9]+")
_VIRTUAL = re.compile(r"\d{1,3}[abcq]")
_MAKER: Final = {"nvidia", "tesla", "gpu", "corporation", "dgx", "hgx"}
_SXM: Final = {"sxm", "sxm5", "sxm6"}
# Chip -> words of the measured board; a name must have one of the second set, when there is one, to be exact.
_MEASURED: Final[dict[str, tuple[set[str], set[str]]]] = {
    "h100": (_SXM | {"80gb", "hbm3"}, _SXM | {"hbm3"}),
    "b200": (_SXM | {"180gb", "183gb", "192gb", "hbm3e"}, set()),
}
_BOARD: Final = {"h100": "the SXM module with 80 GB of HBM3", "b200": "the SXM module"}


@dataclasses.dataclass(frozen=True, slots=True)
class AcceleratorName:
    """`chip`: as in the table of references, "" when nothing was measured; `how`: why, as part of a sentence."""

    chip: str
    confidence: Confidence
    how: str


def parse_accelerator(name: str) -> AcceleratorName:
    """The measured accelerator that `name`, as a driver or an exporter prints it, stands for."""
    if len(name) > LONGEST_NAME:
        return AcceleratorName("", "none", f"the accelerator's name is longer than {LONGEST_NAME} characters")
    words = _WORD.findall(name.lower()) if name.isascii() else []
    if "mig" in words:
        return AcceleratorName("", "none", "a MIG slice: published figures are of whole boards")
    chips = sorted(set(words) & _MEASURED.keys())
    if not chips:
        return AcceleratorName("", "none", "no figures are published for this accelerator")
    if len(chips) > 1:
        return AcceleratorName("", "none", "the accelerator's name says more than one chip")
    [chip] = chips
    besides = set(words) - {chip} - _MAKER
    if any(_VIRTUAL.fullmatch(word) for word in besides):
        return AcceleratorName("", "none", "a virtual accelerator: published figures are of whole boards")
    same, needed = _MEASURED[chip]
    label, board = chip.upper(), _BOARD[chip]
    if besides - same:
        return AcceleratorName(label, "approximate", f"another board with the chip of {label}; measured was {board}")
    if needed and not besides & needed:
        return AcceleratorName(label, "approximate", f"the name does not say which {label}; measured was {board}")
    return AcceleratorName(label, "exact", f"{label}, {board}")
