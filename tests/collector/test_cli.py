"""The console script: a table of verbs, each loaded only when called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wattmill_collector import __version__, cli


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb}" in shown for verb in cli.VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"wattmill {__version__}\n"


def test_nothing_said_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: wattmill" in capsys.readouterr().err


def test_an_unknown_verb_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["agnet"]) == 2
    assert "Did you mean 'agent'?" in capsys.readouterr().err
    assert cli.main(["xyzzy"]) == 2
    assert "--help" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(target: str) -> cli.Verb:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(cli, "load", refuse)
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == "wattmill serve needs the package 'numpy': pip install 'wattmill[service]'\n"


def test_a_missing_module_of_ours_is_a_bug_and_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: str) -> cli.Verb:
        raise ModuleNotFoundError("No module named 'wattmill_api.gone'", name="wattmill_api.gone")

    monkeypatch.setattr(cli, "load", refuse)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])


def test_an_import_error_inside_a_running_verb_is_not_mistaken_for_a_missing_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def verb(argv: object) -> int:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(cli, "load", lambda target: verb)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["agent"])


def test_the_rest_of_the_command_line_and_the_status_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load", lambda target: lambda argv: len(argv))
    assert cli.main(["agent", "--once", "--node", "a"]) == 3


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_leads_to_a_function(verb: str) -> None:
    assert callable(cli.load(cli.VERBS[verb][0]))


def test_help_loads_no_verb() -> None:
    code = """
import sys
from wattmill_collector.cli import main
main(["--help"])
print(sorted(name for name in sys.modules if name.startswith("wattmill")))
"""
    environment = dict(os.environ, PYTHONPATH=str(Path(cli.__file__).parents[1]))
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert shown.splitlines()[-1] == "['wattmill_collector', 'wattmill_collector.cli']"
