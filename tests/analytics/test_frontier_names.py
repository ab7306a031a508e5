"""Names as engines and drivers print them, against the measured models and boards: a near miss never matches."""

from __future__ import annotations

import importlib.resources
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill_analytics.frontier.accelerator_names import parse_accelerator
from wattmill_analytics.frontier.confidence import CONFIDENCES
from wattmill_analytics.frontier.matching import match
from wattmill_analytics.frontier.model_names import parse_model
from wattmill_analytics.frontier.references import Reference, parse

TABLE = parse(importlib.resources.files("wattmill_analytics.frontier").joinpath("figures.csv").read_text("utf-8"))
H100, B200 = "NVIDIA H100 80GB HBM3", "NVIDIA B200"
CACHE = "/root/.cache/huggingface/hub/models--meta-llama--Llama-3.1-8B-Instruct/snapshots/0e9e39f249a16976918f6564b88"
R1 = "deepseek-ai/DeepSeek-R1-0528"
L8, L70, L33 = (f"meta-llama/Llama-3.{v}-Instruct" for v in ("1-8B", "1-70B", "3-70B"))
Q30 = "Qwen/Qwen3-30B-A3B"
EVERY_Q30 = f"{Q30}-Instruct-2507 {Q30}-Thinking-2507 Qwen/Qwen3-Coder-30B-A3B-Instruct"

