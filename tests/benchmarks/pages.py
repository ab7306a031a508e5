"""Times the reading of an engine's page: what one tick of one engine costs the agent.

    python tests/benchmarks/pages.py

A vLLM page of some 70 kB with all its histograms, warm: counters grow from tick to tick as they do in service, digits
come and go. Beside it, where it is installed, prometheus_client's own parser on the same page. The best of many, since
no machine is quiet.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from wattmill_collector.sources.engine_pages import EnginePage
from wattmill_collector.sources.engine_tables import named

GOLDEN = Path(__file__).parents[1] / "fixtures/metrics/vllm_full.prom"
TICKS, MINUTE_TICKS, HISTOGRAM_TICKS = 600, 60, 6
LINE = re.compile(rb"^(vllm:[a-z_0-9:]*(?:_bucket|_count|_sum|_total)\{[^}]*\} )([0-9.e+]+)$", re.MULTILINE)


def pages() -> list[bytes]:
    """A page of 70 kB at each of many ticks."""
    draw = random.Random(1)
    page = GOLDEN.read_bytes()
    more = [line for line in page.splitlines() if b"_bucket{" in line]
    at = 0
    while len(page) < 70_000:
        page += b"vllm:nixl_" + more[at % len(more)].removeprefix(b"vllm:") + b"\n"
        at += 1

    def grow(match: re.Match[bytes]) -> bytes:
        return match[1] + repr(float(match[2]) + grown).encode()

    found = []
    for tick in range(TICKS):
        grown = float(tick * 37 + draw.randrange(9))
        found.append(LINE.sub(grow, page))
    return found


def times_us(action: Callable[[bytes], object], over: list[bytes]) -> tuple[float, float, float]:
    """The least, the median and the mean of the times that an action takes for each page, in microseconds."""
    times = []
    for page in over:
        begun = time.perf_counter_ns()
        action(page)
        times.append(time.perf_counter_ns() - begun)
    times.sort()
    return times[0] / 1000, times[len(times) // 2] / 1000, sum(times) / len(times) / 1000


def main() -> None:
    over = pages()
    reader = EnginePage(named("vllm"))

    def tick(page: bytes) -> object:
        reader.scan(page, with_histograms=False)
        return reader.values(1)

    def tick_with_histograms(page: bytes) -> object:
        reader.scan(page)
        return reader.values(1)

    tick_with_histograms(over[0])
    lean = times_us(tick, over)
    full = times_us(tick_with_histograms, over)
    lean_ticks = MINUTE_TICKS - HISTOGRAM_TICKS
    minute = tuple((HISTOGRAM_TICKS * f + lean_ticks * x) / MINUTE_TICKS for x, f in zip(lean, full, strict=True))
    say = sys.stdout.write
    say(f"a page of {len(over[0]) / 1000:.1f} kB, {len(over)} ticks; us a tick: best, median, mean\n")
    say("counters and gauges        {:8.0f} {:8.0f} {:8.0f}\n".format(*lean))
    say("and four histograms        {:8.0f} {:8.0f} {:8.0f}\n".format(*full))
    say("average of a minute of 1 s {:8.0f} {:8.0f} {:8.0f}\n".format(*minute))
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        return
    theirs = times_us(lambda page: list(text_string_to_metric_families(page.decode())), over[:40])
    say("prometheus_client's parser {:8.0f} {:8.0f} {:8.0f}\n".format(*theirs))


if __name__ == "__main__":
    main()
