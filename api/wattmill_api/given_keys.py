"""Keys made elsewhere: one file a key in the folder `WATTMILL_GIVEN_KEYS`, registered by the running service.

So that nobody has to run `wattmill key create` and carry its answer to agents: whoever installs (a chart, a compose
file) makes a secret, mounts it here and where the agents are. The file's name is the key's. A key is random text of the
form `wm_<scope>_<12 hex digits>_<64 hex digits>`, with or without the checksum at its end.

Promises: a service that is given keys is closed from its first answer on; registering again changes nothing, so every
replica may do it; a key that was revoked stays revoked. It does not revoke what is no longer given: `wattmill key
revoke` does.

The folder is looked at again every half minute: a secret that is exchanged takes effect without a restart.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from wattmill_api import auth
from wattmill_api.errors import WattmillError
from wattmill_api.settings import Settings
from wattmill_api.store import keys as store
from wattmill_api.store.database import Database

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
LOOK_SECONDS = 30.0
MOST_BYTES = 1024

Named = tuple[str, auth.NewKey]


def read(folder: Path) -> list[Named]:
    """(file's name, key) of every file of `folder`, sorted; hidden ones are Kubernetes' own.

    Errors: ValueError, a sentence that names the file and never what is in it.
    """
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
    except OSError as error:
        raise ValueError(f"the folder {folder} can't be read: {error.strerror}") from None
    found: list[Named] = []
    for file in files:
        try:
            with file.open("rb") as opened:
                text = opened.read(MOST_BYTES)
        except OSError as error:
            raise ValueError(f"the file {file} can't be read: {error.strerror}") from None
        key = auth.given_key(text.decode("ascii", "replace").strip())
        if key is None:
            raise ValueError(
                f"the file {file} holds no key; it must be one line such as "
                "wm_ingest_<12 hex digits>_<64 hex digits>, with the scope ingest, read or admin"
            )
        found.append((file.name, key))
    if not found:
        raise ValueError(f"the folder {folder} holds no key: it must have at least one file")
    return found


def keep_registered(settings: Settings, folder: Path, stopping: threading.Event) -> None:
    """Register the keys of `folder`, and what comes there later, until `stopping` is set."""
    done: list[Named] = []
    told = ""
    while not stopping.is_set():
        try:
            keys = read(folder)
            if keys != done:
                new = register(settings, keys)
                log.info("action=register-keys given=%d new=%s", len(keys), ",".join(new) or "none")
            done, told = keys, ""
        except (ValueError, WattmillError) as error:
            sentence = error.detail if isinstance(error, WattmillError) else str(error)
            if sentence != told:
                log.warning("action=register-keys trying every %g s until it works: %s", RETRY_SECONDS, sentence)
                told = sentence
        stopping.wait(RETRY_SECONDS if told else LOOK_SECONDS)


def register(settings: Settings, keys: Sequence[Named]) -> list[str]:
    """Register them all; the names of those that were not known. Errors: DatabaseAway, also before its tables exist."""
    database = Database(settings.model_copy(update={"read_connections": 1, "write_connections": 1}))
    database.open()
    try:
        with database.writing() as connection, connection.transaction():
            return [
                name
                for name, key in keys
                if store.add_given(connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name=name)
            ]
    finally:
        database.close()