EXACT = {
    "meta-llama/Llama-3.1-8B-Instruct": L8,
    "/models/Llama-3.1-8B-Instruct": L8,
    "/models/Llama-3.1-8B-Instruct/": L8,
    "C:\\models\\Llama-3.1-8B-Instruct": L8,
    CACHE: L8,
    "meta-llama/Meta-Llama-3.1-8B-Instruct": L8,
    "llama-3.1-8b": L8,
    "llama3.1:8b": L8,
    "llama3_1-8b": L8,
    "LLAMA-3.1-8B-INSTRUCT": L8,
    "accounts/fireworks/models/llama-v3p1-8b-instruct": L8,
    "llama-3.1-8b-instruct-bf16": L8,
    "meta-llama/Llama-3.3-70B-Instruct": L33,
    "Llama-4-Scout-17B-16E-Instruct": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "hf:Qwen/Qwen3-8B": "Qwen/Qwen3-8B",
    "qwen3-32b": "Qwen/Qwen3-32B",
    "Qwen3-30B-A3B-Instruct-2507": f"{Q30}-Instruct-2507",
    "qwen3-30ba3b-thinking-2507": f"{Q30}-Thinking-2507",
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": "Qwen/Qwen3-Coder-30B-A3B-Instruct",
    "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8": "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8",
    "gpt-oss-120b": "openai/gpt-oss-120b",
    "gpt-oss:20b": "openai/gpt-oss-20b",
    "DeepSeek-V3.1": "deepseek-ai/DeepSeek-V3.1",
    "google/gemma-3-27b-it": "google/gemma-3-27b-it",
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
}
SAME_ARCHITECTURE = {
    "Meta-Llama-3-8B-Instruct": L8,
    "Llama-3-70B": f"{L70} {L33}",
    "NousResearch/Hermes-3-Llama-3.1-8B": L8,
    "nvidia/Llama-3.1-Nemotron-70B-Instruct-HF": L70,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": L33,
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": "Qwen/Qwen3-8B",
    "chat-qwen3-32b": "Qwen/Qwen3-32B",
    "Qwen/Qwen3-30B-A3B": EVERY_Q30,
    "openai/gpt-oss-safeguard-20b": "openai/gpt-oss-20b",
    "deepseek-r1:671b": R1,
    "deepseek-ai/DeepSeek-V3-0324": f"{R1} deepseek-ai/DeepSeek-V3.1",
    "acme/Llama-3.1-8B-Instruct-our-tickets": L8,
}
APPROXIMATE = {
    "Meta-Llama-3.1-8B-Instruct-FP8": (L8, "fp8"),
    "neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8": (L70, "fp8"),
    "amd/Llama-3.1-70B-Instruct-FP8-KV": (L70, "fp8"),
    "Qwen/Qwen3-32B-AWQ": ("Qwen/Qwen3-32B", "int4"),
    "Qwen3-14B-Q4_K_M.gguf": ("Qwen/Qwen3-14B", "int4"),
    "Qwen3-14B-IQ2_XXS-00001-of-00002.gguf": ("Qwen/Qwen3-14B", "int2"),
    "Qwen3-14B.gguf": ("Qwen/Qwen3-14B", ""),
    "llama3.1:8b-instruct-q8_0": (L8, "int8"),
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16": (L8, "int4"),
    "Llama-3.1-8B-Instruct-GPTQ-Int8": (L8, "int8"),
    "unsloth/Llama-3.3-70B-Instruct-bnb-4bit": (L33, "int4"),
    "mlx-community/Llama-3.1-8B-Instruct-4-bit": (L8, "int4"),
    "nvidia/Llama-3.1-405B-Instruct-NVFP4": ("meta-llama/Llama-3.1-405B-Instruct-FP8", "fp4"),
}
NONE = [
    *("", "/", "...", "model", "default", "gpt-4o", "mistralai/Mistral-7B-Instruct-v0.3", "Qwen/QwQ-32B"),
    *("Llama-3.2-3B-Instruct", "Llama-2-70b-chat-hf", "Llama-3.1-51B", "nvidia/Llama-3_3-Nemotron-Super-49B-v1"),
    *("llama3.1:latest", "chat-llama-8b", "llama-70b", "CodeLlama-70b-Instruct", "TinyLlama-1.1B", "zai-org/GLM-4.6"),
    *("meta-llama/Llama-Guard-3-8B", "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "Sparse-Llama-3.1-8B-2of4"),
    *("Qwen/Qwen2.5-32B-Instruct", "Qwen3.5-27B", "Qwen3-4B", "Qwen3-32B-A3B", "Qwen3-30B-A22B", "qwen-14b"),
    *("Qwen/Qwen3-VL-32B-Instruct", "Qwen/Qwen3-Embedding-8B", "Qwen3-Reranker-8B", "Qwen3-Next-80B-A3B-Instruct"),
    *("deepseek-r1:8b", "deepseek-r1:70b", "DeepSeek-V2.5", "DeepSeek-V3.2-Exp", "deepseek-chat", "qwen2-5-7b"),
    *("gemma-2-27b-it", "google/gemma-3n-E4B-it", "google/medgemma-27b-it", "gpt-oss", "Llama-3.1-8B-from-405B"),
    *("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", "Qwen3-8B-Llama-3.1-8B", "Ll\u0430ma-3.1-8B", "L\uff4clama-3.1-8B"),
]  # fmt: skip


def matched(model: str) -> tuple[str, list[Reference], str]:
    """Confidence, references and how, on whichever of the two boards this model was measured."""
    on = [match(model, board, "accelerator", TABLE) for board in (H100, B200)]
    found = min(on, key=lambda m: CONFIDENCES.index(m.confidence))
    return found.confidence, list(found.candidates), found.how


def models(references: list[Reference]) -> set[str]:
    return {reference.model for reference in references}


@pytest.mark.parametrize(("name", "model"), EXACT.items())
def test_the_same_model_under_another_name(name: str, model: str) -> None:
    confidence, references, how = matched(name)
    assert (confidence, models(references)) == ("exact", {model})
    assert how.startswith(f"model: {model}")


@pytest.mark.parametrize(("name", "same"), SAME_ARCHITECTURE.items())
def test_other_weights_in_the_same_layers_are_called_so(name: str, same: str) -> None:
    confidence, references, how = matched(name)
    assert (confidence, models(references)) == ("same-architecture", set(same.split()))
    assert "same architecture and size as" in how


@pytest.mark.parametrize(("name", "expected"), APPROXIMATE.items())
def test_another_precision_is_approximate_and_said(name: str, expected: tuple[str, str]) -> None:
    model, precision = expected
    confidence, references, how = matched(name)
    assert (confidence, models(references)) == ("approximate", {model})
    assert parse_model(name).precision == precision
    assert f"served in {precision or 'a precision its name does not say'}" in how


@pytest.mark.parametrize("name", NONE)
def test_a_near_miss_is_a_miss(name: str) -> None:
    confidence, references, how = matched(name)
    assert (confidence, references) == ("none", [])
    assert how


def test_llama_3_3_matches_itself_first_and_3_1_where_nothing_else_was_measured() -> None:
    only_31 = [reference for reference in TABLE if "Llama-3.3" not in reference.model]
    found = match(L33, H100, "accelerator", only_31)
    assert (found.confidence, models(list(found.candidates))) == ("same-architecture", {L70})
    assert "same architecture and size as" in found.how


def test_the_nearest_precision_is_taken() -> None:
    awq = match("Qwen/Qwen3-235B-A22B-Instruct-2507-AWQ", H100, "accelerator", TABLE)
    assert {reference.precision for reference in awq.candidates} == {"fp8"}
    plain = match("Qwen/Qwen3-235B-A22B-Instruct-2507", H100, "accelerator", TABLE)
    assert {reference.precision for reference in plain.candidates} == {"bfloat16"}
    assert "not in the name" in plain.how


def test_every_measured_model_is_itself() -> None:
    for reference in TABLE:
        assert reference.name.problem == ""
        assert reference.name.unknown == ()
        if reference.scope == "accelerator":
            assert reference.name.precision == reference.precision
            board = {"H100": H100, "B200": B200}[reference.accelerator]
            found = match(reference.model, board, "accelerator", TABLE)
            assert found.confidence == "exact"
            assert models(list(found.candidates)) == {reference.model}


ACCELERATORS = [
    *((name, "H100", "exact") for name in (H100, "NVIDIA-H100-80GB-HBM3", "H100 SXM5 80GB", "nvidia h100 sxm")),
    *((name, "H100", "approximate") for name in ("NVIDIA H100 PCIe", "NVIDIA H100 NVL", "H100 80GB HBM2e", "H100")),
    *((name, "H100", "approximate") for name in ("NVIDIA H100 SXM5 64GB", "NVIDIA H100 96GB HBM3", "NVIDIA H100 80GB")),
    *((name, "B200", "exact") for name in (B200, "NVIDIA-B200", "B200 SXM6 180GB")),
    *((name, "", "none") for name in ("NVIDIA H200", "NVIDIA H200 NVL", "NVIDIA GH200 480GB", "NVIDIA GB200")),
    *((name, "", "none") for name in ("NVIDIA A100-SXM4-80GB", "NVIDIA H20", "NVIDIA B300", "AMD Instinct MI300X", "")),
    *((name, "", "none") for name in ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100-80C", "NVIDIA H800")),
    *((name, "", "none") for name in ("H100 and B200", "\uff28100", "XH100", "h1000", "H100" * 1000)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "chip", "confidence"), ACCELERATORS)
def test_accelerators_as_drivers_print_them(name: str, chip: str, confidence: str) -> None:
    found = parse_accelerator(name)
    assert (found.chip, found.confidence) == (chip, confidence)
    assert found.how


def test_another_board_lowers_the_confidence_and_says_which_was_measured() -> None:
    found = match(L8, "NVIDIA H100 PCIe", "accelerator", TABLE)
    assert found.confidence == "approximate"
    assert "measured was the SXM module" in found.how
    assert match(L8, "NVIDIA H200", "accelerator", TABLE).how == "no figures are published for this accelerator"


WORDS = st.sampled_from(
    [*EXACT, *APPROXIMATE, *NONE, "8b", "a3b", "-", "/", ":", ".", "fp8", "q4_k_m", "llama", "\x00"]
)


@given(st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=6).map("-".join)), st.text(max_size=40))
def test_any_name_is_answered_the_same_way_twice(model: str, accelerator: str) -> None:
    assert parse_model(model) == parse_model(model)
    for board in (accelerator, H100):
        found = match(model, board, "accelerator", TABLE)
        assert found == match(model, board, "accelerator", TABLE)
        assert (found.confidence == "none") == (not found.candidates)
        assert len(found.how) < 400


@pytest.mark.parametrize(
    "unit", ["llama-3.1-8b-", "8b", "1.", "a", "-", "\u202e", "\U0001f525", "İ", "models--", "q4_", "/"]
)
def test_ten_kilobytes_of_anything_are_refused_in_few_words(unit: str) -> None:
    name = (unit * 10_000)[:10_000]
    found = match(name, name, "accelerator", TABLE)
    assert (found.confidence, found.candidates) == ("none", ())
    assert found.how == "the model's name is longer than 512 characters"
    assert match(name[:512], H100, "accelerator", TABLE).confidence in CONFIDENCES


@given(st.sampled_from(sorted(EXACT)), st.data())
def test_a_letter_that_only_looks_alike_matches_nothing(name: str, data: st.DataObject) -> None:
    """Full-width forms look like ASCII; in the family's name they must not count as it."""
    start = max(name.lower().rfind(family) for family in ("llama", "qwen", "gemma", "deepseek", "gpt", "nemotron"))
    at = start + data.draw(st.integers(0, 2))
    forged = name[:at] + chr(ord(name[at]) + 0xFEE0) + name[at + 1 :]
    assert unicodedata.normalize("NFKC", forged) == name
    assert matched(forged)[0] == "none"
