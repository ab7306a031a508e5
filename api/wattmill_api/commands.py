"""The verbs of the service: `serve`, `up`, `key`, `migrate`. Loaded only when one of them is called.

Each parses its own options and returns an exit status: 0 done, 1 failed and may succeed later, 2 will not succeed by
trying again. Every option has an environment variable `WATTMILL_<OPTION>`; an option goes before its variable.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from wattmill_api import auth, embedded, given_keys
from wattmill_api import migrate as migrations
from wattmill_api.errors import WattmillError
from wattmill_api.progress import Bar
from wattmill_api.settings import Settings, unknown_names, without_password
from wattmill_api.store import keys as key_store
from wattmill_api.store.database import Database

log = logging.getLogger(__name__)

DONE, FAILED, USELESS = 0, 1, 2
RETRY_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 75  # longer than the longest interval, so that an agent's connection lives from tick to tick
LONGEST_TEAM = 512
GRACE_SECONDS = 2  # for answers under way when the service is told to stop


def serve(argv: Sequence[str]) -> int:
    """API and jobs until SIGINT or SIGTERM. A database that is away is waited for: `/readyz` says so meanwhile."""
    parser = _parser("serve", "The API and the jobs, on a database of yours.")
    _database_option(parser)
    _option(parser, "host", "address to listen on (default 127.0.0.1)")
    _option(parser, "port", "port to listen on (default 8080)")
    _option(parser, "webhook-allow", "networks that webhooks may be posted to besides public addresses: 10.0.0.0/8,…")
    _option(parser, "given-keys", "folder with a file for each key that was made elsewhere")
    _switch(parser, "no-jobs", "answer only; another replica runs the jobs")
    _switch(parser, "no-migrate", "leave the database's schema as it is")
    settings = _settings(parser.parse_args(argv))
    if not settings.database_url:
        return _useless("serve", "it needs a --database-url or WATTMILL_DATABASE_URL; `wattmill up` brings its own")

    keys = Path(settings.given_keys) if settings.given_keys else None
    try:
        if keys:
            given_keys.read(keys)  # what is wrong from the start is said at the start
    except ValueError as error:
        return _useless("serve", f"--given-keys (or WATTMILL_GIVEN_KEYS): {error}")

    import uvicorn

    from wattmill_api import forms, pages
    from wattmill_api.app import create_app

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(
                settings, extra_routers=[pages.router, forms.router], unknown_settings=unknown_names(os.environ)
            ),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    refused: list[str] = []

    def stop(_number: int = 0, _frame: object = None) -> None:
        server.should_exit = True

    def bring_up_to_date() -> None:
        refusal = _migrate_when_it_answers(settings.database_url, stopping) if settings.migrate else ""
        if refusal:
            refused.append(refusal)
            stop()
        elif keys:
            given_keys.keep_registered(settings, keys, stopping)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    stopping = threading.Event()
    if settings.migrate or keys:
        threading.Thread(target=bring_up_to_date, name="migrate", daemon=True).start()
    log.info("action=serve address=http://%s:%d settings=%s", settings.host, settings.port, settings.described())
    try:
        server.run()
    except SystemExit as error:  # uvicorn's answer to an address that can't be had; it logged why
        return FAILED if error.code else DONE
    finally:
        stopping.set()
    return _useless("serve", refused[0]) if refused else DONE


def up(argv: Sequence[str]) -> int:
    """Everything on this host until Ctrl-C."""
    from wattmill_api import up as everything

    parser = _parser("up", "Everything on this host: database, API, dashboard, jobs and this host's agent.")
    _database_option(parser)
    _option(parser, "host", "address to listen on (default 127.0.0.1)")
    _option(parser, "port", "port to listen on (default 8080)")
    _option(parser, "data", f"where everything is kept (default {embedded.default_data()})")
    _option(parser, "config", "configuration of this host's agent, a YAML file")
    _option(parser, "simulate", "simulate this many nodes, accelerators here or not")
    _switch(parser, "no-simulate", "run this host's agent even where no accelerator is found")
    options = parser.parse_args(argv)
    settings = _settings(options)
    nodes = _count(options.simulate)
    if nodes is None:
        return _useless("up", f"--simulate: must be a number of nodes from 0 to 10000, not {options.simulate!r}")
    plan = everything.Plan(
        host=settings.host,
        port=settings.port,
        data=Path(options.data).expanduser() if options.data else embedded.default_data(),
        database_url=settings.database_url,
        config=Path(options.config) if options.config else None,
        simulate=nodes,
        may_simulate=not options.no_simulate,
        environment=dict(os.environ),
    )
    return everything.run(plan)


def migrate(argv: Sequence[str]) -> int:
    """Bring the schema up to date and say what was done."""
    parser = _parser("migrate", "Bring the database's schema up to date.")
    _database_option(parser)
    _option(parser, "data", "data directory of the `wattmill up` whose database is meant")
    options = parser.parse_args(argv)
    url = _url(_settings(options), options.data)
    if not url:
        return _useless("migrate", "it needs a database: --database-url or WATTMILL_DATABASE_URL")
    bar = Bar(sys.stderr, len(migrations.migrations()))
    if bar.shown:  # names what is applied, as the log would
        logging.getLogger(migrations.__name__).setLevel(logging.WARNING)
    try:
        outcome = migrations.migrate(url, told=bar.show)
    except migrations.SchemaRefused as error:
        return _useless("migrate", str(error))
    except migrations.Unreachable as error:
        _say("migrate", f"the database {without_password(url)} does not answer: {error}")
        return FAILED
    finally:
        bar.end()
    _out(f"{outcome.engine}: {', '.join(outcome.applied) or 'nothing to do'}")
    if outcome.note:
        _out(outcome.note)
    return DONE


def key(argv: Sequence[str]) -> int:
    """Create, list and revoke keys. A key is printed once and kept nowhere."""
    parser = _parser("key", "Create, list and revoke keys.")
    verbs = parser.add_subparsers(dest="what", required=True, metavar="create|list|revoke")
    create = verbs.add_parser("create", help="make a key and print it, once")
    _option(create, "scope", f"what the key may do: {', '.join(auth.SCOPES)}", required=True)
    _option(create, "name", "whose it is, for the list")
    team = os.environ.get(_variable("team"))
    create.add_argument(
        "--team",
        action="append",
        help=f"a team whose rows are all that a read key sees; repeat for more [{_variable('team')}, one team]",
    )
    create.set_defaults(team_variable=[team] if team else None)
    listing = verbs.add_parser("list", help="every key, without its secret")
    revoke = verbs.add_parser("revoke", help="end a key")
    revoke.add_argument("key_id", help="the key's id, as `wattmill key list` shows it")
    for each in (create, listing, revoke):
        _database_option(each)
        _option(each, "data", "data directory of the `wattmill up` whose keys are meant")
    options = parser.parse_args(argv)
    if options.what == "create" and options.scope not in auth.SCOPES:
        return _useless("key", f"--scope: must be one of {', '.join(auth.SCOPES)}, not {options.scope!r}")
    if options.what == "create" and (problem := _wrong_teams(options.scope, _teams(options))):
        return _useless("key", problem)
    settings = _settings(options)
    url = _url(settings, options.data)
    if not url:
        return _useless("key", "it needs a database: --database-url, WATTMILL_DATABASE_URL, or a running `wattmill up`")
    database = Database(settings.model_copy(update={"database_url": url}))
    database.open()
    try:
        return _key(options, database)
    except WattmillError as error:
        _say("key", f"{error.detail} ({without_password(url)})")
        return FAILED
    finally:
        database.close()


def _key(options: argparse.Namespace, database: Database) -> int:
    if options.what == "create":
        made = auth.new_key(cast(auth.Scope, options.scope))
        with database.writing() as connection:
            if _teams(options) and not key_store.narrowable(connection):
                _say(
                    "key",
                    "--team: this database has no views for teams, as the role may not create a schema in it: "
                    "GRANT CREATE ON DATABASE to the role, then run `wattmill migrate`",
                )
                return FAILED
            key_store.add(
                connection,
                key_id=made.key_id,
                sha256=made.sha256,
                scope=made.scope,
                name=options.name or "",
                teams=_teams(options),
            )
        _out(made.text)
        _say("key", f"this is key {made.key_id}; it is shown this once only")
        return DONE
    if options.what == "revoke":
        with database.writing() as connection:
            if key_store.revoke(connection, options.key_id):
                _out(f"revoked {options.key_id}")
                return DONE
        _say("key", f"there is no key {options.key_id}; `wattmill key list` shows them")
        return FAILED
    with database.reading() as connection:
        rows = key_store.all_keys(connection)
    _out(f"{'id':<14}{'scope':<8}{'created':<22}{'state':<10}{'teams':<20}name")
    for row in rows:
        state = "revoked" if row.revoked else "valid"
        teams = "all" if row.teams is None else ", ".join(row.teams)
        _out(f"{row.key_id:<14}{row.scope:<8}{row.created:%Y-%m-%dT%H:%M:%SZ}  {state:<10}{teams:<19} {row.name}")
    return DONE


def _teams(options: argparse.Namespace) -> list[str] | None:
    """The teams that a new key is for, each once; None: all."""
    named = options.team or options.team_variable
    return sorted(set(named)) if named else None


def _wrong_teams(scope: str, teams: list[str] | None) -> str:
    """Why there can't be such a key, or nothing."""
    if teams is None:
        return ""
    if scope != "read":
        return f"--team: only a key of scope read can be narrowed to teams, not one of scope {scope}"
    if any(not 0 < len(team) <= LONGEST_TEAM or "\x00" in team for team in teams):
        return f"--team: must be the name of a team, 1 to {LONGEST_TEAM} characters"
    return ""


