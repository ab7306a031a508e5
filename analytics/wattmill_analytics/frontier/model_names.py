"""What engines call a model, understood well enough to compare it with a measured one. Pure; never raises.

The rule, in order:

1. The last part of a path counts (`org/`, `hf:`, `/models/`; in a Hugging Face cache the part `models--org--name`);
   everything but ASCII letters, digits and the dots inside numbers separates words.
2. One family must be named, as a word of its own, with its version: `CodeLlama` and `MedGemma` are not `Llama` and
   `Gemma`. A second family is a teacher (DeepSeek, in a distilled model) or makes the name ambiguous.
3. One size must be named (`8b`; `30b-a3b`: 30 billion parameters, 3 of them active), or be known from the version.
4. Words for precision, release (`2507`) and variant (`instruct`, `coder`, `thinking`) are read. Words that make it
   another kind of model (`vl`, `embedding`, `eagle`) are a `problem`; words that are not known make it a derived one.

Does not know which models were measured: that is `matching`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from wattmill_analytics.frontier.confidence import LONGEST_NAME

_FAMILY: Final = {
    "llama": re.compile(r"(?<![^-])llama-?(?:v?(4-(?:scout|maverick)|\d(?:\.\d)?))?(?![^-])"),
    "qwen": re.compile(r"(?<![^-])qwen-?v?(\d(?:\.\d)?)?(?![^-])"),
    "gemma": re.compile(r"(?<![^-])gemma-?(\dn?)?(?![^-])"),
    "deepseek": re.compile(r"(?<![^-])deepseek-?(v\d(?:\.\d)?|r1)?(?![^-])"),
    "gpt-oss": re.compile(r"(?<![^-])gpt-?oss()(?![^-])"),
    "nemotron-nano": re.compile(r"(?<![^-])nemotron-nano()(?![^-])"),
}
_TEACHERS: Final = {"deepseek", "nemotron-nano"}
_TITLE: Final = {
    "llama": "Llama",
    "qwen": "Qwen",
    "gemma": "Gemma",
    "deepseek": "DeepSeek",
    "gpt-oss": "GPT-OSS",
    "nemotron-nano": "Nemotron Nano",
}
# Versions whose names say nothing of the size, or only a part of it: sizes that may stand there, and total and active
# parameters, in billions.
_FIXED: Final = {
    ("llama", "4-scout"): ({17.0, 109.0}, 109.0, 17.0),
    ("llama", "4-maverick"): ({17.0, 400.0}, 400.0, 17.0),
    ("deepseek", "v3"): ({671.0, 685.0}, 671.0, 37.0),
    ("deepseek", "v3.1"): ({671.0, 685.0}, 671.0, 37.0),
    ("deepseek", "r1"): ({671.0, 685.0}, 671.0, 37.0),
}
_DISTILLED_LLAMA: Final = {8.0: "3.1", 70.0: "3.3"}  # what DeepSeek-R1-Distill-Llama was made of
_PUBLISHED: Final = {"deepseek": "fp8", "gpt-oss": "mxfp4"}  # every other family: bfloat16

_VARIANTS: Final = {
    "instruct": "instruct",
    "it": "instruct",
    "chat": "instruct",
    "base": "base",
    "pt": "base",
    "coder": "coder",
    "thinking": "thinking",
    "reasoning": "thinking",
}
_NEUTRAL = re.compile(
    "meta|nvidia|hf|ollama|gguf|safetensors|bin|model|llm|latest|quantized|quant|kv|dynamic|static|block|unsloth|ud|mlx"
    "|bnb|bitsandbytes|autoround|auto|round|smoothquant|modelopt|group|g128|128g|sym"
)
_ANOTHER = re.compile(
    "embed|embeddings?|rerank|reranker|reward|rm|prm|guard|vl|vision|omni|audio|asr|tts|ocr|next|eagle\\d?|speculator"
    "|draft|drafter|medusa|pruned|sparse|2of4|moe|lite|exp|flash"
)
_PLACEHOLDER = re.compile(r"[0-9a-f]{7,64}|snapshots|main|models?|weights|final|latest|default|\d+")
_TOTAL, _ACTIVE, _EXPERTS = (re.compile(r) for r in (r"(\d{1,4}(?:\.\d+)?)b", r"a(\d{1,3}(?:\.\d+)?)b", r"(\d{1,3})e"))
_RELEASE = re.compile(r"2[3-9](?:0[1-9]|1[0-2])|(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])")
_GGUF_QUANT = re.compile(r"(?<![^-])i?q([1-8])(?:-(?:k|[01]|x{0,2}[sml]|nl))*(?![^-])")
_FLOATS: Final = {"nvfp4": "fp4", "mxfp4": "mxfp4", "fp8": "fp8", "fp4": "fp4"}
_FOUR_BITS: Final = {"awq", "gptq", "nf4"}  # unless other bits are named
_SIXTEEN: Final = {"bf16", "fp16", "f16", "bfloat16", "float16"}  # as large and as fast: one precision
_BITS = re.compile(r"int([2-8])|w([2-8])a(?:\d{1,2}|fp8)|([2-8])bit|([2-8])(?:\.\d+)?bpw")


@dataclasses.dataclass(frozen=True, slots=True)
class ModelName:
    """A model as far as its name says it. `parameters_b`, `active_b`: billions, None where nothing says it.

    `precision` is the published one unless `precision_named`; "" is unknown. `unknown`: words that nothing is known
    about, so that it may be a derived model. `problem`: why it can't be compared at all, as part of a sentence; "" if
    it can.
    """

    family: str = ""
    version: str = ""
    parameters_b: float | None = None
    active_b: float | None = None
    experts: int | None = None
    variant: tuple[str, ...] = ()
    release: str = ""
    precision: str = ""
    precision_named: bool = False
    unknown: tuple[str, ...] = ()
    problem: str = ""

    @property
    def title(self) -> str:
        """Family, version and size in the writing of people."""
        size = "" if self.parameters_b is None else f" {self.parameters_b:g}B"
        return f"{_TITLE.get(self.family, self.family)}{' ' + self.version if self.version else ''}{size}"


def parse_model(name: str) -> ModelName:
    """What the name of a served model says, by the rule of this file. A name of any length and alphabet is answered."""
    if len(name) > LONGEST_NAME:
        return ModelName(problem=f"the model's name is longer than {LONGEST_NAME} characters")
    text = _last_part(name)
    found = {family: match for family, form in _FAMILY.items() if (match := form.search(text))}
    teachers = found.keys() & _TEACHERS
    if len(found) > 1 and teachers:
        found = {family: match for family, match in found.items() if family not in teachers}
    if len(found) != 1:
        return ModelName(problem="the model's name says more than one family" if found or teachers else _UNPUBLISHED)
    [(family, match)] = found.items()
    version = match.group(1) or ""
    rest = f"{text[: match.start()]}-{text[match.end() :]}"
    taught = bool(teachers - {family})
    precision, named, rest = _precision(rest)
    words = [word for word in rest.split("-") if word and not _NEUTRAL.fullmatch(word)]
    sizes = {float(m.group(1)) for word in words if (m := _TOTAL.fullmatch(word))}
    active = {float(m.group(1)) for word in words if (m := _ACTIVE.fullmatch(word))}
    experts = {int(m.group(1)) for word in words if (m := _EXPERTS.fullmatch(word))}
    releases = [word for word in words if _RELEASE.fullmatch(word)]
    if family == "nemotron-nano":
        version = "v2" if "v2" in words else ""
        words = [word for word in words if word != "v2"]
    if family == "llama" and not version and taught and len(sizes) == 1:
        version = _DISTILLED_LLAMA.get(min(sizes), "")
    sized = (_TOTAL, _ACTIVE, _EXPERTS, _RELEASE)
    unknown = [w for w in words if w not in _VARIANTS and not any(form.fullmatch(w) for form in sized)]
    if taught:
        unknown.append("distill")
    another = [word for word in words if _ANOTHER.fullmatch(word)]
    fixed = _FIXED.get((family, version))
    if another:
        problem = f"the word {another[0]} makes it another kind of model"
    elif max(len(sizes), len(active), len(experts)) > 1:
        problem = "the model's name says more than one size"
    elif not version and family != "gpt-oss":
        problem = f"the model's name does not say which version of {_TITLE.get(family, family)} it is"
    elif fixed is not None and sizes - fixed[0]:
        problem = f"there is no {_TITLE[family]} {version} of {min(sizes):g}B: it is another model under its name"
    elif fixed is None and not sizes:
        problem = "the model's name does not say how large it is"
    else:
        problem = ""
    if fixed is not None and not problem:
        sizes, active = {fixed[1]}, {fixed[2]}
    return ModelName(
        family=family,
        version=version,
        parameters_b=min(sizes, default=None),
        active_b=min(active, default=None),
        experts=min(experts, default=None),
        variant=tuple(sorted({_VARIANTS[word] for word in words if word in _VARIANTS})),
        release=releases[0] if releases else "",
        precision=precision or ("" if "gguf" in text else _PUBLISHED.get(family, "bfloat16")),
        precision_named=named,
        unknown=tuple(dict.fromkeys(unknown)),
        problem=problem,
    )


_UNPUBLISHED: Final = "no figures are published for a model of this name"


def _last_part(name: str) -> str:
    """The part of a path that names the model, in words between dashes."""
    # A letter of another alphabet that looks like one of ours must not complete a name.
    text = "".join(c if c.isascii() else "-" for c in name.lower()).replace("\\", "/").strip()
    parts = [part for part in text.split("/") if part.strip(" .-")]
    cached = [part for part in parts if part.startswith("models--")]
    if cached:
        parts = [cached[-1].rpartition("--")[2]]
    while len(parts) > 1 and _PLACEHOLDER.fullmatch(parts[-1]):
        parts.pop()
    text = re.sub(r"[^a-z0-9.]+", "-", parts[-1] if parts else "")
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "-", text)
    text = re.sub(r"-\d{5}-of-\d{5}", "", text)
    text = re.sub(r"(?<![^-])([2-8])-bit(?![^-])", r"\1bit", text)
    # A version written 3-1, 3_1 or 3p1; and 30ba3b written as one word.
    text = re.sub(r"((?:llama|qwen)-?v?\d|deepseek-?v\d)[-p](\d)(?![\db.e])", r"\1.\2", text)
    return re.sub(r"(\d)b(a\d+b)(?![^-])", r"\1b-\2", text)


def _precision(text: str) -> tuple[str, bool, str]:
    """(precision, whether it is named, the words that are left)."""
    quant = _GGUF_QUANT.search(text)
    left = f"{text[: quant.start()]}-{text[quant.end() :]}" if quant else text
    words = left.split("-")
    bits = [next(filter(None, m.groups())) for word in words if (m := _BITS.fullmatch(word))]
    floats = [kind for word, kind in _FLOATS.items() if any(w.startswith(word) for w in words)]
    four = any(word in _FOUR_BITS for word in words)
    kept = "-".join(
        word
        for word in words
        if not _BITS.fullmatch(word) and not word.startswith(tuple(_FLOATS)) and word not in _SIXTEEN | _FOUR_BITS
    )
    if quant:
        return f"int{quant.group(1)}", True, kept
    if floats:
        return floats[0], True, kept
    if bits or four:
        return f"int{bits[0] if bits else 4}", True, kept
    if any(word in _SIXTEEN for word in words):
        return "bfloat16", True, kept
    return "", False, kept
