"""The supervisor: restarts with back-off, ends everything, leaves nobody behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import eventually
from wattmill_api.supervisor import LAST_BACK_OFF_SECONDS, Command, GaveUp, Supervisor


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor(said: list[str], clock: Clock) -> Iterator[Supervisor]:
    made = Supervisor(said.append, clock)
    yield made
    made.stop()


def python(code: str, **more: object) -> Command:
    program = (sys.executable, "-c", textwrap.dedent(code))
    return Command("child", program, dict(os.environ), **more)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_dies_is_started_again_after_its_back_off(
    supervisor: Supervisor, clock: Clock, said: list[str]
) -> None:
    child = supervisor.start(python("raise SystemExit(3)"))
    assert child.process is not None
    child.process.wait()
    supervisor.check()
    assert child.process is None
    assert said == ["child ended with exit status 3; starting it again in 0.2 s"]
    clock.now += 0.3
    supervisor.check()
    assert child.process is not None
    assert child.restarts == 1


def test_the_back_off_doubles_and_has_an_end(supervisor: Supervisor, clock: Clock, said: list[str]) -> None:
    child = supervisor.start(python("raise SystemExit(3)"))
    for _ in range(9):
        assert child.process is not None
        child.process.wait()
        supervisor.check()
        clock.now = child.again_at
        supervisor.check()
    waits = [float(line.split()[-2]) for line in said]
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits[-1] == LAST_BACK_OFF_SECONDS


def test_a_death_after_a_steady_life_is_a_new_story(supervisor: Supervisor, clock: Clock, said: list[str]) -> None:
    child = supervisor.start(python("import time; time.sleep(600)"))
    child.back_off = 8.0
    clock.now += 60
    assert child.process is not None
    child.process.kill()
    child.process.wait()
    supervisor.check()
    assert said == ["child was killed by signal 9; starting it again in 0.2 s"]


def test_a_program_that_is_not_there_is_tried_again_too(supervisor: Supervisor, said: list[str]) -> None:
    supervisor.start(Command("ghost", ("/nonexistent",), {}))
    assert said[0].startswith("ghost could not be started")


def test_a_child_that_calls_it_useless_is_believed(supervisor: Supervisor) -> None:
    child = supervisor.start(python("raise SystemExit(2)", give_up_on=(2,)))
    assert child.process is not None
    child.process.wait()
    with pytest.raises(GaveUp, match="exit status 2"):
        supervisor.check()


def test_who_does_not_go_when_asked_is_killed_with_its_children(supervisor: Supervisor, tmp_path: Path) -> None:
    stubborn = """
        import pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grandchild = subprocess.Popen(["sleep", "600"])
        pathlib.Path(sys.argv[1]).write_text(str(grandchild.pid))
        time.sleep(600)
    """
    program = (sys.executable, "-c", textwrap.dedent(stubborn), str(tmp_path / "pid"))
    command = Command("stubborn", program, dict(os.environ), stop_seconds=0.1)
    child = supervisor.start(command)
    assert child.process is not None
    pid = child.process.pid
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    grandchild = int((tmp_path / "pid").read_text())
    supervisor.stop()
    assert not alive(pid)
    eventually(lambda: not alive(grandchild))


def test_children_stop_in_the_reverse_order(supervisor: Supervisor, tmp_path: Path) -> None:
    code = """
        import pathlib, signal, sys, time
        def stop(*_):
            with open({log!r}, "a") as log:
                log.write({name!r})
            sys.exit()
        signal.signal(signal.SIGTERM, stop)
        pathlib.Path({ready!r}).touch()
        time.sleep(600)
    """
    for name in "abc":
        ready = tmp_path / name
        supervisor.start(python(code.format(log=str(tmp_path / "log"), name=name, ready=str(ready))))
        eventually(ready.exists)
    supervisor.stop()
    assert (tmp_path / "log").read_text() == "cba"


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    code = f"""
        import os, sys, time
        from wattmill_api.supervisor import Command, Supervisor
        supervisor = Supervisor(print)
        child = supervisor.start(Command("child", ("sleep", "600"), dict(os.environ)))
        open({str(tmp_path / "pid")!r}, "w").write(str(child.process.pid))
        print("ready", flush=True)
        time.sleep(600)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not alive(pid))


def test_a_childs_output_goes_to_its_log(supervisor: Supervisor, tmp_path: Path) -> None:
    child = supervisor.start(python("print('spoken')", log=tmp_path / "log"))
    assert child.process is not None
    child.process.wait()
    assert (tmp_path / "log").read_text() == "spoken\n"
