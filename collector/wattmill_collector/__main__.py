"""`wattmill agent`: reads this host's power and token counters every tick, keeps them on disk, ships them.

The composition root: everything the agent consists of is made here, in order, and handed what it needs.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from wattmill_collector import __version__, log
from wattmill_collector.agent import Agent
from wattmill_collector.clock import SystemClock, boot_id
from wattmill_collector.health import Health
from wattmill_collector.lineup import PATIENCE_US, line_up
from wattmill_collector.listener import Listener
from wattmill_collector.log import LOG, Throttle
from wattmill_collector.settings import MINUTE_US, Settings, SettingsError, load
from wattmill_collector.shipper import HttpTransport, KeySource, Shipper
from wattmill_collector.spool import Spool
from wattmill_collector.systemd import Notifier
from wattmill_collector.wire import NodeHeader, encode_reading

WRONG_USE = 2
BROKE = 70  # EX_SOFTWARE: the tick itself failed, which is a bug
LAST_TICK_S = 2.0
LAST_POST_S = 2.0


def main(argv: Sequence[str]) -> int:
    """Run the agent until SIGTERM or SIGINT; with --once print one tick's readings. Returns the exit status."""
    arguments = parse_arguments(argv)
    log.set_up()
    options = {
        key: getattr(arguments, key) for key in ("server", "node", "interval", "listen") if getattr(arguments, key)
    }
    options |= {"listen": ""} if arguments.listen == "" else {}
    options |= {"spool.path": arguments.spool} if arguments.spool else {}
    try:
        settings = load(os.environ, options, config=arguments.config)
        for warning in settings.warnings:
            LOG.warning("%s", warning)
        return once(settings) if arguments.once else run(settings)
    except (SettingsError, ValueError) as error:
        LOG.error("%s", error)
        return WRONG_USE


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; every option also has a variable WATTMILL_<OPTION>."""
    parser = argparse.ArgumentParser(
        "wattmill agent", description="Read this host's power and token counters and ship them."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML settings (default: /etc/wattmill/agent.yaml)")
    parser.add_argument("--once", action="store_true", help="print one tick's readings as JSON lines and exit")
    parser.add_argument("--server", metavar="URL", help="the service, such as http://wattmill:8080")
    parser.add_argument("--node", metavar="NAME", help="name of this node (default: its hostname)")
    parser.add_argument("--interval", metavar="TIME", help="time between ticks, such as 10s; divides a minute")
    parser.add_argument("--spool", metavar="DIR", help="where batches wait until the service has them")
    parser.add_argument("--listen", metavar="HOST:PORT", help="own /metrics and /healthz; '' switches them off")
    return parser.parse_args(argv)


def once(settings: Settings) -> int:
    """Print one tick's readings; needs neither spool nor service."""
    clock = SystemClock()
    readers = line_up(settings, clock, Throttle(clock), patience_us=PATIENCE_US)
    time_us = clock.wall_us()
    readings = {reader.name: reader.read(time_us) for reader in readers}
    if settings.discover:  # an engine is found by one read and read by the next
        edge_us = time_us - time_us % MINUTE_US  # at a minute's edge every absence is said, new or not
        readings |= {reader.name: reader.read(edge_us) for reader in readers if reader.name == "engine"}
    for reader in readers:
        for reading in readings[reader.name]:
            sys.stdout.write(json.dumps(encode_reading(reading), ensure_ascii=False) + "\n")
        reader.close()
    return 0


