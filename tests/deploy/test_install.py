"""The one-file agent runs anywhere; installing, upgrading and removing it leave what they must."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fix_database import required
from support.deployed import ROOT

INSTALL = ROOT / "deploy/systemd/install.sh"
SCRIPTS = sorted(
    path
    for path in (*ROOT.glob("scripts/*"), *ROOT.glob("deploy/**/*"), ROOT / ".ci/run")
    if path.is_file() and path.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/sh", b"#!/bin/bash"))
)


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one-file agent, put together from this tree and what is installed here: no index is asked."""
    folder = tmp_path_factory.mktemp("zipapp")
    made = folder / "wattmill.pyz"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("__main__.py", "import sys\nfrom wattmill_collector.cli import main\nsys.exit(main())\n")
        for path in sorted((ROOT / "collector").rglob("*.py")):
            archive.write(path, path.relative_to(ROOT / "collector"))
        import pynvml
        import yaml

        archive.write(pynvml.__file__, "pynvml.py")
        for path in sorted(Path(yaml.__file__).parent.glob("*.py")):
            archive.write(path, f"yaml/{path.name}")
    return made


def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WATTMILL_", "PYTHON"))}
    return subprocess.run(
        [str(argument) for argument in arguments],
        env={**clean, "PYTHON": sys.executable, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_the_agent_in_one_file_reads_a_configuration_without_compiled_yaml(pyz: Path, tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("node: in-a-zip\nlisten: ''\nengines: [{target: 'http://127.0.0.1:9/metrics', workload: chat}]\n")
    done = run(sys.executable, "-I", pyz, "agent", "--once", "--config", config, WATTMILL_SPOOL=str(tmp_path / "spool"))
    assert done.returncode == 0, done.stderr
    readings = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["id"] for r in readings if r["kind"] == "absence" and r["subject"] == "engine"] == [
        "http://127.0.0.1:9/metrics"
    ]


def test_installing_lays_down_a_program_that_runs_and_settings_that_name_the_service(pyz: Path, tmp_path: Path) -> None:
    key = tmp_path / "given.key"
    key.write_text("wm_ingest_0123\n")
    root = tmp_path / "root"
    done = run(
        INSTALL, "install", pyz, "--server", "https://mill.example", "--key-file", key, "--rapl", DESTDIR=str(root)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert files(root) == {
        "usr/local/bin/wattmill",
        "usr/local/lib/wattmill/wattmill.pyz",
        "etc/systemd/system/wattmill-agent.service",
        "etc/sysusers.d/wattmill.conf",
        "etc/udev/rules.d/60-wattmill-rapl.rules",
        "etc/wattmill/agent.yaml",
        "etc/wattmill/agent.key",
    }
    assert run(root / "usr/local/bin/wattmill", "--version").stdout.startswith("wattmill ")
    assert (
        "server: https://mill.example\nkey_file: /etc/wattmill/agent.key\n"
        in (root / "etc/wattmill/agent.yaml").read_text()
    )
    assert stat.S_IMODE((root / "etc/wattmill/agent.key").stat().st_mode) & 0o077 == 0


def test_an_upgrade_keeps_settings_key_and_spool_and_the_program_before(pyz: Path, tmp_path: Path) -> None:
    root, key = tmp_path / "root", tmp_path / "given.key"
    key.write_text("wm_ingest_0123\n")
    assert run(INSTALL, "install", pyz, "--key-file", key, DESTDIR=str(root)).returncode == 0
    before = (root / "usr/local/lib/wattmill/wattmill.pyz").read_bytes()
    kept = {root / "etc/wattmill/agent.yaml": "node: mine\n", root / "var/lib/wattmill/00.seg": "waiting"}
    (root / "var/lib/wattmill").mkdir(parents=True)
    for path, text in kept.items():
        path.write_text(text)

    newer = tmp_path / "newer.pyz"
    shutil.copy(pyz, newer)
    with zipfile.ZipFile(newer, "a") as archive:
        archive.writestr("newer", "")
    done = run(INSTALL, "install", newer, "--server", "https://other.example", DESTDIR=str(root))
    assert done.returncode == 0
    assert "is there and stays" in done.stderr
    assert {path: path.read_text() for path in kept} == kept
    assert (root / "etc/wattmill/agent.key").read_text() == "wm_ingest_0123\n"
    assert (root / "usr/local/lib/wattmill/wattmill.pyz.previous").read_bytes() == before
    assert "newer" in zipfile.ZipFile(root / "usr/local/lib/wattmill/wattmill.pyz").namelist()


def test_what_does_not_run_does_not_replace_what_does(pyz: Path, tmp_path: Path) -> None:
    root, broken = tmp_path / "root", tmp_path / "broken.pyz"
    assert run(INSTALL, "install", pyz, DESTDIR=str(root)).returncode == 0
    before = (root / "usr/local/lib/wattmill/wattmill.pyz").read_bytes()
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("__main__.py", "raise SystemExit('half a download')\n")
    done = run(INSTALL, "install", broken, DESTDIR=str(root))
    assert done.returncode == 2
    assert "does not run" in done.stderr
    assert (root / "usr/local/lib/wattmill/wattmill.pyz").read_bytes() == before


def test_uninstalling_leaves_readings_and_settings_unless_told_to_purge(pyz: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    arguments = ("install", pyz, "--rapl", "--other-users-engines")
    assert run(INSTALL, *arguments, DESTDIR=str(root)).returncode == 0
    (root / "var/lib/wattmill").mkdir(parents=True)
    (root / "var/lib/wattmill/00.seg").write_text("waiting")
    assert run(INSTALL, "uninstall", DESTDIR=str(root)).returncode == 0
    assert files(root) == {"etc/wattmill/agent.yaml", "var/lib/wattmill/00.seg"}
    assert run(INSTALL, *arguments, DESTDIR=str(root)).returncode == 0
    assert run(INSTALL, "uninstall", "--purge", DESTDIR=str(root)).returncode == 0
    assert files(root) == set()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("install",), "needs the one-file agent"),
        (("install", "nowhere.pyz"), "there is no file nowhere.pyz"),
        (("install", "nowhere.pyz", "--sever", "x"), "knows no option --sever"),
        (("uninstall", "--all"), "knows no option --all"),
        ((), "say what"),
    ],
)
def test_a_wrong_command_is_refused_and_changes_nothing(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    done = run(INSTALL, *arguments, DESTDIR=str(tmp_path / "root"))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing_in(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        assert not required("shellcheck"), "shellcheck is required and is not here"
        pytest.skip("no shellcheck here: scripts/system-packages --all installs it")
    done = run("shellcheck", "--severity=warning", script)
    assert done.stdout == ""
