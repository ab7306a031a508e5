"""After the rehearsal nothing that judges is compiled any more, whatever the jobs bring."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
from numba.core.registry import CPUDispatcher

import wattmill_analytics.findings
from support.minutes import board_minutes, engine_minutes
from wattmill_analytics import curve_counts, curve_learning, curves, phase_algebra, phases
from wattmill_analytics.findings.detectors import detect_boards, detect_engines
from wattmill_analytics.rehearsal import rehearse


def compiled() -> dict[str, int]:
    package = wattmill_analytics.findings
    names = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    modules = [curves, curve_counts, curve_learning, phases, phase_algebra, *map(importlib.import_module, names)]
    return {
        f"{module.__name__}.{name}": len(value.signatures)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, CPUDispatcher)
    }


def test_after_the_rehearsal_no_kernel_that_judges_is_compiled() -> None:
    rehearse()
    before = compiled()
    assert sum(signatures > 0 for signatures in before.values()) > 20
    rng = np.random.default_rng(1)
    n = 3 * 1500
    load = rng.uniform(0, 60, n)
    table = engine_minutes(
        1500,
        engines=3,
        workload=0,
        boards=2,
        curve=0,
        curves=curve_learning.solve(curve_counts.no_counts(1)),
        serving_mj=rng.integers(0, 40_000_000, n),
        input_tokens=rng.integers(0, 90_000, n),
        cached_input_tokens=0,
        output_tokens=rng.integers(0, 90_000, n),
        requests_running=load,
        requests_waiting=rng.uniform(0, 5, n),
        kv_cache_usage_ratio=rng.uniform(0, 1, n),
        clock_event_reasons=rng.integers(0, 256, n),
        preemptions=rng.integers(0, 9, n),
        requests_finished=rng.integers(0, 90, n),
    )
    detect_engines(table)
    detect_boards(board_minutes(60, boards=2, idle_empty_mj=1000))
    assert compiled() == before