def run(settings: Settings, until: Callable[[], object] | None = None) -> int:
    """Run the agent until `until` returns, by default until SIGTERM or SIGINT."""
    until = until or hold_signals()
    LOG.info("Wattmill agent %s: %s", __version__, settings.described())
    clock = SystemClock()
    throttle = Throttle(clock)
    node = node_of(settings)
    readers = line_up(settings, clock, throttle)
    limits = settings.spool
    spool = Spool.open(limits.path, clock=clock, max_bytes=limits.max_bytes, max_age_us=limits.max_age_us)
    shipper = shipper_of(settings, spool, clock)
    notifier = Notifier(os.environ)
    agent = Agent(readers, spool, clock, node, throttle, after_tick=notifier.alive)
    health = Health(agent, spool, shipper, clock, node, settings.warnings)
    listener = listen(settings.listen, health)

    stop_ticks, stop_shipping = threading.Event(), threading.Event()
    failures: list[BaseException] = []
    ticking = threading.Thread(target=tick_until, args=(agent, stop_ticks, failures), name="tick", daemon=True)
    watching = threading.Thread(target=agent.watch, args=(stop_ticks, os._exit), name="watchdog", daemon=True)
    shipping = threading.Thread(target=ship_until, args=(shipper, stop_shipping), name="shipper", daemon=True)
    for thread in (ticking, watching, shipping):
        thread.start()
    notifier.ready(f"reading every {settings.interval_us / 1_000_000:g} s")

    until()
    LOG.info("Stopping: one last tick, then what waits is sent.")
    notifier.stopping()
    stop_ticks.set()
    ticking.join(LAST_TICK_S)
    stop_shipping.set()
    if shipper is not None:
        shipper.wake()
    shipping.join(LAST_POST_S)
    if listener is not None:
        listener.close()
    if not ticking.is_alive():
        for reader in readers:
            reader.close()
    spool.close()
    notifier.close()
    waiting = spool.stats().pending_batches
    LOG.info("Stopped. %d batches wait in the spool%s.", waiting, " and are sent at the next start" if waiting else "")
    return BROKE if failures else 0


def node_of(settings: Settings) -> NodeHeader:
    """Who reads; travels with every batch."""
    return NodeHeader(
        name=settings.node,
        site=settings.site,
        interval_us=settings.interval_us,
        labels=settings.labels,
        boot_id=boot_id(),
        agent_version=__version__,
    )


def shipper_of(settings: Settings, spool: Spool, clock: SystemClock) -> Shipper | None:
    """The shipper, where there is a service to ship to."""
    if not settings.server:
        LOG.warning("No server is set: readings stay in the spool, within its limits.")
        return None
    key = KeySource(settings.key_file, settings.key)
    agent_name = f"wattmill-agent/{__version__}"
    transport = HttpTransport(settings.server)
    return Shipper(spool, transport, clock, key=key, interval_us=settings.interval_us, user_agent=agent_name)


def listen(address: str, health: Health) -> Listener | None:
    """The agent's own pages; without them the agent goes on."""
    if not address:
        return None
    try:
        listener = Listener(address, health.answer)
    except OSError as error:
        LOG.warning("Own /metrics and /healthz are off: can't listen on %s: %s.", address, error.strerror or error)
        return None
    listener.start()
    return listener


def tick_until(agent: Agent, stop: threading.Event, failures: list[BaseException]) -> None:
    """Tick until told to stop, then once more, so that little is lost between this agent and the next."""
    try:
        for reader in agent.readers:
            reader.open()
        settle_memory()
        agent.run(stop)
        agent.last_tick()
    except BaseException as error:
        LOG.exception("The tick failed; the agent ends so that a fresh process starts.")
        failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)


def settle_memory() -> None:
    """Once all is loaded: what is alive stays and need not be looked at again; what loading left over goes back.

    Importing a module that is not compiled yet leaves megabytes with the C library, which keeps them unless asked.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not need it
    if trim is not None:
        trim(0)


def ship_until(shipper: Shipper | None, stop: threading.Event) -> None:
    """Ship until told to stop, then what still waits, as far as the time goes."""
    if shipper is not None:
        shipper.run(stop)
        shipper.drain(int(LAST_POST_S * 1_000_000))


def hold_signals() -> Callable[[], object]:
    """Block the signals that end the agent, in this thread and those it starts; returns what waits for one of them.

    No handler runs in the middle of anything, and a thread stuck in the driver can't keep a signal from being seen.
    """
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    return lambda: signal.sigwait(ends)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
