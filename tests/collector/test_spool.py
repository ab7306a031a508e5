"""The spool under every fault of a disk that can be replayed: cuts, flips, full disks, lost power, kills, copies."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.batches import Ledger, acknowledge, encode, everything, number_of, waiting
from support.fake_clock import FakeClock
from support.faulty_disk import FaultyDisk
from wattmill_collector.spool import HOUR_US, Drop, NotTaken, Spool
from wattmill_collector.spool.segment import Record

PATH = Path("/spool")


def open_spool(disk: FaultyDisk, clock: FakeClock | None = None, *, max_bytes: int = 2 << 30, host: str = "a") -> Spool:
    return Spool.open(PATH, clock=clock or FakeClock(), disk=disk, host=host, max_bytes=max_bytes)


def segments(disk: FaultyDisk) -> list[Path]:
    return [path for path in disk.paths() if path.parent == PATH and path.suffix == ".segment"]


def reported(spool: Spool) -> list[tuple[int, int, str]]:
    """Append a batch and see which drops it had to report."""
    seen: list[tuple[int, int, str]] = []

    def line(stream: str, sequence: int, drops: Sequence[Drop]) -> bytes:
        seen.extend((d.first_sequence, d.last_sequence, d.reason) for d in drops)
        return encode(999_999)(stream, sequence, [])

    spool.append(line)
    return seen


# ---- taking, reading, releasing


def test_a_batch_is_taken_by_one_fsync_and_read_as_it_was_written() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    spool.append(encode(1))
    before = disk.calls["fsync"]
    assert spool.append(encode(2)) == 2
    assert disk.calls["fsync"] == before + 1
    (first, second) = everything(spool)
    assert second.line() == encode(2)(spool.stream, 2, [])
    assert (first.sequence, second.sequence) == (1, 2)


def test_acknowledgements_come_in_any_order() -> None:
    spool = open_spool(FaultyDisk())
    for number in range(1, 7):
        spool.append(encode(number))
    spool.acknowledge([(spool.stream, 5), (spool.stream, 2)])
    assert waiting(spool) == [1, 3, 4, 6]
    assert spool.acknowledged_through(spool.stream) == 0
    spool.acknowledge([(spool.stream, 1)])
    assert spool.acknowledged_through(spool.stream) == 2
    assert spool.stats().pending_batches == 3


def test_an_acknowledgement_of_what_was_never_written_changes_nothing() -> None:
    spool = open_spool(FaultyDisk())
    spool.append(encode(1))
    spool.acknowledge([(spool.stream, 99), ("f" * 32, 1)])
    assert waiting(spool) == [1]
    assert spool.append(encode(2)) == 2
    assert waiting(spool) == [1, 2]


def test_the_newest_are_read_without_the_backlog() -> None:
    spool = open_spool(FaultyDisk())
    for number in range(1, 50):
        spool.append(encode(number))
    newest = spool.read_newest(limit_bytes=1 << 20, limit_batches=3, limit_readings=100)
    assert [number_of(r) for r in newest] == [47, 48, 49]


def test_a_read_keeps_its_limits_but_always_moves() -> None:
    spool = open_spool(FaultyDisk())
    for number in range(1, 10):
        spool.append(encode(number, padding=1000), readings=10)
    assert len(spool.read_oldest(limit_bytes=3500, limit_batches=99, limit_readings=999)) == 2
    assert len(spool.read_oldest(limit_bytes=1 << 20, limit_batches=99, limit_readings=45)) == 4
    assert len(spool.read_oldest(limit_bytes=1, limit_batches=1, limit_readings=1)) == 1


def test_an_encoder_that_fails_uses_no_sequence() -> None:
    spool = open_spool(FaultyDisk())

    def broken(stream: str, sequence: int, drops: Sequence[Drop]) -> bytes:
        raise ValueError("NaN")

    with pytest.raises(ValueError, match="NaN"):
        spool.append(broken)
    assert spool.append(encode(1)) == 1


def test_after_a_restart_the_stream_goes_on() -> None:
    disk = FaultyDisk()
    first = open_spool(disk)
    for number in range(1, 6):
        first.append(encode(number))
    first.acknowledge([(first.stream, 1), (first.stream, 2)])
    first.close()
    second = open_spool(disk)
    assert second.stream == first.stream
    assert waiting(second) == [3, 4, 5]
    assert second.append(encode(6)) == 6
    assert len(segments(disk)) == 1


def test_records_of_many_segments_are_found_after_a_restart() -> None:
    disk = FaultyDisk()
    first = open_spool(disk, max_bytes=1 << 20)
    for number in range(1, 101):
        first.append(encode(number, padding=2000))
    assert len(segments(disk)) > 10
    second = open_spool(disk, max_bytes=1 << 20)
    assert waiting(second) == list(range(1, 101))
    assert second.stats().pending_batches == 100


# ---- damage


def test_the_last_record_cut_at_every_byte_costs_only_itself() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    for number in range(1, 4):
        spool.append(encode(number))
    (path,) = segments(disk)
    kept = len(disk.content(path))
    spool.append(encode(4))
    whole = disk.content(path)
    for size in range(kept, len(whole)):
        disk.put(path, whole[:size])
        again = open_spool(disk)
        assert waiting(again) == [1, 2, 3], size
        sequence = again.append(encode(5))
        assert sequence == (4 if size == kept else 5), "a number that may have been used is not used again"
        assert waiting(again) == [1, 2, 3, 5]
        for extra in segments(disk)[1:]:
            disk.forget(extra)
        disk.forget(PATH / "journal")


def test_any_flipped_byte_costs_at_most_its_own_record_and_the_loss_is_reported() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    for number in range(1, 6):
        spool.append(encode(number, padding=8))
    (path,) = segments(disk)
    whole = disk.content(path)
    names = {name: disk.content(name) for name in disk.paths()}
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0x41
        for name in disk.paths():
            disk.forget(name)
        for name, content in names.items():
            disk.put(name, content)
        disk.put(path, bytes(broken))
        again = open_spool(disk)
        found = waiting(again)
        lost = sorted({1, 2, 3, 4, 5} - set(found))
        assert len(lost) == 1, at
        assert reported(again) == [(lost[0], lost[0], "corrupt")], at
        assert again.stats().dropped == {"corrupt": 1}


def test_a_flip_in_an_old_segment_is_found_when_it_is_read() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk, max_bytes=1 << 20)
    for number in range(1, 31):
        spool.append(encode(number, padding=2000))
    path = segments(disk)[0]
    broken = bytearray(disk.content(path))
    broken[len(broken) // 2] ^= 1
    disk.put(path, bytes(broken))
    found = waiting(spool)
    assert len(found) == 29
    (lost,) = set(range(1, 31)) - set(found)
    assert reported(spool) == [(lost, lost, "corrupt")]


def test_a_segment_without_any_record_goes_to_quarantine_and_the_others_stay() -> None:
    disk = FaultyDisk()
    first = open_spool(disk, max_bytes=1 << 20)
    for number in range(1, 31):
        first.append(encode(number, padding=2000))
    second_path = segments(disk)[1]
    disk.put(second_path, bytes(len(disk.content(second_path))))
    disk.put(PATH / "nonsense.segment", b"?")
    spool = open_spool(disk, max_bytes=1 << 20)
    found = waiting(spool)
    lost = sorted(set(range(1, 31)) - set(found))
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert reported(spool) == [(lost[0], lost[-1], "corrupt")]
    assert {second_path.name, "nonsense.segment"} <= {p.name for p in disk.paths() if p.parent == PATH / "quarantine"}


def test_a_corrupt_range_is_settled_by_the_batch_that_reports_it() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    for number in range(1, 6):
        spool.append(encode(number))
    (path,) = segments(disk)
    broken = bytearray(disk.content(path))
    broken[len(broken) // 2] ^= 1
    disk.put(path, bytes(broken))
    spool = open_spool(disk)
    waiting(spool)
    sequence = spool.append(encode(6))
    assert spool.acknowledged_through(spool.stream) == 0
    acknowledge(spool, [r for r in everything(spool) if r.sequence != sequence])
    assert spool.acknowledged_through(spool.stream) == 2
    acknowledge(spool, everything(spool))
    assert spool.acknowledged_through(spool.stream) == 6
    spool.close()
    assert reported(open_spool(disk)) == []


# ---- the cursor is a hint


@pytest.mark.parametrize("cursor", [b"", b"\x00" * 50, b"00000000 {}\n", b"{}", bytes(range(191, 255)), None])
def test_without_a_cursor_batches_are_sent_again(cursor: bytes | None) -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    for number in range(1, 4):
        spool.append(encode(number))
    acknowledge(spool, everything(spool))
    spool.close()
    if cursor is None:
        disk.forget(PATH / "cursor")
    else:
        disk.put(PATH / "cursor", cursor)
    again = open_spool(disk)
    assert waiting(again) == [1, 2, 3]
    assert again.append(encode(4)) == 4


def test_a_cursor_older_than_the_data_sends_some_again() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    spool.append(encode(1))
    acknowledge(spool, everything(spool))
    spool.close()
    old = disk.content(PATH / "cursor")
    spool = open_spool(disk)
    spool.append(encode(2))
    acknowledge(spool, everything(spool))
    spool.close()
    disk.put(PATH / "cursor", old)
    assert waiting(open_spool(disk)) == [2]


def test_a_cursor_newer_than_the_data_starts_a_new_stream() -> None:
    """The data was restored from a copy: the numbers behind it are taken, by batches that the service has."""
    disk = FaultyDisk()
    spool = open_spool(disk)
    spool.append(encode(1))
    (path,) = segments(disk)
    old = disk.content(path)
    spool.append(encode(2))
    acknowledge(spool, everything(spool))
    spool.close()
    disk.put(path, old)
    again = open_spool(disk)
    assert again.stream != spool.stream
    again.append(encode(3))
    assert waiting(again) == [3]


def test_garbage_in_every_small_file_never_keeps_the_spool_from_starting() -> None:
    for name in ("identity", "cursor", "journal", "reserve"):
        for garbage in (b"", b"\xff" * 100, b"null", b'ffffffff {"entry":"drop"}\n'):
            disk = FaultyDisk()
            open_spool(disk).append(encode(1))
            disk.put(PATH / name, garbage)
            spool = open_spool(disk)
            spool.append(encode(2))
            assert waiting(spool) == [1, 2]


# ---- copies


def test_a_copied_directory_goes_on_in_a_stream_of_its_own() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    spool.append(encode(1))
    clone = open_spool(disk.copy(), host="b")
    ledger = Ledger()
    clone.append(encode(2))
    spool.append(encode(3))
    for one in (clone, spool, clone):
        for record in everything(one):
            assert ledger.store(record.line())["status"] != "conflict"
    assert sorted(ledger.numbers()) == [1, 2, 3]


def test_the_same_directory_on_another_host_starts_a_new_stream() -> None:
    disk = FaultyDisk()
    first = open_spool(disk, host="a")
    first.append(encode(1))
    second = open_spool(disk, host="b")
    assert second.stream != first.stream
    assert second.append(encode(2)) == 1
    assert waiting(second) == [1, 2]


def test_what_met_a_conflict_gets_a_number_in_a_new_stream() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    for number in range(1, 5):
        spool.append(encode(number))
    old = spool.stream
    records = everything(spool)
    spool.move_to_new_stream(records[2:])
    assert waiting(spool) == [1, 2, 3, 4]
    assert spool.stream != old
    assert [r.stream == old for r in everything(spool)] == [True, True, False, False]
    assert spool.append(encode(5)) == 3
    spool.close()
    again = open_spool(disk)
    assert waiting(again) == [1, 2, 3, 4, 5]
    assert again.append(encode(6)) == 4


def test_a_move_cut_short_by_a_crash_moves_nothing_twice() -> None:
    for surviving in range(4):
        disk = FaultyDisk()
        spool = open_spool(disk)
        for number in range(1, 4):
            spool.append(encode(number))
        spool.move_to_new_stream(everything(spool))
        path = segments(disk)[-1]
        whole = disk.content(path)
        ends = [whole.find(b"\xabWM\x01", at) for at in range(len(whole))]
        starts = sorted(set(ends) - {-1})
        disk.put(path, whole[: ([*starts, len(whole)])[surviving]])
        again = open_spool(disk)
        assert sorted(waiting(again)) == [1, 2, 3], surviving
        assert len({(r.stream, r.sequence) for r in everything(again)}) == 3
        again.append(encode(4))
        assert sorted(waiting(open_spool(disk))) == [1, 2, 3, 4], surviving


def test_a_moved_batch_does_not_account_for_other_numbers_of_its_new_stream() -> None:
    spool = open_spool(FaultyDisk())

    def line(stream: str, sequence: int, drops: Sequence[Drop]) -> bytes:
        absence: dict[str, object] = {"kind": "absence", "subject": "batch", "id": stream, "reason": "corrupt"}
        absence |= {"first_sequence": 7, "last_sequence": 9}
        return json.dumps({"stream": stream, "sequence": sequence, "readings": [absence]}).encode()

    spool.append(line)
    old = spool.stream
    spool.move_to_new_stream(everything(spool))
    (moved,) = everything(spool)
    (absence,) = json.loads(moved.line())["readings"]
    assert "first_sequence" not in absence
    assert f"7 to 9 of stream {old}" in absence["detail"]


# ---- caps


def test_over_max_bytes_the_oldest_go_and_are_reported() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk, max_bytes=256 << 10)
    for number in range(1, 201):
        spool.append(encode(number, padding=2000))
        assert spool.stats().size_bytes <= 256 << 10
    found = waiting(spool)
    assert found == list(range(found[0], 201))
    drops = reported(spool)
    assert spool.stats().dropped["dropped_max_bytes"] == found[0] - 1
    assert all(reason == "dropped_max_bytes" for *_, reason in drops)


def test_acknowledged_segments_go_first_and_are_no_loss() -> None:
    spool = open_spool(FaultyDisk(), max_bytes=256 << 10)
    for number in range(1, 301):
        spool.append(encode(number, padding=2000))
        if number > 20:
            spool.acknowledge([(spool.stream, number)])
    assert waiting(spool) == list(range(1, 21))
    assert spool.stats().dropped == {}


def test_a_drop_is_reported_even_when_a_crash_comes_before_the_report() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk, max_bytes=256 << 10)
    number = 0
    while not spool.stats().dropped:
        number += 1
        spool.append(encode(number, padding=2000))
    disk.lose_power()
    spool = open_spool(disk, max_bytes=256 << 10)
    first = waiting(spool)[0]
    assert reported(spool) == [(1, first - 1, "dropped_max_bytes")]


def test_old_batches_are_dropped_by_age_once_the_clock_is_trusted() -> None:
    clock = FakeClock()
    spool = open_spool(FaultyDisk(), clock)
    spool.append(encode(1))
    clock.advance(15 * 24 * HOUR_US)
    spool.append(encode(2))
    assert waiting(spool) == [2]
    assert reported(spool) == [(1, 1, "dropped_max_age")]


def test_a_wall_clock_set_to_a_wrong_date_empties_nothing() -> None:
    clock = FakeClock()
    spool = open_spool(FaultyDisk(), clock)
    clock.advance(2 * HOUR_US)
    spool.append(encode(1))
    clock.jump_wall(400 * 24 * HOUR_US)
    spool.append(encode(2))
    clock.advance(60_000_000)
    spool.append(encode(3))
    clock.jump_wall(-400 * 24 * HOUR_US)
    spool.append(encode(4))
    assert waiting(spool) == [1, 2, 3, 4]


def test_acknowledged_batches_are_kept_a_day_for_a_rewind() -> None:
    clock = FakeClock()
    disk = FaultyDisk()
    spool = open_spool(disk, clock)
    for number in range(1, 31):
        spool.append(encode(number))
        acknowledge(spool, everything(spool))
        clock.advance(HOUR_US + 1)
    assert spool.rewind(spool.stream, 20) == 10
    assert waiting(spool) == list(range(21, 31))
    acknowledge(spool, everything(spool))
    spool.rewind(spool.stream, 0)
    kept = waiting(spool)
    assert 23 <= len(kept) <= 27
    assert reported(spool) == [(1, kept[0] - 1, "not_kept")]
    assert spool.stats().rewinds == 2


def test_a_rewind_ahead_of_us_does_nothing() -> None:
    spool = open_spool(FaultyDisk())
    spool.append(encode(1))
    assert spool.rewind(spool.stream, 5) == 0
    assert spool.rewind("e" * 32, 0) == 0
    assert waiting(spool) == [1]


# ---- a disk in trouble


def test_a_failed_fsync_takes_nothing_and_the_next_append_goes_on() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    spool.append(encode(1))
    disk.fail("fsync", errno.EIO)
    with pytest.raises(NotTaken, match="Input/output error"):
        spool.append(encode(2))
    assert waiting(spool) == [1]
    assert reported(spool) == [(0, 0, "write_failed")]
    assert spool.stats().not_taken == {"write_failed": 1}
    disk.lose_power()
    again = open_spool(disk)
    assert waiting(again) == [1, 999_999]


def test_what_a_failed_fsync_left_behind_is_void() -> None:
    """Even when truncating failed too: the sequence now belongs to the batch in the next segment."""
    disk = FaultyDisk()
    spool = open_spool(disk)
    spool.append(encode(1))
    disk.fail("fsync", errno.EIO)
    disk.fail("truncate", errno.EIO)
    with pytest.raises(NotTaken):
        spool.append(encode(2))
    assert spool.append(encode(3)) == 2
    assert waiting(spool) == [1, 3]
    disk.kill()
    assert waiting(open_spool(disk)) == [1, 3]


def test_a_full_disk_refuses_then_recovers_and_says_how_much_was_not_taken() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    spool.append(encode(1))
    disk.capacity = disk.used() + 50
    for number in range(2, 5):
        with pytest.raises(NotTaken):
            spool.append(encode(number))
    assert spool.stats().disk_full
    disk.heal()
    counts: list[int] = []

    def line(stream: str, sequence: int, drops: Sequence[Drop]) -> bytes:
        counts.extend(d.count for d in drops if d.reason == "disk_full")
        return encode(5)(stream, sequence, [])

    assert spool.append(line) == 2
    assert counts == [3]
    assert not spool.stats().disk_full
    assert waiting(spool) == [1, 5]
    assert len(segments(disk)) == 1, "a full disk must not cost an inode per tick"


def test_the_reserve_is_spent_on_minute_boundaries_only() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    spool.append(encode(1))
    disk.capacity = disk.used() + 10
    with pytest.raises(NotTaken):
        spool.append(encode(2))
    spool.append(encode(3), boundary=True)
    with pytest.raises(NotTaken, match="only minute boundaries"):
        spool.append(encode(4))
    for number in range(5, 200):
        spool.append(encode(number, padding=1000), boundary=True)
    assert waiting(spool) == [1, 3, *range(5, 200)]
    disk.heal()
    spool.append(encode(200))
    assert PATH / "reserve" in disk.paths()


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES])
def test_a_directory_that_can_not_be_opened_heals_by_itself(number: int) -> None:
    disk = FaultyDisk()
    disk.fail("make_directory", *[number] * 3)
    spool = open_spool(disk)
    for _ in range(2):
        with pytest.raises(NotTaken, match="can't be opened"):
            spool.append(encode(1))
    assert spool.stats().last_error
    assert spool.append(encode(2)) == 1
    assert waiting(spool) == [2]


@pytest.mark.parametrize(
    "operation", ["open_append", "write", "fsync", "sync_directory", "close", "truncate", "replace"]
)
def test_every_operation_failing_once_loses_nothing_that_was_taken(operation: str) -> None:
    for skip in range(12):
        disk = FaultyDisk()
        disk.fail(operation, *([0] * skip + [errno.EIO]))
        spool = open_spool(disk)
        taken = []
        for number in range(1, 6):
            try:
                spool.append(encode(number))
            except NotTaken:
                continue
            taken.append(number)
        assert len(taken) >= 3
        assert waiting(spool) == taken
        disk.lose_power()
        assert waiting(open_spool(disk)) == taken


def test_a_segment_that_can_not_be_read_does_not_block_for_ever() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk, max_bytes=1 << 20)
    for number in range(1, 31):
        spool.append(encode(number, padding=2000))
    for _ in range(4):
        disk.fail("read", errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            everything(spool)
    disk.fail("read", errno.EIO)
    found = waiting(spool)
    assert found[-1] == 30
    assert found[0] > 1
    assert reported(spool) == [(1, found[0] - 1, "corrupt")]


# ---- quarantine


def test_a_quarantined_batch_is_out_of_the_queue_reported_and_kept_for_people(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, clock=FakeClock(), host="a")
    spool.append(encode(1))
    spool.append(encode(2))
    spool.quarantine(everything(spool)[0], "readings: too strange")
    assert waiting(spool) == [2]
    assert reported(spool) == [(1, 1, "quarantined")]
    (entry,) = [json.loads(line) for line in (tmp_path / "quarantine/rejected.ndjson").read_text().splitlines()]
    assert entry["reason"] == "readings: too strange"
    assert json.loads(entry["batch"])["readings"][0]["number"] == 1


def test_the_quarantine_is_bounded() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk, max_bytes=1 << 20)
    for number in range(1, 400):
        spool.append(encode(number, padding=500))
        spool.quarantine(everything(spool)[0], "no")
    kept = [len(disk.content(path)) for path in disk.paths() if path.parent == PATH / "quarantine"]
    assert len(kept) == 2
    assert sum(kept) <= 2 * (128 << 10)


def test_when_the_quarantine_can_not_be_written_the_batch_stays() -> None:
    disk = FaultyDisk()
    spool = open_spool(disk)
    spool.append(encode(1))
    (record,) = everything(spool)
    disk.fail("fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        spool.quarantine(record, "no")
    assert waiting(spool) == [1]


# ---- any sequence of faults


class Obligations(RuleBasedStateMachine):
    """Whatever happens: what was taken is with the service once, or in quarantine, or reported as dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.disk = FaultyDisk()
        self.ledger = Ledger()
        self.backups: list[dict[tuple[str, int], bytes]] = [{}]
        self.number = 0
        self.place: dict[int, tuple[str, int]] = {}
        self.quarantined: set[int] = set()
        self.released: set[int] = set()
        self.contested: set[tuple[str, int]] = set()
        self.reported: set[tuple[str, int]] = set()
        self.streams = 0

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.disk = FaultyDisk(seed)
        self.open()

    def open(self) -> None:
        self.spool = Spool.open(
            PATH, clock=self.clock, disk=self.disk, host="a", max_bytes=96 << 10, new_stream=self.new_stream
        )

    def new_stream(self) -> str:
        self.streams += 1
        return f"{self.streams:032x}"

    def take(self) -> None:
        self.number += 1
        number = self.number
        try:
            sequence = self.spool.append(encode(number, padding=5000))
        except NotTaken:
            return
        self.place[number] = (self.spool.stream, sequence)

    @rule(count=st.integers(1, 8))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(1_000_000)
            self.take()

    @rule(
        operation=st.sampled_from(["fsync", "write", "open_append", "sync_directory", "truncate", "replace", "remove"]),
        number=st.sampled_from([errno.EIO, errno.ENOSPC]),
        skip=st.integers(0, 3),
    )
    def append_in_trouble(self, operation: str, number: int, skip: int) -> None:
        self.disk.fail(operation, *([0] * skip + [number]))
        self.take()
        self.take()
        self.disk.heal()

    @rule()
    def append_to_a_full_disk(self) -> None:
        self.disk.capacity = self.disk.used() + 700
        self.take()
        self.disk.heal()

    def read(self, *, newest: bool, count: int) -> list[Record]:
        read = self.spool.read_newest if newest else self.spool.read_oldest
        return read(limit_bytes=1 << 20, limit_batches=count, limit_readings=1 << 20)

    @rule(newest=st.booleans(), count=st.integers(1, 9), answered=st.booleans())
    def ship(self, newest: bool, count: int, answered: bool) -> None:
        records = self.read(newest=newest, count=count)
        receipts = [self.ledger.store(record.line()) for record in records]
        if answered:
            self.release(list(zip(records, receipts, strict=True)))

    def release(self, pairs: list[tuple[Record, dict[str, object]]]) -> None:
        stored = [record for record, receipt in pairs if receipt["status"] != "conflict"]
        acknowledge(self.spool, stored)
        self.released.update(map(number_of, stored))
        self.reported |= self.ledger.drops()
        self.move([record for record, receipt in pairs if receipt["status"] == "conflict"])

    def move(self, conflicts: list[Record]) -> None:
        if conflicts:
            self.spool.move_to_new_stream(conflicts)
            for record in everything(self.spool):
                self.place[number_of(record)] = (record.stream, record.sequence)

    @rule()
    def somebody_else_uses_our_next_number(self) -> None:
        stream, sequence = self.spool.stream, self.spool.stats().next_sequence
        self.ledger.lines.setdefault((stream, sequence), encode(-self.number - 1)(stream, sequence, []))
        self.contested.add((stream, sequence))

    @rule()
    def reject(self) -> None:
        for record in self.read(newest=False, count=1):
            key = (record.stream, record.sequence)
            if key not in self.ledger.lines:
                self.spool.quarantine(record, "no")
                self.quarantined.add(number_of(record))

    @rule()
    def back_up(self) -> None:
        self.backups.append(dict(self.ledger.lines))

    @precondition(lambda self: self.backups)
    @rule()
    def restore_and_rewind(self) -> None:
        self.ledger.lines = dict(self.backups[-1])
        for stream in {name for name, _ in self.place.values()}:
            self.spool.rewind(stream, self.ledger.committed_through(stream))

    @rule()
    def kill(self) -> None:
        self.disk.kill()
        self.open()

    @rule()
    def lose_power(self) -> None:
        self.disk.lose_power()
        self.open()

    @rule()
    def stop_and_start(self) -> None:
        self.spool.close()
        self.open()

    @rule(hours=st.integers(1, 20))
    def time_passes(self, hours: int) -> None:
        self.clock.advance(hours * HOUR_US)

    @rule()
    def lose_the_cursor(self) -> None:
        self.disk.forget(PATH / "cursor")

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "spool"):
            assert self.spool.stats().size_bytes <= 2 * (96 << 10), "an unlinked segment may be back for a while"

    def deliver_everything(self) -> None:
        rewound: set[tuple[str, int]] = set()  # as the shipper: never twice to the same place
        for _ in range(20):
            records = self.read(newest=False, count=1000)
            self.release([(record, self.ledger.store(record.line())) for record in records])
            for stream in {name for name, _ in self.place.values()}:
                place = (stream, self.ledger.committed_through(stream))
                if place not in rewound and self.spool.rewind(*place):
                    rewound.add(place)
            if not self.spool.pending()[0]:
                return
        raise AssertionError("the backlog never drains")

    def teardown(self) -> None:
        self.disk.heal()
        for _ in range(3):  # what is dropped or lost on the way is reported by the next batch
            self.take()
            self.deliver_everything()
        numbers = [n for n in self.ledger.numbers() if n > 0]
        assert len(numbers) == len(set(numbers)), "stored twice"
        assert set(numbers) <= set(range(1, self.number + 1)), "invented"
        dropped = self.ledger.drops()
        kept = {path.stem[-32:] for path in segments(self.disk)}
        for number, place in self.place.items():
            if number in self.released and place[0] not in kept:
                continue  # delivered once; the backup is older than what the spool keeps of an ended stream
            if place in self.contested & self.reported:
                continue  # reported once; the restored service takes the other's batch for it
            assert number in numbers or number in self.quarantined or place in dropped, f"{number} vanished: {place}"


