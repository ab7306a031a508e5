"""Exporters and meters: boards, domains of the host and meters, by the pages that other programs show.

All targets are asked at once and share one deadline. What comes out is raw, as from any source: counters as integers,
with the evidence under which they continue. A board or domain that the agent reads itself, or that an exporter before
has, is left out. Exporters that ask a management controller or a device in their turn, and meters, may take longer
than a tick: their answer is taken up at a later one, and they are asked every 10 s at most.

What can't be read gives an AbsenceReading when that begins or changes, and again at every minute's edge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from wattmill_collector.clock import Clock
from wattmill_collector.log import LOG
from wattmill_collector.secret_files import SecretError, read_secret
from wattmill_collector.sources.addresses import Failure, place_of
from wattmill_collector.sources.epochs import read_boot_id
from wattmill_collector.sources.exporters.board_pages import BoardValues, board_epoch
from wattmill_collector.sources.exporters.kinds import ExporterKind, named
from wattmill_collector.sources.exporters.meters import MeterPage
from wattmill_collector.sources.exporters.owners import KEPT_US, Owners
from wattmill_collector.sources.exporters.pages import ExporterPage
from wattmill_collector.sources.promtext import PageReader, ParseError
from wattmill_collector.sources.scraper import Answer, Link, Scraper
from wattmill_collector.targets import ExporterSettings, MeterSettings
from wattmill_collector.wire import AbsenceReading, AcceleratorReading, MeterReading, Reading

MINUTE_US = 60_000_000
SLOW_EVERY_US = 10_000_000
LONGEST_ANSWER_US = 60_000_000
LONGEST_DEADLINE_S = 3.0
LONGEST_PATIENCE_S = 0.5  # for those that may be taken up again later

Subject = tuple[str, str]  # what is absent, and its id
Problems = dict[tuple[str, str, str], tuple[str, str]]  # subject, id and what of it → reason, sentence


@dataclasses.dataclass(slots=True)
class _Target:
    """One address, and what is read from it: an exporter, meters, or both."""

    url: str
    link: Link
    path: str
    page: ExporterPage | None = None
    kind: str = "auto"
    meters: list[tuple[MeterSettings, MeterPage]] = dataclasses.field(default_factory=list)
    meter_reader: PageReader | None = None
    next_us: int = 0
    asked_us: int = 0  # monotonic
    seen: dict[Subject, int] = dataclasses.field(default_factory=dict)
    problems: Problems = dataclasses.field(default_factory=dict)
    since_us: dict[tuple[str, str, str], int] = dataclasses.field(default_factory=dict)
    left_out: set[str] = dataclasses.field(default_factory=set)
    refused: Failure | None = None  # why it is never asked: its password can't be read

    def is_slow(self) -> bool:
        """Whether its answer may be waited for beyond a tick."""
        return bool(self.meters) if self.page is None else self.page.is_slow()


class ExporterSource:
    """Reads all configured exporters and meters.

    `own`: what the agent's own sources have read at this tick. `root`: where /sys and /proc of the host are.
    `patience_us`: how long slow answers are waited for, where a tick need not end in time.

    Errors: ValueError when a target or a kind can't be used.
    """

    name = "exporter"

    def __init__(
        self,
        exporters: Sequence[ExporterSettings],
        meters: Sequence[MeterSettings],
        *,
        node: str,
        clock: Clock,
        interval_us: int = 10_000_000,
        patience_us: int = 0,
        own: Callable[[], Iterable[Reading]] = tuple,
        root: Path = Path("/"),
        scraper: Scraper | None = None,
    ) -> None:
        self._clock = clock
        self._interval_us = interval_us
        self._deadline_s = max(min(0.4 * interval_us / 1e6, LONGEST_DEADLINE_S), patience_us / 1e6)
        self._patience_s = max(min(LONGEST_PATIENCE_S, self._deadline_s), patience_us / 1e6)
        self._own = own
        self._owners = Owners()
        self._scraper = scraper or Scraper()
        proc = root / "proc" if (root / "proc").is_dir() else Path("/proc")
        self._boot_id = read_boot_id(proc / "sys/kernel/random/boot_id")
        self._targets: dict[str, _Target] = {}
        self._boards: dict[str, AcceleratorReading] = {}
        # An address is asked once, for all that is read there: with the user that any of them names.
        everybody: list[ExporterSettings | MeterSettings] = [*exporters, *meters]
        for one in everybody:
            if one.user or one.password_file is not None:
                self._target(one)
        for exporter in exporters:
            target = self._target(exporter)
            target.kind = exporter.kind
            target.page = ExporterPage(named(exporter.kind), node, root)
        for meter in meters:
            target = self._target(meter)
            target.meters.append((meter, MeterPage(meter)))
        for target in self._targets.values():
            names = frozenset[str]().union(*(page.names() for _, page in target.meters))
            target.meter_reader = PageReader(names, repeats=True) if names else None

    def read(self, time_us: int) -> list[Reading]:
        """Readings of boards, domains and meters, and AbsenceReadings for what can't be read."""
        self._owners.note_own(self._own(), time_us)
        for target in self._targets.values():
            if target.refused is not None:
                _fail(target, target.refused)
        able = [target for target in self._targets.values() if target.refused is None]
        asked = [t for t in able if t.link.is_pending or self._is_due(t, time_us)]
        now_us = self._clock.monotonic_us()
        for target in asked:
            if not target.link.is_pending:
                target.asked_us = now_us
                target.next_us = time_us + SLOW_EVERY_US  # from asking: what comes late is asked for as often
            elif now_us - target.asked_us > LONGEST_ANSWER_US:
                target.link.close()  # and ask again
                target.asked_us = now_us
                _fail(target, Failure("timeout", f"no answer within {LONGEST_ANSWER_US // 10**6} s"))
        patient = {t.link for t in asked if t.is_slow()}
        asks = [(t.link, t.path) for t in asked]
        answers = self._scraper.fetch(asks, self._deadline_s, patient=patient, patience_s=self._patience_s)
        readings: list[Reading] = []
        for target, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Failure):
                if answer.reason != "pending":
                    target.next_us = target.next_us if target.is_slow() else 0  # what it asks is not to be pressed
                    _fail(target, answer)
                continue
            target.problems = {}
            readings += self._read_exporter(target, answer, time_us)
            readings += self._read_meters(target, answer, time_us)
            target.next_us = target.next_us if target.is_slow() else 0
        for target in self._targets.values():
            readings += _absences_of(target, time_us)
        return readings

    def boards(self) -> list[AcceleratorReading]:
        """The boards that are read here, as of their last reading; a page that comes late does not unsettle engines."""
        return list(self._boards.values())

    def close(self) -> None:
        """Close all connections."""
        self._scraper.close()

    def _target(self, settings: ExporterSettings | MeterSettings) -> _Target:
        """The target at an address, with the user of whoever names one first."""
        url = settings.target
        if url not in self._targets:
            place = place_of(url)
            key, refused = _password(settings)
            link = self._scraper.link(place, key, settings.user)
            self._targets[url] = _Target(url, link, place.path, refused=refused)
        return self._targets[url]

    def _is_due(self, target: _Target, time_us: int) -> bool:
        return not time_us < target.next_us <= time_us + 2 * SLOW_EVERY_US + self._interval_us

    def _read_exporter(self, target: _Target, answer: Answer, time_us: int) -> list[Reading]:
        page = target.page
        if page is None:
            return []
        try:
            page.scan(answer.body)
            if not page.kinds:
                target.problems[_subject(target)] = ("not_understood", _no_kind(target))
                return []
            return self._understand(target, page, bool(answer.local_address), time_us)
        except ParseError as error:
            target.problems[_subject(target)] = ("not_understood", f"the page can't be read: {error}")
            return []

    def _understand(self, target: _Target, page: ExporterPage, is_local: bool, time_us: int) -> list[Reading]:
        boot_id = self._boot_id if is_local else ""
        readings: list[Reading] = []
        shown: set[Subject] = set()
        boards = page.boards()
        for kind, board in boards:
            shown.add(("accelerator", board.name.uuid))
            by = f"{target.url} {kind.name}"
            name = board.name
            if self._owners.take_board(by, name.uuid, name.vendor, is_vendors=name.is_vendors, time_us=time_us):
                epoch = 0
                if "energy_mj" in board.values and kind.boards:
                    epoch = board_epoch(kind.name, kind.boards, name, boot_id, page.started())
                reading = self._boards[name.uuid] = _board(kind, board, epoch)
                readings.append(reading)
                target.seen["accelerator", name.uuid] = time_us
                for reason, detail in board.faults:
                    target.problems["accelerator", name.uuid, reason] = (reason, f"{name.uuid}: {detail}")
            else:
                if target.seen.pop(("accelerator", name.uuid), None) is not None:
                    self._boards.pop(name.uuid, None)
                _leave_out(target, kind, name.uuid)
        domains = page.domains(boot_id, time_us, is_local=is_local)
        for kind, domain in domains:
            shown.add(("host", domain.domain))
            if self._owners.take_domain(f"{target.url} {kind.name}", domain.domain, time_us):
                readings.append(domain)
                target.seen["host", domain.domain] = time_us
            else:
                _leave_out(target, kind, domain.domain)
        if page.unnamed_boards():
            detail = f"{page.unnamed_boards()} series name no board by UUID, address or number and can't be told apart"
            target.problems["accelerator", target.url, "unnamed"] = ("card_unknown", detail)
        if not boards and not domains:
            said = ("unreachable", _cut_off(page)) if page.is_cut_off() else ("not_understood", _no_power(page))
            target.problems[_subject(target)] = said
        for (subject, id_), seen_us in list(target.seen.items()):
            if (subject, id_) in shown:
                continue
            if not 0 <= time_us - seen_us < KEPT_US:
                del target.seen[subject, id_]
                self._boards.pop(id_, None)
            else:
                detail = f"{target.url} showed {id_} before and does not now"
                target.problems[subject, id_, "gone"] = ("not_shown", detail)
        return readings

    def _read_meters(self, target: _Target, answer: Answer, time_us: int) -> list[Reading]:
        reader = target.meter_reader
        if reader is None:
            return []
        try:
            texts = reader.read(answer.body)
        except ParseError as error:
            for meter, _ in target.meters:
                target.problems["meter", meter.name, ""] = ("not_understood", f"the page can't be read: {error}")
            return []
        readings: list[Reading] = []
        for meter, page in target.meters:
            values = page.read(reader.series, texts, time_us)
            if values.problem is not None:
                target.problems["meter", meter.name, ""] = values.problem
                continue
            readings.append(
                MeterReading(
                    meter=meter.name,
                    level=meter.level,
                    covers=meter.covers,
                    source=values.source,
                    epoch=values.epoch,
                    energy_mj=values.energy_mj,
                    power_mw=values.power_mw,
                )
            )
        return readings


