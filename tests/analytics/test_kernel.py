"""The one decorator that talks to numba."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import caching, config
from numba.core.registry import CPUDispatcher

from wattmill_analytics import (
    attribution,
    buckets,
    efficiency,
    estimates,
    exact,
    increments,
    pricing,
    restarts,
    warm_up,
)
from wattmill_analytics import kernel as kernel_module
from wattmill_analytics.kernel import kernel


def _double(a: int) -> int:
    return 2 * a


def test_a_kernel_is_its_function_compiled() -> None:
    doubled: Any = kernel(_double)
    assert doubled(21) == 42
    assert isinstance(doubled, CPUDispatcher)
    assert doubled.py_func is _double


def test_without_a_place_for_the_cache_a_kernel_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module._Places, "_locator_classes", ())
    doubled: Any = kernel(_double)
    assert doubled(21) == 42
    assert doubled._cache.cache_path is None


def test_what_was_compiled_is_read_where_nobody_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert kernel(_double)(21) == 42

    def read_only(*_: object, **__: object) -> object:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(caching.IndexDataCacheFile, "_open_for_write", read_only)
    again: Any = kernel(_double)
    assert (again(21), again(2.5)) == (42, 5.0)
    assert again.stats.cache_hits == {(numba.int64,): 1}
    assert again.stats.cache_misses == {(numba.float64,): 1}


def test_after_warm_up_nothing_is_compiled_whatever_the_arrays_look_like() -> None:
    warm_up()
    before = compiled()
    n = 5
    packed = np.zeros(8 * n + 1, np.uint8)
    unaligned = packed[1:].view(np.int64)
    read_only = np.frombuffer(np.arange(n, dtype=np.int64).tobytes(), np.int64)
    strided = np.arange(2 * n, dtype=np.int64)[::2]
    per_series = np.frombuffer(np.full(1, 10, np.int64).tobytes(), np.int64)
    offsets = np.array([0, n], np.int64)
    common = {"epoch": unaligned, "epoch_start_us": unaligned, "offsets": offsets}
    found = increments.energy_increments(
        time_us=read_only,
        energy_mj=strided,
        power_mw=read_only,
        watched_from_us=per_series,
        gap_us=per_series,
        highest_mw=per_series,
        **common,
    )
    increments.infer_restarts(
        time_us=read_only, value=strided[::-1], group=per_series, highest_per_s=per_series, **common
    )
    pieces = buckets.spread(start_us=found.start_us, end_us=read_only, amount=found.delta, bucket_us=60)
    buckets.sum_by_key(np.stack((pieces.source, pieces.bucket_us)).T, pieces.amount.reshape(-1, 1))
    attribution.attribute(
        offsets=offsets,
        start_us=found.start_us,
        end_us=read_only,
        energy_mj=found.delta,
        counter_mj=read_only,
        occupancy=np.frombuffer(bytes(n), np.uint8),
        held_offsets=offsets,
        held_start_us=unaligned,
        held_end_us=strided,
        held_active=np.ones(2 * n, np.uint8)[::2],
        held_weight=read_only,
        held_share=strided,
        held_activity=unaligned,
    )
    attribution.divide(read_only, read_only + 1)
    efficiency.tokens_per_kwh(read_only, strided)
    pricing.price(energy_mj=strided, time_us=read_only, valid_from_us=read_only, micro_per_kwh=strided)
    assert compiled() == before
    assert sum(before.values()) > 10


def compiled() -> dict[str, int]:
    modules = (attribution, buckets, efficiency, estimates, exact, increments, pricing, restarts)
    return {
        f"{module.__name__}.{name}": len(value.signatures)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, CPUDispatcher)
    }


def test_kernels_run_as_plain_python() -> None:
    code = "import warnings; warnings.simplefilter('error'); import wattmill_analytics; wattmill_analytics.warm_up()"
    environment = {"PYTHONPATH": ":".join(sys.path), "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_threads_agree() -> None:
    ends = np.arange(1, 200_001, dtype=np.int64) * 1_000_003
    answers: list[int] = []

    def work() -> None:
        found = buckets.spread(start_us=ends - 1_000_003, end_us=ends, amount=ends % 997, bucket_us=777_777)
        answers.append(hash(found.amount.tobytes()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert len(answers) == 4
