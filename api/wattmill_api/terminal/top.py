"""`wattmill top`: the live view of a service in a terminal, or its figures once, as text or JSON.

Without a terminal that can be drawn on (a pipe, TERM=dumb) pictures follow each other as text. The service is asked
beside the keys, so that a slow answer never holds up the screen; what was seen last stays until there is another.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TextIO

from rich.console import Console
from rich.live import Live

from wattmill_api.terminal.client import DONE, FAILED, USELESS, Document, Failure, Server
from wattmill_api.terminal.keys import GONE, WOKEN, Keys, listening
from wattmill_api.terminal.options import Options, duration_s, one_of, printing, say
from wattmill_api.terminal.scoped import gather_scoped, widened
from wattmill_api.terminal.screen import picture
from wattmill_api.terminal.steering import Place, lines_of, pressed
from wattmill_api.terminal.text import SCOPES, to_json
from wattmill_api.terminal.view import FILTERS, SORTS, VIEWS, View, gather, gather_more, ranked, view

PLAIN_WIDTH = 160
_BLIND = ("", "dumb", "unknown")  # terminals of which nobody knows how to draw on them
Wait = Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for, checked."""

    interval_s: int
    window_s: int
    place: Place
    once: bool
    json: bool
    scope: str = "accelerator"


def main(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """0: shown, or left with q or Ctrl-C; 1: the service is away; 2: it can't be used like this."""
    options = Options("top", "Watch tokens per kWh live; q leaves.", os.environ if environ is None else environ)
    options.option("interval", "time between two looks (default 5s)", "5s")
    options.option("window", "how far back the figures reach (default 15m)", "15m")
    options.option("view", f"what to show first: {', '.join(VIEWS)} (default workloads)", "workloads")
    options.option("sort", f"order of the rows: {', '.join(SORTS)} (default waste)", "waste")
    options.repeated("only", f"part of the fleet, such as node=gpu-017; repeatable. Names: {', '.join(FILTERS)}")
    options.option("scope", f"whose energy: {', '.join(SCOPES)} (default accelerator)", "accelerator")
    options.switch("once", "show it once and end")
    options.switch("json", "JSON, one document a line; with --once a single one")
    given = options.parse(argv)
    with printing():
        try:
            plan = read_plan(given)
            server = options.server(given, argv)
        except Failure as failure:
            say("top", failure)
            return failure.status
        try:
            return run(plan, server, sys.stdout)
        except Failure as failure:
            say("top", failure)
            return failure.status
        except KeyboardInterrupt:
            return DONE
        finally:
            server.close()
    return FAILED  # whoever read this went away


def read_plan(given: Namespace) -> Plan:
    """Errors: Failure naming the option."""
    return Plan(
        interval_s=duration_s(given.interval, "interval", 1, 3600, "1s to 1h, such as 5s"),
        window_s=duration_s(given.window, "window", 60, 7 * 86_400, "1m to 7d, such as 15m"),
        place=Place(
            view=one_of(given.view, "view", tuple(VIEWS)),
            sort=one_of(given.sort, "sort", SORTS),
            only=tuple(dict(_filter(text) for text in given.only).items()),
        ),
        once=given.once,
        json=given.json,
        scope=one_of(given.scope, "scope", tuple(SCOPES)),
    )


def _filter(text: str) -> tuple[str, str]:
    """`node=gpu-017`. Errors: Failure."""
    name, found, value = text.partition("=")
    if not found or name not in FILTERS:
        raise Failure(f"--only: must be NAME=VALUE with a name of {', '.join(FILTERS)}, not {text!r}", USELESS)
    return name, value


@dataclass(slots=True)
class Beside:
    """What stands beside workloads, kept for a minute: it moves slowly, and is dear to ask for."""

    asked: tuple[object, ...] = ()
    answers: Mapping[str, Document] = field(default_factory=dict)


def look(plan: Plan, place: Place, server: Server, beside: Beside | None = None) -> View:
    """The figures as they are now. Errors: Failure."""
    beside = beside or Beside()
    # The first answer tells the time of the service, which the window must end at.
    sites = server.get("/sites")
    now, only = server.now(), place.only
    try:
        answers = gather(server.get, now, plan.window_s, place.view, only) | {"sites": sites}
        if place.view == "workloads":
            asking = (only, int(now.timestamp()) // 60)
            if beside.asked != asking:
                beside.answers, beside.asked = gather_more(server.get, now, plan.window_s, only), asking
            answers |= beside.answers
        seen = view(answers, server.address, place.view, only)
        if plan.scope != "accelerator":
            seen = widened(seen, gather_scoped(server.get, seen, only, plan.scope), plan.scope)
        return replace(seen, rows=ranked(seen.rows, place.sort, reverse=place.reverse))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failure(f"{server.address} answers, but not as a Wattmill service does ({error!r})") from None


def run(plan: Plan, server: Server, out: TextIO, wait: Wait | None = None) -> int:
    """Show until someone wants to leave; in a pipe, until `wait` says so. Errors: Failure if the first look fails."""
    console = _console(out)
    seen = look(plan, plan.place, server)
    if plan.once or plan.json or not console.is_terminal:
        return _plain(plan, server, console, seen, wait or _sleep)
    with listening(sys.stdin) as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        return _watch(plan, Looks(plan, server, keys), keys, live, seen)


class Looks:
    """Asks the service in a thread of its own, one question at a time; `keys` wakes up when there is an answer."""

    def __init__(self, plan: Plan, server: Server, keys: Keys) -> None:
        self._plan, self._server, self._keys = plan, server, keys
        self._answers: queue.SimpleQueue[View | Exception] = queue.SimpleQueue()
        self._beside = Beside()
        self.under_way = False

    def ask(self, place: Place) -> None:
        """Does nothing while a question is under way."""
        if not self.under_way:
            self.under_way = True
            # A daemon: whoever leaves does not wait for a service that does not answer.
            threading.Thread(target=self._look, args=(place,), name="look", daemon=True).start()

    def _look(self, place: Place) -> None:
        try:
            answer: View | Exception = look(self._plan, place, self._server, self._beside)
        except Exception as error:  # raised where the screen is
            answer = error
        self._answers.put(answer)
        self._keys.wake()

    def answer(self) -> View | None:
        """The answer, if there is one. Errors: Failure, and whatever else went wrong."""
        try:
            found = self._answers.get_nowait()
        except queue.Empty:
            return None
        self.under_way = False
        if isinstance(found, Exception):
            raise found
        return found


def _watch(plan: Plan, looks: Looks, keys: Keys, live: Live, seen: View) -> int:
    place, note, due_s = plan.place, "", time.monotonic() + plan.interval_s
    while True:
        width, height = live.console.size
        live.update(picture(seen, place, width=width, height=height, note=note), refresh=True)
        for event in keys.wait(None if looks.under_way else due_s - time.monotonic()) or ["space"]:
            if event == GONE:
                return DONE
            if event == WOKEN:
                try:
                    found = looks.answer()
                except Failure as failure:  # what was seen last stays, and its time beside it
                    note = str(failure)
                else:
                    # An answer to a question that nobody asks any more is none.
                    if found is not None and (found.view, found.only) == place.question:
                        seen, note = found, ""
                due_s = time.monotonic() + plan.interval_s
            elif event == "space":
                looks.ask(place)
            else:
                led = pressed(place, event, seen)
                if led is None:
                    return DONE
                place = led
        place = replace(place, chosen=max(0, min(place.chosen, len(lines_of(place, seen)) - 1)))
        if (seen.view, seen.only) != place.question and not note:
            looks.ask(place)


def _plain(plan: Plan, server: Server, console: Console, seen: View, wait: Wait) -> int:
    beside = Beside()
    while True:
        if plan.json:
            console.file.write(to_json(seen.document(), indent=2 if plan.once else None) + "\n")
        else:
            console.print(picture(seen, plan.place, width=console.width))
        console.file.flush()
        while True:
            if plan.once or wait(plan.interval_s):
                return DONE
            try:
                seen = look(plan, plan.place, server, beside)
                break
            except Failure as failure:
                say("top", failure)


def _console(out: TextIO) -> Console:
    width = None if out.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    # None: as rich finds it.
    terminal = False if os.environ.get("TERM", "").lower() in _BLIND else None
    return Console(file=out, width=width, force_terminal=terminal, highlight=False, markup=False, emoji=False)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
