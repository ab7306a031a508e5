"""The one place that talks to numba.

`kernel` compiles a function of arrays and numbers, lets it run without the interpreter lock, and leaves its signature
as it is for the type checkers. With NUMBA_DISABLE_JIT=1 the same function runs as plain Python.
A kernel loops over what it is given; it allocates nothing large, knows no clock and never raises.

The compiled code is kept on disk where a place for it can be written, so that a restart costs milliseconds. numba
notices a change of the kernel's own file only: after a change in `exact.py` delete the `*.nbi` files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, compiled at its first call for the types it is called with."""
    try:
        compiled = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # numba refuses to decorate when no cache folder is writable: a container with a read-only root.
        compiled = numba.njit(nogil=True)(function)
    return cast(Callable[P, R], compiled)


def int64s(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """`array` as kernels take it: int64, contiguous, aligned and writable; a copy only if it is not so already.

    A read-only array (from a buffer) is another type to numba: it would compile every kernel anew in mid-job.
    """
    return np.require(array, np.int64, ["C", "A", "W"])


def uint8s(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`int64s` for flags and codes."""
    return np.require(array, np.uint8, ["C", "A", "W"])
