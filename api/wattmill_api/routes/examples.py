"""An example of every JSON answer, by operation; shown in /docs, checked against the models by a test."""

from __future__ import annotations

from typing import Any

_RANGE = {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T11:00:00Z", "step": None}
_TOKENS = {"input": 5_400_000, "cached_input": 2_100_000, "output": 1_250_000}
_SEEN = {"first_seen": "2026-03-01T08:00:00Z", "last_seen": "2026-03-02T11:00:00Z"}
_HELD = {
    "share_by": None,
    "role": None,
    "method": "process",
    "confidence": "high",
    "since": "2026-03-01T08:00:10Z",
    "until": "2026-03-02T11:00:00Z",
}
_OWNER = {"workload": "chat-qwen3-32b", "model": "qwen3-32b", "team": "search"}
_TARGET = "http://127.0.0.1:8000/metrics"
_UUID = "GPU-5d3b3c1e-0a4f-4c7e-9f0e-3a1c2b4d5e6f"
_HELD_BY_NOBODY = {
    "subject": "accelerator",
    "id": _UUID,
    "reason": "no_endpoint",
    "detail": "the board is held by process 4242 (VLLM::Worker_TP, started 2026-03-02T00:20:00Z), of no engine that is"
    " read: name its page under `engines:`, or the workload it works for under `workers:`; if its server is gone, end"
    " it",
    "since": "2026-03-02T00:20:00Z",
    "last_seen": "2026-03-02T11:00:00Z",
}
_NOT_A_METER = {
    "subject": "meter",
    "id": "rack-12",
    "reason": "connection_refused",
    "detail": None,
    "since": "2026-03-02T10:58:00Z",
    "last_seen": "2026-03-02T11:00:00Z",
}
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
    "known": "2026-03-01T22:10:00Z",
    "found": "2026-03-01T22:11:03Z",
    "revision": 13,
    "merged_into": None,
    "impact": {
        "energy_mj": 7_200_000_000,
        "kwh": 2.0,
        "cost": {"currency": "EUR", "total": 0.24},
        "co2_grams": 500.0,
        "energy_mj_per_day": 13_300_000_000,
    },
    "realised": None,
    "evidence": {"requests": 0, "minutes": 780, "power_w": 92},
    "summary": "Two boards hold a model that nobody has asked for 13 hours.",
    "remedy": "Scale chat-qwen3-32b to zero at night, or let another workload share the boards.",
    "acknowledged": None,
    "resolved": None,
    "note": None,
    "simulated": False,
    "history": None,
}
_METER = {
    "time": "2026-03-02T10:00:00Z",
    "meter": "r12-a + r12-b",
    "meters": ["r12-a", "r12-b"],
    "level": "rack",
    "chassis": False,
    "site": "ams1",
    "covers": ["rack=r12"],
    "nodes": 2,
    "energy_mj": 46_800_000_000,
    "below": {"accelerator_mj": 28_100_000_000, "host_mj": 16_900_000_000, "meters_mj": 45_000_000_000},
    "difference_mj": 1_800_000_000,
    "ratio": 0.9615384615384616,
    "coverage": 1.0,
    "below_coverage": 1.0,
    "whole_ratio": 1.0,
    "reconciles": True,
    "reason": None,
    "measured_pue": None,
    "set_pue": None,
    "quality": "measured",
    "estimated_mj": 0,
    "simulated": False,
}
_CHARGEBACK: list[dict[str, Any]] = [
    {
        "time": "2026-03-02T10:00:00Z",
        "group": {"workload": "chat-qwen3-32b", "team": team},
        "via": via,
        "tokens": {"input": tokens[0], "cached_input": tokens[1], "output": tokens[2]},
        "requests": requests,
        "share_ratio": share,
        "energy_mj": energy_mj,
        "energy_kwh": energy_mj / 3_600_000_000,
        "cost": {"currency": "EUR", "total": 0.06 * share},
        "co2_grams": 125 * share,
        "weights": "phases",
        "prefill_mj_per_token": 80.0,
        "decode_mj_per_token": 400.0,
        "flags": [],
        "coverage": 1.0,
        "quality": "measured",
        "scope": "accelerator",
        "missing": [],
        "simulated": False,
    }
    for team, via, tokens, requests, share, energy_mj in (
        ("search", "gateway", (3_400_000, 1_400_000, 750_000), 4100, 0.6, 1_080_000_000),
        (None, "direct", (2_000_000, None, 500_000), None, 0.4, 720_000_000),
    )
]
_OPENED = {"time": "2026-03-01T22:10:04Z", "what": "opened", "by": "detection", "note": None}
_SUPPRESSION = {
    "id": 7,
    "kind": "*",
    "subject": "*",
    "workload": "chat-qwen3-32b",
    "node": "*",
    "site": "*",
    "start": "2026-03-02T22:00:00Z",
    "end": "2026-03-03T02:00:00Z",
    "reason": "load test",
    "by": "ops",
    "created": "2026-03-02T15:00:00Z",
}
_WEBHOOK = {
    "id": 3,
    "name": "on-call",
    "url": "https://alerts.example/…",
    "secret": "on-call",
    "kinds": ["throttled", "regression"],
    "teams": [],
    "sites": ["ams1"],
    "min_energy_mj": 3_600_000_000,
    "send_resolved": True,
    "by": "ops",
    "created": "2026-03-01T08:00:00Z",
    "failures": 0,
    "waiting": 0,
    "delivered": "2026-03-02T11:00:05Z",
    "error": None,
}
_DELIVERY = {
    "id": 91,
    "finding": 42,
    "status": "firing",
    "state": "delivered",
    "attempts": 2,
    "created": "2026-03-02T10:58:00Z",
    "ended": "2026-03-02T11:00:05Z",
    "reason": None,
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
    "slo": {
        "target": {"inter_token_latency_ms": 50.0, "time_to_first_token_ms": 500.0},
        "met_ratio": 0.9,
        "met_output_tokens": 1_125_000,
        "met_tokens_per_kwh": 2_250_000.0,
        "joules_per_met_token": 1.6,
        "median_inter_token_latency_ms": 31.5,
        "p99_inter_token_latency_ms": 92.0,
        "first_token_met_ratio": 0.97,
        "median_time_to_first_token_ms": 180.0,
        "p99_time_to_first_token_ms": 640.0,
        "median_queue_time_ms": 4.0,
        "p99_queue_time_ms": 210.0,
        "median_request_latency_ms": 5200.0,
        "p99_request_latency_ms": 21000.0,
        "coverage": 1.0,
    },
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
    "missing": [],
    "simulated": False,
}
_REFERENCE = {
    "source": "mlenergy-v3",
    "citation": "ML.ENERGY leaderboard v3, ml-energy/leaderboard at 0cd52da: steady state, accelerators only",
    "scope": "accelerator",
    "model": "Qwen/Qwen3-32B",
    "accelerator": "H100",
    "boards": 2,
    "parallelism": "tp2",
    "precision": "bfloat16",
    "task": "lm-arena-chat",
    "batch": 95.81,
    "watts": 1021.97,
    "output_tokens_per_s": 3355.62,
    "joules_per_token": 0.304554,
    "tokens_per_kwh": 11_820_563.8,
    "inter_token_latency_ms": 28.55,
    "median_itl_ms": 26.097,
    "itl_limit_ms": None,
    "mean_output_tokens": 634.9,
}
_FRONTIER = {
    "group": {**_OWNER, "accelerator_model": "NVIDIA H100 80GB HBM3"},
    "observed": {
        "energy_mj": 1_800_000_000,
        "serving_energy_mj": 1_500_000_000,
        "output_tokens": 1_250_000,
        "joules_per_token": 1.44,
        "tokens_per_kwh": 2_500_000.0,
        "inter_token_latency_ms": 29.4,
        "inter_token_latency_source": "concurrency over rate",
        "mean_output_tokens": 512.0,
        "boards_per_replica": 2,
        "scope": "accelerator",
        "quality": "measured",
        "coverage": 1.0,
        "missing": [],
        "plausible": True,
        "reason": None,
        "simulated": False,
    },
    "reference": _REFERENCE,
    "ratio": 4.73,
    "serving_ratio": 3.94,
    "matched": {
        "confidence": "exact",
        "how": "model: Qwen/Qwen3-32B; precision: not in the name, taken for bfloat16 as published; "
        "accelerator: H100, the SXM module with 80 GB of HBM3",
    },
    "verdict": "uses 4.73 times the energy per token of the best published configuration that is as fast",
    "caveat": "The reference is a steady state of its boards alone: no idle time, a benchmark's prompts. Its task is "
    "lm-arena-chat, 635 output tokens a request; 512 here. Lengths of prompts and answers alone move the energy of a "
    "token severalfold.",
}
_PHASES = {
    "time": "2026-03-02T00:00:00Z",
    "group": {**_OWNER, "accelerator_model": "NVIDIA H100 80GB HBM3"},
    "identifiable": True,
    "reason": None,
    "fit": {
        "standing_watts_per_replica": {"value": 212.4, "standard_error": 1.9, "at_zero": False},
        "prefill_mj_per_token": {"value": 81.3, "standard_error": 2.7, "at_zero": False},
        "decode_mj_per_token": {"value": 402.8, "standard_error": 6.1, "at_zero": False},
        "r_squared": 0.97,
        "scatter_ratio": 0.031,
        "minutes": 1416,
        "wild_minutes": 4,
        "window": "1d",
    },
    "energy": {
        "standing_mj": 18_144_000_000,
        "prefill_mj": 4_320_000_000,
        "decode_mj": 12_096_000_000,
        "dynamic_mj": 16_416_000_000,
        "unsplit_mj": 0,
        "total_mj": 34_560_000_000,
    },
    "tokens": {"uncached_input": 53_000_000, "cached_input": 21_000_000, "output": 30_000_000},
    "cached_input_savings_mj": 1_707_300_000,
    "cached_input_savings_error_mj": 56_700_000,
    "simulated": False,
}
_TARIFF = {"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "currency": "EUR", "price_per_kwh": 0.12}
_CARBON = {"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "grams_per_kwh": 250.0, "source": "ENTSO-E"}
_PUE = {"site": "ams1", "valid_from": "2026-01-01T00:00:00Z", "pue": 1.25}
_TARGETS = {
    "rows": [
        {
            "workload": "chat-qwen3-32b",
            "valid_from": "2026-01-01T00:00:00Z",
            "inter_token_latency_ms": 50.0,
            "time_to_first_token_ms": 500.0,
            "recorded": "2026-01-02T09:00:00Z",
        }
    ]
}
_RECORDED = {"recorded": "2026-01-02T09:00:00Z"}
_TARIFFS = {"rows": [{**_TARIFF, **_RECORDED}]}
_CARBONS = {"rows": [{**_CARBON, **_RECORDED}]}
_PUES = {"rows": [{**_PUE, **_RECORDED}]}

_CURVE = {
    "group": {
        "model": "qwen3-32b",
        "accelerator_model": "NVIDIA H100 80GB HBM3",
        "boards": 2,
        "engine_kind": "vllm",
        "engine_version": "0.11.0",
    },
    "learnt": {"days": 14, "minutes": 38_412, "first_day": "2026-02-16", "last_day": "2026-03-02"},
    "prefill_joules_per_token": 0.021,
    "prefill_reason": None,
    "points": [
        {
            "concurrency": 32.0,
            "joules_per_output_token": 0.88,
            "lower_quartile": 0.85,
            "upper_quartile": 0.91,
            "output_tokens_per_s_per_request": 41.2,
            "inter_token_latency_ms": 24.3,
            "minutes": 2_907,
        },
        {
            "concurrency": 38.05,
            "joules_per_output_token": 0.79,
            "lower_quartile": None,
            "upper_quartile": None,
            "output_tokens_per_s_per_request": 40.1,
            "inter_token_latency_ms": 24.9,
            "minutes": 3,
        },
    ],
    "best": {"concurrency": 38.05, "joules_per_output_token": 0.79},
    "simulated": False,
}
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
    "chargeback": {
        **_RANGE,
        "scope": "accelerator",
        "by": ["team"],
        "rows": _CHARGEBACK,
        "unmatched": [
            {
                "model": "claude-sonnet-4",
                "provider": "anthropic",
                "tokens": {"input": 91_000, "cached_input": 40_000, "output": 7_700},
                "reason": "anthropic computes it elsewhere",
            }
        ],
    },
    "meters": {**_RANGE, "rows": [_METER]},
    "ledger": {
        **_RANGE,
        "scope": "accelerator",
        "by": ["node"],
        "rows": [_LEDGER],
        "pue_mj": None,
        "meter_mj": 1_800_000_000,
        "residual_mj": 0,
        "closes": True,
        "meter_reason": None,
    },
    "frontier": {
        "start": _RANGE["start"],
        "end": _RANGE["end"],
        "scope": "accelerator",
        "rows": [_FRONTIER],
    },
    "frontier_references": {"rows": [_REFERENCE]},
    "curves": {
        "start": "2026-02-16T00:00:00Z",
        "end": "2026-03-03T00:00:00Z",
        "rows": [_CURVE],
    },
    "phases": {
        "start": "2026-03-02T00:00:00Z",
        "end": "2026-03-03T00:00:00Z",
        "step": "1d",
        "rows": [_PHASES],
    },
    "findings": {"rows": [_FINDING]},
    "finding": {**_FINDING, "history": [_OPENED]},
    "acknowledge_finding": {
        **_FINDING,
        "state": "acknowledged",
        "acknowledged": "2026-03-02T11:05:00Z",
        "note": "on it",
        "history": [_OPENED, {"time": "2026-03-02T11:05:00Z", "what": "acknowledged", "by": "ops", "note": "on it"}],
    },
    "resolve_finding": {
        **_FINDING,
        "state": "resolved",
        "until": "2026-03-02T12:00:00Z",
        "resolved": "2026-03-02T12:00:00Z",
        "note": "scaled to zero at night",
        "realised": {
            "energy_mj": 93_100_000_000,
            "kwh": 25.861,
            "cost": {"currency": "EUR", "total": 3.1},
            "co2_grams": 6465.0,
            "since": "2026-03-02T12:00:00Z",
            "until": "2026-03-09T12:00:00Z",
            "method": "Idle energy of its boards per board-hour: the whole days up to its end, less the time after.",
        },
        "history": [
            _OPENED,
            {"time": "2026-03-02T12:00:00Z", "what": "resolved", "by": "ops", "note": "scaled to zero at night"},
        ],
    },
    "suppressions": {"rows": [_SUPPRESSION]},
    "add_suppression": _SUPPRESSION,
    "delete_suppression": _SUPPRESSION,
    "webhooks": {"rows": [_WEBHOOK]},
    "add_webhook": _WEBHOOK,
    "remove_webhook": _WEBHOOK,
    "webhook_deliveries": {"rows": [_DELIVERY]},
    "test_webhook": {"delivered": True, "status": 200, "reason": None},
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
                "host_sources": {"package-0": "rapl", "package-1": "rapl"},
                "told": [_HELD_BY_NOBODY, _NOT_A_METER],
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
                "source": "nvml",
                "memory_total_bytes": 85_520_809_984,
                "power_limit_mw": 700_000,
                **_SEEN,
                "placements": [{"engine": _TARGET, **_OWNER, "share": None, **_HELD}],
                "told": [_HELD_BY_NOBODY],
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
                "state": "reading",
                "since": None,
                "detail": None,
                "placements": [{**_OWNER, "accelerators": [_UUID], "shares": None, **_HELD}],
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
                        "shares": None,
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
        "scope": "accelerator",
        "missing": [],
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
    "targets": _TARGETS,
    "put_targets": _TARGETS,
    "healthz": {"status": "ok", "version": "0.1.0"},
    "readyz": {"status": "ready", "access": "closed", "version": "0.1.0"},
}
