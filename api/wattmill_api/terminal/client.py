"""Questions to a service over HTTP, and what can go wrong with them as one sentence and an exit status.

The standard library alone, because the first picture of `wattmill top` should not wait for a web framework. Redirects
are not followed: the key must not travel to an address that nobody named.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

DONE, FAILED, USELESS = 0, 1, 2
TIMEOUT_S = 35.0  # longer than an answer may work in the database
MOST_BYTES = 256 << 20
LOCAL = "http://127.0.0.1:8080"
_TYPES = ("application/json", "application/problem+json")
Value = str | int | Sequence[str]
Document = dict[str, Any]


class Failure(Exception):
    """It did not work. `status`: 1 when trying again may help, 2 when it will not."""

    def __init__(self, sentence: str, status: int = FAILED) -> None:
        super().__init__(sentence)
        self.status = status


class Server:
    """One service. `key`: its read key, or empty. `clock`: this host's time, used until the service told its own."""

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        """Errors: Failure when the address or the key can't be one."""
        try:
            parts = urlsplit(url.strip().rstrip("/"))
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise Failure(f"--server: {url!r} is not an address: {error}", USELESS) from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not url.isprintable():
            raise Failure(f"--server: must be an address such as {LOCAL}, not {url!r}", USELESS)
        if parts.username is not None:
            raise Failure("--server: must not hold a password; give the key with --key-file or WATTMILL_KEY", USELESS)
        if not (key.isascii() and key.isprintable()):
            raise Failure("the key holds characters that no key has", USELESS)
        self.address = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._prefix = parts.path
        self._headers = {"Accept": "application/json", "User-Agent": "wattmill-terminal"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout_s)
        )
        self._clock = clock
        self._ahead = dt.timedelta(0)

    def close(self) -> None:
        self._connection.close()

    def now(self) -> dt.datetime:
        """The time as the service has it: a window of minutes must not depend on this host's clock."""
        return self._clock() + self._ahead

    def get(self, path: str, parameters: Mapping[str, Value] | None = None) -> Document:
        """The JSON object at `/api/v1` + path. Errors: Failure."""
        target = f"{self._prefix}/api/v1{path}"
        if parameters:
            target += "?" + urlencode(parameters, doseq=True)
        status, media, body = self._ask(target)
        document = _parsed(body) if media in _TYPES else None
        if status == 200 and document is not None:
            return document
        self._refuse(status, str((document or {}).get("detail", "")))

    def _ask(self, target: str) -> tuple[int, str, bytes]:
        reused = self._connection.sock is not None
        try:
            return self._exchange(target)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            self.close()
            if not reused:
                self._away(error)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self._away(error)
        try:
            return self._exchange(target)  # the service had closed a connection that was kept
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self._away(error)

    def _exchange(self, target: str) -> tuple[int, str, bytes]:
        self._connection.request("GET", target, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            self.close()
            raise Failure(f"the answer of {self.address} is larger than {MOST_BYTES >> 20} MiB; ask for less", USELESS)
        with contextlib.suppress(TypeError, ValueError):  # no date, or none that can be read: keep what is known
            self._ahead = parsedate_to_datetime(response.getheader("Date", "")).astimezone(dt.UTC) - self._clock()
        return response.status, response.headers.get_content_type(), body

    def _away(self, error: Exception) -> NoReturn:
        if isinstance(error, ssl.SSLCertVerificationError):
            raise Failure(
                f"the certificate of {self.address} is not trusted: {error.verify_message}", USELESS
            ) from None
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Failure(
            f"the service at {self.address} does not answer ({why}); `wattmill up` starts one, --server or "
            "WATTMILL_SERVER names another"
        ) from None

    def _refuse(self, status: int, detail: str) -> NoReturn:
        if status in (401, 403):
            hint = "give a read key with --key-file, WATTMILL_KEY or WATTMILL_KEY_FILE"
            raise Failure(f"{self.address} does not let this in: {detail or status}; {hint}", USELESS)
        if not detail:
            raise Failure(f"{self.address} answers (status {status}), but not as a Wattmill service does", FAILED)
        raise Failure(f"{self.address}: {detail}", FAILED if status >= 500 else USELESS)


def _parsed(body: bytes) -> Document | None:
    """A JSON object without NaN or infinities; None if it is anything else."""
    try:
        document = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
