"""Which measured configurations a workload may be compared with, how sure that is, and why. Pure; never raises.

The rule: scope, chip, family, architecture and size must be the same, or nothing matches. Then, from the surest to the
least sure:

- exact: the same model, in the same precision, on the same board;
- same-architecture: the same layers in the same precision, but other weights (a fine-tuned model, Llama 3.3 for 3.1);
- approximate: another precision, or another board with the same chip (H100 PCIe for H100 SXM).

Only the surest candidates are kept; among other precisions those with the nearest number of bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from wattmill_analytics.frontier.accelerator_names import AcceleratorName, parse_accelerator
from wattmill_analytics.frontier.confidence import CONFIDENCES, Confidence, least
from wattmill_analytics.frontier.model_names import ModelName, parse_model
from wattmill_analytics.frontier.references import Reference

# Versions that differ in their weights alone: layers, widths and vocabulary are the same at the same size.
_SAME_LAYERS: Final = (("llama", {"3", "3.1", "3.3"}), ("deepseek", {"v3", "v3.1", "r1"}))
_BITS: Final = {"bfloat16": 16, "fp8": 8, "mxfp4": 4, "fp4": 4, **{f"int{bits}": bits for bits in range(1, 9)}}


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """Candidates of one confidence; none of them, and confidence none, when `how` says why nothing matches."""

    confidence: Confidence
    how: str
    candidates: tuple[Reference, ...]


def match(model: str, accelerator_model: str, scope: str, references: Sequence[Reference]) -> Match:
    """What `model` on `accelerator_model` may be compared with, both as they were reported."""
    name, board = parse_model(model), parse_accelerator(accelerator_model)
    problem = name.problem or (board.how if not board.chip else "")
    if problem:
        return Match("none", problem, ())
    ranked = [
        (_rank(name, board, reference, same), reference)
        for reference in references
        if reference.scope == scope
        and reference.accelerator == board.chip
        and (same := _same_model(name, reference.name)) is not None
    ]
    if not ranked:
        how = f"no figures are published for {name.title} on {board.chip} at {scope} scope"
        return Match("none", how, ())
    surest = min(rank for rank, _ in ranked)
    candidates = tuple(reference for rank, reference in ranked if rank == surest)
    return Match(CONFIDENCES[surest[0]], _how(name, board, candidates), candidates)


def _same_model(name: ModelName, other: ModelName) -> Confidence | None:
    """Whether a name is the other model, or one with the same layers; None if neither."""
    if name.family != other.family or name.parameters_b != other.parameters_b:
        return None
    if name.version != other.version and not any(
        name.family == family and {name.version, other.version} <= versions for family, versions in _SAME_LAYERS
    ):
        return None
    if any(
        said is not None and known is not None and said != known
        for said, known in ((name.active_b, other.active_b), (name.experts, other.experts))
    ) or (name.active_b is not None and other.active_b is None):
        return None
    if name.version != other.version or name.unknown:
        return "same-architecture"
    if name.variant == other.variant:
        # Some variants exist in one release only, and people leave its number out.
        same = name.release == other.release or (bool(name.variant) and not name.release)
    else:
        # People leave out that a model they serve follows instructions.
        same = not name.variant and other.variant == ("instruct",) and name.release == other.release
    return "exact" if same else "same-architecture"


def _rank(name: ModelName, board: AcceleratorName, reference: Reference, model: Confidence) -> tuple[int, ...]:
    """Confidence of all, then of the model, its version, and how far the precisions are apart; least is surest."""
    apart = 0 if name.precision == reference.precision else 1 + _bits_apart(name.precision, reference.precision)
    precision: Confidence = "approximate" if apart else "exact"
    confidence = CONFIDENCES.index(least((model, precision, board.confidence)))
    return confidence, CONFIDENCES.index(model), int(name.version != reference.name.version), apart


def _bits_apart(one: str, other: str) -> int:
    return abs(_BITS.get(one, 16) - _BITS.get(other, 16))


def _how(name: ModelName, board: AcceleratorName, candidates: tuple[Reference, ...]) -> str:
    models = list(dict.fromkeys(reference.model for reference in candidates))
    precisions = list(dict.fromkeys(reference.precision for reference in candidates))
    exact = _same_model(name, candidates[0].name) == "exact"
    parts = [f"model: {'' if exact else 'same architecture and size as '}{' and '.join(models)}"]
    if not exact and name.unknown:
        parts[0] += f" ({', '.join(word[:20] for word in name.unknown[:3])}: taken for a derived model)"
    measured = " and ".join(precisions)
    if name.precision not in precisions:
        named = "" if name.precision_named else " (not in the name: as published)"
        served = f"{name.precision}{named}" if name.precision else "a precision its name does not say"
        parts.append(f"precision: served in {served}, measured in {measured}")
    elif not name.precision_named:
        parts.append(f"precision: not in the name, taken for {measured} as published")
    parts.append(f"accelerator: {board.how}")
    return "; ".join(parts)