def _password(settings: ExporterSettings | MeterSettings) -> tuple[str, Failure | None]:
    """What to log in with, or why that can't be known."""
    if not settings.user and settings.password_file is None:
        return "", None
    if not settings.user or settings.password_file is None:
        return "", Failure("no_password", f"{settings.target} needs both, user and password_file")
    try:
        return read_secret(settings.password_file, "password"), None
    except SecretError as error:
        return "", Failure(error.reason, str(error))


def _board(kind: ExporterKind, board: BoardValues, epoch: int) -> AcceleratorReading:
    name = board.name
    return AcceleratorReading(
        uuid=name.uuid,
        model=name.model,
        index=name.index,
        vendor=name.vendor,
        source=kind.name[:32],
        epoch=epoch,
        **board.values,  # type: ignore[arg-type]  # the keys are fields of AcceleratorReading, the values of their types
    )


def _leave_out(target: _Target, kind: ExporterKind, what: str) -> None:
    if what not in target.left_out:
        target.left_out.add(what)
        LOG.info("%s at %s: %s is read by another source already and left out here.", kind.name, target.url, what)


def _subject(target: _Target) -> tuple[str, str, str]:
    """What an absence of all of it is about: by what it is, or may be by its configuration; else accelerators."""
    page = target.page
    kinds = (page.kinds if page else ()) or (named(target.kind) if target.kind != "auto" else ())
    return (kinds[0].subject if kinds else "accelerator", target.url, "")


