"""A browser's session: the key in a cookie, and the token without which the cookie changes nothing.

The cookie is out of reach of scripts (HttpOnly) and of other sites (SameSite=Strict). A form of the page carries a
token made of the cookie: only who can read the page knows it. On top of that a change is refused when the browser says
that a page of another origin sent it; that alone protects a service that is still open, where there is no cookie.
Nothing is kept here: a session ends with its cookie or with its key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qs

from fastapi import Request, Response

from wattmill_api.errors import Forbidden, TooLarge

COOKIE = "wattmill_key"
COOKIE_SECONDS = 30 * 86_400
MOST_FORM_BYTES = 4096
TOKEN = "csrf"  # name of the form's field


def key_of(request: Request) -> str | None:
    """The key that the browser keeps; None without one."""
    return request.cookies.get(COOKIE) or None


def remember(request: Request, response: Response, key: str) -> None:
    """Let the browser keep a key. What is no text of a key is kept as nothing."""
    response.set_cookie(
        COOKIE,
        key if key.isascii() and key.isprintable() else "",
        max_age=COOKIE_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def forget(request: Request, response: Response) -> None:
    """Let the browser drop its key."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")


def token(request: Request) -> str:
    """What a form of the page must carry in its field `csrf`. Tells nothing of the key, and ends with it."""
    return hmac.digest((key_of(request) or "").encode(), b"wattmill form 1", hashlib.sha256).hex()


def from_elsewhere(request: Request) -> bool:
    """Whether a browser says that a page of another origin made it send this. What is no browser says nothing."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")  # without TLS, browsers send this only
    return origin is not None and origin.partition("://")[2].lower() != request.headers.get("host", "").lower()


async def form(request: Request) -> dict[str, str]:
    """The fields of a form of the page, the first value of each.

    Errors: Forbidden when another origin sent it; TooLarge.
    """
    refuse_others(request)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            raise TooLarge(f"A form may have {MOST_FORM_BYTES} bytes at most.")
    return {name: values[0] for name, values in parse_qs(body.decode("ascii", "replace")).items()}


def refuse_others(request: Request) -> None:
    """Errors: Forbidden when another origin made the browser send this."""
    if from_elsewhere(request):
        raise Forbidden("A page of another site sent this form; use the page of this service.")


def check_token(request: Request, fields: Mapping[str, str]) -> None:
    """Errors: Forbidden unless the form was written for this browser's key."""
    if not hmac.compare_digest(fields.get(TOKEN, "").encode(), token(request).encode()):
        raise Forbidden("This form is not of this session any more; load the page again.")


def way_back(request: Request, fields: Mapping[str, str]) -> str:
    """Where to go after a form: its field `back`, else the page it was on; never to another service."""
    if "back" in fields:
        return own_path(fields["back"])
    host, _, path = request.headers.get("referer", "").partition("://")[2].partition("/")
    return own_path(f"/{path}") if host.lower() == request.headers.get("host", "").lower() else "/"


def own_path(path: str) -> str:
    """A path of this service, or `/` instead of anything else."""
    plain = path.isascii() and path.isprintable() and "\\" not in path and " " not in path
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"
