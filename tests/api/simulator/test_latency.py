"""Simulated latencies: they follow batch and rate, and count like an engine's histogram."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from wattmill_api.simulator import latency, physics
from wattmill_api.simulator.fleet import Fleet
from wattmill_api.simulator.scenario import DEFAULT, Options

CURVES = physics.load_curves()
LLAMA = CURVES["meta-llama/Llama-3.1-8B-Instruct", "H100"]


def test_a_sequence_gets_its_share_of_the_published_rate() -> None:
    batch = np.array([1.0, 8.0, 64.0])
    found = latency.median_s(LLAMA, batch, np.ones(3), np.zeros(3))
    assert found.tolist() == pytest.approx([b / LLAMA.rate(b) for b in batch])
    slower = latency.median_s(LLAMA, batch, np.full(3, 0.5), np.zeros(3))
    assert slower.tolist() == pytest.approx((2 * found).tolist())


def test_half_of_the_tokens_are_faster_than_the_median() -> None:
    for bound_us in latency.LE_US:
        (shares,) = latency.shares(np.array([bound_us / 1e6]))
        assert shares.sum() == pytest.approx(1)
        assert shares[: latency.LE_US.index(bound_us) + 1].sum() == pytest.approx(0.5)
        assert (shares >= 0).all()


def test_every_bucket_of_every_process_only_rises_and_no_token_is_seen_twice() -> None:
    options = Options(nodes=3, start_us=1_760_000_400_000_000, duration_us=3 * 3_600_000_000, scenario=DEFAULT)
    before: dict[tuple[str, int], list[int]] = {}
    batches = [json.loads(line) for _, _, line in Fleet(options).batches()]
    for batch in sorted(batches, key=lambda batch: batch["time_us"]):  # some come late, or twice
        for reading in batch["readings"]:
            if reading["kind"] != "engine":
                continue
            shown = reading["inter_token_latency"]
            assert shown["le_us"] == list(latency.LE_US)
            buckets = [b - a for a, b in itertools.pairwise([0, *shown["counts"]])]
            key = reading["target"], reading["epoch"]
            assert all(a <= b for a, b in zip(before.get(key, buckets), buckets, strict=True))
            assert 0 <= reading["output_tokens"] - sum(buckets) <= latency.BUCKETS
            before[key] = buckets
    assert len({target for target, _ in before}) > 3
    assert any(sum(1 for count in buckets if count) > 2 for buckets in before.values()), "latencies are spread"
