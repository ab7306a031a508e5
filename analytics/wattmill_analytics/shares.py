"""Fixed parts of a board as whole numbers, so that three of seven slices are three sevenths and not 42.8571 per cent.

An agent says parts in millionths, which have no sevenths: three tenants of 3, 2 and 2 slices would leave a millionth of
the board over. What lies within a millionth of a simple fraction is taken for that fraction.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from wattmill_analytics.kernel import int64s

Int64s = NDArray[np.int64]

WHOLE: Final = 2**6 * 3**3 * 5**6 * 7 * 11 * 13 * 17 * 19 * 23
"""All of a board, below 2^48: millionths, parts with denominators up to 28 and many up to 64 are whole numbers."""

PPM: Final = 10**6
SIMPLEST_UP_TO: Final = 64
"""Largest denominator looked for: a MIG board has 7 or 8 slices, time slicing a few dozen replicas."""


def from_ppm(ppm: Int64s) -> Int64s:
    """Parts of a board in units of 1 / WHOLE.

    Shapes and units: ppm int64 [n], millionths; -1 = no part of its own.
    Returns: int64 [n], the simplest fraction within one millionth with a denominator up to 64, else the millionths as
    they are; more than all is all, and -1 stays -1.
    Errors: none. Accuracy: exact, or off by at most the millionth that the agent rounded.
    Example: 428571 and 428572 -> 3/7 of WHOLE; 350000 -> 7/20; 123457 -> 123457 millionths.
    """
    ppm = np.minimum(int64s(ppm), PPM)
    found = ppm * (WHOLE // PPM)
    for below in range(SIMPLEST_UP_TO, 0, -1):
        above = (2 * ppm * below + PPM) // (2 * PPM)
        simple = (above > 0) & (np.abs(ppm * below - above * PPM) <= below)
        if WHOLE % below == 0 and simple.any():
            found = np.where(simple, above * (WHOLE // below), found)
    return np.where(ppm < 0, -1, found)
