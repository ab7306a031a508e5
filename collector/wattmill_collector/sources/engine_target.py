"""One target of the engine source, what is remembered of it between ticks, and what becomes of it in a tick."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from wattmill_collector.placement import Placement, Seat
from wattmill_collector.placement.process import Process
from wattmill_collector.settings import EngineSettings
from wattmill_collector.sources.addresses import Failure
from wattmill_collector.sources.engine_pages import EnginePage, EngineValues
from wattmill_collector.sources.engine_placing import PLACE_EVERY_US
from wattmill_collector.sources.engine_totals import epoch_since
from wattmill_collector.sources.scraper import Link
from wattmill_collector.wire import AbsenceReading, EngineReading, Reading

if TYPE_CHECKING:  # loaded where there is a Kubernetes only
    from wattmill_collector.placement.pods import Allocation, PodKey
    from wattmill_collector.sources.engine_pods import PodEngine, PodNames, PodView

SECOND_US = 1_000_000
MINUTE_US = 60_000_000
OWN_HOSTS = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
Problems = dict[str, tuple[str, str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """Under which epoch the counters of a page stand, and when it began, if that is known."""

    epoch: int = 0
    start_us: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class About:
    """What an engine says of itself outside its page."""

    model: str = ""
    version: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Alike:
    """How often a target showed the same tokens as another one, each time others, and when last."""

    tokens: tuple[int, ...] = ()
    times: int = 0
    seen_us: int = 0


@dataclasses.dataclass(slots=True)
class Target:
    """One target and what is remembered of it between ticks."""

    settings: EngineSettings
    link: Link
    path: str
    page: EnginePage
    discovered: bool = False
    confirmed: bool = True  # a discovered port is an engine's only once its page has been understood
    pod: PodEngine | None = None  # a target that a pod offers
    refusal: Failure | None = None  # why a port that was tried is not confirmed
    joined: tuple[PodKey, str] | None = None  # the pod and container that it is in, wherever the target comes from
    joined_at: tuple[object, ...] = ()  # what that was made from
    allocation: Allocation | None = None
    named: tuple[object, PodNames | None] = (None, None)
    pod_role: str = ""
    page_role: str = ""  # the one that all engines of the page have
    evidence: Evidence | None = None
    proof: tuple[bytes, Process | None] = (b"", None)  # what the evidence was made from
    past_epochs: tuple[int, ...] = ()
    turns_until_us: int = 0  # until when it is taken for several processes that answer in turn
    tokens: tuple[int, ...] = ()  # what its engines had counted at the last reading, and where that fell since
    falls: tuple[bool, ...] = ()
    alike: dict[str, Alike] = dataclasses.field(default_factory=dict)  # by the targets that showed the same
    listener: Process | None = None
    look_again_us: int = 0
    placed_as: tuple[Process | None, int] | None = None  # the process and epoch for which process lists were asked for
    list_us: int = 0
    list_pause_us: int = SECOND_US
    about: About | None = None
    about_tries: int = 0
    probe_us: int = 0
    probe_pause_us: int = PLACE_EVERY_US
    problems: Problems = dataclasses.field(default_factory=dict)
    since_us: dict[str, int] = dataclasses.field(default_factory=dict)


def may_be_here(target: Target) -> bool:
    """Whether a target is on this host, whatever it answers; without its name's address that is not known yet."""
    unresolved = target.problems.get("", ("",))[0] == "name_not_resolved"
    return target.link.is_local or target.link.place.host in OWN_HOSTS or unresolved


def role_of(target: Target, said: str) -> str:
    """What part an engine plays: configured, by its kind, by its pod, as its page has `said`."""
    if target.settings.role:
        return target.settings.role
    if target.page.kind is not None and not target.page.kind.holds_accelerators:
        return "frontend"
    return (target.pod_role if target.pod_role != "worker" else "") or said


def seat_of(target: Target) -> Seat:
    settings, link = target.settings, target.link
    return Seat(
        settings.target,
        settings.accelerators,
        target.listener,
        role_of(target, target.page_role) != "frontend",
        target.allocation,
        settings.shares_ppm,
        None if link.is_local or not link.peer else (link.peer, link.place.port),
        port=link.place.port,
    )


def join(target: Target, view: PodView) -> None:
    """Find the pod that a target is in, and what the kubelet gave to it."""
    link = target.link
    made_from = (view.version, link.peer, link.is_local)
    if target.joined_at != made_from:
        host, port = link.peer or link.place.host, link.place.port
        pod = target.pod
        target.joined = (pod.pod.key, pod.container) if pod else view.pod_at(host, port, local=link.is_local)
        target.allocation = view.allocation(*target.joined) if target.joined else None
        target.pod_role = view.role(target.joined[0]) if target.joined else ""
        target.joined_at = made_from


