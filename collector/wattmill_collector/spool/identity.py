"""Whose spool a directory is: the host, the directory and the stream that is appended to, in one sealed document.

A spool that was copied, restored or carried to another host no longer matches it, and must start a new stream: two
agents that go on with the same numbers would overwrite each other at the service.
"""

from __future__ import annotations

from wattmill_collector.spool.place import Place


class Identity:
    """The document `identity`."""

    def __init__(self, place: Place, host: str) -> None:
        self._place = place
        self._host = host

    def stream(self) -> str | None:
        """The stream that this host appends to in this directory, None in any doubt. Errors: OSError."""
        document = self._place.read_document("identity")
        name = document.get("stream")
        return name if isinstance(name, str) and document == self._document(name) else None

    def write(self, stream: str) -> None:
        """Errors: none; without the document the next start is in doubt, and starts another stream."""
        with self._place.tolerant():
            self._place.write_document("identity", self._document(stream))

    def _document(self, stream: str) -> dict[str, str]:
        directory = self._place.disk.identity(self._place.path)
        return {"stream": stream, "host": self._host, "directory": directory}
