"""The one place that talks to numba.

`kernel` compiles a function of arrays and numbers, lets it run without the interpreter lock, and leaves its signature
as it is for the type checkers. With NUMBA_DISABLE_JIT=1 the same function runs as plain Python.
A kernel loops over what it is given; it allocates nothing large, knows no clock and never raises.

The compiled code is kept on disk where a place for it can be written, so that a restart costs milliseconds; what an
image brings in $NUMBA_CACHE_DIR is read though nobody may write there. numba notices a change of the kernel's own file
only: after a change in `exact.py` delete the `*.nbi` files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from numba.core import caching
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")
_numba: Any = caching  # it has no types


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, compiled at its first call for the types it is called with."""
    compiled: Any = numba.njit(nogil=True)(function)
    if compiled is not function:
        # numba refuses to keep anything when no place is writable: a container with a read-only root.
        with contextlib.suppress(RuntimeError):
            compiled._cache = _Cache(function)
    return cast(Callable[P, R], compiled)


class _Brought(_numba.UserProvidedCacheLocator):  # type: ignore[misc]
    """$NUMBA_CACHE_DIR where it holds something, whether it may be written or not."""

    def ensure_cache_path(self) -> None:
        os.stat(self.get_cache_path())


class _Places(_numba.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (
        _numba.UserProvidedCacheLocator,
        _Brought,
        _numba.InTreeCacheLocator,
        _numba.UserWideCacheLocator,
    )


class _Cache(_numba.FunctionCache):  # type: ignore[misc]
    _impl_class = _Places

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled; a full or read-only disk costs the next start, not this call."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


def int64s(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """`array` as kernels take it: int64, contiguous, aligned and writable; a copy only if it is not so already.

    A read-only array (from a buffer) is another type to numba: it would compile every kernel anew in mid-job.
    """
    return np.require(array, np.int64, ["C", "A", "W"])


def uint8s(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`int64s` for flags and codes."""
    return np.require(array, np.uint8, ["C", "A", "W"])
