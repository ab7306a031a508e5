"""The options that `top` and `report` share, each with its variable `WATTMILL_<OPTION>`; an option goes first."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from wattmill_api.terminal.client import LOCAL, USELESS, Failure, Server
from wattmill_api.terminal.text import printable

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9})\s*([smhd])")


class Options:
    """Declares options and reads them from the command line and an environment."""

    def __init__(self, verb: str, sentence: str, environ: Mapping[str, str]) -> None:
        self.parser = argparse.ArgumentParser(
            prog=f"wattmill {verb}",
            description=sentence,
            epilog="Every option has an environment variable WATTMILL_<OPTION>.",
            allow_abbrev=False,
        )
        self._environ = environ
        self._repeated: dict[str, list[str]] = {}
        self.option("server", f"address of the service (default {LOCAL})", LOCAL)
        self.option("key-file", "file with a read key; WATTMILL_KEY gives the key itself")

    def option(self, name: str, explanation: str, fallback: str | None = None) -> None:
        variable = _variable(name)
        given = self._environ.get(variable) or fallback
        self.parser.add_argument(f"--{name}", default=given, help=f"{explanation} [{variable}]")

    def repeated(self, name: str, explanation: str) -> None:
        """An option that may be given several times; its variable holds several as a shell would split them."""
        variable = _variable(name)
        try:
            given = shlex.split(self._environ.get(variable, ""))
        except ValueError:  # quotes that do not match
            given = [self._environ[variable]]
        self.parser.add_argument(f"--{name}", action="append", help=f"{explanation} [{variable}]")
        self._repeated[name] = given

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The options; argparse ends the process with status 2 where they can't be read."""
        options = self.parser.parse_args(argv)
        for name, given in self._repeated.items():
            if getattr(options, name) is None:
                setattr(options, name, given)
        return options

    def switch(self, name: str, explanation: str) -> None:
        variable = _variable(name)
        given = self._environ.get(variable, "").lower() in ("1", "true", "yes", "on")
        self.parser.add_argument(f"--{name}", action="store_true", default=given, help=f"{explanation} [{variable}]")

    def server(self, options: argparse.Namespace, argv: Sequence[str]) -> Server:
        """The service that is meant. A --key-file on the command line goes before WATTMILL_KEY.

        Errors: Failure when an address, a key or its file can't be used.
        """
        on_line = any(word == "--key-file" or word.startswith("--key-file=") for word in argv)
        key = "" if on_line else self._environ.get("WATTMILL_KEY", "").strip()
        if not key and options.key_file:
            try:
                key = Path(options.key_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise Failure(f"the key file {options.key_file} can't be read: {error}", USELESS) from None
            if not key:
                raise Failure(f"the key file {options.key_file} is empty", USELESS)
        return Server(options.server, key)


def duration_s(text: str, name: str, least_s: int, longest_s: int, limits: str) -> int:
    """`5s`, `15m`, `2h`, `1d` in seconds. Errors: Failure naming the option and its limits."""
    found = _DURATION.fullmatch(text.strip())
    length_s = int(found[1]) * _UNITS_S[found[2]] if found else -1
    if not least_s <= length_s <= longest_s:
        raise Failure(f"--{name}: must be a time from {limits}, not {text!r}", USELESS)
    return length_s


def ago(text: str) -> int | None:
    """Seconds of a length such as `7d` or `-7d`; None where it is none."""
    found = _DURATION.fullmatch(text.strip().removeprefix("-"))
    return int(found[1]) * _UNITS_S[found[2]] if found else None


def one_of(text: str, name: str, allowed: Sequence[str]) -> str:
    """Errors: Failure naming what is allowed; unlike argparse, also of a value from a variable."""
    if text not in allowed:
        raise Failure(f"--{name}: must be one of {', '.join(allowed)}, not {text!r}", USELESS)
    return text


def say(verb: str, sentence: object) -> None:
    """One line on stderr, whatever a service put into it."""
    sys.stderr.write(f"wattmill {verb}: {printable(sentence)}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Characters that stdout has no code for are escaped; a reader that went away ends the output quietly."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor at the interpreter's last flush


def _variable(option: str) -> str:
    return "WATTMILL_" + option.upper().replace("-", "_")
