"""The pods of this node from the Kubernetes API: listed once, then watched.

The agent's service account needs `get`, `list` and `watch` on pods, nothing else. Its token is read anew for every
request, because the kubelet replaces it; the API's certificate is checked against the cluster's own authority.
Lists come in pages of `PAGE` pods and a watch is read line by line, so that the JSON of a node full of pods never lies
in memory as a whole.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wattmill_collector.sources.addresses import FetchError

PAGE = 10
MAX_PAGE_BYTES = 16 * 1024 * 1024
MAX_EVENT_BYTES = 2 * 1024 * 1024  # an object in etcd has at most 1.5 MiB
WATCH_S = 240
ANSWER_S = 10.0


class GoneError(Exception):
    """The version to watch from is too old: the pods must be listed again."""


class PodApi:
    """Asks one API server about the pods of one node; one request at a time, `close` from any thread."""

    def __init__(self, api: str, node: str, service_account: Path) -> None:
        parts = urllib.parse.urlsplit(api)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._secure = parts.scheme == "https"
        self._path = f"{parts.path.rstrip('/')}/api/v1/pods"
        self._node = node
        self._folder = service_account
        self._socket: socket.socket | None = None
        self._closed = False

    def pages(self) -> Iterator[tuple[list[dict[str, Any]], str]]:
        """The pods in pages, each with the version of the whole list. Errors: FetchError, GoneError."""
        token = ""
        while True:
            asked = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            with self._get(asked, ANSWER_S) as answer:
                body = answer.read(MAX_PAGE_BYTES)
            try:
                said = json.loads(body)
                about = said["metadata"]
                page, version = said.get("items") or [], str(about["resourceVersion"])
                token = about.get("continue") or ""
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise FetchError("not_understood", "the Kubernetes API's list of pods can't be read") from None
            yield [one for one in page if isinstance(one, dict)], version
            if not token:
                return

    def watch(self, version: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(OPENED, ADDED, MODIFIED, DELETED or BOOKMARK; object) as it happens, until the API ends the watch.

        Errors: FetchError, GoneError.
        """
        asked = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
        with self._get(asked | {"timeoutSeconds": str(WATCH_S)}, WATCH_S + ANSWER_S) as answer:
            yield "OPENED", {}
            while line := answer.readline(MAX_EVENT_BYTES):
                try:
                    event = json.loads(line)
                    kind, thing = event["type"], event["object"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise FetchError("not_understood", "an event of the Kubernetes API can't be read") from None
                if kind == "ERROR":
                    if isinstance(thing, dict) and thing.get("code") == 410:
                        raise GoneError
                    raise FetchError("watch_failed", f"the Kubernetes API ends the watch: {_reason(thing)}")
                if isinstance(thing, dict):
                    yield str(kind), thing

    def close(self) -> None:
        """End a request that is under way and make no more."""
        self._closed = True
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):  # it has just been closed
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _get(self, query: dict[str, str], timeout_s: float) -> Iterator[http.client.HTTPResponse]:
        """One request; whatever goes wrong in it or while its answer is read comes out as a FetchError."""
        try:
            connection = self._connection(timeout_s)
            try:
                connection.connect()
                self._socket = connection.sock
                if self._closed:
                    raise FetchError("closed", "the agent is ending")
                query = {"fieldSelector": f"spec.nodeName={self._node}"} | query
                headers = {"Accept": "application/json", "User-Agent": "wattmill"}
                token = self._token()
                headers |= {"Authorization": f"Bearer {token}"} if token else {}
                connection.request("GET", f"{self._path}?{urllib.parse.urlencode(query)}", headers=headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    raise self._refusal(answer.status, answer.read(65_536))
                yield answer
            finally:
                self._socket = None
                connection.close()
        except TimeoutError:
            raise FetchError("timeout", f"the Kubernetes API at {self._host} did not answer in time") from None
        except ssl.SSLError as error:
            raise FetchError("tls", f"TLS with the Kubernetes API failed: {error.reason or error}") from None
        except (OSError, http.client.HTTPException) as error:
            said = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
            raise FetchError("connection_failed", f"the Kubernetes API at {self._host}: {said}") from None

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        authority = self._folder / "ca.crt"
        context = ssl.create_default_context(cafile=str(authority) if authority.exists() else None)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)

    def _token(self) -> str:
        try:
            return (self._folder / "token").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise FetchError("no_token", f"the service account's token can't be read: {error}") from None

    def _refusal(self, status: int, body: bytes) -> Exception:
        if status == 410:
            return GoneError()
        if status == 401:
            return FetchError("unauthorised", "the Kubernetes API does not know the agent's service account")
        if status == 403:
            return FetchError(
                "forbidden", "the agent's service account may not read pods: let it get, list and watch pods"
            )
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            said = None
        return FetchError(f"http_{status}", f"the Kubernetes API answers {status}: {_reason(said)}")


def _reason(status: object) -> str:
    message = status.get("message") if isinstance(status, dict) else None
    return str(message)[:200] if message else "without saying why"
