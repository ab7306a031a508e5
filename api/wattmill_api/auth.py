"""Keys: who may do what. Open until the first key exists; from then on every route asks for its scope.

A key reads `wm_<scope>_<id>_<secret>_<crc>`: the prefix and the checksum let a scanner find a leaked one offline. The
secret has 256 random bits, so its plain SHA-256 is kept and nothing slower is needed. Keys are shown once and appear in
no address and no log line. A revocation works within `CACHE_SECONDS` in every replica.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Callable
from typing import Annotated, Literal, Protocol

from fastapi import Request, Security, params
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.concurrency import run_in_threadpool

from wattmill_api.errors import Forbidden, Unauthenticated

Scope = Literal["ingest", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("ingest", "read", "admin")
CACHE_SECONDS = 2.0
_CACHE_SIZE = 100_000
_KEY = re.compile(r"(wm_(ingest|read|admin)_([0-9a-f]{12})_([0-9a-f]{64}))_([0-9a-f]{8})")


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
    match = _KEY.fullmatch(text)
    if match is None or not hmac.compare_digest(_crc(match[1]), match[5]):
        return None
    return match[3], hashlib.sha256(match[4].encode()).digest()


def allows(scope: str, needed: str) -> bool:
    """Whether a key of `scope` may use a route that needs `needed`: an admin key may do everything."""
    return scope == needed or scope == "admin"


def _crc(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


class Guard:
    """Checks keys against the store, remembering each answer for `CACHE_SECONDS`."""

    def __init__(self, store: KeyStore, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._closed = False
        self._closed_asked = float("-inf")
        self._keys: dict[str, tuple[float, StoredKey | None]] = {}

    async def closed(self) -> bool:
        """Whether a key is needed. Once closed, it stays closed."""
        now = self._monotonic()
        if not self._closed and now - self._closed_asked >= CACHE_SECONDS:
            self._closed = await run_in_threadpool(self._store.any_key)
            self._closed_asked = now
        return self._closed

    async def check(self, text: str | None, needed: str) -> None:
        """Let the request pass or raise. Errors: Unauthenticated, Forbidden, DatabaseAway."""
        if text is None:
            if await self.closed():
                raise _unauthenticated("This service needs a key: send `Authorization: Bearer wm_…`.")
            return
        parsed = parse_key(text)
        if parsed is None:
            if await self.closed():
                raise _unauthenticated(
                    "This is not a Wattmill key, or a part of it is missing.", 'error="invalid_token"'
                )
            return
        key_id, sha256 = parsed
        stored = await self._find(key_id)
        if stored is None and not await self.closed():
            return
        if stored is None or stored.revoked is not None or not hmac.compare_digest(bytes(stored.sha256), sha256):
            raise _unauthenticated("This key is unknown or revoked.", 'error="invalid_token"')
        if not allows(stored.scope, needed):
            raise Forbidden(
                f"This needs a key of scope {needed}; the key sent has scope {stored.scope}.",
                headers={"WWW-Authenticate": f'Bearer realm="wattmill", error="insufficient_scope", scope="{needed}"'},
            )

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
    description="A key from `wattmill key create`. Not needed until the first key exists.",
    auto_error=False,
)


async def _authorise(
    request: Request,
    scopes: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> None:
    guard: Guard = request.app.state.guard
    await guard.check(credentials.credentials if credentials else None, scopes.scopes[0])


def needs(scope: Scope) -> params.Depends:
    """The dependency that every route under /api/v1 declares: the scope a key must have."""
    dependency: params.Depends = Security(_authorise, scopes=[scope])
    return dependency
