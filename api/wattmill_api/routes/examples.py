"""An example of every JSON answer, by operation; shown in /docs, checked against the models by a test."""

from __future__ import annotations

from typing import Any

_RANGE = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T11:00:00Z", "step": None}
_TOKENS = {"input": 5_400_000, "cached_input": 2_100_000, "output": 1_250_000}
_SEEN = {"first_seen": "2026-03-01T08:00:00Z", "last_seen": "2026-03-02T11:00:00Z"}
_HELD = {"method": "process", "since": "2026-03-01T08:00:10Z", "until": "2026-03-02T11:00:00Z"}
_OWNER = {"workload": "chat-qwen3-32b", "model": "qwen3-32b", "team": "search"}
_TARGET = "http://127.0.0.1:8000/metrics"
_UUID = "GPU-5d3b3c1e-0a4f-4c7e-9f0e-3a1c2b4d5e6f"
_FINDING = {
    "id": 42,
    "kind": "idle-loaded",
    "subject": "workload chat-qwen3-32b",
    "state": "open",
    "site": "ams1",
    "node": "gpu-017",
    "workload": "chat-qwen3-32b",
    "since": "2026-03-01T22:00:00Z",
    "until": None,
    "last_seen": "2026-03-02T11:00:00Z",
    "impact": {
        "energy_mj": 7_200_000_000,
        "kwh": 2.0,
        "cost": {"currency": "EUR", "total": 0.24},
        "co2_grams": 500.0,
    },
    "evidence": {"requests": 0, "minutes": 780, "power_w": 92},
    "summary": "Two boards hold a model that nobody has asked for 13 hours.",
    "remedy": "Scale chat-qwen3-32b to zero at night, or let another workload share the boards.",
    "acknowledged": None,
    "resolved": None,
    "note": None,
    "simulated": False,
}
_EFFICIENCY = {
    "time": "2026-03-02T10:00:00Z",
    "group": {"workload": "chat-qwen3-32b"},
    "tokens": _TOKENS,
    "energy_mj": 1_800_000_000,
    "energy_kwh": 0.5,
    "tokens_per_kwh": 2_500_000.0,
    "total_tokens_per_kwh": 13_300_000.0,
    "uncached_total_tokens_per_kwh": 9_100_000.0,
    "joules_per_token": 1.44,
    "reason": None,
    "cost": {"currency": "EUR", "total": 0.06, "per_million_tokens": 0.048},
    "co2_grams": 125.0,
    "coverage": 1.0,
    "quality": "measured",
    "estimated_mj": 0,
    "scope": "accelerator",
    "missing": [],
    "simulated": False,
}
_LEDGER = {
    "time": "2026-03-02T10:00:00Z",
    "group": {"node": "gpu-017"},
    "account": "serving",
    "energy_mj": 1_800_000_000,
    "energy_kwh": 0.5,
    "tokens": _TOKENS,
    "coverage": 1.0,
    "estimated_mj": 0,
    "quality": "measured",
    "simulated": False,
}
_TARIFF = {"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "currency": "EUR", "price_per_kwh": 0.12}
_CARBON = {"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "grams_per_kwh": 250.0, "source": "ENTSO-E"}
_PUE = {"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "pue": 1.25}
_RECORDED = {"recorded": "2026-01-02T09:00:00Z"}
_TARIFFS = {"rows": [{**_TARIFF, **_RECORDED}]}
_CARBONS = {"rows": [{**_CARBON, **_RECORDED}]}
_PUES = {"rows": [{**_PUE, **_RECORDED}]}

EXAMPLES: dict[str, Any] = {
    "ingest": {
        "receipts": [
            {
                "stream": "6f1c2a",
                "sequence": 17,
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "status": "stored",
                "stored": 16,
                "duplicates": 0,
                "rejected": [],
                "committed_through": 17,
            }
        ]
    },
    "efficiency": {**_RANGE, "scope": "accelerator", "by": ["workload"], "rows": [_EFFICIENCY]},
    "ledger": {
        **_RANGE,
        "scope": "accelerator",
        "by": ["node"],
        "rows": [_LEDGER],
        "meter_mj": 1_800_000_000,
        "residual_mj": 0,
        "closes": True,
        "meter_reason": None,
    },
    "findings": {"rows": [_FINDING]},
    "finding": _FINDING,
    "acknowledge_finding": {
        **_FINDING,
        "state": "acknowledged",
        "acknowledged": "2026-03-02T11:05:00Z",
        "note": "on it",
    },
    "resolve_finding": {
        **_FINDING,
        "state": "resolved",
        "until": "2026-03-02T12:00:00Z",
        "resolved": "2026-03-02T12:00:00Z",
        "note": "scaled to zero at night",
    },
    "sites": {
        "rows": [
            {"name": "ams1", "nodes": 120, "accelerators": 960, "engines": 480, "last_seen": "2026-03-02T11:00:00Z"}
        ],
        "next_cursor": None,
    },
    "nodes": {
        "rows": [
            {
                "name": "gpu-017",
                "site": "ams1",
                "labels": {"rack": "r12"},
                "boot_id": "0d6a6a1c-7f0e-4f3b-9b43-2a6d0f1e6a51",
                "agent_version": "0.1.0",
                "interval_us": 10_000_000,
                "simulated": False,
                **_SEEN,
                "accelerators": 8,
                "engines": 4,
            }
        ],
        "next_cursor": None,
    },
    "accelerators": {
        "rows": [
            {
                "uuid": _UUID,
                "node": "gpu-017",
                "site": "ams1",
                "labels": {"rack": "r12"},
                "simulated": False,
                "index": 0,
                "model": "NVIDIA H100 80GB HBM3",
                "vendor": "nvidia",
                "memory_total_bytes": 85_520_809_984,
                "power_limit_mw": 700_000,
                **_SEEN,
                "placements": [{"engine": _TARGET, **_OWNER, **_HELD}],
            }
        ],
        "next_cursor": None,
    },
    "engines": {
        "rows": [
            {
                "target": _TARGET,
                "series": "",
                "node": "gpu-017",
                "site": "ams1",
                "labels": {"rack": "r12"},
                "simulated": False,
                "engine_kind": "vllm",
                "version": "0.11.0",
                **_SEEN,
                "placements": [{**_OWNER, "accelerators": [_UUID], **_HELD}],
            }
        ],
        "next_cursor": None,
    },
    "workloads": {
        "rows": [
            {
                "name": "chat-qwen3-32b",
                "model": "qwen3-32b",
                "team": "search",
                **_SEEN,
                "simulated": False,
                "placements": [
                    {
                        "engine": _TARGET,
                        "node": "gpu-017",
                        "site": "ams1",
                        "labels": {"rack": "r12"},
                        "accelerators": [_UUID],
                        **_HELD,
                    }
                ],
            }
        ],
        "next_cursor": None,
    },
    "series": {
        **_RANGE,
        "metric": "power_mw",
        "unit": "mW",
        "step": "1m",
        "series": [
            {
                "labels": {"node": "gpu-017"},
                "times": [1_772_445_600, 1_772_445_660, 1_772_445_720],
                "values": [4_120_000.0, None, 4_310_000.0],
            }
        ],
    },
    "coverage": {
        "start": _RANGE["start"],
        "end": _RANGE["end"],
        "by": "node",
        "rows": [
            {
                "group": {"node": "gpu-017", "site": "ams1"},
                "coverage": 0.95,
                "covered_seconds": 27_360.0,
                "expected_seconds": 28_800.0,
                "anomalies": 0,
                "gaps": [
                    {
                        "start": "2026-03-02T10:20:00Z",
                        "end": "2026-03-02T10:23:00Z",
                        "reason": "no_reading",
                        "detail": "No reading arrived: the agent, its host or its way to this service was down.",
                    }
                ],
            }
        ],
    },
    "tariffs": _TARIFFS,
    "put_tariffs": _TARIFFS,
    "carbon": _CARBONS,
    "put_carbon": _CARBONS,
    "pue": _PUES,
    "put_pue": _PUES,
    "healthz": {"status": "ok", "version": "0.1.0"},
    "readyz": {"status": "ready", "access": "closed", "version": "0.1.0"},
}
