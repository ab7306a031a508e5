"""Published reference points: what a model, an accelerator and a configuration were measured to use for a token.

Sources, by the `source` of a row in `figures.csv`:

- `mlenergy-v3`: ML.ENERGY leaderboard v3, ml-energy/leaderboard at 0cd52da, tasks lm-arena-chat, gpqa and
  sourcegraph-fim. Steady state, accelerators only: no idle time, no host, no cooling. A configuration that another one
  of the same curve (model, accelerator, boards, parallelism, precision, task) beats in latency and energy is left out.
- `mlperf-v5.1-power`: MLPerf Inference v5.1 power, Lenovo, 8x B200, FP4, whole system at the analyser. The latency
  of a result is not published, only its bound: `itl_limit_ms` is the 99th percentile that the Server scenario allows
  (loadgen/mlperf.conf); Offline has none.

Does not judge and does not match names.
"""

from __future__ import annotations

import csv
import dataclasses
from typing import Final, Literal

from wattmill_analytics.frontier.model_names import ModelName, parse_model
from wattmill_analytics.units import MILLIJOULES_PER_JOULE, MILLIJOULES_PER_KWH

Scope = Literal["accelerator", "node"]
LatencySource = Literal["concurrency over rate", "median"]
_SCOPES: Final[dict[str, Scope]] = {"accelerator": "accelerator", "node": "node"}
CITATIONS: Final = {
    "mlenergy-v3": "ML.ENERGY leaderboard v3, ml-energy/leaderboard at 0cd52da: steady state, accelerators only",
    "mlperf-v5.1-power": "MLPerf Inference v5.1 power, Lenovo, 8x B200: whole system at the analyser",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """One measured configuration.

    `boards` and `parallelism` are those of one replica; `batch` is the mean number of requests decoded at a time;
    `watts` are of all boards (scope accelerator) or of the whole system (scope node). None: not published.
    """

    source: str
    scope: Scope
    model: str
    name: ModelName
    accelerator: str
    boards: int
    parallelism: str
    precision: str
    task: str
    batch: float | None
    watts: float
    output_tokens_per_s: float
    joules_per_token: float
    median_itl_ms: float | None
    itl_limit_ms: float | None
    mean_output_tokens: float | None

    @property
    def citation(self) -> str:
        """Who measured it, where, in which scope."""
        return CITATIONS[self.source]

    @property
    def tokens_per_kwh(self) -> float:
        """Output tokens of a kilowatt-hour."""
        return MILLIJOULES_PER_KWH / MILLIJOULES_PER_JOULE / self.joules_per_token

    @property
    def mean_itl_ms(self) -> float | None:
        """Milliseconds a request spends per output token, by Little's law: batch over rate.

        It holds prefill and stalls too, which a median leaves out: for nine of ten rows it is 0.98 to 1.5 times the
        median, but up to 16 times where a few long steps stand between many short ones.
        """
        return None if self.batch is None else 1000 * self.batch / self.output_tokens_per_s

    def latency_ms(self, source: LatencySource) -> float | None:
        """Inter-token latency in the same meaning as an observed one; a bound where only that is published."""
        latency = self.mean_itl_ms if source == "concurrency over rate" else self.median_itl_ms
        return self.itl_limit_ms if latency is None else latency


def parse(text: str) -> tuple[Reference, ...]:
    """The rows of `figures.csv`, in its order. Errors: ValueError, KeyError when the text is not that table."""
    names: dict[str, ModelName] = {}
    rows = []
    for row in csv.DictReader(text.splitlines()):
        model = row["model"]
        if row["source"] not in CITATIONS:
            raise KeyError(row["source"])
        if model not in names:
            names[model] = parse_model(model)
        rows.append(
            Reference(
                source=row["source"],
                scope=_SCOPES[row["scope"]],
                model=model,
                name=names[model],
                accelerator=row["accelerator"],
                boards=int(row["boards"]),
                parallelism=row["parallelism"],
                precision=row["precision"],
                task=row["task"],
                batch=_number(row["batch"]),
                watts=float(row["watts"]),
                output_tokens_per_s=float(row["output_tokens_per_s"]),
                joules_per_token=float(row["joules_per_output_token"]),
                median_itl_ms=_number(row["median_itl_ms"]),
                itl_limit_ms=_number(row["itl_limit_ms"]),
                mean_output_tokens=_number(row["mean_output_tokens"]),
            )
        )
    return tuple(rows)


def _number(text: str) -> float | None:
    return float(text) if text else None
