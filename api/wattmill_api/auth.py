"""Keys: who may do what. Open until the first key exists; from then on every route asks for its scope.

A key reads `wm_<scope>_<id>_<secret>_<crc>`: the prefix and the checksum let a scanner find a leaked one offline. One
made elsewhere (given_keys.py) may leave the checksum out: a chart's templates can't compute it. The
secret has 256 random bits, so its plain SHA-256 is kept and nothing slower is needed. Keys are shown once and appear in
no address and no log line. A revocation works within `CACHE_SECONDS` in every replica.

A read key may be of some teams: it sees their rows alone (visibility.py), and asking it for another team is refused.
A browser's cookie (session.py) stands in for the header where nothing is changed, and never where something is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Protocol, cast

from fastapi import Request, Security, params
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.concurrency import run_in_threadpool

from wattmill_api import session, visibility
from wattmill_api.errors import Forbidden, Unauthenticated

Scope = Literal["ingest", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("ingest", "read", "admin")
CACHE_SECONDS = 2.0
_CACHE_SIZE = 100_000
_KEY = re.compile(r"(wm_(ingest|read|admin)_([0-9a-f]{12})_([0-9a-f]{64}))(?:_([0-9a-f]{8}))?")


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Who asks. `key_id` is None where no key is needed; `teams`: all that may be seen, None for everything."""

    key_id: str | None = None
    may_change: bool = True
    teams: visibility.Teams = None


@dataclasses.dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made: `text` is shown once, the rest is kept."""

    text: str
    key_id: str
    scope: Scope
    sha256: bytes


class StoredKey(Protocol):
    """What the store knows of a key."""

    @property
    def sha256(self) -> bytes: ...
    @property
    def scope(self) -> str: ...
    @property
    def revoked(self) -> object | None: ...
    @property
    def teams(self) -> Sequence[str] | None: ...


class KeyStore(Protocol):
    """Where keys are looked up; each call may ask the database."""

    def any_key(self) -> bool: ...
    def find(self, key_id: str) -> StoredKey | None: ...


def new_key(scope: Scope) -> NewKey:
    """Make a key; nothing is stored here."""
    key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
    body = f"wm_{scope}_{key_id}_{secret}"
    return NewKey(f"{body}_{_crc(body)}", key_id, scope, hashlib.sha256(secret.encode()).digest())


def parse_key(text: str) -> tuple[str, bytes] | None:
    """(key id, SHA-256 of the secret) of a well-formed key, else None. Needs no database."""
    key = given_key(text)
    return (key.key_id, key.sha256) if key else None


def given_key(text: str) -> NewKey | None:
    """A key that was made elsewhere, or None if this is none."""
    match = _KEY.fullmatch(text)
    if match is None or (match[5] is not None and not hmac.compare_digest(_crc(match[1]), match[5])):
        return None
    return NewKey(text, match[3], cast(Scope, match[2]), hashlib.sha256(match[4].encode()).digest())


def allows(scope: str, needed: str) -> bool:
    """Whether a key of `scope` may use a route that needs `needed`: an admin key may do everything."""
    return scope == needed or scope == "admin"


def _crc(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


class Guard:
    """Checks keys against the store, remembering each answer for `CACHE_SECONDS`. `closed`: keys are on their way."""

    def __init__(self, store: KeyStore, monotonic: Callable[[], float], *, closed: bool = False) -> None:
        self._store = store
        self._monotonic = monotonic
        self._closed = closed
        self._closed_asked = float("-inf")
        self._keys: dict[str, tuple[float, StoredKey | None]] = {}

    async def closed(self) -> bool:
        """Whether a key is needed. Once closed, it stays closed."""
        now = self._monotonic()
        if not self._closed and now - self._closed_asked >= CACHE_SECONDS:
            self._closed = await run_in_threadpool(self._store.any_key)
            self._closed_asked = now
        return self._closed

    async def check(self, text: str | None, needed: str) -> Access:
        """Let the request pass or raise; what it may see is narrowed from here on.

        Errors: Unauthenticated, Forbidden, DatabaseAway.
        """
        visibility.see_only(None)
        access = await self._check(text, needed)
        visibility.see_only(access.teams)
        return access

    async def _check(self, text: str | None, needed: str) -> Access:
        if text is None:
            if await self.closed():
                raise _unauthenticated("This service needs a key: send `Authorization: Bearer wm_…`.")
            return Access()
        parsed = parse_key(text)
        if parsed is None:
            if await self.closed():
                raise _unauthenticated(
                    "This is not a Wattmill key, or a part of it is missing.", 'error="invalid_token"'
                )
            return Access()
        key_id, sha256 = parsed
        stored = await self._find(key_id)
        if stored is None and not await self.closed():
            return Access()
        if stored is None or stored.revoked is not None or not hmac.compare_digest(bytes(stored.sha256), sha256):
            raise _unauthenticated("This key is unknown or revoked.", 'error="invalid_token"')
        if not allows(stored.scope, needed):
            raise Forbidden(
                f"This needs a key of scope {needed}; the key sent has scope {stored.scope}.",
                headers={"WWW-Authenticate": f'Bearer realm="wattmill", error="insufficient_scope", scope="{needed}"'},
            )
        teams = None if stored.teams is None else tuple(sorted(stored.teams))
        return Access(key_id, allows(stored.scope, "admin"), teams)

    async def _find(self, key_id: str) -> StoredKey | None:
        now = self._monotonic()
        known = self._keys.get(key_id)
        if known is not None and now - known[0] < CACHE_SECONDS:
            return known[1]
        stored = await run_in_threadpool(self._store.find, key_id)
        if len(self._keys) >= _CACHE_SIZE:
            self._keys.clear()
        self._keys[key_id] = (now, stored)
        return stored


def _unauthenticated(detail: str, more: str = "") -> Unauthenticated:
    challenge = 'Bearer realm="wattmill"' + (f", {more}" if more else "")
    return Unauthenticated(detail, headers={"WWW-Authenticate": challenge})


_BEARER = HTTPBearer(
    scheme_name="key",
    bearerFormat="wm_<scope>_<id>_<secret>_<crc>",
    description="A key from `wattmill key create`; one of some teams sees their rows only. Not needed until the first "
    "key exists. The page's own requests are read with its cookie instead; a cookie changes nothing under /api/v1.",
    auto_error=False,
)


async def _authorise(
    request: Request,
    scopes: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> None:
    """What a browser adds by itself opens nothing that another site could make it send."""
    guard: Guard = request.app.state.guard
    key = credentials.credentials if credentials else None
    if "authorization" not in request.headers:
        elsewhere = session.from_elsewhere(request)
        if request.method in ("GET", "HEAD"):
            key = None if elsewhere else session.key_of(request)
        elif elsewhere:
            raise Forbidden(
                "A page of another site sent this; changes come from this service's own page or with a key."
            )
    access = await guard.check(key, scopes.scopes[0])
    if access.teams is not None:
        for team in request.query_params.getlist("team"):
            if team not in access.teams:
                raise Forbidden(f"This key is for {_named(access.teams)}; it does not see {_named([team])}.")


def _named(teams: Sequence[str]) -> str:
    """Teams in a sentence; however many and long, it stays one."""
    shown = ", ".join(repr(team[:64]) for team in teams[:5])
    return f"team{'s' if len(teams) > 1 else ''} {shown}{' and others' if len(teams) > 5 else ''}"


def needs(scope: Scope) -> params.Depends:
    """The dependency that every route under /api/v1 declares: the scope a key must have."""
    dependency: params.Depends = Security(_authorise, scopes=[scope])
    return dependency
