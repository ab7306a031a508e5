"""The unit files: known to systemd, closed as far as the program allows, and true to what the program does."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from fix_database import required
from support.deployed import ROOT
from wattmill_collector.settings import MINUTE_US

FOLDER = ROOT / "deploy/systemd"
UNITS = ["wattmill-agent.service", "wattmill.service"]
HIGHEST_EXPOSURE = 3.0


def settings(name: str) -> dict[str, list[str]]:
    """Every setting of a unit with all its values, in order; `PROTECTED = yes` and sections are not looked at."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (FOLDER / name).read_text().splitlines():
        key, mark, value = line.partition("=")
        if mark and not line.startswith("#"):
            found[key].append(value)
    return found


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        assert not required("systemd"), "systemd is required and is not here"
        pytest.skip("no systemd-analyze here: scripts/system-packages --all installs it")
    return found


def said(*arguments: str | Path) -> str:
    done = subprocess.run(
        [str(a) for a in arguments], capture_output=True, text=True, timeout=60, check=False, env={"LC_ALL": "C.UTF-8"}
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_is_hardly_exposed(name: str, analyze: str) -> None:
    text = said(analyze, "security", "--offline=true", "--no-pager", FOLDER / name)
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", text)
    assert exposure, text
    assert float(exposure[1]) <= HIGHEST_EXPOSURE


def test_with_the_drop_in_for_others_engines_the_agent_is_still_hardly_exposed(analyze: str, tmp_path: Path) -> None:
    unit = tmp_path / "wattmill-agent.service"
    unit.write_text((FOLDER / unit.name).read_text() + "\n" + (FOLDER / "other-users-engines.conf").read_text())
    text = said(analyze, "security", "--offline=true", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", text)
    assert exposure, text
    assert float(exposure[1]) <= HIGHEST_EXPOSURE


@pytest.mark.parametrize("name", UNITS)
def test_systemd_knows_every_line(name: str, analyze: str, tmp_path: Path) -> None:
    # The program and the file of secrets are not installed here; everything else is as shipped.
    text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/sh", (FOLDER / name).read_text())
    (tmp_path / name).write_text(text)
    assert said(analyze, "verify", "--man=no", "--recursive-errors=no", tmp_path / name) == ""
    (tmp_path / name).write_text(text.replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in said(analyze, "verify", "--man=no", "--recursive-errors=no", tmp_path / name)


def test_the_agent_reaches_boards_and_no_other_device() -> None:
    unit = settings("wattmill-agent.service")
    assert unit["DevicePolicy"] == ["closed"]
    assert unit["DeviceAllow"] == ["char-nvidia* rw"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]


def test_the_watchdog_waits_longer_than_the_longest_interval() -> None:
    seconds = int(settings("wattmill-agent.service")["WatchdogSec"][0])
    assert seconds * 1_000_000 >= 2 * MINUTE_US


def test_what_starts_is_what_the_installer_lays_down() -> None:
    installer = (FOLDER / "install.sh").read_text()
    program = settings("wattmill-agent.service")["ExecStart"][0].split()
    assert program == ["/usr/local/bin/wattmill", "agent"]
    assert f"program=$root{program[0]}\n" in installer
    assert settings("wattmill-agent.service")["User"] == ["wattmill"]
    assert (FOLDER / "wattmill.sysusers.conf").read_text().startswith("u wattmill ")
    for name in re.findall(r'"\$here/([^"]+)"', installer):
        assert (FOLDER / name).is_file(), name
