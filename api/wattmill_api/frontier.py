"""From rows of /efficiency and the concurrency beside them to the rows of /frontier. Pure, but for the table it reads.

Energy is all the energy of a workload, its idle time too, as everywhere; `serving_ratio` is the same distance for the
energy of serving alone, so that the two tell whether replicas stand idle or serve inefficiently.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from wattmill_analytics.frontier import references
from wattmill_analytics.frontier.judgement import Judgement, Observed, inter_token_latency_ms, judge, plausibility
from wattmill_analytics.frontier.references import Reference
from wattmill_api.store.frontier import Concurrency

BY = ("workload", "team", "model", "accelerator_model")
SOURCE: references.LatencySource = "concurrency over rate"


@functools.cache
def table() -> tuple[Reference, ...]:
    """The published reference points."""
    file = importlib.resources.files("wattmill_analytics.frontier").joinpath("figures.csv")
    return references.parse(file.read_text(encoding="utf-8"))


def rows(
    efficiencies: Sequence[Mapping[str, Any]], serving_mj: Mapping[tuple[str | None, ...], int | None],
    ran: Sequence[Concurrency], scope: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each workload on each kind of accelerator. `efficiencies`: rows of /efficiency grouped by `BY`.

    `serving_mj`: energy of serving alone at the same scope, by the values of `BY`; energy that nobody owns has no row.
    """
    by_group = {(c.workload, c.team, c.model, c.accelerator_model): c for c in ran}
    answered = []
    for row in efficiencies:
        key = tuple(row["group"][name] for name in BY)
        if row["group"]["workload"] is not None:
            answered.append(_row(row, serving_mj.get(key), by_group.get(key), scope))
    return answered


def _row(row: Mapping[str, Any], serving_mj: int | None, ran: Concurrency | None, scope: str) -> dict[str, Any]:
    group = row["group"]
    latency_ms = None if ran is None else inter_token_latency_ms(ran.request_s, ran.output_tokens)
    length = ran.answered_tokens / ran.requests_finished if ran is not None and ran.requests_finished else None
    boards = ran.most_boards if ran is not None and ran.fewest_boards == ran.most_boards else None
    spent = row["joules_per_token"]
    judged = _judged(
        Observed(
            scope=scope,
            model=group["model"] or "",
            accelerator_model=group["accelerator_model"] or "",
            joules_per_token=spent,
            inter_token_latency_ms=latency_ms,
            latency_source=SOURCE,
            mean_output_tokens=length,
            boards_per_replica=boards,
        ),
        whole="host" not in row["missing"],
    )
    plausible = plausibility(spent)
    energy_mj = row["energy_mj"]
    share = serving_mj / energy_mj if serving_mj is not None and energy_mj else None
    return {
        "group": group,
        "observed": {
            "energy_mj": energy_mj,
            "serving_energy_mj": serving_mj,
            "output_tokens": row["tokens"]["output"],
            "joules_per_token": spent,
            "tokens_per_kwh": row["tokens_per_kwh"],
            "inter_token_latency_ms": latency_ms,
            "inter_token_latency_source": None if latency_ms is None else SOURCE,
            "mean_output_tokens": length,
            "boards_per_replica": boards,
            "scope": scope,
            "quality": row["quality"],
            "coverage": row["coverage"],
            "missing": [name for name in row["missing"] if name not in ("tariff", "carbon", "currency")],
            "plausible": plausible.plausible,
            "reason": row["reason"] or plausible.reason,
            "simulated": row["simulated"],
        },
        "reference": None if judged.reference is None else described(judged.reference, judged.reference_latency_ms),
        "ratio": judged.ratio,
        "serving_ratio": None if judged.ratio is None or share is None else judged.ratio * share,
        "matched": {"confidence": judged.confidence, "how": judged.how},
        "verdict": judged.verdict,
        "caveat": judged.caveat,
    }


def _judged(observed: Observed, whole: bool) -> Judgement:
    """The judgement, unless the energy of a node lacks its host's: that would be the boards' alone."""
    if observed.scope != "node" or whole:
        return judge(observed, table())
    judged = judge(dataclasses.replace(observed, joules_per_token=None), table())
    if judged.confidence == "none":
        return judged
    return dataclasses.replace(judged, verdict="host energy was not measured everywhere: this is not a node's figure")


def described(reference: Reference, latency_ms: float | None = None) -> dict[str, Any]:
    """A reference as it is answered. `latency_ms`: its inter-token latency in the meaning of the observed one."""
    return {
        "source": reference.source,
        "citation": reference.citation,
        "scope": reference.scope,
        "model": reference.model,
        "accelerator": reference.accelerator,
        "boards": reference.boards,
        "parallelism": reference.parallelism or None,
        "precision": reference.precision,
        "task": reference.task,
        "batch": reference.batch,
        "watts": reference.watts,
        "output_tokens_per_s": reference.output_tokens_per_s,
        "joules_per_token": reference.joules_per_token,
        "tokens_per_kwh": reference.tokens_per_kwh,
        "inter_token_latency_ms": reference.latency_ms(SOURCE) if latency_ms is None else latency_ms,
        "median_itl_ms": reference.median_itl_ms,
        "itl_limit_ms": reference.itl_limit_ms,
        "mean_output_tokens": reference.mean_output_tokens,
    }


def serving(efficiencies: Sequence[Mapping[str, Any]]) -> dict[tuple[str | None, ...], int | None]:
    """Energy by the values of `BY`, from rows of /efficiency that were made of serving alone."""
    return {tuple(row["group"][name] for name in BY): row["energy_mj"] for row in efficiencies}