def _migrate_when_it_answers(url: str, stopping: threading.Event) -> str:
    """Migrate as soon as the database answers; why it was refused, or nothing."""
    told = False
    while not stopping.is_set():
        try:
            outcome = migrations.migrate(url)
        except migrations.SchemaRefused as error:
            return str(error)
        except migrations.Unreachable as error:
            if not told:
                log.warning("action=migrate the database does not answer; trying every %g s: %s", RETRY_SECONDS, error)
                told = True
            stopping.wait(RETRY_SECONDS)
            continue
        log.info("action=migrate engine=%r applied=%s", str(outcome.engine), ",".join(outcome.applied) or "nothing")
        if outcome.note:
            log.warning("action=migrate %s", outcome.note)
        return ""
    return ""


def _url(settings: Settings, data: str | None) -> str:
    """The database that is meant: the one named, else that of the `wattmill up` running here."""
    if settings.database_url:
        return settings.database_url
    return embedded.running_url(Path(data).expanduser() if data else embedded.default_data()) or ""


def _settings(options: argparse.Namespace) -> Settings:
    """Settings from the environment and these options; sets up the log. Exits 2 on a value that is wrong."""
    named = {
        name: value for name, value in vars(options).items() if name in Settings.model_fields and value is not None
    }
    if getattr(options, "no_jobs", False):
        named["jobs"] = False
    if getattr(options, "no_migrate", False):
        named["migrate"] = False
    try:
        settings = Settings(**cast(Mapping[str, Any], named))
    except ValidationError as error:
        for fault in error.errors():
            name = str(fault["loc"][0])
            _say("", f"--{name.replace('_', '-')} (or WATTMILL_{name.upper()}): {fault['msg']}")
        raise SystemExit(USELESS) from None
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
    )
    for name in unknown_names(os.environ):
        log.warning("The variable %s means nothing to Wattmill; it is ignored.", name)
    return settings


