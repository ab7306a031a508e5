"""JSON documents of one BMC over HTTPS, with user and password: Basic, or a session where the settings say so.

Promises: the certificate is checked unless the settings say otherwise; the password comes from a file that not
everybody may read, goes to this BMC only, never over plain HTTP to another machine, and into no sentence; a redirect is
followed only within the BMC; an answer has at most `MAX_BODY_BYTES`. Errors are FetchErrors with a sentence.
A session is opened once, opened anew when the BMC has ended it, and ended when the agent leaves; BMCs have few.
What it does not: write anything else, or retry.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import json
import socket
import ssl
import urllib.parse
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from wattmill_collector.clock import Clock
from wattmill_collector.secret_files import SecretError, read_secret
from wattmill_collector.sources.addresses import Address, FetchError, is_denied, resolve
from wattmill_collector.targets import BmcSettings

MAX_BODY_BYTES = 4 * 1024 * 1024
PIECE_BYTES = 64 * 1024
ANSWER_S = 10.0
MAX_REDIRECTS = 2
SESSIONS = "/redfish/v1/SessionService/Sessions"  # DSP0266, 13.3.4
METADATA = ipaddress.ip_address("169.254.169.254")

_Answer = tuple[int, http.client.HTTPMessage, bytes]  # status, headers, body


class RedfishClient:
    """One BMC; used by one thread, but for `cancel`."""

    def __init__(
        self,
        settings: BmcSettings,
        clock: Clock,
        resolve_: Callable[[str, int], Sequence[Address]] = resolve,
        answer_s: float = ANSWER_S,
    ) -> None:
        parts = urllib.parse.urlsplit(settings.url)
        self._settings = settings
        self._clock = clock
        self._resolve = resolve_
        self._answer_s = answer_s
        self._secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._token = ""
        self._session = ""  # its path, where it can be ended

    def get(self, path: str) -> dict[str, Any]:
        """The document at a path. Errors: FetchError."""
        status, headers, body = self._ask_known(path)
        if status == 401 and self._token:  # it has ended the session, or was started anew
            self._log_out()  # if it has not, this one would be left behind
            status, headers, body = self._ask_known(path)
        for _ in range(MAX_REDIRECTS):
            if not (300 <= status < 400 and headers.get("Location")):
                break
            path = self._within(headers["Location"], path)
            status, headers, body = self._ask_known(path)
        if status != 200:
            raise self._refusal(status, path)
        try:
            document = json.loads(body, parse_float=Decimal, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            raise FetchError("not_understood", f"{self.host}{path} is not JSON.") from None
        if not isinstance(document, dict):
            raise FetchError("not_understood", f"{self.host}{path} is JSON, but no resource.")
        return document

    def cancel(self) -> None:
        """End an exchange that is under way, from any thread."""
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):  # it has just been closed
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._socket = None

    def leave(self) -> None:
        """End the session, as far as the BMC can be reached, and close the connection."""
        self._log_out()
        self.close()

    def _ask_known(self, path: str) -> _Answer:
        """Ask for a document as the user, in a session where one is wanted."""
        if self._settings.session and self._settings.user and not self._token:
            self._log_in()
        return self._ask_kept("GET", path)

    def _log_in(self) -> None:
        body = json.dumps({"UserName": self._settings.user, "Password": self._password()}).encode()
        status, headers, answer = self._ask_kept("POST", SESSIONS, body)
        if status in (400, 401, 403):
            raise FetchError(
                "unauthorised",
                f"{self.host} opens no session for this user (HTTP {status}): check `user` and `password_file` of the "
                "bmc.",
            )
        token = headers.get("X-Auth-Token", "")
        is_open = 200 <= status < 300
        if not is_open or not token or not token.isascii() or not token.isprintable():
            raise FetchError(
                "not_understood" if is_open else f"http_{status}",
                f"{self.host} opens no session (HTTP {status}); it may have no more of them: leave out `session` of "
                "the bmc, or end some there.",
            )
        self._token, self._session = token, _session_path(headers.get("Location", ""), answer)

    def _log_out(self) -> None:
        if self._session:
            with contextlib.suppress(FetchError):  # it ends by itself after a while
                self._ask_kept("DELETE", self._session)
        self._token = self._session = ""

    def _ask_kept(self, method: str, path: str, body: bytes = b"") -> _Answer:
        """Over the connection that is open, or over a new one if the BMC has closed it meanwhile."""
        was_open = self._connection is not None
        try:
            try:
                return self._ask(method, path, body)
            except (ConnectionError, http.client.HTTPException):
                self.close()
                if not was_open:
                    raise
                return self._ask(method, path, body)
        except FetchError:
            self.close()
            raise
        except TimeoutError:
            self.close()
            raise FetchError("timeout", f"{self.host} did not answer within {self._answer_s:.0f} s.") from None
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise FetchError(
                "tls",
                f"The certificate of {self.host} is not trusted ({error.verify_message}); name who issued it by "
                "`ca_file` of the bmc.",
            ) from None
        except ssl.SSLError as error:
            self.close()
            raise FetchError("tls", f"TLS with {self.host} failed: {error.reason or 'no reason given'}.") from None
        except ConnectionRefusedError:
            self.close()
            raise FetchError("connection_refused", f"{self.host} refuses connections to port {self._port}.") from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            said = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise FetchError("connection_failed", f"{self.host}: {said}.") from None

    def _ask(self, method: str, path: str, body: bytes) -> _Answer:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "OData-Version": "4.0",
            "User-Agent": "wattmill",
            **({"Content-Type": "application/json"} if body else self._credentials()),
        }
        if self._connection is None:
            self._connection = self._connect()
        until_us = self._clock.monotonic_us() + int(self._answer_s * 1_000_000)
        self._connection.request(method, path, body or None, headers)
        answer = self._connection.getresponse()
        pieces: list[bytes] = []
        while piece := answer.read1(PIECE_BYTES):
            pieces.append(piece)
            if sum(map(len, pieces)) > MAX_BODY_BYTES:
                raise FetchError("too_large", f"{self.host}{path} has more than {MAX_BODY_BYTES} bytes.")
            if self._clock.monotonic_us() > until_us:
                raise TimeoutError
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        answer.close()  # read1 leaves it open at its end, and an open answer forbids the next request
        if answer.will_close:
            self.close()
        return answer.status, answer.headers, b"".join(pieces)

    def _connect(self) -> http.client.HTTPConnection:
        tls = self._tls() if self._secure else None
        address = self._address()
        sock = socket.create_connection(address, timeout=self._answer_s)
        self._socket = sock
        if tls is not None:
            self._socket = sock = tls.wrap_socket(sock, server_hostname=self.host)
        connection = http.client.HTTPConnection(self.host, self._port, timeout=self._answer_s)
        connection.sock = sock
        connection.auto_open = 0  # it would connect without TLS, and anywhere
        return connection

    def _address(self) -> Address:
        try:
            found = self._resolve(self.host, self._port)
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise FetchError("name_not_resolved", f"The BMC's name {self.host} has no address.")
        allowed = [address for address in found if _may_be_bmc(address[0])]
        if not allowed:
            raise FetchError("address_denied", f"{self.host} is a multicast or metadata address, not a BMC's.")
        if not self._secure and self._settings.user and not _is_near(allowed[0][0]):
            raise FetchError(
                "insecure", f"The password is not sent to {self.host} over plain HTTP; set the bmc's url to https://."
            )
        return allowed[0]

    def _tls(self) -> ssl.SSLContext:
        ca_file = self._settings.ca_file
        try:
            context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        except (OSError, ssl.SSLError):
            raise FetchError("tls", f"The ca_file {ca_file} of the bmc can't be read as certificates.") from None
        if not self._settings.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _credentials(self) -> dict[str, str]:
        if not self._settings.user:
            return {}
        if self._settings.session:
            return {"X-Auth-Token": self._token}
        pair = f"{self._settings.user}:{self._password()}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def _password(self) -> str:
        path = self._settings.password_file
        if path is None:
            raise FetchError("no_password", f"The bmc {self.host} has a user, but no password_file.")
        try:
            return read_secret(path, "password")
        except SecretError as error:
            raise FetchError(error.reason, str(error)) from None

    def _within(self, location: str, path: str) -> str:
        target = urllib.parse.urlsplit(urllib.parse.urljoin(path, location))
        try:
            port = target.port or (443 if target.scheme == "https" else 80)
        except ValueError:
            port = 0
        scheme = "https" if self._secure else "http"
        elsewhere = target.netloc and (target.scheme, target.hostname, port) != (scheme, self.host, self._port)
        if elsewhere or not target.path.startswith("/") or not target.path.isascii() or " " in target.path:
            raise FetchError("redirected", f"{self.host} answers with a redirect to another place; it is not followed.")
        return target.path + (f"?{target.query}" if target.query else "")

    def _refusal(self, status: int, path: str) -> FetchError:
        if status == 401:
            return FetchError(
                "unauthorised",
                f"{self.host} refuses user and password (HTTP 401): check `user` and `password_file` of the bmc, and "
                "that the BMC allows Basic authentication; where it does not, say `session: true`.",
            )
        if status == 403:
            return FetchError("forbidden", f"The user may not read {path} of {self.host}: give it the role ReadOnly.")
        if 300 <= status < 400:
            return FetchError("redirected", f"{self.host} redirects {path} again and again.")
        return FetchError(f"http_{status}", f"{self.host} answers HTTP {status} to {path}.")


def _session_path(location: str, body: bytes) -> str:
    """Where a session is ended; empty where the BMC does not say it.

    Many BMCs call themselves by another name than the url does. It is this BMC's session whatever it calls itself: only
    the path counts.
    """
    if not location:
        with contextlib.suppress(ValueError, RecursionError, AttributeError):
            location = str(json.loads(body).get("@odata.id", ""))
    path = ""
    with contextlib.suppress(ValueError):
        path = urllib.parse.urlsplit(urllib.parse.urljoin(SESSIONS, location)).path.rstrip("/")
    is_one = path.startswith("/redfish/v1/") and path != SESSIONS and path.isascii() and path.isprintable()
    return path if is_one and " " not in path else ""


def _may_be_bmc(address: str) -> bool:
    """As for every target, but that a BMC's host interface often has a link-local address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return not is_denied(address) or (ip.is_link_local and ip != METADATA)


def _is_near(address: str) -> bool:
    """On this machine, or on the cable between it and its BMC."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.is_loopback or ip.is_link_local
