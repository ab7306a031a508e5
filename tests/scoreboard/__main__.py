"""`make scoreboard`: prints how well the detectors do on simulated weeks nobody tuned them on, beside fixed thresholds.

    python -m scoreboard [SEED ...] [--verbose]

All figures are from simulated fleets. Seeds 1 to 8 are for tuning; the reported ones begin at 101.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from scoreboard.adapter import found_when_cut, watch
from scoreboard.plan import BENIGN, DAY, Plan, draw
from scoreboard.rules import thresholds
from scoreboard.score import Match, match, table
from scoreboard.world import World, simulate

REPORTED = range(101, 117)
CUT_CHECKS = 10


def main(arguments: Sequence[str]) -> None:
    """Run the seeds and print two tables."""
    parser = argparse.ArgumentParser(prog="scoreboard", description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, default=list(REPORTED))
    parser.add_argument("--verbose", action="store_true", help="name every miss and every false alarm")
    options = parser.parse_args(arguments)
    ours: list[Match] = []
    rules: list[Match] = []
    checked = agreed = 0
    for seed in options.seeds:
        begun = time.perf_counter()
        plan = draw(seed)
        world = simulate(plan, seed)
        simulated_s = time.perf_counter() - begun
        told = watch(world)
        watched = len(plan.specs), plan.minutes - DAY
        ours.append(match(world.labels, told.findings, *watched))
        rules.append(match(world.labels, thresholds(world), *watched))
        sample = told.findings[:: max(1, len(told.findings) // CUT_CHECKS)]
        for finding in sample:
            checked += 1
            same = found_when_cut(world, told, finding)
            agreed += same
            if options.verbose and not same:
                say(f"  not found when cut at {finding.known}: {finding}")
        if options.verbose:
            _explain(seed, plan, world, ours[-1])
        sys.stderr.write(
            f"seed {seed}: {len(world.engine_workload)} engines, {len(world.board_engine)} boards, "
            f"{len(world.labels)} incidents; {simulated_s:.1f} s to simulate, "
            f"{time.perf_counter() - begun - simulated_s:.1f} s to watch\n"
        )
    say(f"Simulated weeks, seeds {' '.join(map(str, options.seeds))}.\n\nWattmill\n{table(ours)}\n")
    say(f"Found at the same minute in data that end there: {agreed} of {checked} findings checked.\n")
    say(f"Fixed thresholds, values of our choice\n{table(rules)}")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _explain(seed: int, plan: Plan, world: World, result: Match) -> None:
    """Every miss and every false alarm of a week, with what went on there."""
    for label, found in result.found:
        where = f"workload {label.workload} engines {label.engines} boards {label.boards}"
        told_mj = sum(f.energy_mj for f in found)
        if not found:
            say(
                f"seed {seed} MISSED {label.kind} {where} [{label.since}, {label.until}) size {label.size:.2f} "
                f"{label.energy_mj / 3.6e9:.2f} kWh; {_around(plan, label.workload, label.since, label.until)}"
            )
        else:
            delay = min(f.known for f in found) - max(label.since, DAY)
            off = f"{told_mj / label.energy_mj - 1:+.2f}" if label.energy_mj > 0 else "-"
            say(
                f"seed {seed} found {label.kind} {where} [{label.since}, {label.until}) size {label.size:.2f} "
                f"after {delay} min, energy {off}, {len(found)} findings"
            )
    for f in result.false:
        workload = f.workload if f.workload >= 0 else int(world.engine_workload[f.engine]) if f.engine >= 0 else -1
        say(
            f"seed {seed} FALSE {f.kind} workload {workload} engine {f.engine} board {f.board} [{f.since}, {f.until}) "
            f"{f.energy_mj / 3.6e9:.2f} kWh; {_around(plan, workload, f.since, f.until)}; {f.summary}"
        )


def _around(plan: Plan, workload: int, since: int, until: int) -> str:
    """Events of the workload near a stretch of time."""
    near = [
        f"{'benign ' if e.kind in BENIGN else ''}{e.kind} of {e.replicas} [{e.since}, {e.until}) {e.size:.2f}"
        for e in plan.events
        if e.workload == workload and e.since < until + 30 and since - 30 < e.until
    ]
    return "near: " + (", ".join(near) or "nothing")


if __name__ == "__main__":
    main(sys.argv[1:])