def _fail(target: _Target, failure: Failure) -> None:
    of_exporter = [_subject(target)] if target.page is not None else []
    of_meters = [("meter", meter.name, "") for meter, _ in target.meters]
    detail = failure.detail
    if failure.reason == "http_500" and (target.meters or target.is_slow()):
        detail += "; such an exporter does so when what it asks does not answer: check target and module in the url"
    target.problems = dict.fromkeys([*of_exporter, *of_meters], (failure.reason, detail))


def _no_kind(target: _Target) -> str:
    if target.kind != "auto":
        return f"the page has no metric of {target.kind}; correct kind or target of this exporter, or leave kind out"
    return (
        "the page has no metric of an exporter that is known here; correct the target, or take it from `exporters:` "
        "(docs/exporters.md lists those that are known)"
    )


def _cut_off(page: ExporterPage) -> str:
    who = " and ".join(dict.fromkeys(kind.name for kind in page.kinds))
    ups = " and ".join(dict.fromkeys(kind.up for kind in page.kinds))
    return (
        f"{who} says that it could not ask the management controller ({ups} is 0); check the target in this exporter's "
        "url, and user and password in the exporter's own configuration"
    )


def _no_power(page: ExporterPage) -> str:
    who = " and ".join(dict.fromkeys(kind.name for kind in page.kinds))
    advice = "; ".join(dict.fromkeys(kind.advice for kind in page.kinds if kind.advice))
    return f"the page is that of {who}, but shows no power or energy that can be used" + (
        f": {advice}" if advice else ""
    )


def _absences_of(target: _Target, time_us: int) -> list[Reading]:
    """What is new among the problems; all of them at a minute's edge."""
    before, target.since_us = target.since_us, {}
    said: list[Reading] = []
    for key, (reason, detail) in target.problems.items():
        subject, id_, _ = key
        marked = (subject, id_, reason)
        since_us = target.since_us[marked] = before.get(marked, time_us)
        if since_us == time_us or time_us % MINUTE_US == 0:
            said.append(
                AbsenceReading(
                    subject=subject,
                    id=id_.replace("\x00", "")[:512],
                    reason=reason,
                    detail=detail.replace("\x00", "")[:512],
                    start_us=since_us if since_us < time_us else None,
                )
            )
    return said
