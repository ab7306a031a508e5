"""Hand-made minutes for tests of detectors: equal ones by the dozen, joined one behind the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from wattmill_analytics.curves import Curves, no_curves
from wattmill_analytics.findings.minutes import MINUTE_US, BoardMinutes, EngineMinutes

M = TypeVar("M", BoardMinutes, EngineMinutes)

_PER_ENGINE = ("workload", "boards", "curve")
_UNKNOWN = ("cached_input_tokens", "requests_finished", "preemptions", "version")
_INTEGERS = (
    *("serving_mj", "idle_loaded_mj", "estimated_mj", "input_tokens", "output_tokens", "anomalies", "untrusted_us"),
    *("clock_event_reasons", "slow_board", *_UNKNOWN),
)
_RATIOS = (
    *("power_ratio", "utilisation_ratio", "requests_running", "requests_waiting", "kv_cache_usage_ratio"),
    *("slow_board_ratio", "expected_mj", "expected_output_tokens"),
)
_BOARD_INTEGERS = (
    *("serving_mj", "idle_loaded_mj", "idle_empty_mj", "estimated_mj", "anomalies", "untrusted_us"),
    "unattributed_mj",
)


def engine_minutes(count: int, engines: int = 1, curves: Curves | None = None, **columns: Any) -> EngineMinutes:
    """`count` minutes for each engine. A column is one number for all, or one entry a minute [count * engines]; of
    `workload`, `boards` and `curve` one entry an engine. What is not given is 0, unknown, or NaN."""
    n = count * engines
    given: dict[str, Any] = {
        name: np.broadcast_to(np.asarray(columns.pop(name, default), np.int64), engines).copy()
        for name, default in zip(_PER_ENGINE, (-1, 1, -1), strict=True)
    }
    for name in _INTEGERS:
        value = columns.pop(name, -1 if name in _UNKNOWN else 0)
        given[name] = np.broadcast_to(np.asarray(value, np.float64), n).astype(np.int64)
    for name in _RATIOS:
        given[name] = np.broadcast_to(np.asarray(columns.pop(name, float("nan")), np.float64), n).copy()
    assert not columns, f"no such columns: {sorted(columns)}"
    return EngineMinutes(
        offsets=np.arange(engines + 1, dtype=np.int64) * count,
        curves=no_curves() if curves is None else curves,
        minute_us=np.tile(np.arange(count, dtype=np.int64) * MINUTE_US, engines),
        **given,
    )


def board_minutes(count: int, boards: int = 1, **columns: Any) -> BoardMinutes:
    """`count` minutes for each board; columns as in `engine_minutes`."""
    n = count * boards
    given: dict[str, Any] = {
        name: np.broadcast_to(np.asarray(columns.pop(name, 0), np.float64), n).astype(np.int64)
        for name in _BOARD_INTEGERS
    }
    for name in ("power_ratio", "utilisation_ratio", "power_mw"):
        given[name] = np.broadcast_to(np.asarray(columns.pop(name, float("nan")), np.float64), n).copy()
    assert not columns, f"no such columns: {sorted(columns)}"
    return BoardMinutes(
        offsets=np.arange(boards + 1, dtype=np.int64) * count,
        minute_us=np.tile(np.arange(count, dtype=np.int64) * MINUTE_US, boards),
        **given,
    )


def joined(*parts: M) -> M:
    """One subject that does one thing after the other."""
    total = sum(len(p.minute_us) for p in parts)
    columns: dict[str, Any] = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts])
        for f in dataclasses.fields(parts[0])
        if f.name not in ("offsets", "minute_us", "curves", *_PER_ENGINE)
    }
    return dataclasses.replace(
        parts[0],
        offsets=np.array([0, total], np.int64),
        minute_us=np.arange(total, dtype=np.int64) * MINUTE_US,
        **columns,
    )


def side_by_side(parts: Sequence[EngineMinutes]) -> EngineMinutes:
    """Several engines in one table; `workload`, `boards` and `curve` of each are kept, curves are the first's."""
    lengths = np.cumsum([0, *(len(p.minute_us) for p in parts)])
    offsets = np.concatenate([p.offsets[:-1] + shift for p, shift in zip(parts, lengths[:-1], strict=True)])
    columns: dict[str, Any] = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts])
        for f in dataclasses.fields(EngineMinutes)
        if f.name not in ("offsets", "curves")
    }
    return dataclasses.replace(parts[0], offsets=np.append(offsets, lengths[-1]), **columns)
