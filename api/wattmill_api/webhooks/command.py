"""`wattmill webhook`: create, list, remove and test webhooks, in the database of the service.

A test is posted from where the command runs, with the secrets and networks of its environment.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import uuid
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wattmill_api import embedded
from wattmill_api.errors import Conflict, Invalid, WattmillError
from wattmill_api.settings import Settings, without_password
from wattmill_api.store import webhooks as store
from wattmill_api.store.database import Database
from wattmill_api.store.webhooks import Webhook
from wattmill_api.webhooks import notify, wanted

DONE, FAILED, USELESS = 0, 1, 2
MJ_PER_KWH = 3_600_000_000
MOST_KWH = 1_000_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """0: done, or the test was taken; 1: it was not, or the database is away; 2: it would fail again."""
    options = _parser().parse_args(argv)
    given = {
        name: value for name in ("database_url", "webhook_allow") if (value := getattr(options, name, None)) is not None
    }
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for fault in error.errors():
            name = str(fault["loc"][0])
            _say(f"--{name.replace('_', '-')} (or WATTMILL_{name.upper()}): {fault['msg']}")
        return USELESS
    data = Path(options.data).expanduser() if options.data else embedded.default_data()
    url = settings.database_url or embedded.running_url(data) or ""
    if not url:
        _say("it needs a database: --database-url, WATTMILL_DATABASE_URL, or a running `wattmill up`")
        return USELESS
    settings = settings.model_copy(update={"database_url": url})
    database = Database(settings)
    database.open()
    try:
        return _run(options, database, settings)
    except (Invalid, Conflict) as error:
        _say(error.detail)
        return USELESS
    except WattmillError as error:
        _say(f"{error.detail} ({without_password(url)})")
        return FAILED
    finally:
        database.close()


def _run(options: argparse.Namespace, database: Database, settings: Settings) -> int:
    outside = notify.outside(settings)
    if options.what == "create":
        with database.writing() as connection:
            added = wanted.add(connection, _asked(options), outside.allowed)
        _out(
            f"webhook {added.webhook_id} tells {added.name} of findings; `wattmill webhook test {added.name}` tries it"
        )
        return DONE
    with database.reading() as connection:
        webhooks = store.all_webhooks(connection)
    if options.what == "list":
        _list(webhooks)
        return DONE
    found = _named(webhooks, options.webhook)
    if found is None:
        _say(f"there is no webhook {options.webhook}; `wattmill webhook list` shows them")
        return FAILED
    if options.what == "remove":
        with database.writing() as connection:
            store.remove(connection, found.webhook_id)
        _out(f"removed {found.name}; {found.waiting} that waited are not told")
        return DONE
    outcome = notify.test(found, str(uuid.uuid4()), dt.datetime.now(dt.UTC), outside)
    if outcome.delivered:
        _out(f"{found.name} took it: {outcome.status}")
        return DONE
    _say(f"{found.name} did not take it: {outcome.reason}")
    return FAILED


def _named(webhooks: Sequence[Webhook], text: str) -> Webhook | None:
    """By name, else by id."""
    by_name = [each for each in webhooks if each.name == text]
    return next(iter(by_name or [each for each in webhooks if str(each.webhook_id) == text]), None)


def _list(webhooks: Sequence[Webhook]) -> None:
    _out(f"{'id':<6}{'name':<20}{'to':<40}{'waiting':<9}{'last taken':<22}trouble")
    for each in webhooks:
        taken = f"{each.delivered:%Y-%m-%dT%H:%M:%SZ}" if each.delivered else "never"
        name, to = each.name.encode("unicode_escape").decode(), wanted.shown_url(each.url)
        _out(f"{each.webhook_id:<6}{name:<20} {to:<40}{each.waiting:<9}{taken:<22}{each.error or '-'}")


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": options.name,
        "url": options.url,
        "secret": options.secret or "",
        "kinds": _several(options.kind, "WATTMILL_KIND"),
        "teams": _several(options.team, "WATTMILL_TEAM"),
        "sites": _several(options.site, "WATTMILL_SITE"),
        "min_energy_mj": _energy_mj(options.min_energy_kwh or "0"),
        "send_resolved": not options.no_resolved,
        "by": "",
    }


def _energy_mj(text: str) -> int:
    try:
        kwh = Decimal(text)
    except InvalidOperation:
        kwh = Decimal(-1)
    if not (kwh.is_finite() and 0 <= kwh <= MOST_KWH):
        raise Invalid(f"--min-energy-kwh: must be a number from 0 to {MOST_KWH}, not {text!r}")
    return int(kwh * MJ_PER_KWH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wattmill webhook",
        description="Say who is told of findings, and test it.",
        epilog="Every option has an environment variable WATTMILL_<OPTION>.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="what", required=True, metavar="create|list|remove|test")
    create = verbs.add_parser("create", help="tell somebody of findings")
    _option(create, "name", "what it is called; `receiver` in what is posted", required=True)
    _option(create, "url", "where to post, http:// or https://; never shown again", required=True)
    _option(create, "secret", "name of the secret that signs, a file of WATTMILL_WEBHOOK_SECRETS")
    _option(create, "kind", "only findings of this kind; may be repeated", several=True)
    _option(create, "team", "only findings of this team; may be repeated", several=True)
    _option(create, "site", "only findings at this site; may be repeated", several=True)
    _option(create, "min-energy-kwh", "only findings that have wasted this much, as soon as they have")
    given = os.environ.get("WATTMILL_NO_RESOLVED", "").lower() in ("1", "true", "yes", "on")
    create.add_argument(
        "--no-resolved", action="store_true", default=given, help="do not tell what is over [WATTMILL_NO_RESOLVED]"
    )
    listing = verbs.add_parser("list", help="every webhook, how it does, and what waits for it")
    remove = verbs.add_parser("remove", help="tell somebody no more")
    test = verbs.add_parser("test", help="post a test now")
    for each in (remove, test):
        each.add_argument("webhook", help="its name or id, as `wattmill webhook list` shows them")
    for each in (create, test):
        _option(each, "webhook-allow", "networks that may be posted to besides public addresses: 10.0.0.0/8,…")
    for each in (create, listing, remove, test):
        _option(each, "database-url", "PostgreSQL or TimescaleDB: postgresql://user:password@host:port/name")
        _option(each, "data", "data directory of the `wattmill up` whose webhooks are meant")
    return parser


def _option(
    parser: argparse.ArgumentParser, name: str, explanation: str, *, required: bool = False, several: bool = False
) -> None:
    variable = "WATTMILL_" + name.upper().replace("-", "_")
    given = os.environ.get(variable) or None
    if several:  # its variable is read in _several: argparse would add to it what is given
        parser.add_argument(f"--{name}", action="append", help=f"{explanation} [{variable}]")
        return
    parser.add_argument(
        f"--{name}", default=given, required=required and given is None, help=f"{explanation} [{variable}]"
    )


def _several(given: Sequence[str] | None, variable: str) -> list[str]:
    """What was given, else the variable's values, parted by commas."""
    values = os.environ.get(variable, "").split(",") if given is None else given
    return [value.strip() for value in values if value.strip()]


def _say(sentence: str) -> None:
    sys.stderr.write(f"wattmill webhook: {sentence}\n")
    sys.stderr.flush()


def _out(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
