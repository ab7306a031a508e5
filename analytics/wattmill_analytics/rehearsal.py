"""Runs what learns, judges and detects once on made-up minutes, so that no job waits for the compiler.

Takes about half a minute on a machine that never ran it, and milliseconds where numba's cache is kept on disk. The
minutes hold something for every detector to look at; what is found is thrown away.
"""

from __future__ import annotations

import numpy as np

from wattmill_analytics import curve_counts, curve_learning, curves, phases
from wattmill_analytics.findings import ranks
from wattmill_analytics.findings.detectors import detect_boards, detect_engines
from wattmill_analytics.findings.minutes import MINUTE_US, BoardMinutes, EngineMinutes, Float64, Int64
from wattmill_analytics.steady_load import steady_load

_ENGINES, _MINUTES = 3, 600


def rehearse() -> None:
    """Compile every kernel behind curves, phases and findings."""
    n = _ENGINES * _MINUTES
    offsets = np.arange(_ENGINES + 1, dtype=np.int64) * _MINUTES
    minute_us = np.tile(np.arange(_MINUTES, dtype=np.int64) * MINUTE_US, _ENGINES)
    zero, unknown = np.zeros(n, np.int64), np.full(n, np.nan)
    one_each = np.zeros(_ENGINES, np.int64)
    load: Float64 = np.asarray(8.0 + np.arange(n) % 50, np.float64)
    tokens = np.asarray(load * 1000, np.int64)
    energy_mj = 20_000_000 + 300 * tokens
    counts = curve_counts.learn(
        rows=1,
        curve=one_each,
        offsets=offsets,
        minute_us=minute_us,
        serving_mj=energy_mj,
        estimated_mj=zero,
        uncached_input_tokens=tokens,
        output_tokens=tokens,
        requests_running=load,
        load=steady_load(
            offsets=offsets,
            minute_us=minute_us,
            output_tokens=tokens,
            requests_running=load,
            looks_a_minute=np.full(_ENGINES, 6.0),
        ),
        untrusted_us=zero,
        excluded=np.zeros(n, np.bool_),
    )
    learnt = curve_learning.solve(curve_counts.add([counts, counts], 1))
    expected_mj, expected_tokens = curves.judge(
        curves=learnt,
        curve=one_each,
        offsets=offsets,
        uncached_input_tokens=tokens,
        output_tokens=tokens,
        requests_running=load,
    )
    compared = ranks.compare(
        offsets=offsets,
        minute_us=minute_us,
        held=np.arange(_ENGINES, dtype=np.int64),
        held_offsets=np.arange(_ENGINES + 1, dtype=np.int64),
        board_ids=np.arange(_ENGINES, dtype=np.int64) + 1,
        board_offsets=offsets,
        board_minute_us=minute_us,
        board_clock_mhz=zero + 1000,
        board_reasons=zero,
        board_utilisation=unknown,
    )
    late = np.tile(np.arange(_MINUTES) >= _MINUTES // 2, _ENGINES)
    detect_engines(
        EngineMinutes(
            offsets=offsets,
            workload=one_each,
            boards=one_each + 1,
            curve=one_each,
            curves=learnt,
            minute_us=minute_us,
            serving_mj=np.where(late, 2 * energy_mj, energy_mj),
            idle_loaded_mj=zero,
            estimated_mj=zero,
            input_tokens=2 * tokens,
            cached_input_tokens=np.where(late, zero, tokens),
            output_tokens=tokens,
            requests_finished=tokens // 100,
            preemptions=np.where(late, 100, zero),
            anomalies=zero,
            untrusted_us=zero,
            version=zero,
            clock_event_reasons=compared.clock_event_reasons,
            slow_board=compared.slow_board,
            power_ratio=unknown,
            utilisation_ratio=compared.utilisation_ratio,
            requests_running=load,
            requests_waiting=np.where(late, 5.0, 0.0),
            kv_cache_usage_ratio=np.where(late, 1.0, 0.5),
            slow_board_ratio=compared.slow_board_ratio,
            expected_mj=expected_mj,
            expected_output_tokens=expected_tokens,
            peak_tokens_per_s=np.full(_ENGINES, 1e6),
        )
    )
    detect_boards(BoardMinutes(offsets, minute_us, zero, zero, energy_mj, zero, zero, zero, unknown, unknown))
    _rehearse_phases(offsets, minute_us, energy_mj, tokens)


def _rehearse_phases(offsets: Int64, minute_us: Int64, energy_mj: Int64, tokens: Int64) -> None:
    _, fits = phases.settle(
        group=np.zeros(_ENGINES, np.int64),
        groups=1,
        offsets=offsets,
        minute_us=minute_us,
        engine_us=np.full(tokens.size, MINUTE_US, np.int64),
        energy_mj=energy_mj,
        uncached_input_tokens=tokens,
        output_tokens=tokens,
        whole=np.ones(tokens.size, np.uint8),
    )
    total = np.array([1_000_000], np.int64)
    phases.phase_energy(
        fits.coefficients, energy_mj=total, engine_us=total, uncached_input_tokens=total, output_tokens=total
    )
