"""`wattmill simulate`: a simulated fleet through the real wire.

At speed 1 the fleet lives in real time until it is stopped, after catching up the past of `--backfill`. At any other
speed a span of `--duration` that ends now (or begins at `--start`) is produced at up to that many times real time.
Every option may also be given as an environment variable, `WATTMILL_<OPTION>`.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from wattmill_api.progress import Bar
from wattmill_api.simulator.delivery import Counts, Delivery, DeliveryError, HttpPost
from wattmill_api.simulator.fleet import Fleet, total_ticks
from wattmill_api.simulator.scenario import DEFAULT, Options, ScenarioError, duration_us, parse_scenario
from wattmill_api.simulator.truth import write_atomically

MINUTE_US = 60_000_000
STOP_WITHIN_S = 6.0
STATE_VERSION = 1
Number = TypeVar("Number", int, float)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Everything the command was asked for, checked."""

    options: Options
    speed: float
    realtime: bool
    give_up_s: float
    posters: int
    server: str
    key: str | None
    truth: Path | None
    state: Path | None
    written: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """Wall time in microseconds, and a wait that ends early when the run is stopped."""

    now_us: Callable[[], int]
    wait: Callable[[float], object]


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """0: done or stopped with everything acknowledged; 1: the service refused or was away; 2: bad options."""
    stop = threading.Event()
    clock = Clock(lambda: time.time_ns() // 1000, stop.wait)
    try:
        plan = read_plan(argv, os.environ if environ is None else environ, clock.now_us())
    except (ScenarioError, OSError) as error:
        sys.stderr.write(f"wattmill simulate: {error}\n")
        return 2
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    posts: list[HttpPost] = []
    try:
        posts.extend(HttpPost(plan.server, plan.key) for _ in range(plan.posters))
        run(plan, Fleet(plan.options), Delivery(posts, give_up_s=plan.give_up_s), clock, stop, sys.stderr)
    except (ScenarioError, DeliveryError, OSError) as error:
        sys.stderr.write(f"wattmill simulate: {error}\n")
        return 1
    finally:
        for post in posts:
            post.close()
    return 0


def run(plan: Plan, fleet: Fleet, delivery: Delivery, clock: Clock, stop: threading.Event, out: TextIO) -> None:
    """Send the run, tick by tick, and write the truth however it ends.

    Errors: DeliveryError when the service refuses or is away for too long.
    """
    begun_us = clock.now_us()
    progress = Progress(plan, out, begun_us, clock)
    acknowledged = False

    def due(tick_us: int) -> bool:
        if not _wait(plan, tick_us, begun_us, clock, delivery, stop):
            return False
        if plan.state is not None:
            # Before the first line of a tick is sent: what may be stored must never be simulated twice.
            write_atomically(plan.state, _state(plan.options, tick_us))
        progress.show(tick_us)
        return True

    try:
        for emission in fleet.emissions(due):
            delivery.put(emission)
        delivery.close(STOP_WITHIN_S if stop.is_set() else None)
        acknowledged = True
    finally:
        progress.end()
        if plan.truth is not None:
            counts = delivery.counts()
            document = fleet.truth(plan.written)
            document |= {"acknowledged": acknowledged, "acknowledged_lines": counts.lines}
            write_atomically(plan.truth, document)
    if acknowledged:
        out.write(summary(plan, delivery.counts(), (clock.now_us() - begun_us) / 1e6) + "\n")


def _wait(plan: Plan, due_us: int, begun_us: int, clock: Clock, delivery: Delivery, stop: threading.Event) -> bool:
    """Wait until a tick is due; False when the run was stopped meanwhile."""
    at_us = due_us if plan.realtime else begun_us + int((due_us - plan.options.start_us) / plan.speed)
    remaining_us = at_us - clock.now_us()
    if remaining_us > 0:
        delivery.flush()
    while remaining_us > 0 and not stop.is_set():
        clock.wait(min(remaining_us / 1e6, 1.0))
        remaining_us = at_us - clock.now_us()
    return not stop.is_set()


def summary(plan: Plan, counts: Counts, took_s: float) -> str:
    """One line for the end of a run."""
    return (
        f"simulated {plan.options.nodes} nodes x {plan.options.accelerators} accelerators (seed {plan.options.seed}): "
        f"{counts.lines:,} batches with {counts.readings:,} readings acknowledged in {counts.posts:,} posts, "
        f"{counts.duplicates:,} of them known already, {counts.retries:,} retries, "
        f"{took_s:.1f} s, {counts.readings / max(took_s, 1e-9):,.0f} readings/s"
    )


class Progress:
    """How far a run of known length is, or a backfill that has to catch up with the present; then it is silent."""

    def __init__(self, plan: Plan, out: TextIO, begun_us: int, clock: Clock) -> None:
        options = plan.options
        self.total = total_ticks(options)
        if plan.realtime:
            behind = (begun_us - options.start_us) // options.interval_us
            self.total = behind if behind > 1 else 0
        self.options = options
        self.bar = Bar(out, self.total, lambda: clock.now_us() / 1e6) if self.total else None

    def show(self, tick_us: int) -> None:
        """The run has come as far as this tick."""
        if self.bar is None or self.total is None:
            return
        done = (tick_us - self.options.start_us) // self.options.interval_us + 1
        if done > self.total:
            self.end()
            return
        self.bar.show(done, f"{datetime.datetime.fromtimestamp(tick_us / 1e6, datetime.UTC):%Y-%m-%d %H:%M}")

    def end(self) -> None:
        """Leave the terminal's line."""
        if self.bar is not None:
            self.bar.end()


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wattmill simulate", description=__doc__, allow_abbrev=False)

    def option(name: str, fallback: str | None, help_: str) -> None:
        variable = "WATTMILL_" + name.upper().replace("-", "_")
        parser.add_argument(f"--{name}", default=environ.get(variable, fallback), help=f"{help_} [{variable}]")

    option("nodes", None, "how many nodes")
    option("accelerators", "8", "accelerators of each node")
    option("seed", "1", "decides everything that is drawn by chance")
    option("speed", "1", "times real time; 1 lives on until stopped")
    option("duration", None, "how long, e.g. 24h (the default at any speed but 1)")
    option("start", None, "first tick, RFC 3339")
    option("interval", "10s", "time between ticks, a divisor of 60 s")
    option("scenario", None, "YAML file: workloads, nodes, incidents")
    option("truth", None, "where to write the integer ground truth (JSON)")
    option("server", None, "address of the service, e.g. http://localhost:8080")
    option("key", None, "key with the scope ingest")
    option("key-file", None, "file that holds the key")
    option("backfill", "0s", "at speed 1: first send this much of the past, as fast as possible")
    option("state", None, "at speed 1: remember here how far time went, so that the next start continues")
    option("give-up", "10m", "how long to keep trying while the service does not answer")
    option("posters", "3", "connections side by side")
    return parser


def read_plan(argv: Sequence[str] | None, environ: Mapping[str, str], now_us: int) -> Plan:
    """Check the options. Errors: ScenarioError, OSError."""
    args = _parser(environ).parse_args(argv)
    if args.nodes is None or args.server is None:
        raise ScenarioError("--nodes and --server are needed")
    interval_us = duration_us(args.interval, "--interval")
    if interval_us <= 0:
        raise ScenarioError("--interval must be at least 1 s")
    speed = _number(args.speed, "--speed", float)
    if not speed > 0:
        raise ScenarioError(f"--speed must be above 0, not {args.speed}")
    lasts_us = None if args.duration is None else duration_us(args.duration, "--duration")
    # A span that is given a beginning is produced as such at any speed, paced against the start of the command.
    realtime = speed == 1 and args.start is None
    if not realtime and lasts_us is None:
        lasts_us = 24 * 60 * MINUTE_US
    scenario = DEFAULT
    if args.scenario is not None:
        scenario = parse_scenario(Path(args.scenario).read_text(encoding="utf-8"), args.scenario)
    options = Options(
        nodes=_number(args.nodes, "--nodes", int),
        accelerators=_number(args.accelerators, "--accelerators", int),
        seed=_number(args.seed, "--seed", int),
        start_us=0,
        interval_us=interval_us,
        duration_us=lasts_us,
        scenario=scenario,
    )
    state = Path(args.state) if args.state is not None and realtime else None
    if realtime:
        options = _start_now(options, duration_us(args.backfill, "--backfill"), state, now_us)
    else:
        options = dataclasses.replace(options, start_us=_span_start(args.start, options, now_us))
    key = args.key
    if key is None and args.key_file is not None:
        key = Path(args.key_file).read_text(encoding="utf-8").strip()
    hidden = ("key", "key_file")
    return Plan(
        options=options,
        speed=speed,
        realtime=realtime,
        give_up_s=duration_us(args.give_up, "--give-up") / 1e6,
        posters=max(1, min(_number(args.posters, "--posters", int), 16, options.nodes)),
        server=args.server,
        key=key,
        truth=Path(args.truth) if args.truth is not None else None,
        state=state,
        written={name: value for name, value in vars(args).items() if name not in hidden and value is not None},
    )


def _number(text: str, name: str, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(text)
    except ValueError as error:
        raise ScenarioError(f"{name} must be a number, not {text!r}") from error


def _span_start(written: str | None, options: Options, now_us: int) -> int:
    """The first tick of a span: as written, or so that the span ends at the last full minute."""
    if written is None:
        return (now_us - (options.duration_us or 0)) // MINUTE_US * MINUTE_US
    try:
        moment = datetime.datetime.fromisoformat(written)
    except ValueError as error:
        raise ScenarioError(f"--start must be a time such as 2026-01-31T08:00:00Z, not {written!r}") from error
    if moment.tzinfo is None:
        raise ScenarioError(f"--start needs a time zone, such as the Z in {written}Z")
    start_us = int(moment.timestamp()) * 1_000_000
    if start_us + (options.duration_us or 0) > now_us:
        raise ScenarioError("--start and --duration reach into the future; readings must not come from there")
    return start_us // options.interval_us * options.interval_us


def _start_now(options: Options, backfill_us: int, state: Path | None, now_us: int) -> Options:
    """The first tick in real time: so far back as asked, but never where an earlier run has been."""
    step = options.interval_us
    start_us = (now_us - backfill_us + step - 1) // step * step
    known = _read_state(state) if state is not None else None
    if known is None:
        return dataclasses.replace(options, start_us=start_us)
    next_us = (known["last_time_us"] // step + 1) * step
    same_fleet = known["seed"] == options.seed and known["interval_us"] == step
    if next_us < start_us:
        # The gap stays a gap: counters of the new processes began after it.
        return dataclasses.replace(options, start_us=start_us, continued_nodes=0)
    continued = min(options.nodes, known["nodes"]) if same_fleet else 0
    return dataclasses.replace(options, start_us=next_us, continued_nodes=continued)


def _state(options: Options, tick_us: int) -> dict[str, int]:
    return {
        "version": STATE_VERSION,
        "last_time_us": tick_us,
        "nodes": options.nodes,
        "seed": options.seed,
        "interval_us": options.interval_us,
    }


def _read_state(path: Path) -> dict[str, int] | None:
    """What an earlier run left; None before the first. Errors: ScenarioError when the file can't be understood."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ScenarioError(f"--state {path} is damaged; delete it to begin anew") from error
    if not isinstance(known, dict) or known.get("version") != STATE_VERSION:
        raise ScenarioError(f"--state {path} was written by another version; delete it to begin anew")
    return {name: int(value) for name, value in known.items()}