def readings_of(
    target: Target,
    values: Sequence[EngineValues],
    placement: Placement,
    names: PodNames | None,
    activity_ppm: int | None,
) -> list[EngineReading]:
    """What a target shows at a tick. Several engines behind it are on the same boards, front ends on none."""
    roles = [role_of(target, role_on_page(one)) for one in values]
    holding = [nth for nth, role in enumerate(roles) if role != "frontend"]
    active_ppm = None if activity_ppm is None else activity_ppm // max(len(holding), 1)
    found = []
    for nth, (one, role) in enumerate(zip(values, roles, strict=True)):
        is_here = nth in holding
        place = placement.part(holding.index(nth), len(holding)) if is_here else Placement()
        found.append(_reading(target, one, role, place, names, active_ppm if is_here else None))
    return found


def _reading(
    target: Target,
    one: EngineValues,
    role: str,
    placement: Placement,
    names: PodNames | None,
    activity_ppm: int | None,
) -> EngineReading:
    about, evidence = target.about or About(), target.evidence or Evidence()
    settings = target.settings
    is_timed = activity_ppm is not None and placement.method and not placement.guessed
    model = settings.model or (names.model if names else "") or one.model or about.model
    return EngineReading(
        target=settings.target,
        series=one.series,
        engine_kind=target.page.kind.name if target.page.kind else "",
        version=about.version,
        model=model,
        workload=settings.workload or (names.workload if names else "") or model,
        team=settings.team or (names.team if names else ""),
        accelerators=placement.accelerators,
        method=placement.method,
        confidence="medium" if is_timed else placement.confidence,
        accelerator_shares_ppm=placement.shares_ppm,
        share_by=placement.share_by,
        role=role,
        activity_ppm=activity_ppm,
        tokens_move=one.tokens_move,
        epoch=evidence.epoch if one.since_us is None else epoch_since(evidence.epoch, one.since_us),
        epoch_start_us=evidence.start_us if one.since_us is None else one.since_us,
        **one.values,  # type: ignore[arg-type]  # the keys are fields of EngineReading, the values of their types
    )


def role_on_page(one: EngineValues) -> str:
    """The role that a page gives to one of its engines."""
    return one.role


class Complainer(Protocol):
    """What problems are said of, and since when each of them is there."""

    problems: Problems
    since_us: dict[str, int]


def absences_of(of: Complainer, name: str, problems: Problems, time_us: int) -> list[Reading]:
    """What is new among the problems; all of them at a minute's edge."""
    of.since_us = {
        key: of.since_us[key] if of.problems.get(key, ("",))[0] == reason else time_us
        for key, (reason, _) in problems.items()
    }
    edge = time_us % MINUTE_US == 0
    said = [
        AbsenceReading(
            subject="engine",
            id=name,
            reason=reason,
            detail=detail.replace("\x00", "")[:512],
            start_us=of.since_us[key] if of.since_us[key] < time_us else None,
        )
        for key, (reason, detail) in problems.items()
        if edge or of.since_us[key] == time_us
    ]
    of.problems = problems
    return list(said)


def hung_up(target: Target, problems: Problems) -> bool:
    """Whether an engine that was read at the tick before no longer takes, or keeps, a connection."""
    reason = problems.get("", ("",))[0]
    return target.confirmed and "" not in target.problems and reason in ("connection_refused", "connection_reset")


def problems_of(placement: Placement) -> Problems:
    """What is wrong with where an engine or a worker is."""
    found: Problems = {}
    if placement.missing:
        missing = ", ".join(placement.missing)
        found["accelerators"] = (
            "accelerator_not_found",
            f"no accelerator {missing} has been seen on this node; correct `accelerators` of this engine,"
            " unless that board is lost",
        )
    if placement.doubt:
        found["placement"] = "placement_unknown", placement.doubt
    return found


def about_path(target: Target) -> str:
    """Where a target says what it is; empty where its kind does not. What its own path asks for goes along: behind a
    llama.cpp router one address has a page a model, `/metrics?model=NAME`."""
    path = target.page.kind.about_path if target.page.kind else ""
    _, asks, query = target.path.partition("?")
    return path and path + asks + query


def parse_about(body: bytes) -> About:
    """Model and version from what vLLM, TGI, TEI and llama.cpp answer at `/version`, `/info` and `/props`."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return About()
    if not isinstance(said, dict):
        return About()
    model = _said(said, "model_alias") or _said(said, "model_id") or _said(said, "model_path")
    if model.endswith(".gguf"):
        model = model.rpartition("/")[2].removesuffix(".gguf")
    return About(model, (_said(said, "build_info") or _said(said, "version"))[:64])


def _said(said: dict[str, object], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str):
        return ""
    return value.encode("utf-8", "replace").decode().replace("\x00", "")[:256]