def _parser(verb: str, sentence: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"wattmill {verb}",
        description=sentence,
        epilog="Every option has an environment variable WATTMILL_<OPTION>.",
        allow_abbrev=False,
    )


def _option(parser: argparse.ArgumentParser, name: str, explanation: str, *, required: bool = False) -> None:
    variable = _variable(name)
    given = os.environ.get(variable) or None
    parser.add_argument(
        f"--{name}", default=given, required=required and given is None, help=f"{explanation} [{variable}]"
    )


def _switch(parser: argparse.ArgumentParser, name: str, explanation: str) -> None:
    variable = _variable(name)
    given = os.environ.get(variable, "").lower() in ("1", "true", "yes", "on")
    parser.add_argument(f"--{name}", action="store_true", default=given, help=f"{explanation} [{variable}]")


def _database_option(parser: argparse.ArgumentParser) -> None:
    _option(parser, "database-url", "PostgreSQL or TimescaleDB: postgresql://user:password@host:port/name")
    _option(parser, "database-password-file", "file that holds the password, which the address then leaves out")


def _variable(option: str) -> str:
    return "WATTMILL_" + option.upper().replace("-", "_")


def _count(text: str | None) -> int | None:
    """A number of nodes; 0 where none was asked for, None where it is no such number."""
    if text is None:
        return 0
    return int(text) if text.isascii() and text.isdigit() and int(text) <= 10_000 else None


def _useless(verb: str, sentence: str) -> int:
    _say(verb, sentence)
    return USELESS


def _say(verb: str, sentence: str) -> None:
    sys.stderr.write(f"{f'wattmill {verb}'.strip()}: {sentence}\n")
    sys.stderr.flush()


def _out(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
