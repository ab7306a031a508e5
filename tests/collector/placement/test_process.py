"""From a port to a process: on files made for the purpose, and on a real process that really listens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wattmill_collector.placement.process import (
    SEARCH_AGAIN_US,
    Home,
    Listeners,
    Process,
    Processes,
    candidates,
    parse_home,
    parse_listening,
    parse_stat,
    parse_unit,
)

FAKE_ENGINE = Path(__file__).parents[2] / "support/fake_engine.py"
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(address: str, inode: int, state: str = "0A") -> str:
    queues = "00000000:00000000 00:00000000 00000000"
    return f"   0: {address} 00000000:0000 {state} {queues}  1000        0 {inode} 1 0 100 0 0 10 0\n"


def add_process(root: Path, pid: int, parent: int = 1, start: int = 500, sockets: tuple[int, ...] = ()) -> None:
    folder = root / str(pid) / "fd"
    folder.mkdir(parents=True, exist_ok=True)
    (root / str(pid) / "stat").write_text(f"{pid} (python3) S {parent} {pid} 1 0 -1 4194304 {'0 ' * 12}{start} 0\n")
    for nth, inode in enumerate(sockets):
        (folder / str(nth + 3)).symlink_to(f"socket:[{inode}]")
    (folder / "0").symlink_to("/dev/null")


def listen(root: Path, *rows: str) -> None:
    (root / "net").mkdir(exist_ok=True)
    (root / "net/tcp").write_text(HEAD + "".join(rows))


def test_stat_with_a_name_full_of_parentheses() -> None:
    line = b"42 (a) S 1 (b c)) S 7 40 1 0 -1 4194304 " + b"0 " * 12 + b"987654 0\n"
    assert parse_stat(line) == Process(42, 7, 40, 987_654)
    assert parse_stat(b"") is None
    assert parse_stat(b"42 (a) S") is None


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/vllm.service\n", "/system.slice/vllm.service"),
        ("0::/kubepods.slice/pod1/cri-containerd-ab.scope\n", "/kubepods.slice/pod1/cri-containerd-ab.scope"),
        ("12:pids:/docker/0123\n3:cpu:/\n", "/docker/0123"),
        ("0::/\n", ""),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service\n", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-terminal-42.scope\n", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/tmux-spawn-1f.scope\n", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/vllm.service\n",) * 2,
        ("0::/system.slice/cron.service\n", ""),
        ("0::/system.slice/containerd.service\n", ""),
        ("0::/init.scope\n", ""),
        ("", ""),
    ],
)
def test_only_a_unit_that_tells_something(text: str, unit: str) -> None:
    assert parse_unit(text) == unit.removeprefix("0::").rstrip()


ID, INNER = "ab" * 32, "cd" * 32
POD = "6f1c0b1e-0000-4000-8000-0123456789ab"


@pytest.mark.parametrize(
    ("text", "container", "pod"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID, ""),
        (f"0::/docker/{ID}\n", ID, ""),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", ID, ""),
        (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope\n", ID, ""),
        (f"12:pids:/kubepods/burstable/pod{POD}/{ID}\n1:name=systemd:/kubepods/burstable/pod{POD}/{ID}\n", ID, POD),
        (f"0::/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{ID}.scope\n", ID, POD),
        (f"0::/kubepods.slice/kubepods-besteffort-pod{'0f' * 16}.slice/crio-{ID}.scope\n", ID, "0f" * 16),
        (f"3:cpu:/docker/{ID}\n0::/system.slice/containerd.service\n", ID, ""),
        (f"0::/docker/{ID}/kubelet.slice/kubelet-pod{POD.replace('-', '_')}.slice/cri-containerd-{INNER}.scope\n",
         INNER, POD),
        ("0::/slurm/uid_1000/job_77/step_0/task_0\n", "", ""),
        ("0::/../../..\n", "", ""),
    ],
)  # fmt: skip
def test_containers_and_pods_by_their_ids_the_innermost_counts(text: str, container: str, pod: str) -> None:
    home = parse_home(text)
    assert (home.container, home.pod) == (container, pod)


def test_listening_sockets_of_both_kinds() -> None:
    table = (
        HEAD
        + row("0100007F:1F40", 11)
        + row("00000000:1F90", 12)
        + row("0100007F:1F40", 13, state="01")
        + "garbage 0A \n"
    )
    assert parse_listening(table.encode()) == {("127.0.0.1", 8000): 11, ("0.0.0.0", 8080): 12}
    six = HEAD + row("00000000000000000000000001000000:1F40", 14) + row("0000000000000000FFFF00000100007F:1F41", 15)
    assert parse_listening(six.encode()) == {("::1", 8000): 14, ("127.0.0.1", 8001): 15}


def test_the_owner_of_a_port(tmp_path: Path) -> None:
    listen(tmp_path, row("00000000:1F40", 11))
    add_process(tmp_path, 20, sockets=(9,))
    add_process(tmp_path, 21, sockets=(10, 11))
    listeners = Listeners(Processes(tmp_path))
    assert listeners.process("127.0.0.1", 8000, 0) == Process(21, 1, 21, 500)
    assert listeners.process("127.0.0.1", 8001, 0) is None


def test_descriptors_closed_while_they_are_listed_hide_no_others(tmp_path: Path) -> None:
    add_process(tmp_path, 42, sockets=(7, 8))
    for name in ("1", "2", "99"):  # as unreadable as a descriptor that has just been closed
        (tmp_path / "42/fd" / name).write_text("")
    assert Processes(tmp_path).sockets(42) == {7, 8}


def test_a_socket_shared_with_children_is_the_parents(tmp_path: Path) -> None:
    listen(tmp_path, row("00000000:1F40", 11))
    add_process(tmp_path, 19)
    add_process(tmp_path, 20, parent=19, sockets=(11,))
    add_process(tmp_path, 21, parent=20, sockets=(11,))
    found = Listeners(Processes(tmp_path)).process("127.0.0.1", 8000, 0, likely=[21])
    assert found is not None
    assert found.pid == 20


def test_a_restart_on_the_same_port_and_even_with_the_same_pid_is_noticed(tmp_path: Path) -> None:
    listen(tmp_path, row("00000000:1F40", 11))
    add_process(tmp_path, 20, sockets=(11,))
    listeners = Listeners(Processes(tmp_path))
    first = listeners.process("127.0.0.1", 8000, 0)
    listen(tmp_path, row("00000000:1F40", 12))
    (tmp_path / "20/fd/3").unlink()
    (tmp_path / "20/fd/4").symlink_to("socket:[12]")
    (tmp_path / "20/stat").write_text((tmp_path / "20/stat").read_text().replace(" 500 ", " 900 "))
    second = listeners.process("127.0.0.1", 8000, 1)
    assert first is not None
    assert second is not None
    assert (first.pid, first.start_ticks, second.pid, second.start_ticks) == (20, 500, 20, 900)


def test_a_search_that_found_nobody_is_not_repeated_at_once(tmp_path: Path) -> None:
    listen(tmp_path, row("00000000:1F40", 11))
    listeners = Listeners(Processes(tmp_path))
    assert listeners.process("127.0.0.1", 8000, 0) is None
    add_process(tmp_path, 20, sockets=(11,))
    assert listeners.process("127.0.0.1", 8000, 1) is None
    assert listeners.process("127.0.0.1", 8000, SEARCH_AGAIN_US + 1) is not None


def test_ports_of_those_who_hold_a_board_and_of_their_ancestors(tmp_path: Path) -> None:
    listen(tmp_path, row("00000000:1F40", 11), row("0100007F:1F41", 12), row("0100007F:1F42", 13))
    add_process(tmp_path, 20, sockets=(11,))
    add_process(tmp_path, 21, parent=20, sockets=(12,))
    add_process(tmp_path, 30, sockets=(13,))
    assert candidates([21], Processes(tmp_path)) == {("127.0.0.1", 8001): 21, ("127.0.0.1", 8000): 20}


def test_a_host_without_any_of_it(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    assert processes.listening() == {}
    assert processes.get(1) is None
    assert processes.sockets(1) == set()
    assert processes.home(1) == Home()
    assert processes.name(1) == ""
    assert processes.network(1) == ""
    assert list(processes.ancestors(1)) == []
    assert Listeners(processes).process("127.0.0.1", 80, 0) is None


def test_a_loop_of_parents_ends(tmp_path: Path) -> None:
    add_process(tmp_path, 20, parent=21)
    add_process(tmp_path, 21, parent=20)
    assert len(list(Processes(tmp_path).ancestors(20))) <= 64


def test_a_start_is_dated_to_the_tick(tmp_path: Path) -> None:
    processes = Processes(tmp_path, ticks_per_second=100, boot_us=lambda: 1_764_000_000_003_000)
    assert processes.start_us(Process(1, 0, 1, 250)) == 1_764_000_002_500_000


@pytest.fixture
def engine_process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, str(FAKE_ENGINE), "--port", "0", "--state", str(tmp_path / "state.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline().removeprefix("listening on "))
        process.kill()


def test_a_real_listener(engine_process: tuple[subprocess.Popen[str], int]) -> None:
    process, port = engine_process
    processes = Processes()
    found = Listeners(processes).process("127.0.0.1", port, 0)
    assert found is not None
    assert (found.pid, found.parent) == (process.pid, os.getpid())
    assert ("127.0.0.1", port) in candidates([process.pid], processes)
    assert os.getpid() in {p.pid for p in processes.ancestors(process.pid)}
