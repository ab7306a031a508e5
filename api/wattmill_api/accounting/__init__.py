"""Closes minutes: samples -> increments -> minute parts -> accounts -> ledger rows.

Every run recomputes whole minutes from raw samples and replaces their rows, so it may run twice, late, or in any
order and end with the same ledger. What a run rewrites is what the new samples touched: from the sample before the
first of them to the sample after the last. Nothing here reads a clock.

The steps, each a kernel of `wattmill_analytics`:
  1. `energy_increments`: exact differences of each board's counter inside an epoch, with a status per interval;
  2. `spread`: intervals cut at minute borders (normally none is: every minute border is a tick);
  3. `attribute`: each part's energy goes to an account, split between the engines that held the board;
  4. `increments` of each engine's token counters, spread and divided over the boards of its placement;
  5. sums by (minute, board, placement, account).
Latency histograms go the same way bucket by bucket, onto minutes of their own; so do power meters and the consumers of
gateways, which are no part of the ledger.
"""

from __future__ import annotations

from wattmill_api.accounting.boards import board_intervals, ledger
from wattmill_api.accounting.engines import engine_intervals, engine_minutes, with_late_counters
from wattmill_api.accounting.gateways import close_gateways
from wattmill_api.accounting.host import host_minutes
from wattmill_api.accounting.latency import close_latencies
from wattmill_api.accounting.meters import close_meters
from wattmill_api.accounting.windows import HOUR_US, MINUTE_US, Window, extended, read, widened, windows_of
from wattmill_api.store import meters, rollup
from wattmill_api.store.database import Connection

__all__ = ["Window", "close_window", "make_days_whole", "roll_up", "windows_of"]


def roll_up(connection: Connection, *, most_spans: int = 20_000, most_windows: int = 8) -> int:
    """Close what ingest touched, in one transaction; returns how many windows were closed (0: nothing waits).

    What was taken and not closed is put back in the same transaction, so a crash loses no mark. A window that can't be
    closed does not hold up the others: it is put back too, and its error is raised once the rest is committed.
    """
    errors: list[Exception] = []
    with connection.transaction():
        windows = windows_of(rollup.take_dirty(connection, most_spans))
        rest = windows[most_windows:]
        for window in windows[:most_windows]:
            try:
                with connection.transaction():
                    close_window(connection, window)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                errors.append(error)
                rest.append(window)
        spans = [(node_id, w.first_us + 1, w.last_us) for w in rest for node_id in w.node_ids]
        if spans:
            rollup.put_back_dirty(connection, spans)
    if errors:
        raise errors[0]
    return min(len(windows), most_windows)


def close_window(connection: Connection, window: Window) -> None:
    """Recompute the minutes of a window, and of what its first and last samples reach into."""
    for part in widened(connection, window):
        fleet = rollup.read_fleet(connection, part.node_ids)
        boards = board_intervals(read(connection, "accelerator", fleet, part), fleet)
        back_us = boards.reaches_back_to_us(part) // MINUTE_US * MINUTE_US
        if back_us < part.first_us:
            part = extended(connection, fleet, part, back_us)
            boards = board_intervals(read(connection, "accelerator", fleet, part), fleet)
        samples = with_late_counters(connection, read(connection, "engine", fleet, part))
        engines = engine_intervals(samples, fleet)
        tables = [*ledger(boards, engines, fleet, part), engine_minutes(engines, fleet, part)]
        host, chassis = host_minutes(connection, fleet, part, tables)
        tables += host
        rollup.replace_minutes(connection, part.node_ids, part.first_us, part.last_us, tables)
        first, last = part.first_us // HOUR_US * HOUR_US, -(-part.last_us // HOUR_US) * HOUR_US
        rollup.sum_hours(connection, part.node_ids, first, last)
        close_latencies(connection, fleet, part)
        close_gateways(connection, fleet, part)
        close_meters(connection, part, chassis)


def make_days_whole(connection: Connection, first_us: int, last_us: int) -> None:
    """Recompute days from their hours: a leader of a version before, while replicas are replaced, writes hours only."""
    with connection.transaction():
        rollup.sum_days(connection, rollup.nodes_of_days(connection, first_us, last_us), first_us, last_us)
        meters.sum_days(connection, meters.meters_of_days(connection, first_us, last_us), first_us, last_us)
