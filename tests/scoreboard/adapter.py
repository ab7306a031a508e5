"""The one place where the simulated weeks meet the detectors: columns across, learning and detection as in the service.

Every quarter of a day the curves are learnt anew from what was known by then, less the minutes of incidents found;
then the detectors look at the quarter and the day before it. What is found is found causally, so that this tells what
a run every few minutes would have told, but for curves a few hours old.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from scoreboard.plan import DAY
from scoreboard.score import Finding
from scoreboard.world import World
from wattmill_analytics.curve_learning import Counts, add, learn, no_counts, solve
from wattmill_analytics.curves import Curves, judge, no_curves
from wattmill_analytics.findings import Incident
from wattmill_analytics.findings.detectors import detect_boards, detect_engines
from wattmill_analytics.findings.minutes import MINUTE_US, TOLD_FROM_BEFORE, BoardMinutes, EngineMinutes, Float64, Int64
from wattmill_analytics.findings.residuals import LEAST_LEVEL_MINUTES
from wattmill_analytics.steady_load import steady_load

QUARTER, LOOK_BACK = DAY // 4, DAY
FLAPS_WITHIN = 30
NOT_LEARNT_FROM = ("throttled", "straggler", "kv-thrash", "regression", "spin-idle", "telemetry-untrusted")
_RATIOS = {
    *("power_ratio", "utilisation_ratio", "requests_running", "requests_waiting", "kv_cache_usage_ratio"),
    "slow_board_ratio",
}


def engine_minutes(
    world: World, first: int, last: int, curves: Curves | None = None, known: Iterable[Finding] = ()
) -> EngineMinutes:
    """Minutes [first, last) of all engines, judged by these curves; one curve a workload. `known`: findings by now."""
    present = world.engines.present[:, first:last]
    columns = {
        name: _column(values[:, first:last][present], name in _RATIOS) for name, values in world.engines.columns.items()
    }
    offsets = np.concatenate(([0], np.cumsum(present.sum(axis=1)))).astype(np.int64)
    levels, since_us = _under_way(world, first, known)
    unjudged = np.full(int(offsets[-1]), np.nan)
    rows = world.engine_workload if curves is not None else np.full(world.engine_workload.size, -1)
    minutes = EngineMinutes(
        offsets=offsets,
        workload=world.engine_workload,
        boards=world.engine_boards,
        curve=rows,
        curves=curves or no_curves(),
        minute_us=_times(present, first),
        expected_mj=unjudged,
        expected_output_tokens=unjudged,
        looks_a_minute=world.engine_looks,
        peak_tokens_per_s=_peaks(world, first),
        usual_hit_ratio=_usual_hit_ratios(world, first, known),
        levels_under_way=levels,
        under_way_since_us=since_us,
        **columns,
    )
    if curves is None:
        return minutes
    expected_mj, expected_output_tokens = judge(
        curves=curves,
        curve=rows,
        offsets=offsets,
        uncached_input_tokens=minutes.uncached_input_tokens,
        output_tokens=minutes.output_tokens,
        requests_running=_load(world, minutes),
    )
    return dataclasses.replace(minutes, expected_mj=expected_mj, expected_output_tokens=expected_output_tokens)


def _load(world: World, minutes: EngineMinutes) -> Float64:
    return steady_load(
        offsets=minutes.offsets,
        minute_us=minutes.minute_us,
        output_tokens=minutes.output_tokens,
        requests_running=minutes.requests_running,
        looks_a_minute=world.engine_looks,
    )


def _peaks(world: World, until: int) -> Float64:
    """Output tokens a second of each engine's workload in its busiest hour before this minute; NaN on the first day."""
    tokens = np.where(world.engines.present, world.engines.columns["output_tokens"], 0.0)[:, : until // 60 * 60]
    if until < DAY:
        return np.full(tokens.shape[0], np.nan)
    hours = tokens.reshape(tokens.shape[0], -1, 60).sum(axis=2)
    of_workload = np.zeros((len(world.plan.specs), hours.shape[1]))
    np.add.at(of_workload, world.engine_workload, hours)
    return np.asarray(of_workload.max(axis=1)[world.engine_workload] / 3600)


def _usual_hit_ratios(world: World, until: int, known: Iterable[Finding]) -> Float64:
    """The usual hit ratio of each engine's workload in hours before this minute that no cache-miss has touched."""
    cached, inputs = (
        np.where(world.engines.present, world.engines.columns[name], 0.0)[:, : until // 60 * 60]
        for name in ("cached_input_tokens", "input_tokens")
    )
    usual = np.full(len(world.plan.specs), np.nan)
    for w in range(usual.size):
        mine = world.engine_workload == w
        hours = np.stack([part[mine].reshape(int(mine.sum()), -1, 60).sum(axis=(0, 2)) for part in (cached, inputs)])
        for finding in known:
            if (finding.kind, finding.workload) == ("cache-miss", w):
                hours[:, finding.since // 60 : -(-finding.until // 60)] = 0
        hours = hours[:, hours[1] > 0]
        if hours.shape[1] >= 6:
            hours = hours[:, np.argsort(hours[0] / hours[1], kind="stable")]
            middle = np.argmax(2 * np.cumsum(hours[1]) >= hours[1].sum())
            usual[w] = hours[0, middle] / hours[1, middle]
    return np.asarray(usual[world.engine_workload])


def _under_way(world: World, first: int, known: Iterable[Finding]) -> tuple[Float64, Int64]:
    """`EngineMinutes.levels_under_way` and since when, of incidents that minutes from here on can't tell."""
    levels = np.full((world.engine_workload.size, len(TOLD_FROM_BEFORE)), np.nan)
    since_us = np.zeros(levels.shape, np.int64)
    for finding in known:
        going_on = not finding.over and finding.until >= first
        if finding.kind in TOLD_FROM_BEFORE and going_on and finding.since < first + LEAST_LEVEL_MINUTES:
            of_workload = world.engine_workload == finding.workload
            engines = np.flatnonzero(of_workload) if finding.workload >= 0 else [finding.engine]
            levels[engines, TOLD_FROM_BEFORE.index(finding.kind)] = np.log(finding.usual_energy_ratio)
            since_us[engines, TOLD_FROM_BEFORE.index(finding.kind)] = finding.since * MINUTE_US
    return levels, since_us


def board_minutes(world: World, first: int, last: int) -> BoardMinutes:
    """Minutes [first, last) of all boards."""
    present = world.boards.present[:, first:last]
    columns = {
        name: _column(values[:, first:last][present], name in _RATIOS) for name, values in world.boards.columns.items()
    }
    offsets = np.concatenate(([0], np.cumsum(present.sum(axis=1)))).astype(np.int64)
    return BoardMinutes(offsets=offsets, minute_us=_times(present, first), **columns)


def _column(values: np.ndarray, ratio: bool) -> np.ndarray:
    return np.ascontiguousarray(values) if ratio else values.astype(np.int64)


def _times(present: np.ndarray, first: int) -> Int64:
    return np.asarray((np.nonzero(present)[1] + first) * MINUTE_US, np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """All findings of a week; the curves in force in each quarter of a day, and the findings known when it began."""

    findings: tuple[Finding, ...]
    curves: tuple[Curves, ...]
    known: tuple[tuple[Finding, ...], ...]


def watch(world: World) -> Told:
    """Live through the week as the service does."""
    whole = board_minutes(world, 0, world.plan.minutes)
    found = [_finding(kind, i, world, board=i.subject) for kind, i in detect_boards(whole)]
    found = [finding for finding in found if finding.until > DAY]
    settled, curves, known = no_counts(len(world.plan.specs)), [], []
    for begin in range(DAY, world.plan.minutes, QUARTER):  # nobody looks on the first day
        recent = begin - LOOK_BACK
        if recent:
            settled = add([settled, _learnt(world, recent - QUARTER, recent, found)], len(world.plan.specs))
        counts = add([settled, _learnt(world, recent, begin, found)], len(world.plan.specs))
        now = solve(counts)
        curves.append(now)
        known.append(tuple(found))
        seen = look(world, recent, begin + QUARTER, now, found)
        found = _kept(found, [dataclasses.replace(s, known=max(s.known, begin), looked=begin) for s in seen], recent)
    return Told(tuple(found), tuple(curves), tuple(known))


def look(world: World, first: int, last: int, curves: Curves, known: Iterable[Finding]) -> list[Finding]:
    """What the detectors find in these minutes of engines."""
    found = []
    for detector, incident in detect_engines(engine_minutes(world, first, last, curves, known)):
        if detector.about == "workload":
            found.append(_finding(detector.kind, incident, world, workload=incident.subject))
        else:
            found.append(_finding(detector.kind, incident, world, engine=incident.subject))
    return found


def found_when_cut(world: World, told: Told, finding: Finding) -> bool:
    """Whether it is found, as known at the same minute, in data that end at that minute."""
    if finding.board >= 0:
        incidents = detect_boards(board_minutes(world, max(0, finding.known - LOOK_BACK), finding.known))
        again = [_finding(kind, i, world, board=i.subject) for kind, i in incidents]
    else:
        quarter = (finding.looked - DAY) // QUARTER
        first = finding.looked - LOOK_BACK
        again = look(world, first, finding.known, told.curves[quarter], told.known[quarter])
    until = min(finding.until, finding.known)
    return any(a.subject == finding.subject and a.since < until and finding.since < a.until for a in again)


def learnt(world: World, until: int) -> Curves:
    """Curves of all minutes before this one."""
    return solve(_learnt(world, 0, until, ()))


def _learnt(world: World, first: int, last: int, found: Iterable[Finding]) -> Counts:
    rows = len(world.plan.specs)
    if last <= first:
        return no_counts(rows)
    minutes = engine_minutes(world, first, last)
    excluded = np.zeros((world.engine_workload.size, last - first), bool)
    for finding in found:
        if finding.kind in NOT_LEARNT_FROM:
            span = slice(max(0, finding.since - first), max(0, finding.until - first))
            engines = (
                world.engine_workload == finding.workload
                if finding.workload >= 0
                else np.arange(world.engine_workload.size)
                == (finding.engine if finding.engine >= 0 else world.board_engine[finding.board])
            )
            excluded[np.flatnonzero(engines), span] = True
    return learn(
        rows=rows,
        curve=world.engine_workload,
        offsets=minutes.offsets,
        minute_us=minutes.minute_us,
        serving_mj=minutes.serving_mj,
        estimated_mj=minutes.estimated_mj,
        uncached_input_tokens=minutes.uncached_input_tokens,
        output_tokens=minutes.output_tokens,
        requests_running=minutes.requests_running,
        load=_load(world, minutes),
        untrusted_us=minutes.untrusted_us,
        excluded=excluded[world.engines.present[:, first:last]],
    )


def _finding(
    kind: str, incident: Incident, world: World, *, workload: int = -1, engine: int = -1, board: int = -1
) -> Finding:
    since, until, known = (us // MINUTE_US for us in (incident.since_us, incident.until_us, incident.known_us))
    return Finding(
        *(kind, workload, engine, board, since, until, min(known, world.plan.minutes), incident.energy_mj),
        incident.summary,
        over=incident.over,
        usual_energy_ratio=float(incident.evidence.get("usual_energy_ratio", 1.0)),
    )


def _kept(old: list[Finding], seen: list[Finding], first: int) -> list[Finding]:
    """Findings brought in line with what is seen from minute `first` on, as the service does: those of a kind and
    subject that flap within half an hour are one, and energy from before the minutes looked at is carried."""
    joined: dict[tuple[str, int, int, int], list[Finding]] = {}
    for each in sorted(seen, key=lambda f: f.since):
        stretches = joined.setdefault(each.subject, [])
        if stretches and each.since <= stretches[-1].until + FLAPS_WITHIN:
            one = stretches[-1]
            stretches[-1] = dataclasses.replace(
                one,
                until=max(one.until, each.until),
                known=min(one.known, each.known),
                energy_mj=one.energy_mj + each.energy_mj,
                over=each.over if each.until >= one.until else one.over,
            )
        else:
            stretches.append(each)
    kept = list(old)
    for stretches in joined.values():
        for each in stretches:
            place = next(
                (
                    i
                    for i in range(len(kept) - 1, -1, -1)
                    if kept[i].subject == each.subject
                    and kept[i].since - FLAPS_WITHIN <= each.until
                    and each.since <= kept[i].until + FLAPS_WITHIN
                ),
                None,
            )
            if place is None:
                kept.append(each)
                continue
            known = kept[place]
            carried = 0
            if known.since < first:
                begin = max(each.since, first)
                share = (known.until - begin) / max(1, each.until - begin)
                carried = max(0, known.energy_mj - round(each.energy_mj * min(1.0, max(0.0, share))))
            kept[place] = dataclasses.replace(
                known,
                since=min(known.since, each.since),
                until=max(known.until, each.until),
                energy_mj=carried + each.energy_mj,
                summary=each.summary,
                over=each.over,
                usual_energy_ratio=each.usual_energy_ratio,
            )
    return kept
