"""`wattmill top`: the live view of a service in a terminal, or its figures once, as text or JSON."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.live import Live

from wattmill_api.terminal.client import DONE, FAILED, Failure, Server
from wattmill_api.terminal.options import Options, duration_s, one_of, printing, say
from wattmill_api.terminal.screen import picture
from wattmill_api.terminal.text import to_json
from wattmill_api.terminal.view import SORTS, View, gather, view

PLAIN_WIDTH = 160
_SEQUENCE = re.compile(rb"\x1b(?:[\[O][0-9;]*)?.")  # what an arrow or a function key sends
Wait = Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for, checked."""

    interval_s: int
    window_s: int
    sort: str
    once: bool
    json: bool


def main(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """0: shown, or left with q or Ctrl-C; 1: the service is away; 2: it can't be used like this."""
    options = Options("top", "Watch tokens per kWh live; q leaves.", os.environ if environ is None else environ)
    options.option("interval", "time between two looks (default 5s)", "5s")
    options.option("window", "how far back the figures reach (default 15m)", "15m")
    options.option("sort", f"order of the workloads: {', '.join(SORTS)} (default waste)", "waste")
    options.switch("once", "show it once and end")
    options.switch("json", "JSON, one document a line; with --once a single one")
    given = options.parser.parse_args(argv)
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
        sort=one_of(given.sort, "sort", SORTS),
        once=given.once,
        json=given.json,
    )


def look(plan: Plan, server: Server) -> View:
    """The figures as they are now. Errors: Failure."""
    # The first answer tells the time of the service, which the window must end at.
    sites = server.get("/sites")
    try:
        answers = gather(server.get, server.now(), plan.window_s) | {"sites": sites}
        return view(answers, server.address, plan.sort)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failure(f"{server.address} answers, but not as a Wattmill service does ({error!r})") from None


def run(plan: Plan, server: Server, out: TextIO, wait: Wait | None = None) -> int:
    """Show until `wait` says that someone wants to leave. Errors: Failure if the first look fails."""
    console = _console(out)
    seen = look(plan, server)
    if plan.once or plan.json or not _live(console):
        return _plain(plan, server, console, seen, wait or _sleep)
    with _keys(sys.stdin) as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        note = ""
        while True:
            live.update(picture(seen, height=console.height, note=note), refresh=True)
            if (wait or pressed)(plan.interval_s):
                return DONE
            try:
                seen, note = look(plan, server), ""
            except Failure as failure:  # what was seen last stays, and its time beside it
                note = str(failure)


def _plain(plan: Plan, server: Server, console: Console, seen: View, wait: Wait) -> int:
    while True:
        if plan.json:
            console.file.write(to_json(seen.document(), indent=2 if plan.once else None) + "\n")
        else:
            console.print(picture(seen))
        console.file.flush()
        while True:
            if plan.once or wait(plan.interval_s):
                return DONE
            try:
                seen = look(plan, server)
                break
            except Failure as failure:
                say("top", failure)


def _console(out: TextIO) -> Console:
    width = None if out.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(file=out, width=width, highlight=False, markup=False, emoji=False)


def _live(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextlib.contextmanager
def _keys(source: TextIO) -> Iterator[Wait]:
    """A wait that q ends. The terminal is left as it was, also when the process is asked to stop."""
    if not source.isatty():
        yield _sleep
        return
    descriptor = source.fileno()
    before = termios.tcgetattr(descriptor)
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def pressed(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0]:
                typed = os.read(descriptor, 64)
                if not typed or b"q" in _SEQUENCE.sub(b"", typed).lower():
                    return True
        return False

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, former)
