"""What `wattmill doctor` says of engines and workers: what they serve, where they are, and how sure that is."""

from __future__ import annotations

import pytest

from wattmill_collector.checks import Check, judge_reading
from wattmill_collector.wire import AbsenceReading, EngineReading, Reading

FIX = "Set its `accelerators:`; until then its energy counts as unattributed."


@pytest.mark.parametrize(
    ("reading", "checks"),
    [
        (
            EngineReading(
                target="http://a", engine_kind="vllm", model="m", output_tokens=5, accelerators=("GPU-a", "GPU-b"),
                method="share", confidence="medium", accelerator_shares_ppm=(428_572, 1_000_000), share_by="mig",
            ),
            [
                Check("engine", "OK", "http://a: vllm serving m, 5 output tokens"),
                Check(
                    "placement",
                    "OK",
                    "http://a holds 42.9 % of GPU-a, GPU-b (found by: share, divided by: mig; confidence: medium)",
                ),
            ],
        ),
        (
            EngineReading(target="worker:chat", workload="chat", role="worker", accelerators=("GPU-a",), method="pod"),
            [
                Check("engine", "OK", "worker:chat: works for chat"),
                Check("placement", "OK", "worker:chat holds GPU-a (found by: pod; confidence: ?)"),
            ],
        ),
        (
            EngineReading(target="http://f", engine_kind="dynamo_frontend", role="frontend", output_tokens=5),
            [Check("engine", "OK", "http://f: dynamo_frontend serving ?, 5 output tokens (frontend)")],
        ),
        (
            EngineReading(target="http://a", engine_kind="vllm"),
            [
                Check("engine", "OK", "http://a: vllm serving ?, no output tokens"),
                Check("placement", "WARN", "http://a: it is not known which accelerators it holds.", FIX),
            ],
        ),
        (
            AbsenceReading(subject="accelerator", id="GPU-a", reason="no_endpoint", detail="end it"),
            [Check("accelerator", "WARN", "GPU-a: no_endpoint", "end it")],
        ),
    ],
)  # fmt: skip
def test_what_is_said(reading: Reading, checks: list[Check]) -> None:
    assert list(judge_reading(reading)) == checks
