"""Under which epoch the counters of a page stand: which process of the engine counted them, and since when.

Best first: the process start on the page; the header `Process-Start-Time-Unix`, dated by the kernel where the process
is a local one; the local process that listens at the target; otherwise none (epoch 0). All of them stay the same when
the agent restarts.
"""

from __future__ import annotations

import hashlib

from wattmill_collector.placement.process import Process, Processes
from wattmill_collector.sources.engine_target import Evidence, Target
from wattmill_collector.sources.promtext import ParseError, number
from wattmill_collector.sources.scraper import Answer
from wattmill_collector.wire import EARLIEST_US, LATEST_US

PROCESS_START_HEADER = b"process-start-time-unix"


def evidence_of(target: Target, answer: Answer, began_us: int, processes: Processes) -> Evidence | None:
    """The evidence of an answer that was asked for at `began_us`.

    None: the process that answered is not the one that listens now, so its counters can't be dated.
    """
    name, listener = target.settings.target, target.listener
    printed = target.page.process_start
    start_us = _start_us(printed)
    # llama.cpp calls it a Unix time, but it is its host's monotonic clock in microseconds (seen on build 11669): it
    # tells starts apart and does not date them
    header = b"" if start_us is not None else answer.headers.get(PROCESS_START_HEADER, b"")
    proof = (printed, None) if start_us is not None else (header, listener)
    if target.evidence is not None and proof == target.proof:
        return target.evidence
    if start_us is not None:
        evidence = Evidence(_hash(name, "page", printed), start_us)
    elif header or listener is not None:
        process_us = None if listener is None else processes.start_us(listener)
        if process_us is not None and process_us > began_us:
            target.listener = None
            return None
        evidence = Evidence(
            _hash(name, "header", header) if header else _process_epoch(name, listener, processes), process_us
        )
    else:
        evidence = Evidence()
    target.proof = proof
    return evidence


def _process_epoch(name: str, listener: Process | None, processes: Processes) -> int:
    if listener is None:
        return 0
    return _hash(name, "process", processes.boot_id, listener.pid, listener.start_ticks)


def _start_us(text: bytes) -> int | None:
    """A printed Unix time in microseconds. None when it was rounded to too few digits to tell two starts apart."""
    digits = text.lower().partition(b"e")[0].replace(b".", b"").strip(b"+-")
    if len(digits) < 10:
        return None
    try:
        start_us = round(number(text) * 1_000_000)
    except (ParseError, OverflowError, ValueError):
        return None
    return start_us if EARLIEST_US <= start_us <= LATEST_US else None


def _hash(*evidence: str | bytes | int) -> int:
    """8 bytes of BLAKE2b as a signed integer, never 0: that means no evidence."""
    texts = (e if isinstance(e, bytes) else str(e).encode("utf-8", "replace") for e in evidence)
    return int.from_bytes(hashlib.blake2b(b"\n".join(texts), digest_size=8).digest(), "big", signed=True) or 1
