"""Curves go through what was measured; what arrives is served or waits."""

import csv
import importlib.resources

import numpy as np
import pytest

from wattmill_api.simulator import physics
from wattmill_api.simulator.scenario import DEFAULT

CURVES = physics.load_curves()
LLAMA = CURVES["meta-llama/Llama-3.1-8B-Instruct", "H100"]
CHAT = DEFAULT.workloads[0]


def figures() -> list[dict[str, str]]:
    text = importlib.resources.files("wattmill_api.simulator").joinpath("figures.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def served_by(arrivals: physics.Arrivals, queue: physics.Queue | None = None) -> tuple[physics.Served, physics.Queue]:
    weights = physics.spread(CHAT, LLAMA, 10.0)
    speed = np.ones(arrivals.requests.size)
    return physics.serve(arrivals, LLAMA, CHAT, weights, speed, 10.0, queue or physics.empty_queue(weights))


def steady(requests: float, ticks: int) -> physics.Arrivals:
    each = np.full(ticks, requests)
    return physics.Arrivals(each, each * 1200, each * 444, each * 343)


def test_the_table_is_small_cited_and_agrees_with_itself() -> None:
    rows = figures()
    assert len(rows) <= 80
    for row in rows:
        assert row["source"].startswith("ML.ENERGY v3")
        joules = float(row["watts"]) / float(row["output_tokens_per_s"])
        assert joules == pytest.approx(float(row["joules_per_output_token"]), rel=0.01)


@pytest.mark.parametrize(
    ("batch", "joules"), [(8, 0.455), (16, 0.263), (32, 0.165), (64, 0.119), (128, 0.095), (255, 0.077)]
)
def test_joules_per_token_are_the_published_ones(batch: float, joules: float) -> None:
    assert LLAMA.joules_per_token(batch) == pytest.approx(joules, rel=0.02)


@pytest.mark.parametrize("curve", CURVES.values(), ids=["/".join(k) for k in CURVES])
def test_batch_and_rate_invert_each_other_and_power_stays_under_the_limit(curve: physics.Curve) -> None:
    batches = np.array([0.25, 1.0, 2.0, 8.0, 20.0, 100.0])
    rates = np.array([curve.rate(b) for b in batches])
    assert np.all(np.diff(rates) > 0)
    found = curve.batch_for(rates)
    assert np.all(found[:4] == pytest.approx(batches[:4], rel=1e-3))
    assert np.all(np.array([curve.rate(b) for b in found]) == pytest.approx(rates, rel=1e-6))
    watts = curve.watts_at(np.linspace(0, 300, 200), np.full(200, 0.7))
    assert watts.min() > 0
    assert watts.max() <= curve.power_limit_w * 1.02


def test_an_idle_replica_draws_what_a_loaded_board_draws() -> None:
    assert LLAMA.watts_at(np.zeros(1), np.zeros(1))[0] == pytest.approx(114.0)


def test_littles_law_holds_in_steady_state() -> None:
    served, _ = served_by(steady(40.0, 60))  # 4 requests/s
    decode_s = 343 * served.batch[-1] * (1 - served.prefill_share[-1]) / np.diff(served.output_tokens)[-1] * 10
    assert np.diff(served.output_tokens)[-1] == pytest.approx(40 * 343, rel=1e-6)
    assert served.batch[-1] * (1 - served.prefill_share[-1]) == pytest.approx(4.0 * decode_s, rel=1e-6)


def test_overload_fills_the_batch_and_the_queue_and_nothing_is_lost() -> None:
    rush, calm = steady(900.0, 20), steady(0.0, 200)
    first, queue = served_by(rush)
    assert first.batch[-1] == pytest.approx(CHAT.max_num_seqs, rel=1e-3)
    assert first.waiting[-1] > 100
    second, queue = served_by(calm, queue)
    assert first.output_tokens[-1] + second.output_tokens[-1] == pytest.approx(900 * 20 * 343)
    assert first.input_tokens[-1] + second.input_tokens[-1] == pytest.approx(900 * 20 * 1200)
    assert first.requests[-1] + second.requests[-1] == pytest.approx(900 * 20)
    assert queue.pending_output == pytest.approx(0.0, abs=1e-3)


def test_chunks_do_not_show_in_the_totals() -> None:
    whole, _ = served_by(steady(30.0, 100))
    first, queue = served_by(steady(30.0, 37))
    second, _ = served_by(steady(30.0, 63), queue)
    assert first.output_tokens[-1] + second.output_tokens[-1] == pytest.approx(whole.output_tokens[-1])


def test_arrivals_have_the_asked_means_and_the_traces_burstiness() -> None:
    came = physics.arrive(np.random.default_rng(1), np.full(20_000, 3.4), 10.0, CHAT)
    assert came.requests.mean() == pytest.approx(34, rel=0.02)
    assert came.requests.var() == pytest.approx(71, rel=0.1)
    assert came.input_tokens.sum() / came.requests.sum() == pytest.approx(CHAT.input_tokens, rel=0.02)
    assert came.output_tokens.sum() / came.requests.sum() == pytest.approx(CHAT.output_tokens, rel=0.02)
    assert np.all(came.cached_input_tokens <= came.input_tokens)


def test_the_busiest_rate_fills_the_asked_share_of_the_time() -> None:
    rate = physics.busiest_requests_per_s(CHAT, LLAMA)
    served, _ = served_by(steady(rate * 10 / CHAT.load_ratio * 0.99, 50))
    assert served.batch[-1] > 0.8 * CHAT.max_num_seqs * 0.99
    assert served.waiting[-1] < 5
