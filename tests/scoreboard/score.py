"""Findings against truth: how many incidents were found, how many findings were right, how late, how far off.

A finding is of a label when kind and subject agree (the engine, or the workload that it serves; the board), their
times overlap, a quarter of an hour after its end included, and it was not known before the incident began: an alarm
that stood already has found nothing. Several findings of one label are one hit and splits; one of no label is false.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence

from scoreboard.plan import DAY, KINDS
from scoreboard.truth import Label

AFTER = 15


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What was told: kind, whom (the others are -1), minutes [since, until), and the minute by which it was known.

    `energy_mj` is -1 where nothing is said of it; `looked`: the minute that the curves are of by which it was found;
    `usual_energy_ratio`: against its yardstick, before it began.
    """

    kind: str
    workload: int
    engine: int
    board: int
    since: int
    until: int
    known: int
    energy_mj: int
    summary: str = ""
    looked: int = 0
    over: bool = True
    usual_energy_ratio: float = 1.0

    @property
    def subject(self) -> tuple[str, int, int, int]:
        return self.kind, self.workload, self.engine, self.board


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """Labels of one fleet with the findings that are theirs, and the findings that are nobody's."""

    found: tuple[tuple[Label, tuple[Finding, ...]], ...]
    false: tuple[Finding, ...]
    workloads: int
    minutes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One kind's figures over many weeks; None where there is nothing to tell from. Delays in minutes."""

    kind: str
    labels: int
    recall: float | None
    precision: float | None
    false_per_workload_week: float
    splits: int
    delay: float | None
    delay_p90: float | None
    energy_error: float | None
    energy_bias: float | None


def match(labels: Sequence[Label], told: Iterable[Finding], workloads: int, minutes: int) -> Match:
    """Who found what."""
    mine: list[list[Finding]] = [[] for _ in labels]
    false = []
    for finding in told:
        places = [i for i, label in enumerate(labels) if _same(label, finding)]
        for place in places:
            mine[place].append(finding)
        if not places:
            false.append(finding)
    return Match(
        tuple((label, tuple(found)) for label, found in zip(labels, mine, strict=True)),
        tuple(false),
        workloads,
        minutes,
    )


def _same(label: Label, finding: Finding) -> bool:
    if label.kind != finding.kind or finding.since >= label.until + AFTER or finding.until <= label.since:
        return False
    if finding.known <= label.since:
        return False
    if finding.board >= 0:
        return finding.board in label.boards
    return finding.engine in label.engines or (finding.workload >= 0 and finding.workload == label.workload)


def row(kind: str, matches: Sequence[Match]) -> Row:
    """One kind over all weeks."""
    pairs = [pair for m in matches for pair in m.found if pair[0].kind == kind]
    hits = [(label, found) for label, found in pairs if found]
    false = sum(1 for m in matches for f in m.false if f.kind == kind)
    right = len({id(f) for _, found in hits for f in found})
    weeks = sum(m.workloads * m.minutes / (7 * DAY) for m in matches)
    delays = sorted(max(0, min(f.known for f in found) - max(label.since, DAY)) for label, found in hits)
    counted = [
        (label.energy_mj, sum(f.energy_mj for f in found))
        for label, found in hits
        if label.energy_mj > 0 and all(f.energy_mj >= 0 for f in found)
    ]
    truth = sum(t for t, _ in counted)
    return Row(
        kind,
        len(pairs),
        len(hits) / len(pairs) if pairs else None,
        right / (right + false) if right + false else None,
        false / weeks if weeks else 0.0,
        right - len(hits),
        statistics.median(delays) if delays else None,
        delays[min(len(delays) - 1, int(0.9 * len(delays)))] if delays else None,
        statistics.median(abs(f - t) / t for t, f in counted) if counted else None,
        sum(f for _, f in counted) / truth - 1 if truth else None,
    )


def table(matches: Sequence[Match]) -> str:
    """All kinds, as text."""
    head = f"{'kind':<20}{'labels':>7}{'recall':>8}{'precis.':>8}{'false/ww':>9}{'splits':>7}{'delay':>7}{'p90':>6}"
    lines = [head + f"{'energy':>8}{'bias':>7}"]
    for kind in KINDS:
        r = row(kind, matches)
        energy = f"{_f(r.energy_error, 8, 3)}{_f(r.energy_bias, 7, 2)}"
        lines.append(
            f"{kind:<20}{r.labels:>7}{_f(r.recall, 8, 3)}{_f(r.precision, 8, 3)}{r.false_per_workload_week:>9.3f}"
            f"{r.splits:>7}{_f(r.delay, 7, 0)}{_f(r.delay_p90, 6, 0)}{energy}"
        )
    return "\n".join(lines)


def _f(value: float | None, width: int, digits: int) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"