TestObligations = Obligations.TestCase
TestObligations.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


# ---- real kills

APPENDER = """
import sys
from pathlib import Path
from wattmill_collector.clock import SystemClock
from wattmill_collector.spool import Spool
spool = Spool.open(Path(sys.argv[1]), clock=SystemClock(), max_bytes=64 << 20)
while True:
    sequence = spool.append(lambda stream, sequence, drops: b"%s %d" % (stream.encode(), sequence))
    sys.stdout.write(f"{spool.stream} {sequence}\\n")
    sys.stdout.flush()
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_taken(tmp_path: Path) -> None:
    seed = random.Random(7)
    taken: set[tuple[str, int]] = set()
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert child.stdout is not None
        taken.add(_pair(child.stdout.readline()))
        time.sleep(seed.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        taken.update(_pair(line) for line in child.stdout if line.endswith("\n"))
        child.stdout.close()
        child.wait()
    spool = Spool.open(tmp_path, clock=FakeClock())
    found = [(r.stream, r.sequence) for r in everything(spool)]
    assert len(found) == len(set(found))
    assert taken <= set(found)
    assert {stream for stream, _ in found} == {spool.stream}, "a kill alone starts no new stream"
    assert len(found) - len(taken) <= 20


def _pair(line: str) -> tuple[str, int]:
    stream, sequence = line.split()
    return stream, int(sequence)


def test_a_report_whose_carrier_is_lost_is_made_again() -> None:
    disk, clock = FaultyDisk(), FakeClock()
    reports: list[tuple[int, list[str]]] = []

    def reporting(stream: str, sequence: int, drops: Sequence[Drop]) -> bytes:
        reports.append((sequence, [drop.reason for drop in drops]))
        return b'{"x":%d}' % sequence

    spool = Spool.open(Path("/s"), clock=clock, disk=disk, host="h")
    disk.fail("write", errno.EIO)
    with pytest.raises(NotTaken):
        spool.append(reporting)
    spool.append(reporting)
    spool.append(reporting)
    segment = next(path for path in disk.paths() if path.suffix == ".segment")
    damaged = bytearray(disk.content(segment))
    damaged[80] ^= 0xFF
    disk.put(segment, bytes(damaged))
    assert [r.sequence for r in spool.read_oldest(limit_bytes=10**6, limit_batches=9, limit_readings=99)] == [2]
    spool.append(reporting)
    assert reports[-1] == (3, ["write_failed", "corrupt"])
