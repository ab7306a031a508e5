"""The console script `wattmill`: one table of verbs, each imported only when it is called.

`wattmill agent` therefore loads the agent alone, however much else is installed; and the verbs of the service say which
package is missing where only the agent is installed. Every verb parses its own options and returns an exit status.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence

from wattmill_collector import __version__

Verb = Callable[[Sequence[str]], int]

VERBS: dict[str, tuple[str, str]] = {
    "up": ("wattmill_api.commands:up", "Everything on this host: database, API, dashboard, jobs, agent."),
    "serve": ("wattmill_api.commands:serve", "The API and the jobs, on a database of yours."),
    "agent": ("wattmill_collector.__main__:main", "Read this host's power and token counters and ship them."),
    "doctor": ("wattmill_collector.doctor:main", "Say what is wrong on this host and how to fix it."),
    "key": ("wattmill_api.commands:key", "Create, list and revoke keys."),
    "webhook": ("wattmill_api.webhooks.command:main", "Say who is told of findings, and test it."),
    "top": ("wattmill_api.terminal.top:main", "Watch tokens per kWh live in the terminal."),
    "report": ("wattmill_api.terminal.report:main", "Write an account of a period."),
    "simulate": ("wattmill_api.simulator.command:main", "Simulated nodes through the real wire, with the truth."),
    "migrate": ("wattmill_api.commands:migrate", "Bring the database's schema up to date."),
}
WRONG_USE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; its exit status. 2 when the command line itself is wrong or a package is missing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        sys.stderr.write(usage() + "\n")
        return WRONG_USE
    verb, rest = arguments[0], arguments[1:]
    if verb in ("-h", "--help", "help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if verb in ("-V", "--version", "version"):
        sys.stdout.write(f"wattmill {__version__}\n")
        return 0
    if verb not in VERBS:
        sys.stderr.write(unknown(verb) + "\n")
        return WRONG_USE
    try:
        target = load(VERBS[verb][0])
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("wattmill_"):
            raise  # ours, so a bug: no package that anybody could install
        package = missing.name.partition(".")[0]
        sys.stderr.write(f"wattmill {verb} needs the package '{package}': pip install 'wattmill[service]'" + "\n")
        return WRONG_USE
    return target(rest)


def load(target: str) -> Verb:
    """The function behind "module:function". Errors: ModuleNotFoundError, AttributeError."""
    module, _, function = target.partition(":")
    found: Verb = getattr(importlib.import_module(module), function)
    return found


def usage() -> str:
    """What `wattmill --help` prints."""
    lines = ["usage: wattmill VERB [options]", "", "verbs:"]
    lines += [f"  {verb:<10}{sentence}" for verb, (_, sentence) in VERBS.items()]
    return "\n".join([*lines, "", "wattmill VERB --help lists a verb's options; wattmill --version names the version."])


def unknown(verb: str) -> str:
    """The sentence for a verb that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else "'wattmill --help' lists the verbs."
    return f"wattmill: there is no verb '{verb}'. {hint}"


if __name__ == "__main__":
    sys.exit(main())
